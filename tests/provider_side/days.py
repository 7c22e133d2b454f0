"""Simulated days with an outage of every kind: `make days` prints the table of docs/outages.md.

One provider, ten minutes of outage in the middle of a day, a task every ten seconds. The daemon is whole and its clock
simulated (tests.provider_side.world); the outage is the simulated provider's.
"""

import logging
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from captchad.provider.transport import Lost, NotSent
from tests.provider_side.service import Call, Service, Trouble, says
from tests.provider_side.world import World

#: While something is to be noticed, it is looked for so often.
LOOK_S = 0.5

#: After the last task was dropped, all must have ended by then.
QUIET_S = 2 * 3600.0


@dataclass(frozen=True)
class Plan:
    """Seconds: how long tasks are dropped, how often, and when the outage is."""

    load_s: float
    every_s: float
    start_s: float
    outage_s: float


DAY = Plan(load_s=22 * 3600.0, every_s=10.0, start_s=10 * 3600.0, outage_s=600.0)
LONG = replace(DAY, outage_s=4 * 3600.0)
SHORT = Plan(load_s=1000.0, every_s=5.0, start_s=200.0, outage_s=420.0)


@dataclass(frozen=True)
class Day:
    """What one was like; seconds. None: it did not happen."""

    kind: str
    submits: int  # during the outage
    polls: int  # during the outage
    faults: int | None  # that it took until the breaker opened
    noticed_s: float | None  # from the first of them until then
    taken_s: float | None  # from the end of the outage until a submit was taken
    clear_s: float | None  # until nothing waited any more
    tasks: int
    lost: int
    failed: int
    unknown: int
    double: int  # charges beyond the first that no unknown submit explains
    polls_each: float  # for each captcha
    minute: int  # calls in the first minute after the outage
    usual: float  # calls in a usual minute
    burst: int  # submits within 3 s of the first that was taken again


# --- the outages: what each does to a service


def every_call(trouble: Trouble) -> Callable[[Service], None]:
    def begin(service: Service) -> None:
        service.trouble = lambda call: trouble

    return begin


def submits_only(trouble: Trouble) -> Callable[[Service], None]:
    def begin(service: Service) -> None:
        service.trouble = lambda call: trouble if call.op == "submit" else None

    return begin


def code(name: str) -> Trouble:
    return Trouble(says({"status": 0, "request": name}))


def no_money(service: Service) -> None:
    answers = {"submit": code("ERROR_ZERO_BALANCE"), "balance": Trouble(says({"status": 1, "request": "0"}))}
    service.trouble = lambda call: answers.get(call.op)


def no_thread(service: Service) -> None:
    """Zero balance, as CaptchaAI says it: there is money, but no thread is free."""
    threads = Trouble(says({"status": 1, "threads": 5, "working_threads": 5}))
    answers = {"submit": code("ERROR_ZERO_BALANCE"), "threads": threads}
    service.trouble = lambda call: answers.get(call.op)


def unsolvable(service: Service) -> None:
    """Workers give up, and nothing is charged."""

    def strike(call: Call) -> Trouble | None:
        if call.op != "poll" or call.at < service.captchas[call.fields["id"]].ready_at:
            return None
        service.captchas[call.fields["id"]].refunded = True
        return code("ERROR_CAPTCHA_UNSOLVABLE")

    service.trouble = strike


def slow(service: Service) -> None:
    service.solve_s = lambda: 160.0


OUTAGES: dict[str, Callable[[Service], None]] = {
    "connection refused": every_call(Trouble(NotSent("connect: connection refused"))),
    "hang": every_call(Trouble(hang=True)),
    "HTTP 502": every_call(Trouble(says("<html>", 502))),
    "a web page": every_call(Trouble(says("<html>"))),
    "HTTP 429": every_call(Trouble(says("<html>", 429))),
    "SERVER_ERROR": every_call(code("ERROR_SERVER_ERROR")),
    "NO_SLOT": submits_only(code("ERROR_NO_SLOT_AVAILABLE")),
    "no money": no_money,
    "no free thread": no_thread,
    "key refused": every_call(code("ERROR_KEY_DOES_NOT_EXIST")),
    "IP_BANNED": every_call(code("IP_BANNED")),
    "ERROR: 1005": every_call(code("ERROR: 1005")),
    "unsolvable": unsolvable,
    "slow solves": slow,
    "charged, answer lost": submits_only(Trouble(Lost("receive: connection reset by peer"), after=True)),
}


# --- a day


class _Load:
    """Drops a task now and then while time passes."""

    def __init__(self, world: World, every_s: float) -> None:
        self.world = world
        self.tasks = 0
        self._every_s = every_s
        self._due = world.clock.monotonic()

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> float | None:
        """Let time pass; when `until` first held, if it did."""
        clock = self.world.clock
        end = clock.monotonic() + seconds
        found: float | None = None
        while (now := clock.monotonic()) < end:
            if now >= self._due:
                self.tasks += 1
                self._due += self._every_s
                self.world.drop(f"t-{self.tasks}")
            looking = until is not None and found is None
            self.world.run(min(end, self._due, now + LOOK_S if looking else end) - now)
            if looking and until is not None and until():
                found = clock.monotonic()
        return found


def live(kind: str, plan: Plan) -> Day:
    """Simulate one day, or what `plan` says."""
    rng = random.Random(kind)
    service = Service(lambda: min(120.0, rng.lognormvariate(3.0, 0.5)), latency_s=0.2)
    usual = service.solve_s, service.trouble
    with World({"p": service}, workers=2) as world:
        view = world.parent.queue.view
        load = _Load(world, plan.every_s)
        load.run(plan.start_s)
        start = world.clock.monotonic()
        OUTAGES[kind](service)
        opened = load.run(plan.outage_s, lambda: world.breaker("p") != "closed")
        end = world.clock.monotonic()
        service.solve_s, service.trouble = usual
        clear = load.run(plan.load_s - plan.start_s - plan.outage_s, lambda: world.waiting <= 1)
        world.run(QUIET_S, lambda: not view.unfinished)
        again = min((each.taken_at for each in service.captchas.values() if each.taken_at >= end), default=None)
        during = Counter(call.op for call in service.calls if start <= call.at < end)
        return Day(
            kind=kind,
            submits=during["submit"],
            polls=during["poll"],
            faults=None if opened is None else sum(at <= opened for at in service.struck),
            noticed_s=None if opened is None else opened - service.struck[0],
            taken_s=None if again is None else again - end,
            clear_s=None if clear is None else clear - end,
            tasks=load.tasks,
            lost=load.tasks - view.totals.solved - view.totals.dead,
            failed=view.totals.dead,
            unknown=view.totals.unknown_submits,
            double=_double_charges(world, service),
            polls_each=service.count("poll") / len(service.captchas),
            minute=sum(end <= call.at < end + 60.0 for call in service.calls),
            burst=0 if again is None else service.count("submit", again, again + 3.0),
            usual=sum(start - 180.0 <= call.at < start for call in service.calls) / 3.0,
        )


def _double_charges(world: World, service: Service) -> int:
    paid = Counter(captcha.task for captcha in service.captchas.values() if not captcha.refunded)
    return sum(max(0, count - 1 - world.task(task).unknown_submits) for task, count in paid.items())


# --- the table


COLUMNS = (
    ("outage", lambda day: day.kind),
    ("submits in it", lambda day: f"{day.submits}"),
    ("polls in it", lambda day: f"{day.polls}"),
    ("faults until noticed", lambda day: _number(day.faults)),
    ("noticed after, s", lambda day: _number(day.noticed_s)),
    ("taken again after, s", lambda day: _number(day.taken_s)),
    ("backlog gone after, s", lambda day: _number(day.clear_s)),
    ("tasks", lambda day: f"{day.tasks}"),
    ("lost", lambda day: f"{day.lost}"),
    ("failed", lambda day: f"{day.failed}"),
    ("unknown submits", lambda day: f"{day.unknown}"),
    ("double charges", lambda day: f"{day.double}"),
    ("polls a captcha", lambda day: f"{day.polls_each:.1f}"),
    ("calls in the first minute", lambda day: f"{day.minute}"),
    ("in a usual one", lambda day: f"{day.usual:.0f}"),
    ("submits in its first 3 s", lambda day: f"{day.burst}"),
)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(plan: Plan) -> None:
    logging.disable()
    print(line([name for name, _ in COLUMNS]))
    print(line(["---"] * len(COLUMNS)))
    days = [(kind, plan) for kind in OUTAGES]
    if plan is DAY:
        days.append(("connection refused", LONG))
    for kind, each in days:
        day = live(kind, each)
        hours = f", {each.outage_s / 3600.0:.0f} h" if each is LONG else ""
        print(line([show(day) for _, show in COLUMNS]).replace(kind, kind + hours, 1), flush=True)


if __name__ == "__main__":
    main(SHORT if "--short" in sys.argv else DAY)
