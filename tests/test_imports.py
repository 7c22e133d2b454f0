"""The rooms of docs/architecture.md: who imports whom. The table there is the only source, the code is held to it."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "captchad"
TABLE = ROOT / "docs" / "architecture.md"
_ROW = re.compile(r"^\| `(?P<room>[\w/.]+)` \|[^|]*\| (?P<imports>[^|]+) \|$", re.MULTILINE)
_NAME = re.compile(r"(?P<name>\w+)(?P<lazily> \(lazily\))?")


@dataclass(frozen=True, slots=True)
class Rule:
    """What one room may import: always, and only inside functions."""

    always: frozenset[str]
    lazily: frozenset[str]


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement of a module of ours, of a module of ours."""

    source: str
    target: str
    line: int
    lazy: bool


def room(module: str) -> str:
    """The room of a dotted module name: `captchad.journal.lock` is in `journal`, the package itself in ``."""
    return module.split(".")[1] if "." in module else ""


def read_rules(text: str) -> dict[str, Rule]:
    """The table under the heading "Rooms". "all of the above" means the rows before it."""
    rules: dict[str, Rule] = {}
    section = text.partition("\n## Rooms\n")[2].partition("\n## ")[0]
    for row in _ROW.finditer(section):
        name = row["room"].removesuffix("/").removesuffix(".py")
        cell = row["imports"]
        if cell.strip() == "all of the above":
            rules[name] = Rule(frozenset(rules), frozenset())
            continue
        found = [(each["name"], bool(each["lazily"])) for each in _NAME.finditer(cell)]
        rules[name] = Rule(
            frozenset(other for other, lazily in found if not lazily),
            frozenset(other for other, lazily in found if lazily),
        )
    return rules


def modules(package: Path) -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, source: str, known: set[str]) -> Iterator[Import]:
    """The imports in `source`, the text of module `name`, of modules in `known`."""
    lazy: set[ast.AST] = set()
    for node in ast.walk(ast.parse(source)):
        inside = node in lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if inside:
            lazy.update(ast.iter_child_nodes(node))
        for target in _targets(node, known):
            yield Import(name, target, getattr(node, "lineno", 0), inside)


def _targets(node: ast.AST, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module in known:
        submodules = [f"{node.module}.{alias.name}" for alias in node.names]
        # `from captchad.model import states` needs states, `from captchad.model.states import State` needs the module.
        yield from {name if name in known else str(node.module) for name in submodules}


def breaches(found: list[Import], rules: dict[str, Rule]) -> list[str]:
    """The imports that the table does not allow, as lines for a reader."""
    out = []
    for each in found:
        here, there = room(each.source), room(each.target)
        if here == there or not there:  # the package itself holds the version only
            continue
        rule = rules[here]
        if there in rule.always or (there in rule.lazily and each.lazy):
            continue
        how = "inside functions only" if there in rule.lazily else "not at all"
        out.append(f"{each.source}:{each.line} imports {each.target}; {here}/ may import {there}/ {how}")
    return out


def cycle(found: list[Import]) -> list[str]:
    """One import cycle among the modules (lazy imports count too), or []."""
    graph: dict[str, set[str]] = {}
    for each in found:
        if each.source != each.target:
            graph.setdefault(each.source, set()).add(each.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def walk() -> list[Import]:
    """All imports between the package's modules."""
    found = modules(PACKAGE)
    return [each for name, path in found.items() for each in imports(name, path.read_text(), set(found))]


def test_each_room_imports_only_what_its_line_names():
    assert breaches(walk(), read_rules(TABLE.read_text())) == []


def test_there_is_no_import_cycle():
    assert cycle(walk()) == []


def test_the_table_names_the_rooms_that_there_are():
    there = {room(name) for name in modules(PACKAGE)} - {"", "__main__"}
    rules = read_rules(TABLE.read_text())
    assert there - set(rules) == set(), "rooms without a line in docs/architecture.md"
    assert {other for rule in rules.values() for other in rule.always | rule.lazily} <= set(rules)


def test_imports_are_absolute():
    relative = [
        f"{name}:{node.lineno}"
        for name, path in modules(PACKAGE).items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


# The walker itself, on code made up for it: a test that cannot fail is none.

RULES = read_rules(
    "\n## Rooms\n\n"
    "| `model/` | words | - |\n"
    "| `journal/` | records | model |\n"
    "| `notify.py` | systemd | model |\n"
    "| `daemon/` | everything | all of the above |\n"
    "| `cli/` | programs | notify, daemon (lazily), model |\n"
    "\n## Pipes\n\n"
    "| `config` | `providers` | first message |\n"
)
KNOWN = {"captchad", "captchad.model", "captchad.model.task", "captchad.journal", "captchad.daemon", "captchad.cli"}


def test_the_table_is_read():
    assert list(RULES) == ["model", "journal", "notify", "daemon", "cli"]
    assert RULES["model"] == Rule(frozenset(), frozenset())
    assert RULES["daemon"].always == {"model", "journal", "notify"}
    assert RULES["cli"] == Rule(frozenset({"notify", "model"}), frozenset({"daemon"}))


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("captchad.journal", "from captchad.model.task import Task", False),
        ("captchad.journal", "from captchad import __version__", False),
        ("captchad.model.task", "from captchad.journal import lock", True),
        ("captchad.model.task", "import captchad.journal", True),
        ("captchad.model.task", "from captchad import journal", True),
        ("captchad.model.task", "def f():\n    from captchad.journal import lock", True),
        ("captchad.cli", "from captchad.daemon import run", True),
        ("captchad.cli", "def f():\n    if 1:\n        from captchad.daemon import run", False),
        ("captchad.cli", "class A:\n    from captchad.daemon import run", True),
        ("captchad.cli", "from captchad.journal import lock", True),
    ],
)
def test_a_breach_is_seen(module, source, bad):
    assert bool(breaches(list(imports(module, source, KNOWN)), RULES)) == bad


def test_a_cycle_is_seen():
    there = Import("captchad.model", "captchad.journal", 1, lazy=True)
    back = Import("captchad.journal", "captchad.model", 1, lazy=False)
    assert cycle([there]) == []
    assert set(cycle([there, back])) == {"captchad.model", "captchad.journal"}
