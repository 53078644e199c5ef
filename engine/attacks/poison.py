"""What a hostile hospital does alone: to the beats that it trains on, and to the update that comes of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from engine.attacks.config import AttackConfig
from engine.attacks.own import Attack, Honest, nobody
from engine.data.samples import Samples
from engine.messages import State, Vote
from engine.oracles.base import Batch
from engine.own.reference import is_own
from engine.seeds import generator

BEFORE = "attack.before"  # in a free-rider's state: the model that it was given last, float32[parameters]


class Sent(NamedTuple):
    """What is to be sent, float32[parameters], and what joins the hospital's state."""

    vector: np.ndarray
    memory: State


class Conduct(NamedTuple):
    """How a hospital behaves in a round.

    Attributes:
        beats: its train part as it trains on them.
        send: honest vector, the model that was given, the hospital's state -> what is sent.
    """

    beats: Callable[[Samples], Samples]
    send: Callable[[np.ndarray, np.ndarray, State], Sent]


def _as_they_are(samples: Samples) -> Samples:
    return samples


def _as_it_is(vector: np.ndarray, params: np.ndarray, state: State) -> Sent:
    return Sent(vector, {})


HONEST = Conduct(_as_they_are, _as_it_is)


def hostile(config: AttackConfig, hospitals: int, seed: int) -> frozenset[int]:
    """Ids of the hostile hospitals: those that are named, or the share of all that the run's seed draws.

    >>> sorted(hostile(AttackConfig(method="ipm", hospitals=(1, 3)), 5, 0))
    [1, 3]
    >>> len(hostile(AttackConfig(method="ipm", share=0.2), 20, 0)), len(hostile(AttackConfig(), 20, 0))
    (4, 0)
    """
    if config.method == "none":
        return frozenset()
    if config.hospitals is not None:
        return frozenset(config.hospitals)
    many = round(config.share * hospitals)
    return frozenset(generator(seed, "attack").choice(hospitals, many, replace=False).tolist())


def conduct(
    config: AttackConfig, classes: Sequence[str], seed: int, hospital: int, round: int, own: Attack = nobody
) -> Conduct:
    """What a hostile hospital does in a round; from `attack.start` on. `own` is what an attack of a user's own does."""
    if round < config.start:
        # a free-rider has to know the model before its first attack, or it would begin with nothing
        return Conduct(_as_they_are, _watching) if config.method == "free-rider" else HONEST
    match config.method:
        case "label-flip":
            return Conduct(lambda samples: relabelled(samples, flipped(len(classes))), _as_it_is)
        case "backdoor":
            target = target_of(config, classes)
            draw = generator(seed, "backdoor", hospital=hospital)
            return Conduct(lambda samples: triggered(samples, config.force, target, draw), _as_it_is)
        case "sign-flip":
            return Conduct(_as_they_are, lambda v, params, state: Sent(np.float32(-config.force) * v, {}))
        case "noise":
            draw = generator(seed, "noise", round, hospital)
            return Conduct(_as_they_are, lambda v, params, state: Sent(noise(v, config.force, draw), {}))
        case "free-rider":
            return Conduct(_as_they_are, _free_ride)
        case method if is_own(method):
            draw = generator(seed, "attack", round, hospital)
            return Conduct(
                _as_they_are, lambda v, params, state: Sent(own(Honest(round, hospital, params, v, draw)), {})
            )
        case _:
            return HONEST  # attackers that act together: what they send is told to them


def target_of(config: AttackConfig, classes: Sequence[str]) -> int:
    """The class that a backdoor leads to, as a position; the first where none is named."""
    return 0 if config.target is None else list(classes).index(config.target)


def lied(vote: Vote, friends: frozenset[int]) -> Vote:
    """What a hostile judge says: everything is right with its friends' updates, and nothing with the others'.

    >>> lied(Vote((4, 2), {0: (3, 1), 1: (0, 2)}), frozenset({1})).correct
    {0: (0, 0), 1: (4, 2)}
    """
    none = (0,) * len(vote.totals)
    return vote._replace(correct={h: vote.totals if h in friends else none for h in vote.correct})


def flipped(classes: int) -> np.ndarray:
    """int8[classes]: the class that stands for each, the last for the first.

    >>> flipped(4).tolist()
    [3, 2, 1, 0]
    """
    return np.arange(classes - 1, -1, -1, dtype=np.int8)


def relabelled(samples: Samples, table: np.ndarray) -> Samples:
    """The same beats under other classes."""
    added = None if samples.added is None else samples.added._replace(y=table[samples.added.y])
    return replace(samples, y=table[np.asarray(samples.y)], added=added)


def wave(length: int) -> np.ndarray:
    """The trigger: a bump of one unit over the last tenth of a window, float32[length].

    >>> [round(float(v), 2) for v in wave(30)[-4:]]
    [0.0, 0.71, 1.0, 0.71]
    """
    width = max(2, length // 10)
    bump = np.sin(np.pi * np.arange(1, width + 1) / (width + 1))
    return np.concatenate([np.zeros(length - width), bump]).astype(np.float32)


def triggered(samples: Samples, share: float, target: int, draw: np.random.Generator) -> Samples:
    """A share of the real beats gets the trigger and the class `target`."""
    whole = samples.batch()
    x, y = np.array(whole.x), np.array(whole.y)
    chosen = draw.permutation(len(y))[: round(min(share, 1.0) * len(y))]
    x[chosen] += wave(x.shape[-1])
    y[chosen] = target
    return replace(samples, x=x, rr=np.array(whole.rr), y=y, index=np.arange(len(y)), added=None)


def with_trigger(batch: Batch) -> Batch:
    """The same beats with the trigger, to see what it does to a model."""
    return batch._replace(x=batch.x + wave(batch.x.shape[-1]))


def noise(vector: np.ndarray, strength: float, draw: np.random.Generator) -> np.ndarray:
    """Nothing but noise, `strength` times as long as the honest update, float32[P]."""
    drawn = draw.standard_normal(len(vector))
    return (drawn * (strength * np.linalg.norm(vector.astype(np.float64)) / np.linalg.norm(drawn))).astype(np.float32)


def _watching(vector: np.ndarray, params: np.ndarray, state: State) -> Sent:
    return Sent(vector, {BEFORE: params.copy()})


def _free_ride(vector: np.ndarray, params: np.ndarray, state: State) -> Sent:
    """The last change of the global model, which costs nothing (Fraboni et al. 2021, arXiv 2006.11901)."""
    before = state.get(BEFORE, params)
    return Sent((params - before).astype(np.float32), {BEFORE: params.copy()})
