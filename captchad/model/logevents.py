"""The events that operators search the log for: one list, with a fixed MESSAGE_ID each, and what a log line is about.

Not every line has an event; one that has keeps its name and its MESSAGE_ID for ever. docs/events.md is made from here,
and so is what `captchactl logs` knows: no import here that costs time.
"""

__all__ = ["Event", "Fields", "fields", "table_markdown"]

from enum import StrEnum
from typing import NamedTuple


class Event(StrEnum):
    """Its name, journald's MESSAGE_ID (made once, by uuid4), and what it means and what to do, in plain words."""

    message_id: str
    meaning: str

    def __new__(cls, name: str, message_id: str, meaning: str) -> "Event":
        event = str.__new__(cls, name)
        event._value_ = name
        event.message_id = message_id
        event.meaning = meaning
        return event

    # The daemon.
    STARTED = (
        "started",
        "fd1a5397e9464be6919ed8573d188b51",
        "The daemon begins to start. `ready` follows when it can work.",
    )
    CANNOT_START = (
        "cannot_start",
        "97a2f9a543cd4e19b97937b64c51be64",
        "The start has failed, one entry for each fault. Mend what it names, and start again.",
    )
    LOCK_AWAITED = (
        "lock_awaited",
        "cde4b004a4364354ab86779010a53f4b",
        "Another process holds the journal, and the start waits for it. If it must give up, `cannot_start` follows.",
    )
    READY = (
        "ready",
        "bbacf078ec34450cbef4e8b83e736638",
        "Enough workers beat: the daemon takes tasks.",
    )
    DRAINING = (
        "draining",
        "804777634d1d4651bfff97cef38b2652",
        "Nothing new is taken, and what has begun is waited for; the reason says who asked.",
    )
    STOP_FORCED = (
        "stop_forced",
        "77b516cd2d08428aa467d7e29cacbede",
        "Told to stop for the second time: what has not ended is killed. The next start polls what was paid for.",
    )
    STOPPED = (
        "stopped",
        "bba37817eff041c9a63a73b3e8a07463",
        "The daemon has ended as it was told. A death of another kind has no such entry.",
    )
    INTERNAL_ERROR = (
        "internal_error",
        "bd79416c6d884e1e84948805f6c95d7f",
        "A fault of captchad's own, with its traceback in the one entry. Report it.",
    )
    DESCRIPTORS_LOW = (
        "descriptors_low",
        "9d9db9bb9aa64c29a6fbd1ce4295f8b6",
        "RLIMIT_NOFILE is too low for this configuration. Raise LimitNOFILE= of the unit.",
    )
    PARENT_HELD_UP = (
        "parent_held_up",
        "ed829ab1c463499db008e237a913542e",
        "The parent did not run for a while: a slow disk, a suspend, a busy machine. No worker is blamed for it.",
    )
    WATCHDOG_WITHHELD = (
        "watchdog_withheld",
        "e25ecffc88dd4987ac09229311c20471",
        "systemd is not told that all is well; the reason says what is not. If it stays so, systemd restarts captchad.",
    )
    MODE_CHANGED = (
        "mode_changed",
        "8db3b61e58824b4bbab1d6991ddd3c53",
        "The mode is another; the reason is the new one: `normal`, `degraded` or `emergency`. The entry says why.",
    )
    MONITOR_FAILED = (
        "monitor_failed",
        "16403ef9a75844778b37d4f1b38810fb",
        "The HTTP monitor died, or cannot be had at `http.listen`. The work goes on without it, and it is tried again.",
    )
    MONITOR_BACK = (
        "monitor_back",
        "aca298c5268d4a12a990385a9c093d65",
        "The HTTP monitor is there again, after `monitor_failed`.",
    )

    # The configuration.
    CONFIG_RELOADED = (
        "config_reloaded",
        "8a913463743543b5bec1674a0fcfc694",
        "A changed configuration runs from now on; the entry names the keys that changed.",
    )
    CONFIG_REFUSED = (
        "config_refused",
        "76d35c5c9287417db4fe356c5423b941",
        "A reload was refused, one entry for each fault; the configuration before runs on. Mend it and reload again.",
    )
    CONFIG_LAST_GOOD = (
        "config_last_good",
        "1b738438397347d5b71d77b209c8bfb3",
        "The file cannot be used, and the last known good configuration runs instead. Mend the file and reload.",
    )
    CONFIG_PROMOTED = (
        "config_promoted",
        "fce2fc27b5434dfe8dcf3cb852110e95",
        "The configuration has passed its probation: it is the last known good one from now on.",
    )
    CONFIG_ROLLED_BACK = (
        "config_rolled_back",
        "673494716cfb41a3b88214b68331c0d1",
        "The new configuration showed faults of its own in its probation; the one before runs again. Mend, and reload.",
    )
    CONFIG_FAULTY = (
        "config_faulty",
        "9f87069ef172477eb172306843109e2a",
        "The configuration shows faults of its own, and there is no earlier one to go back to. Mend it and reload.",
    )

    # The workers.
    WORKER_SEATED = (
        "worker_seated",
        "e47424bd7a134c0991ebb98aedc099c2",
        "A worker takes a seat, at a start or in place of another; the reason says why the seat was free.",
    )
    WORKER_DIED = (
        "worker_died",
        "2ead6e6c17f5446aa0a30df7ed70c613",
        "A worker died and was not told to; the reason says of what. It is replaced: a fault only if it happens often.",
    )
    WORKER_STALLED = (
        "worker_stalled",
        "969094168ca34c858f5aa1392404b5fd",
        "A worker hangs. Its stack follows in the log, then it is killed and replaced.",
    )
    WORKER_KILLED = (
        "worker_killed",
        "32dc5e2d1684419f9dc9c50d5fb00a25",
        "A worker was killed by captchad; the reason says why. `worker_died` follows.",
    )
    WORKER_UNDYING = (
        "worker_undying",
        "e0e081c68a7b41a3a867f8491695dfd3",
        "A killed worker does not die: it hangs in the kernel, mostly for a disk. Another one has its place.",
    )
    STRAGGLER_KILLED = (
        "straggler_killed",
        "3e2a3b5198b0444f9620ac4e0b928839",
        "A worker of an earlier start did not end in its time and was killed; its submits count as unknown.",
    )
    FORK_FAILED = (
        "fork_failed",
        "26bbb96b8f1f4007862d4f38948d8a0e",
        "The system made no process for a worker; it is tried again. Look at TasksMax=, memory and descriptors.",
    )
    TEMPLATE_REPLACED = (
        "template_replaced",
        "3775e2083bbb49a698bc3b575fb76c0b",
        "The process that forks the workers died or did not answer, and another one is made. The workers go on.",
    )
    WORKERS_SCALED = (
        "workers_scaled",
        "7548b655c5094a0299ba55003b3776e5",
        "Another number of workers is kept from now on; the reason says who wants it.",
    )
    WORKERS_LIMITED = (
        "workers_limited",
        "86281a4281f64194a7ad22e9d8d00011",
        "Workers use another share of their threads; the reason says what is short, or `recovered`.",
    )

    # The tasks.
    TASK_DEAD = (
        "task_dead",
        "3912379ccd5c4c959ca30e240feeeb3e",
        "A task failed for good and lies in the dead-letter queue; the reason is the error code."
        " `captchactl dlq redrive` runs it again.",
    )
    TASK_HELD = (
        "task_held",
        "92ab84db623640b6b48f65156e7c8111",
        "A task waits for you, since it may be paid for already. `captchactl release` runs it again, `cancel` ends it.",
    )
    TASK_UNREADABLE = (
        "task_unreadable",
        "e323bf2c3d9345d391a7414ed002a497",
        "The journal's record of a task cannot be read. See `captchactl journal verify`, and look at the disk.",
    )
    TASK_REJECTED = (
        "task_rejected",
        "11cae273e7ed4a97bc2228744883f003",
        "Task files or tasks in them were not taken, at most one entry a second. `rejected/` says which and why.",
    )
    TASKS_WAIT = (
        "tasks_wait",
        "963b43a607c14b9ebb170a046344d51d",
        "Tasks wait for a cap on charges, or for a provider that offers their method. Nothing is lost.",
    )
    TASKS_GO_ON = (
        "tasks_go_on",
        "90248a01fe874d55895d250b98a17418",
        "What `tasks_wait` has said is over.",
    )
    SUBMIT_UNKNOWN = (
        "submit_unknown",
        "217dd19bb964443ba24fd3645c8fa96b",
        "A submit began and nobody knows its end: it may be charged. `retry.on_unknown_submit` says what follows.",
    )

    # The providers.
    BREAKER_OPENED = (
        "breaker_opened",
        "9a218d37c91848db94124d1ae7fa3fb7",
        "A provider fails: nothing is submitted there for a while; the reason is the error code. What is paid for is"
        " polled on.",
    )
    BREAKER_CLOSED = (
        "breaker_closed",
        "9d6638ae01f745baa11b0b07ae13d443",
        "A provider works again; the reason is what it failed with before.",
    )
    PROVIDER_BACK = (
        "provider_back",
        "5f00ad621e914a8ba9fbc0a0fd1fc06f",
        "A provider that was left for another is preferred again.",
    )
    PROVIDER_LIMITED = (
        "provider_limited",
        "f54606813cc34681868d5488a69e25ec",
        "A provider has no free slot, and gets fewer captchas for now. A larger plan or a lower `max_in_flight` helps.",
    )
    PROVIDER_MISSING = (
        "provider_missing",
        "4b21763eac9c4674bb54c19a8b758a04",
        "Captchas are in flight at a provider that no known configuration has. Put it back, and they are polled.",
    )
    KEY_GONE = (
        "key_gone",
        "feabdb23e56c42288fbc338cf2f82a88",
        "Captchas were submitted with a key that is gone. They are polled with the present one, of the same account.",
    )
    NO_FUNDS = (
        "no_funds",
        "a4bfa415d7d44e469d5a3a035404d4d7",
        "The account at a provider is empty. Top it up: the tasks wait, and go on by themselves.",
    )
    FUNDS_AGAIN = (
        "funds_again",
        "18575ac5ff3946c7887dd17378db9a25",
        "The account at a provider has money again.",
    )
    BALANCE_LOW = (
        "balance_low",
        "6746084f3b56434185cb91d21794b540",
        "The balance at a provider is below its `low_balance`. Top it up.",
    )
    BALANCE_RESTORED = (
        "balance_restored",
        "fc9317185faf44699dcc3e24436bd7da",
        "The balance at a provider is not low any more.",
    )

    # The disk.
    JOURNAL_DOWN = (
        "journal_down",
        "fd942fb898f44567947c3ac1e7db759d",
        "The journal takes no write: intake and submits stop, captchas are polled on. Look at the disk.",
    )
    JOURNAL_UP = (
        "journal_up",
        "2e3e28ed46014ae986e5c8c3b2863953",
        "The journal takes writes again, on a fresh segment.",
    )
    JOURNAL_DAMAGED = (
        "journal_damaged",
        "66e083f07dfc49308e7ef1a90bd069e2",
        "Bytes of the journal are damaged, a copy is in `quarantine/`; tasks that may be concerned are held. See"
        " `captchactl journal repair --dry-run`.",
    )
    NO_ROOM = (
        "no_room",
        "5c709cf12ceb4fd19c5dc5d785ec05b2",
        "The disk is full, or results cannot be written: intake and submits stop. Make room.",
    )
    ROOM_AGAIN = (
        "room_again",
        "c5c64bc6965d4026950e185426f7089d",
        "There is room again: intake and submits go on.",
    )
    RESULTS_WAIT = (
        "results_wait",
        "02feb5ac4069434aab5ad79464e10ff2",
        "Results cannot be written now: they wait, and are tried again. Look at the disk, and at `results/`.",
    )


class Fields(NamedTuple):
    """What a line is about, besides its text; "" is nothing."""

    event: Event | None = None
    task: str = ""
    worker: str = ""  # EPOCH-N: the name of one process for ever
    seat: str = ""  # where it sits, from 0
    provider: str = ""
    reason: str = ""  # a word or code, never a sentence


def fields(
    event: Event | None = None,
    *,
    task: str = "",
    worker: str = "",
    seat: int = -1,
    provider: str = "",
    reason: str = "",
) -> dict[str, Fields]:
    """`extra=` of a log call. A `seat` below 0 is none."""
    return {"fields": Fields(event, task, worker, str(seat) if seat >= 0 else "", provider, reason)}


def table_markdown() -> str:
    """The table for docs/events.md."""
    rows = [f"| `{event}` | `{event.message_id}` | {event.meaning} |" for event in Event]
    return "\n".join(["| event | MESSAGE_ID | what it means, and what to do |", "|---|---|---|", *rows]) + "\n"
