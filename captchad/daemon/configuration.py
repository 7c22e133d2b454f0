"""Which configuration runs, and why: the file, or the last known good; probation and roll-back.

A bad file never takes the service down. A reload or a start with an invalid file keeps or takes the last good one. A
valid one whose own faults show within probation (workers cannot boot, port cannot be bound, a key refused) is rolled
back; an outage of a provider never rolls back. A rejected one is remembered; only an explicit reload tries it again.
"""

__all__ = ["Configuration", "ReloadOutcome"]

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from captchad.config.changes import DEFAULT, Change, changes, flat, origins
from captchad.config.choice import Candidate, Choice, choose_at_start, not_confirmed
from captchad.config.credentials import read_keys, read_previous_keys
from captchad.config.generations import Generation, Generations, Standing, Trial, default_directory, digest_of
from captchad.config.load import Loaded, load
from captchad.config.probation import Confirmation, Decision, Probation, Verdict
from captchad.config.schema import Config, Reload, to_dict, with_places_of
from captchad.daemon.places import unusable
from captchad.model.clock import Clock, iso_utc
from captchad.model.errors import ConfigError, FixInput, TryLater
from captchad.model.key import Key
from captchad.model.logevents import Event, fields

_log = logging.getLogger(__name__)

#: What could not be written (full disk) is tried again after this.
SAVE_AGAIN_S = 30.0

#: Configurations in a row that were reloaded before they were proven, and that can be gone back to.
EARLIER_MOST = 10

#: Problems that a refused reload names: each goes into the log, and all of them to the caller.
REFUSED_SAID = 100

#: Providers whose previous keys are tried in all combinations, to find those that a generation ran with.
PREVIOUS_MOST = 6

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


@dataclass(frozen=True, slots=True)
class _Debt:
    """A change that the disk is still to take."""

    write: Callable[[], None]
    rejects: str = ""  # the digest of the configuration that it puts aside


class Configuration:
    """The running configuration of one daemon, and the one to fall back to.

    What is decided takes effect in memory; what has to outlive the daemon is written at once, or, where the disk does
    not take it, as soon as it does (`_owe`). Only where a caller is promised something durable it is written first.
    """

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
        self._ready = False
        self._changed = False
        self._owed: list[_Debt] = []  # what the disk has not taken yet, in its order
        self._pay_at = 0.0

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

    def earlier_keys(self, config: Config) -> dict[str, list[Key]]:
        """What captchas may have been submitted with that are older than the present keys of `config`: for polls alone.

        At each address that a provider has had in a saved configuration: its key, and the one before it, as far as they
        are there. These are no part of a configuration: one that comes or goes makes it no other one, puts none on
        probation, and one that cannot be read is a warning.
        """
        found: dict[str, dict[Key, None]] = {provider.name: {} for provider in config.providers}
        _, warnings = read_previous_keys(config, self._environ)
        for warning in warnings:
            _log.warning("config: %s", warning)
        saved = (generation.config.providers for generation in self._generations.history())
        for provider in dict.fromkeys(chain(config.providers, *saved)):
            if provider.name in found:
                alone = replace(config, providers=(provider,))
                previous, _ = read_previous_keys(alone, self._environ)
                secrets = (*self._keys_of(alone).values(), *previous.values())
                found[provider.name] |= dict.fromkeys(Key(provider.url, secret) for secret in secrets)
        return {name: list(keys) for name, keys in found.items()}

    def _keys_of(self, config: Config) -> Mapping[str, str]:
        """The present keys of a configuration; none if one of them cannot be read."""
        try:
            return read_keys(config, self._environ)
        except ConfigError:
            return {}

    @property
    def replaced_keys(self) -> Mapping[str, Key]:
        """The keys of the configuration that is known as good, of the providers that have another one, or address."""
        earlier = self._before() if self._probation is not None else None
        if earlier is None or not earlier[1]:
            return {}
        present = _addressed(self._running)
        return {name: key for name, key in _addressed(earlier[0]).items() if present.get(name, key) != key}

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
        choice = choose_at_start(
            found,
            self._generations,
            now=wall,
            unusable=unusable,
            runnable=lambda generation: self._as_running(generation) is not None,
        )
        if choice.fall_back is None and isinstance(found, Candidate):
            self._running = _Running(found.config, found.keys, found.digest, "file", choice.generation, places)
        else:
            self._running = self._fallen_back(choice)
        self.problem = choice.problem
        if choice.failed is not None and isinstance(found, Candidate):
            self._put_aside([found.digest], choice.failed)
        before = self._from_generation()
        if before is not None and before.digest != self._running.digest:
            self._earlier = [(before, True)]
        self._resume_trial(wall, proven=choice.proven)
        self._say_what_runs(choice)

    def _candidate(self, loaded: Loaded) -> Candidate:
        keys = read_keys(loaded.config, self._environ, loaded.places)
        return Candidate(loaded.config, digest_of(loaded.config, keys), str(self.path), keys)

    def _fallen_back(self, choice: Choice) -> _Running:
        """The generation that is chosen, maybe in other directories."""
        running = self._as_running(choice.fall_back) if choice.fall_back is not None else None
        if running is None:
            raise AssertionError("what is chosen was found to be runnable")
        return replace(running, config=choice.config)

    def _say_what_runs(self, choice: Choice) -> None:
        others = sorted(name for name, key in self._keys_of(self.config).items() if self.keys.get(name, key) != key)
        if self.problem is not None and others:
            self.problem += f"; submits go out with the previous key of {', '.join(others)}"
        if choice.problem is not None:
            text = "config: %s; the last known good one runs (generation %d)"
            _log.warning(text, self.problem, choice.generation, extra=fields(Event.CONFIG_LAST_GOOD))
        last, here = self._generations.newest(), self.config.daemon.state_dir
        if last is not None and last.config.daemon.state_dir != here:
            was = last.config.daemon.state_dir
            _log.warning("config: daemon.state_dir was %s: what is unfinished there waits for a daemon on it", was)

    def _resume_trial(self, wall: float, *, proven: bool) -> None:
        """Go on with a probation that a death of the daemon has interrupted, or begin one."""
        trial = self._generations.trial()
        if trial is not None and trial.digest == self._running.digest:
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

    def _from_generation(self) -> _Running | None:
        """The best generation to fall back to whose keys can still be read.

        With the keys of today it may be what failed: a good configuration and a refused key. That is none.
        """
        failed = {each.digest for each in self._generations.rejections()} | {each.rejects for each in self._owed}
        found = (self._as_running(each) for each in self._generations.fall_backs())
        return next((each for each in found if each is not None and each.digest not in failed), None)

    def _as_running(self, generation: Generation) -> _Running | None:
        """A generation as it would run now; None when its keys cannot be read any more.

        Where previous keys are those that it became good with, it runs with them: the present ones have come after it.
        """
        config = generation.config
        try:
            keys: Mapping[str, str] = read_keys(config, self._environ)
        except ConfigError:
            return None
        if digest_of(config, keys) != generation.digest:
            keys = self._keys_that_were_good(generation, keys)
        return _Running(config, keys, digest_of(config, keys), "last_known_good", generation.number, {})

    def _keys_that_were_good(self, generation: Generation, keys: Mapping[str, str]) -> Mapping[str, str]:
        """The present keys, with as many previous ones as make them those that the generation ran with."""
        previous, _ = read_previous_keys(generation.config, self._environ)
        names = list(previous)[:PREVIOUS_MOST]
        for chosen in chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1)):
            mixed = {**keys, **{name: previous[name] for name in chosen}}
            if digest_of(generation.config, mixed) == generation.digest:
                return mixed
        return keys

    def earlier_provider(self, name: str) -> tuple[Config, Mapping[str, str]] | None:
        """The newest saved configuration that has provider `name`, proven or not, with that provider alone, and its
        key; None without one.
        """
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
        if self._probation is None:
            return
        self._save_running(proven=False)
        if self._before() is not None:
            trial = self._trial or Trial(self._running.digest)
            self._remember(replace(trial, starts=trial.starts + 1))

    def on_ready(self, now: float) -> None:
        """The service is ready with it: the very first configuration is a provisional generation at once."""
        self._ready = True
        self.on_stop()
        if self._probation is None:
            self._save_running(proven=True)
            return
        self._probation.started(now)
        self._save_provisional()

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
        """Durable on return. Raises TryLater."""
        if trial.starts or trial.confirm_by is not None:
            self._settle()  # an end that is owed to an earlier trial would end this one
            self._generations.begin_trial(trial)
            self._trial = trial
        else:
            self._generations.end_trial()
            self._trial = None

    # ---------------------------------------------------------------- what is to be written

    def _owe(self, *debts: _Debt) -> None:
        """Write these, now or as soon as the disk takes them."""
        self._owed += debts
        self._pay()

    def _settle(self) -> None:
        """Write all that is owed. Raises TryLater."""
        while self._owed:
            self._owed[0].write()
            del self._owed[0]

    def _pay(self) -> None:
        try:
            self._settle()
        except TryLater as error:
            self._pay_at = self._clock.monotonic() + SAVE_AGAIN_S
            _log.warning("config: %s; trying again", error)

    def _save_running(self, *, proven: bool) -> None:
        """What begins to run becomes the newest generation: so that is what ran last, and its providers are known."""
        config, digest = self.config, self._running.digest
        if self._running.origin != "file":
            return  # a generation is saved already

        def save() -> None:
            save_it = self._generations.promote if proven else self._generations.tried
            self._number(digest, save_it(config, digest).number)

        self._owe(_Debt(save))

    def _save_provisional(self) -> None:
        config, digest = self.config, self._running.digest

        def save() -> None:
            made = self._generations.provisional(config, digest)
            self._number(made.digest, made.number)

        self._owe(_Debt(save))

    def _number(self, digest: str, number: int) -> None:
        """The generation of this digest has got that number."""
        if digest == self._running.digest:
            self._running = replace(self._running, generation=number)

    def _put_aside(self, digests: Iterable[str], reason: str) -> None:
        """Reject what has failed, and end its trial."""
        self._trial = None
        rejections = [_Debt(partial(self._generations.reject, digest, reason), digest) for digest in digests]
        self._owe(*rejections, _Debt(self._generations.end_trial))

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
        except ConfigError as error:
            return self._refuse([str(problem) for problem in error.problems])
        changed = _changes(self.config, self.keys, found.config, found.keys)
        fixed = [each.key for each in changed if each.applies is Reload.RESTART]
        if fixed:
            places = origins(loaded)
            place = [self.path if places[key] == DEFAULT else places[key] for key in fixed]
            text = "takes a restart; nothing was reloaded"
            return self._refuse([f"{where}: {key}: {text}" for where, key in zip(place, fixed, strict=True)])
        same = found.digest == self._running.digest
        if same and confirm_within_s is not None and self._probation is None:
            return ReloadOutcome(applied=False, refused=("nothing has changed: there is nothing to confirm",))
        superseded = [each for each in self._owed if each.rejects == found.digest]
        self._owed = [each for each in self._owed if each.rejects != found.digest]
        try:
            # The trial last: what is begun is promised, and a refused reload promises nothing.
            self._generations.forget_rejected(found.digest)
            if not same or confirm_within_s is not None:
                self._begin_trial(self._trial_of(found.digest, confirm_within_s))
        except TryLater as error:
            self._owed += superseded
            return self._refuse([str(error)])
        known = self._generations.find(found.digest)
        number = known.number if known else 0
        before = (self._running, self._probation is None)
        self._running = _Running(found.config, found.keys, found.digest, "file", number, origins(loaded))
        self.problem = None
        if not same:
            # Should the new one fail, what ran until now runs again, with the keys that it has: proven or not, nothing
            # was wrong with it, and its keys may stand nowhere else any more.
            self._earlier = [*self._earlier[1 - EARLIER_MOST :], before]
            self._try(now, proven=known is not None and known.good)
            self._save_running(proven=self._probation is None)
        elif self._probation is not None and confirm_within_s is not None:
            self._probation.confirmation = self._confirmation(self._clock.time())
        return ReloadOutcome(applied=True, changed=changed)

    def _trial_of(self, digest: str, confirm_within_s: float | None) -> Trial:
        if confirm_within_s is None:
            return Trial(digest)
        return Trial(digest, 0, self._clock.time() + confirm_within_s, float(confirm_within_s))

    def _try(self, now: float, *, proven: bool) -> None:
        """Begin the probation of what runs from now on, if it needs one."""
        confirmation = self._confirmation(self._clock.time())
        if proven and confirmation is None:
            self._probation, self._earlier = None, []
            return
        self._probation = Probation(self.config.daemon.probation_s, confirmation)
        if self._ready:
            self._probation.started(now)

    def _before(self) -> tuple[_Running, bool] | None:
        """What runs again if this one fails in its probation, and whether it is proven."""
        if self._earlier:
            return self._earlier[-1]
        good = self._from_generation()
        return None if good is None or good.digest == self._running.digest else (good, True)

    def _refuse(self, problems: list[str]) -> ReloadOutcome:
        unsaid = len(problems) - REFUSED_SAID
        rest = [f"{self.path}: {unsaid} more: captchad check names all"] if unsaid > 0 else []
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        self.problem = f"reload refused: {problems[0]}{more}"
        return ReloadOutcome(applied=False, refused=(*problems[:REFUSED_SAID], *rest))

    # ---------------------------------------------------------------- an operator's word

    def confirm(self) -> int:
        """Keep what the last reload brought; returns its generation.

        Durable on return: no start asks for the word again. It is good as soon as the disk takes that, too. Raises
        FixInput when nothing waits for it, or it has failed in this very moment and is rolled back; TryLater when the
        disk takes nothing; then nothing has changed.
        """
        if self._confirm_by is None or self._probation is None:
            raise FixInput("nothing waits to be confirmed", hint="captchactl reload --confirm-within asks for it")
        # In this order: a power cut in between leaves an ordinary probation, not one that asks for the word again.
        self._generations.end_trial()
        self._trial = None
        self._probation.confirmed()
        confirmed = self._running.digest
        self.tick(self._clock.monotonic(), outage=False)
        if self._running.digest != confirmed:
            raise FixInput(f"not confirmed: it was {self.problem}", hint="mend the file and reload it")
        return self._running.generation

    def go_back(self, number: int | None, now: float) -> tuple[Change, ...]:
        """Run generation `number` from now on (None: what ran before this one), whatever the file says.

        It is saved again, as the newest, durable on return. The file's configuration is put aside for starts; only a
        reload takes it again. Returns what has changed. Raises FixInput when there is no such generation or it takes a
        restart, TryLater when the disk takes nothing; nothing has changed then.
        """
        target, name = self._target(number)
        changed = _changes(self.config, self.keys, target.config, target.keys)
        fixed = [each.key for each in changed if each.applies is Reload.RESTART]
        if fixed:
            hint = f"captchactl config show --generation {target.generation} prints it: put it into the file, restart"
            raise FixInput(f"{name} has another {', '.join(fixed)}: takes a restart", hint=hint)
        self._settle()
        made = self._generations.promote(target.config, target.digest)
        running, file = self._running.digest, self._file()
        self._running = self._seen_from_the_file(replace(target, generation=made.number))
        self._probation, self._earlier, self.problem = None, [], None
        reason = f"an operator went back to {name}"
        if self._running.origin != "file":
            self.problem = f"{reason}; {self.path} does not run until it is reloaded"
            _log.warning("config: %s", self.problem, extra=fields(Event.CONFIG_ROLLED_BACK))
        self._put_aside({running, *([file.digest] if file else [])} - {target.digest}, reason)
        return changed

    def _target(self, number: int | None) -> tuple[_Running, str]:
        """What an operator goes back to, with the present keys, and its name. Raises FixInput.

        A key is gone back to by `captchactl setup`, or in its file, where everybody sees it; and one that was written
        there meanwhile is taken by a reload, on probation.
        """
        if number is None and self._probation is not None and self._earlier:
            before = self._earlier[-1][0]
            before = replace(before, config=with_places_of(before.config, self.config), origin="last_known_good")
            return replace(before, places={}), "what ran before"
        generation = self._generation_before() if number is None else self._generations.get(number)
        if generation is None:
            what = "no earlier generation" if number is None else f"no generation {number}"
            raise FixInput(f"there is {what}", hint="captchactl config history lists them")
        config, name = generation.config, f"generation {generation.number}"
        self._refuse_unproven(generation)
        try:
            keys = read_keys(config, self._environ)
        except ConfigError:
            hint = "put its providers' keys back where it looks for them"
            raise FixInput(f"the keys of {name} cannot be read", hint=hint) from None
        keys |= {each: key for each, key in self.keys.items() if each in keys}
        return _Running(config, keys, digest_of(config, keys), "last_known_good", generation.number, {}), name

    def _refuse_unproven(self, generation: Generation) -> None:
        """What failed, or was never proven, is tried by a reload, on probation. Raises FixInput."""
        same = [each for each in self._generations.history() if each.digest == generation.digest]
        if any(each.standing is not Standing.TRIED for each in same):
            return
        reason, number = self._generations.rejected(generation.digest), generation.number
        why = "has come through no probation" if reason is None else f"was rejected: {reason}"
        hint = f"to try it, put what captchactl config show --generation {number} prints into the file, and reload"
        raise FixInput(f"generation {number} {why}", hint=hint)

    def _generation_before(self) -> Generation | None:
        """The best one to fall back to that is not what runs."""
        fall_backs = self._generations.fall_backs()
        return next((each for each in fall_backs if each.digest != self._running.digest), None)

    def _file(self) -> Candidate | None:
        """What the file says now; None when it is invalid, and no start takes it anyway."""
        try:
            return self._candidate(load(self.path))
        except ConfigError:
            return None

    # ---------------------------------------------------------------- probation

    def own_fault(self, reason: str, *keys: str) -> None:
        """A fault that only the configuration can explain. Outside probation it is no longer held against it.

        Nor is it when it comes from keys (`table.key`, or `table.` for all in it), and every configuration that may be
        gone back to, one after the other, has the same values there.
        """
        if self._probation is None:
            return
        before = self._before()
        befores = self._earlier or ([] if before is None else [before])
        if keys and not any(self._differs(each, keys) for each, _ in befores):
            return
        self._probation.own_fault(reason)

    def _differs(self, before: _Running, keys: Iterable[str]) -> bool:
        changed = _changes(before.config, before.keys, self.config, self.keys)
        return any(each.key.startswith(tuple(keys)) for each in changed)

    def tick(self, now: float, *, outage: bool) -> None:
        """Let probation run. After a roll-back `take_changed` says so once."""
        if self._owed and now >= self._pay_at:
            self._pay()
        if self._probation is None:
            return
        if outage:
            self._probation.outage(now)
        else:
            self._probation.outage_over(now)
        decision = self._probation.tick(now)
        match decision.verdict:
            case Verdict.PROMOTE:
                self._promote()
            case Verdict.ROLLBACK:
                self._roll_back(decision, now)
            case Verdict.RUNNING:
                pass

    def _promote(self) -> None:
        """From now on it is good. The disk may take it later: until then a death puts it on probation again."""
        self._probation, self._earlier = None, []
        config, digest = self.config, self._running.digest

        def save() -> None:
            made = self._generations.promote(config, digest)
            self._number(digest, made.number)
            text = "config: good after probation, generation %d"
            _log.info(text, made.number, extra=fields(Event.CONFIG_PROMOTED))

        self._owe(_Debt(save))

    def _roll_back(self, decision: Decision, now: float) -> tuple[Change, ...]:
        """Run again what ran before, and put this one aside. Returns what has changed."""
        earlier = self._before()
        if earlier is None:
            self._probation = None
            self.problem = f"{decision.reason}; there is no earlier configuration to go back to"
            _log.error("config: %s", self.problem, extra=fields(Event.CONFIG_FAULTY))
            self._put_aside([], "")
            return ()
        failed, (before, proven) = self._running, earlier
        # What only a restart may change stays: this daemon's tasks are there.
        before = replace(before, config=with_places_of(before.config, failed.config))
        self._running, self._earlier = self._seen_from_the_file(before), self._earlier[:-1]
        self._put_aside([failed.digest], decision.reason)
        self._try(now, proven=proven)
        self._changed = True
        undone = _changes(before.config, before.keys, failed.config, failed.keys)
        names = [each.key for each in undone]
        more = f" and {len(names) - UNDONE_SAID} more" if len(names) > UNDONE_SAID else ""
        self.problem = f"rolled back: {decision.reason}; undone: {', '.join(names[:UNDONE_SAID])}{more}"
        _log.error("config: %s", self.problem, extra=fields(Event.CONFIG_ROLLED_BACK))
        return _changes(failed.config, failed.keys, before.config, before.keys)

    def _seen_from_the_file(self, running: _Running) -> _Running:
        """With where its values stand: in the file, if that says the same, else in a generation."""
        try:
            loaded = load(self.path)
            if self._candidate(loaded).digest == running.digest:
                return replace(running, origin="file", places=origins(loaded))
        except ConfigError:
            pass  # then it is not what runs
        return replace(running, origin="last_known_good", places={})

    def take_changed(self) -> bool:
        """Whether a roll-back has put another configuration in force; says so once."""
        changed, self._changed = self._changed, False
        return changed


def _addressed(running: _Running) -> dict[str, Key]:
    return {each.name: Key(each.url, running.keys[each.name]) for each in running.config.providers}


def _changes(before: Config, old: Mapping[str, str], after: Config, new: Mapping[str, str]) -> tuple[Change, ...]:
    """What differs, and whose API key does."""
    renewed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
    told = [Change(f"provider.{name}: its key", "the old one", "the new one", Reload.LIVE) for name in renewed]
    return (*changes(to_dict(before), to_dict(after)), *told)
