"""What a run leaves in its folder: result, predictions, model, picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine import checkpoint
from engine.config import RunConfig, config_hash
from engine.data.cohort import Cohort
from engine.errors import DataError
from engine.files import whole, write_text
from engine.messages import LoopState, Outcome
from engine.metrics import confusion, federation_scores
from engine.model import Network, unflatten, vector_hash
from engine.tracking.tracking import draw_confusion

RESULT = "result.json"


def assemble(
    config: RunConfig,
    hashed: str,
    cohort: Cohort,
    network: Network,
    state: LoopState,
    outcomes: Sequence[Outcome],
    ledger: dict[str, Any],
) -> dict[str, Any]:
    """The content of `result.json`, but for what is only known later."""
    classes = cohort.beats.classes
    test = {
        model: {o.hospital: confusion(o.true, o.predicted[model], len(classes)) for o in outcomes}
        for model in ("global", "personal")
    }
    validation = {model: {o.hospital: o.validation[model] for o in outcomes} for model in ("global", "personal")}
    return {
        "name": config.name,
        "config_hash": hashed,
        "config": config.model_dump(mode="json"),
        "model_hash": vector_hash(state.params, network.layout).hex(),
        "parameters": network.size,
        "cohort": cohort.report,
        "final": {
            "global": federation_scores(test["global"], classes),
            "personal": federation_scores(test["personal"], classes, test["global"]),
        },
        "validation": {
            "global": federation_scores(validation["global"], classes),
            "personal": federation_scores(validation["personal"], classes, validation["global"]),
        },
        "rounds": list(state.history),
        "ledger": ledger,
        "timing": {
            "train_seconds": sum(row["train_seconds"] for row in state.history),
            "rounds_seconds": sum(row["seconds"] for row in state.history),
            "gradient_evaluations": sum(row["gradient_evaluations"] for row in state.history),
            "personalisation_gradient_evaluations": sum(o.gradient_evaluations for o in outcomes),
        },
    }


def write_outputs(
    folder: Path,
    result: dict[str, Any],
    cohort: Cohort,
    network: Network,
    params: np.ndarray,
    outcomes: Sequence[Outcome],
) -> None:
    """Writes everything; the result last, as it says that all else is there."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    beats = cohort.beats
    letters = np.array(list(beats.classes))
    names, patients = (np.array([r[key] for r in beats.records]) for key in ("name", "patient"))
    tables = []
    for outcome in outcomes:
        record = np.asarray(beats.record[outcome.rows])
        for model, predicted in outcome.predicted.items():
            columns = {
                "hospital": np.full(len(record), outcome.hospital, np.int32),
                "record": names[record],
                "patient": patients[record],
                "sample": np.asarray(beats.sample[outcome.rows]),
                "model": np.full(len(record), model),
                "true": letters[outcome.true],
                "predicted": letters[predicted],
            }
            tables.append(pa.table({k: v if v.dtype.kind == "i" else v.tolist() for k, v in columns.items()}))
    with whole(folder / "predictions.parquet") as part:
        pq.write_table(pa.concat_tables(tables), part)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in unflatten(params, network.layout).items()}
    with whole(folder / "model.safetensors") as part:
        save_file(tensors, part)
    with whole(folder / "confusion.png") as part:
        draw_confusion(result, part)
    # last: a result says that everything else is there
    write_text(folder / RESULT, json.dumps(result, indent=1, allow_nan=False))


def finished(folder: Path, hashed: str | None = None) -> dict[str, Any]:
    """The result of a finished run.

    Raises:
        DataError: there is none, it is damaged, or it belongs to another configuration.
    """
    path = folder / RESULT
    try:
        result = json.loads(path.read_text())
        belongs = result["config_hash"]
    except FileNotFoundError:
        raise DataError(f"{folder}: holds no finished run ({RESULT} is missing).") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is not readable ({error}).") from None
    if hashed is not None and belongs != hashed:
        raise DataError(
            f"{path}: belongs to another configuration ({belongs[:12]}, not {hashed[:12]}); use another folder."
        )
    return result


def rounds_done(config: RunConfig, folder: Path) -> Sequence[dict[str, Any]]:
    """The rounds of a run, finished or not, that are in its folder.

    Raises:
        DataError: the result or the checkpoint is damaged, or of another configuration.
    """
    hashed = config_hash(config)
    if (folder / RESULT).exists():
        return finished(folder, hashed)["rounds"]
    loaded = checkpoint.load(folder, hashed)
    return loaded[0].history if loaded else ()
