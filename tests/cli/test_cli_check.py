"""`captchad check` as a function: lines, exit codes, keys."""

import io
import re

import pytest

from captchad.cli.check import check
from captchad.config.load import load

TEXT = """\
[policy]
allowed_hosts = ["example.com"]
[[provider]]
name = "a"
url = "https://a.example"
api_key_file = "{}"
"""


@pytest.fixture
def main(tmp_path):
    key = tmp_path / "key"
    key.write_text("SECRET")
    key.chmod(0o600)
    path = tmp_path / "captchad.toml"
    path.write_text(TEXT.format(key))
    return path


def run(path, environ=None):
    out = io.StringIO()
    code = check(path, out, environ or {})
    return code, out.getvalue().replace(f"{path.parent}/", "")


def test_a_good_file(main):
    code, text = run(main)
    assert code == 0
    assert re.fullmatch(r"OK \(sha256 [0-9a-f]{64}\)\n", text)
    assert load(main).sha256 in text


def test_every_fault_has_its_line(main):
    main.write_text(main.read_text().replace("example.com", "a b") + "[daemon]\nworker = 1\n[http]\nlisten = 0\n")
    assert run(main) == (
        78,
        "captchad.toml:2: policy.allowed_hosts[0]: is no host pattern"
        ' (like "example.com", "*.example.com", "*" or "-")\n'
        "captchad.toml:8: daemon.worker: unknown key (did you mean 'workers'?)\n"
        "captchad.toml:10: http.listen: must be a string, not an integer"
        ' ("IPV4:PORT", "[IPV6]:PORT", "localhost:PORT", or "" for off)\n',
    )


def test_a_missing_file(main):
    main.unlink()
    assert run(main) == (78, "captchad.toml:0: file: cannot be read: No such file or directory\n")


def test_the_keys_are_checked_and_not_printed(main):
    (main.parent / "key").write_text("SECRET and more")
    assert run(main) == (
        78,
        "captchad.toml:6: provider[0].api_key_file: the key has a blank or control character inside"
        " (the file holds one key on one line)\n",
    )


def test_a_missing_credential(main):
    main.write_text(re.sub("api_key_file.*", "api_key_credential = 'a.key'", main.read_text()))
    code, text = run(main, {"CREDENTIALS_DIRECTORY": str(main.parent)})
    assert code == 78
    assert text.startswith("captchad.toml:6: provider[0].api_key_credential: the file with the key cannot be read: ")
    assert text.count("\n") == 1


def test_what_cannot_be_checked_is_a_warning(main):
    main.write_text(re.sub("api_key_file.*", "api_key_credential = 'a.key'", main.read_text()))
    code, text = run(main)
    assert code == 0
    assert re.fullmatch(
        r"warning: captchad\.toml:6: provider\[0\]\.api_key_credential: not checked: .*\nOK \(sha256 .*\)\n", text
    )


@pytest.mark.root
def test_a_file_that_only_root_may_read_is_a_warning(main):
    warning = f"warning: {main}:0: file: the service's user may not read it (chmod o+r)\n"
    for mode, warned in ((0o600, True), (0o644, False)):
        main.chmod(mode)
        out = io.StringIO()
        assert check(main, out, {}) == 0
        assert (warning in out.getvalue()) == warned
