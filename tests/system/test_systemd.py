"""captchad under a real systemd, which is PID 1 of throw-away namespaces. tests/system/guest.py is what runs inside."""

import shutil

import pytest

from tests.support.systemd import NEEDS, ROOT, boot
from tests.system.guest import SCENARIOS

# The scenarios wait for up to 60 s at several places: on a loaded machine their own deadlines should end them, since
# they say how captchad was.
pytestmark = [
    pytest.mark.root,
    pytest.mark.debian(*NEEDS, "debhelper", "dh-python", "man-db"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_under_systemd(scenario, deb, wheel, tmp_path):
    # What is shared is sure to be seen inside.
    made = {"CAPTCHAD_DEB": shutil.copy(deb, tmp_path), "CAPTCHAD_WHEEL": shutil.copy(wheel, tmp_path)}
    command = ["/usr/bin/python3", "-m", "tests.system.guest", scenario, str(tmp_path)]
    environ = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | made
    done = boot(command, share=tmp_path, environ=environ, timeout=570)

    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
