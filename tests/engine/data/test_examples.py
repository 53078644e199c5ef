"""Own data sources: what they may give, hospitals and parts of a table, and missing values without a leak."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import RunConfig
from engine.data.cohort import Cohort, build_cohort
from engine.data.config import CohortConfig, DataConfig
from engine.data.load import digest, load
from engine.errors import ConfigError, PulseLedgerError
from engine.own.reference import pinned
from engine.settings import parse

TEXT = """
import numpy as np
from engine.data.examples import Examples

def table(folder, *, change="", at=0, value=0.0):
    draw = np.random.default_rng(0)
    n = 60
    x = draw.standard_normal((n, 3))
    x[::7, 1] = np.nan
    x[20:40, 2] = np.nan  # never measured in the second hospital
    given = dict(
        x=x,
        y=[("no", "yes")[int(v > 0)] for v in x[:, 0]],
        classes=("no", "yes"),
        patients=[f"p{i // 2}" for i in range(n)],
        hospitals=[f"h{i // 20}" for i in range(n)],
        when=[i % 2 for i in range(n)],
        features=("a", "b", "c"),
        unit="visits",
    )
    if change == "cell":
        x[at, 0] += value
    elif change:
        exec(change, {"np": np}, given)
    return Examples(**given)

def signals(folder):
    draw = np.random.default_rng(0)
    return Examples(draw.standard_normal((40, 2, 16)), ["u", "v"] * 20, ("u", "v"), [f"p{i // 4}" for i in range(40)])
"""


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., DataConfig]:
    """Settings of the table, in a folder whose name has signs in it."""
    folder = tmp_path / 'it\'s a "folder"'
    folder.mkdir()
    (folder / "data.py").write_text(TEXT)

    def build(name: str = "table", **changes: Any) -> DataConfig:
        plain = {
            "source": pinned(f"{folder}/data.py:{name}"),
            "classes": ["no", "yes"],
            "normalise": "none",
            "missing": "mask",
        }
        return parse(DataConfig, {**plain, **changes}, "test")

    return build


Settings = Callable[..., DataConfig]
GIVEN = CohortConfig(hospitals=3, partition="given", split="patients")


def test_hospitals_are_the_given_ones_and_no_patient_is_in_two_parts(settings: Settings):
    cohort = build_cohort(settings(), GIVEN)
    names = [
        [cohort.beats.records[r]["hospital"] for r in np.unique(cohort.beats.record[h.train])] for h in cohort.hospitals
    ]
    assert [set(one) for one in names] == [{"h0"}, {"h1"}, {"h2"}]
    for h in cohort.hospitals:
        parts = [set(cohort.beats.record[index].tolist()) for index in (h.train, h.validation, h.test)]
        assert [len(part) for part in parts] == [6, 1, 3]
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert cohort.report["unit"] == "visits"
    assert cohort.report["leaky"] == []
    with pytest.raises(ConfigError, match=r"cohort.hospitals is 5, but the data are of 3 hospitals, h0, h1, h2"):
        build_cohort(settings(), CohortConfig(partition="given"))


def test_a_held_out_hospital_adapts_on_some_patients_and_is_tested_on_the_others(settings: Settings):
    config = CohortConfig(hospitals=3, partition="given", split="leave-one-hospital-out", held_out=1)
    out = build_cohort(settings(), config).hospitals[1]
    assert (out.trains, len(out.train), len(out.validation), len(out.test)) == (False, 12, 0, 8)


def test_a_mask_says_what_is_missing_and_nothing_else_changes(settings: Settings):
    plain, x = load(settings()).x, build_cohort(settings(), GIVEN).beats.x
    assert x.shape == (60, 1, 6)
    lacking = np.isnan(plain)
    assert np.array_equal(x[:, :, 3:], lacking.astype(np.float32))
    assert np.array_equal(x[:, :, :3], np.where(lacking, 0, plain))


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_what_is_missing_is_filled_from_the_hospital_s_own_train_part(rule: str, settings: Settings):
    plain, cohort = load(settings()).x[:, 0], build_cohort(settings(missing=rule), GIVEN)
    assert cohort.beats.x.shape == (60, 1, 3)
    for h in cohort.hospitals:
        known = plain[h.train, 1]
        value = getattr(np, rule)(known[~np.isnan(known)].astype(float))
        every = np.concatenate([h.train, h.validation, h.test])
        filled = cohort.beats.x[every, 0, 1][np.isnan(plain[every, 1])]
        assert filled == pytest.approx(value, abs=1e-6)
    assert not cohort.beats.x[20:40, 0, 2].any()  # nothing is known there, and other hospitals are not asked


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("rule", ["mean", "mask"])
def test_no_sample_knows_another_part_or_another_hospital(part: str, rule: str, settings: Settings):
    def scaled(at: int) -> Cohort:
        return build_cohort(
            settings(missing=rule, normalise="train", parameters={"change": "cell", "at": at, "value": 50.0}), GIVEN
        )

    before = build_cohort(settings(missing=rule, normalise="train"), GIVEN)
    at = int(getattr(before.hospitals[1], part)[0])
    after = scaled(at).beats.x
    others = np.arange(60) != at
    assert np.array_equal(after[others], before.beats.x[others])
    assert not np.array_equal(after[at], before.beats.x[at])
    at = int(before.hospitals[1].train[0])
    changed = (scaled(at).beats.x != before.beats.x).any((1, 2))
    assert changed[20:40].any()
    assert not changed[:20].any()
    assert not changed[40:].any()


def test_each_feature_is_scaled_by_itself(settings: Settings):
    cohort = build_cohort(settings(normalise="train"), GIVEN)
    for h in cohort.hospitals:
        train = cohort.beats.x[h.train, 0, 0].astype(float)
        assert (np.median(train), train.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


def test_signals_of_two_leads_are_given_to_hospitals_by_patients(settings: Settings):
    config = CohortConfig(hospitals=2, partition="consecutive", split="chronological")
    beats = build_cohort(settings("signals", classes=["u", "v"]), config).beats
    assert (beats.shape, beats.features, len(beats.records)) == ((2, 16), (), 10)


@pytest.mark.parametrize(
    ("change", "sentence"),
    {
        "y[3] = float('nan')": "data.py:table: y of sample 3 is nan, not one of no, yes.",
        "y[3] = 'maybe'": "data.py:table: y of sample 3 is 'maybe', not one of no, yes.",
        "y.pop()": "data.py:table: x has 60 samples, y has 59.",
        "hospitals[:] = []": "data.py:table: x has 60 samples, hospitals has 0.",
        "hospitals[2] = ''": "data.py:table: the hospital of sample 2 is '', not a name.",
        "patients[2] = None": "data.py:table: the patient of sample 2 is None, not a name.",
        "when[1] = 0": "data.py:table: samples 0 and 1 of patient p0 are both at 0 in `when`.",
        "when[1] = 0.5": "data.py:table: `when` of sample 1 is 0.5, not a whole number.",
        "x[0, 0] = float('inf')": "data.py:table: x holds numbers that are infinite, or too large for float32.",
        "x = x[:0]": "data.py:table: gives no samples.",
        "x = x[0]": "data.py:table: x is float64[3], not numbers [n, d] or [n, leads, length].",
        "x = x[:, None]": "data.py:table: x has 1 columns, features names 3.",
        "features = 'aab'": "data.py:table: features names a column twice.",
        "classes = ('no',)": "data.py:table: classes must be at least two different names.",
        "1 / 0": "data.py:table: ZeroDivisionError: division by zero (data.py, line 24).",
    }.items(),
)
def test_what_a_source_may_not_give_is_one_sentence(change: str, sentence: str, settings: Settings):
    with pytest.raises(PulseLedgerError) as caught:
        digest(settings(parameters={"change": change}))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"classes": ["no", "never"]}, r"has no class never of data.classes; write data.classes: \[no, yes\]"),
        ({"classes": "NSV"}, r"has no class N of data.classes; write data.classes: \[no, yes\]"),
        ({"missing": "refuse"}, "b is missing in 9 of 60 samples; data.missing says what is done about it"),
        ({"normalise": "record"}, "normalise record is for WFDB records; with a source of your own it is train"),
        ({"lead": "V5"}, "lead is for WFDB records; a source of your own takes data.parameters"),
        ({"parameters": {"chnage": ""}}, r"has no parameter chnage \(did you mean change\?\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], sentence: str, settings: Settings):
    with pytest.raises(PulseLedgerError, match=sentence):
        digest(settings(**changes))


def test_the_digest_is_of_what_was_given(settings: Settings):
    first = digest(settings())
    assert digest(settings(parameters={"at": 5})) == first
    assert digest(settings(parameters={"change": "cell", "at": 5, "value": 1.0})) != first
    assert digest(settings(parameters={"change": "patients[0] = 'q'"})) != first
    assert load(settings()).digest == first


def test_beats_of_records_only_are_not_asked_of_other_sources(settings: Settings):
    data = settings().model_dump(mode="json")
    for changes, sentence in (
        ({"balance": {"method": "smote"}}, "needs beats of WFDB records"),
        ({"cohort": {"split": "other-database"}}, "other-database"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            parse(RunConfig, {"data": data, **changes}, "test")
