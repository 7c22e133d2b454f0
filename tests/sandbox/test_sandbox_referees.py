"""The official clients of both dialects, as they are on PyPI, judge the sandbox.

captchaai 1.0.1 writes its engine as a generator that asks for calls and sleeps; `Impatient` drives the same engine and
leaves out the sleeps (1 to 15 s before the first poll). The slow test lets the clients wait as they like.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
from captchaai import CaptchaAI, InvalidKeyError, ThreadLimitError, UnsolvableError, ValidationError
from captchaai.core.orchestrator import ApiCall
from twocaptcha import TwoCaptcha
from twocaptcha.api import ApiException, NetworkException

from tests.provider.hostile import CERTIFICATE
from tests.sandbox.talk import KEY, PAGE, png, until
from tests.support.sandbox import Sandbox

PROXY = {"proxy": "u:p@192.0.2.1:8080", "proxytype": "HTTP"}


class Impatient(CaptchaAI):
    """The official client, but it does not sleep."""

    def _drive_engine(self, engine):
        answer = None
        try:
            while True:
                effect = engine.send(answer)
                is_call = isinstance(effect, ApiCall)
                answer = self._transport.request_raw(effect.method, effect.url, effect.data) if is_call else None
        except StopIteration as stop:
            return stop.value


#: Each kind of captcha of the SDK, and what its answer must be.
KINDS = {
    "normal": (lambda client: client.normal(png()), str),
    "grid": (lambda client: client.grid(png(), "click the buses", "3x3"), list),
    "bls": (lambda client: client.bls([png()] * 9, "click 5"), list),
    "recaptcha_v2": (lambda client: client.recaptcha_v2("6Labc", PAGE), str),
    "recaptcha_v2_invisible": (lambda client: client.recaptcha_v2("6Labc", PAGE, invisible=True), str),
    "recaptcha_v2_enterprise": (lambda client: client.recaptcha_v2("6Labc", PAGE, enterprise=True), str),
    "recaptcha_v3": (lambda client: client.recaptcha_v3("6Labc", PAGE, action="login", min_score=0.5), str),
    "recaptcha_v3_enterprise": (lambda client: client.recaptcha_v3("6Labc", PAGE, "login", enterprise=True), str),
    "turnstile": (lambda client: client.turnstile("0x4AAA", PAGE), str),
    "cloudflare_challenge": (lambda client: client.cloudflare_challenge(PAGE, **PROXY), str),
    "geetest": (lambda client: client.geetest("gt", "challenge", PAGE), dict),
    "captchafox": (lambda client: client.captchafox("sk_abc", PAGE, **PROXY), str),
    "friendly_captcha": (lambda client: client.friendly_captcha("FCM", PAGE), str),
    "lemin": (lambda client: client.lemin("CROPPED_1", "lemin-cropped-captcha", PAGE), dict),
}
WITH_USER_AGENT = {"recaptcha_v2_enterprise", "recaptcha_v3_enterprise", "cloudflare_challenge", "captchafox"}


def judge(client, kind):
    ask, wanted = KINDS[kind]
    result = ask(client)
    assert isinstance(result.solution, wanted), result
    assert result.task_id.isdigit()
    assert bool(result.user_agent) == (kind in WITH_USER_AGENT)


@pytest.mark.parametrize("structured", ["string", "object"])
@pytest.mark.parametrize("kind", KINDS)
def test_captchaai(sandbox, kind, structured):
    sandbox.set_scenario(f"[solve]\nseconds = 0\n[switches]\nstructured = '{structured}'\n")
    client = Impatient(KEY, base_url=sandbox.url)
    judge(client, kind)
    client.close()

    (captcha,) = sandbox.captchas()
    assert (captcha["state"], captcha["polls"], captcha["answered"]) == ("solved", 1, True)


def test_captchaai_with_its_own_waits(sandbox):
    """Three that wait a second only, side by side."""
    client = CaptchaAI(KEY, base_url=sandbox.url)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda kind: judge(client, kind), ["normal", "grid", "bls"]))
    client.close()

    assert sandbox.totals()["polls"] == 3


@pytest.mark.slow
def test_captchaai_all_kinds_with_their_own_waits(sandbox):
    client = CaptchaAI(KEY, base_url=sandbox.url)
    with ThreadPoolExecutor(len(KINDS)) as pool:
        list(pool.map(lambda kind: judge(client, kind), KINDS))
    client.close()


def test_captchaai_polls_until_it_is_ready(sandbox):
    sandbox.set_scenario("[solve]\nseconds = 0.2\n")
    # Without sleeps the client counts 5 s for each poll, and gives up after 180 of them.
    client = Impatient(KEY, base_url=sandbox.url)
    client._config.max_poll_seconds = 1_000_000
    judge(client, "turnstile")
    client.close()

    (captcha,) = sandbox.captchas()
    assert captcha["polls"] == captcha["not_ready"] + 1 > 1


def test_captchaai_understands_what_goes_wrong(sandbox):
    client = Impatient(KEY, base_url=sandbox.url)
    assert client.threads_info() == {"threads": 1000, "working_threads": 0}
    # Not through the constructor, which would leave its connection open.
    client._config.api_key = "x" * 32
    with pytest.raises(InvalidKeyError):
        client.threads_info()
    client._config.api_key = KEY

    sandbox.set_scenario("[outcomes]\nERROR_CAPTCHA_UNSOLVABLE = 1\n[solve]\nseconds = 0\n")
    with pytest.raises(UnsolvableError):
        client.turnstile("0x4AAA", PAGE)
    sandbox.set_scenario("[[rule]]\nfault = 'ERROR_SERVER_ERROR'\ntimes = 2\n[solve]\nseconds = 0\n")
    judge(client, "turnstile")
    with pytest.raises(ValidationError):
        client.turnstile("0x4AAA", "no page")
    sandbox.set_scenario("[[rule]]\nfault = 'ERROR_UPLOAD'\n[switches]\nplain_errors = ['*']\n")
    with pytest.raises(ValidationError):
        client.normal(png())
    client.close()


def test_captchaai_sees_that_all_threads_are_busy(sandbox):
    sandbox.set_scenario("[[key]]\nthreads = 1\n[switches]\nsaturation = 'zero_balance'\n[solve]\nseconds = 1000\n")
    client = Impatient(KEY, base_url=sandbox.url)
    client.send("turnstile", sitekey="0x4AAA", pageurl=PAGE)
    with pytest.raises(ThreadLimitError):
        client.send("turnstile", sitekey="0x4AAB", pageurl=PAGE)
    client.close()


# 2captcha-python: always https, text protocol, picture files as multipart.


@pytest.fixture(scope="module")
def tls_process():
    with Sandbox(tls=(CERTIFICATE, CERTIFICATE)) as sandbox:
        yield sandbox


@pytest.fixture
def tls(tls_process, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    tls_process.set_scenario("[solve]\nseconds = 0\n[switches]\ndialect = '2captcha'\nresult_key = false\n")
    tls_process.reset()
    return tls_process


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "captcha.png"
    path.write_bytes(png())
    return str(path)


def solver(sandbox, **options):
    return TwoCaptcha(KEY, server=f"127.0.0.1:{sandbox.port}", pollingInterval=1, **options)


TWO = {
    "normal": (lambda client, picture: client.normal(picture, caseSensitive=1), str.isalpha),
    "normal with a hint": (lambda client, picture: client.normal(picture, hintImg=picture), str.isalpha),
    "text": (lambda client, _: client.text("2 + 2"), str.isalpha),
    "recaptcha": (lambda client, _: client.recaptcha("6Labc", PAGE), lambda code: code.startswith("03AG")),
    "recaptcha v3": (
        lambda client, _: client.recaptcha("6Labc", PAGE, version="v3", enterprise=1, score=0.7),
        lambda code: code.startswith("03AG"),
    ),
    "turnstile": (lambda client, _: client.turnstile("0x4AAA", PAGE), lambda code: code.startswith("0.")),
    "geetest": (lambda client, _: client.geetest("gt", "ch", PAGE), lambda code: "geetest_seccode" in code),
    "rotate": (lambda client, picture: client.rotate([picture, picture], angle=40), str.isdigit),
    "grid": (lambda client, picture: client.grid(picture, hintText="buses"), lambda code: code.startswith("click:")),
    "coordinates": (
        lambda client, picture: client.coordinates(picture, hintText="green"),
        lambda code: code.startswith("coordinates:x="),
    ),
    "amazon_waf": (lambda client, _: client.amazon_waf("s", "iv", "ctx", PAGE), lambda code: "captcha_voucher" in code),
    "keycaptcha": (lambda client, _: client.keycaptcha(10, "s", "w", "w2", PAGE), lambda code: len(code) > 100),
    "prosopo": (lambda client, _: client.prosopo("5Abc", PAGE), lambda code: len(code) > 100),
}


@pytest.mark.parametrize("kind", TWO)
def test_2captcha(tls, picture, kind):
    ask, good = TWO[kind]
    answer = ask(solver(tls), picture)

    assert good(answer["code"]), answer
    (captcha,) = tls.captchas()
    assert (captcha["captcha_id"], captcha["answered"]) == (answer["captchaId"], True)
    assert captcha["fields"]["soft_id" if "soft_id" in captcha["fields"] else "softId"] == "4580"


def test_2captcha_balance_and_reports(tls):
    client = solver(tls)
    first, second = client.turnstile("0x4AAA", PAGE), client.turnstile("0x4AAA", PAGE)

    assert client.balance() == 999.998
    assert client.report(first["captchaId"], True) == "OK_REPORT_RECORDED"
    assert client.report(second["captchaId"], False) == "OK_REPORT_RECORDED"
    assert [each["reported"] for each in tls.captchas()] == ["good", "bad"]
    with pytest.raises(ApiException, match="ERROR_DUPLICATE_REPORT"):
        client.report(first["captchaId"], True)


def test_2captcha_extended_response(tls, picture):
    tls.set_scenario("[solve]\nseconds = 0\n[switches]\ndialect = '2captcha'\nstructured = 'object'\n")
    client = solver(tls, extendedResponse=True)

    assert client.turnstile("0x4AAA", PAGE)["useragent"].startswith("Mozilla")
    assert {"x", "y"} == set(client.coordinates(picture, hintText="green")["code"][0])


def test_2captcha_waits_and_fails(tls):
    client = solver(tls)
    with pytest.raises(ApiException, match="ERROR_PAGEURL"):
        client.turnstile("0x4AAA", "no page")
    tls.set_scenario("[solve]\nseconds = 0.3\n[outcomes]\nERROR_CAPTCHA_UNSOLVABLE = 1\n")
    with pytest.raises(ApiException, match="ERROR_CAPTCHA_UNSOLVABLE"):
        client.turnstile("0x4AAA", PAGE)
    assert until(lambda: tls.captchas()[0]["state"]) == "failed"


@pytest.mark.parametrize("fault", ["reset_after", "close_after", "cut"])
def test_broken_connections_over_tls(tls, fault):
    tls.set_scenario(f"[[rule]]\nfault = '{fault}'\n")
    with pytest.raises(NetworkException):
        solver(tls).turnstile("0x4AAA", PAGE)
    assert tls.totals()["charges"] == 1
