"""Hospitals in this process: one after another, or on a few threads."""

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from engine.aggregation.build import rule_of
from engine.aggregation.robust import unfit
from engine.data.cohort import HospitalData
from engine.errors import HospitalError
from engine.hospital import Hospital, Task, commons
from engine.ledger.signer import Memory, Notice, Terms
from engine.ledger.subjects.synthetic import SignedPreview, SignedReport, SignedRequest
from engine.messages import Asked, Commitment, Measured, Opinion, Outcome, State, Trained, Update, Vote
from engine.oracles.build import build_oracle
from engine.oracles.stacked import Lockstep
from engine.own.source import know
from engine.result import SyntheticRow
from engine.secure.protocol import Transcript


class InProcessPool:
    """All hospitals in this process: one after another, or on a few threads.

    Threads gain where the oracle lets go of Python's lock while it computes. Numbers do not depend on them: each
    hospital's work is a function of its arguments alone.
    """

    def __init__(self, hospitals: Sequence[HospitalData], task: Task, threads: int = 1) -> None:
        for source in task.sources:
            know(source)
        oracle = build_oracle(task.oracle, task.network)
        self._lockstep = oracle if isinstance(oracle, Lockstep) else None
        common = commons(task)
        self._hospitals = {data.id: Hospital(data, task, oracle, common()) for data in hospitals}
        self._rule = rule_of(task.config)
        self._keep_vectors = task.keep_vectors
        self._size = {data.id: len(data.train) for data in hospitals}
        self.width = max(1, threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="hospital") if threads > 1 else None

    def ask(self, terms: Terms, ids: Sequence[int]) -> list[tuple[SignedRequest, ...] | HospitalError]:
        return [self._one(h, "ask", terms) for h in ids]

    def make(
        self, terms: Terms, granted: Mapping[int, Sequence[SyntheticRow]]
    ) -> list[tuple[SignedReport | SignedPreview, ...] | HospitalError]:
        # not on the threads: what measures the beats sets the number of threads for the whole process
        return [self._one(h, "make", terms, rows) for h, rows in granted.items()]

    def keep(self, accepted: Mapping[int, Sequence[SyntheticRow]]) -> list[HospitalError | None]:
        return [self._one(h, "keep", rows) for h, rows in accepted.items()]

    def train(self, asked: Asked, notice: Notice | None) -> Trained:
        answers = self._each("train", asked.hospitals, asked, notice)
        updates = [a for a in answers if isinstance(a, Update)]
        if self._rule.partial is None:
            summed, refused = None, unfit(updates)
        else:
            summed, refused = self._rule.partial(updates, len(asked.params))
        for i, answer in enumerate(answers):
            if isinstance(answer, Update) and answer.hospital in refused:
                self.withdraw(answer.hospital, asked.round)
                answers[i] = HospitalError(answer.hospital, asked.round, "aggregate", refused[answer.hospital])
        if not self._keep_vectors:
            answers = [replace(a, vector=None) if isinstance(a, Update) else a for a in answers]
        return Trained(answers, summed)

    def withdraw(self, hospital: int, round: int) -> None:
        """The update of a round is not sent."""
        self._hospitals[hospital].withdraw(round)

    def judge(self, asked: Asked, updates: Sequence[Update], ids: Sequence[int]) -> list[Opinion | HospitalError]:
        return self._each("judge", ids, asked, updates)

    def commit(
        self, asked: Asked, updates: Sequence[Update], notice: Notice | None, ids: Sequence[int]
    ) -> list[Commitment | HospitalError]:
        return self._each("commit", ids, asked, updates, notice)

    def reveal(
        self,
        asked: Asked,
        updates: Sequence[Update],
        commitments: Mapping[int, Commitment],
        notice: Notice | None,
        ids: Sequence[int],
    ) -> list[Vote | HospitalError]:
        return self._each("reveal", ids, asked, updates, commitments, notice)

    def secure(self, step: str, groups: Sequence[Transcript], notice: Notice, ids: Sequence[int]) -> list[Any]:
        """As the protocol `MaskingPool` says."""
        return self._each("secure", ids, step, groups, notice)

    def validate(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list[np.ndarray | HospitalError]:
        return self._each("validate", ids, round, params)

    def finish(
        self, round: int, params: np.ndarray, notice: Notice | None, ids: Sequence[int]
    ) -> list[Outcome | HospitalError]:
        return self._each("finish", ids, round, params, notice)

    def restore(self, states: Mapping[int, State], measured: Sequence[Measured]) -> None:
        for hospital, state in states.items():
            self._hospitals[hospital].state = state
        for one in self._hospitals.values():
            one.recall(measured)

    def remember(self, memories: dict[int, Memory]) -> None:
        """Gives hospitals back what they knew of the ledger when their process was lost."""
        for hospital, memory in memories.items():
            self._hospitals[hospital].remember(memory)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()

    def _one(self, hospital: int, method: str, *args: Any) -> Any:
        try:
            return getattr(self._hospitals[hospital], method)(*args)
        except HospitalError as error:
            return error

    def _each(self, method: str, ids: Sequence[int], *args: Any) -> list[Any]:
        def one(hospital: int) -> Any:
            return self._one(hospital, method, *args)

        if self._lockstep is not None:
            return self._lockstep.run([functools.partial(one, hospital) for hospital in ids])
        if self._threads is None:
            return [one(hospital) for hospital in ids]
        # the largest first, so that no thread starts a long hospital when the others are done
        order = sorted(ids, key=lambda hospital: -self._size[hospital])
        answers = dict(zip(order, self._threads.map(one, order), strict=True))
        return [answers[hospital] for hospital in ids]
