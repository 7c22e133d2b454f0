"""What each captcha method yields, and how the provider writes it down: as text, or as JSON with `json=1`."""

__all__ = ["Answer", "Solution", "error", "render", "solve", "write_solution"]

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import shake_128
from typing import Any

from captchad.provider.sandbox.form import Form
from captchad.provider.sandbox.http1 import Reply
from captchad.provider.sandbox.methods import GRID_ANSWERS
from captchad.provider.sandbox.scenario import Switches

_USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the protocol, not yet written down."""

    good: bool
    value: Any  # text, number or structure; an error code if it is not good
    bare: bool = False  # the text form has no `OK|`
    extra: Mapping[str, Any] = field(default_factory=dict)  # further keys of the JSON form
    text: str | None = None  # the text form, where it is not the value itself
    key: str = "request"  # where the JSON form has the value


def error(code: str) -> Answer:
    """An error code, or CAPCHA_NOT_READY."""
    return Answer(good=False, value=code)


def render(answer: Answer, form: Form, switches: Switches) -> Reply:
    """The HTTP reply in the form that the client asked for."""
    headers = (("Access-Control-Allow-Origin", "*"),) if form.get("header_acao") == "1" else ()
    plain = not answer.good and ("*" in switches.plain_errors or answer.value in switches.plain_errors)
    if form.wants_json and not plain:
        body = {"status": int(answer.good), answer.key: answer.value, **answer.extra}
        if not answer.good and switches.error_text:
            body["error_text"] = f"What {answer.value} means stands in the documentation"
        return Reply(json.dumps(body, separators=(",", ":")).encode(), "application/json", headers=headers)
    text = str(answer.value) if answer.text is None else answer.text
    if answer.good and not answer.bare:
        text = "OK|" + text
    return Reply(text.encode("utf-8", "replace"), headers=headers)


@dataclass(frozen=True, slots=True)
class Solution:
    """The answer to a captcha: its text form, its structure if it has one, and what comes with it."""

    text: str
    structure: Any = None
    value: str | None = None  # the text that the JSON form has, where it is another
    key: str = "request"
    extra: Mapping[str, Any] = field(default_factory=dict)


def write_solution(solution: Solution, switches: Switches) -> Answer:
    """The answer of `action=get` for a captcha that is solved."""
    value: Any = solution.text if solution.value is None else solution.value
    if solution.structure is not None:
        as_object = switches.structured == "object"
        value = solution.structure if as_object else json.dumps(solution.structure, separators=(",", ":"))
    return Answer(good=True, value=value, text=solution.text, key=solution.key, extra=solution.extra)


def solve(fields: Mapping[str, str], method: str, name: str, switches: Switches) -> Solution:
    """The answer to a captcha; always the same for the same `name`."""
    random = shake_128(name.encode()).digest(384)
    match method:
        case "post" | "base64":
            return _picture(fields, random)
        case "bls":
            return _structure(_cells(random, 9))
        case "bounding_box":
            return _structure([{"xMin": 10, "yMin": 20, "xMax": 10 + random[0], "yMax": 20 + random[1]}])
        case "rotatecaptcha":
            return Solution(str(random[0] % 8 * 45))
        case "audio" | "textcaptcha":
            return Solution(_letters(random))
        case "geetest" | "geetest_v4" | "lemin" | "capy" | "amazon_waf" | "tencent":
            return _pieces(fields, method, random, switches)
        case "cloudflare_challenge":
            return _clearance(random, switches)
        case _:
            return _token(fields, method, random, switches)


def _token(fields: Mapping[str, str], method: str, random: bytes, switches: Switches) -> Solution:
    prefix = {"userrecaptcha": "03AG", "turnstile": "0.", "hcaptcha": "P1_", "mt_captcha": "v1(2b2d,"}.get(method, "")
    token = prefix + urlsafe_b64encode(random).decode("ascii")
    with_agent = switches.result_key and switches.dialect == "captchaai"
    if method == "userrecaptcha" and fields.get("enterprise") == "1" and with_agent:
        return Solution(token, key="result", extra={"user_agent": _USER_AGENT})
    if method == "captchafox" and with_agent:
        return Solution(token, extra={"user_agent": _USER_AGENT})
    if method == "turnstile" and switches.dialect == "2captcha":
        return Solution(token, extra={"useragent": _USER_AGENT})
    return Solution(token)


def _clearance(random: bytes, switches: Switches) -> Solution:
    cookie = urlsafe_b64encode(random[:96]).decode("ascii")
    text = f"cf_clearance={cookie};user_agent={_USER_AGENT}"
    if switches.result_key:
        return Solution(text, value=cookie, key="result", extra={"user_agent": _USER_AGENT})
    return Solution(text, structure={"cookies": {"cf_clearance": cookie}, "userAgent": _USER_AGENT})


def _picture(fields: Mapping[str, str], random: bytes) -> Solution:
    if fields.get("grid_size"):
        return _structure(_cells(random, 16 if fields["grid_size"] == "4x4" else 9))
    kind = next((name for name in GRID_ANSWERS if fields.get(name) == "1"), "")
    points = [{"x": str(random[0]), "y": str(random[1])}, {"x": str(random[2]), "y": str(random[3])}]
    if kind == "coordinatescaptcha":
        text = "coordinates:" + ";".join(f"x={point['x']},y={point['y']}" for point in points)
        return Solution(text, structure=points)
    if kind == "canvas":
        return Solution("canvas:" + ",".join(f"{point['x']},{point['y']}" for point in points))
    if kind == "recaptcha":
        return Solution("click:" + "/".join(str(cell) for cell in _cells(random, 9)))
    return Solution(_letters(random))


def _pieces(fields: Mapping[str, str], method: str, random: bytes, switches: Switches) -> Solution:
    first, second = random[:16].hex(), random[16:32].hex()
    ours = switches.dialect == "captchaai"
    if method == "geetest" and fields.get("version") != "4":
        values = {"challenge": first, "validate": second, "seccode": f"{second}|jordan"}
        if ours:
            return Solution(",".join(f"{key}:{value}" for key, value in values.items()), structure=values)
        return _structure({f"geetest_{key}": value for key, value in values.items()})
    if method == "lemin":
        return _structure({"answer": first, "challenge_uuid" if ours else "challenge_id": second})
    if method == "capy":
        return _structure({"captchakey": fields.get("captchakey", ""), "challengekey": first, "answer": second})
    if method == "amazon_waf":
        return _structure({"captcha_voucher": first, "existing_token": second})
    if method == "tencent":
        return _structure({"appid": fields.get("app_id", ""), "ret": 0, "ticket": first, "randstr": second})
    return _structure(
        {
            "captcha_id": fields.get("captcha_id") or fields.get("gt", ""),
            "lot_number": first,
            "pass_token": second,
            "gen_time": "1763766000",
            "captcha_output": urlsafe_b64encode(random[32:128]).decode("ascii"),
        }
    )


def _structure(value: Any) -> Solution:
    return Solution(json.dumps(value, separators=(",", ":")), structure=value)


def _cells(random: bytes, count: int) -> list[int]:
    return sorted({1 + byte % count for byte in random[:3]})


def _letters(random: bytes) -> str:
    return "".join(chr(ord("a") + byte % 26) for byte in random[:6])
