"""Processes of a trial: forked clients, their start at one moment, and processor time that is exact."""

__all__ = ["Crew", "Job", "cpu_s"]

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Job = Callable[[Callable[[], None]], dict[str, Any]]


def cpu_s(pid: int) -> float:
    """Processor seconds of a process and all its threads, also those that have ended, in nanoseconds' resolution."""
    # CLOCK_PROCESS_CPUTIME_ID of another process: the kernel builds such a clock's number from the pid.
    return time.clock_gettime((~pid << 3) | 2)


class Crew:
    """Forked processes, each with one job. A job calls what it is given when it is ready, and returns its report."""

    def __init__(self, jobs: Sequence[Job], directory: Path) -> None:
        """Fork them; returns when all are ready. They begin with `go`."""
        self._reports = [directory / f"report-{number}.json" for number in range(len(jobs))]
        ready_reader, ready_writer = os.pipe()
        go_reader, self._go = os.pipe()
        self._pids = [
            self._fork(job, report, ready_writer, go_reader) for job, report in zip(jobs, self._reports, strict=True)
        ]
        self.pidfds = [os.pidfd_open(pid) for pid in self._pids]
        os.close(ready_writer)
        os.close(go_reader)
        came = 0
        while came < len(jobs) and (chunk := os.read(ready_reader, len(jobs))):
            came += len(chunk)
        os.close(ready_reader)
        if came < len(jobs):
            raise RuntimeError("a client died before it began")

    def _fork(self, job: Job, report: Path, ready: int, go: int) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.close(self._go)  # or its end would never be seen

            def wait() -> None:
                os.write(ready, b".")
                os.close(ready)
                os.read(go, 1)

            report.write_text(json.dumps(job(wait)))
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it was, it must not unwind into the parent's frames
            traceback.print_exc()
        finally:
            os._exit(code)

    def go(self) -> None:
        """Let all of them begin."""
        os.write(self._go, b"." * len(self._pids))

    def reports(self) -> list[dict[str, Any]]:
        """What they returned; waits for their end. Raises RuntimeError when one has failed."""
        os.close(self._go)
        failed = [pid for pid in self._pids if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
        for fd in self.pidfds:
            os.close(fd)
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(self._pids)} clients failed")
        return [json.loads(report.read_text()) for report in self._reports]
