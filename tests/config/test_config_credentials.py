"""API keys: read from real files, and in no message."""

import os

import pytest

from captchad.config.credentials import MAX_KEY_BYTES, check_keys, digest, read_keys, read_previous_keys
from captchad.config.load import load
from captchad.model.errors import ConfigError

POLICY = "[policy]\nallowed_hosts = ['*']\n"
KEY = "0123456789abcdef0123456789abcdef"


class Place:
    """A config with one provider that has a credential and one that has a key file."""

    def __init__(self, directory):
        self.directory = directory
        self.credential = directory / "credentials" / "a.key"
        self.file = directory / "b.key"
        self.credential.parent.mkdir()
        self.main = directory / "captchad.toml"
        self.main.write_text(
            f"{POLICY}[[provider]]\nname = 'a'\nurl = 'http://a'\napi_key_credential = 'a.key'\n"
            f"[[provider]]\nname = 'b'\nurl = 'http://b'\napi_key_file = '{self.file}'\n"
        )
        self.loaded = load(self.main)
        self.environ = {"CREDENTIALS_DIRECTORY": str(self.credential.parent)}
        for each in (self.credential, self.file):
            each.write_text(f"{KEY}\n")
            each.chmod(0o600)

    def keys(self):
        return read_keys(self.loaded.config, self.environ, self.loaded.places)

    def problems(self):
        with pytest.raises(ConfigError) as caught:
            self.keys()
        listed, _ = check_keys(self.loaded.config, self.environ, self.loaded.places)
        assert listed == list(caught.value.problems)
        return [str(each).replace(f"{self.directory}/", "") for each in listed]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_keys_are_stripped(place):
    place.file.write_text(f" {KEY}x\r\n\n")
    assert place.keys() == {"a": KEY, "b": f"{KEY}x"}
    assert check_keys(place.loaded.config, place.environ) == ([], [])


PUT = "put the key of b into b.key"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", f"the file with the key is empty ({PUT})"),
        (b" \n", f"the file with the key is empty ({PUT})"),
        (b"unset\n", f'there is no API key yet, only the placeholder "unset" ({PUT})'),
        (b"SECRET 1\n", "the key has a blank or control character inside (the file holds one key on one line)"),
        (b"SECRET\n1\n", "the key has a blank or control character inside (the file holds one key on one line)"),
        (b"SECRET\x001", "the key has a blank or control character inside (the file holds one key on one line)"),
        (
            "SEC\u00a0RET".encode(),
            "the key has a blank or control character inside (the file holds one key on one line)",
        ),
        (
            "\ufeffSECRET".encode(),
            "the key has a blank or control character inside (the file holds one key on one line)",
        ),
        (b"SECRET\xff", "the file with the key is no UTF-8 text (it holds the key alone)"),
        (b"S" * (MAX_KEY_BYTES + 1), "the file with the key is larger than 4096 bytes (it holds the key alone)"),
    ],
)
def test_a_bad_key_is_a_problem_at_its_line_and_is_not_repeated(place, content, what):
    place.file.write_bytes(content)
    problems = place.problems()
    assert problems == [f"captchad.toml:10: provider[1].api_key_file: {what}"]
    assert "SEC" not in problems[0]


def test_a_key_of_the_greatest_size(place):
    place.file.write_bytes(b"k" * MAX_KEY_BYTES)
    assert len(place.keys()["b"]) == MAX_KEY_BYTES


def test_files_that_hold_no_key(place):
    place.credential.unlink()
    place.file.unlink()
    by_hand = "by hand it stands in the file of the unit's LoadCredential= for this name"
    where = f"captchactl setup --provider a stores it; {by_hand}"
    assert place.problems() == [
        "captchad.toml:6: provider[0].api_key_credential:"
        f" the file with the key cannot be read: No such file or directory ({where})",
        "captchad.toml:10: provider[1].api_key_file:"
        f" the file with the key cannot be read: No such file or directory ({PUT})",
    ]
    place.credential.symlink_to("a.key")
    os.mkfifo(place.file)
    assert place.problems() == [
        "captchad.toml:6: provider[0].api_key_credential:"
        f" the file with the key cannot be read: Too many levels of symbolic links ({where})",
        f"captchad.toml:10: provider[1].api_key_file: the file with the key is no regular file ({PUT})",
    ]


def test_a_key_in_place_of_a_credentials_name_is_not_repeated(place):
    place.main.write_text(place.main.read_text().replace("a.key", KEY))
    place.loaded = load(place.main)
    said = place.problems()
    assert "the file with the key cannot be read" in said[0]
    with pytest.raises(ConfigError) as caught:
        read_keys(place.loaded.config, {}, place.loaded.places)
    said += [str(caught.value), *check_keys(place.loaded.config, {}, place.loaded.places)[1]]
    assert [KEY in each for each in said] == [False] * 3


def test_a_symlink_to_the_key_is_followed(place, tmp_path):
    place.file.rename(tmp_path / "real")
    place.file.symlink_to("real")
    assert place.keys()["b"] == KEY


@pytest.mark.root
def test_a_key_that_may_not_be_read(place, tmp_path):
    tmp_path.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        # The child alone gives up root; its exit status is the answer.
        status = 1
        try:
            os.chdir(tmp_path)
            place.environ["CREDENTIALS_DIRECTORY"] = "credentials"
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            problems, _ = check_keys(place.loaded.config, place.environ)
            status = 0 if [each.message for each in problems] == ["the file with the key may not be read"] * 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("environ", [{}, {"CREDENTIALS_DIRECTORY": ""}])
def test_outside_systemd_a_credential_is_a_problem_for_the_daemon_and_a_warning_for_the_check(place, environ):
    with pytest.raises(ConfigError) as caught:
        read_keys(place.loaded.config, environ, place.loaded.places)
    assert str(caught.value) == (
        f"{place.main}:6: provider[0].api_key_credential: there are no credentials: $CREDENTIALS_DIRECTORY is not set"
        " (start captchad by systemd with LoadCredential= for this name, or use api_key_file)"
    )
    assert check_keys(place.loaded.config, environ, place.loaded.places) == (
        [],
        [
            f"{place.main}:6: provider[0].api_key_credential: not checked: $CREDENTIALS_DIRECTORY is not set"
            " (systemd sets it for the service)"
        ],
    )


def test_a_key_that_everybody_may_read_is_taken_with_a_warning(place):
    place.file.chmod(0o644)
    place.credential.chmod(0o604)
    assert set(place.keys()) == {"a", "b"}
    problems, warnings = check_keys(place.loaded.config, place.environ, place.loaded.places)
    assert problems == []
    assert warnings == [
        f"{place.main}:6: provider[0].api_key_credential: every user of this machine may read the key"
        " (chmod o= $CREDENTIALS_DIRECTORY/a.key)",
        f"{place.main}:10: provider[1].api_key_file: every user of this machine may read the key"
        f" (chmod o= {place.file})",
    ]


def test_without_places_a_problem_names_the_key_alone(place):
    place.file.unlink()
    with pytest.raises(ConfigError, match=r"^configuration:0: provider\[1\]\.api_key_file: "):
        read_keys(place.loaded.config, place.environ)


def test_the_previous_keys_stand_beside_the_present_ones(place, tmp_path):
    config = place.loaded.config
    assert read_previous_keys(config, place.environ) == ({}, [])
    before = digest(place.keys())
    (tmp_path / "credentials" / "a.key.previous").write_text("unset")
    assert read_previous_keys(config, place.environ) == ({}, [])

    (tmp_path / "credentials" / "a.key.previous").write_text("old-a\n")
    (tmp_path / "b.key.previous").write_text("old-b")
    assert read_previous_keys(config, place.environ) == ({"a": "old-a", "b": "old-b"}, [])
    assert read_previous_keys(config, {}) == ({"b": "old-b"}, [])
    assert digest(place.keys()) == before  # no part of the configuration's name


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda file: file.write_bytes(b"SECRET 1"), "the key has a blank or control character inside"),
        (lambda file: file.write_bytes(b""), "the file with the key is empty"),
        (lambda file: file.write_bytes(b"S" * (MAX_KEY_BYTES + 1)), "the file with the key is larger than 4096 bytes"),
        (os.mkfifo, "the file with the key is no regular file"),
        (lambda file: file.symlink_to("none"), "the file with the key cannot be read: No such file or directory"),
    ],
)
def test_a_previous_key_that_cannot_be_read_is_a_warning(place, tmp_path, spoil, what):
    spoil(tmp_path / "b.key.previous")
    found, warnings = read_previous_keys(place.loaded.config, place.environ, place.loaded.places)
    assert found == {}
    (warning,) = warnings
    assert warning.startswith(f"{place.main}:10: provider[1].api_key_file: the previous key (b.key.previous): {what}")
    assert "SECRET" not in warning
    assert check_keys(place.loaded.config, place.environ, place.loaded.places) == ([], warnings)
    assert set(place.keys()) == {"a", "b"}


def test_the_digest_changes_with_names_and_keys_only():
    first = digest({"a": "k", "b": "l"})
    assert first == digest({"b": "l", "a": "k"})
    others = [{"a": "k"}, {"a": "l", "b": "k"}, {"a": "k", "c": "l"}, {"a": 'k","b', "b": "l"}, {}]
    assert len({first, *map(digest, others)}) == 6
    assert "k" not in digest({"a": "k"})
