"""SCAFFOLD, Ditto, FedPer, FedRep, FedBN and the ways to adapt, on problems that can be solved on paper."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Interrupted, Recorder, StopAfter, Towards, f32, merged, numbers, samples, work

from engine.algorithms.build import build_algorithm
from engine.algorithms.config import FederationConfig, PersonalisationConfig
from engine.algorithms.parts import head, norms
from engine.config import RunConfig
from engine.errors import ConfigError
from engine.experiment import Place, run
from engine.oracles.base import Batch
from engine.settings import parse

LAYOUT = (("body.weight", (1,)), ("norm.weight", (1,)), ("head.weight", (1,)))


class Scaled:
    """f(w) = a / 2 (w - mean of x)^2, a the class weight: hospitals that differ in curvature and minimum."""

    def __init__(self, curvature: float = 1.0) -> None:
        self.curvature = np.float32(curvature)

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        away = params - batch.x.mean(0)
        return float(self.curvature / 2 * (away @ away)), self.curvature * away


class Product:
    """f(b, n, h) = 1/2 (b n h - mean of x)^2: a network of one weight in body, norm and head."""

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        b, n, h = params
        off = b * n * h - batch.x.mean()
        return float(off**2 / 2), (off * np.array([n * h, b * h, b * n])).astype(np.float32)


class Line:
    """Two classes by the sign of x w + b, with the oracle's cross-entropy; what a safeguard can be watched on."""

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        logits = self.scores(params, batch.x, batch.rr)
        if batch.logit_offset is not None:
            logits = logits + batch.logit_offset
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        off = p.copy()
        off[np.arange(len(batch.y)), batch.y] -= 1
        loss = float(-np.log(np.maximum(p[np.arange(len(batch.y)), batch.y], 1e-30)).mean())
        flat = np.stack([off * batch.x, off]) / len(batch.y)
        return loss, flat.sum(1).ravel().astype(np.float32)

    def scores(self, params: np.ndarray, x: np.ndarray, rr: np.ndarray) -> np.ndarray:
        weight, bias = params.reshape(2, -1)
        return (x * weight + bias).astype(np.float32)


def algorithm(personalisation: dict[str, Any] | None = None, **settings: Any) -> Any:
    return build_algorithm(FederationConfig(**settings), PersonalisationConfig(**personalisation or {}))


def rounds(settings: dict[str, Any], hospitals: list[tuple[Any, Any]], params: np.ndarray, count: int) -> Any:
    """The global model after so many rounds, and the private states."""
    method = algorithm(**settings)
    states: list[Any] = [{} for _ in hospitals]
    for round in range(1, count + 1):
        updates = []
        for i, (oracle, data) in enumerate(hospitals):
            one = replace(work(oracle, params, data, round, i, states[i]), layout=layout_of(params))
            result = method.local(one)
            states[i] = result.state
            updates.append((len(data), result.update))
        params = merged(params, updates, method.weighting)
    return params, states


def layout_of(params: np.ndarray) -> Any:
    return LAYOUT if len(params) == 3 else (("w", params.shape),)


# --- SCAFFOLD ---------------------------------------------------------------------------------------------------------


def test_scaffold_reaches_the_optimum_that_fedavg_drifts_from():
    """1/2 (w - 1)^2 and 3/2 (w + 1)^2: their sum is least at -1/2. Of K = 5 steps of rate 0.2 FedAvg's fixed point is
    (m1 a1 + m2 a2) / (m1 + m2), where m = 1 - (1 - rate a)^K is how far a hospital comes towards its own minimum."""
    hospitals = [(Scaled(1), samples([1])), (Scaled(3), samples([-1]))]
    settings = {"local_steps": 5, "learning_rate": 0.2}
    drifted, _ = rounds(settings, hospitals, f32(0), 40)
    m1, m2 = 1 - 0.8**5, 1 - 0.4**5
    assert drifted == pytest.approx([(m1 - m2) / (m1 + m2)], abs=1e-5)
    found, states = rounds({"algorithm": "scaffold", **settings}, hospitals, f32(0), 40)
    assert found == pytest.approx([-0.5], abs=1e-4)
    # the paper: at the optimum each control variate is its hospital's gradient there, and their mean is zero
    assert [float(state["control"][0]) for state in states] == pytest.approx([-1.5, 1.5], abs=1e-3)


def test_scaffold_weighs_as_the_mean_does():
    # (3 f1 + f2) / 4 of 1/2 (w - 1)^2 with three beats and 3/2 (w + 1)^2 with one: least at w = 0
    hospitals = [(Scaled(1), samples([1, 1, 1])), (Scaled(3), samples([-1]))]
    found, _ = rounds({"algorithm": "scaffold", "local_steps": 4, "learning_rate": 0.2}, hospitals, f32(2), 40)
    assert found == pytest.approx([0.0], abs=1e-4)


def test_scaffolds_two_rounds_by_hand():
    """One hospital at 1, one at 5, K = 2 steps of rate 1/2 from 0: y = 3/4 and 15/4, so x' = 9/4, c = -9/4,
    c1 = -3/4, c2 = -15/4. Second round of the first: w - (w - 1 + 3/4 - 9/4) / 2 twice from 9/4 is 39/16."""
    hospitals = [(Scaled(), samples([1])), (Scaled(), samples([5]))]
    settings = {"algorithm": "scaffold", "local_steps": 2, "learning_rate": 0.5}
    first, states = rounds(settings, hospitals, f32(0), 1)
    assert first == pytest.approx([2.25])
    assert [float(s["control"][0]) for s in states] == pytest.approx([-0.75, -3.75])
    again = algorithm(**settings).local(work(Scaled(), first, samples([1]), 2, state=states[0]))
    assert first + again.update == pytest.approx([39 / 16])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"federation": {"local_steps": None}}, "algorithm scaffold needs federation.local_steps, a number"),
        ({"federation": {"participation": 0.5}}, "federation.participation is 0.5, and algorithm scaffold goes only with 1.0"),
        ({"aggregation": {"rule": "median"}}, "aggregation.rule is median, and algorithm scaffold goes only with mean"),
        ({"aggregation": {"server": {"method": "adam"}}}, "aggregation.server.method is adam, and algorithm scaffold goes"),
    ],
)  # fmt: skip
def test_scaffold_is_refused_where_the_models_do_not_tell_the_correction(changed: dict[str, Any], said: str):
    values: dict[str, Any] = {"federation": {"algorithm": "scaffold", "local_steps": 5}}
    parse(RunConfig, values, "file")
    for section, keys in changed.items():
        values[section] = {**values.get(section, {}), **keys}
    with pytest.raises(ConfigError, match=said):
        parse(RunConfig, values, "file")


# --- Ditto ------------------------------------------------------------------------------------------------------------


def test_ditto_by_hand():
    """One step of rate 1/4 a round on 1/2 (w - 8)^2, lambda 1: global 0 -> 2; personal 0 -> 2, then pulled to 2."""
    settings = {"algorithm": "ditto", "learning_rate": 0.25, "ditto_lambda": 1.0, "local_steps": 1}
    method = algorithm(**settings)
    first = method.local(work(Towards(), f32(0), samples([8]), 1))
    assert (first.update, first.state["personal"]) == ([2.0], [2.0])
    assert first.gradient_evaluations == 2
    second = method.local(work(Towards(), f32(1), samples([8]), 2, state=first.state))
    # the personal one: 2 - 1/4 ((2 - 8) + (2 - 1)) = 3.25; the global one starts from what it is given
    assert (second.update, second.state["personal"]) == ([1.75], [3.25])
    assert method.personalise(work(Towards(), f32(1), samples([8]), state=second.state)) == ([3.25], 0)


def test_ditto_without_a_pull_is_local_only_and_its_minimum_lies_between():
    data = samples([8])
    for weight, least in ((0.0, 8.0), (1.0, 4.0), (3.0, 2.0)):  # 1/2 (v - 8)^2 + weight / 2 (v - 0)^2
        method = algorithm(algorithm="ditto", ditto_lambda=weight, local_steps=200, learning_rate=0.2)
        assert method.local(work(Towards(), f32(0), data, 1)).state["personal"] == pytest.approx([least], abs=1e-4)


def test_a_hospital_that_ditto_never_saw_makes_its_own_model():
    # two rounds of one step, pulled to the last global model 1: 1 -> 1 + 7/4, then - 1/4 (7/4 - 21/4)
    settings = {"algorithm": "ditto", "rounds": 2, "local_steps": 1, "learning_rate": 0.25, "ditto_lambda": 1.0}
    personal, cost = algorithm(**settings).personalise(work(Towards(), f32(1), samples([8])))
    assert (personal, cost) == ([3.625], 2)


# --- What stays in the hospital ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kept"), [("fedper", 2), ("fedrep", 2), ("fedbn", 1)])
def test_the_kept_part_is_never_sent(name: str, kept: int):
    data = samples([3])
    params, states = rounds({"algorithm": name, "learning_rate": 0.1}, [(Product(), data)] * 2, f32(1, 1, 1), 3)
    assert params[kept] == 1.0
    assert all(params[i] > 1 for i in range(3) if i != kept)
    assert all(state["kept"].shape == (1,) and state["kept"][0] > 1 for state in states)
    personal, cost = algorithm({"method": "none"}, algorithm=name).personalise(
        replace(work(Product(), params, data, state=states[0]), layout=LAYOUT)
    )
    expected = params.copy()
    expected[kept] = states[0]["kept"][0]
    np.testing.assert_array_equal(personal, expected)
    assert cost == 0


def test_fedper_by_hand():
    # (b, n, h) = (1, 1, 1), target 3, rate 0.1: off -2, so all move to 1.2; only b and n are sent
    one = replace(work(Product(), f32(1, 1, 1), samples([3]), 1), layout=LAYOUT)
    result = algorithm(algorithm="fedper", learning_rate=0.1).local(one)
    assert result.update == pytest.approx([0.2, 0.2, 0.0])
    assert result.state["kept"] == pytest.approx([1.2])


def test_fedrep_trains_the_head_first():
    # two steps of the head alone: 1 -> 1.2 -> 1.38; then b and n with that head: off -1.62, slope 1.38
    recorder = Recorder(Product())
    one = replace(work(recorder, f32(1, 1, 1), samples([3]), 1), layout=LAYOUT)
    result = algorithm(algorithm="fedrep", learning_rate=0.1, fedrep={"head_steps": 2}).local(one)
    assert result.state["kept"] == pytest.approx([1.38])
    assert result.update == pytest.approx([0.1 * 1.62 * 1.38, 0.1 * 1.62 * 1.38, 0.0], rel=1e-5)
    assert result.gradient_evaluations == len(recorder.calls) == 3


def test_fedrep_with_one_body_fits_hospitals_that_no_common_model_fits():
    """The paper's case: the same representation, other heads. Targets 2 and -2 with a body in common."""
    hospitals = [(Product(), samples([2])), (Product(), samples([-2]))]
    settings = {"algorithm": "fedrep", "learning_rate": 0.1, "fedrep": {"head_steps": 5}}
    params, states = rounds(settings, hospitals, f32(1, 1, 0.5), 30)
    made = [params[0] * params[1] * float(state["kept"][0]) for state in states]
    assert made == pytest.approx([2, -2], abs=1e-3)
    common, _ = rounds({"learning_rate": 0.1}, hospitals, f32(1, 1, 0.5), 30)
    assert abs(common.prod()) < 1  # one model for both can only be between them


def test_the_parts_of_a_network():
    assert head(LAYOUT).tolist() == [False, False, True]
    assert norms(LAYOUT).tolist() == [False, True, False]
    assert head((("0.weight", (2,)), ("w", (1,)))).tolist() == [False, False, True]
    with pytest.raises(ConfigError, match="has no module norm or bn"):
        norms((("w", (2,)),))


# --- Adaptation -------------------------------------------------------------------------------------------------------


def adapted(personalisation: dict[str, Any], oracle: Any, params: np.ndarray, data: Any, validation: Any = None) -> Any:
    one = replace(work(oracle, params, data), layout=layout_of(params))
    if validation is not None:
        one = replace(one, validation=validation)
    return algorithm({"learning_rate": 0.5, "steps": 2, **personalisation}).personalise(one)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 6.0),  # on 1/2 (w - 8)^2 from 0 at 1/2: 4, 6
        ({"rate": "falling"}, 5.0),  # rates 1/2 and 1/4: 4, 5
        ({"pull": 1.0}, 4.0),  # 4; 4 - 1/2 (-4 + 4)
        ({"keep": "half-way"}, 3.0),
    ],
)
def test_ways_to_adapt_by_hand(settings: dict[str, Any], expected: float):
    assert adapted(settings, Towards(), f32(0), samples([8])) == ([expected], 2)


def test_only_the_head_moves():
    personal, _ = adapted({"part": "head", "learning_rate": 0.1}, Product(), f32(1, 1, 1), samples([3]))
    assert personal == pytest.approx([1, 1, 1.38])


def test_lp_ft_leaves_features_that_a_head_fits():
    """Kumar et al. 2022: with the head at its minimum there is no gradient left for the body; plain fine-tuning from a
    head that does not fit spoils it."""
    data, start = samples([3]), f32(1, 1, 0.5)
    settings = {"steps": 200, "rate": "constant", "learning_rate": 0.1}
    two, cost = adapted({"method": "lp-ft", **settings}, Product(), start, data)
    assert cost == 200
    assert two == pytest.approx([1, 1, 3], abs=1e-3)
    plain, _ = adapted(settings, Product(), start, data)
    assert abs(plain[0] - 1) > 0.2
    assert plain.prod() == pytest.approx(3, abs=1e-2)


def marks(ones: int, twos: int) -> Any:
    """Beats of class 0 at x = 1 and of class 1 at x = -1."""
    return samples([[1.0]] * ones + [[-1.0]] * twos, [0] * ones + [1] * twos)


KNOWS = f32(2, -2, 0, 0)  # of `Line`: class 0 on the right of zero, class 1 on the left
BLIND = f32(2, 0, 3, 0)  # calls everything class 0


def test_the_best_of_four_places_is_kept():
    # class 1 only where x is 1: fitting it takes the model from knowing both classes to knowing none of these
    wrong = samples([[1.0]] * 8 + [[-1.0]] * 8, [1] * 8 + [0] * 8)
    stay, _ = adapted({"keep": "best-on-validation", "steps": 40}, Line(), KNOWS, wrong, marks(5, 5))
    np.testing.assert_array_equal(stay, KNOWS)
    gone, cost = adapted({"keep": "best-on-validation", "steps": 40}, Line(), BLIND, marks(8, 8), marks(5, 5))
    assert cost == 40
    assert (Line().scores(gone, f32(1, -1)[:, None], f32()).argmax(1) == [0, 1]).all()


def test_a_safeguard_keeps_the_global_model_unless_validation_bears_out():
    guarded = {"method": "safeguarded", "steps": 40, "pull": 0.0}
    wrong = samples([[1.0]] * 8 + [[-1.0]] * 8, [1] * 8 + [0] * 8)
    np.testing.assert_array_equal(adapted(guarded, Line(), KNOWS, wrong, marks(5, 5))[0], KNOWS)  # would be worse
    np.testing.assert_array_equal(adapted(guarded, Line(), KNOWS, marks(8, 8), marks(5, 5))[0], KNOWS)  # no gain
    better, _ = adapted(guarded, Line(), BLIND, marks(8, 8), marks(5, 5))
    assert (Line().scores(better, f32(1, -1)[:, None], f32()).argmax(1) == [0, 1]).all()
    # one class gains more than the other loses: each class counts by itself
    at = samples([[1.0]] * 2 + [[-1.0]] * 9, [1] * 2 + [1] * 9)
    np.testing.assert_array_equal(adapted(guarded, Line(), BLIND, at, marks(2, 9))[0], BLIND)


def test_a_safeguard_does_not_push_down_a_class_that_the_hospital_lacks():
    only = marks(8, 0)
    before = Line().scores(KNOWS, f32(-1)[:, None], f32())[0]
    for method, kept in (("safeguarded", True), ("finetune", False)):
        recorder = Recorder(Line())
        settings = {"method": method, "steps": 60, "pull": 0.0, "keep": "last", "learning_rate": 0.5}
        adapted(settings, recorder, KNOWS, only, marks(4, 0))
        last = recorder.calls[-1][1]
        after = Line().scores(last, f32(-1)[:, None], f32())[0]
        assert (after[1] == before[1]) == kept


def test_without_validation_beats_the_last_train_beats_are_held_back():
    recorder = Recorder(Line())
    data = samples([[float(i)] for i in range(10)], [0, 1] * 5)
    adapted({"method": "safeguarded", "steps": 30}, recorder, BLIND, data)
    derived = {float(x) for _, _, batch in recorder.calls for x in batch.x.ravel()}
    scored = [set(each.ravel().tolist()) for each in recorder.scored]
    assert derived == set(map(float, range(8)))
    assert [some for some in scored if some != {0.0}] == [{8.0, 9.0}] * 5  # one beat tells the number of classes


# --- In a federation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scaffold", "ditto", "fedrep"])
def test_what_hospitals_keep_survives_an_interruption_in_any_pool(tiny_config, tmp_path: Path, name: str):
    keys = {"federation.algorithm": name, "federation.local_steps": 3, "personalisation.method": "safeguarded"}
    through = tiny_config(**keys)
    expected = numbers(run(through, tmp_path / "through"), tmp_path / "through")
    broken = tiny_config(**keys, **{"execution.pool": "threads"})
    with pytest.raises(Interrupted):
        run(broken, tmp_path / "broken", Place(observers=(StopAfter(2),)))
    again = run(broken, tmp_path / "broken")
    assert numbers(again, tmp_path / "broken") == expected
    assert again.timing.personalisation_gradient_evaluations == (0 if name == "ditto" else 30)
