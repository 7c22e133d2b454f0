"""What would be lost with the journals, a line for each thing: the package's prerm keeps it for a purge.

    python3 -m captchad.cli.left STATE_DIR...

No verb of captchactl, for there it is `status`. The state directories are those that prerm has found in what a purge
removes; that of the configuration is looked at, too. Lines that begin with "/" name a directory that the configuration
has put elsewhere, where no purge comes. After each state directory a line says that it was looked at; with nothing
else there, nothing is unfinished, and everything is handed out.
"""

__all__ = ["STATE", "elsewhere", "left"]

import sys
from collections.abc import Iterator
from pathlib import Path

from captchad.cli.places import Places, find
from captchad.queue import upkeep
from captchad.queue.upkeep import Upkeep

STATE = Path("/var/lib/captchad")
_SPOOL = Path("/var/spool/captchad")
_PURGED = (STATE, _SPOOL)


def left(state_dir: Path, segment_mb: int) -> Iterator[str]:
    """The lines of one state directory; none without a journal. Raises CaptchadError, OSError if it cannot be read."""
    if not (state_dir / "journal").exists():
        return
    found = upkeep.verify(Upkeep(state_dir, segment_mb << 20))
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
    """Directories of the configuration that a purge does not remove."""
    for key, path in (("daemon.state_dir", places.state_dir), ("daemon.spool_dir", places.spool_dir)):
        if path not in _PURGED and not any(path.resolve().is_relative_to(purged) for purged in _PURGED):
            yield f"{path} ({key})"


def main() -> None:
    """Print them. A journal that cannot be read raises, so that nobody takes silence for emptiness."""
    places = find(None, None)
    for line in elsewhere(places):
        print(line)
    for state_dir in dict.fromkeys((*map(Path, sys.argv[1:]), places.state_dir)):
        for line in left(state_dir, places.segment_mb):
            print(line if state_dir == STATE else f"{line}, in {state_dir}")
        print(f"looked at {state_dir}")


if __name__ == "__main__":
    main()
