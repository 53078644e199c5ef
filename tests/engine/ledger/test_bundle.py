"""The bundle of a run: everything is in it, and equal runs give equal bytes."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

from engine.experiment import run
from engine.homes import claim
from engine.ledger.accounts import key_path
from engine.ledger.chain.contracts import CONTRACTS
from engine.ledger.format import ADMIN, AUDITOR, BUNDLE, COORDINATOR, RUN, rows_name


def read_bundle(folder: Path) -> dict:
    with zipfile.ZipFile(folder / BUNDLE) as archive:
        assert archive.testzip() is None
        return {
            name: [json.loads(line) for line in archive.read(name).splitlines()]
            if name.endswith(".jsonl")
            else archive.read(name)
            for name in archive.namelist()
        }


def test_the_bundle_holds_everything_and_equal_runs_give_equal_bytes(tiny_config, tmp_path: Path):
    config = tiny_config(**{"ledger.backend": "embedded"})
    result = run(config, tmp_path / "a")
    claim(tmp_path / "b", "run", ())
    (tmp_path / "b" / "ledger").mkdir()
    for role in (COORDINATOR, ADMIN, AUDITOR):  # drawn for each ledger, unless they are there
        shutil.copy(key_path(tmp_path / "a" / "ledger", role), tmp_path / "b" / "ledger")
    again = run(config, tmp_path / "b")
    whole = (tmp_path / "a" / "ledger" / BUNDLE).read_bytes()
    assert whole == (tmp_path / "b" / "ledger" / BUNDLE).read_bytes()
    assert result.ledger.closing == again.ledger.closing
    content = read_bundle(tmp_path / "a" / "ledger")
    manifest = json.loads(content["manifest.json"])
    with zipfile.ZipFile(tmp_path / "a" / "ledger" / BUNDLE) as archive:
        assert manifest["entries"] == {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if name != "manifest.json"
        }
    tables = [name for name in content if name.startswith("journal/")]
    assert tables == sorted(tables)
    assert tables == [rows_name(name) for name in sorted(RUN.tables)]
    sizes = {name: len(content[rows_name(name)]) for name in ("updates", "openings", "receipts", "results", "rounds")}
    assert sizes == {"updates": 6, "openings": 6, "receipts": 6, "results": 3, "rounds": 2}
    assert set(manifest["contracts"]) == set(CONTRACTS)
    assert content["journal/rounds.jsonl"][-1]["head"] == result.ledger.head
    assert "0x" + manifest["result"]["model_hash"] == content["journal/rounds.jsonl"][-1]["model"]
    assert [name for name in content if name.startswith("updates/")] == [
        f"updates/{n:05d}.safetensors" for n in range(3)
    ]
