"""Who takes part, and how each is made. A contender's module is imported only in the process that runs it."""

__all__ = ["CONTENDERS", "REFERENCE", "Contender", "make_peer", "peer_class", "present", "takes_batches"]

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks.environment import BENCH_ENVIRONMENT
from benchmarks.queue.install import find_program
from benchmarks.queue.peer import Peer


@dataclass(frozen=True, slots=True)
class Contender:
    """Its peer's module and class; the Python modules that it needs; its program, under any of these names."""

    name: str
    title: str
    module: str
    class_name: str
    needs: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


_REDIS = ("redis-server", "redis-check-rdb")

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("captchad", "captchad", "captchad_peer", "CaptchadPeer"),
        Contender("sqlite-tutorial", "sqlite3, tutorial", "sqlite_tutorial", "TutorialPeer"),
        Contender("sqlite-wal", "sqlite3, WAL FULL", "sqlite_wal", "WalPeer"),
        Contender("persist-queue", "persist-queue", "persist_queue", "PersistQueuePeer", needs=("persistqueue",)),
        Contender("litequeue", "litequeue, FULL", "lite_queue", "LiteQueuePeer", needs=("litequeue",)),
        Contender("huey", "huey on SQLite, fsync", "huey_sqlite", "HueyPeer", needs=("huey",)),
        Contender(
            "beanstalkd",
            "beanstalkd -f0",
            "beanstalk",
            "BeanstalkPeer",
            needs=("greenstalk",),
            programs=("beanstalkd",),
        ),
        Contender("redis-lists", "Redis lists, always", "redis_lists", "RedisListsPeer", ("redis",), _REDIS),
        Contender("redis-streams", "Redis Streams, always", "redis_streams", "RedisStreamsPeer", ("redis",), _REDIS),
    )
}

#: The others are shown as ratios to this one.
REFERENCE = "sqlite-wal"


def peer_class(name: str) -> type[Peer]:
    """The class of a contender. Raises KeyError for a name that is none."""
    contender = CONTENDERS[name]
    found: type[Peer] = getattr(import_module(f"benchmarks.queue.{contender.module}"), contender.class_name)
    return found


def make_peer(name: str, directory: Path) -> Peer:
    """The contender on an empty or used directory; not started."""
    return peer_class(name)(directory)


def takes_batches(name: str) -> bool:
    """Whether many tasks at a time are something that the contender offers."""
    return peer_class(name).batches


def present(names: Sequence[str]) -> list[str]:
    """Those of `names` whose modules this Python has and whose programs are here."""
    return [name for name in names if _present(CONTENDERS[name])]


def _present(contender: Contender) -> bool:
    modules = all(find_spec(module) is not None for module in contender.needs)
    programs = not contender.programs or any(find_program(name, BENCH_ENVIRONMENT) for name in contender.programs)
    return modules and programs
