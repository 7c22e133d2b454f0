"""The service in hard times: users who do not trust each other, a stop and a crash under load, and no memory."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.harness import eventually
from tests.support.sandbox import Sandbox
from tests.system.kit import (
    HOLDS,
    QUICK,
    SPOOL,
    charges,
    configure,
    drop,
    install,
    journal,
    main_pid,
    result,
    run,
    scenario,
    show,
    status,
    step,
    wait_solved,
)

#: Charged at once, answered late: who dies meanwhile knows of no captcha.
LATE = '[solve]\nseconds = 1.0\n[[rule]]\nfault = "delay"\ndelay_s = 2.0\n'
ROOMY = "submits_per_3s = 1000\nmax_in_flight = 1000\n"

#: What a boot that cannot show something ends with: the test is skipped then.
UNABLE = 69


@scenario
def users_a_stop_and_a_crash(directory: Path) -> None:
    install()
    make_users()
    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox, workers=2)
        with Path("/etc/captchad/captchad.toml").open("a") as file:
            file.write(ROOMY)
        users_are_kept_apart()
        sandbox.set_scenario(HOLDS)
        a_stop_with_a_hundred_in_flight(sandbox)
        sandbox.set_scenario(LATE)
        a_parent_that_crashes(sandbox)
        run("systemctl", "stop", "captchad")


# ---------------------------------------------------------------- users


def make_users() -> None:
    for name in ("alice", "bob"):
        run("useradd", "--no-create-home", "--groups", "captchad-submit", name)
    run("useradd", "--no-create-home", "carol")


def as_user(name: str, command: str) -> subprocess.CompletedProcess[str]:
    """What a shell of that user makes of `command`, at `incoming`, `results` and `rejected`."""
    places = "; ".join(f"{place}={SPOOL}/{place}" for place in ("incoming", "results", "rejected"))
    return run("runuser", "--user", name, "--", "sh", "-c", f"umask 022; cd /; {places}; {command}", ok=False)


def may(name: str, command: str) -> str:
    done = as_user(name, command)
    assert done.returncode == 0, f"{name} may not: {command}: {done.stderr}"
    return done.stdout


def may_not(name: str, command: str) -> None:
    done = as_user(name, command)
    assert done.returncode != 0, f"{name} may: {command}: {done.stdout}"
    assert "Permission denied" in done.stderr or "not permitted" in done.stderr, done.stderr


def submission(name: str) -> str:
    """The command by which a user drops a task, under a dot-name first."""
    task = json.dumps(
        {"id": name, "sitekey": "6Lc_aCMTAAAAABx7u2W0WPXnVbI_v6ZdbM6rYf16", "pageurl": "https://example.com/"}
    )
    hidden, shown = f"$incoming/.{name}.part", f"$incoming/{name}.json"
    return f"printf %s '{task}' >{hidden} && mv {hidden} {shown}"


def users_are_kept_apart() -> None:
    # With the daemon stopped the files lie there, for the others to try.
    may("alice", submission("of-alice"))
    may("bob", submission("of-bob"))
    for command in (
        "ls $incoming",
        "rm -f $incoming/of-alice.json",
        "mv $incoming/of-alice.json $incoming/mine.json",
        "mv $incoming/of-alice.json /tmp/mine.json",
        "echo >>$incoming/of-alice.json",
        "chmod 666 $incoming/of-alice.json",
        "touch $results/of-alice.json",
        "touch $rejected/of-alice.json",
    ):
        may_not("bob", command)
    for command in (submission("of-carol"), f"ls {SPOOL}", "cat $incoming/of-alice.json"):
        may_not("carol", command)
    step("members drop files, and touch nothing of each other's; others are shut out")

    run("systemctl", "start", "captchad")
    wait_solved(["of-alice", "of-bob"])
    for name in ("alice", "bob"):
        assert json.loads(may(name, "cat $results/of-alice.json"))["status"] == "solved"
        may_not(name, "rm -f $results/of-alice.json")
    may_not("carol", "cat $results/of-alice.json")
    step("results are for the members, to read")


# ---------------------------------------------------------------- a stop and a crash


def a_stop_with_a_hundred_in_flight(sandbox: Sandbox) -> None:
    before = charges(sandbox)
    ids = drop("stop", 100)
    eventually(lambda: charges(sandbox) == before + 100, 30)
    eventually(lambda: len(submitted()) == 100)
    told = {task["id"]: task["captcha_id"] for task in submitted()}
    assert {*told} == {*ids}
    run("systemctl", "stop", "captchad")
    assert show("captchad", "Result") == "success", journal()
    ended = [task for task in ids if result(task)]
    assert ended == [], ended
    step("stopped with a hundred captchas at the provider")

    sandbox.set_scenario(QUICK)
    run("systemctl", "start", "captchad")
    wait_solved(ids)
    results: dict[str, Any] = {task: result(task) for task in ids}
    assert {task: found["captcha_id"] for task, found in results.items()} == told
    assert {found["charges"] for found in results.values()} == {1}
    assert charges(sandbox) == before + 100, sandbox.totals()
    assert status()["queue"]["unknown_submits"] == 0
    step("all have ended after the start, under their ids, for 100 charges")


def submitted() -> list[dict[str, Any]]:
    """The tasks that are at the provider, with their captchas, as an operator sees them."""
    found: list[dict[str, Any]] = json.loads(run("captchactl", "list", "--state", "submitted", "--json").stdout)[
        "tasks"
    ]
    return found


def a_parent_that_crashes(sandbox: Sandbox) -> None:
    before, parent = charges(sandbox), main_pid("captchad")
    ids = drop("crash", 30)
    # In the middle of calls that are paid for: the workers end them without their parent, and write down what came.
    eventually(lambda: charges(sandbox) >= before + 10, 30)
    os.kill(parent, signal.SIGSEGV)
    eventually(lambda: show("captchad", "NRestarts") == "1" and show("captchad", "SubState") == "running", 60)
    assert main_pid("captchad") != parent
    assert "status=11/SEGV" in journal()
    assert "Fatal Python error: Segmentation fault" in journal()
    assert not [*Path("/var/lib/captchad").glob("core*")]
    wait_solved(ids)
    assert charges(sandbox) == before + 30, sandbox.totals()
    assert status()["queue"]["unknown_submits"] == 0
    step("a parent that crashes costs no task and no charge")


# ---------------------------------------------------------------- memory


@scenario
def a_worker_that_is_killed_for_memory_takes_only_itself(directory: Path) -> None:
    install()
    assert run("systemctl", "show", "--property", "OOMPolicy", "--value", "captchad").stdout.strip() == "continue"
    with memory_group() as group, Sandbox(scenario=HOLDS) as sandbox:
        configure(sandbox, workers=3)
        with born_into(group):
            run("systemctl", "start", "captchad")
        parent = main_pid("captchad")
        assert str(parent) in (group / "cgroup.procs").read_text().split()
        eventually(lambda: status()["workers"]["alive"] == 3 and len(status()["workers"]["reserve"]) == 1)
        ids = drop("hungry", 30)
        eventually(lambda: status()["queue"]["in_flight"] == 30 and charges(sandbox) == 30, 30)
        before = pids()

        killed = starve(group)
        step(f"the kernel has killed {killed} of its processes for their memory")
        found = eventually(lambda: len(died := deaths()) == killed and died)
        assert {death["why"] for death in found} == {"oom"}, found
        lost = {death["pid"] for death in found}
        eventually(lambda: len(now := pids()) == 3 and before - lost <= now)
        assert main_pid("captchad") == parent
        assert show("captchad", "NRestarts") == "0"
        step("they were workers; their siblings and the parent live, and the reason is known")

        sandbox.set_scenario(QUICK)
        wait_solved(ids)
        assert charges(sandbox) == 30, sandbox.totals()
        assert status()["queue"]["unknown_submits"] == 0
        step("30 tasks, 30 charges")
        run("systemctl", "stop", "captchad")


def pids() -> set[int]:
    return {worker["pid"] for worker in status()["workers"]["list"] if worker["state"] == "running"}


def deaths() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("captchactl", "workers", "--deaths", "--json").stdout)["deaths"]
    return found


@contextlib.contextmanager
def memory_group() -> Iterator[Path]:
    """A control group of version 1, where this machine keeps its memory controller; the boot has version 2 alone."""
    place = Path("/sys/fs/cgroup/memory")
    place.mkdir()
    if run("mount", "-t", "cgroup", "-o", "memory", "cgroup", str(place), ok=False).returncode != 0:
        print("this machine has no memory controller of version 1", file=sys.stderr)
        sys.exit(UNABLE)
    group = place / f"captchad-test-{os.stat('/proc/self/ns/pid').st_ino}"
    group.mkdir()
    try:
        yield group
    finally:
        run("systemctl", "stop", "captchad", ok=False)
        eventually(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


@contextlib.contextmanager
def born_into(group: Path) -> Iterator[None]:
    """What systemd starts meanwhile belongs to `group` from its first instruction."""
    (group / "cgroup.procs").write_text("1")
    try:
        yield
    finally:
        (group.parent / "cgroup.procs").write_text("1")


def starve(group: Path) -> int:
    """Leave the group short of memory until the kernel has killed, then give it back; how often it has killed.

    Twice where a second process wants memory before that of the first one is free. What is short is taken by a file in
    memory: it belongs to the group, and to no process that could be killed for it.
    """
    program = (
        "import sys, pathlib\n"
        "group, file = map(pathlib.Path, sys.argv[1:])\n"
        "(group / 'cgroup.procs').write_text('0')\n"
        "used = int((group / 'memory.usage_in_bytes').read_text())\n"
        "(group / 'memory.limit_in_bytes').write_text(str(used + (16 << 20)))\n"
        "with file.open('wb', buffering=0) as ballast:\n"
        "    while 'oom_kill 0' in (group / 'memory.oom_control').read_text():\n"
        "        ballast.write(bytes(1 << 16))\n"
        "    ballast.truncate(0)\n"
        "(group / 'memory.limit_in_bytes').write_text('-1')\n"
    )
    # Not the one that is killed: the workers offer themselves.
    run("/usr/bin/python3", "-c", program, str(group), "/dev/shm/captchad-test")
    counts = dict(line.split() for line in (group / "memory.oom_control").read_text().splitlines())
    return int(counts["oom_kill"])
