"""What goes over the control socket: one line of JSON in, one line of JSON out, then the connection ends.

    {"verb": "show", "args": {"id": "order-17"}}
    {"ok": true, "data": {…}}
    {"ok": false, "error": "no such task", "hint": "", "code": 1}

`code` is the exit code that `captchactl` ends with. Readers ignore members that they do not know.

    verb         args             data
    status                        the status object (design, section 4)
    health                        {"live": bool, "ready": bool, "checks": {name: check}, "status": as above}
    show         id               the task; refused when it is not known
    list         state, limit     {"tasks": [task, …]}; `state` may be null
    dlq.list     limit            {"tasks": [task, …]}
    dlq.redrive  ids              {"redriven": [id, …], "refused": {id: reason}}; null means all
    hold         ids              {"done": [id, …], "refused": {id: reason}}; release and cancel likewise
    reload                        answered when it is done: {"changed": [key, …], "config": as in the status};
                                  refused with a line for each problem when nothing was changed
    workers.scale    workers      {"was": number, "is": number, "autoscale": bool}
    workers.restart               ordered: {"workers": number, "generation": that of the new ones in the status}
    drain        eta              {"pid", "state", "in_flight", "undelivered", "half_s", "most_s", "latest_s", "stop_s",
                                  "known"}; with `eta` true nothing is changed
"""

__all__ = ["FAILED", "MAX_ANSWER", "MAX_REQUEST", "NO_SUCH_TASK", "Answer", "encode", "ok", "refuse"]

import json
from typing import Any

Answer = dict[str, Any]

#: A redrive that names some thousand ids fits.
MAX_REQUEST = 256 << 10

#: A list of some ten thousand tasks fits.
MAX_ANSWER = 16 << 20

#: The exit code of a verb that was refused and says nothing more precise.
FAILED = 1

#: Why `show` is refused; other refusals say nothing about the task.
NO_SUCH_TASK = "no such task"


def ok(data: dict[str, Any]) -> Answer:
    """The answer of a verb that did its work."""
    return {"ok": True, "data": data}


def refuse(error: str, *, hint: str = "", code: int = FAILED) -> Answer:
    """The answer of a verb that did not; `code` becomes captchactl's exit code."""
    return {"ok": False, "error": error, "hint": hint, "code": code}


def encode(message: dict[str, Any]) -> bytes:
    """One line, with its newline."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
