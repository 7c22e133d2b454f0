"""The code table."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from captchad.model.codes import CODES, OWN_CODES, is_code, lookup, markdown
from captchad.model.states import Category

ROOT = Path(__file__).resolve().parents[2]

#: The protocol's own table, once more and in another form, so that a slip in one of the two shows.
EXPECTED = {
    Category.TRANSIENT: "CAPCHA_NOT_READY CAPTCHA_NOT_READY ERROR_TOO_MUCH_REQUESTS MAX_USER_TURN ERROR_SERVER_ERROR "
    "ERROR_INTERNAL_SERVER_ERROR",
    Category.PERMANENT: "ERROR_WRONG_USER_KEY ERROR_KEY_DOES_NOT_EXIST IP_BANNED ERROR_IP_BANNED ERROR_IP_NOT_ALLOWED "
    "TOO_MANY_BAD_IMAGES ERROR_EMPTY_ACTION ERROR_IP_ADDRES",
    Category.BUDGET: "ERROR_ZERO_BALANCE ERROR_NO_SLOT_AVAILABLE",
    Category.TASK: "ERROR_PAGEURL ERROR_GOOGLEKEY ERROR_WRONG_GOOGLEKEY ERROR_BAD_TOKEN_OR_PAGEURL "
    "ERROR_BAD_PARAMETERS ERROR_DOMAIN_NOT_ALLOWED ERROR_ZERO_CAPTCHA_FILESIZE ERROR_TOO_BIG_CAPTCHA_FILESIZE "
    "ERROR_IMAGE_DIMENSIONS_TOO_LARGE ERROR_WRONG_FILE_EXTENSION ERROR_IMAGE_TYPE_NOT_SUPPORTED ERROR_UPLOAD "
    "ERROR_CAPTCHAIMAGE_BLOCKED ERROR_EMPTY_CAPTCHA ERROR_PROXY_FORMAT ERROR_BAD_PROXY ERROR_PROXY_CONNECTION_FAILED "
    "ERROR_CAPTCHA_UNSOLVABLE ERROR_WRONG_ID_FORMAT ERROR_WRONG_CAPTCHA_ID ERROR_NO_SUCH_CAPCHA_ID "
    "ERROR_BAD_DUPLICATES ERROR_TOKEN_EXPIRED ERROR_REPORT_NOT_RECORDED REPORT_NOT_RECORDED ERROR_DUPLICATE_REPORT "
    "ERROR_NO_SUCH_METHOD",
}
NUMERIC = {
    "ERROR: 1001": (Category.BUDGET, 600),
    "ERROR: 1002": (Category.BUDGET, 300),
    "ERROR: 1003": (Category.TRANSIENT, 30),
    "ERROR: 1004": (Category.PERMANENT, 600),
    "ERROR: 1005": (Category.TRANSIENT, 300),
}


def test_the_table_is_the_protocols():
    expected = {name: category for category, names in EXPECTED.items() for name in names.split()}
    expected |= {name: category for name, (category, _) in NUMERIC.items()}
    assert {name: code.category for name, code in CODES.items() if name not in OWN_CODES} == expected


@pytest.mark.parametrize(("name", "line"), NUMERIC.items())
def test_numeric_codes_carry_their_pause(name, line):
    assert (lookup(name).category, lookup(name).pause_s) == line
    assert lookup(name.replace(": ", ":")) is CODES[name]


@pytest.mark.parametrize(("name", "pause_s"), [("MAX_USER_TURN", 10), ("IP_BANNED", 300), ("ERROR_ZERO_BALANCE", 60)])
def test_pauses(name, pause_s):
    assert lookup(name).pause_s == pause_s


def test_unknown_codes():
    assert lookup("ERROR: 1999").category is Category.TRANSIENT
    assert lookup("ERROR_NEVER_SEEN").category is Category.TASK
    assert len(lookup("ERROR_" + "X" * 500).name) == 64


@pytest.mark.parametrize("name", [*sorted(set(CODES) - OWN_CODES), "ERROR_NEVER_SEEN", "ERROR: 77"])
def test_is_code(name):
    assert is_code(name)


@pytest.mark.parametrize(
    "text", [*sorted(OWN_CODES), "", "OK", "error_upload", "ERROR_", "ERROR_a", "ERROR: x", "A" * 9]
)
def test_is_no_code(text):
    assert not is_code(text)


def test_every_code_that_captchad_gives_is_in_the_table():
    """A task's error must be found in docs/codes.md, so codes that other rooms give stand there too."""
    given = set()
    for path in (ROOT / "captchad").rglob("*.py"):
        # Written as: "CODE", Category.TASK
        given |= set(re.findall(r'"([A-Z][A-Z0-9_]{3,})", Category\.', path.read_text()))
    assert {"TIMEOUT", "UNKNOWN_SUBMIT"} <= given
    assert given <= set(CODES)


def test_the_page_is_current():
    printed = subprocess.run(
        [sys.executable, "-m", "captchad.model.codes"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert printed.stderr == ""
    assert (ROOT / "docs" / "codes.md").read_text() == printed.stdout == markdown()


def test_the_page_names_every_code():
    assert set(re.findall(r"^\| `([^`]+)` \|", markdown(), re.MULTILINE)) == set(CODES)
