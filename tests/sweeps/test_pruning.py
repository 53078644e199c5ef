"""Who is ended early: the rung pruner by hand and on recorded curves, Optuna's pruners against Optuna itself."""

import random
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from engine.errors import ConfigError
from sweeps.checks import load_study
from sweeps.pruning import Contender, competitors, keep, keep_at_rung
from sweeps.space import PrunerConfig, StudyConfig, rung_rounds
from sweeps.stored import begun

UP_DOWN = ["maximize", "minimize"]


def study(**keys: Any) -> StudyConfig:
    return load_study({"search": {"federation.learning_rate": {"uniform": [0.01, 0.1]}}, "trials": 9, **keys}, "test")


# --- Several objectives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "others", "factor", "kept"),
    [
        # alone, or first: nothing dominates
        ((0.5, 3.0), [], 3, True),
        # better in one objective is enough
        ((0.5, 3.0), [(0.9, 4.0), (0.8, 5.0), (0.7, 6.0)], 3, True),
        ((0.5, 3.0), [(0.4, 1.0), (0.9, 4.0)], 3, True),
        # worse in both than one, and three of four are better in the first: 3 * 3 >= 4
        ((0.5, 3.0), [(0.9, 2.0), (0.8, 5.0), (0.7, 6.0)], 3, False),
        # worse in both than one, but only that one is better in the first: 1 * 2 < 3, the best half of three
        ((0.5, 3.0), [(0.9, 2.0), (0.4, 1.0)], 2, True),
        # the same with thirds: 1 * 3 >= 3
        ((0.5, 3.0), [(0.9, 2.0), (0.4, 1.0)], 3, False),
        # a tie in one objective protects
        ((0.5, 3.0), [(0.5, 2.0), (0.9, 3.0), (0.8, 3.0)], 2, True),
        # as does a twin
        ((0.5, 3.0), [(0.5, 3.0)], 2, True),
    ],
)
def test_the_rung_pruner_by_hand(own, others, factor, kept):
    assert keep_at_rung(own, others, UP_DOWN, factor) is kept
    # turning both directions round, and the signs with them, changes nothing
    turned = [tuple(-v for v in other) for other in others]
    assert keep_at_rung(tuple(-v for v in own), turned, ["minimize", "maximize"], factor) is kept


def test_one_objective_is_asynchronous_successive_halving():
    """With one objective every better trial dominates, so the best third at the rung goes on, whoever came first."""
    values = [0.1, 0.9, 0.5, 0.7, 0.3, 0.8]
    kept = [keep_at_rung([v], [[o] for o in values[:i]], ["maximize"], 3) for i, v in enumerate(values)]
    # 0.1 is alone; 0.9 is best; of three 0.5 is second: 1 * 3 >= 3; of four 0.7 is second: 1 * 3 < 4;
    # of five 0.3 is fourth; of six 0.8 is second: 1 * 3 < 6
    assert kept == [True, True, False, True, False, True]


# Macro-F1 and recall of the rarest class after personalisation (up), share of time for the ledger (down), at the rounds
# 1, 3, 9 and 27: two conditions of 16 trials with drawn settings, recorded from runs of this engine on simulated records.
STEPS = (1, 3, 9, 27)
RUNGS = STEPS[:3]
DIRECTIONS = ["maximize", "maximize", "minimize"]
# fmt: off
RECORDED = {
    "a": [
        ((0.2169, 0, 0.2727), (0.2957, 0, 0.1174), (0.4761, 0, 0.0764), (0.5451, 0, 0.0645)),
        ((0.2264, 0, 0.0407), (0.2706, 0, 0.0395), (0.3256, 0, 0.072), (0.514, 0, 0.0643)),
        ((0.0665, 0, 0.0357), (0.0866, 0, 0.0378), (0.1427, 0, 0.0514), (0.2471, 0, 0.0506)),
        ((0.2264, 0, 0.0513), (0.2614, 0, 0.0803), (0.328, 0, 0.0921), (0.511, 0, 0.0819)),
        ((0.3344, 0, 0.0384), (0.4595, 0, 0.0375), (0.7733, 0.3333, 0.038), (0.7982, 0.3333, 0.0428)),
        ((0.3007, 0, 0.0317), (0.3318, 0, 0.0308), (0.6016, 0, 0.0416), (0.6605, 0, 0.0364)),
        ((0.0758, 0, 0.0385), (0.1151, 0, 0.1757), (0.2724, 0, 0.0873), (0.3912, 0, 0.0583)),
        ((0.2957, 0, 0.0337), (0.3312, 0, 0.0318), (0.6142, 0, 0.0314), (0.6644, 0, 0.0355)),
        ((0.5082, 0, 0.2494), (0.6567, 0, 0.0941), (0.7926, 0.3333, 0.071), (0.8294, 0.3333, 0.0445)),
        ((0.2264, 0, 0.031), (0.2957, 0, 0.031), (0.3256, 0, 0.031), (0.514, 0, 0.0321)),
        ((0.0658, 0, 0.0403), (0.0817, 0, 0.0411), (0.1445, 0, 0.0413), (0.2953, 0, 0.0471)),
        ((0.0871, 0, 0.0345), (0.1592, 0, 0.0335), (0.2964, 0, 0.0331), (0.4024, 0, 0.0371)),
        ((0.5624, 0, 0.0532), (0.6296, 0, 0.0529), (0.767, 0.3333, 0.0747), (0.8171, 0.3333, 0.0742)),
        ((0.291, 0, 0.0554), (0.3384, 0, 0.0893), (0.649, 0, 0.0876), (0.7515, 0.3333, 0.0803)),
        ((0.5496, 0, 0.0346), (0.6314, 0, 0.0342), (0.7952, 0.3333, 0.0411), (0.8013, 0.3125, 0.0353)),
        ((0.6213, 0, 0.2633), (0.6797, 0, 0.0991), (0.7991, 0.3333, 0.0762), (0.8908, 0.6667, 0.0548)),
    ],
    "b": [
        ((0.0892, 0, 0.0587), (0.134, 0, 0.0645), (0.2276, 0, 0.0681), (0.3035, 0, 0.0758)),
        ((0.6464, 0, 0.0615), (0.8116, 0.3333, 0.0616), (0.7455, 0, 0.0631), (0.8786, 0.6667, 0.0612)),
        ((0.1748, 0, 0.043), (0.2366, 0, 0.0482), (0.2929, 0, 0.0517), (0.3803, 0, 0.0532)),
        ((0.0623, 0, 0.0535), (0.0641, 0, 0.0807), (0.0703, 0, 0.1161), (0.1018, 0, 0.1309)),
        ((0.7812, 0.3333, 0.0729), (0.6594, 0, 0.1266), (0.84, 0.3333, 0.1022), (0.8373, 0.3333, 0.1097)),
        ((0.2334, 0, 0.0514), (0.2854, 0, 0.0569), (0.4944, 0, 0.0562), (0.5122, 0, 0.0536)),
        ((0.2267, 0, 0.0511), (0.2965, 0, 0.0501), (0.394, 0, 0.0504), (0.6492, 0, 0.0516)),
        ((0.2004, 0, 0.0766), (0.2337, 0, 0.0773), (0.3078, 0, 0.0943), (0.505, 0, 0.1072)),
        ((0.3369, 0, 0.0611), (0.5035, 0, 0.0554), (0.681, 0, 0.0512), (0.7094, 0, 0.0504)),
        ((0.0679, 0, 0.053), (0.0764, 0, 0.0515), (0.1183, 0, 0.0514), (0.2522, 0, 0.0519)),
        ((0.2516, 0, 0.0658), (0.328, 0, 0.0649), (0.5162, 0, 0.0644), (0.5359, 0, 0.0566)),
        ((0.3141, 0, 0.0627), (0.4849, 0, 0.06), (0.529, 0, 0.0583), (0.6582, 0, 0.0567)),
        ((0.1231, 0, 0.0431), (0.1836, 0, 0.0467), (0.2675, 0, 0.0911), (0.3213, 0, 0.0949)),
        ((0.1699, 0, 0.1485), (0.233, 0, 0.1778), (0.3002, 0, 0.1509), (0.3795, 0, 0.1555)),
        ((0.3678, 0, 0.189), (0.6925, 0.3125, 0.1362), (0.7438, 0.3333, 0.1297), (0.8727, 0.5625, 0.1337)),
        ((0.1291, 0, 0.2275), (0.2241, 0, 0.2057), (0.2764, 0, 0.1766), (0.4713, 0, 0.1817)),
    ],
}
# fmt: on


def front(points: list[tuple[float, ...]]) -> set[int]:
    """The trials that no other dominates, in the usual sense: as good in all, better in one."""
    signed = [(a, b, -c) for a, b, c in points]
    return {
        i
        for i, p in enumerate(signed)
        if not any(q != p and all(x >= y for x, y in zip(q, p, strict=True)) for q in signed)
    }


def replay(curves: list[Any], order: list[int], startup: int, factor: int = 3) -> tuple[set[int], float]:
    """Which trials the rung pruner ends when they come in this order, and the share of rounds that saves."""
    there: dict[int, list[Any]] = {step: [] for step in RUNGS}
    pruned, saved = set(), 0
    for trial in order:
        for step, values in zip(RUNGS, curves[trial], strict=False):
            goes_on = len(there[step]) < startup or keep_at_rung(values, there[step], DIRECTIONS, factor)
            there[step].append(values)
            if not goes_on:
                pruned.add(trial)
                saved += STEPS[-1] - step
                break
    return pruned, saved / (len(curves) * STEPS[-1])


@pytest.mark.parametrize("condition", RECORDED)
@pytest.mark.parametrize("startup", [0, 5])
def test_no_recorded_trial_of_the_pareto_front_is_pruned(condition: str, startup: int):
    curves = RECORDED[condition]
    best = front([curve[-1] for curve in curves])
    assert len(best) > 1
    shares = []
    for seed in range(200):
        order = random.Random(seed).sample(range(len(curves)), len(curves))
        pruned, saved = replay(curves, order, startup)
        assert not pruned & best, f"order {order}"
        shares.append(saved)
    print(f"condition {condition}, start-up {startup}: {100 * np.mean(shares):.0f} % of the rounds saved")
    assert np.mean(shares) > 0.15


# --- Optuna's pruners -------------------------------------------------------------------------------------------------


def asked_of_optuna(settings: StudyConfig, curves: np.ndarray, steps: list[int]) -> list[int | None]:
    """Where `study.optimize` with the pruner itself ends each trial: report and should_prune, no code of ours."""
    p = settings.pruner
    pruner: optuna.pruners.BasePruner = {
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=p.n_startup_trials),
        "successive_halving": lambda: optuna.pruners.SuccessiveHalvingPruner(p.first, p.factor),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(p.first, settings.federation.rounds, p.factor),
        "wilcoxon": lambda: optuna.pruners.WilcoxonPruner(p_threshold=p.p_threshold),
    }[p.method]()
    ended: list[int | None] = []

    def objective(trial: optuna.Trial) -> float:
        ended.append(None)
        for step, value in zip(steps, curves[trial.number], strict=False):
            trial.report(value, step)
            if trial.should_prune():
                ended[-1] = step
                raise optuna.TrialPruned
        return float(curves[trial.number].mean() if p.method == "wilcoxon" else curves[trial.number][-1])

    made = optuna.create_study(direction="maximize", pruner=pruner, study_name="same")
    made.optimize(objective, n_trials=len(curves))
    return ended


def decided_here(settings: StudyConfig, curves: np.ndarray, steps: list[int]) -> list[int | None]:
    """The same through `keep`, from what a database would hold."""
    there: list[Contender] = []
    ended: list[int | None] = []
    for i, curve in enumerate(curves):
        there.append(Contender(TrialState.RUNNING))
        ended.append(None)
        for step, value in zip(steps, curve, strict=False):
            there[i].rungs[step] = (float(value),)
            goes_on, memory = keep(settings, "same", there, i, settings.federation.rounds)
            there[i] = Contender(TrialState.RUNNING, None, there[i].rungs, memory)
            if not goes_on:
                ended[-1] = step
                break
        value = float(curve.mean() if settings.pruner.method == "wilcoxon" else curve[-1])
        state = TrialState.COMPLETE if ended[-1] is None else TrialState.PRUNED
        there[i] = Contender(state, value if ended[-1] is None else None, there[i].rungs, there[i].memory)
    return ended


@pytest.mark.parametrize(
    "pruner",
    [
        {"method": "median", "n_startup_trials": 2},
        {"method": "successive_halving", "factor": 2},
        {"method": "hyperband"},
        {"method": "wilcoxon"},
    ],
    ids=lambda p: p["method"],
)
def test_optunas_pruners_decide_as_in_optuna(pruner: dict[str, Any]):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    draw = np.random.default_rng(0)
    settings = study(federation={"rounds": 81}, pruner=pruner, repeats=9)
    wilcoxon = pruner["method"] == "wilcoxon"
    steps = list(range(1, 9)) if wilcoxon else rung_rounds(settings.pruner, settings.federation.rounds)
    level = draw.uniform(0, 1, (20, 1))
    curves = level * (1 if wilcoxon else np.linspace(0.3, 1, len(steps) + 1)) + draw.normal(
        0, 0.1, (20, len(steps) + 1)
    )
    curves = curves[:, : len(steps)] if wilcoxon else curves
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = asked_of_optuna(settings, curves, steps)
        assert decided_here(settings, curves, steps) == wanted
    assert 0 < sum(step is not None for step in wanted) < 20  # some are pruned, some are not


def test_conditions_and_baselines_do_not_compete():
    def made(number: int, condition: str, value: float | None, **more: Any) -> optuna.trial.FrozenTrial:
        rung = {"rung/3": {"values": [value], "kept": True, "memory": {}}} if value is not None else {}
        attributes = {"trial": number, "condition": condition, "keys": {}, "config": [], **rung, **more}
        return create_trial(state=TrialState.COMPLETE, value=1.0, user_attrs=attributes)

    trials = [
        made(0, "a", 0.5),
        made(2, "b", 0.9),
        made(4, "a", 0.7, baseline={"federation.algorithm": "local"}),
        made(6, "a", None),
        create_trial(state=TrialState.FAIL),
    ]
    there = competitors(begun(trials), "a")
    assert list(there) == [0, 6]
    assert there[0] == Contender(TrialState.COMPLETE, 1.0, {3: (0.5,)}, {})
    assert there[6].rungs == {}


# --- Settings ---------------------------------------------------------------------------------------------------------


def test_rungs_are_powers_below_the_last_round():
    def rungs(rounds: int, **pruner: Any) -> list[int]:
        return rung_rounds(PrunerConfig(**pruner), rounds)

    assert rungs(27, method="rungs") == [1, 3, 9]
    assert rungs(28, method="median") == [1, 3, 9, 27]
    assert rungs(20, method="rungs", first=4, factor=2) == [4, 8, 16]
    assert rungs(4, method="rungs", first=4) == []
    assert rungs(27) == []


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"pruner": {"method": "best"}}, "pruner.method is 'best'"),
        ({"pruner": {"method": "threshold"}}, "pruner.method is 'threshold'"),
        ({"pruner": {"factor": 1}}, "pruner.factor is 1"),
        ({"pruner": {"method": "wilcoxon"}}, "repeats is 1"),
        (
            {
                "pruner": {"method": "median"},
                "objectives": {"validation/personal/macro_f1": "maximize", "ledger/overhead_share": "minimize"},
            },
            "pruner.method median knows one objective only; use rungs",
        ),
    ],
)
def test_bad_settings_are_one_sentence(keys: dict[str, Any], part: str):
    with pytest.raises(ConfigError) as error:
        study(**keys)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
