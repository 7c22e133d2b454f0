"""Judge the mode from the parent's parts. The dispatcher keeps it, because it acts on it."""

__all__ = ["judge_mode"]

import logging

from captchad.daemon import settings as pick
from captchad.daemon.parts import Parts
from captchad.model.logevents import Event, fields
from captchad.policy import degradation
from captchad.policy.degradation import Degradation, Mode, Signs


def judge_mode(parts: Parts, log: logging.Logger) -> None:
    """Have the dispatcher know what mode it is now, and say it when that has changed."""
    now = parts.clock.monotonic()
    config = parts.configuration.config
    before = parts.dispatcher.degradation
    after = (
        Degradation()
        if parts.state == "stopped"
        else degradation.judge(before, _signs(parts, now), pick.degradation_settings(config), now)
    )
    parts.dispatcher.degradation = after
    about = fields(Event.MODE_CHANGED, reason=after.mode)
    if after.mode is Mode.NORMAL and before.mode is not Mode.NORMAL:
        log.info(f"mode: {before.mode} -> normal", extra=about)
    elif after.mode is not before.mode:
        said = [f"mode: {before.mode} -> {after.mode}", *after.reasons, after.effect]
        log.warning("; ".join(filter(None, said)), extra=about)


def _signs(parts: Parts, now: float) -> Signs:
    config = parts.configuration.config
    # Before they have booted, and in a drain, few workers are no fault.
    expected = parts.state == "running" or (parts.state == "starting" and parts.crew.view.boot_failures > 0)
    return Signs(
        error_rate=degradation.error_rate(parts.providers.recent_ends, now),
        queue_ratio=parts.queue.view.unfinished / config.queue.capacity,
        workers_alive=parts.crew.alive if expected else None,
        min_workers=config.daemon.min_workers,
        journal_down=bool(parts.queue.down_reason),
        stopped=not parts.queue.accepts_work or bool(parts.publisher.down_reason) or bool(parts.intake.down_reason),
    )
