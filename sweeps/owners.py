"""Who owns a key of a trial: the base, one axis of the conditions, the search, or the study itself.

Sections are written as a file has them, or dotted; here they all become dotted keys, so that a mapping merges into its
section and a key that is set from two places is seen.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from engine.config import RunConfig
from engine.reads import is_key, run_keys
from engine.settings import dotted_keys, near_key

# keys of a run that a trial never reads, or that the study sets over -> who has a say in them
STUDYS_OWN = {
    "seed": "it is not varied here: repeats runs each trial with seed, seed + 1, ...",
    "name": "trials are named by the study",
    "out": "a trial's folder is in the study's",
    "tracking": "one store has all trials of a study",
    "execution.address": "one Ray runs all trials of a study",
    "execution.pool": "where hospitals live goes by the CPUs that a trial gets",
    "execution.cpus": "the study divides its CPUs among the trials; concurrency says how many run at a time",
    "execution.placement": "it is one for all trials of a study",
    "execution.sites": "they are the same for all trials of a study",
    "execution.deadline": "it is one for all trials of a study",
}


class Leaves(NamedTuple):
    """A mapping as dotted keys, and what is wrong with it, in sentences without their full stop."""

    keys: dict[str, Any]
    problems: tuple[str, ...] = ()


def leaves(values: Mapping[Any, Any], prefix: str = "") -> Leaves:
    """Sections, dotted keys, or both, as dotted keys.

    >>> leaves({"cohort": {"hospitals": 3}, "cohort.alpha": 0.1}).keys
    {'cohort.hospitals': 3, 'cohort.alpha': 0.1}
    """
    keys: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in _sections():
            if isinstance(value, Mapping):
                inner = leaves(value, f"{key}.")
                problems += inner.problems
                found = inner.keys
            else:
                problems.append(f"{key} is {value!r:.80}, but it is a section: give a mapping of its keys")
                continue
        else:
            if not is_key(key):
                problems.append(unknown(key))
            found = {key: value}
        problems += [f"{twice} is given twice, by itself and within its section" for twice in found if twice in keys]
        keys |= found
    return Leaves(keys, tuple(problems))


def unknown(key: str) -> str:
    """What is said of a key that no run has."""
    if key in _sections():
        return f"{key} is a section; name its keys dotted, such as {next(k for k in run_keys() if k.startswith(f'{key}.'))}"
    near = near_key(key, run_keys())
    hint = f" (did you mean {near}?)" if near else ""
    return f"{key} is not a key of a run's configuration{hint}; `pulseledger keys` lists all"


def points(axis: str, value: Any) -> Leaves:
    """One value of an axis of the conditions as dotted keys: a mapping stands for several of them."""
    if not isinstance(value, Mapping) or (is_key(axis) and not (value and all(map(_known, value)))):
        if axis in _sections():
            return Leaves({}, (f"{axis} is a section: its values are mappings of keys, not {value!r:.80}",))
        if not is_key(axis):
            return Leaves(
                {axis: value}, (f"{unknown(axis)}; the values of an axis with a name of yours are mappings of keys",)
            )
        return Leaves({axis: value})
    if axis in _sections() and not all(_known(name) for name in value):
        return leaves({axis: value})
    return leaves(value)


def not_varied(key: str) -> str:
    """Why a key cannot differ between the trials of a study; empty where it can."""
    for part, reason in STUDYS_OWN.items() if is_key(key) else ():
        if key == part or key.startswith(f"{part}."):
            return f"{key} belongs to the study and cannot differ between its trials ({reason})"
    return ""


def _known(name: Any) -> bool:
    return is_key(name) or name in _sections()


@functools.cache
def _sections() -> frozenset[str]:
    def of(key: str) -> Iterator[str]:
        parts = key.split(".")
        return (".".join(parts[:n]) for n in range(1, len(parts)))

    return frozenset(section for key in dotted_keys(RunConfig) for section in of(key))
