"""What would be lost with the journal, a line for each thing: the package's prerm keeps it for a purge.

    python3 -m captchad.cli.left

No verb of captchactl, for there it is `status`. Lines that begin with "/" name a directory that the configuration has
put elsewhere. Without a line nothing is unfinished, and everything is handed out.
"""

__all__ = ["left"]

from collections.abc import Iterator
from pathlib import Path

from captchad.cli.places import Places, find
from captchad.model.errors import NeedsOperator
from captchad.queue import upkeep
from captchad.queue.upkeep import Upkeep

_USUAL = {"daemon.state_dir": Path("/var/lib/captchad"), "daemon.spool_dir": Path("/var/spool/captchad")}


def left(places: Places) -> Iterator[str]:
    """The lines. Raises CaptchadError when the journal cannot be read."""
    found = upkeep.verify(Upkeep(places.state_dir, places.segment_mb << 20))
    tasks = found["tasks"]
    for number, what in (
        (tasks["unfinished"], "unfinished tasks"),
        (tasks["dead"], "dead-letter tasks, which a redrive runs again"),
        (tasks["undelivered"], "results that were not handed out"),
        (len(found["side_files"]), "files of workers whose last words no daemon has read"),
        (len(found["damage"]), "damaged places in the journal"),
    ):
        if number:
            yield f"{number} {what}"


def elsewhere(places: Places) -> Iterator[str]:
    """Directories that are not where the package makes them."""
    for key, path in (("daemon.state_dir", places.state_dir), ("daemon.spool_dir", places.spool_dir)):
        if path != _USUAL[key]:
            yield f"{path} ({key})"


def main() -> None:
    """Print them. A journal that cannot be read raises, so that nobody takes silence for emptiness."""
    places = find(None, None)
    lines = list(elsewhere(places))
    try:
        lines += left(places)
    except NeedsOperator:
        if (places.state_dir / "journal").exists():
            raise
    for line in lines:
        print(line)


if __name__ == "__main__":
    main()
