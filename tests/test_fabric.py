"""The chaincode for Hyperledger Fabric: its test vectors are what the Solidity contract answers today, and it answers the same."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reference import ROOT

HOME = ROOT / "contracts/fabric"


@pytest.fixture(scope="module")
def vectors() -> dict:
    return json.loads((HOME / "test/vectors.json").read_text())


def test_every_call_of_the_contract_is_tried_and_most_of_its_refusals_are(vectors):
    abi = json.loads((ROOT / "engine/ledger/artefacts/RoundLedger.json").read_text())["abi"]
    changing = {one["name"] for one in abi if one["type"] == "function" and one["stateMutability"] == "nonpayable"}
    source = (HOME / "lib/ledger.js").read_text()
    tried = {one["call"] for one in vectors["calls"]}
    # roles and pauses have another form there
    own = {name for name in changing if f"async {name}(" in source}
    assert tried <= own
    assert own - tried == {"setHospital", "grantRole", "revokeRole", "pause"}
    wanted = {one["name"]: len(one["inputs"]) for one in abi if one["type"] == "function"}
    for name in tried:  # a key that the contract has got since would be missing there
        taken = re.findall(rf"async {name}\(ctx, ([^)]*)\)", source)[0].split(", ")
        assert len(taken) == wanted[name], name
    refusals = {one["refused"].partition("(")[0] for one in vectors["calls"] if "refused" in one}
    assert len(refusals) >= 24
    assert refusals <= {one["name"] for one in abi if one["type"] == "error"}


@pytest.mark.long
def test_the_vectors_are_what_the_solidity_contract_answers(tmp_path: Path, vectors):
    """Written anew beside the old ones; times of blocks are the machine's."""
    for name in ("vectors.py",):
        (tmp_path / "contracts/fabric/test").mkdir(parents=True)
        (tmp_path / "contracts/fabric" / name).write_text((HOME / name).read_text())
    (tmp_path / "engine").symlink_to(ROOT / "engine")
    subprocess.run(
        [sys.executable, "contracts/fabric/vectors.py"], cwd=tmp_path, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    made = json.loads((tmp_path / "contracts/fabric/test/vectors.json").read_text())
    assert made["domain"] == vectors["domain"]
    told = [
        [(one["call"], one["caller"], one.get("refused", "").partition("(")[0]) for one in of["calls"]]
        for of in (made, vectors)
    ]
    assert told[0] == told[1]


@pytest.mark.long
def test_the_chaincode_answers_as_the_solidity_contract():
    if not (HOME / "node_modules").is_dir():
        pytest.skip("the chaincode's packages are not installed: cd contracts/fabric && npm install")
    done = subprocess.run(["node", "--test", "test/"], cwd=HOME, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "# pass 5" in done.stdout
