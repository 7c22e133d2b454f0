"""Loading: exact lines for bad files, drop-ins, and nothing but ConfigError whatever the bytes."""

import os
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captchad.config.load import MAX_BYTES, from_dict, load, sha256_of, to_toml
from captchad.model.errors import ConfigError

EXAMPLE = (Path(__file__).resolve().parents[2] / "etc" / "captchad.toml").read_text()

GOOD = """\
[policy]
allowed_hosts = ["example.com"]
[[provider]]
name = "a"
url = "https://a.example"
api_key_file = "/k"
"""
DAEMON = GOOD.count("\n") + 1  # the line of what a test adds


@pytest.fixture
def main(tmp_path):
    return tmp_path / "captchad.toml"


def problems(path):
    """The lines that `captchad check` would print, with the directory cut off."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [str(each).replace(f"{path.parent}/", "") for each in caught.value.problems]


def drop_in(main, name, text):
    (main.parent / "conf.d").mkdir(exist_ok=True)
    (main.parent / "conf.d" / name).write_text(text)


OUT_OF = "is out of range"
ADDRESS = '"IPV4:PORT", "[IPV6]:PORT", "localhost:PORT", or "" for off'

BAD_ADDITIONS = [
    ("[daemon]\nworkers = 0", 1, "daemon.workers", f"0 {OUT_OF} (1 to 256)"),
    ("[daemon]\nworkers = 257", 1, "daemon.workers", f"257 {OUT_OF} (1 to 256)"),
    ("[daemon]\nworkers = true", 1, "daemon.workers", "must be an integer, not a boolean"),
    ("[daemon]\nworkers = 4.0", 1, "daemon.workers", "must be an integer, not a float"),
    ('[daemon]\n\nworkers = "4"', 2, "daemon.workers", "must be an integer, not a string"),
    ("[daemon]\nworkers = [4]", 1, "daemon.workers", "must be an integer, not an array"),
    ("[daemon]\nworkers.a = 4", 1, "daemon.workers", "must be an integer, not a table"),
    ("[daemon]\nworkers = 07:32:00", 1, "daemon.workers", "must be an integer, not a date or time"),
    ("[daemon]\nworkers = 99999999999999999999999", 1, "daemon.workers", f"such a number {OUT_OF} (1 to 256)"),
    ("[daemon]\nprobation_s = true", 1, "daemon.probation_s", "must be a number, not a boolean"),
    ("[daemon]\nprobation_s = -1", 1, "daemon.probation_s", f"-1 {OUT_OF} (0 to 604800)"),
    ("[daemon]\nprobation_s = nan", 1, "daemon.probation_s", f"nan {OUT_OF} (0 to 604800)"),
    ("[daemon]\nprobation_s = inf", 1, "daemon.probation_s", f"such a number {OUT_OF} (0 to 604800)"),
    (
        '[daemon]\nlog_level = "inof"',
        1,
        "daemon.log_level",
        "is none of the words that it takes (did you mean 'info'?)",
    ),
    (
        '[daemon]\nlog_level = "x"',
        1,
        "daemon.log_level",
        'is none of the words that it takes (one of "debug", "info", "warning", "error")',
    ),
    ('[daemon]\nstate_dir = "var"', 1, "daemon.state_dir", "must be an absolute path (start it with /)"),
    ('[daemon]\nstate_dir = ""', 1, "daemon.state_dir", "is empty (start it with /)"),
    ('[daemon]\nstate_dir = "/a\\u0000"', 1, "daemon.state_dir", "has a character that cannot be printed"),
    (f'[daemon]\nstate_dir = "/{"é" * 2048}"', 1, "daemon.state_dir", "is longer than 4095 bytes"),
    ("[daemon]\nworker = 1", 1, "daemon.worker", "unknown key (did you mean 'workers'?)"),
    ('[daemon]\n"a\\nb\\u001b" = 1', 1, 'daemon."a\\nb\\u001b"', "unknown key"),
    ("[daemon]\npoll_s = 1", 1, "daemon.poll_s", "unknown key (it belongs under [[provider]])"),
    (
        "[daemon]\nworkers = 1\nmin_workers = 2",
        2,
        "daemon.min_workers",
        "daemon.min_workers must be at most daemon.workers (they are 2 and 1)",
    ),
    (
        "[supervision]\nstall_s = 3",
        1,
        "supervision.stall_s",
        "supervision.stall_s must be more than three times supervision.heartbeat_s (they are 3 and 1)",
    ),
    (
        "[supervision]\nheartbeat_s = 40",
        1,
        "supervision.heartbeat_s",
        "supervision.stall_s must be more than three times supervision.heartbeat_s (they are 120 and 40)",
    ),
    (
        "[supervision]\nautoscale_max = 3",
        1,
        "supervision.autoscale_max",
        "supervision.autoscale_max must be 0, or at least daemon.workers (they are 3 and 4)",
    ),
    (
        "[supervision]\nautoscale_min = 5",
        1,
        "supervision.autoscale_min",
        "supervision.autoscale_min must be at most daemon.workers (they are 5 and 4)",
    ),
    ("[supervision]\nthreads = 33", 1, "supervision.threads", f"33 {OUT_OF} (1 to 32)"),
    ("[supervision]\nstandby = -1", 1, "supervision.standby", f"-1 {OUT_OF} (0 to 16)"),
    (
        "[limits]\ntag_charges_per_day = 5",
        1,
        "limits.tag_charges_per_day",
        "limits.tag_charges_per_day needs limits.tag, the name of the tag that it counts by",
    ),
    (
        "[retry]\nmax_delay_s = 4.5",
        1,
        "retry.max_delay_s",
        "retry.base_delay_s must be at most retry.max_delay_s (they are 5 and 4.5)",
    ),
    (
        "[degradation]\ndegraded_error_rate = 0.6",
        1,
        "degradation.degraded_error_rate",
        "degradation.degraded_error_rate must be at most degradation.emergency_error_rate (they are 0.6 and 0.5)",
    ),
    ('[queue]\nbackend = "redis"', 1, "queue.backend", '"redis" is not built into this version yet (use "journal")'),
    ('[queue]\nbackend = "x"', 1, "queue.backend", 'is none of the words that it takes (use "journal")'),
    ("[http]\nlisten = 8480", 1, "http.listen", f"must be a string, not an integer ({ADDRESS})"),
    ('[http]\nlisten = "8480"', 1, "http.listen", f"is no address to listen at ({ADDRESS})"),
    ('[http]\nlisten = "::1:80"', 1, "http.listen", f"is no address to listen at ({ADDRESS})"),
    ('[http]\nlisten = "127.0.0.1:65536"', 1, "http.listen", f"is no address to listen at ({ADDRESS})"),
    ('[http]\nlisten = "a.example.com:80"', 1, "http.listen", f"is no address to listen at ({ADDRESS})"),
    ("[quue]\na = 1", 0, "quue", "unknown table (did you mean 'queue'?)"),
    ("[providers]\na = 1", 0, "providers", "unknown table (did you mean 'provider'?)"),
    ("[zzz]", 0, "zzz", "unknown table"),
    ("[[retry]]", 0, "retry", "must be a table, not an array (write [retry])"),
    (
        '[[provider]]\nname = "b"\nurl = "http://b"',
        0,
        "provider[1].api_key_credential",
        "missing: the provider has no API key (name a credential, or set api_key_file)",
    ),
    (
        '[[provider]]\nname = "a"\nurl = "http://b"\napi_key_file = "/k"',
        1,
        "provider[1].name",
        "provider[0] has this name already (choose another)",
    ),
    (
        '[[provider]]\nname = "b"\nurl = "http://b"\napi_key_file = "/k"\napi_key_credential = "k"',
        3,
        "provider[1].api_key_file",
        "stands beside api_key_credential (keep one of them)",
    ),
    (
        '[[provider]]\nurl = "http://b"\napi_key_file = "/k"',
        0,
        "provider[1].name",
        'missing, and it has no default (a name of your choice, like "captchaai")',
    ),
    (
        '[[provider]]\nname = "b"\napi_key_file = "/k"',
        0,
        "provider[1].url",
        "missing, and it has no default (the provider's address, https://HOST)",
    ),
]


@pytest.mark.parametrize(("added", "offset", "key", "what"), BAD_ADDITIONS)
def test_one_fault_is_one_line(main, added, offset, key, what):
    main.write_text(GOOD + added + "\n")
    assert problems(main) == [f"captchad.toml:{DAEMON + offset}: {key}: {what}"]


NO_TABLES = "[policy]\nallowed_hosts = ['a']\n[[provider]]\nname = 'p'\napi_key_file = '/k'\n"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("ftp://a", "must begin with http:// or https://"),
        ("a.example", "must begin with http:// or https://"),
        ("https://", "has no usable host (https://HOST or https://HOST:PORT)"),
        ("https://:80", "has no usable host (https://HOST or https://HOST:PORT)"),
        ("https://a:0", "has no usable host (https://HOST or https://HOST:PORT)"),
        ("https://a:x", "has a bad host or port (https://HOST or https://HOST:PORT)"),
        ("https://[::1", "has a bad host or port (https://HOST or https://HOST:PORT)"),
        ("https://u:SECRET@a", "must not carry a user or password (the key goes into a credential)"),
        ("https://a/?key=SECRET", "must not have a query or fragment (in.php and res.php are added to it)"),
        ("https://a/#", "must not have a query or fragment (in.php and res.php are added to it)"),
        ("https://a b", "is no web address (printable ASCII without spaces, at most 2048 characters)"),
        ("https://é", "is no web address (printable ASCII without spaces, at most 2048 characters)"),
        ("https://a/" + "b" * 2048, "is no web address (printable ASCII without spaces, at most 2048 characters)"),
    ],
)
def test_a_bad_url(main, url, what):
    main.write_text(NO_TABLES + f"url = '{url}'\n")
    assert problems(main) == [f"captchad.toml:6: provider[0].url: {what}"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "https://[::1]:80/base", "https://a.example/x/", "HTTPS://A"])
def test_a_good_url(main, url):
    main.write_text(NO_TABLES + f"url = '{url}'\n")
    assert load(main).config.providers[0].url == url


LIKE = 'like "example.com", "*.example.com", "*" or "-"'


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("", LIKE),
        ("*.", LIKE),
        ("a.*", LIKE),
        ("*a.example", LIKE),
        ("a..b", LIKE),
        ("-a.b", LIKE),
        ("a\n", LIKE),
        ("a." * 127, LIKE),
        ("https://a.example/", "the host alone, without scheme and path"),
        ("a.example:443", "the host alone, without a port"),
        ("bücher.example", "the xn-- form of the name"),
    ],
)
def test_a_bad_host_pattern_has_its_own_line(main, pattern, hint):
    main.write_text(f'[policy]\nallowed_hosts = [\n  "*",\n  {tomlstr(pattern)},\n]\n{GOOD[GOOD.index("[[") :]}')
    assert problems(main) == [f"captchad.toml:4: policy.allowed_hosts[1]: is no host pattern ({hint})"]


def tomlstr(text):
    return '"' + text.replace("\n", "\\n") + '"'


def test_host_patterns_are_read_in_lower_case(main):
    main.write_text(GOOD.replace('["example.com"]', '["*", "-", "A.Example", "*.b_c.example", "127.0.0.1"]'))
    assert load(main).config.policy.allowed_hosts == ("*", "-", "a.example", "*.b_c.example", "127.0.0.1")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("[]", "is empty"),
        ('"*"', 'must be an array, not a string (["*"])'),
        ('"a"', "must be an array, not a string (put it in [ ])"),
        ("[1]", "must be a string, not an integer"),
    ],
)
def test_bad_allowed_hosts(main, value, what):
    main.write_text(GOOD.replace('["example.com"]', value))
    (line,) = problems(main)
    assert line.startswith(f"captchad.toml:2: policy.allowed_hosts{'[0]' if value == '[1]' else ''}: {what}")


def test_an_empty_file_lacks_what_is_required(main):
    main.write_text("")
    assert problems(main) == [
        "captchad.toml:0: policy.allowed_hosts: missing, and it has no default"
        " (captchactl setup asks for the hosts that you may automate; by hand they stand in conf.d/*.toml"
        ' beside this file: [policy] allowed_hosts = ["example.com"])',
        "captchad.toml:0: provider: at least one [[provider]] is needed",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("provider = []", "at least one [[provider]] is needed"),
        ("[provider]", "must be an array of tables, not a table (write [[provider]])"),
        ("provider = 1", "must be an array of tables, not an integer (write [[provider]])"),
        ("provider = [" + "{}," * 65 + "]", "65 are too many (at most 64)"),
    ],
)
def test_bad_providers(main, text, what):
    main.write_text(f"{text}\n[policy]\nallowed_hosts = ['*']\n")
    assert problems(main) == [f"captchad.toml:1: provider: {what}"]


def test_a_table_that_is_none(main):
    main.write_text(f"http = 3\nworkers = 4\nfoo = 1\n{GOOD}")
    assert problems(main) == [
        "captchad.toml:1: http: must be a table, not an integer (write [http])",
        "captchad.toml:2: workers: unknown key (it belongs under [daemon])",
        "captchad.toml:3: foo: unknown key",
    ]


def test_a_key_in_the_file_is_told_where_to_go_and_not_repeated(main):
    main.write_text(GOOD.replace("api_key_file", "api_key").replace("/k", "SECRET"))
    lines = problems(main)
    assert lines[1] == (
        "captchad.toml:6: provider[0].api_key: unknown key"
        " (keys never stand in this file: name one by api_key_credential or api_key_file)"
    )
    assert "SECRET" not in "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        'url = "https://u:SECRET@h"',
        'url = "https://h?SECRET"',
        'name = "SECRET!"',
        'log_level = "SECRET"',
        'api_key_credential = "SECRET/"',
        'api_key_file = "SECRET"',
        'listen = "SECRET"',
        'allowed_hosts = ["SECRET!"]',
        'backend = "SECRET"',
        'workers = "SECRET"',
        'poll_s = "SECRET"',
    ],
)
def test_no_string_is_repeated(main, text):
    tables = ("daemon", "queue", "policy", "http")
    main.write_text("".join(f"[{name}]\n{text}\n" for name in tables) + f"[[provider]]\n{text}\n")
    assert "SECRET" not in "\n".join(problems(main))


def test_all_faults_come_at_once_in_the_order_of_the_lines(main):
    main.write_text(
        "[http]\nlisten = 1\n[daemon]\nworkers = 0\nmin_workers = 0\nfoo = 1\n[[provider]]\n"
        "[retry]\nmax_delay_s = 1\nbase_delay_s = 2\n"
    )
    assert [line.split(" ")[0] + line.split(" ")[1] for line in problems(main)] == [
        "captchad.toml:0:policy.allowed_hosts:",
        "captchad.toml:2:http.listen:",
        "captchad.toml:4:daemon.workers:",
        "captchad.toml:5:daemon.min_workers:",
        "captchad.toml:6:daemon.foo:",
        "captchad.toml:7:provider[0].name:",
        "captchad.toml:7:provider[0].url:",
        "captchad.toml:7:provider[0].api_key_credential:",
        "captchad.toml:10:retry.base_delay_s:",
    ]


def test_one_worker_needs_no_min_workers(main):
    main.write_text(f"daemon = {{workers = 1}}\n{GOOD}")
    assert load(main).config.daemon.min_workers == 1


def test_seconds_may_be_integers(main):
    main.write_text(f"{GOOD}poll_s = 3\ntimeout_s = 7.5\n")
    provider = load(main).config.providers[0]
    assert (provider.poll_s, type(provider.poll_s), provider.timeout_s) == (3.0, float, 7.5)


# Drop-ins


def test_tables_merge_and_arrays_replace_in_the_order_of_names(main):
    main.write_text("[daemon]\nworkers = 3\nmin_workers = 1\n" + GOOD)
    drop_in(main, "20.toml", "[daemon]\nworkers = 7\n[policy]\nallowed_hosts = ['b.example']\n")
    drop_in(main, "10.toml", "[daemon]\nworkers = 5\nlog_level = 'debug'\n")
    drop_in(main, "9x.toml", "[[provider]]\nname = 'b'\nurl = 'http://b'\napi_key_file = '/b'\n")
    for ignored in (".hidden.toml", "a.toml~", "README"):
        drop_in(main, ignored, "nonsense")

    loaded = load(main)

    daemon = loaded.config.daemon
    assert (daemon.workers, daemon.min_workers, daemon.log_level) == (7, 1, "debug")
    assert loaded.config.policy.allowed_hosts == ("b.example",)
    assert [each.name for each in loaded.config.providers] == ["b"]
    assert [each.name for each in loaded.files] == ["captchad.toml", "10.toml", "20.toml", "9x.toml"]


def test_a_fault_names_the_file_that_it_is_in(main):
    main.write_text("[daemon]\nworkers = 'x'\nmin_workers = 0\n" + GOOD)
    drop_in(main, "a.toml", "\n[daemon]\nworkers = 3\npoll = 1\n")
    drop_in(main, "b.toml", "[[provider]]\nname = 'b'\n\n[[provider]]\nname = 'b'\nurl = 3\napi_key_file = '/b'\n")
    assert problems(main) == [
        "captchad.toml:3: daemon.min_workers: 0 is out of range (1 to 256)",
        "conf.d/a.toml:4: daemon.poll: unknown key",
        "conf.d/b.toml:1: provider[0].url: missing, and it has no default (the provider's address, https://HOST)",
        "conf.d/b.toml:1: provider[0].api_key_credential: missing: the provider has no API key"
        " (name a credential, or set api_key_file)",
        "conf.d/b.toml:5: provider[1].name: provider[0] has this name already (choose another)",
        "conf.d/b.toml:6: provider[1].url: must be a string, not an integer",
    ]


def test_a_value_that_takes_the_place_of_a_table_has_its_own_place(main):
    main.write_text("[daemon]\nworkers = 'x'\n" + GOOD)
    drop_in(main, "a.toml", "\ndaemon = 3\n")
    assert problems(main) == ["conf.d/a.toml:2: daemon: must be a table, not an integer (write [daemon])"]


def test_a_file_that_cannot_be_read_hides_no_fault_of_the_others_and_makes_none(main):
    main.write_text("[policy\n")
    drop_in(main, "a.toml", "[daemon]\nworkers = 0\n[retry]\nbase_delay_s = 4\nmax_delay_s = 3\n")
    drop_in(main, "b.toml", "x = \n")
    lines = problems(main)
    assert [line.split(": ")[0] for line in lines] == ["captchad.toml:1", "conf.d/a.toml:2", "conf.d/b.toml:1"]


# Files that are no configuration


def test_a_missing_file(main):
    assert problems(main) == ["captchad.toml:0: file: cannot be read: No such file or directory"]


def test_a_symlink_to_a_file_is_followed_and_a_loop_is_not(main, tmp_path):
    (tmp_path / "real").write_text(GOOD)
    main.symlink_to("real")
    assert load(main).config.providers[0].name == "a"
    main.unlink()
    main.symlink_to(main.name)
    assert problems(main) == ["captchad.toml:0: file: cannot be read: Too many levels of symbolic links"]


def test_no_regular_file(main):
    os.mkfifo(main)
    assert problems(main) == ["captchad.toml:0: file: is no regular file"]
    main.unlink()
    main.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    assert problems(main) == ["captchad.toml:0: file: is no regular file"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_size_is_bounded(main):
    main.write_text(GOOD + "#" * (MAX_BYTES - len(GOOD)))
    load(main)
    main.write_text(GOOD + "#" * (MAX_BYTES - len(GOOD) + 1))
    assert problems(main) == ["captchad.toml:0: file: is larger than 1048576 bytes"]


def test_not_utf8(main):
    main.write_bytes(GOOD.encode() + "# é caf".encode() + b"\xe9\n")
    assert problems(main) == ["captchad.toml:7: syntax: not UTF-8: byte 0xe9, column 8 (save the file as UTF-8)"]


def test_a_byte_order_mark(main):
    main.write_text("\ufeff" + GOOD)
    assert problems(main) == [
        "captchad.toml:1: syntax: no TOML: Invalid statement, column 1 (remove the byte order mark)"
    ]


def test_a_directory_of_drop_ins_that_is_none(main):
    main.write_text(GOOD)
    (main.parent / "conf.d").write_text("")
    assert problems(main) == ["conf.d:0: file: cannot be listed: Not a directory"]


def test_a_strange_name_stays_on_one_line(tmp_path):
    path = tmp_path / os.fsdecode(b"a\n\xff.toml")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{tmp_path}/a\\n\\xff.toml:0: file: cannot be read: No such file or directory"


# The effective configuration


def test_the_digest_is_of_the_values_and_not_of_their_spelling(main):
    main.write_text(GOOD)
    first = load(main).sha256
    main.write_text(GOOD.replace('"example.com"', "'EXAMPLE.com',") + "poll_s = 5 # as the default\n[retry]\n")
    assert load(main).sha256 == first
    main.write_text(GOOD + "poll_s = 6\n")
    assert load(main).sha256 != first


SECONDS = st.one_of(st.integers(1, 600), st.floats(0.1, 600))


@settings(max_examples=50)
@given(
    st.integers(2, 256),
    st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=30).filter(str.isprintable),
    st.lists(st.from_regex(r"\A(\*\.)?[a-z0-9]{1,10}(\.[A-Z0-9]{1,10}){0,3}\Z"), min_size=1, max_size=5),
    st.lists(st.tuples(SECONDS, st.booleans()), min_size=1, max_size=4),
)
def test_what_is_written_is_read_again(workers, directory, hosts, providers):
    sources = ({"api_key_credential": "k"}, {"api_key_file": "/k"})
    tree = {
        "daemon": {"workers": workers, "state_dir": f"/{directory}"},
        "policy": {"allowed_hosts": hosts},
        "provider": [
            {"name": f"p{index}", "url": "http://h", "poll_s": poll} | sources[file]
            for index, (poll, file) in enumerate(providers)
        ],
    }
    config = from_dict(tree)
    again = from_dict(tomllib.loads(to_toml(config)))
    assert again == config
    assert sha256_of(again) == sha256_of(config)


def test_a_release_that_adds_a_key_changes_no_digest():
    """Generations, rejections and confirmations go by it: whoever has to change this number breaks them all."""
    tree = {
        "daemon": {"workers": 7},
        "policy": {"allowed_hosts": ["a.example"]},
        "provider": [{"name": "p", "url": "http://h", "api_key_file": "/k"}],
    }
    assert sha256_of(from_dict(tree)) == "5cd6088eb37304e7fd397c24afc95327d701cc5498c03758f4cc2b9c381d4f3e"
    said = {**tree, "daemon": {"workers": 7, "min_workers": 2}}
    assert sha256_of(from_dict(said)) == sha256_of(from_dict(tree)), (
        "a default that is written out is none the less one"
    )
    assert sha256_of(from_dict({**tree, "daemon": {"workers": 8}})) != sha256_of(from_dict(tree))


def test_a_tree_without_lines_names_its_source():
    with pytest.raises(ConfigError) as caught:
        from_dict(tomllib.loads(GOOD) | {"http": {"listen": 1}}, file="saved")
    assert str(caught.value) == f"saved:0: http.listen: must be a string, not an integer ({ADDRESS})"


# Hostile bytes


@settings(max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.tuples(st.integers(0, len(EXAMPLE)), st.integers(0, 40), st.binary(max_size=8)), min_size=1, max_size=4
        ),
    ),
    st.booleans(),
)
def test_nothing_but_config_error(tmp_path_factory, noise, in_drop_in):
    data = noise if isinstance(noise, bytes) else EXAMPLE.encode()
    for at, cut, put in noise if isinstance(noise, list) else ():
        data = data[:at] + put + data[at + cut :]
    main = tmp_path_factory.getbasetemp() / "fuzz" / "captchad.toml"
    (main.parent / "conf.d").mkdir(parents=True, exist_ok=True)
    main.write_bytes(EXAMPLE.encode() if in_drop_in else data)
    (main.parent / "conf.d" / "x.toml").write_bytes(data if in_drop_in else b"")
    try:
        load(main)
    except ConfigError as error:
        for problem in error.problems:
            file, rest = str(problem).split(":", 1)
            lines = Path(file).read_bytes().count(b"\n") + 1
            assert str(problem).isprintable()
            assert 0 <= int(rest.split(":")[0]) <= lines


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
KEYS = sorted({line.split(" = ")[0].lstrip("# ") for line in EXAMPLE.splitlines() if " = " in line})


@settings(max_examples=80)
@given(
    st.dictionaries(
        st.sampled_from(["daemon", "supervision", "queue", "policy", "provider", "retry", "http", "x"]),
        st.one_of(
            VALUES,
            st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6),
            st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6), max_size=3),
        ),
    )
)
def test_no_tree_raises_anything_else(tree):
    with suppress(ConfigError):  # most trees are bad, some are not
        from_dict(tree)


def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "captchad.toml"
    path.write_text("[daemon]\n")
    path.chmod(0o666)

    with pytest.raises(ConfigError, match="may be written by every user"):
        load(path)
