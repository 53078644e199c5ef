"""The loop alone, over a pool whose answers are known."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import f32

from engine.aggregation.mean import weighted_sum
from engine.errors import HospitalError, PulseLedgerError
from engine.messages import Update
from engine.messages import Trained
from engine.messages import LoopState, RoundRecord, survivors
from engine.rounds import Plan, run_rounds, select

PLAN = Plan(
    rounds=2,
    seed=0,
    trainers=(0, 1, 2),
    validators=(0, 1, 2),
    per_round=3,
    weighting="samples",
    min_hospitals=None,
    classes="NV",
    model_hash=lambda params: b"hash of " + str(params.tolist()).encode(),
    notice=lambda model, hospitals: model,
)


class Pool:
    """Hospital i answers with an update of i + 1 and i + 1 beats; some fail in some rounds."""

    width = 1

    def __init__(self, fails: Callable[[int, int, str], bool] = lambda hospital, round, stage: False) -> None:
        self.fails = fails
        self.asked: list[tuple[str, int, float, bytes, list[int]]] = []

    def _each(self, stage: str, round: int, params: np.ndarray, parent: bytes, ids: Sequence[int], answer: Any) -> list:
        self.asked.append((stage, round, float(params[0]), parent, list(ids)))
        return [HospitalError(h, round, stage, "boom") if self.fails(h, round, stage) else answer(h) for h in ids]

    def train(self, round: int, params: np.ndarray, parent: bytes, ids: Sequence[int]) -> Trained:
        def answer(h: int) -> Update:
            return Update(h, f32(h + 1), samples=h + 1, loss=float(h), gradient_evaluations=10, state={"r": f32(round)})

        answers = self._each("train", round, params, parent, ids, answer)
        updates = ((u.samples, u.vector) for u in answers if isinstance(u, Update))
        return Trained(answers, weighted_sum(updates, len(params)))

    def validate(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list:
        return self._each("validate", round, params, b"", ids, lambda h: np.array([[h + 1, 0], [0, 0]]))

    finish = restore = close = None


def start() -> LoopState:
    return LoopState(0, f32(100))


def test_two_rounds_by_hand():
    pool, heard, saved = Pool(), [], []

    class Listener:
        def round_finished(self, record: RoundRecord) -> None:
            assert len(saved) == record.round - 1  # observers hear of a round before it is saved
            heard.append(record)

    end = run_rounds(start(), PLAN, pool, [Listener()], saved.append)
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
    assert heard[0].model == heard[1].parent == pool.asked[2][3] == PLAN.model_hash(saved[0].params)
    assert [u.hospital for u in heard[0].updates] == [0, 1, 2]
    row = end.history[0]
    assert row["participants"] == 3
    assert row["train_loss"] == pytest.approx((0 * 1 + 1 * 2 + 2 * 3) / 6)
    assert row["gradient_evaluations"] == 30
    assert row["validation"]["support"] == {"N": 6, "V": 0}
    assert row["lost"] == []
    assert {h: state["r"].tolist() for h, state in end.states.items()} == {0: [2], 1: [2], 2: [2]}


def test_going_on_is_the_same_as_never_having_stopped():
    whole = run_rounds(start(), replace(PLAN, rounds=5, per_round=2), Pool())
    half = run_rounds(start(), replace(PLAN, rounds=2, per_round=2), Pool())
    pool = Pool()
    rest = run_rounds(half, replace(PLAN, rounds=5, per_round=2), pool)
    assert pool.asked[0][1] == 3
    np.testing.assert_array_equal(rest.params, whole.params)
    assert [row["round"] for row in rest.history] == [1, 2, 3, 4, 5]
    nothing = Pool()
    assert run_rounds(rest, replace(PLAN, rounds=5), nothing) == rest
    assert nothing.asked == []


# --- Participation ----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**40), round=st.integers(1, 500), hospitals=st.integers(1, 40), wanted=st.integers(1, 50))
def test_selection_depends_on_seed_and_round_alone(seed: int, round: int, hospitals: int, wanted: int):
    plan = replace(PLAN, seed=seed, trainers=tuple(range(3, 3 + hospitals)), per_round=wanted)
    chosen = select(plan, round)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(wanted, hospitals)
    assert set(chosen) <= set(plan.trainers)
    assert all(type(h) is int for h in chosen)
    assert select(replace(plan, rounds=9, weighting="none"), round) == chosen


def test_selection_gives_every_hospital_its_turn():
    plan = replace(PLAN, trainers=tuple(range(10)), per_round=2)
    rounds = [tuple(select(plan, round)) for round in range(1, 201)]
    counts = np.bincount(np.array(rounds).ravel(), minlength=10)
    assert counts.sum() == 400
    assert counts.min() > 20  # 40 expected, standard deviation 5.7
    assert len(set(rounds)) > 30  # of 45 pairs
    assert rounds != [tuple(select(replace(plan, seed=1), round)) for round in range(1, 201)]


def test_only_selected_hospitals_train_but_all_validate():
    pool = Pool()
    end = run_rounds(start(), replace(PLAN, per_round=1, rounds=6), pool)
    trained = [call[4] for call in pool.asked if call[0] == "train"]
    assert trained == [select(replace(PLAN, per_round=1), round) for round in range(1, 7)]
    assert len({h for ids in trained for h in ids}) > 1
    assert all(call[4] == [0, 1, 2] for call in pool.asked if call[0] == "validate")
    assert [row["participants"] for row in end.history] == [1] * 6


# --- Failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_ends_the_run_unless_fewer_are_allowed():
    pool = Pool(lambda hospital, round, stage: (hospital, round, stage) == (1, 2, "train"))
    saved: list[LoopState] = []
    with pytest.raises(HospitalError, match="hospital 1, round 2, train: boom") as caught:
        run_rounds(start(), PLAN, pool, save=saved.append)
    assert (caught.value.hospital, caught.value.round, caught.value.stage) == (1, 2, "train")
    assert [state.round for state in saved] == [1]


def test_with_min_hospitals_a_round_goes_on_and_says_so():
    pool = Pool(lambda hospital, round, stage: (hospital, round, stage) == (1, 2, "train"))
    end = run_rounds(start(), replace(PLAN, min_hospitals=2, rounds=3), pool)
    assert [row["participants"] for row in end.history] == [3, 2, 3]
    assert [row["lost"] for row in end.history] == [[], ["hospital 1, round 2, train: boom"], []]
    full, without = (1 + 4 + 9) / 6, (1 + 9) / 4
    assert end.params == pytest.approx([100 + full + without + full])
    assert end.history[1]["train_loss"] == pytest.approx((0 * 1 + 2 * 3) / 4)


def test_a_hospital_that_only_fails_to_validate_is_named_too():
    pool = Pool(lambda hospital, round, stage: (hospital, stage) == (0, "validate"))
    end = run_rounds(start(), replace(PLAN, min_hospitals=2, rounds=1), pool)
    row = end.history[0]
    assert row["lost"] == ["hospital 0, round 1, validate: boom"]
    assert row["participants"] == 3
    # the rows left carry the ids of their hospitals
    assert [(r["id"], r["support"]["N"]) for r in row["validation"]["per_hospital"]] == [(1, 2), (2, 3)]


def test_validation_rows_carry_the_ids_of_their_hospitals():
    end = run_rounds(start(), replace(PLAN, validators=(1, 2), rounds=1), Pool())
    rows = end.history[0]["validation"]["per_hospital"]
    assert [(row["id"], row["support"]["N"]) for row in rows] == [(1, 2), (2, 3)]


def test_too_few_hospitals_end_the_run_in_one_sentence():
    pool = Pool(lambda hospital, round, stage: hospital > 0)
    with pytest.raises(PulseLedgerError) as caught:
        run_rounds(start(), replace(PLAN, min_hospitals=2), pool)
    assert str(caught.value) == (
        "1 hospitals answered, federation.min_hospitals is 2; first failure: hospital 1, round 1, train: boom"
    )


def test_survivors_keep_their_order():
    lost = HospitalError(3, 1, "train", "x")
    assert survivors([1, 2], None) == ((1, 2), ())
    assert survivors([5, lost, 4], 1) == ((5, 4), (lost,))
