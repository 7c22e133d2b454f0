"""Where setup puts a provider's key: a credential of the unit, encrypted where this host can, with the one before it.

A key goes to other programs by their standard input, and comes back by their standard output: it stands in no command
line and in no message. Each file is written aside, synced, renamed, and its directory synced.
"""

__all__ = ["UNIT", "Source", "Vault", "run", "write_durably"]

import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from captchad.config import durable
from captchad.config.credentials import MAX_KEY_BYTES, PLACEHOLDER, PREVIOUS, parse_key
from captchad.config.load import read_bounded
from captchad.model.errors import FixInput, NeedsOperator

UNIT = "captchad.service"

#: An encrypted key of the greatest size, in Base64, with what systemd adds.
_MAX_FILE_BYTES = 4 * MAX_KEY_BYTES


@dataclass(frozen=True, slots=True)
class Source:
    """The file that systemd reads a credential from."""

    path: Path
    encrypted: bool


@dataclass(frozen=True, slots=True)
class Vault:
    """The files of one credential: `directory` holds it, `drop_in` tells the unit so."""

    name: str
    directory: Path
    drop_in: Path

    def source(self) -> Source | None:
        """What the unit says now, of all its files; None when it does not know the credential. Raises NeedsOperator."""
        form = re.compile(rf"^LoadCredential(Encrypted)?={re.escape(self.name)}:(.+)$", re.MULTILINE)
        found = form.findall(run(["systemctl", "cat", UNIT]).decode(errors="replace"))
        return Source(Path(found[-1][1]), bool(found[-1][0])) if found else None

    def present(self) -> str | None:
        """The key that a start would get; None when there is none yet. Raises FixInput, NeedsOperator for one that
        cannot be read.
        """
        source = self.source()
        data = None if source is None else _read(source.path)
        if source is None or data is None:
            return None
        if source.encrypted:
            data = _creds("decrypt", self.name, data)
        if data.strip() in (b"", PLACEHOLDER.encode()):
            return None
        return parse_key(data, str(source.path), "")

    def in_force(self) -> str | None:
        """The key that the running service was given; None when that cannot be told."""
        data = _read(Path("/run/credentials") / UNIT / self.name)
        return None if data is None else data.decode(errors="replace").strip()

    def encrypted(self, key: str, previous: str | None) -> dict[str, bytes] | str:
        """Both keys as files, by the credentials' names; or why this host cannot encrypt."""
        try:
            return {name: _seal(name, each) for name, each in self._named(key, previous).items()}
        except NeedsOperator as error:
            return str(error)

    def plain(self, key: str, previous: str | None) -> dict[str, bytes]:
        """Both keys as files, by the credentials' names."""
        return {name: f"{each}\n".encode() for name, each in self._named(key, previous).items()}

    def store(self, files: dict[str, bytes], *, encrypted: bool) -> Source:
        """Put them in force for the next start, durably. A kill at any instant leaves the old key in force, or the new.

        Raises NeedsOperator when they cannot be written, or another file of the unit has the last word.
        """
        suffix = ".cred" if encrypted else ""
        for name in sorted(files, reverse=True):  # the previous one first: a key is never nowhere
            write_durably(self.directory / f"{name}{suffix}", files[name], 0o600)
        write_durably(self.drop_in, self._unit_lines(encrypted).encode(), 0o644)
        run(["systemctl", "daemon-reload"])
        stored = Source(self.directory / f"{self.name}{suffix}", encrypted)
        source = self.source()
        if source != stored:
            raise NeedsOperator(
                f"the unit takes {self.name} from {source and source.path}, not from {stored.path}",
                hint=f"remove that LoadCredential from the unit's other drop-ins (systemctl cat {UNIT})",
            )
        for name in (self.name, self.name + PREVIOUS):
            # Those of the other kind, which nobody reads any more; and a previous one that is none, or cannot be read.
            for kind in ("", ".cred"):
                if kind != suffix or name not in files:
                    (self.directory / f"{name}{kind}").unlink(missing_ok=True)
        return stored

    def _named(self, key: str, previous: str | None) -> dict[str, str]:
        return {self.name: key} | ({} if previous is None else {self.name + PREVIOUS: previous})

    def _unit_lines(self, encrypted: bool) -> str:
        """The later line of two with one name counts, of whatever kind; SetCredential= is for a missing file."""
        verb, suffix = ("LoadCredentialEncrypted", ".cred") if encrypted else ("LoadCredential", "")
        names = (self.name, self.name + PREVIOUS)
        lines = [f"{verb}={name}:{self.directory}/{name}{suffix}\nSetCredential={name}:{PLACEHOLDER}" for name in names]
        return "\n".join(["# Written by `captchactl setup`.", "[Service]", *lines, ""])


def run(command: list[str], data: bytes = b"", *, must: bool = True) -> bytes:
    """What a command prints; `data` is its standard input. With `must`, its failure raises NeedsOperator."""
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=False)
    except OSError as error:
        raise NeedsOperator(f"{command[0]}: {error.strerror}") from None
    if must and done.returncode:
        words = "; ".join(line for line in done.stderr.decode(errors="replace").splitlines() if line.strip())
        raise NeedsOperator(f"{' '.join(command[:2])}: {words or f'status {done.returncode}'}")
    return done.stdout


def write_durably(path: Path, data: bytes, mode: int) -> None:
    """Replace `path`, whole or not at all, and make its directory. On disk on return. Raises NeedsOperator."""
    try:
        durable.write(path, data, mode=mode, directory_mode=0o755 if mode & stat.S_IROTH else 0o700)
    except OSError as error:
        raise NeedsOperator(f"{path} cannot be written: {error.strerror}") from error


def _seal(name: str, key: str) -> bytes:
    """The key encrypted under `name`, tried out: what cannot be read again is no way to keep it."""
    sealed = _creds("encrypt", name, key.encode(), "--with-key=auto")
    if _creds("decrypt", name, sealed) != key.encode():
        raise NeedsOperator("systemd-creds: what was encrypted cannot be read again")
    return sealed


def _creds(verb: str, name: str, data: bytes, *flags: str) -> bytes:
    return run(["systemd-creds", verb, *flags, f"--name={name}", "-", "-"], data)


def _read(path: Path) -> bytes | None:
    """The file's bytes; None without a file."""
    try:
        contents = read_bounded(path, _MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NeedsOperator(f"{path} cannot be read: {error.strerror}") from None
    if contents is None or len(contents.data) > _MAX_FILE_BYTES:
        raise FixInput(f"{path} holds no key")
    return contents.data
