"""Encodings and HTTP: whatever a client sends, the fields arrive; what breaks the protocol is refused."""

import itertools
import socket

import pytest

from captchad.provider.sandbox.admin import administer
from captchad.provider.sandbox.http1 import BODY_LIMIT, HEAD_LIMIT, HttpError, Request, RequestParser
from tests.sandbox.talk import KEY, PAGE, png, raw

FIELDS = {"key": KEY, "method": "turnstile", "sitekey": "ключ+ &=%", "pageurl": PAGE}
BALANCE = {"key": KEY, "action": "getbalance"}


def multipart(fields):
    return {"files": {name: (None, value) for name, value in fields.items()}}


ENCODINGS = {
    "query": lambda fields: {"params": fields},
    "urlencoded": lambda fields: {"data": fields},
    "multipart": multipart,
    "json": lambda fields: {"json": fields},
    "half and half": lambda fields: {
        "params": dict(itertools.islice(fields.items(), 1)),
        "data": dict(itertools.islice(fields.items(), 1, None)),
    },
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_all_encodings_on_both_verbs_and_pages(client, verb, encoding):
    encode = ENCODINGS[encoding]

    submit = client.session.request(verb, client.sandbox.url + "/in.php", **encode(FIELDS | {"json": "1"}))
    balance = client.session.request(verb, client.sandbox.url + "/res.php", **encode(BALANCE))
    solved = client.session.request(verb, client.sandbox.url + "/solve.php", **encode(FIELDS))

    assert submit.json()["status"] == 1, submit.text
    assert float(balance.text) < 1000
    assert solved.text.startswith("OK|0."), solved.text
    assert [each["sitekey"] for each in client.sandbox.captchas()] == [FIELDS["sitekey"]] * 2


def test_the_body_wins_over_the_query(client):
    client.post("/in.php", params=FIELDS | {"sitekey": "query"}, data={"sitekey": "body"})

    assert client.sandbox.captchas()[0]["sitekey"] == "body"


def test_json_values_that_are_no_text(client):
    client.post(
        "/in.php", json=FIELDS | {"json": 1, "invisible": True, "min_score": 0.5, "data": {"a": [1]}, "x": None}
    )

    fields = client.sandbox.captchas()[0]["fields"]
    assert {name: fields[name] for name in ("json", "invisible", "min_score", "data")} == {
        "json": "1",
        "invisible": "1",
        "min_score": "0.5",
        "data": '{"a": [1]}',
    }
    assert "x" not in fields


def test_multipart_with_files(client):
    files = {"file": ("captcha.png", png(), "image/png"), "imginstructions": ("hint é.png", png(), "image/png")}
    answer = client.post("/in.php", data={"key": KEY, "method": "post"}, files=files)

    assert answer.text.startswith("OK|"), answer.text
    assert client.sandbox.captchas()[0]["fields"]["file"].startswith(f"{len(png())} bytes")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"[1]"),
        ("application/json", b'{"a":' * 100_000),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx'),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(2000))),
    ],
)
def test_a_body_that_is_not_what_it_says(client, kind, body):
    answer = client.post("/in.php", data=body, headers={"Content-Type": kind})

    assert (answer.status_code, answer.text) == (200, "ERROR_BAD_PARAMETERS")
    assert client.sandbox.totals()["refused"] == 1


def test_json_and_text_answers(client):
    text = client.get("/in.php", **FIELDS)
    as_json = client.get("/in.php", **FIELDS, json=1, header_acao=1)
    wrong = client.get("/in.php", json=1)

    assert text.text.startswith("OK|")
    assert text.headers["Content-Type"].startswith("text/html")
    assert "Access-Control-Allow-Origin" not in text.headers
    assert as_json.headers["Content-Type"] == "application/json"
    assert as_json.headers["Access-Control-Allow-Origin"] == "*"
    assert (wrong.status_code, wrong.json()) == (200, {"status": 0, "request": "ERROR_WRONG_USER_KEY"})


POLL = f"GET /res.php?key={KEY}&action=getbalance HTTP/1.1\r\nHost: a\r\n"


def test_pipelined_requests_are_answered_in_order(sandbox):
    first = f"GET /in.php?key={KEY}&method=turnstile&sitekey=a&pageurl={PAGE} HTTP/1.1\r\n\r\n"
    answer = raw(sandbox, (first + POLL + "\r\n" + POLL + "Connection: close\r\n\r\n").encode())

    bodies = [part.partition(b"HTTP/1.1")[0] for part in answer.split(b"\r\n\r\n")[1:]]
    assert bodies[0].startswith(b"OK|")
    assert bodies[1:] == [b"999.999", b"999.999"]


def test_a_pipelined_request_waits_for_the_slow_one_before_it(sandbox):
    sandbox.set_scenario('[solve]\nseconds = 0\n[[rule]]\nfault = "delay"\ndelay_s = 0.3\nmatch = {sitekey = "slow"}\n')
    first = f"GET /in.php?key={KEY}&method=turnstile&sitekey=slow&pageurl={PAGE} HTTP/1.1\r\n\r\n"
    answer = raw(sandbox, (first + POLL + "Connection: close\r\n\r\n").encode())

    assert answer.index(b"OK|") < answer.index(b"999.999")


BODY = f"key={KEY}&action=getbalance".encode()


def test_chunked_bodies_however_they_are_cut(sandbox):
    head = b"POST /res.php HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    body = b"%x;name=value\r\n%s\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (5, BODY[:5], len(BODY) - 5, BODY[5:])

    assert raw(sandbox, head + body).endswith(b"\r\n\r\n1000")
    assert raw(sandbox, *(bytes([byte]) for byte in head + body)).endswith(b"\r\n\r\n1000")


def test_continue_is_sent_before_the_body(sandbox):
    head = b"POST /res.php HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=30) as connection:
        connection.sendall(head)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert b"200 OK" in connection.recv(1000)


@pytest.mark.parametrize(("version", "closes"), [("1.0", True), ("1.1", False)])
def test_who_keeps_the_connection(sandbox, version, closes):
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=30) as connection:
        connection.sendall(POLL.replace("1.1", version).encode() + b"\r\n")
        head = connection.recv(1000)
        assert (b"Connection: close" in head) == closes
        if closes:
            assert connection.recv(10) == b""


@pytest.mark.parametrize(
    ("fault", "request_bytes", "answer"),
    [
        ("delay", (POLL + "\r\n").encode(), b"\r\n\r\n1000"),
        ("hang", (POLL + "\r\n").encode(), b""),
        ("delay", b"GET /in", b""),
    ],
)
def test_a_client_that_closes_its_side_gets_what_is_under_way(sandbox, fault, request_bytes, answer):
    sandbox.set_scenario(f'[[rule]]\nop = "balance"\nfault = "{fault}"\ndelay_s = 0.2\n')
    with socket.create_connection(("127.0.0.1", sandbox.port), timeout=30) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(1000), b""))
    assert received.endswith(answer)
    assert bool(received) == bool(answer)


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, b"nonsense\r\n\r\n"),
        (400, b"GET / HTTP/2.0\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nno colon\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nbad name: x\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        (400, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n"),
        (400, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 5000),
        (413, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n"),
        (413, b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"),
        # Not a byte more: what is not read before the close resets the connection, and the answer may go with it.
        (431, b"GET / HTTP/1.1\r\nA: ".ljust(HEAD_LIMIT + 1, b"x")),
        (501, b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n"),
    ],
)
def test_broken_framing_is_refused_and_the_connection_closed(sandbox, status, request_bytes):
    assert raw(sandbox, request_bytes).startswith(b"HTTP/1.1 %d " % status)


def test_other_verbs_and_pages(client):
    assert client.session.put(client.sandbox.url + "/in.php", timeout=30).status_code == 405
    assert client.get("/load.php").status_code == 404
    assert client.get("//res.php", **BALANCE).text == "1000"
    assert raw(
        client.sandbox, (POLL.replace("GET /", "GET http://host:1/") + "Connection: close\r\n\r\n").encode()
    ).endswith(b"1000")


def test_a_body_at_the_limit_is_read():
    parser = RequestParser("127.0.0.1")
    parser.feed(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % BODY_LIMIT)
    assert parser.next() is None
    parser.feed(bytes(BODY_LIMIT))

    request = parser.next()
    assert request is not None
    assert len(request.body) == BODY_LIMIT
    parser.feed(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_LIMIT + 1))
    with pytest.raises(HttpError):
        parser.next()


@pytest.mark.parametrize(
    ("peer", "status"),
    [("127.0.0.9", 404), ("::1", 404), ("::ffff:127.0.0.1", 404), ("192.0.2.1", 403), ("fe80::1%eth0", 403), ("", 403)],
)
def test_the_ledger_is_for_loopback_only(peer, status):
    request = Request("GET", "/_sandbox/nothing", "", {}, b"", True, peer)

    assert administer(request, None).status == status


def test_it_answers_thousands_of_requests_on_one_connection(sandbox):
    count = 3000
    answer = raw(sandbox, (POLL + "\r\n").encode() * count + (POLL + "Connection: close\r\n\r\n").encode())

    assert answer.count(b"HTTP/1.1 200 OK") == count + 1
    assert sandbox.totals()["connections"] == 1
    assert sandbox.totals()["requests"] == count + 1
