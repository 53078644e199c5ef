"""The audit names every change of a finished run, changes nothing itself, and never ends in a traceback."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from finished import (
    NEW_KEY,
    OFFLINE,
    REAL,
    SALT,
    audit,
    change,
    contents,
    finish,
    names,
    open_count,
    places,
    row_of,
    set_value,
)
from nodes import Listener
from safetensors.numpy import load_file, save_file
from simulators import FEDERATION_ID, LAYOUT, POLICY, SIZE, Faults, Run, request

from engine import encoding
from engine.audit import state
from engine.audit.case import LEFT
from engine.audit.known import Known
from engine.audit.report import Verdict
from engine.audit.run import CHECKS, compare
from engine.errors import LedgerError
from engine.ledger import archive
from engine.ledger.chain.contracts import artefact, call_arguments, call_data
from engine.ledger.chain.embedded import EMBEDDED_COORDINATOR, EmbeddedChain
from engine.ledger.chain.transactions import decode_transaction, sign_transaction
from engine.ledger.format import BUNDLE, PURPOSES, RUN, UNBOUND, vectors_name
from engine.ledger.signing import address, sign
from engine.ledger.subjects.synthetic import (
    SetPolicy,
    SignedRequest,
)
from engine.ledger.subjects.updates import (
    count_commitment,
)
from engine.model import vector_hash

# --- Clean ------------------------------------------------------------------------------------------------------------


LOST = "round {}: that hospitals 1 were lost is the coordinator's word; a receipt of one shows it"


def test_a_clean_folder_is_clean_and_stays_as_it_is(tmp_path: Path):
    folder = finish(Run(tmp_path))
    before = contents(folder)
    report = audit(folder)
    assert report.findings == []
    assert report.notes == [LOST.format(number) for number in (2, 4)]
    assert contents(folder) == before
    assert report.counts.pop("numbers") > 100  # one for each key of the configuration, and the scores
    assert report.counts == {
        "rounds": 4,
        "updates": 10,
        "transactions": 9,
        "openings": 10,
        "signatures": 10,
        "receipts": 10,
        "re-executed": 9,
        "vectors": 10,
        "aggregates": 4,
        "co-signatures": 3,
        "rounds computed again by hospitals": 4,
        "closings": 1,
        "results": 18,
        "predictions": 3,
        "selections": 4,
        "beginnings": 1,
    }
    assert (report.unchecked, report.finished) == ([], True)
    assert report.head == json.loads((folder / "result.json").read_text())["ledger"]["head"]
    assert report.verdict is Verdict.CLEAN
    assert report.lines()[-1] == "verdict: clean"
    assert json.loads(json.dumps(report.to_dict()))["verdict"] == "clean"


@pytest.mark.parametrize("weighting", ["uniform", "none"])
def test_another_rule_than_the_configuration_s_is_the_only_finding_where_all_else_follows_from_it(
    tmp_path: Path, weighting: str
):
    (found,) = audit(finish(Run(tmp_path, weighting=weighting))).findings
    assert (found.record, found.field) == ("meta", "rule")
    assert "weighting='samples'" in str(found.expected)
    assert f"weighting='{weighting}'" in str(found.found)


def test_a_run_with_everything_is_clean_from_folder_and_bundle(original: Path):
    report = audit(original)
    assert (report.findings, report.notes) == ([], [LOST.format(number) for number in (2, 4)])
    assert {"governance", "quotas", "rotations", "verdicts", "reputations"} <= report.counts.keys()
    assert report.counts["governance"] == 17
    alone = audit(original / "ledger" / BUNDLE)
    assert (alone.findings, alone.verdict, alone.head) == ([], Verdict.NOT_VERIFIED, report.head)
    assert alone.unchecked == [
        "the synthetic beats of hospital 0 are not in the evidence",
        "a bundle has no previews of synthetic beats",
        "a bundle has no quality reports, counts of real beats and reasons",
    ]
    # without the folder there is no result.json to compare with: four hashes instead of nineteen values, and no beats, from
    # whose predictions patients, groups of them and calibration follow
    beats = {"previews": 2, "batches": 1, "evidence": 2, "real counts": 8, "reasons": 2, "predictions": 3}
    beats |= {"numbers": alone.counts["numbers"] + 3}
    assert report.counts == alone.counts | beats | {"results": 19}
    assert alone.counts["results"] == 4


def test_a_run_that_stopped_is_unfinished_without_findings(tmp_path: Path):
    run, chain = Run(tmp_path), Faults(EmbeddedChain())
    ledger = run.open(chain=chain)
    archive.write_genesis(run.ledger_folder, run.genesis)
    for number in (1, 2):
        archive.write_round(run.ledger_folder, number, run.vectors(number))
    ledger.append(run.entry(1, ledger.domain))
    chain.fail("send")
    with pytest.raises(OSError, match="power"):
        ledger.append(run.entry(2, ledger.domain))
    # The ledger is still open: what it wrote lies in the write-ahead log only.
    before = contents(tmp_path)
    report = audit(tmp_path)
    assert contents(tmp_path) == before
    ledger.close()
    assert report.findings == []
    assert report.counts["rounds"] == 2
    assert any("(seal of round 2) is recorded, but the run stopped" in note for note in report.notes)
    assert any("no result.json" in note for note in report.notes)
    assert report.verdict is Verdict.UNFINISHED
    assert report.lines()[-1] == "verdict: unfinished (all that is there is consistent)"


@pytest.mark.parametrize("step", ["policy", "request", "rotate"])
def test_a_run_that_stopped_between_rounds_is_unfinished_without_findings(tmp_path: Path, step: str):
    run, chain = Run(tmp_path), Faults(EmbeddedChain())
    with run.open(chain=chain) as ledger:
        archive.write_genesis(run.ledger_folder, run.genesis)
        take, domain = ledger.synthetic.take, ledger.synthetic.domain
        wanted = request(real_count=count_commitment(SALT, REAL))
        asked = SignedRequest(wanted, sign(wanted, domain, run.keys[0]))
        open_count(run.folder, asked.identity(domain))
        steps: dict[str, Callable[[], object]] = {
            "policy": lambda: take(SetPolicy(POLICY)),
            "request": lambda: take(asked),
            "rotate": lambda: ledger.rotate(run.rotation(1, NEW_KEY, 1, ledger.domain)),
        }
        for name, go in steps.items():
            if name == step:
                chain.fail("send")
                with pytest.raises(OSError, match="power"):
                    go()
                break
            go()
    report = audit(tmp_path)
    assert report.findings == []
    assert any(f"({step} of round" in note for note in report.notes)
    assert report.verdict is Verdict.UNFINISHED


def test_one_hospital_and_no_round_are_clean(tmp_path: Path):
    assert audit(finish(Run(tmp_path / "one", hospitals=1))).clean
    assert audit(finish(Run(tmp_path / "none"), rounds=0)).clean


# --- Another history -------------------------------------------------------------------------------------------------


def test_a_last_round_that_is_cut_off_everywhere_still_shows(plain: Path):
    tables = ("rounds", "updates", "openings", "receipts")
    tail = "DELETE FROM transactions WHERE purpose IN ('close', 'finalize') OR purpose = 'seal' AND round = 4"
    cut = [f"DELETE FROM {table} WHERE round = 4" for table in tables]
    change(plain, *cut, tail, "DELETE FROM results", "DELETE FROM closings")
    (plain / "ledger" / vectors_name(4)).unlink()
    found = names(audit(plain))
    assert {("result", "ledger.head"), ("result", "ledger.rounds"), ("model", "model_hash")} <= found
    assert ("closing", "record") in found
    alone = audit(plain / "ledger" / BUNDLE)
    assert {("bundle", "model_hash"), ("closing", "record")} <= names(alone)


def test_a_whole_history_written_anew_shows_against_another_copy(tmp_path: Path):
    """Whoever holds all keys can write another history; the copy that somebody kept gives it away, hospital by hospital."""
    truth = finish(Run(tmp_path / "a"))
    forged = Run(tmp_path / "b")
    forged.samples = lambda slot: 100 + 20 * slot  # type: ignore[method-assign]
    lie = finish(forged)
    assert audit(lie).clean
    report = compare(truth / "ledger" / BUNDLE, lie)
    assert (1, 1, "equivocation", "update") in places(report)
    assert (4, None, "equivocation", "head") in places(report)
    assert compare(truth, truth / "ledger" / BUNDLE).clean


def test_a_run_that_began_from_a_model_of_somebody_s_choice_is_named(tmp_path: Path):
    """It could have learnt from the test beats before; everything else of it is right."""
    run = Run(tmp_path)
    run.genesis = run.genesis + np.float32(0.01)
    run.federation = replace(run.federation, genesis_model=vector_hash(run.genesis, LAYOUT))
    assert places(audit(finish(run))) == {(0, None, "meta", "genesis_model")}


def test_scores_of_hospitals_that_signed_nothing_are_not_verified(tmp_path: Path):
    """Where nobody has stated anything, any score follows from nothing."""
    lie = finish(Run(tmp_path), missing=dict.fromkeys(range(3), "it did not answer"))
    report = audit(lie)
    assert report.verdict is not Verdict.CLEAN
    assert "no hospital signed a result: every reported score is the coordinator's word" in report.unchecked


@pytest.mark.parametrize(("role", "found"), [("AUDITOR_ROLE", set()), ("COORDINATOR_ROLE", {("transaction", "role")})])
def test_who_was_given_a_role_is_told(tmp_path: Path, role: str, found: set[tuple[str, str]]):
    run = Run(tmp_path)
    folder, friend = finish(run), address(b"\x32" * 32)
    with run.open() as ledger:
        ledger.rounds.grant(role, friend)
    change(folder, "UPDATE meta SET key = key")  # writes the bundle anew
    report = audit(folder)
    assert names(report) == found
    assert (f"the admin made {friend} an auditor, who decides disputes" in report.notes) is (not found)


def test_an_end_that_was_signed_twice_shows_against_another_copy(tmp_path: Path, simple: Path):
    """By itself a coordinator's word that a hospital is missing cannot be told from the truth."""
    lie = finish(Run(tmp_path / "a"), missing={2: "it did not answer"})
    report = compare(simple, lie)
    assert names(report) == {("equivocation", "closing")}
    assert report.counts["co-signatures"] == 2
    assert not compare(simple, finish(Run(tmp_path / "b"), rounds=2)).clean


def test_a_hospital_that_signs_two_results_shows_against_another_copy(tmp_path: Path, simple: Path):
    run = Run(tmp_path)
    signed = run.results
    run.results = lambda number, head, domain, contents: signed(  # type: ignore[method-assign]
        number, head, domain, {**contents, 1: contents[1] + " "}
    )
    places_ = places(compare(finish(run), simple))
    assert places_ == {(None, 1, "equivocation", "result"), (None, None, "equivocation", "closing")}


def test_copies_of_different_runs_cannot_contradict(tmp_path: Path, simple: Path):
    one = finish(Run(tmp_path, hospitals=2), rounds=1)
    report = compare(one, simple)  # same id, same contract, other members
    assert ("equivocation", "head") in names(report)


def resigned(folder: Path, where: str, function: str, *arguments: Any) -> tuple[int, bytes]:
    """A transaction of the journal with other content under the same number, signed by the coordinator's key."""
    rowid, row = row_of(folder, "transactions", where)
    content, purpose = decode_transaction(row["raw"]), PURPOSES[row["purpose"]]
    data = call_data(function, *arguments, contract=purpose.contract)
    sending = (content["chain_id"], content["nonce"], content["to"], data, purpose.gas, 0, 10**10)
    return rowid, sign_transaction(EMBEDDED_COORDINATOR, *sending)


def test_another_transaction_with_a_valid_signature_is_named(plain: Path):
    """The coordinator's key signs a seal with another model: hash and signature are right, the content is not."""
    where = "purpose = 'seal' AND round = 2"
    _, row = row_of(plain, "transactions", where)
    _, arguments = call_arguments(decode_transaction(row["raw"])["data"])
    header = tuple({**arguments["header"], "model": b"\x99" * 32}.values())
    given = (FEDERATION_ID, header, arguments["submissions"], arguments["next"])
    rowid, forged = resigned(plain, where, "sealRound", *given)
    statement = "UPDATE transactions SET raw = ?, hash = ? WHERE rowid = ?"
    change(plain, statement, arguments=(forged, encoding.keccak(forged), rowid))
    found = places(audit(plain))
    assert (2, None, "transaction", "model") in found
    assert (3, None, "transaction", "status") in found


# --- Changed files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [1, 2, 3, 4])
def test_what_a_closed_run_leaves_behind_is_named_where_it_is_not_there(plain: Path, gone: int):
    """As after a process that was killed right after the closing, or a hand that deleted it: nobody can tell which."""
    for name in LEFT[-gone:]:
        (plain / name).unlink()
    report = audit(plain)
    assert (report.verdict, report.findings) == (Verdict.NOT_VERIFIED, [])
    assert len(report.unchecked) == 1
    assert f"and {', '.join(LEFT[-gone:])} is not there" in report.unchecked[0]


@pytest.mark.parametrize("name", [*LEFT[:-1], "config.yaml"])
def test_a_file_that_is_gone_from_a_finished_run_is_named(plain: Path, name: str):
    (plain / name).unlink()
    assert {f.record for f in audit(plain).findings} & {"bundle", "predictions", "model", "config"}


def test_without_its_result_a_run_is_held_to_what_its_bundle_reports(plain: Path):
    (plain / "result.json").unlink()
    assert audit(plain).counts["numbers"] > 20


def test_what_nobody_signs_is_listed_once_in_the_report(plain: Path):
    report = audit(plain)
    assert report.to_dict()["unbound"] == UNBOUND
    (line,) = (line for line in report.lines() if line.startswith("not bound: "))
    assert line == f"not bound: {', '.join(UNBOUND)}"


def test_what_nobody_reads_is_listed_and_changes_nothing(folder: Path, original: Path):
    """Whatever is in such a file, it proves nothing; who looks at the folder is told which those are."""
    assert audit(original).unread == ["ledger/journal.lock"]
    more = ("better.json", "ledger/admin.key", "ledger/updates/notes.txt", "synthetic/hospital-2.npz", "own/ab/x.py")
    for name in more:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("7")
    (folder / "away").symlink_to("/")
    report = audit(folder)
    assert report.clean
    assert set(report.unread) == {*more, "ledger/journal.lock", "away"}
    (line,) = [line for line in report.lines() if line.startswith("not read: ")]
    assert "synthetic/hospital-2.npz" in line


def test_a_journal_of_another_format_is_unreadable(plain: Path):
    change(plain, "UPDATE meta SET value = '3' WHERE key = 'format'")
    with pytest.raises(LedgerError, match=f"the journal has format 3, this version reads {RUN.format}"):
        audit(plain)


def test_deadlines_are_those_that_the_configuration_promises(plain: Path):
    text = (plain / "config.yaml").read_text()
    assert "deadline: 86400" in text
    (plain / "config.yaml").write_text(text.replace("deadline: 86400", "deadline: 0"))
    found = {place for place in places(audit(plain)) if place[2] == "transaction"}
    assert found == {(1, None, "transaction", "deadline"), *((n, None, "transaction", "next") for n in (1, 2, 3, 4))}


def test_words_beside_tensors_columns_and_entries_are_named(plain: Path):
    """No digest holds them, and whoever opens the file sees them."""
    for path in (plain / "model.safetensors", plain / "ledger" / vectors_name(1)):
        save_file(load_file(path), path, {"accuracy": "0.99"})
    path = plain / "predictions.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({"accuracy": "0.99"}), path)
    assert {("model", "file"), ("archive", "file"), ("predictions", "file")} <= names(audit(plain))
    bundle = plain / "ledger" / BUNDLE
    whole = bundle.read_bytes()
    for changed in (b"another file" + whole, whole[:-2] + b"\x05\x00words"):
        bundle.write_bytes(changed)
        assert {f.record for f in audit(bundle).findings} == {"bundle"}


def test_a_changed_vector_is_named(plain: Path):
    path = plain / "ledger" / vectors_name(2)
    vectors = load_file(path)
    vectors["slot-0002"][5] = np.nextafter(vectors["slot-0002"][5], np.float32(9))
    save_file(vectors, path)
    report = audit(plain)
    assert (2, 2, "archive", "update") in places(report)
    assert "aggregates were not recomputed from round 2 on" in report.notes
    finding = next(f for f in report.findings if f.record == "archive")
    assert finding.expected.startswith("0x")
    assert finding.found.startswith("0x")
    assert finding.expected != finding.found


@pytest.mark.parametrize(
    ("vectors", "place"),
    [
        ({"slot-0000": SIZE, "slot-0002": SIZE - 1}, (2, 2, "archive", "update")),
        ({"slot-0000": SIZE}, (2, 2, "archive", "update")),
        ({"slot-0000": SIZE, "slot-0001": SIZE, "slot-0002": SIZE}, (2, 1, "archive", "update")),
        ({"slot-2": SIZE}, (2, 2, "archive", "update")),
    ],
)
def test_a_wrong_archive_is_named(plain: Path, vectors: dict[str, int], place: tuple):
    path = plain / "ledger" / vectors_name(2)
    save_file({name: np.zeros(size, np.float32) for name, size in vectors.items()}, path)
    assert place in places(audit(plain))


def test_damaged_and_surplus_archives_are_named(plain: Path):
    (plain / "ledger" / vectors_name(1)).write_bytes(b"\xff" * 100)
    (plain / "ledger" / vectors_name(2)).unlink()
    (plain / "ledger" / vectors_name(2)).mkdir()
    archive.write_round(plain / "ledger", 5, {0: np.zeros(SIZE, np.float32)})
    assert {(number, None, "archive", "file") for number in (1, 2, 5)} <= places(audit(plain))


@pytest.mark.parametrize("number", [0, 2])
def test_a_lost_archive_is_not_verified_and_no_finding(plain: Path, number: int):
    (plain / "ledger" / vectors_name(number)).unlink()
    report = audit(plain)
    assert (report.findings, report.verdict) == ([], Verdict.NOT_VERIFIED)
    assert report.unchecked[0].startswith(f"round {number}: the archived vectors are not there")
    assert report.counts.get("aggregates", 0) == max(0, number - 1)


def test_a_changed_model_is_named(plain: Path):
    path = plain / "model.safetensors"
    tensors = load_file(path)
    tensors["bias"][0] = -tensors["bias"][0]
    save_file(tensors, path)
    assert places(audit(plain)) == {(4, None, "model", "model_hash")}
    path.write_bytes(path.read_bytes()[:40])
    assert places(audit(plain)) == {(None, None, "model", "file")}
    path.unlink()
    assert places(audit(plain)) == {(None, None, "model", "file")}


@pytest.mark.parametrize("value", ["0x" + "99" * 32, 5, None, ["0x"], -1])
@pytest.mark.parametrize(
    "name",
    ["model_hash", "config_hash"] + [f"ledger.{n}" for n in ("head", "contract", "chain_id", "updates", "rounds")],
)
def test_a_changed_result_is_named(plain: Path, name: str, value: object):
    path = plain / "result.json"
    result = json.loads(path.read_text())
    *parents, key = name.split(".")
    inner = result[parents[0]] if parents else result
    inner[key] = value
    path.write_text(json.dumps(result))
    bound = {(None, None, "result", "digest")} if not parents else set()
    assert places(audit(plain)) == {(None, None, "result", name), *bound}


def test_a_result_without_values_or_form_is_named(plain: Path):
    path = plain / "result.json"
    path.write_text('{"ledger": 5}')
    assert ("result", "ledger.head") in names(audit(plain))
    for text in ("[" * 100_000, "{", "\udcff"):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        assert places(audit(plain)) == {(None, None, "result", "file")}


def on_a_node(folder: Path, url: str) -> None:
    """The journal says that it is on a node of the chain 4242."""
    change(
        folder,
        "UPDATE meta SET value = json_set(value, '$.name', 'rpc', '$.url', ?) WHERE key = 'backend'",
        arguments=(url,),
    )
    change(folder, "UPDATE meta SET value = json_set(value, '$.chain_id', 4242) WHERE key = 'domain'")


def test_the_back_end_is_that_of_the_chain_that_everybody_signed_for(plain: Path):
    """A journal cannot have a ledger of a node checked by replaying it here, nor one of this machine by a node of its choice."""
    change(plain, "UPDATE meta SET value = json_set(value, '$.name', 'rpc', '$.url', 'http://a') WHERE key = 'backend'")
    assert ("meta", "backend") in names(audit(plain))
    change(plain, "UPDATE meta SET value = json_set(value, '$.name', 'embedded') WHERE key = 'backend'")
    change(plain, "UPDATE meta SET value = json_set(value, '$.chain_id', 4242) WHERE key = 'domain'")
    report = audit(plain, [state.check])
    assert names(report) == {("meta", "backend")}
    assert "re-executed" not in report.counts


def test_a_node_is_the_auditors_choice(plain: Path):
    """The one that the journal names is never asked: with no node of one's own, nothing on the chain is verified."""
    with Listener() as listener:
        on_a_node(plain, listener.url)
        report = audit(plain, [state.check])
        assert (report.findings, report.verdict) == ([], Verdict.NOT_VERIFIED)
        assert [note.partition(":")[0] for note in report.unchecked] == ["the node was not asked"]
        assert listener.asked == 0
        report = audit(plain, [state.check], Known(rpc="http://127.0.0.1:9"))
        assert [note.partition(":")[0] for note in report.unchecked] == ["the chain was not compared"]
        assert listener.asked == 0
        audit(plain, [state.check], Known(rpc=listener.url))
        assert listener.asked > 0


def test_a_ledger_that_the_auditor_knows_on_a_node_is_not_replayed_here(plain: Path):
    report = audit(plain, [state.check], Known(rpc="http://127.0.0.1:9"))
    assert names(report) == {("meta", "backend")}
    assert "re-executed" not in report.counts


def test_head_and_contract_can_be_pinned(plain: Path):
    head = audit(plain, ()).head
    assert head is not None
    contract = json.loads((plain / "result.json").read_text())["ledger"]["contract"]
    report = audit(plain, known=Known(head=bytes.fromhex(head[2:]), contract=contract))
    assert report.clean
    assert report.counts["pinned"] == 2
    connection = sqlite3.connect(plain / "ledger" / RUN.file)
    (first,) = connection.execute("SELECT head FROM rounds WHERE round = 1").fetchone()
    connection.close()
    report = audit(plain, (), Known(head=first))
    assert report.notes == ["the head that was asked for is that of round 1; the ledger went on since"]
    report = audit(plain, (), Known(head=bytes(32), contract=address(NEW_KEY)))
    assert names(report) == {("chain", "head"), ("chain", "contract")}


@pytest.mark.parametrize(
    ("column", "edit"),
    [
        ("raw", lambda raw: raw.replace(bytes.fromhex(artefact()["bytecode"][2:62]), b"\x5b" * 30)),  # other code
        ("purpose", lambda purpose: "unknown"),
    ],
)
def test_nothing_is_executed_that_is_not_this_versions(plain: Path, column: str, edit: Callable[[Any], Any]):
    rowid, row = row_of(plain, "transactions", "purpose = 'deploy'")
    set_value(plain, "transactions", rowid, column, edit(row[column]))
    report = audit(plain, [state.check])
    assert "re-executed" not in report.counts
    assert report.unchecked[0].startswith("the transactions were not executed again: transaction 1 ")


@pytest.mark.parametrize("what", ["gas", "to"])
def test_a_transaction_beyond_the_bounds_is_not_executed(plain: Path, what: str):
    rowid, row = row_of(plain, "transactions", "purpose = 'seal'")
    old = decode_transaction(row["raw"])
    gas, to = (10**9, old["to"]) if what == "gas" else (old["gas"], address(NEW_KEY))
    raw = sign_transaction(
        EMBEDDED_COORDINATOR, EmbeddedChain().chain_id, old["nonce"], to, old["data"], gas, 0, 10**10
    )
    set_value(plain, "transactions", rowid, "raw", raw)
    report = audit(plain, [state.check])
    assert "re-executed" not in report.counts
    assert report.unchecked[0].startswith("the transactions were not executed again: transaction ")


# --- The checks -------------------------------------------------------------------------------------------------------


def test_no_check_depends_on_another_one(original: Path, simple: Path):
    """Each alone, and all the other way round, say what they say in their place."""
    for folder in (original, simple):
        whole = audit(folder)
        for check in CHECKS:
            alone = audit(folder, [check])
            assert alone.clean
            assert all(number <= whole.counts[name] for name, number in alone.counts.items())
        backwards = audit(folder, CHECKS[::-1])
        assert (backwards.counts, backwards.findings) == (whole.counts, whole.findings)


def test_what_evidence_says_cannot_move_the_cursor(folder: Path):
    """Text of a journal could otherwise write a line of its own into the report."""
    rowid, _ = row_of(folder, "synthetic", "kind = 'expire'")
    set_value(folder, "synthetic", rowid, "kind", "x\nverdict: clean\r\x1b[2J\u202e")
    report = audit(folder, OFFLINE)
    assert any(f.found == "x\\nverdict: clean\\r\\x1b[2J\\u202e" for f in report.findings)
    assert report.lines()[-1] == f"verdict: findings ({len(report.findings)})"
    assert [line for line in report.lines() if line.startswith("verdict")] == report.lines()[-1:]
