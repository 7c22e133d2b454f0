"""The control verbs: each reads the view or stages records; an answer that promises a change waits for its commit."""

__all__ = ["Verbs"]

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from captchad.config.changes import Change
from captchad.control.server import Pending, Reply, Request
from captchad.control.wire import NO_SUCH_TASK, ok, refuse
from captchad.daemon.parts import Parts
from captchad.daemon.reports import report
from captchad.model.errors import JournalDown, TryLater
from captchad.model.states import State
from captchad.policy.forecast import by_share
from captchad.queue.describe import dead_letters, describe, task_list
from captchad.queue.queue import Refusal, each
from captchad.supervisor.core.states import Reason

MAX_LIST = 10_000

#: Tasks of a state that one request changes: a slice, so that a crowd does not hold up heartbeats.
CHANGED_A_REQUEST = 1000

#: Longest time that a reload waits to be confirmed: a week.
CONFIRM_MOST_S = 7 * 86400.0

#: As `daemon.workers`.
WORKERS_MOST = 256


class Verbs:
    """Answers the control socket. One table names all verbs."""

    def __init__(self, parent: Parts) -> None:
        self._parent = parent
        self._table: dict[str, Callable[[dict[str, Any]], Reply]] = {
            "status": self._status,
            "health": self._health,
            "show": self._show,
            "list": self._list,
            "dlq.list": self._dlq_list,
            "dlq.redrive": self._dlq_redrive,
            "hold": self._hold,
            "release": self._release,
            "cancel": self._cancel,
            "report": self._report,
            "reload": self._reload,
            "config.show": self._config_show,
            "config.confirm": self._config_confirm,
            "config.rollback": self._config_rollback,
            "workers.scale": self._workers_scale,
            "workers.restart": self._workers_restart,
            "drain": self._drain,
        }

    def handle(self, request: Request) -> Reply:
        verb = self._table.get(request.verb)
        if verb is None:
            return refuse(f"unknown verb {request.verb!r}", hint="this daemon may be older than captchactl", code=2)
        return verb(request.args)

    def _status(self, args: dict[str, Any]) -> Reply:
        return ok(self._parent.reporter.snapshot())

    def _health(self, args: dict[str, Any]) -> Reply:
        return ok({**self._parent.reporter.health(), "status": self._parent.reporter.snapshot()})

    def _show(self, args: dict[str, Any]) -> Reply:
        task = self._parent.queue.view.tasks.peek(str(args.get("id", "")))
        if task is None:
            return refuse(NO_SUCH_TASK, hint="it was never accepted, or it ended more than queue.id_ttl_s ago")
        return ok(describe(self._parent.queue.view, task))

    def _list(self, args: dict[str, Any]) -> Reply:
        tasks = task_list(self._parent.queue.view, args.get("state"), _limit(args))
        return ok({"tasks": tasks})

    def _dlq_list(self, args: dict[str, Any]) -> Reply:
        return ok({"tasks": dead_letters(self._parent.queue.view, _limit(args))})

    def _dlq_redrive(self, args: dict[str, Any]) -> Reply:
        queue = self._parent.queue
        if not queue.accepts_work:
            raise JournalDown(
                "the journal takes no new work now: " + (queue.down_reason or "the disk is full"),
                hint="make room on the state directory's disk; captchad goes on by itself",
            )
        redriven, refused = queue.redrive_many(_ids(args) if args.get("ids") is not None else None)
        pending = Pending()
        queue.after_commit(lambda: self._parent.publisher.withdraw(redriven))
        queue.after_commit(lambda: pending.resolve(ok({"redriven": redriven, "refused": refused})))
        return pending

    def _hold(self, args: dict[str, Any]) -> Reply:
        return self._move(self._parent.queue.hold, args)

    def _release(self, args: dict[str, Any]) -> Reply:
        return self._move(self._parent.queue.release, args)

    def _cancel(self, args: dict[str, Any]) -> Reply:
        return self._move(self._parent.queue.cancel, args)

    def _move(self, verb: Callable[[str], Refusal | None], args: dict[str, Any]) -> Reply:
        queue = self._parent.queue
        if queue.down_reason:
            raise JournalDown(f"the journal takes no write now: {queue.down_reason}", hint="try again when it does")
        ids, more = _ids(args), False
        if (state := args.get("state")) is not None:
            if state not in set(State):
                return refuse(f"no such state: {state!r}", code=2)
            found = queue.view.first(State(state), CHANGED_A_REQUEST + 1)
            ids, more = [task.id for task in found[:CHANGED_A_REQUEST]], len(found) > CHANGED_A_REQUEST
        done, refused = each(verb, ids)
        pending = Pending()
        queue.after_commit(lambda: pending.resolve(ok({"done": done, "refused": refused, "more": more})))
        return pending

    def _report(self, args: dict[str, Any]) -> Reply:
        return report(self._parent, str(args.get("id", "")), str(args.get("verdict", "")))

    def _reload(self, args: dict[str, Any]) -> Reply:
        within = args.get("confirm_within_s")
        if within is not None and not (isinstance(within, int | float) and 0 < within <= CONFIRM_MOST_S):
            return refuse(f"confirm_within_s is to be above 0 and at most {CONFIRM_MOST_S:g}", code=2)
        outcome = self._parent.reload(within)
        if outcome.refused:
            return refuse("\n".join(outcome.refused), hint="what ran until now runs on")
        return ok({"changed": _changed(outcome.changed), "config": self._parent.configuration.report()})

    def _config_show(self, args: dict[str, Any]) -> Reply:
        return ok(self._parent.configuration.shown())

    def _config_confirm(self, args: dict[str, Any]) -> Reply:
        return ok({"generation": self._parent.configuration.confirm()})

    def _config_rollback(self, args: dict[str, Any]) -> Reply:
        number = args.get("generation")
        if number is not None and type(number) is not int:
            return refuse("the number of a generation is wanted", code=2)
        changed = self._parent.go_back(number)
        return ok({"changed": _changed(changed), "config": self._parent.configuration.report()})

    def _workers_scale(self, args: dict[str, Any]) -> Reply:
        crew, least = self._parent.crew, self._parent.configuration.config.daemon.min_workers
        wanted = args.get("workers")
        if type(wanted) is not int or not 1 <= wanted <= WORKERS_MOST:
            return refuse(f"a number of workers from 1 to {WORKERS_MOST} is wanted", code=2)
        if wanted < least:
            hint = "lower daemon.min_workers in the configuration, then captchactl reload"
            return refuse(f"{wanted} is below daemon.min_workers, which is {least}", hint=hint)
        self._demand_running()
        was = crew.view.target
        if wanted != was:
            crew.rescale(wanted)
        return ok({"was": was, "is": crew.view.target, "autoscale": crew.view.settings.autoscale is not None})

    def _workers_restart(self, args: dict[str, Any]) -> Reply:
        self._demand_running()
        crew = self._parent.crew
        crew.renew(crew.view.settings, replace_all=Reason.OPERATOR)
        return ok({"workers": crew.view.target, "generation": crew.view.generation})

    def _drain(self, args: dict[str, Any]) -> Reply:
        parent = self._parent
        if args.get("eta") is not True:
            if parent.state == "starting":
                hint = "wait until it runs, or stop it by systemctl stop or SIGTERM"
                raise TryLater("the daemon is starting: it cannot drain yet", hint=hint)
            parent.finish("captchactl drain")
        return ok({"pid": os.getpid(), "state": parent.state, **_forecast(parent)})

    def _demand_running(self) -> None:
        """Raises TryLater in a drain: its workers are on their way out."""
        if self._parent.state not in ("starting", "running"):
            raise TryLater("the daemon is draining: its workers go", hint="when it has ended, start it again")


def _changed(changes: Sequence[Change]) -> list[dict[str, str]]:
    return [asdict(each) for each in changes]


def _forecast(parent: Parts) -> dict[str, Any]:
    """In how many seconds all that is under way has ended, by probability; and how long an ordinary stop may take."""
    groups, states = parent.dispatcher.under_way(), parent.queue.view.states
    submit_s = max((lane.settings.submit_s for lane in parent.providers.lanes.values()), default=0.0)
    return {
        "in_flight": states[State.SUBMITTING] + states[State.SUBMITTED],
        "undelivered": len(parent.queue.view.undelivered),
        "half_s": round(by_share(groups, 0.5), 1),
        "most_s": round(by_share(groups, 0.9), 1),
        "latest_s": round(max((group.left_s for group in groups), default=0.0), 1),
        "stop_s": min(parent.crew.view.settings.drain_s, submit_s),
        "known": all(group.unsolved is not None for group in groups),
    }


def _ids(args: dict[str, Any]) -> list[str]:
    ids = args.get("ids")
    return [str(task_id) for task_id in ids] if isinstance(ids, list) else []


def _limit(args: dict[str, Any]) -> int:
    value = args.get("limit")
    return min(MAX_LIST, value) if isinstance(value, int) and value > 0 else MAX_LIST
