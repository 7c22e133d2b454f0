"""The example file and the reference page are those of the schema."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from captchad.config.load import from_dict, load
from captchad.config.reference import example, reference
from captchad.config.schema import REQUIRED, keys, tables

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "etc" / "captchad.toml"
PAGE = ROOT / "docs" / "captchad.toml.md"


def test_the_example_is_valid_and_its_values_are_the_defaults():
    written = tomllib.loads(EXAMPLE.read_text())
    required = {"policy": written["policy"], "provider": [{}]}
    for key in ("name", "url", "api_key_credential"):
        required["provider"][0][key] = written["provider"][0][key]
    assert load(EXAMPLE).config == from_dict(required)


def test_every_key_is_in_the_example_under_its_table():
    here, found = "", set()
    for line in EXAMPLE.read_text().splitlines():
        if match := re.fullmatch(r"\[+(\w+)\]+", line):
            here = match[1]
        elif match := re.match(r"(?:# )?(\w+) = ", line):
            found.add(f"{here}.{match[1]}")
    assert found == {f"{table.name}.{key.name}" for table in tables() for key in keys(table)}


def test_each_key_of_the_example_has_its_facts_above_it():
    text = " ".join(line.removeprefix("# ") for line in EXAMPLE.read_text().splitlines())
    for table in tables():
        for key in keys(table):
            facts = re.search(r"\[([^\[]*(?:\[IPV6\][^\[]*)?)\] (?:# )?" + key.name + " = ", text)
            assert facts is not None, key.name
            assert key.spec.kind.range in facts[1]
            assert key.spec.unit in facts[1]
            assert facts[1].endswith(f"; {key.spec.reload.value}")
            assert ("required" in facts[1]) == (key.default is REQUIRED)


def test_the_files_are_up_to_date():
    assert EXAMPLE.read_text() == example()
    assert PAGE.read_text() == reference()


def test_the_command_prints_them():
    command = [sys.executable, "-m", "captchad.config.reference"]
    for extra, wanted in (([], reference()), (["example"], example())):
        done = subprocess.run([*command, *extra], capture_output=True, text=True, check=True, timeout=280)
        assert (done.stdout, done.stderr) == (wanted, "")


def test_every_table_row_of_the_page_is_whole():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {8}
    assert len(rows) == sum(2 + len(keys(table)) for table in tables())
