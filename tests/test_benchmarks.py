"""The federation benchmark: its second writing of the network and the draws, and one tiny race."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine import rounds, seeds
from engine.config import ModelConfig
from engine.data.beats import open_beats
from engine.model import build_network, initial_parameters
from engine.oracle import TorchOracle

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
    network = build_network(ModelConfig(), window=252, rr=4, classes=4)
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

    everybody = tuple(range(12))
    plan = rounds.Plan(1, task.seed, everybody, everybody, 4, "samples", None, "NSVF", lambda vector: b"")
    assert common.selected(task, 5) == rounds.select(plan, 5)
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
    result = json.loads(out.read_text())["workloads"]["W3"]
    assert result["problems"] == []
    assert set(result["rows"]) == {"bare-2", "ours-threads-torch"}
    for runs in result["runs"].values():
        assert runs[0]["steps"] == 2 * 2 * 2  # rounds, hospitals, batches of 50 beats
        assert 0 < runs[0]["final_loss"] < 2
        assert runs[0]["rss_mb"] > 50
        assert runs[0]["wall"] > sum(runs[0]["rounds"])
    assert result["rows"]["ours-threads-torch"]["loss_off"] < 1e-4
