"""A study as rows: per condition and best first, as frames, and as documents."""

import json
from pathlib import Path

import numpy as np
import pytest
from studies import trials_of

from engine.config import RunConfig
from engine.data.config import CLASSES
from engine.errors import PulseLedgerError
from engine.result import Result
from sweeps import Study
from sweeps.folder import repeat_folder, trial_folder
from sweeps.methods import method_of
from sweeps.rows import Row, Spread, all_of_class, outcome_of, rows_of
from sweeps.scores import CLOCKED, objectives
from sweeps.stored import Failure


def test_the_baseline_of_calling_everything_n():
    # 6 of 10 are N: F1 of N is 12 / 16, of V 0, and F is not there
    assert all_of_class("N", {"N": 6, "V": 4, "F": 0}) == (0.6, pytest.approx(0.375))
    assert all_of_class("N", {"S": 1, "V": 1}) == (None, None)
    assert all_of_class("N", {"N": 6, "V": 4}, ("N",)) == (0.6, pytest.approx(0.75))  # V has test beats only
    assert all_of_class("N", {"N": 6, "V": 4}, ("V",)) == (0.6, 0.0)


def test_every_objective_is_a_number_of_every_result(ended: Path):
    result = Result.read(repeat_folder(trial_folder(ended, 0), 0))
    for name in objectives(CLASSES):
        value = result.score(name)
        assert value is None or isinstance(value, int | float), name
    absent = [name for name in objectives(CLASSES) if result.score(name) is None]
    lacking = {c for c in CLASSES if result.validation.global_.support[c] * result.final.global_.support[c] == 0}
    assert result.clock is None  # nobody keeps virtual time in these runs
    assert {name for name in absent if name.rpartition("/")[2] not in lacking} == {*CLOCKED} & {*objectives(CLASSES)}
    with pytest.raises(KeyError):
        result.score("validation/personal/f2")


def test_the_table_is_sorted_best_first_in_each_condition(ended: Path):
    rows = rows_of(ended)
    assert [row.condition for row in rows] == ["hospitals=2"] * 2 + ["hospitals=3"] * 2
    for label in ("hospitals=2", "hospitals=3"):
        scores = [r.objectives["validation/personal/macro_f1"] for r in rows if r.condition == label]
        assert scores == sorted(scores, reverse=True)
    for outcome in (row.outcome for row in rows):
        assert outcome is not None
        accuracy, macro_f1 = (outcome.mean(f"cohort/local_majority_{name}") for name in ("accuracy", "macro_f1"))
        assert accuracy is not None
        assert macro_f1 is not None
        assert 0 < accuracy <= 1
        assert 0 < macro_f1 < 1
        assert (outcome.mean("ledger/gas_per_round") or 0) > 30_000
        assert outcome.repeats == 1


def test_results_rounds_and_hospitals_are_frames(seen: Study):
    results, rounds, hospitals = seen.results(), seen.rounds(), seen.hospitals()
    assert list(results["trial"].sort_values()) == [0, 1, 2, 3]
    assert set(results["repeats"]) == {2}
    assert results["federation.learning_rate"].notna().sum() == 2
    assert len(rounds) == 4 * 2 * 2  # trials, repeats, rounds
    assert len(hospitals) == 2 * 2 * 2 + 2 * 2 * 3  # trials, repeats, hospitals
    for row in results.to_dict("records"):
        scores = [Result.read(repeat_folder(trial_folder(seen.folder, row["trial"]), r)) for r in (0, 1)]
        values = [result.final.personal.accuracy for result in scores]
        assert row["final/personal/accuracy"] == pytest.approx(np.mean(values))
        assert row["final/personal/accuracy/sd"] == pytest.approx(np.std(values, ddof=1))
        own = rounds[(rounds["trial"] == row["trial"]) & (rounds["repeat"] == 1)]
        assert list(own["round"]) == [1, 2]
        trained = scores[1].config.federation.algorithm != "local"
        wanted = [r.validation.macro_f1 if trained else np.nan for r in scores[1].rounds]
        np.testing.assert_array_equal(own["macro_f1"].astype(float), wanted)
        places = hospitals[(hospitals["trial"] == row["trial"]) & (hospitals["repeat"] == 0)]
        per_hospital = scores[0].final.global_.per_hospital
        assert list(places["global_macro_f1"].dropna()) == [each.macro_f1 for each in per_hospital if trained]


def test_compare_says_how_each_trial_ended(marked: Path):
    rows = {row.trial: row for row in rows_of(marked)}
    order = [row.trial for row in rows_of(marked) if row.condition == "hospitals=2"]
    assert order[-3:] == [12, 10, 11]  # complete but in breach, then those without a result
    assert (rows[10].state, rows[10].round, rows[10].rounds) == ("PRUNED", 2, 2)
    assert (rows[11].state, rows[11].round) == ("FAIL", 2)
    assert rows[11].failure == Failure(1, 2, "train", "Traceback ...")
    assert rows[11].error == rows[11].reason == "HospitalError: hospital 1, round 2, train: ValueError: boom"
    assert rows[12].violated == ["ledger/overhead_share"]
    assert rows[0].baseline
    assert rows[0].violated == []
    assert Study(marked).best()["trial"] != 12
    assert rows[10].outcome is None


def test_curves_of_a_pruned_trial_come_from_its_checkpoint(marked: Path):
    rounds = Study(marked).rounds()
    assert list(rounds[rounds["trial"] == 10]["round"]) == [1, 2, 1, 2]
    hospitals = Study(marked).hospitals()
    assert not len(hospitals[hospitals["trial"] == 10])


def test_repeats_are_taken_together_by_hand(seen: Study):
    """Mean and standard deviation of two, and what one of them does not have."""
    results = [Result.read(repeat_folder(trial_folder(seen.folder, 0), repeat)) for repeat in (0, 1)]
    both = outcome_of(results)
    first, second = (result.final.personal.accuracy or 0.0 for result in results)
    accuracy = both.scores["final/personal/accuracy"]
    assert accuracy.mean == pytest.approx((first + second) / 2)
    assert accuracy.sd == pytest.approx(abs(first - second) / 2**0.5)
    assert accuracy.interval is not None
    half = 12.706205 * abs(first - second) / 2  # Student's t, one degree of freedom
    assert accuracy.interval == pytest.approx((accuracy.mean - half, accuracy.mean + half))
    personal = results[1].final.personal.model_copy(update={"accuracy": None})
    final = results[1].final.model_copy(update={"personal": personal})
    lacking = outcome_of([results[0], results[1].model_copy(update={"final": final})])
    assert lacking.scores["final/personal/accuracy"] == Spread(first)
    assert outcome_of(results[:1]).scores["final/personal/accuracy"] == Spread(first)
    assert both.gradients == np.mean(
        [
            sum(row.gradient_evaluations for row in r.rounds) + r.timing.personalisation_gradient_evaluations
            for r in results
        ]
    )


def test_a_run_by_itself_is_one_row(ended: Path):
    home = repeat_folder(trial_folder(ended, 0), 0)
    (row,) = rows_of(home)
    assert (row.condition, row.trial, row.state, row.round) == (Result.read(home).name, 0, "COMPLETE", 8)
    assert row.outcome == outcome_of([Result.read(home)])
    with pytest.raises(PulseLedgerError, match="holds neither a study"):
        rows_of(ended / "trials")


def test_a_row_is_plain_json(marked: Path):
    for row in rows_of(marked):
        assert json.loads(json.dumps(row.document())) == row.document()
    assert Row("all", 3, "RUNNING", 1, 9).document()["objectives"] == {}


def test_a_trial_carries_optuna_s_number_and_its_method(marked: Path):
    """Numbers in the study go on over its conditions; Optuna counts from 0 in each."""
    rows = {row.trial: row for row in rows_of(marked)}
    for trial in trials_of(marked):
        assert rows[trial.number].optuna == trial.frozen.number
    assert len({row.optuna for row in rows.values()}) < len(rows)
    assert rows[0].method == "local-only"
    assert rows[11].method == method_of(RunConfig.model_validate(trials_of(marked)[-2].configs[0])).title


def test_what_was_sent_is_counted_by_hand(ended: Path, seen: Study):
    """Each round two models for each participant, one there and one back; the last model once to each hospital."""
    result = Result.read(repeat_folder(trial_folder(ended, 0), 0))
    rounds, hospitals = len(result.rounds), len(result.cohort.hospitals)
    assert outcome_of([result]).exchanged == 4 * result.parameters * (2 * rounds * hospitals + hospitals)
    (lone, *_) = [row.outcome for row in rows_of(seen.folder) if row.method == "local-only"]
    assert lone is not None
    assert lone.exchanged == 0


def test_hospitals_carry_their_own_scores(seen: Study):
    result = Result.read(repeat_folder(trial_folder(seen.folder, 2), 0))
    found = outcome_of([result])
    assert found.method.title == "FedAvg + fine-tuning"
    assert found.own("personal") == [{h.id: h.macro_f1 for h in result.final.personal.per_hospital}]
    assert found.own("global") == [{h.id: h.macro_f1 for h in result.final.global_.per_hospital}]
    majority = {h.id: h.local_majority_macro_f1 for h in result.cohort.hospitals}
    assert found.own("majority") == [majority]
    assert found.mean("final/personal/mean_hospital_macro_f1") == pytest.approx(
        np.mean([*found.own("personal")[0].values()])
    )
