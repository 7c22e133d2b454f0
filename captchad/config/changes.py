"""What differs between two configurations, key by key; and where each value comes from."""

__all__ = ["DEFAULT", "Change", "changes", "flat", "origins"]

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from captchad.config.load import Loaded
from captchad.config.schema import Reload, keys, tables, to_dict

#: In place of FILE:LINE for a value that no file has.
DEFAULT = "default"

#: In place of a value that is not there.
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Change:
    """A key with its values before and after, as TOML writes them, and when a reload applies it.

    A provider that came or went is one change, `provider.NAME`; so is a new API key, whose values are not told.
    """

    key: str
    before: str
    after: str
    applies: Reload

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after} ({self.applies.words})"


_RELOADS = {f"{table.name}.{key.name}": key.spec.reload for table in tables() for key in keys(table)}


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One value of a tree (`schema.to_dict`) and where it stands in it."""

    path: tuple[str | int, ...]
    provider: str | None
    value: Any


def _leaves(tree: Mapping[str, Any]) -> dict[str, _Leaf]:
    """Each value by `table.key`, those of providers by `provider.NAME.key`."""
    found: dict[str, _Leaf] = {}
    for table, content in tree.items():
        if isinstance(content, list):
            for index, each in enumerate(content):
                name = str(each["name"])
                found |= {f"{table}.{name}.{key}": _Leaf((table, index, key), name, each[key]) for key in each}
        else:
            found |= {f"{table}.{key}": _Leaf((table, key), None, content[key]) for key in content}
    return found


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a tree by `table.key`, those of providers by `provider.NAME.key`."""
    return {key: leaf.value for key, leaf in _leaves(tree).items()}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """What differs between two trees: providers that went and came, then keys in the order of the schema."""
    old, new = _leaves(before), _leaves(after)
    went, came = _providers(old) - _providers(new), _providers(new) - _providers(old)
    found = [Change(f"provider.{name}", "there", ABSENT, Reload.LIVE) for name in sorted(went)]
    found += [Change(f"provider.{name}", ABSENT, "there", Reload.LIVE) for name in sorted(came)]
    was, becomes = (_order(tree, without=went | came) for tree in (before, after))
    if was != becomes:
        found.append(Change("provider: their order", was, becomes, Reload.LIVE))
    for key, leaf in {**new, **{key: old[key] for key in old if key not in new}}.items():
        was, becomes = _shown(old.get(key)), _shown(new.get(key))
        if was != becomes and leaf.provider not in went | came:
            found.append(Change(key, was, becomes, _RELOADS[f"{leaf.path[0]}.{leaf.path[-1]}"]))
    return tuple(found)


def _order(tree: Mapping[str, Any], without: Set[str]) -> str:
    return ", ".join(each["name"] for each in tree["provider"] if each["name"] not in without)


def _providers(leaves: Mapping[str, _Leaf]) -> set[str]:
    return {leaf.provider for leaf in leaves.values() if leaf.provider is not None}


def _shown(leaf: _Leaf | None) -> str:
    return ABSENT if leaf is None else json.dumps(leaf.value, ensure_ascii=False)


def origins(loaded: Loaded) -> dict[str, str]:
    """Where each value of `flat` stands, as `FILE:LINE`; DEFAULT for one that no file has."""
    found = {}
    for key, leaf in _leaves(to_dict(loaded.config)).items():
        place = loaded.places.find(leaf.path)
        found[key] = DEFAULT if place is None else f"{place[0]}:{place[1]}"
    return found
