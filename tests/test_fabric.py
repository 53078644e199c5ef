"""The chaincode for Hyperledger Fabric: its test vectors are what the Solidity contracts answer today, and it answers the same."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reference import ROOT

HOME = ROOT / "contracts/fabric"
ROLES_OF_SOLIDITY = {
    *(
        "acceptDefaultAdminTransfer",
        "beginDefaultAdminTransfer",
        "cancelDefaultAdminTransfer",
        "changeDefaultAdminDelay",
    ),
    *("renounceRole", "rollbackDefaultAdminDelay", "unpause"),
}


@pytest.fixture(scope="module")
def vectors() -> dict:
    return json.loads((HOME / "test/vectors.json").read_text())


@pytest.mark.parametrize(
    ("contract", "file", "untried"),
    [("RoundLedger", "ledger", {"setHospital", "revokeRole", "pause"}), ("SuccessionLedger", "succession", set())],
)
def test_every_call_of_a_contract_is_tried(vectors, contract: str, file: str, untried: set[str]):
    abi = abi_of(contract)
    changing = {one["name"] for one in abi if one["type"] == "function" and one["stateMutability"] == "nonpayable"}
    source = (HOME / f"lib/{file}.js").read_text()
    calls = [one["call"].rpartition(":") for one in vectors["calls"]]
    tried = {name for of, _, name in calls if (of or "RoundLedger") == contract}
    # roles and pauses have another form there
    own = {name for name in changing if f"async {name}(" in source}
    assert tried <= own
    assert own - tried == untried
    assert changing - own <= ROLES_OF_SOLIDITY
    wanted = {one["name"]: len(one["inputs"]) for one in abi if one["type"] == "function"}
    for name in tried:  # a key that the contract has got since would be missing there
        taken = re.findall(rf"async {name}\(ctx, ([^)]*)\)", source)[0].split(", ")
        assert len(taken) == wanted[name], name


def test_most_refusals_are_tried_and_all_of_who_leads(vectors):
    refusals = {one["refused"].partition("(")[0] for one in vectors["calls"] if "refused" in one}
    known, succession = (
        {one["name"] for one in abi_of(name) if one["type"] == "error"} for name in ("RoundLedger", "SuccessionLedger")
    )
    assert refusals <= known | succession
    assert succession <= refusals
    assert {"NotLeader", "NotKeeper", "NotEntrustable", "RolesConflict", "AnnexProofInvalid"} <= refusals
    assert len(refusals) >= 36


def abi_of(contract: str) -> list[dict]:
    return json.loads((ROOT / f"engine/ledger/artefacts/{contract}.json").read_text())["abi"]


@pytest.mark.long
def test_the_vectors_are_what_the_solidity_contracts_answer(tmp_path: Path, vectors):
    """Written anew beside the old ones; times of blocks are the machine's."""
    (tmp_path / "contracts/fabric/test").mkdir(parents=True)
    for name in ("solidity.py", "vectors.py"):
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
def test_the_chaincode_answers_as_the_solidity_contracts():
    if not (HOME / "node_modules").is_dir():
        pytest.skip("the chaincode's packages are not installed: cd contracts/fabric && npm install")
    done = subprocess.run(["node", "--test", "test/"], cwd=HOME, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "# pass 6" in done.stdout
