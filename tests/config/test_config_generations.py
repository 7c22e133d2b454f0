"""Last known good on real files: what is chosen, what is kept, and what a death at any call leaves behind."""

import hashlib
import os
import resource
import shutil
import signal
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captchad.config.choice import Candidate, Choice, choose_at_start
from captchad.config.generations import KEEP, KEEP_REJECTED, Generations, Standing, Trial, default_directory, digest_of
from captchad.model.errors import ConfigError, ConfigProblem, NeedsOperator, TryLater
from tests.config.made import KEYS, config, digest


class FixedClock:
    def monotonic(self):
        return 0.0

    def time(self):
        return 1_700_000_000.0


@pytest.fixture
def saved(tmp_path):
    return Generations(tmp_path / "state" / "config" / "x", FixedClock())


def promote(saved, *workers):
    return [saved.promote(config(each), digest(each)) for each in workers]


def numbers(saved):
    return [each.number for each in saved.history()]


# What is chosen


def test_nothing_is_saved_at_first(saved):
    assert saved.last_good() is None
    assert saved.history() == []
    assert saved.rejected(digest(1)) is None
    assert not saved.directory.exists()


def test_the_first_that_is_ready_is_provisional_until_one_is_good(saved):
    first = saved.provisional(config(1), digest(1))
    assert (first.number, first.good, first.time) == (1, False, "2023-11-14T22:13:20.000Z")
    assert saved.last_good() == first
    assert saved.provisional(config(2), digest(2)) == first

    good = saved.promote(config(1), digest(1))

    assert good == replace(first, standing=Standing.GOOD)
    assert saved.history() == [good]
    assert saved.provisional(config(2), digest(2)) == good


def test_a_good_one_comes_before_a_newer_provisional_one(saved):
    promote(saved, 1)
    saved.reject(digest(1), "x")
    saved.provisional(config(2), digest(2))
    assert saved.last_good().config == config(2)
    saved.forget_rejected(digest(1))
    assert saved.last_good().config == config(1)


def test_the_newest_good_one_is_the_last_good(saved):
    promote(saved, 1, 2)
    assert saved.last_good() == saved.find(digest(2))
    assert [each.config.daemon.workers for each in saved.history()] == [2, 1]
    assert saved.find(digest(3)) is None


def test_the_same_is_not_saved_twice_in_a_row(saved):
    promote(saved, 1, 1, 2, 1)
    assert [each.config.daemon.workers for each in saved.history()] == [1, 2, 1]


def test_a_rejected_one_is_passed_over(saved):
    promote(saved, 1, 2)
    saved.reject(digest(2), "port\n cannot   be bound")
    assert saved.rejected(digest(2)) == "port cannot be bound"
    assert saved.last_good().config == config(1)
    saved.forget_rejected(digest(2))
    assert saved.rejected(digest(2)) is None
    assert saved.last_good().config == config(2)


def test_what_runs_well_after_all_is_no_longer_rejected(saved):
    saved.reject(digest(1), "x")
    promote(saved, 1)
    assert saved.rejected(digest(1)) is None


def test_few_rejections_are_remembered_and_their_reasons_are_short(saved):
    for each in range(1, KEEP_REJECTED + 3):
        saved.reject(digest(each), "x" * 10_000)
    saved.reject(digest(3), "y")  # said again: it is the newest now
    kept = [each for each in range(1, KEEP_REJECTED + 3) if saved.rejected(digest(each))]
    assert kept == list(range(3, KEEP_REJECTED + 3))
    assert len(saved.rejected(digest(4))) == 500
    assert saved.rejected(digest(3)) == "y"
    saved.reject(digest(100), "z")
    assert saved.rejected(digest(3)) == "y"
    assert saved.rejected(digest(4)) is None


def test_old_ones_go_and_two_good_ones_stay(saved):
    promote(saved, *range(1, KEEP + 4))
    assert numbers(saved) == list(range(KEEP + 3, 3, -1))
    for number in range(6, KEEP + 4):  # all but two of them are damaged
        saved.directory.joinpath(f"{number:06d}.toml").write_text("")
    promote(saved, *range(20, 20 + KEEP - 1))
    assert numbers(saved)[-1] > 5
    assert len(numbers(saved)) >= 2


def test_two_readable_good_ones_outlive_any_number_of_damaged_ones(saved):
    promote(saved, 1, 2)
    for number in range(10, 10 + KEEP):
        saved.directory.joinpath(f"{number:06d}.toml").write_text("hostile")
    promote(saved, 3)
    assert numbers(saved) == [3, 2]


def test_a_damaged_file_is_not_written_over(saved):
    promote(saved, 1)
    saved.directory.joinpath("000002.toml").write_text("evidence")
    assert promote(saved, 2)[0].number == 3
    assert saved.directory.joinpath("000002.toml").read_text() == "evidence"


def test_the_digest_is_of_values_and_keys():
    other = replace(config(1), http=replace(config(1).http, listen=""))
    digests = [digest(1), digest(2), digest_of(other, KEYS), digest_of(config(1), {"p": "other"})]
    assert len(set(digests)) == 4
    assert digest_of(config(1), dict(KEYS)) == digest(1)


def test_no_secret_is_written_and_the_files_are_closed_to_others(saved):
    promote(saved, 1)
    saved.reject(digest(2), "x")
    for path in saved.directory.iterdir():
        assert "SECRET" not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0
    assert stat.S_IMODE(saved.directory.stat().st_mode) & 0o027 == 0


# choose_at_start


BROKEN = ConfigError([ConfigProblem("f", 3, "k", "is bad"), ConfigProblem("f", 4, "k", "is worse")])


def test_a_valid_file_runs(saved):
    assert choose_at_start(Candidate(config(1), digest(1)), saved) == Choice(config(1), None, 0, None, proven=False)
    saved.provisional(config(1), digest(1))
    assert choose_at_start(Candidate(config(1), digest(1)), saved) == Choice(config(1), None, 1, None, proven=False)
    promote(saved, 1)
    assert choose_at_start(Candidate(config(1), digest(1)), saved) == Choice(config(1), None, 1, None, proven=True)


def test_an_invalid_file_is_replaced_by_the_last_good(saved):
    promote(saved, 1, 2)
    problem = "f:3: k: is bad (and 1 more)"
    assert choose_at_start(BROKEN, saved) == Choice(config(2), saved.get(2), 2, problem, proven=True)


def test_an_invalid_file_is_replaced_by_a_provisional_one(saved):
    saved.provisional(config(1), digest(1))
    one = ConfigError(BROKEN.problems[:1])
    assert choose_at_start(one, saved) == Choice(config(1), saved.get(1), 1, "f:3: k: is bad", proven=False)


def test_a_rejected_file_is_replaced_until_it_is_forgiven(saved):
    promote(saved, 1)
    saved.reject(digest(2), "no worker boots")
    candidate = Candidate(config(2), digest(2))
    choice = choose_at_start(candidate, saved)
    assert (choice.config, choice.fall_back, choice.generation) == (config(1), saved.get(1), 1)
    assert choice.problem == "what the file says was rejected: no worker boots"
    saved.forget_rejected(digest(2))
    assert choose_at_start(candidate, saved).fall_back is None


def test_with_nothing_good_the_error_comes_out(saved):
    with pytest.raises(ConfigError) as caught:
        choose_at_start(BROKEN, saved)
    assert caught.value is BROKEN
    saved.reject(digest(1), "no worker boots")
    with pytest.raises(ConfigError) as caught:
        choose_at_start(Candidate(config(1), digest(1), "/etc/c.toml"), saved)
    assert str(caught.value) == (
        "/etc/c.toml:0: config: what the file says was rejected: no worker boots"
        " (change it: there is no other to fall back to)"
    )


def test_choosing_writes_nothing(saved):
    promote(saved, 1)
    saved.reject(digest(2), "x")
    before = {path: path.read_bytes() for path in saved.directory.iterdir()}
    choose_at_start(BROKEN, saved)
    choose_at_start(Candidate(config(2), digest(2)), saved)
    assert {path: path.read_bytes() for path in saved.directory.iterdir()} == before


# What was being tried when the daemon died


def chosen(saved, workers, **more):
    """What a start chooses when the file says `workers`, and why it rejects that, if so."""
    choice = choose_at_start(Candidate(config(workers), digest(workers)), saved, **more)
    return choice.config.daemon.workers, choice.failed


def test_what_does_not_become_ready_twice_is_not_started_a_third_time(saved):
    promote(saved, 1)
    saved.begin_trial(Trial(digest(2), starts=1))
    assert chosen(saved, 2) == (2, None)
    saved.begin_trial(Trial(digest(2), starts=2))
    assert chosen(saved, 2) == (1, "captchad did not become ready with it in 2 starts")
    assert chosen(saved, 3) == (3, None), "another one has failed"
    saved.end_trial()
    assert chosen(saved, 2) == (2, None)


def test_without_another_to_fall_back_to_it_is_started_again_and_again(saved):
    saved.begin_trial(Trial(digest(1), starts=9))
    assert chosen(saved, 1) == (1, None)
    promote(saved, 1)
    assert chosen(saved, 1) == (1, None)


def test_what_nobody_confirmed_is_not_started_when_its_time_is_over(saved):
    promote(saved, 1)
    saved.begin_trial(Trial(digest(2), confirm_by=1000.0, confirm_within_s=600.0))
    assert chosen(saved, 2, now=999.0) == (2, None)
    assert chosen(saved, 2, now=1000.0) == (1, "nobody confirmed it within 600 s")


def test_an_earlier_generation_that_is_tried_again_has_to_be_confirmed_too(saved):
    promote(saved, 1, 2)
    saved.begin_trial(Trial(digest(1), confirm_by=1000.0, confirm_within_s=600.0))
    assert chosen(saved, 1, now=999.0) == (1, None)
    assert chosen(saved, 1, now=1000.0) == (2, "nobody confirmed it within 600 s")


_TRIAL = '{{"digest": "x", "starts": 0, "confirm_by": {}, "confirm_within_s": 1.0}}'


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"digest": 1}', '{"digest": "x", "starts": "2"}', _TRIAL.format("9" * 400), _TRIAL.format(1e300)],
)
def test_a_damaged_trial_is_none(saved, content):
    saved.begin_trial(Trial(digest(1), starts=2))
    (saved.directory / "trial.json").write_text(content)
    assert saved.trial() is None
    saved.begin_trial(Trial(digest(1), starts=1))
    assert saved.trial() == Trial(digest(1), starts=1)


# Directories


def at(place, workers=1):
    made = config(workers)
    return replace(made, daemon=replace(made.daemon, state_dir=Path(place)))


def unusable(*places):
    return lambda config: f"{config.daemon.state_dir} is gone" if str(config.daemon.state_dir) in places else None


def test_directories_that_cannot_be_used_are_left_where_the_good_ones_can(saved):
    saved.promote(at("/good"), "a" * 64)
    bad = Candidate(at("/bad"), "b" * 64, "/etc/c.toml")
    choice = choose_at_start(bad, saved, unusable=unusable("/bad"))
    assert (choice.fall_back, choice.config) == (saved.get(1), at("/good"))
    assert choice.problem == "/etc/c.toml: /bad is gone"
    assert choice.failed is None, "when the disk is mounted it is to be tried again"
    assert choose_at_start(bad, saved, unusable=unusable("/bad", "/good")).fall_back is None
    assert choose_at_start(bad, saved, unusable=unusable("/good")).fall_back is None
    same = Candidate(at("/good", workers=2), "b" * 64)
    assert choose_at_start(same, saved, unusable=unusable("/good")).fall_back is None


def test_a_rejected_one_leaves_its_directories_to_the_good_one(saved):
    # Tasks were taken there, and nobody else would work on them.
    saved.promote(at("/old", workers=1), "a" * 64)
    saved.tried(at("/new", workers=2), "b" * 64)
    saved.reject("b" * 64, "x")
    found = Candidate(at("/new", workers=2), "b" * 64)
    assert choose_at_start(BROKEN, saved).config == at("/new", workers=1)
    assert choose_at_start(found, saved).config == at("/new", workers=1)
    assert choose_at_start(found, saved, unusable=unusable("/new")).config == at("/old", workers=1)


# Those that were only tried


def test_what_is_tried_is_saved_and_nothing_falls_back_to_it(saved):
    good = promote(saved, 1)[0]
    made = saved.tried(config(2), digest(2))
    assert (made.number, made.good, saved.newest(), saved.last_good()) == (2, False, made, good)
    assert saved.tried(config(2), digest(2)) == made
    assert promote(saved, 2)[0].number == 2
    assert saved.tried(config(1), digest(1)).number == 3, "it ran last"


def test_many_trials_leave_room_and_the_good_ones(saved):
    promote(saved, 1, 2)
    for each in range(3, KEEP + 5):
        saved.tried(config(each), digest(each))
    assert [each.config.daemon.workers for each in saved.fall_backs()] == [2, 1]
    assert len(saved.history()) == KEEP + 2


def test_many_trials_leave_the_provisional_one_that_alone_can_be_fallen_back_to(saved):
    first = saved.provisional(config(1), digest(1))
    for each in range(2, KEEP + 5):
        saved.tried(config(each), digest(each))
    assert saved.last_good() == first


def test_one_whose_keys_are_gone_is_no_fall_back(saved):
    promote(saved, 1, 2)
    choice = choose_at_start(BROKEN, saved, runnable=lambda generation: generation.number == 1)
    assert choice.fall_back == saved.get(1)


def test_what_is_put_in_place_of_a_generation_is_seen(saved):
    promote(saved, 1)
    (saved.directory / "000001.toml").write_text("")
    assert saved.history() == []


# Back


def test_going_back_makes_the_earlier_one_the_newest(saved):
    first, _ = promote(saved, 1, 2)
    made = saved.promote(first.config, first.digest)
    assert (made.number, made.config, made.good) == (3, config(1), True)
    assert saved.last_good() == made
    assert numbers(saved) == [3, 2, 1]


# Hostile and torn files


def test_a_torn_file_is_skipped_wherever_it_is_torn(saved):
    promote(saved, 1, 2)
    newest = saved.directory / "000002.toml"
    whole = newest.read_bytes()
    for end in range(0, len(whole), 7):
        newest.write_bytes(whole[:end])
        assert numbers(saved) == [1]
    newest.write_bytes(whole)
    assert numbers(saved) == [2, 1]


@settings(max_examples=60)
@given(st.integers(0, 2000), st.one_of(st.binary(min_size=1, max_size=6)))
def test_a_damaged_file_is_skipped_and_never_raises(tmp_path_factory, at, noise):
    saved = Generations(tmp_path_factory.getbasetemp() / "damaged", FixedClock())
    if not saved.history():
        promote(saved, 1)
    path = saved.directory / "000002.toml"
    whole = saved.directory.joinpath("000001.toml").read_bytes().replace(b"generation 1\n", b"generation 2\n")
    at %= len(whole)
    damaged = whole[:at] + noise + whole[at + len(noise) :]
    path.write_bytes(damaged)
    # The header's time and digest are not under its checksum; nothing else may change unseen.
    assert damaged == whole or saved.last_good().config == config(1)
    path.write_bytes(noise * 50)
    assert numbers(saved) == [1]


@pytest.mark.parametrize("make", ["directory", "fifo", "link", "loop", "binary", "large", "renumbered", "older"])
def test_strange_entries_are_skipped(saved, make):
    promote(saved, 1)
    good = saved.directory / "000001.toml"
    strange = saved.directory / "000007.toml"
    if make == "directory":
        strange.mkdir()
    elif make == "fifo":
        os.mkfifo(strange)
    elif make == "link":
        renumbered = good.read_text().replace("generation 1\n", "generation 7\n")
        saved.directory.joinpath("real").write_text(renumbered)
        strange.symlink_to("real")
    elif make == "loop":
        strange.symlink_to("000007.toml")
    elif make == "binary":
        strange.write_bytes(b"\xff\xfe\0")
    elif make == "large":
        strange.write_bytes(good.read_bytes() + b"#" * (5 << 20))
    elif make == "renumbered":
        shutil.copy(good, strange)
    else:  # whole, but of a release that had another key
        saved.directory.joinpath("000001.toml").unlink()
        other = Generations(saved.directory, FixedClock())
        promote(other, 3)
        text = good.read_text()
        body = text[text.index("\n", text.index("follows")) + 1 :] + "[gone]\nx = 1\n"
        header = text[: text.index("follows: ")].replace("generation 1\n", "generation 7\n")
        strange.write_text(f"{header}follows: {hashlib.sha256(body.encode()).hexdigest()}\n{body}")
    assert numbers(saved) == [1]
    assert saved.last_good().number == 1


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"x": "y"}', '{"' + "a" * 64 + '": 3}', "[" * 100_000, "\udcff"]
)
def test_a_damaged_list_of_rejections_is_an_empty_one(saved, content):
    saved.reject(digest(1), "x")
    (saved.directory / "rejected.json").write_bytes(content.encode(errors="surrogateescape"))
    assert saved.rejected("a" * 64) is None
    assert saved.rejected(digest(1)) is None
    saved.reject(digest(1), "again")
    assert saved.rejected(digest(1)) == "again"


def test_the_place_of_the_directory_taken_by_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    saved = Generations(tmp_path / "x" / "config")
    assert saved.history() == []
    with pytest.raises(TryLater, match=r"^the configuration's history cannot be written: [A-Z][a-z ]+$") as caught:
        promote(saved, 1)
    assert caught.value.hint == f"look at {saved.directory}"


@pytest.mark.root
def test_a_full_disk_is_told_and_changes_nothing(saved, tmp_path):
    # RLIMIT_FSIZE is what a full disk looks like to one process: the write fails, the rest works.
    promote(saved, 1)
    before = sorted(saved.directory.iterdir())
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            try:
                promote(saved, 2)
            except TryLater:
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert numbers(saved) == [1]
    assert [each for each in sorted(saved.directory.iterdir()) if not each.name.startswith(".")] == before
    assert promote(saved, 2)[0].number == 2


# Death at any call


#: Calls that change the disk, or open what they will change. `str` has a `replace` too, in no module.
POSIX = frozenset({"open", "fsync", "replace", "unlink", "mkdir"})


def traced(work, at_call):
    """Run `work` and tell `at_call` the name of each call that changes the disk, before it is made."""

    def profile(_frame, event, argument):
        if event != "c_call":
            return
        name = argument.__name__
        if name in ("write", "flush") or (name in POSIX and argument.__module__ == "posix"):
            at_call(argument.__name__)

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)


def dies_at(count, work):
    """Run `work` in a child that is killed before its `count`-th call. False when it came to its end."""
    pid = os.fork()
    if pid == 0:
        left = [count]

        def at_call(_name):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            traced(work, at_call)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def every_death(tmp_path, prepare, work):
    """For each call of `work`: a fresh directory, prepared, then `work` killed there."""
    for count in range(1, 300):
        saved = Generations(tmp_path / str(count), FixedClock())
        prepare(saved)
        died = dies_at(count, lambda saved=saved: work(saved))
        yield saved, died
        if not died:
            assert count > 8, "the calls were not seen"
            return
    pytest.fail("it never came to its end")


def test_a_death_in_promote_leaves_the_old_or_the_new(tmp_path):
    def prepare(saved):
        promote(saved, 1)
        saved.reject(digest(2), "x")

    found = []
    for saved, died in every_death(tmp_path, prepare, lambda saved: promote(saved, 2)):
        workers = [each.config.daemon.workers for each in saved.history()]
        assert workers in ([1], [2, 1])
        assert saved.rejected(digest(2)) in (None, "x")
        # The rejection may outlive the promotion, never go before it.
        assert saved.rejected(digest(2)) == "x" or workers == [2, 1]
        assert saved.last_good() is not None
        found.append(workers)
        promote(saved, 2)
        assert saved.last_good().config == config(2)
        assert [each for each in os.listdir(saved.directory) if each.startswith(".")] == []
        assert died or workers == [2, 1]
    assert found[0] == [1]


def test_a_death_in_the_first_save_leaves_none_or_all(tmp_path):
    for saved, died in every_death(tmp_path, lambda _: None, lambda saved: saved.provisional(config(1), digest(1))):
        assert numbers(saved) in ([], [1])
        assert died or numbers(saved) == [1]
        assert saved.provisional(config(1), digest(1)).number == 1


def test_a_death_in_making_a_provisional_one_good_never_loses_it(tmp_path):
    def prepare(saved):
        saved.provisional(config(1), digest(1))

    for saved, died in every_death(tmp_path, prepare, lambda saved: promote(saved, 1)):
        assert saved.last_good().config == config(1)
        assert died or saved.last_good().good


def test_a_death_in_reject_keeps_the_earlier_rejections(tmp_path):
    for saved, died in every_death(
        tmp_path, lambda saved: saved.reject(digest(1), "x"), lambda saved: saved.reject(digest(2), "y")
    ):
        assert saved.rejected(digest(1)) == "x"
        assert saved.rejected(digest(2)) in (None, "y")
        assert died or saved.rejected(digest(2)) == "y"


def test_the_order_of_the_calls_is_write_sync_rename_sync(saved):
    promote(saved, *range(1, KEEP + 1))
    saved.reject(digest(50), "x")
    calls = []
    traced(lambda: promote(saved, 50), calls.append)
    durable = [each for each in calls if each in ("flush", "fsync", "replace", "unlink")]
    write = ["unlink", "flush", "fsync", "replace", "fsync"]  # unlink: of what a killed writer left
    # The generation, the forgotten rejection, and only then the old generation goes.
    assert durable == [*write, *write, "unlink", "fsync"]


def test_new_directories_are_synced_into_their_parents(tmp_path):
    saved = Generations(tmp_path / "a" / "b", FixedClock())
    calls = []
    traced(lambda: saved.reject(digest(1), "x"), calls.append)
    order = [each for each in calls if each in ("mkdir", "fsync", "replace")]
    assert order == ["mkdir", "fsync", "mkdir", "fsync", "fsync", "replace", "fsync"]


# Where


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({"STATE_DIRECTORY": "/var/lib/captchad:/b", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/var/lib/captchad/config"),
        ({"STATE_DIRECTORY": "", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/captchad/config"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/captchad/config"),
        ({"HOME": "/h"}, "/h/.local/state/captchad/config"),
    ],
)
def test_the_directory(environ, where):
    found = default_directory(Path("/etc/captchad/captchad.toml"), environ)
    assert found.parent == Path(where)
    assert found.name.startswith("etc-captchad-captchad-toml-")


def test_each_file_has_its_own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def name(path):
        return default_directory(Path(path), {"HOME": "/h"}).name

    names = {
        name(each) for each in ("/a/b.toml", "/a-b.toml", "/a/b-toml", "/", os.fsdecode(b"/\xff"), "/" + "x" * 300)
    }
    assert len(names) == 6
    assert max(map(len, names)) < 60
    assert name("c.toml") == name(f"{tmp_path}/d/../c.toml")


@pytest.mark.root
def test_a_user_without_a_home():
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setuid(4_000_000_000)
            try:
                default_directory(Path("/a"), {})
            except NeedsOperator:
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
