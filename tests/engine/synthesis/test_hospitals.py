"""Hospitals do their own work: synthetic beats are asked for, made and kept where a hospital lives, with its own key.

The coordinator is held to it in two ways: the beats that it is given cannot be read, and where the keys are encrypted it
does not know the password.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from governed import ID, OPEN, SMOTE, Flow, beats_of, plain
from reference import ROOT, numbers, settled

from engine.audit.run import audit
from engine.config import RunConfig
from engine.data.cohort import Cohort, build_cohort
from engine.errors import DataError, HospitalError
from engine.experiment import Place, run
from engine.hospital import Task
from engine.ledger.desk import unanchored
from engine.ledger.keystore import create_keystore
from engine.ledger.signer import Terms
from engine.ledger.signing import address, hospital_key, recover
from engine.messages import Asked, survivors
from engine.model import build_network, initial_parameters
from engine.oracles.base import Batch
from engine.pools.build import build_pool
from engine.pools.ray import RayPool
from engine.result import Result, SyntheticRow
from engine.synthesis.files import FOLDER, batch_digest, evidence_file, hospital_file, load_synthetic, save_synthetic
from engine.synthesis.generators import Synthetic, generate, joined

TERMS = Terms(unanchored(ID), 1)
TIMEGAN = {
    "balance.method": "timegan",
    "balance.classes": "V",
    "balance.timegan": {"patch": 63, "hidden": 4, "steps": 3, "minimum": 6},
    "balance.policy.min_real": {"timegan": 6},
    **OPEN,
    "ledger.backend": "embedded",
}

# --- What the coordinator does not touch ------------------------------------------------------------------------------


class Unread:
    """An array whose shape is known. Whoever reads a number of it fails."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape = array.shape

    def __getitem__(self, rows: Any) -> Any:
        raise AssertionError("the coordinator reads beats")

    def __array__(self, *args: Any, **keys: Any) -> Any:
        raise AssertionError("the coordinator reads beats")


def unread(cohort: Cohort) -> Cohort:
    """A cohort as the coordinator has it, with beats that nobody can read in this process."""
    beats = cohort.beats
    return replace(cohort, beats=replace(beats, x=Unread(beats.x), rr=Unread(beats.rr), y=Unread(beats.y)))


@pytest.mark.parametrize("backend", ["none", "embedded"])
def test_the_coordinator_reads_no_beat(
    done: tuple[Path, Result],
    tiny_config: Callable[..., RunConfig],
    tmp_path: Path,
    backend: str,
):
    config = tiny_config(**{**SMOTE, "ledger.backend": backend})
    cohort = unread(build_cohort(config.data, config.cohort))
    result = run(config, tmp_path, Place(cohort=lambda *args: cohort))  # hospitals map the files themselves
    assert result.model_hash == done[1].model_hash
    assert plain(result.synthesis) == plain(done[1].synthesis)


# What hospitals know and the coordinator does not: the password of the keys, and where TimeGAN's library is.
STRANGER = """
import os, sys
from pathlib import Path
from engine.actors import start_ray, stop_ray
from engine.config import RunConfig
from engine.errors import LedgerError, SynthesisError
from engine.experiment import Place, run
from engine.ledger.keystore import load_key
from engine.synthesis.timegan import interpreter

folder = Path(sys.argv[1])
configs = {path.stem: RunConfig.model_validate_json(path.read_text()) for path in sorted(folder.glob("*.json"))}
known = {"PULSELEDGER_KEYSTORE_PASSWORD": "secret", "PULSELEDGER_TIMEGAN_PYTHON": str(folder / "python")}
os.environ.update(known)
start_ray(configs["smote"].execution)  # hospitals live in its processes
for name in known:
    del os.environ[name]
for what in (lambda: load_key(folder / "keys", 0), interpreter):
    try:
        what()
    except (LedgerError, SynthesisError):
        continue
    sys.exit("the coordinator knows it, too")
print(os.getpid())
for name, config in configs.items():
    run(config, folder / name)
stop_ray()
"""
# Stands for an interpreter with TimeGAN's library: beats near real ones, and a line for each training.
LIBRARY = """#!{python}
import json, os, sys
from pathlib import Path
import numpy as np

job, weights, out = map(Path, sys.argv[-3:])
with np.load(job) as content:
    data, settings = content["data"], json.loads(str(content["settings"]))
draw = np.random.default_rng(settings["seed"])
if not weights.exists():
    with open(Path(__file__).with_name("trained"), "a") as file:
        file.write(f"{{os.getppid()}}\\n")
    np.savez(weights, w0=np.ones(1))
np.savez(out, beats=0.9 * data[draw.integers(len(data), size=settings["wanted"])] + 0.1 * draw.random(data.shape[1:]))
"""


@pytest.fixture(scope="module")
def apart(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Two runs by a coordinator that knows less than its hospitals: their folder, and the coordinator's process."""
    folder = tmp_path_factory.mktemp("apart")
    create_keystore(folder / "keys", 3, password="secret", work=2)
    keys = {"execution.pool": "ray", "execution.cpus": 2, "ledger.keystore": str(folder / "keys")}
    (folder / "smote.json").write_text(tiny_config(**SMOTE, **keys).model_dump_json())
    (folder / "timegan.json").write_text(tiny_config(**TIMEGAN, **keys).model_dump_json())
    (folder / "python").write_text(LIBRARY.format(python=sys.executable))
    (folder / "python").chmod(0o755)
    ended = subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=550,
    )
    assert ended.returncode == 0, ended.stderr
    return folder, int(ended.stdout)


@pytest.mark.long  # with a Ray of its own, half a minute
def test_a_coordinator_without_the_password_opens_no_key(apart: tuple[Path, int], done: tuple[Path, Result]):
    folder, _ = apart
    result = Result.read(folder / "smote")
    assert [(row.hospital, row.class_, row.batch) for row in result.synthesis or ()] == [
        (row.hospital, row.class_, row.batch) for row in done[1].synthesis or ()
    ]
    assert result.model_hash == done[1].model_hash
    assert audit(folder / "smote").clean


@pytest.mark.long
def test_timegan_is_trained_where_hospitals_live_and_nowhere_else(
    apart: tuple[Path, int], tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, coordinator = apart
    result = Result.read(folder / "timegan")
    made = [row for row in result.synthesis or () if row.granted]
    assert {row.status for row in made} == {"accepted"}
    trainers = [int(line) for line in (folder / "trained").read_text().splitlines()]
    assert len(trainers) == len(made) > 0
    assert coordinator not in trainers
    assert audit(folder / "timegan").clean
    # the same numbers in one process, which finds what the others left in the cache
    monkeypatch.setenv("PULSELEDGER_TIMEGAN_PYTHON", str(folder / "python"))
    here = run(tiny_config(**TIMEGAN), tmp_path)
    assert [row.batch for row in here.synthesis or ()] == [row.batch for row in result.synthesis or ()]
    assert here.model_hash == result.model_hash
    assert len((folder / "trained").read_text().splitlines()) == len(made)


@pytest.fixture
def flow(tiny_config: Callable[..., RunConfig]) -> Flow:
    config = tiny_config(**SMOTE)
    return Flow(config, build_cohort(config.data, config.cohort))


def test_the_coordinator_only_passes_on(flow: Flow, tmp_path: Path):
    """Everybody is asked once; then as many hospitals as work at once make one class after another."""
    hospitals = flow.hospitals(tmp_path, width=2)
    flow(tmp_path, hospitals)
    assert hospitals.calls == [
        ("ask", (0, 1, 2)),
        ("make", (0,)),  # S, which 1 has too few of
        ("make", (0, 1)),  # V
        ("keep", (0, 1, 2)),
    ]
    again = flow.hospitals(tmp_path)
    flow(tmp_path, again)
    assert again.calls == [("keep", (0, 1, 2))]


@pytest.mark.parametrize("width", [2, 3, 100])
def test_the_steps_come_in_one_order_however_many_work_at_once(flow: Flow, tmp_path: Path, width: int):
    one = flow(tmp_path / "one")
    many = flow(tmp_path / "many", flow.hospitals(tmp_path / "many", width=width))
    assert many == one
    assert beats_of(tmp_path / "many") == beats_of(tmp_path / "one") != {}


def test_what_others_made_is_not_lost_when_one_hospital_fails(flow: Flow, tmp_path: Path):
    def fails(method: str, real: Batch, label: int, *rest: Any) -> Synthetic:
        if label == flow.cohort.beats.classes.index("V") and len(real.y) == len(flow.cohort.hospitals[0].train):
            raise DataError("no space left.")
        return generate(method, real, label, *rest)

    with pytest.raises(HospitalError, match=r"^hospital 0, round 0, make: no space left"):
        flow(tmp_path, flow.hospitals(tmp_path, width=3, generate=fails))
    whole = flow.hospitals(tmp_path)
    rows = flow(tmp_path, whole).rows
    assert [call for call in whole.calls if call[0] == "make"] == [("make", (0,))]
    assert {row.status for row in rows} == {"accepted", "denied"}


# --- A hospital's side ------------------------------------------------------------------------------------------------


def accepted(result: Result, hospital: int) -> list[SyntheticRow]:
    return [row for row in result.synthesis or () if row.hospital == hospital and row.status == "accepted"]


def test_a_hospital_keeps_exactly_what_was_accepted(flow: Flow, done: tuple[Path, Result], tmp_path: Path):
    (tmp_path / FOLDER).mkdir()
    first, second = accepted(done[1], 0)
    path, beats = hospital_file(tmp_path / FOLDER, 0), load_synthetic(hospital_file(done[0] / FOLDER, 0))
    for rows, count in (((first, second), len(beats.y)), ((second,), second.accepted), ((), 0)):
        # each time by another process, which knows nothing of the one before
        assert flow.hospitals(tmp_path).keep({0: rows}) == [None]
        assert (len(load_synthetic(path).y) if path.exists() else 0) == count
    save_synthetic(path, joined(beats, beats))
    assert flow.hospitals(tmp_path).keep({0: (first, second)}) == [None]
    assert batch_digest(load_synthetic(path)) == batch_digest(beats)


def test_a_hospital_signs_what_it_asks_for_and_what_it_made(flow: Flow, done: tuple[Path, Result], tmp_path: Path):
    (tmp_path / FOLDER).mkdir()
    hospitals, key = flow.hospitals(tmp_path), address(hospital_key(flow.config.seed, ID, 1))
    ((first, second),) = hospitals.ask(TERMS, [1])
    ((report,),) = hospitals.make(TERMS, {1: accepted(done[1], 1)})
    for one in (first, second, report):
        assert recover(one.record, one.signature, TERMS.signing.domain) == key
    assert (first.record.slot, first.record.policy_version) == (1, 1)


def test_the_imaginary_hospital_has_what_the_others_kept(
    tiny_config: Callable[..., RunConfig], done: tuple[Path, Result], tmp_path: Path
):
    result = run(tiny_config(**SMOTE, **{"federation.algorithm": "centralised", "federation.rounds": 1}), tmp_path)
    assert plain(result.synthesis) == plain(done[1].synthesis)
    beats = [load_synthetic(hospital_file(tmp_path / FOLDER, h)) for h in (0, 1, 3)]
    assert batch_digest(joined(*beats[:2])) == batch_digest(beats[2])
    real = sum(h.train for h in result.cohort.hospitals)
    assert result.rounds[0].gradient_evaluations == -(-(real + len(beats[2].y)) // 32)


def test_a_hospital_without_the_library_says_so_before_anything_is_made(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PULSELEDGER_TIMEGAN_PYTHON", str(tmp_path / "python"))
    with pytest.raises(HospitalError, match=r"^hospital 0, round 0, ask: .*PULSELEDGER_TIMEGAN_PYTHON names"):
        run(tiny_config(**{"balance.method": "timegan"}), tmp_path / "run")


# --- In other processes -----------------------------------------------------------------------------------------------


def built(config: RunConfig, cohort: Cohort, home: Path) -> Any:
    beats = cohort.beats
    network = build_network(config.model, *beats.shape, beats.rr.shape[1], len(beats.classes))
    pool = build_pool(cohort.hospitals, Task(config, network, beats.folder, None, synthetic=home / FOLDER))
    return pool, Asked(1, (0, 1), initial_parameters(network, 0))


def test_a_host_that_is_lost_makes_the_same_beats_and_trains_on_them(
    ray2: None, tiny_config: Callable[..., RunConfig], done: tuple[Path, Result], tmp_path: Path
):
    settled()
    config = tiny_config(**SMOTE, **{"execution.pool": "ray", "execution.hospitals_per_actor": 3})
    cohort = build_cohort(config.data, config.cohort)
    rows = {h: accepted(done[1], h) for h in (0, 1, 2)}
    (tmp_path / FOLDER).mkdir()

    def lost(pool: RayPool) -> None:
        for process in pool.processes():
            os.kill(process, signal.SIGKILL)

    pool, asked = built(config, cohort, done[0])  # its files are there already
    expected = pool.train(asked, None)
    pool.close()
    pool, _ = built(config, cohort, tmp_path)
    try:
        asking, _ = survivors(pool.ask(TERMS, [2, 0]), None)
        assert [[one.record.slot for one in many] for many in asking] == [[2] * len(asking[0]), [0, 0]]
        lost(pool)
        (reports,), _ = survivors(pool.make(TERMS, {0: rows[0]}), None)
        assert [one.record.batch.hex() for one in reports] == [row.batch for row in rows[0]]
        lost(pool)  # with what it made in its memory
        assert pool.keep(rows) == [None] * 3
        assert beats_of(tmp_path) == beats_of(done[0])
        lost(pool)
        found = pool.train(asked, None)
    finally:
        pool.close()
    np.testing.assert_array_equal(found.summed, expected.summed)
    for row in rows[0]:
        evidence = [evidence_file(folder / FOLDER, row.request) for folder in (done[0], tmp_path)]
        assert json.loads(evidence[0].read_text()) == json.loads(evidence[1].read_text())


@pytest.mark.parametrize("pool", ["inprocess", "threads", "ray"])
def test_the_ledger_changes_no_number(
    done: tuple[Path, Result],
    tiny_config: Callable[..., RunConfig],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    pool: str,
):
    if pool == "ray":
        request.getfixturevalue("ray2")
    folder, result = done
    for backend in ("none", "embedded") if pool == "ray" else ("none",):
        keys = {"execution.pool": pool, "execution.cpus": 2, "ledger.backend": backend}
        home = tmp_path / backend
        found = run(tiny_config(**{**SMOTE, **keys}), home)
        one, other = numbers(result, folder), numbers(found, home)
        assert result.config.execution.oracle == found.config.execution.oracle
        assert {k: v for k, v in one.items() if k != "ledger"} == {k: v for k, v in other.items() if k != "ledger"}
        assert plain(found.synthesis) == plain(result.synthesis)
        assert beats_of(home) == beats_of(folder) != {}
        if backend == "embedded":
            assert found.synthesis == result.synthesis
            assert audit(home).clean
