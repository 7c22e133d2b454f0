"""`captchad run`: from a configuration file to an exit code (sysexits)."""

__all__ = ["EX_CONFIG", "EX_TEMPFAIL", "EX_UNAVAILABLE", "run"]

import errno
import faulthandler
import gc
import logging
import os
import random
import resource
import sys
from collections.abc import MutableMapping
from pathlib import Path
from types import TracebackType

from captchad import __version__
from captchad.daemon.configuration import Configuration
from captchad.daemon.parent import Parent
from captchad.daemon.template import MODULE, body
from captchad.logs import set_logging, start_logging
from captchad.model.clock import SystemClock
from captchad.model.errors import CaptchadError, ConfigError, NeedsOperator, TryLater
from captchad.model.logevents import Event, fields
from captchad.notify import Notify
from captchad.supervisor.process import become_subreaper
from captchad.supervisor.system import raise_descriptor_limit
from captchad.supervisor.template import Template

EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75
EX_CONFIG = 78

_log = logging.getLogger("captchad")


def run(config_path: Path, environ: MutableMapping[str, str]) -> int:
    """Run the daemon in the foreground until SIGTERM. Returns the exit code."""
    faulthandler.enable()  # the watchdog's SIGABRT leaves every thread's stack in the log
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold keys and tokens; workers inherit this
    clock = SystemClock()
    notify = Notify(environ, clock, os.getpid())
    notify.clear_for_children()
    start_logging(environ)
    sys.excepthook = _die
    configuration = Configuration(config_path, environ, clock)
    try:
        template = _make_template()
        configuration.load_at_start()
        set_logging(configuration.config.daemon.log_level, configuration.config.daemon.log_format)
        return _live(configuration, notify, template, clock)
    except (CaptchadError, OSError) as error:
        _tell(error, notify)
        return _code_of(error)


def _tell(error: CaptchadError | OSError, notify: Notify) -> None:
    """Say why it cannot start: in the log, and on systemd's own lines of the service."""
    if isinstance(error, ConfigError):
        lines = [str(problem) for problem in error.problems]
    elif isinstance(error, CaptchadError):
        lines = [f"{error} ({error.hint})" if error.hint else str(error)]
    else:
        where = f"{error.filename}: " if error.filename else ""
        lines = [f"cannot start: {where}{error.strerror or error}"]
    for line in lines:
        _log.error("%s", line, extra=fields(Event.CANNOT_START, reason=type(error).__name__))
    notify.status(f"not started: {lines[0]}")
    notify.errno(_errno_of(error))


def _errno_of(error: BaseException) -> int:
    """That of the call that failed; EINVAL where none did: what is wrong is what was asked for."""
    while error.__cause__ is not None and not isinstance(error, OSError):
        error = error.__cause__
    found = error.errno if isinstance(error, OSError) else None
    return found or (errno.EAGAIN if isinstance(error, TryLater) else errno.EINVAL)


def _code_of(error: CaptchadError | OSError) -> int:
    if isinstance(error, OSError):
        return EX_UNAVAILABLE
    if isinstance(error, TryLater):
        return EX_TEMPFAIL
    return EX_CONFIG if isinstance(error, ConfigError | NeedsOperator) else 1


def _die(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python says of an exception that nobody has caught, as one entry."""
    about = fields(Event.INTERNAL_ERROR, reason=kind.__name__)
    _log.critical("captchad ends by a fault of its own", exc_info=(kind, error, trace), extra=about)


def _make_template() -> Template:
    """Fork it while this process is small, has no key, no lock and no task. Raises OSError, TryLater."""
    raise_descriptor_limit()  # workers inherit it
    become_subreaper()
    # What is alive now is shared with the workers for life: the collector must not touch it, or every page is copied.
    gc.collect()
    gc.freeze()
    return Template(body, MODULE)


def _live(configuration: Configuration, notify: Notify, template: Template, clock: SystemClock) -> int:
    _log.info("captchad %s starts, pid %d", __version__, os.getpid(), extra=fields(Event.STARTED))
    parent = Parent(configuration, notify, template, clock, random.Random(), _log)
    parent.open()
    gc.freeze()  # what was replayed lives long, and there may be millions of it: no collection looks at it again
    parent.start()
    code = parent.run()
    parent.close()
    return code
