"""What would be lost with the journal, a line for each thing: the package's prerm keeps it for a purge.

    python3 -m captchad.cli.left

No verb of captchactl, for there it is `status`. It looks at the directory that a purge removes, whatever the
configuration says today: a daemon may have run there all the same, or before. Lines that begin with "/" name a
directory that the configuration has put elsewhere. The last line says that it has looked; with nothing else before it,
nothing is unfinished, and everything is handed out.
"""

__all__ = ["STATE", "elsewhere", "left"]

from collections.abc import Iterator
from pathlib import Path

from captchad.cli.places import Places, find
from captchad.queue import upkeep
from captchad.queue.upkeep import Upkeep

#: What a purge removes.
STATE = Path("/var/lib/captchad")
_SPOOL = Path("/var/spool/captchad")


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
    """Directories that are not where the package makes them."""
    for key, path, usual in (
        ("daemon.state_dir", places.state_dir, STATE),
        ("daemon.spool_dir", places.spool_dir, _SPOOL),
    ):
        if path != usual:
            yield f"{path} ({key})"


def main() -> None:
    """Print them. A journal that cannot be read raises, so that nobody takes silence for emptiness."""
    places = find(None, None)
    for line in elsewhere(places):
        print(line)
    for state_dir in dict.fromkeys((STATE, places.state_dir)):
        for line in left(state_dir, places.segment_mb):
            print(line if state_dir == STATE else f"{line}, in {state_dir}")
    print(f"looked at {STATE}")


if __name__ == "__main__":
    main()
