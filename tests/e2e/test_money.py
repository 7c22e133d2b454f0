"""What captchas cost, through the whole daemon, compared with the practice provider's ledger."""

import json
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(scenario="[solve]\nseconds = 0.1\n") as sandbox:
        yield sandbox


@pytest.fixture
def daemon(sandbox: Sandbox, tmp_path: Path) -> Iterator[Daemon]:
    provider = {"first_poll_s": 0.1, "poll_s": 0.1, "price": 0.5, "price_from_answer": True}
    with Daemon(tmp_path, sandbox, {"provider": provider}) as daemon:
        yield daemon


def run(daemon: Daemon, *ids: str) -> list[float | None]:
    """What each of these tasks has cost."""
    tags = {"customer": "x"}
    daemon.drop([{"id": each, "sitekey": each, "pageurl": "https://example.com/", "tags": tags} for each in ids])
    eventually(lambda: set(ids) <= set(daemon.results()), timeout=30.0)
    return [daemon.results()[each]["cost"] for each in ids]


def test_the_price_of_an_answer_is_in_its_result_and_in_the_totals(daemon: Daemon, sandbox: Sandbox) -> None:
    assert run(daemon, "a", "b", "c") == [0.001, 0.001, 0.001]

    daemon.config["provider"][0]["price_from_answer"] = False
    daemon.write_config()
    assert daemon.ctl("reload").returncode == 0
    assert run(daemon, "d") == [0.5]

    daemon.config["provider"][0]["price"] = 0
    daemon.write_config()
    assert daemon.ctl("reload").returncode == 0
    assert run(daemon, "e") == [None]

    daemon.restart()
    assert Decimal(str(daemon.status()["queue"]["cost_total"])) == Decimal("0.503")
    assert " 0 late, cost 0.503\n" in daemon.ctl("status").stdout
    bill = json.loads(daemon.ctl("bill", "--by", "tag:customer", "--json").stdout)
    row = {"charges": 5, "solved": 5, "failed": 0, "unknown_submits": 0, "cost": 0.503, "unpriced": 1}
    assert bill["rows"] == [{"name": "x", **row}]
    spent = sum(Decimal(str(captcha["charged"])) for captcha in sandbox.captchas())
    assert spent == Decimal("0.005")


def test_a_cap_on_charges_is_never_exceeded_and_what_is_beyond_it_waits(sandbox: Sandbox, tmp_path: Path) -> None:
    def at_the_cap() -> bool:
        status = daemon.status()
        problems = " ".join(status["daemon"]["problems"])
        return "limits.charges_per_hour = 7 is reached" in problems and status["queue"]["solved_total"] == 7

    provider = {"first_poll_s": 0.1, "poll_s": 0.1}
    limits = {"charges_per_hour": 7, "tag": "customer", "tag_charges_per_day": 3}
    with Daemon(tmp_path, sandbox, {"provider": provider, "limits": limits}) as daemon:
        task = {"sitekey": "k", "pageurl": "https://example.com/"}
        customers = [{"customer": "x"}, {}]
        ids = daemon.drop([task | {"id": f"t{n}", "tags": customers[n % 2]} for n in range(20)])
        eventually(at_the_cap)
        tags = [
            result["tags"] for result in eventually(lambda: len(daemon.results()) == 7 and daemon.results()).values()
        ]
        assert tags.count({"customer": "x"}) == 3
        daemon.restart(signal.SIGKILL)
        eventually(at_the_cap)
        assert sandbox.totals()["charges"] == 7
        queue = daemon.status()["queue"]
        assert queue["pending"] + queue["delayed"] == 13

        daemon.config["limits"] = {}
        daemon.write_config()
        assert daemon.ctl("reload").returncode == 0
        eventually(lambda: set(ids) <= set(daemon.results()))
    assert sandbox.totals()["charges"] == 20
