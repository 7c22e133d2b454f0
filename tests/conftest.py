"""What a test may need from the machine, said by marks.

    @pytest.mark.root                 runs as root only
    @pytest.mark.debian("strace")     needs these Debian packages (names from tests/support/debian.py)

Elsewhere such a test is skipped, by name. With CI=true a skip, for whatever reason, is a failure: a green run there has
run everything.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.debian import missing

ROOT = Path(__file__).resolve().parent.parent
_IN_CI = os.environ.get("CI") == "true"


def pytest_configure() -> None:
    """Undo what a shell does to its background jobs: our children would ignore the SIGINT that tests send them.

    And have no example of hypothesis' judged by how long it takes: a machine that has other things to do is slow.
    """
    profile = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("captchad", profile)
    settings.load_profile("captchad")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory like tmp_path with room for the name of a socket below it, which the kernel limits to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="captchad-") as directory:
        yield Path(directory)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marks ask for what is not here."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    wanted = [name for mark in item.iter_markers("debian") for name in mark.args]
    absent = missing(wanted)
    if absent:
        pytest.skip(f"needs the Debian packages {' '.join(absent)}")


@pytest.fixture(scope="session")
def deb() -> Iterator[Path]:
    """The Debian package of this tree, built once, by nobody in particular: that must do. Tests that use it are marked
    `debian("debhelper", "dh-python")`.
    """
    with tempfile.TemporaryDirectory(prefix="captchad-deb-") as place:
        command = [str(ROOT / "debian" / "build-deb"), place]
        if os.geteuid() == 0:
            os.chown(place, 65534, 65534)
            # Wherever the clone lies, it can be read.
            caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *caps, *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        yield Path(done.stdout.strip())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip and pipx install of this tree, built once."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    (found,) = place.glob("*.whl")
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Turn a skipped test into a failed one in CI."""
    return _judge((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for a module that skips itself."""
    return _judge((yield))


def _judge(report):
    if _IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CI runs every test, but: {reason}"
    return report
