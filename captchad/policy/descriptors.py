"""How many file descriptors the configured load needs, and what fits into fewer. Pure."""

__all__ = ["parent_needs", "threads_that_fit", "worker_needs"]

#: What a worker has open besides its calls: the standard three, pipe, side file, epoll, bell; and room for lookups.
_WORKER_BASE = 24

#: Each thread keeps a connection to each provider, and a duplicate of it, by which another thread can end the call.
_PER_CALL = 2

#: Threads that put questions about accounts (captchad.worker.main.ASK_THREADS).
_ASKERS = 2

#: What the parent has open besides its workers: journal, locks, spool, sockets, template, and those who ask it.
_PARENT_BASE = 128

#: Pipe and pidfd.
_PER_WORKER = 2


def worker_needs(threads: int, providers: int) -> int:
    """Descriptors of a worker with `threads` for submits and as many for polls."""
    return _WORKER_BASE + _PER_CALL * providers * (2 * threads + _ASKERS)


def parent_needs(processes: int) -> int:
    """Descriptors of the parent of so many workers, those in reserve and those that leave included."""
    return _PARENT_BASE + _PER_WORKER * processes


def threads_that_fit(limit: int, providers: int, wanted: int) -> int:
    """The threads that a worker can use with `limit` descriptors: as many as are wanted if they fit, one at least."""
    fit = ((limit - _WORKER_BASE) // (_PER_CALL * providers) - _ASKERS) // 2
    return max(1, min(wanted, fit))
