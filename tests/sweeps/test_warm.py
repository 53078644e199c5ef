"""What is made while Ray starts: the caches that the first trial looks into, and nothing that ends a study."""

from dataclasses import replace
from pathlib import Path

import pytest
from reference import Heard
from simulated_ray import simulated
from studies import ALONE, study_of

from engine.data.beats import load_beats
from sweeps.start import start_study
from sweeps.warm import warm


def test_beats_and_kernel_are_in_the_cache_when_ray_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path))
    study, said = study_of(ALONE), list[str]()
    warm(study, said.append)
    assert any(text.startswith("cutting beats") for text in said)
    load_beats(study.data, said.append)
    assert sum(text.startswith("cutting beats") for text in said) == 1
    assert len(list(tmp_path.glob("native/*.so"))) == 1


def test_what_cannot_be_made_is_the_trials_to_say(tmp_path: Path):
    warm(study_of(ALONE, data={"source": "folder", "folder": str(tmp_path / "no")}), lambda text: None)


def test_a_study_waits_for_it(tmp_path: Path):
    order: list[str] = []

    class Then(Heard):
        def started(self, *args: object) -> None:
            order.append("trial")
            super().started(*args)  # type: ignore[arg-type]

    means = replace(simulated(), warm=lambda study, note: order.append("warm"))
    start_study(study_of(ALONE, federation={"rounds": 1}, trials=1), tmp_path / "study", Then(), means=means)
    assert order[:2] == ["warm", "trial"]
