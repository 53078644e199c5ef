"""What the trials of a study have found so far: counts, bests, fronts and the hypervolume, by hand."""

import pytest
from optuna.trial import TrialState, create_trial
from studies import study_of

from sweeps.front import best, by_condition, front, hypervolume, pareto, study_metrics
from sweeps.space import StudyConfig
from sweeps.stored import StoredTrial

F1, WORST, COST = "validation/personal/macro_f1", "validation/personal/recall_min", "ledger/gas_per_round"


def study_with(**objectives: str) -> StudyConfig:
    names = {"f1": F1, "worst": WORST, "cost": COST, "share": "ledger/overhead_share"}
    goals = {names[name]: direction for name, direction in objectives.items()}
    return study_of({"name": "seen", "conditions": {"cohort.hospitals": [2, 3]}}, objectives=goals)


def ended(number: int, *values: float, hospitals: int = 2, state: str = "COMPLETE", broken: float = 0.0) -> StoredTrial:
    return StoredTrial(
        number=number,
        condition=f"hospitals={hospitals}",
        keys={"number": number},
        configs=({},),
        state=state,
        values=values,
        frozen=create_trial(state=TrialState.FAIL),
        constraints={"overhead": broken},
    )


# --- Numbers of a study -----------------------------------------------------------------------------------------------


def test_counts_and_bests():
    study = study_with(f1="maximize", cost="minimize")
    trials = [
        ended(0, 0.5, 100.0),
        ended(1, 0.75, 200.0, hospitals=3),
        ended(2, 0.875, 50.0, broken=0.5),
        ended(3, state="PRUNED"),
        ended(4, state="FAIL"),
    ]
    found = study_metrics(study, trials)
    # 2 is better than all but breaks its constraint; the reference of the cost is twice the first trial's;
    # hospitals=2: 0.5 * (1 - 100/200), hospitals=3: 0.75 * (1 - 200/400)
    assert found.pop("sweep/hypervolume") == pytest.approx((0.25 + 0.375) / 2)
    assert found == {
        "sweep/n_complete": 3.0,
        "sweep/n_pruned": 1.0,
        "sweep/n_fail": 1.0,
        "sweep/best/hospitals 2/validation personal macro_f1": 0.5,
        "sweep/best/hospitals 2/ledger gas_per_round": 100.0,
        "sweep/best/hospitals 3/validation personal macro_f1": 0.75,
        "sweep/best/hospitals 3/ledger gas_per_round": 200.0,
    }
    assert study_metrics(study, [])["sweep/hypervolume"] == 0.0


def test_the_hypervolume_is_the_area_of_the_steps():
    study = study_with(f1="maximize", worst="maximize")
    # boxes of 0.5 x 0.75 and 0.75 x 0.25 overlap in 0.5 x 0.25; (0.25, 0.25) adds nothing
    trials = [ended(0, 0.5, 0.75), ended(1, 0.75, 0.25), ended(2, 0.25, 0.25)]
    assert hypervolume(study, trials) == pytest.approx(0.375 + 0.1875 - 0.125)
    assert hypervolume(study, trials[::-1]) == hypervolume(study, trials)
    assert hypervolume(study, [ended(0, 0.0, 1.0)]) == 0.0
    three = study_with(f1="maximize", worst="maximize", share="minimize")
    assert hypervolume(three, [ended(0, 0.5, 0.5, 0.5)]) == pytest.approx(0.125)


def test_the_front_is_each_conditions_own():
    study = study_with(f1="maximize", cost="minimize")
    trials = [
        ended(0, 0.5, 10.0),
        ended(1, 0.75, 20.0),
        ended(2, 0.5, 20.0),  # worse than both
        ended(3, 0.25, 99.0, hospitals=3),
        ended(4, 0.875, 1.0, broken=1.0),
        ended(5, 0.5, 10.0),  # as good as 0
    ]
    fronts = pareto(study, trials)
    assert {label: [point["trial"] for point in points] for label, points in fronts.items()} == {
        "hospitals=2": [0, 1, 5],
        "hospitals=3": [3],
    }
    assert fronts["hospitals=3"][0] == {"trial": 3, "keys": {"number": 3}, "values": {F1: 0.25, COST: 99.0}}
    single = pareto(study_with(f1="maximize"), [ended(0, 0.5), ended(1, 0.75)])
    assert [point["trial"] for point in single["hospitals=2"]] == [1]
    assert list(by_condition(study, [])) == ["hospitals=2", "hospitals=3"]
    assert [trial.number for trial in front(study, trials)] == [0, 1, 5]  # of all conditions together


def test_the_best_goes_by_the_first_objective_and_keeps_to_the_constraints():
    trials = [ended(0, 0.5), ended(2, 0.75), ended(1, 0.75), ended(3, 0.875, broken=1.0), ended(4, state="PRUNED")]
    found = best(study_with(f1="maximize"), trials)
    assert found is not None
    assert found.number == 1  # the earlier of two
    lowest = best(study_with(cost="minimize"), trials)
    assert lowest is not None
    assert lowest.number == 0
    assert best(study_with(f1="maximize"), trials[3:]) is None
