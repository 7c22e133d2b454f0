"""What runs at a start: the file, or the last known good configuration, and why. Reads and decides, writes nothing."""

__all__ = ["Candidate", "Choice", "choose_at_start"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from captchad.config.generations import MOST_STARTS, Generation, Generations, Trial
from captchad.config.schema import Config, with_places_of
from captchad.model.errors import ConfigError, ConfigProblem


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid configuration from `file`, its providers' keys, and `digest_of` both."""

    config: Config
    digest: str
    file: str = "configuration"
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs, and why."""

    config: Config
    fall_back: Generation | None  # None: it is the file
    generation: int  # 0: not saved yet
    problem: str | None  # why the file does not run, on one line
    proven: bool = True  # false: it has to go through probation
    failed: str | None = None  # why the file is to be rejected from now on


def choose_at_start(
    found: Candidate | ConfigError,
    generations: Generations,
    *,
    now: float = 0.0,
    unusable: Callable[[Config], str | None] = lambda config: None,
    runnable: Callable[[Generation], bool] = lambda generation: True,
) -> Choice:
    """The file if it is valid, not rejected and can be started with, else the last good one.

    `now` is the wall clock in UTC seconds; `unusable` says why the directories of a configuration cannot be used,
    `runnable` whether the keys of a generation are there. Raises ConfigError when nothing good is known.
    """
    good = next((each for each in generations.fall_backs() if runnable(each)), None)
    if isinstance(found, ConfigError):
        if good is None:
            raise found
        return _fall_back(good, generations, unusable, _one_line(found))
    if good is not None and good.digest != found.digest and (why := _places_fail(found.config, good.config, unusable)):
        return _fall_back(good, generations, unusable, f"{found.file}: {why}")
    failed = None
    reason = generations.rejected(found.digest)
    if reason is None and good is not None and good.digest != found.digest:
        reason = failed = _failed(generations.trial(), found.digest, now)
    if reason is None:
        known = generations.find(found.digest)
        return Choice(found.config, None, known.number if known else 0, None, proven=bool(known and known.good))
    problem = f"what the file says was rejected: {reason}"
    if good is None:
        hint = "change it: there is no other to fall back to"
        raise ConfigError([ConfigProblem(found.file, 0, "config", problem, hint)])
    return _fall_back(good, generations, unusable, problem, failed)


def _fall_back(
    good: Generation,
    generations: Generations,
    unusable: Callable[[Config], str | None],
    problem: str,
    failed: str | None = None,
) -> Choice:
    """The good one, in the directories of what ran last: tasks are there, and nobody else would work on them."""
    last, config = generations.newest(), good.config
    if last is not None and unusable(last.config) is None:
        config = with_places_of(config, last.config)
    return Choice(config, good, good.number, problem, proven=good.good, failed=failed)


def _places_fail(config: Config, good: Config, unusable: Callable[[Config], str | None]) -> str | None:
    """Why this one's directories cannot be used where the good one's can: else it is not the configuration's fault."""
    if with_places_of(good, config) == good:
        return None
    why = unusable(config)
    return why if why is not None and unusable(good) is None else None


def _failed(trial: Trial | None, digest: str, now: float) -> str | None:
    """Why what was being tried has failed while nobody ran."""
    if trial is None or trial.digest != digest:
        return None
    if trial.confirm_by is not None and now >= trial.confirm_by:
        return not_confirmed(trial.confirm_within_s)
    if trial.starts >= MOST_STARTS:
        return f"captchad did not become ready with it in {trial.starts} starts"
    return None


def not_confirmed(within_s: float) -> str:
    """The reason of the roll-back of what no operator has confirmed."""
    return f"nobody confirmed it within {within_s:g} s"


def _one_line(error: ConfigError) -> str:
    more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
    return f"{error.problems[0]}{more}"
