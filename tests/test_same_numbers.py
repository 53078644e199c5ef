"""Not a single bit depends on where hospitals live, on processes that die, on interruptions, or on the ledger."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reference import Interrupted, StopAfter, Watch, numbers

from engine.audit.run import audit
from engine.config import RunConfig
from engine.experiment import Place, run
from engine.ledger.chain.embedded import EmbeddedChain
from engine.messages import Asked
from engine.pools.ray import RayPool

Reference = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def make(tiny_config) -> Callable[..., RunConfig]:
    """Three hospitals, three rounds, long enough that a process can be killed in the middle of one."""

    def build(pool: str, algorithm: str = "fedavg", **keys: Any) -> RunConfig:
        base = {
            "name": "same",
            "execution.pool": pool,
            "execution.cpus": 2,
            "federation.algorithm": algorithm,
            "federation.rounds": 3,
            "federation.local_epochs": 20,
            "federation.learning_rate": 0.02,
        }
        if algorithm == "dp-sgd":  # FedAvg whose noise must come back with its hospital
            private = {"privacy.method": algorithm, "privacy.noise": 1.0, "privacy.steps": 300}
            base |= {**private, "federation.algorithm": "fedavg", "federation.local_epochs": 1}
        return tiny_config(**base | keys)

    return build


@pytest.fixture(scope="module")
def truth(make, tmp_path_factory) -> Reference:
    """The numbers of an undisturbed run in this process, with a ledger."""
    known: dict[str, dict[str, Any]] = {}

    def look_up(algorithm: str = "fedavg") -> dict[str, Any]:
        if algorithm not in known:
            folder = tmp_path_factory.mktemp(algorithm)
            result = run(make("inprocess", algorithm, **{"ledger.backend": "embedded"}), folder)
            assert audit(folder).clean
            known[algorithm] = numbers(result, folder)
        return known[algorithm]

    return look_up


def without_ledger(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "ledger"}


def test_the_truth_is_not_trivial(truth: Reference):
    """Were all runs equal to each other because nothing happens in them, the tests below would prove nothing."""
    fedavg, local = truth(), truth("local")
    assert len({row["train_loss"] for row in fedavg["rounds"]}) == 3
    assert fedavg["model"] != local["model"]
    assert len(set(fedavg["predictions"]["predicted"])) > 1
    assert fedavg["ledger"][0] != local["ledger"][0]
    assert fedavg["ledger"][2:4] == [9, 3]


def test_threads(truth: Reference, make, tmp_path: Path):
    result = run(make("threads", **{"ledger.backend": "embedded"}), tmp_path)
    assert numbers(result, tmp_path) == truth()
    assert audit(tmp_path).clean


@pytest.mark.parametrize("per", [1, 2, *(pytest.param(per, marks=pytest.mark.long) for per in (3, "auto"))])
def test_ray(truth: Reference, make, ray2, tmp_path: Path, per: Any):
    result = run(make("ray", **{"execution.hospitals_per_actor": per}), tmp_path)
    assert without_ledger(numbers(result, tmp_path)) == without_ledger(truth())


# --- Processes that die -----------------------------------------------------------------------------------------------


class Hunter:
    """Kills host processes of the pool of a run: all between two rounds, then all within the next."""

    def __init__(self) -> None:
        self.pool: RayPool | None = None
        self.killed: list[int] = []
        self.rebuilt_within_a_round = 0

    def build(self, hospitals: Any, task: Any) -> RayPool:
        self.pool = RayPool(hospitals, task)
        return self.pool

    def between(self) -> None:
        self._kill(self.pool.processes())
        train = self.pool.train

        def disturbed(asked: Asked, *args: Any) -> Any:
            pids, hosts = self.pool.processes(), dict(self.pool._hosts)
            assert not set(pids) & set(self.killed)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)  # a round of the fast oracle would be over before the killer comes
            killer = threading.Timer(0.3, self._kill, [pids])
            killer.start()
            answers = train(asked, *args)
            killer.join()
            self.rebuilt_within_a_round = sum(self.pool._hosts[i] is not host for i, host in hosts.items())
            self.pool.train = train
            return answers

        self.pool.train = lambda asked, *args: (disturbed if asked.round == 3 else train)(asked, *args)

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.killed += pids


@pytest.mark.parametrize(
    "algorithm", ["fedavg", *(pytest.param(one, marks=pytest.mark.long) for one in ("local", "dp-sgd"))]
)
def test_killed_hosts(truth: Reference, make, ray2, tmp_path: Path, algorithm: str):
    """Private states come back, too: 'local' consists of nothing else."""
    expected, hunter = truth(algorithm), Hunter()
    keys = {"execution.hospitals_per_actor": 2, "ledger.backend": "none" if algorithm == "local" else "embedded"}
    result = run(
        make("ray", algorithm, **keys), tmp_path, Place(observers=(Watch(1, hunter.between),), pool=hunter.build)
    )
    assert len(set(hunter.killed)) == 4
    assert hunter.rebuilt_within_a_round == 2
    assert [row.lost for row in result.rounds] == [(), (), ()]
    found = numbers(result, tmp_path)
    if algorithm != "local":
        assert found == expected  # the head of the ledger included
        assert audit(tmp_path).clean
    else:
        assert without_ledger(found) == without_ledger(expected)


# --- Interruptions ----------------------------------------------------------------------------------------------------


def test_an_interrupted_run_on_ray_goes_on(truth: Reference, make, ray2, tmp_path: Path):
    config = make("ray", **{"execution.hospitals_per_actor": 3, "ledger.backend": "embedded"})
    with pytest.raises(Interrupted):
        run(config, tmp_path, Place(observers=(StopAfter(2),)))
    told: list[str] = []
    result = run(config, tmp_path, Place(note=told.append))
    assert "going on after round 1" in told
    assert numbers(result, tmp_path) == truth()
    assert audit(tmp_path).clean


def test_a_run_may_move_from_one_pool_to_another(truth: Reference, make, ray2, tmp_path: Path):
    began = make("ray", "local", **{"execution.hospitals_per_actor": 3})
    with pytest.raises(Interrupted):
        run(began, tmp_path, Place(observers=(StopAfter(3),)))
    result = run(make("inprocess", "local"), tmp_path)
    assert without_ledger(numbers(result, tmp_path)) == without_ledger(truth("local"))


def test_the_ledger_runs_beside_the_training(make, tmp_path: Path, monkeypatch):
    """The chain takes no transaction from round 2 on until the last round is over; no round waits for it."""
    send, held, over = EmbeddedChain.send, threading.Event(), threading.Event()
    waited: list[bool] = []

    def patient(self: EmbeddedChain, raw: bytes) -> None:
        if held.is_set():
            waited.append(over.wait(30))
        send(self, raw)

    monkeypatch.setattr(EmbeddedChain, "send", patient)
    config = make("inprocess", **{"ledger.backend": "embedded"})
    run(config, tmp_path, Place(observers=(Watch(1, held.set), Watch(3, over.set))))
    assert len(waited) >= 2
    assert all(waited)
    assert audit(tmp_path).clean
