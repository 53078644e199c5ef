"""A coordinator that is gone for good: the next in order goes on, with the same bits, and nothing of the old one counts."""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from failing import FAILOVER, PATIENCE, STEPS, Whole, cheating, dying, led_by, same, silent, undisturbed
from finished import change, names, other
from reference import Interrupted, StopAfter, Watch

from engine.audit import result as of_result
from engine.audit import succession
from engine.audit.run import audit, compare
from engine.config import RunConfig
from engine.encoding import keccak
from engine.errors import ConfigError, HospitalError, LedgerError, Stopped
from engine.experiment import Place, run, steps
from engine.ledger.chain.transactions import decode_transaction, sign_transaction
from engine.ledger.format import RUN
from engine.ledger.keyfiles import read_key_file
from engine.ledger.signing import address, sign
from engine.ledger.store import read_only, table_rows
from engine.ledger.subjects.updates import Receipt
from engine.result import RESULT, Result
from sweeps.ledger import opened, resolve

MIDDLE = 14  # before the second round's judges


@pytest.fixture(scope="module")
def whole(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return undisturbed(tiny_config(**FAILOVER), tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def dead(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose coordinator was lost in the middle of the second round, a while ago."""
    folder = tmp_path_factory.mktemp("dead")
    with pytest.raises(Interrupted):
        run(tiny_config(**FAILOVER), folder, dying(MIDDLE))
    silent(folder, 3 * PATIENCE)
    return folder


def copy_of(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place / "copy"))


def notes(folder: Path) -> str:
    report = audit(folder)
    assert report.findings == []
    return "\n".join(report.notes)


def test_the_steps_are_those_of_the_loop_and_of_the_end(whole: Whole):
    a_round = ("schedule.ask", "pool.train", "schedule.take", "masking", "ledger.received", "judges", "rule.merge")
    a_round = (*a_round, "pool.validate", "ledger.round_finished")
    end = ("ledger.finish", "pool.finish", "ledger.summary", "ledger.close", "ledger.bundle")
    assert whole.steps == (*a_round, *a_round, *end)
    assert len(whole.steps) == STEPS
    assert whole.result.ledger.terms is None


def test_the_next_in_order_ends_the_run_with_the_same_bits_and_the_audit_says_who_led(
    whole: Whole, dead: Path, tiny_config, tmp_path: Path
):
    folder, config = copy_of(dead, tmp_path), tiny_config(**FAILOVER)
    silent(folder, PATIENCE)
    result = run(config, folder, led_by("deputy"))
    same(folder, whole)
    [term] = result.ledger.terms
    assert (term.term, term.name, term.round) == (1, "deputy", 2)
    told = notes(folder)
    assert f"deputy {term.account} (term 1) led round 2" in told
    assert "led round 1" in told
    assert "is the word of whoever did" in told


def test_a_hospital_takes_over_once_the_ones_before_it_are_gone_and_the_old_ones_are_refused(
    whole: Whole, dead: Path, tiny_config, tmp_path: Path
):
    folder, config = copy_of(dead, tmp_path), tiny_config(**FAILOVER)
    silent(folder, PATIENCE)
    with pytest.raises(
        LedgerError, match=r"it is too early for 1: .* less than ledger.patience \(60 s for each place\)"
    ):
        run(config, folder, led_by("1"))
    silent(folder, 2 * PATIENCE)
    with pytest.raises(Interrupted):
        run(config, folder, dying(MIDDLE - 9, "1"))
    with pytest.raises(LedgerError, match=r"1 leads this run since round 2 \(term 2\), nothing .* --as 1` goes on"):
        run(config, folder)
    with pytest.raises(LedgerError, match="1 took over already, which stands at or behind deputy"):
        run(config, folder, led_by("deputy"))
    silent(folder, PATIENCE)
    result = run(config, folder, led_by("reserve"))  # the second died as well
    same(folder, whole)
    assert [(term.term, term.name) for term in result.ledger.terms] == [(2, "1"), (3, "reserve")]
    assert "1 0x" in notes(folder)


@pytest.mark.parametrize("named", [["3", "03"], ["deputy", "deputy"], ["16777216"], ["\u0663"], ["coordinator"]])
def test_nobody_is_named_twice_and_no_number_in_another_script(named: list[str], tiny_config):
    with pytest.raises(ConfigError, match="successors"):
        tiny_config(**{**FAILOVER, "ledger.successors": named})


def test_who_may_not_take_over_is_refused_in_a_sentence(dead: Path, tiny_config, tmp_path: Path):
    config = tiny_config(**FAILOVER)
    with pytest.raises(LedgerError, match=r"--as nobody: is none of ledger\.successors; allowed: deputy, 1, reserve"):
        run(config, dead, led_by("nobody"))
    with pytest.raises(LedgerError, match="has no journal, so there is nothing to take over"):
        run(config, tmp_path / "new", led_by("deputy"))
    with pytest.raises(LedgerError, match="there is no hospital 3, the run has 0 to 2"):
        run(tiny_config(**{**FAILOVER, "ledger.successors": [3]}), tmp_path / "other")


def test_a_coordinator_that_comes_back_in_time_goes_on(whole: Whole, dead: Path, tiny_config, tmp_path: Path):
    folder = copy_of(dead, tmp_path)
    assert run(tiny_config(**FAILOVER), folder).ledger.terms is None
    same(folder, whole)


def test_after_the_end_anybody_writes_down_what_it_came_to(whole: Whole, tiny_config, tmp_path: Path):
    folder = copy_of(whole.folder, tmp_path)
    (folder / RESULT).unlink()
    run(tiny_config(**FAILOVER), folder, led_by("deputy"))
    same(folder, whole)
    assert Result.read(folder).ledger.terms is None


def test_the_audit_names_another_order_and_an_order_that_is_missing(whole: Whole, tmp_path: Path):
    folder = copy_of(whole.folder, tmp_path)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace(f"patience: {PATIENCE}", "patience: 61"))
    assert ("succession", "patience") in {(one.record, one.field) for one in audit(folder).findings}
    change(folder, "UPDATE transactions SET purpose = 'abort' WHERE purpose = 'appoint'")
    assert ("succession", "successors") in {(one.record, one.field) for one in audit(folder).findings}


def forged(folder: Path, purpose: str, round: int, key: bytes) -> None:
    """Has somebody else send what a journal holds: as a node's journal may tell it, which is not executed again."""
    seq, raw, receipt = journaled(folder, purpose, round)
    content = decode_transaction(raw)
    given = (content["chain_id"], content["nonce"], content["to"], content["data"], content["gas"], 0, 0)
    other = sign_transaction(key, *given)
    told = {**json.loads(receipt), "transaction": "0x" + keccak(other).hex()}
    statement = "UPDATE transactions SET raw = ?, hash = ?, receipt = ? WHERE seq = ?"
    change(folder, statement, arguments=(other, keccak(other), json.dumps(told), seq))


def journaled(folder: Path, purpose: str, round: int) -> tuple[int, bytes, str]:
    with read_only(folder / "ledger" / RUN.file) as journal:
        rows = list(table_rows(journal, "transactions", RUN.tables["transactions"]))
    [row] = [row for row in rows if (row["purpose"], row["round"]) == (purpose, round)]
    return row["seq"], bytes(row["raw"]), row["receipt"]


def accused(folder: Path) -> dict[str, str]:
    return {one.field: one.message for one in audit(folder, [succession.check]).findings}


def test_the_audit_names_a_usurper_and_what_the_old_one_sent_after_the_takeover(
    dead: Path, tiny_config, tmp_path: Path
):
    folder = copy_of(dead, tmp_path)
    old = read_key_file(folder / "ledger" / "coordinator.key")
    silent(folder, PATIENCE)
    run(tiny_config(**FAILOVER), folder, led_by("deputy"))
    assert accused(folder) == {}
    text = (folder / RESULT).read_text()
    for name, value in json.loads(text)["ledger"]["terms"][0].items():
        said = json.loads(text)
        said["ledger"]["terms"][0][name] = other(value)
        (folder / RESULT).write_text(json.dumps(said))
        assert ("result", "ledger.terms") in names(audit(folder, [of_result.check])), name
    (folder / RESULT).write_text(text)
    aside = Path(shutil.copytree(folder, tmp_path / "aside"))
    forged(aside, "seal", 2, old)
    assert accused(aside) == {"sender": f"seal counts, and {address(old)} sent it, which did not lead then: a usurper"}
    stranger = keccak(b"stranger")
    forged(folder, "take-over", 2, stranger)
    found = accused(folder)
    assert found["account"].startswith(f"{address(stranger)} took over as a usurper")
    assert {"account", "sender"} <= found.keys()  # and whoever sealed after it did not lead


# --- Who has no business there ----------------------------------------------------------------------------------------


def test_a_finished_run_and_one_without_a_ledger_are_led_by_nobody_new(whole: Whole, tiny_config, tmp_path: Path):
    heard: list[str] = []
    folder, config = copy_of(whole.folder, tmp_path), tiny_config(**FAILOVER)
    before = (folder / RESULT).read_bytes()
    run(config, folder, replace(led_by("reserve"), note=heard.append))
    assert heard == [f"{folder} is finished: reserve has nothing to lead"]
    assert (folder / RESULT).read_bytes() == before
    with pytest.raises(LedgerError, match=r"--as nobody: is none of ledger\.successors"):
        run(config, folder, led_by("nobody"))
    with pytest.raises(LedgerError, match=r"--as deputy: is none of ledger\.successors; the run names none"):
        run(tiny_config(), tmp_path / "plain", led_by("deputy"))


def test_a_run_that_was_pruned_is_not_gone_on_with(tiny_config, tmp_path: Path):
    config = tiny_config(**FAILOVER)
    chunks = steps(config, tmp_path, Place(pruned=lambda: True), rungs=[1])
    next(chunks)
    chunks.close()
    for leader in ("", "deputy"):
        silent(tmp_path, 9 * PATIENCE)
        with pytest.raises(LedgerError, match=r"the run has ended after round 1 .* nothing can follow"):
            run(config, tmp_path, led_by(leader))
    assert not (tmp_path / RESULT).exists()


def test_a_stand_in_without_its_key_or_with_another_one_is_refused(dead: Path, tiny_config, tmp_path: Path):
    folder, config = copy_of(dead, tmp_path), tiny_config(**FAILOVER)
    silent(folder, PATIENCE)
    with pytest.raises(
        LedgerError, match=r"^--as deputy: the key here is of account 0x.*, and the chain knows deputy as"
    ):
        run(config, folder, led_by("deputy", keccak(b"stranger")))
    key = folder / "ledger" / "deputy.key"
    key.rename(tmp_path / "elsewhere")
    silent(folder, PATIENCE)
    with pytest.raises(LedgerError, match=r"deputy\.key is missing: it holds the key of this ledger's deputy"):
        run(config, folder, led_by("deputy"))
    silent(folder, PATIENCE)
    run(config, folder, led_by("deputy", read_key_file(tmp_path / "elsewhere")))


def test_a_second_one_waits_for_nobody_and_a_journal_of_another_format_is_refused(
    whole: Whole, dead: Path, tiny_config, tmp_path: Path
):
    folder, config = copy_of(dead, tmp_path), tiny_config(**FAILOVER)
    silent(folder, 2 * PATIENCE)

    def second() -> None:
        with pytest.raises(LedgerError, match="one writer at a time"):
            run(config, folder, led_by("1"))

    run(config, folder, replace(led_by("deputy"), observers=(Watch(2, second),)))
    same(folder, whole)
    old = copy_of(dead, tmp_path / "old")
    with sqlite3.connect(old / "ledger" / RUN.file) as journal:
        journal.execute("UPDATE meta SET value = '7' WHERE key = 'format'")
    silent(old, PATIENCE)
    with pytest.raises(LedgerError, match="format 7"):
        run(config, old, led_by("deputy"))


def test_a_checkpoint_that_is_a_round_behind_its_journal_is_caught_up_with(whole: Whole, tiny_config, tmp_path: Path):
    """As of a copy that was made while the round was sealed."""
    config = tiny_config(**FAILOVER)
    with pytest.raises(Interrupted):
        run(config, tmp_path, dying(MIDDLE))
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(Interrupted):
        run(config, tmp_path, Place(observers=(StopAfter(2),)))
    (tmp_path / "checkpoint.safetensors").write_bytes(kept)
    silent(tmp_path, PATIENCE)
    run(config, tmp_path, led_by("deputy"))
    same(tmp_path, whole)


def test_two_copies_that_both_went_on_are_told_by_who_led_them(dead: Path, tiny_config, tmp_path: Path):
    """Embedded, where nothing but a second look can know; the bits are the same."""
    config, one, other = tiny_config(**FAILOVER), copy_of(dead, tmp_path / "one"), copy_of(dead, tmp_path / "other")
    before = copy_of(dead, tmp_path / "before")
    run(config, one)
    silent(other, PATIENCE)
    [term] = run(config, other, led_by("deputy")).ledger.terms
    [found] = compare(one, other).findings
    assert (found.record, found.field, found.round, found.found) == ("succession", "leader", 2, term.account)
    assert compare(before, other).findings == []  # of an earlier day


def test_a_dispute_is_decided_under_a_successor_too_and_its_run_goes_on(
    whole: Whole, dead: Path, tiny_config, tmp_path: Path
):
    """Whoever disputes or decides leads nothing."""
    folder, config = copy_of(dead, tmp_path), tiny_config(**FAILOVER)
    silent(folder, PATIENCE)
    with pytest.raises(Interrupted):
        run(config, folder, dying(MIDDLE - 9, "deputy"))
    promised = b"\x77" * 32
    with opened(folder) as ledger:
        receipt = Receipt(ledger.registry.federation.id, 1, 0, promised)
        signed = sign(receipt, ledger.domain, read_key_file(folder / "ledger" / "coordinator.key"))
        ledger.disputes.dispute(1, 0, promised, signed)
    silent(folder, 2 * PATIENCE)
    with pytest.raises(LedgerError, match="round 1 is disputed: an auditor must decide"):
        run(config, folder, led_by("reserve"))
    assert resolve(folder, 1, False, None)["status"] == "FINAL"
    run(config, folder, led_by("deputy"))
    same(folder, whole)


# --- A leader that lies about the sum ---------------------------------------------------------------------------------

ROBUST = {**FAILOVER, "aggregation.rule": "median", "ledger.checks": 3, "federation.rounds": 3}


def test_hospitals_refuse_a_wrong_aggregate_of_a_new_leader(tiny_config, tmp_path: Path):
    config = tiny_config(**ROBUST)
    with pytest.raises(Interrupted):
        run(config, tmp_path, dying(MIDDLE))
    silent(tmp_path, PATIENCE)
    with pytest.raises(HospitalError) as refused:
        run(config, tmp_path, cheating(2, "deputy"))
    assert (refused.value.round, refused.value.stage) == (3, "ledger")
    assert re.search(r"the updates of round 2 give model .* \(so say hospitals 0, 1 and 2\)", refused.value.cause)
    silent(tmp_path, 3 * PATIENCE)
    with pytest.raises(HospitalError, match="the updates of round 2 give model"):
        run(config, tmp_path, led_by("reserve"))  # who comes after it passes it on to nobody
    assert not (tmp_path / RESULT).exists()


def test_nobody_takes_what_the_old_leader_left_behind(tiny_config, tmp_path: Path):
    config, sealed, saved = tiny_config(**ROBUST), tmp_path / "sealed", tmp_path / "saved"
    with pytest.raises(Interrupted):
        run(
            config, sealed, cheating(1, observers=(StopAfter(1),))
        )  # before its checkpoint: the round is added up again
    silent(sealed, PATIENCE)
    with pytest.raises(LedgerError, match="round 1 is already recorded with another model"):
        run(config, sealed, led_by("deputy"))
    with pytest.raises(Stopped):
        run(config, saved, cheating(1, stopping=lambda: True))
    silent(saved, PATIENCE)
    with pytest.raises(HospitalError) as refused:
        run(config, saved, led_by("deputy"))
    assert (refused.value.round, refused.value.stage) == (2, "ledger")
    assert "the updates of round 1 give model" in refused.value.cause


def test_where_hospitals_do_not_look_the_audit_names_the_round_and_who_led_it(tiny_config, tmp_path: Path):
    config = tiny_config(**{**ROBUST, "ledger.checks": 0})
    with pytest.raises(Interrupted):
        run(config, tmp_path, dying(MIDDLE))
    silent(tmp_path, PATIENCE)
    [term] = run(config, tmp_path, cheating(2, "deputy")).ledger.terms
    report = audit(tmp_path)
    assert ("round", "model", 2) in {(one.record, one.field, one.round) for one in report.findings}
    assert f"deputy {term.account} (term 1) led rounds 2 to 3" in report.notes
