"""captchactl: the operator's tool. Parses, asks, prints; each verb's module is imported only when it is used."""

__all__ = ["main"]

import argparse
import errno
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from captchad import __version__
from captchad.cli.exits import Exit
from captchad.cli.parser import Parser
from captchad.model.errors import CaptchadError, NotRunning

_UNFINISHED = ("pending", "held", "submitting", "submitted")
_STATES = (*_UNFINISHED, "solved", "dead", "expired", "cancelled")
_DEFAULT_LIMIT = 100

_Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"

#: Monitoring's default limits for the age of the oldest pending task.
_WARNING_S, _CRITICAL_S = 300.0, 900.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code (`captchad.cli.exits`)."""
    try:
        code = _run(_parser().parse_args(argv))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has enough. Python flushes stdout once more at exit: give it a place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return code


def _run(options: Namespace) -> int:
    verb: Callable[[Namespace], int] = options.run
    if options.user:
        from captchad.cli.places import user_config

        options.config = user_config()
    try:
        return verb(options)
    except NotRunning as error:
        from captchad.cli.places import start_hint

        error.hint = error.hint or start_hint(options)
        return _complain(error, Exit.NOT_RUNNING)
    except CaptchadError as error:
        return _complain(error, int(getattr(error, "code", Exit.FAILED)))
    except PermissionError as error:
        from captchad.cli.places import PERMISSION_HINT

        roots = error.errno == errno.EPERM  # no group helps; what raises it itself has its own words
        words = ("no permission", error.filename, error.strerror if roots else "")
        text = ": ".join(str(word) for word in words if word)
        hint = "run it as root" if roots else PERMISSION_HINT
        return _complain(CaptchadError(text, hint=hint), Exit.NO_PERMISSION)


def _complain(error: CaptchadError, code: int) -> int:
    from captchad.cli.render import clean

    for line in str(error).splitlines():
        print(f"captchactl: {clean(line)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {clean(error.hint)}", file=sys.stderr)
    return code


# --- the verbs; each imports what it needs and no more


def _status(options: Namespace) -> int:
    from captchad.cli import live

    return live.status(options)


def _providers(options: Namespace) -> int:
    from captchad.cli import live

    return live.providers(options)


def _workers(options: Namespace) -> int:
    from captchad.cli import workers

    return workers.workers(options)


def _workers_scale(options: Namespace) -> int:
    from captchad.cli import workers

    return workers.scale(options)


def _workers_restart(options: Namespace) -> int:
    from captchad.cli import workers

    return workers.restart(options)


def _drain(options: Namespace) -> int:
    from captchad.cli import drain

    return drain.drain(options)


def _health(options: Namespace) -> int:
    from captchad.cli import live

    # A limit that is not given gives way to the one that is.
    if options.warning is None:
        options.warning = min(_WARNING_S, options.critical or _CRITICAL_S)
    if options.critical is None:
        options.critical = max(_CRITICAL_S, options.warning)
    if options.critical < options.warning:
        print("captchactl: --critical is below --warning", file=sys.stderr)
        return Exit.USAGE
    return live.health(options)


def _reload(options: Namespace) -> int:
    from captchad.cli import config

    return config.reload(options)


def _config_show(options: Namespace) -> int:
    from captchad.cli import config

    return config.show(options)


def _config_diff(options: Namespace) -> int:
    from captchad.cli import config

    return config.diff(options)


def _config_history(options: Namespace) -> int:
    from captchad.cli import config

    return config.history(options)


def _config_rollback(options: Namespace) -> int:
    from captchad.cli import config

    return config.rollback(options)


def _config_confirm(options: Namespace) -> int:
    from captchad.cli import config

    return config.confirm(options)


def _logs(options: Namespace) -> int:
    from captchad.cli import logs

    return logs.logs(options)


def _submit(options: Namespace) -> int:
    from captchad.cli import drop

    return drop.submit(options)


def _wait(options: Namespace) -> int:
    from captchad.cli import wait

    return wait.wait(options)


def _show(options: Namespace) -> int:
    from captchad.cli import tasks

    return tasks.show(options)


def _list(options: Namespace) -> int:
    from captchad.cli import tasks

    return tasks.list_tasks(options)


def _dlq_list(options: Namespace) -> int:
    from captchad.cli import tasks

    return tasks.dlq_list(options)


def _dlq_redrive(options: Namespace) -> int:
    from captchad.cli import tasks

    return tasks.dlq_redrive(options)


def _report(options: Namespace) -> int:
    from captchad.cli import tasks

    return tasks.report(options)


def _direct(options: Namespace) -> int:
    from captchad.cli import tasks

    return tasks.direct(options)


def _bill(options: Namespace) -> int:
    from captchad.cli import bill

    return bill.bill(options)


def _install(options: Namespace) -> int:
    from captchad.cli import install

    return install.install(options)


def _uninstall(options: Namespace) -> int:
    from captchad.cli import install

    return install.uninstall(options)


def _journal_verify(options: Namespace) -> int:
    from captchad.cli import journal

    return journal.verify(options)


def _journal_clean(options: Namespace) -> int:
    from captchad.cli import journal

    return journal.clean(options)


def _journal_export(options: Namespace) -> int:
    from captchad.cli import journal

    return journal.export(options)


def _journal_repair(options: Namespace) -> int:
    from captchad.cli import journal

    return journal.repair(options)


def _setup(options: Namespace) -> int:
    from captchad.cli import setup

    return setup.setup(options)


# --- the command line


def _parser() -> Parser:
    parser = Parser(prog="captchactl", description="Ask and direct a captchad daemon.")
    parser.add_argument("--version", action="version", version=f"captchactl {__version__}")
    parser.set_defaults(config=None, socket=None, user=False, json=False)
    common = _common()
    _add_common(parser)
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(
        group: _Verbs,
        name: str,
        text: str,
        run: Callable[[Namespace], int],
    ) -> Parser:
        added = group.add_parser(name, help=text, description=text, parents=[common])
        added.set_defaults(run=run)
        return added

    status = verb(verbs, "status", "how the daemon is (exit 0 running, 3 not running, 4 unknown)", _status)
    status.add_argument("--watch", type=_seconds, metavar="S", help="again every S seconds, until Ctrl-C")

    verb(
        verbs,
        "providers",
        "the providers: breaker, captchas in flight, balance, threads, what they wait for",
        _providers,
    )

    _add_workers(verbs, verb)
    _add_logs(verbs, verb)

    health = verb(verbs, "health", "one line in the format of monitoring plugins (exit 0 to 3)", _health)
    for letter, name, default_s in (("-w", "--warning", _WARNING_S), ("-c", "--critical", _CRITICAL_S)):
        text = f"age of the oldest pending task ({default_s:g})"
        health.add_argument(letter, name, type=_seconds, metavar="S", help=text)

    reload = verb(verbs, "reload", "take the changed configuration; returns when it runs or is refused", _reload)
    reload.add_argument("--timeout", type=_seconds, metavar="S", help="wait at most S seconds")
    text = "roll it back unless captchactl config confirm comes within that time: 90s, 10m, 2h"
    reload.add_argument("--wait", action="store_true", help="wait for the end of its probation; fail if rolled back")
    reload.add_argument("--confirm-within", type=_duration, metavar="TIME", help=text)

    _add_config(verbs, verb)

    _add_setup(verbs, verb)

    text = "take nothing new, wait until all that is under way has ended, then stop the daemon (Ctrl-C leaves it so)"
    drain = verb(verbs, "drain", text, _drain)
    how = drain.add_mutually_exclusive_group()
    how.add_argument("--no-wait", dest="wait", action="store_false", help="return at once")
    how.add_argument("--eta", action="store_true", help="change nothing: say how long it would take")

    submit = verb(verbs, "submit", "check tasks and put them into the spool; prints their ids", _submit)
    submit.add_argument(
        "file", metavar="FILE", help=".json (a task or an array), .jsonl (a task a line), or - for standard input"
    )

    wait = verb(verbs, "wait", "wait for results (exit 0 all solved, 1 some not, 124 timed out)", _wait)
    wait.add_argument("ids", nargs="+", metavar="ID")
    wait.add_argument("--timeout", type=_seconds, metavar="S", help="wait at most S seconds")

    show = verb(verbs, "show", "one task with its history", _show)
    show.add_argument("id", metavar="ID")

    listed = verb(verbs, "list", "tasks in the order in which they were accepted", _list)
    listed.add_argument("--state", choices=_STATES)
    _add_limit(listed)

    for name, text, state in (
        ("hold", "set waiting tasks aside until they are released", "pending"),
        ("release", "run held tasks again; each may be charged again", "held"),
        ("cancel", "end tasks without an answer", ""),
    ):
        directed = verb(verbs, name, text, _direct)
        directed.set_defaults(verb=name, state=None, whole="--all" if state else "--state")
        directed.add_argument("ids", nargs="*", metavar="ID")
        if state:
            directed.add_argument(
                "--all", dest="state", action="store_const", const=state, help=f"every task that is {state}"
            )
        else:
            directed.add_argument("--state", choices=_UNFINISHED, help="every task in this state")

    text = "tell the provider that an answer was good or bad; once, and within 15 minutes of its submit"
    reported = verb(verbs, "report", text, _report)
    reported.add_argument("id", metavar="ID")
    reported.add_argument("verdict", choices=("good", "bad"))

    group = verb(verbs, "dlq", "the dead-letter queue", _print_help)
    dlq = group.add_subparsers(metavar="VERB", required=True)
    _add_limit(verb(dlq, "list", "the tasks that failed for good, and why", _dlq_list))
    redrive = verb(dlq, "redrive", "run dead tasks again; each may be charged again", _dlq_redrive)
    redrive.add_argument("ids", nargs="*", metavar="ID")
    redrive.add_argument("--all", action="store_true", help="every task in the dead-letter queue")
    redrive.add_argument("--yes", action="store_true", help="do not ask")

    text = "what was charged, answered and paid, from the journal alone; also beside a running daemon"
    bill = verb(verbs, "bill", text, _bill)
    bill.add_argument("--by", type=_by, default="day", metavar="WHAT", help="day, method, host, provider or tag:NAME")
    for name, text in (("--since", "from that day on"), ("--until", "up to that day")):
        bill.add_argument(name, type=_day, metavar="DATE", help=f"{text}: 2026-11-22, or 7d ago (UTC)")

    _add_install(verbs, verb)

    group = verb(verbs, "journal", "the journal's files", _print_help)
    group.set_defaults(group=group)
    journal = group.add_subparsers(metavar="VERB")
    text = "whether it is whole, and what is in it; only reads, also beside a running daemon (exit 1 damaged)"
    verb(journal, "verify", text, _journal_verify)
    verb(journal, "clean", "forget and clean all that is due; only while no daemon runs", _journal_clean)
    text = "every record as a line of JSON. It holds the tokens of all answers, and the contents of all tasks"
    exported = verb(journal, "export", text, _journal_export)
    exported.add_argument(
        "--since", type=_since, metavar="WHEN", help="from then on: an ISO time (UTC), or 90s, 15min, 2h, 3d ago"
    )
    text = "make a damaged journal whole; only while no daemon runs. What is damaged moves to quarantine/"
    repaired = verb(journal, "repair", text, _journal_repair)
    repaired.add_argument("--dry-run", action="store_true", help="only say what would be done")
    return parser


def _add_workers(verbs: _Verbs, verb: Callable[..., Parser]) -> None:
    text = "the workers: state, captchas in flight, calls, heartbeat, memory, how the last one died"
    workers = verb(verbs, "workers", text, _workers)
    log = workers.add_mutually_exclusive_group()
    text = "what was done about them of late, and why; from the journal alone, also beside a running daemon"
    log.add_argument("--why", action="store_true", help=text)
    log.add_argument("--deaths", action="store_true", help="how they died of late; from the journal alone, likewise")
    workers.add_argument("--limit", type=_number, metavar="N", help=f"with these: the latest N ({_DEFAULT_LIMIT})")
    more = workers.add_subparsers(metavar="VERB")

    text = "have N workers until daemon.workers changes at a reload, or a restart; autoscale, if on, goes on from there"
    scale = verb(more, "scale", text, _workers_scale)
    scale.add_argument("workers", type=_workers_number, metavar="N", help="1 to 256, at least daemon.min_workers")

    text = "replace every worker by a new one, one at a time, the new one first; returns when that is ordered"
    restart = verb(more, "restart", text, _workers_restart)
    restart.add_argument("--all", action="store_true", help="every worker: so it is in any case")
    restart.add_argument("--wait", action="store_true", help="return when all are new (exit 124: not in time)")
    restart.add_argument("--timeout", type=_seconds, metavar="S", help="with --wait: at most S seconds (600)")


def _add_config(verbs: _Verbs, verb: Callable[..., Parser]) -> None:
    group = verb(verbs, "config", "the configuration: what runs, what ran before, and back to that", _print_help)
    group.set_defaults(group=group)
    more = group.add_subparsers(metavar="VERB")

    show = verb(more, "show", "what runs, as TOML; without a daemon what the file says", _config_show)
    show.add_argument("--origin", action="store_true", help="each value with the file and line that it comes from")
    show.add_argument("--generation", type=_number, metavar="N", help="generation N instead")

    text = "what differs, and what each change takes; without names: what a reload changes"
    diff = verb(more, "diff", text, _config_diff)
    for name, default in (("before", "running"), ("after", "file")):
        text = f"running, file, or the number of a generation ({default})"
        diff.add_argument(name, nargs="?", default=default, metavar=name.upper(), help=text)

    text = "the generations that ran well, and what was rejected and why; also without a daemon"
    verb(more, "history", text, _config_history)

    text = "run generation N, or what ran before this one; the file stays as it is, and runs only after a reload"
    rollback = verb(more, "rollback", text, _config_rollback)
    rollback.add_argument("generation", nargs="?", type=_number, metavar="N")

    verb(more, "confirm", "keep what reload --confirm-within brought", _config_confirm)


def _add_logs(verbs: _Verbs, verb: Callable[..., Parser]) -> None:
    text = "what captchad has logged: journalctl, with lines that match everything that is asked for"
    logs = verb(verbs, "logs", text, _logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is logged from now on, until Ctrl-C")
    text = "the latest N (100; with --since all)"
    logs.add_argument("-n", "--lines", type=_number, metavar="N", help=text)
    text = "from then on: an ISO time (UTC), or 90s, 15min, 2h, 3d ago"
    logs.add_argument("--since", type=_since, metavar="WHEN", help=text)
    logs.add_argument("--task", type=_of_logs("task"), metavar="ID", help="about this task")
    text = "about a seat (0, 1, …), or the one process EPOCH-N; a worker's own lines name the process"
    logs.add_argument("--worker", type=_of_logs("worker"), metavar="WORKER", help=text)
    logs.add_argument("--provider", type=_of_logs("name"), metavar="NAME", help="about this provider")
    logs.add_argument("--event", type=_of_logs("event"), metavar="NAME", help="of this event")
    logs.add_argument("--events", action="store_true", help="print the events that there are, and what each means")
    text = "the unit that runs the daemon (captchad)"
    logs.add_argument("--unit", type=_of_logs("unit"), default="captchad", metavar="NAME", help=text)


def _of_logs(what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        from captchad.cli import logs

        parsers = {
            "event": logs.parse_event,
            "name": logs.parse_name,
            "task": logs.parse_task,
            "unit": logs.parse_unit,
            "worker": logs.parse_worker,
        }
        try:
            return parsers[what](text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _add_setup(verbs: _Verbs, verb: Callable[..., Parser]) -> None:
    text = (
        "as root: store the provider's key, check the configuration, enable and start the service; again for a new key"
    )
    setup = verb(verbs, "setup", text, _setup)
    setup.set_defaults(watch=None)  # it ends with the status
    text = "the file that holds the key, or - for standard input; asked for on a terminal"
    setup.add_argument("--api-key-file", metavar="FILE", help=text)
    text = "a host that you are authorised to automate, once for each; asked for on a terminal"
    setup.add_argument("--allow-host", action="append", metavar="HOST", help=text)
    setup.add_argument("--provider", metavar="NAME", help="whose key it is (the first one that is configured)")
    setup.add_argument(
        "--provider-url", metavar="URL", help="its address, if it is another one, or the provider is new"
    )
    setup.add_argument("--plain", action="store_true", help="do not encrypt the key, even where this host can")
    setup.add_argument("--yes", action="store_true", help="do not ask: what is there stays")
    setup.add_argument("--no-start", action="store_true", help="neither enable nor start the service")
    setup.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _add_install(verbs: _Verbs, verb: Callable[..., Parser]) -> None:
    for name, text, run in (
        (
            "install",
            "set up systemd for this captchad, from pipx or a virtual environment; as root, or --user",
            _install,
        ),
        ("uninstall", "stop it, and remove what install wrote; configuration, queue and results stay", _uninstall),
    ):
        added = verb(verbs, name, text, run)
        added.add_argument("--dry-run", action="store_true", help="say each step, and change nothing")
        if name == "uninstall":
            added.set_defaults(prefix=None)  # it is on record
            continue
        text = (
            "where man pages, completions and links go (where they went before; else /usr/local, with --user ~/.local)"
        )
        added.add_argument("--prefix", type=Path, metavar="DIR", help=text)


def _workers_number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError("a number of workers from 1 to 256 is wanted")
    return int(text)


def _print_help(options: Namespace) -> int:
    options.group.print_help()
    return Exit.USAGE


def _common() -> Parser:
    """What every verb takes; also accepted before the verb."""
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_common(common)
    return common


def _add_common(parser: Parser) -> None:
    # SUPPRESS: a verb that is not told must not undo what stood before it.
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="the daemon's configuration"
    )
    where.add_argument("--socket", type=Path, metavar="PATH", default=argparse.SUPPRESS, help="its control socket")
    text = "the daemon that you run with systemctl --user"
    where.add_argument("--user", action="store_true", default=argparse.SUPPRESS, help=text)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def _add_limit(parser: Parser) -> None:
    parser.add_argument(
        "--limit", type=_number, default=_DEFAULT_LIMIT, metavar="N", help=f"at most N ({_DEFAULT_LIMIT})"
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError("a number of seconds above 0 is wanted")
    return value


def _duration(text: str) -> float:
    from captchad.cli.times import parse_duration

    try:
        value = parse_duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!a} is no duration such as 90s, 10m or 2h") from None
    if not value:
        raise argparse.ArgumentTypeError("a time above 0 is wanted")
    return value


def _since(text: str) -> float:
    from captchad.cli.times import parse_since

    try:
        return parse_since(text)
    except (ValueError, OverflowError):
        message = f"{text!a} is neither an ISO time nor a duration such as 2h or 3d"
        raise argparse.ArgumentTypeError(message) from None


def _by(text: str) -> str:
    from captchad.cli.bill import parse_by

    try:
        return parse_by(text)
    except ValueError:
        message = f"{text!a} is none of day, method, host, provider, tag:NAME"
        raise argparse.ArgumentTypeError(message) from None


def _day(text: str) -> str:
    from captchad.cli.bill import parse_day

    try:
        return parse_day(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!a} is neither a day like 2026-11-22 nor like 7d") from None


def _number(text: str) -> int:
    if not (text.isdecimal() and text.isascii()) or int(text) < 1:
        raise argparse.ArgumentTypeError("a number above 0 is wanted")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
