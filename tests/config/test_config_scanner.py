"""The scan against tomllib: generated documents whose values are their own line numbers, and mutated ones."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from captchad.config.load import parse
from captchad.config.scanner import MAX_DEPTH, MAX_KEYS, MAX_SCALAR, MAX_VALUES, scan
from captchad.model.errors import ConfigError

EXAMPLE = (Path(__file__).resolve().parents[2] / "etc" / "captchad.toml").read_text()


class Writer:
    """Writes a TOML document in which every integer is the line of its key or element."""

    def __init__(self, draw):
        self.draw = draw
        self.text = ""
        self.names = 0

    @property
    def line(self):
        return self.text.count("\n") + 1

    def pick(self, *choices):
        return self.draw(st.sampled_from(choices))

    def name(self):
        """A new name, bare or quoted, with characters that a bad scan stumbles over."""
        self.names += 1
        form = self.pick("k{}", '"k {}"', "'k.{}'", '"k\\"]{}"', '"k#{}"', "'k={}\\'", '"\\u006b[{}"')
        return form.format(self.names)

    def gap(self):
        self.text += self.pick("", "", "\n", " \t\n", "# a = [\"'''\n", '\n#"""\n\n')

    def noise(self):
        """A string value of several lines, under a name of its own."""
        value = self.pick(
            '"""\na = 1\n[b]\n"""', "'''\n[[x]]\n'''", '"""a"b""c\\"""\n""""', "''''a''\n'b'''''", '"\\"]#"', "'\\'"
        )
        self.text += f"{self.name()} = {value}{self.pick('', ' # c', chr(9))}\n"

    def value(self, depth):
        kind = self.pick("int", "int", "array", "table", "date") if depth < 3 else "int"
        if kind == "int":
            self.text += str(self.line)
        elif kind == "date":
            self.text += self.pick("1979-05-27 07:32:00Z", "1979-05-27", "07:32:00", "0x1F", "1e5", "true", "'x'")
        elif kind == "array":
            self.text += "["
            for _ in range(self.draw(st.integers(0, 3))):
                self.gap()
                self.value(depth + 1)
                self.gap()
                self.text += ","
            self.gap()
            self.text += "]"
        else:
            self.text += "{"
            for index in range(self.draw(st.integers(0, 2))):
                self.text += ", " if index else " "
                self.pair(depth + 1)
            self.text += "}"

    def pair(self, depth):
        dotted = [self.name() for _ in range(self.draw(st.integers(1, 2)))]
        self.text += self.pick(".", " . ").join(dotted) + self.pick("=", " = ")
        self.value(depth)

    def body(self):
        for _ in range(self.draw(st.integers(0, 3))):
            self.gap()
            if self.pick(True, True, False):
                self.text += self.pick("", "  ")
                self.pair(0)
                self.text += self.pick("\n", " # end\n")
            else:
                self.noise()

    def document(self):
        self.body()
        arrays = []
        for _ in range(self.draw(st.integers(0, 5))):
            self.gap()
            kind = self.pick("table", "array", "again", "inside") if arrays else self.pick("table", "array")
            if kind == "table":
                self.text += f"[{self.name()}.{self.name()}]"
            elif kind == "array":
                arrays.append(self.name())
                self.text += f"[[ {arrays[-1]} ]]"
            elif kind == "again":
                self.text += f"[[{self.pick(*arrays)}]]"
            else:
                arrays.append(f"{self.pick(*arrays)}.{self.name()}")
                self.text += f"[[{arrays[-1]}]]"
            self.text += self.pick("\n", " # h\n")
            self.body()
        return self.text


@st.composite
def documents(draw):
    return Writer(draw).document()


def leaves(value, path=()):
    """Every path of a tree that is not a table or array itself, with its value."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


@settings(max_examples=150)
@given(documents(), st.sampled_from(["\n", "\r\n"]))
def test_every_key_has_its_line(text, newline):
    tree, lines = parse(text.replace("\n", newline), "x")
    assert tree == tomllib.loads(text)
    # 0x1F and true are numbers too, but stand for no line.
    wanted = {path: value for path, value in leaves(tree) if type(value) is int and value != 0x1F}
    assert {path: lines.get(path) for path in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ('a = """x""""\nb = 1', ("b",), 2),
        ('a = """x"""""\nb = 1', ("b",), 2),
        ('a = """\n\\"""\n"""\nb = 1', ("b",), 4),
        ("a = '''x''''\nb = 1", ("b",), 2),
        ("a = '''x'''''\nb = 1", ("b",), 2),
        # A table is where it is first mentioned, not where a part of it is.
        ("[a]\n[a.b]\nc = 1", ("a",), 1),
        ("[[a]]\n[a.b]\nc = 1", ("a", 0), 1),
        ("[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 1", ("a", 1, "b", "c"), 6),
        ("a.b = 1\na.c = 2", ("a",), 1),
    ],
)
def test_lines_that_are_easily_lost(text, path, line):
    tree, lines = parse(text, "x")
    assert tree
    assert lines[path] == line


MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, len(EXAMPLE)),
        st.integers(0, 3),
        st.sampled_from(
            [
                "",
                "\n",
                '"',
                "'",
                '"""',
                "'''",
                "[",
                "]",
                "[[",
                "]]",
                "{",
                "}",
                ",",
                ".",
                "=",
                "#",
                "\\",
                "a",
                "1",
                "é",
                "\0",
            ]
        ),
    ),
    max_size=4,
)


def mutate(text, mutations):
    for at, cut, put in mutations:
        text = text[:at] + put + text[at + cut :]
    return text


@settings(max_examples=300)
@given(MUTATIONS)
@example([])
def test_what_tomllib_takes_is_scanned_to_the_end(mutations):
    text = mutate(EXAMPLE, mutations)
    found = scan(text)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert not found.refused
    missed = [path for path, _ in leaves(tree) if path not in found.lines]
    assert missed == []


@settings(max_examples=300)
@given(st.one_of(st.text(), st.text(alphabet="ab.=[]{}\"'#\n\\, 1"), MUTATIONS.map(lambda each: mutate(EXAMPLE, each))))
def test_parse_raises_nothing_but_config_error(text):
    try:
        parse(text, "x")
    except ConfigError as error:
        (problem,) = error.problems
        assert problem.key == "syntax"
        assert 1 <= problem.line <= text.count("\n") + 1
        assert re.search(r"column [1-9]", problem.message), problem
        assert "\n" not in str(problem)


def refusal(text):
    with pytest.raises(ConfigError) as caught:
        parse(text, "x")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "what", "column"),
    [
        ("a=1\n" + ".".join("k" * (MAX_DEPTH + 1)) + "=1\n", 2, f"a key of more than {MAX_DEPTH} parts", 34),
        ("\n[" + ".".join("k" * (MAX_DEPTH + 1)) + "]\n", 2, f"a key of more than {MAX_DEPTH} parts", 35),
        ("a=1\nb=" + "[" * (MAX_DEPTH + 2), 2, f"arrays or inline tables more than {MAX_DEPTH} deep", 20),
        ("a=1\nb=" + "{a=" * (MAX_DEPTH + 2), 2, f"arrays or inline tables more than {MAX_DEPTH} deep", 54),
        ("a = [\n1,\n" + "9" * (MAX_SCALAR + 1) + "]", 3, f"a number of more than {MAX_SCALAR} characters", 102),
        ("a=[\n" + "1," * (MAX_VALUES + 1), 2, f"more than {MAX_VALUES} array elements", 100001),
        ("".join(f"k{n}=1\n" for n in range(MAX_KEYS + 1)), MAX_KEYS + 1, f"more than {MAX_KEYS} keys", 6),
    ],
)
def test_too_much_is_refused_with_its_place(text, line, what, column):
    assert refusal(text) == f"x:{line}: syntax: {what}, column {column} (a configuration is smaller than that)"


def test_just_enough_is_taken():
    parse(".".join("k" * MAX_DEPTH) + "=1\na=" + "[" * MAX_DEPTH + "9" * MAX_SCALAR + "]" * MAX_DEPTH, "x")
    parse("".join(f"k{n}=1\n" for n in range(MAX_KEYS)), "x")
    parse("a=[" + "1," * MAX_VALUES + "]", "x")


@pytest.mark.parametrize(
    ("text", "line", "where"),
    [
        ("a = 1\n  b = [\n1,\n\n", 2, "in what begins at column 3"),  # an array without an end: where it begins
        ('a = 1\nb = """\n\n\n', 2, "in what begins at column 1"),
        ("a = 1\nb = 2\na = 3", 3, "in what begins at column 1"),  # tomllib says "end of document" here
        ("a = 1\nb = \n", 2, "column 5"),
        ("[a]\r\n[b]\r\n[a]\r\n", 3, "column 3"),
    ],
)
def test_a_syntax_fault_has_the_place_of_its_statement(text, line, where):
    refused = refusal(text)
    assert refused.startswith(f"x:{line}: syntax: no TOML: "), refused
    assert refused.endswith(f", {where}"), refused
