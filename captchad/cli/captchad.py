"""captchad: the daemon in the foreground, and what helps to set it up."""

__all__ = ["main"]

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from captchad import __version__
from captchad.cli.exits import Exit
from captchad.cli.parser import Parser
from captchad.cli.places import DEFAULT_CONFIG
from captchad.model.errors import CaptchadError


class _Parser(Parser):
    """Ends with the code that systemd knows (and the unit does not restart on)."""

    code = Exit.EX_USAGE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (`captchad.cli.exits`)."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.run(options)
    except CaptchadError as error:
        print(f"captchad: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return code


def _run(options: argparse.Namespace) -> int:
    from captchad.daemon.main import run

    return run(options.config, os.environ)


def _check(options: argparse.Namespace) -> int:
    from captchad.cli.check import check

    return check(options.config, sys.stdout, os.environ)


def _sandbox(options: argparse.Namespace) -> int:
    from captchad.provider.sandbox.main import run

    return run(options.host, options.port, options.scenario)


def _demo(options: argparse.Namespace) -> int:
    from captchad.cli.demo import main as demonstrate

    return demonstrate()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="captchad", description="Carry CAPTCHA tasks to a solving service, and lose none.")
    parser.add_argument("--version", action="version", version=f"captchad {__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    run = verbs.add_parser("run", help="the daemon, in the foreground")
    check = verbs.add_parser("check", help="validate a configuration: every fault on a line of its own")
    for each, function in ((run, _run), (check, _check)):
        each.add_argument(
            "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"default: {DEFAULT_CONFIG}"
        )
        each.set_defaults(run=function)

    sandbox = verbs.add_parser("sandbox", help="a practice provider that speaks the protocol and keeps a ledger")
    sandbox.add_argument("--host", default="127.0.0.1")
    sandbox.add_argument("--port", type=_port, default=8481, help="0 takes a free one (8481)")
    sandbox.add_argument("--scenario", type=Path, metavar="FILE", help="how it answers and misbehaves")
    sandbox.set_defaults(run=_sandbox)

    demo = verbs.add_parser("demo", help="sandbox, daemon and a batch of tasks: the main job, live, in under a minute")
    demo.set_defaults(run=_demo)
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and text.isascii()) or not 0 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError("a port is 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
