"""What the daemon says about itself: status (design, section 4), health, metrics. One snapshot a second serves all."""

__all__ = ["Reporter", "write_status_file"]

import errno
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil

from captchad import __version__
from captchad.daemon.parts import Parts
from captchad.daemon.providers import NEW_KEY, Lane
from captchad.model.money import amount
from captchad.model.states import State
from captchad.policy.breaker import state_word
from captchad.policy.degradation import Mode, error_rate
from captchad.policy.spend import ALL
from captchad.supervisor.core.view import Seat
from captchad.supervisor.worker import Worker

Metric = list[Any]  # [name, type, help, [[labels, value], ...]]

#: Reading /proc for every worker costs; once in so many seconds is enough for eyes.
PROC_EVERY_S = 15.0

#: Ends that count for the health: also a few a minute are to be seen.
HEALTH_WINDOW_S = 3600.0


class Reporter:
    """Builds the snapshot from the parent's parts. Changes nothing."""

    def __init__(self, parent: Parts) -> None:
        self._parent = parent
        self._usage: dict[int, tuple[int, float]] = {}
        self._cpu: dict[int, tuple[float, float]] = {}
        self._usage_at = float("-inf")

    def snapshot(self) -> dict[str, Any]:
        """The status as `captchactl status --json` shows it, with `source` live."""
        return {
            "schema": 1,
            "source": "live",
            "age_s": 0.0,
            "daemon": self._daemon(),
            "workers": self._workers(),
            "queue": self._queue(),
            "providers": [self._provider(name) for name in self._parent.providers.lanes],
        }

    def _daemon(self) -> dict[str, Any]:
        parent = self._parent
        return {
            "pid": os.getpid(),
            "version": __version__,
            "state": parent.state,
            "mode": parent.dispatcher.degradation.mode,
            "mode_reasons": list(parent.dispatcher.degradation.reasons),
            "uptime_s": round(parent.clock.monotonic() - parent.started_at, 3),
            "problems": self.problems(),
            "epoch": parent.crew.epoch,
            "orphans": parent.orphans.waiting,
            "config": parent.configuration.report(),
        }

    def problems(self) -> list[str]:
        """Everything that keeps captchad from its full work, in words."""
        parent = self._parent
        now = parent.clock.monotonic()
        found: list[str] = []
        if parent.state == "stopped":
            return found
        if parent.queue.down_reason:
            found.append(f"the journal takes no write: {parent.queue.down_reason}; intake and submits are stopped")
        elif not parent.queue.journal.takes_intake:
            found.append("the disk is full: only outcomes are written (the reserve); intake and submits are stopped")
        elif parent.queue.no_room:
            found.append(f"{parent.queue.no_room}; intake and submits are stopped")
        if parent.publisher.down_reason:
            found.append(f"results wait: {parent.publisher.down_reason}")
        if parent.intake.down_reason:
            found.append(f"intake waits: {parent.intake.down_reason}")
        if parent.crew.alive < parent.configuration.config.daemon.min_workers:
            found.append(f"{parent.crew.alive} of {parent.crew.view.target} workers are alive")
        failing = [seat for seat in parent.crew.seats if seat.history.failing and parent.crew.is_unsettled(seat)]
        found += [f"worker {seat.index} dies again and again: {seat.last_death}" for seat in failing]
        if parent.low_limit:
            found.append(parent.low_limit)
        if parent.crew.view.guard.share < 1.0:
            share = parent.crew.view.guard.share
            found.append(f"workers use {share:.0%} of their threads: the system is short of something, see the log")
        if parent.front.problem:
            found.append(parent.front.problem)
        for lane in parent.providers.lanes.values():
            found += self._waits_for(lane, now)
        found += parent.dispatcher.waiting().values()
        mode = parent.dispatcher.degradation
        if mode.effect:
            found.append(f"{mode.mode}: {'; '.join(mode.reasons)}; {mode.effect}")
        held = parent.queue.view.states[State.HELD]
        if held:
            found.append(f"{held} tasks are held: captchactl list --state held, then release or cancel")
        if parent.configuration.problem:
            found.append(f"config: {parent.configuration.problem}")
        if parent.configuration.awaited:
            found.append(f"config: {parent.configuration.awaited}")
        if parent.queue.journal.quarantined:
            found.append(f"{parent.queue.journal.quarantined} damaged journal lines are in quarantine")
        return found

    def _waits_for(self, lane: Lane, now: float) -> list[str]:
        """What keeps a provider from work, and what soon will."""
        accounts = self._parent.dispatcher.accounts
        found = accounts.problems(lane.name)
        word = state_word(lane.breaker, now)
        # A new key that nothing was submitted with yet is no problem.
        if word != "closed" and lane.breaker.reason != NEW_KEY and not accounts.has_no_funds(lane.name):
            wait_s = max(0.0, lane.breaker.open_until - now)
            found.append(f"provider {lane.name}: {word} after {lane.breaker.reason}, next try in {wait_s:.0f} s")
        return found

    def _workers(self) -> dict[str, Any]:
        crew, daemon = self._parent.crew, self._parent.configuration.config.daemon
        self._read_usage()
        return {
            "configured": daemon.workers,
            "target": crew.view.target,
            "alive": crew.alive,
            "min": daemon.min_workers,
            "healthy": crew.alive >= daemon.min_workers,
            "share": crew.view.guard.share,
            "list": [self._seat(seat) for seat in crew.seats],
            "reserve": [row for seat in crew.view.reserve if (row := self._seat(seat))["pid"]],
            "leaving": [self._process(worker) for worker in crew.workers if worker.vital.seat is None],
        }

    def _seat(self, seat: Seat) -> dict[str, Any]:
        worker = self._parent.crew.sitting(seat)
        row: dict[str, Any] = {
            "slot": seat.index,
            "pid": None,
            "state": "failing" if seat.history.failing else "waiting",
            "in_flight": 0,
            "completed": seat.completed,
            "restarts": seat.restarts,
            "heartbeat_age_s": None,
            "rss_bytes": None,
            "cpu_percent": None,
            "last_death": seat.last_death or None,
        }
        if worker is None or worker.child is None:
            return row
        return row | self._process(worker) | {"completed": seat.completed + worker.vital.beat.completed}

    def _process(self, worker: Worker) -> dict[str, Any]:
        vital, now = worker.vital, self._parent.clock.monotonic()
        rss, cpu = self._usage.get(worker.pid, (None, None))
        beat_age = None if vital.last_beat_at is None else round(max(0.0, now - vital.last_beat_at), 3)
        return {
            "pid": worker.pid,
            "state": worker.state,
            "in_flight": self._parent.dispatcher.polls_of(worker),
            "heartbeat_age_s": beat_age,
            "rss_bytes": vital.beat.rss_bytes or rss,
            "cpu_percent": cpu,
            "phase": vital.beat.phase,
            "generation": vital.generation,
            "calls": vital.beat.calls,
            "lag_s": vital.beat.lag_s,
            "forked_mono_s": vital.forked_at,
            "first_beat_mono_s": vital.first_beat_at,
            "ready_mono_s": vital.seated_at,
        }

    def _read_usage(self) -> None:
        now = self._parent.clock.monotonic()
        pids = {worker.pid for worker in self._parent.crew.workers if worker.child is not None}
        if pids <= self._usage.keys() and now - self._usage_at < PROC_EVERY_S:
            return
        self._usage_at = now
        usage: dict[int, tuple[int, float]] = {}
        cpu: dict[int, tuple[float, float]] = {}
        for pid in pids:
            try:
                process = psutil.Process(pid)
                times = process.cpu_times()
                rss = process.memory_info().rss
            except psutil.Error:
                continue  # it died in this very turn; its pidfd tells
            spent = times.user + times.system
            before, at = self._cpu.get(pid, (spent, now))
            percent = 100.0 * (spent - before) / (now - at) if now > at else 0.0
            cpu[pid] = (spent, now)
            usage[pid] = (rss, round(percent, 1))
        self._usage, self._cpu = usage, cpu

    def _queue(self) -> dict[str, Any]:
        parent = self._parent
        view, totals = parent.queue.view, parent.queue.view.totals
        oldest = view.oldest_pending_at()
        return {
            "capacity": parent.queue.settings.capacity,
            "pending": view.lines["ready"] + view.lines["waiting"],
            "delayed": view.lines["delayed"],
            "held": view.states[State.HELD],
            "in_flight": view.states[State.SUBMITTING] + view.states[State.SUBMITTED],
            "dead": view.states[State.DEAD],
            "accepted_total": totals.accepted,
            "solved_total": totals.solved,
            "failed_total": totals.dead + totals.expired + totals.cancelled,
            "charges_total": totals.charges,
            "cost_total": amount(totals.cost),
            "unknown_submits": totals.unknown_submits,
            "late_submits": totals.late_submits,
            "oldest_pending_s": 0.0 if oldest is None else round(max(0.0, parent.queue.now() - oldest), 3),
            "undelivered": len(view.undelivered),
            "spool_waiting": parent.intake.waiting,
            "journal": {
                "state": parent.queue.journal.state,
                "bytes": parent.queue.journal.size_bytes,
                "segments": len(parent.queue.journal.segments()),
                "torn_tails": parent.queue.journal.torn,
                "quarantined": parent.queue.journal.quarantined,
            },
        }

    def _provider(self, name: str) -> dict[str, Any]:
        lane = self._parent.providers.lanes[name]
        ended = lane.solved + lane.failed
        account = self._parent.dispatcher.accounts.accounts.get(name)
        threads, working = (account and account.threads) or (None, None)
        return {
            "name": name,
            "breaker": state_word(lane.breaker, self._parent.clock.monotonic()),
            "reason": lane.breaker.reason or None,
            "held_back": self._held_back(name),
            "in_flight": self._parent.queue.view.in_flight.get(name, 0),
            "max_in_flight": lane.settings.max_in_flight,
            "limit": self._parent.providers.limit(name),
            "solve_rate": round(lane.solved / ended, 4) if ended else None,
            "balance": account and account.balance,
            "threads": threads,
            "working_threads": working,
            "leaving": lane.leaving,
            "old_keys": len(lane.old_keys),
            "captchas_without_key": lane.without_key,
        }

    def _held_back(self, name: str) -> str | None:
        """Why this provider takes fewer submits than it could, or none: what lasts longest first."""
        dispatcher = self._parent.dispatcher
        if why := dispatcher.spending.why(ALL):
            return f"limits.{why}"
        return dispatcher.spending.why(name) or dispatcher.accounts.held_back(name)

    # ---------------------------------------------------------------- health and metrics

    def health(self) -> dict[str, Any]:
        """Liveness and readiness with a reason for each check.

        What no restart mends is `warn`: a provider's outage, a port that others have.
        """
        parent = self._parent
        journal_ok = not parent.queue.down_reason
        alive, minimum = parent.crew.alive, parent.configuration.config.daemon.min_workers
        waiting = parent.dispatcher.waiting().values()
        outages = [each for each in self.problems() if each.startswith("provider ") or each in waiting]
        ends, now = parent.providers.recent_ends, parent.clock.monotonic()
        rate = error_rate(ends, now, HEALTH_WINDOW_S)
        emergency = parent.configuration.config.degradation.emergency_error_rate
        checks = {
            "journal": _check(journal_ok, parent.queue.down_reason or "takes writes"),
            "intake": _check(parent.queue.accepts_work, "open" if parent.queue.accepts_work else "stopped: no room"),
            "workers": _check(alive >= minimum, f"{alive} alive, {minimum} needed"),
            "solve_rate": _check(rate < emergency, _solved(ends, now)),
            "spool": _check(not parent.intake.down_reason, parent.intake.down_reason or "readable"),
            "providers": {"status": "warn" if outages else "pass", "output": "; ".join(outages) or "answer"},
            "config": {
                "status": "warn" if parent.configuration.problem else "pass",
                "output": parent.configuration.problem or "as on disk",
            },
            "http": {
                "status": "warn" if parent.front.problem else "pass",
                "output": parent.front.problem or parent.configuration.config.http.listen or "off",
            },
        }
        ready = parent.state == "running" and all(check["status"] != "fail" for check in checks.values())
        return {"live": True, "ready": ready, "checks": checks}

    def metrics(self) -> list[Metric]:
        """Prometheus families as [name, type, help, samples]."""
        parent = self._parent
        view, totals = parent.queue.view, parent.queue.view.totals
        families: list[Metric] = [
            ["captchad_build_info", "gauge", "Version that runs.", [[{"version": __version__}, 1]]],
            [
                "captchad_tasks",
                "gauge",
                "Tasks by state.",
                [[{"state": str(state)}, count] for state, count in view.states.items()],
            ],
            [
                "captchad_tasks_total",
                "counter",
                "Tasks that ended, by how.",
                [
                    [{"result": "solved"}, totals.solved],
                    [{"result": "dead"}, totals.dead],
                    [{"result": "expired"}, totals.expired],
                    [{"result": "cancelled"}, totals.cancelled],
                ],
            ],
            _single("captchad_tasks_accepted_total", "counter", "Tasks accepted.", totals.accepted),
            _single("captchad_charges_total", "counter", "Captchas that providers accepted.", totals.charges),
            _single("captchad_cost_total", "counter", "Price of all answers, as far as known.", amount(totals.cost)),
            _single("captchad_unknown_submits_total", "counter", "Submits with no answer.", totals.unknown_submits),
            _single("captchad_late_submits_total", "counter", "Submits beside a late attempt.", totals.late_submits),
            [
                "captchad_queue_oldest_age_seconds",
                "gauge",
                "Age of the oldest pending task.",
                [[{}, self._queue()["oldest_pending_s"]]],
            ],
            [
                "captchad_mode",
                "gauge",
                "1 for the mode that it is.",
                [[{"mode": str(mode)}, int(mode is parent.dispatcher.degradation.mode)] for mode in Mode],
            ],
            [
                "captchad_workers",
                "gauge",
                "Workers by state.",
                [
                    [{"state": state}, sum(worker.state == state for worker in parent.crew.workers)]
                    for state in ("booting", "running", "standby", "stalled", "draining")
                ],
            ],
            [
                "captchad_worker_deaths_total",
                "counter",
                "Workers that died, by cause.",
                [[{"reason": reason}, count] for reason, count in sorted(parent.crew.chronicle.deaths.items())],
            ],
            [
                "captchad_worker_actions_total",
                "counter",
                "What was done about workers, by what and why.",
                [
                    [{"action": action, "reason": reason}, count]
                    for (action, reason), count in sorted(parent.crew.chronicle.actions.items())
                ],
            ],
            _single("captchad_workers_target", "gauge", "Workers that are wanted.", parent.crew.view.target),
            _single("captchad_thread_share", "gauge", "Part of their threads in use.", parent.crew.view.guard.share),
            [
                "captchad_api_requests_total",
                "counter",
                "Calls of the provider, by outcome.",
                [
                    [{"provider": provider, "op": operation, "outcome": outcome}, count]
                    for (provider, operation, outcome), count in sorted(parent.providers.api_calls.items())
                ],
            ],
            *self._account_metrics(),
            _single("captchad_journal_bytes", "gauge", "Bytes in segments.", parent.queue.journal.size_bytes),
            _single("captchad_journal_up", "gauge", "1 while the journal writes.", int(not parent.queue.down_reason)),
            _single("captchad_results_delivered_total", "counter", "Result files.", parent.publisher.delivered),
            [
                "captchad_spool_rejected_total",
                "counter",
                "Files and lines rejected, by reason.",
                [[{"reason": reason}, count] for reason, count in sorted(parent.intake.rejected.items())],
            ],
            _single(
                "captchad_config_last_reload_successful",
                "gauge",
                "1 when the file on disk is what runs.",
                int(not parent.configuration.problem),
            ),
            self._config_metric(),
        ]
        return families

    def _config_metric(self) -> Metric:
        report = self._parent.configuration.report()
        labels = {"origin": report["origin"], "generation": str(report["generation"]), "digest": report["digest"][:12]}
        return ["captchad_config_info", "gauge", "Configuration that runs; generation 0: not good yet.", [[labels, 1]]]

    def _account_metrics(self) -> list[Metric]:
        """Of accounts that have told."""
        accounts = self._parent.dispatcher.accounts.accounts.items()
        balances = [[{"provider": name}, each.balance] for name, each in accounts if each.balance is not None]
        told = [(name, each.threads) for name, each in accounts if each.threads is not None]
        return [
            ["captchad_provider_balance", "gauge", "Money left, in the provider's currency.", balances],
            [
                "captchad_provider_threads",
                "gauge",
                "Threads of the provider's plan, and those that work.",
                [
                    [{"provider": name, "kind": kind}, count]
                    for name, threads in told
                    for kind, count in zip(("total", "working"), threads, strict=True)
                ],
            ],
        ]


def _single(name: str, kind: str, text: str, value: float) -> Metric:
    return [name, kind, text, [[{}, value]]]


def _solved(ends: Collection[tuple[float, bool]], now: float) -> str:
    """The share of captchas that were solved, in words: also of so few that nothing is judged by them."""
    recent = [solved for at, solved in ends if now - at < HEALTH_WINDOW_S]
    if not recent:
        return "no captcha has ended in the last hour" if ends else "nothing solved yet"
    return f"{recent.count(True) / len(recent):.0%} solved"


def _check(good: bool, output: str) -> dict[str, str]:
    return {"status": "pass" if good else "fail", "output": output}


def write_status_file(path: Path, snapshot: dict[str, Any], wall: float) -> str:
    """Rename a fresh status file into place. Not synced: it is a view, and the next one comes in a second.

    Returns why the file system took no write; "" when it did.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    # One dump to a string: the encoder in C writes it several times faster than json.dump to a file.
    text = json.dumps({**snapshot, "source": "file", "written_at": wall}, separators=(",", ":"))
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            data = text.encode()
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except OSError as error:
        return error.strerror or str(error)
    return ""
