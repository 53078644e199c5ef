"""Claims: each statistic against numbers that can be redone by hand, and verdicts out of predictions that are made up."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine.errors import ConfigError
from engine.settings import yaml_text
from sweeps import statistics
from sweeps.__main__ import main
from sweeps.claims import judge, read_claims
from sweeps.folder import repeat_folder, trial_folder
from sweeps.rows import rows_of
from sweeps.space import StudyConfig, conditions, resolve


def tables(*patients: Any) -> np.ndarray:
    """One seed's confusion matrices."""
    return np.array([patients])


# --- Statistics -------------------------------------------------------------------------------------------------------


def test_scores_of_tables_by_hand():
    table = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    # F1 of the first 12 / 14, of the second 8 / 10; the third has no beats
    assert statistics.macro_f1(table, [0, 1, 2]) == pytest.approx((12 / 14 + 8 / 10) / 2)
    assert statistics.accuracy(table, [0, 1]) == pytest.approx(10 / 12)
    assert statistics.accuracy(table, [0]) == pytest.approx(6 / 8)
    assert np.isnan(statistics.macro_f1(table, [2]))


def test_patients_are_drawn_whole():
    """Two patients of ten beats each: the first gains all, the second nothing. Of four draws one has the first twice,
    two have both, one has the second twice: 1, 1/2, 1/2, 0."""
    none, all_ = [[0, 10], [0, 0]], [[10, 0], [0, 0]]
    found = statistics.by_patients(tables(all_, none), tables(none, none), statistics.accuracy, [0], 0.95, 2000)
    assert found == (0.5, 0.0, 1.0)
    half = statistics.by_patients(tables(all_, none), tables(none, none), statistics.accuracy, [0], 0.4, 2000)
    assert half == (0.5, 0.5, 0.5)  # the middle 40 % are all one half
    assert found == statistics.by_patients(
        tables(all_, none), tables(none, none), statistics.accuracy, [0], 0.95, 2000
    )  # and again the same
    same = statistics.by_patients(tables(all_, all_), tables(none, none), statistics.accuracy, [0], 0.95, 100)
    assert same == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("patients", "p"), [(5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_signed_ranks_of_differences_of_one_sign(patients: int, p: float):
    assert statistics.wilcoxon([0.1 * (i + 1) for i in range(patients)]) == pytest.approx(p)  # 2 / 2^n
    assert statistics.wilcoxon([0.0] * patients) == 1.0


def test_two_one_sided_tests_by_hand():
    """Differences -1, 1, -1, 1 points: mean 0, error 1 / sqrt(3) points, so 2 points are t = 2 sqrt(3) at 3 degrees of
    freedom, whose tail is 1/2 - (2/5 + atan 2) / pi."""
    tail = 0.5 - (0.4 + math.atan(2)) / math.pi
    given = [-0.01, 0.01, -0.01, 0.01]
    assert statistics.tost(given, 0.02) == pytest.approx(tail)
    assert statistics.not_worse(given, 0.02) == pytest.approx(tail)
    shifted = [one + 0.5 for one in given]
    assert statistics.tost(shifted, 0.02) > 0.99
    assert statistics.not_worse(shifted, 0.02) < 1e-4
    assert statistics.tost([0.01], 0.02) == 1.0
    assert statistics.tost([0.01, 0.01], 0.02) == 0.0


def test_friedman_and_nemenyi_by_hand():
    """Three methods in the same order on four blocks: chi^2 = 8 with 2 degrees of freedom, p = exp(-4); Demsar's q for
    three methods is 2.343, so mean ranks differ beyond 2.343 sqrt(3 * 4 / (6 * 4))."""
    found = statistics.friedman(np.array([[0.9, 0.8, 0.7]] * 4))
    assert found.p == pytest.approx(math.exp(-4))
    assert found.mean == [1, 2, 3]
    assert found.critical == pytest.approx(2.343 * math.sqrt(0.5), abs=2e-3)


# --- Verdicts ---------------------------------------------------------------------------------------------------------

CONDITION = "hospitals=2"
PATIENTS = [f"p{i}" for i in range(8)]


def write(
    folder: Path, method: str, right: dict[str, float], sex: dict[str, str] | None = None, repeats: Any = (0, 1)
) -> None:
    """Predictions of a method's own models: of each patient's 10 N beats all are right, of its 10 V this share."""
    row = next(r for r in rows_of(folder) if r.method == method and r.condition == CONDITION)
    rows = [
        {
            "patient": p,
            "model": "personal",
            "sex": (sex or {}).get(p, "unknown"),
            "true": true,
            "predicted": true if true == "N" or i < 10 * share else "N",
        }
        for p, share in right.items()
        for true in "NV"
        for i in range(10)
    ]
    for repeat in repeats:
        path = repeat_folder(trial_folder(folder, row.trial), repeat) / "predictions.parquet"
        pd.DataFrame(rows).to_parquet(path)


@pytest.fixture(scope="module")
def copied(seen, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("claims") / "study"
    shutil.copytree(seen.folder, folder)
    return folder


@pytest.fixture
def made_up(copied: Path) -> Path:
    """A study with predictions of eight patients: FedAvg finds nine of ten V beats, local-only none to three of ten."""
    folder = copied
    write(folder, "FedAvg + fine-tuning", dict.fromkeys(PATIENTS, 0.9))
    write(folder, "local-only", {p: (i % 4) / 10 for i, p in enumerate(PATIENTS)})
    return folder


def claim(**changes: Any) -> dict[str, Any]:
    usual = {
        "id": "C1", "says": "federation helps", "condition": CONDITION, "subject": {"method": "FedAvg + fine-tuning"},
        "against": {"method": "local-only"}, "endpoint": "recall", "classes": ["V"],
    }  # fmt: skip
    return {**usual, **changes}


def file_of(folder: Path, *claims: dict[str, Any], **more: Any) -> Path:
    path = folder / "claims.yaml"
    path.write_text(yaml_text({"claims": list(claims), "resamples": 400, **more}))
    return path


def verdicts(folder: Path, *claims: dict[str, Any]) -> list[Any]:
    return judge(read_claims(file_of(folder.parent, *claims))[0], folder)


def test_verdicts_of_predictions_that_are_made_up(made_up: Path):
    swapped = {"subject": {"method": "local-only"}, "against": {"method": "FedAvg + fine-tuning"}}
    better, worse, level, far = verdicts(
        made_up,
        claim(),
        claim(id="C2", **swapped),
        claim(id="C3", test="level", margin=0.01),
        claim(id="C4", margin=0.95),
    )
    assert [one.verdict for one in (better, worse, level, far)] == ["validated", "refuted", "refuted", "refuted"]
    assert better.difference.value == pytest.approx(0.9 - 0.15)
    assert better.each == pytest.approx([0.9 - (i % 4) / 10 for i in range(8)])
    assert better.p == pytest.approx(2 / 2**8)
    assert better.corrected >= better.p
    assert better.support == {"V": 80}
    assert (better.seeds, len(better.patients)) == (2, 8)
    assert "+75.0 points of recall of V, 95 % interval over patients [" in better.sentence


def test_level_and_not_worse_need_a_margin_and_hold_within_it(made_up: Path):
    write(made_up, "local-only", dict.fromkeys(PATIENTS, 0.9))
    level, kept, better = verdicts(
        made_up,
        claim(test="level", margin=0.01),
        claim(id="C2", test="not worse", margin=0.01),
        claim(id="C3"),
    )
    assert [level.verdict, kept.verdict, better.verdict] == ["validated", "validated", "not shown"]
    assert level.sentence.endswith("8 patients, 2 seed(s), none of whom differs.")
    with pytest.raises(ConfigError, match="claim C1: test level needs a margin above 0"):
        verdicts(made_up, claim(test="level"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"classes": ["S"]}, "S has 0 test beats, fewer than 50"),
        ({"patients": 9}, "8 patients have such beats, fewer than 9"),
        ({"without": PATIENTS[:4]}, "V has 40 test beats, fewer than 50"),
        ({"condition": "elsewhere"}, "no finished trial of FedAvg + fine-tuning in condition elsewhere"),
        ({"against": {"method": "FedPer"}}, "no finished trial of FedPer in condition hospitals=2"),
    ],
)
def test_what_cannot_be_tested_says_why(made_up: Path, changes: dict[str, Any], why: str):
    (found,) = verdicts(made_up, claim(**changes))
    assert (found.verdict, found.difference, found.p) == ("not testable", None, None)
    assert found.why == why


def test_a_score_within_bounds_is_judged_by_its_interval(made_up: Path):
    """FedAvg finds nine of ten V beats of every patient: every resample has recall 0.9."""
    nobody = {"against": None, "test": "within"}
    inside, outside, edge = verdicts(
        made_up,
        claim(**nobody, between=[0.85, 0.95]),
        claim(id="C2", **nobody, between=[0.2, 0.8]),
        claim(id="C3", **nobody, between=[0.9, 1.0]),
    )
    assert [inside.verdict, outside.verdict, edge.verdict] == ["validated", "refuted", "validated"]
    assert (inside.difference, inside.p, inside.corrected) == ((0.9, 0.9, 0.9), None, None)
    assert "FedAvg + fine-tuning (personal) has 90.0 points of recall of V, 95 % interval" in inside.sentence
    assert "by the interval alone, 8 patients" in inside.sentence


def test_groups_of_patients_are_held_against_each_other(made_up: Path):
    """local-only finds all V beats of women and half of men's: the gap is 0.5, FedAvg's is 0."""
    sexes = {p: "female" if i % 2 else "male" for i, p in enumerate(PATIENTS)}
    write(made_up, "FedAvg + fine-tuning", dict.fromkeys(PATIENTS, 0.9), sex=sexes)
    write(made_up, "local-only", {p: 1.0 if sexes[p] == "female" else 0.5 for p in PATIENTS}, sex=sexes)
    equal = {"endpoint": "equality", "groups": "sex"}
    path = file_of(made_up.parent, claim(**equal), claim(id="C2", **equal, patients=9), min_support=40)
    found, few = judge(read_claims(path)[0], made_up)
    assert (found.verdict, found.p) == ("validated", None)
    assert found.difference == pytest.approx((0.5, 0.5, 0.5))
    assert "points of equality of V by sex" in found.sentence
    assert few.why == "8 patients have such beats, fewer than 9"
    (thin,) = verdicts(made_up, claim(**equal))
    assert thin.why == "4 patients of group female have 40 such beats, too few"


def test_sides_may_be_of_two_conditions_and_say_so(made_up: Path):
    (found,) = verdicts(made_up, claim(against={"method": "local-only", "condition": "elsewhere"}))
    assert found.why == "no finished trial of local-only in condition elsewhere"
    (found,) = verdicts(made_up, claim(condition="elsewhere", subject={"method": "local-only", "condition": CONDITION},
                                       against={"method": "FedAvg + fine-tuning", "condition": CONDITION}))  # fmt: skip
    assert found.verdict == "refuted"
    assert "local-only (personal, hospitals=2) less" in found.sentence


def test_a_patient_who_is_tested_in_some_seeds_only_counts_in_those(made_up: Path):
    write(made_up, "FedAvg + fine-tuning", dict.fromkeys(PATIENTS[:7], 0.9), repeats=[1])
    write(made_up, "local-only", dict.fromkeys(PATIENTS[:7], 0.4), repeats=[1])
    (found,) = verdicts(made_up, claim())
    assert found.each == pytest.approx([(0.9 - (i % 4) / 10 + 0.5) / 2 if i < 7 else 0.9 - 0.3 for i in range(8)])
    assert found.support == {"V": 70}  # of the seed that has fewest


def test_other_beats_are_not_compared(made_up: Path):
    write(made_up, "local-only", dict.fromkeys(PATIENTS[:7], 0.9))
    (found,) = verdicts(made_up, claim())
    assert found.why == "FedAvg + fine-tuning and local-only were tested on other beats"


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ([claim(), claim()], "C1 stands twice"),
        ([claim(endpoint="recall", classes=["S", "V"])], "endpoint recall is of one class; classes has 2"),
        ([claim(test="best")], "test"),
        ([claim(test="within", between=[0, 1])], "test within is against nobody"),
        ([claim(against=None)], "test within is against nobody"),
        ([claim(test="within", against=None)], "test within and between, two scores, go together"),
        ([claim(test="within", against=None, between=[1, 0.5])], "the least first"),
        ([claim(endpoint="equality")], "endpoint equality and groups, sex or age, go together"),
        ([], "claims"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, claims: list[dict[str, Any]], why: str):
    with pytest.raises(ConfigError, match=why):
        read_claims(file_of(tmp_path, *claims))
    with pytest.raises(ConfigError, match="is not readable"):
        read_claims(tmp_path / "none.yaml")


def test_the_command_writes_a_page_and_data_and_says_how_they_stand(made_up: Path, capsys):
    path = file_of(made_up.parent, claim(), claim(id="C2", classes=["S"]))
    assert main(["claims", str(made_up), str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("C1 (federation helps): validated; ")
    document = json.loads((made_up / "claims" / "claims.json").read_text())
    assert [one["verdict"] for one in document["verdicts"]] == ["validated", "not testable"]
    assert "exploratory" in document["standing"]
    page = (made_up / "claims" / "claims.html").read_text()
    assert page.count("<img") == 1
    assert "C2 not testable" in page
    table = (made_up / "claims" / "claims.md").read_text()
    assert f"SHA-256 of the claims: `{document['claims']}`; these claims were not in the study's definition" in table
    assert "| C1 | federation helps | validated | +75.0 | [" in table
    assert "| C2 | federation helps | not testable | S has 0 test beats, fewer than 50 | – | – | – | – |" in table
    assert main(["claims", str(made_up), str(path), "--hash"]) == 0
    assert capsys.readouterr().out.strip() == document["claims"]


def test_a_repeat_may_draw_partition_and_split_anew():
    study = StudyConfig(repeats=3, seed=5)
    place = conditions(study)[0]
    assert [(c.seed, c.cohort.seed) for c in (resolve(study, place, {}, i) for i in range(3))] == [
        (5, 0),
        (6, 0),
        (7, 0),
    ]
    varied = study.model_copy(update={"vary": "seed and cohort"})
    found = [resolve(varied, place, {"cohort.seed": 7}, i) for i in range(3)]
    assert [(c.seed, c.cohort.seed) for c in found] == [(5, 7), (6, 8), (7, 9)]
