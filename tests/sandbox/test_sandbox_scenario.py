"""The scenario file: everything wrong with it is said at once, and a bad one changes nothing."""

import statistics
import tomllib
from pathlib import Path

import pytest

from captchad.model.errors import ConfigError
from captchad.provider.sandbox.chance import draw
from captchad.provider.sandbox.scenario import Scenario, load, parse

ROOT = Path(__file__).resolve().parents[2]


def problems(text):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [(each.key, each.message, each.hint) for each in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sed = 1", "sed"),
        ("seed = 'x'", "seed"),
        ("[solve]\nseconds = -1", "solve.seconds"),
        ("[solve]\nseconds = [3, 1]", "solve.seconds"),
        ("[solve]\nseconds = {median = 0}", "solve.seconds.median"),
        ("[solve]\nsecond = 1", "solve.second"),
        ("[solve.methods]\nturnstile = 'long'", "solve.methods.turnstile"),
        ("[[key]]\nkey = 'short'", "key[0].key"),
        ("[[key]]\n[[key]]", "key[1].key"),
        ("[[key]]\nthreads = 1.5", "key[0].threads"),
        ("key = 1", "key"),
        ("[faults.submit]\nhtml = 1.5", "faults.submit.html"),
        ("[faults.submit]\nhtml = 0.6\nempty = 0.6", "faults.submit"),
        ("[faults.submit]\nhttp_200 = 0.1", "faults.submit.http_200"),
        ("[faults.poll]\nnonsense = 0.1", "faults.poll.nonsense"),
        ("[faults.all]\nhtml = 0.1", "faults.all"),
        ("[outcomes]\nlost = 0.1", "outcomes.lost"),
        ("[[rule]]\nop = 'poll'", "rule[0]"),
        ("[[rule]]\nfault = 'html'\noutcome = 'never'", "rule[0]"),
        ("[[rule]]\noutcome = 'never'\nop = 'poll'", "rule[0].op"),
        ("[[rule]]\nfault = 'ERROR_CAPTCHA_UNSOLVABLE'", "rule[0].fault"),
        ("[[rule]]\nfault = 'html'\nmatch = {sitekey = 1}", "rule[0].match.sitekey"),
        ("[[rule]]\nfault = 'html'\ntime = 1", "rule[0].time"),
        ("[[outage]]\nfault = 'fire'", "outage[0].fault"),
        ("[switches]\nsaturation = 'full'", "switches.saturation"),
        ("[switches]\ninteger_ids = 'all'", "switches.integer_ids"),
        ("[switches]\nresult_key = 1", "switches.result_key"),
        ("[limits]\nbad_key_code = 'x'", "limits.bad_key_code"),
        ("[limits]\nturn_call = 1", "limits.turn_call"),
        ("[pingback]\nverb = 'PUT'", "pingback.verb"),
        ("[delivery]\npace = 1", "delivery.pace"),
        ("pingback = 1", "pingback"),
        ("not toml", "scenario"),
    ],
)
def test_what_is_wrong_is_named(text, key):
    assert key in [found for found, _, _ in problems(text)]


def test_all_faults_at_once_with_hints():
    found = problems("sed = 1\n[switches]\nsaturation = 'queued'\n[delivery]\npace_s = -1")

    assert [key for key, _, _ in found] == ["switches.saturation", "delivery.pace_s", "sed"]
    assert found[2][2] == "did you mean 'seed'?"
    assert found[0][2] == "did you mean 'queue'?"


def test_the_line_of_broken_toml():
    with pytest.raises(ConfigError) as caught:
        parse("seed = 1\nx = = 2\n")

    assert caught.value.problems[0].line == 2


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError):
        load(tmp_path / "none.toml")


def test_a_key_is_not_shown():
    assert "aaaa" not in repr(Scenario())


def test_the_example_is_good_and_shows_every_table():
    path = ROOT / "etc" / "sandbox-example.toml"
    load(path)

    tables = set(tomllib.loads(path.read_text()))
    assert tables == {
        "seed", "key", "solve", "delivery", "faults", "outcomes", "rule", "outage", "switches", "limits", "pingback",
    }  # fmt: skip


def test_solve_times_follow_their_distribution():
    scenario = parse(
        "[solve]\nseconds = 7\n[solve.methods]\nturnstile = [1, 3]\n"
        "userrecaptcha = {median = 20, sigma = 0.5, max = 60}\n"
    )
    draws = [draw(1, n) for n in range(4000)]
    uniform = [scenario.solve_time("turnstile")(u) for u in draws]
    lognormal = [scenario.solve_time("userrecaptcha")(u) for u in draws]

    assert {scenario.solve_time("other")(u) for u in draws} == {7}
    assert 1 <= min(uniform) < max(uniform) <= 3
    assert statistics.mean(uniform) == pytest.approx(2, abs=0.05)
    assert statistics.median(lognormal) == pytest.approx(20, rel=0.05)
    assert max(lognormal) == 60
    assert 0 < min(draws) < max(draws) < 1


def test_a_bad_scenario_is_refused_and_the_old_one_goes_on(sandbox, client):
    with pytest.raises(ValueError, match="did you mean 'solve'"):
        sandbox.set_scenario("[solv]\nseconds = 1000\n")

    assert client.res("get", client.create()).startswith("OK|")


def test_a_new_scenario_takes_effect_live(sandbox, client):
    captcha_id = client.create()
    other = "b" * 32
    sandbox.set_scenario(f"[solve]\nseconds = 0\n[[key]]\nkey = '{other}'\nbalance = 5\n")

    assert client.res("get", captcha_id) == "ERROR_KEY_DOES_NOT_EXIST"
    assert client.res("getbalance", key=other) == "5"
    assert len(sandbox.captchas()) == 1, "the ledger stays"


def test_reset_forgets_and_ids_are_never_used_again(sandbox, client):
    captcha_id = client.create()
    sandbox.reset()

    assert sandbox.ledger()["captchas"] == []
    assert client.res("getbalance") == "1000"
    assert client.res("get", captcha_id) == "ERROR_WRONG_CAPTCHA_ID"
    assert int(client.create()) > int(captcha_id)
