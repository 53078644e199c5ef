"""Previews: beats that a reviewer sees before he decides, bound by their digests, which nobody trains on."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from governed import HUMAN, OPEN, After, Flow, beats_of
from reference import Interrupted

from engine.audit.previews import check
from engine.audit.run import audit
from engine.config import RunConfig
from engine.data.cohort import build_cohort
from engine.encoding import json_hash
from engine.errors import ConfigError, LedgerError, ReviewPending
from engine.oracles.base import Batch
from engine.result import SyntheticRow
from engine.settings import parse
from engine.synthesis.files import FOLDER, batch_digest, hospital_file, load_synthetic, picture_file, preview_file
from engine.synthesis.generators import Synthetic, generate
from engine.synthesis.picture import draw_alone
from engine.synthesis.quality import Anatomy
from engine.synthesis.reviews import read_state, write_review

WANTED = 12


@pytest.fixture(scope="module")
def flow(tiny_config: Callable[..., RunConfig]) -> Flow:
    config = tiny_config(**{**HUMAN, **OPEN, "balance.classes": "V", "balance.policy.preview": WANTED})
    return Flow(config, build_cohort(config.data, config.cohort))


@pytest.fixture(scope="module")
def parked(flow: Flow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("previewed")
    with pytest.raises(ReviewPending):
        flow(folder)
    return folder


@pytest.fixture
def folder(parked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(parked, tmp_path / "run"))


def rows(folder: Path) -> tuple[SyntheticRow, ...]:
    return read_state(folder).requests


def test_what_waits_was_previewed_and_everything_of_it_is_bound_by_hash(folder: Path) -> None:
    waits = read_state(folder).pending()
    assert waits
    for row in waits:
        assert (row.status, row.blind, row.granted) == ("previewed", False, 0)
        assert row.preview is not None
        page = preview_file(folder / FOLDER, row.request)
        assert row.preview.file == f"{FOLDER}/{page.name}"
        assert batch_digest(load_synthetic(page.with_suffix(".npz"))).hex() == row.preview.batch
        report = json.loads(page.read_text())
        assert row.preview.generated + report["withheld"] == WANTED
        assert json_hash(report).hex() == row.preview.evidence
        pictures = [picture_file(page, real) for real in (False, True)]
        assert report["pictures"] == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in pictures}


def test_the_granted_beats_are_others_than_those_that_were_seen(flow: Flow, folder: Path) -> None:
    waits = read_state(folder).pending()
    for row in waits:
        write_review(folder, row, True, min(row.allowed, WANTED), "seen")
    ended = [row for row in flow(folder).rows if row.status == "accepted"]
    assert len(ended) == len(waits)
    for row in ended:
        assert row.preview is not None
        seen = {x.tobytes() for x in load_synthetic(preview_file(folder / FOLDER, row.request).with_suffix(".npz")).x}
        trained = load_synthetic(hospital_file(folder / FOLDER, row.hospital)).x
        assert len(trained) == row.accepted == min(row.wanted, WANTED, row.granted)  # nothing of it counted
        assert not seen & {x.tobytes() for x in trained}
    fields = {f.field for f in audit(folder, [check]).findings if f.record == "synthetic"}
    assert not fields & {"preview", "batch", "evidence", "pictures"}


def test_nobody_grants_before_he_was_shown_something(folder: Path) -> None:
    row = read_state(folder).pending()[0]
    blind = row.model_copy(update={"blind": True})
    with pytest.raises(LedgerError, match="the policy wants a preview before a grant"):
        write_review(folder, blind, True, 1, "blindly")
    write_review(folder, blind, False, 0, "a denial needs none")


def test_a_generator_that_fails_leaves_a_preview_that_nobody_can_grant_on(flow: Flow, tmp_path: Path) -> None:
    def failing(*words: Any, **keys: Any) -> Synthetic:
        from engine.errors import SynthesisError

        raise SynthesisError("no luck")

    with pytest.raises(ReviewPending):
        flow(tmp_path, flow.hospitals(tmp_path, generate=failing))
    for row in read_state(tmp_path).pending():
        assert row.preview is not None
        assert (row.preview.generated, row.blind) == (0, True)
        report = json.loads((tmp_path / row.preview.file).read_text())
        assert report["quality"] == {"failed": "no luck"}
        assert report["pictures"] == {}
        with pytest.raises(LedgerError, match="the policy wants a preview"):
            write_review(tmp_path, row, True, 1, "x")


def test_a_generator_that_makes_the_preview_again_gets_nothing_accepted(flow: Flow, tmp_path: Path) -> None:
    """One that does not look at its seed: what was seen would be what is trained on."""

    def same(method: str, real: Batch, label: int, wanted: int, settings: Any, seed: int, request: str) -> Synthetic:
        made = generate(method, real, label, WANTED, settings, 7, request)
        return replace(made, x=made.x[:wanted], rr=made.rr[:wanted], parents=made.parents[:wanted])

    with pytest.raises(ReviewPending):
        flow(tmp_path, flow.hospitals(tmp_path, generate=same))
    for row in read_state(tmp_path).pending():
        write_review(tmp_path, row, True, 3, "seen")
    ended = flow(tmp_path, flow.hospitals(tmp_path, generate=same)).rows
    assert {row.status for row in ended} <= {"rejected", "denied"}
    assert any("the generator made beats of the preview again" in row.reasons for row in ended)
    assert {name for name in beats_of(tmp_path) if name.startswith("hospital")} == set()


def repeating(share: float, noise: float) -> Callable[..., Synthetic]:
    """A generator that hands out real beats, moved by a constant of `noise`, as that share of what it makes."""

    def made(method: str, real: Batch, label: int, wanted: int, settings: Any, seed: int, request: str) -> Synthetic:
        new = generate("smote", real, label, wanted, settings, seed, request)
        x, rows = np.array(new.x), np.flatnonzero(real.y == label)
        count = round(share * wanted)
        x[:count] = real.x[rows[np.arange(count) % len(rows)]] + np.float32(noise)
        return replace(new, x=x)

    return made


@pytest.mark.parametrize("noise", [0.0, 1e-4])
def test_a_real_beat_never_leaves_as_a_preview(flow: Flow, tmp_path: Path, noise: float) -> None:
    beats = flow.cohort.beats
    with pytest.raises(ReviewPending):
        flow(tmp_path, flow.hospitals(tmp_path, generate=repeating(0.5, noise)))
    waits = read_state(tmp_path).pending()
    assert waits
    for row in waits:
        assert row.preview is not None
        shown = load_synthetic(preview_file(tmp_path / FOLDER, row.request).with_suffix(".npz")).x
        report = json.loads((tmp_path / row.preview.file).read_text())
        assert report["withheld"] >= WANTED // 2
        assert len(shown) == row.preview.generated == WANTED - report["withheld"]
        apart = np.abs(shown[:, None] - beats.x[None]).max((2, 3)).min()
        assert apart > 1e-3


def test_a_preview_of_nothing_but_real_beats_is_none(flow: Flow, tmp_path: Path) -> None:
    with pytest.raises(ReviewPending):
        flow(tmp_path, flow.hospitals(tmp_path, generate=repeating(1.0, 0.0)))
    for row in read_state(tmp_path).pending():
        assert row.preview is not None
        assert (row.preview.generated, row.blind) == (0, True)
        assert "are real beats but for noise" in (tmp_path / row.preview.file).read_text()
        assert [path.suffix for path in (tmp_path / FOLDER).glob(f"preview-{row.request[:16]}*")] == [".json"]


def test_oversampling_is_not_reviewed_by_previews() -> None:
    policy: dict[str, Any] = {"mode": "human"}
    with pytest.raises(ConfigError, match="oversample repeats real beats"):
        parse(RunConfig, {"balance": {"method": "oversample", "policy": policy}}, "run.yaml")
    for method, more in (("oversample", {"preview": 0}), ("smote", {}), ("none", {})):
        config = parse(RunConfig, {"balance": {"method": method, "policy": policy | more}}, "run.yaml")
        assert config.balance.policy.mode == "human"


@pytest.mark.parametrize(("moment", "after"), [("make", 1), ("take", 4)])
def test_an_interrupted_preview_is_made_again_to_the_bit(
    flow: Flow, parked: Path, tmp_path: Path, moment: str, after: int
) -> None:
    with pytest.raises(Interrupted):
        flow(tmp_path, moments={moment: After(after)})
    with pytest.raises(ReviewPending):
        flow(tmp_path)
    assert [row.document() for row in rows(tmp_path)] == [row.document() for row in rows(parked)]


def test_a_picture_for_others_has_synthetic_beats_alone(tmp_path: Path) -> None:
    """Drawn from the batch: nothing of real beats, nor how many there are, can be in it."""
    made = Batch(np.zeros((3, 2, 20), np.float32), np.zeros((3, 2), np.float32), np.zeros(3, np.int8))
    draw_alone(made, Anatomy(("N", "V"), 10, 100.0, ()), tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"
