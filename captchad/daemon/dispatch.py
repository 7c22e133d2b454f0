"""Who does what: orders submits, hands captchas to workers, takes their outcomes to the queue.

A record first, then its effect: a submit is piped after `submitting` is committed, an outcome is acknowledged and a
captcha polled after its record is. Decisions come from `captchad.policy`; this is the one place that carries them out.
"""

__all__ = ["Dispatcher"]

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice

from captchad.daemon.accounts import Accounts
from captchad.daemon.asks import Asks
from captchad.daemon.doubts import Doubts
from captchad.daemon.poll_plans import PollPlans
from captchad.daemon.providers import OUR_OWN, Providers, ProviderSettings
from captchad.daemon.spending import Spending
from captchad.ipc.channel import Message
from captchad.model.clock import Clock
from captchad.model.errors import JournalDamaged, JournalDown, TaskError
from captchad.model.logevents import Event, fields
from captchad.model.states import Category, State
from captchad.model.task import form_fields, load_json, parse_task
from captchad.policy import deadlines, routing, turns
from captchad.policy.degradation import Degradation, Mode
from captchad.policy.forecast import Group
from captchad.provider.resolver import STARVED
from captchad.queue.lines import Takes
from captchad.queue.queue import Queue
from captchad.queue.task import Captcha, Task, WorkerKey
from captchad.supervisor.worker import Worker

#: Orders a turn: a slice, so that a long queue does not hold up heartbeats.
ORDERS_A_TURN = 128

#: A captcha that outlived its time-out is polled on, slowly, until it is so many time-outs old.
LATE_LIFE_FACTOR = 5.0

#: A captcha that was found in the journal, or has another time-out by a reload, is polled for so long at least, however
#: old it is: it may be solved by now.
RESUMED_S = 30.0

#: When a suspension is over, polls begin again at so many different times within `poll_s`.
SPREAD = 20

#: A submit that a worker has not begun within this part of `stall_s` is given back: a worker that hung meanwhile
#: must not begin it when it wakes up.
LEASE_PART = 0.5


@dataclass(slots=True)
class _Load:
    """What one worker has on its hands."""

    worker: Worker
    submits: dict[int, str] = field(default_factory=dict)  # n -> provider
    begun: set[int] = field(default_factory=set)
    executing: set[int] = field(default_factory=set)
    polls: set[int] = field(default_factory=set)
    ward_of: str | None = None  # the suspect that has this worker for itself


class Dispatcher:
    """Implements `captchad.supervisor.worker.Duties`."""

    def __init__(
        self,
        queue: Queue,
        clock: Clock,
        providers: Providers,
        stall_s: float,
        worker_config: Callable[[], Message],
        forget_side_file: Callable[[WorkerKey], None],
        log: logging.Logger,
    ) -> None:
        self.queue = queue
        self.providers = providers
        providers.watch(lambda: self.queue.view.in_flight, self._submitting)
        self.spending = Spending(queue)
        self.stall_s = stall_s
        self.draining = False
        self.degradation = Degradation()  # the mode; who judges it sets it
        self.share = 1.0  # of the workers' threads that may be used
        self._clock = clock
        self._worker_config = worker_config
        self._forget_side_file = forget_side_file
        self._log = log
        self._booted: dict[WorkerKey, Worker] = {}  # in reserve, too
        self._loads: dict[WorkerKey, _Load] = {}
        self._poller: dict[int, _Load] = {}  # captcha -> who polls it
        self._polled: Counter[int] = Counter()  # captcha -> how often, since the start
        self._unpolled: dict[int, None] = {}
        self._poll_plans = PollPlans()
        self._assign_soon = False  # captchas wait for the next turn, not for an event
        self._order_soon = False  # and so do tasks
        self._timeouts: list[tuple[float, int, bool]] = []  # when, attempt, whether it is late already
        self._held: dict[str, float] = {}  # provider -> until when its captchas are not polled
        self._suspects: dict[str, None] = {}
        self._recalled = False
        self._waiting_said: dict[str, str] = {}
        self._since_aged = 0  # submits since one was ordered because its task had waited longest
        self.asks = Asks(clock, self._free_to_ask)
        self.accounts = Accounts(clock, providers, self.asks, log)
        self.doubts = Doubts(clock, providers, self.asks, log)

    # ---------------------------------------------------------------- providers

    def set_providers(self, providers: Mapping[str, ProviderSettings]) -> None:
        """Take a new configuration, and tell the workers."""
        before = {name: lane.settings for name, lane in self.providers.lanes.items()}
        self.providers.configure(providers, self.keys_in_use)
        self.accounts.configure(providers)
        for worker in self._booted.values():
            worker.send(self._worker_config())
        self._time_anew({name: old for name, old in before.items() if name in providers})

    def _time_anew(self, before: Mapping[str, ProviderSettings]) -> None:
        """Captchas in flight are polled, and time out, by the present settings where `before` had other times."""
        lanes, view = self.providers.lanes, self.queue.view
        changed = {name for name, old in before.items() if old.times != lanes[name].settings.times}
        captchas = [captcha for captcha in view.captchas.values() if captcha.provider in changed]
        moved: dict[int, Captcha] = {}
        for captcha in captchas:
            if before[captcha.provider].timeout_of(view.tasks[captcha.task_id].method) != self._timeout_s(captcha):
                moved[captcha.n] = captcha
            load = self._poller.get(captcha.n)
            if load is not None:
                load.worker.send(self._poll_message(captcha, polled=self._polled[captcha.n]))
        if moved:
            self._timeouts = [each for each in self._timeouts if each[1] not in moved]
            heapq.heapify(self._timeouts)
            for captcha in moved.values():
                self._adopt(captcha, at_least_s=RESUMED_S)

    @property
    def keys_in_use(self) -> set[tuple[str, str]]:
        """The keys of the captchas and submits under way, with their providers."""
        view = self.queue.view
        in_use = {(captcha.provider, captcha.key_id) for captcha in view.captchas.values()}
        return in_use | {(attempt.provider, attempt.key_id) for attempt in view.attempts.values()}

    def resume(self) -> None:
        """After a start: poll every captcha that the journal knows, under its id."""
        for captcha in self.queue.view.captchas.values():
            self._unpolled[captcha.n] = None
            self._adopt(captcha, at_least_s=RESUMED_S)
            self.providers.count_without_key(captcha.provider, captcha.key_id)
        for lane in self.providers.lanes.values():
            if lane.without_key:
                self._log.warning(
                    f"provider {lane.name}: {lane.without_key} captchas were submitted with a key or address that is"
                    " gone; they are polled with the present one",
                    extra=fields(Event.KEY_GONE, provider=lane.name),
                )

    def _adopt(self, captcha: Captcha, *, at_least_s: float = 0.0) -> None:
        lane = self.providers.lanes.get(captcha.provider)
        timeout_s = self._timeout_s(captcha) if lane else 180.0
        age_s = max(0.0, self.queue.now() - captcha.submitted_at)
        life_s = timeout_s * (LATE_LIFE_FACTOR if captcha.late else 1.0)
        left_s = max(min(at_least_s, timeout_s), life_s - age_s)
        heapq.heappush(self._timeouts, (self._clock.monotonic() + left_s, captcha.n, captcha.late))

    def _timeout_s(self, captcha: Captcha) -> float:
        settings = self.providers.lanes[captcha.provider].settings
        return settings.timeout_of(self.queue.view.tasks[captcha.task_id].method)

    # ---------------------------------------------------------------- one turn

    def turn(self) -> None:
        """Everything that may be decided now, in bounded slices."""
        self._close_polls()
        self._time_out()
        # Also when nothing is ordered: what is overdue and still delayed would wake us up for ever.
        self.queue.view.ripen(self.queue.now())
        if not self.queue.accepts_work:
            self._recall()
        else:
            self._recalled = False
        self._run_suspects()
        if self._may_submit:
            self._order_submits()
        self._assign_polls()
        self.providers.forget_left(self.queue.view.in_flight)

    @property
    def _may_submit(self) -> bool:
        """Whether new submits may be ordered. What is paid for is polled in any case."""
        return self.queue.accepts_work and not self.draining

    def tick(self) -> None:
        """What is due about once a second."""
        self.asks.expire()
        self.accounts.turn()
        self.doubts.turn()
        self._say_waiting()

    def waiting(self) -> dict[str, str]:
        """Why tasks wait: caps that are reached, methods that nobody offers; by names that stay the same."""
        found = {f"cap {problem.partition(' = ')[0]}": problem for problem in self.spending.problems()}
        for method, count in sorted(self.queue.view.aside.items()):
            if count and not self.providers.offering(method):
                tasks = "1 task waits" if count == 1 else f"{count} tasks wait"
                found[f"method {method}"] = f"{tasks} for a provider that offers {method}"
        return found

    def _say_waiting(self) -> None:
        """In the log, when it begins and when it ends."""
        before, self._waiting_said = self._waiting_said, self.waiting()
        for name in self._waiting_said.keys() - before.keys():
            self._log.warning(self._waiting_said[name], extra=fields(Event.TASKS_WAIT, reason=name.partition(" ")[0]))
        for name in before.keys() - self._waiting_said.keys():
            self._log.info(f"over: {before[name]}", extra=fields(Event.TASKS_GO_ON, reason=name.partition(" ")[0]))

    def wait_s(self) -> float | None:
        """Seconds until something here becomes due; None when nothing will by itself."""
        if self._assign_soon and any(load.worker.usable and load.ward_of is None for load in self._loads.values()):
            return 0.0
        if self._order_soon and self._may_submit:
            return 0.0
        now = self._clock.monotonic()
        times = [self._timeouts[0][0] - now] if self._timeouts else []
        due_at = self.queue.view.next_due()
        if due_at is not None:
            times.append(due_at - self.queue.now())
        if self.queue.view.lines["ready"]:
            times += [at - now for at in self.providers.next_tries(now)]
            times += [at - self._clock.time() for at in self.spending.next_room()]
        return max(0.0, min(times)) if times else None

    def _order_submits(self) -> None:
        self._order_soon = False
        for _ in range(ORDERS_A_TURN):
            task, aged = self._next_task()
            if task is None:
                self._order_soon = self.queue.view.unseen
                return
            if self._is_too_late(task):
                continue
            if (room_at := self.spending.tag_room_at(task)) is not None:
                self.queue.view.postpone(task, room_at)
                continue
            place = self._choose_place(self.providers.offering(task.method))
            if place is not None and task.tried and not self.providers.may_retry(place[0]):
                self.queue.wait_for_budget(task)
                continue
            if place is None or not self._order(task, *place):
                return
            self._since_aged = turns.after(self._since_aged, aged=aged)
        self._order_soon = True

    def _next_task(self) -> tuple[Task | None, bool]:
        """The task whose turn it is, and whether that is for its age."""
        view, takes = self.queue.view, self._takes()
        # Where lower priorities wait, or a full queue is worked off by priority, age lifts nobody.
        if self.degradation.mode is Mode.NORMAL and turns.by_age(self._since_aged):
            aged = view.peek_aged(self.queue.now() - turns.AGED_S, self._suspects, takes)
            if aged is not None:
                return aged, True
        return view.peek_ready(self._suspects, self.degradation.bar, takes), False

    def _takes(self) -> Takes | None:
        """Which methods can be submitted now; None when it makes no difference, since all can be or none."""
        if not self.providers.differ or self._choose_place(self.providers.configured) is None:
            return None
        return cache(lambda method: self._choose_place(self.providers.offering(method)) is not None)

    def _is_too_late(self, task: Task) -> bool:
        """Whether no provider can answer it before its deadline; then it is not ready any more."""
        if task.deadline_at is None:
            return False
        lanes = [lane for lane in self.providers.lanes.values() if not lane.leaving]
        least_s = min((self._poll_plans.first_poll_s(task.method, lane.settings) for lane in lanes), default=0.0)
        if deadlines.can_make(task.deadline_at, self._clock.time(), least_s):
            return False
        self.queue.give_up(task)
        return True

    def _choose_place(self, names: list[str]) -> tuple[str, _Load] | None:
        """Which of the providers takes the next submit, and the worker that sends it; None when there is no such pair.

        Each provider has its share of a worker's threads: one that hangs must not hold those of the others.
        """
        free = [
            (load, Counter(load.submits.values()))
            for load in self._loads.values()
            if load.worker.usable and load.ward_of is None and len(load.submits) < self._submits_at(load)
        ]
        several = len(self.providers.configured)
        fit = {
            name: [load for load, submits in free if submits[name] < routing.share(self._submits_at(load), several)]
            for name in self.spending.within(names)
        }
        provider = self.providers.choose({name for name, loads in fit.items() if loads})
        if provider is None:
            return None
        return provider, min(fit[provider], key=lambda load: (len(load.submits), len(load.polls)))

    def _submits_at(self, load: _Load) -> int:
        """Submits that a worker may have on its hands: as many as it has threads, fewer while the system is short."""
        return max(1, int(load.worker.threads * self.share))

    def under_way(self) -> list[Group]:
        """What has to end before nothing is under way any more. Submits end by their deadlines."""
        now = self.queue.now()
        counts: Counter[tuple[str, str, int]] = Counter()
        for captcha in self.queue.view.captchas.values():
            if not captcha.late and captcha.provider in self.providers.lanes:
                method = self.queue.view.tasks[captcha.task_id].method
                counts[captcha.provider, method, int(max(0.0, now - captcha.submitted_at))] += 1
        unsolved = cache(self._poll_plans.unsolved)
        groups = []
        for (provider, method, age_s), count in counts.items():
            left_s = max(0.0, self.providers.lanes[provider].settings.timeout_of(method) - age_s)
            groups.append(Group(count, age_s, left_s, unsolved(provider, method)))
        for attempt in self.queue.view.attempts.values():
            if (lane := self.providers.lanes.get(attempt.provider)) is not None:
                method = self.queue.view.tasks[attempt.task_id].method
                left_s = lane.settings.submit_s + lane.settings.timeout_of(method)
                groups.append(Group(1, 0.0, left_s, unsolved(attempt.provider, method)))
        return groups

    @property
    def busy(self) -> float:
        """Which part of the threads for submits is in use."""
        threads = sum(load.worker.threads for load in self._loads.values() if load.worker.usable)
        return sum(len(load.submits) for load in self._loads.values()) / threads if threads else 0.0

    def _choose_provider(self, method: str) -> str | None:
        return self.providers.choose(self.spending.within(self.providers.offering(method)))

    def _submitting(self) -> Counter[str]:
        return Counter(provider for load in self._loads.values() for provider in load.submits.values())

    def _free_to_ask(self) -> Iterator[Worker]:
        return (load.worker for load in self._loads.values() if load.worker.usable and load.ward_of is None)

    def _order(self, task: Task, provider: str, load: _Load) -> bool:
        """Order a submit. False when the task cannot be read at this moment: it keeps its place."""
        try:
            form = form_fields(parse_task(load_json(self.queue.payload(task))))
        except (JournalDamaged, TaskError) as error:
            about = fields(Event.TASK_UNREADABLE, task=task.id)
            self._log.error(f"task {task.id}: its record cannot be read: {error}", extra=about)
            self.queue.bury_damaged(task, str(error))
            return True
        except JournalDown as error:
            about = fields(Event.TASK_UNREADABLE, task=task.id)
            self._log.error(f"task {task.id}: its record cannot be read now: {error}", extra=about)
            return False
        lease_s = self.stall_s * LEASE_PART
        if task.deadline_at is not None:
            lease_s = min(lease_s, task.deadline_at - self._clock.time())
        key_id = self.providers.lanes[provider].settings.key.id
        again = task.tried
        n = self.queue.order(task, provider, load.worker.key, key_id, self.spending.tag_of(task))
        self.providers.ordered(provider, again=again)
        load.submits[n] = provider
        message = {
            "m": "submit",
            "n": n,
            "provider": provider,
            "key": key_id,
            "fields": form,
            "lease_s": lease_s,
        }
        self.queue.after_commit(lambda: self._send_submit(load, n, message))
        return True

    def _send_submit(self, load: _Load, n: int, message: Message) -> None:
        if n in load.submits and load.worker.usable:
            load.worker.send(message)
        elif load.submits.pop(n, None) is not None:
            self.queue.not_sent(n, "never began", backoff=False)

    # ---------------------------------------------------------------- polls

    def _assign_polls(self) -> None:
        self._assign_soon = False
        if not self._unpolled:
            return
        loads = [load for load in self._loads.values() if load.worker.usable and load.ward_of is None]
        if not loads:
            return
        before = len(self._unpolled)
        for n in list(islice(self._unpolled, ORDERS_A_TURN)):
            captcha = self.queue.view.captchas.get(n)
            if captcha is None:
                del self._unpolled[n]
            elif captcha.task_id in self._suspects or captcha.provider not in self.providers.lanes:
                # A suspect waits for a worker of its own; it goes to the end of the line.
                del self._unpolled[n]
                self._unpolled[n] = None
            else:
                self._poll_at(min(loads, key=lambda load: len(load.polls)), captcha)
        self._assign_soon = 0 < len(self._unpolled) < before

    def _poll_at(self, load: _Load, captcha: Captcha, *, at_once: bool = False) -> None:
        self._unpolled.pop(captcha.n, None)
        self._poller[captcha.n] = load
        load.polls.add(captcha.n)
        load.worker.send(self._poll_message(captcha, at_once=at_once))

    def _poll_message(self, captcha: Captcha, *, at_once: bool = False, polled: int | None = None) -> Message:
        settings = self.providers.lanes[captcha.provider].settings
        task = self.queue.view.tasks[captcha.task_id]
        age_s = max(0.0, self.queue.now() - captcha.submitted_at)
        late_life_s = self._timeout_s(captcha) * LATE_LIFE_FACTOR if captcha.late else 0.0
        timing = self._poll_plans.timing(task.method, settings, age_s, late_life_s=late_life_s, polled=polled)
        if at_once:
            timing |= {"first_in_s": 0.0, "gaps_s": [timing["first_in_s"], *timing["gaps_s"]]}
        # Not all at the same moment, when a suspension ends or a reload leaves nothing of the plan: that is a flood.
        spread_s = settings.poll_s * (captcha.n % SPREAD) / SPREAD
        suspended_s = self.providers.suspended_s(captcha.provider)
        if suspended_s > 0.0:
            timing["first_in_s"] = max(timing["first_in_s"], suspended_s + spread_s)
        elif polled is not None and not timing["first_in_s"]:
            timing["first_in_s"] = spread_s
        return {
            "m": "poll",
            "n": captcha.n,
            "provider": captcha.provider,
            "key": self.providers.key_for(captcha.provider, captcha.key_id),
            "cid": captcha.cid,
            **timing,
        }

    def _hold_polls(self, provider: str, n: int) -> None:
        """It refuses every call for a time, if it does, and calls prolong that: no poll before its end.

        `n` is the captcha or submit that was told so. One whose poll was under way then is told so, too, and waits.
        """
        now = self._clock.monotonic()
        until = now + self.providers.suspended_s(provider)
        if until == now:
            return
        known = self._held.get(provider, 0.0) > now
        self._held[provider] = until
        for each, load in self._poller.items() if not known else [(n, self._poller.get(n))]:
            captcha = self.queue.view.captchas.get(each)
            if load is not None and captcha is not None and captcha.provider == provider:
                load.worker.send(self._poll_message(captcha))

    def _learn(self, n: int, waited_s: float | None) -> None:
        """Captcha `n` is solved; `waited_s` after this worker's poll before, which said not ready, if there was one."""
        captcha = self.queue.view.captchas.get(n)
        if captcha is not None and not captcha.late:
            high_s = max(0.0, self.queue.now() - captcha.submitted_at)
            low_s = 0.0 if waited_s is None else high_s - waited_s
            method = self.queue.view.tasks[captcha.task_id].method
            self._poll_plans.learn(captcha.provider, method, low_s, high_s)

    def _close_polls(self) -> None:
        """Captchas that the view has closed need no more polls."""
        closed, self.queue.view.closed = self.queue.view.closed, []
        for n in closed:
            self._unpolled.pop(n, None)
            self._polled.pop(n, None)
            load = self._poller.pop(n, None)
            if load is not None:
                load.polls.discard(n)
                load.executing.discard(n)  # after a `drop` the worker says nothing more about it
                # The worker forgets its answer then: not before that is on disk.
                self.queue.after_commit(partial(load.worker.send, {"m": "drop", "n": n}))

    def _take_polls_from(self, load: _Load, *, tell: bool) -> None:
        for n in load.polls:
            self._poller.pop(n, None)
            self._unpolled[n] = None
            if tell:
                load.executing.discard(n)
                load.worker.send({"m": "drop", "n": n})
        load.polls.clear()

    def _time_out(self) -> None:
        now = self._clock.monotonic()
        while self._timeouts and self._timeouts[0][0] <= now:
            _, n, late = heapq.heappop(self._timeouts)
            captcha = self.queue.view.captchas.get(n)
            if captcha is None or captcha.late != late:
                continue
            if captcha.late:
                self.queue.give_up_late(captcha)
                continue
            if self._must_wait(captcha):
                heapq.heappush(self._timeouts, (now + RESUMED_S, n, False))
                continue
            self.queue.timed_out(captcha)
            self.providers.timed_out(captcha.provider)
            if n in self.queue.view.captchas:
                self._slow_down(captcha)

    def _must_wait(self, captcha: Captcha) -> bool:
        """Whether a captcha has timed out in an outage that leaves no other provider to submit it to.

        Another submit could not go anywhere now, and would be paid for while this one's answer may lie ready.
        """
        lane = self.providers.lanes.get(captcha.provider)
        if lane is None or not self.providers.outage(captcha.provider):
            return False
        age_s = self.queue.now() - captcha.submitted_at
        task = self.queue.view.tasks[captcha.task_id]
        nobody_else = self._choose_provider(task.method) in (None, captcha.provider)
        return nobody_else and age_s < self._timeout_s(captcha) * LATE_LIFE_FACTOR

    def _slow_down(self, captcha: Captcha) -> None:
        lane = self.providers.lanes.get(captcha.provider)
        if lane is None:
            return
        life_s = self._timeout_s(captcha) * (LATE_LIFE_FACTOR - 1.0)
        heapq.heappush(self._timeouts, (self._clock.monotonic() + life_s, captcha.n, captcha.late))
        load = self._poller.get(captcha.n)
        if load is not None:
            load.worker.send(self._poll_message(captcha))

    # ---------------------------------------------------------------- suspects

    def _run_suspects(self) -> None:
        """Each suspect runs in a worker of its own; the captchas there move to the others meanwhile."""
        if not self._suspects:
            return
        for load in self._loads.values():
            if load.ward_of is not None and load.ward_of not in self._suspects:
                load.ward_of = None
        usable = [load for load in self._loads.values() if load.worker.usable]
        wards = sum(load.ward_of is not None for load in usable)
        for task_id in list(self._suspects):
            task = self.queue.view.tasks.get(task_id)
            if task is None or task.state.ended:
                self._clear(task_id)
                continue
            ward = next((load for load in usable if load.ward_of == task_id), None)
            if ward is not None and not self._is_at(ward, task_id) and not self._runnable(task):
                ward.ward_of = None  # it may take long until it can run; the others need the worker
                wards -= 1
                continue
            if ward is None and wards < max(1, len(usable) // 2) and self._runnable(task):
                ward = min((load for load in usable if load.ward_of is None), key=_weight, default=None)
                if ward is not None:
                    ward.ward_of = task_id
                    wards += 1
                    self._take_polls_from(ward, tell=True)
            if ward is not None and not ward.executing and not ward.submits and not ward.polls:
                self._run_alone(task, ward)

    def _runnable(self, task: Task) -> bool:
        if task.state is State.SUBMITTED:
            captcha = self.queue.view.captchas.get(task.n)
            return task.n in self._unpolled and captcha is not None and captcha.provider in self.providers.lanes
        if not self._may_submit or task.priority > self.degradation.bar or self.spending.tag_room_at(task) is not None:
            return False
        waits = task.state is State.PENDING and task.where == "ready"
        return waits and self._choose_provider(task.method) is not None

    def _is_at(self, load: _Load, task_id: str) -> bool:
        return any(self._task_id(n) == task_id for n in (*load.submits, *load.polls))

    def _run_alone(self, task: Task, ward: _Load) -> None:
        captcha = self.queue.view.captchas.get(task.n)
        if task.state is State.SUBMITTED and captcha is not None and captcha.provider in self.providers.lanes:
            self._poll_at(ward, captcha, at_once=True)
        elif self._runnable(task) and not self._is_too_late(task):
            provider = self._choose_provider(task.method)
            if provider is not None:
                self._order(task, provider, ward)

    def _clear(self, task_id: str) -> None:
        """The suspect has come through: it goes back among the others."""
        self._suspects.pop(task_id, None)
        for load in self._loads.values():
            if load.ward_of == task_id:
                load.ward_of = None

    def _cleared_if_alone(self, load: _Load, n: int) -> None:
        if load.ward_of is not None and load.ward_of == self._task_id(n):
            self._clear(load.ward_of)

    def _task_id(self, n: int) -> str | None:
        view = self.queue.view
        known = view.attempts.get(n) or view.captchas.get(n)
        return known.task_id if known else None

    # ---------------------------------------------------------------- what workers say (Duties)

    def on_boot(self, worker: Worker) -> None:
        self._booted[worker.key] = worker
        worker.send(self._worker_config())

    def on_ready(self, worker: Worker) -> None:
        self._loads[worker.key] = _Load(worker)

    def on_limit(self, share: float) -> None:
        self.share = share

    def on_message(self, worker: Worker, message: Message) -> None:
        load = self._loads.get(worker.key)
        if load is None:
            return
        n = message.get("n", 0)
        match message["m"]:
            case "begin" if n in load.submits:
                load.begun.add(n)
                load.executing.add(n)
            case "exec":
                # One that crossed a `drop` on the pipes is not followed by a `done`: it would count for ever.
                if n in load.polls:
                    load.executing.add(n)
                    self._polled[n] += 1
            case "done":
                load.executing.discard(n)
                self._cleared_if_alone(load, n)
            case "fault":
                category = Category(message["category"])
                self.providers.fault(message["provider"], message["op"], message["code"], category, self._key_of(n))
                self._hold_polls(message["provider"], n)
            case "ok":
                self.providers.note(message["provider"], "poll", "ok")
                self.providers.poll_answered(message["provider"], self._key_of(n))
            case "told":
                self.asks.told(message)
            case "out":
                load.executing.discard(n)
                self._cleared_if_alone(load, n)
                self.outcome(n, message, load)
                self.queue.after_commit(lambda: worker.send({"m": "ack", "n": n}))

    def outcome(self, n: int, message: Message, load: _Load | None = None) -> None:
        """Take one outcome, from a pipe or from a side file (`load` is None then), to the queue."""
        provider, key_id = self._provider_of(n), self._key_of(n)
        match message["o"]:
            case "submitted":
                self._submitted(n, message["cid"], provider, key_id, load)
            case "refused":
                category = Category(message["category"])
                outage = self.providers.outage(provider)
                present = self.providers.is_present_key(provider, key_id)
                if not (present and self.accounts.refused(provider, message["code"])):
                    self.providers.fault(provider, "submit", message["code"], category, key_id)
                    self._hold_polls(provider, n)
                self.queue.refused(n, message["code"], category, message.get("text", ""), outage=outage)
            case "not_sent":
                self._not_sent(n, provider, key_id, message.get("reason", ""))
            case "unknown":
                outage = self.providers.outage(provider)
                self.providers.fault(provider, "submit", "UNPARSEABLE", Category.TRANSIENT, key_id)
                self.queue.unknown(n, message.get("reason", ""), by_crash=False, outage=outage)
            case "solved":
                if load is not None:  # one from a side file was answered nobody knows when
                    self._learn(n, message.get("waited_s"))
                self.providers.ended(provider, "solved", key_id)
                answer = {key: message.get(key) for key in ("token", "answer", "extra")}
                self.queue.solved(n, answer, self.providers.price(provider, message.get("extra")))
            case "failed":
                self.providers.ended(provider, "failed", key_id)
                self.providers.note(provider, "poll", message["code"])
                self.queue.failed(n, message["code"], Category(message["category"]), message.get("text", ""))
            case unknown:
                raise ValueError(f"an outcome of an unknown kind: {unknown!r}")
        if load is not None:
            load.submits.pop(n, None)
            load.begun.discard(n)

    def _submitted(self, n: int, cid: str, provider: str, key_id: str, load: _Load | None) -> None:
        known = n in self.queue.view.captchas
        self.queue.submitted(n, cid)
        self.providers.submit_taken(provider, key_id)
        if self.providers.is_present_key(provider, key_id):
            self.accounts.submit_taken(provider)
        captcha = self.queue.view.captchas.get(n)
        if captcha is None or known:
            return  # its task has ended meanwhile: recorded and counted, not polled; or it is said for the second time
        self._adopt(captcha)
        self.queue.after_commit(lambda: self._begin_polls(load, n))

    def _begin_polls(self, load: _Load | None, n: int) -> None:
        """Its id is on disk: the worker that submitted it polls it, if it can."""
        captcha = self.queue.view.captchas.get(n)
        if captcha is None or n in self._poller:
            return
        fit = load is not None and load.worker.usable and load.ward_of is None
        if load is not None and fit and captcha.task_id not in self._suspects:
            self._poll_at(load, captcha)
        else:
            self._unpolled[n] = None
            self._assign_soon = True

    def _not_sent(self, n: int, provider: str, key_id: str, reason: str) -> None:
        # These are ours, too, but may come again at once and for ever.
        lasting = reason.startswith("exception: ") or STARVED in reason
        ours = reason in OUR_OWN or lasting
        if not ours:
            self.providers.fault(provider, "submit", "NETWORK", Category.TRANSIENT, key_id)
        self.queue.not_sent(n, reason, backoff=not ours or lasting)

    def on_retire(self, worker: Worker) -> None:
        load = self._loads.get(worker.key)
        if load is not None:
            self._take_polls_from(load, tell=True)

    def on_death(self, worker: Worker, kind: str) -> list[str]:
        self._booted.pop(worker.key, None)
        load = self._loads.pop(worker.key, None)
        suspects: list[str] = []
        if load is not None:
            executing = list(load.executing) if kind != "exit" else []
            suspects = [task_id for n in executing if (task_id := self._task_id(n)) is not None]
            attempts = self.queue.view.attempts.values()
            for n in [attempt.n for attempt in attempts if attempt.worker == worker.key]:
                if n in load.begun:
                    self.queue.unknown(n, "its worker died", by_crash=True)
                else:
                    self.queue.not_sent(n, "worker died", backoff=False)
            for task_id in suspects:
                self._suspect(task_id, alone=load.ward_of == task_id, stall=kind == "stall")
            self._take_polls_from(load, tell=False)
        self.asks.worker_died(worker.key)
        self.queue.after_commit(lambda: self._forget_side_file(worker.key))
        return suspects

    def _suspect(self, task_id: str, *, alone: bool, stall: bool) -> None:
        self._suspects[task_id] = None
        self.queue.crashed(task_id, alone=alone, stall=stall)

    def _provider_of(self, n: int) -> str:
        view = self.queue.view
        known = view.attempts.get(n) or view.captchas.get(n)
        return known.provider if known else ""

    def _key_of(self, n: int) -> str:
        """The id of the key that a call has, or had; "" when it is not known."""
        view = self.queue.view
        known = view.attempts.get(n) or view.captchas.get(n)
        return known.key_id if known else ""

    # ---------------------------------------------------------------- stopping work

    def _recall(self) -> None:
        """The journal takes nothing more: what has not begun comes back."""
        if not self._recalled:
            self._recalled = True
            for load in self._loads.values():
                load.worker.send({"m": "recall"})

    @property
    def suspects_wait(self) -> bool:
        """Whether a suspect could run now if a worker were free of others."""
        tasks = (self.queue.view.tasks.get(task_id) for task_id in self._suspects)
        return any(task is not None and self._runnable(task) for task in tasks)

    def polls_of(self, worker: Worker) -> int:
        load = self._loads.get(worker.key)
        return len(load.polls) + len(load.submits) if load else 0


def _weight(load: _Load) -> int:
    return len(load.submits) + len(load.polls)
