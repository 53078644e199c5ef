"""How committees judged the hospitals of a run, round by round."""

from engine.result import CommitteeRow
from sweeps.drawing import ONLY
from sweeps.material import Finished, Material, best_of_each
from sweeps.page import Heading, Part, Section, Table, Words, cells

ROUNDS = 25  # that a table shows, the last ones


def sections(material: Material) -> list[Section]:
    """Who was judged how, of the best trial of each method in each condition; nothing where no committee sat."""
    chosen = [trial for trial in best_of_each(material.trials) if trial.outcome.judged]
    if not chosen:
        return []
    text = (
        "Score of each hospital’s update in per cent, as the committee of the round found it, in the first seed of the best trial of "
        "each method; × is one that did not qualify, ↑ one that led the round. A hospital that judged and did not train is marked as judge; one that owed "
        "scores, as absent. * plays an attacker."
    )
    parts: list[Part] = [Words(text)]
    for trial in chosen:
        condition = "" if trial.condition == ONLY else f"{trial.condition}, "
        parts += [
            Heading(f"{condition}{trial.method}, trial {trial.row.trial}"),
            _table(trial),
            Words(trial.outcome.judged),
        ]
    return [Section("Who was judged how", tuple(parts))]


def _table(trial: Finished) -> Table:
    result = trial.results[0]
    rows = [row for row in result.rounds if row.committee is not None][-ROUNDS:]
    lines = []
    for hospital in result.cohort.hospitals:
        name = f"{hospital.id}{'*' if hospital.id in (result.hostile or ()) else ''}"
        lines.append(cells([name, *(_mark(row.committee, hospital.id) for row in rows)]))
    return Table(["hospital", *(f"round {row.round}" for row in rows)], lines)


def _mark(committee: CommitteeRow | None, hospital: int) -> str:
    if committee is None:
        return ""
    scores = {
        one.hospital: f"{one.score / 100:.0f}{'' if one.qualified else ' ×'}{' ↑' * (one.hospital == committee.leader)}"
        for one in committee.verdicts
    }
    absent = "absent" if hospital in committee.absent else ""
    judge = "judge" if hospital in committee.judges and hospital not in scores else ""
    return " ".join(filter(None, (scores.get(hospital, ""), absent or judge)))
