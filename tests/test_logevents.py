"""The catalog of events: what is promised of it, its page, and that the code logs each of them."""

import re
from pathlib import Path

from captchad.model.logevents import Event, Fields, fields, table_markdown

ROOT = Path(__file__).resolve().parent.parent


def test_names_and_ids_are_what_they_are_searched_by():
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", event) and event.name == event.upper() for event in Event)
    assert all(re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", event.message_id) for event in Event)
    assert len({event.message_id for event in Event}) == len(Event)
    assert all(event.meaning.endswith(".") and "|" not in event.meaning for event in Event)


def test_the_page_has_this_table():
    assert (ROOT / "docs" / "events.md").read_text().endswith(f"\n\n{table_markdown()}")


def test_each_event_is_logged_somewhere():
    code = "\n".join(path.read_text() for path in (ROOT / "captchad").rglob("*.py") if path.name != "logevents.py")
    assert set(re.findall(r"\bEvent\.([A-Z_]+)\b", code)) >= {event.name for event in Event}


def test_a_seat_below_zero_is_none():
    assert fields(seat=0) == {"fields": Fields(seat="0")}
    assert fields(Event.READY, seat=-1, reason="x") == {"fields": Fields(Event.READY, reason="x")}
