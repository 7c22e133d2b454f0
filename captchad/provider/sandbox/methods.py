"""What each captcha method requires. An unknown method is taken as it is: providers add methods all the time."""

__all__ = ["GRID_ANSWERS", "check", "identify", "method_of", "names"]

import binascii
import re
import struct
from base64 import b64decode
from collections.abc import Callable
from hashlib import blake2b
from types import MappingProxyType
from urllib.parse import urlsplit

from captchad.provider.sandbox.form import Form
from captchad.provider.sandbox.ledger import Identity
from captchad.provider.sandbox.scenario import Switches

#: Methods whose captcha is a picture.
_IMAGE_METHODS = frozenset({"post", "base64", "bounding_box", "rotatecaptcha"})

#: Fields that each method requires, in the order in which they are checked.
_REQUIRED = MappingProxyType(
    {
        "userrecaptcha": ("googlekey", "pageurl"),
        "turnstile": ("sitekey", "pageurl"),
        "cloudflare_challenge": ("pageurl", "proxy", "proxytype"),
        "hcaptcha": ("sitekey", "pageurl"),
        "geetest": ("gt", "challenge", "pageurl"),
        "geetest_v4": ("captcha_id", "pageurl"),
        "funcaptcha": ("publickey", "pageurl"),
        "keycaptcha": (
            "s_s_c_user_id",
            "s_s_c_session_id",
            "s_s_c_web_server_sign",
            "s_s_c_web_server_sign2",
            "pageurl",
        ),
        "capy": ("captchakey", "pageurl"),
        "lemin": ("captcha_id", "pageurl"),
        "amazon_waf": ("sitekey", "iv", "context", "pageurl"),
        "cybersiara": ("master_url_id", "pageurl", "userAgent"),
        "mt_captcha": ("sitekey", "pageurl"),
        "datadome": ("captcha_url", "pageurl", "userAgent", "proxy", "proxytype"),
        "friendly_captcha": ("sitekey", "pageurl"),
        "captchafox": ("sitekey", "pageurl", "proxy", "proxytype"),
        "cutcaptcha": ("misery_key", "api_key", "pageurl"),
        "tencent": ("app_id", "pageurl"),
        "atb_captcha": ("app_id", "api_server", "pageurl"),
        "yandex": ("sitekey", "pageurl"),
        "prosopo": ("sitekey", "pageurl"),
        "bls": ("instructions", *(f"image_base64_{n}" for n in range(1, 10))),
        "audio": ("body", "lang"),
        "textcaptcha": ("textcaptcha",),
        "post": (),
        "base64": (),
        "bounding_box": (),
        "rotatecaptcha": (),
    }
)
_MISSING = MappingProxyType({"googlekey": "ERROR_GOOGLEKEY", "pageurl": "ERROR_PAGEURL"})
#: Names under which methods send what identifies the captcha on its page.
_SITEKEYS = (
    "sitekey",
    "googlekey",
    "gt",
    "captcha_id",
    "publickey",
    "captchakey",
    "s_s_c_user_id",
    "master_url_id",
    "captcha_url",
    "misery_key",
    "app_id",
)
#: What stands for the sitekey of a captcha that is a picture or a text: its digest.
_CONTENTS = ("body", "image_base64_1", "textcaptcha")

_GOOGLEKEY = re.compile(r"[!-~]{1,200}")
_PROXY = re.compile(r"(?:[^\s@]+@)?[^\s@:/]+:[0-9]{1,5}")
_PROXY_TYPES = ("HTTP", "HTTPS", "SOCKS4", "SOCKS5")
_EXTENSIONS = ("jpg", "jpeg", "gif", "png")
_LEAST_IMAGE = 100
_LARGEST_SIDE = 1000

#: Variants of `post` and `base64` that are clicked, by the field that asks for them.
GRID_ANSWERS = ("canvas", "coordinatescaptcha", "recaptcha")


def names() -> tuple[str, ...]:
    """The methods that are known."""
    return tuple(_REQUIRED)


def method_of(form: Form) -> str:
    """The method of a submit, also where the client leaves it out."""
    method = form.get("method")
    if method not in ("", "post"):
        return method
    if form.files:
        return "post"
    # 2captcha's own client sends a text question as `post` without a file.
    return "textcaptcha" if form.get("textcaptcha") else method


def identify(form: Form) -> Identity:
    """What the captcha is, whoever asks and however often."""
    sitekey = next((form.get(name) for name in _SITEKEYS if form.get(name)), "")
    if not sitekey:
        content = next((form.get(name) for name in _CONTENTS if form.get(name)), "").encode()
        content = content or b"".join(upload.data for upload in form.files.values())
        sitekey = f"digest:{blake2b(content, digest_size=8).hexdigest()}" if content else ""
    return Identity(method_of(form), sitekey, form.get("pageurl"))


def check(form: Form, switches: Switches) -> str:
    """The error code for a submit that the provider would refuse, or ""."""
    method = method_of(form)
    if not method:
        return "ERROR_BAD_PARAMETERS"
    if method not in _REQUIRED:
        return "ERROR_NO_SUCH_METHOD" if switches.unknown_methods == "refuse" else ""
    for name in _REQUIRED[method]:
        if not form.get(name) and not (method == "geetest" and name == "challenge" and form.get("version") == "4"):
            return _MISSING.get(name, "ERROR_BAD_PARAMETERS")
    checks = [_check_key, _check_page, _check_proxy, _check_score]
    return next((code for each in checks if (code := each(form))), "") or _check_pictures(form, method, switches)


def _check_key(form: Form) -> str:
    key = form.get("googlekey")
    return "ERROR_WRONG_GOOGLEKEY" if key and _GOOGLEKEY.fullmatch(key) is None else ""


def _check_page(form: Form) -> str:
    page = form.get("pageurl")
    if not page:
        return ""
    try:
        parts = urlsplit(page)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    return "" if good else "ERROR_PAGEURL"


def _check_proxy(form: Form) -> str:
    proxy, kind = form.get("proxy"), form.get("proxytype")
    if proxy and _PROXY.fullmatch(proxy) is None:
        return "ERROR_PROXY_FORMAT"
    return "ERROR_BAD_PARAMETERS" if kind and kind.upper() not in _PROXY_TYPES else ""


def _check_score(form: Form) -> str:
    score = form.get("min_score")
    return "ERROR_BAD_PARAMETERS" if score and re.fullmatch(r"[01](\.[0-9]+)?", score) is None else ""


def _check_pictures(form: Form, method: str, switches: Switches) -> str:
    if method == "bls":
        return "" if all(_decode(form.get(f"image_base64_{n}")) for n in range(1, 10)) else "ERROR_UPLOAD"
    if method == "audio":
        return "" if _decode(form.get("body")) else "ERROR_UPLOAD"
    if method not in _IMAGE_METHODS:
        return ""
    return _check_task(form, method) or _check_images(form, switches)


def _check_task(form: Form, method: str) -> str:
    """What the worker is asked to do with the picture."""
    told = any(form.get(name) for name in ("textinstructions", "imginstructions")) or "imginstructions" in form.files
    if form.get("grid_size"):
        good = form.get("grid_size") in ("3x3", "4x4") and bool(form.get("instructions") or told)
        return "" if good else "ERROR_BAD_PARAMETERS"
    asked = method == "bounding_box" or any(form.get(name) == "1" for name in GRID_ANSWERS)
    return "ERROR_BAD_PARAMETERS" if asked and not told else ""


def _check_images(form: Form, switches: Switches) -> str:
    uploads = [upload for name, upload in form.files.items() if name != "imginstructions"]
    pictures = [upload.data for upload in uploads]
    if form.get("body"):
        decoded = _decode(form.get("body"))
        if decoded is None:
            return "ERROR_UPLOAD"
        pictures.append(decoded)
    if not pictures:
        return "ERROR_UPLOAD"
    if any(len(each) < _LEAST_IMAGE for each in pictures):
        return "ERROR_ZERO_CAPTCHA_FILESIZE"
    if any(len(each) > switches.max_image_bytes for each in pictures):
        return "ERROR_TOO_BIG_CAPTCHA_FILESIZE"
    if not switches.check_images:
        return ""
    if any(upload.name.rpartition(".")[2].lower() not in _EXTENSIONS for upload in uploads):
        return "ERROR_WRONG_FILE_EXTENSION"
    return next((code for each in pictures if (code := _check_image(each))), "")


def _decode(text: str) -> bytes | None:
    """Base64 or a data URI as bytes; None if it is neither. A `+` that arrived as a space is put back."""
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return b64decode("".join(payload.replace(" ", "+").splitlines()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _check_image(data: bytes) -> str:
    sizes: tuple[tuple[bytes, Callable[[bytes], tuple[int, int]]], ...] = (
        (b"\x89PNG\r\n\x1a\n", lambda raw: struct.unpack(">II", raw[16:24])),
        (b"GIF8", lambda raw: struct.unpack("<HH", raw[6:10])),
        (b"\xff\xd8\xff", lambda _: (0, 0)),  # the size of a JPEG stands deep inside, and is not looked for
    )
    for magic, size in sizes:
        if data.startswith(magic):
            return "ERROR_IMAGE_DIMENSIONS_TOO_LARGE" if max(size(data)) > _LARGEST_SIDE else ""
    return "ERROR_IMAGE_TYPE_NOT_SUPPORTED"
