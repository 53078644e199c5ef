"""The reviewer's pages: what waits, decisions, receipts, and what a reviewer is not shown."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsed import Visitor, desk_on
from governed import HUMAN, OPEN, Flow

from dashboard.reviewer import bounds
from engine.config import RunConfig
from engine.data.cohort import build_cohort
from engine.errors import LedgerError, ReviewPending
from engine.ledger.signing import address, recover, reviewer_key
from engine.ledger.subjects.synthetic import SyntheticReview
from engine.ledger.typed import record_from_json
from engine.result import WAITS
from engine.synthesis.config import PolicyConfig
from engine.synthesis.reviews import read_state, receipt, withdraw, write_review
from sweeps.governance import status_of


@pytest.fixture(scope="module")
def flow(tiny_config: Callable[..., RunConfig]) -> Flow:
    config = tiny_config(**{**HUMAN, **OPEN, "balance.policy.preview": 12})
    return Flow(config, build_cohort(config.data, config.cohort))


@pytest.fixture(scope="module")
def parked(flow: Flow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that waits for its reviewer."""
    folder = tmp_path_factory.mktemp("parked") / "run"
    with pytest.raises(ReviewPending):
        flow(folder)
    (folder / "config.yaml").write_text("name: run\n")
    return folder


@pytest.fixture
def run(parked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(parked, tmp_path / "home" / "run"))


@pytest.fixture
def reviewer(run: Path) -> Visitor:
    return Visitor(desk_on(run.parent), "reviewer")


def waiting(run: Path) -> list[str]:
    return [row.request for row in read_state(run).requests if status_of(run, row) in WAITS]


def form(reviewer: Visitor, request: str, what: str = "decide", **values: Any) -> Any:
    return reviewer.post(f"/requests/run/{request}/{what}", values)


def test_an_approval_of_fewer_is_signed_kept_and_taken_by_the_run(reviewer: Visitor, run: Path, flow: Flow) -> None:
    first, *others = waiting(run)
    page = reviewer.get("/requests").text
    assert f"{1 + len(others)} wait for you" in page
    assert page.index(first[:16]) < page.index("History")
    asked = next(row for row in read_state(run).requests if row.request == first)
    assert asked.allowed > 2
    page = reviewer.get(f"/requests/run/{first}").text
    assert f"at least {asked.real_floor} real beats of class {asked.class_} are there" in page
    assert form(reviewer, first, decision="approve", granted=2, reason="two <are> enough").status_code == 303
    page = reviewer.get(f"/requests/run/{first}").text
    assert "Decided: approved, 2 beats; the run takes it when it goes on" in page
    assert "two &lt;are&gt; enough" in page
    said = reviewer.get(f"/requests/run/{first}/receipt").json()
    state = read_state(run)
    signer = address(reviewer_key(state.seed, bytes.fromhex(state.federation)))
    review = record_from_json(SyntheticReview, said["record"])
    assert recover(review, bytes.fromhex(said["signature"][2:]), state.domain) == signer
    assert (review.request.hex(), review.approve, review.granted) == (first, True, 2)
    sent = reviewer.post(
        "/requests/bulk", {"chosen": [f"run/{one}" for one in others], "decision": "deny", "reason": "no"}
    )
    assert sent.text.count(": denied") == len(others)
    assert reviewer.get("/requests").text.count("<td>denied; not taken yet</td>") == len(others)
    assert "<td>approved, 2 beats; not taken yet</td>" in reviewer.get("/requests").text
    flow(run)
    ended = {row.request: row for row in read_state(run).requests}
    assert (ended[first].status, ended[first].granted) == ("accepted", 2)
    assert {ended[one].status for one in others} <= {"denied"}
    page = reviewer.get("/requests").text
    assert "Nothing waits." in page
    assert "two &lt;are&gt; enough" in page
    page = reviewer.get(f"/requests/run/{first}").text
    assert page.count("<meter") == 16  # of the preview, and of the batch
    assert "Nothing more is to be decided." in page


def test_what_cannot_be_decided_is_refused_in_a_sentence(reviewer: Visitor, run: Path) -> None:
    first = waiting(run)[0]
    allowed = next(row.allowed for row in read_state(run).requests if row.request == first)
    for values, sentence in (
        ({"decision": "approve", "reason": " "}, "A reason is needed"),
        ({"decision": "approve", "reason": "x", "granted": 0}, f"the policy allows 1 to {allowed}"),
        ({"decision": "approve", "reason": "x", "granted": allowed + 1}, f"the policy allows 1 to {allowed}"),
        ({"decision": "approve", "reason": "x", "granted": "many"}, "granted"),
        ({"decision": "burn", "reason": "x"}, "decision"),
        ({"decision": "deny", "reason": "x" * 2001}, "reason"),
    ):
        answer = form(reviewer, first, **values)
        assert answer.status_code in (400, 422), values
        assert sentence in answer.text
    assert form(reviewer, "ab" * 32, decision="deny", reason="x").status_code == 404
    denied = next((row.request for row in read_state(run).requests if row.status == "denied"), None)
    if denied is not None:
        assert "only a pending one" in form(reviewer, denied, decision="deny", reason="x").text
    assert reviewer.post("/requests/bulk", {"decision": "deny", "reason": "x"}).status_code == 422
    assert len(waiting(run)) == len(waiting(run))
    assert not (run / "ledger/reviews").exists()


def test_a_decision_can_be_withdrawn_until_the_run_has_taken_it(reviewer: Visitor, run: Path, flow: Flow) -> None:
    before = waiting(run)
    first = before[0]
    assert form(reviewer, first, "withdraw").status_code == 422
    form(reviewer, first, decision="approve", granted=1, reason="yes")
    assert first not in waiting(run)
    assert form(reviewer, first, "withdraw").status_code == 303
    assert waiting(run) == before
    assert json.loads((run / f"ledger/reviews/{first}.withdrawn.json").read_text())["reason"] == "yes"
    for one in before:
        form(reviewer, one, decision="deny", reason="no")
    flow(run)
    kept = receipt(run, first)
    answer = form(reviewer, first, "withdraw")
    assert "the run has taken the decision, which stands" in answer.text
    assert receipt(run, first) == kept != ""


def test_withdrawing_says_what_is_wrong(run: Path) -> None:
    row = read_state(run).pending()[0]
    with pytest.raises(LedgerError, match="nothing is decided"):
        withdraw(run, row)
    write_review(run, row, False, 0, "no")
    withdraw(run, row)
    assert receipt(run, row.request) == ""


def test_a_key_of_somebody_else_decides_nothing(run: Path) -> None:
    stranger = Visitor(desk_on(run.parent, key=b"\x05" * 32), "reviewer")
    first = waiting(run)[0]
    assert "is no reviewer of this federation" in stranger.get(f"/requests/run/{first}").text
    answer = form(stranger, first, decision="deny", reason="x")
    assert "is no reviewer of this federation" in answer.text
    assert waiting(run)[0] == first


def test_real_beats_are_shown_to_the_hospital_s_own_organisation_alone_which_does_not_decide(run: Path) -> None:
    path = run / "synthetic/governance.json"
    state = json.loads(path.read_text())
    row = next(row for row in state["requests"] if row["status"] in WAITS)
    row["file"] = "synthetic/evidence-x.json"
    (run / "synthetic/evidence-x.png").write_bytes(b"\x89PNG")
    state["reviewers"][address(b"\x05" * 32)] = "0x" + row["organisation"]
    path.write_text(json.dumps(state))
    own, other = (Visitor(desk_on(run.parent, key=key), "reviewer") for key in (b"\x05" * 32, None))
    address_ = f"/requests/run/{row['request']}"
    assert own.get(f"{address_}/picture").content == b"\x89PNG"
    assert f'src="{address_}/picture"' in own.get(address_).text
    assert "Your organisation asks itself" in own.get(address_).text
    assert form(own, row["request"], decision="approve", reason="x").status_code == 422
    assert other.get(f"{address_}/picture").status_code == 403
    assert f'src="{address_}/picture"' not in other.get(address_).text


def test_a_preview_is_shown_before_the_decision_with_real_beats_for_the_own_organisation_alone(run: Path) -> None:
    path = run / "synthetic/governance.json"
    state = json.loads(path.read_text())
    row = next(row for row in state["requests"] if row["status"] == "previewed")
    state["reviewers"][address(b"\x05" * 32)] = "0x" + row["organisation"]
    path.write_text(json.dumps(state))
    own, other = (Visitor(desk_on(run.parent, key=key), "reviewer") for key in (b"\x05" * 32, None))
    address_ = f"/requests/run/{row['request']}"
    stem = f"synthetic/preview-{row['request'][:16]}"
    page = other.get(address_).text
    assert f'src="{address_}/preview"' in page
    assert page.count("<meter") == 8
    made = row["preview"]["generated"]
    assert f"{made} beats by the same generator" in page
    assert (f"{12 - made} more were real beats of the hospital but for noise, and are not shown" in page) == (made < 12)
    assert page.index("The preview") < page.index("Approve")
    assert "real=1" not in page
    assert other.get(f"{address_}/preview").content == (run / f"{stem}.png").read_bytes()
    assert other.get(f"{address_}/preview?real=1").status_code == 403
    assert f'src="{address_}/preview?real=1"' in own.get(address_).text
    assert own.get(f"{address_}/preview?real=1").content == (run / f"{stem}-real.png").read_bytes()
    # what the hospital did not sign is not shown
    (run / f"{stem}.png").write_bytes(b"\x89PNG another")
    answer = other.get(f"{address_}/preview")
    assert answer.status_code == 422
    assert "is not the one that the hospital signed" in answer.text
    (run / f"{stem}.json").write_text("{}")
    page = other.get(address_).text
    assert "do not decide on it" in page
    assert "<meter" not in page
    (run / f"{stem}.json").unlink()
    assert "The report on it is not in the folder" in other.get(address_).text


def test_nobody_is_asked_to_grant_blindly(run: Path) -> None:
    path = run / "synthetic/governance.json"
    state = json.loads(path.read_text())
    row = next(row for row in state["requests"] if row["status"] == "previewed")
    row |= {"preview": None, "blind": True, "status": "pending"}
    path.write_text(json.dumps(state))
    reviewer = Visitor(desk_on(run.parent), "reviewer")
    page = reviewer.get(f"/requests/run/{row['request']}").text
    assert "It is still to be made" in page
    assert "you can deny" in page
    assert 'name="granted"' not in page
    answer = form(reviewer, row["request"], decision="approve", granted=1, reason="blindly")
    assert "the policy wants a preview before a grant" in answer.text
    assert form(reviewer, row["request"], decision="deny", reason="no").status_code == 303


def test_a_damaged_run_hides_no_other_one_and_hostile_words_are_text(run: Path) -> None:
    shutil.copytree(run, run.parent / "evil")
    path = run.parent / "evil/synthetic/governance.json"
    state = json.loads(path.read_text())
    for row in state["requests"]:
        row |= {"reasons": "<script>alert(1)</script>" + "x" * 10**7, "record": "[", "generator": "<i>\x1b[31m"}
        row |= {"numbers": {"auc_bp": 10**400, "nndr_bp": -(10**400)}, "status": "denied"}
    path.write_text(json.dumps(state))
    reviewer = Visitor(desk_on(run.parent), "reviewer")
    page = reviewer.get("/requests")
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert len(page.text) < 100_000
    found = reviewer.get(re.findall(r'href="(/requests/evil/[^"]+)"', page.text)[0])
    assert found.status_code == 200
    assert "<i>" not in found.text
    path.write_text("{")
    page = reviewer.get("/requests")
    assert "is not readable" in page.text
    assert f"{len(waiting(run))} wait for you" in page.text


def test_a_thousand_requests_are_a_page_below_a_megabyte(run: Path) -> None:
    path = run / "synthetic/governance.json"
    state = json.loads(path.read_text())
    template = next(row for row in state["requests"] if row["status"] in WAITS)
    state["requests"] = [{**template, "request": f"{i:064x}", "hospital": i} for i in range(1000)]
    path.write_text(json.dumps(state))
    page = Visitor(desk_on(run.parent), "reviewer").get("/requests")
    assert "1000 wait for you" in page.text
    assert len(page.content) < 1_000_000


def test_bounds_are_those_of_the_policy() -> None:
    numbers = {"auc_bp": 9_000, "nndr_bp": 400, "duplicates": 5, "repeated": 4}
    found = {one.name: one for one in bounds(numbers, 10, PolicyConfig(max_auc=0.8))}
    assert not found["AUC of telling synthetic from real"].good
    assert (found["distance to single real beats"].value, found["distance to single real beats"].good) == (0.04, False)
    assert (found["copies of real beats"].value, found["copies of real beats"].good) == (0.5, False)
    assert found["repetitions"].good
