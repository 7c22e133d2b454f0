"""The framed channel over real socket pairs: whole messages, no waiting, no last note lost."""

import json
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from captchad.ipc.channel import MAX_FRAME, MAX_UNSENT, Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel and the raw socket at its other side."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    yield Channel(ours.fileno()), theirs
    ours.close()
    theirs.close()


#: From the kernel's asm-generic/socket.h; lets root have a buffer above net.core.wmem_max.
SO_SNDBUFFORCE = 32


def frame(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


def read_everything(peer: socket.socket) -> bytes:
    taken = b""
    while True:
        try:
            chunk = peer.recv(1 << 20)
        except BlockingIOError:
            return taken
        if not chunk:
            return taken
        taken += chunk


def test_messages_arrive_whole_and_in_order(ends):
    channel, peer = ends
    far = Channel(os.dup(peer.fileno()))
    sent = [{"m": "submit", "n": n, "text": "x" * n} for n in range(50)]

    assert channel.send(*sent)

    assert far.receive() == sent
    assert not far.gone
    far.close()


def test_a_message_that_comes_in_pieces_waits_for_its_rest(ends):
    channel, peer = ends
    data = frame(b'{"m":"ack","n":7}')

    for piece in (data[:2], data[2:9]):
        peer.send(piece)
        assert channel.receive() == []
    peer.send(data[9:])

    assert channel.receive() == [{"m": "ack", "n": 7}]


def test_a_torn_last_message_is_dropped_and_the_end_is_seen(ends):
    channel, peer = ends
    peer.send(frame(b'{"m":"begin","n":1}') + frame(b'{"m":"begin","n":2}')[:-3])
    peer.close()

    assert channel.receive_all() == [{"m": "begin", "n": 1}]
    assert channel.gone


def test_a_full_pipe_keeps_the_rest_and_counts_what_left(ends):
    channel, peer = ends
    message = {"m": "out", "text": "x" * 300_000}

    assert not channel.send(message, message)
    waiting = channel.unsent
    total = channel.taken + waiting
    assert waiting > 0
    taken = b""
    while not channel.flush():
        taken += read_everything(peer)
    taken += read_everything(peer)

    assert taken == frame(json.dumps(message, separators=(",", ":")).encode()) * 2
    assert (channel.taken, channel.unsent) == (total, 0)


def test_the_end_of_the_other_side_shows_in_a_write(ends):
    channel, peer = ends
    peer.close()

    assert not channel.send({"m": "beat"})
    assert channel.gone
    assert channel.unsent == 0


def test_all_last_notes_are_read_although_a_write_has_failed_before(ends):
    channel, peer = ends
    notes = [{"m": "begin", "n": n, "pad": "x" * 10_000} for n in range(10)]
    if os.geteuid() == 0:  # beyond one slice of `receive`; elsewhere the kernel's buffer is smaller than a slice
        peer.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)
        notes *= 25
    peer.send(b"".join(frame(json.dumps(note).encode()) for note in notes))
    peer.close()
    channel.send({"m": "submit"})
    assert channel.gone

    assert channel.receive_all() == notes


def test_a_slice_is_bounded(ends):
    channel, peer = ends
    far = Channel(os.dup(peer.fileno()))
    far.send(*[{"n": n, "pad": "x" * 1000} for n in range(500)])
    assert far.unsent

    got = channel.receive(max_bytes=1)
    assert 0 < len(got) < 300
    while not far.flush():
        got += channel.receive(max_bytes=1)

    assert [each["n"] for each in got + channel.receive_all()] == list(range(500))
    far.close()


def test_an_unread_side_is_given_up_at_the_bound(ends):
    channel, _ = ends
    big = {"text": "x" * (MAX_FRAME - 100)}
    for _ in range(MAX_UNSENT // MAX_FRAME):
        channel.send(big)
    assert not channel.gone

    assert not channel.send(big)
    assert channel.gone
    assert channel.unsent == 0


@pytest.mark.parametrize("bad", [{"text": "x" * (MAX_FRAME + 1)}, {"text": object()}])
def test_a_message_that_cannot_be_framed_leaves_nothing_behind(ends, bad):
    channel, peer = ends
    with pytest.raises((ValueError, TypeError)):
        channel.send({"m": "beat"}, bad)

    assert channel.send({"m": "ack", "n": 1})
    assert read_everything(peer) == frame(b'{"m":"ack","n":1}')


@pytest.mark.parametrize(
    "bad",
    [
        frame(b"{torn"),
        frame(b"[1]"),
        frame(b"\xff\xfe"),
        frame(b"[" * 100_000),
        struct.pack("!I", MAX_FRAME + 1) + b"x" * 10,
    ],
    ids=["no json", "no object", "no text", "too deep", "too long"],
)
def test_strange_bytes_end_the_channel_and_hurt_nobody(ends, bad):
    channel, peer = ends
    good = frame(b'{"m":"begin","n":1}')
    peer.setblocking(True)
    peer.sendall(good + bad + good)

    assert channel.receive_all() == [{"m": "begin", "n": 1}]
    assert channel.gone
    peer.sendall(good)
    assert channel.receive_all() == []
