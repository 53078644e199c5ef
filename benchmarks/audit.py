"""How long the audit of a run takes, and how much memory: a journal is made first, then audited in a process of its own.

    python benchmarks/audit.py                                  # 1,000 rounds of 10 hospitals, 21,700 parameters
    python benchmarks/audit.py --parameters 11                  # the same with small vectors
    python benchmarks/audit.py --rounds 100 --json

Every round is signed, sealed on the embedded chain and archived as in a run; only the training is left out. Making the
journal takes longer than auditing it, and with the real parameters 0.9 MB of disk a round, twice.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.aggregation.build import build_rule
from engine.aggregation.config import AggregationConfig
from engine.config import RunConfig, config_hash
from engine.data.cohort import not_testable
from engine.encoding import canonical_json, json_hash
from engine.ledger import archive
from engine.ledger.bundle import write_bundle
from engine.ledger.config import LedgerConfig
from engine.ledger.format import BUNDLE, MEAN
from engine.ledger.run import RunLedger
from engine.ledger.signing import address, hospital_key, salt, sign
from engine.ledger.subjects.closing import HospitalResult, SignedResult, bound, text_digest
from engine.ledger.subjects.registry import Federation
from engine.ledger.subjects.rounds import RoundEntry
from engine.ledger.subjects.updates import ModelUpdate, Opening, SignedUpdate, commitments
from engine.messages import LoopState, Taken, Update
from engine.metrics import federation_scores, scores
from engine.model import initial_parameters, vector_hash
from engine.provenance import code_digest
from engine.result import VERSION
from engine.settings import dump_yaml

RULE = build_rule(AggregationConfig(), "samples")
SEED, DATA = 5, "dd" * 32
CLASSES = "NSVFQ"
TABLE = np.diag([90, 5, 3, 1, 1])  # every confusion matrix of every hospital


class Shapes(NamedTuple):
    """What of a network decides what a model begins with."""

    layout: tuple[tuple[str, tuple[int, ...]], ...]


AUDIT = """
import json, resource, sys, time
from pathlib import Path
from engine.audit.run import audit
started, used = time.perf_counter(), time.process_time()
report = audit(Path(sys.argv[1]))
seconds, cpu = time.perf_counter() - started, time.process_time() - used
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "memory_mb": memory, "clean": report.clean, "counts": report.counts}))
"""


def parts(slot: int) -> dict[str, list[int]]:
    """A hospital's beats of each class: part -> int[classes]."""
    size = TABLE.sum(1).tolist()
    return {"train": [96 + slot, 1, 1, 1, 1], "validation": size, "test": size}


def statement(rounds: int, slot: int) -> dict[str, Any]:
    """What a hospital states at the end; it scored the model of every round."""
    table = TABLE.tolist()
    both = {"global": table, "personal": table}
    return {
        "data": DATA,
        "classes": list(CLASSES),
        "counts": parts(slot),
        "validation": both,
        "test": both,
        "predictions": DATA,
        "gradients": {"rounds": 100 * rounds, "personalisation": 10},
        "curve": [[number, table] for number in range(1, rounds + 1)],
    }


def document(config: RunConfig, rounds: int, hospitals: int, model: bytes, parameters: int) -> dict[str, Any]:
    """What the run reports."""
    tables = dict.fromkeys(range(hospitals), TABLE)
    guess = np.zeros_like(TABLE)
    guess[:, 0] = TABLE.sum(1)
    lines = scores(guess, CLASSES, CLASSES)
    trivial = {f"local_majority_{name}": lines[name] for name in ("accuracy", "macro_f1")}
    both = {
        "global": federation_scores(tables, CLASSES, scored=CLASSES),
        "personal": federation_scores(tables, CLASSES, tables, scored=CLASSES),
    }
    counts = [parts(slot) for slot in range(hospitals)]
    beats = np.array([list(one.values()) for one in counts]).sum(1)  # int[hospitals, classes]
    size, least = TABLE.sum(1), config.cohort.min_support
    sizes = [
        {name: sum(part) for name, part in one.items()}
        | {"classes": dict(zip(CLASSES, row, strict=True)), "not_testable": not_testable(CLASSES, size, least)}
        for one, row in zip(counts, beats.tolist(), strict=True)
    ]
    row = {
        "participants": hospitals,
        "lost": [],
        "train_loss": 0.5,
        "gradient_evaluations": 100 * hospitals,
        "validation": both["global"],
    }
    return {
        "version": VERSION,
        "name": config.name,
        "config": config.model_dump(mode="json"),
        "config_hash": config_hash(config),
        "model_hash": model.hex(),
        "parameters": parameters,
        "cohort": {
            "digest": DATA,
            "beats": int(beats.sum()),
            "classes": dict(zip(CLASSES, beats.sum(0).tolist(), strict=True)),
            "scored": list(CLASSES),
            "not_testable": not_testable(CLASSES, hospitals * size, least),
            "hospitals": [{"id": slot, **one, **trivial} for slot, one in enumerate(sizes)],
            "global_majority_accuracy": lines["accuracy"],
            **trivial,
        },
        "validation": both,
        "final": both,
        "rounds": [{"round": number, **row} for number in range(1, rounds + 1)],
        "timing": {
            "gradient_evaluations": 100 * rounds * hospitals + 10 * hospitals,
            "personalisation_gradient_evaluations": 10 * hospitals,
        },
        "lost": [],
    }


def make(folder: Path, rounds: int, hospitals: int, parameters: int) -> Path:
    """Write the bundle of a finished run of `rounds` rounds; returns its path."""
    settings = RunConfig.model_validate({"name": "benchmark", "federation": {"rounds": rounds}})
    text, hashed = dump_yaml(settings), config_hash(settings)
    identity = json_hash({"config": hashed, "data": DATA, "name": settings.name, "label": ""})
    configured = bytes.fromhex(hashed)
    home = folder / "ledger"
    home.mkdir()
    layout = (("weight", (parameters,)),)
    draw = np.random.default_rng(1)
    params = initial_parameters(Shapes(layout), settings.seed)  # type: ignore[arg-type]
    drawn = draw.standard_normal((hospitals, parameters)).astype(np.float32)
    keys = [hospital_key(SEED, identity, slot) for slot in range(hospitals)]
    federation = Federation(identity, configured, tuple(map(address, keys)), vector_hash(params, layout), layout)
    rule = {"name": MEAN, "weighting": "samples", "server": {"method": "none"}}
    archive.write_genesis(home, params)
    with RunLedger(home, federation, rule, LedgerConfig()) as ledger:
        model = federation.genesis_model
        for number in range(1, rounds + 1):
            vectors = {slot: np.roll(drawn[slot], number) for slot in range(hospitals)}
            archive.write_round(home, number, vectors)
            signed, openings = [], []
            for slot, vector in vectors.items():
                salts = [salt(keys[slot], identity, number, purpose) for purpose in (1, 2)]
                opening = Opening(100 + slot, salts[0], {"loss": 0.5, "gradient_evaluations": 100}, salts[1])
                update = ModelUpdate(
                    federation=identity,
                    round=number,
                    slot=slot,
                    parent_model=model,
                    parent_head=ledger.head,
                    update=vector_hash(vector, layout),
                    config_hash=configured,
                    nonce=number,
                    **commitments(opening),
                )
                signed.append(SignedUpdate(update, sign(update, ledger.domain, keys[slot])))
                openings.append(opening)
            sent = tuple(Update(slot, vector, 100 + slot, 0.5, 100) for slot, vector in vectors.items())
            summed, _ = RULE.partial(sent, len(params))
            params, _ = RULE.merge(LoopState(number, params), Taken(sent, (), summed), {})
            parent, model = model, vector_hash(params, layout)
            ledger.append(RoundEntry(number, parent, model, tuple(signed), tuple(openings)))
        signed_results = {}
        for slot in range(hospitals):
            content = canonical_json(statement(rounds, slot))
            record = HospitalResult(identity, rounds, slot, ledger.head, text_digest(content))
            signed_results[slot] = SignedResult(record, sign(record, ledger.domain, keys[slot]), content)
        result = document(settings, rounds, hospitals, model, parameters)
        digests = {"result": json_hash(bound(result)), "config": text_digest(text), "data": bytes.fromhex(DATA)}
        ledger.closing.close(signed_results, "complete", {}, {**digests, "code": code_digest()})
        ledger.rounds.finalize()
    write_bundle(home, result, text)
    return home / BUNDLE


def measure(path: Path) -> dict[str, Any]:
    """Audit a bundle in a new process: seconds, seconds of CPU time, peak memory in MB, whether it is clean, and what was checked."""
    done = subprocess.run([sys.executable, "-c", AUDIT, str(path)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Make, audit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--hospitals", type=int, default=10)
    parser.add_argument("--parameters", type=int, default=21_700)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder), options.rounds, options.hospitals, options.parameters)
        size = path.stat().st_size / 1e6
        found = measure(path)
    if options.json:
        print(json.dumps({**vars(options), "bundle_mb": size, **found}))
        return
    print(
        f"{options.rounds:,} rounds of {options.hospitals} hospitals with {options.parameters:,} parameters "
        f"({size:,.0f} MB): {found['seconds']:.1f} s "
        f"({found['cpu_seconds']:.1f} s of CPU time), {found['memory_mb']:,.0f} MB of memory, "
        f"{'clean' if found['clean'] else 'NOT CLEAN'}"
    )


if __name__ == "__main__":
    main()
