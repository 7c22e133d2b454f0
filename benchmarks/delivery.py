"""How long an answer lies ready at the provider before its result file is there, and how many calls that takes.

    python -m benchmarks.delivery [--quick] [--captchas N] [--json FILE]

Real daemons and practice providers, side by side; each has a provider of its own with the same seed, so that all get
the same solve times, log-normal with a median of 20 s. The common client polls first after 15 s, then every 5 s,
and does nothing else. Ready: `ready_at` of the provider's ledger. There: when the result file was renamed (its ctime);
for the common client, when it has read the answer. Calls: all of res.php, for each captcha. The delays of the first
captchas are left out: from them the daemons learn.
"""

__all__ = ["main"]

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captchad.model.clock import SystemClock
from captchad.provider.answers import Solved, Submitted
from captchad.provider.client import ProviderClient
from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

MEDIAN_S, SIGMA = 20.0, 0.45
FIRST_S, EVERY_S, TIMEOUT_S = 15.0, 5.0, 180.0

#: Not measured, one wave after the other: the polls of the first one are not well placed, and say little.
LEARNED_FROM = (30, 70)

PAGE = "https://example.com/"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report; seconds."""

    name: str
    median: float
    mean: float
    p90: float
    calls: float


@dataclass(slots=True)
class Arm:
    """One that is measured, and when it had each captcha's answer, by sitekey."""

    name: str
    sandbox: Sandbox
    submit: Callable[[Sequence[str]], None]
    arrived: Callable[[], Mapping[str, float]]


class CommonClient:
    """A thread a captcha: submit, sleep, ask, sleep, ask. Its first poll and interval shrink with `scale`."""

    def __init__(self, sandbox: Sandbox, scale: float) -> None:
        self._sandbox = sandbox
        self._scale = scale
        self._arrived: dict[str, float] = {}

    def submit(self, sitekeys: Sequence[str]) -> None:
        for sitekey in sitekeys:
            threading.Thread(target=self._solve, args=(sitekey,), daemon=True).start()

    def arrived(self) -> Mapping[str, float]:
        return dict(self._arrived)

    def _solve(self, sitekey: str) -> None:
        client = ProviderClient("common", self._sandbox.url, self._sandbox.key)
        clock = SystemClock()
        fields = {"method": "userrecaptcha", "googlekey": sitekey, "pageurl": PAGE}
        taken = client.submit(fields, clock.monotonic() + 10.0)
        if not isinstance(taken, Submitted):
            raise AssertionError(f"the practice provider has not taken a captcha: {taken}")
        time.sleep(FIRST_S / self._scale)
        while not isinstance(client.poll(taken.cid, clock.monotonic() + 10.0), Solved):
            time.sleep(EVERY_S / self._scale)
        self._arrived[sitekey] = time.time()
        client.close()


def run(arms: Sequence[Arm], captchas: int, scale: float) -> list[Row]:
    """Learn, then submit `captchas` evenly over one and a half median solve times, wait for all, and compare."""
    known = 0
    for wave in LEARNED_FROM:
        for arm in arms:
            arm.submit([f"learn-{known + i}" for i in range(wave)])
        known += wave
        eventually(lambda least=0.9 * known: all(len(arm.arrived()) >= least for arm in arms), TIMEOUT_S, every=0.5)
    started, pause_s = time.monotonic(), 1.5 * MEDIAN_S / scale / captchas
    for i in range(captchas):
        time.sleep(max(0.0, started + i * pause_s - time.monotonic()))
        for arm in arms:
            arm.submit([f"site-{i}"])
    number = captchas + known
    eventually(lambda: all(len(arm.arrived()) >= number for arm in arms), TIMEOUT_S / scale, every=0.5)
    return [row(arm, captchas) for arm in arms]


def row(arm: Arm, captchas: int) -> Row:
    """What an arm has done with the measured captchas."""
    arrived, ledger = arm.arrived(), arm.sandbox.ledger()
    ready = {each["sitekey"]: each["ready_at"] for each in ledger["captchas"]}
    delays = sorted(max(0.0, arrived[name] - ready[name]) for name in ready if name.startswith("site-"))
    if len(delays) != captchas:
        raise AssertionError(f"{arm.name}: {len(delays)} of {captchas} captchas")
    p90 = delays[math.ceil(0.9 * len(delays)) - 1]
    return Row(
        arm.name, statistics.median(delays), statistics.fmean(delays), p90, ledger["totals"]["polls"] / len(ready)
    )


def daemon_arm(stack: ExitStack, directory: Path, name: str, scale: float, provider: Mapping[str, Any]) -> Arm:
    """A daemon with its own provider, by default with no poll times of its own; `provider` goes over its entry."""
    directory.mkdir()
    sandbox = stack.enter_context(Sandbox(directory, scenario=scenario(scale)))
    timing = {"first_poll_s": 0.0, "poll_s": EVERY_S / scale, "timeout_s": TIMEOUT_S / scale}
    overrides = {"supervision": {"heartbeat_s": 1.0}, "provider": {**timing, **provider}}
    daemon = stack.enter_context(Daemon(directory, sandbox, overrides))

    def submit(sitekeys: Sequence[str]) -> None:
        daemon.drop([{"id": each, "sitekey": each, "pageurl": PAGE} for each in sitekeys])

    def arrived() -> Mapping[str, float]:
        return {path.stem: path.stat().st_ctime for path in (daemon.spool_dir / "results").glob("*.json")}

    return Arm(name, sandbox, submit, arrived)


def common_arm(stack: ExitStack, directory: Path, scale: float) -> Arm:
    """The common client with its own provider."""
    directory.mkdir()
    sandbox = stack.enter_context(Sandbox(directory, scenario=scenario(scale)))
    client = CommonClient(sandbox, scale)
    return Arm(f"common client: {FIRST_S:g} s, then every {EVERY_S:g} s", sandbox, client.submit, client.arrived)


def scenario(scale: float) -> str:
    return f"seed = 1\n[solve]\nseconds = {{ median = {MEDIAN_S / scale}, sigma = {SIGMA}, max = {90.0 / scale} }}\n"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    out = ["| who | delay, median | mean | p90 | calls a captcha |", "|---|--:|--:|--:|--:|"]
    for each in rows:
        out.append(f"| {each.name} | {each.median:.2f} s | {each.mean:.2f} s | {each.p90:.2f} s | {each.calls:.2f} |")
    return "\n".join(out)


def main() -> int:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.delivery")
    parser.add_argument("--captchas", type=int, default=200, help="captchas measured for each (default: 200)")
    parser.add_argument("--quick", action="store_true", help="all times divided by five, delays too: half a minute")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    scale = 5.0 if arguments.quick else 1.0
    with tempfile.TemporaryDirectory(prefix="captchad-delivery-") as name, ExitStack() as stack:
        directory = Path(name)
        arms = [
            common_arm(stack, directory / "common", scale),
            daemon_arm(stack, directory / "usual", "captchad", scale, {}),
            daemon_arm(stack, directory / "often", "captchad, `poll_s = 2`", scale, {"poll_s": 2.0 / scale}),
            daemon_arm(stack, directory / "batch", "captchad, `batch_polls = true`", scale, {"batch_polls": True}),
        ]
        rows = run(arms, arguments.captchas, scale)
    print(f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} processors\n")
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
