"""What is tuned: a distribution for each key of `search`, and under which values of others the key is there at all.

Optuna only sees the keys that a trial uses: a key with `when` is drawn after those that it depends on, and only where
they have the values that it names.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter, ValidationError

from engine.errors import ConfigError
from engine.reads import is_key, is_parameter, run_keys, value_at
from engine.seeds import generator
from engine.settings import bare
from sweeps.owners import unknown
from sweeps.space import Condition, StudyConfig, conditions

KINDS = ("uniform", "log_uniform", "int", "log_int", "choice")
_FORM = "allowed: uniform, log_uniform, int, log_int or choice, one of them, and when"


@dataclass(frozen=True)
class Tuned:
    """One tuned key.

    Attributes:
        when: other keys -> the values of which a trial must have one; without, the key is always there.
    """

    key: str
    distribution: BaseDistribution
    when: Mapping[str, tuple[Any, ...]]


def tuned(study: StudyConfig, source: str = "search") -> tuple[Tuned, ...]:
    """All tuned keys in the order of the file, but for those that others depend on, which come before them.

    Raises:
        ConfigError: a key is unknown, a range is none, or keys wait for each other.
    """
    found = {key: _tuned(key, spec, source) for key, spec in study.search.items()}
    order: list[Tuned] = []
    left = dict(found)
    while left:
        free = [key for key, each in left.items() if not set(each.when) & left.keys()]
        if not free:
            raise ConfigError(f"{source}: search: {' and '.join(left)} wait for each other with `when`.")
        order.append(left.pop(free[0]))
    return tuple(order)


def search_space(study: StudyConfig) -> dict[str, BaseDistribution]:
    """Dotted key -> Optuna distribution, of all tuned keys."""
    return {each.key: each.distribution for each in tuned(study)}


def _tuned(key: str, spec: Mapping[str, Any], source: str) -> Tuned:
    try:
        if not is_key(key):
            raise ValueError(unknown(key))
        kinds = [name for name in spec if name != "when"]
        if len(kinds) != 1 or kinds[0] not in KINDS:
            raise ValueError(_FORM)
        return Tuned(key, _distribution(key, kinds[0], spec[kinds[0]]), _when(key, spec.get("when", {})))
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{name}: {value}" for name, value in spec.items())
        text = str(error).removesuffix(".")
        raise ConfigError(
            f"{source}: search.{text}." if text.startswith(key) else f"{source}: search.{key} is {{{shown}}}: {text}."
        ) from None


def _distribution(key: str, kind: str, value: Any) -> BaseDistribution:
    takes = _takes(key)
    if kind == "choice":
        if not isinstance(value, list | tuple) or not value:
            raise ValueError("choice wants a list of values")
        if twice := next((v for i, v in enumerate(value) if v in value[:i]), None):
            raise ValueError(f"{twice!r} stands twice")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a list is one choice, too: JSON keeps it
            return CategoricalDistribution(value)
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{kind} wants a list of two numbers, [low, high]")
    if takes == "words":
        raise ValueError("it is no number, which has a range; give a choice")
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in value):
        raise ValueError(f"{kind} wants two numbers")
    low, high = value
    if not all(map(math.isfinite, value)):
        raise ValueError(f"{kind} wants two finite numbers")
    if low >= high:
        raise ValueError(
            f"{low} is above {high}; the lower end comes first"
            if low > high
            else "both ends are the same; nothing is tuned"
        )
    if "log" in kind and low <= 0:
        raise ValueError("the lower end of a logarithmic range must be above 0")
    if kind in ("int", "log_int"):
        if low != int(low) or high != int(high):
            raise ValueError(f"the ends of {kind} must be whole numbers")
        return IntDistribution(int(low), int(high), log=kind == "log_int")
    if takes == "whole":
        raise ValueError(f"{key.rsplit('.', 1)[-1]} is a whole number; use {'log_int' if 'log' in kind else 'int'}")
    return FloatDistribution(float(low), float(high), log=kind == "log_uniform")


def _takes(key: str) -> Literal["whole", "numbers", "words"]:
    """What kind of number a key is, if it is one."""
    if is_parameter(key):
        return "numbers"  # what it may be, its part alone knows
    kind = bare(run_keys()[key].annotation)
    kinds = {bare(k) for k in get_args(kind)} if get_origin(kind) is not tuple and get_args(kind) else {kind}
    if float in kinds:
        return "numbers"
    return "whole" if int in kinds else "words"


def _when(key: str, value: Any) -> Mapping[str, tuple[Any, ...]]:
    if not isinstance(value, Mapping):
        raise ValueError("when wants a mapping of another key to its value or values")
    for other in value:
        if not is_key(other):
            raise ValueError(f"when: {unknown(str(other))}")
        if other == key:
            raise ValueError("when names the key itself")
    return {
        other: tuple(_possible(other, each) for each in (v if isinstance(v, list | tuple) else (v,)))
        for other, v in value.items()
    }


def _possible(key: str, value: Any) -> Any:
    """A value as its key has it; a slip of the pen would leave out what was meant to be tuned."""
    try:
        found = TypeAdapter(run_keys()[key].annotation).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"when: {key} is {value!r}: {error.errors()[0]['msg'].lower()}") from None
    return value if isinstance(value, list | dict) else found


# --- Drawing ----------------------------------------------------------------------------------------------------------


def drawn(study: StudyConfig, condition: Condition, pick: Callable[[str, BaseDistribution], Any]) -> dict[str, Any]:
    """What `pick` chooses for the tuned keys that are there in a trial of a condition."""
    keys: dict[str, Any] = {}
    for each in tuned(study):
        if is_there(study, condition, keys, each):
            keys[each.key] = pick(each.key, each.distribution)
    return keys


def branches(
    study: StudyConfig, condition: Condition, values: Callable[[Tuned], Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """All combinations of `values` of the tuned keys, the last key running fastest; a key that is not there has none."""

    def grow(keys: dict[str, Any], rest: Sequence[Tuned]) -> Iterator[dict[str, Any]]:
        if not rest:
            yield keys
        elif not is_there(study, condition, keys, rest[0]):
            yield from grow(keys, rest[1:])
        else:
            for value in values(rest[0]):
                yield from grow({**keys, rest[0].key: value}, rest[1:])

    return grow({}, tuned(study))


def is_there(study: StudyConfig, condition: Condition, keys: Mapping[str, Any], each: Tuned) -> bool:
    """Whether a key is tuned in a trial of a condition in which `keys` have been drawn so far."""

    def now(key: str) -> Any:
        if key in keys:
            return keys[key]
        return condition.keys[key] if key in condition.keys else value_at(study, key)

    return all(now(key) in values for key, values in each.when.items())


def grid(study: StudyConfig, condition: Condition) -> list[dict[str, Any]]:
    """All points of the grid in a condition, in the order of the file; none for other samplers.

    Each is enqueued in its turn: Optuna's own GridSampler stops the study from inside `tell`, which ask-and-tell does not allow.
    """
    if study.sampler != "grid":
        return []
    return list(branches(study, condition, lambda each: getattr(each.distribution, "choices", ())))


def suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    """Draws one value through Optuna's public interface."""
    match distribution:
        case FloatDistribution():
            return trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
        case IntDistribution():
            return trial.suggest_int(key, distribution.low, distribution.high, log=distribution.log)
        case CategoricalDistribution():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return trial.suggest_categorical(key, distribution.choices)
        case _:
            raise TypeError(f"{key}: {distribution} is no distribution that `tuned` makes")


def build_sampler(study: StudyConfig, asked: int, condition: int) -> optuna.samplers.BaseSampler:
    """A sampler for the next trial.

    It is made anew for each trial with a seed that counts the trials so far: one that is seeded only once draws the
    same points again after a resume.
    """
    seed = int(generator(study.seed, "sampler", asked, condition).integers(2**31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match study.sampler:
            case "random" | "grid":  # the points of a grid wait in the queue
                return optuna.samplers.RandomSampler(seed=seed)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed)
            case "nsga3":
                return optuna.samplers.NSGAIIISampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "qmc":  # keeps its place in the sequence in the study
                return optuna.samplers.QMCSampler(seed=study.seed, scramble=True, warn_independent_sampling=False)
            case _:
                return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution can give a value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(distribution, FloatDistribution) or value == int(value) if number else False
    return number and whole and distribution.low <= value <= distribution.high


def ends(each: Tuned) -> list[Any]:
    """The first and the last value of a range, or all choices."""
    d = each.distribution
    return list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low, d.high]  # type: ignore[attr-defined]


def corners(study: StudyConfig, condition: Condition, most: int = 128) -> list[dict[str, Any]]:
    """The ends of all ranges and all choices, in all combinations that are not too many, and each of them at least once."""
    found = list(itertools.islice(branches(study, condition, ends), most + 1))
    if len(found) <= most:
        return found
    longest = max(len(ends(each)) for each in tuned(study))
    ranks: list[dict[str, int]] = [dict.fromkeys(study.search, i) for i in range(longest)]
    ranks += [{each.key: i} for each in tuned(study) for i in range(len(ends(each)))]
    all_ends = {each.key: ends(each) for each in tuned(study)}

    def at(rank: Mapping[str, int]) -> dict[str, Any]:
        return drawn(study, condition, lambda key, _: all_ends[key][min(rank.get(key, 0), len(all_ends[key]) - 1)])

    return [*found[:most], *map(at, ranks)]


def kinds_of_trials(study: StudyConfig, condition: Condition) -> list[tuple[str, dict[str, Any]]]:
    """What trials of a condition set, at the ends of what is tuned: "baseline", "tuned", or "base" where nothing varies."""
    found: list[tuple[str, dict[str, Any]]] = [("baseline", row) for row in study.baselines]
    if study.search:
        found += [("tuned", keys) for keys in (*corners(study, condition), *study.design)]
    return found or [("base", {})]


def different_trials(study: StudyConfig, most: int) -> int:
    """How many trials of a study differ from each other, no more than `most`, which is what an endless range gives."""
    places = conditions(study)
    if not study.search:
        return min(most, len(places) * (len(study.baselines) or 1))
    if any(isinstance(each.distribution, FloatDistribution) for each in tuned(study)):
        return most

    def values(each: Tuned) -> Sequence[Any]:
        d = each.distribution
        return range(d.low, d.high + 1) if isinstance(d, IntDistribution) else getattr(d, "choices", ())

    more = len(study.baselines) + (len(study.design) if study.sampler == "grid" else 0)  # a grid has its points besides
    drawn = (sum(1 for _ in itertools.islice(branches(study, place, values), most)) for place in places)
    return min(most, sum(more + n for n in drawn))


def extension_problem(study: StudyConfig, wanted: int, begun: int) -> str:
    """Why a study cannot have another number of trials; empty where it can."""
    if study.sampler == "grid":
        return f"the study is a grid of {total_trials(study)} trials, which has no more points"
    if not study.search:
        return "nothing is tuned in this study, so every further trial would be the same"
    if wanted < max(begun, 1):
        return f"{begun} trials have begun already"
    if (most := different_trials(study, wanted)) < wanted:
        return f"all trials that differ are {most}"
    return ""


def total_trials(study: StudyConfig) -> int:
    """How many trials the study wants over all conditions."""
    if study.trials is not None:
        return study.trials
    places = conditions(study)
    # without a search there is nothing to draw: one trial of the base, unless baselines are all that is wanted
    if not study.search:
        return len(places) * (len(study.baselines) or 1)
    return sum(len(study.baselines) + len(study.design) + len(grid(study, place)) for place in places)
