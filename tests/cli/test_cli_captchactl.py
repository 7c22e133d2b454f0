"""captchactl as a process: against a daemon that is only a control socket, against files, against nothing."""

import json
import os
import pty
import subprocess
import sys
from argparse import Namespace
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

# All that is used: who gives up the right to read the package cannot import it any more.
from captchad.cli import bounds, captchactl, config, install, places, tasks, wait  # noqa: F401 - see above
from captchad.cli import live as live_verbs  # noqa: F401 - see above
from captchad.control.server import Pending
from captchad.control.wire import ok, refuse
from tests.control.stub import control_daemon
from tests.spool.support import as_user, public_directory

STATUS = {
    "schema": 1,
    "source": "live",
    "age_s": 0.0,
    "daemon": {
        "pid": 1,
        "version": "9.9",
        "state": "running",
        "mode": "degraded",
        "uptime_s": 3723.0,
        "problems": ["provider captchaai: open after 5 faults, next try in 12 s"],
        "config": {"origin": "file", "path": "/etc/x.toml", "generation": 3, "problem": None},
    },
    "workers": {
        "configured": 4,
        "alive": 3,
        "min": 2,
        "healthy": True,
        "list": [
            {
                "slot": 0,
                "pid": 4242,
                "state": "running",
                "in_flight": 3,
                "completed": 40,
                "restarts": 1,
                "heartbeat_age_s": 0.4,
                "rss_bytes": 22020096,
                "cpu_percent": 0.1,
            },
            {"slot": 1, "pid": None, "state": "waiting"},
        ],
    },
    "queue": {
        "capacity": 100000,
        "pending": 7,
        "delayed": 1,
        "held": 0,
        "in_flight": 3,
        "dead": 2,
        "solved_total": 40,
        "failed_total": 2,
        "charges_total": 43,
        "unknown_submits": 0,
        "late_submits": 0,
        "oldest_pending_s": 12.5,
    },
    "providers": [{"name": "captchaai", "breaker": "open", "in_flight": 3, "solve_rate": 0.98, "balance": None}],
}
HEALTH = {"live": True, "ready": True, "checks": {"journal": {"status": "pass", "output": "takes writes"}}}
TASK = {"id": "a", "state": "dead", "error": "ERROR_X", "queued_at": "2026-11-21T23:10:04.120Z", "attempts": 3}
BUGGY = {"id": "evil\x1b[2J", "state": "dead\n", "method": "\x9b2J"}


def canned(request, loop):
    """Every verb, with answers that a test can tell apart."""
    match request.verb:
        case "status":
            return ok(STATUS)
        case "health":
            return ok({**HEALTH, "status": STATUS})
        case "show":
            if request.args == {"id": "h"}:
                return ok(TASK | {"id": "h", "state": "held", "message": "three\x1b crashes"})
            if request.args == {"id": "a"}:
                return ok(TASK)
            return refuse("busy") if request.args == {"id": "full"} else refuse("no such task", hint="forgotten")
        case "list":
            return ok({"tasks": [TASK | {"state": request.args["state"] or "any"}] * min(3, request.args["limit"])})
        case "dlq.list":
            return ok({"tasks": [BUGGY]})
        case "dlq.redrive":
            ids = request.args["ids"]
            if ids is None:
                return ok({"redriven": ["a", "b"], "refused": {"c": "redriven 3 times"}})
            return ok({"redriven": ids[:1], "refused": dict.fromkeys(ids[1:], "not dead")})
        case "reload":
            pending = Pending()
            changed = [
                {"key": "daemon.workers", "before": "2", "after": "3", "applies": "live"},
                {"key": "supervision.threads\x1b", "before": "16", "after": "8", "applies": "workers"},
            ]
            loop.call_later(0.1, lambda: pending.resolve(ok({"changed": changed, "config": {}})))
            return pending
        case "hold" | "release" | "cancel":
            first, *others = request.args["ids"]
            return ok({"done": [f"{request.verb} {first}"], "refused": dict.fromkeys(others, "not so")})
    raise AssertionError(request.verb)


class Ctl:
    """captchactl with a configuration of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = root / "run" / "control.sock"
        self.config = root / "captchad.toml"
        self.config.write_text(
            f'[daemon]\nstate_dir = "{root}/state"\nspool_dir = "{root}/spool"\nruntime_dir = "{root}/run"\n'
            '[policy]\nallowed_hosts = ["example.com"]\n'
        )
        (root / "state").mkdir()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "captchad.cli.captchactl", "--config", str(self.config), *arguments]

    def __call__(self, *arguments: str, stdin: str = "", **more) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=280, check=False, **more
        )

    @contextmanager
    def on_terminal(self, *arguments: str, environ: dict[str, str] | None = None):
        """On a terminal of its own; yields the process and the master's descriptor."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | {"TERM": "xterm", "NO_COLOR": ""} | (environ or {}),
            start_new_session=True,
        )
        os.close(slave)
        try:
            yield process, master
        finally:
            process.kill()
            process.wait()
            os.close(master)


def read_terminal(master: int, until: str = "") -> str:
    """What the terminal shows, until the program ends or `until` appears."""
    text = ""
    while not until or until not in text:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the last one on the other side has left
            break
        if not chunk:
            break
        text += chunk.decode()
    return text


@pytest.fixture
def ctl(tmp_path):
    return Ctl(tmp_path)


@pytest.fixture
def live(ctl):
    with control_daemon(ctl.socket, canned):
        yield ctl


def write_status(ctl, pid, **more) -> None:
    status = STATUS | {"daemon": STATUS["daemon"] | {"pid": pid, **more}}
    (ctl.root / "state" / "status.json").write_text(json.dumps(status))


def dead_pid() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


# --- status


def test_status_of_a_live_daemon(live):
    done = live("status")
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("running, mode degraded", "1 h 2 min", "3 of 4 alive", "4242", "21 MiB", "7 pending", "43 charges"):
        assert text in done.stdout
    assert "problem   provider captchaai: open after 5 faults" in done.stdout
    assert "\x1b" not in done.stdout
    assert json.loads(live("status", "--json").stdout) == STATUS
    assert json.loads(live("--json", "status").stdout) == STATUS


def test_status_of_a_dead_daemon_comes_from_the_file(ctl):
    write_status(ctl, dead_pid())
    done = ctl("status", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 3
    assert (found["source"], found["daemon"]["state"], found["queue"]) == ("file", "died", STATUS["queue"])
    assert 0 <= found["age_s"] < 60
    text = ctl("status")
    assert text.stdout.startswith("captchad  died, ")
    assert "slot" not in text.stdout
    assert "workers" not in text.stdout
    assert "from the status file" in text.stdout
    assert "no daemon answers" in text.stderr


def test_status_of_a_daemon_that_ended_as_told(ctl):
    write_status(ctl, dead_pid(), state="stopped")
    assert json.loads(ctl("status", "--json").stdout)["daemon"]["state"] == "stopped"
    text = ctl("status")
    assert (text.returncode, text.stdout[:17]) == (3, "captchad  stopped")
    assert "slot" not in text.stdout


def test_a_process_that_took_the_pid_later_is_not_the_daemon(ctl):
    write_status(ctl, os.getpid())
    assert ctl("status").returncode == 4
    os.utime(ctl.root / "state" / "status.json", (1e9, 1e9))
    assert ctl("status").returncode == 3


def test_a_zombie_is_dead(ctl):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    write_status(ctl, child)
    assert ctl("status").returncode == 3
    os.waitpid(child, 0)


def test_no_daemon_and_no_file(ctl):
    done = ctl("status", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["source"] == "none"


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"daemon": 3}', '{"daemon": {"pid": "x"}}'])
def test_a_strange_status_file_changes_nothing(ctl, text):
    (ctl.root / "state" / "status.json").write_text(text)
    for more in ((), ("--json",)):
        done = ctl("status", *more)
        assert done.returncode == 3
        assert "Traceback" not in done.stderr


def test_a_silent_daemon_is_unknown(ctl, monkeypatch):
    def silent(request, loop):
        return Pending()

    with control_daemon(ctl.socket, silent):
        code = "import sys; from captchad.cli import live; live.ASK_S = 0.2; from captchad.cli.captchactl import main; "
        done = subprocess.run(
            [sys.executable, "-c", f"{code} sys.exit(main(sys.argv[1:]))", "--config", str(ctl.config), "status"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 4
    assert "did not answer" in done.stderr


def test_status_is_cheap(live):
    """What costs time to import must not be imported."""
    code = (
        "import sys; from captchad.cli.captchactl import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--socket", str(live.socket), "status"], capture_output=True, text=True, check=True
    )
    heavy = {"requests", "urllib3", "psutil", "multiprocessing", "asyncio", "http", "http.client", "logging", "ctypes"}
    assert heavy.isdisjoint(done.stderr.split())


def test_watch_goes_on(live):
    process = subprocess.Popen(
        live.command("status", "--json", "--watch", "0.05"), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert [json.loads(process.stdout.readline()) for _ in range(3)] == [STATUS] * 3
        process.send_signal(2)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_a_reader_that_has_enough_is_no_error(live):
    process = subprocess.Popen(
        live.command("status", "--watch", "0.01"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals(live, environ, coloured):
    with live.on_terminal("status", environ=environ) as (process, master):
        text = read_terminal(master)
        assert process.wait(20) == 0
    assert ("\x1b[" in text) == coloured


# --- where the daemon is


def test_a_broken_configuration_does_not_hide_the_daemon(live):
    live.config.write_text(live.config.read_text() + "\n[[[broken")
    assert live("status").returncode == 0


def test_drop_ins_count(live):
    text = live.config.read_text()
    live.config.write_text(text.replace(f"{live.root}/run", "/nowhere"))
    assert live("status").returncode == 3
    (live.root / "conf.d").mkdir()
    (live.root / "conf.d" / "50.toml").write_text(f'[daemon]\nruntime_dir = "{live.root}/run"\n')
    assert live("status").returncode == 0


def test_strange_values_fall_back(ctl):
    ctl.config.write_text("daemon = 3\n[queue]\nmax_redrives = 'many'\n[policy]\nallowed_hosts = 7\n")
    assert (
        ctl("--socket", str(ctl.root / "none.sock"), "reload").returncode == 2
    )  # --config and --socket exclude each other
    assert "Traceback" not in ctl("reload").stderr


def test_a_configuration_that_is_not_there_is_said(ctl):
    ctl.config.unlink()
    done = ctl("status")
    assert done.returncode == 1
    assert "no such file" in done.stderr


def test_a_configuration_that_is_no_file_is_said(ctl):
    for path, why in ((ctl.root, "is a directory"), (ctl.config / "x", "not a directory")):
        done = subprocess.run([*ctl.command()[:3], "--config", str(path), "status"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, f"captchactl: {path}: {why}\n")


def test_not_running_has_its_code_and_a_message(ctl):
    done = ctl("reload")
    assert done.returncode == 7
    assert done.stderr.startswith("captchactl: no daemon answers at")


@pytest.mark.parametrize("verb", ["status", "reload", "providers"])
def test_without_a_daemon_it_says_what_starts_one(ctl, verb):
    assert ctl(verb).stderr.splitlines()[-1] == f"hint: captchad run --config {ctl.config} starts it"


def test_the_daemon_that_is_started_finds_the_generations_that_the_last_one_had(ctl):
    told = ctl.root / "xdg" / "captchad" / "config" / "a-key"
    (ctl.root / "state").mkdir(exist_ok=True)
    (ctl.root / "state" / "status.json").write_text(json.dumps({"daemon": {"config": {"directory": str(told)}}}))
    hint = ctl("reload").stderr.splitlines()[-1]
    assert hint == f"hint: XDG_STATE_HOME={ctl.root}/xdg captchad run --config {ctl.config} starts it"


def test_without_a_daemon_of_the_system_it_says_what_starts_that(tmp_path, monkeypatch):
    main, setup_file = tmp_path / "captchad.toml", tmp_path / "10-setup.toml"
    monkeypatch.setattr(places, "DEFAULT_CONFIG", main)
    monkeypatch.setattr(places, "SETUP_FILE", setup_file)
    options = Namespace(config=None, socket=None, user=False)

    assert "--config FILE" in places.start_hint(options)
    main.touch()
    assert places.start_hint(options).startswith("captchactl setup starts it for the first time")
    setup_file.touch()
    assert places.start_hint(options) == "systemctl start captchad starts it"
    assert places.start_hint(Namespace(config=main, socket=None, user=True)).startswith("systemctl --user start")
    assert places.start_hint(Namespace(config=None, socket=tmp_path, user=False)) == ""


@pytest.mark.root
def test_a_closed_directory_hides_no_daemon_that_does_not_run(short_path, monkeypatch):
    monkeypatch.setattr(places, "DEFAULT_CONFIG", short_path / "captchad.toml")
    short_path.chmod(0o700)
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            hint = places.start_hint(Namespace(config=None, socket=None, user=False))
            os._exit(0 if "--config FILE" in hint else 1)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.root
def test_no_permission_has_its_code(live):
    live.root.chmod(0o755)
    for parent in list(live.root.parents)[:2]:
        parent.chmod(0o755)
    os.chown(live.config, 65534, 65534)

    codes = []
    for verb in ("status", "reload"):
        child = os.fork()  # no exec: the interpreter of the tests may be out of reach for that user
        if child == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                os._exit(captchactl.main(["--config", str(live.config), verb]))
            finally:
                os._exit(99)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert codes == [4, 4]


def as_stranger(ctl, *words: str) -> tuple[int, str]:
    """captchactl as nobody in particular: exit code and stderr. No exec: the interpreter may be out of his reach."""
    said = ctl.root / "said"
    child = os.fork()
    if child == 0:
        try:
            sys.stderr = said.open("w", buffering=1)
            os.environ["HOME"] = "/nonexistent"
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os._exit(captchactl.main(["--config", str(ctl.config), *words]))
        finally:
            os._exit(99)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, said.read_text()


@pytest.mark.root
@pytest.mark.parametrize("runs", [True, False])
def test_what_only_the_group_may_see_is_said_to_a_stranger(short_path, runs):
    short_path.chmod(0o755)
    ctl = Ctl(short_path)
    write_status(ctl, 1)
    (ctl.root / "state").chmod(0o750)
    hint = "hint: run it as root, or as a member of the group captchad"
    with control_daemon(ctl.socket, canned) if runs else nullcontext():
        code, said = as_stranger(ctl, "status")
        assert (code, "PermissionError" in said) == (4 if runs else 3, False)
        assert f"no permission to read {ctl.root}/state/status.json" in said
        assert (hint in said.splitlines()) == runs
        for words in (["config", "history"], ["providers"]):
            code, said = as_stranger(ctl, *words)
            assert (code, said.splitlines()[-1]) == (4, hint), said
            assert said.startswith(f"captchactl: no permission: {ctl.root}/")


@pytest.mark.root
def test_no_group_helps_where_only_root_may_write(ctl):
    code, said = as_stranger(ctl, "install")

    assert code == 4
    assert said.splitlines() == [
        "captchactl: no permission: /etc/systemd/system: only root may write there; see --user",
        "hint: run it as root",
    ]


# --- reload, health


def test_reload_waits_for_the_daemon(live):
    done = live("reload")
    lines = ["daemon.workers: 2 -> 3 (live)", "supervision.threads?: 16 -> 8 (as workers are replaced)", "reloaded"]
    assert (done.returncode, done.stdout.splitlines()) == (0, lines)
    assert json.loads(live("reload", "--json").stdout)["changed"][0]["key"] == "daemon.workers"


def test_reload_says_when_nothing_has_changed(ctl):
    with control_daemon(ctl.socket, lambda request, loop: ok({"changed": [], "config": {}})):
        done = ctl("reload")
    assert (done.returncode, done.stdout) == (0, "nothing has changed\n")


def test_a_refused_reload_prints_the_problems(ctl):
    problems = "/etc/x.toml:3: daemon.workers: not a number (1 to 64)\n/etc/x.toml:9: foo: unknown key"
    with control_daemon(ctl.socket, lambda request, loop: refuse(problems, hint="the old one runs on")):
        done = ctl("reload")
    assert done.returncode == 1
    assert done.stderr == "".join(f"captchactl: {line}\n" for line in problems.splitlines()) + (
        "hint: the old one runs on\n"
    )


@pytest.mark.parametrize(
    ("change", "arguments", "code", "word"),
    [
        ({}, (), 0, "OK"),
        ({}, ("-w", "10"), 1, "WARNING"),
        ({}, ("-w", "10", "-c", "12"), 2, "CRITICAL"),
        ({"ready": False}, (), 2, "CRITICAL"),
        ({"live": False}, (), 2, "CRITICAL"),
        ({"checks": {"a": {"status": "warn", "output": "slow"}}}, (), 1, "WARNING"),
        ({"checks": {"a": {"status": "fail", "output": "x|y"}, "b": {"status": "warn"}}}, (), 2, "CRITICAL"),
        ({"checks": {"a": {"status": "odd"}}}, (), 2, "CRITICAL"),
    ],
)
def test_health(ctl, change, arguments, code, word):
    with control_daemon(ctl.socket, lambda request, loop: ok({**HEALTH, "status": STATUS} | change)):
        done = ctl("health", *arguments)
    assert done.returncode == code
    assert done.stdout.startswith(f"CAPTCHAD {word} - ")
    text, _, perfdata = done.stdout.partition(" | ")
    assert "|" not in text + perfdata
    assert "pending=7;;;0;100000" in perfdata
    assert "oldest=12.5s;" in perfdata


def test_health_takes_limits_in_their_order(live):
    done = live("health", "-w", "20", "-c", "10")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "captchactl: --critical is below --warning\n"
    assert live("health", "-c", "12").returncode == 2  # the other one's default gives way
    assert "oldest=12.5s;200;200;" in live("health", "-c", "200").stdout
    assert "oldest=12.5s;1000;1000;" in live("health", "-w", "1000").stdout


def test_health_without_a_daemon_is_critical(ctl):
    done = ctl("health", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["status"] == "CRITICAL"


def test_health_of_something_else_is_unknown(ctl):
    with control_daemon(ctl.socket, lambda request, loop: refuse("unknown verb")):
        assert ctl("health").returncode == 3


# --- show, list, dlq


def test_show(live):
    done = live("show", "a")
    assert done.returncode == 0
    assert "error           ERROR_X\n" in done.stdout
    assert json.loads(live("show", "a", "--json").stdout) == TASK | {"history": []}
    missing = live("show", "b")
    assert missing.returncode == 1
    assert missing.stderr.startswith("captchactl: no such task\nhint: forgotten; ")
    assert f"{live.root}/spool/rejected" in missing.stderr


def test_show_says_how_a_held_task_goes_on(live):
    done = live("show", "h")
    line = "held: three? crashes; captchactl release h runs it again, captchactl cancel h ends it\n"
    assert line in done.stdout
    assert "release" not in live("show", "a").stdout


@pytest.mark.parametrize("verb", ["hold", "release", "cancel"])
def test_tasks_are_directed(live, verb):
    done = live(verb, "a", "b", "a")
    assert (done.returncode, done.stdout, done.stderr) == (1, f"{verb} a\n", "captchactl: b: not so\n")
    assert live(verb, "a").returncode == 0
    done = live(verb, "a", "b", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"schema": 1, "done": [f"{verb} a"], "refused": {"b": "not so"}}
    assert live(verb).returncode == 2


@pytest.mark.parametrize("verb", ["hold", "release", "cancel"])
def test_directing_needs_the_daemon(ctl, verb):
    done = ctl(verb, "a")
    assert (done.returncode, done.stdout) == (7, "")
    assert "no daemon answers" in done.stderr


@pytest.mark.parametrize("arguments", [("list",), ("dlq", "list"), ("show", "a")])
def test_without_daemon_and_journal_there_is_no_answer(ctl, arguments):
    done = ctl(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"there is no journal in {ctl.root}/state" in done.stderr
    assert "hint: name the daemon's configuration with --config FILE" in done.stderr


@pytest.mark.parametrize("verb", ["list", "dlq list"])
def test_no_tasks_are_said(ctl, verb):
    with control_daemon(ctl.socket, lambda request, loop: ok({"tasks": []})):
        done = ctl(*verb.split())
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "no tasks\n")
        done = ctl(*verb.split(), "--json")
        assert (json.loads(done.stdout)["tasks"], done.stderr) == ([], "")


def test_list(live):
    done = live("list", "--state", "dead", "--limit", "2")
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ID", "STATE"], ["a", "dead"], ["a", "dead"]]
    assert "more with --limit" in done.stderr
    assert len(json.loads(live("list", "--json").stdout)["tasks"]) == 3
    assert live("list", "--state", "wrong").returncode == 2
    assert live("list", "--limit", "0").returncode == 2


def test_what_comes_from_outside_does_not_reach_the_terminal(live):
    done = live("dlq", "list")
    assert done.returncode == 0
    assert "evil?[2J" in done.stdout
    assert not set("\x1b\x9b") & set(done.stdout)


def test_redrive(live):
    done = live("dlq", "redrive", "a", "b")
    assert (done.returncode, done.stdout) == (1, "a\n")
    assert "b: not dead" in done.stderr
    assert live("dlq", "redrive", "a").returncode == 0
    assert live("dlq", "redrive").returncode == 2
    assert live("dlq", "redrive", "a", "--all").returncode == 2


def test_redrive_all_asks(live):
    done = live("dlq", "redrive", "--all")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--yes" in done.stderr
    done = live("dlq", "redrive", "--all", "--yes")
    assert (done.returncode, done.stdout) == (0, "a\nb\n")
    assert "c: redriven 3 times" in done.stderr


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 1), ("no\n", 1)])
def test_redrive_all_asks_on_a_terminal(live, answer, code):
    with live.on_terminal("dlq", "redrive", "--all") as (process, master):
        assert "[y/N]" in read_terminal(master, until="[y/N] ")
        os.write(master, answer.encode())
        assert ("a\r\nb\r\n" in read_terminal(master)) == (code == 0)
        assert process.wait(20) == code


def test_old_results_go_and_new_ones_stay(tmp_path):
    for name, written_s in (("old", 1e9), ("new", 3e9), ("other", 1e9)):
        (tmp_path / f"{name}.json").write_text("{}")
        os.utime(tmp_path / f"{name}.json", (written_s, written_s))

    assert tasks._remove_results(tmp_path, ["old", "new", "gone"], 2 * 10**18) == []
    assert {path.name for path in tmp_path.iterdir()} == {"new.json", "other.json"}
    assert tasks._remove_results(tmp_path / "nowhere", ["old"], 2 * 10**18) == []


@pytest.mark.root
def test_old_results_that_may_not_be_removed_are_named():
    with public_directory() as path:
        (path / "old.json").write_text("{}")
        path.chmod(0o755)

        def try_it():
            assert tasks._remove_results(path, ["old"], 2**63) == [path / "old.json"]

        as_user(61_234, 61_234, try_it)
        assert (path / "old.json").exists()


# --- submit


def task(**more) -> dict:
    return {"sitekey": "k", "pageurl": "https://example.com/", **more}


@pytest.fixture
def spool(ctl):
    incoming = ctl.root / "spool" / "incoming"
    incoming.mkdir(parents=True)
    (ctl.root / "spool" / "results").mkdir()
    (ctl.root / "spool" / "rejected").mkdir()
    return incoming


def dropped(spool: Path) -> list[dict]:
    """All tasks that lie there; nothing else may."""
    files = sorted(spool.iterdir())
    assert all(path.suffix in (".json", ".jsonl") and not path.name.startswith(".") for path in files)
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def test_submit_one_task(ctl, spool):
    (ctl.root / "order.json").write_text(json.dumps(task(id="order-17")))
    done = ctl("submit", str(ctl.root / "order.json"))
    assert (done.returncode, done.stdout) == (0, "order-17\n")
    assert dropped(spool) == [task(id="order-17")]
    assert [path.name for path in spool.iterdir()] == ["order-17.json"]


def test_submit_gives_ids_where_there_are_none(ctl, spool):
    (ctl.root / "o r.json").write_text(json.dumps([task(), task(id="mine"), task()]))
    done = ctl("submit", "--json", str(ctl.root / "o r.json"))
    ids = json.loads(done.stdout)["ids"]
    assert [each["id"] for each in dropped(spool)] == ids
    assert ids[1] == "mine"
    assert ids[0].startswith("o-r-")
    assert len(set(ids)) == 3


@pytest.mark.parametrize("count", [1, 2])
def test_submit_twice_overwrites_nothing(ctl, spool, count):
    for _ in range(2):
        ctl("submit", "-", stdin=json.dumps([task()] * count))
    assert len({each["id"] for each in dropped(spool)}) == 2 * count


def test_a_line_that_is_too_long_is_one_problem(ctl, spool):
    (ctl.root / "x.jsonl").write_text('{"sitekey": "' + "x" * 5_000_000 + '"}\n' + json.dumps(task(id="a")))
    done = ctl("submit", "x.jsonl", cwd=ctl.root)
    assert done.stderr == "captchactl: x.jsonl:1: longer than 2000000 bytes\ncaptchactl: nothing was submitted\n"


def test_submit_a_batch(ctl, spool):
    lines = [json.dumps(task(id="a")), "", json.dumps(task())]
    (ctl.root / "many.jsonl").write_text("\n".join(lines))
    done = ctl("submit", str(ctl.root / "many.jsonl"))
    ids = done.stdout.split()
    assert [each["id"] for each in dropped(spool)] == ids
    assert ids[0] == "a"
    assert ids[1].endswith("-3")
    assert next(spool.iterdir()).stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "text", [json.dumps(task(id="a")), json.dumps([task(id="a")]), json.dumps(task(id="a")) + "\n" + json.dumps(task())]
)
def test_submit_from_standard_input(ctl, spool, text):
    done = ctl("submit", "-", stdin=text)
    assert done.returncode == 0
    assert done.stdout.split() == [each["id"] for each in dropped(spool)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", '{"sitekey": "k",,}', "x.json:1:17: "),
        ("x.json", "", "x.json:1:1: "),
        ("x.json", "[]", "there is no task in it"),
        ("x.jsonl", "\n\n", "there is no task in it"),
        ("x.json", json.dumps(task(sitekye="k")), "sitekye: unknown key 'sitekye' (did you mean 'sitekey'?)"),
        ("x.json", json.dumps(task(pageurl="https://other.com/")), "host 'other.com' is not allowed"),
        ("x.jsonl", json.dumps(task()) + "\nnonsense\n" + json.dumps(task(priority="hi")), "x.jsonl:2: not valid JSON"),
        ("x.jsonl", json.dumps(task()) + "\nnonsense\n" + json.dumps(task(priority="hi")), "x.jsonl:3: priority: "),
    ],
)
def test_a_bad_task_submits_nothing(ctl, spool, name, text, message):
    (ctl.root / name).write_text(text)
    done = ctl("submit", name, cwd=ctl.root)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert list(spool.iterdir()) == []


def test_submit_says_what_is_not_there(ctl, spool):
    assert "nothing.json: no such file" in ctl("submit", "nothing.json").stderr
    spool.rmdir()
    done = ctl("submit", "-", stdin=json.dumps(task()))
    assert done.returncode == 1
    assert "incoming is not there" in done.stderr


# --- wait


def put_result(ctl, name: str, **values) -> None:
    results = ctl.root / "spool" / "results"
    (results / f".{name}").write_text(json.dumps({"id": name, **values}))
    (results / f".{name}").rename(results / f"{name}.json")


def test_wait_for_results(ctl, spool):
    put_result(ctl, "a", status="solved", token="T\x1b1", answer=None)
    put_result(ctl, "b", status="solved", token=None, answer={"x": 1})
    done = ctl("wait", "a", "b", "a")
    assert (done.returncode, done.stdout) == (0, 'a\tsolved\tT?1\nb\tsolved\t{"x": 1}\n')
    put_result(ctl, "c", status="failed", error="ERROR_X")
    done = ctl("wait", "a", "c", "--json")
    assert done.returncode == 1
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["a", "c"]


def test_wait_sees_a_result_that_comes_later(ctl, spool):
    process = subprocess.Popen(ctl.command("wait", "a", "b"), stdout=subprocess.PIPE, text=True)
    put_result(ctl, "b", status="solved", token="T2")
    assert process.stdout.readline() == "b\tsolved\tT2\n"
    put_result(ctl, "a", status="solved", token="T1")
    assert process.stdout.readline() == "a\tsolved\tT1\n"
    assert process.wait(20) == 0
    process.stdout.close()


def test_wait_times_out(ctl, spool):
    put_result(ctl, "a", status="solved", token="T")
    done = ctl("wait", "a", "b", "--timeout", "0.1")
    assert (done.returncode, done.stdout) == (124, "a\tsolved\tT\n")
    said = done.stderr.splitlines()
    unknown = "unknown to captchad, and no such file in incoming/"
    assert said[:2] == ["captchactl: 1 of 2 have not ended in time:", f"captchactl: b ({unknown})"]
    assert said[2].startswith("captchactl: no daemon answers at")


def test_wait_names_what_nobody_has_taken(live, spool):
    (spool / "b.json").write_text("{}")
    put_result(live, "b", status="solved", token="of an earlier task")
    done = live("wait", "b", "--timeout", "0.1")
    assert (done.returncode, done.stdout) == (124, "")
    assert done.stderr.splitlines()[1:] == ["captchactl: b (its file waits in incoming/)"]


@contextmanager
def waiting(ctl, *ids: str):
    """`captchactl wait` under way."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(ctl.command("wait", *ids), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def test_wait_says_what_may_never_come_and_waits(live, spool):
    (spool / "c.json").write_text("{}")
    with waiting(live, "c", "nosuch", "h", "a") as process:
        assert [process.stderr.readline() for _ in range(3)] == [
            "captchactl: nosuch: unknown to captchad, and no such file in incoming/; waiting\n",
            "captchactl: h: held, until captchactl release h; waiting\n",
            "captchactl: a: has ended (dead), and its result is not there; waiting\n",
        ]
        (spool / "c.json").unlink()
        for task_id in ("h", "a", "nosuch", "c"):
            put_result(live, task_id, status="solved", token="T")
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_wait_says_that_no_daemon_runs(ctl, spool):
    with waiting(ctl, "nosuch") as process:
        assert process.stderr.readline().startswith("captchactl: no daemon answers at")
        assert process.stderr.readline().startswith("captchactl: nosuch: unknown to captchad")
        put_result(ctl, "nosuch", status="solved", token="T")
        assert process.wait(20) == 0


def test_wait_asks_only_when_nothing_comes():
    windows = [["a"], ["b"], [], ["c"], ["d"]]
    asked_at = []

    def as_completed(ids, timeout):
        yield from ({"id": each} for each in windows.pop(0))
        if windows:
            raise TimeoutError

    client = SimpleNamespace(as_completed=as_completed)
    came = [found["id"] for found in wait._results(client, {}, None, lambda: asked_at.append(len(windows)))]
    assert (came, asked_at) == (["a", "b", "c", "d"], [2])


def test_a_daemon_that_does_not_say_is_no_doubt(live, spool):
    done = live("wait", "full", "--timeout", "0.1")
    assert done.stderr.splitlines() == ["captchactl: 1 of 1 have not ended in time:", "captchactl: full"]


def test_wait_without_a_spool_is_an_error_at_once(ctl):
    done = ctl("wait", "a")
    assert (done.returncode, done.stdout) == (1, "")
    assert "spool/results is not there" in done.stderr


def test_wait_sees_a_rejected_line_of_a_batch(ctl, spool):
    errors = [{"error": "bad", "id": "b"}, {"error": "worse", "id": "c"}]
    reason = {"error": "bad", "errors": errors, "file": "batch.jsonl"}
    (ctl.root / "spool" / "rejected" / "batch.jsonl.reason").write_text(json.dumps(reason))
    done = ctl("wait", "c", "b")
    assert (done.returncode, set(done.stdout.splitlines())) == (1, {"b\trejected\tbad", "c\trejected\tworse"})


def test_wait_sees_a_rejected_file(ctl, spool):
    (ctl.root / "spool" / "rejected" / "a.json.reason").write_text(json.dumps({"error": "not valid JSON", "line": 2}))
    done = ctl("wait", "a")
    assert (done.returncode, done.stdout) == (1, "a\trejected\tnot valid JSON\n")


def test_wait_takes_ids_only(ctl, spool):
    assert ctl("wait", "../../etc/passwd").returncode == 1


# --- usage


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("dlq",), ("wait",), ("status", "--watch", "-1"), ("show",)])
def test_usage_is_2(ctl, arguments):
    assert ctl(*arguments).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "--watch", "abc"), "argument --watch: a number of seconds above 0 is wanted"),
        (("list", "--limit", "1e3"), "argument --limit: a number above 0 is wanted"),
    ],
)
def test_a_bad_number_is_refused_in_words(ctl, arguments, said):
    assert ctl(*arguments).stderr.splitlines()[-1].endswith(said)


def test_submit_says_the_place_of_a_fault_once(ctl, spool):
    for text, said in (
        ('{"id": "a\n"}', "<stdin>:1:10: not valid JSON: invalid control character"),
        ('{"id": "a', "<stdin>:1:8: not valid JSON: unterminated string"),
    ):
        assert ctl("submit", "-", stdin=text).stderr.splitlines()[0] == f"captchactl: {said}"


def test_the_common_options_are_taken_everywhere(live):
    named = ("--config", str(live.config))
    plain = live.command()[:3]
    for words in (
        (*named, "--json", "dlq", "list"),
        ("dlq", *named, "--json", "list"),
        ("dlq", "--json", "list", *named),
    ):
        done = subprocess.run([*plain, *words], capture_output=True, text=True, check=False)
        assert (done.returncode, json.loads(done.stdout)["tasks"]) == (0, [BUGGY]), (words, done.stderr)
    for words in (("config", *named, "show"), ("journal", "--json", *named, "verify")):
        done = subprocess.run([*plain, *words], capture_output=True, text=True, check=False)
        assert done.returncode != 2, done.stderr
    for group in ("config", "journal"):
        assert (live(group).returncode, f"usage: captchactl {group}" in live(group).stdout) == (2, True)


# --- words in a wrong place


@pytest.mark.parametrize(
    "words",
    [
        ["secret-key"],
        ["-ksecret-key", "status"],
        ["setup", "secret-key"],
        ["setup", "-ksecret-key"],
        ["setup", "--secret-key2"],
        ["setup", "--api-key=secret-key"],
        ["setup", "--api-key", "secret-key"],
        ["list", "--state", "secret-key"],
        ["journal", "secret-key"],
    ],
)
def test_a_key_in_a_wrong_place_is_not_repeated(ctl, words):
    done = ctl(*words)
    assert (done.returncode, "secret-key" in done.stdout + done.stderr) == (2, False), done.stderr


@pytest.mark.parametrize(
    ("words", "said", "near"),
    [
        (["lgos"], "captchactl: argument VERB: none of status, ", "logs"),
        (["journal", "verfy"], "captchactl journal: argument VERB: none of verify, ", "verify"),
        (["zzz"], "captchactl: argument VERB: none of status, ", None),
        (["status", "--jsno"], "captchactl status: unrecognized arguments: --jsno", "--json"),
        (["--jsno", "status"], "captchactl: unrecognized arguments: --jsno", "--json"),
        (["list", "--qqq", "--states=x"], "captchactl list: unrecognized arguments: --qqq --states", "--state"),
        (["status", "--states=x"], "captchactl status: unrecognized arguments: --states", None),  # it is list's
        (["list", "--state", "HLED"], "captchactl list: argument --state: none of pending, ", "held"),
    ],
)
def test_a_mistyped_word_is_told_what_is_near(ctl, words, said, near):
    done = ctl(*words)
    assert (done.returncode, done.stdout) == (2, "")
    error, _, hint = done.stderr[done.stderr.index("\ncaptchactl") + 1 :].partition("\nhint: ")
    assert error.startswith(said)
    assert hint == (f"did you mean '{near}'?\n" if near else "")
