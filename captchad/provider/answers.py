"""What the provider's answers mean. Pure: bytes in, a value out; no bytes whatever make it raise.

Providers answer in text when JSON was asked for and the other way round, write ids and statuses as numbers or strings,
and put the answer under `request` or `result`. All of that is taken. What is not certainly an answer or a code is
`Unparseable`, because a submit taken for refused would be paid for again, and one taken for accepted would be lost.
"""

__all__ = [
    "Failed",
    "Pending",
    "Refused",
    "Solved",
    "Submitted",
    "Threads",
    "Unparseable",
    "parse_balance",
    "parse_poll",
    "parse_report",
    "parse_submit",
    "parse_threads",
    "parse_unready",
]

import codecs
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from captchad.model.codes import CODES, OWN_CODES, is_code, lookup
from captchad.model.money import micros
from captchad.model.states import Category

#: Characters of one answer. The longest tokens known are some thousands; with its escapes, an answer of this size
#: still fits twice into one frame between worker and parent (captchad.ipc.channel.MAX_FRAME).
MAX_CHARS = 1 << 18

#: Levels of a structured answer. It is written and read again with a deeper stack than the one here.
MAX_DEPTH = 32

#: Keys besides the answer that are kept, and characters of a provider's own words about an error.
MAX_EXTRA = 32
MAX_WORDS = 200

_NOT_READY = frozenset({"CAPCHA_NOT_READY", "CAPTCHA_NOT_READY"})

#: Answers of workers who saw that nothing in the grid matches; with some providers they stand where a code would.
_NOTHING_MATCHES = frozenset({"No_matching_images", "notpic"})

#: Structured answers that some providers give as the whole object, without status and request.
_WHOLE = (
    frozenset({"challenge", "validate", "seccode"}),
    frozenset({"geetest_challenge", "geetest_validate", "geetest_seccode"}),
    frozenset({"captcha_id", "lot_number", "pass_token", "gen_time", "captcha_output"}),
    frozenset({"cookies", "userAgent"}),
)

_ID = re.compile(r"[0-9]{1,64}")
_COUNT = re.compile(r"[0-9]{1,9}")
_CODE_AND_WORDS = re.compile(r"(ERROR_[A-Z0-9_]+)[\s|:,;.]+(.*)", re.DOTALL)
_CODE_OF_STATUS_0 = re.compile(r"[A-Z][A-Z0-9_]{2,63}")
_HALF_OF_PAIR = re.compile(r"[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_-]{1,32})")

#: A charset is taken from the answer's header only if it is one of these; other codecs are slow or do not give text.
_CHARSETS = frozenset(
    {"utf-8", "utf8", "utf-16", "us-ascii", "ascii", "iso-8859-1", "windows-1251", "windows-1252", "koi8-r"}
)

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True, slots=True)
class Submitted:
    """The provider has the task, under `cid` (1 to 64 digits)."""

    cid: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider did not take the task. `text`: its own words, if any."""

    code: str
    category: Category
    text: str = ""


@dataclass(frozen=True, slots=True)
class Unparseable:
    """No answer and no code. After a submit the task may be charged. `code` is one of captchad's own."""

    reason: str
    code: str = "UNPARSEABLE"


@dataclass(frozen=True, slots=True)
class Pending:
    """Not solved yet."""


@dataclass(frozen=True, slots=True)
class Solved:
    """`token` is the text form; `answer` the value of a structured one; `extra` what else the provider said.

    None of them is printed: tokens are secrets.
    """

    token: str = field(repr=False)
    answer: object | None = field(default=None, repr=False)
    extra: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider answered a poll with an error code, of whatever category."""

    code: str
    category: Category
    text: str = ""


@dataclass(frozen=True, slots=True)
class Threads:
    """What an account's plan allows at one time, and how many captchas it is working on."""

    total: int
    working: int


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer with its wrapping off. `ok`: status 1 or `OK|`, status 0, or None when neither was said."""

    ok: bool | None
    value: object
    words: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)


def parse_submit(status: int, content_type: str, body: bytes) -> Submitted | Refused | Unparseable:
    """What in.php said. A certain answer counts whatever the HTTP status; a redirect never does."""
    if 300 <= status < 400:
        return Unparseable(f"http {status}: a redirect")
    said = _read(content_type, body)
    if isinstance(said, _Said):
        if said.ok and (cid := _captcha_id(said.value)):
            return Submitted(cid)
        if not said.ok and (found := _error(said)) and found[0] not in _NOT_READY:
            return Refused(found[0], lookup(found[0]).category, found[1])
        said = "neither a captcha id nor a code"
    # 408 is left out: a gateway may say it about a request that it has handed on.
    if 400 <= status < 500 and status != 408:
        code = _http_code(status)
        return Refused(code, CODES[code].category, f"http {status}")
    return _unparseable(status, said)


def parse_poll(
    status: int, content_type: str, body: bytes, *, priced: bool = False
) -> Pending | Solved | Failed | Unparseable:
    """What res.php said about a captcha. `priced`: it was asked by `get2`, so that a price may end an answer in text.

    The price stands in `extra` under `price`, as a provider writes it in JSON.
    """
    if 300 <= status < 400:
        return Unparseable(f"http {status}: a redirect")
    said = _read(content_type, body)
    if isinstance(said, _Said):
        if priced and said.ok and isinstance(said.value, str) and "price" not in said.extra:
            said = _without_price(said, said.value)
        outcome = _judge_poll(said)
        if outcome is not None:
            return outcome
        said = "neither an answer nor a code"
    return _unparseable(status, said)


def parse_unready(status: int, content_type: str, body: bytes, number: int) -> list[bool] | None:
    """Which of `number` captchas are not ready, by what res.php said to `ids=`. None: that cannot be told."""
    said = _read(content_type, body)
    if status != 200 or not isinstance(said, _Said) or not isinstance(said.value, str):
        return None
    parts = said.value.split("|")
    return [part.strip() in _NOT_READY for part in parts] if len(parts) == number else None


def parse_balance(status: int, content_type: str, body: bytes) -> float | Failed | Unparseable:
    """What res.php said to `getbalance`: money, in the provider's currency."""
    said = _read(content_type, body)
    if isinstance(said, _Said):
        money = _finite(str(said.value)) if isinstance(said.value, str | int | float) else None
        if said.ok is not False and money is not None:
            return money
        if found := _error(said):
            return Failed(found[0], lookup(found[0]).category, found[1])
        said = "neither a number nor a code"
    return _unparseable(status, said)


def parse_report(status: int, content_type: str, body: bytes) -> bool | Failed | Unparseable:
    """What res.php said to a report: True is recorded."""
    said = _read(content_type, body)
    if isinstance(said, _Said):
        if said.ok is not False and said.value == "OK_REPORT_RECORDED":
            return True
        if found := _error(said):
            return Failed(found[0], lookup(found[0]).category, found[1])
        said = "neither recorded nor a code"
    return _unparseable(status, said)


def _without_price(said: _Said, text: str) -> _Said:
    """`TOKEN|0.00085`: the price moves to the extra."""
    token, bar, price = text.rpartition("|")
    if not bar or micros(price) is None:
        return said
    return replace(said, value=token, extra={**said.extra, "price": price.strip()})


def parse_threads(status: int, content_type: str, body: bytes) -> Threads | Failed | Unparseable:
    """What res.php said to `threadsinfo`: an object of two numbers, which may be written as strings."""
    text = _decode(content_type, body)
    loaded = _load(text) if text is not None and len(text) <= MAX_CHARS else None
    if isinstance(loaded, dict):
        total, working = _count(loaded.get("threads")), _count(loaded.get("working_threads"))
        if total is not None and working is not None:
            return Threads(total, working)
    said = _read(content_type, body)
    if isinstance(said, _Said):
        if found := _error(said):
            return Failed(found[0], lookup(found[0]).category, found[1])
        said = "neither threads nor a code"
    return _unparseable(status, said)


def _count(value: object) -> int | None:
    """A number that is not negative, or one in a string."""
    if type(value) not in (int, str):
        return None
    text = str(value).strip()
    return int(text) if _COUNT.fullmatch(text) else None


def _judge_poll(said: _Said) -> Pending | Solved | Failed | None:
    if said.ok:
        # Some say status 1 with a code in it. Only names that we know are taken for one: it could be an answer.
        known = isinstance(said.value, str) and said.value in CODES and said.value not in OWN_CODES
        if not known:
            return _solved(said)
    elif _is_whole(said) or (isinstance(said.value, str) and said.value in _NOTHING_MATCHES):
        return _solved(said)
    found = _error(said)
    if found is None:
        return None
    if found[0] in _NOT_READY:
        return Pending()
    return Failed(found[0], lookup(found[0]).category, found[1])


def _is_whole(said: _Said) -> bool:
    """Whether this is a structured answer that came without a status."""
    return said.ok is None and isinstance(said.value, dict)


def _solved(said: _Said) -> Solved | None:
    """The answer in its text form and, if structured, as a value. None if there is none."""
    value = said.value
    match value:
        case str():
            return Solved(value, _structured(value), said.extra) if value.strip() else None
        case bool() | None:
            return None
        case int() | float():
            return Solved(str(value), None, said.extra)
        case dict() | list() if value:
            return Solved(json.dumps(value, ensure_ascii=False, separators=(",", ":")), value, said.extra)
    return None


def _structured(token: str) -> object | None:
    """The value of an answer that came as JSON within a string, as some providers send arrays and objects."""
    if not token.startswith(("{", "[")):
        return None
    value = _load(token)
    return value if isinstance(value, dict | list) else None


def _error(said: _Said) -> tuple[str, str] | None:
    """The code and the provider's words about it, if this is an error code."""
    for candidate in (said.value, said.words):
        if not isinstance(candidate, str):
            continue
        text = candidate.strip()
        words = said.words
        if both := _CODE_AND_WORDS.fullmatch(text):
            text, words = both[1], words or both[2]
        if is_code(text) or (said.ok is False and _CODE_OF_STATUS_0.fullmatch(text) and text not in OWN_CODES):
            name = lookup(text).name
            return name, "" if words.strip() == name else _clean(words)
    return None


def _captcha_id(value: object) -> str | None:
    """The digits of a captcha id; None if it is anything else."""
    if not isinstance(value, int | str):
        return None
    text = str(value).strip()
    return text if _ID.fullmatch(text) else None


def _read(content_type: str, body: bytes) -> _Said | str:
    """Take the wrapping off, or say why that is impossible."""
    text = _decode(content_type, body)
    if text is None:
        return "not text"
    if len(text) > MAX_CHARS:
        return "too long"
    text = text.strip().strip("\ufeff\0").strip()
    if not text:
        return "empty"
    if text.startswith("<"):
        return "a web page"
    if text.startswith(("{", '"', "[")):
        loaded = _load(text)
        if isinstance(loaded, dict):
            return _from_json(loaded)
        if not isinstance(loaded, str):
            return "damaged JSON, or none of ours"
        text = loaded.strip()
    if text.startswith("OK|"):
        return _Said(True, text[3:])
    return _Said(None, text)


def _from_json(answer: dict[str, Any]) -> _Said | str:
    status = answer.get("status")
    if status is not None and status not in (0, 1, "0", "1"):
        return "a status that is neither 0 nor 1"
    ok = None if status is None else status in (1, "1")
    words = answer.get("error_text")
    key = "request" if answer.get("request") is not None else "result"
    rest = {name: value for name, value in answer.items() if name not in ("status", "error_text", key)}
    if answer.get(key) is None and any(keys <= rest.keys() for keys in _WHOLE):
        return _Said(ok, rest)
    value = answer.get(key)
    if ok is None and not isinstance(value, str):
        return "JSON without a status"
    extra = dict(list(rest.items())[:MAX_EXTRA])
    return _Said(ok, value, words if isinstance(words, str) else "", extra)


def _decode(content_type: str, body: bytes) -> str | None:
    """The text of `body`: by its byte order mark, as UTF-8, by the header's charset. None: none fits."""
    for mark, name in _BOMS:
        if body.startswith(mark):
            return _try_decode(body[len(mark) :], name)
    text = _try_decode(body, "utf-8")
    if text is None and (said := _CHARSET.search(content_type.lower())) and said[1] in _CHARSETS:
        text = _try_decode(body, said[1])
    return None if text is None or _HALF_OF_PAIR.search(text) else text


def _try_decode(body: bytes, encoding: str) -> str | None:
    try:
        return body.decode(encoding)
    except UnicodeDecodeError:
        return None


def _load(text: str) -> Any:
    """The JSON value; None if it is damaged, too deep, or holds what cannot be written again as JSON and UTF-8."""
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_float)
    except (ValueError, RecursionError):
        return None
    if _too_deep(value):
        return None
    # Half a surrogate pair can only come in as an escape. A whole one has become one character.
    if _ESCAPED_HALF.search(text) and _HALF_OF_PAIR.search(json.dumps(value, ensure_ascii=False)):
        return None
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _float(text: str) -> float:
    value = _finite(text)
    if value is None:
        raise ValueError("a number out of range")
    return value


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _http_code(status: int) -> str:
    match status:
        case 408 | 425 | 429:
            return "HTTP_429"
        case 413 | 414 | 431:
            return "HTTP_413"
        case _ if 400 <= status < 500:
            return "HTTP_4XX"
        case _ if status >= 500:
            return "HTTP_5XX"
    return "UNPARSEABLE"


def _unparseable(status: int, reason: str) -> Unparseable:
    code = _http_code(status)
    return Unparseable(reason if status == 200 else f"http {status}: {reason}", code)


def _clean(words: str) -> str:
    """A provider's words on one line, printable and short."""
    line = " ".join(words[: 4 * MAX_WORDS].split())
    return "".join(char if char.isprintable() else "?" for char in line)[:MAX_WORDS]
