"""The schema: its defaults are the design's, and every key has all that its pages need."""

import dataclasses
from pathlib import Path

import pytest

from captchad.config.changes import changes
from captchad.config.kinds import split_listen
from captchad.config.load import from_dict
from captchad.config.schema import REQUIRED, Reload, keys, tables, to_dict, with_places_of
from captchad.model.errors import ConfigError

DEFAULTS = {
    "daemon": {
        "workers": 4,
        "min_workers": 2,
        "probation_s": 300,
        "log_level": "info",
        "log_format": "plain",
        "state_dir": "/var/lib/captchad",
        "spool_dir": "/var/spool/captchad",
        "runtime_dir": "/run/captchad",
        "allow_weak_fs": False,
    },
    "supervision": {
        "heartbeat_s": 1,
        "boot_s": 30,
        "stall_s": 120,
        "drain_s": 30,
        "restart_max_delay_s": 30,
        "standby": 1,
        "threads": 16,
        "max_tasks": 0,
        "max_private_mb": 0,
        "max_age_s": 0,
        "autoscale_max": 0,
        "autoscale_min": 1,
        "autoscale_age_s": 30,
        "autoscale_cooldown_s": 60,
    },
    "queue": {
        "backend": "journal",
        "capacity": 100_000,
        "result_ttl_s": 3600,
        "id_ttl_s": 86400,
        "dead_ttl_s": 2_592_000,
        "max_redrives": 3,
        "segment_mb": 64,
    },
    "policy": {"allowed_hosts": ["a.example"]},
    "provider": [
        {
            "name": "p",
            "url": "http://h",
            "api_key_file": "/k",
            "max_in_flight": 100,
            "submits_per_3s": 60,
            "batch_polls": False,
            "priority": 1,
            "first_poll_s": 0,
            "poll_s": 5,
            "timeout_s": 180,
            "timeouts": {},
            "submit_s": 30,
            "pause_s": 60,
            "price": 0,
            "price_from_answer": False,
            "low_balance": 0,
            "charges_per_hour": 0,
            "charges_per_day": 0,
        }
    ],
    "retry": {"max_attempts": 3, "base_delay_s": 5, "max_delay_s": 300, "on_unknown_submit": "resubmit"},
    "breaker": {
        "failure_threshold": 5,
        "reset_timeout_s": 60,
        "half_open_successes": 3,
        "return_successes": 5,
        "return_after_s": 120,
    },
    "degradation": {
        "degraded_error_rate": 0.2,
        "emergency_error_rate": 0.5,
        "degraded_queue_ratio": 0.75,
        "hold_s": 30,
    },
    "limits": {"charges_per_hour": 0, "charges_per_day": 0, "tag": "", "tag_charges_per_day": 0},
    "http": {"listen": "127.0.0.1:8480"},
}
LEAST = {
    "policy": {"allowed_hosts": ["a.example"]},
    "provider": [{"name": "p", "url": "http://h", "api_key_file": "/k"}],
}


def changed(**tables_):
    return from_dict({name: LEAST.get(name, {}) | values for name, values in tables_.items()} | LEAST)


def test_the_defaults_are_those_of_the_design():
    assert to_dict(from_dict(LEAST)) == DEFAULTS


def test_every_default_is_in_its_own_range():
    for table in tables():
        for key in keys(table):
            if key.default is not REQUIRED and key.default is not None:
                plain = str(key.default) if isinstance(key.default, Path) else key.default
                plain = dict(plain) if plain == () else plain
                assert key.spec.kind.read(plain) == key.default, key.name


def test_every_key_says_what_its_pages_need():
    for table in tables():
        assert table.doc.endswith(".")
        for key in keys(table):
            assert key.spec.doc.endswith("."), key.name
            assert key.spec.kind.word, key.name
            assert key.spec.kind.range, key.name
            assert not key.name.endswith("_s") or key.spec.unit == "s", key.name
            assert key.default is not REQUIRED or (key.spec.example and key.spec.missing), key.name


def test_what_needs_a_restart():
    marked = {f"{t.name}.{k.name}" for t in tables() for k in keys(t) if k.spec.reload is Reload.RESTART}
    places = {"daemon.state_dir", "daemon.spool_dir", "daemon.runtime_dir"}
    assert marked == places | {"daemon.allow_weak_fs", "queue.backend"}


def test_what_needs_new_workers():
    marked = {f"{t.name}.{k.name}" for t in tables() for k in keys(t) if k.spec.reload is Reload.WORKERS}
    assert marked == {"supervision.threads"}


def told(old, new):
    return [str(each) for each in changes(to_dict(old), to_dict(new))]


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        ({}, []),
        (
            {"daemon": {"workers": 9, "state_dir": "/a"}, "supervision": {"threads": 8}},
            [
                "daemon.workers: 4 -> 9 (live)",
                'daemon.state_dir: "/var/lib/captchad" -> "/a" (takes a restart)',
                "supervision.threads: 16 -> 8 (as workers are replaced)",
            ],
        ),
        ({"supervision": {"threads": 16}}, []),
    ],
)
def test_each_change_is_told_with_what_it_takes(new, lines):
    assert told(from_dict(LEAST), changed(**new)) == lines


def test_a_provider_that_comes_or_goes_is_one_change_and_a_changed_one_tells_its_keys():
    first = {"name": "a.b", "url": "http://a", "api_key_file": "/k"}
    second = {"name": "c", "url": "http://c", "api_key_file": "/k"}
    one = from_dict(LEAST | {"provider": [first]})
    both = from_dict(LEAST | {"provider": [second, {**first, "poll_s": 9.0, "methods": ["hcaptcha"]}]})

    wanted = ["provider.a.b.poll_s: 5.0 -> 9.0 (live)", 'provider.a.b.methods: - -> ["hcaptcha"] (live)']
    assert sorted(told(one, both)) == sorted(["provider.c: - -> there (live)", *wanted])
    assert "provider.c: there -> - (live)" in told(both, one)


def test_the_places_of_another_are_those_that_take_a_restart():
    other = changed(daemon={"workers": 9, "state_dir": "/a"}, retry={"max_attempts": 9})
    mixed = with_places_of(from_dict(LEAST), other)
    assert told(from_dict(LEAST), mixed) == ['daemon.state_dir: "/var/lib/captchad" -> "/a" (takes a restart)']


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        from_dict(LEAST).daemon.workers = 3


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("", None),
        ("127.0.0.1:8480", ("127.0.0.1", 8480)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
    ],
)
def test_where_http_listens(listen, address):
    assert changed(http={"listen": listen}).http.address == address


@pytest.mark.parametrize(
    "listen",
    ["", ":80", "::1", "::1:", "::1:80", "127.0.0.1:", "127.0.0.1:-1", "127.0.0.1:٣", "127.0.0.1:123456", "[::1]:1x"],
)
def test_what_is_no_address(listen):
    assert split_listen(listen) is None


@pytest.mark.parametrize("host", ["captchad.example.com", "a", "ip6-localhost", "[a]", "[::::]", "127.1", "010.0.0.1"])
def test_nothing_to_listen_at_takes_a_name_server(host):
    assert split_listen(f"{host}:80") is None


def test_timeouts_are_read_by_method_and_written_as_a_table():
    seconds = {"turnstile": 60, "userrecaptcha": 180.5}
    config = from_dict(LEAST | {"provider": [LEAST["provider"][0] | {"timeouts": seconds}]})
    assert config.providers[0].timeouts == (("turnstile", 60.0), ("userrecaptcha", 180.5))
    assert to_dict(config)["provider"][0]["timeouts"] == seconds
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    ("timeouts", "message"),
    [
        (60, "must be a table, not an integer"),
        ({"turnstile": "60"}, "turnstile: must be a number, not a string"),
        ({"turnstile": 0}, "turnstile: 0 is out of range"),
        ({"two words": 60}, "has a name that no method can have"),
    ],
)
def test_timeouts_that_cannot_be_used_are_refused(timeouts, message):
    with pytest.raises(ConfigError) as caught:
        from_dict(LEAST | {"provider": [LEAST["provider"][0] | {"timeouts": timeouts}]})
    (problem,) = caught.value.problems
    assert (problem.key, message in problem.message) == ("provider[0].timeouts", True)
