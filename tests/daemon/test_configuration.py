"""Which configuration runs: across deaths of the daemon, words of operators, and faults that are its own or not."""

import errno
import tomllib
from pathlib import Path

import pytest
import tomli_w

from captchad.config import durable
from captchad.config.schema import keys, tables
from captchad.daemon.configuration import Configuration
from captchad.daemon.settings import BEAR_ON_BOOT
from captchad.model.errors import FixInput, TryLater
from captchad.model.key import Key
from tests.support.clock import FakeClock

KEY, OTHER = "a" * 32, "b" * 32


class Bench:
    """A configuration file, and daemons that read it one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "captchad.toml"
        self.clock = FakeClock()
        (root / "key").write_text(KEY)
        self.write()

    def write(self, key="key", **tables):
        tree = {
            "daemon": {name: str(self.root / name) for name in ("state_dir", "spool_dir", "runtime_dir")},
            "policy": {"allowed_hosts": ["a.example"]},
            "provider": [{"name": "p", "url": "http://h", "api_key_file": str(self.root / key)}],
        }
        for name, values in tables.items():
            tree[name] = tree.get(name, {}) | values
        self.file.write_text(tomli_w.dumps(tree))

    def start(self, *, ready=True):
        """A daemon that begins; with `ready` it becomes ready, too."""
        made = Configuration(self.file, {"XDG_STATE_HOME": str(self.root / "xdg")}, self.clock)
        made.load_at_start()
        made.on_start()
        if ready:
            made.on_ready(self.clock.monotonic())
        return made

    def proven(self, **tables):
        """A daemon whose configuration has come through its probation."""
        self.write(**tables)
        made = self.start()
        self.wait(made, 1000.0)
        return made

    def wait(self, made, seconds):
        self.clock.advance(seconds)
        made.tick(self.clock.monotonic(), outage=False)

    def reload(self, made, within=None, **tables):
        self.write(**tables)
        return made.reload(self.clock.monotonic(), within)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture
def full(monkeypatch):
    """Makes the disk full: nothing is written, while names can go; and gives room again."""
    real = durable.write

    def refuse(*arguments, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    def turn(is_full):
        monkeypatch.setattr(durable, "write", refuse if is_full else real)

    return turn


def workers(made):
    return made.config.daemon.workers


# --- starts


def test_what_does_not_become_ready_twice_gives_way_to_the_last_good_one(bench):
    bench.proven()
    bench.write(daemon={"workers": 9})
    assert [workers(bench.start(ready=False)) for _ in range(3)] == [9, 9, 4]
    made = bench.start()
    assert made.problem == "what the file says was rejected: captchad did not become ready with it in 2 starts"
    bench.write(daemon={"workers": 8})
    bench.start(ready=False)
    bench.write(daemon={"workers": 9})
    assert workers(bench.start()) == 4, "nor is it forgotten when another one is tried"
    assert bench.reload(made, daemon={"workers": 9}).applied, "an explicit reload always tries"
    assert workers(bench.start()) == 9


def test_a_start_that_was_told_to_stop_or_became_ready_does_not_count(bench):
    bench.proven()
    bench.write(daemon={"workers": 9})
    for _ in range(3):
        assert workers(bench.start(ready=False)) == 9
        bench.start(ready=False).on_stop()
        assert workers(bench.start(ready=True)) == 9


def test_the_first_configuration_ever_is_tried_again_and_again(bench):
    assert [workers(bench.start(ready=False)) for _ in range(4)] == [4] * 4


def test_directories_that_cannot_be_used_leave_the_last_good_ones(bench):
    bench.proven()
    (bench.root / "file").write_text("")
    bench.write(daemon={"state_dir": str(bench.root / "file" / "state")})
    made = bench.start()
    assert made.config.daemon.state_dir == bench.root / "state_dir"
    assert (
        f"daemon.state_dir: {bench.root}/file/state cannot be made: {bench.root}/file is no directory" in made.problem
    )
    (bench.root / "file").unlink()
    assert bench.start().config.daemon.state_dir == bench.root / "file" / "state"


@pytest.mark.parametrize("name", ["state_dir", "spool_dir", "runtime_dir"])
def test_each_directory_is_looked_at(bench, name):
    bench.proven()
    (bench.root / "file").write_text("")
    bench.write(daemon={name: str(bench.root / "file")})
    assert f"daemon.{name}: {bench.root}/file cannot be used" in bench.start().problem


def test_a_runtime_directory_too_long_for_a_socket_is_not_taken(bench):
    bench.proven()
    bench.write(daemon={"runtime_dir": f"/run/{'x' * 100}"})
    assert "too long for the path of a socket" in bench.start().problem


def test_tasks_in_new_directories_are_not_left_when_the_rest_is_rolled_back(bench):
    bench.proven()
    bench.write(daemon={"state_dir": str(bench.root / "new"), "workers": 9})
    made = bench.start()
    made.own_fault("workers cannot boot", "daemon.")
    bench.wait(made, 1.0)
    assert (workers(made), made.config.daemon.state_dir) == (4, bench.root / "new")
    again = bench.start()
    assert (workers(again), again.config.daemon.state_dir) == (4, bench.root / "new")


# --- to be confirmed


def test_what_nobody_confirms_is_rolled_back(bench):
    made = bench.proven()
    assert bench.reload(made, 600.0, daemon={"workers": 9}).applied
    assert made.awaited is not None
    bench.wait(made, 599.0)
    assert workers(made) == 9
    bench.wait(made, 1.0)
    assert (workers(made), made.take_changed()) == (4, True)
    assert made.problem == "rolled back: nobody confirmed it within 600 s; undone: daemon.workers"
    assert made.awaited is None
    assert workers(bench.start()) == 4, "and not tried by a start"


def test_time_goes_on_while_no_daemon_runs(bench):
    made = bench.proven()
    bench.reload(made, 600.0, daemon={"workers": 9})
    bench.clock.advance(300.0)
    made = bench.start()
    assert workers(made) == 9
    bench.wait(made, 299.0)
    assert workers(made) == 9
    bench.wait(made, 1.0)
    assert workers(made) == 4

    bench.reload(made, 600.0, daemon={"workers": 8})
    bench.clock.advance(600.0)
    assert workers(bench.start()) == 4


def test_a_wall_clock_that_was_set_back_gives_no_more_time(bench):
    made = bench.proven()
    bench.reload(made, 600.0, daemon={"workers": 9})
    bench.clock.wall -= 10_000.0
    made = bench.start()
    bench.wait(made, 600.0)
    assert workers(made) == 4


def test_a_word_makes_it_good_at_once(bench):
    made = bench.proven()
    bench.reload(made, 600.0, daemon={"workers": 9})
    number = made.confirm()
    assert made.report()["generation"] == number == 2
    assert (made.awaited, made.problem) == (None, None)
    bench.wait(made, 1000.0)
    assert workers(made) == workers(bench.start()) == 9
    with pytest.raises(FixInput, match="nothing waits"):
        made.confirm()


def test_a_generation_that_is_known_as_good_waits_for_the_word_too(bench):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    bench.wait(made, 1000.0)
    bench.reload(made, 600.0)
    assert (workers(made), made.awaited is not None) == (4, True)
    made = bench.start()
    assert (workers(made), made.awaited is not None) == (4, True)
    bench.wait(made, 600.0)
    assert workers(made) == 9


def test_nothing_is_reloaded_over_what_is_not_confirmed(bench):
    made = bench.proven()
    bench.reload(made, 600.0, daemon={"workers": 9})
    outcome = bench.reload(made, daemon={"workers": 8})
    assert (outcome.applied, workers(made)) == (False, 9)
    assert "not confirmed yet" in outcome.refused[0]
    made.go_back(None, bench.clock.monotonic())
    assert workers(made) == 4
    assert bench.reload(made, daemon={"workers": 8}).applied


def test_a_fault_of_its_own_does_not_wait_for_the_word(bench):
    made = bench.proven()
    bench.reload(made, 600.0, daemon={"workers": 9})
    made.own_fault("workers cannot boot", "daemon.")
    bench.wait(made, 1.0)
    assert (workers(made), made.awaited) == (4, None)


# --- back


def test_an_operator_goes_back_and_starts_stay_there(bench):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    bench.wait(made, 1000.0)
    changed = made.go_back(1, bench.clock.monotonic())
    assert [str(each) for each in changed] == ["daemon.workers: 9 -> 4 (live)"]
    assert (workers(made), made.report()["generation"], made.report()["origin"]) == (4, 3, "last_known_good")
    assert made.problem == f"an operator went back to generation 1; {bench.file} does not run until it is reloaded"
    again = bench.start()
    assert (workers(again), "an operator went back" in again.problem) == (4, True)
    assert bench.reload(again, daemon={"workers": 9}).applied
    assert workers(bench.start()) == 9


def test_back_without_a_number_is_what_ran_before(bench):
    made = bench.proven()
    for each in (9, 8):
        bench.reload(made, daemon={"workers": each})
        bench.wait(made, 1000.0)
    made.go_back(None, bench.clock.monotonic())
    assert workers(made) == 9
    for each in (7, 6):  # on probation
        bench.reload(made, daemon={"workers": each})
    made.go_back(None, bench.clock.monotonic())
    assert workers(made) == 7


def test_back_to_what_is_not_there_or_takes_a_restart_is_refused(bench):
    made = bench.proven()
    with pytest.raises(FixInput, match="there is no generation 7"):
        made.go_back(7, 0.0)
    with pytest.raises(FixInput, match="there is no earlier generation"):
        made.go_back(None, 0.0)
    made = bench.proven(daemon={"state_dir": str(bench.root / "new")})
    with pytest.raises(FixInput, match=r"generation 1 has another daemon\.state_dir: takes a restart"):
        made.go_back(1, 0.0)
    (bench.root / "key").unlink()
    with pytest.raises(FixInput, match="the keys of generation 1 cannot be read"):
        made.go_back(1, 0.0)


# --- faults


def test_a_fault_is_held_against_what_has_a_bearing_on_it(bench):
    made = bench.proven()
    bench.reload(made, policy={"allowed_hosts": ["b.example"]}, supervision={"max_tasks": 9})
    made.own_fault("workers cannot boot", *BEAR_ON_BOOT)
    bench.wait(made, 1.0)
    assert made.problem is None
    bench.reload(made, supervision={"threads": 3})
    made.own_fault("workers cannot boot", *BEAR_ON_BOOT)
    bench.wait(made, 1.0)
    assert (
        made.problem
        == "rolled back: workers cannot boot; undone: supervision.threads, supervision.max_tasks, policy.allowed_hosts"
    )
    known = {f"{table.name}.{key.name}" for table in tables() for key in keys(table)}
    assert [each for each in BEAR_ON_BOOT if not any(key.startswith(each) for key in known)] == []


REFUSED = ("provider p refuses the new key", "provider.p: its key", "provider.p.url")


def test_a_refused_key_is_not_held_against_a_reload_that_did_not_touch_it(bench):
    made = bench.proven()
    bench.reload(made, limits={"charges_per_hour": 9})
    made.own_fault(*REFUSED)
    bench.wait(made, 1.0)
    assert made.problem is None


def test_a_fault_is_held_against_what_came_after_its_cause_and_then_against_that(bench):
    made = bench.proven()
    (bench.root / "key").write_text(OTHER)
    bench.reload(made)
    bench.reload(made, limits={"charges_per_hour": 9})
    for undone in ("limits.charges_per_hour", "provider.p: its key"):
        made.own_fault(*REFUSED)
        bench.wait(made, 1.0)
        assert made.problem == f"rolled back: {REFUSED[0]}; undone: {undone}"
    assert made.keys == {"p": KEY}


def test_a_new_key_is_a_change_and_its_value_is_not_told(bench):
    made = bench.proven()
    (bench.root / "other").write_text(OTHER)
    changed = [str(each) for each in bench.reload(made, key="other").changed]
    assert changed[-1] == "provider.p: its key: the old one -> the new one (live)"
    assert OTHER not in str(changed)


def test_where_each_value_comes_from(bench):
    made = bench.proven(daemon={"workers": 3})
    shown = made.shown()
    assert shown["config"]["daemon"]["workers"] == 3
    assert shown["origins"]["daemon.workers"].startswith(f"{bench.file}:")
    assert shown["origins"]["retry.max_attempts"] == "default"
    bench.file.write_text("[")
    assert bench.start().shown()["origins"]["daemon.workers"] == "generation 1"


def provider(bench, name, key="key"):
    return {"name": name, "url": "http://h", "api_key_file": str(bench.root / key)}


def write_providers(bench, *providers, **tables):
    bench.write(**tables)
    tree = tomllib.loads(bench.file.read_text())
    bench.file.write_text(tomli_w.dumps(tree | {"provider": list(providers)}))


# --- found in a review


def test_a_provider_that_only_a_rejected_configuration_has_is_known_for_its_captchas(bench):
    made = bench.proven()
    write_providers(bench, provider(bench, "p"), provider(bench, "q"))
    assert made.reload(bench.clock.monotonic(), 600.0).applied
    bench.clock.advance(600.0)
    made = bench.start()
    assert [each.name for each in made.config.providers] == ["p"]
    config, keys = made.earlier_provider("q")
    assert ([each.name for each in config.providers], keys) == (["q"], {"q": KEY})
    write_providers(bench, provider(bench, "p"))
    assert bench.start().earlier_provider("q") is not None, "nor when the file has it no more"


def test_another_key_or_address_at_a_start_is_on_trial_against_the_good_one(bench):
    bench.proven()
    assert bench.start().replaced_keys == {}
    write_providers(bench, provider(bench, "p") | {"url": "http://elsewhere"})
    made = bench.start()
    assert made.replaced_keys == {"p": Key("http://h", KEY)}
    assert made.earlier_keys(made.config) == {"p": [Key("http://elsewhere", KEY), Key("http://h", KEY)]}
    (bench.root / "other").write_text(OTHER)
    write_providers(bench, provider(bench, "p", key="other"))
    assert bench.start().replaced_keys == {"p": Key("http://h", KEY)}


def test_a_word_is_kept_although_the_disk_is_full(bench, full):
    made = bench.proven()
    bench.reload(made, 600.0, daemon={"workers": 9})
    full(True)
    made.confirm()
    assert made.awaited is None
    bench.wait(made, 600.0)
    assert (workers(made), made.problem) == (9, None)
    full(False)
    bench.wait(made, 60.0)
    bench.file.write_text("[")
    assert workers(bench.start()) == 9


def test_a_bad_one_is_rolled_back_although_the_disk_is_full(bench, full):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    full(True)
    made.own_fault("workers cannot boot", "daemon.")
    bench.wait(made, 1.0)
    assert (workers(made), made.take_changed()) == (4, True)
    assert workers(bench.start()) == 9, "nobody could write it down"
    full(False)
    bench.wait(made, 60.0)
    assert workers(bench.start()) == 4


def test_back_on_a_full_disk_is_refused_and_changes_nothing(bench, full):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    bench.wait(made, 1000.0)
    full(True)
    with pytest.raises(TryLater):
        made.go_back(1, bench.clock.monotonic())
    full(False)
    assert (workers(made), workers(bench.start())) == (9, 9)


def test_a_configuration_that_runs_again_is_the_one_to_fall_back_to(bench):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    bench.wait(made, 1000.0)
    bench.reload(made)  # the first one again
    bench.file.write_text("[")
    assert workers(bench.start()) == 4
    bench.write(daemon={"workers": 9})
    bench.start()  # the same by a start
    bench.file.write_text("[")
    assert workers(bench.start()) == 9


def test_a_refused_key_is_undone_beside_the_previous_key_of_another_provider(bench):
    for name, key in (("p1", KEY), ("q1", KEY), ("q1.previous", OTHER)):
        (bench.root / name).write_text(key)
    write_providers(bench, provider(bench, "p", "p1"), provider(bench, "q", "q1"))
    bench.wait(bench.start(), 1000.0)
    (bench.root / "p1").write_text(OTHER)
    (bench.root / "p1.previous").write_text(KEY)
    made = bench.start()
    assert made.replaced_keys == {"p": Key("http://h", KEY)}
    made.own_fault("provider p refuses the new key")
    bench.wait(made, 1.0)
    assert made.keys == {"p": KEY, "q": KEY}
    assert bench.start().keys == {"p": KEY, "q": KEY}


def test_without_anything_to_go_back_to_the_word_is_no_longer_waited_for(bench):
    made = bench.proven()
    (bench.root / "second").write_text(OTHER)
    bench.reload(made, 600.0, key="second")
    (bench.root / "key").unlink()
    made = bench.start()
    bench.wait(made, 600.0)
    assert (made.awaited, "no earlier configuration" in made.problem) == (None, True)
    assert bench.reload(made, key="second", daemon={"workers": 9}).applied
    assert workers(bench.start()) == 9


def test_the_good_one_whose_key_is_gone_gives_way_to_an_older_one(bench):
    made = bench.proven()
    (bench.root / "second").write_text(OTHER)
    bench.reload(made, key="second", daemon={"workers": 9})
    bench.wait(made, 1000.0)
    (bench.root / "second").unlink()
    bench.file.write_text("[")
    assert workers(bench.start()) == 4


def test_a_broken_file_leaves_the_directories_where_tasks_are(bench):
    bench.proven()
    bench.write(daemon={"state_dir": str(bench.root / "new")})
    bench.start()
    bench.file.write_text("[")
    assert bench.start().config.daemon.state_dir == bench.root / "new"


@pytest.mark.parametrize(("length", "taken"), [(103, True), (104, False)])
def test_the_longest_path_of_a_socket(bench, length, taken):
    bench.proven()
    runtime_dir = "/tmp/" + "x" * (length - len("/tmp/") - len("/control.sock"))
    bench.write(daemon={"runtime_dir": runtime_dir})
    assert (bench.start().problem is None) == taken


def test_nothing_becomes_good_before_the_service_is_ready(bench):
    bench.proven()
    made = bench.start(ready=False)
    assert bench.reload(made, daemon={"workers": 9}).applied
    bench.wait(made, 1000.0)
    assert made.report()["probation_s"] == 300.0
    made.on_ready(bench.clock.monotonic())
    bench.wait(made, 1000.0)
    assert made.report()["probation_s"] is None


def test_another_order_of_the_providers_is_a_change(bench):
    write_providers(bench, provider(bench, "p"), provider(bench, "q"))
    made = bench.start()
    write_providers(bench, provider(bench, "q"), provider(bench, "p"))
    outcome = made.reload(bench.clock.monotonic())
    assert [str(each) for each in outcome.changed] == ["provider: their order: p, q -> q, p (live)"]


def test_a_word_can_be_asked_for_of_what_runs_unproven_and_not_of_what_is_good(bench):
    made = bench.proven()
    outcome = bench.reload(made, 600.0)
    assert outcome.refused == ("nothing has changed: there is nothing to confirm",)
    bench.reload(made, daemon={"workers": 9})
    assert bench.reload(made, 600.0, daemon={"workers": 9}).applied
    assert made.awaited is not None
    bench.wait(made, 600.0)
    assert workers(made) == 4


def test_back_to_what_the_file_says_is_no_problem(bench):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    bench.wait(made, 1000.0)
    bench.write()
    made.go_back(1, bench.clock.monotonic())
    assert (made.problem, made.report()["origin"]) == (None, "file")


def test_a_refused_reload_forgets_no_rejection(bench, full):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    made.own_fault("workers cannot boot", "daemon.")
    bench.wait(made, 1.0)
    full(True)
    assert not bench.reload(made, 600.0, daemon={"workers": 9}).applied
    full(False)
    assert workers(bench.start()) == 4


@pytest.mark.parametrize("number", [None, 1])
def test_an_operator_who_goes_back_keeps_the_present_key(bench, number):
    bench.proven()
    (bench.root / "key.previous").write_text(KEY)
    (bench.root / "key").write_text(OTHER)
    made = bench.start()
    bench.reload(made, daemon={"workers": 9})
    changed = made.go_back(number, bench.clock.monotonic())
    assert [each.key for each in changed] == ["daemon.workers"]
    assert (workers(made), made.keys) == (4, {"p": OTHER})
    again = bench.start()
    assert (workers(again), again.keys) == (4, {"p": OTHER})


def test_it_is_said_when_submits_go_out_with_the_previous_key(bench):
    bench.proven()
    (bench.root / "key.previous").write_text(KEY)
    (bench.root / "key").write_text(OTHER)
    made = bench.start()
    made.own_fault("provider p refuses the new key")
    bench.wait(made, 1.0)
    assert bench.start().problem.endswith("refuses the new key; submits go out with the previous key of p")


def test_what_takes_a_restart_is_named_where_it_stands(bench):
    made = bench.proven()
    (bench.root / "conf.d").mkdir()
    (bench.root / "conf.d" / "50-mine.toml").write_text('\n[daemon]\nspool_dir = "/elsewhere"\n')
    (line,) = bench.reload(made).refused
    assert line == f"{bench.root}/conf.d/50-mine.toml:3: daemon.spool_dir: takes a restart; nothing was reloaded"


# --- found in a second review


def fail(bench, made, reason="workers cannot boot"):
    """The running configuration fails by itself."""
    made.own_fault(reason)
    bench.wait(made, 1.0)


def test_what_is_owed_of_an_earlier_trial_does_not_end_the_next_one(bench, full):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    full(True)
    fail(bench, made)
    full(False)
    assert bench.reload(made, 600.0, daemon={"workers": 7}).applied
    made = bench.start()
    assert (workers(made), made.awaited is None) == (7, False)
    bench.wait(made, 600.0)
    assert workers(made) == 4


def test_what_is_reloaded_again_is_not_rejected_by_what_is_owed(bench, full):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    full(True)
    fail(bench, made)
    full(False)
    assert bench.reload(made, daemon={"workers": 9}).applied
    bench.wait(made, 60.0)
    made = bench.start()
    assert (workers(made), made.problem) == (9, None)


def test_a_reload_that_the_disk_refuses_leaves_the_next_one_free(bench, monkeypatch):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    fail(bench, made)
    write = durable.write

    def nearly_full(path, data):
        if path.name == "rejected.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write", nearly_full)
        assert "No space left" in bench.reload(made, 600.0, daemon={"workers": 9}).refused[0]
        assert made.awaited is None
    assert bench.reload(made, daemon={"workers": 7}).applied


def test_a_refused_reload_of_a_rejected_one_leaves_it_rejected(bench, full):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    full(True)
    fail(bench, made)
    assert not bench.reload(made, 600.0, daemon={"workers": 9}).applied
    full(False)
    bench.wait(made, 60.0)
    assert "was rejected: workers cannot boot" in bench.start().problem


def test_on_a_full_disk_the_one_that_became_ready_is_the_provisional_one(bench, full):
    full(True)
    made = bench.start()
    bench.reload(made, daemon={"workers": 9})
    full(False)
    bench.wait(made, 60.0)
    fail(bench, made)
    assert workers(made) == 4
    assert (workers(bench.start()), [each.number for each in made._generations.fall_backs()]) == (4, [1])


def test_after_a_roll_back_it_is_not_the_file_that_runs(bench):
    made = bench.proven(daemon={"log_level": "debug"})
    bench.reload(made, daemon={"workers": 9})
    fail(bench, made)
    assert made.report()["origin"] == "last_known_good"
    assert made.shown()["origins"]["daemon.log_level"] == "generation 1"
    assert bench.reload(made, daemon={"log_level": "debug"}).applied
    assert made.report()["origin"] == "file"


def test_a_roll_back_to_what_the_file_says_again_is_the_file(bench):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    bench.write()
    fail(bench, made)
    assert (made.report()["origin"], workers(made)) == ("file", 4)
    assert made.shown()["origins"]["policy.allowed_hosts"].startswith(str(bench.file))


def test_what_fails_while_it_is_confirmed_is_not_confirmed(bench):
    made = bench.proven()
    bench.reload(made, 600.0, daemon={"workers": 9})
    made.own_fault("workers cannot boot")
    with pytest.raises(FixInput, match="not confirmed: it was rolled back: workers cannot boot"):
        made.confirm()
    assert workers(made) == 4


def test_nobody_goes_back_to_what_failed_or_was_never_proven(bench):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    fail(bench, made)
    bench.reload(made, daemon={"workers": 7})
    bench.reload(made, daemon={"workers": 8})
    numbers = {each.config.daemon.workers: each.number for each in made._generations.history()}
    for number, why in (
        (numbers[9], "was rejected: workers cannot boot"),
        (numbers[7], "has come through no probation"),
    ):
        with pytest.raises(FixInput, match=f"generation {number} {why}") as caught:
            made.go_back(number, bench.clock.monotonic())
        assert f"--generation {number} prints into the file, and reload" in caught.value.hint
    assert workers(made) == 8
    made.go_back(numbers[4], bench.clock.monotonic())
    assert workers(made) == 4
    bench.reload(made, daemon={"workers": 8})
    bench.wait(made, 1000.0)
    made.go_back(numbers[4], bench.clock.monotonic())
    made.go_back(made._generations.find(made._generations.get(numbers[8]).digest).number, bench.clock.monotonic())
    assert workers(made) == 8, "what an operator has put aside was good all the same"


def test_a_good_one_with_a_key_that_was_refused_is_no_way_out(bench):
    made = bench.start()
    (bench.root / "key").write_text(OTHER)
    assert made.reload(bench.clock.monotonic()).applied
    fail(bench, made, "provider p refuses the new key")
    assert made.keys == {"p": KEY}
    fail(bench, made, "provider p refuses the new key")
    assert (made.keys, made.report()["origin"]) == ({"p": KEY}, "last_known_good")
    assert "there is no earlier configuration to go back to" in made.problem
    (bench.root / "key").write_text(KEY)
    assert bench.start().keys == {"p": KEY}


def test_who_goes_back_keeps_the_key_that_runs_not_one_that_was_refused(bench):
    made = bench.proven()
    bench.reload(made, daemon={"workers": 9})
    bench.wait(made, 1000.0)
    (bench.root / "key").write_text(OTHER)
    assert made.reload(bench.clock.monotonic()).applied
    fail(bench, made, "provider p refuses the new key")
    made.go_back(1, bench.clock.monotonic())
    assert (workers(made), made.keys) == (4, {"p": KEY})
