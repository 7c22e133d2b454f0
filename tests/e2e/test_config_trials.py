"""A running daemon is given bad configurations by the hundred: it refuses or applies, and never stops.

All invalid documents of toml-test (tests/config/test_toml_test.py has them in-process), and random mutations of a good
file: bytes, lines, and trees that are still TOML. A start with such a file reads it by the same function, before
anything else is there that could stop.

What is left out, because it would test the machine and not the daemon: `_affordable` says.
"""

import math
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from captchad.config.kinds import Int, Number
from captchad.config.load import load, to_toml
from captchad.config.schema import Config, keys, tables, to_dict, with_places_of
from captchad.control.client import Refused, call
from captchad.model.errors import ConfigError
from tests.support.harness import Daemon, eventually
from tests.support.sandbox import Sandbox
from tests.support.toml_test import INVALID

_QUICK = "[solve]\nseconds = 0.1\n"


@dataclass
class Subject:
    """A daemon that all examples of this file are tried on."""

    daemon: Daemon
    good: str  # every key written
    config: Config  # of `good`
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def drop_in(self) -> Path:
        return self.daemon.config_file.parent / "conf.d" / "10-site.toml"

    def reload(self) -> bool:
        """Whether the file was taken. Raises TryLater when the daemon hangs, NotRunning when it has ended."""
        try:
            call(self.daemon.socket, "reload")
        except Refused:
            return False
        return True

    def effective(self) -> dict[str, Any]:
        """What the status says of the configuration that runs, and of what follows from it."""
        return self.look()[0]

    def problem(self) -> str:
        """What the status says is wrong with the file; "None" if nothing is."""
        return self.look()[1]

    def look(self) -> tuple[dict[str, Any], str]:
        """Both at one time."""
        status = call(self.daemon.socket, "status")
        assert status["daemon"]["pid"] == self.daemon.pid
        assert status["daemon"]["state"] == "running"
        config, workers = status["daemon"]["config"], status["workers"]
        effective = {
            "origin": config["origin"],
            "generation": config["generation"],
            "digest": config["digest"],
            "workers": (workers["configured"], workers["min"]),
            "capacity": status["queue"]["capacity"],
            "providers": [provider["name"] for provider in status["providers"]],
        }
        return effective, str(config["problem"])

    def restore(self) -> None:
        """Put the good file back, have it taken, and do some work with it."""
        self.drop_in.unlink(missing_ok=True)
        self.daemon.config_file.write_text(self.good)
        assert self.reload(), self.problem()
        assert self.problem() == "None"
        assert self.effective()["workers"][0] == self.config.daemon.workers
        name = (
            f"after-{next(self.numbers)}"  # never one that was used: its result may be gone by a mutated result_ttl_s
        )
        self.daemon.drop([{"id": name, "sitekey": name, "pageurl": "https://example.com/"}])
        eventually(lambda: name in self.daemon.results(), 30)
        assert self.daemon.results()[name]["status"] == "solved"
        assert "Traceback" not in self.daemon.log()


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    directory = tmp_path_factory.mktemp("trials")
    overrides = {"daemon": {"probation_s": 0.2}, "http": {"listen": "127.0.0.1:0"}}
    with Sandbox(scenario=_QUICK) as sandbox, Daemon(directory, sandbox, overrides) as daemon:
        config = load(daemon.config_file).config
        subject = Subject(daemon, to_toml(config), config)
        subject.drop_in.parent.mkdir()
        eventually(lambda: subject.effective()["generation"])
        yield subject


def test_no_invalid_document_is_taken_or_changes_anything(subject: Subject) -> None:
    subject.restore()
    eventually(lambda: call(subject.daemon.socket, "status")["daemon"]["config"]["probation_s"] is None)
    before = subject.effective()
    for name, data in INVALID.items():
        subject.daemon.config_file.write_bytes(data)
        assert not subject.reload(), name
        effective, problem = subject.look()
        assert effective == before, name
        assert "captchad.toml:" in problem, name
        assert "column " in problem, name
    subject.restore()


# ---------------------------------------------------------------- mutations

#: The least and the greatest value that each number may have: beside them is where code goes wrong.
BOUNDS = {
    (table.name, key.name): (key.spec.kind.low, key.spec.kind.high)
    for table in tables()
    for key in keys(table)
    if isinstance(key.spec.kind, Int | Number)
}

KEYS = [(table.name, key.name) for table in tables() for key in keys(table)]

_NUMBERS = [0, 1, 2, 3, -1, 2**31, 2**63 - 1, -(2**63), 10**30, 0.0, -0.0, 0.5, 5e-324, 1e308, math.inf, math.nan]
_OTHERS = [
    *[True, False, "", "x", "x" * 100_000, "\x00\x1b", "\U0001f600" * 40, "/", "*", "-", "info", "127.0.0.1:0"],
    *[[], {}, [[]], [{}], [0] * 3000, [[[[[[[[[[0]]]]]]]]]], {"a": {"b": {"c": 1}}}, {"turnstile": 1}],
    *[datetime(2026, 1, 1, tzinfo=UTC), date(9999, 12, 31), time(23, 59, 59, 999_999)],
]


@st.composite
def bytes_mutated(draw: st.DrawFn, good: bytes) -> bytes:
    """The good file with some bytes flipped, taken out, or put in, or its end cut off."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(("flip", "delete", "insert", "cut"))):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "delete":
                del data[at : at + draw(st.integers(1, 40))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=8) | st.sampled_from(_SYNTAX))
            case "cut":
                del data[at + len(data) // 2 :]
    return bytes(data)


_SYNTAX = [*[bytes([each]) for each in b"\"'[]{}=.,#\\\n\r\t0e-_"], b'"""', b"'''", b"[[provider]]\n", b"\xef\xbb\xbf"]


@st.composite
def lines_mutated(draw: st.DrawFn, good: bytes) -> bytes:
    """The good file with lines doubled, taken out, exchanged, or another key in them."""
    lines = good.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 4))):
        at, to = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(("double", "remove", "exchange", "rename"))):
            case "double":
                lines.insert(to, lines[at])
            case "remove" if len(lines) > 1:
                del lines[at]
            case "exchange":
                lines[at], lines[to] = lines[to], lines[at]
            case "rename":
                lines[at] = lines[to].split(b"=")[0] + b"=" + lines[at].split(b"=")[-1]
    return b"".join(lines)


@st.composite
def trees_mutated(draw: st.DrawFn, good: dict[str, Any], kinds: tuple[str, ...]) -> bytes:
    """TOML still: values of other types or beyond their bounds, keys and tables renamed, removed, moved, doubled."""
    tree = deepcopy(good)
    for _ in range(draw(st.sampled_from((1, 1, 2, 4)))):
        name, key = draw(st.sampled_from(KEYS))
        kind, places = draw(st.sampled_from(kinds)), _tables_of(tree.get(name))
        if kind == "table" or not places:
            _mutate_table(draw, tree, name)
            continue
        place = draw(st.sampled_from(places))
        match kind:
            case "value":
                place[key] = deepcopy(draw(st.sampled_from([*_NUMBERS, *_OTHERS])))
            case "bound" if (name, key) in BOUNDS:
                place[key] = draw(st.sampled_from(BOUNDS[name, key])) + draw(st.sampled_from((0, 0, -1, 1, 1e-9)))
            case "within" if (name, key) in BOUNDS:
                low, high = BOUNDS[name, key]
                whole = isinstance(low, int) and isinstance(place.get(key), int)
                place[key] = draw(st.integers(low, high) if whole else st.floats(low, high))
            case "remove":
                place.pop(key, None)
            case "rename" if key in place:
                place[draw(st.text(max_size=12) | st.just(key.upper()))] = place.pop(key)
    return tomli_w.dumps(tree).encode()


def _mutate_table(draw: st.DrawFn, tree: dict[str, Any], name: str) -> None:
    match draw(st.sampled_from(("remove", "rename", "nest", "value", "double"))):
        case "remove":
            tree.pop(name, None)
        case "rename" if name in tree:
            tree[draw(st.text(max_size=12))] = tree.pop(name)
        case "nest" if name in tree:
            tree[name] = {name: tree[name]}
        case "value":
            tree[name] = deepcopy(draw(st.sampled_from([*_NUMBERS, *_OTHERS])))
        case "double" if isinstance(tree.get("provider"), list):
            number = draw(st.sampled_from((1, 2, 63, 64)))
            tree["provider"] = [*tree["provider"], *({**_first(tree), "name": f"more-{n}"} for n in range(number))]


def _first(tree: dict[str, Any]) -> dict[str, Any]:
    return next((each for each in tree["provider"] if isinstance(each, dict)), {})


def _tables_of(value: object) -> list[dict[str, Any]]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]


def _affordable(config: Config, good: Config) -> bool:
    """Whether a file that would be taken may be, on a machine that has other things to do.

    It may not fork hundreds of processes, nor fill the disk with a segment of gigabytes, nor call or listen at an
    address that is not ours: the provider of others, a port that others have.
    """
    ours = {(provider.url, provider.api_key_file) for provider in good.providers}
    return (
        config.daemon.workers <= 8
        and config.supervision.standby <= 4
        and config.supervision.autoscale_max <= 8
        and config.queue.segment_mb <= 128
        and config.http.listen in ("", good.http.listen)
        and {(provider.url, provider.api_key_file) for provider in config.providers} <= ours
    )


def test_no_key_takes_a_strange_value_badly(subject: Subject) -> None:
    subject.restore()
    for value in [*_NUMBERS, *_OTHERS]:
        # In all keys at once: all faults are found, so all of them are looked at.
        tree = {table.name: dict.fromkeys((key.name for key in keys(table)), value) for table in tables()}
        subject.daemon.config_file.write_text(tomli_w.dumps({**tree, "provider": [tree["provider"]]}))
        assert not subject.reload(), value
        assert "captchad.toml:" in subject.problem(), value
    subject.restore()


def test_thousands_of_faults_are_refused_in_some_lines(subject: Subject) -> None:
    subject.restore()
    before = len(subject.daemon.log())
    subject.daemon.config_file.write_text("[daemon]\n" + "".join(f"worker_{n} = 1\n" for n in range(3990)))
    with pytest.raises(Refused) as caught:
        call(subject.daemon.socket, "reload")
    lines = str(caught.value).splitlines()
    assert len(lines) == 101
    assert "daemon.worker_0: unknown key (did you mean 'workers'?)" in str(caught.value)
    assert re.fullmatch(r".*captchad\.toml: \d+ more: captchad check names all", lines[-1]), lines[-1]
    assert subject.daemon.log()[before:].count("reload refused") == 101
    subject.restore()


@pytest.mark.parametrize(
    "examples", [pytest.param(120), pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_no_mutation_of_a_good_configuration_stops_the_daemon(subject: Subject, examples: int) -> None:
    good = subject.good.encode()
    tree = to_dict(subject.config)
    mutated = st.one_of(
        bytes_mutated(good),
        lines_mutated(good),
        trees_mutated(tree, ("value", "bound", "remove", "rename", "table")),
        trees_mutated(tree, ("within", "bound")),  # many of which are good
    )
    subject.restore()
    taken = refused = 0

    @settings(max_examples=examples, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    @given(mutated, st.sampled_from(("file", "file", "file", "drop-in")))
    def one(data: bytes, place: str) -> None:
        nonlocal taken, refused
        subject.daemon.config_file.write_bytes(data if place == "file" else good)
        subject.drop_in.write_bytes(data if place == "drop-in" else b"")
        try:
            new: Config | None = load(subject.daemon.config_file).config
        except ConfigError:
            new = None
        assume(new is None or _affordable(new, subject.config))

        logged = subject.daemon.log_file.stat().st_size
        before = subject.effective()
        applied = subject.reload()
        after, problem = subject.look()
        # What was taken may fail in its probation at any time.
        with subject.daemon.log_file.open("rb") as log:
            log.seek(logged)
            rolled_back = b"config: rolled back" in log.read()
        if applied:
            taken += 1
            assert new is not None
            assert rolled_back or after["workers"] == (new.daemon.workers, new.daemon.min_workers)
        else:
            refused += 1
            assert new is None or with_places_of(new, subject.config) != new, problem
            # The end of a probation may give what runs its number meanwhile.
            assert rolled_back or {**after, "generation": 0} == {**before, "generation": 0}

    one()
    print(f"{taken} taken, {refused} refused")
    assert taken
    assert refused
    subject.restore()
