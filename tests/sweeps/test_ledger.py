"""`pulseledger ledger`: each verb on the folder of a finished or a paused run, as its hospitals use it."""

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engine.audit.report import Verdict
from engine.audit.run import audit
from engine.config import RunConfig
from engine.encoding import hexed
from engine.errors import LedgerError, Stopped
from engine.experiment import Place, run
from engine.ledger import proofs
from engine.ledger.accounts import COORDINATOR, key_path
from engine.ledger.config import LedgerConfig
from engine.ledger.format import BUNDLE, RUN
from engine.ledger.keyfiles import PASSWORD_VARIABLE, read_document, read_key_file
from engine.ledger.keystore import create_keystore
from engine.ledger.run import reopened
from engine.ledger.signer import Notice, Signer, Signing
from engine.ledger.signing import sign
from engine.ledger.subjects.updates import Receipt, SignedUpdate
from engine.model import vector_hash
from engine.result import Result
from sweeps.__main__ import main
from sweeps.ledger import finalize

Command = Callable[..., dict[str, Any]]
PEERS = {"ledger.backend": "embedded", "ledger.reputation": "peers", "ledger.window": 0}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `pulseledger ledger ... --json`, which must succeed; returns what it prints."""

    def run_it(*words: Any) -> dict[str, Any]:
        assert main(["ledger", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run_it


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `pulseledger ledger ...`, which must fail; returns the one sentence."""

    def run_it(*words: Any) -> str:
        assert main(["ledger", *map(str, words)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        return said.err

    return run_it


@pytest.fixture(scope="module")
def finished(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose hospitals judge each other."""
    folder = tmp_path_factory.mktemp("finished")
    run(tiny_config(**PEERS), folder)
    return folder


def paused(config: RunConfig, folder: Path) -> None:
    """A run that stopped after its first round."""
    with pytest.raises(Stopped):
        run(config, folder, Place(stopping=lambda: True))


def signing_of(folder: Path) -> Signing:
    """What the hospitals of a run know of its ledger."""
    with reopened(folder / "ledger", LedgerConfig()) as ledger:
        opened, federation = ledger.opened(), ledger.registry.federation
    where = (opened.domain, opened.coordinator, len(federation.hospitals), opened.headers[0].head)
    return Signing(federation.id, federation.config_hash, *where)


# --- Proofs -----------------------------------------------------------------------------------------------------------


def test_a_proof_is_written_and_checked_without_the_run(
    finished: Path, tmp_path: Path, command: Command, refusal: Callable[..., str], capsys: pytest.CaptureFixture[str]
):
    file, head = tmp_path / "proof.json", Result.read(finished).ledger.head
    assert command("prove", finished, 2, 1, "--out", file) == read_document(file)
    found = command("verify", file, "--head", head)
    assert {key: found[key] for key in ("round", "hospital", "head", "present")} == {
        "round": 2,
        "hospital": 1,
        "head": head,
        "present": True,
    }
    signing = signing_of(Path(shutil.copytree(finished, tmp_path / "copy")))
    assert found["promised_by"] == signing.coordinator
    assert main(["ledger", "verify", str(file)]) == 0
    assert f"signed by {found['signer']}, under head {head}; compare it" in capsys.readouterr().out
    wrong = "0x" + "11" * 32
    assert f"leads to head {head}, not to {wrong}" in refusal("verify", file, "--head", wrong)
    document = read_document(file)
    document["update"]["samples"] = wrong
    proofs.write(file, document)
    assert f"{file}: the leaf is not the hash of what the slot holds" in refusal("verify", file)
    assert "round 9 is not one of the 2 rounds" in refusal("prove", finished, 9, 1)
    assert "there is no journal" in refusal("prove", tmp_path, 1, 1)


# --- Rewards ----------------------------------------------------------------------------------------------------------


def test_a_reward_is_claimed_once_and_the_bundle_tells(
    finished: Path, tmp_path: Path, command: Command, refusal: Callable[..., str]
):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    before = (folder / "ledger" / BUNDLE).read_bytes()
    hospitals = Result.read(folder).ledger.hospitals
    assert hospitals is not None
    for _ in range(2):
        assert command("claim", folder, 0) == {"hospital": 0, "points": hospitals[0].reward}
        after = (folder / "ledger" / BUNDLE).read_bytes()
        assert after != before
    assert (folder / "ledger" / BUNDLE).read_bytes() == after  # the second claim sent nothing
    assert (folder / "result.json").read_bytes() == (finished / "result.json").read_bytes()
    assert audit(folder).clean
    assert audit(folder / "ledger" / BUNDLE).clean
    assert "hospital 7 has no reward to claim" in refusal("claim", folder, 7)


def test_a_run_without_a_ledger_or_reputation_gives_nothing(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, refusal: Callable[..., str]
):
    run(tiny_config(**{"federation.rounds": 1}), tmp_path / "none")
    assert "the run keeps no ledger (ledger.backend is none)" in refusal("claim", tmp_path / "none", 0)
    run(tiny_config(**{"federation.rounds": 1, "ledger.backend": "embedded"}), tmp_path / "plain")
    assert "hospital 0 has no reward to claim" in refusal("claim", tmp_path / "plain", 0)


# --- Against the coordinator ------------------------------------------------------------------------------------------


def update_of(folder: Path, slot: int, number: int, vector: np.ndarray) -> SignedUpdate:
    """An update of the next round that the coordinator has not seen."""
    signing = signing_of(folder)
    with reopened(folder / "ledger", LedgerConfig()) as ledger:
        header, layout = ledger.rounds.headers[number - 1], ledger.registry.federation.layout
    signer = Signer(slot, signing, 0)
    return signer.update(Notice(header.model, (header,), {}, {}), vector_hash(vector, layout), 10, {})[0]


def test_an_update_is_shown_to_the_contract_and_then_its_absence(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, command: Command, refusal: Callable[..., str]
):
    """A hospital that is not selected in round 2 says that its update was refused."""
    keys = {"ledger.backend": "embedded", "ledger.window": 1000, "federation.rounds": 3}
    folder, file = tmp_path / "run", tmp_path / "update.json"
    config = tiny_config(**keys, **{"federation.participation": 0.67})
    paused(config, folder)
    straight = tmp_path / "straight"
    run(config, straight)
    [left_out] = [slot for slot in range(3) if proofs.prove(straight / "ledger", 2, slot)["update"] is None]
    size = sum(array.size for array in load_file(folder / "ledger/updates/00000.safetensors").values())
    vector = np.linspace(-1, 1, size, dtype=np.float32)
    proofs.write(file, proofs.update_document(update_of(folder, left_out, 2, vector)))
    for _ in range(2):  # the same again sends nothing
        assert command("submit", folder, file) == {"round": 2, "hospital": left_out, "submitted": True}
    result = run(config, folder)
    assert result.ledger.rounds == 3
    assert audit(folder).clean
    proofs.write(file, proofs.update_document(update_of(folder, left_out, 4, vector)))
    assert "the contract refuses: FederationOver" in refusal("submit", folder, file)
    assert "the contract refuses: EvidenceInconclusive" in refusal("dispute", folder, 2, (left_out + 1) % 3)
    # Nobody gave the coordinator the vector: it said so before it sealed, and it takes an auditor who has it.
    assert "the contract refuses: SignatureInvalid" in refusal("dispute", folder, 2, left_out)
    vectors, word = tmp_path / "vectors.safetensors", tmp_path / "witness.json"
    words = ("witness", folder, 2, left_out, vectors, "--out", word)
    save_file({f"slot-{left_out:04d}": np.zeros(5, np.float32)}, vectors)
    assert f"the vector of hospital {left_out} has not the form of an update" in refusal(*words)
    save_file({f"slot-{left_out:04d}": -vector}, vectors)
    assert f"hospital {left_out} has shown no update with this vector in round 2" in refusal(*words)
    save_file({f"slot-{left_out:04d}": vector}, vectors)
    command(*words)
    assert command("dispute", folder, 2, left_out, "--receipt", word)["status"] == "DISPUTED"
    assert command("resolve", folder, 2, "void")["status"] == "VOID"
    assert audit(folder).clean
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    assert "there is no signed update" in refusal("submit", folder, bad)


def test_a_broken_receipt_is_disputed_and_upheld(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, command: Command, refusal: Callable[..., str]
):
    folder, file = tmp_path / "run", tmp_path / "receipt.json"
    run(tiny_config(**{"ledger.backend": "embedded", "ledger.window": 1000}), folder)
    honest = tmp_path / "proof.json"
    command("prove", folder, 2, 0, "--out", honest)
    assert "the contract refuses: EvidenceInconclusive" in refusal("dispute", folder, 2, 0, "--receipt", honest)
    signing = signing_of(folder)
    other = b"\x77" * 32
    key = read_key_file(key_path(folder / "ledger", COORDINATOR))
    promise = sign(Receipt(signing.federation, 2, 0, other), signing.domain, key)
    proofs.write(file, {"leaf": hexed(other), "receipt": hexed(promise)})
    assert command("dispute", folder, 2, 0, "--receipt", file) == {"round": 2, "hospital": 0, "status": "DISPUTED"}
    assert command("resolve", folder, 2, "uphold")["status"] == "FINAL"
    assert audit(folder).clean
    assert "the contract refuses to resolve round 2" in refusal("resolve", folder, 2, "void")
    file.write_text("{}")
    assert "holds no receipt" in refusal("dispute", folder, 1, 0, "--receipt", file)


# --- Finality and erasure ---------------------------------------------------------------------------------------------


def test_a_run_is_sealed_and_final_after_its_window(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, command: Command, refusal: Callable[..., str]
):
    began = int(time.time())
    result = run(tiny_config(**PEERS | {"ledger.window": 1000}), tmp_path)
    after = result.ledger.final_after
    assert result.ledger.final is False
    assert after is not None
    assert began + 1000 <= after <= time.time() + 1000
    told = [note for note in audit(tmp_path).notes if "rounds 1 to 2 are sealed, not final" in note]
    assert len(told) == 1
    assert "its rounds can be disputed until 20" in refusal("finalize", tmp_path)
    assert "`pulseledger ledger finalize` makes them so" in refusal("claim", tmp_path, 0)
    with pytest.raises(LedgerError, match="can be disputed until"):
        finalize(tmp_path, lambda: after - 1)
    assert finalize(tmp_path, lambda: after) == {"rounds": 2, "final": True}
    assert command("finalize", tmp_path) == {"rounds": 2, "final": True}  # again, and nothing is sent
    command("claim", tmp_path, 0)
    report = audit(tmp_path)
    assert not report.findings
    assert not [note for note in report.notes if "sealed, not final" in note]
    assert "the contract refuses: RoundNotSealed" in refusal("dispute", tmp_path, 1, 0)


def test_without_a_window_a_run_is_final_at_its_end(finished: Path):
    assert Result.read(finished).ledger.final is True
    assert not [note for note in audit(finished).notes if "not final" in note]


def test_a_round_is_noted_while_the_run_is_paused(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, command: Command, refusal: Callable[..., str]
):
    config = tiny_config(**{"ledger.backend": "embedded", "federation.rounds": 2})
    paused(config, tmp_path)
    assert command("mark", tmp_path) == {"round": 1, "marked": True}
    assert "the contract refuses: NothingToFinalize" in refusal("mark", tmp_path)
    run(config, tmp_path)
    assert audit(tmp_path).findings == []


def test_nobody_aborts_a_round_within_its_deadline(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, refusal: Callable[..., str]
):
    paused(tiny_config(**{"ledger.backend": "embedded", "federation.rounds": 3}), tmp_path)
    assert "the contract refuses: NothingToAbort" in refusal("abort", tmp_path)


def test_an_erased_opening_is_gone_and_its_hospital_has_signed_for_it(
    finished: Path, tmp_path: Path, command: Command, refusal: Callable[..., str]
):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    kept = json.loads(journal(folder, "SELECT opening FROM openings WHERE round = 1 AND slot = 2"))
    assert command("erase", folder, 1, 2) == {"round": 1, "hospital": 2, "erased": True}
    for path in (folder / "ledger" / RUN.file, folder / "ledger" / BUNDLE):
        content = path.read_bytes()
        for salt in ("samples_salt", "metrics_salt"):
            assert kept[salt].encode() not in content
    for place in (folder, folder / "ledger" / BUNDLE):
        report = audit(place)
        assert report.findings == []
        assert "round 1, hospital 2: the hospital has erased its weight and its metrics" in report.unchecked
    assert "was erased before" in refusal("erase", folder, 1, 2)
    assert "hospital 7 has sent no update in round 1" in refusal("erase", folder, 1, 7)


def test_an_opening_that_nobody_signed_away_is_a_finding(finished: Path, tmp_path: Path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    journal(folder, "DELETE FROM openings WHERE round = 1 AND slot = 2")
    found = {(one.place, one.expected) for one in audit(folder).findings}
    assert ("round 1, hospital 2, opening.opening", "an opening or an erasure") in found


def journal(folder: Path, statement: str) -> Any:
    """What a statement gives on the journal of a run: the first value of the first row."""
    connection = sqlite3.connect(folder / "ledger" / RUN.file)
    row = connection.execute(statement).fetchone()
    connection.commit()
    connection.close()
    return row[0] if row else None


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_changed_between_two_rounds(
    tiny_config: Callable[..., RunConfig],
    tmp_path: Path,
    command: Command,
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    before = create_keystore(tmp_path / "keys", 3, work=2)
    keys = {"ledger.backend": "embedded", "ledger.keystore": str(tmp_path / "keys"), "federation.rounds": 3}
    config, folder = tiny_config(**keys), tmp_path / "run"
    paused(config, folder)
    done = command("rotate", folder, 1)
    assert {key: done[key] for key in ("hospital", "round", "from")} == {"hospital": 1, "round": 2, "from": before[1]}
    run(config, folder)
    assert audit(folder).clean
    signers = {
        (number, slot): proofs.check(proofs.prove(folder / "ledger", number, slot)).signer
        for number in (1, 2, 3)
        for slot in (0, 1)
    }
    assert [signers[number, 1] for number in (1, 2, 3)] == [before[1], done["to"], done["to"]]
    assert {signers[number, 0] for number in (1, 2, 3)} == {before[0]}
    assert "is finished, no key of it will sign again" in refusal("rotate", folder, 1)


def test_keys_that_follow_from_the_seed_cannot_be_changed(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, refusal: Callable[..., str]
):
    paused(tiny_config(**{"ledger.backend": "embedded", "federation.rounds": 3}), tmp_path)
    assert "its keys follow from the seed" in refusal("rotate", tmp_path, 0)


# --- To hand on -------------------------------------------------------------------------------------------------------


def test_a_public_bundle_holds_no_salt_and_its_audit_says_what_it_could_not_check(
    finished: Path, tmp_path: Path, command: Command, refusal: Callable[..., str]
):
    out = tmp_path / "public.plb"
    assert command("export", finished, "--public", "--out", out) == {"bundle": str(out), "public": True}
    with reopened(Path(shutil.copytree(finished, tmp_path / "copy")) / "ledger", LedgerConfig()) as ledger:
        openings = [json.loads(row["opening"]) for row in ledger.book.store.rows("openings")]
    assert openings
    content = out.read_bytes()
    for opening in openings:
        assert opening["samples_salt"].encode() not in content
        assert opening["metrics_salt"].encode() not in content
    report = audit(out)
    assert (report.findings, report.verdict) == ([], Verdict.NOT_VERIFIED)
    assert report.head == audit(finished).head
    assert report.unchecked[0].startswith("the bundle holds no salts, as it is public")
    assert len(report.unchecked) <= 3
    assert "is there already" in refusal("export", finished, "--public", "--out", out)
    assert "has no bundle" in refusal("export", tmp_path, "--public", "--out", tmp_path / "x.plb")


def test_what_opens_the_commitments_is_for_its_owners_eyes(finished: Path):
    for name in ("journal.sqlite", BUNDLE):
        assert (finished / "ledger" / name).stat().st_mode & 0o777 == 0o600, name
