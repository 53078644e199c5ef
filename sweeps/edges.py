"""How well the models do for the hospitals of each edge, and what levels between hospitals and coordinator send and take."""

import statistics
from collections.abc import Sequence

from engine.levels.report import EdgeReport, TopologyReport
from sweeps.drawing import ONLY
from sweeps.material import Finished, Material
from sweeps.page import Heading, Part, Section, Table, Words, cells
from sweeps.scores import shown

SCORES = ("global_accuracy", "global_macro_f1", "personal_accuracy", "personal_macro_f1")


def sections(material: Material) -> list[Section]:
    """Edges and levels of all trials that have them; nothing without."""
    chosen = [trial for trial in material.trials if _topologies(trial)]
    if not chosen:
        return []
    text = (
        "An edge adds up the updates of its hospitals and sends one sum on, so that the model is the same to the last bit whatever the "
        "levels. Scores are of the test beats of an edge's hospitals together, mean over seeds; seconds are those of the virtual clock."
    )
    parts: list[Part] = [Words(text)]
    for trial in chosen:
        condition = "" if trial.condition == ONLY else f"{trial.condition}, "
        parts += [Heading(f"{condition}{trial.method}, trial {trial.row.trial}"), _levels(trial), _edges(trial)]
    return [Section("Edges", tuple(parts))]


def _topologies(trial: Finished) -> list[TopologyReport]:
    return [result.topology for result in trial.results if result.topology is not None]


def _levels(trial: Finished) -> Table:
    found = _topologies(trial)
    sent = statistics.fmean(one.hospital_bytes for one in found)
    lines = [cells(["hospitals", str(trial.results[0].config.cohort.hospitals), f"{sent / 1e6:,.1f}", "-"])]
    for i, level in enumerate(found[0].levels):
        up = statistics.fmean(one.levels[i].up_bytes for one in found)
        lines.append(cells([f"level {i + 1}", str(level.nodes), f"{up / 1e6:,.1f}", f"{level.seconds:.3g}"]))
    return Table(["level", "nodes", "MB sent up", "s it adds to a round"], lines, words=(0,))


def _edges(trial: Finished) -> Table:
    found = _topologies(trial)
    lines = []
    for i, edge in enumerate(found[0].edges):
        rows = [one.edges[i] for one in found]
        lines.append(cells([str(edge.id), _named(edge), *(_mean(rows, name) for name in SCORES)]))
    return Table(["edge", "hospitals", *map(_title, SCORES)], lines, words=(1,))


def _named(edge: EdgeReport) -> str:
    """Its hospitals, which are neighbours by number.

    >>> _named(EdgeReport.model_construct(hospitals=(3, 4, 5))), _named(EdgeReport.model_construct(hospitals=(7,)))
    ('3 to 5', '7')
    """
    first, last = min(edge.hospitals), max(edge.hospitals)
    return str(first) if first == last else f"{first} to {last}"


def _path(name: str) -> str:
    model, _, score = name.partition("_")
    return f"final/{model}/{score}"


def _title(name: str) -> str:
    return shown(_path(name)).title


def _mean(rows: Sequence[EdgeReport], name: str) -> str:
    values = [getattr(row, name) for row in rows if getattr(row, name) is not None]
    return shown(_path(name)).number(statistics.fmean(values) if values else None)
