"""systemd/: what systemd's own checkers say of the unit. tests/system/ runs it."""

import json
import re
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parent.parent / "systemd"
pytestmark = pytest.mark.debian("systemd")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with programs that exist on every machine in place of ours."""
    path = tmp_path / "captchad.service"
    path.write_text(re.sub(r"(?m)^(Exec\w+=)captcha(d|ctl)\b", r"\1true", (UNITS / path.name).read_text()))
    return path


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_verify_has_nothing_to_say(unit):
    # Its status is 0 even for keys that it ignores: only silence is good.
    done = analyze("verify", unit)

    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_exposure_stays_low(unit):
    done = analyze("security", "--offline=yes", "--threshold=20", unit)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("directive", ["NoNewPrivileges", "PrivateUsers", "ProcSubset", "RestrictNamespaces"])
def test_the_sandbox_is_as_its_comments_say(unit, directive):
    rows = json.loads(analyze("security", "--offline=yes", "--json=short", unit).stdout)
    left_open = {"PrivateUsers", "ProcSubset"}
    fields = [row for row in rows if row["json_field"].startswith(directive)]

    assert fields
    assert all(bool(row["set"]) == (directive not in left_open) for row in fields), fields
