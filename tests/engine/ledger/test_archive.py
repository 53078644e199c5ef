"""The files of vectors: whole or not there, and only flat float32."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from simulators import Run

from engine.errors import LedgerError
from engine.ledger import archive


def test_vectors_come_back_as_they_were(tmp_path: Path):
    run = Run(tmp_path)
    archive.write_genesis(run.folder, run.genesis)
    path = archive.write_round(run.folder, 2, run.vectors(2))
    assert path == run.folder / "updates" / "00002.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == ["00000.safetensors", "00002.safetensors"]
    np.testing.assert_array_equal(load_file(path.with_name("00000.safetensors"))["genesis"], run.genesis)
    found = load_file(path)
    assert sorted(found) == ["slot-0000", "slot-0002"]
    for slot, vector in run.vectors(2).items():
        np.testing.assert_array_equal(found[f"slot-{slot:04d}"], vector)


def test_another_type_or_a_place_that_is_none_gives_one_sentence(tmp_path: Path):
    with pytest.raises(LedgerError, match=r"slot-0000 of 00003\.safetensors is float64 .* expected flat float32"):
        archive.write_round(tmp_path, 3, {0: np.zeros(3)})
    (tmp_path / "updates").write_text("a file")
    with pytest.raises(LedgerError, match="cannot be written") as refused:
        archive.write_genesis(tmp_path, np.zeros(3, np.float32))
    assert "\n" not in str(refused.value)
