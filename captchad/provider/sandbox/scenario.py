"""The scenario: what the practice provider is like, read from TOML. docs/sandbox.md describes each key."""

__all__ = [
    "DEFAULT_KEY",
    "OPS",
    "Fault",
    "KeyPlan",
    "Limits",
    "PingbackPlan",
    "Rule",
    "Scenario",
    "SolveTime",
    "Switches",
    "load",
    "parse",
]

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import translate
from pathlib import Path
from statistics import NormalDist

from captchad.model.errors import ConfigError, ConfigProblem
from captchad.provider.sandbox.table import Table, Value

DEFAULT_KEY = "a" * 32

#: Kinds of calls that a fault may strike.
OPS = ("submit", "poll", "report", "balance", "threads", "pingback")

#: Faults that replace the answer. Without `_after` the call is then not carried out.
_REPLACING = frozenset({"html", "empty", "garbage", "big", "redirect", "reset", "close", "hang"})
#: Faults that harm the delivery of the true answer; the call is always carried out.
_DELIVERING = frozenset({"truncated", "cut", "slow_headers", "drip", "delay"})
_STATUS = re.compile(r"http_[45][0-9][0-9]")
_CODE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|ERROR: [0-9]{1,6}")
#: How a captcha may end other than with an answer or an error code.
_OUTCOMES = ("never", "forget", "expired")
_KEY = re.compile(r"[!-~]{32}")


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave: `http_502`, `html`, `reset`, an error code and so on."""

    name: str
    after: bool  # the call is carried out first

    @property
    def is_code(self) -> bool:
        """True for an error code of the protocol."""
        return _CODE.fullmatch(self.name) is not None


#: A distribution, as its quantile function: seconds for a draw between 0 and 1.
SolveTime = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """An account. `threads = 0` is an account without a plan: its key does not exist."""

    key: str = field(default=DEFAULT_KEY, repr=False)
    threads: int = 1000
    balance: float = 1000.0
    price: float = 0.001


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: strikes calls (`fault`), or shapes the captchas that are made (`outcome`, `solve`, `answer`)."""

    ops: tuple[str, ...]
    match: Mapping[str, re.Pattern[str]]
    fault: Fault | None
    outcome: str
    solve: SolveTime | None
    answer: str | None
    skip: int
    times: int  # 0: for ever
    per: str
    p: float
    delay_s: float
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Switches:
    """Where official sources disagree, and what some providers do."""

    saturation: str = "queue"
    dialect: str = "captchaai"
    integer_ids: tuple[str, ...] = ("userrecaptcha",)
    result_key: bool = True
    structured: str = "string"
    threads_as: str = "number"
    plain_errors: tuple[str, ...] = ()
    error_text: bool = False
    not_ready: str = "CAPCHA_NOT_READY"
    unknown_methods: str = "accept"
    check_fields: bool = True
    check_images: bool = True
    max_image_bytes: int = 1024 * 1024
    id_life_s: float = 900.0
    report_life_s: float = 900.0
    token_life_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The provider's rate limits and bans; all off unless `enabled`."""

    enabled: bool = False
    turn_calls: int = 60
    turn_window_s: float = 3.0
    turn_ban_s: float = 10.0
    no_slot_calls: int = 120
    no_slot_window_s: float = 60.0
    no_slot_ban_s: float = 600.0
    zero_balance_calls: int = 120
    zero_balance_window_s: float = 60.0
    zero_balance_ban_s: float = 300.0
    refused_ratio: float = 3.0
    refused_calls: int = 120
    refused_ban_s: float = 30.0
    bad_key_calls: int = 5
    bad_key_window_s: float = 600.0
    bad_key_ban_s: float = 600.0
    bad_key_code: str = "ERROR: 1004"
    polls_per_captcha: float = 20.0
    polls_allowance: int = 1200
    polls_ban_s: float = 300.0
    requests_per_s: int = 0


@dataclass(frozen=True, slots=True)
class PingbackPlan:
    """How callbacks are sent. `hosts` are the only ones that they are sent to."""

    verb: str = "GET"
    hosts: tuple[str, ...] = ("127.0.0.1", "::1", "localhost")
    registered_only: bool = False
    lose_p: float = 0.0
    duplicate_p: float = 0.0
    delay_s: float = 0.0
    timeout_s: float = 10.0


def _uniform(low: float, high: float) -> SolveTime:
    return lambda u: low + (high - low) * u


def _lognormal(median: float, sigma: float, cap: float) -> SolveTime:
    return lambda u: min(cap, median * math.exp(sigma * NormalDist().inv_cdf(u)))


@dataclass(frozen=True, slots=True)
class Scenario:
    """All of it."""

    seed: int = 1
    keys: tuple[KeyPlan, ...] = (KeyPlan(),)
    solve: SolveTime = field(default_factory=lambda: _uniform(2.0, 6.0))
    solve_by_method: Mapping[str, SolveTime] = field(default_factory=dict)
    faults: Mapping[str, tuple[tuple[Fault, float], ...]] = field(default_factory=dict)
    outcomes: tuple[tuple[str, float], ...] = ()
    rules: tuple[Rule, ...] = ()
    switches: Switches = Switches()
    limits: Limits = Limits()
    pingback: PingbackPlan = PingbackPlan()
    delay_s: float = 5.0
    pace_s: float = 0.1
    redirect_to: str = "http://192.0.2.1/"

    def solve_time(self, method: str) -> SolveTime:
        """The distribution of a method's solve times."""
        return self.solve_by_method.get(method, self.solve)


def load(path: Path) -> Scenario:
    """Read a scenario file. Raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError([ConfigProblem(str(path), 0, "scenario", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([ConfigProblem(str(path), 0, "scenario", "is not UTF-8")]) from error
    return parse(text, str(path))


def parse(text: str, file: str = "scenario") -> Scenario:
    """A scenario from TOML text. Raises ConfigError with every fault; `file` names the text in them."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError([ConfigProblem(file, _line(str(error)), "scenario", f"not TOML: {error}")]) from error
    problems: list[ConfigProblem] = []
    scenario = _scenario(Table(document, "", file, problems))
    if problems:
        raise ConfigError(problems)
    return scenario


def _line(message: str) -> int:
    match = re.search(r"at line (\d+)", message)
    return int(match[1]) if match else 0


def _scenario(table: Table) -> Scenario:
    base = Scenario()
    solve = table.table("solve")
    methods = solve.table("methods")
    delivery = table.table("delivery")
    scenario = Scenario(
        seed=table.integer("seed", base.seed),
        keys=_keys(table),
        solve=_solve_time(solve, "seconds") or base.solve,
        solve_by_method={name: time for name in methods.names() if (time := _solve_time(methods, name))},
        faults=_faults(table.table("faults")),
        outcomes=_outcomes(table.table("outcomes")),
        rules=tuple(_rules(table)),
        switches=_switches(table.table("switches")),
        limits=_limits(table.table("limits")),
        pingback=_pingback(table.table("pingback")),
        delay_s=delivery.number("delay_s", base.delay_s),
        pace_s=delivery.number("pace_s", base.pace_s),
        redirect_to=delivery.text("redirect_to", base.redirect_to),
    )
    for part in (solve, delivery, table):
        part.finish()
    return scenario


def _keys(table: Table) -> tuple[KeyPlan, ...]:
    plans: list[KeyPlan] = []
    for row in table.tables("key"):
        base = KeyPlan()
        plan = KeyPlan(
            row.text("key", base.key),
            row.integer("threads", base.threads),
            row.number("balance", base.balance),
            row.number("price", base.price),
        )
        if _KEY.fullmatch(plan.key) is None or any(plan.key == other.key for other in plans):
            row.fault("key", "not 32 printable characters, or a key that is there already")
        row.finish()
        plans.append(plan)
    return tuple(plans) or (KeyPlan(),)


def _solve_time(table: Table, key: str) -> SolveTime | None:
    value = table.raw(key)
    match value:
        case None:
            return None
        case [low, high] if _seconds(low) and _seconds(high) and low <= high:
            return _uniform(low, high)
        case dict():
            shape = table.table(key)
            median = shape.number("median", 10.0, 1e-6)
            time = _lognormal(median, shape.number("sigma", 0.5, 0.0, 10.0), shape.number("max", 3600.0))
            shape.finish()
            return time
        case _ if _seconds(value):
            return _uniform(value, value)
    table.fault(key, "not a solve time", "SECONDS, [LOW, HIGH] or {median = SECONDS, sigma = NUMBER}")
    return None


def _seconds(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value < math.inf


def _faults(table: Table) -> dict[str, tuple[tuple[Fault, float], ...]]:
    found = {}
    for op in OPS:
        row = table.table(op)
        pairs = [(_fault(row, name, name), row.number(name, 0.0, 0.0, 1.0)) for name in row.names()]
        _check_sum(row, [p for _, p in pairs])
        if pairs:
            found[op] = tuple((fault, p) for fault, p in pairs if fault)
    table.finish()
    return found


def _fault(table: Table, key: str, name: str) -> Fault | None:
    bare = name.removesuffix("_after")
    if bare in _DELIVERING:
        return Fault(bare, after=True)
    if bare in _REPLACING or _STATUS.fullmatch(bare) or _CODE.fullmatch(bare):
        return Fault(bare, after=bare != name)
    kinds = ", ".join(sorted(_DELIVERING | _REPLACING))
    table.fault(key, f"unknown fault {name!r}", f"one of {kinds}, http_4xx, http_5xx or an error code")
    return None


def _check_sum(table: Table, chances: list[float]) -> None:
    if sum(chances) > 1.0 + 1e-9:
        table.fault("", "probabilities add up to more than 1")


def _outcomes(table: Table) -> tuple[tuple[str, float], ...]:
    pairs = tuple((_outcome(table, name, name), table.number(name, 0.0, 0.0, 1.0)) for name in table.names())
    _check_sum(table, [p for _, p in pairs])
    return pairs


def _outcome(table: Table, key: str, name: str) -> str:
    if name and name not in _OUTCOMES and _CODE.fullmatch(name) is None:
        table.fault(key, f"unknown outcome {name!r}", f"one of {', '.join(_OUTCOMES)} or an error code")
    return name


def _rules(table: Table) -> list[Rule]:
    rules = [_rule(row) for row in table.tables("rule")]
    for row in table.tables("outage"):
        fault = _fault(row, "fault", row.text("fault", "http_503"))
        start = row.number("from_s", 0.0)
        ops = _ops(row, "any")
        rules.append(_plain_rule(ops, fault, start, start + row.number("for_s", math.inf)))
        row.finish()
    return rules


def _plain_rule(ops: tuple[str, ...], fault: Fault | None, from_s: float, until_s: float) -> Rule:
    return Rule(ops, {}, fault, "", None, None, 0, 0, "", 1.0, 0.0, from_s, until_s)


def _rule(row: Table) -> Rule:
    fault = _fault(row, "fault", row.text("fault", "")) if "fault" in row else None
    outcome = _outcome(row, "outcome", row.text("outcome", ""))
    answer = row.text("answer", "") if "answer" in row else None
    solve = _solve_time(row, "solve_s")
    shapes = bool(outcome or solve or answer is not None)
    if shapes == ("fault" in row):
        row.fault("", "a rule has either a fault, or some of outcome, solve_s, answer")
    ops = _ops(row, "submit")
    if shapes and ops != ("submit",):
        row.fault("op", "outcome, solve_s and answer belong to submits")
    if fault and fault.name == "ERROR_CAPTCHA_UNSOLVABLE" and "submit" in ops:
        row.fault("fault", "in.php never says this", 'outcome = "ERROR_CAPTCHA_UNSOLVABLE" ends the captcha so')
    from_s = row.number("from_s", 0.0)
    rule = Rule(
        ops=ops,
        match=_match(row),
        fault=fault,
        outcome=outcome,
        solve=solve,
        answer=answer,
        skip=row.integer("skip", 0),
        times=row.integer("times", 0),
        per=row.text("per", ""),
        p=row.number("p", 1.0, 0.0, 1.0),
        delay_s=row.number("delay_s", -1.0),
        from_s=from_s,
        until_s=from_s + row.number("for_s", math.inf),
    )
    row.finish()
    return rule


def _ops(row: Table, default: str) -> tuple[str, ...]:
    op = row.choice("op", default, (*OPS, "any"))
    return OPS if op == "any" else (op,)


def _match(row: Table) -> dict[str, re.Pattern[str]]:
    table = row.table("match")
    return {name: re.compile(translate(table.text(name, ""))) for name in table.names()}


def _switches(table: Table) -> Switches:
    base = Switches()
    switches = Switches(
        saturation=table.choice("saturation", base.saturation, ("queue", "zero_balance", "no_slot")),
        dialect=table.choice("dialect", base.dialect, ("captchaai", "2captcha")),
        integer_ids=table.texts("integer_ids", base.integer_ids),
        result_key=table.flag("result_key", base.result_key),
        structured=table.choice("structured", base.structured, ("string", "object")),
        threads_as=table.choice("threads_as", base.threads_as, ("number", "string")),
        plain_errors=table.texts("plain_errors", base.plain_errors),
        error_text=table.flag("error_text", base.error_text),
        not_ready=table.choice("not_ready", base.not_ready, ("CAPCHA_NOT_READY", "CAPTCHA_NOT_READY")),
        unknown_methods=table.choice("unknown_methods", base.unknown_methods, ("accept", "refuse")),
        check_fields=table.flag("check_fields", base.check_fields),
        check_images=table.flag("check_images", base.check_images),
        max_image_bytes=table.integer("max_image_bytes", base.max_image_bytes),
        id_life_s=table.number("id_life_s", base.id_life_s),
        report_life_s=table.number("report_life_s", base.report_life_s),
        token_life_s=table.number("token_life_s", base.token_life_s),
    )
    table.finish()
    return switches


def _limits(table: Table) -> Limits:
    """All keys of Limits, read by the type of their defaults: a long list of plain numbers."""
    values: dict[str, Value] = {}
    base = Limits()
    for key in fields(Limits):
        default = getattr(base, key.name)
        if isinstance(default, bool):
            values[key.name] = table.flag(key.name, default)
        elif isinstance(default, int):
            values[key.name] = table.integer(key.name, default)
        elif isinstance(default, float):
            values[key.name] = table.number(key.name, default)
        else:
            values[key.name] = table.choice(key.name, default, ("ERROR: 1004", "IP_BANNED", "ERROR_IP_BANNED"))
    table.finish()
    return Limits(**values)


def _pingback(table: Table) -> PingbackPlan:
    base = PingbackPlan()
    plan = PingbackPlan(
        verb=table.choice("verb", base.verb, ("GET", "POST")),
        hosts=table.texts("hosts", base.hosts),
        registered_only=table.flag("registered_only", base.registered_only),
        lose_p=table.number("lose_p", base.lose_p, 0.0, 1.0),
        duplicate_p=table.number("duplicate_p", base.duplicate_p, 0.0, 1.0),
        delay_s=table.number("delay_s", base.delay_s),
        timeout_s=table.number("timeout_s", base.timeout_s),
    )
    table.finish()
    return plan
