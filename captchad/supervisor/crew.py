"""The workers: forked, followed by their heartbeats, replaced when they die or hang.

The crew knows processes, not tasks. What a worker says about tasks goes to `Duties`, and so does its death, after its
pipe has been read dry.
"""

__all__ = ["Crew", "CrewSettings", "Duties", "Worker"]

import logging
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from captchad.ipc.channel import Message
from captchad.ipc.loop import Loop, Timer
from captchad.model.clock import Clock
from captchad.model.errors import FixInput
from captchad.policy.restart import RestartHistory, after_death
from captchad.supervisor.judge import Limits, Sentence, Vital, judge, retire_after
from captchad.supervisor.process import Child, fork_child, reap, send_signal

#: A fork that fails (EAGAIN, ENOMEM) is tried again after this.
FORK_RETRY_S = 1.0

#: A tick later than this means that the parent itself was held up: that is no silence of the workers'.
LATE_TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class CrewSettings:
    """`[daemon]` and `[supervision]` as the crew needs them; seconds, bytes."""

    workers: int
    heartbeat_s: float
    boot_s: float
    stall_s: float
    drain_s: float
    restart_max_delay_s: float
    max_tasks: int
    max_private_mb: int


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process. (epoch, number) is its name for ever."""

    slot: int
    epoch: int
    number: int
    child: Child
    forked_at: float
    retire_at: int
    first_beat_at: float | None = None
    last_beat_at: float | None = None
    condemned_at: float | None = None
    drain_until: float | None = None
    beat: Message = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        return (self.epoch, self.number)

    @property
    def state(self) -> str:
        if self.condemned_at is not None:
            return "stalled"
        if self.drain_until is not None:
            return "draining"
        return "running" if self.last_beat_at is not None else "booting"

    @property
    def usable(self) -> bool:
        """Whether it may be given work."""
        return self.state == "running" and not self.child.channel.gone

    @property
    def vital(self) -> Vital:
        return Vital(self.forked_at, self.last_beat_at, self.condemned_at, self.drain_until)

    def send(self, *messages: Message) -> None:
        """Queue messages for it. What its pipe does not take now leaves with a later turn."""
        self.child.channel.send(*messages)


@dataclass(slots=True)
class _Slot:
    """A place for one worker; outlives the processes in it."""

    index: int
    worker: Worker | None = None
    history: RestartHistory = field(default_factory=RestartHistory)
    restarts: int = 0
    completed: int = 0  # by its former workers
    next_spawn: Timer | None = None
    last_death: str = ""


class Duties(Protocol):
    """Who the crew reports to."""

    def on_ready(self, worker: Worker) -> None:
        """Its first heartbeat came: it may be given work."""

    def on_message(self, worker: Worker, message: Message) -> None:
        """Anything but a heartbeat."""

    def on_retire(self, worker: Worker) -> None:
        """It is about to drain: take its captchas away. Called before the `drain` message is sent."""

    def on_death(self, worker: Worker, reason: str) -> None:
        """It is dead and its pipe was read dry. `reason` is `exit`, `crash` or `stall`."""


class Crew:
    """Keeps `settings.workers` workers alive. `tick` is called about once a heartbeat."""

    def __init__(
        self,
        settings: CrewSettings,
        loop: Loop,
        clock: Clock,
        rng: random.Random,
        duties: Duties,
        body: Callable[[int, int, int], int],
        log: logging.Logger,
    ) -> None:
        """`body(channel_fd, slot, number)` runs in the forked worker."""
        self.settings = settings
        self.epoch = 0
        self.draining = False
        self.restarts = {"crash": 0, "stall": 0, "recycle": 0, "boot": 0}
        self.beats_read = 0  # reads of pipes that brought a heartbeat and nothing else
        self.boot_failures = 0  # in a row, over all slots; a configuration that cannot boot shows here
        self._loop = loop
        self._clock = clock
        self._rng = rng
        self._duties = duties
        self._body = body
        self._log = log
        self._slots: list[_Slot] = []
        self._numbers = 0
        self.next_tick = 0.0  # when `tick` will be called; what it is later than that, the parent was held up

    # ---------------------------------------------------------------- who is there

    @property
    def workers(self) -> list[Worker]:
        return [slot.worker for slot in self._slots if slot.worker is not None]

    @property
    def slots(self) -> list[_Slot]:
        return self._slots

    @property
    def alive(self) -> int:
        """Workers whose heartbeats come."""
        return sum(worker.state == "running" for worker in self.workers)

    # ---------------------------------------------------------------- life

    def start(self, epoch: int) -> None:
        """Fork all workers. The epoch is committed already: no number of it was ever used before."""
        self.epoch = epoch
        self.resize()

    def resize(self) -> None:
        """Grow or shrink to `settings.workers`; those that are too many drain."""
        while len(self._slots) < self.settings.workers:
            slot = _Slot(len(self._slots))
            self._slots.append(slot)
            self._spawn(slot)
        for slot in self._slots[self.settings.workers :]:
            if slot.next_spawn is not None:
                slot.next_spawn.cancel()
                slot.next_spawn = None
            if slot.worker is not None:
                self.retire(slot.worker)
        for slot in self._slots[: self.settings.workers]:
            if slot.worker is None and slot.next_spawn is None:
                self._spawn(slot)  # it was one too many, and counts again
        self._drop_empty_slots()

    def _spawn(self, slot: _Slot) -> None:
        slot.next_spawn = None
        if self.draining or slot.worker is not None or slot.index >= self.settings.workers:
            return
        self._numbers += 1
        number = self._numbers
        try:
            child = fork_child(lambda channel_fd: self._body(channel_fd, slot.index, number))
        except OSError as error:
            self._log.warning(f"worker {slot.index}: cannot fork: {error}; again in {FORK_RETRY_S:g} s")
            slot.next_spawn = self._loop.call_later(FORK_RETRY_S, lambda: self._spawn(slot))
            return
        worker = Worker(
            slot=slot.index,
            epoch=self.epoch,
            number=number,
            child=child,
            forked_at=self._clock.monotonic(),
            retire_at=retire_after(self.settings.max_tasks, self._rng),
        )
        slot.worker = worker
        self._loop.watch(child.channel.fd, readable=lambda: self._read(worker))
        self._loop.watch(child.pidfd, readable=lambda: self._died(slot, worker))

    def retire(self, worker: Worker) -> None:
        """Let it finish what it has begun and go; its slot is filled again if it still counts."""
        if worker.drain_until is not None:
            return
        self._duties.on_retire(worker)
        worker.drain_until = self._clock.monotonic() + self.settings.drain_s
        worker.send({"m": "drain"})

    def drain(self) -> None:
        """Retire all, replace none."""
        self.draining = True
        for slot in self._slots:
            if slot.next_spawn is not None:
                slot.next_spawn.cancel()
            if slot.worker is not None:
                self.retire(slot.worker)

    def kill_all(self) -> None:
        """The end of a drain whose time is over."""
        for worker in self.workers:
            send_signal(worker.child, signal.SIGKILL)

    # ---------------------------------------------------------------- notes

    def _read(self, worker: Worker) -> None:
        messages = worker.child.channel.receive()
        booted = worker.first_beat_at is not None
        for message in messages:
            self._take(worker, message)
        if booted and len(messages) == 1 and messages[0].get("m") == "beat" and worker.usable:
            self.beats_read += 1
        if worker.child.channel.gone:
            # Its end is closed; the pidfd says when it is dead. A worker that closed its pipe and lives on is none.
            self._loop.unwatch(worker.child.channel.fd)
            send_signal(worker.child, signal.SIGKILL)

    def _take(self, worker: Worker, message: Message) -> None:
        try:
            self._understand(worker, message)
        except (KeyError, TypeError, ValueError, FixInput) as error:
            # What it holds in memory cannot be trusted any more; its death settles what it had on its hands.
            self._log.warning(
                f"worker {worker.slot} (pid {worker.child.pid}) says what makes no sense ({error!r}): killed"
            )
            send_signal(worker.child, signal.SIGKILL)

    def _understand(self, worker: Worker, message: Message) -> None:
        """Raises KeyError, TypeError, ValueError or FixInput for a message that is not of the protocol."""
        if message["m"] != "beat":
            self._duties.on_message(worker, message)
            return
        worker.last_beat_at = self._clock.monotonic()
        worker.beat = message
        if worker.first_beat_at is None:
            worker.first_beat_at = worker.last_beat_at
            self.boot_failures = 0
            self._duties.on_ready(worker)
        if 0 < worker.retire_at <= message.get("completed", 0) and worker.usable and not self.draining:
            self.restarts["recycle"] += 1
            self.retire(worker)

    def flush(self) -> None:
        """Write what the pipes did not take before."""
        for worker in self.workers:
            if worker.child.channel.unsent:
                worker.child.channel.flush()

    @property
    def unsent(self) -> bool:
        return any(worker.child.channel.unsent for worker in self.workers)

    # ---------------------------------------------------------------- death

    def tick(self) -> None:
        """Judge every worker. Pipes were drained in this turn, so a heartbeat that lay there has been seen."""
        now = self._clock.monotonic()
        late_s = now - self.next_tick
        limits = Limits(self.settings.boot_s, self.settings.stall_s)
        for worker in self.workers:
            if late_s > LATE_TICK_S:
                self._discount(worker, late_s, now)
            match judge(worker.vital, now, limits):
                case Sentence.CONDEMN:
                    self._condemn(worker, now)
                case Sentence.KILL:
                    send_signal(worker.child, signal.SIGKILL)
                case Sentence.LIVE:
                    pass

    @staticmethod
    def _discount(worker: Worker, late_s: float, now: float) -> None:
        """The parent was held up for `late_s` (a slow sync, SIGSTOP, suspend): that is no silence of the worker's."""
        worker.forked_at = min(now, worker.forked_at + late_s)
        if worker.last_beat_at is not None:
            worker.last_beat_at = min(now, worker.last_beat_at + late_s)

    def _condemn(self, worker: Worker, now: float) -> None:
        silent_s = now - (worker.last_beat_at or worker.forked_at)
        self._log.warning(
            f"worker {worker.slot} (pid {worker.child.pid}): no heartbeat for {silent_s:.1f} s"
            f" (phase {worker.beat.get('phase', 'boot')}, in flight {worker.beat.get('in_flight', 0)});"
            " its stack follows"
        )
        worker.condemned_at = now
        send_signal(worker.child, signal.SIGUSR2)
        send_signal(worker.child, signal.SIGCONT)  # a stopped process writes no stack
        self._loop.call_later(0.6, lambda: self._kill_condemned(worker))

    def _kill_condemned(self, worker: Worker) -> None:
        if worker in self.workers:
            send_signal(worker.child, signal.SIGKILL)

    def _died(self, slot: _Slot, worker: Worker) -> None:
        child = worker.child
        for message in child.channel.receive_all():
            self._take(worker, message)
        code = reap(child)
        self._loop.unwatch(child.channel.fd)
        self._loop.unwatch(child.pidfd)
        reason = self._reason(worker, code)
        child.channel.gone = True  # whatever waits to be said to it has nowhere to go
        slot.worker = None
        slot.completed += worker.beat.get("completed", 0)
        slot.last_death = f"{reason} (status {code})"
        self._duties.on_death(worker, reason)
        child.close()
        self._replace(slot, worker, reason, code)

    @staticmethod
    def _reason(worker: Worker, code: int) -> str:
        if worker.condemned_at is not None:
            return "stall"
        return "exit" if worker.drain_until is not None and code == 0 else "crash"

    def _replace(self, slot: _Slot, worker: Worker, reason: str, code: int) -> None:
        if self.draining:
            return
        if slot.index >= self.settings.workers:
            self._drop_empty_slots()
            return
        if reason == "exit":
            self._spawn(slot)
            return
        booted = worker.first_beat_at is not None
        self.restarts[reason if booted else "boot"] += 1
        if not booted:
            self.boot_failures += 1
        lived_s = self._clock.monotonic() - worker.forked_at
        slot.history, delay_s = after_death(
            slot.history,
            lived_s=lived_s,
            booted=booted,
            max_delay_s=self.settings.restart_max_delay_s,
            rng=self._rng,
        )
        slot.restarts += 1
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        when = "now" if delay_s <= 0 else f"in {delay_s:.1f} s"
        self._log.warning(
            f"worker {slot.index} (pid {worker.child.pid}) died after {lived_s:.1f} s: {how}; replaced {when}"
        )
        if delay_s <= 0:
            self._spawn(slot)
        else:
            slot.next_spawn = self._loop.call_later(delay_s, lambda: self._spawn(slot))

    def _drop_empty_slots(self) -> None:
        while len(self._slots) > self.settings.workers and self._slots[-1].worker is None:
            self._slots.pop()
