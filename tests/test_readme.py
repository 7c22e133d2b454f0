"""README.md runs: every command in it, in order, where its mark says. So does the recipe of docs/operations.md.

<!-- run: clone -->       in a fresh copy of the repository, on this machine
<!-- run: make -->        `make` targets that cannot run inside the tests (they are the tests): make knows them
<!-- run: systemd -->     as root under a systemd of its own, with the practice provider in the provider's place
<!-- output: COMMAND -->  the block below is what COMMAND prints there, numbers aside
"""

import os
import re
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.sandbox import Sandbox
from tests.support.systemd import NEEDS, ROOT, boot

_BLOCK = re.compile(
    r"(?:<!-- (?P<kind>run|output): (?P<where>[^>]+) -->\n)?```(?P<lang>\w*)\n(?P<text>.*?)```", re.DOTALL
)
_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block and the mark above it."""

    kind: str
    where: str
    lang: str
    text: str

    @property
    def script(self) -> str:
        """What bash runs for this block."""
        return f"{_PYTHON} - <<'END-OF-BLOCK'\n{self.text}END-OF-BLOCK\n" if self.lang == "python" else self.text


def read(text: str) -> list[Block]:
    """All fenced blocks of a Markdown text."""
    return [
        Block(*(found[name] or "" for name in ("kind", "where", "lang", "text"))) for found in _BLOCK.finditer(text)
    ]


BLOCKS = read((ROOT / "README.md").read_text())


def copy(target: Path) -> Path:
    """A fresh copy of the repository, without what was built in it."""
    built = shutil.ignore_patterns(
        ".git", ".venv*", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist"
    )
    shutil.copytree(ROOT, target, ignore=built)
    return target


def environ() -> dict[str, str]:
    """The environment without what a test run, or a virtual environment, has put there."""
    own = ("CI", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST")
    path = [each for each in os.environ["PATH"].split(":") if not each.startswith(str(ROOT))]
    return {name: value for name, value in os.environ.items() if name not in own} | {"PATH": ":".join(path)}


def plain(output: str) -> list[str]:
    """Lines without numbers, and without the spaces that line numbers up."""
    return [re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)*", "0", line)).strip() for line in output.strip().splitlines()]


def test_every_command_has_its_place():
    for block in BLOCKS:
        if block.lang in ("sh", "python", "text"):
            assert (block.kind, block.where) in {("run", "clone"), ("run", "make"), ("run", "systemd")} or (
                block.kind == "output"
            ), f"this block is not run:\n{block.text}"


def test_make_knows_its_targets():
    commands = [line for block in BLOCKS if block.where == "make" for line in block.text.splitlines()]

    assert commands
    for command in commands:
        name, *targets = command.split()
        assert name == "make"
        done = subprocess.run(
            [name, "--dry-run", *targets], cwd=ROOT, env=environ(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.timeout(600)
def test_what_a_newcomer_does_first(tmp_path, short_path):
    directory = copy(tmp_path / "clone")
    for block in BLOCKS:
        if block.where == "clone":
            run(block.script, directory)
    (recipe,) = [block for block in read((ROOT / "docs" / "operations.md").read_text()) if block.where == "clone"]
    text, home = recipe.script.replace("8481", str(free_port())), tmp_path / "home"
    places = {"TMPDIR": str(short_path), "HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
    printed = run(text, directory, **places)
    assert "order-17\tsolved\t" in printed
    assert "1 solved, 0 failed, 1 charges" in printed
    assert not home.exists()

    checked = 'captchad check --config "$dir/captchad.toml"\n'
    refused = text.replace(checked, "").replace("poll_s = 1\n", "poll_s = 'often'\n")
    clean_up = "trap 'kill \"$sandbox\"' EXIT\n"
    assert "incoming is not there" in run(
        clean_up + refused, directory, code=1, **places
    )  # it waits for no such daemon


def run(script: str, directory: Path, code: int = 0, **more: str) -> str:
    """What a script prints that ends with `code`; nothing that it starts outlives it."""
    with subprocess.Popen(
        ["bash", "-euc", script],
        cwd=directory,
        env=environ() | more,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=280)
        finally:
            with suppress(ProcessLookupError):  # all of them have ended
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, f"{script}\n{printed}"
    return printed


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.root
@pytest.mark.debian(*NEEDS, "debhelper", "dh-python")
@pytest.mark.timeout(600)
def test_what_an_operator_does(tmp_path):
    directory = copy(tmp_path / "clone")
    with Sandbox(scenario="[solve]\nseconds = [0.2, 0.5]\n") as sandbox:
        done = boot(
            ["bash", "-euc", "\n".join([*prelude(directory, sandbox.url), *script(tmp_path)])],
            share=tmp_path,
            options=["--host-net"],
            environ=environ() | {"CAPTCHAAI_KEY": sandbox.key},
            timeout=580,
        )

    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    for number, block in enumerate(BLOCKS):
        if block.kind == "output":
            printed = (tmp_path / f"output-{number}").read_text()
            assert plain(block.text) == plain(printed), f"README.md should show:\n{printed}"


def prelude(directory: Path, url: str) -> list[str]:
    """Before the first block: in the clone, with the practice provider in the provider's place."""
    return [
        f"cd '{directory}'",
        "mkdir -p /etc/captchad/conf.d",
        "cat >/etc/captchad/conf.d/90-test.toml <<'END-OF-FILE'",
        "[http]\nlisten = ''",
        f"[[provider]]\nname = 'captchaai'\nurl = '{url}'\napi_key_credential = 'captchaai.key'",
        "first_poll_s = 0.2\npoll_s = 0.2",
        "END-OF-FILE",
    ]


def script(share: Path) -> list[str]:
    """The blocks in order, then the outputs that README.md shows."""
    lines = []
    for number, block in enumerate(BLOCKS):
        if block.where == "systemd":
            lines += [f"echo '--- block {number}'", block.script]
    for number, block in enumerate(BLOCKS):
        if block.kind == "output":
            lines.append(f"{block.where} >'{share}/output-{number}'")
    return [*lines, "systemctl stop captchad"]
