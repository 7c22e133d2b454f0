"""captchactl install, uninstall and --user. tests/system/package.py does it for the system, under systemd."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from captchad.cli import install as module
from captchad.cli.captchactl import main
from captchad.cli.reach import HIDDEN, Need, User, attempt, changeable, needs, obstacles, way
from captchad.model.errors import NeedsOperator
from tests.support.systemd import ROOT


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user's home, without a user's manager."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(module, "attempt", lambda user: "")  # half a second each time
    return tmp_path


@pytest.fixture
def program() -> Iterator[Path]:
    """A program in a directory, both open to everybody. pytest's own directories are their user's alone."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        program = Path(place) / "bin" / "program"
        program.parent.mkdir()
        program.parent.chmod(0o755)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        yield program


# --- what the unit can reach


def test_the_way_goes_through_links_as_the_kernel_does(tmp_path):
    (tmp_path / "real" / "bin").mkdir(parents=True)
    (tmp_path / "real" / "bin" / "python").touch()
    (tmp_path / "venv").symlink_to("real/../real")
    (tmp_path / "python").symlink_to(tmp_path / "venv" / "bin" / "python")

    steps = list(way(tmp_path / "python"))

    assert steps[0] == Path("/")
    assert steps[-1] == tmp_path / "real" / "bin" / "python"
    assert not any(step.is_symlink() for step in steps)
    assert tmp_path / "real" in steps


def test_links_without_end_are_an_obstacle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    (line,) = obstacles([Need(tmp_path / "a")], User("root", 0), {})

    assert "Too many levels of symbolic links" in line


@pytest.mark.parametrize("place", ["/root/venv/bin/captchad", "/home/a/.local/bin/captchad", "/tmp/venv/bin/captchad"])
def test_hidden_places_are_named_with_their_reason(place):
    (line,) = obstacles([Need(Path(place), execute=True)], User("root", 0), HIDDEN)

    top = Path(*Path(place).parts[:2])
    assert line == f"{place}: the unit does not see {top} ({HIDDEN[top]})"


def test_a_link_into_a_hidden_place_is_seen(tmp_path):
    link = tmp_path / "captchad"
    link.symlink_to("/root/venv/bin/captchad")
    hidden = {path: why for path, why in HIDDEN.items() if path not in tmp_path.parents}

    (line,) = obstacles([Need(link)], User("root", 0), hidden)

    assert "/root (ProtectHome=yes)" in line


def test_a_hidden_place_that_is_a_link_hides_what_it_leads_to(tmp_path):
    (tmp_path / "var" / "home" / "a").mkdir(parents=True)
    (tmp_path / "home").symlink_to("var/home")

    (line,) = obstacles([Need(tmp_path / "home" / "a")], User("root", 0), {tmp_path / "home": "ProtectHome=yes"})

    assert line.endswith(f"the unit does not see {tmp_path}/var/home (ProtectHome=yes)")


@pytest.mark.root
def test_what_others_than_root_can_change_is_named(program):
    above = program.parent.parent
    needed = [Need(program, execute=True), Need(program.parent)]
    assert changeable(needed) == []

    program.chmod(0o757)
    assert changeable(needed) == [program]
    os.chown(program.parent, 4_000_000, 0)
    assert changeable(needed) == [program.parent]
    above.chmod(0o775)
    assert changeable(needed) == [program.parent]  # its group is root's
    os.chown(above, 0, 4_000_000)
    assert changeable(needed) == [above]


@pytest.mark.parametrize(
    ("part", "mode"), [("bin", 0o700), ("bin", 0o744), ("bin/program", 0o744), ("bin/program", 0o711)]
)
def test_what_is_closed_to_the_daemon_is_named(program, part, mode):
    stranger = User("captchad", 4_000_000)
    assert obstacles([Need(program, execute=True)], stranger, {}) == []
    closed = program.parent.parent / part
    closed.chmod(mode)

    found = obstacles([Need(program, execute=True)], stranger, {})

    assert found == [f"{program}: closed to the user captchad: {closed} has mode {mode:04o}"]


def test_the_daemons_groups_count(program):
    program.chmod(0o750)
    status = program.stat()

    assert obstacles([Need(program, execute=True)], User("captchad", 4_000_000), {})
    assert not obstacles([Need(program, execute=True)], User("captchad", 4_000_000, frozenset({status.st_gid})), {})


def test_what_is_not_there_is_named(tmp_path):
    (line,) = obstacles([Need(tmp_path / "captchad", execute=True)], User("root", 0), {})

    assert line == f"{tmp_path}/captchad: No such file or directory: {tmp_path}/captchad"


@pytest.mark.root
@pytest.mark.debian("mount", "util-linux")
def test_a_noexec_mount_is_an_obstacle(tmp_path):
    code = (
        "import sys; from pathlib import Path; from captchad.cli.reach import *\n"
        "print(obstacles([Need(Path(sys.argv[1]), True), Need(Path(sys.argv[1]))], User('root', 0), {}))"
    )
    script = 'mount -t tmpfs -o noexec tmpfs "$1" && cp /bin/true "$1" && exec "$2" -c "$3" "$1/true"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == f"['{tmp_path}/true: it lies on a file system that is mounted noexec']\n"


def test_the_whole_chain_is_looked_at(tmp_path):
    script = tmp_path / "captchad"
    script.write_text("#!/opt/python/bin/python3 -I\n")

    paths = {need.path: need.execute for need in needs([script])}

    assert paths[script]
    assert paths[Path("/opt/python/bin/python3")]
    assert paths[Path(sys.executable)]
    assert not paths[Path(os.__file__).parent]
    assert Path(module.__file__).parent.parent in paths


def test_it_is_tried(monkeypatch, tmp_path):
    assert attempt(None) == ""
    monkeypatch.setattr(sys, "executable", shutil.which("python3", path="/usr/bin") or "python3")
    assert attempt(None).startswith("ModuleNotFoundError: ")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert attempt(None) == f"{tmp_path}/python: No such file or directory"


# --- the system's: only what needs no root


def test_a_place_that_no_unit_can_run_is_refused_before_anything_is_done(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_scripts", lambda: Path("/home/nobody/bin"))

    code = main(["install", "--dry-run"])

    printed = capsys.readouterr()
    assert (code, printed.out) == (1, "")
    assert "/home/nobody/bin/captchad: the unit does not see /home (ProtectHome=yes)" in printed.err
    assert "hint: put captchad" in printed.err
    assert "in a clone: PIPX_HOME=/opt/pipx" in printed.err


def test_nobody_is_told_to_install_what_an_index_has_under_the_name():
    told = [module._MOVE, module._MOVE_USER, (ROOT / "docs" / "operations.md").read_text()]

    installed = [
        found[1] for text in told for found in re.finditer(r"^[^`]*?\bpipx? install(?: -\S+ /\S+)* (\S+)", text, re.M)
    ]

    assert installed == [".", ".", ".", "."]


def test_beside_the_debian_package_it_refuses(monkeypatch, tmp_path):
    listed = tmp_path / "captchad.list"
    listed.write_text("/usr/bin/captchad\n/usr/lib/python3/dist-packages/captchad/__init__.py\n")
    monkeypatch.setattr(module, "_PACKAGE", listed)

    with pytest.raises(NeedsOperator, match="Debian package captchad is installed"):
        module.install(Namespace(user=False, dry_run=True, json=False, prefix=None))


@pytest.mark.debian("systemd")
def test_a_configuration_that_a_purge_deletes_is_named(monkeypatch, tmp_path, capsys):
    listed = tmp_path / "captchad.list"  # of a package that was removed and not purged
    listed.write_text("/etc\n/etc/captchad\n/etc/captchad/captchad.toml\n")
    monkeypatch.setattr(module, "_PACKAGE", listed)
    monkeypatch.setattr(module, "obstacles", lambda needed, user, hidden: [])
    monkeypatch.setattr(module, "attempt", lambda user: "")

    module.install(Namespace(user=False, prefix=tmp_path, dry_run=True, json=False))

    assert "warn    /etc/captchad/captchad.toml (dpkg --purge captchad deletes it" in capsys.readouterr().out


def test_systemd_reads_any_path_of_a_program(tmp_path):
    program = tmp_path / "a b" / "50%n $HOME; #é" / "captchad"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "x.service"
    unit.write_text(f"[Service]\nExecStart={module._escaped(program)} run\n")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)

    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_what_systemd_does_not_read_is_refused():
    for path in ("/opt/a'b/captchad", '/opt/"/captchad', "/opt/\\/captchad", "/opt/\n/captchad"):
        (line,) = obstacles([Need(Path(path), execute=True)], User("root", 0), {})
        assert "systemd takes no program" in line


# --- one user's


def test_a_rehearsal_says_the_same_and_changes_nothing(home, capsys):
    assert main(["install", "--user", "--dry-run"]) == 0
    rehearsed = capsys.readouterr().out
    assert list(home.iterdir()) == []

    assert main(["install", "--user"]) == 0
    assert capsys.readouterr().out == rehearsed
    assert "write   " in rehearsed


def test_once_more_changes_nothing(home, capsys):
    main(["install", "--user"])
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*") if not path.is_dir()}
    capsys.readouterr()

    assert main(["install", "--user"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"same", "keep", "skip", "next"}
    assert {path: path.lstat().st_mtime_ns for path in home.rglob("*") if not path.is_dir()} == before


def test_the_last_line_says_what_comes_next(home, capsys):
    key = home / ".config" / "captchad" / "captchaai.key"
    start = "systemctl --user enable --now captchad"

    main(["install", "--user"])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"next    the key into {key} (mode 0600), ")
    key.touch()
    main(["install", "--user"])
    assert capsys.readouterr().out.splitlines()[-1] == f"next    {start}"


@pytest.mark.parametrize(
    ("stored", "line"),
    [
        ([], "next    captchactl setup (it asks for your hosts and the key, and starts the service)"),
        (["captchaai.key.cred"], "next    systemctl start captchad"),
    ],
)
def test_root_is_told_of_setup_until_there_is_a_key(tmp_path, capsys, stored, line):
    (tmp_path / "credentials").mkdir()
    for name in stored:
        (tmp_path / "credentials" / name).touch()
    where = module.Where(False, tmp_path, tmp_path / "captchad.toml", tmp_path)

    module._say_next(where, module._Steps(Namespace(dry_run=True, json=False)))

    assert capsys.readouterr().out == f"{line}\n"


def test_the_unit_names_this_captchad(home, capsys):
    main(["install", "--user", "--prefix", str(home / "prefix")])

    unit = (home / ".config" / "systemd" / "user" / "captchad.service").read_text()
    assert f"\nExecStart={module._scripts()}/captchad run --config %E/captchad/captchad.toml\n" in unit
    assert f"\nExecReload={module._scripts()}/captchactl --socket " in unit
    assert (home / "prefix" / "share" / "man" / "man8" / "captchad.8").exists()
    assert (home / "prefix" / "bin" / "captchactl").resolve() == (module._scripts() / "captchactl").resolve()


def test_the_configuration_only_lacks_the_hosts(home, capsys):
    main(["install", "--user"])
    config = home / ".config" / "captchad" / "captchad.toml"
    (config.parent / "captchaai.key").write_text("a" * 32)
    command = [sys.executable, "-m", "captchad.cli.captchad", "check", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    (line,) = (done.stdout + done.stderr).splitlines()
    assert "policy.allowed_hosts: missing" in line


def test_once_more_goes_to_the_prefix_of_before(home, capsys):
    page = Path("share") / "man" / "man1" / "captchactl.1"
    main(["install", "--user", "--prefix", str(home / "prefix")])
    main(["install", "--user"])
    assert [(home / each / page).exists() for each in ("prefix", ".local")] == [True, False]

    main(["install", "--user", "--prefix", str(home / "other")])
    assert [(home / each / page).exists() for each in ("prefix", "other")] == [False, True]


def test_only_accounts_that_there_are_are_kept(monkeypatch):
    monkeypatch.setattr(module.pwd, "getpwnam", {"captchad": 1}.__getitem__)
    monkeypatch.setattr(module.grp, "getgrnam", {"captchad-submit": 1}.__getitem__)
    assert list(module._accounts()) == ["the user captchad", "the group captchad-submit"]
    monkeypatch.setattr(module.pwd, "getpwnam", {}.__getitem__)
    monkeypatch.setattr(module.grp, "getgrnam", {}.__getitem__)
    assert list(module._accounts()) == []


def test_uninstall_takes_what_install_wrote_and_nothing_else(home, capsys):
    main(["install", "--user"])
    state = home / ".local" / "state" / "captchad"
    state.mkdir(parents=True)
    page = home / ".local" / "share" / "man" / "man8" / "captchad.8"
    page.write_text("mine")
    program = home / ".local" / "bin" / "captchad"
    program.unlink()
    program.write_text("mine, too")
    capsys.readouterr()

    assert main(["uninstall", "--user", "--dry-run"]) == 0
    rehearsed = capsys.readouterr().out
    assert main(["uninstall", "--user"]) == 0
    printed = capsys.readouterr().out
    assert printed == rehearsed
    left = {path for path in home.rglob("*") if not path.is_dir() or path.is_symlink()}
    config = home / ".config" / "captchad"
    assert left == {page, program, config / "captchad.toml"}
    for path in (page, program, config, state):
        assert f"keep    {path} (" in printed

    main(["install", "--user"])
    assert program.read_text() == "mine, too"
    assert f"keep    {program} (it is not as captchactl install wrote it; " in capsys.readouterr().out


def test_what_is_somebodys_is_neither_replaced_nor_removed(home, capsys):
    unit = home / ".config" / "systemd" / "user" / "captchad.service"
    page = home / ".local" / "share" / "man" / "man8" / "captchad.8"
    links = [home / ".local" / "bin" / name for name in ("captchad", "captchactl")]
    for path in (unit, page, links[0]):
        path.parent.mkdir(parents=True)
    unit.symlink_to("/dev/null")  # a mask
    page.write_text("another's")
    links[0].symlink_to("/bin/true")
    links[1].symlink_to(module._scripts() / "captchactl")  # as uv would make it
    before = {path: module._mark(path) for path in (unit, page, *links)}

    for verb in ("install", "install", "uninstall"):
        assert main([verb, "--user"]) == 0
        assert {path: module._mark(path) for path in before} == before
    printed = capsys.readouterr().out
    for path in (unit, page, links[0]):
        assert printed.count(f"keep    {path} (it is not as captchactl install wrote it; ") == 2
    assert not list(home.rglob("*.fish"))


def test_an_update_replaces_what_an_earlier_one_wrote_and_nobody_changed(home, capsys, monkeypatch, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(module._files() / "systemd", tree / "systemd")
    shutil.copytree(module._files() / "share", tree / "share")
    (tree / "share" / "man" / "man8" / "old.8").write_text("old")
    monkeypatch.setattr(module, "_files", lambda: tree)
    main(["install", "--user"])
    written = tree / "systemd" / "user" / "captchad.service"
    written.write_text(written.read_text() + "# new\n")
    (tree / "share" / "man" / "man8" / "old.8").unlink()
    page = home / "other" / "share" / "man" / "man8" / "captchad.8"

    main(["install", "--user", "--prefix", str(home / "other")])

    unit = home / ".config" / "systemd" / "user" / "captchad.service"
    assert unit.read_text().endswith("# new\n")
    assert page.exists()
    assert not [path for path in (home / ".local").rglob("*") if not path.is_dir()]
    written.write_text("[Service]\n")  # a later version, which nobody has installed
    wants = unit.parent / "default.target.wants" / "captchad.service"
    wants.parent.mkdir()
    wants.symlink_to(unit)
    main(["uninstall", "--user"])
    assert not page.exists()
    assert not unit.exists()
    assert not wants.is_symlink()


def test_a_unit_that_was_edited_stays_and_is_disabled(home, capsys):
    main(["install", "--user"])
    unit = home / ".config" / "systemd" / "user" / "captchad.service"
    drop_in = unit.with_name("captchad.service.d") / "10.conf"
    wants = unit.parent / "default.target.wants" / "captchad.service"
    for path in (wants, drop_in):
        path.parent.mkdir()
        path.touch()
    wants.unlink()
    wants.symlink_to(unit)
    unit.write_text(unit.read_text() + "# mine\n")
    capsys.readouterr()

    main(["uninstall", "--user"])

    printed = capsys.readouterr().out
    for path in (unit, drop_in):
        assert path.exists()
        assert f"keep    {path} (" in printed
    assert not wants.is_symlink()

    unit.write_text("[Service]\nExecStart=/bin/true\n")
    wants.symlink_to(unit)
    main(["uninstall", "--user"])
    assert wants.is_symlink()  # another's


def test_what_cannot_be_written_is_said_before_anything_is(home, capsys):
    (home / "file").touch()

    assert main(["install", "--user", "--prefix", str(home / "file")]) == 1

    printed = capsys.readouterr()
    assert printed.err.startswith(f"captchactl: {home}/file is no directory\n")
    assert printed.out == ""
    assert list(home.iterdir()) == [home / "file"]


def test_a_step_that_fails_is_named_and_the_next_try_goes_on(home, capsys):
    blocked = home / ".local" / "share" / "man" / "man8" / ".captchad.8.new"
    (blocked / "x").mkdir(parents=True)

    assert main(["install", "--user"]) == 1
    assert f"captchactl: {blocked.with_name('captchad.8')}: Is a directory\n" in capsys.readouterr().err
    assert ".local/share/man/man1/captchactl.1" in (home / ".config" / "captchad" / "installed.json").read_text()
    shutil.rmtree(blocked)
    assert main(["install", "--user"]) == 0
    assert main(["uninstall", "--user"]) == 0
    assert [path.name for path in home.rglob("*") if not path.is_dir()] == ["captchad.toml"]


def test_a_record_that_is_none_is_said(home, capsys):
    record = home / ".config" / "captchad" / "installed.json"
    record.parent.mkdir(parents=True)
    for text in ("{", "[]", '{"schema": 2}'):
        record.write_text(text)
        for verb in ("install", "uninstall"):
            assert main([verb, "--user"]) == 1
            assert f"{record}: no record of an installation" in capsys.readouterr().err


def test_nobody_needs_to_listen(home):
    command = [str(module._scripts() / "captchactl"), "install", "--user"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (0, "")
    assert (home / ".config" / "captchad" / "captchad.toml").exists()


def test_the_programs_are_those_beside_the_one_that_runs(program, monkeypatch):
    for name in ("captchad", "captchactl"):
        shutil.copy(program, program.with_name(name))
    link = program.with_name("link")
    link.symlink_to("captchactl")
    monkeypatch.setattr(sys, "argv", [str(link)])
    assert module._scripts() == program.parent.resolve()

    program.with_name("captchad").unlink()
    assert module._scripts() == Path(sysconfig.get_path("scripts"))


def test_the_programs_themselves_are_no_links_of_ours(home, capsys):
    main(["install", "--user", "--dry-run", "--prefix", str(module._scripts().parent)])

    assert f" {module._scripts()}" not in capsys.readouterr().out


def test_steps_as_json(home, capsys):
    main(["install", "--user", "--dry-run", "--json"])

    steps = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"step": "write", "what": str(home / ".config/captchad/captchad.toml"), "why": ""} in steps


def test_user_names_the_users_daemon(home, capsys):
    main(["install", "--user"])
    capsys.readouterr()

    assert main(["--user", "show", "nothing"]) == 1
    assert str(home / ".local" / "state" / "captchad") in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--user", "--socket", "/nowhere", "status"])
