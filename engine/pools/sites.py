"""Hospitals at sites of their own, which have joined over the network: `pulseledger hospital`. See docs/sites.md.

A site's word is checked here as far as it can be: that it is about this hospital, of the right shape, and in its bounds. Private states
never come here; each site keeps its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.aggregation.build import rule_of
from engine.aggregation.robust import unfit
from engine.data.cohort import HospitalData
from engine.errors import HospitalError, PulseLedgerError
from engine.hospital import Task
from engine.ledger.signer import Notice, Signing
from engine.messages import (
    NO_TIME,
    Asked,
    Commitment,
    Measured,
    Opinion,
    Outcome,
    State,
    Trained,
    Update,
    Vote,
)
from engine.privacy.membership import LEAST, fits
from engine.result import SyntheticRow
from engine.secure.part import Hidden
from engine.secure.protocol import Transcript
from engine.secure.round import WITHDRAW
from engine.sites import orders
from engine.sites.gate import Gate, Item
from engine.sites.orders import WIRE, Build, SigningTold, told

MODELS = {"global", "personal"}
SURE = 10_000  # parts of a confidence


class SitesPool:
    """The hospitals of one run behind a gate."""

    def __init__(self, gate: Gate, hospitals: Sequence[HospitalData], task: Task) -> None:
        self._gate, self._task = gate, task
        self._data = {data.id: data for data in hospitals}
        self._rule = rule_of(task.config)
        self._hides = task.config.aggregation.secure.groups > 0
        self._size = task.network.size
        self._classes = len(task.config.data.classes)
        self._deadline = task.config.execution.deadline
        self._counted: dict[int, set[int]] = {data.id: set() for data in hospitals}
        self._round = 0
        self._built = False
        self.width = len(hospitals)

    def ask(self, terms: Any, ids: Sequence[int]) -> list[Any]:
        """Never called: a run whose hospitals make beats does not go with sites."""
        raise PulseLedgerError("hospitals at sites ask for no synthetic beats.")

    def make(self, terms: Any, granted: Mapping[int, Sequence[SyntheticRow]]) -> list[Any]:
        """As `ask`."""
        raise PulseLedgerError("hospitals at sites make no synthetic beats.")

    def keep(self, accepted: Mapping[int, Sequence[SyntheticRow]]) -> list[HospitalError | None]:
        """As `ask`."""
        raise PulseLedgerError("hospitals at sites keep no synthetic beats.")

    def train(self, asked: Asked, notice: Notice | None) -> Trained:
        bodies = {h: orders.Train(_own(asked, h), told(notice, h)) for h in asked.hospitals}
        found = self._call("train", asked.round, bodies, self._fit_update)
        updates = [a for a in found.values() if isinstance(a, Update)]
        for update in updates:
            self._counted[update.hospital].add(asked.round)
        if self._rule.partial is None:
            summed, refused = None, unfit(updates)
        else:
            summed, refused = self._rule.partial(updates, self._size)
        if refused:
            self._call("withdraw", asked.round, {h: orders.Withdraw(asked.round) for h in refused})
        for h, why in refused.items():
            self._counted[h].discard(asked.round)
            found[h] = HospitalError(h, asked.round, "aggregate", why)
        answers = [found[h] for h in asked.hospitals]
        if not self._task.keep_vectors:
            answers = [replace(a, vector=None) if isinstance(a, Update) else a for a in answers]
        return Trained(answers, summed)

    def judge(self, asked: Asked, updates: Sequence[Update], ids: Sequence[int]) -> list[Opinion | HospitalError]:
        bodies = {h: orders.Judge(_own(asked, h), _bare(updates)) for h in ids}
        return list(self._call("judge", asked.round, bodies).values())

    def commit(
        self, asked: Asked, updates: Sequence[Update], notice: Notice | None, ids: Sequence[int]
    ) -> list[Commitment | HospitalError]:
        bodies = {h: orders.Commit(_own(asked, h), _bare(updates), told(notice, h)) for h in ids}
        return list(self._call("commit", asked.round, bodies).values())

    def reveal(
        self,
        asked: Asked,
        updates: Sequence[Update],
        commitments: Mapping[int, Commitment],
        notice: Notice | None,
        ids: Sequence[int],
    ) -> list[Vote | HospitalError]:
        bodies = {h: orders.Reveal(_own(asked, h), _bare(updates), commitments, told(notice, h)) for h in ids}
        return list(self._call("reveal", asked.round, bodies).values())

    def secure(self, step: str, groups: Sequence[Transcript], notice: Notice, ids: Sequence[int]) -> list[Any]:
        """As the protocol `MaskingPool` says."""
        round = notice.headers[-1].round + 1
        bodies = {}
        for h in ids:
            said = told(notice, h)
            assert said is not None
            bodies[h] = orders.Secure(round, step, _to(groups, h), said)
        if step == WITHDRAW:
            for h in ids:
                self._counted[h].discard(round)
        return list(self._call("secure", round, bodies, self._fit_hidden).values())

    def validate(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list[np.ndarray | HospitalError]:
        bodies = {h: orders.Validate(round, params) for h in ids}
        return list(self._call("validate", round, bodies, self._fit_table).values())

    def finish(
        self, round: int, params: np.ndarray, notice: Notice | None, ids: Sequence[int]
    ) -> list[Outcome | HospitalError]:
        bodies = {h: orders.Finish(round, params, told(notice, h)) for h in ids}
        found = self._call("finish", round, bodies, self._fit_outcome)
        return [a if isinstance(a, HospitalError) else replace(a, rows=self._data[h].test) for h, a in found.items()]

    def restore(self, states: Mapping[int, State], measured: Sequence[Measured]) -> None:
        """States are at the sites; they are told how far the run is, and which of their work counts."""
        self._round = max((one.round for one in measured), default=0)
        for hospital in self._counted:
            self._counted[hospital] = {one.round for one in measured if hospital in one.gradients}

    def close(self) -> None:
        """The gate is closed by whoever opened it."""

    def _call(
        self,
        method: str,
        round: int,
        bodies: Mapping[int, Any],
        fits: Callable[[int, Any], str] = lambda hospital, answer: "",
    ) -> dict[int, Any]:
        """One order to each of these hospitals; hospital -> its answer, or what is wrong with it."""
        if not self._built:
            self._build()
        items = {h: Item(method, round, WIRE.pack(body)) for h, body in bodies.items()}
        found = self._gate.ask(items, self._deadline)
        for h, answer in found.items():
            if not isinstance(answer, HospitalError) and (why := fits(h, answer)):
                found[h] = HospitalError(h, round, method, why)
        return {h: found[h] for h in bodies}

    def _build(self) -> None:
        """Has every site make its hospital; what cannot be made ends the run."""
        self._built = True
        self._gate.build = self._order
        first = {h: self._order(h, self._round + 1) for h in self._data}
        for answer in self._gate.ask(first, self._deadline).values():
            if isinstance(answer, HospitalError):
                raise answer

    def _order(self, hospital: int, first: int) -> Item:
        """How a site makes its hospital when the round `first` is the next that it has to do."""
        until = max(first - 1, self._round)
        counted = tuple(sorted(r for r in self._counted[hospital] if r <= until))
        body = Build(self._task.oracle, _signing(self._task.signing), until, counted)
        return Item("build", until, WIRE.pack(body))

    # --- What is wrong with an answer; "" where nothing is ------------------------------------------------------------

    def _fit_update(self, hospital: int, answer: Update) -> str:
        vector = answer.vector
        right = vector is None if self._hides else _is_array(vector, np.float32, (self._size,))
        if answer.hospital != hospital or answer.state or not right:
            return "its update is not of the form that the run's rule wants"
        if not 0 < answer.samples <= len(self._data[hospital].train):
            return f"its update is of {answer.samples} beats, and it has told of {len(self._data[hospital].train)}"
        if answer.gradient_evaluations < 0 or not 0 <= answer.sign_seconds < math.inf:
            return "its update tells of impossible work"
        return ""

    def _fit_hidden(self, hospital: int, answer: Any) -> str:
        right = not isinstance(answer, Hidden) or _is_array(answer.numbers, np.int64, (self._size + 1,))
        return "" if right else "its masked update is not of the form that the run's rule wants"

    def _fit_table(self, hospital: int, answer: np.ndarray) -> str:
        right = _is_array(answer, np.int64, (self._classes, self._classes)) and (answer >= 0).all()
        if not right or answer.sum() != len(self._data[hospital].validation):
            return "its confusion matrix is not one of the validation beats that it has told of"
        return ""

    def _fit_guesses(self, hospital: int, guessed: Mapping[str, Sequence[int]]) -> bool:
        """Whether membership inference was counted over the beats that it has told of, where there are enough."""
        members, others = (len(part) for part in (self._data[hospital].train, self._data[hospital].test))
        if not self._task.config.privacy.membership or min(members, others) < LEAST:
            return not guessed
        return guessed.keys() == MODELS and all(fits(counts, members, others) for counts in guessed.values())

    def _fit_outcome(self, hospital: int, answer: Outcome) -> str:
        tested, classes = len(self._data[hospital].test), self._classes
        labels = [answer.true, *answer.predicted.values()]
        right = (
            answer.hospital == hospital
            and answer.predicted.keys() == answer.confidence.keys() == answer.validation.keys() == MODELS
            and not answer.triggered
            and self._fit_guesses(hospital, answer.guessed)
            and all(_is_array(one, np.int8, (tested,)) and ((one >= 0) & (one < classes)).all() for one in labels)
            and all(
                _is_array(one, np.int32, (tested,)) and ((one >= 0) & (one <= SURE)).all()
                for one in answer.confidence.values()
            )
            and not any(self._fit_table(hospital, table) for table in answer.validation.values())
        )
        return "" if right else "its predictions are not of the test beats that it has told of"


def _is_array(value: Any, kind: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == kind and value.shape == shape


def _own(asked: Asked, hospital: int) -> Asked:
    """What of a round is for one hospital."""
    starts = {h: start for h, start in asked.starts.items() if h == hospital}
    return replace(asked, hospitals=(hospital,), crafted={}, starts=starts, pace=NO_TIME)


def _bare(updates: Sequence[Update]) -> tuple[Update, ...]:
    """What judges need of updates."""
    return tuple(replace(update, state={}, signed=None) for update in updates)


def _to(groups: Sequence[Transcript], hospital: int) -> tuple[Transcript, ...]:
    """The group of one hospital."""
    return tuple(one for one in groups if hospital in one.members)


def _signing(signing: Signing | None) -> SigningTold | None:
    if signing is None:
        return None
    return SigningTold(*(getattr(signing, name) for name in SigningTold._fields))
