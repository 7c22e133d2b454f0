"""The loop: descriptors and timers, each at its time, none twice."""

import os
import socket
from collections.abc import Iterator

import pytest

from captchad.ipc.loop import Loop


class Hand:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def loop(clock) -> Iterator[Loop]:
    made = Loop(clock)
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


def test_timers_run_in_order_once_and_not_early(loop, clock):
    ran: list[str] = []
    loop.call_later(2.0, lambda: ran.append("late"))
    loop.call_later(1.0, lambda: ran.append("early"))
    loop.turn(0)
    assert ran == []

    clock.now += 5
    loop.turn()
    loop.turn(0)

    assert ran == ["early", "late"]


def test_a_cancelled_timer_does_nothing_and_holds_up_nothing(loop, clock):
    ran: list[str] = []
    first = loop.call_later(1.0, lambda: ran.append("first"))
    loop.call_later(1.0, first.cancel)
    second = loop.call_later(1.5, lambda: ran.append("second"))
    loop.call_later(1.2, second.cancel)
    first.cancel()
    clock.now += 2
    loop.turn(0)
    assert ran == []


def test_a_timer_set_by_a_timer_waits_for_the_next_turn(loop):
    ran: list[int] = []

    def again() -> None:
        ran.append(1)
        loop.call_later(0.0, again)

    loop.call_later(0.0, again)
    loop.turn(0)
    assert len(ran) == 1
    loop.turn(0)
    assert len(ran) == 2


def test_descriptors_are_told_apart(loop, pair):
    left, right = pair
    ran: list[str] = []
    loop.watch(left.fileno(), readable=lambda: ran.append("read"), writable=lambda: ran.append("write"))
    loop.turn(0)
    assert ran == ["write"]

    right.send(b"x")
    loop.watch(left.fileno(), readable=lambda: ran.append("read again"))
    loop.turn(0)
    assert ran == ["write", "read again"]

    loop.watch(left.fileno())
    loop.turn(0)
    loop.unwatch(left.fileno())
    assert ran == ["write", "read again"]


def test_a_descriptor_dropped_by_a_callback_is_not_called_in_the_same_turn(loop, pair):
    left, right = pair
    other = os.dup(left.fileno())
    ran: list[int] = []

    def first_of(me: int, them: int) -> None:
        ran.append(me)
        loop.unwatch(them)

    loop.watch(left.fileno(), readable=lambda: first_of(left.fileno(), other))
    loop.watch(other, readable=lambda: first_of(other, left.fileno()))
    right.send(b"x")
    loop.turn(0)
    os.close(other)

    assert len(ran) == 1
