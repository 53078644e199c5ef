"""DP-SGD in a hospital: samples, sums, noise and account; what is refused; what no file may hold."""

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import f32, samples
from scipy.stats import binomtest, kstest

from engine.algorithms.base import Work
from engine.algorithms.budget import noised_samples
from engine.algorithms.build import build_algorithm
from engine.algorithms.config import FederationConfig, PersonalisationConfig
from engine.audit.run import audit
from engine.checkpoint import NAME as CHECKPOINT
from engine.data.beats import Beats
from engine.errors import ConfigError, PrivacyError, Stopped
from engine.experiment import HERE, run, steps
from engine.oracles.base import Batch, Clipped
from engine.privacy.config import PrivacyConfig
from engine.privacy.dpsgd import SPENT, ZEROED, dp_sgd
from engine.privacy.plan import Mechanism, mechanism_of
from engine.privacy.secret import commitment, normal, release_seed, sampled, simulated_secret

SECRET = bytes(range(32))
PRIVATE = {
    "privacy.method": "dp-sgd",
    "privacy.noise": 1.0,
    "privacy.steps": 3,
    "privacy.sampling_rate": 0.1,
    "personalisation.steps": 2,
}


class Ones:
    """Each beat's gradient is as long as its window's number says; it is clipped as asked for."""

    def clipped_gradient(self, params: np.ndarray, batch: Batch, clip: float) -> Clipped:
        lengths = batch.x[:, 0].astype(float)
        finite = np.isfinite(lengths)
        total = np.minimum(lengths[finite], clip).sum()
        return Clipped(np.full(len(params), total, np.float32), 0, int((~finite).sum()))


def mechanism(**changes: Any) -> Mechanism:
    return mechanism_of(PrivacyConfig(method="dp-sgd", noise=2.0, sampling_rate=0.1), (100, 50))._replace(**changes)


def release(
    one: Mechanism, round: int = 1, params: np.ndarray | None = None, state: Any = None, patients: Any = None
) -> Any:
    patients = np.zeros(1000) if patients is None else patients
    return dp_sgd(one, patients, SECRET, round, f32(0) if params is None else params, state or {})


def take(privacy: Any, batch: Batch, size: int = 1) -> np.ndarray:
    """A gradient as an algorithm gets it."""
    loss, total = privacy.gradient(Ones(), np.zeros(size, np.float32), batch)
    assert math.isnan(loss)  # it is not told
    return privacy.noise(total)


def test_a_sample_takes_each_beat_with_the_same_probability_and_on_its_own():
    draws = np.zeros((400, 50), bool)
    for batch in range(400):
        draws[batch, sampled(SECRET, 0, batch, 50, 3, 10)] = True
    assert binomtest(int(draws.sum()), draws.size, 0.3).pvalue > 1e-3
    both = (draws[:, :-1] & draws[:, 1:]).sum()
    assert binomtest(int(both), draws[:, 1:].size, 0.09).pvalue > 1e-3
    sizes = draws.sum(1)
    assert np.var(sizes) == pytest.approx(50 * 0.3 * 0.7, rel=0.25)  # sizes vary as a binomial's do
    assert sampled(SECRET, 0, 0, 50, 10, 10).tolist() == list(range(50))


def test_streams_batches_and_secrets_share_nothing():
    def first(*name: Any) -> list[int]:
        return sampled(*name, 1000, 1, 2).tolist()

    others = [first(SECRET, 1, 0), first(SECRET, 0, 1), first(bytes(32), 0, 0)]
    assert all(first(SECRET, 0, 0) != other for other in others)


def test_the_noise_is_normal():
    draws = normal(SECRET, 0, 20_001)
    assert draws.shape == (20_001,)
    assert kstest(draws, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(draws, normal(SECRET, 1, 20_001))[0, 1]) < 0.03


def test_a_gradient_is_the_clipped_sum_with_noise_over_a_constant():
    one = mechanism(sigma=3_000_000, clip=500_000)
    batch = samples([0.2, 0.4, 9.0]).batch()
    found = take(release(one), batch, 20_000) * (0.1 * 1000)  # q n, not the three beats that were drawn
    assert np.mean(found) == pytest.approx(0.2 + 0.4 + 0.5, abs=0.05)
    assert np.std(found) == pytest.approx(3 * 0.5, rel=0.02)


def test_an_empty_sample_releases_noise_and_counts():
    privacy = release(mechanism())
    empty = samples([1.0]).batch(np.zeros(0, np.int64))
    assert np.std(take(privacy, empty, 10_000)) == pytest.approx(2 / 100, rel=0.05)
    assert privacy.price(0)["spent"] == [1, 0]


def test_a_gradient_that_is_not_finite_is_counted_where_nobody_is_told():
    privacy = release(mechanism())
    take(privacy, samples([np.nan, 1.0, np.nan]).batch())
    assert privacy.memory()[ZEROED].tolist() == [2]
    assert "zeroed" not in str(privacy.price(0))


def test_a_release_that_is_repeated_has_the_same_bits_and_is_counted_once():
    one, batch = mechanism(), samples([1.0, 2.0]).batch()
    first = release(one)
    value = take(first, batch)
    again = release(one, state=first.memory())
    assert take(again, batch) == value
    assert again.price(0)["spent"] == [1, 0]
    for other in (release(one, round=2, state=first.memory()), release(one, params=f32(1), state=first.memory())):
        assert take(other, batch) != value
        assert other.price(0)["spent"] == [2, 0]  # and the first one stays counted
        assert other.price(0)["steps"] == [1, 0]


def test_a_round_that_is_repeated_from_another_state_has_other_noise():
    one, batch = mechanism(), samples([1.0]).batch()
    assert take(release(one, state={"params": f32(1)}), batch) != take(release(one, state={"params": f32(2)}), batch)


def test_two_gradients_of_one_sample_are_counted_as_such():
    privacy, batch = release(mechanism(budget=(1, 1))), samples([1.0]).batch()
    take(privacy, batch)
    take(privacy, batch)
    assert privacy.price(0)["spent"] == [0, 1]
    take(privacy, samples([1.0]).batch())
    with pytest.raises(PrivacyError, match="2 noised samples are allowed in the whole run, and this would be one more"):
        take(privacy, samples([1.0]).batch())


def test_what_is_left_for_two_of_a_sample_pays_for_one_but_not_the_other_way_round():
    batch = samples([1.0]).batch()
    privacy = release(mechanism(budget=(0, 1)))
    take(privacy, batch)
    privacy = release(mechanism(budget=(5, 0)))
    take(privacy, batch)
    with pytest.raises(PrivacyError, match="0 noised samples of 2 gradients each"):
        take(privacy, batch)


def test_three_gradients_of_one_sample_are_refused():
    privacy, batch = release(mechanism()), samples([1.0]).batch()
    take(privacy, batch)
    take(privacy, batch)
    with pytest.raises(PrivacyError, match="more than 2 gradients of one sample"):
        take(privacy, batch)


@pytest.mark.parametrize(
    ("settings", "round", "adapting"),
    [
        ({"algorithm": "fedavg"}, (8, 0), 3),
        ({"algorithm": "fedprox"}, (8, 0), 3),
        ({"algorithm": "local"}, (8, 0), 0),
        ({"algorithm": "centralised"}, (8, 0), 3),
        ({"algorithm": "scaffold"}, (8, 0), 3),
        ({"algorithm": "ditto"}, (16, 0), 0),
        ({"algorithm": "fedper"}, (8, 0), 3),
        ({"algorithm": "fedrep", "fedrep": {"head_steps": 5}}, (13, 0), 3),
        ({"algorithm": "fedbn"}, (8, 0), 3),
        ({"algorithm": "perfedavg", "perfedavg": {"variant": "first-order", "stratified": False}}, (8, 0), 3),
        ({"algorithm": "perfedavg", "perfedavg": {"variant": "difference", "stratified": False}}, (4, 2), 3),
        (
            {"algorithm": "perfedavg", "perfedavg": {"variant": "difference", "stratified": False, "tau": 5}},
            (10, 5),
            3,
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_the_budget_is_what_an_algorithm_takes(settings: dict[str, Any], round: tuple[int, int], adapting: int):
    federation, adapt = FederationConfig(rounds=2, **settings), PersonalisationConfig(steps=3)
    budget = noised_samples(federation, adapt, 8)
    assert budget == (2 * round[0] + adapting, 2 * round[1])
    one = mechanism(steps=8, budget=budget, rate=500_000_000)
    algorithm, state, seed = build_algorithm(federation, adapt), {}, functools.partial(np.random.default_rng, 0)
    nobody: Any = Ones()
    for number in (1, 2):
        privacy = dp_sgd(one, np.zeros(10), SECRET, number, f32(number), state)
        work = Work(nobody, (("norm.w", (1,)),), f32(number), state, samples([1.0] * 10), seed(), number, privacy)
        result = algorithm.local(work)
        assert privacy.price(0)["steps"] == list(round)
        assert result.gradient_evaluations == round[0] + 2 * round[1]
        state = {**result.state, **privacy.memory()}
    privacy = dp_sgd(one, np.zeros(10), SECRET, 0, f32(5), state)
    algorithm.personalise(replace(work, params=f32(5), state=state, privacy=privacy))
    assert privacy.price(0)["spent"] == list(budget)


# --- Patients ---------------------------------------------------------------------------------------------------------


class Shifted:
    """Gradient of a batch: the mean of its windows, in two parameters."""

    def gradient(self, params: np.ndarray, batch: Batch) -> tuple[float, np.ndarray]:
        return 0.0, np.full(2, batch.x[:, 0].mean(), np.float32)


def of_patients(beats: list[float], patients: list[int]) -> Batch:
    return replace(samples(beats), patient=np.array(patients)).batch()


def test_a_patient_counts_at_most_the_norm_whatever_beats_it_has():
    one, params, oracle = mechanism(unit="patient", clip=1_000_000), np.zeros(2, np.float32), Shifted()
    beats, patients = [0.1, 0.3, 50.0, 70.0, -0.2, 900.0], [0, 0, 1, 1, 2, 3]
    _, everybody = release(one, patients=np.array(patients)).gradient(oracle, params, of_patients(beats, patients))
    assert np.linalg.norm(everybody) == pytest.approx(2, abs=1e-4)  # 0.28 + 1 - 0.28 + 1
    for patient in range(4):
        kept = [i for i, one_of in enumerate(patients) if one_of != patient]
        others = of_patients([beats[i] for i in kept], [patients[i] for i in kept])
        _, without = release(one, patients=np.array(patients)).gradient(oracle, params, others)
        assert np.linalg.norm(everybody - without) <= 1


def test_patients_are_sampled_as_a_whole_with_a_few_beats_of_each():
    patients = np.repeat(np.arange(40), 25)
    privacy = release(mechanism(unit="patient", rate=250_000_000, beats=10), patients=patients)
    batches = privacy.batches(1000, 32, np.random.default_rng(0))
    counts = np.array([np.bincount(patients[next(batches)], minlength=40) for _ in range(50)])
    assert set(np.unique(counts).tolist()) == {0, 10}
    assert binomtest(int((counts > 0).sum()), counts.size, 0.25).pvalue > 1e-3
    total = privacy.noise(np.zeros(20_000, np.float32))
    assert np.std(total) == pytest.approx(2 / (0.25 * 40), rel=0.05)  # over the expected number of patients


def test_a_patient_whose_gradient_is_not_finite_counts_zero():
    privacy = release(mechanism(unit="patient"), patients=np.array([0, 0, 1]))
    _, found = privacy.gradient(Shifted(), np.zeros(2, np.float32), of_patients([np.nan, 1.0, 0.5], [0, 0, 1]))
    assert found.tolist() == [0.5, 0.5]
    assert privacy.memory()[ZEROED].tolist() == [1]


def test_a_run_of_patients_is_audited(tiny_config, tmp_path: Path):
    keys = {**PRIVATE, "privacy.unit": "patient", "privacy.beats": 8, "privacy.sampling_rate": 0.5}
    result = run(tiny_config(**keys, **{"ledger.backend": "embedded"}), tmp_path / "run")
    assert (result.privacy.unit, result.privacy.hospitals[0].samples) == ("patient", (8, 0))
    assert audit(tmp_path / "run").lines()[-1].endswith("clean")


@pytest.mark.parametrize(("algorithm", "each"), [("ditto", 2 * 3), ("fedrep", 5 + 3)])
def test_the_true_number_of_gradients_is_signed_and_audited(tiny_config, tmp_path: Path, algorithm: str, each: int):
    keys = {**PRIVATE, "federation.algorithm": algorithm, "federation.fedrep.head_steps": 5, "federation.rounds": 1}
    result = run(tiny_config(**keys, **{"ledger.backend": "embedded"}), tmp_path / "run")
    adapting = 0 if algorithm == "ditto" else 2
    assert {row.samples for row in result.privacy.hospitals} == {(each + adapting, 0)}
    assert audit(tmp_path / "run").lines()[-1].endswith("clean")


# --- The whole run ----------------------------------------------------------------------------------------------------


def test_the_noise_follows_from_epsilon():
    config = PrivacyConfig(method="dp-sgd", epsilon=2.0, sampling_rate=0.05, steps=10)
    one = mechanism_of(config, (200, 0))
    assert 1.9 < one.epsilon(one.budget) <= 2.0
    assert one.sigma % 1000 == 0


REFUSED = {
    "balance.method class_weighted": {"balance.method": "class_weighted"},
    "balance.method smote": {"balance.method": "smote"},
    "federation.local_epochs counts passes over shuffled batches": {"federation.local_epochs": 2},
    "personalisation.epochs counts passes over shuffled batches": {"personalisation.epochs": 1.0},
    "federation.perfedavg.stratified draws evenly": {"federation.algorithm": "perfedavg"},
    "variant exact takes a Hessian-vector product": {
        "federation.algorithm": "perfedavg",
        "federation.perfedavg.stratified": False,
        "federation.perfedavg.variant": "exact",
    },
    "balance.weights: 'X' is no class": {"balance.method": "public_weights", "balance.weights": {"X": 2.0}},
    "public_weights needs balance.weights": {"balance.method": "public_weights"},
    "balance.weights must be numbers from 0": {"balance.method": "public_weights", "balance.weights": {"V": -1.0}},
    "privacy.secret key needs ledger.keystore": {"privacy.secret": "key"},
    "needs one of privacy.epsilon and privacy.noise, not both": {"privacy.epsilon": 1.0},
    "needs one of privacy.epsilon and privacy.noise, not none": {"privacy.noise": None},
    "privacy.noise is for methods dp-sgd and features": {"privacy.method": "none"},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_accounted_for_is_refused_by_name(tiny_config, sentence: str):
    with pytest.raises(ConfigError) as error:
        tiny_config(**{**PRIVATE, **REFUSED[sentence]})
    assert sentence in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_pruning_is_refused(tiny_config, tmp_path: Path):
    with pytest.raises(ConfigError, match="does not go with pruning"):
        next(steps(tiny_config(**PRIVATE), tmp_path / "run", rungs=(1,)))


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("private") / "run"
    return run(tiny_config(**PRIVATE, **{"ledger.backend": "embedded"}), folder), folder


def test_the_result_says_what_was_spent_and_what_is_not_protected(finished):
    said = finished[0].privacy
    assert (said.mechanism, said.unit, said.neighbours, said.sigma, said.delta) == (
        "dp-sgd/1",
        "beat",
        "add-remove",
        1.0,
        1e-5,
    )
    assert [row.samples for row in said.hospitals] == [(2 * 3 + 2, 0)] * 3
    assert said.epsilon == said.hospitals[0].epsilon == said.pld < said.rdp
    assert said.secret == "simulated"
    assert "the secrets are simulated" in said.not_protected[0]
    assert any("validation and test beats" in words for words in said.not_protected)
    assert said.most_beats_of_a_patient > 1
    assert [row.train_loss for row in finished[0].rounds] == [None, None]


def test_no_file_holds_a_secret(finished, tiny_config):
    """Neither the secret nor the seed of a release, as bytes or in hex; commitments are there, or the search would be vain."""
    result, folder = finished
    seed = result.config.seed
    secrets = [simulated_secret(seed, hospital) for hospital in range(3)]
    from engine.ledger import archive

    genesis = archive.read(folder / "ledger", 0)["genesis"]
    seeds = [release_seed(secret, 1, [genesis]) for secret in secrets]
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != CHECKPOINT]
    assert len(files) > 5
    content = b"".join(path.read_bytes() for path in files)
    for one in (*secrets, *seeds):
        assert one not in content
        assert one.hex().encode() not in content
    assert commitment(seeds[0]).hex().encode() in content


def test_an_interrupted_run_repeats_its_noise(finished, tiny_config, tmp_path: Path):
    config = tiny_config(**PRIVATE, **{"ledger.backend": "embedded"})
    with pytest.raises(Stopped):
        run(config, tmp_path / "run", replace(HERE, stopping=lambda: True))
    again = run(config, tmp_path / "run")
    assert again.model_hash == finished[0].model_hash
    assert again.privacy == finished[0].privacy
    assert again.final == finished[0].final


def test_a_seed_of_the_run_alone_gives_other_noise_for_another_hospital(finished):
    assert simulated_secret(0, 0) != simulated_secret(0, 1) != simulated_secret(1, 1)
    assert SPENT.startswith("privacy.")
    assert Beats is not None


def test_a_method_is_called_by_its_epsilon(tiny_config):
    from sweeps.methods import method_of

    asked = {**PRIVATE, "privacy.noise": None, "privacy.epsilon": 8.0}
    assert method_of(tiny_config(**asked)).title == "FedAvg + fine-tuning + epsilon 8"
    assert method_of(tiny_config(**PRIVATE)).title == "FedAvg + fine-tuning + noise 1"
    assert method_of(tiny_config()).title == "FedAvg + fine-tuning"
