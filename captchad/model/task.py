"""A task as users write it: strict JSON in, a checked `Task` out.

Everything here takes hostile input. The one exception that leaves it for bad input is `TaskError`, which names the key,
or the line and column. Nothing is looked up on the network and no file is opened.
"""

__all__ = [
    "ID_FORM",
    "MAX_DEPTH",
    "MAX_TASK_BYTES",
    "Task",
    "check_host",
    "compact",
    "fingerprint",
    "form_fields",
    "load_json",
    "normal_host",
    "parse_task",
    "show",
]

import hashlib
import ipaddress
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from urllib.parse import urlsplit

from captchad.model.errors import TaskError
from captchad.model.states import Priority
from captchad.model.words import did_you_mean

#: The form of an id; also what makes it a safe file name.
ID_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: Containers within containers. Far below what the JSON parser's recursion takes.
MAX_DEPTH = 32
#: One task as JSON. Below the journal's limit for a record (2 MiB), with room for the record's own keys.
MAX_TASK_BYTES = 2_000_000

MAX_URL = 8_192
MAX_KEY = 4_096  # site keys, dedupe keys
MAX_PARAMS = 256
MAX_PARAM = 1_500_000  # an image of 1 MB in base64 takes 1.4 MB
MAX_TAGS = 64
MAX_TAG = 1_024
MAX_NAME = 128  # of a method, a parameter or a tag
MAX_DEADLINE_S = 366 * 86_400.0
MAX_TIME_S = 253_402_300_800.0  # the year 10000, which a datetime cannot hold
MAX_INTEGER = 2**63

_DEFAULT_METHOD = "userrecaptcha"
_KEYS = (
    "id",
    "method",
    "sitekey",
    "googlekey",
    "pageurl",
    "priority",
    "params",
    "deadline_s",
    "submitted_at",
    "dedupe_key",
    "tags",
)  # fmt: skip
#: The daemon's own; a debug dump in front of an answer would make a paid submit unreadable.
_SET_BY_CAPTCHAD = frozenset({"key", "json", "pingback", "soft_id", "header_acao", "debug_dump"})
#: Where the provider wants the site key under another name than `sitekey`.
_SITEKEY_NAMES = {
    "userrecaptcha": "googlekey",
    "funcaptcha": "publickey",
    "geetest": "gt",
    "geetest_v4": "captcha_id",
    "keycaptcha": "s_s_c_user_id",
    "capy": "captchakey",
    "lemin": "captcha_id",
    "cybersiara": "master_url_id",
    "cutcaptcha": "misery_key",
    "tencent": "app_id",
    "atb_captcha": "app_id",
}
#: Methods that the provider refuses without a site key.
_SITEKEY_NEEDED = frozenset(
    {
        "userrecaptcha",
        "turnstile",
        "hcaptcha",
        "amazon_waf",
        "mt_captcha",
        "friendly_captcha",
        "captchafox",
        "yandex",
        "prosopo",
    }
)  # fmt: skip
#: Methods that work on a page and are refused without one.
_PAGE_NEEDED = _SITEKEY_NEEDED | frozenset(_SITEKEY_NAMES) | {"cloudflare_challenge", "datadome"}
#: Methods that look at a picture, a sound or a text: no page, even when one is named.
_PAGELESS = frozenset(
    {"post", "base64", "bls", "bounding_box", "rotatecaptcha", "audio", "vkimage", "temuimage", "drag_drop"}
)

_METHOD_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PARAM_FORM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._\[\]-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_URL_REFUSED = re.compile(r"[\s\\]")
_NETLOC = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]@:%]+))(?::(?P<port>[0-9]{0,5}))?")
_HOST_FORM = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
#: IDNA 2003 and 2008 name different hosts for these, so that their meaning depends on who resolves them.
_IDNA_DEVIATIONS = re.compile("[\u00df\u03c2\u200c\u200d]")
_JSON_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]|[-\w.+]++', re.DOTALL)
_JSON_UNSAFE = re.compile(rb"[\x00-\x1f]")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Task:
    """One checked task. Everything that captchad does with it follows from these fields."""

    id: str | None  # as given; None lets the file's name decide
    method: str
    sitekey: str | None
    pageurl: str | None
    host: str  # of the page, normalised; "-" when there is no page
    priority: Priority
    params: Mapping[str, str]  # passed to the provider untouched
    deadline_s: float | None
    submitted_at: float | None  # UTC seconds
    dedupe_key: str | None
    tags: Mapping[str, str]


def parse_task(value: object) -> Task:
    """Check a task object as parsed from JSON. Raises TaskError that names the key."""
    if not isinstance(value, dict):
        raise TaskError(f"a task is an object, not {_kind(value)}", hint='write {"method": …, "pageurl": …}')
    _check_keys(value)
    method = _method(value)
    params = _params(value.get("params", {}))
    sitekey = _sitekey(value, method, params)
    pageurl, host = _page(value, method)
    return Task(
        id=_id(value),
        method=method,
        sitekey=sitekey,
        pageurl=pageurl,
        host=host,
        priority=_priority(value),
        params=params,
        deadline_s=_deadline(value),
        submitted_at=_submitted_at(value),
        dedupe_key=_optional_text(value, "dedupe_key", MAX_KEY),
        tags=_tags(value.get("tags", {})),
    )


def check_host(task: Task, allowed_hosts: Iterable[str]) -> None:
    """Raise TaskError (key `pageurl`) unless the operator's list has the task's page host.

    `*` stands for every host with a page, `*.example.com` for subdomains only, `-` for methods without a page. A method
    without a page that names one nevertheless needs both.
    """
    allowed = tuple(allowed_hosts)
    if (task.host == "-" or task.method in _PAGELESS) and "-" not in allowed:
        message = f"method {show(task.method)} has no page, and tasks without a page are not allowed"
        raise TaskError(message, key="pageurl", hint='an operator can put "-" into policy.allowed_hosts')
    if task.host != "-" and not any(_host_fits(task.host, pattern) for pattern in allowed):
        message = f"host {show(task.host)} is not allowed"
        raise TaskError(message, key="pageurl", hint="an operator can add it to policy.allowed_hosts")


def form_fields(task: Task) -> dict[str, str]:
    """The provider's parameters of a submit, without `key` and `json`."""
    fields = {"method": task.method}
    if task.sitekey is not None:
        fields[_SITEKEY_NAMES.get(task.method, "sitekey")] = task.sitekey
    if task.pageurl is not None:
        fields["pageurl"] = task.pageurl
    fields.update(task.params)
    return fields


def fingerprint(value: object) -> str:
    """32 hex digits over the content of a task object; `id`, `submitted_at` and the order of keys do not count.

    A name is no content: a file NAME.json, and the same with "id": "NAME" written into it, are one task.
    """
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if key not in ("id", "submitted_at")}
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:32]


def compact(value: object, raw: bytes) -> bytes:
    """The task object as one line of UTF-8: `raw`, from which `value` was parsed, if it is one already."""
    raw = raw.strip(b" \t\r\n")
    if isinstance(value, dict) and not _JSON_UNSAFE.search(raw):
        return raw
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate has no UTF-8; its backslash form is just what JSON writes for it.
    return text.encode("utf-8", "backslashreplace")


def load_json(data: bytes) -> object:
    """Parse strict JSON: UTF-8 without a BOM, no doubled keys, finite numbers, integers of 64 bits, MAX_DEPTH levels.

    Raises TaskError with line and column, or with the key where one is doubled.
    """
    text = _decode(data)
    _check_depth(text)
    try:
        return _decoder().decode(text)
    except json.JSONDecodeError as exc:
        what = exc.msg.removesuffix(" at").removesuffix(" starting")  # the place is said by numbers
        message = f"not valid JSON: {what[0].lower()}{what[1:]}"
        raise TaskError(message, line=exc.lineno, column=exc.colno, hint=_syntax_hint(text, exc)) from None
    except _BadLiteral as exc:
        line, column = _place(text, _find_literal(text, exc.literal))
        raise TaskError(exc.message, line=line, column=column, hint="write it as a string") from None


def normal_host(name: str) -> str:
    """A host as it is compared: lower case, IDNA, no last dot, IPv6 in its short form. Raises ValueError."""
    if ":" in name:
        return str(ipaddress.IPv6Address(name.removeprefix("[").removesuffix("]")))
    name = name.lower().removesuffix(".")
    if len(name) > 253:
        raise ValueError("too long for a host name")
    if not name.isascii():
        if _IDNA_DEVIATIONS.search(name):
            raise ValueError("write this international name in its xn-- form")
        name = name.encode("idna").decode("ascii").lower()
    if not _HOST_FORM.fullmatch(name):
        raise ValueError("not a host name")
    return name


def show(value: str, limit: int = 80) -> str:
    """`value` quoted for a message: ASCII only, and cut when it is long."""
    return ascii(value) if len(value) <= limit else ascii(value[:limit]) + "…"


# --- the fields, one by one


def _check_keys(value: dict[object, object]) -> None:
    for key in value:
        if not isinstance(key, str):
            raise TaskError("a key is not a string")
        if key not in _KEYS:
            raise TaskError(f"unknown key {show(key)}", key=_named(key), hint=did_you_mean(key, _KEYS))


def _method(value: Mapping[str, object]) -> str:
    method = _optional_text(value, "method", MAX_NAME)
    if method is None:
        return _DEFAULT_METHOD
    if not _METHOD_FORM.fullmatch(method):
        raise TaskError(f"{show(method)} is not the name of a method", key="method")
    return method


def _id(value: Mapping[str, object]) -> str | None:
    task_id = _optional_text(value, "id", 128)
    if task_id is not None and not ID_FORM.fullmatch(task_id):
        hint = "up to 128 letters, digits, dots, underscores and hyphens, the first a letter or digit"
        raise TaskError(f"{show(task_id)} cannot be an id", key="id", hint=hint)
    return task_id


def _sitekey(value: Mapping[str, object], method: str, params: Mapping[str, str]) -> str | None:
    sitekey = _optional_text(value, "sitekey", MAX_KEY)
    googlekey = _optional_text(value, "googlekey", MAX_KEY)
    if sitekey is not None and googlekey is not None and sitekey != googlekey:
        raise TaskError("sitekey and googlekey mean the same and differ", key="googlekey", hint="give one of them")
    sitekey = googlekey if sitekey is None else sitekey
    wanted = _SITEKEY_NAMES.get(method, "sitekey")
    if sitekey is not None and wanted in params:
        raise TaskError(f"{wanted} is given twice", key=f"params.{wanted}", hint="sitekey is sent under that name")
    if sitekey is None and method in _SITEKEY_NEEDED:
        hint = "add the key that the page gives its captcha; sitekey and googlekey are the same"
        raise TaskError(f"method {method} needs a sitekey", key="sitekey", hint=hint)
    return sitekey


def _page(value: Mapping[str, object], method: str) -> tuple[str | None, str]:
    pageurl = _optional_text(value, "pageurl", MAX_URL)
    if pageurl is not None:
        return pageurl, _page_host(pageurl)
    if method in _PAGE_NEEDED:
        hint = 'add the address of the page with the captcha: "pageurl": "https://example.com/login"'
        raise TaskError(f"method {method} needs a pageurl", key="pageurl", hint=hint)
    return None, "-"


def _page_host(url: str) -> str:
    hint = "an absolute http or https address, as https://example.com/login"
    try:
        if _URL_REFUSED.search(url):
            raise ValueError("blanks and backslashes do not belong in an address")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError("neither http nor https")
        if "@" in parts.netloc:
            hint = "a user name or password has no place in pageurl"
            raise ValueError("it names a user")
        return _netloc_host(parts.netloc)
    except ValueError as exc:
        raise TaskError(f"bad pageurl: {_plain(str(exc))}", key="pageurl", hint=hint) from None


def _netloc_host(netloc: str) -> str:
    found = _NETLOC.fullmatch(netloc)
    if found is None:
        raise ValueError("no host, or a bad one")
    if int(found["port"] or 0) > 65_535:
        raise ValueError("bad port")
    return normal_host(found["v6"] or found["name"])


def _priority(value: Mapping[str, object]) -> Priority:
    word = _optional_text(value, "priority", MAX_NAME)
    if word is None:
        return Priority.NORMAL
    words = {priority.word: priority for priority in Priority}
    if word not in words:
        hint = did_you_mean(word, words) or "one of " + ", ".join(words)
        raise TaskError(f"{show(word)} is not a priority", key="priority", hint=hint)
    return words[word]


def _deadline(value: Mapping[str, object]) -> float | None:
    if "deadline_s" not in value:
        return None
    seconds = _number(value["deadline_s"], "deadline_s")
    if not 0 < seconds <= MAX_DEADLINE_S:
        raise TaskError("out of range", key="deadline_s", hint="seconds, more than 0 and at most 366 days")
    return seconds


def _submitted_at(value: Mapping[str, object]) -> float | None:
    if "submitted_at" not in value:
        return None
    given = value["submitted_at"]
    seconds = _iso_seconds(given) if isinstance(given, str) else _number(given, "submitted_at")
    if not 0 <= seconds < MAX_TIME_S:
        raise TaskError("out of range", key="submitted_at", hint="UTC seconds since 1970, or an ISO 8601 time")
    return seconds


def _iso_seconds(text: str) -> float:
    hint = "write UTC, as 2026-11-21T23:10:04Z"
    _check_text(text, "submitted_at", MAX_NAME)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise TaskError("not an ISO 8601 time", key="submitted_at", hint=hint) from None
    if moment.tzinfo is None:
        raise TaskError("a time without its zone", key="submitted_at", hint=hint)
    return moment.timestamp()


def _params(given: object) -> dict[str, str]:
    if not isinstance(given, dict):
        raise TaskError(f"params is an object, not {_kind(given)}", key="params")
    if len(given) > MAX_PARAMS:
        raise TaskError(f"more than {MAX_PARAMS} params", key="params")
    return {_param_name(name): _scalar(item, f"params.{_named(name)}") for name, item in given.items()}


def _param_name(name: object) -> str:
    if not isinstance(name, str):
        raise TaskError("the name of a parameter is not a string", key="params")
    key = f"params.{_named(name)}"
    if len(name) > MAX_NAME or not _PARAM_FORM.fullmatch(name):
        raise TaskError(f"{show(name)} cannot be the name of a parameter", key=key)
    # Some providers read names without regard to case, so no spelling gets past.
    plain = name.lower()
    if plain in _SET_BY_CAPTCHAD:
        raise TaskError(f"captchad sets {show(name)} itself", key=key, hint="leave it out")
    if plain in _KEYS:
        raise TaskError(f"{show(name)} has a field of its own", key=key, hint=f"write {plain} beside params")
    return name


def _scalar(item: object, key: str) -> str:
    if isinstance(item, bool):
        return "1" if item else "0"
    if isinstance(item, int | float):
        _number(item, key)
        return str(item)
    if not isinstance(item, str):
        raise TaskError(f"a parameter is a string, a number, true or false, not {_kind(item)}", key=key)
    # Base64 and cookies come with line ends; in a form they harm nobody.
    _check_text(item, key, MAX_PARAM, refused=_CONTROL_BUT_LINES)
    return item


def _tags(given: object) -> dict[str, str]:
    if not isinstance(given, dict):
        raise TaskError(f"tags is an object, not {_kind(given)}", key="tags")
    if len(given) > MAX_TAGS:
        raise TaskError(f"more than {MAX_TAGS} tags", key="tags")
    return {_tag_name(name): _tag_value(item, f"tags.{_named(name)}") for name, item in given.items()}


def _tag_name(name: object) -> str:
    if not isinstance(name, str):
        raise TaskError("the name of a tag is not a string", key="tags")
    _check_text(name, f"tags.{_named(name)}", MAX_NAME)
    return name


def _tag_value(item: object, key: str) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, int | float):
        _number(item, key)
        return str(item)
    if not isinstance(item, str):
        raise TaskError(f"a tag is a string, a number, true or false, not {_kind(item)}", key=key)
    if item:
        _check_text(item, key, MAX_TAG)
    return item


# --- what the fields share


def _optional_text(value: Mapping[str, object], key: str, limit: int) -> str | None:
    if key not in value:
        return None
    text = value[key]
    if not isinstance(text, str):
        raise TaskError(f"{key} is a string, not {_kind(text)}", key=key)
    if not text:
        raise TaskError(f"{key} is empty", key=key, hint="leave it out")
    _check_text(text, key, limit)
    return text


def _check_text(text: str, key: str, limit: int, *, refused: re.Pattern[str] = _CONTROL) -> None:
    if len(text) > limit:
        raise TaskError(f"too long: {len(text)} characters, at most {limit}", key=key)
    if text.isascii() and text.isprintable():  # the short way for a megabyte of base64
        return
    if refused.search(text):
        raise TaskError("it holds a control character", key=key)
    if _SURROGATE.search(text):
        raise TaskError("it holds half a surrogate pair", key=key)


def _number(item: object, key: str) -> float:
    if isinstance(item, bool) or not isinstance(item, int | float):
        raise TaskError(f"a number is wanted, not {_kind(item)}", key=key)
    if not -MAX_INTEGER <= item < MAX_INTEGER or not math.isfinite(item):
        raise TaskError("out of range", key=key)
    return float(item)


def _kind(item: object) -> str:
    if item is None:
        return "null"
    words = {bool: "true or false", str: "a string", int: "a number", float: "a number", dict: "an object"}
    return words.get(type(item), "an array" if isinstance(item, list) else "something else")


def _named(name: object) -> str:
    """A key from outside, fit for an error's `key`."""
    return _plain(str(name)[:80])


def _plain(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii") if text.isprintable() else ascii(text)[1:-1]


def _host_fits(host: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    wild = pattern.startswith("*.")
    try:
        plain = normal_host(pattern.removeprefix("*.") if wild else pattern)
    except ValueError:  # such as "-"; no host is equal to it
        return False
    return host.endswith("." + plain) if wild else host == plain


# --- JSON


class _BadLiteral(Exception):
    def __init__(self, literal: str, message: str) -> None:
        super().__init__(message)
        self.literal = literal
        self.message = message


def _decode(data: bytes) -> str:
    if data.startswith(_BOM):
        raise TaskError("it begins with a byte order mark", line=1, column=1, hint="save it as UTF-8 without BOM")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line, column = _place(data[: exc.start].decode("utf-8"), exc.start)
        raise TaskError("not UTF-8", line=line, column=column, hint="save it as UTF-8") from None


def _check_depth(text: str) -> None:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                line, column = _place(text, token.start())
                message, hint = f"more than {MAX_DEPTH} levels deep", "a task needs two levels"
                raise TaskError(message, line=line, column=column, hint=hint)
        elif token[0] in "]}":
            depth -= 1


def _syntax_hint(text: str, exc: json.JSONDecodeError) -> str:
    """What is usually wrong where the parser stopped."""
    if not text.strip():
        return 'write a task: {"sitekey": …, "pageurl": …}'
    found = text[exc.pos : exc.pos + 1]
    if found == "'":
        return "JSON wants double quotes"
    before = text[: exc.pos].rstrip()[-1:]
    if before == "," or found == ",":
        return "a comma stands between two members, and none behind the last"
    if exc.msg.startswith(("Invalid control", "Unterminated string", "Invalid \\escape", "Invalid \\u")):
        return 'a string ends with " on its line; write a line end as \\n and a backslash as \\\\'
    if exc.msg == "Extra data":
        return "one value only: several tasks go into an array, or one a line into a .jsonl file"
    return "look at the quotes, commas, colons and brackets there and just before"


@cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_decimal
    )


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add returns None
        raise TaskError(f"key {show(twice)} stands twice in one object", key=_named(twice))
    return made


def _constant(literal: str) -> object:
    raise _BadLiteral(literal.removeprefix("-"), f"{literal} is not JSON")


def _integer(literal: str) -> int:
    number = int(literal) if len(literal) <= 20 else MAX_INTEGER
    if not -MAX_INTEGER <= number < MAX_INTEGER:
        raise _BadLiteral(literal, "an integer beyond 64 bits")
    return number


def _decimal(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise _BadLiteral(literal, "a number too large")
    return number


def _find_literal(text: str, literal: str) -> int:
    found = (token.start() for token in _JSON_TOKEN.finditer(text) if token[0].removeprefix("-") == literal)
    return next(found, text.find(literal))


def _place(text: str, position: int) -> tuple[int, int]:
    """Line and column, 1-based, in characters; `text` may end at `position`."""
    before = text[:position]
    return before.count("\n") + 1, len(before) - before.rfind("\n")
