"""Answers from bytes: what is whole, what is not, and what the connection is good for afterwards."""

import http.client
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captchad.provider.http1 import MAX_BODY, MAX_HEADERS, MAX_LINE, Answer, read_answer
from captchad.provider.resolver import StopError

CHUNKED = b"Transfer-Encoding: chunked\r\n"


def read(data, size=1 << 16):
    """What comes of `data`, received in pieces of `size` bytes."""
    stream = io.BytesIO(data)
    return read_answer(lambda: stream.read(size))


def answer(head, body=b"", status=b"HTTP/1.1 200 OK"):
    return status + b"\r\n" + head + b"\r\n" + body


def test_a_whole_answer():
    data = answer(b"Content-Type: text/plain\r\nCONTENT-length: 4\r\n", b"OK|1")
    assert read(data) == Answer(200, "text/plain", b"OK|1", keep=True)


@pytest.mark.parametrize(
    ("data", "body", "keep"),
    [
        (answer(b"Content-Length: 2\r\n", b"OKx"), b"OK", False),
        (answer(b"Content-Length: 2\r\nConnection: Close\r\n", b"OK"), b"OK", False),
        (answer(b"Content-Length: 2\r\nContent-Length: 2\r\n", b"OK"), b"OK", True),
        (answer(b"Content-Length: 2, 2\r\n", b"OK"), b"OK", True),
        (answer(b"Content-Length : 2\r\n", b"OK"), b"OK", True),
        (answer(b"Content-Length:\r\n 2\r\n", b"OK"), b"OK", True),
        (answer(b" folded: nothing\r\nno colon\r\nContent-Length: 2\r\n", b"OK"), b"OK", True),
        (b"HTTP/1.1 200\nContent-Length: 2\n\nOK", b"OK", True),
        (answer(b"", b"OK"), b"OK", False),
        (answer(b"", b""), b"", False),
        (answer(b"Content-Length: 2\r\n", b"OK", b"HTTP/1.0 200 OK"), b"OK", False),
        (answer(b"Content-Length: 2\r\nConnection: keep-alive\r\n", b"OK", b"HTTP/1.0 200 OK"), b"OK", True),
        (answer(CHUNKED, b"1;x=y\r\nO\r\n01\r\nK\r\n0\r\n\r\n"), b"OK", True),
        (answer(CHUNKED, b"2\r\nOK\r\n0\r\nA: b\r\n\r\n"), b"OK", True),
        (answer(CHUNKED, b"2\r\nOK\r\n0\r\n"), b"OK", False),
        (answer(CHUNKED + CHUNKED, b"2\r\nOK\r\n0\r\n\r\n"), b"OK", True),
        (answer(b"Content-Length: 1\r\n" + CHUNKED, b"2\r\nOK\r\n0\r\n\r\n"), b"OK", False),
        (answer(b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n", b"OK"), b"OK", True),
        (answer(b"", b"", b"HTTP/1.1 103 Early Hints") + answer(b"Content-Length: 2\r\n", b"OK"), b"OK", True),
    ],
)
def test_the_end_of_a_body(data, body, keep):
    for size in (1, 3, 1 << 16):
        got = read(data, size)
        # What comes later than the answer cannot be seen here, but before the next request.
        assert (got.body, got.keep) == (body, keep or (size == 1 and data.endswith(b"x")))


@pytest.mark.parametrize("status", [204, 304])
def test_no_body(status):
    head = answer(b"Content-Length: 9\r\n", b"", b"HTTP/1.1 %d No Content" % status)
    assert read(head) == Answer(status, "", b"", keep=True)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "closed without"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "status line"),
        (b"ICY 200 OK\r\n\r\n", "status line"),
        (b"HTTP/2 200\r\n\r\n", "status line"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "status line"),
        (answer(b"", b"", b"HTTP/1.1 101 Switching Protocols"), "another protocol"),
        (answer(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"OK"), "content length"),
        (answer(b"Content-Length: -1\r\n", b"OK"), "content length"),
        (answer(b"Content-Length: +2\r\n", b"OK"), "content length"),
        (answer(b"Content-Length: 2\rx: y\r\n", b"OK"), "content length"),
        (answer(b"Content-Length:\r\n", b"OK"), "content length"),
        (answer(b"Content-Length: " + b"9" * 5000 + b"\r\n", b"OK"), "too big"),
        (answer(b"Content-Length: %d\r\n" % (MAX_BODY + 1), b"OK"), "too big"),
        (answer(b"Transfer-Encoding: gzip, chunked\r\n", b"2\r\nOK\r\n0\r\n\r\n"), "transfer coding"),
        (answer(CHUNKED, b"-2\r\nOK\r\n0\r\n\r\n"), "chunk"),
        (answer(CHUNKED, b"2\r\nOKAY\r\n0\r\n\r\n"), "chunk"),
        (answer(CHUNKED, b"%x\r\nOK" % (MAX_BODY + 1)), "too big"),
        (answer(b"A: b\r\n" * (MAX_HEADERS + 1)), "too many headers"),
        (answer(CHUNKED, b"0\r\n" + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n"), "too many headers"),
        (answer(b"A: " + b"b" * MAX_LINE + b"\r\n"), "a long line"),
        (b"HTTP/1.1 200 " + b"b" * (2 * MAX_LINE), "a long line"),
    ],
)
def test_no_answer(data, what):
    for size in (1, 1 << 16):
        with pytest.raises(StopError, match=what):
            read(data, size)


def test_as_many_headers_and_as_long_a_line_as_there_may_be():
    head = b"A: b\r\n" * (MAX_HEADERS - 1) + b"Content-Length: 2".ljust(MAX_LINE - 1) + b"\r\n"
    assert read(answer(head, b"OK")).body == b"OK"


def chunks(pieces):
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


statuses = st.integers(200, 599)
types = st.sampled_from(["text/html; charset=utf-8", "application/json", ""])
others = st.lists(st.sampled_from([b"Server: nginx", b"Vary:  a,b ", b"X-A:", b"Date: x:y"]), max_size=4)
bodies = st.lists(st.binary(max_size=40), max_size=4)


def framed(status, kind, other, pieces, chunked):
    framing = CHUNKED if chunked else b"Content-Length: %d\r\n" % len(b"".join(pieces))
    head = b"".join(line + b"\r\n" for line in other) + b"Content-Type: " + kind.encode() + b"\r\n" + framing
    body = chunks(pieces) if chunked else b"".join(pieces)
    return answer(head, body, b"HTTP/1.1 %d Whatever" % status)


class Socket:
    """What http.client takes for one."""

    def __init__(self, data):
        self.data = data

    def makefile(self, mode):
        return io.BytesIO(self.data)


@given(statuses, types, others, bodies, st.booleans(), st.integers(1, 50))
def test_it_reads_what_the_standard_library_reads(status, kind, other, pieces, chunked, size):
    data = framed(status, kind, other, () if status in (204, 304) else pieces, chunked)
    reference = http.client.HTTPResponse(Socket(data))
    reference.begin()
    got = read(data, size)
    assert (got.status, got.content_type) == (reference.status, reference.getheader("Content-Type"))
    assert got.body == reference.read()


@given(types, others, bodies, st.booleans(), st.data())
def test_no_part_of_an_answer_passes_for_a_whole_one(kind, other, pieces, chunked, data):
    whole = framed(200, kind, other, pieces, chunked)
    end = len(whole) - 2 if chunked else len(whole)  # with the last chunk the body is whole
    cut = data.draw(st.integers(0, end - 1))
    with pytest.raises(StopError):
        read(whole[:cut])
