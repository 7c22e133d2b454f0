"""Every invalid document of toml-test as configuration: one line with its place, exit code 78, never a traceback.

A running daemon gets them in tests/e2e/test_config_trials.py.
"""

import io
import re
import subprocess

import pytest

from captchad.cli.check import check
from captchad.config.load import load
from captchad.model.errors import ConfigError
from tests.support.harness import Daemon
from tests.support.toml_test import INVALID

GOOD = """\
[policy]
allowed_hosts = ["example.com"]
[[provider]]
name = "a"
url = "https://a.example"
api_key_credential = "a.key"
"""

#: One of each way to be refused: not UTF-8, with tomllib's column, without an end, without a last newline.
FEW = ("encoding/bad-utf8-in-string", "table/duplicate-key-01", "array/no-close-01", "string/no-close-05")

REFUSED = re.compile(r"captchad\.toml:(\d+): syntax: [ -~]*column (\d+)(?: \([ -~]+\))?\n")


def test_the_collection_is_whole():
    assert len(INVALID) == 483
    assert b"\xc3" in INVALID["encoding/bad-utf8-in-string"]
    assert b"\r" in INVALID["control/multi-cr"]


@pytest.mark.parametrize("name", INVALID)
def test_it_is_refused_with_its_place(name, tmp_path):
    path = tmp_path / "captchad.toml"
    path.write_bytes(INVALID[name])
    out = io.StringIO()

    assert check(path, out, {}) == 78
    found = REFUSED.fullmatch(out.getvalue().replace(f"{tmp_path}/", ""))
    assert found, out.getvalue()
    lines = INVALID[name].decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    line, column = map(int, found.groups())
    assert 1 <= line <= len(lines)
    assert 1 <= column <= len(lines[line - 1]) + 1


@pytest.mark.parametrize("name", FEW)
def test_a_drop_in_is_refused_under_its_own_name(name, tmp_path):
    path = tmp_path / "captchad.toml"
    path.write_text(GOOD)
    load(path)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-site.toml").write_bytes(INVALID[name])

    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.file == str(tmp_path / "conf.d" / "10-site.toml")
    assert problem.line
    assert "column " in problem.message


@pytest.mark.parametrize("name", FEW)
def test_the_program_says_it_and_no_more(name, tmp_path):
    path = tmp_path / "captchad.toml"
    path.write_bytes(INVALID[name])
    command = [Daemon.program("captchad"), "check", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)

    assert (done.returncode, done.stderr) == (78, "")
    assert REFUSED.fullmatch(done.stdout.replace(f"{tmp_path}/", "")), done.stdout
