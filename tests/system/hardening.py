"""Every line of the unit's sandbox, probed: by captchad.service itself, with nothing, and with that line alone.

The service tries all of it from within (ExecStartPost= runs in its sandbox). That a refusal is the line's doing, and
that an attempt can succeed at all, is shown by two units more: one without any sandbox, where it must go through, and
one with nothing but the line, where it must not.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.harness import eventually
from tests.support.sandbox import Sandbox
from tests.system import probes
from tests.system.kit import (
    QUICK,
    ROOT,
    UNITS,
    configure,
    drop_in,
    install,
    journal,
    main_pid,
    run,
    scenario,
    show,
    step,
)
from tests.system.probes import ATTEMPTS, HIDDEN, HOST, NEEDED


@dataclass(frozen=True)
class Wall:
    """What a line of the unit refuses, and who tries it without and with the line alone."""

    attempts: tuple[str, ...]
    user: str = "root"
    beside: str = ""  # what both of the other units have besides
    opened: str = ""  # what stands in place of the line where the default is closed, too


#: Line to what it refuses.
WALLS = {
    "User=captchad": Wall(("read_the_shadow_file",)),
    "UMask=0027": Wall(("make_a_file_that_all_may_read",)),
    "LimitCORE=0": Wall(("dump_a_core_file",)),
    "NoNewPrivileges=yes": Wall(("become_root_by_a_setuid_program",), user="captchad"),
    "CapabilityBoundingSet=": Wall(("give_a_file_away", "use_a_raw_socket", "listen_at_a_low_port")),
    "ProtectSystem=strict": Wall(
        (
            "write_below_the_root",
            "write_below_etc",
            "write_below_usr",
            "write_below_var_lib",
            "change_its_own_configuration",
        )
    ),
    "ProtectHome=yes": Wall(("read_a_home", "read_the_home_of_root")),
    "PrivateTmp=yes": Wall(("read_the_tmp_of_all", "read_the_var_tmp_of_all")),
    "PrivateMounts=yes": Wall(("mount_where_all_see_it",)),
    "PrivateDevices=yes": Wall(("open_a_device_of_dev",)),
    "DevicePolicy=closed": Wall(("open_a_device_elsewhere",)),
    "ProtectHostname=yes": Wall(("rename_the_machine",)),
    "ProtectClock=yes": Wall(("set_the_clock", "look_at_the_clocks_settings", "wake_the_machine")),
    "ProtectKernelTunables=yes": Wall(("write_kernel_tunables",)),
    "ProtectKernelModules=yes": Wall(("read_the_modules",)),
    "ProtectKernelLogs=yes": Wall(("see_the_kernel_log",)),
    "ProtectControlGroups=yes": Wall(("make_a_control_group",)),
    "ProtectProc=invisible": Wall(("see_the_processes_of_others",), user="captchad"),
    "LockPersonality=yes": Wall(("take_an_old_personality",)),
    "MemoryDenyWriteExecute=yes": Wall(("map_memory_that_can_be_written_and_run", "make_written_memory_run")),
    "RestrictRealtime=yes": Wall(("run_in_real_time",)),
    "RestrictSUIDSGID=yes": Wall(("make_a_setuid_file", "make_a_setgid_file")),
    "RestrictNamespaces=yes": Wall(
        (
            *(f"make_a_namespace_{name}" for name in probes.NAMESPACES),
            "enter_a_namespace",
            "clone_into_a_namespace",
        )
    ),
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6": Wall(("use_a_packet_socket", "use_a_netlink_socket")),
    "KeyringMode=private": Wall(("use_the_keyring_of_all",), opened="KeyringMode=inherit"),
    "SystemCallArchitectures=native": Wall(("run_code_of_another_architecture",)),
    "SystemCallFilter=@system-service": Wall(("be_traced", "mount_something")),
    "SystemCallFilter=~@privileged": Wall(("change_the_root",)),
    "SystemCallErrorNumber=EPERM": Wall(("die_of_a_forbidden_call",), beside="SystemCallFilter=@system-service"),
}

#: Refused although nothing is closed, and why.
SHUT_ANYWAY = {"set_the_clock": "the test boot has no CAP_SYS_TIME, so that no test sets the machine's clock"}

#: Lines that open something, and what goes through by them.
DOORS = {
    "StateDirectory=captchad": ("write_to_its_state", "lock_and_sync_a_file"),
    "RuntimeDirectory=captchad": ("know_who_calls",),
    "ConfigurationDirectory=captchad": ("read_its_configuration",),
    "ReadWritePaths=/var/spool/captchad": ("write_to_the_spool", "watch_a_directory"),
}

#: Lines that are probed otherwise, or cannot be, by name.
NOT_PROBED = {
    **dict.fromkeys(
        ("Type", "NotifyAccess", "ExecStart", "ExecReload", "Restart", "RestartSec", "RestartPreventExitStatus"),
        "how it is run: tests/system/service.py",
    ),
    **dict.fromkeys(("WatchdogSec", "TimeoutStartSec", "TimeoutStopSec", "KillMode"), "when and how it is ended"),
    "OOMPolicy": "tests/system/trials.py has a worker killed",
    **dict.fromkeys(
        ("MemoryHigh", "MemoryMax", "TasksMax"), "the test boot has no such controller: systemd ignores them there"
    ),
    "LimitNOFILE": "an allowance, cut to what the machine allows",
    "Group": "no right goes with it: the directories' modes are probed by tests/system/service.py",
    "SupplementaryGroups": "what it opens is the spool: tests/system/trials.py",
    **dict.fromkeys(("StateDirectoryMode", "RuntimeDirectoryMode"), "modes that are looked at below"),
    "LoadCredential": "systemd 252 gives it to the main process alone, which does not start without it",
    "SetCredential": "what stands in for a key that is missing: tests/system/service.py",
    "AmbientCapabilities": "empties a list that is empty; that no set holds any capability is looked at below",
    "RemoveIPC": "seen when the unit has stopped, below",
}


def lines_of_the_unit() -> list[str]:
    """The lines of [Service] without comments."""
    text = (ROOT / "systemd" / "captchad.service").read_text()
    service = text.partition("[Service]\n")[2].partition("\n[")[0]
    return [line for line in service.splitlines() if line and not line.startswith("#")]


@scenario
def every_line_of_the_sandbox_holds(directory: Path) -> None:
    known = {*WALLS, *DOORS}
    forgotten = [line for line in lines_of_the_unit() if line not in known and line.split("=")[0] not in NOT_PROBED]
    assert forgotten == [], f"no probe, and no reason why there is none: {forgotten}"
    assert known <= {*lines_of_the_unit()}, f"no such lines: {known - {*lines_of_the_unit()}}"
    probed = {name for wall in WALLS.values() for name in wall.attempts}
    assert {*ATTEMPTS} - probed == {"leave_shared_memory_behind", "look_into_the_processes_of_others"}

    install()
    lay_out()
    with Sandbox(scenario=QUICK) as sandbox:
        configure(sandbox, workers=2)
        within_the_service()
    one_line_at_a_time()


def lay_out() -> None:
    """What the probes look for, outside of every sandbox."""
    HOST.mkdir()
    shutil.copy(probes.__file__, HOST / "probes.py")
    shutil.copy("/usr/bin/id", HOST / "setuid-id")
    (HOST / "setuid-id").chmod(0o4755)
    (HOST / "int80").write_bytes(exit_by_the_32_bit_table())
    (HOST / "int80").chmod(0o755)
    os.mknod(HOST / "device", 0o666 | stat.S_IFCHR, os.makedev(10, 229))  # fuse
    for name, path in HIDDEN.items():
        path.parent.mkdir(exist_ok=True)
        if name == "device":
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # as null
        else:
            path.write_text("seen\n")
    for path in (HOST / "device", HIDDEN["device"]):
        path.chmod(0o666)
    host = {"mounts": os.stat("/proc/1/ns/mnt").st_ino, "keyring": probes.session_keyring()}
    (HOST / "host.json").write_text(json.dumps(host))


def exit_by_the_32_bit_table() -> bytes:
    """A program of 64 bits that does one thing: `mov eax, 1; xor ebx, ebx; int 0x80`."""
    code = bytes.fromhex("b801000000 31db cd80")
    base, head = 0x400000, 64 + 56
    size = (head + len(code)).to_bytes(8, "little")
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + bytes.fromhex("02003e0001000000")
    header += (base + head).to_bytes(8, "little") + (64).to_bytes(8, "little") + bytes(12)
    header += bytes.fromhex("4000 3800 0100 0000 0000 0000")
    segment = bytes.fromhex("01000000 05000000") + bytes(8) + base.to_bytes(8, "little") * 2 + size * 2
    return header + segment + (0x1000).to_bytes(8, "little") + code


def within_the_service() -> None:
    state = Path("/var/lib/captchad")
    names = " ".join([*ATTEMPTS, *NEEDED])
    drop_in(f"ExecStartPost=/usr/bin/python3 -IS {HOST}/probes.py ${{STATE_DIRECTORY}}/probes.json {names}\n")
    run("systemctl", "start", "captchad")
    found = json.loads((state / "probes.json").read_text())

    outcome = found["attempts"]
    assert {name: outcome[name] for name in NEEDED} == dict.fromkeys(NEEDED, "through")
    step(f"the service may do the {len(NEEDED)} things that it needs")
    assert outcome.pop("leave_shared_memory_behind") == "through"
    loose = {name: outcome[name] for name in ATTEMPTS if outcome.get(name) in ("through", "unexpected")}
    assert loose == {}, loose
    step(f"and is refused {len(outcome) - len(NEEDED)} that it must not do")

    # What was probed is where the daemon is.
    daemon, prober = probes.status_of(main_pid("captchad")), found["status"]
    alike = [name for name in daemon if name.startswith(("Uid", "Gid", "Groups", "Cap", "NoNew", "Seccomp", "Umask"))]
    assert {name: daemon[name] for name in alike} == {name: prober[name] for name in alike}
    assert {daemon[name] for name in alike if name.startswith("Cap")} == {"0" * 16}, daemon
    assert stat.S_IMODE(state.stat().st_mode) == 0o750
    assert stat.S_IMODE(Path("/run/captchad").stat().st_mode) == 0o755

    assert shared_memory(), "it is there while the service runs"
    run("systemctl", "stop", "captchad")
    eventually(lambda: not shared_memory())
    step("shared memory goes with the service")


def shared_memory() -> list[str]:
    """The segments that belong to captchad's user."""
    user = run("id", "--user", "captchad").stdout.strip()
    rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[7] == user]


def one_line_at_a_time() -> None:
    opened: dict[str, set[str]] = {}
    for wall in WALLS.values():
        opened.setdefault(settings_of(wall, wall.opened), set()).update(wall.attempts)
    opened.setdefault("User=captchad\n", set()).add("leave_shared_memory_behind")
    without = {
        write_unit(f"open-{n}", text, sorted(names)): (text, names) for n, (text, names) in enumerate(opened.items())
    }
    alone = {
        write_unit(f"alone-{n}", settings_of(wall, line), wall.attempts): (line, wall)
        for n, (line, wall) in enumerate(WALLS.items())
    }
    run("systemctl", "daemon-reload")
    run("systemctl", "start", *without, *alone)

    for unit, (text, names) in without.items():
        shut = {name: outcome for name, outcome in outcomes(unit).items() if outcome != "through"}
        assert {*shut} == {*names} & {*SHUT_ANYWAY}, f"with nothing but {text!r}: {shut}"
    step(f"without a sandbox all goes through but {[*SHUT_ANYWAY]}")
    for unit, (line, wall) in alone.items():
        found = outcomes(unit)
        assert {*found} == {*wall.attempts}
        loose = {name: outcome for name, outcome in found.items() if outcome in ("through", "unexpected")}
        assert loose == {}, f"with {line} alone: {loose}"
    step(f"each of {len(alone)} lines alone refuses what it is there for")
    assert shared_memory(), "without RemoveIPC= it stays"


def settings_of(wall: Wall, line: str) -> str:
    return "".join(f"{each}\n" for each in (f"User={wall.user}", wall.beside, line) if each)


def write_unit(name: str, settings: str, attempts: Iterable[str]) -> str:
    """A unit that tries `attempts`, with nothing but `settings`; its name."""
    (UNITS / f"probe-{name}.service").write_text(
        f"[Service]\nType=oneshot\nStandardOutput=file:/run/probe-{name}.json\nStandardError=journal\n"
        f"ExecStart=/usr/bin/python3 -IS {HOST}/probes.py - {' '.join(attempts)}\n{settings}"
    )
    return f"probe-{name}.service"


def outcomes(unit: str) -> dict[str, str]:
    assert show(unit, "Result") == "success", journal(unit)
    found: dict[str, str] = json.loads(Path("/run", unit).with_suffix(".json").read_text())["attempts"]
    return found
