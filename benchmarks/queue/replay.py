"""How long the queue takes to read a journal, and what it holds then; in a fresh process, without the daemon.

python -m benchmarks.queue.replay DIRECTORY SEGMENT_MB
"""

__all__ = ["main", "rss_bytes"]

import gc
import json
import random
import sys
import time
from pathlib import Path

from benchmarks.queue.captchad_store import SETTINGS
from captchad.journal.store import Journal
from captchad.model.clock import SystemClock
from captchad.queue.queue import Queue


def rss_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def main() -> int:
    """Print the seconds, and the bytes of memory that came with it, as JSON."""
    clock = SystemClock()
    journal = Journal.open(Path(sys.argv[1]) / "journal", segment_bytes=int(sys.argv[2]) << 20, clock=clock)
    queue = Queue(journal, SETTINGS, clock, random.Random(1))
    gc.collect()
    before, start = rss_bytes(), time.perf_counter()
    records = queue.replay()
    seconds = time.perf_counter() - start
    gc.collect()
    held = rss_bytes() - before
    print(json.dumps({"seconds": seconds, "records": records, "bytes": held, "tasks": sum(queue.view.states.values())}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
