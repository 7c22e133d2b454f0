"""Reload, refusal, roll-back: a bad configuration never takes the service down."""

import signal
from pathlib import Path

import pytest

from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox

TWO_KEYS = f"""
[[key]]
key = "{"a" * 32}"
[solve]
seconds = 0.2
"""


def _config(daemon: Daemon) -> dict[str, object]:
    return dict(daemon.status()["daemon"]["config"])


def _solve(daemon: Daemon, task_id: str) -> None:
    daemon.drop([{"id": task_id, "sitekey": task_id, "pageurl": "https://example.com/"}])
    eventually(lambda: task_id in daemon.results())
    assert daemon.results()[task_id]["status"] == "solved"


def test_a_good_reload_applies_live_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    with Sandbox(scenario=TWO_KEYS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        before = set(daemon.worker_pids())
        daemon.write_config({"daemon": {"workers": 4}})
        assert daemon.ctl("reload").returncode == 0
        eventually(lambda: daemon.status()["workers"]["alive"] == 4)
        assert before <= set(daemon.worker_pids())

        daemon.config_file.write_text(daemon.config_file.read_text().replace("workers = 4", "workers = 'x'"))
        refused = daemon.ctl("reload")
        assert refused.returncode == 1
        assert "workers" in refused.stderr
        assert str(_config(daemon)["problem"]).startswith("reload refused")
        assert daemon.status()["workers"]["alive"] == 4
        _solve(daemon, "after-bad-reload")


def test_fewer_workers_drain_away_and_their_captchas_go_on(tmp_path: Path) -> None:
    with (
        Sandbox(scenario="[solve]\nseconds = 3.0\n") as sandbox,
        Daemon(tmp_path, sandbox, {"daemon": {"workers": 3}}) as daemon,
    ):
        ids = daemon.drop({"id": f"d{n}", "sitekey": f"d{n}", "pageurl": "https://example.com/"} for n in range(30))
        eventually(lambda: sandbox.totals()["created"] == 30)
        daemon.write_config({"daemon": {"workers": 1}})
        daemon.kill(signal.SIGHUP)
        eventually(lambda: len(daemon.worker_pids()) == 1)
        results = daemon.wait_results(len(ids))
        assert {result["status"] for result in results.values()} == {"solved"}
        assert sandbox.totals()["created"] == 30


def test_a_start_with_a_broken_file_runs_the_last_known_good(tmp_path: Path) -> None:
    with Sandbox(scenario=TWO_KEYS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        eventually(lambda: _config(daemon)["generation"])
        daemon.config_file.write_text("[daemon\nworkers = 1\n")
        daemon.restart()
        config = _config(daemon)
        assert config["origin"] == "last_known_good"
        assert "captchad.toml:1" in str(config["problem"])
        _solve(daemon, "on-last-known-good")


def test_a_start_with_nothing_good_says_every_problem_and_exits_78(tmp_path: Path) -> None:
    with Sandbox(scenario=TWO_KEYS) as sandbox:
        daemon = Daemon(tmp_path, sandbox)
        daemon.config_file.write_text("[daemon]\nworker = 3\nmin_workers = 'x'\n")
        try:
            daemon.start(wait=False)
            assert daemon.process is not None
            assert daemon.process.wait(30) == 78
        finally:
            daemon.__exit__(None, None, None)
    log = daemon.log_file.read_text()
    assert "captchad.toml:2: daemon.worker: unknown key" in log
    assert "workers" in log
    assert "captchad.toml:3: daemon.min_workers" in log


def test_a_key_that_the_provider_refuses_is_rolled_back(tmp_path: Path) -> None:
    overrides = {"daemon": {"probation_s": 60.0}, "provider": {"pause_s": 0.2}}
    with Sandbox(scenario=TWO_KEYS) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        _solve(daemon, "with-the-old-key")
        other = tmp_path / "other-key"
        other.write_text("b" * 32)
        daemon.write_config({"provider": {"api_key_file": str(other)}})
        assert daemon.ctl("reload").returncode == 0
        daemon.drop([{"id": "judge", "sitekey": "judge", "pageurl": "https://example.com/"}])
        eventually(lambda: "rolled back" in str(_config(daemon)["problem"]))
        eventually(lambda: "judge" in daemon.results())
        assert daemon.results()["judge"]["status"] == "solved"
        assert daemon.results()["judge"]["attempts"] == 1


def test_a_key_is_judged_by_what_its_account_answers_before_any_task_tries_it(tmp_path: Path) -> None:
    with Sandbox(scenario=TWO_KEYS) as sandbox, Daemon(tmp_path, sandbox, {"daemon": {"probation_s": 60.0}}) as daemon:
        eventually(lambda: daemon.status()["providers"][0]["balance"] is not None)
        (tmp_path / "key").write_text("b" * 32)
        assert daemon.ctl("reload").returncode == 0
        eventually(lambda: "refuses the new key" in str(_config(daemon)["problem"]))
        assert "undone: provider.sandbox: its key" in str(_config(daemon)["problem"])
        _solve(daemon, "with-the-old-key")
        assert sandbox.totals()["charges"] == 1


@pytest.mark.parametrize("probation_s", [60.0, 1.0], ids=["in the first probation", "after it"])
def test_a_provider_that_refuses_every_key_for_a_while_is_no_fault_of_a_new_one(
    tmp_path: Path, probation_s: float
) -> None:
    account = '[[key]]\nkey = "{}"\n[solve]\nseconds = 0.2\n'
    with (
        Sandbox(scenario=TWO_KEYS) as sandbox,
        Daemon(tmp_path, sandbox, {"daemon": {"probation_s": probation_s}}) as daemon,
    ):
        eventually(lambda: daemon.status()["providers"][0]["balance"] is not None)
        if probation_s < 60.0:
            eventually(lambda: _config(daemon)["probation_s"] is None)
        sandbox.set_scenario(account.format("c" * 32))
        (tmp_path / "key").write_text("b" * 32)
        assert daemon.ctl("reload").returncode == 0
        eventually(lambda: "provider sandbox refuses the key before, too" in daemon.log())
        assert (_config(daemon)["problem"], _config(daemon)["origin"]) == (None, "file")
        sandbox.set_scenario(account.format("b" * 32))  # it is itself again, and the old key is revoked
        _solve(daemon, "with-the-new-key")
        assert _config(daemon)["problem"] is None
        daemon.restart()
        assert (_config(daemon)["problem"], _config(daemon)["origin"]) == (None, "file")


def test_a_key_that_nobody_could_judge_does_not_become_good(tmp_path: Path) -> None:
    silent = "".join(f"[faults.{question}]\nhttp_503 = 1.0\n" for question in ("balance", "threads"))
    with Sandbox(scenario=TWO_KEYS) as sandbox, Daemon(tmp_path, sandbox, {"daemon": {"probation_s": 0.5}}) as daemon:
        eventually(lambda: daemon.status()["providers"][0]["balance"] is not None)
        eventually(lambda: _config(daemon)["probation_s"] is None)
        sandbox.set_scenario(TWO_KEYS + silent)
        (tmp_path / "key").write_text("b" * 32)
        assert daemon.ctl("reload").returncode == 0
        # Two questions at a time, a second apart: far longer than the probation.
        eventually(lambda: sandbox.totals()["faults"].get("http_503", 0) >= 8)
        assert _config(daemon)["probation_s"] is not None
        sandbox.set_scenario(TWO_KEYS)
        eventually(lambda: "refuses the new key" in str(_config(daemon)["problem"]))
        _solve(daemon, "with-the-old-key")


def test_a_refused_key_undoes_nothing_but_itself(tmp_path: Path) -> None:
    overrides = {"daemon": {"probation_s": 60.0}, "provider": {"pause_s": 0.2}}
    with Sandbox(scenario=TWO_KEYS) as sandbox, Daemon(tmp_path, sandbox, overrides) as daemon:
        _solve(daemon, "with-the-old-key")
        daemon.write_config({"limits": {"charges_per_hour": 2}})  # not proven either when the key comes
        assert daemon.ctl("reload").returncode == 0
        (tmp_path / "key").write_text("b" * 32)
        assert daemon.ctl("reload").returncode == 0
        daemon.drop([{"id": f"t{n}", "sitekey": f"t{n}", "pageurl": "https://example.com/"} for n in range(2)])
        eventually(lambda: "undone: provider.sandbox: its key" in str(_config(daemon)["problem"]))
        eventually(lambda: len(daemon.results()) == 2)
        assert {result["status"] for result in daemon.results().values()} == {"solved"}
        eventually(lambda: any("charges_per_hour = 2" in each for each in daemon.status()["daemon"]["problems"]))
        assert str(daemon.status()["providers"][0]["held_back"]).startswith("limits.charges_per_hour = 2 is reached")
        assert (sandbox.totals()["charges"], len(daemon.results())) == (2, 2)


def test_a_new_key_takes_over_and_captchas_end_under_the_key_that_they_were_submitted_with(tmp_path: Path) -> None:
    accounts = "".join(f'[[key]]\nkey = "{letter * 32}"\n' for letter in "ab")
    with (
        Sandbox(scenario=f"{accounts}[solve]\nseconds = 2.0\n") as sandbox,
        Daemon(tmp_path, sandbox) as daemon,
    ):
        old = daemon.drop({"id": f"old{n}", "sitekey": f"o{n}", "pageurl": "https://example.com/"} for n in range(5))
        eventually(lambda: sandbox.totals()["created"] == 5)
        (tmp_path / "key").write_text("b" * 32)
        reloaded = daemon.ctl("reload")
        assert (reloaded.returncode, "its key" in reloaded.stdout) == (0, True)
        new = daemon.drop({"id": f"new{n}", "sitekey": f"n{n}", "pageurl": "https://example.com/"} for n in range(5))
        results = daemon.wait_results(len(old) + len(new))
        assert {(result["status"], result["charges"]) for result in results.values()} == {("solved", 1)}
        assert sorted((each["account"], each["sitekey"][0]) for each in sandbox.captchas()) == [
            *[(0, "o")] * 5,
            *[(1, "n")] * 5,
        ]


def test_over_a_restart_the_key_before_polls_its_captchas_and_is_no_part_of_the_configuration(tmp_path: Path) -> None:
    accounts = "".join(f'[[key]]\nkey = "{letter * 32}"\n' for letter in "ab")
    with (
        Sandbox(scenario=f"{accounts}[solve]\nseconds = 3.0\n") as sandbox,
        Daemon(tmp_path, sandbox) as daemon,
    ):
        old = daemon.drop({"id": f"old{n}", "sitekey": f"o{n}", "pageurl": "https://example.com/"} for n in range(5))
        eventually(lambda: sandbox.totals()["created"] == 5)
        (tmp_path / "key").rename(tmp_path / "key.previous")
        (tmp_path / "key").write_text("b" * 32)
        daemon.restart()
        assert [daemon.status()["providers"][0][name] for name in ("old_keys", "captchas_without_key")] == [1, 0]
        new = daemon.drop({"id": f"new{n}", "sitekey": f"n{n}", "pageurl": "https://example.com/"} for n in range(5))
        results = daemon.wait_results(len(old) + len(new))
        assert {(result["status"], result["charges"]) for result in results.values()} == {("solved", 1)}
        accounts_of = sorted((each["account"], each["sitekey"][0]) for each in sandbox.captchas())
        assert accounts_of == [*[(0, "o")] * 5, *[(1, "n")] * 5]

        eventually(lambda: _config(daemon)["probation_s"] is None)
        generation = _config(daemon)["generation"]
        (tmp_path / "key.previous").write_text("not a key")
        daemon.restart()
        found = _config(daemon)
        assert (found["generation"], found["probation_s"], found["problem"]) == (generation, None, None)
        assert "the previous key (key.previous): the key has a blank" in daemon.log()


@pytest.mark.parametrize("by", ["reload", "restart"])
def test_a_provider_that_moves_is_polled_where_its_captchas_are(tmp_path: Path, by: str) -> None:
    solve = "[solve]\nseconds = 3.0\n"
    with (
        Sandbox(scenario=f"seed = 1\n{solve}") as here,
        Sandbox(scenario=f"seed = 2\n{solve}") as there,
        Daemon(tmp_path, here) as daemon,
    ):
        old = daemon.drop({"id": f"old{n}", "sitekey": f"o{n}", "pageurl": "https://example.com/"} for n in range(5))
        eventually(lambda: here.totals()["created"] == 5)
        eventually(lambda: daemon.status()["queue"]["in_flight"] == 5)
        daemon.config["provider"][0]["url"] = there.url
        daemon.write_config()
        if by == "reload":
            assert "provider.sandbox.url" in daemon.ctl("reload").stdout
        else:
            daemon.restart()
        new = daemon.drop({"id": f"new{n}", "sitekey": f"n{n}", "pageurl": "https://example.com/"} for n in range(5))
        results = daemon.wait_results(len(old) + len(new))
        assert {(result["status"], result["charges"]) for result in results.values()} == {("solved", 1)}
        for sandbox, letter in ((here, "o"), (there, "n")):
            assert [each["sitekey"][0] for each in sandbox.captchas()] == [letter] * 5
        assert _config(daemon)["problem"] is None


def test_a_key_that_is_refused_after_a_restart_is_rolled_back_and_costs_nothing(tmp_path: Path) -> None:
    with (
        Sandbox(scenario=TWO_KEYS.replace("0.2", "3.0")) as sandbox,
        Daemon(tmp_path, sandbox, {"provider": {"pause_s": 0.2}}) as daemon,
    ):
        eventually(lambda: _config(daemon)["probation_s"] is None)
        old = daemon.drop({"id": f"old{n}", "sitekey": f"o{n}", "pageurl": "https://example.com/"} for n in range(3))
        eventually(lambda: sandbox.totals()["created"] == 3)
        (tmp_path / "key").rename(tmp_path / "key.previous")
        (tmp_path / "key").write_text("b" * 32)
        daemon.restart()
        daemon.drop([{"id": "new", "sitekey": "new", "pageurl": "https://example.com/"}])
        wanted = "provider sandbox refuses the new key (ERROR_KEY_DOES_NOT_EXIST); undone: provider.sandbox: its key"
        eventually(lambda: _config(daemon)["problem"] == f"rolled back: {wanted}")
        assert sorted(daemon.wait_results(4)) == ["new", *old]
        assert {(each["status"], each["charges"]) for each in daemon.results().values()} == {("solved", 1)}
        assert sandbox.totals()["charges"] == 4

        daemon.restart()
        assert "was rejected: provider sandbox refuses" in _config(daemon)["problem"]
        _solve(daemon, "with-the-key-before")


def test_a_second_daemon_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with Sandbox(scenario=TWO_KEYS) as sandbox, Daemon(tmp_path, sandbox) as daemon:
        second = Daemon(tmp_path, sandbox)
        second.log_file = tmp_path / "second.log"
        try:
            second.start(wait=False)
            assert second.process is not None
            assert second.process.wait(40) == 75
        finally:
            second.__exit__(None, None, None)
        assert f"process {daemon.pid} " in second.log_file.read_text()
        _solve(daemon, "undisturbed")
