"""The records that a study is of: kept, registered, compared at every resume, and held against the results by the audit."""

import json
import shutil
from pathlib import Path
from typing import Any

import ecg
import numpy as np
import pytest
from reference import TINY, Heard
from simulated_ray import simulated

from engine.data.beats import digest_of, load_beats
from engine.data.config import DataConfig
from engine.errors import PulseLedgerError, StudyError
from engine.result import RESULT, Result
from engine.settings import set_key
from sweeps.audit import audit_study
from sweeps.checks import load_study
from sweeps.folder import repeat_folder, trial_folder
from sweeps.records import RECORDS, read_records, require_same
from sweeps.space import StudyConfig
from sweeps.start import resume_study, start_study


def study_of(folder: Path, **keys: Any) -> StudyConfig:
    values: dict[str, Any] = {}
    given = {
        **{key: value for key, value in TINY.items() if key.startswith("model")},
        "name": "kept", "data.source": "folder", "data.folder": str(folder), "data.window": [60, 90], "data.classes": "NV",
        "cohort.hospitals": 2, "federation.rounds": 1, "tracking.backend": "none", "execution.cpus": 2,
        "execution.pool": "inprocess", "conditions": {"data.normalise": ["record", "beat"]}, **keys,
    }  # fmt: skip
    for key, value in given.items():
        set_key(values, key, value)
    return load_study(values, "test")


def records_at(folder: Path) -> Path:
    for name in "ab":
        ecg.write(folder, name, seconds=40)
    return folder


def turned(folder: Path) -> None:
    """Another signal under the same name."""
    path = folder / "a.dat"
    np.fromfile(path, "<i2")[::-1].tofile(path)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kept")
    start_study(study_of(records_at(place / "records")), place / "study", Heard(), means=simulated())
    return place


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done / "study", tmp_path / "study"))


def test_the_digest_is_that_of_the_beats(done: Path) -> None:
    kept = read_records(done / "study")
    assert list(kept) == ["normalise=record", "normalise=beat"]
    for label, normalise in (("normalise=record", "record"), ("normalise=beat", "beat")):
        data = DataConfig(
            source="folder", folder=str(done / "records"), window=(60, 90), classes="NV", normalise=normalise
        )
        assert kept[label] == digest_of(data) == load_beats(data).digest
    results = [Result.read(repeat_folder(trial_folder(done / "study", n), 0)) for n in (0, 1)]
    assert sorted(r.cohort.digest for r in results) == sorted(kept.values())


def test_a_clean_study_is_clean_and_goes_on(done: Path, copy: Path) -> None:
    assert audit_study(copy).findings == []
    resume_study(copy, Heard(), means=simulated())
    assert read_records(copy) == read_records(done / "study")


def test_a_study_does_not_go_on_with_other_records(done: Path, copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(done / "records", tmp_path / "records"))
    study = study_of(other)
    require_same(study, copy)  # a copy elsewhere is the same
    turned(other)
    with pytest.raises(StudyError) as caught:
        require_same(study, copy)
    assert str(caught.value).startswith(
        f"{copy}: the records of condition normalise=record have changed since the study began"
    )
    assert str(caught.value).endswith("; put them back, or begin in another folder.")
    text = (copy / "study.yaml").read_text().replace(str(done / "records"), str(other))
    (copy / "study.yaml").write_text(text)
    with pytest.raises(StudyError, match="the records of condition normalise=record have changed"):
        resume_study(copy, Heard(), means=simulated())


def test_records_that_are_not_there_end_a_study_before_it_begins(tmp_path: Path) -> None:
    study = study_of(records_at(tmp_path / "records"))
    shutil.rmtree(tmp_path / "records")
    with pytest.raises(PulseLedgerError, match="is not a folder; give a folder of WFDB records"):
        require_same(study, tmp_path)


def test_sites_have_their_records_to_themselves(tmp_path: Path) -> None:
    study = study_of(tmp_path / "nowhere", **{"execution.sites": {0: "x", 1: "y"}, "execution.pool": "ray"})
    require_same(study, tmp_path)
    assert read_records(tmp_path) == {}


def test_the_audit_names_other_records_than_the_registered_ones(copy: Path) -> None:
    """The file was changed: it is no longer what was registered, and the results are of other records."""
    kept = json.loads((copy / RECORDS).read_text())
    (copy / RECORDS).write_text(json.dumps({**kept, "normalise=beat": "0" * 64}))
    found = {(f.trial, f.record, f.field) for f in audit_study(copy, checks=()).findings}
    assert found == {(None, "design", "normalise=beat"), (1, "folder", "cohort.digest")}
    (copy / RECORDS).unlink()
    report = audit_study(copy, checks=())
    assert {(f.record, f.field) for f in report.findings} == {
        ("design", "normalise=record"),
        ("design", "normalise=beat"),
    }
    lost = "records.json is not there: results were not held against the records that the study began with"
    assert lost in report.unchecked


def test_the_audit_names_a_result_of_other_records(copy: Path) -> None:
    path = repeat_folder(trial_folder(copy, 0), 0) / RESULT
    result = json.loads(path.read_text())
    result["cohort"]["digest"] = "f" * 64
    path.write_text(json.dumps(result))
    messages = {f.message for f in audit_study(copy, checks=()).findings if f.field == "cohort.digest"}
    assert messages == {"repeat 0 was trained on other records than the study began with"}


def test_a_damaged_file_is_one_sentence(copy: Path) -> None:
    for content in ("{", "[1]", '{"a": 1}'):
        (copy / RECORDS).write_text(content)
        with pytest.raises(PulseLedgerError, match=r"records\.json: is not readable"):
            audit_study(copy)
