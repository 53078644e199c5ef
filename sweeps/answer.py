"""The answer of a study in words: which method is best in each condition, by how much, for whom, at what cost.

Computed from the rows and nothing else, so `compare`, `report` and MLflow say the same sentence. Methods are held against
each other hospital by hospital and seed by seed, in macro-F1 on test beats; what an interval does not tell apart is
called level, and what these rows cannot say is said to be so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeps.rows import Outcome, Row
from sweeps.text import listed, megabytes, signed, spoken

LEVEL = 0.95
UNEVEN = 1.1  # methods whose gradients differ by more than this factor were not compared at equal work
MOST_NAMED = 6  # hospitals; of more only the number is told
WIDE = 1.0  # of an interval of differences in macro-F1, which are from -1 to 1
MEAN = "final/personal/mean_hospital_macro_f1"
HOW = (
    "Differences are in macro-F1 of a hospital on its test beats, mean over hospitals, paired by hospital and seed; in "
    "brackets 95 % intervals, widened so that all of a sentence hold together. Gain and lose are meant in every seed."
)

Scores = Sequence[Mapping[int, float]]  # of each seed: hospital -> macro-F1


@dataclass(frozen=True)
class Paired:
    """How far one model is above another on the same test beats.

    Attributes:
        mean: over seeds and hospitals.
        low, high: its interval; None where neither seeds nor hospitals are several.
        seeds: number of them.
        gain, lose: hospitals where the difference is above, and below, zero in every seed.
        level: all other hospitals.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    gain: tuple[int, ...]
    lose: tuple[int, ...]
    level: tuple[int, ...]

    @property
    def hospitals(self) -> int:
        return len(self.gain) + len(self.lose) + len(self.level)

    @property
    def tie(self) -> bool:
        """Whether the interval leaves open which of the two is better; without an interval nothing is known."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high

    @property
    def width(self) -> float:
        """Of the interval; endless without one."""
        return math.inf if self.low is None or self.high is None else self.high - self.low

    def turned(self) -> "Paired":
        """The same from the other side."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Paired(-self.mean, low, high, self.seeds, self.lose, self.gain, self.level)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{signed(self.mean)} (no interval)"
        return f"{signed(self.mean)} [{signed(self.low)}, {signed(self.high)}]"


@dataclass(frozen=True)
class Standing:
    """A method in a condition, by its best trial.

    Attributes:
        mean: macro-F1 of the mean hospital, over the seeds.
        trials: how many complete trials the best was chosen from.
    """

    title: str
    trial: int
    outcome: Outcome
    mean: float
    trials: int


@dataclass(frozen=True)
class Answer:
    """What can be said of one condition.

    Attributes:
        standings: the methods, best first; those that pool all beats at the end, as lines to compare with.
        against: the best of them less each other one.
        subject: the best that federates; the best, unless that trains alone. Empty where none federates.
        alone, trivial, global_: the subject less local-only, less each hospital's commonest class, less its global model.
    """

    condition: str
    standings: tuple[Standing, ...]
    against: Mapping[str, Paired]
    subject: str
    alone: Paired | None
    trivial: Paired | None
    global_: Paired | None
    sentence: str
    notes: tuple[str, ...]

    @property
    def how(self) -> str:
        """What its numbers are."""
        return spoken(HOW, self.standings[0].outcome.unit) if self.standings else HOW

    @property
    def best(self) -> str:
        return self.standings[0].title if self.standings else ""

    @property
    def level(self) -> tuple[str, ...]:
        """Methods that these numbers do not tell from the best."""
        return tuple(title for title, found in self.against.items() if found.tie)

    @property
    def text(self) -> str:
        """All of it, for a page or a terminal."""
        return " ".join((self.sentence, *self.notes))

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""

        def plain(found: Paired | None) -> dict[str, Any] | None:
            if found is None:
                return None
            return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(found).items()}

        return {
            "condition": self.condition,
            "best": self.best,
            "level": list(self.level),
            "methods": [
                {"method": s.title, "trial": s.trial, MEAN: s.mean, "chosen_from": s.trials} for s in self.standings
            ],
            "best_less": {title: plain(found) for title, found in self.against.items()},
            "subject": self.subject,
            "subject_less": {
                "local-only": plain(self.alone),
                "local majority": plain(self.trivial),
                "global model": plain(self.global_),
            },
            "sentence": self.sentence,
            "notes": list(self.notes),
        }


# --- Numbers ----------------------------------------------------------------------------------------------------------


def paired(ours: Scores, theirs: Scores, comparisons: int = 1) -> Paired | None:
    """The difference of two models over the hospitals that all seeds of both have; None where there is none.

    Seeds and hospitals are crossed and both are samples: the variance of the mean is taken as that of the seeds' means
    plus that of the hospitals' means, which is a little too wide, with Satterthwaite's degrees of freedom. Where one of
    the two is a single one, the interval is over the other.

    Args:
        comparisons: how many intervals are to hold together (Bonferroni).

    >>> str(paired([{0: 0.75, 1: 0.5}], [{0: 0.5, 1: 0.5}]))
    '+0.125 [-1.000, +1.000]'
    """
    shared = [a.keys() & b.keys() for a, b in zip(ours, theirs, strict=False)]
    names = sorted(set.intersection(*map(set, shared))) if shared else []
    if not names:
        return None
    table = np.array([[a[h] - b[h] for h in names] for a, b in zip(ours, theirs, strict=False)])
    low, high = _interval(table, 1 - (1 - LEVEL) / comparisons)
    above, below = np.all(table > 0, axis=0), np.all(table < 0, axis=0)
    chosen = (above, below, ~(above | below))
    gain, lose, level = (tuple(h for h, so in zip(names, which.tolist(), strict=True) if so) for which in chosen)
    return Paired(float(table.mean()), low, high, len(table), gain, lose, level)


def _interval(table: np.ndarray, level: float) -> tuple[float | None, float | None]:
    """Of the mean of float[seeds, hospitals]."""
    from scipy.special import stdtrit  # Student's t; scipy.stats takes half a second to import

    parts = [
        (float(means.var(ddof=1)) / len(means), len(means) - 1)
        for means in (table.mean(1), table.mean(0))
        if len(means) > 1
    ]
    if not parts:
        return None, None
    mean, variance = float(table.mean()), sum(each for each, _ in parts)
    if variance == 0:
        return mean, mean
    freedom = variance**2 / sum(each**2 / free for each, free in parts)
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance)
    return max(mean - half, -1.0), min(mean + half, 1.0)  # two macro-F1 are never further apart


# --- One condition ----------------------------------------------------------------------------------------------------


def answers(rows: Sequence[Row]) -> list[Answer]:
    """The answer of each condition, in the order of the rows, which come best first."""
    labels = dict.fromkeys(row.condition for row in rows)
    return [answer_of(label, [row for row in rows if row.condition == label]) for label in labels]


def answer_of(condition: str, rows: Sequence[Row]) -> Answer:
    """The answer of one condition."""
    found, notes = _standings(rows)
    if not found:
        counted = ", ".join(
            f"{sum(r.state == s for r in rows)} {s.lower()}" for s in dict.fromkeys(r.state for r in rows)
        )
        why = f"{condition}: nothing can be said, no trial has test scores to compare ({counted})."
        return Answer(condition, (), {}, "", None, None, None, why, tuple(notes))
    best, others = found[0], found[1:]
    subject = next((s for s in found if not s.outcome.method.alone and not s.outcome.method.pools), None)
    lone = next((s for s in found if s.outcome.method.alone), None)
    held = subject or best
    with_global = held.outcome.method.adapts
    family = len(others) + 1 + with_global
    own = held.outcome.own("personal")
    against = {}
    for other in others:
        difference = paired(best.outcome.own("personal"), other.outcome.own("personal"), family)
        if difference is not None:
            against[other.title] = difference
    alone = None
    if lone is not None and subject is not None:
        alone = paired(own, lone.outcome.own("personal"), family)
    answer = Answer(
        condition,
        tuple(found),
        against,
        subject.title if subject is not None else "",
        alone,
        paired(own, held.outcome.own("majority"), family),
        paired(own, held.outcome.own("global"), family) if with_global else None,
        "",
        (),
    )
    unit = held.outcome.unit
    said = spoken(_sentence(answer, held, lone), unit)
    told = (spoken(note, unit) for note in (*_notes(answer, held, lone, rows), *notes))
    return Answer(**{**vars(answer), "sentence": said, "notes": tuple(told)})


def _standings(rows: Sequence[Row]) -> tuple[list[Standing], list[str]]:
    """The best trial of each method by mean hospital, reference lines last, and what had to be left out."""
    chosen: dict[str, tuple[Row, Outcome]] = {}
    count: dict[str, int] = {}
    notes = []
    for row in rows:
        if row.outcome is None:
            continue
        title = row.outcome.method.title
        count[title] = count.get(title, 0) + 1
        if row.violated or title in chosen:
            continue
        chosen[title] = row, row.outcome
    for title in count.keys() - chosen.keys():
        notes.append(f"{title} is left out: all its trials break a constraint.")
    found = [
        Standing(title, row.trial, outcome, mean, count[title])
        for title, (row, outcome) in chosen.items()
        if (mean := outcome.scores[MEAN].mean) is not None
    ]
    for title in [title for title in chosen if title not in {s.title for s in found}]:
        notes.append(f"{title} is left out: it has no macro-F1 on test beats.")
    first = found[0].outcome.tested() if found else ()
    for standing in [s for s in found if s.outcome.tested() != first]:
        notes.append(f"{standing.title} is left out: it was tested on other beats.")
        found.remove(standing)
    return sorted(found, key=lambda s: (s.outcome.method.pools, -s.mean, s.trial)), sorted(notes)


def between(studies: Mapping[str, Sequence[Row]]) -> list[str]:
    """What studies say of the same method in the same condition: each against the first that has it, in sentences."""
    found: dict[tuple[str, str], list[tuple[str, Standing]]] = {}
    for name, rows in studies.items():
        for condition in dict.fromkeys(row.condition for row in rows):
            for standing in _standings([row for row in rows if row.condition == condition])[0]:
                found.setdefault((condition, standing.title), []).append((name, standing))
    said = []
    for (condition, title), group in found.items():
        (first, reference), *others = group
        for name, standing in others:
            where = f"{condition}, {title}"
            if standing.outcome.tested() != reference.outcome.tested():
                said.append(f"{where}: {first} and {name} were tested on other beats.")
                continue
            difference = paired(standing.outcome.own("personal"), reference.outcome.own("personal"))
            if difference is not None:
                said.append(f"{where}: {name} is {difference} over {first}, where {_gains(difference)}.")
    return said


# --- Words ------------------------------------------------------------------------------------------------------------


def _sentence(answer: Answer, held: Standing, lone: Standing | None) -> str:
    best = answer.standings[0]
    rivals = [s.title for s in answer.standings[1:] if not s.outcome.method.pools]
    level = [title for title in rivals if title in answer.level]
    reached = f"macro-F1 {best.mean:.3f} in the mean hospital"
    if not rivals:
        said = f"only {best.title} was run to compare ({reached})"
    elif level:
        ahead = answer.against[level[0]]
        known = "is not told from" if ahead.low is not None else "cannot be told from"
        told = listed(f"{title} ({answer.against[title].turned()})" for title in level)
        said = f"{best.title} is ahead ({reached}) but {known} {told}: a tie"
    else:
        said = f"{best.title} is best ({reached}), {answer.against[rivals[0]]} over {rivals[0]}, the next"
    parts = [said]
    if held is not best:
        parts.append(f"no method beats being alone: {held.title}, the best that federates, is at {held.mean:.3f}")
    if answer.alone is not None:
        parts.append(f"{answer.alone} over local-only, where {_gains(answer.alone)}")
    if answer.trivial is not None:
        parts.append(f"{answer.trivial} over each hospital's commonest class")
    if answer.global_ is not None:
        parts.append(f"{answer.global_} over its global model, where {_gains(answer.global_)}")
    return f"{answer.condition}: {'; '.join(parts)}; {_cost(held, lone)}."


def _gains(found: Paired) -> str:
    if found.hospitals == 1:
        return "the only hospital " + ("gains" if found.gain else "loses" if found.lose else "neither gains nor loses")
    parts: list[str] = []
    for who, verb in ((found.gain, "gain"), (found.lose, "lose")):
        word = verb if len(who) > 1 else f"{verb}s"
        if len(who) == found.hospitals:
            return f"all {len(who)} hospitals {verb}"
        of = "" if parts else f"of {found.hospitals} hospitals "
        parts.append(f"{len(who) or 'none'} {of}{word}" + (f" ({listed(who)})" if who else ""))
    if found.level:
        parts.append(f"{len(found.level)} neither ({listed(found.level)})")
    return ", ".join(parts)


def _cost(held: Standing, lone: Standing | None) -> str:
    outcome = held.outcome
    parts = [f"{outcome.gradients:,.0f} gradients"]
    if lone is not None and lone is not held:
        parts[0] += f" (local-only {lone.outcome.gradients:,.0f})"
    if outcome.exchanged is not None:
        parts.append(f"{megabytes(outcome.exchanged)} of models sent")
    share, gas = outcome.mean("ledger/overhead_share"), outcome.mean("ledger/gas_per_round")
    if share is not None and gas is not None:
        parts.append(f"{100 * share:.2f} % of the rounds' time and {gas:,.0f} gas a round for the ledger")
    else:
        parts.append("no ledger")
    return f"it costs {listed(parts)}"


def _notes(answer: Answer, held: Standing, lone: Standing | None, rows: Sequence[Row]) -> list[str]:
    """What these numbers cannot say, or say with a reservation."""
    outcome, notes = held.outcome, []
    if lone is None:
        notes.append("No local-only trial: whether federating pays at all cannot be said.")
    if answer.subject == "":
        notes.append("No trial that federates: what federating gives cannot be said.")
    if outcome.repeats == 1:
        notes.append("One seed: intervals are over hospitals only, and another seed may turn what is close.")
    if len(outcome.seeds[0]) == 1:
        notes.append("One hospital: intervals are over seeds only.")
    if any(found.low is not None and found.width >= WIDE for found in answer.against.values()):
        n, m = len(outcome.seeds[0]), outcome.repeats
        notes.append(
            f"{n} hospital{'s' * (n > 1)} and {m} seed{'s' * (m > 1)} are too few to tell methods apart: an interval is {WIDE:g} "
            "wide or more."
        )
    above = [s for s in answer.standings if s.outcome.method.pools and s.mean > answer.standings[0].mean]
    notes += [
        f"Pooling all beats, {s.title} reaches {s.mean:.3f}: {answer.against[s.title].turned()}."
        for s in above
        if s.title in answer.against
    ]
    if outcome.untestable:
        notes.append(f"{outcome.untestable[0].upper()}{outcome.untestable[1:]}.")
    if few := _few_in_hospitals(outcome):
        notes.append(
            f"Not testable within single hospitals, where a class has fewer than {outcome.min_support}: {few}."
        )
    unscored = [f"{c} ({n})" for c, n in outcome.support.items() if c not in outcome.scored and n]
    if unscored:
        notes.append(f"In no macro-F1, as they have no validation beats: {listed(unscored)} test beats.")
    spent = [s.outcome.gradients for s in answer.standings if s.outcome.gradients]
    if spent and max(spent) > UNEVEN * min(spent):
        notes.append(f"Not at equal gradients: from {min(spent):,.0f} to {max(spent):,.0f}.")
    chances = {s.trials for s in answer.standings}
    if len(chances) > 1:
        each = [
            f"of {n} for {listed(s.title for s in answer.standings if s.trials == n)}"
            for n in sorted(chances, reverse=True)
        ]
        notes.append(f"Not at equal tuning: the trial that is best on validation, {', '.join(each)}.")
    if any(row.tuned_on_test for row in rows):
        notes.append("Tuned on test beats: these scores are too good.")
    if left := sum(row.state in ("RUNNING", "WAITING") for row in rows):
        notes.append(f"Interim: {left} trial{'s' * (left > 1)} still under way.")
    return notes


def _few_in_hospitals(outcome: Outcome) -> str:
    """Class by class the hospitals with too few of its test beats, of classes that are testable in all together."""
    who = {
        c: [h for h, own in outcome.seeds[0].items() if 0 < own.support[c] < outcome.min_support]
        for c in outcome.scored
        if c not in outcome.not_testable
    }
    return "; ".join(f"{c} in {_some(hospitals)}" for c, hospitals in who.items() if hospitals)


def _some(hospitals: Sequence[int]) -> str:
    return listed(hospitals) if len(hospitals) <= MOST_NAMED else f"{len(hospitals)} hospitals"
