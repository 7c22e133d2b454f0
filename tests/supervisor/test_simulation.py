"""The core on a thousand simulated machines, each for ten hours with every fault; and on some for one thing alone.

`CAPTCHAD_SIM_SEEDS` and `CAPTCHAD_SIM_HOURS` make it longer, `CAPTCHAD_SIM_FIRST` begins elsewhere.
"""

import math
import multiprocessing
import os
from collections import Counter
from dataclasses import replace

import pytest

from captchad.supervisor.core import decide, events, restart
from captchad.supervisor.core.actions import Action, Move, Ping
from captchad.supervisor.core.states import FAULTS, Reason, WorkerState
from captchad.supervisor.core.view import Vital
from tests.supervisor.fleet import settings
from tests.supervisor.simulator import HOUR_S, Broken, Fate, Machine, Promise, run_seed

SEEDS = int(os.environ.get("CAPTCHAD_SIM_SEEDS", "1000"))
HOURS = float(os.environ.get("CAPTCHAD_SIM_HOURS", "10.1"))
FIRST = int(os.environ.get("CAPTCHAD_SIM_FIRST", "0"))

#: Decisions that some machine must have seen, or the simulation does not show much.
SEEN = {
    *(f"start {reason}" for reason in FAULTS - {Reason.NONSENSE, Reason.PIPE_CLOSED}),
    *(f"death {reason}" for reason in FAULTS - {Reason.NONSENSE, Reason.PIPE_CLOSED}),
    *(f"condemn {reason}" for reason in ("silent", "wedged", "boot_timeout")),
    *(f"kill {reason}" for reason in ("silent", "wedged", "boot_timeout", "drain_overdue")),
    *(f"retire {reason}" for reason in ("max_tasks", "max_memory", "max_age", "stuck_call", "reload", "stop")),
    *(f"retire {reason}" for reason in ("scale_down", "surplus")),
    *(f"limit {reason}" for reason in ("memory", "descriptors", "processes", "recovered")),
    *(f"start {reason}" for reason in ("start", "reserve", "scale_up", "fork_failed", "template_hung", "undying")),
    "start template_died",
    "scale queue_age",
    "scale idle",
    "abandon undying",
    "refork template_hung",
    "withhold journal",
    "death exit",
    "fork failed",
    "held up",
}


def _run(seed: int) -> tuple[int, str, Counter[str]]:
    try:
        return seed, "", run_seed(seed, HOURS).counts
    except Promise as broken:
        return seed, str(broken), Counter()


@pytest.mark.timeout(600)
def test_a_thousand_machines_keep_every_promise() -> None:
    counts: Counter[str] = Counter()
    broken = []
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for seed, what, counted in pool.imap_unordered(_run, range(FIRST, FIRST + SEEDS), chunksize=8):
            counts += counted
            broken += [f"run_seed({seed}, {HOURS:g}): {what}"] if what else []
    print(f"{SEEDS} machines, {SEEDS * HOURS:g} hours, {sum(counts.values())} decisions and deaths")
    assert broken == []
    if SEEDS >= 1000:
        assert SEEN - counts.keys() == set()


def test_a_seed_gives_the_same_run_again() -> None:
    assert run_seed(7, 2.0).log == run_seed(7, 2.0).log


@pytest.mark.parametrize("seed", range(12))
def test_a_parent_that_looks_at_every_heartbeat_decides_the_same_as_one_that_sleeps_until_something_is_due(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`next_due` leaves nothing out."""
    leaping = run_seed(seed, 0.5)
    whole = Machine.__init__
    monkeypatch.setattr(Machine, "__init__", lambda self, *args, **more: whole(self, *args, **{**more, "leaps": False}))
    looking = run_seed(seed, 0.5)
    # Between two looks the latest heartbeat may be another one: what is due by it may come a heartbeat earlier.
    beat_s = leaping.view.settings.heartbeat_s
    assert [entry[1:] for entry in leaping.log] == [entry[1:] for entry in looking.log]
    for leapt, looked in zip(leaping.log, looking.log, strict=True):
        assert leapt[0] == pytest.approx(looked[0], abs=beat_s + 0.01)


# ---------------------------------------------------------------- one thing alone


def machine(fates: dict[int, Fate], **changes: object) -> Machine:
    """Workers that are well, but for those whose numbers are named."""
    made = settings(**{"workers": 2, "standby": 1, "stall_s": 20.0, **changes})
    return Machine(made, lambda _, number: fates.get(number, Fate(boot_s=0.01)))


def done(run: Machine, *reasons: str) -> list[tuple[str, str]]:
    """What was done, without the start of all."""
    return [(what, why) for _, what, why, _ in run.log if why not in ("start", *reasons)]


def test_a_worker_that_hangs_is_replaced_within_the_limit_and_two_heartbeats() -> None:
    run = machine({1: Fate(0.01, Broken.HANGS, after_s=100.0)})
    run.run(HOUR_S)
    hung_at = next(at for at, what, _, _ in run.log if what == "start") + 100.0
    (moved_at,) = [at for at, what, _, _ in run.log if what == "move"]
    assert hung_at + 19.0 <= moved_at <= hung_at + 22.1
    assert done(run, "reserve") == [("condemn", "silent"), ("kill", "silent"), ("death", "silent"), ("move", "silent")]


def test_slow_calls_and_late_beats_cost_nobody_his_life() -> None:
    run = machine({1: Fate(0.01, Broken.SLOW, after_s=1.0), 2: Fate(0.01, Broken.LATE, after_s=1.0)})
    run.run(10 * HOUR_S)
    assert done(run, "reserve") == []


def test_a_parent_that_was_held_up_for_long_kills_nobody() -> None:
    run = machine({})
    run.run(100.0)
    run.hold_up(500.0)
    run.run(HOUR_S)
    run.pause(5000.0)
    run.run(HOUR_S)
    run.suspend(1e6)
    run.run(HOUR_S)
    assert done(run, "reserve") == []


def test_a_worker_that_hangs_while_the_parent_is_held_up_is_found_afterwards() -> None:
    run = machine({1: Fate(0.01, Broken.HANGS, after_s=100.0)})
    run.run(90.0)
    run.hold_up(60.0)
    run.run(HOUR_S)
    assert ("kill", "silent") in done(run)


def test_workers_that_cannot_boot_are_tried_at_the_capped_rate() -> None:
    run = Machine(settings(workers=4, standby=1, restart_max_delay_s=30.0), lambda *_: Fate(0.05, Broken.BOOT_EXITS))
    run.run(60.0)
    # Each seat has had its try; from then on one tries for all, less and less often.
    assert 13 <= sum(what == "start" for _, what, _, _ in run.log) <= 16
    run.run(HOUR_S)
    later = sum(what == "start" for at, what, _, _ in run.log if at > run.now - HOUR_S)
    assert HOUR_S / 30.0 - 1 <= later <= HOUR_S / 15.0 + 1


def test_the_pings_stop_when_nothing_is_carried_out_any_more() -> None:
    run = machine({1: Fate(0.01, Broken.HANGS, after_s=100.0)}, standby=0)
    run.view.watchdog.every_s = 5.0
    run.run(90.0)
    pings: list[float] = []
    before = run._check

    def note(action: Action) -> None:
        if isinstance(action, Ping):
            pings.append(run.now)
        before(action)

    run._check = note  # type: ignore[method-assign]
    run.run(10.0)
    assert pings
    run.go_deaf()
    run.run(100.0)
    hung_at = 1000.0 + 100.0
    # Until somebody hangs there is nothing to be carried out; from then on nothing is pinged.
    assert max(pings) <= hung_at + 20.0 + 2.0


def test_processes_that_no_signal_ends_do_not_multiply() -> None:
    run = machine({number: Fate(0.01, Broken.HANGS, after_s=10.0, dying_s=1e9) for number in range(100)}, standby=0)
    run.run(10 * HOUR_S)
    assert len(run.processes) <= 5
    assert run.view.alive == 0


# ---------------------------------------------------------------- a simulation that would not notice shows nothing


def _no_discount(view, now, due):
    return 0.0


def _slow_is_wedged(view, vital):
    return (vital.beat.oldest_beyond_s or 0.0) >= 1.0


def _no_delay(times, max_delay_s, jitter):
    return 0.0


def _endless_delay(times, max_delay_s, jitter):
    return 1e6 if times > 0 else 0.0


_due_at = decide.due_at


def _condemned_for_ever(view, vital):
    return math.inf if vital.state is WorkerState.CONDEMNED else _due_at(view, vital)


_fill = decide._fill


def _one_seat_forgotten(view, now, old):
    return (action for action in _fill(view, now, old) if getattr(action, "seat", None) != 0)


def _goes_without_a_successor(view, now, old):
    return (action for action in _fill(view, now, old) if not (isinstance(action, Move) and action.reason == "reload"))


def _condemns_early(view, vital):
    early_s = view.settings.stall_s / 2.0 if vital.state is WorkerState.READY else 0.0
    return _due_at(view, vital) - early_s


_renew = events.renew


def _holds_all_against_a_reload(view, settings, now, **more):
    before = view.boot_faults, view.renewed_after
    _renew(view, settings, now, **more)
    view.boot_faults, view.renewed_after = before


def _forgets_who_is_under_way(view, settings, now, **more):
    _renew(view, settings, now, **more)
    view.renewed_after = 0


_cause = events._cause


def _a_disk_is_a_failed_boot(vital, end):
    return _cause(vital, replace(end, disk=False))


BUGS = {
    "the time of a parent that was held up is not given back": (events, "ticked", _no_discount),
    "a slow worker is taken for a wedged one": (decide, "_wedged", _slow_is_wedged),
    "there is no back-off": (restart, "growing", _no_delay),
    "the time in reserve counts as work": (Vital, "begun_at", property(lambda vital: vital.born_at)),
    "a back-off has no cap": (restart, "growing", _endless_delay),
    "the condemned live on": (decide, "due_at", _condemned_for_ever),
    "workers are condemned too early": (decide, "due_at", _condemns_early),
    "one seat is never filled": (decide, "_fill", _one_seat_forgotten),
    "one that is replaced goes before there is another": (decide, "_fill", _goes_without_a_successor),
    "several are replaced at once": (decide, "_replacing", lambda view: False),
    "a ping is sent although the journal is dead": (decide, "_neglected", lambda view, now: None),
    "a ping is withheld although all is well": (decide, "_neglected", lambda view, now: Reason.JOURNAL),
    "a template that hangs is waited for": (decide, "_refork", lambda view, now: []),
    "what failed before a reload is held against it": (events, "renew", _holds_all_against_a_reload),
    "so is what was ordered before it": (events, "renew", _forgets_who_is_under_way),
    "a disk that takes nothing is held against the settings": (events, "_cause", _a_disk_is_a_failed_boot),
    "forks go on although all hang in the kernel": (decide, "_undead", lambda view: 0),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_simulation_finds_what_it_looks_for(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, what = BUGS[bug]
    monkeypatch.setattr(where, name, what)
    if where is restart:
        monkeypatch.setattr(events, "growing", what)
    with pytest.raises(Promise):
        _run_many(60)


def _run_many(seeds: int) -> None:
    for seed in range(seeds):
        run_seed(seed, 5.0)
