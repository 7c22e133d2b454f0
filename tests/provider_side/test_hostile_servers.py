"""A real worker, and real servers that misbehave: what the code table takes for granted comes over the wire so."""

from pathlib import Path

import pytest

from tests.provider.hostile import Hostile, Peer, Script, answering, http
from tests.worker.workerkit import Rig, rig


def big(peer: Peer) -> None:
    """10 MB, announced as such; whoever reads them all has read too much."""
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n")
    for _ in range(160):
        peer.send(bytes(65536))


def slow(peer: Peer) -> None:
    """A header line now and then, until the client has had enough."""
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\n")
    while not peer.server.over.wait(0.05):
        peer.send(b"X-Wait: 1\r\n")


def reset(peer: Peer) -> None:
    peer.request()
    peer.reset()


def point(worker: Rig, server: Hostile, *, deadline_s: float) -> None:
    """Give this server to the worker as its provider."""
    worker.provider.url = server.url
    worker.configure(submit_s=deadline_s, poll_s=deadline_s)


CASES: dict[str, tuple[Script, str, str]] = {
    # what the server does: its script, why a submit is unknown, which fault a poll is
    "HTTP 502": (answering(http(b"<html>", status="502 Bad Gateway")), "http 502: a web page", "HTTP_5XX"),
    "a redirect": (answering(), "http 302: a redirect", "UNPARSEABLE"),
    "10 MB": (big, "the answer is too big", "NETWORK"),
    "slow headers": (slow, "deadline passed", "NETWORK"),
    "reset": (reset, "receive: connection reset by peer", "NETWORK"),
    "half an answer": (
        answering(http(b'{"status":1,"request":"21229')),
        "damaged JSON, or none of ours",
        "UNPARSEABLE",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_submit_is_unknown_and_a_poll_goes_on(tmp_path: Path, case: str) -> None:
    script, reason, code = CASES[case]
    # The worker is forked first: a process without threads may fork.
    with rig(tmp_path, configure=False) as worker, Hostile(answering(http(b"OK|2122988149"))) as other:
        if case == "a redirect":
            script = answering(http(b"", f"Location: {other.url}/in.php", status="302 Found"))
        with Hostile(script) as server:
            point(worker, server, deadline_s=1.0 if case == "slow headers" else 20.0)
            worker.submit(1)
            worker.poll(2, every_s=30.0)
            worker.until(lambda: worker.got("out", 1) and worker.got("fault"))

            assert [(each["o"], each["reason"]) for each in worker.got("out", 1)] == [("unknown", reason)]
            assert [(each["code"], each["category"]) for each in worker.got("fault")] == [(code, "transient")]
            assert sum(b"POST" in request for request in server.requests) == 1, "a submit is sent once"
        assert other.connections == 0, "the key goes nowhere else"


def test_a_refused_connection_has_cost_nothing(tmp_path: Path) -> None:
    with rig(tmp_path, configure=False) as worker:
        with Hostile(answering(b"")) as server:
            pass
        point(worker, server, deadline_s=20.0)
        worker.submit(1)
        worker.until(lambda: worker.got("out", 1))
        assert worker.outcomes() == {1: "not_sent"}
