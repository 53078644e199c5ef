"""The benchmarks: the second writing of network and draws, tiny races, what the ledger costs and how long it waits."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from results import whole

from engine import seeds
from engine.data.beats import load_beats, open_beats
from engine.data.config import DataConfig
from engine.model import ModelConfig, build_network, initial_parameters
from engine.oracles.base import Batch, Clipped
from engine.oracles.torch import TorchOracle
from engine.privacy.dpsgd import from_seed
from engine.privacy.plan import RATE, mechanism_of
from engine.result import CohortReport, HospitalReport, HospitalScores, Result, Scores
from engine.schedule.sampled import Sampled

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workload of twelve hospitals, of which four train in a round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import federation

        folder = tmp_path_factory.mktemp("data") / "W3"
        federation.make_data(folder, federation.Workload(hospitals=12, per_round=4, train=40, test=10))
    return folder


def test_the_peers_network_and_draws_are_the_engines(workload: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from peers import common

    task, data, beats = common.load_task(workload), common.Data(workload), open_beats(workload, check=True)
    network = build_network(ModelConfig(), leads=1, window=252, rr=4, classes=4)
    params = initial_parameters(network, 7)
    module = common.Network(task)
    common.load(module, params)
    assert [(n, tuple(p.shape)) for n, p in module.named_parameters()] == list(network.layout)
    np.testing.assert_array_equal(common.flatten(module), params)
    np.testing.assert_allclose(
        module(data.x[:30], data.rr[:30]).detach().numpy(),
        TorchOracle(network).scores(params, beats.x[:30], beats.rr[:30]),
        atol=1e-5,
    )
    trained = params.copy()
    common.load(module, trained)
    assert common.train(task, data, module, hospital=3, round=1) == 2
    np.testing.assert_array_equal(trained, params)  # a copy was trained
    assert not np.allclose(common.flatten(module), params)

    assert common.selected(task, 5) == list(Sampled(task.seed, tuple(range(12)), 4).select(5))
    first, test, _ = data.ranges[3]
    order = first + seeds.generator(task.seed, "batches", 2, 3).permutation(test - first)
    assert np.concatenate([b.numpy() for b in common.batches(task, data, 3, 2)]).tolist() == order.tolist()


def test_a_tiny_race(tmp_path: Path):
    out = tmp_path / "results.json"
    contestants = "bare-2,ours-threads-torch,flower"
    command = [sys.executable, str(BENCHMARKS / "federation.py"), "--workloads", "W3", "--contestants", contestants]
    options = ["--scale", "0.01", "--rounds", "2", "--repetitions", "1", "--out", str(out)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=dict(os.environ), timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flower is left out: give its Python by --flower" in done.stdout
    assert "the best float32 matrix product here, on 2 cores: " in done.stdout
    result = json.loads(out.read_text())["workloads"]["W3"]
    assert result["problems"] == []
    assert set(result["rows"]) == {"bare-2", "ours-threads-torch"}
    for runs in result["runs"].values():
        assert runs[0]["steps"] == 2 * 2 * 2  # rounds, hospitals, batches of 50 beats
        assert 0 < runs[0]["final_loss"] < 2
        assert runs[0]["rss_mb"] > 50
        assert runs[0]["wall"] > sum(runs[0]["rounds"])
    assert result["rows"]["ours-threads-torch"]["loss_off"] < 1e-4


def test_the_paillier_of_the_comparison_is_the_published_one(monkeypatch: pytest.MonkeyPatch):
    reason = "phe (GPL-3.0) is not installed: pip install pulseledger[oracles]"
    theirs = pytest.importorskip("phe.paillier", reason=reason)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    ours = importlib.import_module("secure").Paillier(512)
    public = theirs.PaillierPublicKey(ours.n)
    private = theirs.PaillierPrivateKey(public, ours.p, ours.q)
    for number in (0, 1, 2**38 - 1, ours.n - 1):
        assert private.raw_decrypt(ours.encrypt(number)) == number
        assert ours.decrypt(public.raw_encrypt(number)) == number
    both = ours.encrypt(7) * public.raw_encrypt(ours.n - 3) % ours.square
    assert ours.decrypt(both) == private.raw_decrypt(both) == 4


def test_ckks_sums_are_nearly_right(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tenseal", reason="TenSEAL is not installed: pip install pulseledger[benchmarks]")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = importlib.import_module("secure").ckks(5000)
    assert 0 < found["error"] < 1e-6
    assert found["bytes"] > 10 * 4 * 5000


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/ledger.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("ledger")


def test_the_wait_for_a_slow_chain_by_hand(costs: ModuleType):
    """The looks at the chain come 0.01, 0.03, 0.07, 0.15, 0.31, 0.56, 0.81, 1.06, ... seconds after sending."""
    # A chain that seals at once holds nobody up: the last of ten rounds of 2 s is sealed when it is prepared.
    assert costs.predict(2.0, 10, 0.0, 0.05) == pytest.approx(20.05)
    # Blocks at 0.5, 1.5, ...: the round ends at 2, is sent at 2.1, mined at 2.5, noticed at the look at 2.1 + 0.56.
    assert costs.predict(2.0, 1, 1.0, 0.1, phase=0.5) == pytest.approx(2.66)
    # Two more blocks on top come at 4.5; looks from 2.1 + 0.56 on are 0.25 apart: 4.66.
    assert costs.predict(2.0, 1, 1.0, 0.1, phase=0.5, confirmations=2) == pytest.approx(4.66)
    # Rounds longer than the block time wait for their own seal only, however many there are.
    assert costs.predict(3.0, 50, 1.0, 0.1) - 150 == pytest.approx(costs.predict(3.0, 5, 1.0, 0.1) - 15)
    # Shorter ones queue up: every further round costs one block.
    assert costs.predict(0.3, 60, 5.0, 0.1) - costs.predict(0.3, 50, 5.0, 0.1) == pytest.approx(50, abs=0.3)


def test_the_cost_table(costs: ModuleType, capsys: pytest.CaptureFixture[str]):
    rows = {(row["hospitals"], row["design"]): row for row in costs.table([2, 5], rounds=2, steps=2)}
    assert set(rows) == {(n, design) for n in (2, 5) for design in ("none", "store", "event", "seal")}
    gas = {key: row["gas"].median for key, row in rows.items()}
    for design in ("store", "event"):
        each = (gas[5, design] - gas[2, design]) / 3  # for one more hospital
        assert each > 30_000
        assert gas[2, design] - 2 * each < 80_000  # what is left is the closing transaction
    assert gas[2, "seal"] == pytest.approx(gas[5, "seal"], abs=100)
    assert gas[2, "seal"] < 75_000
    assert rows[2, "none"]["total"].values == [0.0, 0.0]
    assert all(0 < row["critical"].median <= row["total"].median for key, row in rows.items() if key[1] != "none")
    costs.print_table(list(rows.values()))
    assert capsys.readouterr().out.count("\n") == 2 + len(rows)


def test_the_baseline_contracts_are_built_from_their_sources():
    if shutil.which("node") is None or not (BENCHMARKS.parent / "contracts/node_modules/solc").is_dir():
        pytest.skip(
            "Node, or what it compiles with, is not installed: apt-get install nodejs, and run `npm ci` in contracts/"
        )
    command = ["node", str(BENCHMARKS / "contracts/build.mjs"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_the_latency_model_against_a_node(costs: ModuleType):
    prepare = costs.measure(0, 0.05, 5, 0.0)["sealing"]
    for train in (0.3, 1.5):
        found = costs.measure(1, train, 8, 0.4)
        expected = costs.predict(found["round"], 8, 1, prepare, found["phase"])
        assert found["seconds"] == pytest.approx(expected, abs=2)  # one block, and one for a busy machine


# --- The study benchmark ----------------------------------------------------------------------------------------------


def study_race(out: Path, contestants: str, *more: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / "study.py"), "--contestants", contestants, "--out", str(out)]
    options = [
        "--trials",
        "4",
        "--rounds",
        "1",
        "--minutes",
        "1.5",
        "--repetitions",
        "1",
        "--helps",
        "1",
        "--timeout",
        "120",
    ]
    done = subprocess.run(
        [*command, *options, *more], capture_output=True, text=True, env=dict(os.environ), timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All trials came to the same weights." in done.stdout
    return json.loads(out.read_text())


def check_study_race(result: dict[str, Any]) -> None:
    for name, (run,) in result["runs"].items():
        assert len(set(run["weights"].values())) == 4  # four learning rates, four models
        assert 0 < run["first"] < run["wall"]
        assert 0 < run["train_seconds"] < 4 * run["run_seconds"]
        row = result["rows"][name]
        assert row["per_hour"] == pytest.approx(3600 * 4 / run["wall"])
        assert row["busy"] == pytest.approx(run["cpu"] / (2 * run["wall"]))
        assert row["own_rss_mb"] > 50
    assert 0 < result["help"]["python -c pass"] < result["help"]["import optuna, ray"]


@pytest.mark.long
def test_a_tiny_race_of_optuna_loops(tmp_path: Path):
    result = study_race(tmp_path / "results.json", "optuna,optuna-2")
    assert set(result["runs"]) == {"optuna", "optuna-2"}
    check_study_race(result)


@pytest.mark.long
def test_trivial_trials_are_ours_alone(tmp_path: Path):
    result = study_race(tmp_path / "results.json", "ours,optuna", "--trivial")
    assert set(result["runs"]) == {"ours"}
    check_study_race(result)


@pytest.mark.long
def test_a_tiny_race_of_studies(tmp_path: Path):
    result = study_race(tmp_path / "results.json", "ours,ours-actors,optuna,tune")
    assert set(result["runs"]) == {"ours", "ours-actors", "optuna", "tune"}
    assert set(result["ratios"]["ours"]) == {"optuna", "tune"}
    check_study_race(result)


def test_what_a_trial_costs_beyond_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Four trials of 2 s each; two slots finish a pair at 5 s and a pair at 8 s, one slot needs 3 s for each."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import study

    for name, ends in (("ours-0", (5, 5, 8, 8)), ("optuna-0", (3, 6, 9, 12))):
        for number, end in enumerate(ends):
            home = tmp_path / name / "trials" / f"{number:04d}" / "seed-0"
            home.mkdir(parents=True)
            document = whole(Result) | {"model_hash": f"{number}"}
            document["timing"] |= {"total_seconds": 2.0, "train_seconds": 1.5}
            document["config"]["federation"]["learning_rate"] = number + 1.0
            Result.model_validate_json(json.dumps(document)).write(home)
            os.utime(home / "result.json", (1000 + end, 1000 + end))
    two = study.trials_of(tmp_path / "ours-0", 1000.0, 4)
    one = study.trials_of(tmp_path / "optuna-0", 1000.0, 4)
    assert two["first"] == 5
    assert two["steady_per_hour"] == 3600 * 2 / 3
    assert two["cost_seconds"] == one["cost_seconds"] == pytest.approx(1.0)
    assert one["steady_per_hour"] == 1200
    assert two["train_seconds"] == 6
    assert study.problems_of({"ours": [two], "optuna": [one]}) == []
    other = {**one, "weights": {**one["weights"], "4.0": "another"}}
    assert study.problems_of({"ours": [two], "optuna": [other]}) == ["optuna came to other weights than ours"]
    with pytest.raises(RuntimeError, match="ours-0: 4 of 5 trials left a result"):
        study.trials_of(tmp_path / "ours-0", 1000.0, 5)


def test_the_audit_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    audit = importlib.import_module("audit")
    found = audit.measure(audit.make(tmp_path, rounds=3, hospitals=2, parameters=11))
    assert found["clean"]
    assert [found["counts"][name] for name in ("rounds", "updates", "aggregates")] == [3, 6, 3]
    assert found["seconds"] > 0


# --- The tables of the synthesis study --------------------------------------------------------------------------------


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/synthesis.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("synthesis")


def scored(tables: ModuleType, seed: int, n: float, s: float | None, v: float) -> Any:
    recall = {"N": n, "S": s, "V": v}
    support = {"N": 50, "S": 0 if s is None else 4, "V": 7}
    row = {**whole(HospitalScores), "id": 0, "recall": recall, "support": support}
    scores = {**whole(Scores), "recall": recall, "macro_f1": (n + v) / 2, "per_hospital": [row]}
    hospital = {**whole(HospitalReport), "id": 0, "records": ["100"], "classes": {"N": 90, "S": 8, "V": 9}}
    cohort = {**whole(CohortReport), "hospitals": [hospital], "local_majority_macro_f1": 0.25}
    return tables.Run(seed, Scores.model_validate(scores), CohortReport.model_validate(cohort))


def test_differences_are_paired_over_seeds_by_hand(tables: ModuleType):
    """Of S: 0.2, 0.3 and 0.4, so 30 points; the sd is 10, t(0.975, 2) is 4.303, and 4.303 * 10 / sqrt(3) is 24.8."""
    runs = {
        ("none", "none"): [scored(tables, i, 0.9, 0.1 * i, 0.5) for i in (1, 2, 3)],
        ("none", "smote"): [scored(tables, i, 0.8, 0.1 * i + 0.1 * (i + 1), 0.5) for i in (3, 1, 2)],
        ("fine-tuning", "smote"): [scored(tables, 1, 0.9, 0.3, 0.5)],
    }
    head, row = tables.difference_table(runs, "none")  # fine-tuning has nothing to be compared with
    cells = dict(zip(head, row, strict=True))
    assert (cells["personalisation"], cells["balancing"]) == ("none", "smote")
    assert cells["S"] == "**+30.0 [+5.2, +54.8]**"
    assert cells["rare recall"] == "**+15.0 [+2.6, +27.4]**"  # half of it: V does not change
    assert cells["N"] == "**-10.0 [-10.0, -10.0]**"
    assert cells["V"] == "+0.0 [+0.0, +0.0]"
    assert cells["p of rare recall"] == "0.035"  # t = 3 * sqrt(3) = 5.196 at 2 degrees: 2 * 0.0175


def test_a_class_that_is_not_tested_leaves_no_number(tables: ModuleType):
    runs = {(p, m): [scored(tables, i, 0.9, None, 0.5) for i in (0, 1)] for p in ("none",) for m in ("none", "smote")}
    head, row = tables.difference_table(runs, "none")
    assert dict(zip(head, row, strict=True))["S"] == "–"
    assert tables.rare_recall(scored(tables, 0, 0.9, None, 0.5).scores) == 0.5
    assert tables.hospital_table(runs)[0] == ["personalisation", "balancing", "V at 0 (7)", "N at 0 (50)"]
    assert tables.cohort_table(runs)[1] == ["0", "100", "90 / 50", "8 / 0", "9 / 7"]
    assert tables.score_table(runs)[-1][3] == "0.250"
    assert tables.markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_holms_correction_by_hand(tables: ModuleType):
    assert tables.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert tables.holm([0.5, 0.9]) == [1.0, 1.0]


def test_what_the_default_policy_decides_by_hand(tables: ModuleType):
    from simulators import request

    from engine.ledger.typed import record_to_json

    def row(floor: int, wanted: int, **numbers: int) -> dict[str, Any]:
        asked = request(class_=1, generator=2, quantity=wanted, real_floor=floor)
        evidence = {"auc_bp": 9_000, "nndr_bp": 600, "distance_bp": 10_000, "duplicates": 3, "repeated": 3}
        evidence |= {"spread_bp": 9_000, "utility_bp": 0, "recognised_bp": 9_000, **numbers}
        return {"record": record_to_json(asked), "numbers": evidence, "accepted": wanted}

    assert tables.by_default(row(10, 90)) == "50 granted, accepted"  # five for each of ten
    assert tables.by_default(row(2, 9)).startswith("denied: there are too few real beats for this generator")
    assert tables.by_default(row(50, 90, nndr_bp=499)).startswith("90 granted, rejected: the beats lie too close")
    assert (
        tables.by_default(row(50, 90, repeated=37)) == "90 granted, rejected: too many of the beats repeat one another"
    )


@pytest.fixture
def incentive(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/incentive.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("incentive")


def test_points_of_a_game_by_hand(incentive: ModuleType):
    """Always accepted: reputations 11 and 12, as many points. Never: 0 at once, and nothing; who rejoins stands at 10 again."""
    draw, sure = np.random.default_rng(0), incentive.Strategy(1.0)
    points, worked = incentive.played([sure] * 3, 2, draw)
    assert (points.tolist(), worked.tolist()) == ([23] * 3, [2] * 3)
    never, again = incentive.Strategy(0.0), incentive.Strategy(0.0, work=0.0, idle=1.0, rejoin=10)
    points, worked = incentive.played([sure, never, again], 2, draw)
    assert (points.tolist(), worked.tolist()) == ([23, 0, 23], [2, 2, 0])


def test_honesty_is_the_best_reply_to_honesty(incentive: ModuleType):
    honest = [incentive.STRATEGIES["honest"]]
    left = {name: incentive.games(one, honest, 12, 5.0)[1].mean() for name, one in incentive.STRATEGIES.items()}
    assert max(left, key=left.__getitem__) == "honest"
    assert left["hostile"] < left["free-rider"] < left["lazy"]


def test_the_row_without_noise_of_table_iv_differs_by_noise_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bpfish
    import unnoised

    source = {"source": "simulated", "window": [90, 162]}
    plain, noised = (bpfish.config_of(source, sigma, 8.0, 0.1, 15, 0) for sigma in (0.0, 1.0))
    assert plain.model_copy(update={"privacy": noised.privacy}) == noised
    how = plain.privacy.parameters
    assert (how["rate"], how["clip"], how["steps"]) == (
        noised.privacy.sampling_rate,
        noised.privacy.clip,
        noised.privacy.steps,
    )

    class Rows:
        """The gradient of a beat is the beat."""

        def clipped_gradient(self, params: np.ndarray, batch: Batch, clip: float) -> Clipped:
            norms = np.linalg.norm(batch.x[:, 0], axis=1)
            return Clipped((batch.x[:, 0].T * np.minimum(1, clip / norms)).sum(axis=1), int((norms > clip).sum()), 0)

    x = np.random.default_rng(3).standard_normal((9, 1, 80), np.float32)
    batch = Batch(x, np.zeros((9, 4), np.float32), np.arange(9) % 4)
    silent = mechanism_of(noised.privacy, (1, 0))._replace(rate=RATE, sigma=0)
    theirs = from_seed(silent, np.zeros(9, np.int64), bytes(32), {})
    ours = unnoised.clipped(np.random.default_rng(0), rate=1.0, clip=8.0, steps=10)
    steps = []
    for one in (ours, theirs):
        assert next(one.batches(9, 32, np.random.default_rng(0))).tolist() == list(range(9))
        steps.append(one.noise(one.gradient(Rows(), np.zeros(80, np.float32), batch)[1]))
    np.testing.assert_array_equal(*steps)
    assert 0 < np.linalg.norm(steps[0]) < np.linalg.norm(x.mean(axis=0))  # some of the nine are longer than 8
    assert (ours.steps, theirs.steps) == (10, 10)


def test_what_the_page_says_of_other_chains_is_what_the_model_gives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import permissioned as model

    page = (BENCHMARKS.parent / "docs/ledger-cost.md").read_text(encoding="utf-8")
    assert model.table() in page
    assert model.changes() in page
    networks = {one.name: one for one in model.NETWORKS}
    by_clock, by_timer = networks["QBFT as in Besu's example, 5 s"], networks["Fabric as it comes, batch of 10 or 2 s"]
    assert by_clock.latency() == pytest.approx(2.5 + 0.125 + 0.1)
    assert by_timer.latency() == pytest.approx(2.0 + 0.125 + 0.1)
    # four blocks of 30 million gas for 1,000 updates in a contract: three more to wait for
    assert model.waits(by_clock, 1000) == pytest.approx(0.078 + 2.725 + 3 * 5)
    assert model.change(by_clock, by_timer, 3, 0.0) == pytest.approx(2.303 / 2.803 - 1)
    for _, least, mean, most in (*model.MEASURED, *model.TWO_NODES):
        assert f"{mean} s ({least}..{most})" in page or f"{mean} ({least}..{most})" in page
    for block, least, _, most in model.MEASURED:
        assert least <= model.PREPARE + model.Network("", block, after=model.LOOK).latency() <= most


def test_scores_with_intervals_over_patients_by_hand(monkeypatch: pytest.MonkeyPatch):
    """Ten N of one patient called right, two S of another called N: draws are of one of them, of the other, or of both."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    patients = importlib.import_module("patients")
    counts = np.array([[[[10, 0], [0, 0]], [[0, 0], [2, 0]]]])
    accuracy, macro_f1, normal, ectopic = patients.cells(counts, 2)
    assert accuracy == "83.3 [0.0, 100.0]"
    assert macro_f1 == "45.5 [0.0, 100.0]"  # F1 of N is 20 / 22, of S nothing
    assert (normal, ectopic) == ("100.0 [100.0, 100.0]", "0.0 [0.0, 0.0]")


@pytest.fixture
def inversion(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/inversion.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("inversion")


def test_what_a_made_beat_gives_away_is_what_the_usual_beat_does_not(inversion: ModuleType):
    """Real is usual + own; a made beat of the own part alone, of any size and on any level, gives it all away; another part, nothing."""
    usual, own, other = np.array([[1.0, 1, -1, -1]]), np.array([[1.0, -1, 1, -1]]), np.array([[1.0, -1, -1, 1]])
    for made, away in ((3 * own + 7, 1.0), (usual + own, 1.0), (2 * usual - own, -1.0), (usual + other, 0.0)):
        assert inversion.Found(usual + own, made, usual).given_away == pytest.approx(away, abs=1e-12)


@pytest.mark.long
def test_a_beat_is_made_of_its_gradient_and_not_of_one_with_noise(inversion: ModuleType):
    beats = load_beats(DataConfig(source="simulated"))
    bare, noised = (inversion.attack(beats, "1,000 random features", 1, epsilon, 0) for epsilon in (None, 8.0))
    assert bare.given_away > 0.6
    assert abs(noised.given_away) < 0.2


def test_the_two_gradients_of_a_pair_take_turns_and_a_row_says_their_ratio(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import clipping

    calls: list[str] = []
    took = clipping.paired(lambda: calls.append("p"), lambda: calls.append("c"), pairs=2, calls=1)
    assert "".join(calls) == "pccppc"  # the first pair is thrown away
    assert took.shape == (2, 2)
    assert took.min() > 0
    row = clipping.row("cnn", "W2", np.array([[1e-3, 1.2e-3], [2e-3, 2.8e-3], [1e-3, 1.3e-3]]))
    assert row == "| cnn | W2: 10 beats | 100.0 | 130.0 | 1.30 (1.21 to 1.39) |"
