"""Any label set, and several leads: from the settings through training, ledger, files, tables and pictures to the audit."""

import json
from pathlib import Path
from typing import Any

import ecg
import numpy as np
import pyarrow.parquet as pq
import pytest
from governed import OPEN
from safetensors.numpy import load_file

from engine.audit.run import audit
from engine.config import RunConfig
from engine.data.beats import load_beats
from engine.data.cohort import build_cohort
from engine.data.config import CLASSES, CohortConfig, DataConfig, labels_of, rare
from engine.errors import ConfigError
from engine.experiment import run
from engine.ledger.subjects.policy import policy_of
from engine.result import MODEL, PICTURE, PREDICTIONS, Result
from engine.settings import dump_yaml, load_yaml, parse
from engine.synthesis.config import PolicyConfig
from engine.tracking.curves import final_metrics, params_of
from engine.tracking.models import torch_model
from sweeps.rows import rows_of
from sweeps.scores import objectives
from sweeps.table import as_csv, as_json

OWN = ("normal", "pvc", "any-other", "never seen")
KEYS: dict[str, Any] = {
    "data.source": "folder", "data.classes": list(OWN), "data.leads": [["MLII"], ["V1"]],
    "data.symbols": {"N": "normal", "V": "pvc", "A": "any-other", "!": "never seen", "L": None}, "data.window": [60, 90],
    "cohort.partition": "pathology", "cohort.hospitals": 3, "cohort.fractions": [0.6, 0.1, 0.3],
    "balance.method": "smote", "ledger.backend": "embedded", "model.channels": [8, 8, 8], "model.hidden": 8,
    **OPEN,  # drawn beats are too much alike for the default policy
}  # fmt: skip


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes") / "records"
    for name, symbols in (("a", "NNNL"), ("b", "NNVV"), ("c", "NNA"), ("d", "NNVVA"), ("e", "NNNNNV")):
        ecg.write(folder, name, seconds=60, symbols=symbols)
    return folder


@pytest.fixture(scope="module")
def config(tiny_config: Any, records: Path) -> RunConfig:
    made = tiny_config(**KEYS, **{"data.folder": str(records)})
    assert isinstance(made, RunConfig)
    return made


@pytest.fixture(scope="module")
def done(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes") / "run"
    run(config, folder)
    return folder


def test_names_of_more_than_one_letter_reach_the_result(done: Path) -> None:
    result = Result.read(done)
    assert tuple(result.cohort.classes) == OWN
    for scores in (result.final.global_, result.final.personal, result.validation.personal):
        for each in (scores.recall, scores.precision, scores.f1, scores.support):
            assert tuple(each) == OWN
        assert np.shape(scores.confusion) == (4, 4)
    assert result.final.personal.recall["never seen"] is None
    assert result.final.personal.support["never seen"] == 0
    assert result.score("final/personal/recall/pvc") == result.final.personal.recall["pvc"]
    assert result.cohort.missing["never seen"] == (0, 1, 2)
    assert result.cohort.symbols_dropped == {"L": 18}
    assert result.cohort.leads == {"MLII + V1": tuple("abcde")}


def test_predictions_are_named_by_class(done: Path) -> None:
    table = pq.read_table(done / PREDICTIONS).to_pydict()
    assert set(table["true"]) == {"normal", "pvc", "any-other"}
    assert set(table["predicted"]) <= set(OWN)
    result = Result.read(done)
    for model, scores in (("global", result.final.global_), ("personal", result.final.personal)):
        rows = [(t, p) for t, p, m in zip(table["true"], table["predicted"], table["model"], strict=True) if m == model]
        for i, true in enumerate(OWN):
            assert [sum(row == (true, called) for row in rows) for called in OWN] == list(scores.confusion[i])
    assert (done / PICTURE).stat().st_size > 1000


def test_the_network_sees_both_leads_and_knows_all_classes(done: Path) -> None:
    tensors = load_file(done / MODEL)
    assert tensors["conv1.weight"].shape == (8, 2, 7)
    assert tensors["head.weight"].shape == (4, 8)
    module, example = torch_model(done)
    assert example.shape == (2, 2 * 150 + 4)
    import torch

    assert module(torch.from_numpy(example)).shape == (2, 4)


def test_pathology_hospitals_go_by_the_classes_of_ones_own(config: RunConfig) -> None:
    """Nobody has the last class; so patients with most pvc first, then the one with any-other, then the normal one."""
    cohort = build_cohort(config.data, config.cohort)
    assert [row["records"] for row in cohort.report["hospitals"]] == [["b", "d"], ["e"], ["a", "c"]]


def test_synthetic_beats_of_any_class_are_asked_for_granted_and_audited(done: Path) -> None:
    result = Result.read(done)
    assert result.synthesis is not None
    assert {row.class_ for row in result.synthesis} <= {"pvc", "any-other"}
    assert any(row.accepted for row in result.synthesis), [row.reasons for row in result.synthesis]
    report = audit(done)
    assert report.findings == []
    assert report.counts["batches"] == sum(bool(row.accepted) for row in result.synthesis)
    for row in result.synthesis:
        if row.accepted:
            with np.load(done / "synthetic" / f"hospital-{row.hospital}.npz") as arrays:
                assert arrays["x"].shape[1:] == (2, 150)
            page = json.loads((done / str(row.file)).read_text())
            assert page["label"] == row.class_
            assert "lead 2 r_amplitude" in page["statistical"].get("ks", {"lead 2 r_amplitude": 0})


def test_another_batch_than_the_signed_one_is_found(done: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    path = next((copy / "synthetic").glob("hospital-*.npz"))
    with np.load(path) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["x"] = np.ascontiguousarray(changed["x"][:, ::-1])  # the leads are exchanged
    np.savez(path, **changed)
    assert {f.field for f in audit(copy).findings} == {"batch"}


def test_tables_of_runs_name_the_classes(done: Path) -> None:
    (row,) = rows_of(done)
    assert row.outcome is not None
    recalls = [f"final/personal/recall/{name}" for name in OWN]
    assert [path for path in row.outcome.scores if path.startswith("final/personal/recall/")] == recalls
    assert tuple(row.outcome.support) == OWN
    assert row.outcome.usual == "normal"
    support = Result.read(done).final.personal.support
    assert row.outcome.all_usual[0] == pytest.approx(support["normal"] / sum(support.values()))
    assert set(recalls) <= set(as_csv({"own": [row]}).splitlines()[0].split(","))
    assert json.loads(as_json({"own": [row]}))["own"]["rows"][0]["usual"] == "normal"


def test_mlflow_is_told_of_names_that_it_takes(config: RunConfig, done: Path) -> None:
    import re

    result = Result.read(done)
    metrics = final_metrics(result)
    assert metrics["final/personal/recall/pvc"] == result.final.personal.recall["pvc"]
    params = params_of(config)
    assert params["data.classes"] == list(OWN)
    assert params["data.symbols"]["!"] == "never seen"
    for name in (*metrics, *params):
        assert re.fullmatch(r"[\w.\-: /]+", name), name


def test_settings_with_names_are_written_and_read_again(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(dump_yaml(config))
    assert parse(RunConfig, load_yaml(tmp_path / "c.yaml"), "c") == config


def test_the_same_labels_under_other_names_give_the_same_numbers(
    tiny_config: Any, records: Path, tmp_path: Path
) -> None:
    keys = {"data.source": "folder", "data.folder": str(records), "data.window": [60, 90], "federation.rounds": 1}
    symbols = {"N": "normal", "L": "normal", "V": "pvc", "A": "early"}
    letters = run(tiny_config(**keys, **{"data.classes": "NSV"}), tmp_path / "a")
    named = run(
        tiny_config(**keys, **{"data.classes": ["normal", "pvc", "early"], "data.symbols": symbols}), tmp_path / "b"
    )
    # patients are sorted by the last class first: here early before pvc, as S is before V
    assert [h.records for h in named.cohort.hospitals] == [h.records for h in letters.cohort.hospitals]
    counted = {
        "normal": letters.cohort.classes["N"],
        "pvc": letters.cohort.classes["V"],
        "early": letters.cohort.classes["S"],
    }
    assert named.cohort.classes == counted
    assert named.final.personal.support == {
        name: letters.final.personal.support[s] for name, s in (("normal", "N"), ("pvc", "V"), ("early", "S"))
    }


def test_labels_and_rare_classes() -> None:
    assert labels_of(("V", "N")) == CLASSES == ("N", "S", "V", "F", "Q")
    assert labels_of(OWN) == OWN
    assert rare(CLASSES) == ("S", "V", "F")
    assert rare(OWN) == OWN[1:]
    assert policy_of(PolicyConfig(), CLASSES).allowed_classes == 0b1110
    assert policy_of(PolicyConfig(), OWN).allowed_classes == 0b1110
    assert policy_of(PolicyConfig(classes=("any-other",)), OWN).allowed_classes == 0b100


def test_a_study_may_be_tuned_for_the_recall_of_any_of_its_classes() -> None:
    assert "validation/personal/recall/any-other" in objectives(labels_of(OWN))
    assert "validation/personal/recall/any-other" not in objectives(CLASSES)


def test_more_classes_than_a_byte_has_signs_are_told_apart(tmp_path: Path) -> None:
    """A hundred classes by symbols of up to three signs, in arrays of int8."""
    names = [f"c{i:02}" for i in range(100)]
    ecg.write(tmp_path, "a", seconds=60, symbols="NV")
    symbols = {f"x{i:02}": name for i, name in enumerate(names[2:])} | {"N": names[0], "V": names[99]}
    symbols.pop("x97")
    data = DataConfig(
        source="folder", folder=str(tmp_path), window=(60, 90), classes=names[:1] + names[2:], symbols=symbols
    )
    beats = load_beats(data)
    assert {beats.classes[i] for i in np.unique(beats.y)} == {"c00", "c99"}
    report = build_cohort(data, CohortConfig(hospitals=1, partition="one-record")).report
    assert report["classes"]["c99"] == report["classes"]["c00"] > 30


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"data.classes": ["normal", "pvc"]}, "classes: no symbol is 'normal'; data.symbols says which are"),
        ({"data.classes": ["N", "V"], "data.symbols": {"V": "pvx"}}, "symbols: 'pvx' of V is no class; allowed: N, V, S, F, Q, null"),
        ({"data.symbols": {"NNNN": "V"}}, "'NNNN' is no annotation symbol"),
        ({"data.classes": ["N", "a/b"]}, "is no name of a class"),
        ({"data.classes": ["N", " pvc"]}, "is no name of a class"),
        ({"data.classes": [f"c{i}" for i in range(101)]}, "two to 100 different classes"),
        ({"data.classes": "normal"}, "must be a list of names, or letters out of NSVFQ"),
        ({"balance.policy.classes": ["pvc"]}, "balance.policy.classes: 'pvc' is no class; allowed: N, S, V, F, Q"),
        (
            {"data.classes": [f"c{i}" for i in range(17)], "data.symbols": {f"{i}": f"c{i}" for i in range(17)},
             "balance.method": "smote"},
            "balance.method smote: the policy on synthetic beats knows 16 classes at most, data.classes has 17",
        ),
    ],
)  # fmt: skip
def test_classes_that_cannot_be_are_refused(tiny_config: Any, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_config(**keys)
    assert says in str(caught.value)
