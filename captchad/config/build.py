"""From a parsed TOML tree to a `Config`, or to every fault in it at once."""

__all__ = ["MAX_PROVIDERS", "Fault", "KeyPath", "build"]

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from captchad.config.kinds import Bad, ListOf, type_word
from captchad.config.schema import REQUIRED, Config, Daemon, Key, Provider, Table, keys, tables
from captchad.model.words import did_you_mean

#: Where a value stands: names of tables and keys, and positions in arrays.
KeyPath = tuple[str | int, ...]

#: More would make a saved generation, where every key is written, larger than what `scanner` takes.
MAX_PROVIDERS = 64

#: Unknown names in one table whose hints say what is near: each takes a millisecond, and in a reload all else waits.
MAX_HINTS = 100


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, at `path` in the merged tree."""

    path: KeyPath
    message: str
    hint: str = ""


#: The good values of one table by key, defaults included; a bad or missing one is absent.
_Values = dict[str, Any]


def build(raw: Mapping[str, Any], *, whole: bool = True) -> tuple[Config | None, list[Fault]]:
    """Check a parsed TOML tree. Gives the config, or None and every fault.

    With `whole` false some part of the tree could not be read: faults that it might explain (missing keys, rules
    between keys) are left out, and there is no config.
    """
    faults = list(_unknown_tables(raw))
    read = {
        table.name: [_read_table(table, path, given, faults) for path, given in _given(table, raw, faults)]
        for table in tables()
    }
    if not whole:
        return None, [each for each in faults if not isinstance(each, _Missing)]
    faults += _cross_faults(raw, read)
    if faults:
        return None, faults
    return _assemble(read), []


@dataclass(frozen=True, slots=True)
class _Missing(Fault):
    """A fault that a part that could not be read may explain."""


def _assemble(read: Mapping[str, list[_Values]]) -> Config:
    parts: dict[str, Any] = {}
    for each in fields(Config):
        table: Table = each.metadata["table"]
        made = tuple(table.cls(**values) for values in read[table.name])
        parts[each.name] = made if table.array else made[0]
    return Config(**parts)


def _unknown_tables(raw: Mapping[str, Any]) -> Iterator[Fault]:
    names = [table.name for table in tables()]
    for number, (name, value) in enumerate((name, value) for name, value in raw.items() if name not in names):
        is_table = isinstance(value, Mapping) or (
            isinstance(value, list) and any(isinstance(x, Mapping) for x in value)
        )
        near = did_you_mean(name, names) if number < MAX_HINTS else ""
        hint = near if is_table else _home(name) or near
        yield Fault((name,), "unknown table" if is_table else "unknown key", hint)


def _given(table: Table, raw: Mapping[str, Any], faults: list[Fault]) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """The table or tables as written, each with its path; an absent single table is an empty one."""
    path: KeyPath = (table.name,)
    value = raw.get(table.name)
    if table.array:
        yield from _given_array(table, path, value, faults)
    elif value is None:
        yield path, {}
    elif isinstance(value, Mapping):
        yield path, value
    else:
        faults.append(Fault(path, f"must be a table, not {type_word(value)}", f"write {table.header}"))


def _given_array(
    table: Table, path: KeyPath, value: object, faults: list[Fault]
) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    if isinstance(value, list) and len(value) > MAX_PROVIDERS:
        faults.append(Fault(path, f"{len(value)} are too many", f"at most {MAX_PROVIDERS}"))
    elif value is None or value == []:
        faults.append(_Missing(path, f"at least one {table.header} is needed"))
    elif not isinstance(value, list):
        faults.append(Fault(path, f"must be an array of tables, not {type_word(value)}", f"write {table.header}"))
    else:
        for index, item in enumerate(value):
            if isinstance(item, Mapping):
                yield (*path, index), item
            else:
                faults.append(Fault((*path, index), f"must be a table, not {type_word(item)}"))


def _read_table(table: Table, path: KeyPath, given: Mapping[str, Any], faults: list[Fault]) -> _Values:
    known = {key.name: key for key in keys(table)}
    for number, name in enumerate(name for name in given if name not in known):
        hint = _unknown_hint(name, table, list(known)) if number < MAX_HINTS else ""
        faults.append(Fault((*path, name), "unknown key", hint))
    values: _Values = {}
    for name, key in known.items():
        if name in given:
            _read_value(key, (*path, name), given[name], values, faults)
        elif key.default is not REQUIRED:
            values[name] = key.default
        else:
            faults.append(_Missing((*path, name), "missing, and it has no default", key.spec.missing))
    if table.cls is Daemon and "min_workers" not in given and "workers" in values:
        values["min_workers"] = min(values["min_workers"], values["workers"])
    return values


def _read_value(key: Key, path: KeyPath, value: object, values: _Values, faults: list[Fault]) -> None:
    kind = key.spec.kind
    result = kind.read(value)
    if isinstance(result, Bad):
        faults.append(Fault(path, result.message, result.hint))
        return
    if not isinstance(kind, ListOf):
        values[key.name] = result
        return
    items: list[object] = []
    for index, item in enumerate(result if isinstance(result, list) else ()):
        one = kind.each.read(item)
        if isinstance(one, Bad):
            faults.append(Fault((*path, index), one.message, one.hint))
        else:
            items.append(one)
    values[key.name] = tuple(items)


_SECRET_NAMES = frozenset({"key", "api_key", "apikey", "token", "secret", "password", "clientkey", "client_key"})


def _unknown_hint(name: str, table: Table, known: list[str]) -> str:
    if table.cls is Provider and name.lower() in _SECRET_NAMES:
        return "keys never stand in this file: name one by api_key_credential or api_key_file"
    return _home(name) or did_you_mean(name, known)


def _home(name: str) -> str:
    """The hint that names the table in which there is such a key, or ""."""
    headers = [table.header for table in tables() if name in (key.name for key in keys(table))]
    return f"it belongs under {headers[0]}" if headers else ""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule between two keys: `test(left, right)` holds, else `message`."""

    left: tuple[str, str]
    right: tuple[str, str]
    test: Callable[[Any, Any], bool]
    message: str


_RULES = (
    _Rule(
        ("daemon", "min_workers"),
        ("daemon", "workers"),
        lambda least, all_: least <= all_,
        "daemon.min_workers must be at most daemon.workers",
    ),
    _Rule(
        ("supervision", "stall_s"),
        ("supervision", "heartbeat_s"),
        lambda stall, beat: beat * 3 < stall,
        "supervision.stall_s must be more than three times supervision.heartbeat_s",
    ),
    _Rule(
        ("supervision", "autoscale_max"),
        ("daemon", "workers"),
        lambda most, workers: most == 0 or most >= workers,
        "supervision.autoscale_max must be 0, or at least daemon.workers",
    ),
    _Rule(
        ("supervision", "autoscale_min"),
        ("daemon", "workers"),
        lambda least, workers: least <= workers,
        "supervision.autoscale_min must be at most daemon.workers",
    ),
    _Rule(
        ("degradation", "degraded_error_rate"),
        ("degradation", "emergency_error_rate"),
        lambda degraded, emergency: degraded <= emergency,
        "degradation.degraded_error_rate must be at most degradation.emergency_error_rate",
    ),
    _Rule(
        ("limits", "tag_charges_per_day"),
        ("limits", "tag"),
        lambda charges, tag: not charges or bool(tag),
        "limits.tag_charges_per_day needs limits.tag, the name of the tag that it counts by",
    ),
    _Rule(
        ("retry", "base_delay_s"),
        ("retry", "max_delay_s"),
        lambda base, most: base <= most,
        "retry.base_delay_s must be at most retry.max_delay_s",
    ),
)


def _cross_faults(raw: Mapping[str, Any], read: Mapping[str, list[_Values]]) -> Iterator[Fault]:
    for rule in _RULES:
        yield from _rule_faults(rule, raw, read)
    yield from _same_names(raw)
    yield from _key_sources(raw)


def _rule_faults(rule: _Rule, raw: Mapping[str, Any], read: Mapping[str, list[_Values]]) -> Iterator[Fault]:
    left, right = _good(read, rule.left), _good(read, rule.right)
    if left is None or right is None or rule.test(left, right):
        return
    # Blame the key that is written in the file: the other one may be a default.
    blamed = next((path for path in (rule.left, rule.right) if path[1] in raw.get(path[0], {})), rule.left)
    numbers = f"they are {left:g} and {right:g}" if isinstance(right, int | float) else ""
    yield Fault(blamed, rule.message, numbers)


def _good(read: Mapping[str, list[_Values]], place: tuple[str, str]) -> Any:
    """The value at `place` if it could be read."""
    return next((values.get(place[1]) for values in read[place[0]]), None)


def _same_names(raw: Mapping[str, Any]) -> Iterator[Fault]:
    first: dict[str, int] = {}
    for index, provider in _provider_tables(raw):
        name = provider.get("name")
        if not isinstance(name, str):
            continue
        if name in first:
            yield Fault(("provider", index, "name"), f"provider[{first[name]}] has this name already", "choose another")
        first.setdefault(name, index)


def _key_sources(raw: Mapping[str, Any]) -> Iterator[Fault]:
    for index, provider in _provider_tables(raw):
        given = [name for name in ("api_key_credential", "api_key_file") if name in provider]
        if not given:
            yield Fault(
                ("provider", index, "api_key_credential"),
                "missing: the provider has no API key",
                "name a credential, or set api_key_file",
            )
        elif len(given) > 1:
            yield Fault(("provider", index, "api_key_file"), "stands beside api_key_credential", "keep one of them")


def _provider_tables(raw: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    value = raw.get("provider")
    for index, item in enumerate(value if isinstance(value, list) and len(value) <= MAX_PROVIDERS else ()):
        if isinstance(item, Mapping):
            yield index, item
