"""What a result says of the levels between hospitals and coordinator."""

from collections.abc import Mapping, Sequence

import numpy as np

from engine.levels.config import LevelConfig
from engine.levels.tree import above, seconds, sent
from engine.metrics import federation_scores
from engine.part import Many, Part


class LevelReport(Part):
    """A level: bytes that its nodes sent up in the whole run, and virtual seconds that it adds to each round."""

    nodes: int
    up_bytes: int
    seconds: float


class EdgeReport(Part):
    """A node of the lowest level, and scores of its hospitals' test beats together; None without any."""

    id: int
    hospitals: Many[int]
    global_accuracy: float | None
    global_macro_f1: float | None
    personal_accuracy: float | None
    personal_macro_f1: float | None


class TopologyReport(Part):
    """All levels.

    Attributes:
        hospital_bytes: that hospitals sent to their edges.
    """

    levels: Many[LevelReport]
    hospital_bytes: int
    edges: Many[EdgeReport]


Tables = Mapping[str, Mapping[int, np.ndarray]]


def topology_report(
    levels: Sequence[LevelConfig],
    hospitals: int,
    parameters: int,
    rounds: Sequence[Sequence[int]],
    hospital_bytes: int,
    tables: Tables,
    classes: Sequence[str],
    scored: Sequence[str],
) -> TopologyReport | None:
    """The levels of a run; None without any.

    Args:
        rounds: hospitals that came in, by round.
        hospital_bytes: that they sent.
        tables: model -> hospital -> confusion matrix of its test beats.
    """
    if not levels:
        return None
    paths = above(hospitals, levels)
    rows = zip(levels, sent(paths, rounds, parameters), seconds(levels, parameters), strict=True)
    edges = []
    for edge in range(levels[0].nodes):
        mine = tuple(hospital for hospital, path in enumerate(paths) if path[0] == edge)
        found: dict[str, float | None] = {}
        for model in ("global", "personal"):
            there = {h: tables[model][h] for h in mine if h in tables[model]}
            scores = federation_scores(there, classes, scored=scored)
            found |= {f"{model}_{name}": scores[name] for name in ("accuracy", "macro_f1")}
        edges.append(EdgeReport.model_validate({"id": edge, "hospitals": mine, **found}))
    return TopologyReport(
        levels=tuple(LevelReport(nodes=level.nodes, up_bytes=sends, seconds=takes) for level, sends, takes in rows),
        hospital_bytes=hospital_bytes,
        edges=tuple(edges),
    )
