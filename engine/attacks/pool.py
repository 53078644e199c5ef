"""A pool some of whose hospitals act together: they are asked last, and told what to send."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.attacks import vectors
from engine.attacks.config import TOGETHER, AttackConfig
from engine.attacks.vectors import Vectors
from engine.errors import HospitalError
from engine.messages import (
    Asked,
    Commitment,
    Crafted,
    LoopState,
    Measured,
    Opinion,
    Outcome,
    Pool,
    Rule,
    State,
    Taken,
    Trained,
    Update,
    Vote,
)
from engine.result import SyntheticRow


def attacked(pool: Pool, config: AttackConfig, hostile: frozenset[int], rule: Rule) -> Pool:
    """The pool as it is, or where hostile hospitals act together, one in which they do."""
    return AttackedPool(pool, config, hostile, rule) if config.method in TOGETHER and hostile else pool


class AttackedPool:
    """Asks the honest hospitals first, crafts what the hostile ones send, then asks those.

    Updates of the honest hospitals must travel, whatever the rule. What attackers remember lies in the state of the first
    of them, so that a checkpoint holds it.
    """

    def __init__(self, pool: Pool, config: AttackConfig, hostile: frozenset[int], rule: Rule) -> None:
        self._pool = pool
        self._config = config
        self._hostile = hostile
        self._rule = rule
        self._memory: State = {}
        self.width = pool.width

    def train(self, asked: Asked, notice: Any) -> Trained:
        """One round; where no honest hospital answers, the hostile ones have nothing to go by and are honest."""
        ours = tuple(h for h in asked.hospitals if h in self._hostile)
        others = tuple(h for h in asked.hospitals if h not in self._hostile)
        if asked.round < self._config.start or not ours or not others:
            return self._pool.train(asked, notice)
        first = self._pool.train(replace(asked, hospitals=others), notice)
        honest = {a.hospital: a.vector for a in first.answers if isinstance(a, Update) and a.vector is not None}
        crafted = self._craft(asked, honest, ours) if honest else {}
        second = self._pool.train(replace(asked, hospitals=ours, crafted=crafted), notice)
        for one in second.answers:
            if isinstance(one, Update) and one.hospital in crafted:
                self._memory = {**self._memory, **crafted[one.hospital].memory}
        answers = dict(zip((*others, *ours), (*first.answers, *second.answers), strict=True))
        sums = [part.summed for part in (first, second) if part.summed is not None]
        summed = self._rule.join(sums, len(asked.params)) if sums else None
        return Trained([answers[h] for h in asked.hospitals], summed)

    def _craft(self, asked: Asked, honest: Vectors, ours: Sequence[int]) -> Mapping[int, Crafted]:
        """What each of the hostile hospitals sends: all the same."""
        memory: State = {}
        match self._config.method:
            case "ipm":
                vector = vectors.ipm(honest, self._config.force)
            case "alie":
                z = self._config.strength
                vector = vectors.alie(honest, vectors.alie_z(len(asked.hospitals), len(ours)) if z is None else z)
            case "mimic":
                vector, memory = vectors.mimic(honest, asked.round - self._config.start + 1, self._memory)
            case "copycat":
                vector = vectors.copycat(honest)
            case _:
                vector = vectors.adaptive(honest, lambda sent: self._merged(asked, honest, ours, sent))
        return {h: Crafted(vector, memory) for h in ours}

    def _merged(self, asked: Asked, honest: Vectors, ours: Sequence[int], sent: np.ndarray) -> np.ndarray:
        """The direction that the rule would take; attackers guess that all hospitals weigh the same."""
        updates = [Update(h, v, 1, 0.0, 0) for h, v in sorted({**honest, **dict.fromkeys(ours, sent)}.items())]
        summed = None if self._rule.partial is None else self._rule.partial(updates, len(sent))[0]
        found = self._rule.direction(LoopState(asked.round - 1, asked.params), Taken(tuple(updates), (), summed), {})
        return np.zeros(len(sent)) if found is None else found

    def restore(self, states: Mapping[int, State], measured: Sequence[Measured]) -> None:
        for hospital in sorted(self._hostile & states.keys()):
            known = (vectors.DIRECTION, vectors.COPIED)
            self._memory = {**self._memory, **{k: v for k, v in states[hospital].items() if k in known}}
        self._pool.restore(states, measured)

    def ask(self, terms: Any, ids: Sequence[int]) -> Sequence[Sequence[Any] | HospitalError]:
        return self._pool.ask(terms, ids)

    def make(
        self, terms: Any, granted: Mapping[int, Sequence[SyntheticRow]]
    ) -> Sequence[Sequence[Any] | HospitalError]:
        return self._pool.make(terms, granted)

    def keep(self, accepted: Mapping[int, Sequence[SyntheticRow]]) -> Sequence[HospitalError | None]:
        return self._pool.keep(accepted)

    def judge(self, asked: Asked, updates: Sequence[Update], ids: Sequence[int]) -> Sequence[Opinion | HospitalError]:
        return self._pool.judge(asked, updates, ids)

    def commit(
        self, asked: Asked, updates: Sequence[Update], notice: Any, ids: Sequence[int]
    ) -> Sequence[Commitment | HospitalError]:
        return self._pool.commit(asked, updates, notice, ids)

    def reveal(
        self,
        asked: Asked,
        updates: Sequence[Update],
        commitments: Mapping[int, Commitment],
        notice: Any,
        ids: Sequence[int],
    ) -> Sequence[Vote | HospitalError]:
        return self._pool.reveal(asked, updates, commitments, notice, ids)

    def validate(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list[np.ndarray | HospitalError]:
        return self._pool.validate(round, params, ids)

    def finish(self, round: int, params: np.ndarray, notice: Any, ids: Sequence[int]) -> list[Outcome | HospitalError]:
        return self._pool.finish(round, params, notice, ids)

    def close(self) -> None:
        self._pool.close()
