"""Installing, upgrading, removing: the Debian package, and captchactl install for what is no package."""

import os
import pwd
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.harness import eventually
from tests.support.sandbox import Sandbox
from tests.system.kit import (
    DEB,
    HOLDS,
    QUICK,
    SLOW,
    SPOOL,
    charges,
    configure,
    drop,
    install,
    journal,
    main_pid,
    result,
    run,
    scenario,
    show,
    status,
    step,
    wait_solved,
)

CONFIG = Path("/etc/captchad")
STATE = Path("/var/lib/captchad")
ALERT = CONFIG / "alert"
UNIT_FILES = Path("/etc/systemd/system")
ALERTED = "captchad-alert@captchad.service"
DRAIN = "captchad-dlq-drain"
UNITS = ("captchad.service", f"{DRAIN}.service", f"{DRAIN}.timer", "captchad-alert@captchad.service")
#: Nothing is solved, however long a loaded machine takes for the steps meanwhile.
HOPELESS = "[solve]\nseconds = 0.1\n[outcomes]\nERROR_CAPTCHA_UNSOLVABLE = 1.0\n"
#: What a machine writes by itself, whatever is installed.
_THE_MACHINES = re.compile(
    r"/(var/lib/man-db/auto-update|etc/(passwd|shadow|group|gshadow|subuid|subgid)-?|etc/\.pwd\.lock|var/lib/dpkg/.*"
    r"|var/lib/systemd/(random-seed|catalog/database)|etc/systemd/system/[a-z-]+\.target\.wants"
    r"|var/(log|tmp|cache)/.*|usr/lib/python3/dist-packages/__pycache__.*|var/lib/private)"
)


@scenario
def a_package_from_first_to_last(directory: Path) -> None:
    before = files()
    install()
    the_package_is_whole()
    another_captchad_is_left_alone()
    with Sandbox(scenario=HOPELESS) as sandbox:
        a_daemon_that_fails_runs_the_alert()
        the_drain_runs_dead_letters_again(sandbox)
        ids = removed_with_a_captcha_in_flight(sandbox)
        a_purge_keeps_what_is_paid_for()
        sandbox.set_scenario(QUICK)
        install()
        nothing_of_it_was_lost(sandbox, ids)
        for path in (SPOOL / "results").iterdir():
            path.unlink()
        said = run("dpkg", "--purge", "captchad").stdout
    assert "may be paid for" not in said, said
    assert "the user captchad" in said, said
    assert show("captchad", "LoadState") == "not-found"
    differences = set(files().items()) ^ set(before.items())
    assert differences == set(), differences
    step("with everything handed out, a purge leaves nothing")


def the_package_is_whole() -> None:
    for unit in ("captchad.service", f"{DRAIN}.timer"):
        assert run("systemctl", "is-enabled", unit, ok=False).stdout.strip() == "disabled"
        assert show(unit, "ActiveState") == "inactive"
    done = run("systemd-analyze", "verify", *UNITS)  # it looks for the man pages, too
    assert (done.stdout, done.stderr) == ("", "")
    for page in ("captchad.8", "captchactl.1", "captchad.toml.5"):
        assert Path(f"/usr/share/man/man{page[-1]}/{page}.gz").exists()
    for place in (
        "bash-completion/completions/captchactl",
        "zsh/vendor-completions/_captchactl",
        "fish/vendor_completions.d/captchactl.fish",
    ):
        assert Path("/usr/share", place).exists()
    # Valid, but it allows no host: that is the operator's.
    done = run("captchad", "check", ok=False)
    assert done.returncode == 78
    (line,) = done.stdout.splitlines() + done.stderr.splitlines()
    assert "policy.allowed_hosts" in line
    run("systemctl", "start", f"{DRAIN}.service")
    assert "so nothing is dead" in journal(DRAIN)
    said = run("captchactl", "install").stdout
    assert "Debian package" in said, said
    assert len(said.splitlines()) == 1, said
    step("not enabled, not started; units, man pages, completions and a configuration that allows nothing")


def a_daemon_that_fails_runs_the_alert() -> None:
    assert run("systemctl", "start", "captchad", ok=False).returncode != 0
    eventually(lambda: show(ALERTED, "ConditionTimestamp") != "")  # a unit that was never started has none
    assert show(ALERTED, "ConditionResult") == "no"
    assert (show(ALERTED, "ActiveState"), show(ALERTED, "Result")) == ("inactive", "success")
    step("without a command the alert is skipped")

    ALERT.write_text(
        '#!/bin/sh\necho "alert: $1 $MONITOR_SERVICE_RESULT $MONITOR_EXIT_STATUS as $(id -un)"\nls /var/lib/captchad\n'
    )
    ALERT.chmod(0o755)
    STATE.joinpath("probe").touch()
    run("systemctl", "start", "captchad", ok=False)
    eventually(lambda: "alert: captchad.service exit-code 78 as captchad-alert" in journal(ALERTED))
    eventually(lambda: show(ALERTED, "ActiveState") in ("inactive", "failed"))
    assert "probe" not in journal(ALERTED)
    STATE.joinpath("probe").unlink()
    step("it gets the unit and its result, and sees nothing of the state directory")
    ALERT.unlink()
    run("systemctl", "reset-failed")


def the_drain_runs_dead_letters_again(sandbox: Sandbox) -> None:
    configure(sandbox, workers=2)
    (CONFIG / "conf.d").mkdir(exist_ok=True)
    (CONFIG / "conf.d" / "10-test.toml").write_text("[retry]\nmax_attempts = 1\n")
    run("systemctl", "start", "captchad")
    first = drop("hopeless", 3)
    eventually(lambda: status()["queue"]["dead"] == 3, 30)
    sandbox.set_scenario(QUICK)
    run("systemctl", "start", f"{DRAIN}.service")
    eventually(lambda: all(said(task) == "solved" for task in first), 30)
    step("the drain's service runs dead letters again, by the daemon")

    sandbox.set_scenario(HOPELESS)
    second = drop("later", 2)
    eventually(lambda: status()["queue"]["dead"] == 2, 30)
    eventually(lambda: all(said(task) == "failed" for task in second))
    run("systemctl", "stop", "captchad")
    sandbox.set_scenario(QUICK)
    run("systemctl", "start", f"{DRAIN}.service")
    assert [said(task) for task in second] == [None, None]
    run("systemctl", "start", "captchad")
    eventually(lambda: all(said(task) == "solved" for task in second), 30)
    step("and without one, by the journal")

    sandbox.set_scenario(HOPELESS)
    third = drop("bounded", 1)
    eventually(lambda: status()["queue"]["dead"] == 1, 30)
    limit = CONFIG / "conf.d" / "20-limit.toml"
    limit.write_text("[queue]\nmax_redrives = 0\n")
    run("systemctl", "reload", "captchad")
    eventually(lambda: status()["daemon"]["config"]["probation_s"] is None, 30)
    run("systemctl", "stop", "captchad")
    limit.write_text("[queue]\nmax_redrives = 0\noops\n")
    run("systemctl", "start", f"{DRAIN}.service")
    assert said(third[0]) == "failed"
    assert "redriven 0 times" in journal(DRAIN)
    limit.unlink()
    sandbox.set_scenario(QUICK)
    run("systemctl", "start", "captchad")
    assert status()["queue"]["dead"] == 1
    step("never beyond the limit: with a broken file it is that of the last good generation")
    charged = status()["queue"]["charges_total"]
    run("captchactl", "dlq", "redrive", *third)
    wait_solved(third)
    charged += 1
    assert charges(sandbox) == status()["queue"]["charges_total"] == charged == 2 * 6


def said(task: str) -> str | None:
    found = result(task)
    return found and found["status"]


def a_chroot_has_its_own_package() -> None:
    before, root = main_pid("captchad"), "/mnt/root"
    run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
    for name in ("changes", "work", "root"):
        Path("/mnt", name).mkdir()
    run("mount", "-t", "overlay", "-o", "lowerdir=/,upperdir=/mnt/changes,workdir=/mnt/work", "overlay", root)
    shutil.copy(DEB, f"{root}/captchad.deb")
    run("mount", "--bind", "/dev", f"{root}/dev")
    run("mount", "-t", "tmpfs", "tmpfs", f"{root}/run")
    said = run("chroot", root, "dpkg", "--install", "/captchad.deb").stderr
    assert "captchad: if this is a chroot, its boot makes the directories" in said, said
    step("a package is installed where systemd-tmpfiles has no /proc")

    run("mount", "--bind", "/run", f"{root}/run")
    run("mount", "--bind", "/proc", f"{root}/proc")
    assert run("chroot", root, "sh", "/var/lib/dpkg/info/captchad.preinst", "upgrade").stdout == ""
    run("chroot", root, "dpkg", "--purge", "captchad")
    assert not Path(root, "etc/captchad").exists()
    assert (main_pid("captchad"), status()["source"]) == (before, "live")
    run("umount", "--recursive", "/mnt")
    step("a purge in a chroot with the machine's /run leaves the machine's captchad alone")


def removed_with_a_captcha_in_flight(sandbox: Sandbox) -> list[str]:
    run("systemctl", "enable", "captchad")
    sandbox.set_scenario(HOLDS)
    flying = drop("flying", 1)
    eventually(lambda: status()["queue"]["in_flight"] == 1, 30)
    removed_for_nothing()
    # The daemon runs on with what it has, whatever the file names.
    (CONFIG / "conf.d" / "20-elsewhere.toml").write_text('[daemon]\nstate_dir = "/srv/captchad"\n')
    assert run("systemctl", "reload", "captchad", ok=False).returncode != 0
    somebodys = UNIT_FILES / "captchad-exporter.service"
    somebodys.write_text("[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n")
    run("systemctl", "enable", somebodys.name)
    run("systemctl", "add-wants", "multi-user.target", "captchad-alert@other.service")
    run("dpkg", "--remove", "captchad")
    assert run("systemctl", "is-enabled", somebodys.name, ok=False).stdout.strip() == "enabled"
    run("systemctl", "disable", somebodys.name)
    somebodys.unlink()
    assert show("captchad", "ActiveState") == "inactive"
    assert not list(UNIT_FILES.glob("multi-user.target.wants/captchad*"))
    assert not Path("/usr/bin/captchad").exists()
    assert (CONFIG / "captchad.toml").exists()
    assert (CONFIG / "credentials" / "captchaai.key").exists()
    assert (STATE / "journal").is_dir()
    step("removed: stopped, disabled; configuration and queue are there")
    return flying + drop("waiting", 1)


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A maintainer script, as dpkg would call it."""
    return run("sh", f"/var/lib/dpkg/info/captchad.{name}", *arguments)


def removed_for_nothing() -> None:
    before = main_pid("captchad")
    script("prerm", "remove")
    state = STATE / "main"  # where a daemon has run that was configured so
    state.mkdir()
    (STATE / "journal").rename(state / "journal")
    script("prerm", "remove")
    noted = Path("/var/lib/misc/captchad.left").read_text()
    assert f"1 unfinished tasks, in {state}\n" in noted, noted
    assert f"looked at {state}\n" in noted, noted
    (state / "journal").rename(STATE / "journal")
    state.rmdir()
    script("postinst", "abort-remove")
    assert main_pid("captchad") != before
    assert run("systemctl", "is-enabled", "captchad").stdout.strip() == "enabled"
    step("a removal that is given up leaves it enabled, and running")


def another_captchad_is_left_alone() -> None:
    unit = UNIT_FILES / "captchad.service"  # as captchactl install would leave it
    program = Path("/opt/a b%n/captchad")
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/sleep", program)
    unit.write_text(
        '[Service]\nExecStart=/usr/bin/nice -n 5 \\\n "/opt/a b%%n/captchad" 1000\n'
        "[Install]\nWantedBy=multi-user.target\n"
    )
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", "captchad")
    before = main_pid("captchad")
    script("prerm", "upgrade", "9.8.7")
    assert f"captchad.service runs {program}, not this package" in script("postinst", "configure").stderr
    script("prerm", "remove")
    script("postrm", "remove")
    config, saved = CONFIG / "captchad.toml", CONFIG / "saved.toml"
    config.rename(saved)  # as dpkg would before it calls this
    said = script("postrm", "purge").stdout
    assert f"kept all that {program} may use" in said, said
    assert f"dpkg deletes {config}" in said, said
    saved.rename(config)
    assert (CONFIG / "credentials").exists()
    assert main_pid("captchad") == before
    assert run("systemctl", "is-enabled", "captchad").stdout.strip() == "enabled"
    run("systemctl", "disable", "--now", "captchad")
    step("another captchad is not stopped, not disabled, and keeps everything")
    shutil.rmtree(program.parent)
    assert f"rm {unit}: it runs {program}, which is not there" in script("postinst", "configure", "9.8.7").stderr
    unit.write_text('[Service]\nExecStart="/opt/a b%%n/captchad" run\n')  # as captchactl install wrote it
    said = run("captchactl", "install").stdout
    assert f"warn    {unit} (remove it: {program} is not there" in said, said
    unit.unlink()
    run("systemctl", "daemon-reload")
    step("a unit that such a one has left behind is named")


def a_purge_keeps_what_is_paid_for() -> None:
    run("systemctl", "mask", "captchad")  # no other captchad
    noted = Path("/var/lib/misc/captchad.left")
    lines = noted.read_text()
    assert "\nlooked at /var/lib/captchad\n" in lines
    noted.write_text("")  # as when it could not look
    assert f"the journal in {STATE}, into which nobody could look" in script("postrm", "purge").stdout
    assert (STATE / "journal").is_dir()
    a_purge_looks_at_all_that_it_removes(noted)
    noted.write_text(lines)

    Path("/etc/systemd/system/captchad.service.d").mkdir()
    Path("/etc/systemd/system/captchad.service.d/10-setup.conf").write_text("[Service]\n")
    said = run("dpkg", "--purge", "captchad").stdout
    run("systemctl", "unmask", "captchad")
    assert "/srv/captchad (daemon.state_dir)" in said, said
    for line in ("1 unfinished tasks", "1 files in incoming/", "6 results in results/", f"rm -r {STATE} {SPOOL}"):
        assert line in said, said
    assert (STATE / "journal").is_dir()
    assert not CONFIG.exists()
    assert not Path("/etc/systemd/system/captchad.service.d").exists()
    step(f"purged:\n{said}")


def a_purge_looks_at_all_that_it_removes(noted: Path) -> None:
    # As a daemon leaves them whose configuration has named directories there.
    spool, state = STATE / "spool", STATE / "main"
    noted.write_text(f"looked at {STATE}\n")
    state.mkdir()
    (STATE / "journal").rename(state / "journal")
    saved = SPOOL.rename(SPOOL.with_name("captchad.saved"))
    said = script("postrm", "purge").stdout
    assert f"the journal in {state}, into which nobody could look" in said, said
    assert (state / "journal").is_dir()

    (state / "journal").rename(saved / "journal")
    shutil.copytree(saved / "results", spool / "results")
    said = script("postrm", "purge").stdout
    assert "6 results in results/" in said, said
    assert len(list((spool / "results").iterdir())) == 6
    (saved / "journal").rename(STATE / "journal")
    saved.rename(SPOOL)
    shutil.rmtree(spool)
    state.rmdir()
    step("a purge looks at journals and spools anywhere in what it removes")


def nothing_of_it_was_lost(sandbox: Sandbox, ids: list[str]) -> None:
    configure(sandbox, workers=2)
    sandbox.set_scenario(QUICK)
    run("systemctl", "start", "captchad")
    wait_solved(ids)
    assert charges(sandbox) == 14, sandbox.totals()
    run("systemctl", "stop", "captchad")
    install()
    assert show("captchad", "ActiveState") == "inactive"
    step("installed again: the captcha in flight was polled under its id; what did not run is not started")


def files() -> dict[str, str]:
    """All paths where a package may leave something, with mode and owner, but for what the machine itself writes."""
    # That one is a file system of its own here.
    command = ["find", "/etc", str(UNIT_FILES), "/lib/systemd", "/opt", "/srv", "/run", "/usr", "/var", "-xdev"]
    command += ["(", "-path", "/run/systemd", "-o", "-path", "/run/udev", "-o", "-path", "/run/log", ")", "-prune"]
    lines = run(*command, "-o", "-printf", r"%p\t%M %u:%g\n").stdout.splitlines()
    found = dict(line.split("\t") for line in lines)
    return {path: how for path, how in found.items() if not _THE_MACHINES.fullmatch(path)}


@scenario
def an_upgrade_under_load(directory: Path) -> None:
    install()
    old, new = repack(directory, "9.8.7")
    with Sandbox(scenario=SLOW) as sandbox:
        configure(sandbox, workers=4)
        config = (CONFIG / "captchad.toml").read_text()
        run("systemctl", "start", "captchad")
        with dropping() as ids:
            for name, line in (("preinst", "set -e"), ("postinst", "systemd-sysusers captchad.conf")):
                _, bad = repack(directory, "9.8.6", (f"DEBIAN/{name}", line, "exit 1"))
                ids += drop(f"batch-{name}", 60)
                eventually(lambda: status()["queue"]["in_flight"] >= 50, 60)
                before = main_pid("captchad")
                assert run("dpkg", "--install", str(bad), ok=False).returncode != 0
                assert main_pid("captchad") != before
                version = status()["daemon"]["version"]
                assert version == (old if name == "preinst" else "9.8.6"), version
                step(f"an upgrade that fails in {name} leaves {version} running")

            ids += drop("batch", 60)
            eventually(lambda: status()["queue"]["in_flight"] >= 50, 60)
            flying = status()["queue"]["in_flight"]
            run("dpkg", "--install", str(new))
            assert status()["daemon"]["version"] == "9.8.7"
            step(f"upgraded with {flying} captchas in flight")
            done = len(ids)
            eventually(lambda: len(ids) > done + 20)
            upgrades_that_were_cut_short(directory, new)
        wait_solved(ids)
        queue = status()["queue"]
        assert charges(sandbox) == queue["charges_total"] == len(ids), (queue, sandbox.totals())
        assert (queue["unknown_submits"], queue["late_submits"]) == (0, 0), queue
        step(f"{len(ids)} tasks, dropped before, meanwhile and after: as many charges")
        assert (CONFIG / "captchad.toml").read_text() == config
        assert run("systemctl", "is-enabled", "captchad", ok=False).stdout.strip() == "disabled"
        run("systemctl", "stop", "captchad")
    purged_on_a_mount_point()


@scenario
def upgrades_and_removals_with_obstacles(directory: Path) -> None:
    install()
    _, new = repack(directory, "9.8.7")
    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox, workers=1)
        run("systemctl", "start", "captchad")
        an_upgrade_that_nobody_answers(directory, new)
        an_upgrade_with_a_bad_drop_in()
        what_ran_runs_again()
        a_chroot_has_its_own_package()
        script("postrm", "remove")  # of a package that was unpacked only dpkg runs no prerm
        assert show("captchad", "ActiveState") == "inactive"
        step("a package that is removed without having been configured stops its daemon")


def an_upgrade_that_nobody_answers(directory: Path, new: Path) -> None:
    _, asking = repack(directory, "9.8.7a", ("etc/captchad/captchad.toml", "#", "# New:"))
    done = run("dpkg", "--install", str(asking), ok=False)
    assert done.returncode != 0
    assert "end of file on stdin at conffile prompt" in done.stderr, done.stderr
    assert show("captchad", "ActiveState") == "inactive"
    assert "captchad: stopped until the package is configured: dpkg --configure captchad\n" in done.stdout, done.stdout
    run("dpkg", "--install", str(new))
    assert show("captchad", "ActiveState") == "active"
    step("an upgrade that ends at a question leaves it stopped, and says so; the next one starts it")


def an_upgrade_with_a_bad_drop_in() -> None:
    """Of a unit that does not run: systemd does not even stop it then."""
    with bad_timer():
        script("prerm", "failed-upgrade", "9.8.6")
        assert show("captchad", "ActiveState") == "inactive"
        script("preinst", "upgrade", "9.8.6")
        script("postinst", "configure", "9.8.6")
        assert show("captchad", "ActiveState") == "active"
    step("a bad drop-in of a unit that does not run stands in no upgrade's way")


def what_ran_runs_again() -> None:
    edited = UNIT_FILES / "captchad.service"
    shipped = Path("/lib/systemd/system/captchad.service").read_text()
    edited.write_text(shipped.replace("ExecStart=", "ExecStart=/usr/bin/nice -n 5 "))
    kinds = ("Requires", "BindsTo", "PartOf")
    for kind in kinds:
        (UNIT_FILES / f"pipeline-{kind}.service").write_text(
            f"[Unit]\n{kind}=captchad.service\nAfter=captchad.service\n[Service]\nExecStart=/bin/sleep 1000\n"
        )
    run("systemctl", "daemon-reload")
    run("systemctl", "start", *(f"pipeline-{kind}" for kind in kinds))
    run("systemctl", "stop", "pipeline-BindsTo")
    script("prerm", "upgrade", "9.8.8")
    assert show("captchad", "ActiveState") == "inactive"
    assert show("pipeline-PartOf", "ActiveState") == "inactive"
    script("postinst", "configure", "9.8.7")
    assert show("captchad", "ActiveState") == "active"
    step("a unit that was edited and runs the package's captchad behind a wrapper is the package's")
    states = {kind: show(f"pipeline-{kind}", "ActiveState") for kind in kinds}
    assert states == {"Requires": "active", "BindsTo": "inactive", "PartOf": "active"}
    run("systemctl", "stop", "pipeline-*")
    for unit in (edited, *UNIT_FILES.glob("pipeline-*")):
        unit.unlink()
    run("systemctl", "daemon-reload")
    step("units that the stop took along run again, too")

    policy = Path("/usr/sbin/policy-rc.d")
    policy.write_text('#!/bin/sh\ncat\n[ "$*" != "captchad.service start" ] || exit 101\n')
    policy.chmod(0o755)
    script("prerm", "upgrade", "9.8.8")
    assert (
        "captchad.service stays stopped, for /usr/sbin/policy-rc.d" in script("postinst", "configure", "9.8.7").stderr
    )
    policy.unlink()
    assert show("captchad", "ActiveState") == "inactive"
    script("postinst", "configure", "9.8.7")
    assert show("captchad", "ActiveState") == "inactive"
    run("systemctl", "start", "captchad")
    step("what policy-rc.d forbids is not started")


@contextmanager
def bad_timer() -> Iterator[None]:
    """A drop-in with which systemd does not load the timer."""
    bad = UNIT_FILES / f"{DRAIN}.timer.d" / "bad.conf"
    bad.parent.mkdir()
    bad.write_text("[Timer]\nOnCalendar=\n")
    run("systemctl", "daemon-reload")
    assert show(f"{DRAIN}.timer", "LoadState") == "bad-setting"
    yield
    shutil.rmtree(bad.parent)
    run("systemctl", "daemon-reload")


def upgrades_that_were_cut_short(directory: Path, new: Path) -> None:
    _, other = repack(directory, "9.8.8")
    script("prerm", "upgrade", "9.8.8")
    assert Path("/run/captchad.active").read_text() == "captchad.service\n"
    run("dpkg", "--install", str(other))  # with a prerm that finds nothing running
    assert status()["daemon"]["version"] == "9.8.8"
    assert not Path("/run/captchad.active").exists()
    step("dpkg was killed after it had stopped captchad: the next try starts it again")

    run("dpkg", "--unpack", str(new))
    Path("/run/captchad.active").unlink()  # a power cut
    run("systemctl", "start", "captchad")  # a boot
    assert status()["daemon"]["version"] == "9.8.7"
    before = main_pid("captchad")
    run("dpkg", "--install", str(other))
    assert main_pid("captchad") != before
    assert status()["daemon"]["version"] == "9.8.8"
    step("what runs without having been configured is stopped, too, before its files go")

    slow = Path("/run/systemd/system/captchad.service.d/slow.conf")
    slow.parent.mkdir(parents=True)
    slow.write_text("[Service]\nExecStop=/bin/sleep 3\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "--no-block", "captchad")
    eventually(lambda: show("captchad", "ActiveState") == "deactivating")
    run("dpkg", "--install", str(new))
    assert status()["daemon"]["version"] == "9.8.7"
    run("systemctl", "stop", "--no-block", "captchad")
    eventually(lambda: show("captchad", "ActiveState") == "deactivating")
    run("dpkg", "--install", str(other))
    assert show("captchad", "ActiveState") == "inactive"
    slow.unlink()
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "captchad")
    step("a restart in flight counts as running, a stop does not")


def purged_on_a_mount_point() -> None:
    for path in (SPOOL / "results").iterdir():
        path.unlink()
    saved = STATE.with_name("captchad.saved")
    STATE.rename(saved)
    STATE.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(STATE))
    shutil.copytree(saved, STATE, dirs_exist_ok=True)
    run("chown", "-R", "captchad:captchad", str(STATE))
    said = run("dpkg", "--purge", "captchad").stdout
    assert f"kept {STATE}, for something is mounted there" in said, said
    assert list(STATE.iterdir()) == []
    assert run("dpkg-query", "--show", "captchad", ok=False).returncode != 0
    step("a mount point is emptied, and the package is gone")


def repack(directory: Path, version: str, change: tuple[str, str, str] | None = None) -> tuple[str, Path]:
    """The old version, and this package under another one; `change` names a file, a text in it, and what it becomes."""
    tree = directory / f"tree-{version}-{change and Path(change[0]).name}"
    run("dpkg-deb", "--raw-extract", str(DEB), str(tree))
    control, module = tree / "DEBIAN" / "control", tree / "usr/lib/python3/dist-packages/captchad/__init__.py"
    (old,) = re.findall('__version__ = "(.+)"', module.read_text())
    control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
    module.write_text(module.read_text().replace(f'"{old}"', f'"{version}"'))
    if change is not None:
        name, before, after = change
        text = (tree / name).read_text()
        assert before in text
        (tree / name).write_text(text.replace(before, after))
    package = directory / f"{tree.name}.deb"
    run("dpkg-deb", "-Znone", "--root-owner-group", "--build", str(tree), str(package))
    return old, package


@contextmanager
def dropping() -> Iterator[list[str]]:
    """Drop a task ten times a second; the list is of all ids so far."""
    ids: list[str] = []
    over = threading.Event()

    def feed() -> None:
        number = 0
        while not over.wait(0.1):
            ids.extend(drop(f"drip{number}", 1))
            number += 1

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield ids
    finally:
        over.set()
        feeder.join()


VENV = Path("/opt/captchad")


@scenario
def from_a_virtual_environment(directory: Path) -> None:
    virtual_environment(Path(os.environ["CAPTCHAD_WHEEL"]))
    program = str(VENV / "bin" / "captchactl")
    no_place_for_a_daemon(program)
    # As uv makes them.
    Path("/usr/local/bin/captchad").symlink_to(VENV / "bin" / "captchad")
    before = files()
    rehearsed = run(program, "install", "--dry-run").stdout
    assert files() == before
    assert run(program, "install").stdout == rehearsed
    again = run(program, "install").stdout
    assert {line.split()[0] for line in again.splitlines()} == {"same", "keep", "run", "next"}
    done = run("systemd-analyze", "verify", *UNITS)
    assert (done.stdout, done.stderr) == ("", "")
    step("installed as rehearsed, and once more without a change")

    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox, workers=2)
        run("systemctl", "enable", "--now", "captchad")
        wait_solved(drop("task", 3))
        assert str(VENV) in Path(f"/proc/{main_pid('captchad')}/cmdline").read_text()
        run("systemctl", "reload", "captchad")
        # An update that nobody has installed.
        (unit,) = VENV.glob("lib/python3*/site-packages/captchad/files/systemd/captchad.service")
        unit.write_text(f"{unit.read_text()}# new\n")
        with bad_timer():
            run(program, "uninstall")
        assert show("captchad", "ActiveState") == "inactive"
        assert show("captchad", "LoadState") == "not-found"
        assert Path("/usr/local/bin/captchad").is_symlink()
        ours = ("/var/lib/captchad", "/var/spool/captchad")
        left = {path for path in files().keys() - before if not path.startswith(ours)}
        assert all(path.startswith("/etc/captchad") or Path(path).is_dir() for path in left), left
        assert len(list((SPOOL / "results").iterdir())) == 3
        step("worked, and uninstalled: configuration, queue and results stay")

        for_one_user(sandbox)


def no_place_for_a_daemon(program: str) -> None:
    def refused() -> str:
        done = run(program, "install", ok=False)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert not (UNIT_FILES / "captchad.service").exists()
        assert not CONFIG.exists()
        return done.stderr

    (library,) = VENV.glob("lib/python3*/site-packages")
    closed = library / "tomli_w.py"
    closed.touch(mode=0o600)
    assert "as the user captchad: " in refused()
    closed.unlink()
    run("mount", "--bind", "/usr/local", "/usr/local")
    run("mount", "-o", "remount,ro,bind", "/usr/local")
    assert " cannot be written to" in refused()
    run("umount", "/usr/local")
    shutil.chown(VENV, "daemon")
    assert f"warn    {VENV} (" in run(program, "install", "--dry-run").stdout
    shutil.chown(VENV, "root")
    step("refused: a closed library, a read-only target; warned: others can change it")


def virtual_environment(wheel: Path) -> None:
    """What pip would make of the wheel, without a network."""
    run("/usr/bin/python3", "-m", "venv", "--without-pip", "--system-site-packages", str(VENV))
    (library,) = VENV.glob("lib/python3*/site-packages")
    shutil.unpack_archive(wheel, library, "zip")
    (entries,) = library.glob("captchad-*.dist-info/entry_points.txt")
    for name, module, function in re.findall(r"(?m)^(\w+) = ([\w.]+):(\w+)$", entries.read_text()):
        script = VENV / "bin" / name
        script.write_text(f"#!{VENV}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        script.chmod(0o755)


def for_one_user(sandbox: Sandbox) -> None:
    run("useradd", "--create-home", "tester")
    user = pwd.getpwnam("tester")
    home, runtime = Path(user.pw_dir), Path(f"/run/user/{user.pw_uid}")
    runtime.mkdir(parents=True)
    os.chown(runtime, user.pw_uid, user.pw_gid)
    runtime.chmod(0o700)
    environ = [f"HOME={home}", f"XDG_RUNTIME_DIR={runtime}"]
    run(
        *("systemd-run", "--unit=manager", "--uid=tester", "--property=Type=notify", "--property=Delegate=yes"),
        *(f"--setenv={each}" for each in environ),
        *("/lib/systemd/systemd", "--user"),
    )

    def user_runs(*command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        who = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "env", "-i"]
        return run(*who, *environ, f"PATH={VENV}/bin:/usr/bin:/bin", *command, ok=ok)

    refused = user_runs("captchactl", "install", ok=False)
    assert (refused.returncode, refused.stdout) == (4, ""), refused
    user_runs("captchactl", "install", "--user")
    config = home / ".config" / "captchad"
    (config / "conf.d").mkdir()
    (config / "conf.d" / "10-test.toml").write_text(
        '[policy]\nallowed_hosts = ["example.com"]\n[supervision]\nheartbeat_s = 0.2\n[[provider]]\nname = "sandbox"\n'
        f'url = "{sandbox.url}"\napi_key_file = "{config}/captchaai.key"\nfirst_poll_s = 0.5\npoll_s = 0.2\n'
    )
    key = config / "captchaai.key"
    key.write_text(sandbox.key)
    os.chown(key, user.pw_uid, user.pw_gid)
    key.chmod(0o600)
    assert user_runs("systemctl", "--user", "enable", "--now", "captchad", ok=False).returncode == 0, journal("manager")
    step(
        f"for one user: {user_runs('systemctl', '--user', 'show', '--property=StatusText', 'captchad').stdout.strip()}"
    )
    task = home / "task.json"
    task.write_text(
        '{"id": "own", "sitekey": "6Lc_aCMTAAAAABx7u2W0WPXnVbI_v6ZdbM6rYf16", "pageurl": "https://example.com/"}'
    )
    user_runs("captchactl", "--user", "submit", str(task))
    assert user_runs("captchactl", "--user", "wait", "own", "--timeout", "30").stdout.startswith("own\tsolved\t")
    user_runs("systemctl", "--user", "reload", "captchad")
    assert (home / ".local/state/captchad/spool/results/own.json").exists()
    user_runs("captchactl", "uninstall", "--user")
    assert user_runs("systemctl", "--user", "is-active", "captchad", ok=False).stdout.strip() == "inactive"
    assert key.exists()
    run("systemctl", "stop", "manager")
    step("solved, reloaded, uninstalled, without root")
