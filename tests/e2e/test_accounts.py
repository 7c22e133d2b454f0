"""Accounts at a real provider: no funds and no free thread told apart, money that comes back, low balances."""

import json
import re
from pathlib import Path
from typing import Any

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox


def scenario(*, threads: int = 1000, balance: float = 1000.0, more: str = "") -> str:
    return f"[[key]]\nthreads = {threads}\nbalance = {balance}\nprice = 1.0\n[solve]\nseconds = 0.2\n{more}"


def tasks(*names: str) -> list[dict[str, str]]:
    return [{"id": name, "sitekey": name, "pageurl": "https://example.com/"} for name in names]


def provider(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.status()["providers"][0]
    return found


def problems(daemon: Daemon) -> list[str]:
    found: list[str] = daemon.status()["daemon"]["problems"]
    return found


NO_FUNDS = "provider sandbox: no funds, balance 0.00; it goes on by itself when there is money"


def test_balance_and_threads_are_known_from_the_start(tmp_path: Path) -> None:
    with Sandbox(scenario=scenario(threads=7, balance=12.5)) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        eventually(lambda: provider(daemon)["balance"] is not None)
        row = provider(daemon)
        assert (row["balance"], row["threads"], row["working_threads"]) == (12.5, 7, 0)
        live = daemon.ctl("providers")
        line = ["sandbox", "closed", "0/7", "-", "12.5", "0/7", "-"]
        assert [row.split() for row in live.stdout.splitlines()[1:]] == [line]
        assert live.stderr == ""

        daemon.stop()
        dead = daemon.ctl("providers")
        assert (dead.returncode, dead.stdout) == (0, live.stdout)
        assert "from the status file" in dead.stderr
        shown = json.loads(daemon.ctl("providers", "--json").stdout)
        assert (shown["source"], shown["providers"][0]["balance"]) == ("file", 12.5)
        (daemon.state_dir / "status.json").unlink()
        assert daemon.ctl("providers").returncode == 7


def test_without_funds_nothing_is_submitted_until_there_is_money_again(tmp_path: Path) -> None:
    with Sandbox(scenario=scenario(balance=2.0)) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        daemon.drop(tasks("a", "b", "c", "d"))
        daemon.wait_results(2)
        eventually(lambda: NO_FUNDS in problems(daemon))
        submits = sandbox.totals()["submits"]
        requests = sandbox.totals()["requests"]
        eventually(lambda: sandbox.totals()["requests"] >= requests + 3)  # it is asked again and again
        assert sandbox.totals()["submits"] == submits
        assert daemon.log().count("no funds") == 1

        sandbox.set_scenario(scenario(balance=10.0))
        results = daemon.wait_results(4)
        assert {result["status"] for result in results.values()} == {"solved"}
        assert sandbox.totals()["charges"] == 4
        assert "no funds, balance" not in "".join(problems(daemon))
        assert daemon.log().count("provider sandbox: there are funds again, balance 8.00") == 1


def test_a_plan_that_has_ended_is_tried_out_where_only_a_submit_can_tell(tmp_path: Path) -> None:
    refused = '[faults.balance]\n"ERROR_EMPTY_ACTION" = 1.0\n'
    with Sandbox(scenario=scenario(balance=0.0, more=refused)) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        daemon.drop(tasks("a"))
        eventually(lambda: "provider sandbox: no funds; it goes on by itself when there is money" in problems(daemon))
        sandbox.set_scenario(scenario(balance=10.0, more=refused))
        daemon.wait_results(1)
        assert "it goes on by itself" not in "".join(problems(daemon))


def test_no_free_thread_is_no_lack_of_funds(tmp_path: Path) -> None:
    full = '[outcomes]\nnever = 1.0\n[switches]\nsaturation = "zero_balance"\n'
    untold = (
        '[[rule]]\nop = "threads"\nfault = "http_503"\ntimes = 1\n'  # so that the plan's end is met by running into it
    )
    with (
        Sandbox(scenario=scenario(threads=2, more=full + untold)) as sandbox,
        Daemon(tmp_path, sandbox) as daemon,
    ):
        eventually(lambda: provider(daemon)["balance"] is not None)
        daemon.drop(tasks("a", "b", "c"))
        held_back = re.compile(r"it had no free slot, next try in \d+ s")
        eventually(lambda: held_back.fullmatch(provider(daemon)["held_back"] or ""))
        eventually(lambda: [provider(daemon)[name] for name in ("threads", "working_threads")] == [2, 2])
        assert provider(daemon)["breaker"] == "closed"
        assert not problems(daemon)


def test_what_an_account_does_not_offer_is_asked_once(tmp_path: Path) -> None:
    neither = "[faults.balance]\nERROR_EMPTY_ACTION = 1.0\n[faults.threads]\nhttp_404 = 1.0\n"
    with Sandbox(scenario=scenario(balance=0.0, more=neither)) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        daemon.drop(tasks("a"))
        eventually(lambda: sandbox.totals()["refused"] >= 3)
        assert "after ERROR_ZERO_BALANCE" in "".join(problems(daemon))
        assert (provider(daemon)["balance"], provider(daemon)["threads"]) == (None, None)
        assert sandbox.totals()["faults"] == {"ERROR_EMPTY_ACTION": 1, "http_404": 1}


def test_a_low_balance_is_said_once_and_again_when_it_is_over(tmp_path: Path) -> None:
    low = "provider sandbox: low, balance 4.00, below 5.00"
    overrides = {"provider": {"low_balance": 5.0}}
    with Sandbox(scenario=scenario(balance=4.0)) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        eventually(lambda: low in problems(daemon))
        assert daemon.log().count(low) == 1
        sandbox.set_scenario(scenario(balance=50.0))
        assert daemon.ctl("reload").returncode == 0
        eventually(lambda: not problems(daemon))
        assert daemon.log().count("provider sandbox: no longer low, balance 50.00") == 1
