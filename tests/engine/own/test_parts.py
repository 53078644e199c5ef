"""Own algorithms and rules in a run: same numbers as what they repeat, on every pool; copies, resume, audit."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine.audit.known import Known
from engine.audit.report import Verdict
from engine.audit.run import audit
from engine.config import RunConfig, config_hash
from engine.errors import ConfigError, DataError, HospitalError, PulseLedgerError
from engine.experiment import run
from engine.own.source import FOLDER
from engine.parts import require_parts
from engine.paths import anchored, load_config
from engine.result import MODEL
from engine.settings import parse, set_key
from sweeps.audit import own_rule

PROX = """
from engine.algorithms.base import Algorithm, LocalResult, pulled, sgd

def prox(settings, adapt, *, pull=0.1):
    def local(work):
        steps = settings.local_epochs * work.samples.batches(settings.batch_size)
        trained, loss = sgd(work, steps, settings.batch_size, settings.learning_rate, pulled(work.params, pull))
        return LocalResult(trained - work.params, loss, steps)
    return Algorithm(local, adapt, "samples")

def broken(settings, adapt, *, hospital=1):
    plain = prox(settings, adapt)
    def local(work):
        if work.round == 2:
            raise ValueError("two is too much")
        return plain.local(work)
    return Algorithm(local, adapt, "samples")

def wrong(settings, adapt):
    return Algorithm(lambda work: LocalResult(work.params.astype(float), 0.0, 1), adapt, "samples")
"""
MEAN = """
import numpy as np

def mean(*, scale=1.0):
    return lambda updates, weights: scale * np.average(updates.astype(np.float64), axis=0, weights=weights)

def short():
    return lambda updates, weights: updates[0, 1:].astype(np.float64)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of own parts."""
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "prox.py").write_text(PROX)
    (folder / "mean.py").write_text(MEAN)
    return folder


Configure = Callable[..., RunConfig]


@pytest.fixture
def configure(own: Path, tiny_config: Configure) -> Configure:
    """`tiny_config` in which file names are meant from the folder of own parts."""

    def build(**changes: Any) -> RunConfig:
        values = tiny_config().model_dump(mode="json")
        for key, value in changes.items():
            set_key(values, key, value)
        return parse(RunConfig, anchored(values, own), "test")

    return build


def model(folder: Path) -> np.ndarray:
    return np.concatenate([tensor.ravel() for _, tensor in sorted(load_file(folder / MODEL).items())])


def test_an_own_fedprox_is_fedprox_to_the_bit_in_one_process_and_on_threads(configure: Configure, tmp_path: Path):
    run(configure(**{"federation.algorithm": "fedprox", "federation.mu": 0.3}), tmp_path / "theirs")
    for pool in ("inprocess", "threads"):
        changes = {
            "federation.algorithm": "prox.py:prox",
            "federation.parameters": {"pull": 0.3},
            "execution.pool": pool,
        }
        run(configure(**changes), tmp_path / pool)
        assert np.array_equal(model(tmp_path / pool), model(tmp_path / "theirs"))


def test_an_own_mean_is_the_mean_but_for_rounding(configure: Configure, tmp_path: Path):
    run(configure(), tmp_path / "theirs")
    run(configure(**{"aggregation.rule": "mean.py:mean"}), tmp_path / "mine")
    assert np.allclose(model(tmp_path / "mine"), model(tmp_path / "theirs"), rtol=0, atol=1e-6)
    run(configure(**{"aggregation.rule": "mean.py:mean", "aggregation.parameters": {"scale": 0.0}}), tmp_path / "still")
    assert not np.allclose(model(tmp_path / "still"), model(tmp_path / "theirs"), rtol=0, atol=1e-3)


def test_source_and_parameters_are_in_the_hash_and_the_folder_is_not(configure: Configure, own: Path, tmp_path: Path):
    changes = {"federation.algorithm": "prox.py:prox"}
    first = config_hash(configure(**changes))
    shutil.copytree(own, tmp_path / "elsewhere")
    assert config_hash(configure(**{"federation.algorithm": f"{tmp_path}/elsewhere/prox.py:prox"})) == first
    assert config_hash(configure(**changes, **{"federation.parameters": {"pull": 0.2}})) != first
    (own / "prox.py").write_text(PROX + "# another\n")
    assert config_hash(configure(**changes)) != first


def test_a_run_goes_on_with_its_copy_and_refuses_an_edited_one(configure: Configure, own: Path, tmp_path: Path):
    changes = {"federation.algorithm": "prox.py:prox", "aggregation.rule": "mean.py:mean"}
    whole = run(configure(**changes), tmp_path / "whole")
    folder = tmp_path / "moved"
    shutil.copytree(tmp_path / "whole", folder)
    (folder / "result.json").unlink()
    (own / "prox.py").write_text("raise SystemExit\n")
    config = parse(RunConfig, load_config(folder / "config.yaml"), "test")
    assert run(config, folder).model_hash == whole.model_hash
    (own / "mean.py").write_text(MEAN + "# another\n")
    with pytest.raises(ConfigError, match=r"mean.py:mean was edited since the work in .* began"):
        run(configure(**{"aggregation.rule": "mean.py:mean"}), folder)
    (copy,) = (folder / FOLDER).glob("*/prox.py")
    copy.write_text(PROX + "# another\n")
    with pytest.raises(DataError, match=r"this own part \(prox.py\) was edited"):
        run(config, folder)


def test_an_exception_in_local_work_names_hospital_round_stage_file_and_line(configure: Configure, tmp_path: Path):
    with pytest.raises(HospitalError) as caught:
        run(configure(**{"federation.algorithm": "prox.py:broken"}), tmp_path / "run")
    line = PROX.splitlines().index('            raise ValueError("two is too much")') + 1
    told = f"hospital 0, round 2, train: prox.py:broken: ValueError: two is too much (prox.py, line {line})"
    assert str(caught.value) == f"{told} (so say hospitals 0, 1 and 2)"
    assert "Traceback" in caught.value.trace


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"federation.algorithm": "prox.py:wrong"}, r"hospital 0, round 1, train: prox.py:wrong: update is float64\["),
        ({"aggregation.rule": "mean.py:short"}, r"mean.py:short: gave float64\[\d+\] in round 1, not float64\["),
    ],
)
def test_an_answer_of_the_wrong_shape_is_told(
    changes: dict[str, str], sentence: str, configure: Configure, tmp_path: Path
):
    with pytest.raises(PulseLedgerError, match=sentence):
        run(configure(**changes), tmp_path / "run")


def test_a_misspelt_parameter_is_told_before_there_is_a_folder(configure: Configure, tmp_path: Path):
    config = configure(**{"federation.algorithm": "prox.py:prox", "federation.parameters": {"pul": 1}})
    with pytest.raises(ConfigError, match=r"prox.py:prox: has no parameter pul \(did you mean pull\?\)"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="federation: parameters are for a part of your own"):
        configure(**{"federation.parameters": {"pull": 1}})
    require_parts(configure(**{"federation.algorithm": "prox.py:prox", "federation.parameters": {"pull": 1}}))


def test_the_audit_says_what_it_does_not_recompute_and_does_so_where_code_is_allowed(
    configure: Configure, tmp_path: Path
):
    """Verdict, models that were computed again, and nothing executed without leave."""
    changes = {"aggregation.rule": "mean.py:mean", "federation.algorithm": "prox.py:prox", "ledger.backend": "embedded"}
    run(configure(**changes), tmp_path / "run")
    told = audit(tmp_path / "run")
    assert told.verdict is Verdict.NOT_VERIFIED
    assert any("own part, not recomputed here: rule mean.py:mean, digest " in note for note in told.unchecked)
    assert "aggregates" not in told.counts
    done = audit(tmp_path / "run", known=Known(execute=own_rule))
    assert (done.verdict, done.counts["aggregates"], done.counts["own parts"]) == (Verdict.CLEAN, 2, 2)
    for path in (tmp_path / "run" / FOLDER).glob("*/*.py"):
        path.write_text(path.read_text() + "raise RuntimeError\n")
    edited = audit(tmp_path / "run", known=Known(execute=own_rule))
    assert {finding.record for finding in edited.findings} == {"own"}
    assert len(edited.findings) == 2
