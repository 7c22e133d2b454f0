"""The tasks and the answers that every contender gets: 300 bytes in, 500 bytes out."""

__all__ = ["ANSWER_BYTES", "PAYLOAD_BYTES", "Answer", "Work", "answer_for", "intake_fields", "make_work", "task_id_in"]

import random
import string
from collections.abc import Iterator
from typing import Any, NamedTuple

PAYLOAD_BYTES = 300
ANSWER_BYTES = 500

_FILLERS = 64  # different fillings, so that no contender gets by with a compressed repetition of one
_HEAD = '{"id":"%s","sitekey":"6LfD3PIbAAAAAJs_eEHvoOl75_83eXSqpPSRFJ_u","pageurl":"https://example.com/login","tags":{"note":"'
_TAIL = '"}}'
_ANSWER_HEAD = '{"token":"'
_ANSWER_TAIL = '","answer":null,"extra":{}}'


class Work(NamedTuple):
    """One task before it is enqueued."""

    id: str
    payload: bytes


class Answer(NamedTuple):
    """What a client completes a task with: `text` is the JSON object around `token`."""

    token: str
    text: bytes


def _fillers(length: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(string.ascii_letters + string.digits, k=length)) for _ in range(_FILLERS)]


def make_work(count: int, first: int = 0) -> Iterator[Work]:
    """`count` tasks of PAYLOAD_BYTES each; their ids count up from `first`."""
    fillers = _fillers(PAYLOAD_BYTES - len(_HEAD % _task_id(0)) - len(_TAIL), seed=1)
    for number in range(first, first + count):
        task_id = _task_id(number)
        yield Work(task_id, f"{_HEAD % task_id}{fillers[number % _FILLERS]}{_TAIL}".encode())


def _task_id(number: int) -> str:
    return f"order-{number:08d}"


def task_id_in(payload: bytes) -> str:
    """The id of the task with this payload. Raises ValueError when it is not one of ours, whole."""
    if len(payload) != PAYLOAD_BYTES or not payload.endswith(_TAIL.encode()):
        raise ValueError(f"no payload of ours: {payload!r}")
    return str(payload[7:21].decode())


_ANSWER_FILLERS = _fillers(ANSWER_BYTES - len(_ANSWER_HEAD) - len(_task_id(0)) - len(_ANSWER_TAIL), seed=2)


def answer_for(task_id: str) -> Answer:
    """The answer of ANSWER_BYTES that belongs to this task."""
    token = task_id + _ANSWER_FILLERS[int(task_id[6:]) % _FILLERS]
    return Answer(token, f"{_ANSWER_HEAD}{token}{_ANSWER_TAIL}".encode())


def intake_fields(number: int) -> dict[str, Any]:
    """What `captchad.daemon.intake` records of a task beside its id and its payload."""
    return {
        "pr": 2,
        "ex": 1,
        "fp": f"{number:032x}",
        "org": f"{number:016x}",
        "src": "orders.jsonl",
        "line": number + 1,
        "m": "userrecaptcha",
        "h": "example.com",
        "dl": None,
    }
