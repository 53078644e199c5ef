"""The loop alone, over a pool whose answers are known."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from reference import f32

from engine.aggregation.build import build_rule
from engine.aggregation.config import AggregationConfig
from engine.errors import HospitalError, PulseLedgerError
from engine.ledger.base import NoLedger
from engine.messages import Asked, Judged, Judges, LoopState, RoundRecord, Trained, Update, Verdicts
from engine.messages import Pool as PoolProtocol
from engine.rounds import Parts, Validation, run_rounds
from engine.schedule.judges import nobody
from engine.schedule.sampled import Sampled


class Pool:
    """Hospital i answers with an update of i + 1 and i + 1 beats; some fail in some rounds."""

    width = 1

    def __init__(self, fails: Callable[[int, int, str], bool] = lambda hospital, round, stage: False) -> None:
        self.fails = fails
        self.asked: list[tuple[str, int, float, bytes, list[int]]] = []

    def _each(self, stage: str, round: int, params: np.ndarray, parent: bytes, ids: Sequence[int], answer: Any) -> list:
        self.asked.append((stage, round, float(params[0]), parent, list(ids)))
        return [HospitalError(h, round, stage, "boom") if self.fails(h, round, stage) else answer(h) for h in ids]

    def train(self, asked: Asked, notice: bytes) -> Trained:
        state = {"r": f32(asked.round)}

        def answer(h: int) -> Update:
            return Update(h, f32(h + 1), samples=h + 1, loss=float(h), gradient_evaluations=10, state=state)

        answers = self._each("train", asked.round, asked.params, notice, asked.hospitals, answer)
        summed, refused = RULE.partial([u for u in answers if isinstance(u, Update)], len(asked.params))
        assert not refused
        return Trained(answers, summed)

    def validate(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list:
        return self._each("validate", round, params, b"", ids, lambda h: np.array([[h + 1, 0], [0, 0]]))

    finish = restore = close = None


class Named(NoLedger):
    """Names models, and tells hospitals the name."""

    def name(self, params: np.ndarray) -> bytes:
        return b"hash of " + str(params.tolist()).encode()

    def notice(self, asked: Asked) -> bytes:
        return asked.model


RULE = build_rule(AggregationConfig(), "samples")


def parts(
    pool: PoolProtocol,
    rounds: int = 2,
    per_round: int = 3,
    min_hospitals: int | None = None,
    validators: tuple[int, ...] = (0, 1, 2),
    judges: Judges = nobody,
) -> Parts:
    """A loop over hospitals 0, 1 and 2."""
    schedule = Sampled(0, (0, 1, 2), per_round, min_hospitals)
    validation = Validation(validators, "NV", "NV", min_hospitals=min_hospitals)
    return Parts(rounds, pool, schedule, RULE, judges, Named(), validation)


def start() -> LoopState:
    return LoopState(0, f32(100))


def test_two_rounds_by_hand():
    pool, heard, saved = Pool(), [], []

    class Listener:
        def round_finished(self, record: RoundRecord) -> None:
            assert len(saved) == record.round - 1  # observers hear of a round before it is saved
            heard.append(record)

    end = run_rounds(start(), parts(pool), [Listener()], saved.append)
    step = (1 * 1 + 2 * 2 + 3 * 3) / 6
    assert end.params == pytest.approx([100 + 2 * step])
    assert [state.round for state in saved] == [1, 2]
    assert saved[-1] is end
    # each round trains from the model before it, and validates the one after it
    first, second, last = (float(x) for x in (100, saved[0].params[0], end.params[0]))
    assert [call[:3] for call in pool.asked] == [
        ("train", 1, first), ("validate", 1, second), ("train", 2, second), ("validate", 2, last)
    ]  # fmt: skip
    assert [record.round for record in heard] == [1, 2]
    assert heard[0].model == heard[1].parent == pool.asked[2][3] == Named().name(saved[0].params)
    assert [u.hospital for u in heard[0].updates] == [0, 1, 2]
    row = end.history[0]
    assert row.participants == 3
    assert row.train_loss == pytest.approx((0 * 1 + 1 * 2 + 2 * 3) / 6)
    assert row.gradient_evaluations == 30
    assert row.validation.support == {"N": 6, "V": 0}
    assert row.lost == ()
    assert {h: state["r"].tolist() for h, state in end.states.items()} == {0: [2], 1: [2], 2: [2]}


def test_going_on_is_the_same_as_never_having_stopped():
    whole = run_rounds(start(), parts(Pool(), rounds=5, per_round=2))
    half = run_rounds(start(), parts(Pool(), per_round=2))
    pool = Pool()
    rest = run_rounds(half, parts(pool, rounds=5, per_round=2))
    assert pool.asked[0][1] == 3
    np.testing.assert_array_equal(rest.params, whole.params)
    assert [row.round for row in rest.history] == [1, 2, 3, 4, 5]
    nothing = Pool()
    assert run_rounds(rest, parts(nothing, rounds=5)) == rest
    assert nothing.asked == []


# --- Failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_ends_the_run_unless_fewer_are_allowed():
    pool = Pool(lambda hospital, round, stage: (hospital, round, stage) == (1, 2, "train"))
    saved: list[LoopState] = []
    with pytest.raises(HospitalError, match="hospital 1, round 2, train: boom") as caught:
        run_rounds(start(), parts(pool), save=saved.append)
    assert (caught.value.hospital, caught.value.round, caught.value.stage) == (1, 2, "train")
    assert [state.round for state in saved] == [1]


def test_with_min_hospitals_a_round_goes_on_and_says_so():
    pool = Pool(lambda hospital, round, stage: (hospital, round, stage) == (1, 2, "train"))
    end = run_rounds(start(), parts(pool, min_hospitals=2, rounds=3))
    assert [row.participants for row in end.history] == [3, 2, 3]
    assert [row.lost for row in end.history] == [(), ("hospital 1, round 2, train: boom",), ()]
    full, without = (1 + 4 + 9) / 6, (1 + 9) / 4
    assert end.params == pytest.approx([100 + full + without + full])
    assert end.history[1].train_loss == pytest.approx((0 * 1 + 2 * 3) / 4)


def test_a_hospital_that_only_fails_to_validate_is_named_too():
    pool = Pool(lambda hospital, round, stage: (hospital, stage) == (0, "validate"))
    end = run_rounds(start(), parts(pool, min_hospitals=2, rounds=1))
    row = end.history[0]
    assert row.lost == ("hospital 0, round 1, validate: boom",)
    assert row.participants == 3
    # the rows left carry the ids of their hospitals
    assert [(r.id, r.support["N"]) for r in row.validation.per_hospital] == [(1, 2), (2, 3)]


def test_validation_rows_carry_the_ids_of_their_hospitals():
    end = run_rounds(start(), parts(Pool(), validators=(1, 2), rounds=1))
    rows = end.history[0].validation.per_hospital
    assert [(row.id, row.support["N"]) for row in rows] == [(1, 2), (2, 3)]


def test_too_few_hospitals_end_the_run_in_one_sentence():
    pool = Pool(lambda hospital, round, stage: hospital > 0)
    with pytest.raises(PulseLedgerError) as caught:
        run_rounds(start(), parts(pool, min_hospitals=2))
    assert str(caught.value) == (
        "1 hospitals answered, federation.min_hospitals is 2; first failure: hospital 1, round 1, train: boom"
    )


# --- Judges and rule --------------------------------------------------------------------------------------------------


def test_judges_see_the_updates_before_they_are_merged_and_the_rule_sees_the_verdicts():
    seen: list[Any] = []

    def judges(asked: Asked, taken: Any) -> Judged:
        seen.append(("judge", asked.round, [u.hospital for u in taken.updates]))
        return Judged({0: {1: (3, 4)}})

    def direction(state: LoopState, taken: Any, verdicts: Verdicts) -> np.ndarray:
        seen.append(("merge", state.round + 1, verdicts))
        return np.array([0.5])

    heard: list[RoundRecord] = []
    listener = type("Listener", (), {"round_finished": lambda self, record: heard.append(record)})()
    made = replace(parts(Pool(), rounds=1, judges=judges), rule=replace(RULE, direction=direction))
    end = run_rounds(start(), made, [listener])
    assert seen == [("judge", 1, [0, 1, 2]), ("merge", 1, {0: {1: (3, 4)}})]
    assert heard[0].judged.verdicts == {0: {1: (3, 4)}}
    assert end.params.tolist() == [100.5]


def test_without_judges_there_are_no_verdicts():
    asked = Asked(1, (0,), f32(0))
    assert nobody(asked, None) == Judged({})
