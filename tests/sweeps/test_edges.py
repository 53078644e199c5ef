"""Edges in a report: their hospitals, their scores as in the results, and what levels send."""

import json
import statistics
from pathlib import Path

from studies import ALONE, nested, write_study

from sweeps.edges import sections
from sweeps.folder import repeat_folder, trial_folder
from sweeps.material import read_material
from sweeps.page import Table


def test_a_report_has_the_scores_of_each_edge_and_what_levels_send(tmp_path: Path):
    values = {
        **ALONE,
        **nested(
            {
                "cohort.hospitals": 3,
                "federation.rounds": 1,
                "clock.fleet": "equal",
                "topology.levels": [{"nodes": 2}],
                "repeats": 2,
            }
        ),
    }
    write_study(tmp_path, values, [{}])
    material = read_material(tmp_path)
    (section,) = sections(material)
    levels, edges = (part for part in section.parts if isinstance(part, Table))
    said = [
        json.loads((repeat_folder(trial_folder(tmp_path, 0), repeat) / "result.json").read_text()) for repeat in (0, 1)
    ]
    rows = [[row["topology"]["edges"][edge] for row in said] for edge in (0, 1)]
    texts = [["".join(link.text for link in cell.parts) for cell in line] for line in edges.rows]
    assert [line[:2] for line in texts] == [["0", "0 to 1"], ["1", "2"]]
    for line, of_edge in zip(texts, rows, strict=True):
        assert line[3] == f"{statistics.fmean(row['global_macro_f1'] for row in of_edge):.3f}"
        assert line[5] == f"{statistics.fmean(row['personal_macro_f1'] for row in of_edge):.3f}"
    sent = [["".join(link.text for link in cell.parts) for cell in line] for line in levels.rows]
    parameters = said[0]["parameters"]
    # three updates of 32 bits an entry to two edges, which send 64
    assert [line[1:3] for line in sent] == [
        ["3", f"{3 * 4 * parameters / 1e6:,.1f}"],
        ["2", f"{2 * 8 * parameters / 1e6:,.1f}"],
    ]


def test_a_report_without_levels_says_nothing_of_edges(tmp_path: Path):
    write_study(tmp_path, {**ALONE, "federation": {"rounds": 1}, "cohort": {"hospitals": 2}}, [{}])
    assert sections(read_material(tmp_path)) == []
