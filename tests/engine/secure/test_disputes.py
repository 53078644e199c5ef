"""Openings of masked updates: who is innocent can show it, who is not is found by what it signed, and silence counts as fraud."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import audit

from engine.audit import opening, secure
from engine.audit.case import Case
from engine.audit.evidence import Evidence
from engine.audit.reading import read
from engine.audit.report import Verdict
from engine.encoding import hexed, unhexed
from engine.errors import LedgerError
from engine.experiment import run
from engine.secure import masks
from sweeps import ledger, openings
from sweeps.__main__ import main

WEEK = 7 * 86_400


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("disputed") / "run"
    five = {"cohort.hospitals": 5, "data.simulated.patients": 6, "ledger.backend": "embedded", "ledger.window": 0}
    run(tiny_config(**five, **{"aggregation.secure.method": "masks", "federation.rounds": 1}), folder)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    openings.unlock(folder, 1, 2, None, folder.parent / "whole.json")
    return json.loads((folder.parent / "whole.json").read_text())


@pytest.fixture(scope="module")
def case(folder: Path) -> Case:
    reading = read(Evidence(folder))
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value


def test_an_honest_hospital_is_innocent_and_the_others_stay_hidden(case: Case, whole: dict[str, Any]):
    found = opening.judge(case, 1, 2, whole)
    assert (found.reasons, found.fraud, found.unopened) == ((), False, 4)
    assert found.opened == found.chunks == 3
    assert opening.judge(case, 1, 2, whole, others=2).unopened == 2


def test_what_is_opened_is_the_update_that_a_run_without_masks_archives(
    folder: Path, whole: dict, tiny_config, tmp_path: Path
):
    from safetensors.numpy import load_file

    five = {"cohort.hospitals": 5, "data.simulated.patients": 6, "ledger.backend": "embedded", "ledger.window": 0}
    result = run(tiny_config(**five, **{"federation.rounds": 1}), tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "ledger" / "updates" / "00001.safetensors")["slot-0002"]
    samples = result.cohort.hospitals[2].train
    numbers = np.frombuffer(unhexed(whole["update"]), "<i8")
    assert numbers[-1] == samples
    assert (numbers[:-1] == np.rint(plain.astype(float) * samples * 2.0**36).astype(np.int64)).all()


def changed(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda document: {**document, **values}


def _other_update(document: dict[str, Any]) -> dict[str, Any]:
    numbers = np.frombuffer(unhexed(document["update"]), "<i8").copy()
    numbers[7] += 1
    return {**document, "update": hexed(numbers.tobytes())}


LIES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], list[str]]] = {
    "another update": (_other_update, ["not the one that was committed to", "do not give the masked update"]),
    "another salt": (changed(salt=hexed(bytes(32))), ["not the one that was committed to"]),
    "another seed": (changed(own=hexed(bytes(32))), ["secrets that are shown are not those that were signed"]),
    "another key": (changed(pair=hexed(b"\x05" * 32)), ["secrets that are shown are not those that were signed"]),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_opening_that_is_not_what_was_signed_is_fraud(case: Case, whole: dict[str, Any], lie: str):
    alter, says = LIES[lie]
    found = opening.judge(case, 1, 2, alter(whole))
    assert found.fraud
    assert len(found.reasons) == len(says)
    assert all(part in reason for part, reason in zip(says, found.reasons, strict=True))


def test_a_hospital_that_masked_something_else_than_it_committed_to_is_found(case: Case, whole: dict[str, Any]):
    """It signed a commitment to a small update, and shows that; what it has sent is another one."""
    large = np.frombuffer(unhexed(whole["update"]), "<i8")
    small = np.append(large[:-1] // 2, large[-1:])
    context = secure.context_of(case, 1, 0)
    lied = masks.committed(context, 2, small, unhexed(whole["salt"]))
    said = case.rounds[1].maskings[0]
    keys = {**said.keys, 2: said.keys[2]._replace(commitment=lied)}
    entry = replace(case.rounds[1], maskings=(replace(said, keys=keys),))
    found = opening.judge(replace(case, rounds={1: entry}), 1, 2, {**whole, "update": hexed(small.tobytes())})
    assert found.reasons == ("the update and its masks do not give the masked update that was sent",)


def test_an_update_beyond_the_bound_is_found(case: Case, whole: dict[str, Any]):
    largest = opening.judge(case, 1, 2, whole).largest
    assert not opening.judge(case, 1, 2, whole, bound=largest).fraud
    assert "beyond the bound" in opening.judge(case, 1, 2, whole, bound=largest * 0.99).reasons[0]


def test_chunks_that_nobody_chose_prove_a_bound_and_open_nothing_else(
    folder: Path, case: Case, whole: dict, tmp_path: Path
):
    done = openings.unlock(folder, 1, 2, 2, tmp_path / "chunks.json")
    document = json.loads((tmp_path / "chunks.json").read_text())
    found = opening.judge(case, 1, 2, document)
    assert (found.reasons, found.opened, found.chunks, found.unopened) == ((), 2, 3, 5)
    assert done["unopened"] == 5
    assert found.escapes(1) == pytest.approx(1 / 3)  # of three chunks one is not drawn
    numbers = np.frombuffer(unhexed(whole["update"]), "<i8")
    for row in document["chunks"]:
        place = 1024 * row["position"]
        assert unhexed(row["numbers"]) == numbers[place : place + 1024].tobytes()
    other = json.loads(json.dumps(document))
    other["chunks"][0]["numbers"] = "0x" + "00" * (len(other["chunks"][0]["numbers"]) // 2 - 1)
    assert "does not lead to what was committed to" in opening.judge(case, 1, 2, other).reasons[0]
    fewer = {**document, "chunks": document["chunks"][1:]}
    chosen = opening.judge(case, 1, 2, fewer).reasons
    drawn_first = [reason for reason in chosen if "draws" in reason]
    assert drawn_first or fewer["chunks"][0]["position"] == openings.opening.drawn_chunks(case.head(1), 2, 3, 1)[0]


@pytest.mark.parametrize(
    "document", [{}, [], {"kind": "whole"}, {"version": 1, "kind": "chunks", "size": 5, "chunks": []}]
)
def test_what_is_no_opening_is_refused_in_a_sentence(case: Case, document: Any):
    with pytest.raises(LedgerError, match="no opening"):
        opening.judge(case, 1, 2, document)


def test_damaged_values_of_an_opening_are_refused_or_fraud(case: Case, whole: dict[str, Any]):
    for name in ("update", "salt", "own", "pair"):
        for value in ("0x", "0x00", 5, None, "x", "0x" + "ff" * 31):
            try:
                found = opening.judge(case, 1, 2, {**whole, name: value}).reasons
            except LedgerError as error:
                found = (str(error),)
            assert found, (name, value)


@pytest.mark.long
def test_a_hospital_has_its_time_whatever_else_makes_the_clock_of_an_embedded_chain_jump(
    folder: Path, tmp_path: Path, capsys
):
    """Silence of one, and rounds that become final, would take the time of another away."""
    copy, now = Path(shutil.copytree(folder, tmp_path / "run")), time.time()
    first, second = [str(copy), "1", "0"], [str(copy), "1", "4"]
    assert openings.challenge(copy, 1, 0, None, lambda: now)["unopened"] == 4
    assert openings.challenge(copy, 1, 4, None, lambda: now + WEEK / 2)["unopened"] == 3
    with pytest.raises(LedgerError, match=r"hospital 4 may answer in round 1 until .* one clock for all"):
        openings.overdue(copy, 1, 0, lambda: now + WEEK + 60)
    assert main(["ledger", "open", *second, "--out", str(tmp_path / "opening.json")]) == 0
    assert openings.overdue(copy, 1, 0, lambda: now + WEEK + 60)["fraud"]
    capsys.readouterr()
    assert main(["ledger", "judge", *second]) == 2
    assert main(["ledger", "judge", *second, "--withheld"]) == 1
    assert "was handed to nobody; 4 unopened hospitals hide each other" in capsys.readouterr().out
    assert main(["ledger", "judge", *first, "--withheld"]) == 2  # it has not answered
    found = {(f.round, f.hospital, f.record, f.field) for f in audit(copy).findings}
    assert found == {(1, 0, "masks", "challenge"), (1, 4, "masks", "challenge")}


def test_a_dispute_is_played_through_on_the_chain(folder: Path, tmp_path: Path, capsys):
    """Challenged and innocent; challenged and silent; and no challenge that would uncover the last two."""
    place = [str(folder), "1", "2"]
    file = str(tmp_path / "opening.json")
    assert main(["ledger", "challenge", *place]) == 0
    assert "4 unopened hospitals hide each other" in capsys.readouterr().out
    assert audit(folder).verdict is Verdict.NOT_VERIFIED
    assert main(["ledger", "open", *place, "--out", file]) == 0
    assert main(["ledger", "judge", *place, file, "--tell"]) == 0
    assert "innocent" in capsys.readouterr().out
    assert audit(folder).verdict is Verdict.CLEAN
    assert main(["ledger", "challenge", *place]) == 2  # once
    assert main(["ledger", "challenge", str(folder), "1", "3"]) == 0
    capsys.readouterr()
    assert main(["ledger", "overdue", str(folder), "1", "3"]) == 2
    assert "hospital 3 may answer in round 1 until" in capsys.readouterr().err
    assert openings.overdue(folder, 1, 3, lambda: time.time() + WEEK + 60)["fraud"]
    report = audit(folder)
    assert [(f.round, f.hospital, f.record, f.field) for f in report.findings] == [(1, 3, "masks", "challenge")]
    assert main(["ledger", "challenge", str(folder), "1", "0"]) == 0
    capsys.readouterr()
    assert main(["ledger", "challenge", str(folder), "1", "1"]) == 2
    assert "at least 2 must hide each other" in capsys.readouterr().err
    assert main(["ledger", "challenge", str(folder), "2", "1"]) == 2


@pytest.mark.long
def test_rounds_become_final_after_a_challenged_hospital_has_answered(tiny_config, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    run(tiny_config(**{"cohort.hospitals": 4, "ledger.backend": "embedded", "ledger.window": 1, "federation.rounds": 1,
                       "data.simulated.patients": 6, "aggregation.secure.method": "masks"}), folder)  # fmt: skip
    openings.challenge(folder, 1, 0, None)
    with pytest.raises(LedgerError, match="1 challenged hospital may still answer"):
        ledger.finalize(folder, lambda: time.time() + 60)
    openings.unlock(folder, 1, 0, None, tmp_path / "opening.json")
    assert ledger.finalize(folder, lambda: time.time() + 60)["final"]


def test_another_key_opens_nothing(folder: Path, tmp_path: Path):
    config = folder / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("seed: 0", "seed: 1", 1))
    try:
        with pytest.raises(Exception, match="do not lift the masks"):
            openings.unlock(folder, 1, 4, None, tmp_path / "opening.json")
    finally:
        config.write_text(text)
    assert not (tmp_path / "opening.json").exists()
