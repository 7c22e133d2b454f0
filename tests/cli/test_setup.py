"""Parts of `captchactl setup` that need no systemd; tests/system/setup.py has the whole."""

import argparse
import io
import os
import stat
import sys

import pytest

from captchad.cli.setup import _given_key, _Plan, _provider, _settle, _Teller
from captchad.cli.vault import Vault, run, write_durably
from captchad.model.errors import FixInput, NeedsOperator

ONE = {"name": "one", "url": "https://one", "api_key_credential": "one.key", "poll_s": 1}
TWO = {"name": "two", "url": "https://two", "api_key_credential": "two.key"}
NEW = {"name": "new", "url": "https://new", "api_key_credential": "new.key"}


@pytest.mark.parametrize(
    ("name", "url", "chosen", "written"),
    [
        (None, None, ONE, None),
        ("two", None, TWO, None),
        ("two", "https://two", TWO, None),
        (None, "https://other", {**ONE, "url": "https://other"}, [{**ONE, "url": "https://other"}, TWO]),
        ("two", "https://other", {**TWO, "url": "https://other"}, [ONE, {**TWO, "url": "https://other"}]),
        ("new", "https://new", NEW, [ONE, TWO, NEW]),
    ],
)
def test_the_provider_is_chosen_and_a_new_address_is_written_with_all_else_that_is_known(name, url, chosen, written):
    settings = {}
    options = argparse.Namespace(provider=name, provider_url=url)
    assert _provider(options, {"provider": [ONE, TWO]}, settings) == chosen
    assert settings.get("provider") == written


def test_without_any_provider_one_is_made_of_its_address():
    settings = {}
    options = argparse.Namespace(provider=None, provider_url="https://new")
    made = {"name": "captchaai", "api_key_credential": "captchaai.key", "url": "https://new"}
    assert _provider(options, {}, settings) == made
    assert settings == {"provider": [made]}
    with pytest.raises(FixInput, match="there is no provider captchaai; configured: none"):
        _provider(argparse.Namespace(provider=None, provider_url=None), {"provider": "x"}, {})


def settle(main, settings):
    """`_settle` with these settings; what it says, and what it refuses."""
    said = io.StringIO()
    plan = _Plan(main, ONE, Vault("a", main, main), settings, new_settings=True, key=None, present=None, previous=None)
    with pytest.raises(FixInput) as refused:
        _settle(plan, _Teller(dry=False, out=said))
    return said.getvalue().splitlines(), str(refused.value)


@pytest.mark.parametrize(("before", "word"), [(None, "gone"), ("[daemon]\n", "as it was")])
def test_settings_that_are_refused_are_taken_back_and_it_says_so(tmp_path, before, word):
    main, own = tmp_path / "captchad.toml", tmp_path / "conf.d" / "10-setup.toml"
    own.parent.mkdir()
    main.write_text('[[provider]]\nname = "one"\nurl = "https://one"\napi_key_credential = "one.key"\n')
    (own.parent / "90-mine.toml").write_text('[policy]\nallowed_hosts = ["example.net"]\n')
    if before is not None:
        own.write_text(before)

    said, refused = settle(main, {"policy": {"allowed_hosts": ["example.com"]}})

    assert said[0] == f"write {own}"
    assert said[-1] == f"{own} is {word} again: nothing was changed"
    assert "90-mine.toml:2: policy.allowed_hosts: goes over" in refused
    assert (own.read_text() if own.exists() else None) == before


def test_an_empty_standard_input_that_is_named_is_no_key(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(FixInput, match="standard input is empty; nothing was changed"):
        _given_key(argparse.Namespace(api_key_file="-"), ONE, stored=True)
    assert _given_key(argparse.Namespace(api_key_file=None), ONE, stored=True) == b""


def test_a_file_is_replaced_whole_and_has_its_mode_from_the_start(tmp_path):
    path = tmp_path / "credentials" / "key"
    before = os.umask(0)
    try:
        write_durably(path, b"first", 0o600)
        assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]
        # What a killed setup, or somebody else, has left in its way is not written into.
        victim = tmp_path / "victim"
        victim.write_text("untouched")
        (path.parent / ".key.tmp").symlink_to(victim)
        write_durably(path, b"second", 0o600)
    finally:
        os.umask(before)
    assert (path.read_bytes(), victim.read_text(), os.listdir(path.parent)) == (b"second", "untouched", ["key"])
    with pytest.raises(NeedsOperator, match="below cannot be written: File exists"):
        write_durably(path / "below", b"", 0o644)


def test_a_command_that_fails_says_so_in_its_own_words():
    assert run([sys.executable, "-c", "print(input())"], b"by stdin\n") == b"by stdin\n"
    failing = [sys.executable, "-c", "import sys; print('first\\n\\nsecond', file=sys.stderr); sys.exit(3)"]
    with pytest.raises(NeedsOperator, match=r"-c: first; second$"):
        run(failing, b"SECRET")
    assert run(failing, must=False) == b""
    with pytest.raises(NeedsOperator, match="/none: No such file or directory"):
        run(["/none"])


def test_a_host_that_cannot_encrypt_says_why(tmp_path, monkeypatch):
    program = tmp_path / "systemd-creds"
    vault = Vault("a.key", tmp_path, tmp_path / "drop-in")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program.write_text("#!/bin/sh\necho No usable secret >&2; exit 1\n")
    program.chmod(0o755)
    assert vault.encrypted("k", None) == "systemd-creds encrypt: No usable secret"
    program.write_text(f"#!/bin/sh\necho $@ >{tmp_path}/said; cat >{tmp_path}/given; echo nonsense\n")
    assert vault.encrypted("KEY", None) == "systemd-creds: what was encrypted cannot be read again"
    said = [(tmp_path / each).read_text() for each in ("said", "given")]
    assert said == ["decrypt --name=a.key - -\n", "nonsense\n"]
    assert vault.plain("k", "p") == {"a.key": b"k\n", "a.key.previous": b"p\n"}
