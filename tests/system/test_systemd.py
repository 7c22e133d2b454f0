"""captchad under a real systemd, which is PID 1 of throw-away namespaces. tests/system/guest.py is what runs inside."""

from pathlib import Path

import pytest

from tests.support.systemd import NEEDS, ROOT, boot

# The scenarios wait for up to 60 s at several places: on a loaded machine their own deadlines should end them, since
# they say how captchad was.
pytestmark = [pytest.mark.root, pytest.mark.debian(*NEEDS), pytest.mark.timeout(300)]


def inside(scenario: str, share: Path) -> None:
    """Run one scenario, and show everything if it fails."""
    command = ["/usr/bin/python3", "-m", "tests.system.guest", scenario, str(share)]
    environ = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = boot(command, share=share, environ=environ, timeout=270)

    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"


def test_notify_speaks_to_systemd(tmp_path):
    inside("notify_speaks_to_systemd", tmp_path)


def test_the_files_are_right(tmp_path):
    inside("files_are_right", tmp_path)


def test_start_solve_and_stop(tmp_path):
    inside("the_main_job", tmp_path)


def test_the_watchdog_restarts_a_stopped_parent_and_nothing_is_paid_twice(tmp_path):
    inside("the_watchdog_restarts_a_stopped_parent", tmp_path)


def test_reload_takes_a_good_configuration_and_refuses_a_bad_one(tmp_path):
    inside("reload_good_and_bad", tmp_path)


def test_without_a_key_it_says_so(tmp_path):
    inside("without_a_key_it_says_so", tmp_path)
