"""What the parent shows to those who report on it and answer for it."""

__all__ = ["Parts", "Reporting"]

from typing import Any, Protocol

from captchad.config.changes import Change
from captchad.daemon.configuration import Configuration, ReloadOutcome
from captchad.daemon.dispatch import Dispatcher
from captchad.daemon.front import Front
from captchad.daemon.orphans import Orphans
from captchad.daemon.providers import Providers
from captchad.daemon.publish import Publisher
from captchad.model.clock import Clock
from captchad.queue.queue import Queue
from captchad.spool.intake import Intake
from captchad.supervisor.crew import Crew


class Reporting(Protocol):
    """The reporter, as the verbs use it."""

    def snapshot(self) -> dict[str, Any]:
        """The status."""

    def health(self) -> dict[str, Any]:
        """The checks."""


class Parts(Protocol):
    """The parent's parts, to read."""

    state: str
    started_at: float
    low_limit: str
    clock: Clock
    configuration: Configuration
    queue: Queue
    providers: Providers
    dispatcher: Dispatcher
    crew: Crew
    publisher: Publisher
    intake: Intake
    orphans: Orphans
    front: Front

    @property
    def reporter(self) -> Reporting:
        """Says how all is."""

    def reload(self, confirm_within_s: float | None = None) -> ReloadOutcome:
        """Read the configuration again."""

    def go_back(self, number: int | None) -> tuple[Change, ...]:
        """Run an earlier configuration."""

    def finish(self, why: str) -> None:
        """Stop when all that is under way has ended."""
