"""The sections of a dossier, out of facts and tables; nothing is claimed here that neither shows."""

import statistics
from collections.abc import Sequence

from engine.provenance import provenance
from engine.result import Result
from sweeps import people
from sweeps.dossier.facts import Facts
from sweeps.dossier.measures import Measure, frameworks, measures
from sweeps.drawing import ONLY, looks_of
from sweeps.material import Finished
from sweeps.page import Heading, Part, Section, Table, Words, cells
from sweeps.rows import NOTHING
from sweeps.scores import shown
from sweeps.text import listed

FILL = "To be written by people: "
NONE = "–"
KINDS = {
    "S": "spoofing",
    "T": "tampering",
    "R": "repudiation",
    "I": "information disclosure",
    "D": "denial of service",
    "E": "elevation of privilege",
}
SCORES = tuple(f"final/personal/{name}" for name in ("macro_f1", "mean_hospital_macro_f1", "rare_recall", "accuracy"))


def sections(facts: Facts, verdict: str) -> list[Section]:
    """All of a dossier."""
    return [
        _processing(facts),
        _assessment(facts),
        _hipaa(facts),
        _threats(facts),
        _model_card(facts),
        _data_sheet(facts),
        _annex(),
        _evidence(facts, verdict),
    ]


def fill(text: str) -> Words:
    """What the program cannot know."""
    return Words(FILL + text, "warning")


def _of(names: Sequence[str]) -> list[Measure]:
    return [measures()[name] for name in names]


def _in_force(facts: Facts, measure: Measure) -> str:
    """Whether a measure was in force in every run that the dossier is of."""
    return "" if not measure.when or facts.used[measure.when] else "Not in force in all runs here: "


def _told(facts: Facts, names: Sequence[str]) -> str:
    """What measures do, with their tests."""
    return " ".join(f"{_in_force(facts, one)}{one.does} [{one.shown_by}]" for one in _of(names)) or "Nothing."


def _limits(names: Sequence[str]) -> str:
    return " ".join(one.limits for one in _of(names)) or "All of it."


# --- Law --------------------------------------------------------------------------------------------------------------


def _processing(facts: Facts) -> Section:
    first = facts.results[0]
    digests = sorted({result.cohort.digest for result in facts.results})
    hospitals = sorted({len(result.cohort.hospitals) for result in facts.results})
    units = listed(sorted({result.cohort.unit for result in facts.results}))
    kept = "in each hospital’s own process" if first.config.execution.sites else "on the machines where the study ran"
    lines = [
        ["controller, representative, data protection officer", FILL + "names and contacts."],
        ["purposes", FILL + "the purposes, and the legal basis (GDPR art. 6 and, for health data, art. 9)."],
        [
            "data subjects and categories of data",
            f"{first.cohort.patients:,} patients as far as known ({first.cohort.patients_source or 'whose the records are is not known'}); "
            f"{units} of {listed(sorted({r.config.data.source for r in facts.results}))} records, class labels, sex and age where headers say them",
        ],
        [
            "recipients",
            f"{listed(map(str, hospitals))} hospitals of a simulated or real federation. " + FILL + "who they are.",
        ],
        ["transfers to third countries", FILL + "where the hospitals, nodes and clusters are."],
        ["where it is kept", f"{kept}; predictions, models and the ledger in the folder that this file is of"],
        ["erasure", FILL + "how long folders and caches are kept."],
        ["security (art. 32)", "The threat model below."],
        ["digests of the data", listed(digests)],
    ]
    lead = "Regulation (EU) 2016/679, article 30: what the software knows of the processing."
    return Section(
        "Record of processing",
        (Words(lead, "lead"), Table(["what", "here"], [cells(line) for line in lines], words=(0, 1))),
    )


def _assessment(facts: Facts) -> Section:
    first = facts.results[0]
    method = listed(dict.fromkeys(trial.method for trial in facts.best))
    parts: list[Part] = [
        Words(
            "Regulation (EU) 2016/679, article 35(7). Whether one is owed, and whether it suffices, people decide.",
            "lead",
        ),
        Heading("(a) The processing"),
        Words(
            f"Hospitals train models together by {method}, over {first.config.federation.rounds} rounds; each of their {first.cohort.unit} is "
            "assigned to a class. What a hospital does with its data:"
        ),
        Words(_told(facts, ["data-stays", "patients"])),
        fill("the purposes, and the interest pursued."),
        Heading("(b) Necessity and proportionality"),
        fill("why the purposes cannot be reached with less, and on what basis patients are told and may object."),
        Heading("(c) Risks, with what was measured here"),
        Table(["risk", "measured"], [cells(line) for line in _measured(facts)], words=(0, 1)),
        fill("likelihood and severity of each, for the people whose data these are."),
        Heading("(d) Measures, and what they do not do"),
        _table([(_in_force(facts, one) + one.does, one.shown_by, one.limits) for one in measures().values()]),
        Heading("Residual risk"),
        fill("what remains, who accepts it, and whether the authority is consulted (art. 36)."),
    ]
    return Section("Data protection impact assessment", tuple(parts))


def _table(lines: Sequence[tuple[str, str, str]]) -> Table:
    return Table(
        ["what the software does", "tests that show it", "what it does not do"],
        [cells(line) for line in lines],
        words=(0, 1, 2),
    )


def _measured(facts: Facts) -> list[list[str]]:
    private = [result for result in facts.results if result.privacy is not None]
    if private:
        worst = max(private, key=lambda result: result.privacy.epsilon)  # type: ignore[union-attr]
        said = worst.privacy
        assert said is not None
        alone = f" {said.alone:.2f} against all others of a masked sum together;" if said.alone is not None else ""
        text = (
            f"epsilon {said.epsilon:.2f} at delta {said.delta:g} for one {said.unit} of one hospital, the most of {len(private)} of "
            f"{len(facts.results)} runs;{alone} secrets are {'simulated, so nothing is protected from whoever knows the seed' if said.secret == 'simulated' else 'the hospitals’'}. "
            f"Not protected: {listed(said.not_protected)}."
        )
    else:
        text = "not bounded: no run used a privacy mechanism"
    lines = [
        ["a patient is recognised by updates or models", f"{text}{'' if text.endswith('.') else '.'} {_guessed(facts)}"]
    ]
    if facts.attacks:
        lines += [
            [f"a patient is recognised in synthetic beats ({name})", f"AUC of membership inference {found}"]
            for name, found in facts.attacks[:50]
        ]
    else:
        lines.append(["a patient is recognised in synthetic beats", "none were made"])
    leaky = list(dict.fromkeys(text for result in facts.results for text in result.cohort.leaky))
    lines.append(
        [
            "test results are better than in use, as beats of a patient are on both sides",
            "; ".join(leaky) or "nothing of that kind was found",
        ]
    )
    return lines


def _guessed(facts: Facts) -> str:
    """What membership inference found on the models of finished runs."""
    measured = [result.membership for result in facts.results if result.membership is not None]
    if not measured:
        return "No attack on the models was measured (privacy.membership)."
    of = [guess for found in measured for guess in (found.global_, found.personal)]
    most = max(of, key=lambda guess: guess.auc)
    return (
        f"Membership inference against global and personal models, measured in {len(measured)} of {len(facts.results)} runs: "
        f"AUC at most {most.auc:.3f}, advantage at most {100 * max(guess.advantage for guess in of):.1f} points (means over hospitals)."
    )


def _hipaa(facts: Facts) -> Section:
    lines = [
        [line["at"], _told(facts, line["by"]), _limits(line["by"]), line["operator"]] for line in frameworks()["hipaa"]
    ]
    heads = ["45 CFR", "what the software does [tests]", "what it does not do", "what the operator must do"]
    lead = "Security rule, 45 CFR 164.308, .310 and .312. Software is not compliant; organisations are."
    return Section(
        "HIPAA safeguards", (Words(lead, "lead"), Table(heads, [cells(line) for line in lines], words=(0, 1, 2, 3)))
    )


def _threats(facts: Facts) -> Section:
    flows = [
        [line["flow"], KINDS[line["kind"]], line["threat"], _told(facts, line["by"]), _limits(line["by"])]
        for line in frameworks()["stride"]
    ]
    privacy = [
        [line["kind"], line["threat"], _told(facts, line["by"]), _limits(line["by"])]
        for line in frameworks()["linddun"]
    ]
    return Section(
        "Threat model",
        (
            Heading("STRIDE, flow by flow"),
            Table(
                ["flow", "kind", "threat", "measures [tests]", "what remains"],
                [cells(line) for line in flows],
                words=range(5),
            ),
            Heading("LINDDUN, for privacy"),
            Table(
                ["kind", "threat", "measures [tests]", "what remains"],
                [cells(line) for line in privacy],
                words=range(4),
            ),
        ),
    )


def _annex() -> Section:
    lines = [[line["at"], line["here"], FILL + line["operator"]] for line in frameworks()["annex_iv"]]
    lead = "Regulation (EU) 2024/1689, annex IV: an outline of the technical documentation. Whether the regulation applies people must decide."
    return Section(
        "EU AI Act, annex IV",
        (
            Words(lead, "lead"),
            Table(["point", "in this file", "people"], [cells(line) for line in lines], words=(0, 1, 2)),
        ),
    )


# --- Model and data ---------------------------------------------------------------------------------------------------


def _model_card(facts: Facts) -> Section:
    looks = looks_of(trial.method for trial in facts.best)
    few = list(dict.fromkeys(name for result in facts.results for name in result.cohort.not_testable))
    limits = list(dict.fromkeys(text for result in facts.results for text in result.cohort.leaky))
    limits += [f"Too few test samples to speak of: class {listed(few)}."] if few else []
    limits += [f"Some runs lost hospitals: {text}" for result in facts.results for text in result.lost[:3]]
    groups = people.sections(facts.best, looks)[0]
    parts: list[Part] = [
        Words(
            "Research on federated learning. Not a medical device, not validated for any clinical use, not to be used to diagnose or treat.",
            "warning",
        ),
        fill("intended use, users, and uses that are out of scope."),
        Heading("Performance on test data, with intervals over seeds"),
        _performance(facts.best),
        Words(
            "95 % intervals by Student’s t where there are two seeds or more; one seed has none, and two give one that is wider than a share can be. "
            "Test data chose nothing unless the study says so."
        ),
        Heading(groups.title),
        *(groups.parts or (Words(f"Nothing can be said: {groups.missing}.", "missing"),)),
        Heading("Limits"),
        *(Words(text) for text in limits or ["Nothing beyond what the sections above say."]),
    ]
    return Section("Model card", tuple(parts))


def _performance(best: Sequence[Finished]) -> Table:
    classes = list(dict.fromkeys(c for trial in best for c in trial.outcome.support))
    paths = (*SCORES, *(f"final/personal/recall/{c}" for c in classes))
    lines = []
    for trial in best:
        where = "" if trial.condition == ONLY else trial.condition
        for path in paths:
            spread = trial.outcome.scores.get(path, NOTHING)
            if spread.mean is None:
                continue
            number = shown(path).number
            between = NONE if spread.interval is None else " to ".join(number(end) for end in spread.interval)
            told = [where, trial.method, str(trial.outcome.repeats), shown(path).title, number(spread.mean), between]
            lines.append(cells(told))
    return Table(["condition", "method", "seeds", "score", "mean", "95 % interval"], lines, words=(0, 1, 3))


def _data_sheet(facts: Facts) -> Section:
    found = {result.cohort.digest: result for result in facts.results}
    parts: list[Part] = [fill("why and by whom the data were collected, consent, and what may be done with them.")]
    for digest, result in found.items():
        cohort = result.cohort
        lines = [
            ["digest", digest],
            ["source", result.config.data.source],
            ["records", str(sum(len(hospital.records) for hospital in cohort.hospitals))],
            ["patients", f"{cohort.patients} ({cohort.patients_source or 'each record is taken for one'})"],
            [cohort.unit, f"{cohort.beats:,}: " + ", ".join(f"{name} {n:,}" for name, n in cohort.classes.items())],
            ["left out", ", ".join(f"{why} {n:,}" for why, n in cohort.left_out.items() if n) or "none"],
            ["leads", ", ".join(f"{lead} {len(records)}" for lead, records in cohort.leads.items()) or NONE],
            ["rates of the files, Hz", ", ".join(f"{rate} ({n})" for rate, n in cohort.native_rates.items()) or NONE],
            ["missing values that a rule has filled", str(cohort.missing_values)],
            ["hospitals", f"{len(cohort.hospitals)}, from {_sizes(result)} {cohort.unit}"],
        ]
        parts += [
            Heading(f"Data {digest[:16]}"),
            Table(["what", "here"], [cells(line) for line in lines], words=(0, 1)),
        ]
    return Section("Data sheet", tuple(parts))


def _sizes(result: Result) -> str:
    sizes = sorted(sum(hospital.classes.values()) for hospital in result.cohort.hospitals)
    return f"{sizes[0]:,} to {sizes[-1]:,} (median {statistics.median(sizes):,.0f})" if sizes else "0"


def _evidence(facts: Facts, verdict: str) -> Section:
    made = provenance()
    commit = (
        f"{made.commit}{' with changes that were not committed' if made.changed else ''}"
        if made.commit
        else "not known"
    )
    lines = [
        ["audit", verdict],
        ["software", f"PulseLedger {made.version}, commit {commit}"],
        *(
            [
                f"{trial.condition}, {trial.method}, trial {trial.row.trial}, seed {seed}",
                f"model {r.model_hash}; configuration {r.config_hash}; head {r.ledger.head or 'no ledger'}",
            ]
            for trial in facts.best
            for seed, r in enumerate(trial.results)
        ),
    ]
    tests = sorted({test for one in measures().values() for test in one.tests})
    return Section(
        "Evidence",
        (
            Table(["what", "here"], [cells(line) for line in lines], words=(0, 1)),
            Heading("Tests that are named above"),
            Words(
                "They are run with the software’s own suite, not by this file: whoever relies on them runs them (make test, make test-long)."
            ),
            Table(["test"], [cells([test]) for test in tests], words=(0,)),
        ),
    )
