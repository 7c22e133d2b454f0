"""Which configuration runs, and why: the file, or the last known good; probation and roll-back.

A bad file never takes the service down. A reload or a start with an invalid file keeps or takes the last good one. A
valid one whose own faults show within probation (workers cannot boot, port cannot be bound, a key refused) is rolled
back; an outage of a provider never rolls back. A rejected one is remembered; only an explicit reload tries it again.
"""

__all__ = ["Configuration", "ReloadOutcome"]

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captchad.config.changes import Change, changes, flat, origins
from captchad.config.choice import Candidate, choose_at_start, not_confirmed
from captchad.config.credentials import read_keys, read_previous_keys
from captchad.config.generations import Generation, Generations, Trial, default_directory, digest_of
from captchad.config.load import Loaded, load
from captchad.config.probation import Confirmation, Decision, Probation, Verdict
from captchad.config.schema import Config, Reload, to_dict, with_places_of
from captchad.daemon.places import unusable
from captchad.model.clock import Clock, iso_utc
from captchad.model.errors import ConfigError, FixInput, TryLater
from captchad.model.logevents import Event, fields

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
    changed: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class _Running:
    config: Config
    keys: Mapping[str, str]
    digest: str
    origin: str
    generation: int
    places: Mapping[str, str]  # where each value stands, by `changes.flat`; empty: all are from the generation


class Configuration:
    """The running configuration of one daemon, and the one to fall back to."""

    def __init__(self, path: Path, environ: Mapping[str, str], clock: Clock) -> None:
        self.path = path
        self.problem: str | None = None
        self._environ = environ
        self._clock = clock
        self._generations = Generations(default_directory(path, environ), clock)
        self._running: _Running
        self._earlier: list[tuple[_Running, bool]] = []  # what ran before, last, and whether it was proven
        self._probation: Probation | None = None
        self._trial: Trial | None = None  # what stands on disk of the probation
        self._changed = False
        self._save_at = 0.0

    @property
    def config(self) -> Config:
        return self._running.config

    @property
    def keys(self) -> Mapping[str, str]:
        return self._running.keys

    @property
    def awaited(self) -> str | None:
        """What an operator has to do until when, in words; None: nothing."""
        if self._confirm_by is None:
            return None
        return f"it is rolled back at {iso_utc(self._confirm_by)} unless captchactl config confirm comes before"

    @property
    def _confirm_by(self) -> float | None:
        """UTC seconds."""
        return self._trial.confirm_by if self._trial is not None else None

    def previous_keys(self, config: Config) -> Mapping[str, str]:
        """The keys before the present ones, as far as they are there: for polls alone.

        They are no part of a configuration: one that comes or goes makes it no other one, puts none on probation, and
        one that cannot be read is a warning.
        """
        found, warnings = read_previous_keys(config, self._environ)
        for warning in warnings:
            _log.warning("config: %s", warning)
        return found

    @property
    def replaced_keys(self) -> frozenset[str]:
        """The providers that have another key than in the configuration that is known as good."""
        earlier = self._before() if self._probation is not None else None
        if earlier is None or not earlier[1]:
            return frozenset()
        return frozenset(name for name, key in earlier[0].keys.items() if self.keys.get(name, key) != key)

    def report(self) -> dict[str, Any]:
        """For the status: where the running configuration comes from, and why the file does not run, if so."""
        running = self._running
        return {
            "origin": running.origin,
            "path": str(self.path),
            "generation": running.generation,
            "digest": running.digest,
            "directory": str(self._generations.directory),
            "problem": self.problem,
            "probation_s": None if self._probation is None else round(self._probation.remaining_s, 1),
            "confirm_by": None if self._confirm_by is None else iso_utc(self._confirm_by),
        }

    def shown(self) -> dict[str, Any]:
        """What runs, whole, and where each of its values comes from."""
        running, tree = self._running, to_dict(self.config)
        from_generation = f"generation {running.generation}"
        places = {key: running.places.get(key, from_generation) for key in flat(tree)}
        return {"config": tree, "origins": places, "report": self.report()}

    # ---------------------------------------------------------------- start

    def load_at_start(self) -> None:
        """Choose what runs. Raises ConfigError when nothing good is known either."""
        try:
            loaded = load(self.path)
            places = origins(loaded)
            found: Candidate | ConfigError = self._candidate(loaded)
        except ConfigError as error:
            places, found = {}, error
        wall = self._clock.time()
        choice = choose_at_start(found, self._generations, now=wall, unusable=unusable)
        before = self._from_generation()
        try:
            keys: Mapping[str, str] = read_keys(choice.config, self._environ)
        except ConfigError:
            # The last known good one cannot run without its keys either: what is wrong with the file is what to mend.
            if isinstance(found, ConfigError):
                raise found from None
            raise
        if choice.origin == "last_known_good" and before is not None and before.generation == choice.generation:
            keys = before.keys
        places = places if choice.origin == "file" else {}
        digest = digest_of(choice.config, keys)
        self._running = _Running(choice.config, keys, digest, choice.origin, choice.generation, places)
        self.problem = choice.problem
        if choice.failed is not None and isinstance(found, Candidate):
            self._put_aside(found.digest, choice.failed)
        if before is not None and before.digest != digest:
            self._earlier = [(before, True)]
        self._resume_trial(digest, wall, proven=choice.proven)
        if choice.problem is not None:
            text = "config: %s; the last known good one runs (generation %d)"
            _log.warning(text, choice.problem, choice.generation, extra=fields(Event.CONFIG_LAST_GOOD))
        elif before is not None and before.config.daemon.state_dir != self.config.daemon.state_dir:
            was = before.config.daemon.state_dir
            _log.warning("config: daemon.state_dir was %s: what is unfinished there waits for a daemon on it", was)

    def _candidate(self, loaded: Loaded) -> Candidate:
        keys = read_keys(loaded.config, self._environ, loaded.places)
        return Candidate(loaded.config, digest_of(loaded.config, keys), str(self.path))

    def _resume_trial(self, digest: str, wall: float, *, proven: bool) -> None:
        """Go on with a probation that a death of the daemon has interrupted, or begin one."""
        trial = self._generations.trial()
        if trial is not None and trial.digest == digest:
            self._trial = trial
        if self._confirm_by is not None or not proven:
            self._probation = Probation(self.config.daemon.probation_s, self._confirmation(wall))

    def _confirmation(self, wall: float) -> Confirmation | None:
        """The rest of the time that an operator has; a wall clock that was set back does not make it longer."""
        trial = self._trial
        if trial is None or trial.confirm_by is None:
            return None
        left_s = min(max(0.0, trial.confirm_by - wall), trial.confirm_within_s)
        return Confirmation(self._clock.monotonic() + left_s, not_confirmed(trial.confirm_within_s))

    def _put_aside(self, digest: str, reason: str) -> None:
        """Reject what has failed while nobody ran. Without room on the disk the next start finds it out again."""
        try:
            self._generations.reject(digest, reason)
            self._generations.end_trial()
        except TryLater as error:
            _log.warning("config: %s", error)

    def _from_generation(self) -> _Running | None:
        """The last good generation, if its keys can still be read."""
        good = self._generations.last_good()
        return None if good is None else self._as_running(good)

    def _as_running(self, generation: Generation) -> _Running | None:
        """A generation as it would run now; None when its keys cannot be read any more.

        If a previous key is the one that it became good with, it runs with that: the present one has come after it.
        """
        config = generation.config
        try:
            keys = read_keys(config, self._environ)
        except ConfigError:
            return None
        before = keys | read_previous_keys(config, self._environ)[0]
        if digest_of(config, before) == generation.digest:
            keys = before
        return _Running(config, keys, digest_of(config, keys), "last_known_good", generation.number, {})

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

    def on_start(self) -> None:
        """All is open and the workers come next: who dies from now on until it is ready may die of its configuration.

        Where there is another to fall back to, starts that do not become ready are counted.
        """
        if self._probation is None or self._before() is None:
            return
        trial = self._trial or Trial(self._running.digest)
        self._remember(replace(trial, starts=trial.starts + 1))

    def on_ready(self, now: float) -> None:
        """The service is ready with it: the very first configuration is a provisional generation at once."""
        if self._probation is not None:
            self._probation.started(now)
        self.on_stop()
        if self._running.generation:
            return
        try:
            made = self._generations.provisional(self.config, self._running.digest)
        except TryLater as error:
            _log.warning("config: %s", error)
            return
        if made.digest == self._running.digest:
            self._set_generation(made.number)

    def on_stop(self) -> None:
        """A start that became ready, or was told to stop, is no failed one."""
        if self._trial is not None and self._trial.starts:
            self._remember(replace(self._trial, starts=0))

    def _remember(self, trial: Trial) -> None:
        """Write the trial down, as well as the disk allows."""
        try:
            self._begin_trial(trial)
        except TryLater as error:
            _log.warning("config: %s", error)

    def _begin_trial(self, trial: Trial) -> None:
        if trial.starts or trial.confirm_by is not None:
            self._generations.begin_trial(trial)
            self._trial = trial
        else:
            self._end_trial()

    def _end_trial(self) -> None:
        self._generations.end_trial()
        self._trial = None

    def _set_generation(self, number: int) -> None:
        self._running = replace(self._running, generation=number)

    # ---------------------------------------------------------------- reload

    def reload(self, now: float, confirm_within_s: float | None = None) -> ReloadOutcome:
        """Read the file again. A valid one runs from now on, on probation, even if it was rejected before.

        With `confirm_within_s` it is rolled back unless `confirm` comes within that time, also after a restart.
        """
        if self._confirm_by is not None:
            what = "what the last reload brought is not confirmed yet: captchactl config confirm, or config rollback"
            return ReloadOutcome(applied=False, refused=(what,))
        try:
            loaded = load(self.path)
            found = self._candidate(loaded)
            keys = read_keys(found.config, self._environ)
        except ConfigError as error:
            return self._refuse([str(problem) for problem in error.problems])
        changed = self._changes_to(found.config, keys)
        fixed = [each.key for each in changed if each.applies is Reload.RESTART]
        if fixed:
            return self._refuse([f"{self.path}: {key}: takes a restart; nothing was reloaded" for key in fixed])
        known = self._generations.find(found.digest)
        same = found.digest == self._running.digest
        try:
            self._generations.forget_rejected(found.digest)
            if not same:
                self._begin_trial(self._trial_of(found.digest, confirm_within_s))
        except TryLater as error:
            return self._refuse([str(error)])
        if not same:
            # Should the new one fail, what ran until now runs again, with the keys that it has: proven or not, nothing
            # was wrong with it, and its keys may stand nowhere else any more.
            self._earlier = [*self._earlier[1 - EARLIER_MOST :], (self._running, self._probation is None)]
            self._try(found.config, now, proven=known is not None and known.good)
        number = known.number if known else 0
        self._running = _Running(found.config, keys, found.digest, "file", number, origins(loaded))
        self.problem = None
        return ReloadOutcome(applied=True, changed=changed)

    def _trial_of(self, digest: str, confirm_within_s: float | None) -> Trial:
        if confirm_within_s is None:
            return Trial(digest)
        return Trial(digest, 0, self._clock.time() + confirm_within_s, confirm_within_s)

    def _try(self, config: Config, now: float, *, proven: bool) -> None:
        """Begin the probation of what runs from now on, if it needs one."""
        confirmation = self._confirmation(self._clock.time())
        if proven and confirmation is None:
            self._probation, self._earlier = None, []
            return
        self._probation = Probation(config.daemon.probation_s, confirmation)
        self._probation.started(now)

    def _before(self) -> tuple[_Running, bool] | None:
        """What runs again if this one fails in its probation, and whether it is proven."""
        if self._earlier:
            return self._earlier[-1]
        good = self._from_generation()
        return None if good is None or good.digest == self._running.digest else (good, True)

    def _refuse(self, problems: list[str]) -> ReloadOutcome:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        self.problem = f"reload refused: {problems[0]}{more}"
        unsaid = len(problems) - REFUSED_SAID
        rest = (f"{self.path}: {unsaid} more: captchad check names all",) if unsaid > 0 else ()
        return ReloadOutcome(applied=False, refused=(*problems[:REFUSED_SAID], *rest))

    def _changes_to(self, config: Config, keys: Mapping[str, str]) -> tuple[Change, ...]:
        return _changes(self.config, self.keys, config, keys)

    # ---------------------------------------------------------------- an operator's word

    def confirm(self) -> int:
        """Keep what the last reload brought; returns its generation, which is on disk then.

        Raises FixInput when nothing waits for it, TryLater when the disk does not take it.
        """
        if self._confirm_by is None:
            raise FixInput("nothing waits to be confirmed", hint="captchactl reload --confirm-within asks for it")
        # In this order: a power cut in between leaves an ordinary probation, not one that asks for the word again.
        self._end_trial()
        self._promote("confirmed")
        return self._running.generation

    def go_back(self, number: int | None, now: float) -> tuple[Change, ...]:
        """Run generation `number` from now on (None: what ran before this one), whatever the file says.

        A generation is saved again, as the newest, and the file's configuration is put aside for starts; only a reload
        takes it again. Returns what has changed. Raises FixInput when there is no such generation or it takes a
        restart, TryLater when the disk does not take it; nothing has changed then.
        """
        if number is None and self._probation is not None and (earlier := self._before()) is not None:
            undone = _changes(self.config, self.keys, earlier[0].config, earlier[0].keys)
            self._roll_back(Decision(Verdict.ROLLBACK, "an operator went back"), now)
            return undone
        generation = self._generation_before() if number is None else self._generations.get(number)
        if generation is None:
            what = "no earlier generation" if number is None else f"no generation {number}"
            raise FixInput(f"there is {what}", hint="captchactl config history lists them")
        target = self._as_running(generation)
        if target is None:
            hint = "put its providers' keys back where it looks for them"
            raise FixInput(f"the keys of generation {generation.number} cannot be read", hint=hint)
        changed = self._changes_to(target.config, target.keys)
        fixed = [each.key for each in changed if each.applies is Reload.RESTART]
        if fixed:
            hint = f"captchactl config show --generation {generation.number} prints it: put it into the file, restart"
            raise FixInput(f"generation {generation.number} has another {', '.join(fixed)}: takes a restart", hint=hint)
        made = self._generations.go_back_to(replace(generation, digest=target.digest))
        reason = f"an operator went back to generation {generation.number}"
        for digest in {self._digest_of_file(), self._running.digest} - {None, target.digest}:
            self._generations.reject(str(digest), reason)
        self._end_trial()
        self._running = replace(target, generation=made.number)
        self._probation, self._earlier = None, []
        self.problem = f"{reason}; {self.path} does not run until it is reloaded"
        _log.warning("config: %s", self.problem, extra=fields(Event.CONFIG_ROLLED_BACK))
        return changed

    def _generation_before(self) -> Generation | None:
        """The newest good one that is not what runs."""
        history = self._generations.history()
        usable = [each for each in history if each.good and self._generations.rejected(each.digest) is None]
        return next((each for each in usable if each.digest != self._running.digest), None)

    def _digest_of_file(self) -> str | None:
        try:
            return self._candidate(load(self.path)).digest
        except ConfigError:
            return None  # what is invalid is not started with anyway

    # ---------------------------------------------------------------- probation

    def own_fault(self, reason: str, *keys: str) -> None:
        """A fault that only the configuration can explain. Outside probation it is no longer held against it.

        Nor is it when it comes from keys (`table.key`, or `table.` for all in it), and the earlier configuration has
        the same values there.
        """
        if self._probation is None:
            return
        before = self._before()
        if keys and (before is None or not self._differs(before[0], keys)):
            return
        self._probation.own_fault(reason)

    def _differs(self, before: _Running, keys: Iterable[str]) -> bool:
        changed = _changes(before.config, before.keys, self.config, self.keys)
        return any(each.key.startswith(tuple(keys)) for each in changed)

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
                    self._promote("good after probation")
                case Verdict.ROLLBACK:
                    self._roll_back(decision, now)
                case Verdict.RUNNING:
                    pass
        except TryLater as error:
            self._save_at = now + SAVE_AGAIN_S
            _log.warning("config: %s; trying again", error)

    def _promote(self, why: str) -> None:
        made = self._generations.promote(self.config, self._running.digest)
        self._set_generation(made.number)
        self._probation = None
        self._earlier = []
        _log.info("config: %s, generation %d", why, made.number, extra=fields(Event.CONFIG_PROMOTED))

    def _roll_back(self, decision: Decision, now: float) -> None:
        earlier = self._before()
        if earlier is None:
            self._probation = None
            self.problem = f"{decision.reason}; there is no earlier configuration to go back to"
            _log.error("config: %s", self.problem, extra=fields(Event.CONFIG_FAULTY))
            return
        before, proven = earlier
        self._generations.reject(self._running.digest, decision.reason)  # may raise: then all stays, and is tried again
        self._end_trial()
        # What only a restart may change stays: this daemon's tasks are there.
        before = replace(before, config=with_places_of(before.config, self.config))
        undone = _changes(before.config, before.keys, self.config, self.keys)
        self._running, self._earlier = before, self._earlier[:-1]
        self._try(before.config, now, proven=proven)
        self._changed = True
        names = [each.key for each in undone]
        more = f" and {len(names) - UNDONE_SAID} more" if len(names) > UNDONE_SAID else ""
        self.problem = f"rolled back: {decision.reason}; undone: {', '.join(names[:UNDONE_SAID])}{more}"
        _log.error("config: %s", self.problem, extra=fields(Event.CONFIG_ROLLED_BACK))

    def take_changed(self) -> bool:
        """Whether a roll-back has put another configuration in force; says so once."""
        changed, self._changed = self._changed, False
        return changed


def _changes(before: Config, old: Mapping[str, str], after: Config, new: Mapping[str, str]) -> tuple[Change, ...]:
    """What differs, and whose API key does."""
    renewed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
    told = [Change(f"provider.{name}: its key", "the old one", "the new one", Reload.LIVE) for name in renewed]
    return (*changes(to_dict(before), to_dict(after)), *told)
