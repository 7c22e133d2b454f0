"""The crew with a real template: a worker that talks nonsense, a seat that counts again, and a template that fails."""

import logging
import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from captchad.ipc.channel import Message
from captchad.ipc.loop import Loop
from captchad.model.clock import SystemClock
from captchad.supervisor.core import decide
from captchad.supervisor.core.states import Reason, SeatState, WorkerState
from captchad.supervisor.core.view import Settings
from captchad.supervisor.crew import Crew
from captchad.supervisor.process import become_subreaper, reap, reap_strangers, send_signal
from captchad.supervisor.template import Template
from captchad.supervisor.worker import Worker
from tests.support.template import BEAT, MODULE, body

PATIENCE_S = 20.0


class Duties:
    def __init__(self) -> None:
        self.ready: list[tuple[int, int]] = []  # seat, number
        self.deaths: list[tuple[int, str]] = []
        self.retired: list[int] = []

    def on_boot(self, worker: Worker) -> None: ...

    def on_ready(self, worker: Worker) -> None:
        self.ready.append((worker.slot, worker.vital.number))

    def on_message(self, worker: Worker, message: Message) -> None:
        raise KeyError("o")

    def on_retire(self, worker: Worker) -> None:
        self.retired.append(worker.vital.number)

    def on_death(self, worker: Worker, kind: str) -> list[str]:
        self.deaths.append((worker.slot, kind))
        return ["a-task"]

    def on_limit(self, share: float) -> None: ...


class Books:
    """Keeps what the crew has recorded."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, fields: dict[str, Any]) -> None:
        self.rows.append(fields)

    def journal_lives(self) -> bool:
        return True

    def ping(self) -> None: ...

    def why(self, what: str) -> list[str]:
        """The reasons of what was done."""
        return [row["why"] for row in self.rows if row["do"] == what]


def settings(workers: int, standby: int = 0) -> Settings:
    return Settings(workers, 1, 1.0, 30.0, 30.0, 30.0, 30.0, standby=standby)


NONSENSE: list[Message] = [{"m": "out", "n": 1}]
HALF_A_BEAT: list[Message] = [{name: value for name, value in BEAT.items() if name != "private"}]
GOOD: list[Message] = [BEAT]
SILENT: list[Message] = []


class Bench:
    """A crew whose workers say `says`, and then wait to be told to go."""

    def __init__(self, says: list[Message], wanted: Settings) -> None:
        become_subreaper()
        self.template = Template(body, MODULE)
        self.loop = Loop(SystemClock())
        self.duties, self.books = Duties(), Books()
        self.crew = Crew(
            wanted, self.loop, SystemClock(), random.Random(1), self.duties, self.books, self.template,
            lambda epoch, number: {"says": says}, logging.getLogger("test"),
        )  # fmt: skip
        self.crew.start(1)

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"did not happen; recorded: {self.books.rows}"
            self.loop.turn(0.5)

    def worker(self, seat: int) -> Worker | None:
        return self.crew.sitting(self.crew.view.seat(seat))

    def stop(self) -> None:
        self.crew.drain()
        self.crew.kill_all()
        self.until(lambda: not self.crew.workers)

    def close(self) -> None:
        self.crew.kill_all()
        self.crew.close()
        self.loop.close()


@contextmanager
def crew(says: list[Message], wanted: Settings) -> Iterator[Bench]:
    before = children(os.getpid())
    made = Bench(says, wanted)
    try:
        yield made
        made.stop()
    finally:
        made.close()
        reap_strangers(before)
    assert children(os.getpid()) == before, "left a process behind"


def children(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(each) for each in listed}


@pytest.mark.parametrize("says", [NONSENSE, HALF_A_BEAT])
def test_a_worker_that_talks_nonsense_is_killed_and_the_parent_lives(
    says: list[Message], caplog: pytest.LogCaptureFixture
) -> None:
    with crew(says, settings(1)) as bench:
        bench.until(lambda: bench.duties.deaths)

        assert bench.duties.deaths == [(0, "crash")]
        assert "makes no sense" in caplog.text
        assert bench.books.why("kill") == ["nonsense"]
        (death,) = [row for row in bench.books.rows if row["do"] == "death"]
        assert (death["why"], death["code"], death["tasks"]) == ("nonsense", -signal.SIGKILL, ["a-task"])


def test_a_seat_that_was_one_too_many_is_filled_when_it_counts_again() -> None:
    with crew(SILENT, settings(3)) as bench:
        bench.until(lambda: all(worker.child for worker in bench.crew.workers))
        victim = bench.worker(1)
        assert victim is not None
        assert victim.child is not None
        send_signal(victim.child, signal.SIGKILL)
        bench.until(lambda: bench.duties.deaths)
        assert bench.crew.seats[1].state is SeatState.WAITING  # it never booted: its replacement waits
        bench.crew.renew(settings(1))
        bench.crew.renew(settings(3))
        bench.until(lambda: (worker := bench.worker(1)) is not None and worker.child is not None)

        worker = bench.worker(1)
        assert worker is not None
        assert worker.vital.number > 3
        os.kill(worker.pid, 0)


def test_nothing_is_wrong_with_a_start(caplog: pytest.LogCaptureFixture) -> None:
    with crew(GOOD, settings(2, standby=1)) as bench:
        bench.until(lambda: bench.crew.alive == 2)
        assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
        assert bench.books.why("start") == ["start", "start", "reserve"]


def test_seats_that_are_too_many_go_when_their_workers_have_gone() -> None:
    with crew(GOOD, settings(3)) as bench:
        bench.until(lambda: bench.crew.alive == 3)
        bench.crew.renew(settings(1))
        bench.until(lambda: len(bench.crew.workers) == 1)
        assert [seat.index for seat in bench.crew.seats] == [0]
        assert bench.books.why("retire") == ["scale_down"] * 2
        assert bench.books.why("death") == ["exit"] * 2
        assert sorted(bench.duties.deaths) == [(1, "exit"), (2, "exit")]
        assert bench.crew.alive == 1


def test_who_is_in_reserve_takes_the_seat_of_one_that_dies_and_the_reserve_is_filled_again() -> None:
    with crew(GOOD, settings(1, standby=1)) as bench:
        bench.until(lambda: bench.crew.alive == 1 and bench.worker(-1) is not None and _ready(bench.worker(-1)))
        first, reserve = bench.worker(0), bench.worker(-1)
        assert first is not None
        assert reserve is not None
        assert (reserve.state, first.state) == ("standby", "running")
        assert not reserve.usable
        assert bench.duties.ready == [(0, first.vital.number)], "nobody gives work to the reserve"
        assert first.child is not None
        send_signal(first.child, signal.SIGKILL)
        bench.until(lambda: bench.worker(0) is reserve)

        assert bench.duties.ready == [(0, first.vital.number), (0, reserve.vital.number)]
        assert bench.books.why("move") == ["signal"]
        bench.until(lambda: _ready(bench.worker(-1)))
        assert bench.worker(-1) is not reserve


def _ready(worker: Worker | None) -> bool:
    return worker is not None and worker.vital.state is WorkerState.READY


def test_all_are_replaced_one_at_a_time_and_there_are_never_fewer() -> None:
    with crew(GOOD, settings(2)) as bench:
        bench.until(lambda: bench.crew.alive == 2)
        old = {worker.vital.number for worker in bench.crew.workers}
        bench.crew.renew(settings(2), replace_all=Reason.RELOAD)
        least, leaving = 2, 0

        def replaced() -> bool:
            nonlocal least, leaving
            least = min(least, bench.crew.alive)
            leaving = max(leaving, sum(w.vital.state is WorkerState.DRAINING for w in bench.crew.workers))
            return len(bench.duties.deaths) >= 2 and old.isdisjoint(bench.crew.view.vitals) and bench.crew.alive == 2

        bench.until(replaced)
        assert (least, leaving) == (2, 1)
        assert set(bench.books.why("retire")) <= {"reload", "surplus"}
        assert bench.books.why("retire").count("reload") == 2


def test_who_comes_from_the_reserve_has_yet_to_show_that_the_seat_is_well() -> None:
    with crew(GOOD, settings(1, standby=1)) as bench:
        bench.until(lambda: _ready(bench.worker(-1)) and bench.crew.alive == 1)
        first, reserve = bench.worker(0), bench.worker(-1)
        assert first is not None
        assert reserve is not None
        for vital in (first.vital, reserve.vital):  # both have been there for long
            vital.forked_at = (vital.forked_at or 0.0) - 60.0
        first.vital.seated_at = first.vital.forked_at
        assert not bench.crew.is_unsettled(bench.crew.seats[0])
        os.kill(first.pid, signal.SIGKILL)
        bench.until(lambda: bench.worker(0) is reserve)
        assert bench.crew.is_unsettled(bench.crew.seats[0])


def test_a_template_that_was_killed_is_made_anew_and_the_workers_live(caplog: pytest.LogCaptureFixture) -> None:
    with crew(GOOD, settings(2)) as bench:
        bench.until(lambda: bench.crew.alive == 2)
        pids = {worker.pid for worker in bench.crew.workers}
        before = bench.template.child.pid
        os.kill(before, signal.SIGKILL)
        bench.until(lambda: bench.template.child.pid != before)
        assert "the template ended (killed by signal 9)" in caplog.text
        assert {worker.pid for worker in bench.crew.workers} == pids
        assert bench.crew.alive == 2
        assert bench.duties.deaths == []

        bench.crew.renew(settings(3))  # the new one forks as well
        bench.until(lambda: bench.crew.alive == 3)
        template, newest = bench.template.child.pid, max(worker.pid for worker in bench.crew.workers)
        assert {template, newest} <= children(os.getpid()), "handed to us, though the template has forked it"


def test_what_a_template_owes_when_it_dies_is_ordered_again() -> None:
    with crew(GOOD, settings(1)) as bench:
        bench.until(lambda: bench.crew.alive == 1)
        os.kill(bench.template.child.pid, signal.SIGSTOP)
        bench.crew.renew(settings(3))
        bench.crew.look()
        assert [worker.state for worker in bench.crew.workers] == ["running", "booting", "booting"]
        os.kill(bench.template.child.pid, signal.SIGKILL)
        bench.until(lambda: bench.crew.alive == 3)
        assert len({worker.vital.number for worker in bench.crew.workers} - {1, 2, 3}) == 2, "never a number twice"


def test_a_template_goes_when_its_parent_is_gone() -> None:
    become_subreaper()
    template = Template(body, MODULE)
    child = template.child
    template._socket.close()
    assert select.select([child.pidfd], [], [], PATIENCE_S)[0]
    assert reap(child) == 0
    child.close()


def test_a_template_that_cannot_live_is_not_made_again_and_again_at_once() -> None:
    """A broken installation: each try costs a whole start of Python."""
    with crew(GOOD, settings(1)) as bench:
        bench.until(lambda: bench.crew.alive == 1)
        bench.template._module = "tests.support.no_such_module"
        made = {bench.template.child.pid}
        os.kill(bench.template.child.pid, signal.SIGKILL)
        bench.until(lambda: bench.template.child.pid not in made)
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            made.add(bench.template.child.pid)
            bench.loop.turn(0.05)
        assert len(made) <= 5
        assert bench.crew.alive == 1


def test_an_answer_that_comes_when_the_template_is_given_up_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with crew(GOOD, settings(1)) as bench:
        bench.until(lambda: bench.crew.alive == 1)
        monkeypatch.setattr(decide, "FORK_S", 0.3)  # not before: Python itself may need longer to start
        os.kill(bench.template.child.pid, signal.SIGSTOP)
        bench.crew.renew(settings(2))
        bench.crew.look()
        time_is_up = bench.crew.view.vitals[2].ordered_at + 0.3
        while time.monotonic() < time_is_up:
            time.sleep(0.01)  # nothing is looked at meanwhile
        os.kill(bench.template.child.pid, signal.SIGCONT)
        _wait_readable(bench.template.fd)
        bench.crew.look()
        bench.until(lambda: bench.books.why("refork") == ["template_hung"])
        assert bench.crew.alive == 1


def _wait_readable(fd: int) -> None:
    assert select.select([fd], [], [], PATIENCE_S)[0]
