"""`captchactl logs`: what it becomes (a program in journalctl's place says how it was called), and what it refuses.

How the real one takes it is seen in tests/system/logs.py.
"""

import json
import os
import subprocess
import sys

import pytest

from captchad.cli import logs as module
from captchad.cli.exits import Exit
from captchad.model.errors import CaptchadError
from captchad.model.logevents import Event
from tests.spool.support import as_user, public_directory

#: Prints its arguments, one a line. Asked for lines from the latest back, it notes that and says what is in .found.
JOURNALCTL = """#!/bin/sh
case " $* " in
    *" --reverse "*) printf '%s\\n' "$@" >"$0.asked"; cat "$0.found"; exit ;;
esac
printf '%s\\n' "$@"
exit 3
"""


@pytest.fixture
def journalctl(tmp_path):
    """A program in its place, which has no lines to name."""
    program = tmp_path / "journalctl"
    program.write_text(JOURNALCTL)
    program.chmod(0o755)
    program.with_suffix(".found").touch()
    return program


@pytest.fixture
def logs(journalctl, tmp_path):
    """Runs the verb."""

    def run(*arguments, path=f"{tmp_path}:/usr/bin:/bin"):
        command = [sys.executable, "-m", "captchad.cli.captchactl", "logs", *arguments]
        environ = os.environ | {"PATH": path, "COLUMNS": "2000"}
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=environ)

    return run


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((), ["--lines=100"]),
        (("-f",), ["--follow", "--lines=100"]),
        (("-n", "7", "--json"), ["--lines=7", "--output=json"]),
        (("--since", "1970-01-02T00:00:00.5"), ["--since=@86400"]),
        (("--since", "1970-01-02", "--lines", "3"), ["--since=@86400"]),  # there is no line yet
        (
            ("--task", "a.b_c-1", "--worker", "3-17", "--provider", "p.1"),
            ["--lines=100", "CAPTCHAD_TASK=a.b_c-1", "CAPTCHAD_WORKER=3-17", "CAPTCHAD_PROVIDER=p.1"],
        ),
        (("--worker", "0"), ["--lines=100", "CAPTCHAD_SEAT=0"]),
        (("--event", "task_dead"), ["--lines=100", f"MESSAGE_ID={Event.TASK_DEAD.message_id}"]),
    ],
)
def test_it_becomes_journalctl(logs, arguments, wanted):
    done = logs(*arguments)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines() == ["--unit=captchad", *wanted]
    assert logs("--unit", "captchad@b.service", *arguments).stdout.splitlines()[0] == "--unit=captchad@b.service"


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ((), ["--cursor=s=2;i=1", "--lines=3"]),
        (("--json",), ["--cursor=s=2;i=1", "--lines=3", "--output=json"]),
        (("--follow",), ["--follow", "--cursor=s=2;i=1", "--no-tail"]),
    ],
)
def test_the_latest_lines_since_a_time_begin_where_journalctl_says(logs, journalctl, more, wanted):
    rows = [{"_BOOT_ID": "b", "__CURSOR": f"s=2;i={n}"} for n in (3, 2, 1)]
    journalctl.with_suffix(".found").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = logs("--since", "1970-01-02", "-n", "3", "--task", "a", *more)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines() == ["--unit=captchad", *wanted, "CAPTCHAD_TASK=a"]
    asked = journalctl.with_suffix(".asked").read_text().splitlines()
    wanted = {"--since=@86400", "--lines=3", "--reverse", "--output=json", "--unit=captchad", "CAPTCHAD_TASK=a"}
    assert wanted < {*asked}


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("--event", "nonsense", "'nonsense' is no event; known are started, cannot_start, "),
        ("--event", "STARTED", "is no event"),
        ("--task", "a b", "'a b' is not the id of a task"),
        ("--task", "", "is not the id of a task"),
        ("--task", "a\n_PID=1", r"'a\n_PID=1' is not the id of a task"),
        ("--provider", "a+b", "is not the name of a provider"),
        ("--worker", "first", "is not a seat like 0, nor a worker like 3-17"),
        ("--worker", "3-", "nor a worker like 3-17"),
        ("--unit", "a b", "is not the name of a unit"),
        ("--unit=-x", None, "is not the name of a unit"),
        ("--since", "yesterday", "is neither an ISO time nor a duration"),
        ("-n", "0", "a number above 0 is wanted"),
    ],
)
def test_what_it_does_not_understand_it_refuses(logs, option, value, why):
    done = logs(option, *([] if value is None else [value]))
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert why in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--since", "1h", "-n", "1")])
def test_without_journalctl_it_says_so(logs, arguments):
    done = logs(*arguments, path="/nowhere")
    assert (done.returncode, done.stdout) == (Exit.FAILED, "")
    assert done.stderr.startswith("captchactl: there is no journalctl on this machine\nhint: captchad's log goes to ")


@pytest.mark.root
def test_who_may_not_read_the_journal_is_told():
    with public_directory() as root:
        root.chmod(0o755)
        files = [root / name / "system.journal" for name in ("a", "b")]
        for each in files:
            each.parent.mkdir()
            each.parent.chmod(0o755)
            each.touch(0o600)

        def refused() -> None:
            # No pytest.raises: it imports, and this user may not read where Python lies.
            found: CaptchadError | None = None
            try:
                module._may_read([root / "none", root])
            except CaptchadError as error:
                found = error
            assert found is not None
            assert (found.code, str(found).partition(":")[0]) == (Exit.NO_PERMISSION, "no permission")
            assert "systemd-journal" in found.hint

        as_user(1234, 1234, refused)
        files[1].chmod(0o644)
        as_user(1234, 1234, lambda: module._may_read([root / "none", root]))
        as_user(1234, 1234, lambda: module._may_read([root / "none"]))  # what there is to say journalctl says


def test_the_events_are_listed(logs):
    lines = logs("--events").stdout.splitlines()
    assert [line.split(None, 1) for line in lines[1:]] == [[event, event.meaning] for event in Event]
    rows = json.loads(logs("--events", "--json").stdout)
    assert rows[0] == {"event": "started", "message_id": Event.STARTED.message_id, "meaning": Event.STARTED.meaning}
    assert len(rows) == len(Event)
