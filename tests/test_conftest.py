"""The rule of tests/conftest.py: what a machine cannot run is skipped by name, and in CI a skip is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SKIPS = """
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnknownMarkWarning")

@pytest.mark.debian("absent")
def test_package(): pass

@pytest.mark.debian("present")
def test_runs(): pass

def test_skips_itself(): pytest.skip("no reason")

@pytest.mark.skip(reason="marked")
def test_marked(): pass

@pytest.mark.xfail(reason="known", strict=True)
def test_expected(): raise ValueError
"""
MODULE_SKIPS = "import pytest\npytest.skip('not here', allow_module_level=True)\n"
PLUGIN = """
from tests.conftest import *
from tests.support import debian

debian.PACKAGES.update(absent="no-such-program-anywhere", present="sh")
"""


def run(directory: Path, source: str, ci: bool, ignored: bool = False) -> tuple[int, str]:
    """Run pytest on `source` with our conftest, with SIGINT `ignored` or not. Returns its exit status and output."""
    (directory / "conftest.py").write_text(PLUGIN)
    (directory / "test_it.py").write_text(source)
    environ = {name: value for name, value in os.environ.items() if name != "CI"}
    environ |= {"PYTHONPATH": str(ROOT)} | ({"CI": "true"} if ci else {})
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(directory), "-rs", str(directory)]
    if ignored:
        command = ["env", "--ignore-signal=INT", *command]
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False, timeout=280)
    return done.returncode, done.stdout


def test_a_skip_names_its_reason(tmp_path):
    status, output = run(tmp_path, SKIPS, ci=False)

    assert status == 0, output
    assert "1 passed, 3 skipped, 1 xfailed" in output
    assert "needs the Debian packages absent" in output


def test_in_ci_a_skip_is_a_failure(tmp_path):
    status, output = run(tmp_path, SKIPS, ci=True)

    assert status == 1, output
    assert "skipped" not in output.splitlines()[-1]
    assert "1 passed, 1 xfailed" in output
    for reason in ("needs the Debian packages absent", "no reason", "marked"):
        assert f"CI runs every test, but: Skipped: {reason}" in output


@pytest.mark.parametrize(("ci", "wanted"), [(False, 5), (True, 2)])
def test_a_module_that_skips_itself(tmp_path, ci, wanted):
    status, output = run(tmp_path, MODULE_SKIPS, ci)

    assert status == wanted, output


def test_children_of_a_run_in_the_background_can_be_interrupted(tmp_path):
    source = """
import subprocess, sys

def test_it():
    child = subprocess.Popen([sys.executable, "-c", "import signal; print(signal.getsignal(2)); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert "default_int_handler" in child.stdout.readline()
"""
    status, output = run(tmp_path, source, ci=False, ignored=True)

    assert status == 0, output
