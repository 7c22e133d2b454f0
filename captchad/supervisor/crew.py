"""The workers: forked, followed by their heartbeats, replaced when they die or hang.

What is to be done is decided by `captchad.supervisor.core`; here it is carried out, and the core is told what happened.
The crew knows processes, not tasks: what a worker says about tasks goes to `Duties`, and so does its death, after its
pipe has been read dry. Every action and every death is logged with its reason, and told to the `Office`.
"""

__all__ = ["Crew"]

import errno
import logging
import math
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from typing import Any

from captchad.ipc.channel import Channel, Message
from captchad.ipc.loop import Loop, Timer
from captchad.model.clock import Clock
from captchad.model.errors import FixInput
from captchad.model.logevents import Event, fields
from captchad.supervisor.chronicle import Chronicle, how, place
from captchad.supervisor.core import events
from captchad.supervisor.core.actions import (
    Abandon,
    Action,
    Condemn,
    Kill,
    Limit,
    Move,
    Ping,
    Refork,
    Retire,
    Scale,
    Start,
    Withhold,
)
from captchad.supervisor.core.decide import UNDYING_S, decide, next_due
from captchad.supervisor.core.events import End
from captchad.supervisor.core.restart import SHORT_LIFE_S
from captchad.supervisor.core.states import FAULTS, STALLS, Reason, WorkerState
from captchad.supervisor.core.view import Beat, Seat, Settings, View, Vital
from captchad.supervisor.process import Child, reap, send_signal
from captchad.supervisor.template import Template
from captchad.supervisor.worker import Duties, Office, Worker

#: Rounds of decisions in one look. Each leaves less to be done, so that a few always do.
ROUNDS = 64

#: A worker whose pipe is closed is given so long to be dead.
CLOSED_S = 1.0

#: No template is made sooner after the one before it.
RENEW_S = 1.0

#: What a refused fork is short of.
_SIGNS = {
    errno.EMFILE: Reason.DESCRIPTORS,
    errno.ENFILE: Reason.DESCRIPTORS,
    errno.EAGAIN: Reason.PROCESSES,
    errno.ENOMEM: Reason.PROCESSES,
}


class Crew:
    """Keeps `view.target` workers alive. `tick` is called about once a heartbeat."""

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        clock: Clock,
        rng: random.Random,
        duties: Duties,
        office: Office,
        template: Template,
        order: Callable[[int, int], Message],
        log: logging.Logger,
        out_of_memory: Callable[[], bool] = lambda: False,
    ) -> None:
        """`order(epoch, number)` is what the template's child is to be told.

        `out_of_memory` is asked after a SIGKILL that was not ours: whether the kernel has counted one more since.
        """
        self.view = View(settings, settings.workers)
        self.epoch = 0
        self.threads = 1
        self.chronicle = Chronicle(office, log)
        self.beats_read = 0  # reads of pipes that brought a heartbeat and nothing else
        self._loop = loop
        self._clock = clock
        self._rng = rng
        self._duties = duties
        self._office = office
        self._template = template
        self._order = order
        self._log = log
        self._out_of_memory = out_of_memory
        self._workers: dict[int, Worker] = {}
        self._look: Timer | None = None
        self._made_at = -math.inf  # when the template was made
        self._next_tick = math.inf
        self._due = math.inf  # when the loop should turn for this; what it is later, the parent was held up

    # ---------------------------------------------------------------- who is there

    @property
    def workers(self) -> list[Worker]:
        return list(self._workers.values())

    @property
    def seats(self) -> list[Seat]:
        return self.view.seats

    @property
    def leaving(self) -> bool:
        """Whether there are workers that a stop has to wait for. Not for those that no signal ends."""
        late = self._clock.monotonic() - UNDYING_S
        vitals = [worker.vital for worker in self._workers.values()]
        return any(vital.state is not WorkerState.KILLED or vital.since > late for vital in vitals)

    def replace_template(self) -> None:
        """It has not done what somebody else has ordered."""
        self._carry_out(Refork(Reason.TEMPLATE_HUNG), self._clock.monotonic())
        self.look_soon()

    @property
    def pids(self) -> set[int]:
        """Children that are the crew's to reap."""
        return {worker.pid for worker in self._workers.values()} | {self._template.child.pid}

    def sitting(self, seat: Seat) -> Worker | None:
        """Who sits there."""
        return None if seat.worker is None else self._workers.get(seat.worker)

    def is_unsettled(self, seat: Seat) -> bool:
        """Whether nobody has sat there for long enough to say that it is well."""
        vital = None if seat.worker is None else self.view.vitals[seat.worker]
        return vital is None or not vital.usable or self._clock.monotonic() - vital.begun_at < SHORT_LIFE_S

    @property
    def alive(self) -> int:
        """Workers whose heartbeats come and who may be given work."""
        return self.view.alive

    # ---------------------------------------------------------------- life

    def start(self, epoch: int) -> None:
        """Fork all workers. The epoch is committed already: no number of it was ever used before."""
        self.epoch = self.chronicle.epoch = epoch
        self._watch_template()
        events.rescale(self.view, self.view.target, Reason.START, self._clock.monotonic())
        self.look()

    def watch_over(self, every_s: float | None) -> None:
        """From now on systemd is to be told so often that all is well; None: nobody asks."""
        self.view.watchdog.every_s = every_s
        self.view.watchdog.next_at = self._clock.monotonic()
        self.look_soon()

    def renew(self, settings: Settings, *, replace_all: Reason | None = None) -> None:
        """Take other settings; `replace_all` says why every worker is to be replaced by a new one, if so."""
        before = self.view.target
        events.renew(self.view, settings, self._clock.monotonic(), replace_all=replace_all)
        if self.view.target != before:
            reason = Reason.SCALE_UP if self.view.target > before else Reason.SCALE_DOWN
            text = f"{self.view.target} workers from now on, as the configuration says"
            self.chronicle.act(Scale(self.view.target, reason), text, seats=self.view.target)
        self.look_soon()

    def rescale(self, target: int) -> None:
        """Have an operator's number of workers."""
        reason = Reason.OPERATOR
        self._carry_out(Scale(target, reason), self._clock.monotonic())
        self.look_soon()

    def drain(self) -> None:
        """Retire all, replace none."""
        events.stop(self.view)
        self.look_soon()

    def kill_all(self) -> None:
        """The end of a drain whose time is over."""
        for worker in self.workers:
            if worker.child is not None:
                self._end(worker, Reason.STOP_AGAIN)

    def close(self) -> None:
        """After the last worker: the template goes."""
        if not self._template.gone:
            self._loop.unwatch(self._template.fd)
            self._loop.unwatch(self._template.child.pidfd)
            self._template.bury()

    # ---------------------------------------------------------------- looking and acting

    def tick(self, next_at: float) -> None:
        """Judge every worker, in a turn in which the pipes were read: a heartbeat that lay there has been seen.

        `next_at` says when the next tick will be.
        """
        self._next_tick = next_at
        self.look()

    def look_soon(self) -> None:
        """At the end of this turn, when all pipes have been read."""
        self._set_look(self._clock.monotonic())

    def look(self) -> None:
        """Do what is due now; then sleep until something may be."""
        now = self._clock.monotonic()
        late_s = events.ticked(self.view, now, self._due)
        if late_s:
            text = f"the parent was held up for {late_s:.1f} s; the workers are not blamed for it"
            self._log.warning(text, extra=fields(Event.PARENT_HELD_UP))
        if (
            self.view.watchdog.every_s is not None
            and now >= self.view.watchdog.next_at
            and self._office.journal_lives()
        ):
            events.journal_lives(self.view, now)
        for _ in range(ROUNDS):
            actions = decide(self.view, now)
            if not actions:
                break
            for action in actions:
                self._carry_out(action, now)
        self._set_look(next_due(self.view, now))

    def _set_look(self, due: float) -> None:
        """The next tick looks by itself: a timer of its own is for what is due before."""
        self._due = min(due, self._next_tick)
        if self._look is not None:
            self._look.cancel()
        self._look = self._loop.call_at(due, self.look) if due < self._next_tick else None

    def _carry_out(self, action: Action, now: float) -> None:
        withheld = self.view.watchdog.withheld
        sat = self.view.seat(action.seat).worker if isinstance(action, Move) else None
        events.apply(self.view, action, now, self._rng.random())
        match action:
            case Start():
                self._start(self.view.vitals[self.view.last_number], action.reason)
            case Move():
                self._move(self._workers[action.number], action, sat)
            case Retire():
                self._retire(self._workers[action.number], action.reason)
            case Condemn():
                self._condemn(self._workers[action.number], action.reason, now)
            case Kill():
                self._kill(self._workers[action.number], action.reason)
            case Abandon():
                worker = self._workers[action.number]
                self.chronicle.act(
                    action, "does not die of SIGKILL: it hangs in the kernel; others take its place", worker
                )
                self._duties.on_retire(worker)
            case Refork():
                self.chronicle.act(action, "the template does not answer: it is replaced")
                self._renew_template()
            case Scale():
                self.chronicle.act(action, f"{action.target} workers from now on", seats=action.target)
            case Limit():
                self.chronicle.act(action, f"workers use {action.share:.0%} of their threads", share=action.share)
                self._duties.on_limit(action.share)
            case Ping():
                self._office.ping()
            case Withhold() if action.reason is not withheld:
                self.chronicle.act(action, "systemd is not told that all is well")

    # ---------------------------------------------------------------- what is done

    def _start(self, vital: Vital, reason: Reason) -> None:
        number, seat = vital.number, vital.seat or 0
        self.chronicle.act(Start(seat, reason), f"worker {place(seat)} is ordered", seat=seat, w=number)
        try:
            ours, theirs = multiprocessing.Pipe()
            with ours, theirs:
                channel = Channel(os.dup(ours.fileno()))  # the Connection closes its own
                self._workers[number] = Worker(vital, self.epoch, seat, self.threads, channel)
                order = self._order(self.epoch, number)
                self._template.order(order, [theirs.fileno()], lambda got: self._forked(number, got))
        except OSError as error:
            self._fork_failed(number, error)

    def _forked(self, number: int, got: int | OSError) -> None:
        """What the template says of an order."""
        try:
            if isinstance(got, OSError):
                raise got
            child = Child.of(got)
        except OSError as error:
            self._fork_failed(number, error)
            return
        if number not in self.view.vitals:  # it was given up meanwhile
            send_signal(child, signal.SIGKILL)
            child.close()  # reaped as a stranger
            self._drop_unforked(number)
            return
        worker = self._workers[number]
        worker.child = child
        events.forked(self.view, number, self._clock.monotonic())
        self._loop.watch(worker.channel.fd, readable=lambda: self._read(worker))
        self._loop.watch(child.pidfd, readable=lambda: self._died(worker))
        self.look_soon()

    def _fork_failed(self, number: int, error: OSError) -> None:
        self._drop_unforked(number)
        vital = self.view.vitals.get(number)
        if vital is not None:
            self.chronicle.tell(
                "fork", Reason.FORK_FAILED, f"cannot fork a worker: {error.strerror}", seat=vital.seat, w=number
            )
            sign = _SIGNS.get(error.errno or 0)
            events.fork_failed(self.view, number, self._clock.monotonic(), self._rng.random(), sign)
            self.look_soon()

    def _drop_unforked(self, number: int) -> None:
        worker = self._workers.pop(number, None)
        if worker is not None:
            worker.channel.close()

    def _move(self, worker: Worker, action: Move, sat: int | None) -> None:
        worker.slot = action.seat
        before = "" if sat is None else f", in place of pid {self._workers[sat].pid}"
        self.chronicle.act(action, f"takes the seat{before}", worker)
        self._duties.on_ready(worker)

    def _retire(self, worker: Worker, reason: Reason) -> None:
        self.chronicle.act(Retire(worker.vital.number, reason), "is to finish and go", worker)
        self._duties.on_retire(worker)
        worker.send({"m": "drain"})

    def _condemn(self, worker: Worker, reason: Reason, now: float) -> None:
        vital = worker.vital
        silent_s = now - (vital.last_beat_at or vital.born_at)
        what = "every call is beyond its time-out" if reason is Reason.WEDGED else f"no heartbeat for {silent_s:.1f} s"
        said = f"phase {vital.beat.phase}, in flight {vital.beat.in_flight}"
        self.chronicle.act(Condemn(vital.number, reason), f"{what} ({said}); its stack follows", worker)
        self._signal(worker, signal.SIGUSR2)
        self._signal(worker, signal.SIGCONT)  # a stopped process writes no stack

    def _kill(self, worker: Worker, reason: Reason) -> None:
        self.chronicle.act(Kill(worker.vital.number, reason), "killed", worker)
        self._signal(worker, signal.SIGKILL)

    @staticmethod
    def _signal(worker: Worker, number: int) -> None:
        if worker.child is not None:
            send_signal(worker.child, number)

    # ---------------------------------------------------------------- the template

    def _watch_template(self) -> None:
        self._loop.watch(self._template.fd, readable=self._hear_template)
        self._loop.watch(self._template.child.pidfd, readable=self._renew_template)

    def _hear_template(self) -> None:
        self._template.receive()
        if self._template.gone:
            self._renew_template()

    def _renew_template(self) -> None:
        """It is dead, or good for nothing: what it owes has failed, and there is a new one."""
        if not self._template.gone:
            self._template.receive()  # what it has said before
        now = self._clock.monotonic()
        events.template_died(self.view, now, self._rng.random())
        self._loop.unwatch(self._template.fd)
        self._loop.unwatch(self._template.child.pidfd)
        code = self._template.bury()
        self.chronicle.tell("template", Reason.TEMPLATE_DIED, f"the template ended ({how(code)}); another one is made")
        self.look_soon()
        # One that cannot live must not be made again and again at once.
        self._loop.call_at(max(now, self._made_at + RENEW_S), self._make_template)

    def _make_template(self) -> None:
        self._made_at = self._clock.monotonic()
        try:
            self._template.renew()
        except OSError as error:
            text = f"cannot make a template: {error.strerror}; again in {RENEW_S:g} s"
            self._log.warning(text, extra=fields(Event.FORK_FAILED))
            self._loop.call_later(RENEW_S, self._make_template)
            return
        self._watch_template()

    # ---------------------------------------------------------------- notes

    def _read(self, worker: Worker) -> None:
        messages = worker.channel.receive()
        booted = worker.vital.first_beat_at is not None
        for message in messages:
            self._take(worker, message)
        if booted and len(messages) == 1 and messages[0].get("m") == "beat" and worker.vital.state is WorkerState.READY:
            self.beats_read += 1
        if worker.channel.gone:
            # A process that dies closes its pipe first. A worker that closed its pipe and lives on is none.
            self._loop.unwatch(worker.channel.fd)
            self._loop.call_later(CLOSED_S, lambda: self._end(worker, Reason.PIPE_CLOSED))

    def _end(self, worker: Worker, reason: Reason) -> None:
        """Kill it, unless it is dead or killed already."""
        if worker.vital.state not in (WorkerState.KILLED, WorkerState.DEAD):
            self._carry_out(Kill(worker.vital.number, reason), self._clock.monotonic())

    def _take(self, worker: Worker, message: Message) -> None:
        try:
            self._understand(worker, message)
        except (KeyError, TypeError, ValueError, FixInput) as error:
            # What it holds in memory cannot be trusted any more; its death settles what it had on its hands.
            about = fields(worker=f"{self.epoch}-{worker.vital.number}", seat=worker.slot, reason=Reason.NONSENSE)
            text = f"worker {worker.slot} (pid {worker.pid}) says what makes no sense ({error!r})"
            self._log.warning(text, extra=about)
            self._end(worker, Reason.NONSENSE)

    def _understand(self, worker: Worker, message: Message) -> None:
        """Raises KeyError, TypeError, ValueError or FixInput for a message that is not of the protocol."""
        if message["m"] != "beat":
            self._duties.on_message(worker, message)
            return
        first = events.beat(self.view, worker.vital.number, _beat(message), self._clock.monotonic())
        if first:
            self._duties.on_boot(worker)
            if worker.vital.usable:
                self._duties.on_ready(worker)
            self.look_soon()

    def flush(self) -> None:
        """Write what the pipes did not take before."""
        for worker in self._workers.values():
            if worker.channel.unsent:
                worker.channel.flush()

    @property
    def unsent(self) -> bool:
        return any(worker.channel.unsent for worker in self._workers.values())

    # ---------------------------------------------------------------- death

    def _died(self, worker: Worker) -> None:
        for message in worker.channel.receive_all():
            self._take(worker, message)
        code = reap(worker.child) if worker.child else 0
        self._forget(worker)
        ordered = worker.vital.state in (WorkerState.CONDEMNED, WorkerState.KILLED)
        oom = code == -signal.SIGKILL and not ordered and self._out_of_memory()
        end = End(code if code >= 0 else None, -code if code < 0 else None, oom, disk=code == os.EX_IOERR)
        death = events.died(self.view, worker.vital.number, end, self._clock.monotonic(), self._rng.random())
        kind = "stall" if death.reason in STALLS else "crash" if death.reason in FAULTS else "exit"
        tasks = self._duties.on_death(worker, kind)
        self.chronicle.died(worker, death, code, tasks)
        self.look_soon()

    def _forget(self, worker: Worker) -> None:
        self._loop.unwatch(worker.channel.fd)
        worker.channel.gone = True  # whatever waits to be said to it has nowhere to go
        worker.channel.close()
        del self._workers[worker.vital.number]
        if worker.child is not None:
            self._loop.unwatch(worker.child.pidfd)
            worker.child.close()


def _beat(message: Message) -> Beat:
    """Raises KeyError, TypeError or ValueError for what is no heartbeat."""
    return Beat(
        str(message["phase"]),
        int(message["in_flight"]),
        int(message["submits"]),
        int(message["calls"]),
        _seconds(message["beyond_s"]),
        _seconds(message["oldest_beyond_s"]),
        float(message["lag_s"]),
        int(message["completed"]),
        int(message["starved"]),
        int(message["rss"]),
        int(message["private"]),
    )


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)
