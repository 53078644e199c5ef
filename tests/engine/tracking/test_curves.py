"""What MLflow shows of a result: names, numbers, tags."""

import json

from results import whole

from engine.config import RunConfig
from engine.result import CohortReport, LedgerSummary, Result, RoundSummary, SyntheticRow
from engine.tracking.curves import (
    HOSPITALS_SHOWN,
    data_profile,
    final_metrics,
    ledger_tags,
    params_of,
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
        "clock/seconds": 1.5,
        "clock/joules": 3.0,
        "clock/absent": 1,
    }
    without = round_metrics(summary.model_copy(update={"virtual": None}))
    assert not any(name.startswith("clock/") for name in without)  # a run without a virtual clock has no time on it


def test_final_scores_are_those_of_the_personal_models():
    personal = RESULT.final.personal.model_copy(update={"macro_f1": 0.75, "recall": {"N": 0.5, "S": None}})
    metrics = final_metrics(RESULT.model_copy(update={"final": RESULT.final.model_copy(update={"personal": personal})}))
    assert (metrics["final/personal/macro_f1"], metrics["final/global/macro_f1"]) == (0.75, 1.5)
    assert (metrics["final/personal/recall/N"], metrics["final/personal/recall/S"]) == (0.5, None)
    assert metrics["final/personal/hurt_share"] == 1.5
    assert metrics["hospital/01/macro_f1"] == 1.5
    assert metrics["ledger/gas_per_round"] == 1.5
    assert metrics["synthesis/requested"] == 1
    assert [metrics[f"privacy/{name}"] for name in ("epsilon", "delta", "alone", "pld", "rdp")] == [1.5] * 5
    without = final_metrics(RESULT.model_copy(update={"privacy": None}))
    assert not any(name.startswith("privacy/") for name in without)  # a run that keeps no account has no epsilon


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
    assert {metrics[name] for name in metrics if name.startswith("ledger/")} == {None}
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


def test_a_run_s_parameters_are_those_that_are_not_the_defaults():
    config = RunConfig.model_validate(
        {
            "name": "mine",
            "federation": {"rounds": 3, "learning_rate": 0.2},
            "balance": {"policy": {"quota": 7}},
            "data": {"symbols": {"?": None}},
        }
    )
    assert params_of(config) == {
        "seed": 0,
        "cohort.hospitals": RunConfig().cohort.hospitals,
        "federation.algorithm": "fedavg",
        "federation.rounds": 3,
        "federation.learning_rate": 0.2,
        "balance.policy.quota": 7,
        "data.symbols": {"?": None},  # one value: a symbol is no name of a parameter
    }
    assert set(params_of(RunConfig())) == {"seed", "cohort.hospitals", "federation.algorithm"}


def test_a_trial_s_parameters_are_those_that_vary():
    assert params_of(RunConfig(), ("federation.learning_rate", "federation.mu")) == {
        "federation.learning_rate": RunConfig().federation.learning_rate,
        "federation.mu": RunConfig().federation.mu,
    }
    section = params_of(RunConfig(), ("federation.perfedavg",))
    assert section["federation.perfedavg.alpha"] == RunConfig().federation.perfedavg.alpha
    assert all(name.startswith("federation.perfedavg.") for name in section)
    assert params_of(RunConfig(), ()) == {}


def test_local_only_has_no_global_model_to_show():
    alone = RESULT.model_copy(update={"config": RunConfig.model_validate({"federation": {"algorithm": "local"}})})
    metrics = final_metrics(alone)
    assert not [name for name in metrics if "global" in name or "hurt" in name]
    assert metrics["final/personal/macro_f1"] == 1.5
    assert not [name for name in round_metrics(ROW, trains_global=False) if name.startswith("val/")]
    assert set(round_metrics(ROW)) > set(round_metrics(ROW, trains_global=False)) > {"train/loss"}


def test_of_the_data_only_numbers_are_told():
    cohort = CohortReport.model_validate(whole(CohortReport))
    assert json.loads(data_profile(cohort)) == {"num_rows": 1, "classes": {"N": 1}}


def test_the_note_names_the_command_the_file_and_the_code():
    note = run_note("pulseledger run config.yaml", "config.yaml", " And more.")
    assert "download `config.yaml`" in note
    assert "\n\n    pulseledger run config.yaml\n\n" in note
    assert note.endswith(". And more.")
    assert source_tags()["mlflow.source.name"] == "pulseledger"
