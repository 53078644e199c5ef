"""What a study varies: the grid of conditions, the search space, the samplers, and every way to get it wrong."""

from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from engine.errors import ConfigError
from sweeps.checks import load_study
from sweeps.space import Condition, StudyConfig, conditions, resolve, violation
from sweeps.tuned import build_sampler, grid, search_space, suggest, total_trials

GRID = """
name: grid
seed: 10
conditions:
  cohort.hospitals: [3, 6]
  skew:
    - {cohort.partition: pathology}
    - {cohort.partition: record-dirichlet, cohort.alpha: 0.1}
"""


def study(text: str = "", **keys: Any) -> StudyConfig:
    return load_study({**yaml.safe_load(text or "{}"), **keys}, "study.yaml")


# --- Conditions -------------------------------------------------------------------------------------------------------


def test_conditions_are_the_grid_in_the_order_of_the_file():
    assert conditions(study(GRID)) == [
        Condition("hospitals=3, skew=pathology", {"cohort.hospitals": 3, "cohort.partition": "pathology"}),
        Condition(
            "hospitals=3, skew=record-dirichlet 0.1",
            {"cohort.hospitals": 3, "cohort.partition": "record-dirichlet", "cohort.alpha": 0.1},
        ),
        Condition("hospitals=6, skew=pathology", {"cohort.hospitals": 6, "cohort.partition": "pathology"}),
        Condition(
            "hospitals=6, skew=record-dirichlet 0.1",
            {"cohort.hospitals": 6, "cohort.partition": "record-dirichlet", "cohort.alpha": 0.1},
        ),
    ]
    assert conditions(study()) == [Condition("all", {})]


def test_a_trial_is_base_then_condition_then_tuned_keys_and_a_seed_for_each_repeat():
    made = study(GRID, federation={"rounds": 7}, repeats=3, out="somewhere")
    skewed = conditions(made)[1]
    config = resolve(made, skewed, {"federation.learning_rate": 0.3, "cohort.alpha": 0.7}, 2)
    assert (config.cohort.hospitals, config.cohort.partition, config.cohort.alpha) == (3, "record-dirichlet", 0.7)
    assert (config.federation.rounds, config.federation.learning_rate) == (7, 0.3)
    assert [resolve(made, skewed, {}, repeat).seed for repeat in range(3)] == [10, 11, 12]
    assert config.out is None  # a trial's folder is the driver's business
    assert type(config).__name__ == "RunConfig"


def test_number_of_trials_by_hand():
    choices = {
        "federation.algorithm": {"choice": ["fedavg", "perfedavg", "local"]},
        "federation.batch_size": {"choice": [8, 32]},
    }
    baselines = [{"federation.algorithm": "local"}, {"federation.algorithm": "centralised"}]
    assert total_trials(study(GRID)) == 4
    assert total_trials(study(GRID, search=choices, sampler="grid")) == 4 * 6
    assert total_trials(study(GRID, search=choices, sampler="grid", baselines=baselines)) == 4 * (6 + 2)
    assert total_trials(study(GRID, baselines=baselines)) == 4 * 2
    assert total_trials(study(GRID, search=choices, trials=5)) == 5
    assert total_trials(study()) == 1
    points = [{"federation.batch_size": 8}, {"federation.batch_size": 32}]
    assert total_trials(study(GRID, search=choices, design=points, baselines=baselines)) == 4 * (2 + 2)
    assert total_trials(study(GRID, search=choices, design=points, trials=5)) == 5


def test_the_points_of_a_grid_come_in_the_order_of_the_file():
    choices = {"federation.algorithm": {"choice": ["fedavg", "local"]}, "federation.batch_size": {"choice": [8, 32]}}
    made = study(search=choices, sampler="grid")
    everywhere = Condition("all", {})
    assert [tuple(point.values()) for point in grid(made, everywhere)] == [
        ("fedavg", 8),
        ("fedavg", 32),
        ("local", 8),
        ("local", 32),
    ]
    assert grid(study(search=choices, trials=3), everywhere) == []


# --- Search -----------------------------------------------------------------------------------------------------------


def test_kinds_of_ranges():
    made = study(
        search={
            "federation.learning_rate": {"log_uniform": [0.001, 0.1]},
            "federation.decay": {"uniform": [0.1, 1]},
            "federation.local_epochs": {"int": [1, 5]},
            "federation.batch_size": {"log_int": [1, 64]},
            "federation.algorithm": {"choice": ["fedavg", "fedprox"]},
        },
        trials=3,
    )
    assert search_space(made) == {
        "federation.learning_rate": FloatDistribution(0.001, 0.1, log=True),
        "federation.decay": FloatDistribution(0.1, 1.0),
        "federation.local_epochs": IntDistribution(1, 5),
        "federation.batch_size": IntDistribution(1, 64, log=True),
        "federation.algorithm": CategoricalDistribution(["fedavg", "fedprox"]),
    }
    drawn = optuna.create_study(sampler=build_sampler(made, 0, 0)).ask()
    for key, distribution in search_space(made).items():
        assert distribution._contains(distribution.to_internal_repr(suggest(drawn, key, distribution)))
    assert set(drawn.params) == set(made.search)


def points(sampler: str, asked: int, condition: int = 0, seed: int = 0) -> tuple[float, ...]:
    """What the sampler of one trial draws in a study without results."""
    keys = {"federation.learning_rate": {"log_uniform": [0.001, 0.1]}, "federation.local_epochs": {"int": [1, 1000]}}
    objectives = {"validation/personal/macro_f1": "maximize", "timing/total_seconds": "minimize"}
    made = study(search=keys, sampler=sampler, trials=9, seed=seed, objectives=objectives)
    trial = optuna.create_study(
        directions=["maximize", "minimize"], sampler=build_sampler(made, asked, condition)
    ).ask()
    return tuple(suggest(trial, key, distribution) for key, distribution in search_space(made).items())


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_samplers_advance_with_the_trials_and_repeat_after_a_resume(sampler: str):
    drawn = [points(sampler, asked) for asked in range(5)]
    assert len({*drawn}) == 5
    assert [points(sampler, asked) for asked in range(5)] == drawn
    assert points(sampler, 0, condition=1) != drawn[0]
    assert points(sampler, 0, seed=1) != drawn[0]


def test_qmc_advances_by_the_study_itself():
    """Its sequence counts the trials of the study: a sampler made anew goes on where the last one was."""
    made = study(search={"federation.learning_rate": {"uniform": [0.1, 1]}}, sampler="qmc", trials=9)
    opened = optuna.create_study()
    seen = []
    for asked in range(6):
        opened.sampler = build_sampler(made, asked, 0)
        trial = opened.ask({"federation.learning_rate": FloatDistribution(0.1, 1.0)})
        seen.append(trial.params["federation.learning_rate"])
        opened.tell(trial, 0.0)
    assert len(set(seen)) == 6


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "gp", "qmc", "random"])
def test_a_resumed_study_draws_the_points_that_an_undisturbed_one_draws(sampler: str, tmp_path):
    """Twelve trials with results in one go, and in a database that is opened anew after six of them."""
    keys = {
        "federation.learning_rate": {"log_uniform": [0.001, 0.1]},
        "federation.decay": {"uniform": [0.1, 1]},
    }
    objectives = {"validation/personal/macro_f1": "maximize", "timing/total_seconds": "minimize"}
    made = study(search=keys, sampler=sampler, trials=12, objectives=objectives)

    def draw(url: str | None, several: bool) -> list[tuple[float, ...]]:
        drawn = []
        for asked in range(12):
            if asked == 0 or (several and asked == 6):
                opened = optuna.create_study(
                    storage=url, study_name="s", directions=["maximize", "minimize"], load_if_exists=True
                )
            opened.sampler = build_sampler(made, asked, 0)
            trial = opened.ask()
            point = [suggest(trial, key, distribution) for key, distribution in search_space(made).items()]
            opened.tell(trial, point)
            drawn.append(tuple(point))
        return drawn

    whole = draw(None, several=False)
    assert len(set(whole)) >= (11 if sampler == "gp" else 12)  # a Gaussian process may want its best point again
    assert draw(f"sqlite:///{tmp_path}/parts.db", several=True) == whole


def test_how_far_a_bound_is_broken_by_hand():
    assert violation("<= 0.05", 0.07) == pytest.approx(0.02)
    assert violation(" <=0.05 ", 0.05) == 0
    assert violation(">= 0.9", 0.7) == pytest.approx(0.2)
    assert violation(">= -1e-1", 0.7) == pytest.approx(-0.8)


# --- Mistakes ---------------------------------------------------------------------------------------------------------

RATE = {"federation.learning_rate": {"uniform": [0.01, 0.1]}}


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"sampler": "best"}, ["sampler is 'best'", "'tpe'", "'grid'"]),
        ({"trails": 3}, ["trails is not a known key", "trials"]),
        ({"repeats": 0}, ["repeats is 0", "greater than or equal to 1"]),
        ({"federation": {"rounds": 0}}, ["federation.rounds is 0"]),
        ({"objectives": {}}, ["objectives: must name at least one score"]),
        ({"objectives": {"accuracy": "maximize"}}, ["objectives: 'accuracy' is no score", "known: validation|final/global|personal/accuracy|", "recall/N|S|V|F|Q", "ledger/gas_per_round"]),
        ({"objectives": {"validation/global/accuracy": "up"}}, ["objectives", "is 'up'", "'maximize' or 'minimize'"]),
        ({"search": {"federation.pace": {"uniform": [0, 1]}}, "trials": 1}, ["search.federation.pace is not a key"]),
        ({"search": {"federation.rate": {"uniform": [0, 1]}}, "trials": 1}, ["search.federation.rate is {uniform: [0, 1]}", "it is no number", "give a choice"]),
        ({"search": {"repeats": {"int": [1, 2]}}, "trials": 1}, ["search.repeats is not a key"]),
        ({"search": {"federation.learning_rate": {"uniform": [1, 0.1]}}, "trials": 1}, ["search.federation.learning_rate is"]),
        ({"search": {"federation.learning_rate": {"uniform": [1]}}, "trials": 1}, ["search.federation.learning_rate is"]),
        ({"search": {"federation.learning_rate": {"uniform": "wide"}}, "trials": 1}, ["search.federation.learning_rate is"]),
        ({"search": {"federation.learning_rate": {"log_uniform": [0, 1]}}, "trials": 1}, ["search.federation.learning_rate is"]),
        ({"search": {"federation.learning_rate": {"normal": [0, 1]}}, "trials": 1}, ["allowed: uniform, log_uniform, int, log_int or choice"]),
        ({"search": {"federation.learning_rate": {}}, "trials": 1}, ["allowed: uniform, log_uniform, int, log_int or choice"]),
        ({"search": {"federation.learning_rate": {"choice": []}}, "trials": 1}, ["search.federation.learning_rate is"]),
        ({"search": {"federation.local_epochs": {"int": [0, 3]}}, "trials": 1}, ["search: federation.local_epochs is 0"]),
        ({"search": {"federation.algorithm": {"choice": ["fedavg", "fedbest"]}}, "trials": 1}, ["federation.algorithm is 'fedbest'"]),
        ({"search": RATE}, ["trials is needed"]),
        ({"search": RATE, "sampler": "grid"}, ["sampler grid needs every search key as choice"]),
        ({"search": RATE, "sampler": "nsga3", "trials": 4}, ["sampler nsga3 needs at least two objectives"]),
        ({"search": RATE, "design": [{"federation.rounds": 3}]}, ["design: federation.rounds is not a key of search"]),
        ({"search": RATE, "design": [{"federation.learning_rate": 0.5}]}, ["design: federation.learning_rate is 0.5, outside of"]),
        ({"search": RATE, "design": [{"federation.learning_rate": "high"}]}, ["federation.learning_rate is 'high', outside of"]),
        ({"constraints": {"overhead": "<= 1"}}, ["constraints", "'overhead' is no score", "ledger/overhead_share"]),
        ({"constraints": {"ledger/overhead_share": "< 1"}}, ["ledger/overhead_share is '< 1'", "<= 0.05"]),
        ({"search": RATE, "sampler": "nsga2", "trials": 4}, ["sampler nsga2 needs at least two objectives"]),
        ({"conditions": {"cohort.hospital": [3]}}, ["condition hospital=3", "cohort.hospital is not a key", "did you mean cohort.hospitals?"]),
        ({"conditions": {"skew": ["strong"]}}, ["condition skew=strong", "skew is not a key", "mappings of keys"]),
        ({"conditions": {"cohort.hospitals": [3, 0]}}, ["condition hospitals=0", "cohort.hospitals is 0"]),
        ({"conditions": {"cohort.hospitals": 3}}, ["conditions.cohort.hospitals is 3"]),
        ({"conditions": {"cohort.hospitals": []}}, ["conditions.cohort.hospitals"]),
        ({"conditions": {"cohort.hospitals": [3, 3]}}, ["condition hospitals=3", "twice"]),
        ({"conditions": {"name.first": [3]}}, ["condition first=3: name.first is not a key"]),
        ({"baselines": [{"federation.algorithm": "none"}]}, ["federation.algorithm is 'none'"]),
        (
            {"conditions": {"cohort.hospitals": [9, 2]}, "federation": {"min_hospitals": 3}},
            ["condition hospitals=2", "federation.min_hospitals is 3 but there are only 2 hospitals"],
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(keys: dict[str, Any], parts: list[str]):
    with pytest.raises(ConfigError) as error:
        study(**keys)
    text = str(error.value)
    assert text.startswith("study.yaml")
    assert text.endswith(".")
    assert "\n" not in text
    for part in parts:
        assert part in text
