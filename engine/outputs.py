"""What a run leaves in its folder: predictions, model, result, and a picture that is drawn after all that is on disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import checkpoint
from engine.algorithms.budget import noised_samples
from engine.association.report import AssociationReport
from engine.attacks.poison import target_of
from engine.config import RunConfig, config_hash
from engine.data.cohort import Cohort, report_without
from engine.encoding import json_hash
from engine.errors import DataError
from engine.files import whole, write_text
from engine.levels.report import TopologyReport, topology_report
from engine.levels.tree import DOWN
from engine.messages import LoopState, Outcome, Timeline
from engine.metrics import confusion, federation_scores
from engine.model import AnyNetwork, unflatten, vector_hash
from engine.people.examine import examined, groups_of
from engine.picture import confusion_svg
from engine.privacy.membership import membership_report
from engine.privacy.plan import Mechanism, mechanism_of
from engine.privacy.report import told
from engine.result import (
    MODEL,
    PICTURE,
    PREDICTIONS,
    RESULT,
    VERSION,
    Backdoor,
    BothScores,
    CohortReport,
    LedgerSummary,
    PersonalScores,
    PrivacyReport,
    Result,
    RoundSummary,
    Scores,
    SyntheticRow,
    Timing,
)
from engine.timing.report import ClockReport, HospitalTime, Virtual

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CLOCK_ROWS = 1000  # with more hospitals, the clock does not list them


def assemble(
    config: RunConfig,
    hashed: str,
    cohort: Cohort,
    network: AnyNetwork,
    state: LoopState,
    outcomes: Sequence[Outcome],
    ledger: LedgerSummary,
    total_seconds: float,
    synthesis: Sequence[SyntheticRow] | None = None,
    lost: Sequence[str] = (),
    hostile: frozenset[int] = frozenset(),
    privacy: PrivacyReport | None = None,
    association: AssociationReport | None = None,
) -> Result:
    """The result of a run after the rounds of `state`.

    Args:
        lost: hospitals that could not be tested, in sentences.
        hostile: ids of hospitals that play attackers, which are not scored.
        privacy: what was spent.
        association: with miners.
    """
    classes, rows, scored = cohort.beats.classes, state.history, cohort.scored
    honest = [outcome for outcome in outcomes if outcome.hospital not in hostile]
    test = {
        model: {o.hospital: confusion(o.true, o.predicted[model], len(classes)) for o in honest}
        for model in ("global", "personal")
    }
    validation = {model: {o.hospital: o.validation[model] for o in honest} for model in ("global", "personal")}
    people = examined(predictions(cohort, honest), classes, scored, config.cohort.min_support)
    return Result(
        version=VERSION,
        name=config.name,
        config_hash=hashed,
        config=config,
        model_hash=vector_hash(state.params, network.layout).hex(),
        parameters=network.size,
        cohort=CohortReport.model_validate(report_without(cohort, hostile) if hostile else cohort.report),
        final=_both(test, classes, scored),
        validation=_both(validation, classes, scored),
        fairness=people.fairness,
        calibration=people.calibration,
        patients=people.patients,
        rounds=rows,
        ledger=ledger,
        timing=_timing(rows, sum(outcome.gradient_evaluations for outcome in outcomes), total_seconds),
        synthesis=None if synthesis is None else tuple(synthesis),
        lost=tuple(lost),
        hostile=tuple(sorted(hostile)) or None,
        privacy=privacy,
        backdoor=_backdoor(config, classes, honest),
        membership=membership_report({one.hospital: one.guessed for one in honest}),
        association=association,
        topology=_topology(config, network.size, rows, test, classes, scored),
        clock=clock_report(state.timeline, config.clock.target, rows),
    )


def _topology(
    config: RunConfig,
    parameters: int,
    rows: Sequence[RoundSummary],
    test: Mapping[str, Mapping[int, np.ndarray]],
    classes: Sequence[str],
    scored: Sequence[str],
) -> TopologyReport | None:
    secure, many = config.aggregation.secure, config.cohort.hospitals
    if secure.groups:  # a round in which an edge has too few hospitals fails
        came = [[*range(many)]] * len(rows)
        own = round(sum(row.participants for row in rows) * secure.size(parameters))
    else:
        came = [[one.id for one in row.virtual.arrived] for row in rows if row.virtual is not None]
        own = sum(map(len, came)) * parameters * DOWN // 8
    return topology_report(config.topology.levels, many, parameters, came, own, test, classes, scored)


def _timing(rows: Sequence[RoundSummary], adapting: int, total_seconds: float) -> Timing:
    return Timing(
        train_seconds=sum(row.train_seconds for row in rows),
        rounds_seconds=sum(row.seconds for row in rows),
        gradient_evaluations=sum(row.gradient_evaluations for row in rows) + adapting,
        personalisation_gradient_evaluations=adapting,
        total_seconds=total_seconds,
    )


def reached(target: float | None, history: Sequence[RoundSummary]) -> Virtual | None:
    """The first round whose global model has a validation macro-F1 of `target`, on the clock; None where none has."""
    if target is None:
        return None
    good = (row.virtual for row in history if (row.validation.macro_f1 or 0.0) >= target)
    return next(good, None)


def clock_report(line: Timeline, target: float | None, history: Sequence[RoundSummary]) -> ClockReport | None:
    """The virtual clock after the last round; None where none is kept."""
    if not line.tallies:
        return None
    there = reached(target, history)
    rows = [
        HospitalTime(
            id=hospital,
            delivered=one.delivered,
            dropped=one.dropped,
            late=one.late,
            busy_seconds=one.busy / 10**6,
            wasted_seconds=one.wasted / 10**6,
            compute_joules=one.compute / 10**9,
            radio_joules=one.radio / 10**9,
        )
        for hospital, one in sorted(line.tallies.items())
    ]
    tallies = line.tallies.values()
    busy = sum(one.busy for one in tallies)
    return ClockReport(
        virtual_seconds=line.now / 10**6,
        compute_joules=sum(one.compute for one in tallies) / 10**9,
        radio_joules=sum(one.radio for one in tallies) / 10**9,
        wasted_share=sum(one.wasted for one in tallies) / busy if busy else 0.0,
        delivered=sum(one.delivered for one in tallies),
        dropped=sum(one.dropped for one in tallies),
        late=sum(one.late for one in tallies),
        hospitals=tuple(rows) if len(rows) <= MOST_CLOCK_ROWS else (),
        target_seconds=None if there is None else there.seconds,
        target_joules=None if there is None else there.compute_joules + there.radio_joules,
    )


def _backdoor(config: RunConfig, classes: Sequence[str], honest: Sequence[Outcome]) -> Backdoor | None:
    if config.attack.method != "backdoor":
        return None
    counts = {
        model: [one.triggered[model] for one in honest if model in one.triggered] for model in ("global", "personal")
    }
    shares = {
        model: sum(h for h, _ in of) / n if (n := sum(n for _, n in of)) else None for model, of in counts.items()
    }
    beats = sum(n for _, n in counts["global"])
    target = classes[target_of(config.attack, classes)]
    return Backdoor(target=target, beats=beats, global_=shares["global"], personal=shares["personal"])


def privacy_terms(config: RunConfig) -> dict[str, Any] | None:
    """What every record of the privacy mechanism says; None where no account is kept."""
    return _mechanism(config).record() if config.privacy.noised else None


def _mechanism(config: RunConfig) -> Mechanism:
    budget = noised_samples(config.federation, config.personalisation, config.privacy.steps)
    return mechanism_of(config.privacy, budget, config.model.features)


def privacy_report(
    config: RunConfig, cohort: Cohort, spent: Mapping[int, Mapping[str, Any] | None]
) -> PrivacyReport | None:
    """What was spent, by what each hospital says of it; None where no account is kept.

    Args:
        spent: hospital -> what its mechanism says of the whole run; None where it could not be asked.
    """
    if not config.privacy.noised:
        return None
    counts = {hospital: None if said is None else tuple(said["spent"]) for hospital, said in spent.items()}
    patients = np.array([record["patient"] for record in cohort.beats.records])
    most = 0
    for hospital in cohort.hospitals:
        of = patients[np.asarray(cohort.beats.record[hospital.train])]
        most = max(most, int(np.unique(of, return_counts=True)[1].max(initial=0)))
    besides = []
    if config.ledger.reputation == "peers" or config.committee.method != "none":
        besides.append("scores that hospitals give each other on their validation beats")
    if config.privacy.membership:
        besides.append("how far the final models tell a hospital's train beats from its test beats")
    if cohort.report["patients_shared"]:
        besides.append("patients whose beats lie in several hospitals: each hospital's epsilon counts alone")
    return PrivacyReport.model_validate(told(_mechanism(config), counts, most, besides))


def _both(tables: dict[str, dict[int, np.ndarray]], classes: Sequence[str], scored: Sequence[str]) -> BothScores:
    alone = federation_scores(tables["global"], classes, scored=scored)
    adapted = federation_scores(tables["personal"], classes, tables["global"], scored=scored)
    return BothScores(global_=Scores.model_validate(alone), personal=PersonalScores.model_validate(adapted))


def write_outputs(folder: Path, result: Result, table: "pa.Table", network: AnyNetwork, params: np.ndarray) -> None:
    """Writes predictions, model and result; the result last, as it says that the others are there."""
    import pyarrow.parquet as pq

    with whole(folder / PREDICTIONS) as part:
        pq.write_table(table, part)
    _write_model(folder / MODEL, network, params)
    result.write(folder)


def predictions_digest(table: "pa.Table") -> str:
    """SHA-256, hex, of the canonical JSON of all columns of the predictions, by name."""
    return json_hash(table.to_pydict()).hex()


def predictions(cohort: Cohort, outcomes: Sequence[Outcome]) -> "pa.Table":
    """A row for each test beat and model; of a patient's sex and age only the group (`people.examine.groups_of`)."""
    import pyarrow as pa

    # not left to be guessed: an unseen hospital may have no test beats, and nothing has no type
    schema = pa.schema(
        [
            ("hospital", pa.int32()),
            ("record", pa.string()),
            ("patient", pa.string()),
            ("sample", pa.int64()),
            ("model", pa.string()),
            ("true", pa.string()),
            ("predicted", pa.string()),
            ("confidence", pa.int32()),
            ("sex", pa.string()),
            ("age", pa.string()),
        ]
    )
    beats = cohort.beats
    classes = np.array(beats.classes)
    names, patients = (np.array([r[key] for r in beats.records]) for key in ("name", "patient"))
    groups, tables = groups_of(beats.records), []
    for outcome in outcomes:
        record = np.asarray(beats.record[outcome.rows])
        for model, predicted in outcome.predicted.items():
            columns = [
                _numbers(np.full(len(record), outcome.hospital, np.int32)),
                _texts(names[record].tolist()),
                _texts(patients[record].tolist()),
                _numbers(np.asarray(beats.sample[outcome.rows], np.int64)),
                _texts([model] * len(record)),
                _texts(classes[outcome.true].tolist()),
                _texts(classes[predicted].tolist()),
                _numbers(np.asarray(outcome.confidence[model], np.int32)),
                _texts([groups[name][0] for name in patients[record].tolist()]),
                _texts([groups[name][1] for name in patients[record].tolist()]),
            ]
            tables.append(pa.Table.from_arrays(columns, schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()


# Columns are made of their bytes: to look at values, pyarrow imports pandas, which takes a third of a second.


def _numbers(values: np.ndarray) -> "pa.Array":
    import pyarrow as pa

    kind = {"i4": pa.int32(), "i8": pa.int64()}[values.dtype.str[1:]]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _texts(values: Sequence[str]) -> "pa.Array":
    import pyarrow as pa

    parts = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(parts), pa.py_buffer(ends), pa.py_buffer(b"".join(parts)))


def _write_model(path: Path, network: AnyNetwork, params: np.ndarray) -> None:
    from safetensors.numpy import save_file

    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in unflatten(params, network.layout).items()}
    with whole(path) as part:
        save_file(tensors, part)


def draw_picture(folder: Path, result: Result, note: Callable[[str], None] = lambda text: None) -> None:
    """Draws the confusion matrices of a finished run, if they are not there; a picture is nothing to fail of."""
    path = folder / PICTURE
    if path.exists():
        return
    try:
        write_text(path, confusion_svg(result))
    except DataError as error:
        note(str(error))


def rounds_done(config: RunConfig, folder: Path) -> Sequence[RoundSummary]:
    """The rounds of a run, finished or not, that are in its folder.

    Raises:
        DataError: the result or the checkpoint is damaged, or of another configuration.
    """
    hashed = config_hash(config)
    if (folder / RESULT).exists():
        return Result.read(folder, hashed).rounds
    loaded = checkpoint.load(folder, hashed)
    return loaded[0].history if loaded else ()
