"""What is to be done about the workers. Each carries the reason for it."""

__all__ = [
    "Abandon",
    "Action",
    "Condemn",
    "Kill",
    "Limit",
    "Move",
    "Ping",
    "Refork",
    "Retire",
    "Scale",
    "Start",
    "Withhold",
    "verb",
]

from dataclasses import dataclass

from captchad.supervisor.core.states import Reason


@dataclass(frozen=True, slots=True)
class Start:
    """Have a worker forked for a seat."""

    seat: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Move:
    """A worker of the reserve takes a seat. Who sits there leaves it."""

    number: int
    seat: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Retire:
    """Take a worker's captchas away, and tell it to end what it has begun and to go."""

    number: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Condemn:
    """A worker hangs: have it write its stack."""

    number: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL."""

    number: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Abandon:
    """A killed worker does not die: its seat and its captchas go to others."""

    number: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Refork:
    """The template does not answer: replace it. The forks that it owes have failed."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Scale:
    """That many workers from now on."""

    target: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Limit:
    """Workers may use that share of their threads."""

    share: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class Ping:
    """Tell systemd that all is well."""

    reason: Reason = Reason.HEALTHY


@dataclass(frozen=True, slots=True)
class Withhold:
    """Do not."""

    reason: Reason


Action = Start | Move | Retire | Condemn | Kill | Abandon | Refork | Scale | Limit | Ping | Withhold


def verb(action: Action) -> str:
    """Its name in log, journal and metrics."""
    return type(action).__name__.lower()
