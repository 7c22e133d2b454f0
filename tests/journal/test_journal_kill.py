"""SIGKILL before, inside and after every system call of a life, and of the recovery from it."""

import os
import shutil
import signal
from itertools import count

import pytest

from captchad.journal.store import read_all
from tests.journal.kit import App, HookOs, Killed, KillingOs, Promises, reopen

READY = ["prepare"] * 3
PLAN = ["1", "3", *READY, "2", "1", "4", "drop", "prepare", "1", "drop", "6", *READY, "2"]


def life_in_child(directory, at, how, promises) -> bool:
    """Run a life that is killed at its system call `at`; True when it ended by itself. Fills `promises`."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read_end)
        try:
            osio = KillingOs(at, how, really=True)
            app = App(directory, lambda what, value: os.write(write_end, b"%s %d\n" % (what.encode(), value)), osio)
            app.run(PLAN)
        except BaseException as error:  # noqa: BLE001 - a forked child must never run on into pytest
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        for line in pipe.read().splitlines():
            what, value = line.split()
            promises.tell(what.decode(), int(value))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status == 0


@pytest.mark.parametrize("how", ["before", "inside", pytest.param("after", marks=pytest.mark.slow)])
def test_a_kill_at_any_system_call_loses_nothing_promised(fast_dir, how):
    for at in count(1):
        directory = fast_dir / str(at) / "journal"
        promises = Promises()
        ended = life_in_child(directory, at, how, promises)
        check_next_life(directory, promises)
        shutil.rmtree(fast_dir / str(at))
        if ended:
            break
    assert at > 60  # the sweep went through a whole life


def check_next_life(directory, promises):
    """The promises are kept, the next life can go on, and reading twice finds the same."""
    app = App(directory, promises.tell, HookOs())
    assert promises.breach(app.found) == ""
    app.run(["2", "1"])
    app.close()
    found = reopen(directory)
    assert promises.breach(found) == ""
    assert reopen(directory) == found


def killed_life(directory, at, how, promises, plan):
    """A life in this process that dies at its system call `at`; True when it ended by itself."""
    osio = KillingOs(at, how)
    try:
        App(directory, promises.tell, osio).run(plan)
    except Killed:
        return False
    osio.at = osio.count + 1
    try:
        osio.stat(directory)
    except Killed:
        return True
    return True


def crash_sites(root, plan, how):
    """Every state of the directory that a kill leaves, once each: (directory, promises)."""
    seen = set()
    for at in count(1):
        directory = root / str(at) / "journal"
        promises = Promises()
        ended = killed_life(directory, at, how, promises, plan)
        print_of = tuple(
            sorted((p.name, p.read_bytes()) for p in directory.rglob("*") if p.is_file() and p.name != "lock")
        )
        if directory.is_dir() and print_of not in seen:
            seen.add(print_of)
            yield directory, promises
        shutil.rmtree(root / str(at), ignore_errors=True)
        if ended:
            return


def sweep_recovery(root, plan, how, every):
    """Kill the recovery from every `every`-th crash at each system call, then check. How many recoveries that were."""
    kills = 0
    for index, (directory, promises) in enumerate(crash_sites(root / "first", plan, "inside")):
        if index % every:
            continue
        for at in count(1):
            again = root / "again" / "journal"
            shutil.copytree(directory, again)
            told = Promises(promises.staged, promises.promised, promises.droppable)
            ended = killed_life(again, at, how, told, ["1"])
            check_next_life(again, told)
            shutil.rmtree(root / "again")
            kills += 1
            if ended:
                break
    return kills


@pytest.mark.parametrize("how", ["before", "inside"])
def test_a_kill_during_recovery_loses_nothing_promised(fast_dir, how):
    assert sweep_recovery(fast_dir, ["1", "4", *READY, "2"], how, every=6) > 50


@pytest.mark.parametrize("newline", [b"\r", b",", b"}", b"\0"])
def test_a_last_line_that_lost_its_newline_costs_nothing_and_gets_it_back(fast_dir, newline):
    place, promises = fast_dir / "journal", Promises()
    app = App(place, promises.tell, HookOs())
    app.run(["1", "1"])
    app.close()
    path = place / "00000001.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + newline)
    app = App(place, promises.tell, HookOs())
    app.run(["1"])
    app.close()
    assert path.read_bytes().startswith(before)
    assert [record.fields["n"] for record in read_all(place)] == list(range(3))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["before", "inside", "after"])
def test_a_kill_during_recovery_from_any_crash(fast_dir, how):
    assert sweep_recovery(fast_dir, PLAN, how, every=1) > 1000
