"""A worker process as its parent has it, and those to whom its parent's crew reports."""

__all__ = ["Duties", "Office", "Worker"]

from dataclasses import dataclass
from typing import Any, Protocol

from captchad.ipc.channel import Channel, Message
from captchad.supervisor.core.states import WorkerState
from captchad.supervisor.core.view import Vital
from captchad.supervisor.process import Child

_WORDS = {
    WorkerState.FORKING: "booting",
    WorkerState.BOOTING: "booting",
    WorkerState.DRAINING: "draining",
    WorkerState.CONDEMNED: "stalled",
    WorkerState.KILLED: "stalled",
}


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process. (epoch, number) is its name for ever. It has no child while it is being forked."""

    vital: Vital
    epoch: int
    slot: int  # the seat, also after it has left it; negative in reserve
    threads: int  # for submits, and as many for polls
    channel: Channel
    child: Child | None = None

    @property
    def key(self) -> tuple[int, int]:
        return (self.epoch, self.vital.number)

    @property
    def pid(self) -> int:
        return self.child.pid if self.child else 0

    @property
    def state(self) -> str:
        """For people: `booting`, `running`, `standby`, `draining` or `stalled`."""
        return _WORDS.get(self.vital.state) or ("running" if self.vital.usable else "standby")

    @property
    def usable(self) -> bool:
        """Whether it may be given work."""
        return self.vital.usable and not self.channel.gone

    def send(self, *messages: Message) -> None:
        """Queue messages for it. What its pipe does not take now leaves with a later turn."""
        self.channel.send(*messages)


class Duties(Protocol):
    """Who the crew reports to."""

    def on_boot(self, worker: Worker) -> None:
        """Its first heartbeat came, in a seat or in reserve."""

    def on_ready(self, worker: Worker) -> None:
        """It has beaten and has a seat: it may be given work."""

    def on_message(self, worker: Worker, message: Message) -> None:
        """Anything but a heartbeat."""

    def on_retire(self, worker: Worker) -> None:
        """It is about to drain, or is given up: take its captchas away."""

    def on_death(self, worker: Worker, kind: str) -> list[str]:
        """It is dead and its pipe was read dry. `kind` is `exit`, `crash` or `stall`. Returns the tasks it executed."""

    def on_limit(self, share: float) -> None:
        """Workers may use that share of their threads."""


class Office(Protocol):
    """Who keeps the books, and speaks with systemd."""

    def write(self, fields: dict[str, Any]) -> None:
        """Record an action that was carried out, or a death."""

    def journal_lives(self) -> bool:
        """Have the journal show that it takes a write; also True while it is down with its next try ahead."""

    def ping(self) -> None:
        """Tell systemd that all is well."""
