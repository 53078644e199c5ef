"""The report: studies are written trial by trial here, without Ray, and their pages read again."""

import base64
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from reference import command
from results import whole
from sklearn.metrics import f1_score
from studies import ALONE, write_study

from engine.errors import PulseLedgerError
from engine.result import RESULT, PrivacyReport, Result
from engine.settings import dump_yaml, parse
from sweeps import plots
from sweeps.__main__ import main
from sweeps.answer import HOW, answers
from sweeps.checks import load_study
from sweeps.drawing import COLOURS, looks_of
from sweeps.folder import STUDY_FILE, read_study, repeat_folder, trial_folder
from sweeps.material import read_material
from sweeps.report import PAGE, write_report
from sweeps.rows import rows_of
from sweeps.space import StudyConfig

SHOWN = [
    "The answer",
    "Results",
    "Who gains, hospital by hospital",
    "Recall, precision and F1 of each class",
    "Cohorts",
    "Learning curves",
    "Scores against the number of hospitals",
    "Pareto front",
    "Importance of the tuned keys",
    "Slices through the tuned keys",
    "Spread over hospitals",
    "Groups of patients",
    "Calibration and abstention",
    "Patients",
    "What the ledger costs",
    "Failed and pruned trials",
    "Files and runs",
    "How to get it again",
    "Not shown",
]
PLAIN: dict[str, Any] = {
    **ALONE,
    "cohort": {"hospitals": 3},
    "federation": {"rounds": 3},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.2]}},
    "trials": 8,
}
WIDE: dict[str, Any] = {
    **PLAIN,
    "name": "wide <b> & more",
    "conditions": {"cohort.hospitals": [2, 3]},
    "ledger": {"backend": "embedded"},
    "baselines": [{"federation.algorithm": "local"}],
    "search": {
        "personalisation.learning_rate": {"log_uniform": [0.01, 0.2]},
        "federation.algorithm": {"choice": ["fedavg", "perfedavg"]},
    },
    "objectives": {"validation/personal/macro_f1": "maximize", "timing/gradient_evaluations": "minimize"},
    "repeats": 2,
    "trials": 14,
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two conditions, three methods, two seeds, two objectives, a ledger, a failed, a pruned and a running trial."""
    folder = tmp_path_factory.mktemp("report") / "wide"
    points: list[dict[str, Any]] = [
        {"personalisation.learning_rate": rate, "federation.algorithm": algorithm}
        for rate, algorithm in zip((0.02, 0.05, 0.1, 0.15, 0.2), ("fedavg", "perfedavg") * 3, strict=False)
    ]
    points[0]["broken"] = {"ledger/overhead_share": 0.25}
    broken = {"state": "FAIL", "error": "HospitalError: hospital 0, round 1, train: <loss> is not a number"}
    pruned = {
        "pruned": 2,
        "reason": "pruned at round 2",
        "rung/2": {"values": [0.2134, 4200.0], "kept": False, "memory": {}},
    }
    points += [
        {**points[0], **broken, "broken": {}},
        {**points[1], "state": "PRUNED", "attributes": pruned},
        {**points[2], "state": "RUNNING"},
    ]
    write_study(folder, WIDE, points)
    return folder


class _Page(HTMLParser):
    """The texts of headings and table rows, and the attributes of images, in the order of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self.images: list[dict[str, str | None]] = []
        self.under: dict[str, list[str]] = {}
        self._into: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "h2":
            self.headings.append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "img":
            self.images.append(dict(attrs))
        if tag in ("h2", "td", "th"):
            self._into = self.headings if tag == "h2" else self.rows[-1]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h2", "td", "th"):
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data
        if self.headings:
            self.under.setdefault(self.headings[-1], []).append(data)

    def row(self, *beginning: str) -> list[str]:
        """The only row that begins so."""
        (found,) = [row for row in self.rows if tuple(row[: len(beginning)]) == beginning]
        return found


@pytest.fixture(scope="module")
def text(wide: Path) -> str:
    """The report as it is written."""
    return write_report(wide)[0].read_text()


@pytest.fixture(scope="module")
def page(text: str) -> _Page:
    return _Page(text)


# --- The page ---------------------------------------------------------------------------------------------------------


def test_every_picture_is_on_the_page_and_beside_it(wide: Path, text: str):
    home = wide / "report"  # where `text` was written
    (home / "slices-99.png").write_text("of an earlier report")
    (home / "mine.png").write_text("somebody's own")
    written = write_report(wide)
    assert written[0] == home / PAGE
    stems = ["slopes", "recall", "curves", "hospitals", "pareto", *(f"importance-{i}" for i in (1, 2, 3, 4))]
    stems += [*(f"slices-{i}" for i in (1, 2, 3, 4)), "spread", "abstention", "ledger"]
    assert [path.name for path in written[1:]] == [f"{stem}.png" for stem in stems]
    assert {path.name for path in home.glob("*.png")} == {path.name for path in written[1:]} | {"mine.png"}
    images = _Page(written[0].read_text()).images
    for image, path in zip(images, written[1:], strict=True):
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == path.read_bytes()
        assert image["alt"]


def test_the_page_opens_with_the_answers_of_compare(wide: Path, page: _Page):
    assert page.headings == SHOWN
    said = "".join(page.under["The answer"])
    for answer in answers(rows_of(wide)):
        assert answer.sentence in said
        assert all(note in said for note in answer.notes)
    assert HOW in said


def test_the_numbers_are_those_of_compare(wide: Path, page: _Page):
    assert ["leads", "MLII 6"] in page.rows
    done = [row for row in rows_of(wide) if row.outcome is not None]
    assert len(done) == 2 * 6
    heads = next(row for row in page.rows if row[:3] == ["trial", "method", "settings"])
    for row in done:
        assert row.outcome is not None
        scores = row.outcome.scores
        cells = dict(zip(heads, page.row(f"{row.trial}{'*' if row.baseline else ''} ({row.optuna})"), strict=True))
        accuracy, macro_f1 = (scores[f"final/personal/{name}"] for name in ("accuracy", "macro_f1"))
        assert cells["test accuracy %"] == f"{100 * accuracy.mean:.2f} ±\xa0{100 * accuracy.sd:.2f}"
        assert cells["test macro-F1"] == f"{macro_f1.mean:.3f} ±\xa0{macro_f1.sd:.3f}"
        assert cells["validation macro-F1"] == f"{row.objectives['validation/personal/macro_f1']:.3f}"
        local = row.method == "local-only"
        common, hurt = (row.outcome.mean(f"final/{path}") for path in ("global/macro_f1", "personal/hurt_share"))
        assert cells["test macro-F1 global"] == ("–" if local else f"{common:.3f}")
        assert cells["test hurt %"] == ("–" if local else f"{100 * hurt:.0f}")
        assert cells["gradients"] == f"{row.outcome.gradients:,.0f}"
        assert cells["method"] == row.method


def test_the_recalls_are_those_of_the_best_trials(wide: Path, page: _Page):
    heads = next(row for row in page.rows if row[:3] == ["condition", "method", "test recall N"])
    best = {}
    for row in rows_of(wide):
        if row.outcome is not None:
            best.setdefault((row.condition, row.method), row.outcome)
    for (condition, method), outcome in best.items():
        (line,) = [row for row in page.rows if row[:2] == [condition, method] and len(row) == len(heads)]
        for head, cell in zip(heads[2:], line[2:], strict=True):
            _, score, name = head.split()
            found = outcome.mean(f"final/personal/{score.lower()}/{name}")
            plain = "–" if found is None else f"{found:.3f}"
            assert cell in (plain, f"({plain})")
            assert cell.startswith("(") == (found is not None and outcome.support[name] < 50)


def test_the_lines_that_need_no_model(wide: Path, page: _Page):
    """N for every beat, from the beats themselves, and each hospital's commonest class, as the cohort reports it."""
    heads = next(row for row in page.rows if row[:3] == ["trial", "method", "settings"])
    f1, mean, accuracy = (
        heads.index(name) for name in ("test macro-F1", "test macro-F1 mean hospital", "test accuracy %")
    )
    majority = [row for row in page.rows if row[1:2] == ["local majority"]]
    normal = [row for row in page.rows if row[1:2] == ["all N"]]
    for place, hospitals in enumerate((2, 3)):
        (row, *_) = [r for r in rows_of(wide) if r.condition == f"hospitals={hospitals}" and r.outcome is not None]
        seen = pq.read_table(repeat_folder(trial_folder(wide, row.trial), 0) / "predictions.parquet").to_pandas()
        cohort = Result.read(repeat_folder(trial_folder(wide, row.trial), 0)).cohort
        true = seen[seen["model"] == "global"]["true"].to_numpy(str)
        constant = np.full(len(true), "N")
        macro = f1_score(true, constant, labels=list(cohort.scored), average="macro", zero_division=0)
        assert [normal[place][accuracy], normal[place][f1]] == [f"{100 * np.mean(true == 'N'):.2f}", f"{macro:.3f}"]
        own = np.mean([hospital.local_majority_macro_f1 for hospital in cohort.hospitals])
        lines = [100 * cohort.local_majority_accuracy, cohort.local_majority_macro_f1, own]
        shown = [majority[place][column] for column in (accuracy, f1, mean)]
        assert shown == [f"{lines[0]:.2f}", f"{lines[1]:.3f}", f"{lines[2]:.3f}"]


def test_the_front_is_what_no_other_trial_beats(wide: Path, page: _Page):
    for condition in ("hospitals=2", "hospitals=3"):
        rows = [r for r in rows_of(wide) if r.condition == condition and r.state == "COMPLETE" and not r.violated]
        points = {r.trial: tuple(r.objectives.values()) for r in rows}
        front = {
            (f"{f1:.3f}", f"{cost:,.0f}")
            for f1, cost in points.values()
            if not any(a >= f1 and b <= cost and (a, b) != (f1, cost) for a, b in points.values())
        }
        heads = ["condition", "trial", "method", "settings", "validation macro-F1", "gradients"]
        start = page.rows.index(heads)
        lines = page.rows[start + 1 : page.rows.index([], start) if [] in page.rows[start:] else None]
        shown = [row for row in lines if row[:1] == [condition] and len(row) == len(heads) and row[1].isdigit()]
        shown = [row for row in shown if int(row[1]) in points and f"{points[int(row[1])][0]:.3f}" == row[4]]
        assert {(row[4], row[5]) for row in shown} == front


def test_the_ledger_and_the_cohorts(wide: Path, page: _Page):
    for condition in ("hospitals=2", "hospitals=3"):
        results = [
            Result.read(repeat_folder(trial_folder(wide, row.trial), r))
            for row in rows_of(wide)
            if row.condition == condition and row.state == "COMPLETE"
            for r in range(2)
        ]
        critical = np.median([1000 * (r.ledger.critical_path_seconds or 0) / 3 for r in results])
        gas = np.median([r.ledger.gas_per_round or 0 for r in results])
        cohort = results[0].cohort
        (ledger,) = [row for row in page.rows if row[:2] == [condition, "12"]]
        assert [ledger[2], ledger[4]] == [f"{critical:.2f}", f"{gas:,.0f}"]
        spent = [np.median([getattr(r.ledger, f"{what}_seconds") for r in results]) for what in ("open", "close")]
        assert ledger[6:] == [f"{seconds:.2f}" for seconds in spent]
        (line,) = [row for row in page.rows if row[:2] == [condition, condition[-1]] and len(row) == 9]
        assert line[2:5] == [
            f"{cohort.beats:,}",
            f"{sum(h.test for h in cohort.hospitals):,}",
            f"{cohort.heterogeneity.emd_mean:.3f}",
        ]


def test_what_did_not_finish_is_listed_with_its_reason(wide: Path, page: _Page):
    last = page.rows[page.rows.index(["trial", "state", "condition", "method", "settings", "reason"]) + 1 :][:4]
    assert [row[1] for row in last] == ["FAIL", "PRUNED", "FAIL", "PRUNED"]
    assert last[0][5] == "HospitalError: hospital 0, round 1, train: <loss> is not a number"
    assert last[1][5] == "pruned at round 2: validation macro-F1 0.213, gradients 4,200"
    infeasible = [row for row in page.rows if "(breaks ledger/overhead_share by 0.25)" in " ".join(row)]
    assert [row[0].split()[0] for row in infeasible] == ["1", "10"]
    assert page.row("trials")[1] == "12 COMPLETE, 2 RUNNING, 2 PRUNED, 2 FAIL"
    assert "The study is not finished: this is an interim state." in page.under["The answer"]


def test_a_report_says_where_it_is_and_nothing_else(tmp_path: Path):
    write_study(tmp_path / "study", PLAIN, [{"federation.learning_rate": 0.05}])
    done = command("report", tmp_path / "study", "--out", tmp_path / "out", "--no-audit")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'out' / PAGE} and 5 pictures beside it\n"
    assert len(list((tmp_path / "out").glob("*.png"))) == 5


def test_names_cannot_break_the_page(text: str):
    assert "<h1>wide &lt;b&gt; &amp; more</h1>" in text
    assert "<b> & more" not in text
    assert "<loss>" not in text
    # nothing is fetched; links lead to the study's own files, to places on the page, and to MLflow on this machine
    assert not re.search(r"""src\s*=\s*(?!"data:)|url\(|@import|<script""", text)
    links = re.findall(r'href="([^"]*)"', text)
    assert links
    assert not [link for link in links if not re.match(r"#|(\.\./|[\w.-]+/)+|http://127\.0\.0\.1:5000/#/", link)]
    assert "default-src 'none'" in html.unescape(text)


def test_a_study_of_one_condition_whose_hospitals_lack_classes(tmp_path: Path):
    write_study(tmp_path / "study", PLAIN, [{"federation.learning_rate": rate} for rate in (0.05, 0.1)])
    spent = repeat_folder(trial_folder(tmp_path / "study", 1), 0) / RESULT
    told = {**whole(PrivacyReport), "epsilon": 3.25, "delta": 1e-7, "alone": 9.5}
    spent.write_text(json.dumps({**json.loads(spent.read_text()), "privacy": told}))
    page = _Page(write_report(tmp_path / "study")[0].read_text())
    left_out = "".join(page.under["Not shown"])
    for why in (
        "Scores against the number of hospitals: one hospital count only (3).",
        "Scores against the skew: one skew only (pathology).",
        "Pareto front: one objective only (validation macro-F1).",
        "Importance of the tuned keys: one key only was tuned (federation.learning_rate).",
        "Slices through the tuned keys: it takes 5 tuned trials that differ, and there are too few (all: 2).",
        "What the ledger costs: no finished trial has a ledger.",
        "Failed and pruned trials: no trial has failed or been pruned.",
    ):
        assert why in left_out
        assert why.split(":")[0] not in page.headings  # what is shown is not listed as left out, and the reverse
    assert page.row("trials")[1] == "2 COMPLETE; 6 of 8 not begun"
    heads = page.row("trial", "method", "settings")
    columns = [heads.index(name) for name in ("epsilon", "delta", "epsilon alone")]
    for trial, values in (("0 (0)", ["–"] * 3), ("1 (1)", ["3.25", "1e-07", "9.50"])):
        assert [page.row(trial)[column] for column in columns] == values
    assert "The study is not finished: this is an interim state." in page.under["The answer"]
    assert len(page.images) == 5  # slopes, recalls, curves, spread, abstention
    result = Result.read(repeat_folder(trial_folder(tmp_path / "study", 0), 0))
    support = result.final.global_.support
    lacking = {c: sum(h.classes[c] == 0 for h in result.cohort.hospitals) for c in "NSVFQ"}
    assert support["Q"] == 0  # or the next lines test nothing
    assert page.row("all", "3")[8] == ", ".join(f"{c}: {n} of 3" for c, n in lacking.items() if n) or "none"
    heads = page.row("method", "test recall N")
    assert page.row("FedAvg + fine-tuning")[heads.index("test recall Q")] == "–"
    (figure,) = plots.recall_map(read_material(tmp_path / "study").trials[:1])
    cells = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)[0]
    assert [bool(np.isnan(cell)) for cell in cells] == [support[c] == 0 for c in "NSVFQ"]
    assert len(figure.axes[0].texts) == sum(support[c] > 0 for c in "NSVFQ")


def test_a_joint_study_has_one_set_of_pictures(tmp_path: Path):
    values = {**PLAIN, "conditions": {"cohort.hospitals": [2, 3]}, "joint": True}
    write_study(tmp_path / "study", values, [{"federation.learning_rate": rate} for rate in (0.02, 0.05, 0.1)])
    written = write_report(tmp_path / "study")
    page = _Page(written[0].read_text())
    assert {path.stem for path in written} >= {"hospitals", "slices-1"}
    assert not any(path.stem == "slices-2" for path in written)
    assert "“all conditions”; a point is one of 6 tuned trials" in "".join(page.under["Slices through the tuned keys"])
    cohorts = [
        row for row in page.rows if row[:1] in (["hospitals=2"], ["hospitals=3"]) and len(row) == 9 and row[1].isdigit()
    ]
    assert [row[1] for row in cohorts] == ["2", "3"]


def test_a_curve_is_the_median_of_all_runs(wide: Path):
    """Per-FedAvg in the first condition: two trials of two seeds."""
    trials = read_material(wide).trials
    found = [t for t in trials if (t.condition, t.outcome.method.algorithm) == ("hospitals=2", "perfedavg")]
    homes = [repeat_folder(trial_folder(wide, t.row.trial), r) for t in found for r in range(2)]
    curves = np.array([[row.validation.macro_f1 for row in Result.read(home).rounds] for home in homes])
    assert curves.shape == (4, 3)
    (figure,) = plots.learning_curves(found, looks_of(t.method for t in trials))
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [1, 2, 3]
    np.testing.assert_allclose(line.get_ydata(), np.sort(curves, axis=0)[1:3].mean(axis=0))
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() >= curves.min()
    assert band[:, 1].max() <= curves.max()


def test_a_method_has_one_colour_everywhere(wide: Path, text: str):
    trials = read_material(wide).trials
    looks = looks_of(trial.method for trial in trials)
    assert len({look.colour for look in looks.values()}) == len(looks) == 3
    for method, look in looks.items():
        swatches = re.findall(r'background: (#\w+)"></span>([^<]*)<', text)
        assert {colour for colour, name in swatches if name == method} == {look.colour}
    for figure in (*plots.learning_curves(trials, looks), *plots.spread(trials, looks)):
        for handle in figure.legends[0].legend_handles:
            if handle.get_label() in looks:
                assert handle.get_color() == looks[handle.get_label()].colour
    many = looks_of(f"method {i}" for i in range(30))
    assert len(set(many.values())) == 30
    assert {look.colour for look in many.values()} == set(COLOURS)


def test_a_slope_for_each_hospital_alone_global_and_personal(wide: Path):
    material = read_material(wide)
    looks = looks_of(trial.method for trial in material.trials)
    best = {(t.condition, t.method): t for t in material.trials[::-1]}
    chosen = best["hospitals=3", "FedAvg + fine-tuning"]
    alone = best["hospitals=3", "local-only"]
    (figure,) = plots.slopes([chosen], {"hospitals=3": alone}, {"hospitals=3": (1,)}, looks)
    (axes,) = figure.axes
    lines = [line for line in axes.lines if len(line.get_ydata()) == 3]
    assert len(lines) == 3
    assert [label.get_text() for label in axes.get_xticklabels()] == ["alone", "global", "personal"]
    for hospital, line in enumerate(lines):
        columns = (alone.outcome.own("personal"), chosen.outcome.own("global"), chosen.outcome.own("personal"))
        wanted = [np.mean([seed[hospital] for seed in seeds]) for seeds in columns]
        np.testing.assert_allclose(line.get_ydata(), wanted)
        assert (line.get_linestyle() == "-") == (hospital != 1)
    assert {text.get_text() for text in axes.texts} == {"0", "1 loses", "2"}
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert min(np.diff(heights)) >= 0.055 - 1e-9


@pytest.fixture(scope="module")
def elsewhere(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page in another folder, with an audit's verdict."""
    heard = []

    def verdict(folder: Path) -> str:
        heard.append(folder)
        return "clean: 24 runs"

    page = write_report(wide, tmp_path_factory.mktemp("pages") / "elsewhere", verdict)[0]
    assert heard == [wide]
    return page


def test_links_lead_to_the_trials_files(elsewhere: Path):
    links = [link for link in re.findall(r'href="([^"#][^"]*)"', elsewhere.read_text()) if not link.startswith("http")]
    assert len([link for link in links if link.endswith("bundle.plb")]) == 12 * 2
    assert [link for link in links if not (elsewhere.parent / link).exists()] == []


def test_the_page_says_how_to_get_the_study_again(wide: Path, page: _Page):
    text = "".join(page.under["How to get it again"])
    assert "pulseledger sweep study.yaml --out again" in text
    config = text[text.index("study.yaml, with every key") + len("study.yaml, with every key") :]
    assert parse(StudyConfig, yaml.safe_load(config), "page") == read_study(wide)
    digest = Result.read(repeat_folder(trial_folder(wide, 0), 0)).cohort.digest
    assert digest in text


def test_the_audit_s_verdict_is_on_the_page(elsewhere: Path, page: _Page):
    assert page.row("audit")[1] == "not checked here: pulseledger audit DIR recomputes everything"
    assert _Page(elsewhere.read_text()).row("audit")[1] == "clean: 24 runs"


# --- Studies with nothing to show, and folders that are none ----------------------------------------------------------


def test_failures_only(tmp_path: Path):
    points = [{"federation.learning_rate": 0.1, "state": "FAIL", "error": "DataError: no such record."}] * 2
    write_study(tmp_path / "study", PLAIN, points)
    page = _Page(write_report(tmp_path / "study")[0].read_text())
    assert "No trial has finished, so there are no scores to show." in page.under["The answer"]
    assert "nothing can be said, no trial has test scores to compare (2 fail)" in "".join(page.under["The answer"])
    assert page.images == []
    assert page.row("0", "FAIL")[5] == "DataError: no such record."


def test_a_study_that_has_not_begun(tmp_path: Path):
    (tmp_path / STUDY_FILE).write_text(dump_yaml(load_study(PLAIN, "test")))
    page = _Page(write_report(tmp_path)[0].read_text())
    assert page.row("trials")[1].startswith("none has begun; 8 of 8 not begun")
    assert page.row("runs")[1] == "not begun"
    assert "No trial has begun: there is nothing to say yet." in page.under["The answer"]
    assert page.headings == ["The answer", "How to get it again", "Not shown"]


def test_a_folder_without_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(PulseLedgerError, match=r"holds no study \(study.yaml is missing\)"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"pulseledger: {tmp_path / 'nowhere'}: holds no study (study.yaml is missing).\n"


# --- In a browser -----------------------------------------------------------------------------------------------------

CHECK = """<script>addEventListener("load", () => {
  const seen = {
    images: [...document.images].map(i => [i.naturalWidth, i.clientWidth]),
    fetched: performance.getEntriesByType("resource").map(e => e.name),
    headings: [...document.querySelectorAll("h2")].map(h => h.textContent),
    tables: Math.max(...[...document.querySelectorAll("table")].map(t => t.getBoundingClientRect().right)),
    page: document.documentElement.clientWidth, content: document.documentElement.scrollWidth,
  };
  document.body.replaceChildren(JSON.stringify(seen));
})</script>"""


@pytest.mark.parametrize("width", [1280, 390], ids=["desk", "phone"])
def test_the_page_in_chromium(text: str, tmp_path: Path, width: int):
    """Every picture is decoded, all sections are there, nothing sticks out, and nothing was asked of the network."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium to open the page in: install chromium or google-chrome")
    path = tmp_path / PAGE
    # before the page's own policy, which allows no script
    path.write_text(text.replace("<head>", f"<head>{CHECK}", 1))
    seen = opened(browser, path, tmp_path, width)
    assert seen["page"] <= max(width, 500)  # a window is no narrower than that, which is a phone's still
    assert len(seen["images"]) == 16
    assert all(natural > 300 and shown > 200 for natural, shown in seen["images"])
    assert seen["headings"] == SHOWN
    assert [name for name in seen["fetched"] if not name.startswith("data:")] == []
    assert seen["content"] <= seen["page"]  # nothing sticks out
    assert seen["tables"] <= seen["page"]


def opened(browser: str, path: Path, scratch: Path, width: int) -> dict[str, Any]:
    """What the page says of itself in a window of that width."""
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += f" --disable-component-update --disable-sync --window-size={width},1200 --dump-dom"
    done = subprocess.run(
        [browser, *options.split(), f"--user-data-dir={scratch / 'profile'}", path.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(body[1]))
    return found
