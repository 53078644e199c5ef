"""No silent wrong study: one owner for every key, nothing tuned that nobody reads, and all mistakes at once."""

import math
from typing import Any

import optuna
import pytest

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.settings import parse
from sweeps.checks import load_run, load_study
from sweeps.cohorts import too_large
from sweeps.space import StudyConfig, conditions, resolve
from sweeps.tuned import branches, build_sampler, drawn, ends, grid, suggest, total_trials, tuned

BASE: dict[str, Any] = {
    "data": {"simulated": {"patients": 4, "minutes": 1}},
    "cohort": {"hospitals": 2, "partition": "consecutive"},
    "federation": {"rounds": 2},
}
RATE = {"federation.learning_rate": {"uniform": [0.01, 0.1]}}
WHEN_EPOCHS = {"when": {"federation.algorithm": ["fedavg", "fedprox"]}}
METHODS = {
    "federation.learning_rate": {"uniform": [0.01, 0.1], **WHEN_EPOCHS},
    "federation.mu": {"log_uniform": [1e-3, 1], "when": {"federation.algorithm": "fedprox"}},
    "federation.perfedavg.alpha": {"log_uniform": [0.01, 0.1], "when": {"federation.algorithm": "perfedavg"}},
    "federation.algorithm": {"choice": ["fedavg", "fedprox", "perfedavg"]},
}


def study(flags: tuple[str, ...] = (), **keys: Any) -> StudyConfig:
    return load_study({**BASE, **keys}, "s.yaml", flags)


def refusals(**keys: Any) -> list[str]:
    """What is said of a study, without the file's name."""
    with pytest.raises(ConfigError) as error:
        study(**keys)
    lines = str(error.value).split("\n")
    assert all(line.startswith("s.yaml: ") and line.endswith(".") for line in lines)
    return [line.removeprefix("s.yaml: ") for line in lines]


# --- Sections merge ---------------------------------------------------------------------------------------------------


def test_a_section_is_merged_wherever_it_stands():
    """As a mapping or dotted: what it does not name stays as it is in the base."""
    made = study(
        baselines=[{"federation": {"algorithm": "local"}}, {"federation.algorithm": "local"}],
        conditions={"skew": [{"cohort": {"partition": "pathology"}}], "data": [{"simulated": {"minutes": 2}}]},
    )
    (place,) = conditions(made)
    assert place.keys == {"cohort.partition": "pathology", "data.simulated.minutes": 2}
    nested, dotted = (resolve(made, place, keys, 0) for keys in made.baselines)
    assert nested == dotted
    assert (nested.federation.rounds, nested.cohort.hospitals, nested.data.simulated.patients) == (2, 2, 4)
    assert made.baselines == [{"federation.algorithm": "local"}] * 2


def test_a_key_whose_value_is_a_mapping_is_no_section():
    made = study(conditions={"data.symbols": [{"Q": None}, {}]})
    assert [place.keys for place in conditions(made)] == [{"data.symbols": {"Q": None}}, {"data.symbols": {}}]


def test_an_axis_may_hold_values_of_its_key_and_mappings_of_several():
    axis = ["none", {"balance.method": "class_weighted", "balance.max_weight": 5}]
    assert [place.label for place in conditions(study(conditions={"balance.method": axis}))] == [
        "method=none",
        "method=class_weighted 5",
    ]


# --- Owners -----------------------------------------------------------------------------------------------------------

TWO_PLACES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "two axes": (
        {"conditions": {"a": [{"cohort.hospitals": 2}], "b": [{"cohort": {"hospitals": 3}}]}},
        ("cohort.hospitals is set by conditions.a and by conditions.b",),
    ),
    "condition and search": (
        {"conditions": {"cohort.hospitals": [2, 3]}, "search": {"cohort.hospitals": {"int": [2, 3]}}, "trials": 3},
        ("cohort.hospitals is set by conditions.cohort.hospitals and tuned by search.cohort.hospitals",),
    ),
    "condition and baseline": (
        {"conditions": {"cohort.hospitals": [2, 3]}, "baselines": [{"cohort": {"hospitals": 4}}]},
        ("cohort.hospitals is set by conditions.cohort.hospitals and by baselines, no. 1",),
    ),
    "section and dotted": (
        {"baselines": [{"cohort": {"hospitals": 3}, "cohort.hospitals": 2}]},
        ("baselines, no. 1: cohort.hospitals is given twice",),
    ),
    "flag and condition": (
        {"conditions": {"cohort.hospitals": [2, 3]}, "flags": ("cohort.hospitals",)},
        ("--cohort.hospitals would change nothing that conditions.cohort.hospitals does not set over it",),
    ),
    "flag and search": (
        {"search": RATE, "trials": 2, "flags": ("federation.learning_rate",)},
        ("--federation.learning_rate", "search.federation.learning_rate"),
    ),
    "seed": ({"conditions": {"seed": [0, 1]}}, ("conditions.seed", "repeats runs each trial with seed, seed + 1")),
    "seed of a baseline": ({"baselines": [{"seed": 5}]}, ("baselines, no. 1: seed belongs to the study",)),
    "tuned seed": ({"search": {"seed": {"int": [0, 9]}}, "trials": 2}, ("search.seed belongs to the study",)),
    "folder": ({"conditions": {"out": ["a", "b"]}}, ("out belongs to the study",)),
    "name": ({"conditions": {"name": ["a", "b"]}}, ("name belongs to the study",)),
    "store": ({"conditions": {"tracking": [{"experiment": "a"}, {"experiment": "b"}]}}, ("tracking.experiment belongs",)),
    "address": ({"baselines": [{"execution.address": "auto"}]}, ("execution.address belongs to the study",)),
    "pool": ({"conditions": {"execution.pool": ["ray", "threads"]}}, ("execution.pool belongs to the study",)),
    "two equal conditions": ({"conditions": {"cohort.hospitals": [3, 3.0]}}, ("hospitals=3 and hospitals=3.0 are the same",)),
}  # fmt: skip


@pytest.mark.parametrize("case", TWO_PLACES)
def test_a_key_has_one_owner_and_a_refusal_names_both(case: str):
    keys, parts = TWO_PLACES[case]
    text = "\n".join(refusals(**keys))
    for part in parts:
        assert part in text


# --- Keys that nobody reads -------------------------------------------------------------------------------------------

UNREAD: dict[str, tuple[dict[str, Any], str]] = {
    "rate of Per-FedAvg": (
        {"federation": {"algorithm": "perfedavg"}, "search": RATE, "trials": 2},
        "search.federation.learning_rate is not read when federation.algorithm is perfedavg; take it out",
    ),
    "of one method among two": (
        {"search": {**RATE, "federation.algorithm": {"choice": ["fedavg", "perfedavg"]}}, "trials": 2},
        "search.federation.learning_rate is not read when federation.algorithm is perfedavg; give it `when` "
        "(federation.algorithm: fedavg | fedprox | scaffold | ditto | fedper | fedrep | fedbn | local | centralised | "
        "FILE.py:NAME or PACKAGE.MODULE:NAME)",
    ),
    "of one condition's method": (
        {"conditions": {"federation.algorithm": ["fedavg", "perfedavg"]}, "search": RATE, "trials": 2},
        "condition algorithm=perfedavg: search.federation.learning_rate is not read when",
    ),
    "condition": (
        {"conditions": {"cohort.alpha": [0.1, 1.0]}},
        "condition alpha=0.1: cohort.alpha is not read by any trial there (cohort.partition is consecutive)",
    ),
    "baseline": (
        {"baselines": [{"federation.algorithm": "fedavg", "federation.mu": 0.1}]},
        "baseline federation.algorithm: fedavg, federation.mu: 0.1: federation.mu is not read (federation.algorithm is fedavg)",
    ),
    "what a `when` never lets in": (
        {"search": {**RATE, "federation.mu": {"uniform": [0, 1], "when": {"federation.algorithm": "fedprox"}}}, "trials": 2},
        "search.federation.mu: its `when` holds in no trial",
    ),
    "a folder of made up records": (
        {"conditions": {"data.folder": ["a", "b"]}},
        "condition folder=a: data.folder is not read by any trial there (data.source is simulated)",
    ),
    "a flag that a partition does not read": (
        {"flags": ("cohort.alpha",)},
        "--cohort.alpha would change nothing: no trial reads it (cohort.partition is consecutive)",
    ),
    "a flag that all baselines set": (
        {"baselines": [{"federation.rounds": 3}, {"federation": {"rounds": 4}}], "flags": ("federation.rounds",)},
        "--federation.rounds would change nothing: every trial has its own",
    ),
    "a design that leaves out what decides": (
        {"search": METHODS, "design": [{"federation.mu": 0.1}], "trials": 4},
        "design: federation.mu is only there when federation.algorithm is fedprox, which must stand in the same point",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREAD)
def test_what_no_trial_reads_is_refused(case: str):
    keys, sentence = UNREAD[case]
    assert any(line.startswith(sentence) for line in refusals(**keys))


def test_a_reference_line_may_do_without_a_conditions_key():
    """Local-only weights nothing; beside FedAvg it is the same line in both conditions."""
    study(
        conditions={"federation.weighting": ["samples", "uniform"]},
        baselines=[{"federation.algorithm": "local"}, {"federation.algorithm": "fedavg"}],
    )


# --- Defined by run ---------------------------------------------------------------------------------------------------


def test_optuna_sees_what_a_trial_uses_and_nothing_else():
    made = study(search=METHODS, trials=9)
    (place,) = conditions(made)
    wanted = {
        "fedavg": {"federation.learning_rate"},
        "fedprox": {"federation.learning_rate", "federation.mu"},
        "perfedavg": {"federation.perfedavg.alpha"},
    }
    for method, keys in wanted.items():
        opened = optuna.create_study(sampler=build_sampler(made, 0, 0))
        opened.enqueue_trial({"federation.algorithm": method})
        trial = opened.ask()
        got = drawn(made, place, lambda key, space, trial=trial: suggest(trial, key, space))
        assert set(got) == set(trial.params) == keys | {"federation.algorithm"}
        assert resolve(made, place, got, 0).federation.algorithm == method


def test_what_others_depend_on_is_drawn_first_whatever_the_file_s_order():
    order = [each.key for each in tuned(study(search=METHODS, trials=3))]
    assert order[0] == "federation.algorithm"
    assert set(order) == set(METHODS)


def test_a_grid_has_each_point_once_where_a_key_is_not_there():
    search = {
        "federation.algorithm": {"choice": ["fedavg", "perfedavg"]},
        "federation.perfedavg.variant": {
            "choice": ["first-order", "exact"],
            "when": {"federation.algorithm": "perfedavg"},
        },
    }
    made = study(search=search, sampler="grid")
    (place,) = conditions(made)
    assert [tuple(point.values()) for point in grid(made, place)] == [
        ("fedavg",),
        ("perfedavg", "first-order"),
        ("perfedavg", "exact"),
    ]
    assert total_trials(made) == 3
    twice = study(search=search, sampler="grid", conditions={"cohort.hospitals": [2, 3]})
    assert total_trials(twice) == 6


def test_a_when_may_go_by_the_condition():
    """Each condition has its own space: the grid of FedAvg has two rates, that of Per-FedAvg none."""
    made = study(
        conditions={"federation.algorithm": ["fedavg", "perfedavg"]},
        search={"federation.learning_rate": {"choice": [0.1, 0.2], **WHEN_EPOCHS}},
        sampler="grid",
    )
    assert [len(grid(made, place)) for place in conditions(made)] == [2, 1]
    assert [list(branches(made, place, ends)) for place in conditions(made)][1] == [{}]


@pytest.mark.parametrize(
    ("search", "part"),
    [
        ({"federation.mu": {"uniform": [0, 1], "when": {"federation.decay": 1}}, "federation.decay": {"choice": [1], "when": {"federation.mu": 1}}}, "wait for each other"),
        ({"federation.mu": {"uniform": [0, 1], "when": {"federation.mu": 1}}}, "when names the key itself"),
        ({"federation.mu": {"uniform": [0, 1], "when": {"federation.algoritm": "fedprox"}}}, "did you mean federation.algorithm"),
        ({"federation.mu": {"uniform": [0, 1], "when": "fedprox"}}, "when wants a mapping"),
        ({"federation.mu": {"uniform": [0, 1], "when": {"federation.algorithm": ["fedprox", "fedprx"]}}}, "when: federation.algorithm is 'fedprx': input should be"),
        ({"federation.mu": {"uniform": [0, 1], "when": {"federation.rounds": "two"}}}, "when: federation.rounds is 'two': input should be a valid integer"),
        ({"federation.mu": {"when": {"federation.algorithm": "fedprox"}}}, "one of them, and when"),
        ({"federation.batch_size": {"log_uniform": [16, 64]}}, "batch_size is a whole number; use log_int"),
        ({"federation.perfedavg.tau": {"uniform": [1, 4]}}, "tau is a whole number; use int"),
        ({"federation.batch_size": {"int": [1.9, 3.9]}}, "the ends of int must be whole numbers"),
        ({"federation.batch_size": {"int": [True, 3]}}, "int wants two numbers"),
        ({"federation.batch_size": {"int": [1, math.inf]}}, "int wants two finite numbers"),
        ({"federation.batch_size": {"int": [math.nan, 3]}}, "int wants two finite numbers"),
        ({"federation.learning_rate": {"uniform": [0.1, math.inf]}}, "uniform wants two finite numbers"),
        ({"federation.learning_rate": {"uniform": [0.2, 0.1]}}, "0.2 is above 0.1"),
        ({"federation.batch_size": {"int": [8, 8]}}, "both ends are the same; nothing is tuned"),
        ({"federation.learning_rate": {"log_uniform": [0, 0.1]}}, "must be above 0"),
        ({"federation.learning_rate": {"uniform": ["a", "b"]}}, "uniform wants two numbers"),
        ({"federation.algorithm": {"int": [0, 1]}}, "it is no number"),
        ({"federation.batch_size": {"choice": [8, 16, 8]}}, "8 stands twice"),
        ({"federation.batch_size": {"choice": 8}}, "choice wants a list"),
    ],
)  # fmt: skip
def test_a_wrong_range_names_its_key(search: dict[str, Any], part: str):
    said = refusals(search=search, trials=3)
    assert any("search" in line and part in line for line in said), said


# --- Scores -----------------------------------------------------------------------------------------------------------


def test_tuning_on_test_beats_is_refused_unless_it_is_asked_for():
    goal = {"final/personal/macro_f1": "maximize"}
    (line,) = refusals(objectives=goal)
    assert line.startswith("objectives: final/personal/macro_f1 is a score of the test beats")
    assert "allow_test_tuning: true" in line
    assert refusals(constraints={"final/global/accuracy": ">= 0.9"})[0].startswith("constraints: final/global/accuracy")
    assert study(objectives=goal, allow_test_tuning=True).tuned_on_test
    assert not study(allow_test_tuning=True).tuned_on_test


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "no ledger": (
        {"ledger": {"backend": "none"}, "constraints": {"ledger/overhead_share": "<= 0.05"}},
        "ledger/overhead_share as a score: there is no ledger (ledger.backend is none)",
    ),
    "no ledger in one condition": (
        {"conditions": {"ledger.backend": ["embedded", "none"]}, "objectives": {"ledger/gas_per_round": "minimize"}},
        "condition backend=none: ledger/gas_per_round as a score: there is no ledger",
    ),
    "a class that is not there": (
        {"data": {"classes": "NSV"}, "objectives": {"validation/personal/recall/F": "maximize"}},
        "validation/personal/recall/F as a score: class F is not among data.classes (N, S, V)",
    ),
    "no validation beats": (
        {"cohort": {"hospitals": 2, "fractions": [0.7, 0, 0.3]}},
        "validation/personal/macro_f1 as a score: there are no validation beats",
    ),
    "no global model": (
        {"baselines": [{"federation.algorithm": "local"}], "objectives": {"validation/global/macro_f1": "maximize"}},
        "validation/global/macro_f1 as a score: federation.algorithm local trains no global model",
    ),
    "too many hospitals": (
        {"conditions": {"cohort.hospitals": [2, 9]}},
        "condition hospitals=9: cohort.hospitals is 9, but data.source simulated gives at most 4 patients here",
    ),
    "too many hospitals of a known database": (
        {"data": {"source": "mitdb", "records": [201, 202, 100]}, "cohort": {"hospitals": 3}},
        "cohort.hospitals is 3, but data.source mitdb gives at most 2 patients here",  # 201 and 202 are one man
    ),
    "a hospital for each patient": (
        {"cohort": {"hospitals": 3, "partition": "one-record"}},
        "cohort.hospitals is 3, but partition one-record makes a hospital of each of the 4 patients",
    ),
    "a pruner that is never asked": (
        {"pruner": {"method": "median", "first": 2}, "search": RATE, "trials": 3},
        "pruner.first is 2, but a trial has 2 rounds: the pruner would never be asked",
    ),
    "more trials than differ": ({"trials": 5}, "trials is 5, but all that differ are 1: nothing else is tuned"),
    "a share above one": (
        {"constraints": {"validation/personal/macro_f1": ">= 1.5"}},
        "constraints: validation/personal/macro_f1 is '>= 1.5', but it reaches from 0 to 1: no trial can keep to it",
    ),
    "a cost below nothing": (
        {"constraints": {"timing/total_seconds": "<= -1"}},
        "constraints: timing/total_seconds is '<= -1', but it reaches from 0 on: no trial can keep to it",
    ),
    "a bound that is no number": (
        {"constraints": {"ledger/overhead_share": "<= 1..2"}},
        "constraints: ledger/overhead_share is '<= 1..2'; write a bound",
    ),
    "a bound without end": (
        {"constraints": {"ledger/overhead_share": "<= 1e999"}},
        "constraints: ledger/overhead_share is '<= 1e999'; write a bound",
    ),
    "more trials than there are choices": (
        {"conditions": {"cohort.hospitals": [2, 3]}, "search": {"federation.batch_size": {"int": [8, 9]}}, "trials": 5},
        "trials is 5, but all that differ are 4: nothing else is tuned",
    ),
    "more trials than a grid has": (
        {"search": {"federation.batch_size": {"choice": [8, 16]}}, "sampler": "grid", "trials": 5},
        "trials is 5, but all that differ are 2: nothing else is tuned",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_is_told_before_anything_runs(case: str):
    keys, sentence = IMPOSSIBLE[case]
    assert any(line.startswith(sentence) for line in refusals(**keys))


def test_all_mistakes_of_a_file_are_told_at_once():
    said = refusals(
        federation={"roundz": 3, "batch_size": 0},
        search={"x.y": {"int": [1, 2]}, "federation.batch_size": {"uniform": [1, 2]}},
        conditions={"cohort.hospitl": [1], "seed": [1]},
        objectives={"validation/personal/f1": "maximize"},
        baselines=[{"federation.algoritm": "local"}],
        trials=3,
    )
    wanted = (
        "federation.roundz is not a known key",
        "federation.batch_size is 0",
        "search.x.y is not a key",
        "search.federation.batch_size is {uniform: [1, 2]}: batch_size is a whole number",
        "condition hospitl=1: cohort.hospitl is not a key",
        "conditions.seed: seed belongs",
        "objectives: 'validation/personal/f1' is no score; did you mean",
        "baselines, no. 1: federation.algoritm is not a key",
    )
    for sentence in wanted:
        assert sum(line.startswith(sentence) for line in said) == 1, sentence
    assert len(said) == len(wanted)


def test_a_mistake_in_many_conditions_does_not_fill_the_screen():
    said = refusals(conditions={"cohort.hospitals": list(range(5, 60))})
    assert len(said) == 21
    assert said[-1] == "and 35 more mistakes."


# --- Of a run, too ----------------------------------------------------------------------------------------------------


def test_a_run_with_more_hospitals_than_patients_is_refused_before_anything_is_read():
    with pytest.raises(
        ConfigError, match=r"cohort\.hospitals is 5, but data.source simulated gives at most 4 patients here"
    ):
        load_run({**BASE, "cohort": {"hospitals": 5}}, "r.yaml")


def test_keys_that_vary_are_held_against_others_in_each_trial_not_in_the_base():
    """The base has two hospitals, no condition has so few as the six that are needed; then one has."""
    needs = {"rounds": 2, "min_hospitals": 6}
    patients = {"simulated": {"patients": 12, "minutes": 1}}
    made = study(data=patients, federation=needs, conditions={"cohort.hospitals": [6, 8]})
    assert [place.keys["cohort.hospitals"] for place in conditions(made)] == [6, 8]
    assert refusals(data=patients, federation=needs, conditions={"cohort.hospitals": [4, 8]}) == [
        "condition hospitals=4: federation.min_hospitals is 6 but there are only 4 hospitals."
    ]
    assert refusals(data=patients, federation=needs, conditions={"federation.rounds": [1, 2]}) == [
        "federation.min_hospitals is 6 but there are only 2 hospitals."
    ]


LARGE = {
    "data": {"simulated": {"patients": 1000, "minutes": 60}, "window": [500, 500]},
    "cohort": {"hospitals": 100},
    "federation": {"participation": 0.5},
}


def test_a_run_that_no_memory_holds_is_refused_with_the_sum():
    """1,000 records of an hour, 50 beats a minute, 1,000 samples of 4 bytes, twice: 24 GB; 50 of 100 hospitals send updates."""
    config = parse(RunConfig, LARGE, "r.yaml")
    why = too_large(config, memory=20e9)
    assert why.startswith(
        "at least 24.0 GB of memory are needed, and this machine has 20.0 GB: 24.0 GB while beats are cut "
    )
    assert "(1,000 records x 60 min x 50 beats x 1 lead x 1000 samples x 4 bytes, twice)" in why
    assert "0.0 GB for the updates of a round (50 hospitals x 21,765 parameters x 4 bytes)" in why
    assert too_large(config, memory=24.1e9) == ""
    elsewhere = parse(RunConfig, {**LARGE, "execution": {"address": "auto"}}, "r.yaml")
    assert too_large(elsewhere, memory=20e9) == ""  # it is another machine's memory


def test_a_study_tells_which_condition_no_memory_holds():
    records = {"data.simulated.patients": 9_999, "data.simulated.minutes": 60, "data.window": [2048, 2048]}
    (said,) = refusals(conditions={"size": [{"data.simulated.patients": 4}, records]})
    assert said.startswith("condition size=9999 60 [2048, 2048]: at least ")
    assert "9,999 records x 60 min" in said
