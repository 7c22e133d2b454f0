"""The parent: one thread, one loop. It owns the journal, the only view of the queue, and the workers.

A turn: wait once; run what the descriptors and timers bring; decide; commit; then the effects. Every duty is a
bounded slice. The watchdog ping is earned: it is the last thing that the core decides on, when nothing that is due is
left to be done about a worker, and only if the journal took a write since the last ping or stands in its declared down
state with the retry timer running.
"""

__all__ = ["Parent"]

import logging
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captchad.config.changes import Change
from captchad.config.schema import Config
from captchad.control.server import ControlServer
from captchad.daemon import settings as pick
from captchad.daemon.configuration import Configuration, ReloadOutcome
from captchad.daemon.dispatch import Dispatcher
from captchad.daemon.front import Front
from captchad.daemon.intake import QueueSink
from captchad.daemon.mode import judge_mode
from captchad.daemon.office import Office
from captchad.daemon.orphans import Orphans
from captchad.daemon.providers import Providers
from captchad.daemon.publish import Publisher
from captchad.daemon.space import low_space
from captchad.daemon.status import Reporter, write_status_file
from captchad.daemon.verbs import Verbs
from captchad.ipc.channel import Message
from captchad.ipc.loop import Loop, Timer, next_beat
from captchad.journal.sidefile import remove_side_files, side_files
from captchad.journal.store import Journal
from captchad.logs import set_logging
from captchad.model.clock import Clock
from captchad.model.errors import JournalDown, LockHeld
from captchad.model.logevents import Event, fields
from captchad.model.states import State
from captchad.notify import Notify
from captchad.policy.descriptors import parent_needs, threads_that_fit, worker_needs
from captchad.queue.queue import Queue
from captchad.queue.task import WorkerKey
from captchad.queue.upkeep import hold_doubtful
from captchad.spool.dirs import SpoolDirs
from captchad.spool.intake import Intake
from captchad.spool.results import Results
from captchad.supervisor.core import events
from captchad.supervisor.core.states import Reason
from captchad.supervisor.core.view import Load
from captchad.supervisor.crew import Crew
from captchad.supervisor.process import reap_strangers
from captchad.supervisor.system import Memory, descriptor_limit
from captchad.supervisor.template import Template

#: The snapshot, the judge and expiry share one timer, shortly after all workers have beaten.
AFTER_BEATS_S = 0.02
JOURNAL_RETRY_S = 1.0
#: Damaged places that a start names one by one.
DAMAGE_SAID = 10
#: Time asked of systemd for the replay of a segment: some, and what a slow disk and a slow machine need.
EXTEND_S = 30.0
REPLAYED_A_SECOND = 4 << 20
#: Below the age at which the monitor calls a snapshot stale (5 s), with room for a slow turn.
MONITOR_IDLE_S = 2.5
FORGET_A_TURN = 50
#: Private memory of workers is asked for so often, when it is limited: the kernel walks all their pages for it.
PRIVATE_EVERY_S = 10.0
#: While a stop waits, systemd is asked for so much more time, again and again.
STOP_EXTEND_S = 10.0


class Parent:
    """Puts the parts together; `run` turns the loop until the drain is over."""

    def __init__(
        self,
        configuration: Configuration,
        notify: Notify,
        template: Template,
        clock: Clock,
        rng: random.Random,
        log: logging.Logger,
    ) -> None:
        self.configuration = configuration
        self.template = template
        self.clock = clock
        self.notify = notify
        self.log = log
        self.state = "starting"
        self.started_at = clock.monotonic()
        self._rng = rng
        self._signals: list[int] = []
        self._announced_down = ""
        self._journal_retry: Timer | None = None  # of a journal that is down
        self._status_file_failed = False
        self._drain_until = 0.0
        self._memory = Memory()
        self.low_limit = ""  # what RLIMIT_NOFILE is too low for
        self._finishing = ""  # why nothing new is taken until all that is under way has ended
        self._rejections_said: Counter[str] = Counter()
        self._said_all: list[Path] = []  # side files that have nothing more to say
        self._last_status = ""
        self._informed: tuple[object, ...] = ()
        self._informed_at = 0.0

    # ---------------------------------------------------------------- start

    def open(self) -> None:
        """Take the lock, replay, make the parts. Raises CaptchadError; nothing has been forked yet."""
        config = self.configuration.config
        self.loop = Loop(self.clock)
        self._catch_signals()
        self.journal = Journal.open(
            config.daemon.state_dir / "journal",
            segment_bytes=config.queue.segment_mb << 20,
            clock=self.clock,
            lock_awaited=self._lock_awaited,
            allow_weak_fs=config.daemon.allow_weak_fs,
        )
        self.notify.status("replaying the journal")  # whatever was waited for before
        self.queue = Queue(self.journal, pick.queue_settings(config), self.clock, self._rng)
        count = self.queue.replay(self._replay_progress, from_index=True)
        self.log.info(f"journal: {count} records, {self.queue.view.unfinished} unfinished tasks")
        self._make_parts(config)
        self.reporter = Reporter(self)
        self.verbs = Verbs(self)
        config.daemon.runtime_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.control = ControlServer(
            config.daemon.runtime_dir / "control.sock", self.loop, self.verbs.handle, clock=self.clock
        )
        self.control.start()

    def _lock_awaited(self, held: LockHeld, wait_s: float) -> None:
        text = f"waiting {wait_s:g} s at most: {held}"
        self.log.warning(text, extra=fields(Event.LOCK_AWAITED))
        self.notify.status(text)

    def _replay_progress(self, done: int, ahead: int) -> None:
        self.notify.extend_timeout(EXTEND_S + ahead / REPLAYED_A_SECOND)
        self.notify.status(f"replaying the journal: {done >> 20} MB")

    def _make_parts(self, config: Config) -> None:
        dirs = SpoolDirs(config.daemon.spool_dir)
        dirs.make()
        self.results = Results(dirs, self.clock)
        self.publisher = Publisher(self.queue, self.results, self.clock, self.log)
        self.providers = Providers(self.clock, pick.breaker_settings(config), self.configuration.own_fault, self.log)
        self.dispatcher = Dispatcher(
            self.queue,
            self.clock,
            self.providers,
            config.supervision.stall_s,
            self._worker_config,
            self._forget_side_file,
            self.log,
        )
        self.crew = Crew(
            pick.crew_settings(config),
            self.loop,
            self.clock,
            self._rng,
            self.dispatcher,
            Office(self.queue, self.notify, self.clock, self._note_journal, self._retry_is_ahead),
            self.template,
            self._worker_order,
            self.log,
            self._memory.killed_one,
        )
        self.crew.threads = self._threads_that_fit()
        self.front = Front(
            self.template,
            self.loop,
            self.clock,
            self.configuration.own_fault,
            self.crew.replace_template,
            self.log,
        )
        self.orphans = Orphans(self.journal_dir, self.queue, self.dispatcher.outcome, self._remove_side_file, self.log)
        self.intake = Intake(dirs, QueueSink(self.queue), self.clock, config.policy.allowed_hosts)

    @property
    def journal_dir(self) -> Path:
        return self.configuration.config.daemon.state_dir / "journal"

    def start(self) -> None:
        """Commit the epoch, settle what the last life left, fork the workers, open the doors."""
        self.configuration.on_start()
        # A start on a full disk cannot write its epoch, but its workers may have left files under it.
        used = [side.epoch for side in side_files(self.journal_dir)]
        epoch = max([self.queue.view.epoch, *used]) + 1
        self.queue.stage("epoch", {"epoch": epoch, "pid": os.getpid(), "t": self.clock.time()})
        self.queue.commit()
        self._note_journal()
        self._set_providers(self.configuration.config)
        self.dispatcher.spending.configure(*pick.spending_caps(self.configuration.config))
        self._keep_leaving_providers()
        self.dispatcher.resume()
        self.publisher.resume()
        self._hold_doubtful()
        self.orphans.start(epoch, max(provider.submit_s for provider in self.configuration.config.providers))
        self.queue.settle_all_followers()
        self.queue.commit()
        self._look_at_space()
        self.crew.start(epoch)
        self.front.configure(self.configuration.config.http.address, self._log_settings)
        self.intake.start()
        fd = self.intake.fileno()
        if fd is not None:
            self.loop.watch(fd, readable=self.intake.on_readable)
        self._set_tick()

    def _set_providers(self, config: Config) -> None:
        keys, earlier = self.configuration.keys, self.configuration.earlier_keys(config)
        replaced = self.configuration.replaced_keys
        self.dispatcher.set_providers(pick.provider_settings(config, keys, earlier, replaced))

    def _threads_that_fit(self) -> int:
        """The threads that each worker gets: those that are configured, or as many as its descriptors allow."""
        config, limit = self.configuration.config, descriptor_limit()
        threads, providers = config.supervision.threads, len(config.providers)
        fit = threads_that_fit(limit, providers, threads)
        processes = max(config.daemon.workers, config.supervision.autoscale_max) + config.supervision.standby + 1
        needs = max(parent_needs(processes), worker_needs(threads, providers))
        used = f"; workers use {fit} of {threads} threads" if fit < threads else ""
        self.low_limit = (
            f"RLIMIT_NOFILE is {limit}, the configuration needs {needs} (LimitNOFILE= of the unit, ulimit -n){used}"
            if limit < needs
            else ""
        )
        if self.low_limit:
            self.log.warning(self.low_limit, extra=fields(Event.DESCRIPTORS_LOW))
        return fit

    def _hold_doubtful(self) -> None:
        """Say what is damaged. Who may have been paid for in a record that is lost does not run by itself."""
        holes = self.journal.holes
        for hole in holes[:DAMAGE_SAID]:
            self.log.warning(
                f"journal: {hole.length} bytes at {hole.segment:08d}:{hole.offset:010d} are damaged: {hole.reason};"
                f" a copy is in {self.journal_dir / 'quarantine'}",
                extra=fields(Event.JOURNAL_DAMAGED),
            )
        held = hold_doubtful(self.queue, self.journal_dir)
        if holes:
            self.log.warning(
                f"journal: {len(holes)} damaged places, {held} tasks held: stop captchad and run `captchactl journal"
                " repair --dry-run`, which names the tasks that are lost",
                extra=fields(Event.JOURNAL_DAMAGED),
            )

    def _keep_leaving_providers(self) -> None:
        """Providers that left the configuration with captchas in flight: as the last generation that had them says."""
        for name in sorted({captcha.provider for captcha in self.queue.view.captchas.values()}):
            if name in self.providers.lanes:
                continue
            earlier = self.configuration.earlier_provider(name)
            if earlier is None:
                self.log.warning(
                    f"provider {name} is in no known configuration: its captchas in flight cannot be polled",
                    extra=fields(Event.PROVIDER_MISSING, provider=name),
                )
            else:
                settings = pick.provider_settings(*earlier, self.configuration.earlier_keys(earlier[0]))[name]
                self.providers.keep_leaving(settings, self.dispatcher.keys_in_use)

    def _catch_signals(self) -> None:
        """Handlers only note the number; the wake-up pipe turns the loop."""
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        self._wakeup = (reader, writer)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._signals.append(number))
        self.loop.watch(reader.fileno(), readable=self._on_wakeup)

    def _on_wakeup(self) -> None:
        self._wakeup[0].recv(4096)
        numbers, self._signals = self._signals, []
        for number in numbers:
            if number == signal.SIGHUP:
                self.reload()
            else:
                self.drain(signal.Signals(number).name)

    # ---------------------------------------------------------------- workers

    def _worker_order(self, epoch: int, number: int) -> Message:
        """What the template is told of a worker."""
        return {
            "what": "worker",
            "journal": str(self.journal_dir),
            "epoch": epoch,
            "number": number,
            "threads": self.crew.threads,
            **self._log_settings,
        }

    @property
    def _log_settings(self) -> Message:
        daemon = self.configuration.config.daemon
        return {"log_level": daemon.log_level, "log_format": daemon.log_format}

    def _worker_config(self) -> Message:
        return {
            "m": "config",
            "heartbeat_s": self.configuration.config.supervision.heartbeat_s,
            **self._log_settings,
            "private_every_s": PRIVATE_EVERY_S if self.configuration.config.supervision.max_private_mb else 0.0,
            "providers": {
                lane.name: {
                    "keys": {name: [key.url, key.secret] for name, key in lane.keys.items()},
                    "submit_s": lane.settings.submit_s,
                    "poll_timeout_s": lane.settings.submit_s,
                    "priced": lane.settings.priced,
                    "batch": lane.settings.batch_polls,
                }
                for lane in self.providers.lanes.values()
            },
        }

    def _forget_side_file(self, key: WorkerKey) -> None:
        self._remove_side_file(self.journal_dir / "workers" / f"{key[0]}-{key[1]}.jsonl")

    def _remove_side_file(self, path: Path) -> None:
        """It has said all. It goes with the next tick: a sync now would hold up the boot of its successor."""
        self._said_all.append(path)

    def _remove_side_files(self) -> None:
        """Those that cannot be removed now are read again at the next start: no harm."""
        paths, self._said_all = self._said_all, []
        try:
            remove_side_files(paths)
        except JournalDown as error:
            self.log.warning(str(error))

    # ---------------------------------------------------------------- the loop

    def run(self) -> int:
        """Turn until drained; the exit code."""
        while self.state != "stopped":
            self.turn()
        return 0

    def turn(self) -> None:
        """One wait, one decision, one commit."""
        beats = self.crew.beats_read
        ran = self.loop.turn(self._wait_s())
        if 0 < ran == self.crew.beats_read - beats:
            return  # heartbeats change nothing that is decided here; an idle daemon has little else
        if self.state in ("starting", "running"):
            self._take_tasks()
        self.dispatcher.turn()
        self.publisher.turn()
        self.queue.load_some()
        if not self.queue.down_reason:
            # Not in the tick: the more is written, the more must be forgotten and cleaned.
            self.queue.forget(FORGET_A_TURN)
            self.queue.clean()
        self.queue.commit()
        self.journal.prepare()
        self._note_journal()
        self.crew.flush()
        if self.state == "starting":
            self._ready_if_able()
        elif self._finishing:
            self._drain_if_finished()
        elif self.state == "draining":
            self._stop_if_drained()

    def _wait_s(self) -> float | None:
        if self.queue.busy or self.publisher.busy or self.queue.loading:
            return 0.0
        waits = [self.dispatcher.wait_s(), self.publisher.wait_s()]
        due = self.intake.due()
        if due is not None and self.state != "draining" and self.queue.takes_tasks:
            waits.append(max(0.0, due - self.clock.monotonic()))
        if self.crew.unsent:
            waits.append(0.02)
        if self.dispatcher.suspects_wait:
            waits.append(0.05)
        known = [wait for wait in waits if wait is not None]
        return min(known) if known else None

    def _take_tasks(self) -> None:
        due = self.intake.due()
        if due is None or due > self.clock.monotonic() or not self.queue.takes_tasks:
            return
        self.intake.step(self.queue.settings.capacity - self.queue.view.unfinished)

    @property
    def _tick_s(self) -> float:
        return min(1.0, self.configuration.config.supervision.heartbeat_s)

    def _set_tick(self) -> float:
        """When the next one will be."""
        due = next_beat(self.clock.monotonic() - AFTER_BEATS_S, self._tick_s) + AFTER_BEATS_S
        self.loop.call_at(due, self._tick)
        return due

    def _tick(self) -> None:
        """What is due about once a second."""
        if not self.template.owes:  # else a child may be ours whose pid we do not know yet
            reap_strangers(self.crew.pids | self.front.pids)
        self._look_at_load()
        self.crew.tick(self._set_tick())
        now = self.clock.monotonic()
        if not self.queue.down_reason:
            self.queue.expire()
            self.orphans.absorb()
        self._remove_side_files()
        self.dispatcher.tick()
        self.publisher.expire(self.configuration.config.queue.result_ttl_s)
        self._look_at_space()
        self._say_rejections()
        self._tick_config(now)
        self.front.tick()
        if self.state == "draining" and not self._finishing:
            self.notify.extend_timeout(STOP_EXTEND_S)
        self._publish_status()

    def _look_at_load(self) -> None:
        """Tell the core what there is to do, and what the system is short of."""
        now = self.clock.monotonic()
        view = self.queue.view
        oldest = view.oldest_pending_at() if view.lines["ready"] else None
        age_s = 0.0 if oldest is None else max(0.0, self.queue.now() - oldest)
        events.loaded(self.crew.view, Load(age_s, self.dispatcher.busy), now)
        if self._memory.short():
            events.short_of(self.crew.view, Reason.MEMORY, now)

    def _say_rejections(self) -> None:
        news = self.intake.rejected - self._rejections_said
        if news:
            self._rejections_said = self.intake.rejected.copy()
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(news.items()))
            about = fields(Event.TASK_REJECTED, reason=",".join(sorted(news)))
            self.log.warning(f"rejected from the spool: {reasons}; rejected/ says why", extra=about)

    # ---------------------------------------------------------------- no room, journal down and up

    def _look_at_space(self) -> None:
        daemon = self.configuration.config.daemon
        reason = low_space((daemon.state_dir, daemon.spool_dir)) or self.publisher.down_reason
        if bool(reason) != bool(self.queue.no_room):
            if reason:
                self.log.error(f"{reason}; intake and submits stop", extra=fields(Event.NO_ROOM))
            else:
                self.log.info("there is room again; intake and submits go on", extra=fields(Event.ROOM_AGAIN))
        self.queue.no_room = reason

    def _note_journal(self) -> None:
        """Say it once when the journal goes down, and keep the retry timer running."""
        if self.queue.down_reason and not self._announced_down:
            self._announced_down = self.queue.down_reason
            text = f"journal down: {self.queue.down_reason}; intake and submits stop, captchas are polled on"
            self.log.error(text, extra=fields(Event.JOURNAL_DOWN))
            self._journal_retry = self.loop.call_later(JOURNAL_RETRY_S, self._retry_journal)
            self._publish_status()

    def _retry_is_ahead(self) -> bool:
        return self._journal_retry is not None and self._journal_retry.callback is not None

    def _retry_journal(self) -> None:
        if self.queue.recover():
            self._announced_down = ""
            self.log.info("journal up again, on a fresh segment", extra=fields(Event.JOURNAL_UP))
            self._publish_status()
        else:
            self._journal_retry = self.loop.call_later(JOURNAL_RETRY_S, self._retry_journal)

    # ---------------------------------------------------------------- systemd

    def _ready_if_able(self) -> None:
        """READY=1 only after the first heartbeats of `min_workers`."""
        if self.crew.alive < self.configuration.config.daemon.min_workers:
            return
        self.state = "running"
        self.crew.watch_over(self.notify.watchdog_s and self.notify.watchdog_s / 2.0)
        self.configuration.on_ready(self.clock.monotonic())
        self._publish_status()
        self.notify.ready(self._last_status)
        self.log.info(f"ready: {self._last_status}", extra=fields(Event.READY))

    def _status_line(self, problems: Sequence[str]) -> str:
        view = self.queue.view
        oldest = view.oldest_pending_at()
        age_s = 0 if oldest is None else int(self.queue.now() - oldest)
        line = (
            f"{self.dispatcher.degradation.mode}: {self.crew.alive}/{self.crew.view.target} workers,"
            f" {view.lines['ready'] + view.lines['delayed'] + view.lines['waiting']} queued"
            f"{f' (oldest {age_s} s)' if age_s > 0 else ''},"
            f" {sum(view.in_flight.values())} in flight, {view.states[State.DEAD]} dead"
        )
        waits = [f"draining: waits for {self._under_way} captchas"] if self._finishing else []
        return "; ".join([*waits, line, *problems])

    # ---------------------------------------------------------------- saying how it is

    def _publish_status(self) -> None:
        judge_mode(self, self.log)
        snapshot = self.reporter.snapshot()
        path = self.configuration.config.daemon.state_dir / "status.json"
        failed = write_status_file(path, snapshot, self.clock.time())
        if failed and not self._status_file_failed:
            self.log.error(f"status file: {failed}")
        self._status_file_failed = bool(failed)
        line = self._status_line(snapshot["daemon"]["problems"])
        if line != self._last_status and self.state != "starting":
            self._last_status = line
            self.notify.status(line)
        self._inform_monitor(snapshot)

    def _inform_monitor(self, snapshot: dict[str, Any]) -> None:
        """Send the snapshot on; an idle daemon, which has nothing new to tell, does so less often."""
        if not self.front.listening:
            return
        now = self.clock.monotonic()
        news = (self.journal.records, self.crew.alive, self._last_status, self.state, len(self.crew.workers))
        if news == self._informed and now - self._informed_at < MONITOR_IDLE_S:
            return
        self._informed, self._informed_at = news, now
        self.front.inform(
            {"m": "snapshot", "status": snapshot, "health": self.reporter.health(), "metrics": self.reporter.metrics()}
        )

    # ---------------------------------------------------------------- configuration

    def reload(self, confirm_within_s: float | None = None) -> ReloadOutcome:
        """Read the configuration again; a bad one is refused and the running one stays, or runs again where the new one
        has failed at once. Returns what happened.
        """
        with self._reloading():
            outcome = self.configuration.reload(self.clock.monotonic(), confirm_within_s)
            for line in outcome.refused:
                self.log.error(f"config: reload refused: {line}", extra=fields(Event.CONFIG_REFUSED))
            if outcome.applied:
                changed = ", ".join(map(str, outcome.changed)) or "nothing"
                self.log.info(f"config: reloaded; changed: {changed}", extra=fields(Event.CONFIG_RELOADED))
                self._apply()
                applied = self.configuration.config
                self._tick_config(self.clock.monotonic())  # a port that cannot be had is known at once
                if self.configuration.config is not applied:
                    return ReloadOutcome(applied=False, refused=(str(self.configuration.problem),))
        return outcome

    def go_back(self, number: int | None) -> tuple[Change, ...]:
        """Run an earlier generation. Raises FixInput, TryLater."""
        with self._reloading():
            changed = self.configuration.go_back(number, self.clock.monotonic())
            self.configuration.take_changed()
            self._apply()
        return changed

    @contextmanager
    def _reloading(self) -> Iterator[None]:
        """Tell systemd of a change of the configuration, and of its end, whatever that is."""
        told = self.state == "running"  # before it READY=1 would be wrong, and after STOPPING=1 nothing counts
        if told:
            self.notify.reloading()
        try:
            yield
        finally:
            self._publish_status()
            if told:
                self.notify.ready(self._last_status)

    def _apply(self) -> None:
        """Bring every part to `self.configuration.config`; what needs a restart was refused before."""
        config = self.configuration.config
        set_logging(config.daemon.log_level, config.daemon.log_format)
        self.queue.settings = pick.queue_settings(config)
        self.journal.segment_bytes = config.queue.segment_mb << 20
        self.intake.allowed_hosts = config.policy.allowed_hosts
        self.providers.breaker_settings = pick.breaker_settings(config)
        self.dispatcher.stall_s = config.supervision.stall_s
        self._set_providers(config)
        self.dispatcher.spending.configure(*pick.spending_caps(config))
        threads = self._threads_that_fit()
        renewed, self.crew.threads = self.crew.threads != threads, threads
        self.crew.renew(pick.crew_settings(config), replace_all=Reason.RELOAD if renewed else None)
        self.front.configure(config.http.address, self._log_settings)

    def _tick_config(self, now: float) -> None:
        view = self.crew.view
        # Where the system is short of something, that is why they do not boot.
        if view.boot_faults >= max(2, view.target) and view.guard.share == 1.0:
            self.configuration.own_fault("workers cannot boot", *pick.BEAR_ON_BOOT)
        # A configuration with a new key that nobody could judge yet has shown nothing.
        self.configuration.tick(now, outage=self.providers.all_out or self.providers.any_unjudged)
        if self.configuration.take_changed():
            self._apply()

    # ---------------------------------------------------------------- stop

    def finish(self, why: str) -> None:
        """Take nothing new, submit nothing, and drain when all that is under way has ended and is delivered.

        systemd is not told: from STOPPING=1 on it would wait no longer than TimeoutStopSec.
        """
        if self.state != "running":
            return
        text = f"{why}: nothing new is taken; {self._under_way} captchas are waited for"
        self.log.info(text, extra=fields(Event.DRAINING))
        self._finishing = why
        self.state = "draining"
        self.dispatcher.draining = True
        self._publish_status()

    @property
    def _under_way(self) -> int:
        """Tasks that are being submitted, or are at a provider."""
        states = self.queue.view.states
        return states[State.SUBMITTING] + states[State.SUBMITTED]

    def _drain_if_finished(self) -> None:
        # While the journal is down what ended is staged, and no result of it is delivered.
        if self._under_way or self.queue.view.undelivered or self.queue.busy or self.journal.staged:
            return
        self.drain(f"{self._finishing}: all has ended")

    def drain(self, why: str) -> None:
        """Take nothing new, let begun submits end, stop. A second request kills what is left.

        In `finish` it ends the wait: captchas that are still at a provider are the next start's.
        """
        if self.state == "stopped":
            return
        if self.state == "draining" and not self._finishing:
            self.log.warning(f"{why} again: what has not ended is killed", extra=fields(Event.STOP_FORCED))
            self.crew.kill_all()
            self._drain_until = self.clock.monotonic()
            return
        self._finishing = ""
        self.log.info(f"{why}: draining", extra=fields(Event.DRAINING))
        self.state = "draining"
        self.notify.stopping()
        self.notify.status("draining")
        self.dispatcher.draining = True
        drain_s = self.crew.view.settings.drain_s
        self._drain_until = self.clock.monotonic() + drain_s
        self.crew.drain()
        self.loop.call_later(drain_s, self.crew.kill_all)

    def _stop_if_drained(self) -> None:
        if self.crew.leaving or self.queue.busy:
            return
        if self.queue.down_reason and self.journal.staged and self.clock.monotonic() < self._drain_until:
            return  # outcomes wait for the disk; without them their submits count as unknown at the next start
        self.state = "stopped"

    def close(self) -> None:
        """Leave everything on disk as the next start wants it."""
        self.configuration.on_stop()
        self._remove_side_files()
        self.front.close()
        self.crew.close()
        self.control.close()
        self.intake.close()
        self._publish_status()
        self.queue.save_index()
        self.journal.close()
        self.log.info("stopped", extra=fields(Event.STOPPED))
