"""The auditor's pages: a verdict, what is in the journal, proofs to take along, bundles that are brought."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from browsed import Visitor, desk_on
from finished import audit, set_value

from dashboard.judging import Judges
from engine.errors import DataError
from engine.ledger import proofs


@pytest.fixture
def auditor(ledgered: Path) -> Visitor:
    return Visitor(desk_on(ledgered), "auditor")


def test_a_verdict_has_its_grade_and_head(auditor: Visitor, ledgered: Path) -> None:
    report = audit(ledgered / "full")
    page = auditor.get("/audit/full")
    assert page.status_code == 200
    assert f"Verdict: {report.verdict} (grade {report.verdict.code})" in page.text
    assert str(report.head) in page.text
    document = auditor.get("/audit/full/report")
    assert document.headers["content-disposition"] == 'attachment; filename="full-audit.json"'
    assert document.json()["verdict"] == str(report.verdict)
    assert auditor.get("/audit/full?head=0x12").status_code == 422


def test_findings_are_named_with_their_place(ledgered: Path, tmp_path: Path) -> None:
    shutil.copytree(ledgered / "full", tmp_path / "home" / "full")
    set_value(tmp_path / "home/full", "rounds", 2, "model", b"\x01" * 32)
    auditor = Visitor(desk_on(tmp_path / "home"), "auditor")
    page = auditor.get("/audit/full").text
    assert "Verdict: findings (grade 1)" in page
    assert re.search(r"<tr><td>–</td><td>2</td><td>–</td><td>round\.\w+</td>", page)


def test_a_bundle_is_brought_and_judged_and_a_tampered_one_is_told(auditor: Visitor, ledgered: Path) -> None:
    whole = (ledgered / "full/ledger/bundle.plb").read_bytes()
    at = whole.index(b"slot-0001") + 400
    for name, content, grade in (
        ("whole.plb", whole, "not verified"),
        ("<b>.plb", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], "findings"),
        ("no.plb", b"no archive at all", "unreadable"),
    ):
        sent = auditor.post("/audit/upload", files={"bundle": (name, content)})
        assert sent.status_code == 303, sent.text
        page = auditor.get(sent.headers["location"])
        assert f"Verdict: {grade}" in page.text, name
        assert "<b>" not in page.text
    first, second = (re.findall(r'href="/audit/(bundle-\d)"', auditor.get("/audit").text))[:2]
    compared = auditor.get("/audit/compare", params={"one": first, "other": second})
    assert compared.status_code == 200
    assert "Whether they are the same" in compared.text
    assert auditor.get("/audit/compare", params={"one": first}).status_code == 422


def test_two_copies_that_are_clean_and_differ_are_not_called_the_same(ledgered: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in ("full", "again"):
        shutil.copytree(ledgered / "full", home / name)
    set_value(home / "again", "updates", 3, "leaf", b"\x01" * 32)
    auditor = Visitor(desk_on(home), "auditor")
    same = auditor.get("/audit/compare", params={"one": "full", "other": "full"}).text
    assert "The same rounds, updates, transactions and steps." in same
    assert '"verdict good"' in same
    other = auditor.get("/audit/compare", params={"one": "full", "other": "again"}).text
    assert '"verdict good"' not in other
    assert "They differ: updates." in other
    assert "1 of them not in the other" in other


def test_a_proof_shows_that_a_hospital_was_in_a_round_or_was_not(auditor: Visitor, ledgered: Path) -> None:
    for round, hospital, there in ((1, 1, True), (2, 1, False)):  # the second hospital is away in even rounds
        page = auditor.get("/audit/full/journal", params={"round": round, "hospital": hospital})
        assert f"Hospital {hospital} {'was' if there else 'was not'} in round {round}" in page.text
        href = re.search(r'href="(/audit/full/proof[^"]+)"', page.text)
        assert href is not None
        answer = auditor.get(href[1].replace("&amp;", "&"))
        checked = proofs.check(answer.json())
        assert (checked.round, checked.slot, checked.update is not None) == (round, hospital, there)
    assert auditor.get("/audit/full/proof?round=99&hospital=1").status_code == 422
    for round, hospital in ((99, 1), (1, 99)):
        page = auditor.get("/audit/full/journal", params={"round": round, "hospital": hospital}).text
        assert "There is no such hospital, or no such round" in page
        assert "/proof?" not in page


def test_a_bundle_that_was_brought_gives_the_same_proofs_as_its_run(ledgered: Path) -> None:
    bundle = (ledgered / "full/ledger/bundle.plb").read_bytes()
    auditor = Visitor(desk_on(ledgered), "auditor")
    assert auditor.post("/audit/upload", files={"bundle": ("run.plb", bundle)}).status_code == 303
    for round, hospital in ((1, 1), (2, 1)):
        asked = {"round": round, "hospital": hospital}
        assert "/audit/bundle-1/proof?" in auditor.get("/audit/bundle-1/journal", params=asked).text
        given = auditor.get("/audit/bundle-1/proof", params=asked).json()
        assert given == auditor.get("/audit/full/proof", params=asked).json()
        assert proofs.check(given).slot == hospital
    assert auditor.get("/audit/bundle-1/proof?round=99&hospital=1").status_code == 422


def test_a_bundle_whose_rows_do_not_fit_gives_no_proof(ledgered: Path, tmp_path: Path) -> None:
    """Some other leaf, a leaf that is none, rows without their columns: a sentence each, never a proof."""
    source, auditor = ledgered / "full/ledger/bundle.plb", Visitor(desk_on(ledgered), "auditor")
    for number, (old, new) in enumerate(
        ((b'"leaf": "0x', b'"leaf": "0y'), (b'"round": 1', b'"round": "1"'), (b'"root"', b'"r00t"')), 1
    ):
        with zipfile.ZipFile(source) as archive, zipfile.ZipFile(tmp_path / "bad.plb", "w") as bad:
            for entry in archive.infolist():
                data = archive.read(entry)
                bad.writestr(entry, data.replace(old, new) if entry.filename.startswith("journal/") else data)
        auditor.post("/audit/upload", files={"bundle": ("bad.plb", (tmp_path / "bad.plb").read_bytes())})
        place = re.findall(r'href="/audit/(bundle-\d+)"', auditor.get("/audit").text)[-1]
        answer = auditor.get(f"/audit/{place}/proof?round=1&hospital=1")
        assert answer.status_code == 422, number
        assert "Something failed" not in answer.text


def test_the_journal_is_looked_through_by_hospital_round_record_and_transaction(
    auditor: Visitor, ledgered: Path
) -> None:
    whole = auditor.get("/audit/full/journal").text
    rounds, updates, transactions = (int(n) for n in re.findall(r"<caption>\w+ \((\d+)\)", whole))
    assert rounds == 4
    one = auditor.get("/audit/full/journal?round=3").text
    assert re.findall(r"<caption>Rounds \((\d+)\)", one) == ["1"]
    seals = auditor.get("/audit/full/journal?transaction=seal").text
    assert re.findall(r"<caption>Transactions \((\d+)\)", seals) == ["4"]
    head = re.findall(r"0x[0-9a-f]{64}", one)[-1]
    assert re.findall(
        r"<caption>Transactions \((\d+)\)", auditor.get(f"/audit/full/journal?transaction={head}").text
    ) != [str(transactions)]
    mine = auditor.get("/audit/full/journal?hospital=1").text
    assert 0 < int(re.findall(r"<caption>Updates \((\d+)\)", mine)[0]) < updates
    assert auditor.get("/audit/full/journal?hospital=one").status_code == 422


def test_governance_is_told_in_its_order(auditor: Visitor) -> None:
    page = auditor.get("/audit/full/governance").text
    kinds = re.findall(r"<li><strong>(\w+)</strong>", page)
    assert kinds[:2] == ["reviewer", "policy"]
    assert kinds.count("request") == 8
    assert kinds.index("request") < kinds.index("review") < kinds.index("report")
    assert "approved, 8 beats" in page


def test_without_a_mechanism_or_a_registration_that_is_said(auditor: Visitor, small: Path) -> None:
    assert "No mechanism that keeps an account was used" in auditor.get("/audit/full/privacy").text
    study = Visitor(desk_on(small), "auditor")
    assert "nothing was registered" in study.get("/audit/small/registration").text
    assert "choose one of its runs" in study.get("/audit/small/journal").text


def test_what_each_hospital_has_spent_of_privacy_is_shown(ledgered: Path, tmp_path: Path) -> None:
    shutil.copytree(ledgered / "full", tmp_path / "home" / "full")
    path = tmp_path / "home/full/result.json"
    result = json.loads(path.read_text())
    result["privacy"] = {
        "mechanism": "<i>",
        "epsilon": 1.5,
        "delta": 1e-7,
        "alone": 9.5,
        "hospitals": [{"id": 0, "epsilon": 1.25, "told": True}, "x"],
    }
    path.write_text(json.dumps(result))
    page = Visitor(desk_on(tmp_path / "home"), "auditor").get("/audit/full/privacy").text
    for value in ("1.25", "&lt;i&gt;", "1e-07", "9.5"):
        assert f">{value}<" in page


@pytest.mark.long
def test_the_judge_is_the_command_in_a_process_of_its_own(ledgered: Path, tmp_path: Path) -> None:
    judged = Judges()
    report = judged(ledgered / "full")
    assert report["verdict"] == str(audit(ledgered / "full").verdict)
    assert judged(tmp_path)["verdict"] == "unreadable"
    assert judged(ledgered / "full", "--against", str(ledgered / "full"))["findings"] == []
    with pytest.raises(DataError, match="gave no answer"):
        judged(ledgered / "full", "--no-such-flag")
    judged.close()
    with pytest.raises(DataError, match="has ended"):
        judged(tmp_path)
