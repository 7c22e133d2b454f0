"""captchad's command line, and the demo's two ends that its success does not show: Ctrl-C and failure."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from captchad import __version__
from captchad.cli import demo
from captchad.cli.exits import Exit

MANUAL = Path(__file__).resolve().parent.parent.parent / "docs" / "man"


def captchad(*arguments: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "captchad.cli.captchad", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        **more,
    )


def test_version():
    assert captchad("--version").stdout == f"captchad {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("run", "--nonsense"), ("sandbox", "--port", "99999")])
def test_usage_is_64_so_that_systemd_does_not_try_again(arguments):
    done = captchad(*arguments)
    assert done.returncode == 64
    assert done.stderr.startswith("usage: captchad")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chekc"], "captchad: argument COMMAND: none of run, check, sandbox, demo\nhint: did you mean 'check'?\n"),
        (["run", "--confgi=x"], "captchad run: unrecognized arguments: --confgi\nhint: did you mean '--config'?\n"),
        (["0123456789abcdef"], "captchad: argument COMMAND: none of run, check, sandbox, demo\n"),
    ],
)
def test_a_mistyped_word_is_not_repeated_but_what_is_near_is_named(arguments, said):
    assert captchad(*arguments).stderr.endswith(said)


@pytest.mark.parametrize("port", ["x", "99999"])
def test_a_bad_port_is_refused_in_words(port):
    assert captchad("sandbox", "--port", port).stderr.endswith("argument --port: a port is 0 to 65535\n")


@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_bad_configuration_is_78(tmp_path, verb):
    config = tmp_path / "captchad.toml"
    config.write_text("[daemon]\nworkers = 'many'\n")
    done = captchad(verb, "--config", str(config), env=os.environ | {"XDG_STATE_HOME": str(tmp_path)})
    assert done.returncode == 78
    assert f"{config}:2: daemon.workers: " in done.stdout + done.stderr


def test_sandbox_serves_until_it_is_told_to_stop():
    process = subprocess.Popen(
        [sys.executable, "-m", "captchad.cli.captchad", "sandbox", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert re.search(r"listening on http://127\.0\.0\.1:\d+$", process.stdout.readline().strip())
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# --- the demo


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def short_dir():
    """A directory whose path leaves room for the demo's socket, which tmp_path may not."""
    with tempfile.TemporaryDirectory(prefix="captchad-", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(short_dir, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "captchad.cli.captchad", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(short_dir)},
        start_new_session=True,
    )
    try:
        seen = ""
        while "dropped" not in seen:
            line = process.stdout.readline()
            assert line, f"the demo ended with {process.wait()}:\n{seen}"
            seen += line
        daemon = int(re.search(r"captchad runs, pid (\d+)", seen)[1])
        process.send_signal(number)
        assert "interrupted" in process.stdout.read()
        assert process.wait(30) == Exit.INTERRUPTED
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert list(short_dir.iterdir()) == []
    end = time.monotonic() + 10
    while not gone(daemon):
        assert time.monotonic() < end


def test_a_demo_that_cannot_work_says_why_and_cleans_up(tmp_path):
    deep = tmp_path / ("x" * 100)  # no socket fits below it
    deep.mkdir()
    done = captchad("demo", env=os.environ | {"TMPDIR": str(deep)})
    assert done.returncode == 1
    assert "captchad demo: the daemon ended with exit code" in done.stderr
    assert "--- the end of captchad.log" in done.stderr
    assert "too long" in done.stderr
    assert list(deep.iterdir()) == []


def reckon(results=None, queue=None, totals=None) -> None:
    ids = ["plain-1", "unsolvable-2"]
    good = {"plain-1": {"status": "solved", "charges": 1}, "unsolvable-2": {"status": "failed", "charges": 2}}
    demo._check(
        ids,
        good if results is None else results,
        {"charges_total": 3, "unknown_submits": 0} | (queue or {}),
        {"charges": 3} | (totals or {}),
    )


def test_a_bill_that_comes_out():
    reckon()
    reckon(queue={"unknown_submits": 1}, totals={"charges": 4})


@pytest.mark.parametrize(
    "change",
    [
        {"totals": {"charges": 4}},
        {"totals": {"charges": 2}},
        {"queue": {"charges_total": 4}},
        {"queue": {"charges_total": 4}, "totals": {"charges": 4}},
        {"results": {"plain-1": {"status": "solved", "charges": 3}}},
        {
            "results": {
                "plain-1": {"status": "failed", "charges": 1},
                "unsolvable-2": {"status": "failed", "charges": 2},
            }
        },
    ],
)
def test_a_bill_that_does_not_come_out_fails_the_demo(change):
    with pytest.raises(demo._Failed):
        reckon(**change)


# --- the manual


def test_the_manuals_have_every_exit_code():
    """The enum is the source: each name's value stands in the table, and the table has no other."""
    for page, wanted in (
        ("captchactl.1.md", {code for code in Exit if not code.name.startswith("EX_")}),
        (
            "captchad.8.md",
            {code for code in Exit if code.name.startswith("EX_")} | {Exit.OK, Exit.FAILED, Exit.INTERRUPTED},
        ),
    ):
        table = (MANUAL / page).read_text().partition("\n## EXIT STATUS\n")[2].partition("\n## ")[0]
        rows = {int(number) for number in re.findall(r"^\|[^|]*\| (\d+) \|", table, re.MULTILINE)}
        assert rows == {int(code) for code in wanted}, page


@pytest.mark.parametrize("page", ["captchactl.1.md", "captchad.8.md"])
def test_the_manuals_name_what_the_help_names(page):
    program = page.partition(".")[0]
    text = (MANUAL / page).read_text()
    seen = [[]]
    for arguments in seen:
        shown = subprocess.run(
            [sys.executable, "-m", f"captchad.cli.{program}", *arguments, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"COLUMNS": "200"},
        ).stdout
        for option in re.findall(r"(?<![\w-])--[a-z]+", shown):
            assert option in text, f"{page} does not name {option} of {arguments}"
        listed = shown.partition("positional arguments:")[2].partition("\noptions:")[0]
        # Verbs stand four deep, below VERB or COMMAND.
        seen += [[*arguments, verb] for verb in re.findall(r"^    ([a-z]+)\b", listed, re.MULTILINE)]
    for arguments in seen[1:]:
        assert " ".join(arguments) in text, f"{page} does not name {arguments}"
    assert len(seen) > 3
