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
from reference import command
from sklearn.metrics import f1_score
from studies import ALONE, write_study

from engine.errors import PulseLedgerError
from engine.result import Result
from engine.settings import dump_yaml
from sweeps import plots
from sweeps.__main__ import main
from sweeps.checks import load_study
from sweeps.folder import STUDY_FILE, repeat_folder, trial_folder
from sweeps.material import read_material
from sweeps.report import PAGE, write_report
from sweeps.rows import rows_of

TITLES = [
    "Results",
    "Cohorts",
    "Learning curves",
    "Recall of each class",
    "Scores against the number of hospitals",
    "Scores against the skew",
    "Pareto front",
    "Importance of the tuned keys",
    "Slices through the tuned keys",
    "Spread over hospitals",
    "What the ledger costs",
    "Failed and pruned trials",
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
    "search": {**PLAIN["search"], "federation.algorithm": {"choice": ["fedavg", "perfedavg"]}},
    "objectives": {"validation/personal/macro_f1": "maximize", "timing/gradient_evaluations": "minimize"},
    "repeats": 2,
    "trials": 14,
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two conditions, three methods, two seeds, two objectives, a ledger, a failed, a pruned and a running trial."""
    folder = tmp_path_factory.mktemp("report") / "wide"
    points: list[dict[str, Any]] = [
        {"federation.learning_rate": rate, "federation.algorithm": algorithm}
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


def test_every_picture_is_on_the_page_and_beside_it(wide: Path, tmp_path: Path):
    (tmp_path / "slices-99.png").write_text("of an earlier report")
    (tmp_path / "mine.png").write_text("somebody's own")
    written = write_report(wide, tmp_path)
    assert written[0] == tmp_path / PAGE
    stems = ["curves", "recall", "hospitals", "pareto", *(f"importance-{i}" for i in (1, 2, 3, 4))]
    stems += [*(f"slices-{i}" for i in (1, 2, 3, 4)), "spread", "ledger"]
    assert [path.name for path in written[1:]] == [f"{stem}.png" for stem in stems]
    assert {path.name for path in tmp_path.glob("*.png")} == {path.name for path in written[1:]} | {"mine.png"}
    images = _Page(written[0].read_text()).images
    for image, path in zip(images, written[1:], strict=True):
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == path.read_bytes()
        assert image["alt"]


def test_the_numbers_are_those_of_compare(wide: Path, page: _Page):
    assert page.headings == TITLES
    assert ["leads", "MLII 6"] in page.rows
    done = [row for row in rows_of(wide) if row.outcome is not None]
    assert len(done) == 2 * 6
    heads = next(row for row in page.rows if row[:3] == ["trial", "method", "settings"])
    for row in done:
        plain = row.document()
        cells = dict(zip(heads, page.row(f"{row.trial}{'*' if row.baseline else ''}"), strict=True))
        accuracy, macro_f1 = (f"personal_{name}" for name in ("accuracy", "macro_f1"))
        assert cells["accuracy %"] == f"{100 * plain[accuracy]:.2f} ±\xa0{100 * plain[f'{accuracy}_sd']:.2f}"
        assert cells["macro-F1"] == f"{plain[macro_f1]:.3f} ±\xa0{plain[f'{macro_f1}_sd']:.3f}"
        assert cells["validation/personal/macro_f1"] == f"{row.objectives['validation/personal/macro_f1']:.3f}"
        for c in "NSVFQ":
            recall = plain[f"personal_recall_{c}"]
            assert cells[f"recall {c}"] == ("–" if recall is None else f"{recall:.3f}")
        local = plain["method"] == "local"
        assert cells["global macro-F1"] == ("–" if local else f"{plain['global_macro_f1']:.3f}")
        assert cells["hurt %"] == ("–" if local else f"{100 * plain['hurt_share']:.0f}")
        assert cells["gradients"] == f"{plain['gradient_evaluations']:,.0f}"


def test_the_lines_that_need_no_model(wide: Path, page: _Page):
    """N for every beat, from the beats themselves, and each hospital's commonest class, as the cohort reports it."""
    majority = [row for row in page.rows if row[1:2] == ["local majority"]]
    normal = [row for row in page.rows if row[1:2] == ["all N"]]
    for place, hospitals in enumerate((2, 3)):
        (row, *_) = [r for r in rows_of(wide) if r.condition == f"hospitals={hospitals}" and r.outcome is not None]
        seen = pq.read_table(repeat_folder(trial_folder(wide, row.trial), 0) / "predictions.parquet").to_pandas()
        true = seen[seen["model"] == "global"]["true"].to_numpy(str)
        constant = np.full(len(true), "N")
        macro = f1_score(true, constant, labels=sorted(set(true)), average="macro", zero_division=0)
        assert normal[place][5:7] == [f"{100 * np.mean(true == 'N'):.2f}", f"{macro:.3f}"]
        plain = row.document()
        lines = [100 * plain["local_majority_accuracy"], plain["local_majority_macro_f1"]]
        assert majority[place][5:7] == [f"{lines[0]:.2f}", f"{lines[1]:.3f}"]


def test_the_front_is_what_no_other_trial_beats(wide: Path, page: _Page):
    for condition in ("hospitals=2", "hospitals=3"):
        rows = [r for r in rows_of(wide) if r.condition == condition and r.state == "COMPLETE" and not r.violated]
        points = {r.trial: tuple(r.objectives.values()) for r in rows}
        front = {
            (f"{f1:.3f}", f"{cost:,.0f}")
            for f1, cost in points.values()
            if not any(a >= f1 and b <= cost and (a, b) != (f1, cost) for a, b in points.values())
        }
        shown = [row for row in page.rows if row[:1] == [condition] and len(row) == 5]
        assert {(row[3], row[4].split(".")[0]) for row in shown} == front
        for row in shown:
            assert f"{points[int(row[1])][0]:.3f}" == row[3]


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
        (line,) = [row for row in page.rows if row[:2] == [condition, condition[-1]] and len(row) == 9]
        assert line[2:5] == [
            f"{cohort.beats:,}",
            f"{sum(h.test for h in cohort.hospitals):,}",
            f"{cohort.heterogeneity.emd_mean:.3f}",
        ]


def test_what_did_not_finish_is_listed_with_its_reason(wide: Path, page: _Page):
    last = page.rows[page.rows.index(["trial", "state", "condition", "settings", "reason"]) + 1 :]
    assert [row[1] for row in last] == ["FAIL", "PRUNED", "FAIL", "PRUNED"]
    assert last[0][4] == "HospitalError: hospital 0, round 1, train: <loss> is not a number"
    assert last[1][4] == ("pruned at round 2: validation/personal/macro_f1 0.213, timing/gradient_evaluations 4,200")
    infeasible = [row for row in page.rows if "(breaks ledger/overhead_share by 0.25)" in " ".join(row)]
    assert [row[0] for row in infeasible] == ["1", "10"]
    states = page.row("trials")[1]
    assert states.startswith("12 COMPLETE, 2 RUNNING, 2 PRUNED, 2 FAIL. The study is not finished")


def test_a_report_says_where_it_is_and_nothing_else(wide: Path, tmp_path: Path):
    done = command("report", wide, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'out' / PAGE} and 14 pictures beside it\n"
    assert len(list((tmp_path / "out").glob("*.png"))) == 14


def test_names_cannot_break_the_page(text: str):
    assert "<h1>wide &lt;b&gt; &amp; more</h1>" in text
    assert "<b> & more" not in text
    assert "<loss>" not in text
    assert not re.search(r"""(src|href)\s*=\s*(?!"data:)|url\(|@import|<script""", text)
    assert "default-src 'none'" in html.unescape(text)


def test_a_study_of_one_condition_whose_hospitals_lack_classes(tmp_path: Path):
    write_study(tmp_path / "study", PLAIN, [{"federation.learning_rate": rate} for rate in (0.05, 0.1)])
    page = _Page(write_report(tmp_path / "study")[0].read_text())
    assert page.headings == TITLES
    said = {title: "".join(page.under[title]) for title in TITLES}
    assert "one hospital count only (3)" in said["Scores against the number of hospitals"]
    assert "one skew only (pathology)" in said["Scores against the skew"]
    assert "one objective only (validation/personal/macro_f1)" in said["Pareto front"]
    assert "one key only was tuned (federation.learning_rate)" in said["Importance of the tuned keys"]
    assert "fewer than 5 tuned trials" in said["Slices through the tuned keys"]
    assert "all: 2" in said["Slices through the tuned keys"]
    assert "no finished trial has a ledger" in said["What the ledger costs"]
    assert "no trial has failed or been pruned" in said["Failed and pruned trials"]
    assert page.row("trials")[1].startswith("2 COMPLETE; 6 of 8 not begun. The study is not finished")
    assert len(page.images) == 3  # curves, recalls, spread
    result = Result.read(repeat_folder(trial_folder(tmp_path / "study", 0), 0))
    support = result.final.global_.support
    lacking = {c: sum(h.classes[c] == 0 for h in result.cohort.hospitals) for c in "NSVFQ"}
    assert support["Q"] == 0  # or the next lines test nothing
    assert page.row("all", "3")[8] == ", ".join(f"{c}: {n} of 3" for c, n in lacking.items() if n) or "none"
    heads = page.row("trial", "method")
    assert page.row("0", "FedAvg")[heads.index("recall Q")] == "–"
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
    assert [row[1] for row in page.rows if row[:1] in (["hospitals=2"], ["hospitals=3"])] == ["2", "3"]


def test_a_curve_is_the_median_of_all_runs(wide: Path):
    """Per-FedAvg in the first condition: two trials of two seeds."""
    trials = read_material(wide).trials
    found = [t for t in trials if (t.condition, t.outcome.algorithm) == ("hospitals=2", "perfedavg")]
    homes = [repeat_folder(trial_folder(wide, t.row.trial), r) for t in found for r in range(2)]
    curves = np.array([[row.validation.macro_f1 for row in Result.read(home).rounds] for home in homes])
    assert curves.shape == (4, 3)
    (figure,) = plots.learning_curves(found)
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [1, 2, 3]
    np.testing.assert_allclose(line.get_ydata(), np.sort(curves, axis=0)[1:3].mean(axis=0))
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() >= curves.min()
    assert band[:, 1].max() <= curves.max()


# --- Studies with nothing to show, and folders that are none ----------------------------------------------------------


def test_failures_only(tmp_path: Path):
    points = [{"federation.learning_rate": 0.1, "state": "FAIL", "error": "DataError: no such record."}] * 2
    write_study(tmp_path / "study", PLAIN, points)
    page = _Page(write_report(tmp_path / "study")[0].read_text())
    assert "No trial has finished, so there are no scores to show" in page.row("trials")[1]
    assert page.headings == TITLES
    assert page.images == []
    assert page.row("0", "FAIL")[4] == "DataError: no such record."


def test_a_study_that_has_not_begun(tmp_path: Path):
    (tmp_path / STUDY_FILE).write_text(dump_yaml(load_study(PLAIN, "test")))
    page = _Page(write_report(tmp_path)[0].read_text())
    assert page.row("trials")[1].startswith("none has begun; 8 of 8 not begun")
    assert page.row("runs")[1] == "not begun"
    assert page.headings == TITLES


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
    page: document.documentElement.clientWidth, content: document.documentElement.scrollWidth,
  };
  document.body.replaceChildren(JSON.stringify(seen));
})</script>"""


def test_the_page_in_chromium(text: str, tmp_path: Path):
    """Every picture is decoded and fits the page, all sections are there, and nothing was asked of the network."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium to open the page in: install chromium or google-chrome")
    path = tmp_path / PAGE
    # before the page's own policy, which allows no script
    path.write_text(text.replace("<head>", f"<head>{CHECK}", 1))
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += " --disable-component-update --disable-sync --window-size=900,1200 --dump-dom"
    done = subprocess.run(
        [browser, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body, done.stderr[-2000:]
    seen = json.loads(html.unescape(body[1]))
    assert len(seen["images"]) == 14
    assert all(natural > 300 and shown > 200 for natural, shown in seen["images"])
    assert seen["headings"] == TITLES
    assert [name for name in seen["fetched"] if not name.startswith("data:")] == []
    assert seen["content"] <= seen["page"]  # nothing sticks out
