"""Every error code: the provider's and captchad's own, whom each one blames, and how long the provider says to wait.

One table. docs/codes.md is printed from it (`python -m captchad.model.codes`), answers are judged by it, and the
names in metrics and results are its names.
"""

__all__ = ["CODES", "OWN_CODES", "Code", "is_code", "lookup", "markdown"]

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from captchad.model.states import Category

At = Literal["I", "R", "B"]

#: Longer ones are not codes. It bounds what a hostile provider can put into metrics and records.
MAX_NAME = 64

_NUMERIC = re.compile(r"ERROR ?: ?([0-9]{1,6})")
_NAMED = re.compile(rf"ERROR_[A-Z0-9_]{{1,{MAX_NAME - 6}}}")


@dataclass(frozen=True, slots=True)
class Code:
    """One code. `at`: seen at submits (I, in.php), at polls (R, res.php) or both (B)."""

    name: str
    at: At
    category: Category
    meaning: str
    pause_s: float | None = None  # seconds that the provider says to wait; None: it does not say

    @property
    def suspends(self) -> bool:
        """Whether the provider refuses every call for `pause_s`: a limit or a ban, not one call that went wrong."""
        return self.name.startswith("ERROR: ") or self.name in _SUSPENDING

    @property
    def hopeless(self) -> bool:
        """Whether the same task would meet it again, after it was paid for: it needs its producer, not a second try."""
        return self.name in _HOPELESS


_SUSPENDING = frozenset({"ERROR_TOO_MUCH_REQUESTS", "MAX_USER_TURN", "IP_BANNED", "ERROR_IP_BANNED"})

_HOPELESS = frozenset({"ERROR_TOKEN_EXPIRED", "ERROR_WRONG_ID_FORMAT"})

_T, _P, _K, _B = Category.TRANSIENT, Category.PERMANENT, Category.TASK, Category.BUDGET

_PROVIDER = (
    Code("CAPCHA_NOT_READY", "R", _T, "not solved yet; not an error", 5),
    Code("CAPTCHA_NOT_READY", "R", _T, "the same, spelled as some providers do", 5),
    Code("ERROR_WRONG_USER_KEY", "B", _P, "the API key has the wrong form"),
    Code("ERROR_KEY_DOES_NOT_EXIST", "B", _P, "the API key is unknown, or its account has no plan"),
    Code("ERROR_ZERO_BALANCE", "I", _B, "no money left; at CaptchaAI: no free thread", 60),
    Code("ERROR_NO_SLOT_AVAILABLE", "I", _B, "the queue is full, or all threads are busy", 5),
    Code("ERROR_TOO_MUCH_REQUESTS", "B", _T, "too many requests", 10),
    Code("MAX_USER_TURN", "I", _T, "more than 60 submits in 3 s", 10),
    Code("ERROR: 1001", "B", _B, "120 times ERROR_NO_SLOT_AVAILABLE within a minute", 600),
    Code("ERROR: 1002", "B", _B, "120 times ERROR_ZERO_BALANCE within a minute", 300),
    Code("ERROR: 1003", "B", _T, "far more ERROR_NO_SLOT_AVAILABLE than captchas", 30),
    Code("ERROR: 1004", "B", _P, "5 requests with a wrong API key from this address", 600),
    Code("ERROR: 1005", "B", _T, "too many polls for each captcha", 300),
    Code("IP_BANNED", "I", _P, "this address is banned, for wrong API keys", 300),
    Code("ERROR_IP_BANNED", "I", _P, "the same, spelled as some providers do", 300),
    Code("ERROR_IP_NOT_ALLOWED", "I", _P, "this address is not in the account's allow list"),
    Code("ERROR_PAGEURL", "I", _K, "pageurl is missing or invalid"),
    Code("ERROR_GOOGLEKEY", "I", _K, "the site key is missing or malformed"),
    Code("ERROR_WRONG_GOOGLEKEY", "I", _K, "the site key is malformed or missing"),
    Code("ERROR_BAD_TOKEN_OR_PAGEURL", "I", _K, "site key and page do not belong together"),
    Code("ERROR_BAD_PARAMETERS", "I", _K, "a parameter is missing or malformed"),
    Code("ERROR_DOMAIN_NOT_ALLOWED", "I", _K, "the provider refuses this site"),
    Code("ERROR_ZERO_CAPTCHA_FILESIZE", "I", _K, "the image is too small"),
    Code("ERROR_TOO_BIG_CAPTCHA_FILESIZE", "I", _K, "the image is too big"),
    Code("ERROR_IMAGE_DIMENSIONS_TOO_LARGE", "I", _K, "the image is wider or higher than 1000 pixels"),
    Code("ERROR_WRONG_FILE_EXTENSION", "I", _K, "the image is not jpg, jpeg, gif or png"),
    Code("ERROR_IMAGE_TYPE_NOT_SUPPORTED", "I", _K, "the type of the image is not recognised"),
    Code("ERROR_UPLOAD", "I", _K, "the image cannot be read"),
    Code("ERROR_CAPTCHAIMAGE_BLOCKED", "I", _K, "the image is known as unsolvable"),
    Code("TOO_MANY_BAD_IMAGES", "I", _P, "too many unsolvable images from this account"),
    Code("ERROR_EMPTY_CAPTCHA", "I", _K, "there is no captcha in the request"),
    Code("ERROR_PROXY_FORMAT", "I", _K, "the task's proxy is malformed"),
    Code("ERROR_BAD_PROXY", "I", _K, "the task's proxy failed within the last 10 minutes"),
    Code("ERROR_PROXY_CONNECTION_FAILED", "B", _K, "the captcha could not be loaded through the task's proxy"),
    Code("ERROR_SERVER_ERROR", "B", _T, "a fault at the provider", 10),
    Code("ERROR_INTERNAL_SERVER_ERROR", "B", _T, "a fault at the provider", 10),
    Code("ERROR_CAPTCHA_UNSOLVABLE", "R", _K, "the provider's workers gave up; not charged"),
    Code("ERROR_WRONG_ID_FORMAT", "R", _K, "the captcha id is not a number"),
    Code("ERROR_WRONG_CAPTCHA_ID", "R", _K, "the provider does not know, or no longer knows, the captcha id"),
    Code("ERROR_NO_SUCH_CAPCHA_ID", "R", _K, "the same, spelled as some providers do"),
    Code("ERROR_EMPTY_ACTION", "R", _P, "the action is missing: the address leads elsewhere"),
    Code("ERROR_BAD_DUPLICATES", "R", _K, "the provider's workers did not agree"),
    Code("ERROR_TOKEN_EXPIRED", "R", _K, "the challenge expired before it was solved; a fresh one is needed"),
    Code("ERROR_REPORT_NOT_RECORDED", "R", _K, "the report came too late, or too many were wrong"),
    Code("REPORT_NOT_RECORDED", "R", _K, "the same, older spelling"),
    Code("ERROR_DUPLICATE_REPORT", "R", _K, "this captcha is already reported"),
    Code("ERROR_IP_ADDRES", "R", _P, "the pingback address belongs to another server"),
    Code("ERROR_NO_SUCH_METHOD", "I", _K, "the provider does not know the method"),
)

_OWN = (
    Code("TIMEOUT", "R", _T, "no answer within the attempt's time; the captcha is still polled, slowly"),
    Code("NETWORK", "B", _T, "no connection, or it broke"),
    Code("HTTP_429", "B", _T, "HTTP 429, or 408 or 425: the provider wants fewer requests"),
    Code("HTTP_4XX", "B", _P, "another HTTP 4xx: the address is wrong, or access is refused there"),
    Code("HTTP_413", "I", _K, "HTTP 413, 414 or 431: the task is too big for the provider"),
    Code("HTTP_5XX", "B", _T, "HTTP 5xx without a code of the provider's", 5),
    Code("UNPARSEABLE", "B", _T, "an answer that is neither an answer nor a code", 5),
    Code("UNKNOWN_SUBMIT", "I", _T, "a submit began and has no answer: it may be charged"),
    Code("BAD_FIELDS", "I", _K, "the task's fields cannot be sent"),
    Code("POISON", "B", _K, "the task killed a worker three times while alone in it"),
    Code("JOURNAL_DAMAGED", "B", _K, "the task's own record was lost with damaged bytes of the journal"),
    Code("INTERNAL", "B", _T, "a fault of captchad's own; the log has it"),
    Code("NO_PROVIDER", "B", _T, "the captcha's provider is not in the configuration"),
    Code("DEADLINE", "B", _K, "the task's deadline passed, or no provider could answer it before that"),
    Code("CANCELLED", "B", _K, "an operator cancelled the task"),
)

CODES: Mapping[str, Code] = MappingProxyType({code.name: code for code in _PROVIDER + _OWN})

#: captchad's own. A provider that sends one of these names has not sent a code.
OWN_CODES = frozenset(code.name for code in _OWN)


def is_code(text: str) -> bool:
    """Whether a provider's bare `text` is an error code, known or not."""
    if text in OWN_CODES:
        return False
    return text in CODES or _NAMED.fullmatch(text) is not None or _NUMERIC.fullmatch(text) is not None


def lookup(code: str) -> Code:
    """The code's line of the table; for an unknown one a line made up by the rules for unknown codes.

    An unknown `ERROR: NNNN` is a limit, so transient. Anything else unknown is the task's: tried once more, then
    dead-lettered.
    """
    if found := CODES.get(code):
        return found
    if numeric := _NUMERIC.fullmatch(code):
        name = f"ERROR: {numeric[1]}"
        return CODES.get(name) or Code(name, "B", _T, "an unknown limit of the provider's")
    return Code(code[:MAX_NAME], "B", _K, "unknown")


_PLACES: dict[At, str] = {"I": "submit", "R": "poll", "B": "both"}


def _rows(codes: tuple[Code, ...]) -> str:
    lines = ["| code | at | category | wait | meaning |", "|---|---|---|---|---|"]
    for code in codes:
        wait = "" if code.pause_s is None else f"{code.pause_s:g} s"
        lines.append(f"| `{code.name}` | {_PLACES[code.at]} | {code.category} | {wait} | {code.meaning} |")
    return "\n".join(lines)


def markdown() -> str:
    """The text of docs/codes.md."""
    return f"""\
# Error codes

Made by `python -m captchad.model.codes`; edit the table there.

A category says whom a code blames:

- `{_T}`: the same call may work later.
- `{_P}`: key, account or address. The provider is paused and the operator told; its tasks wait.
- `{_K}`: this task only. It is tried once more, then dead-lettered.
- `{_B}`: money or capacity. The provider is paused, not the task.

*wait* is the time that the provider says to wait, where it says one.

## The provider's

{_rows(_PROVIDER)}

An unknown `ERROR: NNNN` is `{_T}`, any other unknown code is `{_K}`. `No_matching_images` and `notpic` are answers.

## captchad's own

{_rows(_OWN)}
"""


if __name__ == "__main__":
    sys.stdout.write(markdown())
