"""Exit codes of both programs. The table in docs/man/captchactl.1.md is this enum, and a test holds it to that."""

__all__ = ["Exit"]

from enum import IntEnum


class Exit(IntEnum):
    """What a program says with its exit code. `captchactl status` and `health` have their own meanings for 0 to 4."""

    OK = 0
    FAILED = 1  # the verb was refused or failed; `wait`: some tasks failed
    USAGE = 2  # captchactl: the command line is wrong
    NO_PERMISSION = 4
    NOT_RUNNING = 7

    STATUS_DEAD = 3  # `status`: no daemon runs
    STATUS_UNKNOWN = 4  # `status`: it cannot be told

    HEALTH_WARNING = 1
    HEALTH_CRITICAL = 2
    HEALTH_UNKNOWN = 3

    TIMED_OUT = 124  # time is up: `wait`, `reload --wait`, `workers restart --wait`
    INTERRUPTED = 130  # Ctrl-C

    EX_USAGE = 64  # captchad: the command line is wrong
    EX_UNAVAILABLE = 69  # captchad: something it needs is not there
    EX_SOFTWARE = 70  # captchad: a fault of its own
    EX_TEMPFAIL = 75  # captchad: not now, a later start may work
    EX_CONFIG = 78  # captchad: the configuration is wrong
