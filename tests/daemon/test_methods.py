"""Methods that only some providers offer: their tasks wait in their places, and hold up no others."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captchad.model.states import State
from captchad.queue.lines import ASIDE_AT_ONCE
from captchad.supervisor.worker import Worker
from tests.daemon.test_dispatch import PROVIDER, Bench

MOST = replace(PROVIDER, name="most", methods=frozenset({"userrecaptcha", "hcaptcha"}))
TURNSTILE = replace(PROVIDER, name="turnstile", priority=9, methods=frozenset({"turnstile"}))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "journal")
    bench.queue.settings = replace(bench.queue.settings, capacity=1000)
    bench.dispatcher.set_providers({"most": MOST})
    yield bench
    bench.close()


def accept(bench: Bench, task_id: str, method: str, priority: int = 2) -> None:
    data = {
        "pr": priority, "ex": 1, "fp": task_id, "org": task_id, "src": "f.json", "line": 0,
        "m": method, "h": "example.com", "dl": None,
    }  # fmt: skip
    text = f'{{"id":"{task_id}","method":"{method}","sitekey":"k","pageurl":"https://example.com/"}}'
    bench.queue.accept(task_id, data, text.encode())
    bench.queue.commit()


def ordered(bench: Bench, worker: Worker) -> list[tuple[str, str]]:
    """Task and provider of each submit, all taken at once, until there is nothing more to do now."""
    got = []
    while True:
        bench.turn()
        submits = [n for kind, n in bench.told(worker) if kind == "submit"]
        for n in submits:
            attempt = bench.queue.view.attempts[n]
            got.append((attempt.task_id, attempt.provider))
            bench.says(worker, "begin", n)
            bench.says(worker, "out", n, o="submitted", cid=str(n))
        if not submits and bench.dispatcher.wait_s() != 0.0:
            return got


def test_a_head_that_nobody_takes_holds_up_no_others_and_keeps_its_place(bench: Bench) -> None:
    for task_id, method in (("a", "turnstile"), ("b", "hcaptcha"), ("c", "turnstile"), ("d", "userrecaptcha")):
        accept(bench, task_id, method)
    worker = bench.worker(1)
    assert ordered(bench, worker) == [("b", "most"), ("d", "most")]
    assert bench.queue.view.aside == {"turnstile": 2}
    assert bench.queue.view.lines["ready"] == 2
    assert [bench.queue.view.tasks[task_id].state for task_id in "ac"] == [State.PENDING] * 2

    accept(bench, "e", "turnstile")
    accept(bench, "f", "turnstile", priority=0)
    bench.dispatcher.set_providers({"most": MOST, "turnstile": TURNSTILE})
    assert [task_id for task_id, _ in ordered(bench, worker)] == ["f", "a", "c", "e"]
    assert not bench.queue.view.aside.get("turnstile")


def test_a_provider_without_a_list_takes_all(bench: Bench) -> None:
    bench.dispatcher.set_providers({"most": MOST, "all": replace(PROVIDER, name="all", priority=9)})
    accept(bench, "a", "turnstile")
    accept(bench, "b", "hcaptcha")
    assert ordered(bench, bench.worker(1)) == [("a", "all"), ("b", "most")]


def test_one_whose_provider_has_no_room_now_holds_up_no_others_either(bench: Bench) -> None:
    bench.dispatcher.set_providers({"most": MOST, "turnstile": replace(TURNSTILE, max_in_flight=1)})
    for task_id, method in (("a", "turnstile"), ("b", "turnstile"), ("c", "hcaptcha"), ("d", "turnstile")):
        accept(bench, task_id, method)
    worker = bench.worker(1)
    assert ordered(bench, worker) == [("a", "turnstile"), ("c", "most")]
    n = bench.queue.view.tasks["a"].n
    bench.says(worker, "out", n, o="solved", token="t", answer=None, extra={})
    assert ordered(bench, worker) == [("b", "turnstile")]


def test_when_nobody_has_room_nobody_is_set_aside(bench: Bench) -> None:
    bench.dispatcher.set_providers({"most": replace(MOST, max_in_flight=1)})
    for task_id, method in (("a", "hcaptcha"), ("b", "turnstile"), ("c", "hcaptcha")):
        accept(bench, task_id, method)
    assert ordered(bench, bench.worker(1)) == [("a", "most")]
    assert bench.queue.view.aside == {}


def test_a_long_line_of_them_is_passed_in_slices(bench: Bench) -> None:
    for index in range(2 * ASIDE_AT_ONCE + 5):
        accept(bench, f"t-{index}", "turnstile")
    accept(bench, "last", "hcaptcha")
    worker = bench.worker(1)
    bench.turn()
    assert bench.queue.view.aside == {"turnstile": ASIDE_AT_ONCE}
    assert bench.dispatcher.wait_s() == 0.0
    assert ordered(bench, worker) == [("last", "most")]


def test_one_that_is_cancelled_is_counted_no_more_and_the_index_has_the_old_order(bench: Bench) -> None:
    for task_id, method in (("a", "turnstile"), ("b", "lemin"), ("c", "turnstile"), ("d", "lemin")):
        accept(bench, task_id, method)
    assert ordered(bench, bench.worker(1)) == []
    assert bench.queue.cancel("c") is None
    bench.queue.commit()
    assert bench.queue.view.aside == {"turnstile": 1, "lemin": 2}
    assert [task_id for line in bench.queue.view.in_order().values() for task_id in line] == ["a", "b", "d"]
    assert bench.queue.view.oldest_pending_at() is not None


def test_those_that_were_set_aside_go_in_their_old_order_whatever_their_methods(bench: Bench) -> None:
    for task_id, method in (("a", "turnstile"), ("b", "lemin"), ("c", "turnstile"), ("d", "lemin")):
        accept(bench, task_id, method)
    worker = bench.worker(1)
    assert ordered(bench, worker) == []
    bench.dispatcher.set_providers({"all": replace(PROVIDER, name="all")})
    accept(bench, "e", "hcaptcha")
    assert [task_id for task_id, _ in ordered(bench, worker)] == ["a", "b", "c", "d", "e"]
