"""Reads the providers' API keys from the files that the configuration names.

A key is never in the configuration, and never in a message of this module: it is in the dictionary that `read_keys`
returns, and nowhere else.
"""

__all__ = [
    "MAX_KEY_BYTES",
    "PLACEHOLDER",
    "PREVIOUS",
    "check_keys",
    "digest",
    "parse_key",
    "read_keys",
    "read_previous_keys",
]

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from captchad.config.load import Contents, Places, read_bounded
from captchad.config.schema import Config, Provider
from captchad.model.errors import ConfigError, ConfigProblem, FixInput

MAX_KEY_BYTES = 4096

#: What the unit's SetCredential= puts there when the operator has stored no key yet.
PLACEHOLDER = "unset"

#: What is appended to the name of a credential, or of a key file, for the key that it held before.
PREVIOUS = ".previous"

_DIRECTORY = "CREDENTIALS_DIRECTORY"


@dataclass(frozen=True, slots=True)
class _Wrong:
    message: str
    hint: str = ""
    is_placeholder: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class _Key:
    text: str
    open_to_all: bool


def read_keys(config: Config, environ: Mapping[str, str], places: Places | None = None) -> dict[str, str]:
    """The API key of each provider, by the provider's name. Raises ConfigError with every problem.

    With `places` (those of `Loaded`) problems name the file and line of the provider's key.
    """
    found: dict[str, str] = {}
    problems = []
    for index, provider in enumerate(config.providers):
        result = _read(provider, environ)
        if isinstance(result, _Wrong):
            problems.append(_problem(index, provider, result, places))
        else:
            found[provider.name] = result.text
    if problems:
        raise ConfigError(problems)
    return found


def read_previous_keys(
    config: Config, environ: Mapping[str, str], places: Places | None = None
) -> tuple[dict[str, str], list[str]]:
    """The key that each provider had before its present one, by the provider's name, and warnings about those that
    cannot be read. Most have none, and that is no fault: it is there for captchas that were submitted with it.
    """
    found: dict[str, str] = {}
    warnings: list[str] = []
    for index, provider in enumerate(config.providers):
        before = _before(provider)
        if not _is_there(before, environ):
            continue
        result = _read(before, environ)
        if isinstance(result, _Key):
            found[provider.name] = result.text
        elif not result.is_placeholder:
            wrong = replace(result, message=f"the previous key ({_path(before, environ).name}): {result.message}")
            warnings.append(str(_problem(index, provider, wrong, places)))
    return found, warnings


def _before(provider: Provider) -> Provider:
    """The provider as its previous key is found."""
    if provider.api_key_file is not None:
        return replace(provider, api_key_file=Path(f"{provider.api_key_file}{PREVIOUS}"))
    return replace(provider, api_key_credential=f"{provider.api_key_credential}{PREVIOUS}")


def _is_there(provider: Provider, environ: Mapping[str, str]) -> bool:
    if provider.api_key_file is None and not environ.get(_DIRECTORY):
        return False
    return os.path.lexists(_path(provider, environ))


def check_keys(
    config: Config, environ: Mapping[str, str], places: Places | None = None
) -> tuple[list[ConfigProblem], list[str]]:
    """The problems that `read_keys` would raise, and warnings about keys that it takes.

    Outside systemd there is no `$CREDENTIALS_DIRECTORY` and nothing can be said about a credential: that is a warning
    here, so that an operator can check a file by hand, and a problem for `read_keys`.
    """
    problems: list[ConfigProblem] = []
    warnings: list[str] = []
    for index, provider in enumerate(config.providers):
        if provider.api_key_file is None and not environ.get(_DIRECTORY):
            note = _Wrong(f"not checked: ${_DIRECTORY} is not set", "systemd sets it for the service")
            warnings.append(str(_problem(index, provider, note, places)))
            continue
        result = _read(provider, environ)
        if isinstance(result, _Wrong):
            problems.append(_problem(index, provider, result, places))
        elif result.open_to_all:
            file = provider.api_key_file or f"${_DIRECTORY}/{provider.api_key_credential}"
            loose = _Wrong("every user of this machine may read the key", f"chmod o= {file}")
            warnings.append(str(_problem(index, provider, loose, places)))
    return problems, warnings + read_previous_keys(config, environ, places)[1]


def digest(keys: Mapping[str, str]) -> str:
    """SHA-256 over names and keys. Changes when a key is changed; a key cannot be told from it."""
    canonical = json.dumps(sorted(keys.items()), separators=(",", ":"))
    return hashlib.sha256(b"captchad credentials\n" + canonical.encode()).hexdigest()


def _problem(index: int, provider: Provider, wrong: _Wrong, places: Places | None) -> ConfigProblem:
    name = "api_key_credential" if provider.api_key_file is None else "api_key_file"
    return (places or Places("configuration")).problem(("provider", index, name), wrong.message, wrong.hint)


def _path(provider: Provider, environ: Mapping[str, str]) -> Path:
    if provider.api_key_file is not None:
        return provider.api_key_file
    return Path(environ.get(_DIRECTORY, ""), provider.api_key_credential or "")


def _read(provider: Provider, environ: Mapping[str, str]) -> _Key | _Wrong:
    if provider.api_key_file is None and not environ.get(_DIRECTORY):
        return _Wrong(
            f"there are no credentials: ${_DIRECTORY} is not set",
            "start captchad by systemd with LoadCredential= for this name, or use api_key_file",
        )
    try:
        contents = read_bounded(_path(provider, environ), MAX_KEY_BYTES)
    except PermissionError:
        return _Wrong("the file with the key may not be read", "let the service's user or group read it")
    except OSError as error:
        return _Wrong(f"the file with the key cannot be read: {error.strerror}", _where(provider))
    if contents is None:
        return _Wrong("the file with the key is no regular file", _where(provider))
    return _judge(contents, provider)


def _judge(contents: Contents, provider: Provider) -> _Key | _Wrong:
    """The key in its file."""
    try:
        key = parse_key(contents.data, "the file with the key", _where(provider))
    except FixInput as error:
        return _Wrong(str(error), error.hint, contents.data.strip() == PLACEHOLDER.encode())
    return _Key(key, bool(contents.mode & stat.S_IROTH))


def parse_key(data: bytes, what: str, where: str) -> str:
    """The key in `data`, without the blanks around it. Raises FixInput, which does not repeat it.

    `what` names where the bytes are from, `where` is the hint when there is no key in them.
    """
    if len(data) > MAX_KEY_BYTES:
        raise FixInput(f"{what} is larger than {MAX_KEY_BYTES} bytes", hint="it holds the key alone")
    try:
        key = data.decode().strip()
    except UnicodeDecodeError:
        raise FixInput(f"{what} is no UTF-8 text", hint="it holds the key alone") from None
    if key == PLACEHOLDER:
        raise FixInput(f'there is no API key yet, only the placeholder "{PLACEHOLDER}"', hint=where)
    if not key:
        raise FixInput(f"{what} is empty", hint=where)
    if not key.isprintable() or any(each.isspace() for each in key):
        raise FixInput("the key has a blank or control character inside", hint="the file holds one key on one line")
    return key


def _where(provider: Provider) -> str:
    """Where the key belongs. A credential's name is not repeated: a key pasted in its place has the form of a name."""
    if provider.api_key_file is not None:
        return f"put the key of {provider.name} into {provider.api_key_file}"
    by_hand = "the file of the unit's LoadCredential= for this name"
    return f"captchactl setup --provider {provider.name} stores it; by hand it stands in {by_hand}"
