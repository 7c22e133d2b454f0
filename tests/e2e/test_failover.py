"""Two providers under load, of which the preferred one dies and comes back."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from captchad.journal.store import read_all
from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

RATE = 50.0
BATCH = 5
BACK = "provider first: back"
THRESHOLD = 5
SOLVE = """
[solve]
seconds = 0.5
"""


@dataclass(frozen=True)
class Submit:
    """One submit as the journal tells it."""

    at: float
    provider: str
    end: str  # submitted, not_sent, unknown, refused
    began: int  # the places of both records in the journal
    ended: int


class Load:
    """Drops tasks, so many a second."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.ids: list[str] = []
        self._due = time.monotonic()

    def run(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not enough():
            time.sleep(max(0.0, self._due - time.monotonic()))  # this is the load's own pace
            self._due += BATCH / RATE
            tasks = [{"id": f"t-{len(self.ids) + number}"} for number in range(BATCH)]
            self.ids += self.daemon.drop({**task, "sitekey": task["id"], "pageurl": "https://a.org/"} for task in tasks)


def providers(tmp_path: Path, sandboxes: dict[str, Sandbox]) -> list[dict[str, object]]:
    common = {
        "api_key_file": str(tmp_path / "key"),
        "first_poll_s": 0.5,
        "poll_s": 0.3,
        "timeout_s": 120.0,
        "submit_s": 5.0,
        "pause_s": 0.5,
        "max_in_flight": 1000,
        "submits_per_3s": 100_000,
    }
    numbered = enumerate(sandboxes.items(), 1)
    return [{"name": name, "url": each.url, "priority": number, **common} for number, (name, each) in numbered]


def submits(journal: Path) -> Iterator[Submit]:
    """All that have ended, in the order of their ends."""
    begun = {}
    for place, record in enumerate(read_all(journal)):
        n = record.fields.get("n", 0)
        if record.kind == "submitting":
            begun[n] = record.fields["prov"], place
        elif n in begun:
            provider, began = begun.pop(n)
            yield Submit(record.fields["t"], provider, record.kind, began, place)


def main(taken: Iterable[Submit]) -> str:
    """Who had most of these submits."""
    return Counter(submit.provider for submit in taken).most_common(1)[0][0]


def known_at(ended: Iterable[Submit]) -> float:
    """The place in the journal from which on so many submits in a row have failed that it cannot but be seen."""
    in_a_row = 0
    for submit in ended:
        in_a_row = 0 if submit.end == "submitted" else in_a_row + 1
        if in_a_row == THRESHOLD:
            return submit.ended
    return math.inf  # polls have failed as well, and shown it before


def said_at(log: str, text: str) -> float:
    """When the log has said this first."""
    stamp = next(line for line in log.splitlines() if text in line).split(" ", 1)[0]
    return datetime.fromisoformat(stamp).timestamp()


@pytest.mark.parametrize(
    ("dead_s", "return_after_s"), [(2.0, 4.0), pytest.param(30.0, 45.0, marks=pytest.mark.slow)], ids=["short", "whole"]
)
def test_the_load_moves_to_the_second_provider_and_back_once(
    tmp_path: Path, dead_s: float, return_after_s: float
) -> None:
    with Sandbox(scenario=SOLVE) as second, Sandbox(scenario=SOLVE) as first:
        overrides = {
            "provider": providers(tmp_path, {"first": first, "second": second}),
            "breaker": {"failure_threshold": THRESHOLD, "reset_timeout_s": 1.0, "return_after_s": return_after_s},
        }
        with Daemon(tmp_path, first, overrides) as daemon:
            load = Load(daemon)
            load.run(1.5)
            asked_at = time.time()
            before = first.totals()["charges"]
            # A process that is gone: its connections are reset, new ones refused, its captchas forgotten.
            first.stop()
            died_at = time.time()
            load.run(dead_s)
            with Sandbox(scenario=SOLVE, port=first.port) as again:
                load.run(return_after_s + 20.0, lambda: BACK in daemon.log())
                load.run(4.0)  # the number in flight there grows step by step
                results = daemon.wait_results(len(load.ids), timeout=60.0)
                eventually(lambda: daemon.status()["queue"]["in_flight"] == 0)
                totals = daemon.status()["queue"]
                assert daemon.stop() == 0
                ledger = before + again.totals()["charges"] + second.totals()["charges"]

        log = daemon.log()
        ended = list(submits(daemon.state_dir / "journal"))

    assert {result["status"] for result in results.values()} == {"solved"}
    assert sorted(results) == sorted(load.ids)
    taken = [submit for submit in ended if submit.end == "submitted"]
    moved_at, back_at = next(submit.at for submit in taken if submit.provider == "second"), said_at(log, BACK)
    assert died_at < moved_at < back_at
    assert main(submit for submit in taken if moved_at <= submit.at < back_at) == "second"
    assert main(submit for submit in taken if submit.at >= back_at + 2.0) == "first"

    # Charged and not counted is only what began and was never answered; the first sandbox took its last ones unseen.
    unseen = sum(asked_at <= submit.at < moved_at for submit in taken)
    assert abs(totals["charges_total"] - ledger) <= totals["unknown_submits"] + unseen
    assert (log.count("provider first: closed -> open"), log.count("provider second: closed -> open")) == (1, 0)
    assert log.count(BACK) == 1

    # What is on its way when the last of the faults comes in may fail, but nothing goes that way any more.
    there = [each for each in ended if each.provider == "first" and died_at - 1.0 < each.at <= moved_at]
    assert [each for each in there if each.began > known_at(there)] == []
