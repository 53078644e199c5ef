"""Compressed updates: forms by hand, error feedback, and what the audit makes of another form."""

from pathlib import Path

import numpy as np
import pytest
from finished import audit
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference import Interrupted, StopAfter, numbers

from engine.aggregation.build import as_it_is
from engine.aggregation.compression import REMAINDER, compressed, form_of, int8, top
from engine.aggregation.config import UpdateConfig
from engine.audit import compression
from engine.audit.report import Verdict
from engine.experiment import Place, run

INT8, TOP = UpdateConfig(compression="int8"), UpdateConfig(compression="top-k", share=0.25)
floats = st.floats(-(2.0**60), 2.0**60, width=32)
vectors = arrays(np.float32, st.integers(1, 40), elements=st.one_of(floats, st.floats(-4, 4, width=32)))


def config(form: UpdateConfig) -> dict[str, object]:
    return {"update": form.model_dump()}


@given(vectors)
def test_the_audit_takes_what_a_form_gives_and_a_form_changes_it_no_more(vector: np.ndarray):
    for form in (INT8, TOP):
        found = form_of(form)(vector)
        assert found.dtype == np.float32
        assert compression.problem(config(form), found) == ""
        np.testing.assert_array_equal(form_of(form)(found), found)


@given(vectors)
def test_eight_bits_are_at_most_half_a_step_away(vector: np.ndarray):
    step = 2 * float(np.abs(vector).max()) / 127  # of a power of two, at most twice the finest
    assert (np.abs(int8(vector).astype(np.float64) - vector) <= step / 2 + 1e-45).all()


@given(st.lists(arrays(np.float32, 8, elements=st.floats(-4, 4, width=32)), min_size=1, max_size=6))
def test_what_was_sent_and_what_remains_are_all_that_was_to_be_sent(changes: list[np.ndarray]):
    for form in (INT8, TOP):
        encode, memory, sent = compressed(form, as_it_is), {}, np.zeros(8)
        for change in changes:
            found, memory = encode(change, memory)
            sent += found
        np.testing.assert_allclose(sent + memory[REMAINDER], np.sum(changes, axis=0), atol=1e-4)


def test_the_largest_entries_by_hand():
    vector = np.array([0.5, -2.0, 2.0, 1.0], np.float32)
    assert top(vector, 0.25).tolist() == [0.0, -2.0, 0.0, 0.0]  # the first of equals
    assert top(vector, 0.01).tolist() == [0.0, -2.0, 0.0, 0.0]  # one at least
    assert (TOP.size(100), INT8.size(100), UpdateConfig().size(100)) == (200.0, 101.0, 400.0)


def test_the_audit_names_a_vector_that_travelled_in_no_such_form():
    assert "255 levels" in compression.problem(config(INT8), np.array([1.0, 1e-6], np.float32))
    assert "2 entries" in compression.problem(config(TOP), np.array([1, 1, 0, 0], np.float32))
    assert compression.problem(config(INT8), np.array([np.nan], np.float32))
    assert compression.problem({}, np.array([1.0, 1e-6], np.float32)) == ""


THREE = {"ledger.backend": "embedded", "ledger.window": 0, "federation.rounds": 3}


@pytest.mark.parametrize("form", ["top-k", pytest.param("int8", marks=pytest.mark.long)])
def test_a_compressed_run_goes_on_bit_for_bit_and_is_clean(form: str, tiny_config, tmp_path: Path):
    attack = {"attack.method": "noise", "attack.hospitals": [1], "aggregation.worker_momentum": 0.5}
    made = tiny_config(**THREE, **attack, **{"update.compression": form})
    straight = run(made, tmp_path / "straight")
    with pytest.raises(Interrupted):
        run(made, tmp_path / "stumbling", Place(observers=(StopAfter(2),)))
    again = run(made, tmp_path / "stumbling")
    assert numbers(again, tmp_path / "stumbling") == numbers(straight, tmp_path / "straight")
    report = audit(tmp_path / "stumbling")
    assert (report.findings, report.verdict) == ([], Verdict.CLEAN)
