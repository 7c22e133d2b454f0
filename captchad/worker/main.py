"""The body of a forked worker: one work loop for pipe and timers, and the HTTP threads behind it.

The parent directs it by the pipe alone; no signal ends it but SIGKILL. Once the parent is gone it begins nothing, lets
its submits end, writes what nobody has confirmed into its side file, and exits. Exit codes: 0 when it was told to go or
the parent is gone, and nothing is lost; 74 when the disk did not take its side file, 70 when it failed itself (in both
cases the side file has no end: what had begun and is not confirmed is unknown).
"""

__all__ = ["ASK_THREADS", "run"]

import contextlib
import faulthandler
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import NoReturn

from captchad.ipc.channel import Channel, Message
from captchad.ipc.loop import Loop, Timer, next_beat
from captchad.journal.sidefile import SideFile
from captchad.logs import set_logging
from captchad.model.clock import Clock
from captchad.model.errors import JournalDown
from captchad.model.key import Key
from captchad.policy.routing import share
from captchad.worker.caller import Caller, Provider
from captchad.worker.crew import Crew
from captchad.worker.desk import Ask, Desk, Order, Poll, Submit
from captchad.worker.log import Log
from captchad.worker.memory import Memory
from captchad.worker.outbox import Outbox

#: Questions at once, about accounts and reports. Threads of their own: a question never takes a poll's place.
ASK_THREADS = 2

#: Until the first `config` says otherwise.
_HEARTBEAT_S = 1.0

#: How often leases and deadlines of calls are looked at, while there are any.
_SWEEP_S = 0.5

#: A worker that stops lets the polls that are under way answer for so long; any other worker can repeat them.
_POLL_GRACE_S = 2.0

#: What a submit may take beyond its deadline before an orphan calls it unknown. With a sweep's time it is below 1 s.
_SUBMIT_GRACE_S = 0.5

#: So long an orphan tries to write its last words on a disk that takes nothing, and how often.
_FINISH_S = 5.0
_FINISH_PAUSE_S = 0.5

#: Enough for TLS and JSON; the default of 8 MiB is counted against the unit's memory in some accountings.
_STACK_BYTES = 256 << 10

#: A worker is to be killed before the parent when memory runs out.
_OOM_SCORE = b"500"

_IGNORED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGABRT, signal.SIGPIPE)

_EX_SOFTWARE = 70


def run(
    channel_fd: int, journal_dir: Path, epoch: int, number: int, clock: Clock, *, threads: int, stack_fd: int
) -> NoReturn:
    """Be worker `number` of this epoch until told to go; call it in a fresh fork, signals blocked. Never returns.

    `channel_fd` is this side of the pipe, `stack_fd` takes the stacks that SIGUSR2 asks for. It runs as many submits
    as `threads` at once, and as many polls.
    """
    log = Log(f"{epoch}-{number}")
    code = _EX_SOFTWARE
    try:
        _take_signals(stack_fd)
        _offer_to_oom_killer()
        threading.stack_size(_STACK_BYTES)
        threading.excepthook = lambda args: _die(log, args.exc_value)
        side = SideFile.create(journal_dir, epoch, number)
        _Worker(Channel(channel_fd), side, clock, log, threads).work()
        code = 0
    except JournalDown as error:
        code = os.EX_IOERR
        log.say(str(error))
    except BaseException as error:  # noqa: BLE001 - the last frame of the process: the parent must see an exit code
        _die(log, error)
    finally:
        # Not sys.exit: what the parent registered to run at its exit must not run here.
        os._exit(code)


def _take_signals(stack_fd: int) -> None:
    signal.set_wakeup_fd(-1)  # the parent's: its number may mean another file here
    for each in _IGNORED:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR2, file=stack_fd, all_threads=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _offer_to_oom_killer() -> None:
    # Without it (no /proc, or a sandbox that hides it) the worker does its work all the same.
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, _OOM_SCORE)
        finally:
            os.close(fd)


def _die(log: Log, error: BaseException | None) -> NoReturn:
    """End a process whose own state cannot be trusted any more."""
    if error is not None:
        log.trace(error)
    os._exit(_EX_SOFTWARE)


class _Worker:
    """The work loop. Everything here runs in the main thread and none of it waits but the loop's turn."""

    def __init__(self, channel: Channel, side: SideFile, clock: Clock, log: Log, threads: int) -> None:
        self._channel = channel
        self._side = side
        self._clock = clock
        self._log = log
        self._threads = threads
        self._memory = Memory()
        self._loop = Loop(clock)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._outbox = Outbox(channel, self._poke)
        self._desk = Desk()
        self._caller = Caller(self._desk, self._outbox, clock, log)
        self._submitters: Crew[Submit] = Crew(
            "submit",
            threads,
            next_job=lambda: self._desk.take_submit(clock.monotonic()),
            run=self._submit,
            leave=self._caller.leave,
            say=log.say,
        )
        self._pollers: Crew[Poll] = Crew(
            "poll",
            threads,
            next_job=lambda: self._desk.take_poll(clock.monotonic()),
            run=self._poll,
            leave=self._caller.leave,
            say=log.say,
        )
        self._askers: Crew[Ask] = Crew(
            "ask",
            ASK_THREADS,
            next_job=self._desk.take_question,
            run=self._put,
            leave=self._caller.leave,
            say=log.say,
        )
        self._heartbeat_s = _HEARTBEAT_S
        self._next_beat: Timer | None = None
        self._next_sweep = 0.0
        #: When the loop will look at the schedule by itself; a thread that makes a captcha due earlier pokes it.
        self._awake_at = math.inf
        self._stopping_since: float | None = None
        self._orphan = False

    def work(self) -> None:
        """Beat, listen, call; returns when there is nothing left to do for this process."""
        self._beat(self._clock.monotonic())
        self._loop.watch(self._bell, readable=self._heard_bell)
        self._watch_pipe()
        while not self._done():
            self._loop.turn(self._wait_s())
            if self._channel.gone and not self._orphan:
                self._lose_parent()
            now = self._clock.monotonic()
            self._hand_out_polls(now)
            self._sweep(now)
        self._write_last_words()

    # The end.

    def _write_last_words(self) -> None:
        """Durable on return. Raises JournalDown when the disk has taken nothing for a while."""
        words = self._desk.last_words("orphaned")
        give_up = self._clock.monotonic() + _FINISH_S
        while True:
            try:
                return self._side.finish(words)
            except JournalDown:
                if self._clock.monotonic() >= give_up:
                    raise
            time.sleep(_FINISH_PAUSE_S)  # there is nothing else left to do here

    def _done(self) -> bool:
        """Whether this process may go: drained and all confirmed, or an orphan whose calls have ended."""
        if self._orphan:
            return self._calls_are_over(self._clock.monotonic())
        return self._stopping_since is not None and self._desk.quiet and not self._outbox.unsent

    def _calls_are_over(self, now: float) -> bool:
        """Whether an orphan has waited for its calls as long as it may."""
        since = self._stopping_since or now
        if not self._desk.calling:
            return True
        last_end = self._desk.last_submit_ends()
        if last_end is None:
            return now >= since + _POLL_GRACE_S + _SUBMIT_GRACE_S
        return now >= max(last_end, since) + _SUBMIT_GRACE_S

    def _lose_parent(self) -> None:
        """Begin nothing more. The notes go nowhere; what they said stays unconfirmed and goes into the side file."""
        self._orphan = True
        self._loop.unwatch(self._channel.fd)
        if self._next_beat is not None:
            self._next_beat.cancel()
        self._stop("orphan")
        self._outbox.flush()  # sets those free who wait for room in the pipe

    def _stop(self, reason: str) -> None:
        self._stopping_since = self._clock.monotonic()
        self._outbox.send(*self._desk.stop(reason))

    # The pipe.

    def _watch_pipe(self) -> None:
        if not self._orphan:
            writable = self._flush if self._outbox.unsent else None
            self._loop.watch(self._channel.fd, readable=self._read, writable=writable)

    def _flush(self) -> None:
        self._outbox.flush()
        self._watch_pipe()

    def _read(self) -> None:
        for message in self._channel.receive():
            # The last words of a parent that is gone count only where they end something.
            if not self._channel.gone or message["m"] in ("ack", "drop"):
                self._obey(message)

    def _obey(self, message: Message) -> None:
        match message["m"]:
            case "submit":
                self._order(message)
            case "poll":
                self._watch(message)
            case "ask":
                self._ask(message)
            case "ack":
                self._desk.ack(message["n"])
            case "drop":
                self._desk.drop(message["n"])
            case "config":
                self._configure(message)
            case "recall":
                self._outbox.send(*self._desk.recall("recall"))
            case "drain":
                self._stop("drain")
            case unknown:
                self._log.say(f"a message of an unknown kind: {unknown!r}")

    def _order(self, message: Message) -> None:
        n, provider = message["n"], message["provider"]
        expires = self._clock.monotonic() + message["lease_s"]
        self._outbox.send(*self._desk.order(Order(n, provider, message["key"], message["fields"], expires)))
        self._submitters.wake()

    def _watch(self, message: Message) -> None:
        self._desk.watch(
            message["n"],
            message["provider"],
            message["key"],
            message["cid"],
            first_in_s=message["first_in_s"],
            gaps_s=message["gaps_s"],
            every_s=message["every_s"],
            now=self._clock.monotonic(),
        )

    def _ask(self, message: Message) -> None:
        now = self._clock.monotonic()
        ask = Ask(
            message["q"],
            message["provider"],
            message["key"],
            message["what"],
            message["cid"],
            started=now,
            expires=now + message["within_s"],
        )
        self._outbox.send(*self._desk.question(ask))
        self._askers.wake()

    def _configure(self, message: Message) -> None:
        providers = {
            name: Provider(
                {key_id: Key(*key) for key_id, key in each["keys"].items()},
                each["submit_s"],
                each["poll_timeout_s"],
                each.get("priced", False),
                each.get("batch", False),
            )
            for name, each in message["providers"].items()
        }
        self._memory.every_s = message.get("private_every_s", 0.0)
        for key in [key for provider in providers.values() for key in provider.keys.values()]:
            self._log.hide(key.secret)
        self._caller.providers = providers
        set_logging(message["log_level"], message["log_format"])
        self._desk.poll_share = share(self._threads, len(providers))
        if message["heartbeat_s"] != self._heartbeat_s:
            self._heartbeat_s = message["heartbeat_s"]
            self._set_beat(next_beat(self._clock.monotonic(), self._heartbeat_s))

    # The timers.

    def _beat(self, due: float) -> None:
        now = self._clock.monotonic()
        crews = (self._submitters, self._pollers, self._askers)
        starved = self._caller.starved + sum(crew.refusals for crew in crews)
        memory = {"rss": self._memory.rss_bytes(), "private": self._memory.private_bytes(now)}
        self._outbox.send({**self._desk.beat(now, now - due), "starved": starved, **memory})
        # A loop that was held up does not catch up on beats: one that is late says so, and that is enough.
        self._set_beat(next_beat(max(due, now), self._heartbeat_s))

    def _set_beat(self, due: float) -> None:
        if self._next_beat is not None:
            self._next_beat.cancel()
        self._next_beat = self._loop.call_at(due, lambda: self._beat(due))

    def _wait_s(self) -> float | None:
        """How long the loop may sleep besides its timers: until the next poll is due or calls are to be looked at."""
        # In this order: a thread that sets a captcha's time after `next_due` was asked finds "never" here, and pokes.
        self._awake_at = math.inf
        due = self._desk.next_due()
        if due is not None:
            self._awake_at = due
        sweep_s = _SWEEP_S if self._desk.busy else math.inf
        wait_s = min(max(0.0, self._awake_at - self._clock.monotonic()), sweep_s)
        return None if wait_s == math.inf else wait_s

    def _hand_out_polls(self, now: float) -> None:
        for _ in range(self._desk.ripen(now)):
            self._pollers.wake()

    def _sweep(self, now: float) -> None:
        """Give back orders whose lease has ended, and end calls that are past their deadline."""
        if now < self._next_sweep or not self._desk.busy:
            return
        self._next_sweep = now + _SWEEP_S
        self._outbox.send(*self._desk.expire(now))
        for call in self._desk.running():
            if call.overdue(now) or (not isinstance(call, Submit) and self._grace_is_over(now)):
                call.abort()
        self._submitters.retry()
        self._pollers.retry()
        self._askers.retry()

    def _grace_is_over(self, now: float) -> bool:
        return self._stopping_since is not None and now >= self._stopping_since + _POLL_GRACE_S

    # What runs in HTTP threads.

    def _submit(self, submit: Submit) -> None:
        self._caller.submit(submit)
        if self._stopping_since is not None:
            self._poke()

    def _poll(self, poll: Poll) -> None:
        self._caller.poll(poll)
        due = self._desk.next_due()
        if self._stopping_since is not None or (due is not None and due < self._awake_at):
            self._poke()

    def _put(self, ask: Ask) -> None:
        self._caller.ask(ask)
        if self._stopping_since is not None:
            self._poke()

    def _poke(self) -> None:
        os.eventfd_write(self._bell, 1)

    def _heard_bell(self) -> None:
        os.eventfd_read(self._bell)
        self._watch_pipe()
