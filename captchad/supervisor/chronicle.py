"""What is done about workers, and what happens to them, written down: log, counts for the metrics, records."""

__all__ = ["Chronicle", "how", "place"]

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from captchad.model.logevents import Event, fields
from captchad.supervisor.core.actions import Abandon, Action, Condemn, Kill, Limit, Refork, Withhold, verb
from captchad.supervisor.core.events import Death
from captchad.supervisor.core.states import FAULTS, Reason
from captchad.supervisor.worker import Office, Worker

#: What operators search for; of deaths those that nobody had ordered.
_EVENTS: Final[Mapping[str, Event]] = {
    "move": Event.WORKER_SEATED,
    "condemn": Event.WORKER_STALLED,
    "kill": Event.WORKER_KILLED,
    "abandon": Event.WORKER_UNDYING,
    "refork": Event.TEMPLATE_REPLACED,
    "template": Event.TEMPLATE_REPLACED,
    "fork": Event.FORK_FAILED,
    "scale": Event.WORKERS_SCALED,
    "limit": Event.WORKERS_LIMITED,
    "withhold": Event.WATCHDOG_WITHHELD,
}

#: Tasks that the record of a death names.
TASKS_SAID = 20


class Chronicle:
    """Each entry is one line of the log, which ends with its kind and reason in brackets, and one record."""

    def __init__(self, office: Office, log: logging.Logger) -> None:
        self.epoch = 0
        self.actions: Counter[tuple[str, str]] = Counter()  #: how often what was done, and why
        self.deaths: Counter[str] = Counter()  #: how often a worker died, and of what
        self._office = office
        self._log = log

    def act(self, action: Action, text: str, worker: Worker | None = None, **more: Any) -> None:
        """An action was carried out, on `worker` if that exists; `more` goes into the record."""
        name = "" if worker is None else f"worker {place(worker.slot)} (pid {worker.pid or '-'}): "
        who = {} if worker is None else {"seat": worker.slot, "w": worker.vital.number, "pid": worker.pid}
        self._enter(verb(action), action.reason, name + text, who | more, grave=_is_grave(action))

    def tell(self, what: str, reason: Reason, text: str, **more: Any) -> None:
        """Something has happened that is no good."""
        self._enter(what, reason, text, more, grave=True)

    def died(self, worker: Worker, death: Death, code: int, tasks: list[str]) -> None:
        """A worker has died, with that exit status or minus that signal, while it executed `tasks`."""
        self.deaths[str(death.reason)] += 1
        then = f"; replaced in {death.delay_s:.1f} s" if death.delay_s > 0 else ""
        verb_ = "ended" if death.reason is Reason.EXIT else "died"
        lived = f"{verb_} after {death.lived_s:.1f} s: {how(code)}{then}"
        beat = worker.vital.beat
        record = {
            "seat": worker.slot,
            "w": death.number,
            "pid": worker.pid,
            "code": code,
            "lived": round(death.lived_s, 3),
            "phase": beat.phase,
            "in_flight": beat.in_flight,
            "rss": beat.rss_bytes,
            "tasks": tasks[:TASKS_SAID],
        }
        text = f"worker {place(worker.slot)} (pid {worker.pid}) {lived}"
        self._enter("death", death.reason, text, record, grave=death.reason in FAULTS)

    def _enter(self, what: str, reason: Reason, text: str, record: dict[str, Any], *, grave: bool) -> None:
        self.actions[what, str(reason)] += 1
        event = Event.WORKER_DIED if what == "death" and grave else _EVENTS.get(what)
        worker = f"{self.epoch}-{record['w']}" if "w" in record else ""
        seat = record.get("seat")
        about = fields(event, worker=worker, seat=-1 if seat is None else seat, reason=reason)
        self._log.log(logging.WARNING if grave else logging.INFO, f"{text} [{what} {reason}]", extra=about)
        # A worker's number alone is a name for as long as the daemon runs.
        epoch = {"e": self.epoch} if "w" in record else {}
        self._office.write({"do": what, "why": str(reason), **record, **epoch})


def _is_grave(action: Action) -> bool:
    if isinstance(action, Limit):
        return action.reason is not Reason.RECOVERED
    return isinstance(action, Condemn | Kill | Abandon | Refork | Withhold) or action.reason in FAULTS


def place(seat: int) -> str:
    """A seat, for people."""
    return str(seat) if seat >= 0 else "in reserve"


def how(code: int) -> str:
    """How a process ended, for people."""
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"
