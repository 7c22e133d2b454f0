"""From the configuration to what each part takes of it."""

__all__ = [
    "BEAR_ON_BOOT",
    "breaker_settings",
    "crew_settings",
    "degradation_settings",
    "provider_settings",
    "queue_settings",
    "spending_caps",
]

from collections.abc import Iterable, Mapping

from captchad.config.schema import Config
from captchad.daemon.providers import ProviderSettings
from captchad.model.key import Key
from captchad.model.money import micros
from captchad.policy.breaker import BreakerSettings
from captchad.policy.degradation import DegradationSettings
from captchad.policy.retry import RetrySettings
from captchad.policy.routing import ReturnSettings
from captchad.policy.spend import Caps
from captchad.queue.queue import QueueSettings
from captchad.supervisor.core.view import Autoscale, Settings

#: The keys that can keep a worker from its first heartbeat: what it is told before that, how long it may take, and how
#: many there are. With `own_fault` each stands for all that begin so.
BEAR_ON_BOOT = (
    "daemon.log_",
    "daemon.min_workers",
    "daemon.workers",
    "supervision.autoscale_",
    "supervision.boot_s",
    "supervision.standby",
    "supervision.threads",
)


def queue_settings(config: Config) -> QueueSettings:
    return QueueSettings(
        capacity=config.queue.capacity,
        id_ttl_s=config.queue.id_ttl_s,
        dead_ttl_s=config.queue.dead_ttl_s,
        max_redrives=config.queue.max_redrives,
        hold_unknown=config.retry.on_unknown_submit == "hold",
        retry=RetrySettings(config.retry.max_attempts, config.retry.base_delay_s, config.retry.max_delay_s),
    )


def breaker_settings(config: Config) -> BreakerSettings:
    return BreakerSettings(
        config.breaker.failure_threshold,
        config.breaker.reset_timeout_s,
        config.breaker.half_open_successes,
        ReturnSettings(config.breaker.return_successes, config.breaker.return_after_s),
    )


def degradation_settings(config: Config) -> DegradationSettings:
    table = config.degradation
    return DegradationSettings(
        table.degraded_error_rate, table.emergency_error_rate, table.degraded_queue_ratio, table.hold_s
    )


def spending_caps(config: Config) -> tuple[Caps, dict[str, Caps], str, Caps]:
    """Of all together, of each provider, and of each value of the tag that is named."""
    each = {provider.name: Caps(provider.charges_per_hour, provider.charges_per_day) for provider in config.providers}
    limits = config.limits
    all_, each_tag = Caps(limits.charges_per_hour, limits.charges_per_day), Caps(day=limits.tag_charges_per_day)
    return all_, each, limits.tag, each_tag


def crew_settings(config: Config) -> Settings:
    supervision = config.supervision
    autoscale = None
    if supervision.autoscale_max:
        autoscale = Autoscale(
            max(supervision.autoscale_min, config.daemon.min_workers),
            supervision.autoscale_max,
            supervision.autoscale_age_s,
            supervision.autoscale_cooldown_s,
        )
    return Settings(
        workers=config.daemon.workers,
        min_workers=config.daemon.min_workers,
        heartbeat_s=supervision.heartbeat_s,
        boot_s=supervision.boot_s,
        stall_s=supervision.stall_s,
        drain_s=supervision.drain_s,
        restart_max_delay_s=supervision.restart_max_delay_s,
        standby=supervision.standby,
        max_tasks=supervision.max_tasks,
        max_private_bytes=supervision.max_private_mb << 20,
        max_age_s=supervision.max_age_s,
        autoscale=autoscale,
    )


def provider_settings(
    config: Config,
    keys: Mapping[str, str],
    earlier_keys: Mapping[str, Iterable[Key]],
    replaced: Mapping[str, Key] | None = None,
) -> dict[str, ProviderSettings]:
    return {
        provider.name: ProviderSettings(
            name=provider.name,
            key=Key(provider.url, keys[provider.name]),
            earlier_keys=tuple(earlier_keys.get(provider.name, ())),
            replaces=(replaced or {}).get(provider.name),
            max_in_flight=provider.max_in_flight,
            priority=provider.priority,
            first_poll_s=provider.first_poll_s,
            poll_s=provider.poll_s,
            timeout_s=provider.timeout_s,
            timeouts=dict(provider.timeouts),
            submit_s=provider.submit_s,
            pause_s=provider.pause_s,
            submits_per_3s=provider.submits_per_3s,
            methods=None if provider.methods is None else frozenset(provider.methods),
            price=micros(provider.price) or 0,
            priced=provider.price_from_answer,
            low_balance=provider.low_balance,
            batch_polls=provider.batch_polls,
        )
        for provider in config.providers
    }
