"""Which configuration runs, and why: the file, or the last known good; probation and roll-back.

A bad file never takes the service down. A reload or a start with an invalid file keeps or takes the last good one. A
valid one whose own faults show within probation (workers cannot boot, port cannot be bound, a key refused) is rolled
back; an outage of a provider never rolls back. A rejected one is remembered; only an explicit reload tries it again.
"""

__all__ = ["Configuration", "ReloadOutcome"]

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captchad.config.credentials import read_keys
from captchad.config.generations import (
    Candidate,
    Decision,
    Generations,
    Probation,
    Verdict,
    choose_at_start,
    default_directory,
    digest_of,
)
from captchad.config.load import load
from captchad.config.schema import Config, restart_needed, to_dict
from captchad.model.errors import ConfigError, TryLater

_log = logging.getLogger(__name__)

#: A generation that could not be saved (full disk) is tried again after this.
SAVE_AGAIN_S = 30.0

#: Configurations in a row that were reloaded before they were proven, and that can be gone back to.
EARLIER_MOST = 10

#: Problems that a refused reload names: each goes into the log, and all of them to the caller.
REFUSED_SAID = 100

#: Changes that a roll-back names.
UNDONE_SAID = 5


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """What a reload did: `refused` has a line for each problem, and then nothing has changed."""

    applied: bool
    refused: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # keys whose values are others than before, as `table.key`


@dataclass(frozen=True, slots=True)
class _Running:
    config: Config
    keys: Mapping[str, str]
    digest: str
    origin: str
    generation: int


class Configuration:
    """The running configuration of one daemon, and the one to fall back to."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self.path = path
        self.problem: str | None = None
        self._environ = environ
        self._generations = Generations(default_directory(path, environ))
        self._running: _Running
        self._earlier: list[tuple[_Running, bool]] = []  # what ran before, last, and whether it was proven
        self._probation: Probation | None = None
        self._changed = False
        self._save_at = 0.0

    @property
    def config(self) -> Config:
        return self._running.config

    @property
    def keys(self) -> Mapping[str, str]:
        return self._running.keys

    def report(self) -> dict[str, Any]:
        """For the status: where the running configuration comes from, and why the file does not run, if so."""
        running = self._running
        return {
            "origin": running.origin,
            "path": str(self.path),
            "generation": running.generation,
            "problem": self.problem,
            "probation_s": None if self._probation is None else round(self._probation.remaining_s, 1),
        }

    # ---------------------------------------------------------------- start

    def load_at_start(self) -> None:
        """Choose what runs. Raises ConfigError when nothing good is known either."""
        try:
            found: Candidate | ConfigError = self._candidate()
        except ConfigError as error:
            found = error
        choice = choose_at_start(found, self._generations)
        try:
            keys = read_keys(choice.config, self._environ)
        except ConfigError:
            # The last known good one cannot run without its keys either: what is wrong with the file is what to mend.
            if isinstance(found, ConfigError):
                raise found from None
            raise
        self._running = _Running(choice.config, keys, digest_of(choice.config, keys), choice.origin, choice.generation)
        self.problem = choice.problem
        good = self._generations.last_good()
        before = self._from_generation()
        if good is not None and good.digest != self._running.digest and before is not None:
            self._earlier = [(before, True)]
        if not choice.proven:
            self._probation = Probation(self.config.daemon.probation_s)
        if choice.problem is not None:
            _log.warning("config: %s; the last known good one runs (generation %d)", choice.problem, choice.generation)

    def _candidate(self) -> Candidate:
        loaded = load(self.path)
        keys = read_keys(loaded.config, self._environ, loaded.places)
        return Candidate(loaded.config, digest_of(loaded.config, keys), str(self.path))

    def _from_generation(self) -> _Running | None:
        """The last good generation, if its keys can still be read."""
        good = self._generations.last_good()
        if good is None:
            return None
        try:
            keys = read_keys(good.config, self._environ)
        except ConfigError:
            return None
        return _Running(good.config, keys, digest_of(good.config, keys), "last_known_good", good.number)

    def earlier_provider(self, name: str) -> tuple[Config, Mapping[str, str]] | None:
        """The newest generation that has provider `name`, with that provider alone, and its key; None without one."""
        for generation in self._generations.history():
            providers = tuple(each for each in generation.config.providers if each.name == name)
            if not providers:
                continue
            config = replace(generation.config, providers=providers)
            try:
                return config, read_keys(config, self._environ)
            except ConfigError:
                continue  # its key is gone; an older one may have another
        return None

    def on_ready(self, now: float) -> None:
        """The service is ready with it: the very first configuration is a provisional generation at once."""
        if self._probation is not None:
            self._probation.started(now)
        if self._running.generation:
            return
        try:
            made = self._generations.provisional(self.config, self._running.digest)
        except TryLater as error:
            _log.warning("config: %s", error)
            return
        if made.digest == self._running.digest:
            self._set_generation(made.number)

    def _set_generation(self, number: int) -> None:
        running = self._running
        self._running = _Running(running.config, running.keys, running.digest, running.origin, number)

    # ---------------------------------------------------------------- reload

    def reload(self, now: float) -> ReloadOutcome:
        """Read the file again. A valid one runs from now on, on probation, even if it was rejected before."""
        try:
            found = self._candidate()
            keys = read_keys(found.config, self._environ)
        except ConfigError as error:
            return self._refuse([str(problem) for problem in error.problems])
        fixed = restart_needed(self.config, found.config)
        if fixed:
            return self._refuse([f"{self.path}: {key}: takes a restart; nothing was reloaded" for key in fixed])
        changed = _changed_keys(self._running, found.config, keys)
        try:
            self._generations.forget_rejected(found.digest)
        except TryLater as error:
            return self._refuse([str(error)])
        known = self._generations.find(found.digest)
        if found.digest != self._running.digest:
            # Should the new one fail, what ran until now runs again, with the keys that it has: proven or not, nothing
            # was wrong with it, and its keys may stand nowhere else any more.
            self._earlier = [*self._earlier[1 - EARLIER_MOST :], (self._running, self._probation is None)]
            self._try(found.config, now, proven=known is not None and known.good)
        self._running = _Running(found.config, keys, found.digest, "file", known.number if known else 0)
        self.problem = None
        return ReloadOutcome(applied=True, changed=changed)

    def _try(self, config: Config, now: float, *, proven: bool) -> None:
        """Begin the probation of what runs from now on, if it needs one."""
        self._probation = None if proven else Probation(config.daemon.probation_s)
        if self._probation is None:
            self._earlier = []
        else:
            self._probation.started(now)

    def _before(self) -> tuple[_Running, bool] | None:
        """What runs again if this one fails in its probation, and whether it is proven."""
        if self._earlier:
            return self._earlier[-1]
        good = self._from_generation()
        return None if good is None else (good, True)

    def _refuse(self, problems: list[str]) -> ReloadOutcome:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        self.problem = f"reload refused: {problems[0]}{more}"
        unsaid = len(problems) - REFUSED_SAID
        rest = (f"{self.path}: {unsaid} more: captchad check names all",) if unsaid > 0 else ()
        return ReloadOutcome(applied=False, refused=(*problems[:REFUSED_SAID], *rest))

    # ---------------------------------------------------------------- probation

    def own_fault(self, reason: str, key: str | None = None) -> None:
        """A fault that only the configuration can explain. Outside probation it is no longer held against it.

        Nor is it when it comes from the value of `key` (`table.key`) and the earlier configuration has the same.
        """
        if self._probation is None:
            return
        before = self._before()
        if key is not None and (before is None or _value(before[0].config, key) == _value(self.config, key)):
            return
        self._probation.own_fault(reason)

    def tick(self, now: float, *, outage: bool) -> None:
        """Let probation run. After a roll-back `take_changed` says so once."""
        if self._probation is None or now < self._save_at:
            return
        if outage:
            self._probation.outage(now)
        else:
            self._probation.outage_over(now)
        decision = self._probation.tick(now)
        try:
            match decision.verdict:
                case Verdict.PROMOTE:
                    self._promote()
                case Verdict.ROLLBACK:
                    self._roll_back(decision, now)
                case Verdict.RUNNING:
                    pass
        except TryLater as error:
            self._save_at = now + SAVE_AGAIN_S
            _log.warning("config: %s; trying again", error)

    def _promote(self) -> None:
        made = self._generations.promote(self.config, self._running.digest)
        self._set_generation(made.number)
        self._probation = None
        self._earlier = []
        _log.info("config: good after probation, generation %d", made.number)

    def _roll_back(self, decision: Decision, now: float) -> None:
        before, proven = self._before() or (self._running, False)
        if before.digest == self._running.digest:
            self._probation = None
            self.problem = f"{decision.reason}; there is no earlier configuration to go back to"
            _log.error("config: %s", self.problem)
            return
        self._generations.reject(self._running.digest, decision.reason)  # may raise: then all stays, and is tried again
        undone = _changed_keys(before, self.config, self.keys)
        self._running, self._earlier = before, self._earlier[:-1]
        self._try(before.config, now, proven=proven)
        self._changed = True
        more = f" and {len(undone) - UNDONE_SAID} more" if len(undone) > UNDONE_SAID else ""
        self.problem = f"rolled back: {decision.reason}; undone: {', '.join(undone[:UNDONE_SAID])}{more}"
        _log.error("config: %s", self.problem)

    def take_changed(self) -> bool:
        """Whether a roll-back has put another configuration in force; says so once."""
        changed, self._changed = self._changed, False
        return changed


def _value(config: Config, key: str) -> object:
    table, _, name = key.partition(".")
    return to_dict(config)[table].get(name)


def _changed_keys(running: _Running, config: Config, keys: Mapping[str, str]) -> tuple[str, ...]:
    """What differs, as `table.key`; providers by their names, with `key` for an API key."""
    before, after = _flat(running.config), _flat(config)
    names = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
    both = running.keys.keys() & keys.keys()
    names += [f"provider.{name}: its key" for name in sorted(both) if running.keys[name] != keys[name]]
    return tuple(names)


def _flat(config: Config) -> dict[str, object]:
    flat: dict[str, object] = {}
    for table, content in to_dict(config).items():
        if isinstance(content, list):
            for each in content:
                flat |= {f"{table}.{each['name']}.{key}": value for key, value in each.items()}
        else:
            flat |= {f"{table}.{key}": value for key, value in content.items()}
    return flat
