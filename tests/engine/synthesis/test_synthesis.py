"""Generators of synthetic beats, balancing of the train data, and both in a run."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from reference import ROOT

from engine.config import RunConfig
from engine.data.samples import Samples
from engine.errors import ConfigError, DataError, SynthesisError
from engine.experiment import run
from engine.oracles.base import Batch
from engine.synthesis.balance import balanced, class_weights, logit_offsets, wanted_beats
from engine.synthesis.config import BalanceConfig, TimeGanConfig
from engine.synthesis.files import load_synthetic, save_synthetic
from engine.synthesis.generators import (
    Space,
    Synthetic,
    between,
    generate,
    joined,
    minimum_real,
)
from engine.synthesis.timegan import from_sequences, interpreter, to_sequences

INTERPOLATING = ("smote", "borderline", "adasyn")
N, S, V = 0, 1, 2


def beats(
    counts: dict[int, int], seed: int = 0, window: int = 30, apart: float = 1.0, early: float = 3.0, leads: int = 1
) -> Batch:
    """Clouds of beats, class c around c * apart in every sample and -c * early in the RR features."""
    draw = np.random.default_rng(seed)
    y = np.repeat(list(counts), list(counts.values())).astype(np.int8)
    x = draw.normal(apart * y[:, None, None], 1.0, (len(y), leads, window))
    rr = draw.normal(-early * y[:, None], 0.5, (len(y), 2))
    return Batch(x.astype(np.float32), rr.astype(np.float32), y)


TRAIN = beats({N: 60, S: 12, V: 20}, apart=0.3, early=0.5)


# --- Generators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", INTERPOLATING)
def test_one_real_beat_is_a_reason_to_deny(method: str):
    """One heartbeat plus noise is what the original study made of it."""
    train = beats({N: 60, S: 1})
    with pytest.raises(SynthesisError) as refused:
        generate(method, train, S, 91)
    assert str(refused.value) == f"{method} needs at least 6 real beats of the class, there are 1."
    settings = BalanceConfig(neighbours=2)
    assert [minimum_real(m, settings) for m in ("oversample", *INTERPOLATING, "timegan")] == [1, 3, 3, 3, 32]
    with pytest.raises(SynthesisError, match="at least 3 real beats of the class, there are 2"):
        generate(method, beats({N: 60, S: 2}), S, 10, settings)
    if method == "smote":
        assert len(generate(method, beats({N: 60, S: 3}), S, 4, settings)) == 4


@pytest.mark.parametrize("method", ["oversample", *INTERPOLATING])
def test_the_same_seed_gives_the_same_beats(method: str, tmp_path: Path):
    first, again, other = (generate(method, TRAIN, S, 30, seed=seed, request="r") for seed in (1, 1, 2))
    assert first.x.tobytes() == again.x.tobytes()
    assert first.rr.tobytes() == again.rr.tobytes()
    assert first.provenance() == again.provenance()
    assert first.x.tobytes() != other.x.tobytes()
    assert (first.x.dtype, first.rr.dtype, first.x.shape[2], first.rr.shape[1]) == (np.float32, np.float32, 30, 2)
    # in another process, whatever was drawn before
    code = (
        "import sys, hashlib, numpy as np\n"
        "from engine.oracles.base import Batch\nfrom engine.synthesis.generators import generate\n"
        "np.random.seed(5); np.random.rand()\n"
        "with np.load(sys.argv[2]) as arrays: train = Batch(arrays['x'], arrays['rr'], arrays['y'])\n"
        "made = generate(sys.argv[1], train, int(sys.argv[3]), 30, seed=1, request='r')\n"
        "print(hashlib.sha256(made.x.tobytes() + made.rr.tobytes()).hexdigest())"
    )
    if method == "smote":
        save_synthetic(tmp_path / "train.npz", TRAIN)
        command = [sys.executable, "-c", code, method, str(tmp_path / "train.npz"), str(S)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        assert printed.strip() == hashlib.sha256(first.x.tobytes() + first.rr.tobytes()).hexdigest()


def test_smote_with_two_real_beats_lies_between_them_in_window_and_rr():
    """k = 1: every beat is a + u (b - a) with one u for all of its numbers."""
    train = beats({N: 10, S: 2})
    a, b = np.flatnonzero(train.y == S)
    made = generate("smote", train, S, 25, BalanceConfig(neighbours=1), seed=3)
    assert len(made) == 25
    for part, new in ((train.x, made.x), (train.rr, made.rr)):
        u = (new - part[a]) / (part[b] - part[a])
        np.testing.assert_allclose(u, np.broadcast_to(u[:, :1], u.shape), atol=2e-4)
    share = (made.x[:, 0, 0] - train.x[a, 0, 0]) / (train.x[b, 0, 0] - train.x[a, 0, 0])
    assert share.min() >= 0
    assert share.max() <= 1
    np.testing.assert_allclose((made.rr[:, 0] - train.rr[a, 0]) / (train.rr[b, 0] - train.rr[a, 0]), share, atol=2e-4)
    assert {tuple(sorted(pair)) for pair in made.parents.tolist()} == {(a, b)}
    np.testing.assert_array_equal(made.parents[:, 0], np.where(share < 0.5, a, b))  # the nearer one first


@pytest.mark.parametrize("method", INTERPOLATING)
def test_parents_are_the_two_real_beats_it_lies_between(method: str):
    made = generate(method, TRAIN, S, 40, seed=1)
    assert made.relation == "between"
    assert (TRAIN.y[made.parents] == S).all()
    space = Space.of(TRAIN)
    points, parents = space.joint(made.x, made.rr), space.joint(TRAIN.x, TRAIN.rr)[made.parents]
    detour = np.linalg.norm(points[:, None] - parents, axis=2).sum(1) - np.linalg.norm(
        parents[:, 0] - parents[:, 1], axis=1
    )
    assert np.abs(detour).max() < 1e-5


def test_parents_are_found_on_a_line_by_hand():
    real = np.array([[0.0], [1.0], [3.0], [10.0]])
    assert between(real, np.array([[0.9], [2.5], [9.0]]), 1).tolist() == [[1, 0], [2, 1], [3, 2]]


def test_window_and_rr_count_alike_whatever_their_units():
    """Total variance one in each block: two random beats are on average as far apart in timing as in shape."""
    train = Batch(1000 * TRAIN.x, 0.001 * TRAIN.rr, TRAIN.y)
    points = Space.of(train).joint(train.x, train.rr)
    assert points[:, :30].var(0).sum() == pytest.approx(1, rel=1e-4)
    assert points[:, 30:].var(0).sum() == pytest.approx(1, rel=1e-4)
    made, same = generate("smote", train, S, 20, seed=4), generate("smote", TRAIN, S, 20, seed=4)
    assert made.parents.tolist() == same.parents.tolist()  # the neighbours do not depend on the units
    back = Space.of(TRAIN).parts(Space.of(TRAIN).joint(TRAIN.x, TRAIN.rr))
    np.testing.assert_allclose(back[0], TRAIN.x, rtol=1e-6)
    np.testing.assert_allclose(back[1], TRAIN.rr, rtol=1e-6)


def test_rr_features_are_carried_along():
    """S and N with one shape: the synthetic S beats keep the timing of S."""
    train = beats({N: 60, S: 30}, apart=0.0)
    made = generate("smote", train, S, 200, seed=1)
    assert made.rr.mean(0) == pytest.approx(train.rr[train.y == S].mean(0), abs=0.2)
    assert np.abs(made.rr - train.rr[train.y == N].mean(0)).min() > 1


def test_constant_features_are_no_obstacle():
    train = Batch(TRAIN.x, np.zeros_like(TRAIN.rr), TRAIN.y)
    assert not generate("smote", train, S, 5).rr.any()
    none = Batch(TRAIN.x, np.zeros((len(TRAIN.y), 0), np.float32), TRAIN.y)
    assert generate("smote", none, S, 5).rr.shape == (5, 0)


def test_provenance_names_each_beat():
    made = generate("oversample", TRAIN, S, 5, seed=1, request="abc")
    rows = made.provenance()
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    for i, row in enumerate(rows):
        (parent,) = row["parents"]
        assert TRAIN.y[parent] == S
        np.testing.assert_array_equal(made.x[i], TRAIN.x[parent])
        assert (row["generator"], row["request"], row["relation"]) == ("oversample", "abc", "copy")
        assert row["sha256"] == hashlib.sha256(made.x[i].tobytes() + made.rr[i].tobytes()).hexdigest()
    assert json.loads(json.dumps(rows)) == rows
    first, other = (generate("smote", TRAIN, S, 5, BalanceConfig(neighbours=k)).settings for k in (3, 4))
    assert first != other


@pytest.mark.parametrize("method", ["borderline", "adasyn"])
def test_what_needs_other_classes_says_so(method: str):
    with pytest.raises(SynthesisError, match=f"^{method} needs beats of other classes, there are none.$"):
        generate(method, beats({S: 30}), S, 10)
    reason = "on its border" if method == "borderline" else "near the class"
    with pytest.raises(SynthesisError, match=reason):  # the clouds lie far apart
        generate(method, beats({N: 60, S: 30}, apart=100.0), S, 10)
    assert len(generate("smote", beats({S: 30}), S, 10)) == 10  # SMOTE needs none


@pytest.mark.parametrize(
    ("method", "wanted", "words"), [("gan", 5, "'gan' is no generator"), ("smote", 0, "asked for 0")]
)
def test_nonsense_is_refused(method: str, wanted: int, words: str):
    with pytest.raises(SynthesisError, match=words):
        generate(method, TRAIN, S, wanted)


def test_files_of_synthetic_beats(tmp_path: Path):
    parts = [generate("smote", TRAIN, label, n) for label, n in ((S, 4), (V, 3))]
    save_synthetic(tmp_path / "h.npz", joined(*(part.batch() for part in parts)))
    found = load_synthetic(tmp_path / "h.npz")
    for a, b in zip(found[:3], joined(*(part.batch() for part in parts))[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert found.y.tolist() == [S] * 4 + [V] * 3
    (tmp_path / "h.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="holds no synthetic beats"):
        load_synthetic(tmp_path / "h.npz")


# --- Several leads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["oversample", *INTERPOLATING])
def test_all_leads_of_a_beat_are_made_together(method: str):
    """Each new beat lies between two real ones, in both leads at the same place."""
    train = beats({N: 60, S: 12, V: 20}, apart=0.3, early=0.5, leads=2)
    made = generate(method, train, S, 9)
    assert made.x.shape == (len(made), 2, 30)
    for x, rr, (a, b) in zip(made.x, made.rr, made.parents, strict=True):
        way = [train.x[b].ravel() - train.x[a].ravel(), x.ravel() - train.x[a].ravel()]
        share = 0.0 if a == b else float(way[0] @ way[1] / (way[0] @ way[0]))
        assert -1e-6 <= share <= 1 + 1e-6
        np.testing.assert_allclose(x, train.x[a] + share * (train.x[b] - train.x[a]), atol=1e-4)
        np.testing.assert_allclose(rr, train.rr[a] + share * (train.rr[b] - train.rr[a]), atol=1e-4)


def test_a_beat_of_two_leads_is_a_sequence_of_patches_of_both_and_back():
    points = np.random.default_rng(0).random((5, 2 * 35 + 3))
    sequences = to_sequences(points, (2, 35), 15)
    assert sequences.shape == (5, 3, 2 * 15 + 3)
    np.testing.assert_array_equal(sequences[:, 1, :15], points[:, 15:30].astype(np.float32))
    np.testing.assert_array_equal(sequences[:, 1, 15:30], points[:, 35 + 15 : 35 + 30].astype(np.float32))
    np.testing.assert_allclose(from_sequences(sequences, (2, 35), 3, 15), points, rtol=1e-6)


# --- TimeGAN ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "steps"), [(360, 24), (352, 24), (15, 1), (7, 1)])
def test_a_beat_is_a_sequence_of_patches_and_back(window: int, steps: int):
    draw = np.random.default_rng(0)
    points = draw.random((5, window + 2))
    sequences = to_sequences(points, (1, window), 15)
    assert sequences.shape == (5, steps, 17)
    np.testing.assert_allclose(sequences[:, :, 15], np.repeat(points[:, [window]], steps, 1), rtol=1e-6)
    np.testing.assert_allclose(from_sequences(sequences, (1, window), 2, 15), points, rtol=1e-6)
    assert sequences[0, 0, 1] == np.float32(points[0, 1])  # in order of time


def test_timegan_without_its_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    train = beats({N: 10, S: 40})
    with pytest.raises(SynthesisError, match="timegan needs at least 50 real beats of the class, there are 40"):
        generate("timegan", train, S, 5, BalanceConfig(timegan=TimeGanConfig(minimum=50)))
    monkeypatch.setenv("PULSELEDGER_TIMEGAN_PYTHON", str(tmp_path / "python"))
    with pytest.raises(SynthesisError, match=r"PULSELEDGER_TIMEGAN_PYTHON names .*, which is no file"):
        generate("timegan", train, S, 5)
    monkeypatch.delenv("PULSELEDGER_TIMEGAN_PYTHON")
    monkeypatch.setattr("engine.synthesis.timegan.WORKER", tmp_path / "a/b/c/worker.py")
    monkeypatch.setattr("engine.synthesis.timegan.__file__", str(tmp_path / "a/b/timegan.py"))
    with pytest.raises(SynthesisError, match="run `make timegan`"):
        generate("timegan", train, S, 5)


def test_a_worker_that_fails_gives_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    worker = tmp_path / "worker.py"
    worker.write_text("print('timegan: step 1'); raise SystemExit('out of memory')")
    monkeypatch.setattr("engine.synthesis.timegan.WORKER", worker)
    monkeypatch.setenv("PULSELEDGER_TIMEGAN_PYTHON", sys.executable)
    said: list[str] = []
    with pytest.raises(SynthesisError, match=r"^timegan failed: out of memory.$"):
        generate("timegan", beats({S: 40}), S, 5, note=said.append)
    assert said == ["timegan: training on 40 beats", "timegan: step 1"]


@pytest.mark.long
def test_the_real_timegan_trains_caches_and_repeats_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    try:
        interpreter()
    except SynthesisError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "a"))
    train = beats({N: 5, S: 40}, window=32)
    settings = BalanceConfig(timegan=TimeGanConfig(patch=8, hidden=6, steps=10, batch_size=16))
    said: list[str] = []
    first = generate("timegan", train, S, 7, settings, seed=1, note=said.append)
    assert first.x.shape == (7, 1, 32)
    assert first.rr.shape == (7, 2)
    assert np.isfinite(first.x).all()
    assert len(np.unique(first.x, axis=0)) == 7
    assert any("joint networks training, 10 of 10 steps" in line for line in said)
    assert first.relation == "nearest"
    assert (train.y[first.parents] == S).all()
    found = generate("timegan", train, S, 7, settings, seed=1, note=said.append)
    assert said[-1] == "timegan: found in the cache"
    (drawn,) = (tmp_path / "a/timegan").glob("*-7.npz")
    drawn.unlink()
    redrawn = generate("timegan", train, S, 7, settings, seed=1, note=said.append)
    assert "timegan: drawing again" in said
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "b"))
    again = generate("timegan", train, S, 7, settings, seed=1)
    for other in (found, redrawn, again):
        assert other.x.tobytes() == first.x.tobytes()
        assert other.rr.tobytes() == first.rr.tobytes()


def test_a_generator_is_trained_once_however_many_ask_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Two processes of a study: the second waits, says so, and finds what the first left."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import sys, time; from pathlib import Path; import numpy as np\n"
        "job, weights, out = map(Path, sys.argv[1:])\n"
        "if not weights.exists():\n"
        "    with open(job.parents[2] / 'trained', 'a') as file: file.write('x')\n"
        "    time.sleep(1); np.savez(weights, w0=np.ones(1))\n"
        "np.savez(out, beats=np.full((5, 2, 17), 0.5))\n"
    )
    monkeypatch.setattr("engine.synthesis.timegan.WORKER", worker)
    monkeypatch.setattr("engine.synthesis.timegan.WAIT", 0.2)
    monkeypatch.setenv("PULSELEDGER_TIMEGAN_PYTHON", sys.executable)
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path))
    said: list[list[str]] = [[], []]
    train = beats({N: 10, S: 40})

    def make(i: int) -> Synthetic:
        return generate("timegan", train, S, 5, note=said[i].append)

    with ThreadPoolExecutor(2) as both:
        first, second = both.map(make, (0, 1))
    assert (tmp_path / "trained").read_text() == "x"
    assert first.x.tobytes() == second.x.tobytes()
    last, waited = sorted((lines for lines in said), key=lambda lines: "waiting" in lines[0])
    assert last == ["timegan: training on 40 beats"]
    assert "for another process that trains it" in waited[0]
    assert waited[-1] == "timegan: found in the cache"


# --- Balancing --------------------------------------------------------------------------------------------------------


def samples(counts: dict[int, int]) -> Samples:
    return Samples(*beats(counts)[:3], index=np.arange(sum(counts.values())))


def test_class_weights_by_hand():
    labels = np.repeat([0, 1, 3], [90, 8, 2])
    np.testing.assert_allclose(class_weights(labels, 4, 100.0), [100 / 270, 100 / 24, 1, 100 / 6], rtol=1e-6)
    assert class_weights(labels, 4, 100.0)[labels].mean() == pytest.approx(1)
    np.testing.assert_allclose(class_weights(labels, 4, 5.0), [100 / 270, 100 / 24, 1, 5], rtol=1e-6)


def test_logit_offsets_by_hand():
    labels = np.repeat([0, 1], [7, 1])  # of three classes, each with one beat more: 8, 2 and 1 of 11
    np.testing.assert_allclose(logit_offsets(labels, 3, 1.0), np.log([8 / 11, 2 / 11, 1 / 11]), rtol=1e-6)
    np.testing.assert_allclose(logit_offsets(labels, 3, 0.5), 0.5 * np.log([8 / 11, 2 / 11, 1 / 11]), rtol=1e-6)
    assert not logit_offsets(labels, 3, 0.0).any()


def test_wanted_beats_by_hand():
    labels = np.repeat([0, 1, 2, 3], [1000, 300, 4, 40])
    settings = BalanceConfig(target=0.5, ratio=5.0, quota=400)
    #            S: 500 - 300; V: 5 for each of 4; F: 500 - 40 = 460, 5 * 40 = 200; N and Q get none
    assert wanted_beats(labels, "NSVFQ", settings) == {"S": 200, "V": 20, "F": 200}
    assert wanted_beats(labels, "NSVFQ", BalanceConfig(ratio=20.0, quota=150, classes="SF")) == {"S": 150, "F": 150}
    assert wanted_beats(np.repeat([0, 1], [10, 9]), "NS", settings) == {}
    assert wanted_beats(np.zeros(0, np.int8), "NS", settings) == {}


def test_balancing_changes_loss_or_beats_and_nothing_else():
    part = samples({N: 40, S: 4})
    assert balanced(part, BalanceConfig(), "NS", 0, 0) is part
    weighted = balanced(part, BalanceConfig(method="class_weighted"), "NS", 0, 0).batch(np.array([1, 41]))
    np.testing.assert_allclose(weighted.class_weight, [44 / 80, 44 / 8], rtol=1e-6)
    assert weighted.logit_offset is None
    public = balanced(part, BalanceConfig(method="public_weights", weights={"S": 5}), "NS", 0, 0).batch()
    np.testing.assert_array_equal(public.class_weight, [1, 5])  # whatever the counts
    shifted = balanced(part, BalanceConfig(method="logit_adjustment"), "NS", 0, 0).batch()
    assert shifted.class_weight is None
    np.testing.assert_allclose(shifted.logit_offset, np.log([41 / 46, 5 / 46]), rtol=1e-6)
    np.testing.assert_array_equal(shifted.x, part.x)
    repeated = balanced(part, BalanceConfig(method="oversample"), "NS", 7, 1)
    assert np.bincount(repeated.labels()).tolist() == [40, 20]
    assert set(repeated.index[44:]) <= set(range(40, 44))
    again, other = (balanced(part, BalanceConfig(method="oversample"), "NS", 7, h) for h in (1, 2))
    assert again.index.tolist() == repeated.index.tolist() != other.index.tolist()
    pinned = [balanced(part, BalanceConfig(method="oversample", seed=3), "NS", s, 1).index.tolist() for s in (1, 2)]
    assert pinned[0] == pinned[1]


@pytest.mark.parametrize("method", ["oversample", "smote"])
def test_a_budget_keeps_the_batches_of_the_real_beats(method: str):
    """44 real beats and 16 more: 6 batches of 8 instead of 8, drawn from all 60."""
    extra = beats({S: 16}, seed=9) if method == "smote" else None
    for budget, batches in (("all", 8), ("real", 6)):
        settings = BalanceConfig(method=method, target=0.5, budget=budget)  # type: ignore[arg-type]
        part = balanced(samples({N: 40, S: 4}), settings, "NS", 0, 0, extra)
        assert (len(part), part.batches(8)) == (60, batches)


def test_added_beats_stand_behind_the_real_ones():
    part = samples({N: 6, S: 2})
    extra = beats({S: 3}, seed=9)
    joined_part = balanced(part, BalanceConfig(method="smote"), "NS", 0, 0, extra)
    assert len(joined_part) == 11
    assert joined_part.labels().tolist() == [N] * 6 + [S] * 5
    whole = [np.concatenate([a, b]) for a, b in zip(part.batch()[:3], extra[:3], strict=True)]
    positions = np.array([9, 0, 10, 7, 8, 9])
    for rows in (positions, slice(None), slice(7, 10), np.array([1, 2]), np.array([8])):
        for found, wanted in zip(joined_part.batch(rows)[:3], whole, strict=True):
            np.testing.assert_array_equal(found, wanted[rows])
            assert found.dtype == wanted.dtype


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"balance.method": "tomek"}, "balance.method is 'tomek'"),
        ({"balance.classes": "SX"}, "letters out of NSVFQ"),
        ({"balance.classes": ["S", "pvc"]}, "balance.classes: 'pvc' is no class; allowed: N, S, V, F, Q"),
        ({"balance.target": 1.5}, "balance.target is 1.5"),
        ({"balance.steps": 5}, "balance.steps is not a known key"),
    ],
)
def test_wrong_settings_are_one_sentence(tiny_config: Callable[..., RunConfig], changes: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        tiny_config(**changes)


# --- In a run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    ["smote", *(pytest.param(m, marks=pytest.mark.long) for m in ("class_weighted", "logit_adjustment", "oversample"))],
)
def test_a_balanced_run_gives_the_same_numbers_wherever_hospitals_live(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, method: str
):
    results = [
        run(tiny_config(**{"balance.method": method, "execution.pool": pool}), tmp_path / f"{pool}-{method}")
        for pool in ("inprocess", "threads")
    ]
    plain = run(tiny_config(), tmp_path / "none")
    assert results[0].model_hash == results[1].model_hash != plain.model_hash
    assert (results[0].synthesis is not None) == (method == "smote")
    more = results[0].timing.gradient_evaluations - plain.timing.gradient_evaluations
    assert (more > 0) == (method in ("oversample", "smote"))
    if method == "smote":
        for record in results[0].synthesis:
            assert record.status == ("denied" if record.real_floor < 6 else "accepted")
            assert record.accepted == (0 if record.real_floor < 6 else record.wanted)
        assert {record.status for record in results[0].synthesis} == {"denied", "accepted"}


@pytest.mark.parametrize(
    "algorithm",
    [
        {"federation.algorithm": "fedavg"},
        {"federation.algorithm": "fedprox"},
        {"federation.algorithm": "local"},
        {"federation.algorithm": "centralised"},
        {"federation.algorithm": "perfedavg", "federation.perfedavg.variant": "first-order"},
        {"federation.algorithm": "perfedavg", "federation.perfedavg.stratified": False},
    ],
    ids=lambda keys: " ".join(map(str, keys.values())),
)
def test_with_a_real_budget_balancing_costs_no_gradient_more(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, algorithm: dict
):
    keys = {**algorithm, "federation.local_epochs": 2, "personalisation.epochs": 3, "execution.pool": "inprocess"}

    def gradients(**balance: str) -> tuple[int, int]:
        config = tiny_config(**keys, **{f"balance.{key}": value for key, value in balance.items()})
        timing = run(config, tmp_path / "-".join(("run", *balance.values()))).timing
        return timing.gradient_evaluations, timing.personalisation_gradient_evaluations

    plain = gradients()
    for method in ("oversample", "smote"):
        assert gradients(method=method, budget="real") == plain
    assert gradients(method="smote")[0] > plain[0]


def test_a_run_without_balancing_touches_no_generator(tiny_config: Callable[..., RunConfig], tmp_path: Path):
    """Hospitals load scikit-learn and the like only for a method that needs them."""
    config = tiny_config()
    (tmp_path / "config.json").write_text(config.model_dump_json())
    code = (
        "import sys; from pathlib import Path\n"
        "from engine.config import RunConfig\nfrom engine.experiment import run\n"
        "config = RunConfig.model_validate_json(Path(sys.argv[1], 'config.json').read_text())\n"
        "run(config, Path(sys.argv[1], 'run'))\n"
        "print([name for name in ('sklearn', 'imblearn', 'scipy', 'tensorflow') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.strip().splitlines()[-1]
    assert "sklearn" not in loaded
    assert "imblearn" not in loaded
    assert not (tmp_path / "run/synthetic").exists()
