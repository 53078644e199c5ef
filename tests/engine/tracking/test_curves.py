"""What MLflow shows of a result: names, numbers, tags."""

import json

from results import whole

from engine.config import RunConfig
from engine.result import CohortReport, LedgerSummary, Result, RoundSummary, SyntheticRow
from engine.settings import dotted_keys
from engine.tracking.curves import (
    HOSPITALS_SHOWN,
    data_profile,
    final_metrics,
    flat_params,
    ledger_tags,
    round_metrics,
    run_note,
    source_tags,
    synthesis_metrics,
)

RESULT = Result.model_validate({**whole(Result), "config": RunConfig()})
ROW = RESULT.rounds[0]


def test_a_round_is_one_point_of_each_curve():
    summary = RoundSummary.model_validate({**ROW.document(), "lost": ["a", "b"], "hash_seconds": 0.25})
    assert round_metrics(summary) == {
        "train/loss": 1.5,
        "val/accuracy": 1.5,
        "val/macro_f1": 1.5,
        "val/balanced_accuracy": 1.5,
        "val/recall/N": 1.5,
        "val/recall_min": 1.5,
        "val/worst_hospital_macro_f1": 1.5,
        "fl/participants": 1,
        "fl/lost": 2,
        "fl/gradient_evaluations": 1,
        "ledger/hash_sign_seconds": 1.75,
        "perf/round_s": 1.5,
        "perf/train_s": 1.5,
    }


def test_final_scores_are_those_of_the_personal_models():
    personal = RESULT.final.personal.model_copy(update={"macro_f1": 0.75, "recall": {"N": 0.5, "S": None}})
    metrics = final_metrics(RESULT.model_copy(update={"final": RESULT.final.model_copy(update={"personal": personal})}))
    assert (metrics["final/macro_f1"], metrics["final_global/macro_f1"]) == (0.75, 1.5)
    assert (metrics["final/recall/N"], metrics["final/recall/S"]) == (0.5, None)
    assert metrics["final/hurt_share"] == 1.5
    assert metrics["hospital/01/macro_f1"] == 1.5
    assert metrics["final/ledger_gas_per_round"] == 1.5
    assert metrics["synthesis/requested"] == 1


def test_many_hospitals_are_left_to_the_files():
    row = RESULT.final.personal.per_hospital[0]
    for number, shown in ((HOSPITALS_SHOWN, HOSPITALS_SHOWN), (HOSPITALS_SHOWN + 1, 0)):
        rows = tuple(row.model_copy(update={"id": h}) for h in range(number))
        personal = RESULT.final.personal.model_copy(update={"per_hospital": rows})
        both = RESULT.final.model_copy(update={"personal": personal})
        metrics = final_metrics(RESULT.model_copy(update={"final": both}))
        assert len({name.split("/")[1] for name in metrics if name.startswith("hospital/")}) == shown


def test_without_a_ledger_and_without_a_generator_there_is_nothing_to_say_of_them():
    plain = RESULT.model_copy(update={"ledger": LedgerSummary(backend="none"), "synthesis": None})
    metrics = final_metrics(plain)
    assert {metrics[name] for name in metrics if name.startswith("final/ledger")} == {None}
    assert not [name for name in metrics if name.startswith("synthesis/")]
    assert ledger_tags(plain) == {"model_hash": "text", "ledger.backend": "none", "degraded": "true"}


def test_requests_are_counted_by_what_became_of_them():
    row = SyntheticRow.model_validate(whole(SyntheticRow))
    rows = [
        row.model_copy(update={"wanted": 10, "granted": 8, "accepted": 8, "status": "accepted"}),
        row.model_copy(update={"wanted": 5, "granted": 5, "accepted": 0, "status": "rejected"}),
        row.model_copy(update={"wanted": 3, "granted": 0, "accepted": 0, "status": "denied"}),
    ]
    assert synthesis_metrics(rows) == {
        "synthesis/requested": 18,
        "synthesis/granted": 13,
        "synthesis/accepted": 8,
        "synthesis/denied": 1,
        "synthesis/rejected": 1,
    }


def test_a_run_that_lost_hospitals_is_tagged():
    whole_rounds = tuple(row.model_copy(update={"lost": ()}) for row in RESULT.rounds)
    sound = RESULT.model_copy(update={"lost": (), "rounds": whole_rounds})
    assert ledger_tags(sound) == {
        "model_hash": "text",
        "ledger.backend": "text",
        "ledger.head": "text",
        "ledger.contract": "text",
        "ledger.chain_id": "1",
        "ledger.closing": "text",
    }
    assert ledger_tags(sound.model_copy(update={"rounds": RESULT.rounds}))["degraded"] == "true"
    assert ledger_tags(sound.model_copy(update={"lost": ("hospital 1",)}))["degraded"] == "true"


def test_parameters_have_dotted_names_and_a_mapping_is_one_of_them():
    """A symbol such as ? is no name of a parameter, and there may be thousands of patients."""
    params = flat_params(RunConfig(data={"symbols": {"?": None, "/": "N"}}))  # type: ignore[arg-type]
    assert params["data.symbols"] == {"?": None, "/": "N"}
    assert params["federation.learning_rate"] == RunConfig().federation.learning_rate
    assert params["balance.policy.min_real"]["smote"] == 6
    assert params["data.window"] == [180, 180]
    assert set(params) == set(dotted_keys(RunConfig)) - {"out"}


def test_of_the_data_only_numbers_are_told():
    cohort = CohortReport.model_validate(whole(CohortReport))
    assert json.loads(data_profile(cohort)) == {"num_rows": 1, "classes": {"N": 1}}


def test_the_note_names_the_command_the_file_and_the_code():
    note = run_note("pulseledger run config.yaml", "config.yaml", " And more.")
    assert "download `config.yaml`" in note
    assert "\n\n    pulseledger run config.yaml\n\n" in note
    assert note.endswith(". And more.")
    assert source_tags()["mlflow.source.name"] == "pulseledger"
