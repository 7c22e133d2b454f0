"""What the unit's sandbox should refuse, and what it must allow, tried one by one from within.

    python3 probes.py OUT NAME...

Writes JSON to the file OUT ("-": standard output): for each attempt NAME "through", an errno like "EPERM", or the
signal that killed it; and what the kernel says of this process. An attempt changes nothing that outlives it.
tests/system/hardening.py says which line of the unit each of them is about, and lays out what they look for. The
module stands alone, with the standard library: a sandbox hides the checkout.
"""

__all__ = ["ATTEMPTS", "HIDDEN", "HOST", "NEEDED", "session_keyring", "status_of"]

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

Attempt = Callable[[], None]

#: What should be refused, by name.
ATTEMPTS: dict[str, Attempt] = {}

#: What must go through in the service.
NEEDED: dict[str, Attempt] = {}

#: Outside of every sandbox, where each can read it: this program, others that it runs, and how the machine is.
HOST = Path("/usr/lib/captchad-probes")

#: Files that should not be seen from within.
HIDDEN = {
    "home": Path("/home/captchad-probe"),
    "root": Path("/root/captchad-probe"),
    "tmp": Path("/tmp/captchad-probe"),
    "var-tmp": Path("/var/tmp/captchad-probe"),
    "modules": Path("/usr/lib/modules/captchad-probe"),
    "device": Path("/dev/captchad-probe"),
}

_UNEXPECTED = 255

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def refused(function: Attempt) -> Attempt:
    """Mark what a line of the unit should refuse."""
    ATTEMPTS[function.__name__] = function
    return function


def needed(function: Attempt) -> Attempt:
    """Mark what captchad cannot do without."""
    NEEDED[function.__name__] = function
    return function


def _call(name: str, *arguments: object) -> int:
    """A function of the C library. Raises OSError."""
    ctypes.set_errno(0)
    found = int(getattr(_libc, name)(*arguments))
    if found == -1 and (number := ctypes.get_errno()):
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return found


def _deny(text: str) -> None:
    raise OSError(errno.EACCES, text)


def _own() -> str:
    """A directory that it may write to."""
    return os.environ.get("STATE_DIRECTORY", "/run")


def _host(name: str) -> int:
    return int(json.loads((HOST / "host.json").read_text())[name])


# ---------------------------------------------------------------- files


def _writes(directory: str) -> None:
    with tempfile.NamedTemporaryFile(dir=directory):
        pass


@refused
def write_below_the_root() -> None:
    _writes("/")


@refused
def write_below_etc() -> None:
    _writes("/etc")


@refused
def write_below_usr() -> None:
    _writes("/usr")


@refused
def write_below_var_lib() -> None:
    _writes("/var/lib")


@refused
def change_its_own_configuration() -> None:
    os.close(os.open("/etc/captchad/captchad.toml", os.O_WRONLY))


@refused
def read_a_home() -> None:
    HIDDEN["home"].read_bytes()


@refused
def read_the_home_of_root() -> None:
    HIDDEN["root"].read_bytes()


@refused
def read_the_tmp_of_all() -> None:
    HIDDEN["tmp"].read_bytes()


@refused
def read_the_var_tmp_of_all() -> None:
    HIDDEN["var-tmp"].read_bytes()


@refused
def read_the_shadow_file() -> None:
    Path("/etc/shadow").read_bytes()


@refused
def make_a_file_that_all_may_read() -> None:
    path = Path(_own(), f"probe-{os.getpid()}")
    path.touch()
    mode = path.stat().st_mode
    path.unlink()
    if not mode & stat.S_IROTH:
        _deny("the mask takes the right away")


@refused
def make_a_setuid_file() -> None:
    _with_mode(stat.S_ISUID)


@refused
def make_a_setgid_file() -> None:
    _with_mode(stat.S_ISGID)


def _with_mode(bit: int) -> None:
    with tempfile.NamedTemporaryFile(dir=_own()) as file:
        Path(file.name).chmod(0o755 | bit)
        if not Path(file.name).stat().st_mode & bit:
            _deny("the bit is not there")


@refused
def give_a_file_away() -> None:
    with tempfile.NamedTemporaryFile(dir=_own()) as file:
        os.chown(file.name, 65534, 65534)


# ---------------------------------------------------------------- rights


@refused
def become_root_by_a_setuid_program() -> None:
    # `id` that belongs to root and has the bit: what the effective user is then, it prints.
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.execv(HOST / "setuid-id", ["id", "-u"])
    os.waitpid(pid, 0)
    if os.read(reader, 100) != b"0\n":
        _deny("the bit was of no use")


@refused
def use_a_raw_socket() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@refused
def listen_at_a_low_port() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 7))


@refused
def run_in_real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


@refused
def dump_a_core_file() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    except ValueError as error:  # how Python says EPERM here
        _deny(str(error))


# ---------------------------------------------------------------- namespaces

NAMESPACES = {
    "cgroup": 0x02000000,
    "ipc": 0x08000000,
    "mount": 0x00020000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "user": 0x10000000,
    "uts": 0x04000000,
}


def _make_namespace(flag: int) -> Attempt:
    def make() -> None:
        _call("unshare", flag)

    return make


ATTEMPTS |= {f"make_a_namespace_{name}": _make_namespace(flag) for name, flag in NAMESPACES.items()}


@refused
def enter_a_namespace() -> None:
    _call("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0)


@refused
def clone_into_a_namespace() -> None:
    # By clone itself: unshare is not the only way.
    class Clone(ctypes.Structure):
        _fields_: ClassVar = [
            (name, ctypes.c_uint64)
            for name in ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls")
        ]

    arguments = Clone(flags=NAMESPACES["uts"], exit_signal=signal.SIGCHLD)
    pid = _call("syscall", 435, ctypes.byref(arguments), ctypes.sizeof(arguments))  # clone3, on every machine
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@refused
def mount_where_all_see_it() -> None:
    if os.stat("/proc/self/ns/mnt").st_ino != _host("mounts"):
        _deny("a mount namespace of its own")


@refused
def mount_something() -> None:
    _call("mount", b"tmpfs", b"/mnt", b"tmpfs", 0, None)
    _call("umount", b"/mnt")


@refused
def change_the_root() -> None:
    os.chroot("/")


# ---------------------------------------------------------------- the kernel


@refused
def write_kernel_tunables() -> None:
    os.close(os.open("/proc/irq/default_smp_affinity", os.O_WRONLY))


@refused
def read_the_modules() -> None:
    HIDDEN["modules"].read_bytes()


@refused
def see_the_kernel_log() -> None:
    # To read it takes a capability that the test boot has not; whether something else stands in its place shows.
    if not stat.S_IMODE(os.stat("/proc/kmsg").st_mode):
        _deny("an empty file in its place")


@refused
def make_a_control_group() -> None:
    os.mkdir("/sys/fs/cgroup/captchad-probe")
    os.rmdir("/sys/fs/cgroup/captchad-probe")


@refused
def set_the_clock() -> None:
    # To what it is.
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))


@refused
def look_at_the_clocks_settings() -> None:
    _call("adjtimex", ctypes.create_string_buffer(512))  # modes 0: changes nothing


@refused
def wake_the_machine() -> None:
    os.close(_call("timerfd_create", 9, 0))  # CLOCK_BOOTTIME_ALARM


@refused
def rename_the_machine() -> None:
    socket.sethostname(socket.gethostname())


@refused
def take_an_old_personality() -> None:
    _call("personality", 0x0040000)  # ADDR_NO_RANDOMIZE


@refused
def map_memory_that_can_be_written_and_run() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


@refused
def make_written_memory_run() -> None:
    read_write, anonymous = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    place = _libc.mmap(None, 4096, read_write, anonymous, -1, 0)
    _call("mprotect", place, 4096, mmap.PROT_READ | mmap.PROT_EXEC)


@refused
def run_code_of_another_architecture() -> None:
    # A program whose only system call is exit(0) by the table of 32 bits.
    pid = os.fork()
    if pid == 0:
        os.execv(HOST / "int80", ["int80"])
    _, status = os.waitpid(pid, 0)
    if status:
        _deny(f"status {status}")


@refused
def be_traced() -> None:
    _call("ptrace", 0, 0, 0, 0)  # PTRACE_TRACEME; nobody traces, and the process ends at once


@refused
def die_of_a_forbidden_call() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            be_traced()
        finally:
            os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGSYS:
        _deny("an error, no death")


@refused
def see_the_processes_of_others() -> None:
    os.stat("/proc/1/status")


@refused
def look_into_the_processes_of_others() -> None:
    os.listdir("/proc/1/fd")


@refused
def use_a_packet_socket() -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()


@refused
def use_a_netlink_socket() -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


@refused
def open_a_device_of_dev() -> None:
    os.close(os.open(HIDDEN["device"], os.O_RDWR))


@refused
def open_a_device_elsewhere() -> None:
    os.close(os.open(HOST / "device", os.O_RDONLY | os.O_NONBLOCK))


def session_keyring() -> int:
    """The serial number of this session's keyring."""
    return _call("syscall", 250, 0, -3, 0)  # keyctl of x86_64: KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING


@refused
def use_the_keyring_of_all() -> None:
    if session_keyring() != _host("keyring"):
        _deny("a keyring of its own")


@refused
def leave_shared_memory_behind() -> None:
    # That works; whether it stays is seen when the unit has stopped.
    _call("shmget", 0, 4096, 0o600)


# ---------------------------------------------------------------- what must go through


@needed
def write_to_its_state() -> None:
    _writes(os.environ["STATE_DIRECTORY"])


@needed
def write_to_the_spool() -> None:
    for name in ("incoming", "results", "rejected"):
        _writes(f"/var/spool/captchad/{name}")


@needed
def read_its_configuration() -> None:
    Path(os.environ["CONFIGURATION_DIRECTORY"], "captchad.toml").read_bytes()


@needed
def know_who_calls() -> None:
    path = Path(os.environ["RUNTIME_DIRECTORY"], "probe.sock")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(path))
        server.listen()
        client.connect(str(path))
        path.unlink()
        peer, _ = server.accept()
        with peer:
            user = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8]
    if int.from_bytes(user, sys.byteorder) != os.getuid() or os.stat("/etc").st_uid != 0:
        _deny("users are not who they are")


@needed
def call_by_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
        pass
    socket.socket(socket.AF_INET6).close()


@needed
def find_a_name() -> None:
    socket.getaddrinfo("localhost", 80)


@needed
def lower_a_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


@needed
def be_the_first_to_go_for_memory() -> None:
    Path("/proc/self/oom_score_adj").write_text("500")


@needed
def fork_and_wait_by_descriptor() -> None:
    _call("prctl", 36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PIDFD, os.pidfd_open(pid), os.WEXITED)


@needed
def run_a_thread() -> None:
    thread = threading.Thread(target=os.getpid)
    thread.start()
    thread.join()


@needed
def lock_and_sync_a_file() -> None:
    with tempfile.NamedTemporaryFile(dir=_own()) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.posix_fallocate(file.fileno(), 0, 1 << 16)
        os.fdatasync(file.fileno())


@needed
def watch_a_directory() -> None:
    fd = _call("inotify_init1", 0)
    _call("inotify_add_watch", fd, b"/var/spool/captchad/incoming", 0x80)


@needed
def see_the_machines_load() -> None:
    for name in ("stat", "meminfo", "uptime"):
        Path("/proc", name).read_bytes()


def status_of(pid: int | str) -> dict[str, str]:
    """What the kernel says of a process: `/proc/PID/status`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def main() -> None:
    """Try what the command line names."""
    out, names = sys.argv[1], sys.argv[2:]
    attempts = {**ATTEMPTS, **NEEDED}
    found = {"attempts": {name: _try(attempts[name]) for name in names}, "status": status_of("self")}
    text = json.dumps(found)
    if out == "-":
        print(text)
    else:
        Path(out).write_text(text)


def _try(attempt: Attempt) -> str:
    """How it went, in a process of its own: what is forbidden may kill."""
    pid = os.fork()
    if pid == 0:
        code = _UNEXPECTED
        try:
            attempt()
            code = 0
        except OSError as error:
            print(f"{getattr(attempt, '__name__', attempt)}: {error}", file=sys.stderr)
            code = error.errno or _UNEXPECTED
        except BaseException:  # noqa: BLE001  # a mistake in an attempt is no refusal: it is told apart, and said
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        return "through"
    if code == _UNEXPECTED:
        return "unexpected"
    return signal.Signals(-code).name if code < 0 else errno.errorcode[code]


if __name__ == "__main__":
    main()
