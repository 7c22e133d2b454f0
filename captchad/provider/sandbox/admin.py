"""/_sandbox/*: the ledger, the sums, a new scenario, a reset. Answers loopback peers only.

GET  /_sandbox/ledger          everything
GET  /_sandbox/totals          the sums alone
GET  /_sandbox/verify?token=T  uses a token as a site would: good once, within its life
POST /_sandbox/scenario        takes a scenario (TOML) in place of the present one
POST /_sandbox/reset           forgets captchas, sums, counts and bans
"""

__all__ = ["PREFIX", "Controls", "administer"]

import json
from ipaddress import ip_address
from typing import Any, Protocol

from captchad.model.errors import ConfigError
from captchad.provider.sandbox.form import BadForm, decode
from captchad.provider.sandbox.http1 import Reply, Request
from captchad.provider.sandbox.scenario import Scenario, parse

PREFIX = "/_sandbox/"


class Controls(Protocol):
    """What can be asked of a running sandbox."""

    def ledger_view(self) -> dict[str, Any]:
        """Everything."""

    def totals_view(self) -> dict[str, Any]:
        """The sums."""

    def verify(self, token: str) -> dict[str, Any]:
        """Use a token."""

    def use(self, scenario: Scenario) -> None:
        """Go on with another scenario."""

    def reset(self) -> None:
        """Begin again."""


def administer(request: Request, controls: Controls) -> Reply:
    """Answer one request below `PREFIX`."""
    if not _is_loopback(request.peer):
        return _json({"error": "loopback only"}, 403)
    match request.method, request.path.removeprefix(PREFIX):
        case "GET", "ledger":
            return _json(controls.ledger_view())
        case "GET", "totals":
            return _json(controls.totals_view())
        case (("GET" | "POST"), "verify"):
            return _verify(request, controls)
        case "POST", "scenario":
            return _take_scenario(request, controls)
        case "POST", "reset":
            controls.reset()
            return _json({"ok": True})
    return _json({"error": "no such thing here"}, 404)


def _verify(request: Request, controls: Controls) -> Reply:
    try:
        return _json(controls.verify(decode(request).get("token")))
    except BadForm as error:
        return _json({"error": str(error)}, 400)


def _take_scenario(request: Request, controls: Controls) -> Reply:
    try:
        scenario = parse(request.body.decode("utf-8"))
    except UnicodeDecodeError:
        return _json({"errors": ["not UTF-8"]}, 400)
    except ConfigError as error:
        return _json({"errors": [str(problem) for problem in error.problems]}, 400)
    controls.use(scenario)
    return _json({"ok": True})


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(value).encode(), "application/json", status)


def _is_loopback(peer: str) -> bool:
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
