"""A witness of a study's head: a reply of a time-stamp authority that the test is itself, OpenTimestamps' form, and what is none."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.errors import LedgerError
from engine.ledger.config import LedgerConfig
from engine.ledger.subjects.study import StudyLedger
from sweeps.__main__ import main
from sweeps.audit import audit_records
from sweeps.witness import FOLDER, OPENTIMESTAMPS, ask, attach, check, statement, write_head

OPENSSL = shutil.which("openssl")
AUTHORITY = """
[tsa]
default_tsa = here
[here]
serial = {home}/serial
crypto_device = builtin
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of which one trial has begun."""
    folder = tmp_path / "study"
    ledger = StudyLedger(folder / "ledger", "s/1", LedgerConfig())
    ledger.register({"study": {"name": "s"}, "code": {}}, 2)
    ledger.record(0, "BEGUN", {"trial": 0})
    ledger.close()
    return folder


def told(folder: Path) -> tuple[list[str], list[str]]:
    """Fields of the findings, and notes, about the witnesses of a study."""
    from engine.audit.report import Report

    report = Report()
    case = audit_records(folder / "ledger", Report())
    for one in check(folder, case):
        report.add(one)
    return [f.field for f in report.findings], report.notes


class Authority:
    """A time-stamp authority with a certificate of its own root."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._home, self.root = home, home / "root.pem"
        (home / "conf").write_text(AUTHORITY.format(home=home))
        (home / "serial").write_text("01")
        (home / "ext").write_text("extendedKeyUsage=critical,timeStamping\nkeyUsage=critical,digitalSignature\n")
        key = ("-newkey", "rsa:2048", "-nodes")
        self._openssl(
            "req", "-x509", *key, "-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=Root", "-days", "30"
        )
        self._openssl("req", *key, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=Authority")
        ca = ("-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "30")
        self._openssl("x509", "-req", "-in", "tsa.csr", *ca, "-extfile", "ext", "-out", "tsa.pem")

    def stamp(self, file: Path) -> Path:
        """A reply about a file."""
        reply = self._home / f"{file.stem}.tsr"
        self._openssl("ts", "-query", "-data", str(file), "-sha256", "-cert", "-out", "query")
        signer = ("-signer", "tsa.pem", "-inkey", "tsa.key")
        self._openssl("ts", "-reply", "-config", "conf", "-queryfile", "query", *signer, "-out", str(reply))
        return reply

    def _openssl(self, *words: str) -> None:
        subprocess.run([str(OPENSSL), *words], cwd=self._home, check=True, capture_output=True)


@pytest.mark.skipif(
    OPENSSL is None, reason="openssl, which makes the replies, is not installed (apt-get install openssl)"
)
def test_a_time_stamp_is_kept_checked_and_told(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    here, other = Authority(tmp_path / "here"), Authority(tmp_path / "other")
    assert main(["ledger", "stamp", str(study), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert Path(written["file"]).read_bytes() == statement(written["head"])
    assert (written["covers"], told(study)) == ("record 1", ([], []))
    reply = here.stamp(Path(written["file"]))
    assert main(["ledger", "stamp", str(study), "--file", str(reply), "--ca", str(here.root)]) == 0
    assert "signed by an authority that you trust" in capsys.readouterr().out
    findings, (note,) = told(study)
    assert findings == []
    assert note.startswith("record 1 of the study was there at 20")
    assert attach(study, reply, None)["checked"] is False
    assert main(["ledger", "stamp", str(study), "--file", str(reply), "--ca", str(other.root)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "is not signed by an authority of" in said
    assert main(["ledger", "stamp", str(study), "--ca", str(here.root)]) == 2
    # a history that was written anew has other heads, and the proof gives it away
    kept = shutil.copytree(study / FOLDER, tmp_path / "kept")
    shutil.rmtree(study / "ledger")
    again = StudyLedger(study / "ledger", "s/1", LedgerConfig())
    again.register({"study": {"name": "s"}, "code": {"changed": True}}, 2)
    again.record(0, "BEGUN", {"trial": 0})
    again.close()
    shutil.copytree(kept, study / FOLDER)
    findings, notes = told(study)
    assert (len(findings), notes) == (1, [])
    with pytest.raises(LedgerError, match="the digest of no head of this study"):
        attach(study, reply, None)


def test_an_opentimestamps_proof_is_compared_by_its_digest(study: Path, tmp_path: Path):
    head = write_head(study)["head"]
    proof = tmp_path / "head.txt.ots"
    proof.write_bytes(OPENTIMESTAMPS + hashlib.sha256(statement(head)).digest() + b"\xf0\x10rest")
    done = attach(study, proof, None)
    assert (done["head"], done["kind"], done["time"], done["checked"]) == (head, "OpenTimestamps", "", False)
    assert told(study)[0] == []
    proof.write_bytes(OPENTIMESTAMPS + bytes(32))
    with pytest.raises(LedgerError, match="the digest of no head of this study"):
        attach(study, proof, None)


@pytest.mark.parametrize("content", [b"", b"text", b"\x30\x03\x02\x01\x00", OPENTIMESTAMPS, bytes(2000)])
def test_what_is_no_proof_is_refused_and_named(study: Path, tmp_path: Path, content: bytes):
    proof = tmp_path / "x.tsr"
    proof.write_bytes(content)
    with pytest.raises(LedgerError, match=r"is no time-stamp reply|is about"):
        attach(study, proof, None)
    (study / FOLDER).mkdir(parents=True)
    (study / FOLDER / "x.tsr").write_bytes(content)
    assert told(study) == (["witness/x.tsr"], [])


def test_a_chain_in_the_folder_has_no_other_node(study: Path, tmp_path: Path):
    with pytest.raises(LedgerError, match="embedded in its folder, no node has it"):
        ask(study, "http://localhost:1")
    with pytest.raises(LedgerError, match="there is no journal"):
        write_head(tmp_path)
