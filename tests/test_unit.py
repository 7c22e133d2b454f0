"""systemd/: what systemd's own checkers say of the units. tests/system/ runs them."""

import json
import re
import subprocess
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).resolve().parent.parent / "systemd"
UNITS = sorted(
    str(path.relative_to(DIRECTORY)) for path in DIRECTORY.rglob("*") if path.suffix in (".service", ".timer")
)
#: How far each service may be open, in the tenths of systemd-analyze security. What is left open has its reason there.
BOUNDS = {
    "captchad.service": 15,
    "captchad-alert@.service": 12,  # the network, and whatever command is run
    "captchad-dlq-drain.service": 5,
    "user/captchad.service": 65,  # a user's manager has no name spaces to give
}
pytestmark = pytest.mark.debian("systemd")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with programs that exist on every machine in place of ours."""
    for name in UNITS:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(re.sub(r"(?m)^(Exec\w+=)captcha(d|ctl)\b", r"\1true", (DIRECTORY / name).read_text()))
    return tmp_path


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


def test_every_service_has_its_bound():
    assert set(BOUNDS) == {name for name in UNITS if name.endswith(".service")}


@pytest.mark.parametrize("name", UNITS)
def test_verify_has_nothing_to_say(units, name):
    # Its status is 0 even for keys that it ignores: only silence is good. The man pages are not installed here.
    done = analyze("verify", "--man=no", units / name)

    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("name", BOUNDS)
def test_exposure_stays_low(units, name):
    done = analyze("security", "--offline=yes", f"--threshold={BOUNDS[name]}", units / name)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("directive", ["NoNewPrivileges", "PrivateUsers", "ProcSubset", "RestrictNamespaces"])
def test_the_sandbox_is_as_its_comments_say(units, directive):
    rows = json.loads(analyze("security", "--offline=yes", "--json=short", units / "captchad.service").stdout)
    left_open = {"PrivateUsers", "ProcSubset"}
    fields = [row for row in rows if row["json_field"].startswith(directive)]

    assert fields
    assert all(bool(row["set"]) == (directive not in left_open) for row in fields), fields


def test_nothing_that_costs_money_is_on_by_itself():
    wanted = {name for name in UNITS if "[Install]" in (DIRECTORY / name).read_text()}

    # The drain's service is started by its timer alone, and nothing pulls the timer in.
    assert wanted == {"captchad.service", "user/captchad.service", "captchad-dlq-drain.timer"}
    for name in UNITS:
        assert not re.search(r"(?m)^(Wants|Requires|Upholds|Also)=.*drain", (DIRECTORY / name).read_text()), name
