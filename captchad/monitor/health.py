"""What the last snapshot says about health, and what its age says.

The body of `/health` follows draft-inadarei-api-health-check (an expired draft: `status`, `checks`, `output`), as
`application/health+json`. Machines should look at the HTTP status alone: 200 for `pass` and `warn`, 503 for `fail`.
"""

__all__ = ["STALE_S", "Health", "judge"]

from dataclasses import dataclass
from typing import Any

#: Snapshots come every second; after so long without one the parent is held up or gone.
STALE_S = 5.0

_ORDER = ("pass", "warn", "fail")


@dataclass(frozen=True, slots=True)
class Health:
    """One judgement. `checks` are the parent's, plus `monitor` when the snapshots themselves are the problem."""

    live: bool
    ready: bool
    status: str  # "pass", "warn" or "fail"
    checks: dict[str, dict[str, Any]]
    output: str  # why, for `fail` and `warn`; else ""

    def body(self) -> dict[str, Any]:
        """The JSON body of `/health`."""
        body: dict[str, Any] = {"status": self.status, "live": self.live, "ready": self.ready}
        if self.output:
            body["output"] = self.output
        return body | {"checks": {name: [check] for name, check in self.checks.items()}}


def judge(health: dict[str, Any] | None, age_s: float | None) -> Health:
    """The judgement of the parent's `health` as it was `age_s` ago; None when there was no snapshot yet.

    Fails when the daemon is not live or not ready, when a check fails, or when the snapshot is stale.
    """
    if health is None or age_s is None:
        return _blind("no snapshot from the daemon yet", {})
    checks: dict[str, dict[str, Any]] = dict(health.get("checks", {}))
    if age_s > STALE_S:
        return _blind(f"stale: the daemon's last snapshot is {age_s:.1f} s old (limit {STALE_S:g} s)", checks)
    live, ready = bool(health.get("live")), bool(health.get("ready"))
    words = [_word(check) for check in checks.values()]
    status = max(words, key=_ORDER.index, default="pass")
    reasons = [f"{name}: {check.get('output', '')}" for name, check in checks.items() if _word(check) == status]
    if not live or not ready:
        status = "fail"
        reasons.insert(0, "not live" if not live else "not ready")
    return Health(live, ready, status, checks, "" if status == "pass" else "; ".join(reasons))


def _blind(reason: str, checks: dict[str, dict[str, Any]]) -> Health:
    """What holds when nothing fresh is known: neither live nor ready."""
    return Health(False, False, "fail", checks | {"monitor": {"status": "fail", "output": reason}}, reason)


def _word(check: dict[str, Any]) -> str:
    """A check's status; one that is not understood counts as failed."""
    word = check.get("status")
    return word if word in _ORDER else "fail"
