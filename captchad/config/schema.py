"""The configuration as a typed tree. The metadata of each field say kind, range, unit, and how a reload takes it.

The loader, `captchad check`, the example file and the reference page are all made from these tables. A `Config` that
comes from `captchad.config.build` is whole: ranges and the rules between keys have been checked.
"""

__all__ = [
    "REQUIRED",
    "Breaker",
    "Config",
    "Daemon",
    "Degradation",
    "Http",
    "Key",
    "Limits",
    "Policy",
    "Provider",
    "Queue",
    "Reload",
    "Retry",
    "Spec",
    "Supervision",
    "Table",
    "keys",
    "tables",
    "to_dict",
    "with_places_of",
]

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from captchad.config.kinds import (
    Address,
    Bool,
    Choice,
    HostPattern,
    Int,
    Kind,
    ListOf,
    MethodSeconds,
    Number,
    PathName,
    Url,
    Word,
    split_listen,
)

#: In place of the default of a key that has none.
REQUIRED = MISSING

_DAY = 86400.0
_TEN_YEARS = 3650 * _DAY


class Reload(StrEnum):
    """When a changed value takes effect."""

    LIVE = "live"
    WORKERS = "workers"  # as each worker is replaced by a new one, one at a time
    RESTART = "restart"

    @property
    def words(self) -> str:
        """How a change is said to take effect."""
        return {"live": "live", "workers": "as workers are replaced", "restart": "takes a restart"}[self.value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is known of one key besides its default."""

    kind: Kind
    doc: str
    unit: str
    reload: Reload
    example: object  # a value for the example file; None: the default
    missing: str  # the hint when a required key is missing


def _key(
    kind: Kind,
    doc: str,
    unit: str = "",
    *,
    reload: Reload = Reload.LIVE,
    example: object = None,
    missing: str = "",
) -> Mapping[str, Spec]:
    return {"spec": Spec(kind=kind, doc=doc, unit=unit, reload=reload, example=example, missing=missing)}


def _seconds(low: float, high: float, doc: str) -> Mapping[str, Spec]:
    return _key(Number(low, high), doc, "s")


def _charges(doc: str) -> Mapping[str, Spec]:
    return _key(Int(0, 10**9), doc, "charges")


def _share(doc: str) -> Mapping[str, Spec]:
    return _key(Number(0.0, 1.0), doc, "share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """`[daemon]`"""

    workers: int = field(default=4, metadata=_key(Int(1, 256), "Worker processes that are kept running.", "processes"))
    min_workers: int = field(
        default=2,
        metadata=_key(
            Int(1, 256),
            "Workers that must beat before the service is ready; at most `workers`. When it is not given and `workers`"
            " is 1, it is 1.",
            "processes",
        ),
    )
    probation_s: float = field(
        default=300.0,
        metadata=_seconds(
            0, 7 * _DAY, "A new configuration must run so long without faults of its own to become good."
        ),
    )
    log_level: str = field(
        default="info",
        metadata=_key(Choice(("debug", "info", "warning", "error")), "Least severity that is logged."),
    )
    log_format: str = field(
        default="plain",
        metadata=_key(
            Choice(("plain", "json")),
            "How lines on stderr look: text, or objects with a member for each field. Ignored when stderr is the"
            " journal, which gets the fields in its own way; until the configuration is read, lines are plain.",
        ),
    )
    state_dir: Path = field(
        default=Path("/var/lib/captchad"),
        metadata=_key(PathName(), "Journal, status file, backups.", reload=Reload.RESTART),
    )
    spool_dir: Path = field(
        default=Path("/var/spool/captchad"),
        metadata=_key(PathName(), "Task files come in here, results go out here.", reload=Reload.RESTART),
    )
    runtime_dir: Path = field(
        default=Path("/run/captchad"), metadata=_key(PathName(), "Control socket.", reload=Reload.RESTART)
    )
    allow_weak_fs: bool = field(
        default=False,
        metadata=_key(
            Bool(),
            "Take a `state_dir` on a file system whose locks or syncs may be weak, like NFS or FUSE. Two daemons may"
            " then write one journal, and a power cut may take what was promised.",
            reload=Reload.RESTART,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """`[supervision]`"""

    heartbeat_s: float = field(default=1.0, metadata=_seconds(0.01, 60, "Time between two heartbeats of a worker."))
    boot_s: float = field(default=30.0, metadata=_seconds(0.1, 3600, "Longest time until a worker's first heartbeat."))
    stall_s: float = field(
        default=120.0,
        metadata=_seconds(
            0.05, _DAY, "A worker silent for so long is hung and replaced; more than three times `heartbeat_s`."
        ),
    )
    drain_s: float = field(
        default=30.0, metadata=_seconds(0, 3600, "Longest time that a stop waits for submits under way.")
    )
    restart_max_delay_s: float = field(
        default=30.0, metadata=_seconds(0.01, 3600, "Cap of the growing delay before a worker is started again.")
    )
    standby: int = field(
        default=1,
        metadata=_key(
            Int(0, 16),
            "Workers that are kept booted in reserve: one that dies is replaced within milliseconds. With 0 a"
            " replacement takes a fork and a boot.",
            "processes",
        ),
    )
    threads: int = field(
        default=16,
        metadata=_key(
            Int(1, 32),
            "Submits that one worker runs at once, and as many polls.",
            "threads",
            reload=Reload.WORKERS,
        ),
    )
    max_tasks: int = field(
        default=0,
        metadata=_key(
            Int(0, 10**9), "Replace a worker after so many tasks, or up to a tenth fewer; 0: never.", "tasks"
        ),
    )
    max_private_mb: int = field(
        default=0,
        metadata=_key(
            Int(0, 1 << 20),
            "Replace a worker whose private memory exceeds this, or up to a tenth less; 0: never.",
            "MiB",
        ),
    )
    max_age_s: float = field(
        default=0.0,
        metadata=_seconds(0, _TEN_YEARS, "Replace a worker after this time, or up to a tenth earlier; 0: never."),
    )
    autoscale_max: int = field(
        default=0,
        metadata=_key(
            Int(0, 256),
            "Add workers, up to so many (at least `daemon.workers`), while tasks wait and the workers are busy; "
            "0: `daemon.workers`, always.",
            "processes",
        ),
    )
    autoscale_min: int = field(
        default=1,
        metadata=_key(
            Int(1, 256),
            "Take workers away again, down to so many, and never below `daemon.min_workers`.",
            "processes",
        ),
    )
    autoscale_age_s: float = field(
        default=30.0, metadata=_seconds(0.1, _DAY, "The oldest task has waited for so long before a worker is added.")
    )
    autoscale_cooldown_s: float = field(
        default=60.0,
        metadata=_seconds(0.1, _DAY, "Time between two changes of the number of workers, and of calm before one goes."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """`[queue]`"""

    backend: str = field(
        default="journal",
        metadata=_key(Choice(("journal",), later=("redis",)), "Where the queue lives.", reload=Reload.RESTART),
    )
    capacity: int = field(
        default=100_000,
        metadata=_key(Int(1, 10**7), "Unfinished tasks at most; files beyond that wait in the spool.", "tasks"),
    )
    result_ttl_s: float = field(
        default=3600.0, metadata=_seconds(0.1, _TEN_YEARS, "A result file is removed after this time.")
    )
    id_ttl_s: float = field(
        default=_DAY, metadata=_seconds(0, _TEN_YEARS, "How long the id of an ended task is remembered.")
    )
    dead_ttl_s: float = field(
        default=30 * _DAY, metadata=_seconds(0.1, _TEN_YEARS, "How long a task stays in the dead-letter queue.")
    )
    max_redrives: int = field(
        default=3, metadata=_key(Int(0, 1000), "New runs that one dead task may get at most.", "runs")
    )
    segment_mb: int = field(default=64, metadata=_key(Int(1, 4096), "Size of a journal segment.", "MiB"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`[policy]`"""

    allowed_hosts: tuple[str, ...] = field(
        metadata=_key(
            ListOf(HostPattern()),
            "Page hosts that you are authorised to automate; other tasks are rejected. Compared in lower case.",
            example=["example.com", "*.example.com"],
            missing="captchactl setup asks for the hosts that you may automate; by hand they stand in conf.d/*.toml "
            'beside this file: [policy] allowed_hosts = ["example.com"]',
        )
    )


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAME_SAYS = "letters, digits, . _ -, the first a letter or digit, at most 64"
_METHOD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_METHOD_SAYS = "the name of a method, as tasks have it"
_CREDENTIAL = r"(?!.*\.previous\Z)[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_CREDENTIAL_SAYS = "a plain file name: letters, digits, . _ -, at most 128, and not .previous at its end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """`[[provider]]`. Exactly one of `api_key_credential` and `api_key_file` is set."""

    name: str = field(
        metadata=_key(
            Word(_NAME, _NAME_SAYS),
            "Name in logs, metrics and results; each provider has its own.",
            example="captchaai",
            missing='a name of your choice, like "captchaai"',
        )
    )
    url: str = field(
        metadata=_key(
            Url(),
            "Address under which in.php and res.php lie.",
            example="https://ocr.captchaai.com",
            missing="the provider's address, https://HOST",
        )
    )
    api_key_credential: str | None = field(
        default=None,
        metadata=_key(
            Word(_CREDENTIAL, _CREDENTIAL_SAYS),
            "File in `$CREDENTIALS_DIRECTORY` that holds the API key. This or `api_key_file`.",
            example="captchaai.key",
        ),
    )
    api_key_file: Path | None = field(
        default=None,
        metadata=_key(
            PathName(),
            "File that holds the API key. This or `api_key_credential`.",
            example="/etc/captchad/credentials/captchaai.key",
        ),
    )
    max_in_flight: int = field(
        default=100, metadata=_key(Int(1, 100_000), "Captchas at this provider at one time.", "captchas")
    )
    methods: tuple[str, ...] | None = field(
        default=None,
        metadata=_key(
            ListOf(Word(_METHOD, _METHOD_SAYS)),
            "Methods that it offers; without this key, all. Tasks whose method no provider offers wait.",
            example=["userrecaptcha", "turnstile"],
        ),
    )
    submits_per_3s: int = field(
        default=60,
        metadata=_key(
            Int(1, 100_000),
            "Submits in any 3 s at most. Services of this protocol refuse more than 60 (MAX_USER_TURN); raise it only"
            " where yours allows more.",
            "submits",
        ),
    )
    priority: int = field(default=1, metadata=_key(Int(0, 1000), "The lower is preferred; equals share the load."))
    first_poll_s: float = field(
        default=0.0,
        metadata=_seconds(0, 600, "Wait between submit and first poll; 0: by method, then learned."),
    )
    poll_s: float = field(default=5.0, metadata=_seconds(0.01, 600, "Time between two polls of one captcha."))
    timeout_s: float = field(
        default=180.0, metadata=_seconds(0.1, _DAY, "Longest time of one attempt, from submit to answer.")
    )
    timeouts: tuple[tuple[str, float], ...] = field(
        default=(),
        metadata=_key(MethodSeconds(Number(0.1, _DAY)), "The same for single methods, in place of `timeout_s`.", "s"),
    )
    submit_s: float = field(
        default=30.0,
        metadata=_seconds(0.1, 600, "One deadline over name, connection, TLS and body of a submit."),
    )
    pause_s: float = field(
        default=60.0, metadata=_seconds(0, _DAY, "Pause after a permanent or budget error, before the next try.")
    )
    price: float = field(
        default=0.0,
        metadata=_key(
            Number(0, 1000),
            "What one solved captcha costs, to a millionth; 0: not known. One that comes with the answer goes before.",
            "the provider's currency",
        ),
    )
    price_from_answer: bool = field(
        default=False,
        metadata=_key(
            Bool(), "Ask for the price with each answer (`action=get2`); only for a provider that offers it."
        ),
    )
    low_balance: float = field(
        default=0.0,
        metadata=_key(
            Number(0, 1e9), "Status and log say so when the balance is below; 0: never.", "the provider's currency"
        ),
    )
    charges_per_hour: int = field(
        default=0, metadata=_charges("Charges in any hour at most; other providers take what is beyond. 0: no cap.")
    )
    charges_per_day: int = field(
        default=0, metadata=_charges("Charges in any 24 hours at most; other providers take what is beyond. 0: no cap.")
    )
    batch_polls: bool = field(
        default=False,
        metadata=_key(Bool(), "Ask for many captchas in one call (`ids=`); only for a provider that offers it."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """`[retry]`"""

    max_attempts: int = field(
        default=3, metadata=_key(Int(1, 100), "Attempts of a task before it is dead.", "attempts")
    )
    base_delay_s: float = field(
        default=5.0, metadata=_seconds(0, 3600, "First delay before another attempt; at most `max_delay_s`.")
    )
    max_delay_s: float = field(default=300.0, metadata=_seconds(0, _DAY, "Cap of the growing delay."))
    on_unknown_submit: str = field(
        default="resubmit",
        metadata=_key(
            Choice(("resubmit", "hold")),
            "When nobody knows whether a submit was taken: submit again (may pay twice), or hold for an operator.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """`[breaker]`"""

    failure_threshold: int = field(
        default=5, metadata=_key(Int(1, 10**6), "Faults in a row that open a provider's breaker.", "faults")
    )
    reset_timeout_s: float = field(
        default=60.0, metadata=_seconds(0.01, _DAY, "Time until an open breaker lets a trial call through.")
    )
    half_open_successes: int = field(
        default=3, metadata=_key(Int(1, 1000), "Good trial calls that close it again.", "calls")
    )
    return_successes: int = field(
        default=5,
        metadata=_key(
            Int(1, 1000),
            "Submits in a row that a provider must take, once its breaker has opened, before it is preferred again;"
            " until then others come first, whatever their priority.",
            "submits",
        ),
    )
    return_after_s: float = field(
        default=120.0,
        metadata=_seconds(0, _DAY, "Least time between a breaker's opening and its provider's being preferred again."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """`[degradation]`"""

    degraded_error_rate: float = field(
        default=0.2,
        metadata=_share(
            "Share of the captchas of the last minute that ended without an answer, from which only `high` and"
            " `critical` tasks are submitted."
        ),
    )
    emergency_error_rate: float = field(
        default=0.5, metadata=_share("The same, from which only `critical` tasks are submitted.")
    )
    degraded_queue_ratio: float = field(
        default=0.75,
        metadata=_share(
            "Share of `queue.capacity` in use from which higher priorities go first, however long others have waited."
        ),
    )
    hold_s: float = field(
        default=30.0,
        metadata=_seconds(0, 3600, "A mode ends when its share was below 80 % of the threshold for so long."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`[limits]`"""

    charges_per_hour: int = field(
        default=0, metadata=_charges("Charges of all providers in any hour at most; tasks beyond wait. 0: no cap.")
    )
    charges_per_day: int = field(
        default=0, metadata=_charges("Charges of all providers in any 24 hours at most; tasks beyond wait. 0: no cap.")
    )
    tag: str = field(
        default="",
        metadata=_key(
            Word(r"[ -~]{0,128}", "printable ASCII, at most 128 characters"),
            'Name of the tag by whose values `tag_charges_per_day` counts, like "customer".',
        ),
    )
    tag_charges_per_day: int = field(
        default=0,
        metadata=_charges("Charges for one value of `tag` in any 24 hours at most; its tasks wait. 0: no cap."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """`[http]`"""

    listen: str = field(
        default="127.0.0.1:8480",
        metadata=_key(
            Address(),
            'Address of health, metrics and status page; "" turns HTTP off; port 0 takes a free one. Other names than'
            " localhost are not taken: none is looked up.",
        ),
    )

    @property
    def address(self) -> tuple[str, int] | None:
        """Host (without brackets) and port; None when HTTP is off."""
        return split_listen(self.listen)


def _table(name: str, cls: type, doc: str) -> Mapping[str, "Table"]:
    return {"table": Table(name, cls, doc)}


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file. `[[provider]]` is the only array of tables."""

    name: str
    cls: type
    doc: str

    @property
    def array(self) -> bool:
        return self.cls is Provider

    @property
    def header(self) -> str:
        return f"[[{self.name}]]" if self.array else f"[{self.name}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The merged effective configuration. Holds no secret, only names of the files that do."""

    daemon: Daemon = field(metadata=_table("daemon", Daemon, "The process and its places."))
    supervision: Supervision = field(metadata=_table("supervision", Supervision, "How workers are watched."))
    queue: Queue = field(metadata=_table("queue", Queue, "The queue and how long things are kept."))
    policy: Policy = field(metadata=_table("policy", Policy, "What may be automated."))
    providers: tuple[Provider, ...] = field(
        metadata=_table("provider", Provider, "A solving service; at least one. Written once for each provider.")
    )
    retry: Retry = field(metadata=_table("retry", Retry, "When a task is tried again."))
    breaker: Breaker = field(metadata=_table("breaker", Breaker, "When a failing provider is left alone."))
    degradation: Degradation = field(metadata=_table("degradation", Degradation, "When lower priorities wait."))
    limits: Limits = field(metadata=_table("limits", Limits, "What may be spent at most."))
    http: Http = field(metadata=_table("http", Http, "Health, metrics and a status page over HTTP."))


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table."""

    name: str
    spec: Spec
    default: object  # REQUIRED when there is none; None when the key may be left out


def tables() -> tuple[Table, ...]:
    """All tables, in the order of the file."""
    return tuple(each.metadata["table"] for each in fields(Config))


def keys(table: Table) -> tuple[Key, ...]:
    """The keys of `table`, in the order of the file."""
    return tuple(Key(each.name, each.metadata["spec"], each.default) for each in fields(table.cls))


def to_dict(config: Config, *, defaults: bool = True) -> dict[str, Any]:
    """The tree as TOML has it: paths as strings, tuples as arrays, keys that are not set left out.

    Without `defaults` what has its default is left out, too.
    """
    out: dict[str, Any] = {}
    for each in fields(Config):
        value = getattr(config, each.name)
        tables = [_plain(item, defaults) for item in (value if isinstance(value, tuple) else (value,))]
        out[each.metadata["table"].name] = tables if isinstance(value, tuple) else tables[0]
    return out


def _plain(table: Any, defaults: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for each in fields(table):
        match getattr(table, each.name):
            case None:
                continue
            case value if not defaults and value == each.default:
                continue
            case Path() as path:
                out[each.name] = str(path)
            case tuple() as pairs if isinstance(each.metadata["spec"].kind, MethodSeconds):
                out[each.name] = dict(pairs)
            case tuple() as items:
                out[each.name] = list(items)
            case value:
                out[each.name] = value
    return out


def with_places_of(config: Config, other: Config) -> Config:
    """`config` with those values of `other` that only a restart may change: directories, and where the queue lives."""
    return replace(config, **{name: _with_places_of(getattr(config, name), getattr(other, name)) for name in _SINGLE})


def _with_places_of(table: Any, other: Any) -> Any:
    fixed = [each.name for each in fields(table) if each.metadata["spec"].reload is Reload.RESTART]
    return replace(table, **{name: getattr(other, name) for name in fixed})


#: Tables that are no arrays.
_SINGLE = tuple(each.name for each in fields(Config) if not each.metadata["table"].array)
