"""Reads the providers' API keys from the files that the configuration names.

A key is never in the configuration, and never in a message of this module: it is in the dictionary that `read_keys`
returns, and nowhere else.
"""

__all__ = ["MAX_KEY_BYTES", "PLACEHOLDER", "check_keys", "digest", "read_keys"]

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from captchad.config.load import Contents, Places, read_bounded
from captchad.config.schema import Config, Provider
from captchad.model.errors import ConfigError, ConfigProblem

MAX_KEY_BYTES = 4096

#: What the unit's SetCredential= puts there when the operator has stored no key yet.
PLACEHOLDER = "unset"

_DIRECTORY = "CREDENTIALS_DIRECTORY"


@dataclass(frozen=True, slots=True)
class _Wrong:
    message: str
    hint: str = ""


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
    return problems, warnings


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
            f"start captchad by systemd with LoadCredential={provider.api_key_credential}:FILE, or use api_key_file",
        )
    try:
        contents = read_bounded(_path(provider, environ), MAX_KEY_BYTES)
    except PermissionError:
        return _Wrong("the file with the key may not be read", "let the service's user or group read it")
    except OSError as error:
        return _Wrong(f"the file with the key cannot be read: {error.strerror}", _where(provider))
    if contents is None:
        return _Wrong("the file with the key is no regular file", _where(provider))
    if len(contents.data) > MAX_KEY_BYTES:
        return _Wrong(f"the file with the key is larger than {MAX_KEY_BYTES} bytes", "it holds the key alone")
    return _judge(contents, provider)


def _judge(contents: Contents, provider: Provider) -> _Key | _Wrong:
    """The key in its file."""
    try:
        key = contents.data.decode().strip()
    except UnicodeDecodeError:
        return _Wrong("the file with the key is no UTF-8 text", "it holds the key alone")
    if key == PLACEHOLDER:
        return _Wrong(f'there is no API key yet, only the placeholder "{PLACEHOLDER}"', _where(provider))
    if not key:
        return _Wrong("the file with the key is empty", _where(provider))
    if not key.isprintable() or any(each.isspace() for each in key):
        return _Wrong("the key has a blank or control character inside", "the file holds one key on one line")
    return _Key(key, bool(contents.mode & stat.S_IROTH))


def _where(provider: Provider) -> str:
    if provider.api_key_file is not None:
        return f"put the key of {provider.name} into {provider.api_key_file}"
    return (
        f"put the key of {provider.name} into the file of the unit's LoadCredential={provider.api_key_credential}:FILE"
    )
