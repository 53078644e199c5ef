"""What Optuna's database holds of a study's trials, and what is told of several of them."""

from dataclasses import replace
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial
from studies import study_of

from engine.errors import DataError
from sweeps.stored import (
    Failure,
    Interval,
    Rung,
    begun,
    damaged,
    interval,
    pruned_at,
    rounds_saved,
    stored,
)

SEARCH: dict[str, Any] = {"search": {"federation.learning_rate": {"uniform": [0.01, 0.1]}}, "trials": 9}


# --- What is told of it -----------------------------------------------------------------------------------------------


def test_mean_and_interval_by_hand():
    """1, 2, 3: mean 2, sd 1, t(2, 97.5 %) = 4.302653, so 2 -+ 4.302653 / sqrt(3) = 2 -+ 2.484138."""
    told = interval([1.0, 2.0, 3.0])
    assert told == Interval(2.0, 1.0, pytest.approx(-0.484138, abs=1e-6), pytest.approx(4.484138, abs=1e-6), 3)
    assert interval([0.5]) == Interval(0.5, None, None, None, 1)


def test_rounds_that_pruning_saved_by_hand():
    settings = study_of({}, federation={"rounds": 10}, repeats=2, pruner={"method": "rungs"}, **SEARCH)
    noted = {"condition": "all", "keys": {}, "config": [{"federation": {"rounds": 10}}] * 2}
    complete = create_trial(state=TrialState.COMPLETE, value=1.0, user_attrs={**noted, "trial": 0})
    pruned = create_trial(state=TrialState.PRUNED, user_attrs={**noted, "trial": 1, "pruned": 3})
    assert rounds_saved(settings, begun([complete, pruned])) == 17 / 40
    assert pruned_at(3, settings) == "pruned at round 3"
    by_repeat = study_of({}, federation={"rounds": 10}, repeats=2, pruner={"method": "wilcoxon"}, **SEARCH)
    pruned.user_attrs["pruned"] = 1
    assert rounds_saved(by_repeat, begun([complete, pruned])) == 10 / 40
    assert pruned_at(1, by_repeat) == "pruned at repeat 1"


# --- What Optuna's database holds of a trial --------------------------------------------------------------------------


NOTED: dict[str, Any] = {
    "trial": 4,
    "condition": "hospitals=3",
    "keys": {"federation.learning_rate": 0.1},
    "config": [{"federation": {"algorithm": "perfedavg", "rounds": 9}}],
}


def test_a_trial_is_read_out_of_its_attributes():
    interval_ = {"mean": 0.5, "sd": 0.1, "low": 0.4, "high": 0.6, "n": 3}
    frozen = create_trial(
        state=TrialState.COMPLETE,
        values=[0.5, 2.0],
        user_attrs={
            **NOTED,
            "baseline": {"federation.learning_rate": 0.1},
            "rung/9": {"values": [0.25, 3.0], "kept": False, "memory": {"a": 1}},
            "rung/3": {"values": [0.125, 4.0], "kept": True, "memory": {}},
            "repeats": {"validation/personal/macro_f1": interval_},
        },
    )
    frozen.set_constraint("ledger/overhead_share", 0.0)
    trial = stored(frozen)
    assert trial is not None
    assert (trial.number, trial.condition, trial.state, trial.values) == (4, "hospitals=3", "COMPLETE", (0.5, 2.0))
    assert (trial.algorithm, trial.rounds, trial.baseline) == ("perfedavg", 9, {"federation.learning_rate": 0.1})
    assert list(trial.rungs.items()) == [
        (3, Rung((0.125, 4.0), True, {})),
        (9, Rung((0.25, 3.0), False, {"a": 1})),
    ]
    assert trial.spread == {"validation/personal/macro_f1": Interval(0.5, 0.1, 0.4, 0.6, 3)}
    assert trial.feasible
    assert not replace(trial, constraints={"ledger/overhead_share": 1e-9}).feasible
    assert not replace(trial, state="PRUNED").feasible


def test_a_failed_trial_says_where():
    where = {"hospital": 1, "round": 2, "stage": "train", "traceback": "Traceback"}
    trial = stored(create_trial(state=TrialState.FAIL, user_attrs={**NOTED, "reason": "boom", "error": where}))
    assert trial is not None
    assert (trial.reason, trial.failure) == ("boom", Failure(1, 2, "train", "Traceback"))
    assert (trial.values, trial.ended, trial.feasible) == ((), True, False)


def test_what_never_got_a_configuration_is_no_trial_and_damage_is_named():
    asked = {name: value for name, value in NOTED.items() if name != "config"}
    assert stored(create_trial(state=TrialState.FAIL, user_attrs=asked)) is None
    for name in NOTED:
        if name != "config":
            hurt = create_trial(state=TrialState.FAIL, user_attrs={**NOTED, name: [1]})
            assert damaged(hurt) == [name]
            with pytest.raises(DataError, match=f"{name} is damaged"):
                stored(hurt)
