"""Callbacks, received by a true server: verb, duplicates, losses."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.sandbox.talk import until


class Receiver:
    """Keeps what it gets: (verb, path with query, body)."""

    def __init__(self, status=200):
        received = self.received = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                received.append((self.command, self.path, body))
                self.send_response(status)
                self.end_headers()

            do_POST = do_GET  # noqa: N815 - the name that http.server calls

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/done?secret=s"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def scenario(**keys):
    lines = "".join(f"{name} = {value}\n" for name, value in keys.items())
    return f"[solve]\nseconds = 0\n[pingback]\n{lines}"


def test_get_by_default(sandbox, client):
    with Receiver() as receiver:
        captcha_id = client.create(pingback=receiver.url)
        until(lambda: sandbox.totals()["pingbacks_sent"] == 1)

    ((verb, path, body),) = receiver.received
    query = parse_qs(urlsplit(path).query)
    assert (verb, body, query["secret"], query["id"]) == ("GET", "", ["s"], [captcha_id])
    assert "OK|" + query["code"][0] == client.res("get", captcha_id)
    captcha = sandbox.captchas()[0]
    assert (captcha["pingbacks"], captcha["answered"]) == (1, True)
    assert sandbox.verify(query["code"][0])["captcha_id"] == captcha_id


def test_post_with_an_error_code(sandbox, client):
    sandbox.set_scenario(scenario(verb="'POST'") + "[outcomes]\nERROR_CAPTCHA_UNSOLVABLE = 1\n")
    with Receiver() as receiver:
        captcha_id = client.create(pingback=receiver.url)
        until(lambda: sandbox.totals()["pingbacks_sent"] == 1)

    assert receiver.received == [("POST", "/done?secret=s", f"id={captcha_id}&code=ERROR_CAPTCHA_UNSOLVABLE")]


def test_it_comes_when_the_captcha_is_solved_and_not_before(sandbox, client):
    sandbox.set_scenario("[solve]\nseconds = 0.2\n[[key]]\nthreads = 1\n")
    with Receiver() as receiver:
        client.create()
        client.create(pingback=receiver.url)
        # Without asking the sandbox: nobody else may move its clock on.
        until(lambda: receiver.received)
        until(lambda: sandbox.totals()["pingbacks_sent"] == 1)

    captcha = sandbox.captchas()[1]
    assert captcha["answered_at"] >= captcha["ready_at"] >= captcha["created_at"] + 0.2


def test_duplicates(sandbox, client):
    sandbox.set_scenario(scenario(duplicate_p=1))
    with Receiver() as receiver:
        client.create(pingback=receiver.url)
        until(lambda: sandbox.totals()["pingbacks_sent"] == 2)

    first, second = receiver.received
    assert first == second


def test_lost_on_purpose(sandbox, client):
    sandbox.set_scenario(scenario(lose_p=1))
    with Receiver() as receiver:
        client.create(pingback=receiver.url)
        until(lambda: sandbox.totals()["pingbacks_lost"] == 1)

    assert receiver.received == []


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1/", "file:///etc/passwd", "http://127.0.0.1:x/", "http://127.0.0.1/\r\nA: b"]
)
def test_an_address_that_must_not_be_called(sandbox, client, url):
    client.create(pingback=url)

    until(lambda: sandbox.totals()["pingbacks_lost"] == 1)


def test_only_registered_hosts_if_the_scenario_says_so(sandbox, client):
    sandbox.set_scenario(scenario(registered_only="true"))
    with Receiver() as receiver:
        client.create(pingback=receiver.url)
        until(lambda: sandbox.totals()["pingbacks_lost"] == 1)
        client.res("add_pingback", addr="127.0.0.1")
        client.create(pingback=receiver.url)
        until(lambda: sandbox.totals()["pingbacks_sent"] == 1)

    assert len(receiver.received) == 1


def test_a_receiver_that_fails_or_is_not_there(sandbox, client):
    with Receiver(status=500) as receiver:
        client.create(pingback=receiver.url)
        until(lambda: sandbox.totals()["pingbacks_failed"] == 1)
    client.create(pingback=receiver.url)
    until(lambda: sandbox.totals()["pingbacks_failed"] == 2)

    assert [each["answered"] for each in sandbox.captchas()] == [False, False]
