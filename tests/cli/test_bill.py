"""`captchactl bill` on real journals."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from captchad.cli import captchactl
from captchad.cli.exits import Exit
from captchad.journal.store import Journal
from captchad.queue.queue import Queue
from tests.queue.test_queue_dedupe import SETTINGS
from tests.support.clock import FakeClock

DAY_S = 86400.0


def written(state_dir: Path) -> None:
    """Two days: 2027-01-15 and 2027-01-17."""
    clock = FakeClock()
    journal = Journal.open(state_dir / "journal", segment_bytes=1 << 20, clock=clock, reserve_bytes=0)
    queue = Queue(journal, SETTINGS, clock, random.Random(7))
    queue.replay()

    def run(task_id: str, provider: str, price: int | None, **over: Any) -> None:
        data: dict[str, Any] = {
            "pr": 2, "ex": 1, "fp": task_id, "org": task_id, "src": "f.json", "line": 0, "m": "userrecaptcha",
            "h": "example.com",
        }  # fmt: skip
        queue.accept(task_id, data | over, b"{}")
        n = queue.order(queue.view.tasks[task_id], provider, (1, 1), "k")
        queue.submitted(n, "1")
        queue.solved(n, {"token": "secret-token", "answer": None, "extra": {}}, price)

    run("a", "p", 850, tg='{"customer":"x","n":"1"}')
    run("b", "p", 850, tg='{"customer":"y"}')
    clock.advance(2 * DAY_S)
    run("c", "q", 299_000, m="turnstile", h="other.example", tg='{"customer":"x"}')
    run("d", "q", None)
    queue.cancel("d")
    queue.commit()
    journal.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state_dir = tmp_path_factory.mktemp("state")
    written(state_dir)
    file = state_dir / "captchad.toml"
    file.write_text(f'[daemon]\nstate_dir = "{state_dir}"\n')
    return file


def bill(config: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert captchactl.main(["--config", str(config), "bill", "--json", *options]) == Exit.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("by", "rows"),
    [
        ("day", [("2027-01-15", 2, 0.0017), ("2027-01-17", 2, 0.299)]),
        ("method", [("turnstile", 1, 0.299), ("userrecaptcha", 3, 0.0017)]),
        ("host", [("example.com", 3, 0.0017), ("other.example", 1, 0.299)]),
        ("provider", [("p", 2, 0.0017), ("q", 2, 0.299)]),
        ("tag:customer", [("", 1, 0.0), ("x", 2, 0.29985), ("y", 1, 0.00085)]),
        ("tag:nothing", [("", 4, 0.3007)]),
    ],
)
def test_by(config: Path, capsys: pytest.CaptureFixture[str], by: str, rows: list[tuple[str, int, float]]) -> None:
    found = bill(config, capsys, "--by", by)
    assert [(row["name"], row["charges"], row["cost"]) for row in found["rows"]] == rows
    assert found["sum"] == {
        "charges": 4, "solved": 4, "failed": 0, "unknown_submits": 0, "cost": 0.3007, "unpriced": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bounds", "charges"),
    [
        (["--since", "2027-01-15", "--until", "2027-01-15"], 2),
        (["--since", "2027-01-16"], 2),
        (["--until", "2027-01-16"], 2),
        (["--until", "2027-01-14"], 0),
        (["--since", "20000d"], 4),
    ],
)
def test_between_days(config: Path, capsys: pytest.CaptureFixture[str], bounds: list[str], charges: int) -> None:
    assert bill(config, capsys, *bounds)["sum"]["charges"] == charges


def test_the_table(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert captchactl.main(["--config", str(config), "bill", "--by", "tag:customer"]) == Exit.OK
    assert capsys.readouterr().out == (
        "tag:customer  charges  solved  failed  unknown     cost\n"
        "-                   1       1       0        0        -\n"
        "x                   2       2       0        0  0.29985\n"
        "y                   1       1       0        0  0.00085\n"
        "sum                 4       4       0        0   0.3007\n"
        "1 answers have no known price: set `price` or `price_from_answer` of the provider\n"
    )


def test_what_is_not_known_any_more_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A journal that an earlier captchad has cleaned: its counters know more charges than the days."""
    clock = FakeClock()
    journal = Journal.open(tmp_path / "journal", segment_bytes=1 << 20, clock=clock, reserve_bytes=0)
    queue = Queue(journal, SETTINGS, clock, random.Random(7))
    queue.replay()
    queue.stage("totals", {"charges": 40, "n": 40})
    queue.commit()
    journal.close()
    file = tmp_path / "captchad.toml"
    file.write_text(f'[daemon]\nstate_dir = "{tmp_path}"\n')
    assert captchactl.main(["--config", str(file), "bill"]) == Exit.OK
    assert "the journal knows the days from today on; 40 charges from before" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--by", "moon"], ["--by", "tag:"], ["--since", "yesterday"], ["--until", "d"]])
def test_what_is_no_question_is_a_matter_of_usage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        captchactl.main(["bill", *options])
    assert ended.value.code == Exit.USAGE
    assert options[1] in capsys.readouterr().err


def test_without_a_journal_there_is_no_empty_bill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "captchad.toml"
    file.write_text(f'[daemon]\nstate_dir = "{tmp_path}"\n')
    assert captchactl.main(["--config", str(file), "bill"]) == Exit.FAILED
    assert "there is no journal" in capsys.readouterr().err
