"""`captchactl workers`: the table of a daemon that is only a socket or a file, and what real journals know."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# `workers` and `offline`, too: who gives up the right to read the package cannot import them any more.
from captchad.cli import captchactl, workers  # noqa: F401 - see above
from captchad.cli.exits import Exit
from captchad.control.server import Reply, Request
from captchad.control.wire import ok, refuse
from captchad.ipc.loop import Loop
from captchad.journal.store import Journal
from captchad.queue import offline  # noqa: F401 - see above
from captchad.queue.queue import Queue
from captchad.supervisor.core.states import WORDS, Reason
from tests.control.stub import control_daemon
from tests.queue.test_queue_dedupe import SETTINGS
from tests.spool.support import as_user, public_directory
from tests.support.clock import FakeClock

STATUS: dict[str, Any] = {
    "schema": 1,
    "source": "live",
    "age_s": 0.0,
    "daemon": {"pid": 1, "state": "running"},
    "workers": {
        "configured": 2,
        "target": 3,
        "share": 0.5,
        "list": [
            {
                "slot": 0, "pid": 41, "state": "running", "in_flight": 7, "phase": "work\x1bing", "calls": 2,
                "heartbeat_age_s": 0.3, "lag_s": 1.2, "rss_bytes": 30 << 20, "restarts": 4, "last_death": "oom",
                "generation": 1,
            },
            {"slot": 1, "pid": None, "state": "waiting", "restarts": 0, "last_death": None},
        ],
        "reserve": [{"slot": -1, "pid": 43, "state": "standby", "generation": 2}],
        "leaving": [{"pid": 44, "state": "draining", "in_flight": 1, "generation": 1}],
    },
}  # fmt: skip


def handle(request: Request, loop: Loop) -> Reply:
    match request.verb:
        case "status":
            return ok(STATUS)
        case "workers.scale" if request.args["workers"] == 1:
            return refuse("1 is below \x1b2", hint="do otherwise")
        case "workers.scale":
            return ok({"was": 2, "is": request.args["workers"], "autoscale": request.args["workers"] > 5})
        case "workers.restart":
            return ok({"workers": 2, "generation": 2})
    raise AssertionError(request.verb)


Ctl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "captchad.toml").write_text(f'[daemon]\nstate_dir = "{tmp_path}"\nruntime_dir = "{tmp_path}"\n')
    return tmp_path


@pytest.fixture
def ctl(root: Path, capsys: pytest.CaptureFixture[str]) -> Ctl:
    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = captchactl.main(["--config", str(root / "captchad.toml"), "workers", *arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return run


# --- the table


def test_the_table_has_seats_reserve_and_those_that_leave(root: Path, ctl: Ctl) -> None:
    with control_daemon(root / "control.sock", handle):
        code, out, errors = ctl()
    assert (code, errors) == (Exit.OK, "")
    assert out == (
        "SEAT     STATE     PID  IN FLIGHT  PHASE     CALLS  BEAT   LAG    MEMORY  RESTARTS  LAST DEATH\n"
        "0        running   41   7          work?ing  2      0.3 s  1.2 s  30 MiB  4         oom\n"
        "1        waiting   -    -          -         -      -      -      -       0         -\n"
        "reserve  standby   43   -          -         -      -      -      -       -         -\n"
        "leaving  draining  44   1          -         -      -      -      -       -         -\n"
        "3 workers are wanted now; daemon.workers is 2\n"
        "they use 50 % of their threads: the system is short of something, see the log\n"
    )


def test_the_table_as_json(root: Path, ctl: Ctl) -> None:
    with control_daemon(root / "control.sock", handle):
        code, out, _ = ctl("--json")
    assert code == Exit.OK
    assert json.loads(out) == {"schema": 1, "source": "live", "age_s": 0.0, "workers": STATUS["workers"]}


def test_with_the_daemon_down_the_table_comes_from_the_status_file(root: Path, ctl: Ctl) -> None:
    (root / "status.json").write_text(json.dumps(STATUS | {"daemon": {"pid": 2**22 + 1, "state": "running"}}))
    code, out, errors = ctl()
    assert code == Exit.OK
    assert "0        was running   41 " in out
    assert "no daemon answers" in errors
    assert "this is from the status file" in errors
    assert json.loads(ctl("--json")[1])["source"] == "file"


def test_with_neither_daemon_nor_file_there_is_no_table(ctl: Ctl) -> None:
    code, out, errors = ctl()
    assert (code, out) == (Exit.NOT_RUNNING, "")
    assert errors.startswith("captchactl: no daemon answers")


# --- what the journal knows


def written(root: Path, rows: list[dict[str, Any]]) -> None:
    clock = FakeClock()
    journal = Journal.open(root / "journal", segment_bytes=1 << 20, clock=clock, reserve_bytes=0)
    queue = Queue(journal, SETTINGS, clock, random.Random(7))
    queue.replay()
    for row in rows:
        queue.stage("crew", {"t": clock.time(), **row})
        clock.advance(1.0)
    queue.commit()
    journal.close()


ROWS: list[dict[str, Any]] = [
    {"do": "start", "why": "start", "seat": 0, "w": 1, "pid": 0},
    {"do": "condemn", "why": "silent", "seat": 0, "w": 1, "pid": 91},
    {
        "do": "death", "why": "silent", "seat": 0, "w": 1, "pid": 91, "code": -9, "lived": 61.5, "phase": "work\x1b",
        "in_flight": 3, "rss": 31 << 20, "tasks": ["a\x1b", "b"],
    },
    {"do": "start", "why": "reserve", "seat": -1, "w": 2, "pid": 0},
    {"do": "scale", "why": "operator", "seats": 4},
    {"do": "limit", "why": "descriptors", "share": 0.5},
    {"do": "invented\x1b", "why": "later\x1b", "seat": 3, "w": 9, "pid": 92},
    {
        "do": "death", "why": "crash", "seat": -1, "w": 2, "pid": 93, "code": 0, "lived": 2.0, "phase": "idle",
        "in_flight": 0, "rss": 0, "tasks": [],
    },
    {"do": "death", "why": "exit", "seat": 1, "w": 3, "pid": 94, "code": 0, "lived": 2.0},
]  # fmt: skip


def test_why_says_what_was_done_in_words(root: Path, ctl: Ctl) -> None:
    written(root, ROWS)
    code, out, errors = ctl("--why")
    assert (code, errors) == (Exit.OK, "")
    head, *lines = out.splitlines()
    assert head.split() == ["TIME", "WHAT", "SEAT", "WORKER", "PID", "WHY"]
    assert [re.split(r"  +", line)[1:] for line in lines] == [
        ["ordered from the template", "0", "1", "-", "start: the daemon starts"],
        ["hangs: its stack goes to the log", "0", "1", "91", f"silent: {WORDS[Reason.SILENT]}"],
        ["ordered from the template", "reserve", "2", "-", f"reserve: {WORDS[Reason.RESERVE]}"],
        ["4 workers from now on", "-", "-", "-", "operator: an operator wants it so"],
        ["workers use 50 % of their threads", "-", "-", "-", f"descriptors: {WORDS[Reason.DESCRIPTORS]}"],
        ["invented?", "3", "9", "92", "later?"],
        ["gone", "1", "3", "94", f"exit: {WORDS[Reason.EXIT]}"],
    ]
    assert lines[0].startswith("2027-01-15T08:00:00.000Z  ")


def test_deaths_say_how_it_ended_and_what_it_executed(root: Path, ctl: Ctl) -> None:
    written(root, ROWS)
    code, out, _ = ctl("--deaths")
    assert code == Exit.OK
    _, first, second, tasks = out.splitlines()
    words = f"silent: {WORDS[Reason.SILENT]}"
    assert re.split(r"  +", first)[1:] == ["0", "1", "91", "signal 9", "1 min 1 s", "work?", "3", "31 MiB", words]
    assert re.split(r"  +", second)[1:7] == ["reserve", "2", "93", "exit 0", "2.0 s", "idle"]
    assert tasks == "worker 1 was executing a?, b: see each with captchactl show ID"


@pytest.mark.parametrize(("option", "name"), [("--why", "actions"), ("--deaths", "deaths")])
def test_the_latest_come_last_and_limit_counts_from_there(root: Path, ctl: Ctl, option: str, name: str) -> None:
    written(root, ROWS)
    wanted = [row for row in ROWS if (row["do"] == "death" and row["why"] != "exit") == (name == "deaths")]
    found = json.loads(ctl(option, "--json")[1])
    assert found["schema"] == 1
    assert [{key: value for key, value in row.items() if key != "t"} for row in found[name]] == wanted
    assert len(json.loads(ctl(option, "--json", "--limit", "1")[1])[name]) == 1
    assert json.loads(ctl(option, "--json", "--limit", "1")[1])[name][0]["why"] == wanted[-1]["why"]


def test_a_journal_that_knows_of_no_worker(root: Path, ctl: Ctl) -> None:
    written(root, [])
    assert ctl("--why") == (Exit.OK, "", "no actions\n")
    assert json.loads(ctl("--deaths", "--json")[1]) == {"schema": 1, "deaths": []}


def test_without_a_journal_nothing_is_said(ctl: Ctl) -> None:
    code, out, errors = ctl("--why")
    assert (code, out) == (Exit.FAILED, "")
    assert "there is no journal in" in errors
    assert "hint: name the right configuration" in errors


@pytest.mark.root
def test_a_journal_that_may_not_be_read_is_a_matter_of_permission() -> None:
    with public_directory() as root:
        written(root, ROWS)
        config = root / "captchad.toml"
        config.write_text(f'[daemon]\nstate_dir = "{root}"\n')
        config.chmod(0o644)
        (root / "journal").chmod(0o755)
        for path in (root / "journal").glob("*.jsonl"):
            path.chmod(0o600)

        def run() -> None:
            for option in ("--why", "--deaths"):
                code = captchactl.main(["--config", str(config), "workers", option])
                if code != Exit.NO_PERMISSION:
                    raise AssertionError(f"{option}: {code}")

        as_user(1234, 1234, run)


def test_every_reason_has_words() -> None:
    assert set(WORDS) == set(Reason)
    assert all(text and text == text.strip() and not text.endswith(".") for text in WORDS.values())
    assert len(set(WORDS.values())) == len(WORDS)


# --- scale and restart


def test_scale_says_what_was_and_is(root: Path, ctl: Ctl) -> None:
    with control_daemon(root / "control.sock", handle):
        assert ctl("scale", "3") == (Exit.OK, "2 workers before, 3 from now on\n", "")
        assert ctl("scale", "2")[1] == "2 workers, as before\n"
        assert "autoscale is on and goes on from there" in ctl("scale", "6")[1]
        assert json.loads(ctl("scale", "3", "--json")[1]) == {"schema": 1, "was": 2, "is": 3, "autoscale": False}
        assert ctl("scale", "1") == (Exit.FAILED, "", "captchactl: 1 is below ?2\nhint: do otherwise\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("scale",),
        ("scale", "0"),
        ("scale", "257"),
        ("scale", "many"),
        ("--why", "--deaths"),
        ("--limit", "0", "--why"),
        ("--limit", "3"),
        ("--why", "scale", "3"),
        ("--deaths", "restart"),
        ("restart", "--timeout", "3"),
        ("stop",),
    ],
)
def test_what_makes_no_sense_is_a_matter_of_usage(root: Path, ctl: Ctl, arguments: tuple[str, ...]) -> None:
    with control_daemon(root / "control.sock", lambda request, _: refuse("asked nevertheless")):
        assert ctl(*arguments)[0] == Exit.USAGE


def test_restart_returns_when_it_is_ordered(root: Path, ctl: Ctl) -> None:
    with control_daemon(root / "control.sock", handle):
        assert ctl("restart") == (Exit.OK, "ordered: 2 workers are replaced, one at a time\n", "")
        assert json.loads(ctl("restart", "--all", "--json")[1])["done"] is False


def test_restart_that_does_not_come_about_in_time_names_who_is_left(root: Path, ctl: Ctl) -> None:
    with control_daemon(root / "control.sock", handle):
        code, out, errors = ctl("restart", "--wait", "--timeout", "0.3")
    assert (code, out) == (Exit.TIMED_OUT, "")
    assert "not replaced in time: worker 0 (running), worker 1 (waiting), pid 44 (draining); " in errors


@pytest.mark.parametrize("arguments", [("scale", "3"), ("restart",), ("restart", "--wait")])
def test_a_change_needs_the_daemon(ctl: Ctl, arguments: tuple[str, ...]) -> None:
    assert ctl(*arguments)[0] == Exit.NOT_RUNNING
