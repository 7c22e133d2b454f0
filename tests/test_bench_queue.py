"""The queue's benchmark in its smallest form: it runs, it measures what it says, it sees what is wrong."""

import json
from pathlib import Path

import pytest

from benchmarks.queue import trial
from benchmarks.queue.contenders import CONTENDERS, peer_class
from benchmarks.queue.peer import Counts, Peer, Taken
from benchmarks.queue.slow_sync import VARIABLE, SyncCounter, build
from benchmarks.queue.sqlite_wal import WalPeer
from benchmarks.queue.trial import Order, Outcome
from benchmarks.queue.work import ANSWER_BYTES, PAYLOAD_BYTES, answer_for, intake_fields, make_work, task_id_in
from captchad.model.task import ID_FORM, load_json, parse_task
from tests.support.benchmark import run_module

CELLS = {"one", "batch", "take1", "take4", "take8"}
TASKS = 40


def order_of(contender: str, cell: str, directory: Path, **more) -> Order:
    return Order(contender, cell, str(directory), **{"tasks": 10, "seconds": 30.0, **more})


def run_alone(order: Order, *, prefix=(), **environ: str) -> Outcome:
    """The trial in a process of its own."""
    printed = run_module("queue.trial", json.dumps(trial.asdict(order)), prefix=prefix, **environ)
    return Outcome(**json.loads(printed))


def test_all_parts_run(tmp_path):
    figures_file = tmp_path / "figures.json"
    options = ["--scale", "tiny", "--no-install", "--only", "captchad,sqlite-tutorial", "--directory", str(tmp_path)]
    parts = [word for part in ("peers", "depth", "start", "steady") for word in ("--part", part)]
    printed = run_module("queue", *options, *parts, "--json", str(figures_file))
    figures = json.loads(figures_file.read_text())
    assert figures["peers"]["failures"] == {}
    rounds = figures["peers"]["rounds"]
    assert set(rounds) == {"captchad", "sqlite-tutorial", "sqlite-wal"}
    for name in ("captchad", "sqlite-wal"):
        assert set(rounds[name]) == {*CELLS, "life"}
        for cell, (outcome,) in rounds[name].items():
            assert (cell, outcome["tasks"], outcome["twice"], outcome["lost"]) == (cell, TASKS, 0, 0)
            assert 0.0 < outcome["p50_s"] <= outcome["p99_s"] <= outcome["wall_s"] + outcome["cpu_s"]
        assert rounds[name]["life"][0]["pending_bytes"] > PAYLOAD_BYTES
        assert rounds[name]["life"][0]["finished_bytes"] > PAYLOAD_BYTES + ANSWER_BYTES
    assert set(figures["depth"]) == {"100", "200"}
    assert [(start["tasks"], start["records"] >= start["tasks"]) for start in figures["start"]] == [
        (0, True),
        (400, True),
    ]
    assert figures["steady"]["through"] == 400
    assert figures["steady"]["remembered"] < 400
    assert list(tmp_path.iterdir()) == [figures_file]  # the data is gone
    assert "| captchad |" in printed


@pytest.mark.debian("strace")
@pytest.mark.parametrize("contender", ["captchad", "sqlite-wal", "sqlite-tutorial"])
@pytest.mark.parametrize(("cell", "acknowledged"), [("one", 1), ("take1", 2)])
def test_what_is_acknowledged_was_synced(tmp_path, contender, cell, acknowledged):
    """The kernel's own count: one sync at least for an enqueue, two for a take and its completion."""
    syncs = []
    for tasks in (5, 25):
        trace, directory = tmp_path / f"trace-{tasks}", tmp_path / f"{tasks}"
        directory.mkdir()
        strace = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(trace)]
        outcome = run_alone(order_of(contender, cell, directory, tasks=tasks), prefix=strace)
        assert (outcome.tasks, outcome.lost) == (tasks, 0)
        syncs.append(trace.read_text().count("sync("))
    assert syncs[1] - syncs[0] >= 20 * acknowledged  # the difference: without what a start and an end take


@pytest.mark.debian("strace", "gcc", "libc6-dev")
def test_slowed_syncs_are_counted_and_slow(tmp_path):
    library = build(tmp_path)
    assert library is not None
    (tmp_path / "trial").mkdir()
    counter, trace = SyncCounter(tmp_path / "syncs"), tmp_path / "trace"
    strace = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-E", f"LD_PRELOAD={library}", "-o", str(trace)]
    order = order_of("sqlite-wal", "one", tmp_path / "trial", sync_s=0.02)
    outcome = run_alone(order, prefix=strace, **{VARIABLE: str(counter.path)})
    assert outcome.syncs is not None
    assert outcome.syncs >= 10
    assert outcome.wall_s >= outcome.syncs * 0.02
    assert counter.syncs == trace.read_text().count("sync(")


class Careless(WalPeer):
    """Hands out every task twice, and keeps the answers of the first clients only."""

    def client(self):
        return CarelessClient(super().client())


class CarelessClient:
    locked = 0

    def __init__(self, careful) -> None:
        self._careful = careful
        self._again: Taken | None = None
        self._completed = 0

    def take(self):
        if self._again is not None:
            again, self._again = self._again, None
            return again
        self._again = self._careful.take()
        return self._again

    def complete(self, taken, answer):
        self._completed += 1
        if self._completed <= 10:
            self._careful.complete(taken, answer)


class Forgetful(WalPeer):
    """Says that it has the tasks, and has lost two."""

    def counts(self):
        pending, finished = super().counts()
        return Counts(pending - 2, finished)


class Volatile(WalPeer):
    """Forgets one of the answers each time it is ended, which a life does three times."""

    _ended = 0

    def stop(self):
        self._ended += 1

    def counts(self):
        pending, finished = super().counts()
        return Counts(pending, finished - self._ended)


@pytest.mark.parametrize(
    ("peer", "cell", "twice", "lost"),
    [(WalPeer, "take4", 0, 0), (Careless, "take1", 10, 5), (Forgetful, "one", 0, 2), (Volatile, "life", 0, 3)],
)
def test_what_goes_wrong_is_seen(tmp_path, monkeypatch, peer, cell, twice, lost):
    monkeypatch.setattr(trial, "make_peer", lambda name, directory: peer(directory))
    outcome = trial.run(order_of("any", cell, tmp_path))
    assert (outcome.tasks, outcome.twice, outcome.lost) == (10, twice, lost)


def test_the_work_is_what_it_says():
    for work in make_work(3, first=70):
        assert len(work.payload) == PAYLOAD_BYTES == 300
        task = parse_task(load_json(work.payload))
        assert task.id == work.id == task_id_in(work.payload)
        assert ID_FORM.fullmatch(work.id)
        answer = answer_for(work.id)
        assert len(answer.text) == ANSWER_BYTES == 500
        assert json.loads(answer.text) == {"token": answer.token, "answer": None, "extra": {}}
        fields = intake_fields(70)
        assert (fields["m"], fields["h"], fields["pr"]) == (task.method, task.host, task.priority)
    with pytest.raises(ValueError, match="no payload of ours"):
        task_id_in(work.payload[:-1])


def test_every_contender_is_a_peer():
    assert all(issubclass(peer_class(name), Peer) for name in CONTENDERS)
