"""What the parent knows of its workers, as plain data. Times are monotonic seconds.

A seat is a place for one worker and outlives the processes in it. Those that count have the numbers 0, 1, …; seats of
the reserve have negative ones: who is ready there moves into a seat whose worker has died, or is to be replaced.
"""

__all__ = [
    "Autoscale",
    "Beat",
    "Forks",
    "Guard",
    "Load",
    "Seat",
    "Settings",
    "View",
    "Vital",
    "Watchdog",
]

import math
from dataclasses import dataclass, field

from captchad.supervisor.core.restart import History
from captchad.supervisor.core.states import Reason, SeatState, WorkerState


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Workers between `least` and `most`: more when the oldest task has waited `age_s`, one each `cooldown_s`."""

    least: int
    most: int
    age_s: float
    cooldown_s: float


@dataclass(frozen=True, slots=True)
class Settings:
    """`[daemon]` and `[supervision]` as the core needs them; seconds, bytes."""

    workers: int
    min_workers: int
    heartbeat_s: float
    boot_s: float
    stall_s: float
    drain_s: float
    restart_max_delay_s: float
    standby: int = 1
    max_tasks: int = 0
    max_private_bytes: int = 0
    max_age_s: float = 0.0
    autoscale: Autoscale | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat says. `beyond_s`: how far the call that is least so is beyond its time-out, negative when one
    is within; `oldest_beyond_s`: how far the one is that is most so. None without calls.
    """

    phase: str = "boot"
    in_flight: int = 0
    submits: int = 0
    calls: int = 0
    beyond_s: float | None = None
    oldest_beyond_s: float | None = None
    lag_s: float = 0.0
    completed: int = 0
    starved: int = 0  # calls and threads that found no descriptor or no memory, since it started
    rss_bytes: int = 0
    private_bytes: int = 0


@dataclass(slots=True)
class Vital:
    """One process, from the order to fork it until its pipe was read dry."""

    number: int
    seat: int | None
    generation: int
    ordered_at: float
    spread: float  # drawn from 0 to 1: limits of tasks, memory and age come up to a tenth earlier by it
    state: WorkerState = WorkerState.FORKING
    since: float = 0.0  # when it came into this state
    forked_at: float | None = None
    first_beat_at: float | None = None
    last_beat_at: float | None = None
    seated_at: float | None = None  # when it was first ready in a seat that counts
    drain_until: float = math.inf
    why: Reason | None = None  # of its retirement or its end, if it was ordered
    beat: Beat = field(default_factory=Beat)

    @property
    def born_at(self) -> float:
        """When it was forked, or at least ordered."""
        return self.ordered_at if self.forked_at is None else self.forked_at

    @property
    def begun_at(self) -> float:
        """When its work began: when it took its seat. Who waits in reserve proves nothing by getting old there."""
        return self.born_at if self.seated_at is None else self.seated_at

    @property
    def usable(self) -> bool:
        """Whether it may be given work."""
        return self.state is WorkerState.READY and self.seat is not None and self.seat >= 0


@dataclass(slots=True)
class Seat:
    """A place for one worker."""

    index: int
    why: Reason  # of the next start
    state: SeatState = SeatState.EMPTY
    worker: int | None = None
    since: float = 0.0  # when it became empty
    until: float = 0.0  # while it waits
    history: History = field(default_factory=History)
    restarts: int = 0
    completed: int = 0  # by those who sat here before
    last_death: str = ""

    @property
    def due_at(self) -> float:
        """When somebody is to sit down here."""
        return math.inf if self.state is SeatState.TAKEN else max(self.since, self.until)


@dataclass(slots=True)
class Forks:
    """The system's refusals to make a process; they concern all seats."""

    failures: int = 0  # in a row
    resume_at: float = 0.0


@dataclass(slots=True)
class Guard:
    """How much of their threads workers may use: less while the system is short of something."""

    share: float = 1.0
    sign: Reason | None = None  # the latest one that was not acted upon
    sign_at: float = -math.inf
    changed_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class Load:
    """What there is to do: age of the oldest task that could run now, and which part of the threads is in use."""

    age_s: float = 0.0
    busy: float = 0.0


@dataclass(slots=True)
class Watchdog:
    """systemd's. `every_s`: how often it is to be told that all is well; None: nobody asks."""

    every_s: float | None = None
    next_at: float = 0.0
    journal_at: float = -math.inf  # when the journal last took a write, or was down with the next try ahead
    withheld: Reason | None = None


@dataclass(slots=True)
class View:
    """All of it."""

    settings: Settings
    target: int  # seats that are to be filled
    seats: list[Seat] = field(default_factory=list)
    reserve: list[Seat] = field(default_factory=list)
    vitals: dict[int, Vital] = field(default_factory=dict)
    generation: int = 0  # raised when workers are to be replaced by others
    why_generation: Reason = Reason.START
    stopping: bool = False
    last_number: int = 0
    boot_failures: int = 0  # in a row, over all seats
    boot_faults: int = 0  # those of them that the settings may explain: ordered under these, and not ended by the disk
    renewed_after: int = 0  # the last worker that was ordered under other settings
    scaled_at: float = -math.inf
    calm_since: float | None = None  # since when there are more workers than there is work for
    forks: Forks = field(default_factory=Forks)
    guard: Guard = field(default_factory=Guard)
    load: Load = field(default_factory=Load)
    watchdog: Watchdog = field(default_factory=Watchdog)

    def seat(self, index: int) -> Seat:
        """The seat of that number. Raises IndexError for one that there is not."""
        return self.seats[index] if index >= 0 else self.reserve[-1 - index]

    @property
    def places(self) -> int:
        """Seats that are to be filled, and those of the reserve."""
        return self.target + self.settings.standby

    @property
    def nobody_boots(self) -> bool:
        """Whether as many have died at boot, one after the other, as there are places: then one tries for all."""
        return self.boot_failures >= self.places

    @property
    def alive(self) -> int:
        """Workers that may be given work."""
        return sum(vital.usable for vital in self.vitals.values())
