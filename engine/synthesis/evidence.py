"""The evidence on one batch: measured once, kept in the cache, shown on a page."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from engine.encoding import canonical_json
from engine.errors import DataError
from engine.files import own_cache, whole, write_text
from engine.oracles.base import Batch
from engine.synthesis import distances, quality
from engine.synthesis.files import batch_digest
from engine.synthesis.generators import Synthetic, joined
from engine.synthesis.picture import draw_quality
from engine.synthesis.quality import GRU, WORST, Anatomy, assess, evidence_numbers, of_class, report_json


class Evidence(NamedTuple):
    """What is known of a batch.

    Attributes:
        report: for people, JSON values.
        numbers: for the policy, the integers that it bounds.
    """

    report: dict[str, Any]
    numbers: dict[str, int]


# (train part, held-out part, made beats, anatomy, seed, page to draw) -> evidence
Measure = Callable[[Batch, Batch, Synthetic, Anatomy, int, Path], Evidence]


def nothing(reason: str) -> Evidence:
    """What is said of a batch that could not be made: the worst of everything, which no policy accepts."""
    return Evidence({"failed": reason}, {**WORST, "duplicates": 2**32 - 1, "repeated": 2**32 - 1})


def measured(train: Batch, held_out: Batch, made: Synthetic, anatomy: Anatomy, seed: int, page: Path) -> Evidence:
    """The evidence on a batch; draws its page as PNG.

    Both are kept in the cache folder by the digest of what they depend on, as the trials of a study often share batches
    and each takes several seconds.
    """
    described = {**asdict(anatomy), "generator": made.generator, "seed": seed, "gru": GRU}
    # another way to measure gives other numbers
    key = hashlib.sha256(canonical_json(described).encode())
    for module in (distances, quality):
        key.update(Path(str(module.__file__)).read_bytes())
    for batch in (train, held_out, made.batch()):
        key.update(batch_digest(batch))
    home = own_cache("evidence")
    kept, picture = (home / f"{key.hexdigest()}.{ending}" for ending in ("json", "png"))
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        with whole(page) as part:
            shutil.copyfile(picture, part)
        return Evidence(found["evidence"], found["numbers"])
    except (OSError, ValueError, KeyError, DataError):
        pass  # not measured before
    report = assess(train, held_out, made.batch(), anatomy, made.generator, seed)
    real = joined(*(of_class(part, made.label) for part in (train, held_out)))
    with whole(page) as part:
        draw_quality(report, real, made.batch(), anatomy, part)
    with whole(picture) as part:
        shutil.copyfile(page, part)
    evidence = Evidence(report_json(report), evidence_numbers(report))
    write_text(kept, json.dumps({"evidence": evidence.report, "numbers": evidence.numbers}, indent=1, allow_nan=False))
    return evidence
