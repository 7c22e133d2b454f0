"""The client of a provider: what each answer, and each missing answer, makes of a submit and of a poll."""

import contextlib
import json
import threading

import pytest

from captchad.model.codes import CODES, OWN_CODES
from captchad.model.states import Category
from captchad.provider.answers import Failed, Pending, Refused, Solved, Submitted, Threads
from captchad.provider.client import Fault, NotSent, ProviderClient, Unknown
from captchad.provider.transport import Transport
from tests.provider.hostile import CERTIFICATE, KEY, Hostile, answering, http, soon

PROVIDER_CODES = sorted(set(CODES) - OWN_CODES)
FIELDS = {"method": "userrecaptcha", "googlekey": "6Le"}


@contextlib.contextmanager
def talking(*answers, status="200 OK", script=None):
    """A client and a server that gives these answers, one for each request."""
    bodies = [answer if isinstance(answer, bytes) else json.dumps(answer).encode() for answer in answers]
    with Hostile(script or answering(*(http(body, status=status) for body in bodies))) as server:
        client = ProviderClient("p", server.url + "/", KEY)
        with contextlib.closing(client):
            yield client, server


def submit(*answers, **options):
    with talking(*answers, **options) as (client, _):
        return client.submit(FIELDS, soon())


def poll(*answers, **options):
    with talking(*answers, **options) as (client, _):
        return client.poll("17", soon())


def test_what_a_submit_sends():
    with talking(b"OK|17") as (client, server):
        fields = {**FIELDS, "key": "of somebody else", "json": "0"}
        assert client.submit(fields, soon()) == Submitted("17")
        assert fields["json"] == "0", "the task's fields are left alone"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /in.php HTTP/1.1")
    assert b"k3y" not in head
    assert body == b"method=userrecaptcha&googlekey=6Le&key=k3y%2B%2F%3D%260123456789abcdef012345678&json=1"


def test_what_the_others_send():
    with talking(b"CAPCHA_NOT_READY", b"1.5", b"OK_REPORT_RECORDED", b"OK_REPORT_RECORDED") as (client, server):
        assert client.poll("17", soon()) == Pending()
        assert client.balance(soon()) == 1.5
        assert client.report("17", good=True, deadline=soon()) is None
        assert client.report("17", good=False, deadline=soon()) is None
    lines = [request.partition(b"\r\n")[0].decode() for request in server.requests]
    key = "key=k3y%2B%2F%3D%260123456789abcdef012345678"
    assert lines == [
        f"GET /res.php?{key}&action=get&id=17&json=1 HTTP/1.1",
        f"GET /res.php?{key}&action=getbalance&json=1 HTTP/1.1",
        f"GET /res.php?{key}&action=reportgood&id=17&json=1 HTTP/1.1",
        f"GET /res.php?{key}&action=reportbad&id=17&json=1 HTTP/1.1",
    ]
    assert server.connections == 1


def test_threads_are_asked_for_by_a_form():
    with talking(b'{"threads":"10","working_threads":3}', b"ERROR_KEY_DOES_NOT_EXIST") as (client, server):
        assert client.threads(soon()) == Threads(10, 3)
        assert client.threads(soon()) == Fault("ERROR_KEY_DOES_NOT_EXIST", Category.PERMANENT, "")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /res.php HTTP/1.1")
    assert body == b"key=k3y%2B%2F%3D%260123456789abcdef012345678&action=threadsinfo&json=1"


def test_every_code_over_the_wire():
    """A poll fails only by what is the task's; everything else is a fault, and the captcha is polled again."""
    texts = [code.encode() for code in PROVIDER_CODES]
    objects = [{"status": 0, "request": code} for code in PROVIDER_CODES]
    for answers in (texts, objects):
        with talking(*answers) as (client, _):
            for code in PROVIDER_CODES:
                category = CODES[code].category
                got = client.poll("17", soon())
                if code.endswith("CHA_NOT_READY"):
                    assert got == Pending()
                elif category is Category.TASK:
                    assert got == Failed(code, category)
                else:
                    assert got == Fault(code, category, "")
        with talking(*answers) as (client, _):
            for code in PROVIDER_CODES:
                got = client.submit(FIELDS, soon())
                ready = code.endswith("CHA_NOT_READY")
                assert got == (
                    Unknown("neither a captcha id nor a code") if ready else Refused(code, CODES[code].category)
                )


def closes(peer):
    peer.request()


def resets(peer):
    peer.request()
    peer.reset()


def cuts(peer):
    peer.request()
    peer.send(http(b"OK|2122988149")[:-4])


@pytest.mark.parametrize("script", [closes, resets, cuts])
def test_a_lost_answer(script):
    assert isinstance(submit(script=script), Unknown)
    got = poll(script=script)
    assert (got.code, got.category) == ("NETWORK", Category.TRANSIENT)


@pytest.mark.parametrize(
    ("status", "body", "submitted", "polled"),
    [
        ("502 Bad Gateway", b"<html>", Unknown("http 502: a web page"), ("HTTP_5XX", Category.TRANSIENT)),
        ("500 Oops", b"", Unknown("http 500: empty"), ("HTTP_5XX", Category.TRANSIENT)),
        ("200 OK", b"<html>", Unknown("a web page"), ("UNPARSEABLE", Category.TRANSIENT)),
        ("302 Found", b"", Unknown("http 302: a redirect"), ("UNPARSEABLE", Category.TRANSIENT)),
        ("429 Slow", b"", Refused("HTTP_429", Category.TRANSIENT, "http 429"), ("HTTP_429", Category.TRANSIENT)),
        ("404 No", b"", Refused("HTTP_4XX", Category.PERMANENT, "http 404"), ("HTTP_4XX", Category.PERMANENT)),
    ],
)
def test_an_answer_that_is_none(status, body, submitted, polled):
    assert submit(body, status=status) == submitted
    got = poll(body, status=status)
    assert isinstance(got, Fault)
    assert (got.code, got.category) == polled


def test_an_answer():
    assert poll({"status": 1, "request": "03AG", "user_agent": "UA"}) == Solved("03AG", None, {"user_agent": "UA"})


def test_nobody_there():
    with Hostile(closes) as server:
        url = server.url
    client = ProviderClient("p", url, KEY)
    assert client.submit(FIELDS, soon()) == NotSent("connect: connection refused")
    refused = Fault("NETWORK", Category.TRANSIENT, "connect: connection refused")
    assert client.poll("17", soon()) == refused
    assert client.balance(soon()) == refused
    assert client.report("17", True, soon()) == refused


def test_a_field_that_cannot_be_sent_blames_the_task():
    with talking(b"OK|17") as (client, server):
        got = client.submit({**FIELDS, "data": "\ud800"}, soon())
        assert got == Refused("BAD_FIELDS", Category.TASK, "a field is not valid Unicode")
        assert server.connections == 0


def test_faults_of_the_small_calls():
    with talking(b"ERROR_WRONG_USER_KEY", b"<html>", b"ERROR_DUPLICATE_REPORT") as (client, _):
        assert client.balance(soon()) == Fault("ERROR_WRONG_USER_KEY", Category.PERMANENT, "")
        assert client.balance(soon()) == Fault("UNPARSEABLE", Category.TRANSIENT, "a web page")
        assert client.report("17", True, soon()) == Fault("ERROR_DUPLICATE_REPORT", Category.TASK, "")


def test_a_provider_that_echoes_the_key():
    """In words about an error, as a code, and in the status line."""
    echo = f"you said {KEY} or k3y%2B%2F%3D%260123456789abcdef012345678"
    plain = "abcdef0123456789ABCDEF0123456789"
    for body in (
        {"status": 0, "request": "ERROR_UPLOAD", "error_text": echo},
        f"ERROR_UPLOAD: {echo}".encode(),
        f"ERROR_SERVER_ERROR: {echo}".encode(),
        echo.encode(),
    ):
        for outcome in (submit(body), poll(body), submit(body, status=f"500 {KEY}")):
            assert "k3y" not in repr(outcome)
    with Hostile(answering(http(f"ERROR_{plain.upper()}".encode()))) as server:
        client = ProviderClient("p", server.url, plain)
        with contextlib.closing(client):
            assert client.submit(FIELDS, soon()) == Refused("ERROR_***", Category.TASK)
            assert plain not in repr(client)


def test_one_transport_made_at_the_first_call():
    made = []

    def factory():
        made.append(Transport(ca_file=str(CERTIFICATE)))
        return made[-1]

    with Hostile(answering(http(b"OK|17")), tls=True) as server:
        client = ProviderClient("p", server.url, KEY, factory)
        client.abort()
        client.close()
        assert client.deadline is None
        assert made == []
        assert client.submit(FIELDS, soon()) == Submitted("17")
        assert client.poll("17", soon()) == Solved("17")
        client.close()
    assert len(made) == 1


def test_abort_from_another_thread():
    with talking(script=lambda peer: (peer.request(), peer.wait())) as (client, server):
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(client.submit(FIELDS, soon(1000))))
        thread.start()
        assert server.arrived.wait(20)
        assert client.deadline is not None
        client.abort(soon(500))
        assert client.deadline is not None
        client.abort()
        thread.join(20)
    assert outcome == [Unknown("aborted")]
