"""Levels between hospitals and coordinator, a second time: what they send and add to a round, and the scores of each edge."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from engine.audit.case import Case
from engine.audit.report import Count, Told, finding
from engine.audit.scores import federation_scores, scored_classes
from engine.audit.selection import hostile


def levels_of(case: Case) -> Sequence[Mapping[str, Any]]:
    """The levels of the configuration, from the hospitals up."""
    section = case.config.get("topology")
    found = section.get("levels") if isinstance(section, Mapping) else None
    return found if isinstance(found, list) else []


def hops(levels: Sequence[Mapping[str, Any]], parameters: int) -> list[float]:
    """Seconds that each level adds to a round: 32 bits an entry down, 64 up."""
    return [parameters * 32 / level["downlink"] + parameters * 64 / level["uplink"] for level in levels]


def edges_of(case: Case, slots: Iterable[int]) -> list[list[int]]:
    """Of these slots those at each edge, ascending."""
    nodes, many = levels_of(case)[0]["nodes"], int(case.config["cohort"]["hospitals"])
    return [[slot for slot in sorted(slots) if slot * nodes // many == edge] for edge in range(nodes)]


def check(case: Case, came: Mapping[int, Sequence[int]], parameters: int, update: int) -> Iterator[Told]:
    """Check what the result says; `came` are the hospitals of each round, and an update of theirs has so many bytes."""
    levels = levels_of(case)
    if not levels or not case.reported or any(one.content is None for one in case.results.values()):
        return
    many = int(case.config["cohort"]["hospitals"])
    paths = []
    for slot in range(many):
        place, below, path = slot, many, []
        for level in levels:
            place, below = place * level["nodes"] // below, level["nodes"]
            path.append(place)
        paths.append(path)
    rows = [
        {
            "nodes": level["nodes"],
            "up_bytes": sum(len({paths[slot][i] for slot in slots}) for slots in came.values()) * parameters * 8,
            "seconds": takes,
        }
        for i, (level, takes) in enumerate(zip(levels, hops(levels, parameters), strict=True))
    ]
    expected = {
        "levels": rows,
        "hospital_bytes": sum(map(len, came.values())) * update,
        "edges": [_edge(case, paths, edge) for edge in range(levels[0]["nodes"])],
    }
    said = case.reported.get("topology")
    for name, value in expected.items():
        yield Count("results")
        told = said.get(name) if isinstance(said, Mapping) else None
        if told != value:
            message = (
                f"topology.{name} of the result does not follow from configuration, clock and what hospitals signed"
            )
            yield finding("result", f"topology.{name}", value, told, message)


def _edge(case: Case, paths: Sequence[Sequence[int]], edge: int) -> dict[str, Any]:
    own = {slot: one.content for slot, one in case.results.items() if one.content is not None and slot < len(paths)}
    classes = next(iter(own.values())).classes
    totals = (
        [sum(one.counts[part][i] for one in own.values()) for i in range(len(classes))]
        for part in ("validation", "test")
    )
    scored, enemies = scored_classes(classes, *totals), hostile(case.config)
    mine = [slot for slot, path in enumerate(paths) if path[0] == edge]
    found: dict[str, Any] = {"id": edge, "hospitals": mine}
    for model in ("global", "personal"):
        tables = {slot: own[slot].test[model] for slot in mine if slot in own and slot not in enemies}
        scores = federation_scores(tables, classes, scored)
        found |= {f"{model}_{name}": scores[name] for name in ("accuracy", "macro_f1")}
    return found
