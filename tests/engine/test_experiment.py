"""One whole run: what it leaves behind, how it goes on after an interruption, and how it refuses."""

import errno
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ecg
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from reference import Interrupted, StopAfter, Watch, as_run, numbers
from safetensors import SafetensorError
from safetensors.numpy import load_file

from engine import checkpoint
from engine.audit.report import Verdict
from engine.audit.run import audit
from engine.config import RunConfig, config_hash
from engine.data.cohort import build_cohort
from engine.errors import DataError, Stopped, StudyError
from engine.experiment import Place, run, steps
from engine.files import whole
from engine.homes import MARK
from engine.model import build_network, initial_parameters, model_hash, vector_hash
from engine.pools.local import InProcessPool
from engine.result import RESULT, Result
from engine.settings import load_yaml, parse

WITH_LEDGER = {"ledger.backend": "embedded"}


def one_sentence(error: pytest.ExceptionInfo[BaseException], *parts: Any) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    for part in parts:
        assert str(part) in text


# --- What a run leaves ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_run(tiny_config, tmp_path_factory) -> tuple[RunConfig, Path, Result]:
    folder = tmp_path_factory.mktemp("whole")
    config = tiny_config(**WITH_LEDGER, **{"name": "whole", "federation.local_epochs": 2, "personalisation.steps": 7})
    return config, folder, run(config, folder)


def test_a_run_echoes_its_configuration(finished_run):
    config, folder, result = finished_run
    assert Result.read(folder) == result
    used = as_run(config, result.config.execution.oracle)
    assert parse(RunConfig, load_yaml(folder / "config.yaml"), "echo") == used
    assert result.config == used
    assert result.config_hash == config_hash(config)


def test_the_scores_are_those_of_the_predictions(finished_run):
    _, folder, result = finished_run
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    tested = sum(h.test for h in result.cohort.hospitals)
    for model in ("global", "personal"):
        mine = [r for r in rows if r["model"] == model]
        scores = result.final.of(model)
        assert len(mine) == tested == sum(scores.support.values())
        assert scores.accuracy == pytest.approx(np.mean([r["true"] == r["predicted"] for r in mine]))
        assert Counter(r["true"] for r in mine) == Counter({c: n for c, n in scores.support.items() if n})
        for row in scores.per_hospital:
            of_it = [r["true"] == r["predicted"] for r in mine if r["hospital"] == row.id]
            assert row.accuracy == pytest.approx(np.mean(of_it))
    owner = {name: h.id for h in result.cohort.hospitals for name in h.records}
    assert all(owner[r["record"]] == r["hospital"] for r in rows)
    assert 0 <= result.final.personal.hurt_share <= 1


def test_the_saved_model_is_the_one_that_was_hashed(finished_run):
    _, folder, result = finished_run
    tensors = load_file(folder / "model.safetensors")
    assert model_hash(tensors).hex() == result.model_hash
    assert sum(t.size for t in tensors.values()) == result.parameters
    assert (folder / "confusion.svg").read_text().startswith("<svg")
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == [MARK]  # nothing half-written is left


def test_gradient_evaluations_are_counted_by_hand(finished_run):
    config, _, result = finished_run
    sizes = [h.train for h in result.cohort.hospitals]
    a_round = sum(2 * -(-n // config.federation.batch_size) for n in sizes)
    assert [row.gradient_evaluations for row in result.rounds] == [a_round, a_round]
    assert result.timing.personalisation_gradient_evaluations == 7 * len(sizes)
    assert result.timing.gradient_evaluations == 2 * a_round + 7 * len(sizes)  # all of them


def test_the_ledger_reports_its_cost(finished_run):
    _, folder, result = finished_run
    ledger = result.ledger
    assert (ledger.backend, ledger.updates, ledger.rounds) == ("embedded", 6, 2)
    assert ledger.transactions >= 4  # the contract, the federation, two rounds
    assert 30_000 < ledger.gas_per_round < 100_000
    assert ledger.gas_total > 2 * ledger.gas_per_round
    on_the_path = sum(row.hash_seconds + row.sign_seconds for row in result.rounds)
    assert on_the_path < ledger.critical_path_seconds < result.timing.total_seconds
    assert 0 < ledger.overhead_share < 1
    # what comes before the first round and after the last one is told beside it
    assert min(ledger.open_seconds, ledger.close_seconds) > 0
    assert ledger.open_seconds + ledger.close_seconds + ledger.critical_path_seconds < result.timing.total_seconds
    report = audit(folder)
    assert report.clean
    assert report.head == ledger.head


def test_a_finished_run_is_not_run_again(finished_run):
    config, folder, result = finished_run
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert run(config, folder) == result
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before
    # name, ledger, tracking and execution are not part of what was computed
    same = config.model_copy(update={"name": "other", "out": "elsewhere"})
    assert run(same, folder) == result


def test_a_folder_of_another_configuration_is_refused(finished_run):
    config, folder, _ = finished_run
    with pytest.raises(DataError) as error:
        run(config.model_copy(update={"seed": 1}), folder)
    one_sentence(error, folder / RESULT, "belongs to another configuration", "use another folder")


def test_the_seed_decides(tiny_config, tmp_path: Path):
    found = [
        numbers(run(tiny_config(seed=seed), tmp_path / name), tmp_path / name)
        for name, seed in (("a", 4), ("b", 4), ("c", 5))
    ]
    assert found[0] == found[1]
    assert found[0]["model"] != found[2]["model"]


# --- The ledger changes nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["fedavg", "perfedavg", "local", "centralised"])
def test_with_and_without_a_ledger_the_numbers_are_the_same(tiny_config, tmp_path: Path, algorithm: str):
    keys = {"federation.algorithm": algorithm, "federation.participation": 0.6}
    results = {}
    for backend in ("none", "embedded"):
        folder = tmp_path / backend
        results[backend] = run(tiny_config(**keys, **{"ledger.backend": backend}), folder)
    found = [numbers(result, tmp_path / backend) for backend, result in results.items()]
    assert {k: v for k, v in found[0].items() if k != "ledger"} == {k: v for k, v in found[1].items() if k != "ledger"}
    assert results["none"].ledger.document() == {"backend": "none"}
    assert audit(tmp_path / "embedded").clean
    participants = {"centralised": 1}.get(algorithm, 2)
    assert [row.participants for row in results["none"].rounds] == [participants] * 2
    assert results["embedded"].ledger.updates == 2 * participants
    if algorithm == "local":  # the global model was never touched
        config = tiny_config()
        beats = build_cohort(config.data, config.cohort).beats
        network = build_network(config.model, *beats.shape, beats.rr.shape[1], len(beats.classes))
        genesis = initial_parameters(network, config.seed)
        assert results["none"].model_hash == vector_hash(genesis, network.layout).hex()


def test_centralised_trains_on_everybodys_beats_at_once(tiny_config, tmp_path: Path):
    config = tiny_config(**{"federation.algorithm": "centralised"})
    result = run(config, tmp_path)
    train = sum(h.train for h in result.cohort.hospitals)
    assert [row.gradient_evaluations for row in result.rounds] == [-(-train // 32)] * 2
    # the imaginary hospital is neither validated nor tested
    assert [row.id for row in result.rounds[0].validation.per_hospital] == [0, 1, 2]
    assert [row.id for row in result.final.personal.per_hospital] == [0, 1, 2]


def test_a_lost_hospital_leaves_a_sound_ledger(tiny_config, tmp_path: Path):
    config = tiny_config(**WITH_LEDGER, **{"federation.min_hospitals": 2, "personalisation.method": "none"})
    cohort = build_cohort(config.data, config.cohort)
    wrong = tuple(replace(h, train=np.array([10**9])) if h.id == 1 else h for h in cohort.hospitals)
    result = run(config, tmp_path, Place(cohort=lambda *args: replace(cohort, hospitals=wrong)))
    assert result.ledger.updates == 4
    assert all(row.lost for row in result.rounds)
    report = audit(tmp_path)
    assert report.findings == [], report.lines()


# --- Interruptions ----------------------------------------------------------------------------------------------------

SLOW = {"federation.rounds": 4, "federation.participation": 0.6, "federation.perfedavg.tau": 2}


class EndsBeforeTheTest(InProcessPool):
    """Hospitals that are interrupted when they are asked to test the final model."""

    def finish(self, *args: Any) -> Any:
        raise Interrupted


@pytest.mark.parametrize("algorithm", ["fedavg", "perfedavg", "local"])
def test_an_interrupted_run_goes_on_bit_for_bit(tiny_config, tmp_path: Path, algorithm: str):
    config = tiny_config(**SLOW, **WITH_LEDGER, **{"federation.algorithm": algorithm})
    expected = numbers(run(config, tmp_path / "straight"), tmp_path / "straight")
    folder = tmp_path / "stumbling"
    for stop, begins in ((1, None), (3, None), (4, "going on after round 2")):
        told: list[str] = []
        with pytest.raises(Interrupted):
            run(config, folder, Place(observers=(StopAfter(stop),), note=told.append))
        assert begins is None or begins in told
        report = audit(folder)
        assert (report.findings, report.verdict) == ([], Verdict.UNFINISHED)
    with pytest.raises(Interrupted):  # once more when all rounds are done
        run(config, folder, Place(pool=EndsBeforeTheTest))
    seen: list[int] = []
    result = run(config, folder, Place(observers=(Watch(4, lambda: seen.append(4)),)))
    assert seen == []  # no round was run twice
    assert numbers(result, folder) == expected
    assert audit(folder).clean


@pytest.mark.parametrize("method", ["momentum", "adam", "yogi"])
def test_the_server_s_optimiser_is_remembered_over_an_interruption_and_recomputed_by_the_audit(
    tiny_config, tmp_path: Path, method: str
):
    server = {"aggregation.server.method": method, "aggregation.server.learning_rate": 0.05}
    config = tiny_config(**SLOW, **WITH_LEDGER, **server)
    expected = numbers(run(config, tmp_path / "straight"), tmp_path / "straight")
    assert (
        expected["model"]
        != numbers(run(tiny_config(**SLOW, **WITH_LEDGER), tmp_path / "mean"), tmp_path / "mean")["model"]
    )
    with pytest.raises(Interrupted):
        run(config, tmp_path / "halted", Place(observers=(StopAfter(3),)))
    assert numbers(run(config, tmp_path / "halted"), tmp_path / "halted") == expected
    assert audit(tmp_path / "halted").clean


KILLED = """
import os, sys, threading
from pathlib import Path
from engine.config import RunConfig
from engine.settings import load_yaml, parse
from engine.experiment import Place, run
from engine.ledger.chain.embedded import EmbeddedChain

send, held = EmbeddedChain.send, threading.Event()

def stuck(self, raw):
    if held.is_set():
        threading.Event().wait()
    send(self, raw)

EmbeddedChain.send = stuck

class Observer:
    def round_finished(self, record):
        if record.round == 1:
            held.set()
        if record.round == 4:
            os._exit(9)

run(parse(RunConfig, load_yaml(sys.argv[1]), "x"), Path(sys.argv[2]), Place(observers=(Observer(),)))
"""


def test_a_run_that_is_killed_while_its_ledger_lags_behind(tiny_config, tmp_path: Path):
    """Rounds that the chain has not confirmed wait in the checkpoint."""
    config = tiny_config(**SLOW, **WITH_LEDGER)
    expected = numbers(run(config, tmp_path / "straight"), tmp_path / "straight")
    folder = tmp_path / "killed"
    words = [sys.executable, "-c", KILLED, str(tmp_path / "straight" / "config.yaml"), str(folder)]
    assert subprocess.run(words, timeout=120).returncode == 9
    report = audit(folder)
    assert (report.findings, report.verdict) == ([], Verdict.UNFINISHED)
    assert any(note.startswith("the journal does not hold rounds") for note in report.notes)
    state, waiting = checkpoint.load(folder, config_hash(config)) or pytest.fail("no checkpoint")
    assert state.round == 3
    assert [entry["round"] for entry in waiting] in ([2, 3], [1, 2, 3])
    assert numbers(run(config, folder), folder) == expected
    assert audit(folder).clean


# --- Checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tiny_config, tmp_path: Path) -> tuple[RunConfig, Path]:
    config = tiny_config(**{"federation.algorithm": "local"})
    with pytest.raises(Interrupted):
        run(config, tmp_path, Place(observers=(StopAfter(2),)))
    return config, tmp_path


def test_a_checkpoint_holds_the_whole_state(begun):
    config, folder = begun
    state, waiting = checkpoint.load(folder, config_hash(config)) or pytest.fail("no checkpoint")
    assert (state.round, waiting) == (1, [])
    assert sorted(state.states) == [0, 1, 2]
    checkpoint.save(folder, state, config_hash(config), [{"round": 1}], 0)
    again, waiting = checkpoint.load(folder, config_hash(config)) or pytest.fail("no checkpoint")
    assert waiting == [{"round": 1}]
    assert again.history == state.history
    np.testing.assert_array_equal(again.params, state.params)
    for hospital, own in state.states.items():
        np.testing.assert_array_equal(again.states[hospital]["params"], own["params"])
    assert [p.name for p in folder.glob("checkpoint*")] == [checkpoint.NAME]


@pytest.mark.parametrize("damage", ["empty", "cut", "other"])
def test_a_damaged_checkpoint_is_refused(begun, damage: str):
    config, folder = begun
    path = folder / checkpoint.NAME
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "other": b"PK\3\4" + data[4:]}[damage])
    with pytest.raises(DataError) as error:
        run(config, folder)
    one_sentence(error, path, "is not a readable checkpoint")


def test_a_checkpoint_of_another_configuration_is_refused(begun):
    config, folder = begun
    with pytest.raises(DataError) as error:
        run(config.model_copy(update={"seed": 1}), folder)
    one_sentence(error, folder / checkpoint.NAME, "belongs to another configuration", config_hash(config)[:12])


@pytest.mark.parametrize("backend", ["none", "embedded"])
def test_records_that_changed_since_are_not_trained_on(tiny_config, tmp_path: Path, backend: str):
    """A corrected export, or a share that was synchronised again, between a run and its going on."""
    for name in "abc":
        ecg.write(tmp_path / "data", name)
    keys = {"data.source": "folder", "data.folder": str(tmp_path / "data"), "ledger.backend": backend}
    config = tiny_config(**keys)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", Place(observers=(StopAfter(2),)))
    signal = tmp_path / "data" / "a.dat"
    right = signal.read_bytes()
    signal.write_bytes(right[::-1])
    path = tmp_path / "run" / checkpoint.NAME
    with pytest.raises(DataError) as error:
        run(config, tmp_path / "run")
    one_sentence(error, path, "was trained on other data (beats ", "put them back, or begin in another folder.")
    signal.write_bytes(right)
    (tmp_path / "data" / "notes.txt").write_text("a file that is not read changes nothing")
    result = run(config, tmp_path / "run")
    assert len(result.rounds) == config.federation.rounds
    if backend != "none":  # what every hospital signs commits to the data
        signal.write_bytes(right[::-1])
        other = run(config, tmp_path / "other")
        assert federation_of(tmp_path / "run") != federation_of(tmp_path / "other")
        assert other.cohort.digest != result.cohort.digest


def federation_of(folder: Path) -> str:
    """Identity of the federation in a run's journal."""
    with sqlite3.connect(folder / "ledger" / "journal.sqlite") as journal:
        rows = dict(journal.execute("SELECT key, value FROM meta").fetchall())
    return json.loads(rows["federation"])["id"]


def test_a_newer_attempt_fences_off_an_older(tiny_config, tmp_path: Path):
    config = tiny_config(**{"federation.rounds": 3})
    seen: list[int] = []

    def taken_over() -> None:
        seen.append(checkpoint.load(tmp_path, config_hash(config))[0].round)
        (tmp_path / "attempt").write_text("2")

    tmp_path.joinpath("attempt").write_text("1")
    with pytest.raises(StudyError) as error:
        run(config, tmp_path, Place(attempt=1, observers=(Watch(2, taken_over),)))
    one_sentence(error, tmp_path, "attempt 2 has taken over from attempt 1")
    assert checkpoint.load(tmp_path, config_hash(config))[0].round == 1  # it wrote no more
    with pytest.raises(StudyError):
        run(config, tmp_path, Place(attempt=1))
    assert not (tmp_path / RESULT).exists()
    told: list[str] = []
    run(config, tmp_path, Place(attempt=2, note=told.append))
    assert "going on after round 1" in told


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize("kind", ["checkpoint", "model"])
def test_a_disk_that_is_full_ends_in_one_sentence(tiny_config, tmp_path: Path, monkeypatch, kind: str):
    """safetensors reports it in an exception of its own."""

    def full(tensors: Any, path: Path, *args: Any) -> None:
        path.write_bytes(b"the part that fitted")
        raise SafetensorError(FULL)

    monkeypatch.setattr(
        *{"checkpoint": (checkpoint, "save_file"), "model": (safetensors.numpy, "save_file")}[kind], full
    )
    with pytest.raises(DataError) as error:
        run(tiny_config(), tmp_path)
    name = {"checkpoint": checkpoint.NAME, "model": "model.safetensors"}[kind]
    one_sentence(error, tmp_path / name, "cannot be written", "No space left")
    assert not any(b"the part" in p.read_bytes() for p in tmp_path.iterdir())
    monkeypatch.undo()
    assert run(tiny_config(), tmp_path).rounds[-1].round == 2  # with room again it goes on


def test_files_appear_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "file"
    with whole(path) as part:
        part.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"

    def fail() -> None:
        with whole(path) as part:
            part.write_text("tw")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)\.$"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "one"


# --- In chunks --------------------------------------------------------------------------------------------------------

FOUR = {**WITH_LEDGER, "federation.rounds": 4, "federation.participation": 0.7}
SAME_BYTES = ("model.safetensors", "predictions.parquet", "config.yaml", "confusion.svg")


def untimed(folder: Path) -> dict[str, Any]:
    """Name and content of each file that holds no times."""
    names = (*SAME_BYTES, *(p.relative_to(folder) for p in (folder / "ledger").rglob("*.safetensors")))
    return {str(name): (folder / name).read_bytes() for name in names}


def drain(chunks: Any, upto: int = 100) -> tuple[list[Result], Result | None]:
    """What a chunked run yields, at most so many times, and its result."""
    seen = []
    for _ in range(upto):
        try:
            seen.append(next(chunks))
        except StopIteration as end:
            return seen, end.value
    return seen, None


def test_a_run_in_chunks_is_the_run(tiny_config, tmp_path):
    config = tiny_config(**FOUR)
    whole_run = run(config, tmp_path / "whole")
    seen, result = drain(steps(config, tmp_path / "chunks", rungs=(3, 1)))
    assert result is not None
    assert numbers(result, tmp_path / "chunks") == numbers(whole_run, tmp_path / "whole")
    assert untimed(tmp_path / "chunks") == untimed(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "chunks").rglob("*")) == sorted(
        p.name for p in (tmp_path / "whole").rglob("*")
    )
    assert audit(tmp_path / "chunks").clean
    # at a rung stands what a run of so many rounds would have given
    assert [len(so_far.rounds) for so_far in seen] == [1, 3]
    for so_far in seen:
        rounds = len(so_far.rounds)
        shorter = run(tiny_config(**{**FOUR, "federation.rounds": rounds}), tmp_path / str(rounds))
        for key in ("model_hash", "validation", "final"):
            assert getattr(so_far, key) == getattr(shorter, key)
        assert so_far.ledger.rounds == rounds


def test_a_chunked_run_may_end_or_pause_at_a_rung(tiny_config, tmp_path):
    config = tiny_config(**FOUR)
    chunks = steps(config, tmp_path / "cut", rungs=(2, 3))
    seen, result = drain(chunks, 1)
    assert result is None
    chunks.close()
    assert not (tmp_path / "cut" / RESULT).exists()
    loaded = checkpoint.load(tmp_path / "cut", config_hash(config))
    assert loaded is not None
    assert loaded[0].round == 2
    report = audit(tmp_path / "cut")
    assert (report.findings, report.verdict) == ([], Verdict.UNFINISHED)
    assert report.head == seen[0].ledger.head
    # a rung at the checkpoint is scored again, one before it is left out
    again, result = drain(steps(config, tmp_path / "cut", rungs=(1, 2)))
    assert result is not None
    assert [so_far.validation for so_far in again] == [seen[0].validation]
    assert numbers(result, tmp_path / "cut") == numbers(run(config, tmp_path / "whole"), tmp_path / "whole")


def test_a_run_stops_at_its_next_checkpoint_when_asked(tiny_config, tmp_path):
    config = tiny_config(**FOUR)
    watch = Watch(2, (tmp_path / "stop").touch)
    with pytest.raises(Stopped) as error:
        run(config, tmp_path / "run", Place(observers=(watch,), stopping=(tmp_path / "stop").exists))
    one_sentence(error, tmp_path / "run", "after round 2")
    loaded = checkpoint.load(tmp_path / "run", config_hash(config))
    assert loaded is not None
    assert loaded[0].round == 2
    result = run(config, tmp_path / "run")
    assert numbers(result, tmp_path / "run") == numbers(run(config, tmp_path / "whole"), tmp_path / "whole")
