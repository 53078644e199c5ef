"""Empty corners: whatever is combined on records of few beats, a run ends whole or is refused before it trains.

A pairwise array holds every two settings together at least once, which takes minutes; every setting is tried in any case.
No traceback, and nothing refused after a round.
"""

import itertools
import random
from pathlib import Path
from typing import Any

import ecg
import pyarrow.parquet as pq
import pytest

from engine.data.config import DataConfig
from engine.errors import PulseLedgerError
from engine.experiment import run
from engine.result import PICTURE, PREDICTIONS, Result
from sweeps.rows import rows_of

Row = dict[str, Any]

SPLITS = ["chronological", "random", "inter-patient", "leave-one-hospital-out"]
ALGORITHMS = ["fedavg", "fedprox", "perfedavg", "local", "centralised"]
CHOICES: dict[str, list[Any]] = {
    "cohort.split": SPLITS,
    "federation.algorithm": ALGORITHMS,
    "personalisation.method": ["none", "finetune", "lp-ft", "safeguarded"],
    "balance.method": ["none", "class_weighted", "oversample", "smote"],
    "data.classes": ["NSVFQ", "NV"],
    "data.leads": [None, [["MLII"], ["V1"]]],
    "cohort.adapt_minutes": [0.1, 5.0],
    "execution.pool": ["inprocess", "threads"],
}
MORE: dict[str, list[Any]] = {
    **CHOICES,
    "cohort.split": [*SPLITS, "other-database"],
    "federation.algorithm": [*ALGORITHMS, "scaffold", "ditto", "fedper", "fedrep", "fedbn"],
    "personalisation.keep": ["last", "half-way", "best-on-validation"],
    "personalisation.part": ["all", "head"],
    "data.normalise": ["record", "train", "beat"],
    "cohort.partition": [
        "records", "one-record", "consecutive", "pathology", "record-dirichlet", "beat-dirichlet", "quantity",
    ],
    "balance.method": ["none", "class_weighted", "logit_adjustment", "oversample", "smote", "borderline", "adasyn"],
    "cohort.fractions": [[0.6, 0.1, 0.3], [0.7, 0.0, 0.3], [0.05, 0.05, 0.9]],
    "data.classes": ["NSVFQ", "NV", "SV", ["usual", "early", "pvc"]],
    "ledger.backend": ["none", "embedded"],
    "ledger.reputation": ["none", "peers"],
    "execution.pool": ["inprocess", "threads", "ray"],
}  # fmt: skip


def pairwise(choices: dict[str, list[Any]], seed: int = 0) -> list[Row]:
    """Rows in which every value of a key stands with every value of every other: greedy, some twice as many as needed."""
    draw, names = random.Random(seed), list(choices)
    left = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(choices[a]))
        for j in range(len(choices[b]))
    }

    def gained(row: dict[str, int], name: str, value: int) -> int:
        pairs = ((*sorted([(names.index(n), v), (names.index(name), value)]),) for n, v in row.items())
        return sum((names[x], i, names[y], j) in left for (x, i), (y, j) in pairs)

    rows = []
    while left:
        a, i, b, j = min(left, key=lambda pair: (names.index(pair[0]), pair[1], names.index(pair[2]), pair[3]))
        row = {a: i, b: j}
        for name in draw.sample(names, len(names)):
            if name not in row:
                row[name] = max(range(len(choices[name])), key=lambda v: (gained(row, name, v), draw.random()))
        left -= {(n, row[n], m, row[m]) for n, m in itertools.combinations(names, 2)}
        rows.append({name: choices[name][value] for name, value in row.items()})
    return rows


def test_a_pairwise_array_holds_every_pair():
    rows = pairwise(CHOICES)
    for a, b in itertools.combinations(CHOICES, 2):
        for pair in itertools.product(CHOICES[a], CHOICES[b]):
            assert any((row[a], row[b]) == pair for row in rows), (a, b, pair)
    assert len(rows) <= 2 * 5 * 4  # twice what the two longest lists need


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two records as usual, one of a single class, one of two beats, one with a lone V, one with a lone Q."""
    folder = tmp_path_factory.mktemp("corners") / "records"
    ecg.write(folder, "a", seconds=40, symbols="NNNNNNVNNNNNA")
    ecg.write(folder, "b", seconds=40, symbols="NNNV")
    ecg.write(folder, "c", seconds=40, symbols="N")
    ecg.write(folder, "d", seconds=2.4, symbols="NV")
    ecg.write(folder, "e", seconds=40, symbols="N" * 46 + "V")
    ecg.write(folder, "f", seconds=40, symbols="N" * 30 + "Q" + "N" * 30)
    ecg.write(folder.parent / "away", "x", seconds=40, leads=("V1", "II"), comments=["patient 1"])
    ecg.write(folder.parent / "away", "y", seconds=2.4, leads=("I", "II", "V1"), comments=["patient 2"])
    return folder


def ends(config: Any, folder: Path) -> bool:
    """Whether a run ends whole; else it was refused in one sentence, before any round."""
    refused = ""
    try:
        result = run(config, folder)
    except PulseLedgerError as error:
        refused = str(error)
    if refused:
        assert refused.endswith(".")
        assert "\n" not in refused
        assert not (folder / "checkpoint.safetensors").exists(), refused
        return False
    assert Result.read(folder) == result
    assert len(pq.read_table(folder / PREDICTIONS)) == 2 * sum(h.test for h in result.cohort.hospitals)
    assert (folder / PICTURE).exists()
    assert len(rows_of(folder)) == 1
    return True


def corner(tiny_config: Any, records: Path, row: Row) -> Any:
    keys: Row = {
        "data.source": "folder", "data.folder": str(records), "data.window": [60, 90], "model.channels": [8, 8, 8],
        "model.hidden": 8, "federation.rounds": 1, "personalisation.epochs": 1, "cohort.partition": "consecutive",
        "execution.cpus": 2, **row,
    }  # fmt: skip
    if keys["cohort.partition"] == "one-record":
        keys["cohort.hospitals"] = 3 if keys["cohort.split"] == "inter-patient" else 6
    if keys["cohort.partition"] == "records":
        keys["cohort.groups"] = [["a", "d"], ["b", "c"], ["e", "f"]]
    if keys["cohort.split"] == "other-database":
        keys = {"data.other.source": "folder", "data.other.folder": str(records.parent / "away"), **keys}
    if keys.get("data.classes") == ["usual", "early", "pvc"]:
        keys["data.symbols"] = {"N": "usual", "A": "early", "V": "pvc"}
    if keys.get("ledger.backend", "none") == "none" or keys["federation.algorithm"] == "centralised":
        keys["ledger.reputation"] = "none"  # the settings refuse it
    if keys["federation.algorithm"] == "scaffold":
        keys["federation.local_steps"] = 3
    return tiny_config(**keys)


def every(choices: dict[str, list[Any]]) -> list[Row]:
    """As many rows as the longest list has values, in which every value of every key stands."""
    rows = range(max(map(len, choices.values())))
    return [{name: values[(i + i // len(values)) % len(values)] for name, values in choices.items()} for i in rows]


def test_every_setting_ends(tiny_config, records: Path, tmp_path: Path):
    rows = every(CHOICES)
    for name, values in CHOICES.items():
        assert all(any(row[name] == value for row in rows) for value in values)
    ended = [ends(corner(tiny_config, records, row), tmp_path / str(i)) for i, row in enumerate(rows)]
    assert sum(ended) > len(rows) / 2


@pytest.mark.long
def test_every_two_settings_end_together(tiny_config, records: Path, tmp_path: Path):
    rows = pairwise(CHOICES)
    ended = [ends(corner(tiny_config, records, row), tmp_path / str(i)) for i, row in enumerate(rows)]
    assert sum(ended) > len(rows) / 2


@pytest.mark.long
def test_every_two_of_more_settings_end_together(tiny_config, records: Path, tmp_path: Path, ray2):
    for seed in range(3):
        rows = pairwise(MORE, seed)
        ended = [ends(corner(tiny_config, records, row), tmp_path / f"{seed}-{i}") for i, row in enumerate(rows)]
        assert sum(ended) > len(rows) / 3


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("split", SPLITS)
def test_real_records_end_with_every_algorithm_and_personalisation(
    tiny_config, mitdb: Path, tmp_path: Path, split: str, algorithm: str
):
    """102 is nearly all paced, 111 has one V, 207 flutter and no N, 208 and 213 nearly all F, 232 nearly all S."""
    for method in ("none", "finetune"):
        keys = {
            "data.source": "mitdb", "data.folder": str(mitdb), "data.records": ["100", "102", "111", "207", "208", "232"],
            "cohort.hospitals": 3, "cohort.partition": "consecutive", "cohort.split": split,
            "federation.algorithm": algorithm, "personalisation.method": method, "federation.rounds": 1,
        }  # fmt: skip
        if split == "inter-patient":
            keys |= {"cohort.hospitals": 2}
        assert ends(tiny_config(**keys), tmp_path / method)


# --- Refused before training, naming the hospital ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cohort.split": "leave-one-hospital-out", "cohort.held_out": 2, "cohort.adapt_minutes": 0.001},
         "cohort: hospital 2 (e, f) has no train beats with split leave-one-hospital-out; "),
        ({"data.classes": "SV", "cohort.hospitals": 6},
         "cohort: hospital 2 (no beats; none is left of c, f) has no train beats with split chronological; "),
        ({"ledger.backend": "embedded", "ledger.reputation": "peers", "cohort.fractions": [0.7, 0.0, 0.3]},
         "ledger.reputation: peers needs at least two hospitals with validation beats in every round; hospitals 0, 1, 2 of "),
    ],
)  # fmt: skip
def test_what_cannot_train_is_refused_by_name(tiny_config, records: Path, tmp_path: Path, changes: Row, says: str):
    config = corner(
        tiny_config, records, {"cohort.split": "chronological", "federation.algorithm": "fedavg", **changes}
    )
    with pytest.raises(PulseLedgerError) as caught:
        run(config, tmp_path)
    assert str(caught.value).startswith(says)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_hospital_of_one_beat_has_nothing_to_be_tested_on(tiny_config, records: Path, tmp_path: Path):
    row = {"cohort.split": "chronological", "federation.algorithm": "fedavg", "cohort.hospitals": 6}
    config = corner(tiny_config, records, row)
    assert isinstance(config.data, DataConfig)
    result = run(config, tmp_path)
    few = result.cohort.hospitals[3]
    assert (few.records, few.train + few.validation + few.test) == (("d",), 2)
    assert few.local_majority_accuracy is None or few.test
    assert {row.id for row in result.final.personal.per_hospital} == {h.id for h in result.cohort.hospitals if h.test}


def test_a_study_across_databases_runs_to_its_end(tiny_config, records: Path, tmp_path: Path):
    for name, lead in (("x", "II"), ("y", "II")):
        ecg.write(tmp_path / "away", name, seconds=40, rate=250, leads=("I", lead))
    row = {
        "cohort.split": "other-database", "federation.algorithm": "fedavg", "data.rate": 360.0, "cohort.hospitals": 2,
        "data.other.source": "folder", "data.other.folder": str(tmp_path / "away"), "cohort.adapt_minutes": 0.2,
    }  # fmt: skip
    result = run(corner(tiny_config, records, row), tmp_path / "run")
    assert {row.id for row in result.final.personal.per_hospital} == {2, 3}
    assert result.cohort.leads == {"MLII": tuple("abcdef"), "II": ("folder/x", "folder/y")}
