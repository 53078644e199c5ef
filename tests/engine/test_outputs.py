"""What a run leaves in its folder, also where a hospital has no beats to test."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from results import whole
from safetensors.numpy import load_file

from engine.config import RunConfig
from engine.experiment import Place, run
from engine.metrics import confusion
from engine.model import build_network, vector_hash
from engine.outputs import draw_picture
from engine.result import MODEL, PICTURE, PREDICTIONS, RESULT, Result

COLUMNS = {
    "hospital": "int32",
    "record": "string",
    "patient": "string",
    "sample": "int64",
    "model": "string",
    "true": "string",
    "predicted": "string",
    "confidence": "int32",
    "sex": "string",
    "age": "string",
}
SHORT = {"federation.rounds": 1}


@pytest.mark.parametrize(
    ("split", "minutes", "tested"),
    [
        ("chronological", 0.5, {0, 1, 2}),
        ("leave-one-hospital-out", 0.5, {0, 1, 2}),
        ("leave-one-hospital-out", 5.0, {1, 2}),  # longer than the records of the one that is left out
        ("inter-patient", 0.5, {3, 4, 5}),  # the patients of the hospitals that train are tested nowhere
        ("inter-patient", 5.0, set()),
    ],
)
def test_a_run_ends_whichever_hospitals_have_test_beats(tiny_config, tmp_path: Path, split, minutes, tested):
    told: list[str] = []
    changes = {**SHORT, "cohort.split": split, "cohort.adapt_minutes": minutes}
    result = run(tiny_config(**changes), tmp_path, Place(note=told.append))
    assert {h.id for h in result.cohort.hospitals if h.test} == tested
    assert (result.final.personal.accuracy is None) == (not tested)
    assert (tmp_path / PICTURE).exists(), told
    assert Result.read(tmp_path) == result
    assert {row.id for row in result.final.personal.per_hospital} == tested
    table = pq.read_table(tmp_path / PREDICTIONS)
    assert {field.name: str(field.type) for field in table.schema} == COLUMNS
    assert set(table["hospital"].to_pylist()) == tested
    assert len(table) == 2 * sum(h.test for h in result.cohort.hospitals)


@pytest.fixture(scope="module")
def ended(tiny_config, tmp_path_factory) -> tuple[RunConfig, Path, Result]:
    config, folder = tiny_config(**SHORT), tmp_path_factory.mktemp("ended")
    return config, folder, run(config, folder)


def test_predictions_give_the_confusion_of_the_result(ended):
    _, folder, result = ended
    table, classes = pq.read_table(folder / PREDICTIONS).to_pandas(), result.config.data.classes
    for model in ("global", "personal"):
        rows = table[table["model"] == model]
        true, predicted = (np.array([classes.index(c) for c in rows[name]]) for name in ("true", "predicted"))
        assert confusion(true, predicted, len(classes)).tolist() == [list(r) for r in result.final.of(model).confusion]


def test_the_model_in_the_folder_is_the_one_that_the_result_names(ended):
    _, folder, result = ended
    data = result.config.data
    network = build_network(result.config.model, 1, sum(data.window), len(data.rr_names), len(data.classes))
    tensors = load_file(folder / MODEL)
    params = np.concatenate([tensors[name].ravel() for name, _ in network.layout])
    assert len(params) == result.parameters
    assert vector_hash(params, network.layout).hex() == result.model_hash


def test_the_result_is_on_disk_before_the_picture_and_after_all_else(ended):
    _, folder, _ = ended
    times = [(folder / name).stat().st_mtime_ns for name in (PREDICTIONS, MODEL, RESULT, PICTURE)]
    assert times == sorted(times)


def test_the_picture_shows_every_count_in_the_shade_of_its_share(ended):
    _, folder, result = ended
    groups = ElementTree.parse(folder / PICTURE).getroot().findall("{*}g")
    for group, model in zip(groups, ("global", "personal"), strict=True):
        scores = result.final.of(model)
        cells = {tuple(float(each.attrib[k]) // 62 for k in "xy"): each for each in group.findall("{*}text[@fill]")}
        shades = [r for r in group.findall("{*}rect") if "fill-opacity" in r.attrib]
        assert len(shades) == len(scores.confusion) ** 2
        for shade, (i, j) in zip(shades, np.ndindex(*np.shape(scores.confusion)), strict=True):
            row = scores.confusion[i]
            assert cells[j, i].text == f"{row[j]:,}"
            assert float(shade.attrib["fill-opacity"]) == pytest.approx(row[j] / max(sum(row), 1), abs=5e-4)
            assert [int(shade.attrib[k]) for k in "xy"] == [62 * j, 62 * i]
        assert cells[len(row) // 2, -1].text.startswith(f"{model}: accuracy {scores.accuracy:.4f}")


def test_a_picture_that_is_missing_is_drawn_when_the_run_is_asked_for_again(ended):
    config, folder, result = ended
    drawn = (folder / PICTURE).read_bytes()
    (folder / PICTURE).unlink()
    assert run(config, folder) == result
    assert (folder / PICTURE).read_bytes() == drawn


def test_a_picture_that_cannot_be_written_is_said_and_nothing_to_fail_of(tmp_path: Path):
    result = Result.model_validate({**whole(Result), "config": RunConfig()})
    told: list[str] = []
    draw_picture(tmp_path / "nowhere", result, told.append)
    assert len(told) == 1
    assert told[0].startswith(f"{tmp_path / 'nowhere' / PICTURE}: cannot be written (")
    draw_picture(tmp_path, result)
    assert (tmp_path / PICTURE).exists()
