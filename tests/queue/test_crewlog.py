"""What was done about workers, and how they died: it outlives restarts, cleanings, an index and a repair, in bounds."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captchad.journal.places import RecordFiles
from captchad.journal.store import read_all
from captchad.queue import upkeep
from captchad.queue.crewlog import ACTIONS, DEATHS, CrewLog
from captchad.queue.upkeep import Upkeep
from captchad.queue.view import View
from tests.queue.test_spent import IndexedKit


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[IndexedKit]:
    made = IndexedKit(tmp_path / "journal")
    yield made
    made.journal.close()


def death(number: int, **more: Any) -> dict[str, Any]:
    return {"t": 1.0 * number, "do": "death", "why": "signal", "seat": 0, "w": number, "pid": 7, "code": -9, **more}


def action(number: int, do: str = "start") -> dict[str, Any]:
    return {"t": 1.0 * number, "do": do, "why": "start", "seat": number % 3, "w": number, "pid": 0}


def stage(kit: IndexedKit, *rows: dict[str, Any]) -> None:
    for row in rows:
        kit.queue.stage("crew", row)
    kit.queue.commit()


def kinds(kit: IndexedKit) -> list[str]:
    """Of the records that are there, the crew's alone."""
    return [record.kind for record in read_all(kit.directory, lazy=View.LAZY) if record.kind.startswith("crew")]


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [row["w"] for row in rows]


def of(kit: IndexedKit) -> tuple[list[int], list[int]]:
    """The deaths and the actions that are known, the oldest first."""
    crew = kit.queue.view.crew
    return numbers(crew.deaths()), numbers(crew.actions())


def test_deaths_and_actions_come_back_after_a_restart_in_their_order(kit: IndexedKit) -> None:
    rows = [action(1), action(2), death(1, tasks=["a", "b"]), action(3, "move"), death(2)]
    stage(kit, *rows)
    kit.restart()
    crew = kit.queue.view.crew
    assert crew.deaths() == [rows[2], rows[4]]
    assert crew.actions() == [rows[0], rows[1], rows[3]]
    assert kit.queue.view.fingerprint()["crew"] == crew.plain()


def test_who_went_as_it_was_told_pushes_no_death_out(kit: IndexedKit) -> None:
    stage(kit, death(1), *(death(number, why="exit", code=0) for number in range(2, DEATHS + 9)))
    kit.restart()
    assert of(kit) == ([1], list(range(2, DEATHS + 9)))


def test_what_was_not_committed_is_not_known_after_a_kill(kit: IndexedKit) -> None:
    stage(kit, death(1))
    kit.queue.stage("crew", death(2))
    kit.journal.close()
    kit.open()
    assert of(kit) == ([1], [])


def test_only_the_latest_are_known_and_deaths_and_actions_do_not_push_each_other_out(kit: IndexedKit) -> None:
    stage(kit, *(death(number) for number in range(DEATHS + 7)))
    assert of(kit) == (list(range(7, DEATHS + 7)), [])
    stage(kit, *(action(number) for number in range(ACTIONS + 5)))
    kit.restart()
    assert of(kit) == (list(range(7, DEATHS + 7)), list(range(5, ACTIONS + 5)))


def test_it_outlives_the_segments_that_it_was_written_in(kit: IndexedKit) -> None:
    stage(kit, action(1), death(1), action(2))
    first = kit.journal.active
    kit.fill_segments(2)
    kit.clean_oldest()
    assert kit.journal.oldest > first
    assert kinds(kit) == ["crew_log"]
    kit.restart()
    assert of(kit) == ([1], [1, 2])
    stage(kit, death(2), action(3))
    assert of(kit) == ([1, 2], [1, 2, 3])
    for _ in range(3):  # and the `crew_log` record, too
        kit.fill_segments(2)
        while kit.journal.oldest < kit.journal.active:
            kit.clean_oldest()
        kit.restart()
        assert of(kit) == ([1, 2], [1, 2, 3])
    assert kinds(kit) == ["crew_log"]


def test_what_comes_while_its_segment_is_cleaned_is_known_once(kit: IndexedKit) -> None:
    """Records behind the segment that goes: they stand before the `crew_log`, which says them again."""
    stage(kit, death(1))
    kit.fill_segments(1)
    stage(kit, death(2), action(2))
    kit.fill_segments(1)
    oldest = kit.journal.oldest
    kit.queue.clean(thorough=True)
    kit.queue.stage("crew", death(3))
    kit.queue.commit()
    while kit.journal.oldest == oldest:
        kit.queue.clean(thorough=True)
        kit.queue.stage("crew", action(3))
        kit.queue.commit()
    before = of(kit)
    assert before[0] == [1, 2, 3]
    kit.restart()
    assert of(kit) == before


def test_nothing_is_written_anew_that_does_not_go(kit: IndexedKit) -> None:
    kit.fill_segments(1)
    stage(kit, death(1))
    while kit.journal.oldest < kit.journal.active:
        kit.clean_oldest()
    assert kinds(kit) == ["crew"]


def test_an_index_knows_it_and_where_it_stands(kit: IndexedKit) -> None:
    stage(kit, death(1), action(1))
    kit.fill_segments(1)
    stage(kit, death(2), action(2))
    before = kit.queue.view.crew.index()
    assert len({segment for segment, _ in before}) == 2
    kit.queue.save_index(least=0)
    kit.restart()
    assert kit.from_index
    assert kit.queue.view.crew.index() == before
    stage(kit, death(3))
    kit.restart()  # the record behind the index is applied to it
    assert of(kit) == ([1, 2, 3], [1, 2])
    kit.fill_segments(2)
    while kit.journal.oldest < kit.journal.active:
        kit.clean_oldest()
    kit.journal.index.remove()
    kit.restart()
    assert of(kit) == ([1, 2, 3], [1, 2])


def test_a_repair_says_it_anew(kit: IndexedKit) -> None:
    stage(kit, death(1), action(1))
    lost = kit.journal.active
    kit.fill_segments(1)
    stage(kit, death(2, tasks=["t"]), action(2))
    kit.fill_segments(1)
    kit.journal.close()
    path = kit.directory / f"{lost:08d}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"k":"beat"', b'"k":"b#at"', 1))
    done = upkeep.repair(Upkeep(kit.directory.parent, 4096, clock=kit.clock, id_ttl_s=300.0, dead_ttl_s=600.0))
    assert done["damage"]
    assert done["held"] == []
    kit.open()
    assert of(kit) == ([1, 2], [1, 2])
    assert kit.queue.view.crew.deaths()[1]["tasks"] == ["t"]
    assert "crew_log" in kinds(kit)


def test_damage_to_a_record_of_the_crew_makes_no_task_doubtful(kit: IndexedKit) -> None:
    kit.accept("a", key="")
    kit.queue.commit()
    stage(kit, death(1), action(1))
    kit.fill_segments(1)
    kit.journal.close()
    path = kit.directory / "00000001.jsonl"
    content = path.read_bytes()
    assert content.count(b'"do":"death"') == 1
    path.write_bytes(content.replace(b'"do":"death"', b'"do":"d#ath"'))
    done = upkeep.repair(Upkeep(kit.directory.parent, 4096, clock=kit.clock, id_ttl_s=300.0, dead_ttl_s=600.0))
    assert (len(done["damage"]), done["held"], done["lost"]) == (1, [], [])
    kit.open()
    assert of(kit) == ([], [1])
    assert kit.queue.view.tasks.state("a") == "pending"


def test_through_many_cleanings_restarts_and_indexes_nothing_is_lost_and_the_journal_stays_small(
    kit: IndexedKit,
) -> None:
    rng = random.Random(3)
    died, done = 0, 0
    for turn in range(60):
        for _ in range(rng.randrange(4)):
            died += 1
            stage(kit, death(died))
        for _ in range(rng.randrange(6)):
            done += 1
            stage(kit, action(done))
        kit.clock.advance(rng.choice([1.0, 700.0]))
        if turn % 7 == 6:
            kit.fill_segments(2)
            kit.queue.clean_all()
            kit.restart()
        if turn % 11 == 10:
            kit.queue.save_index(least=0)
            kit.restart()
            assert kit.from_index
        assert of(kit) == (
            list(range(max(1, died - DEATHS + 1), died + 1)),
            list(range(max(1, done - ACTIONS + 1), done + 1)),
        )
    kit.queue.clean_all()
    size = sum(path.stat().st_size for path in kit.directory.glob("*.jsonl"))
    assert size < 200 * (DEATHS + ACTIONS) + 65536


def test_a_full_log_whose_rows_are_as_long_as_they_get_fits_into_one_record(kit: IndexedKit) -> None:
    tasks = [f"{number:03d}".ljust(128, "x") for number in range(20)]
    stage(kit, *(death(number, tasks=tasks, phase="working", in_flight=10**6) for number in range(DEATHS)))
    stage(kit, *(action(number) for number in range(ACTIONS)))
    kit.fill_segments(1)
    kit.clean_oldest()
    kit.restart()
    assert of(kit) == (list(range(DEATHS)), list(range(ACTIONS)))


def test_who_reads_without_the_lock_finds_the_same(kit: IndexedKit) -> None:
    stage(kit, death(1), action(1))
    kit.fill_segments(2)
    kit.clean_oldest()
    stage(kit, action(2))
    view = View(RecordFiles(kit.directory).read)
    for record in read_all(kit.directory, lazy=View.LAZY):
        view.replay(record)
    assert view.crew.plain() == kit.queue.view.crew.plain()


def test_an_index_that_says_something_else_raises() -> None:
    made = CrewLog()
    made.take(death(1), 4)
    made.take(action(1), 5)
    assert CrewLog.of_index(made.index()).index() == made.index()
    for bad in ([[1]], [[1, "x"]], [["x", death(1)]], [[1, {}]], 7):
        with pytest.raises((KeyError, TypeError, ValueError)):
            CrewLog.of_index(bad)  # type: ignore[arg-type]
