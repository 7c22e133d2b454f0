"""Client against practice provider: what the client says of a submit, and what the provider's ledger says."""

import contextlib

import pytest

from captchad.model.states import Category
from captchad.provider.answers import Failed, Pending, Refused, Solved, Submitted, Threads
from captchad.provider.client import Fault, NotSent, ProviderClient, Unknown
from captchad.provider.transport import Transport
from tests.provider.hostile import CERTIFICATE, soon
from tests.support.sandbox import Sandbox

PAGE = "https://example.com/"
FIELDS = {
    "method": "userrecaptcha",
    "googlekey": "6Le-wvkSAAAAAPBMRTvw0Q4Muexq9bi0DJwx_mJ-",
    "pageurl": PAGE,
}
AT_ONCE = "[solve]\nseconds = 0\n"

#: For those that never end a call by themselves.
SHORT_S = 0.7


@pytest.fixture(scope="module")
def process():
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(process):
    process.set_scenario(AT_ONCE)
    process.reset()
    return process


@pytest.fixture
def client(sandbox):
    with contextlib.closing(ProviderClient("sandbox", sandbox.url, sandbox.key)) as client:
        yield client


def strike(sandbox, op, fault):
    sandbox.set_scenario(f'{AT_ONCE}[faults.{op}]\n"{fault}" = 1.0\n')


def test_from_submit_to_report(sandbox, client):
    money = client.balance(soon())
    submitted = client.submit(FIELDS, soon())
    assert isinstance(submitted, Submitted)
    solved = client.poll(submitted.cid, soon())
    assert isinstance(solved, Solved)
    assert sandbox.verify(solved.token)["valid"] is True
    assert client.balance(soon()) < money
    assert client.report(submitted.cid, True, soon()) is None
    assert client.report(submitted.cid, True, soon()).code == "ERROR_DUPLICATE_REPORT"
    assert sandbox.totals()["charges"] == 1


def test_threads_in_both_writings(sandbox, client):
    for writing in ("number", "string"):
        sandbox.set_scenario(f'[[key]]\nthreads = 7\n[switches]\nthreads_as = "{writing}"\n')
        assert client.threads(soon()) == Threads(7, 0)


@pytest.mark.parametrize(
    "options",
    ['integer_ids = ["userrecaptcha"]', "integer_ids = []", 'plain_errors = ["ERROR_PAGEURL"]', "error_text = true"],
)
def test_dialects(sandbox, client, options):
    sandbox.set_scenario(f"{AT_ONCE}[switches]\n{options}\n")
    submitted = client.submit(FIELDS, soon())
    assert isinstance(client.poll(submitted.cid, soon()), Solved)
    refused = client.submit({"method": "userrecaptcha", "googlekey": FIELDS["googlekey"]}, soon())
    assert (refused.code, refused.category) == ("ERROR_PAGEURL", Category.TASK)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({**FIELDS, "enterprise": "1"}, type(None)),
        ({"method": "geetest", "gt": "a" * 32, "challenge": "b" * 32, "pageurl": PAGE}, dict),
        (
            {
                "method": "cloudflare_challenge",
                "pageurl": PAGE,
                "proxy": "a:b@192.0.2.1:80",
                "proxytype": "HTTP",
            },
            type(None),
        ),
    ],
)
@pytest.mark.parametrize("structured", ["string", "object"])
def test_structured_answers(sandbox, client, fields, kind, structured):
    sandbox.set_scenario(f'{AT_ONCE}[switches]\nstructured = "{structured}"\n')
    solved = client.poll(client.submit(fields, soon()).cid, soon())
    assert isinstance(solved, Solved)
    assert isinstance(solved.answer, kind)


SUBMIT_FAULTS = [
    *("html", "empty", "garbage", "big", "redirect", "reset", "close", "http_502", "http_503", "http_429"),
    *("html_after", "empty_after", "garbage_after", "big_after", "redirect_after", "reset_after", "close_after"),
    *("http_502_after", "truncated", "cut", "ERROR_ZERO_BALANCE", "ERROR_SERVER_ERROR", "MAX_USER_TURN", "ERROR: 1001"),
]


@pytest.mark.parametrize("fault", SUBMIT_FAULTS)
def test_the_client_never_says_less_than_the_ledger(sandbox, client, fault):
    """Refused and NotSent: not charged. Submitted: charged. Unknown: either."""
    strike(sandbox, "submit", fault)
    outcome = client.submit(FIELDS, soon())
    charged = len(sandbox.captchas())
    assert charged == int(fault.endswith("_after") or fault in ("truncated", "cut"))
    match outcome:
        case Submitted():
            assert charged == 1
        case Refused() | NotSent():
            assert charged == 0
        case Unknown():
            assert fault.partition("_after")[0] not in ("http_429", "ERROR_ZERO_BALANCE", "ERROR_SERVER_ERROR")


@pytest.mark.parametrize("fault", ["hang", "hang_after", "slow_headers", "drip", "delay"])
def test_a_slow_submit_is_unknown_at_its_deadline(sandbox, client, fault):
    strike(sandbox, "submit", fault)
    assert client.submit(FIELDS, soon(SHORT_S)) == Unknown("deadline passed")


@pytest.mark.parametrize("fault", [*SUBMIT_FAULTS, "IP_BANNED"])
def test_no_fault_ends_a_poll(sandbox, client, fault):
    cid = client.submit(FIELDS, soon()).cid
    strike(sandbox, "poll", fault)
    assert isinstance(client.poll(cid, soon()), Fault)
    sandbox.set_scenario(AT_ONCE)
    assert isinstance(client.poll(cid, soon()), Solved)


def test_outcomes(sandbox, client):
    sandbox.set_scenario("[solve]\nseconds = 1000\n")
    assert client.poll(client.submit(FIELDS, soon()).cid, soon()) == Pending()
    sandbox.set_scenario(AT_ONCE + "[outcomes]\nERROR_CAPTCHA_UNSOLVABLE = 1.0\n")
    cid = client.submit(FIELDS, soon()).cid
    assert client.poll(cid, soon()) == Failed("ERROR_CAPTCHA_UNSOLVABLE", Category.TASK)
    assert client.poll("999999", soon()) == Failed("ERROR_WRONG_CAPTCHA_ID", Category.TASK)


def test_a_provider_that_died_while_the_connection_was_idle(tmp_path):
    """The second submit is sent to the new one, or not at all; never lost in silence."""
    with Sandbox(tmp_path, scenario=AT_ONCE) as first:
        client = ProviderClient("sandbox", first.url, first.key)
        assert isinstance(client.submit(FIELDS, soon()), Submitted)
        port = first.port
    assert isinstance(client.submit(FIELDS, soon()), NotSent)
    with Sandbox(tmp_path, scenario=AT_ONCE, port=port) as second, contextlib.closing(client):
        assert isinstance(client.submit(FIELDS, soon()), Submitted)
        assert len(second.captchas()) == 1


def test_tls(tmp_path):
    with (
        Sandbox(tmp_path, scenario=AT_ONCE, tls=(CERTIFICATE, CERTIFICATE)) as sandbox,
        contextlib.closing(
            ProviderClient("sandbox", sandbox.url, sandbox.key, lambda: Transport(ca_file=str(CERTIFICATE)))
        ) as client,
    ):
        assert isinstance(client.poll(client.submit(FIELDS, soon()).cid, soon()), Solved)


def test_the_price_comes_with_the_answer_where_it_is_asked_for(sandbox, client):
    sandbox.set_scenario(AT_ONCE)
    solved = client.poll(client.submit(FIELDS, soon()).cid, soon(), priced=True)
    assert solved.extra["price"] == "0.001"
    assert "price" not in client.poll(client.submit(FIELDS, soon()).cid, soon()).extra


def test_one_call_tells_which_captchas_are_not_ready(sandbox, client):
    sandbox.set_scenario('[solve]\nseconds = 600\n[[rule]]\nmatch = {pageurl = "*fast*"}\nsolve_s = 0\n')
    pages = (f"{PAGE}slow", f"{PAGE}fast", f"{PAGE}slower")
    cids = [client.submit({**FIELDS, "pageurl": page}, soon()).cid for page in pages]
    assert client.unready(cids, soon()) == [True, False, True]
    assert sandbox.totals()["polls"] == 1


def test_a_call_about_many_that_fails_tells_nothing(sandbox, client):
    strike(sandbox, "poll", "http_503")
    assert client.unready(["1", "2"], soon()) is None
