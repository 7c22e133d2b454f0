"""What runs inside the throw-away systemd: one scenario a boot. Standard output is the protocol of its steps.

    python3 -m tests.system.guest SCENARIO DIRECTORY

Runs under the system's Python with Debian's packages, as captchad itself does here: a Python below /root would be
unreadable for the daemon's user. An assertion that fails ends the scenario with status 1.
"""

__all__ = ["SCENARIOS"]

import shutil
import sys
from pathlib import Path

from tests.system import hardening, logs, package, service, setup, trials
from tests.system.kit import SCENARIOS, journal, run, step

#: Importing a module of scenarios is what makes them known.
MODULES = (service, package, setup, hardening, logs, trials)


def main() -> int:
    """Run the scenario that the command line names."""
    try:
        SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
    except AssertionError:
        said = run("captchactl", "status", ok=False).stdout if shutil.which("captchactl") else ""
        step(f"how captchad was:\n{said}{journal()[-8000:]}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
