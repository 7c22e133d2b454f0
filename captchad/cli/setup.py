"""`captchactl setup`: from an installed captchad to a running one, and from one key to the next.

Everything is read and judged before anything is changed: a bad answer or a key that the provider refuses leaves all as
it was. What it writes: the key as a credential (`captchad.cli.vault`), and `conf.d/10-setup.toml`.
"""

__all__ = ["setup"]

import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from captchad.cli.exits import Exit
from captchad.cli.places import DEFAULT_CONFIG
from captchad.cli.render import clean
from captchad.cli.vault import UNIT, Vault, run, write_durably
from captchad.config import durable
from captchad.config.credentials import MAX_KEY_BYTES, PREVIOUS, check_keys, parse_key
from captchad.config.kinds import Bad, HostPattern, Kind, Url
from captchad.config.load import load, merged, parse, read_bounded
from captchad.model.errors import CaptchadError, ConfigError, FixInput, NeedsOperator

DROP_INS = Path("/etc/systemd/system") / f"{UNIT}.d"

#: The provider is asked about a new key for so long at most.
ASK_S = 15.0

#: Lines of the log that are shown of a start that failed.
LOG_LINES = 15

_HEAD = """\
# Written by `captchactl setup`, which changes it again when it is told something else. Your own settings belong into
# files of your own beside it. [[provider]] here, if it is, stands for all those of the main file.
"""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be, all of it judged."""

    main: Path
    provider: Mapping[str, Any]
    vault: Vault
    settings: dict[str, Any]  # of 10-setup.toml
    new_settings: bool
    key: str | None = field(repr=False)  # to be; None in a dry run without one
    present: str | None = field(repr=False)  # the one that is stored now
    previous: str | None = field(repr=False)  # to be kept beside the new one


def setup(options: Namespace) -> int:
    """Store the key and the settings, check the configuration, enable and start the service, print its status.

    Returns 0 when it runs, 1 when it does not, 4 without root. Run again it changes what it is told to, and keeps the
    rest. Raises FixInput, NeedsOperator: nothing was changed, or the message says what was.
    """
    if os.geteuid() != 0:
        print("captchactl: setup needs root: it writes below /etc and directs systemd", file=sys.stderr)
        return Exit.NO_PERMISSION
    os.umask(0o022)  # the daemon reads its settings as another user; keys have their own mode
    _refuse_without_unit()
    teller = _Teller(dry=options.dry_run, out=sys.stderr if options.json else sys.stdout)
    plan = _plan(options, teller)
    _settle(plan, teller)
    _store_key(plan, options, teller)
    if options.no_start:
        teller.says(f"not started: systemctl enable {UNIT}, then systemctl {_verb(plan)} {UNIT}")
        return Exit.OK
    if not _start(plan, teller):
        return Exit.FAILED
    return Exit.OK if options.dry_run else _print_status(options)


@dataclass(frozen=True, slots=True)
class _Teller:
    """Says each thing that is done; in a dry run, that would be done."""

    dry: bool
    out: Any

    def does(self, what: str) -> bool:
        """Say it. True when it is to be done."""
        print(clean(f"would {what}" if self.dry else what), file=self.out, flush=True)
        return not self.dry

    def says(self, what: str) -> None:
        print(clean(what), file=self.out, flush=True)


def _refuse_without_unit() -> None:
    if not Path("/run/systemd/system").is_dir():
        raise NeedsOperator("systemd does not run here", hint="captchad run works without it, too: captchad(8)")
    state = run(["systemctl", "show", "--property=LoadState", "--value", UNIT]).decode().strip()
    if state == "not-found":
        raise NeedsOperator(f"there is no {UNIT}", hint="install the package, or run captchactl install")
    if state != "loaded":
        raise NeedsOperator(f"{UNIT} is {state}", hint=f"systemctl status {UNIT} says more")


# --- what is to be


def _plan(options: Namespace, teller: _Teller) -> _Plan:
    main = (options.config or DEFAULT_CONFIG).absolute()
    tree, own = merged(main), _own(main)
    settings = dict(own)
    provider = _provider(options, tree, settings)
    _hosts(options, tree, settings, teller)
    credential = str(provider.get("api_key_credential"))
    vault = Vault(credential, main.parent / "credentials", DROP_INS / f"setup-{credential}.conf")
    key, present = _key(options, provider, vault, teller)
    previous = present
    moves = present is not None and _moves(provider, tree)
    if key is not None and (moves or key != present) and not options.dry_run:
        _ask_provider(provider, key, teller)
        # What a key is worth at another address says nothing of the captchas that it has at this one.
        previous = present if moves else _previous(provider, vault, present)
    return _Plan(main, provider, vault, settings, settings != own, key, present, previous)


def _own_file(main: Path) -> Path:
    return main.parent / "conf.d" / "10-setup.toml"


def _own(main: Path) -> dict[str, Any]:
    """What an earlier setup wrote. The file is readable TOML: it was merged before."""
    path = _own_file(main)
    return parse(path.read_text(), str(path))[0] if path.exists() else {}


def _provider(options: Namespace, tree: Mapping[str, Any], settings: dict[str, Any]) -> Mapping[str, Any]:
    """The provider whose key it is; a new address or a new provider goes into `settings`."""
    given = tree.get("provider")
    known = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    name = options.provider or next((str(each.get("name")) for each in known), "captchaai")
    found = next((each for each in known if each.get("name") == name), None)
    if found is None and options.provider_url is None:
        names = ", ".join(str(each.get("name")) for each in known) or "none"
        raise FixInput(f"there is no provider {name}; configured: {names}", hint="a new one needs --provider-url URL")
    if found is not None and found.get("api_key_file") is not None:
        raise FixInput(
            f"provider {name} has its key in {found['api_key_file']} (api_key_file)",
            hint="write the new key there, the old one into the same name with .previous, then reload",
        )
    url = None if options.provider_url is None else _read(Url(), "--provider-url", options.provider_url)
    if found is not None and url in (None, found.get("url")):
        return found
    made = {**(found or {"name": name, "api_key_credential": f"{name}.key"}), "url": url}
    settings["provider"] = [made if each is found else each for each in known] if found else [*known, made]
    return made


def _moves(provider: Mapping[str, Any], tree: Mapping[str, Any]) -> bool:
    """Whether it is configured at another address until now."""
    given = tree.get("provider")
    known = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    return any(each.get("name") == provider["name"] and each.get("url") != provider["url"] for each in known)


def _hosts(options: Namespace, tree: Mapping[str, Any], settings: dict[str, Any], teller: _Teller) -> None:
    """The hosts that may be automated: as told, else as they are, else asked for."""
    policy = tree.get("policy")
    present = policy.get("allowed_hosts") if isinstance(policy, dict) else None
    if options.allow_host:
        hosts = [_read(HostPattern(), f"--allow-host {each!a}", each) for each in options.allow_host]
    elif present is not None:
        return
    elif _asks(options):
        hosts = _ask_hosts()
    else:
        hint = "name each with --allow-host HOST"
        raise FixInput("the configuration does not say which hosts you may automate", hint=hint)
    if hosts != present:
        settings["policy"] = {"allowed_hosts": hosts}
        teller.says(f"allowed_hosts: {' '.join(present or ['none'])} -> {' '.join(hosts)}")


def _ask_hosts() -> list[str]:
    print("Hosts that you may automate, with spaces between: ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        raise FixInput("no hosts were given; nothing was changed")
    hosts = [_read(HostPattern(), f"the host {each!a}", each) for each in answer.split()]
    if not hosts:
        raise FixInput("no hosts were given; nothing was changed", hint='like "example.com", or * for every host')
    return hosts


def _read(kind: Kind, what: str, text: str) -> str:
    """As the configuration would take it. Raises FixInput."""
    value = kind.read(text)
    if isinstance(value, Bad):
        raise FixInput(f"{what} {value.message}", hint=value.hint)
    return str(value)


def _asks(options: Namespace) -> bool:
    return not options.yes and not options.dry_run and sys.stdin is not None and sys.stdin.isatty()


# --- the key


def _key(
    options: Namespace, provider: Mapping[str, Any], vault: Vault, teller: _Teller
) -> tuple[str | None, str | None]:
    """The key to be, and the one that is stored now."""
    name, unread = provider["name"], None
    try:
        present = vault.present()
    except CaptchadError as error:
        present, unread = None, error
    data = _given_key(options, provider, stored=present is not None)
    if not data.strip():
        if unread is not None:
            hint = "run setup again with the key"
            raise NeedsOperator(f"the stored key of {name} cannot be read: {unread}", hint=hint)
        if present is None and not options.dry_run:
            hint = "give it by --api-key-file FILE, or on standard input"
            empty = ", and standard input is empty" if _is_piped() else ""
            raise FixInput(f"there is no key of {name} yet{empty}", hint=hint)
        teller.says(f"the key of {name} stays as it is" if present else f"the key of {name} is still to be given")
        return present, present
    key = parse_key(data, "what was given as the key", "")
    if unread is not None:
        teller.says(f"the present key cannot be read ({unread}): captchas under way are polled with the new one")
    if key == present:
        teller.says(f"the key of {name} stays as it is: it is the same")
    return key, present


def _given_key(options: Namespace, provider: Mapping[str, Any], *, stored: bool) -> bytes:
    """What was given as the key, not judged; empty when nothing was."""
    if options.api_key_file not in (None, "-"):
        return _read_key_file(Path(options.api_key_file))
    if _is_piped():
        data = sys.stdin.buffer.read(MAX_KEY_BYTES + 1)
        if options.api_key_file == "-" and not data.strip():
            hint = "it holds the key alone: was a variable unset?"
            raise FixInput("standard input is empty; nothing was changed", hint=hint)
        return data
    if _asks(options):
        keep = ", Enter keeps the stored one" if stored else ""
        return _type_key(f"API key of {clean(provider['name'])} (it is not shown{keep}): ")
    return b""


def _is_piped() -> bool:
    return sys.stdin is not None and not sys.stdin.isatty()


def _read_key_file(path: Path) -> bytes:
    try:
        contents = read_bounded(path, MAX_KEY_BYTES)
    except OSError as error:
        raise FixInput(f"{path}: {(error.strerror or 'unreadable').lower()}") from None
    if contents is None:
        raise FixInput(f"{path} is no regular file", hint="- takes the key from standard input")
    if not contents.data.strip():
        raise FixInput(f"{path} is empty", hint="it holds the key alone")
    return contents.data


def _type_key(prompt: str) -> bytes:
    import getpass
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)  # it would read the key with echo
        try:
            return getpass.getpass(prompt).encode(errors="surrogateescape")
        except getpass.GetPassWarning:
            hint = "give it by --api-key-file FILE"
            raise FixInput("this terminal cannot hide what is typed; nothing was changed", hint=hint) from None
        except EOFError:
            return b""


def _ask_provider(provider: Mapping[str, Any], key: str, teller: _Teller) -> None:
    """A key that the provider refuses is not stored. Who does not answer stops nothing."""
    name, answer = provider["name"], _balance(provider, key)
    if not isinstance(answer, str):
        teller.says(f"provider {name} takes the key, balance {answer:.2f}")
    elif answer in _refusals():
        raise FixInput(f"provider {name} refuses the key ({answer})", hint="nothing was changed")
    else:
        teller.says(f"provider {name} could not be asked about the key ({answer}); going on")


def _previous(provider: Mapping[str, Any], vault: Vault, present: str | None) -> str | None:
    """The key that is kept for captchas under way: the present one, or, if that never worked, the one before it."""
    try:
        before = Vault(f"{vault.name}{PREVIOUS}", vault.directory, vault.drop_in).present()
    except CaptchadError:
        before = None  # with a lost host key it cannot be read any more, and would keep the service from starting
    if present is None or (before is not None and _balance(provider, present) in _refusals()):
        return before
    return present


def _balance(provider: Mapping[str, Any], key: str) -> float | str:
    """What the provider says of a key, by the one question that costs nothing: the balance, or the fault's code."""
    from captchad.provider.client import Fault, ProviderClient

    client = ProviderClient(str(provider["name"]), str(provider.get("url")), key)
    try:
        answer = client.balance(time.monotonic() + ASK_S)
    finally:
        client.close()
    return answer.code if isinstance(answer, Fault) else float(answer)


def _refusals() -> frozenset[str]:
    from captchad.daemon.providers import KEY_REFUSED

    return KEY_REFUSED


def _store_key(plan: _Plan, options: Namespace, teller: _Teller) -> None:
    if plan.key is None or plan.key == plan.present:
        return
    vault, name = plan.vault, plan.provider["name"]
    if plan.previous is not None:
        which = "present key" if plan.previous == plan.present else "key before the refused one"
        teller.does(f"keep the {which} of {name} as {vault.name}{PREVIOUS}, to poll the captchas that have it")
    where = f"{vault.directory}/{vault.name}"
    if not teller.does(f"store the key of {name} below {vault.directory}"):
        return
    sealed = "not wanted" if options.plain else vault.encrypted(plan.key, plan.previous)
    if isinstance(sealed, str):
        vault.store(vault.plain(plan.key, plan.previous), encrypted=False)
        teller.says(f"stored as {where}, mode 0600, not encrypted: {sealed}")
    else:
        vault.store(sealed, encrypted=True)
        teller.says(f"stored as {where}.cred, encrypted by systemd-creds for this host alone")


# --- the configuration, and the service


def _settle(plan: _Plan, teller: _Teller) -> None:
    """Write the settings and check the whole configuration. Raises FixInput; then the settings are as they were."""
    path = _own_file(plan.main)
    if not plan.new_settings:
        _check(plan, teller)
    elif teller.does(f"write {path}"):
        before = path.read_bytes() if path.exists() else None
        write_durably(path, (_HEAD + tomli_w.dumps(plan.settings)).encode(), 0o644)
        try:
            _check(plan, teller)
        except FixInput:
            if before is None:
                durable.remove(path)
            else:
                write_durably(path, before, 0o644)
            teller.says(f"{path} is {'gone' if before is None else 'as it was'} again: nothing was changed")
            raise


def _check(plan: _Plan, teller: _Teller) -> None:
    """As `captchad check` does. Raises ConfigError with every fault, FixInput when another file has the last word."""
    teller.says(f"check {plan.main}")
    loaded = load(plan.main)
    problems, _ = check_keys(loaded.config, {}, loaded.places)
    if problems:
        raise ConfigError(problems)
    tree, own = merged(plan.main), _own_file(plan.main)
    for path in (("provider",), ("policy", "allowed_hosts")):
        if _at(plan.settings, path) not in (None, _at(tree, path)):
            file, line = loaded.places.at(path)
            raise FixInput(f"{file}:{line}: {'.'.join(path)}: goes over {own}", hint="mend or remove it there")


def _at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """What stands there; None when there is nothing."""
    found: Any = tree
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _start(plan: _Plan, teller: _Teller) -> bool:
    """Enable it, and have it run with what is new. False when it does not; then it was said why."""
    enabled = run(["systemctl", "is-enabled", UNIT], must=False).strip() == b"enabled"
    if not enabled and teller.does(f"enable {UNIT}"):
        run(["systemctl", "enable", UNIT])
    if not teller.dry:
        run(["systemctl", "daemon-reload"])  # a setup that was killed may have left it undone
    verb = _verb(plan)
    if not teller.does(f"{verb} {UNIT}, and wait until it is ready"):
        return True
    if verb != "reload":
        run(["systemctl", "reset-failed", UNIT], must=False)  # after too many failures it would not be started at all
    try:
        run(["systemctl", verb, UNIT])
        if plan.vault.in_force() not in (None, plan.key):
            raise NeedsOperator(f"{UNIT} was given another key than the one that is stored")
    except NeedsOperator as error:
        _say_failure(error)
        return False
    return True


def _verb(plan: _Plan) -> str:
    """What brings the service to what is stored: a credential takes a restart, the rest a reload."""
    state = run(["systemctl", "show", "--property=ActiveState", "--value", UNIT]).decode().strip()
    if state in ("inactive", "failed"):
        return "start"
    if state == "active" and plan.vault.in_force() == plan.key:
        return "reload"
    return "restart"


def _say_failure(error: NeedsOperator) -> None:
    run(["journalctl", "--sync"], must=False)  # what was said last may still be on its way
    # Not the lines of `systemctl status`: between two tries of a start it has none.
    for command in (
        ["systemctl", "status", "--no-pager", "--full", "--lines=0", UNIT],  # its status is that of the unit
        ["journalctl", "--no-pager", f"--lines={LOG_LINES}", f"--unit={UNIT}"],
    ):
        sys.stderr.write(run(command, must=False).decode(errors="replace"))
    print(f"captchactl: {clean(error)}", file=sys.stderr)
    print(f"hint: journalctl -u {UNIT} has the whole log; mend what it names and run setup again", file=sys.stderr)


def _print_status(options: Namespace) -> int:
    from captchad.cli import live

    return live.status(options)
