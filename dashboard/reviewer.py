"""The reviewer's pages: what waits, what is known of it, and decisions signed with the key that this process was started with.

A reviewer sees no patient's beats: pictures of real ones are shown to the asking hospital's own organisation alone, which may
not decide. Of a preview everybody sees synthetic beats and figures, as far as they are those that the hospital signed.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import FastAPI, Form
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from dashboard.desk import At, Desk, Reviewer, ReviewerChanges
from dashboard.places import Place
from dashboard.reading import Page
from engine.encoding import json_hash, read_json
from engine.errors import ConfigError, DataError, LedgerError, PulseLedgerError
from engine.files import read_bytes, read_text
from engine.ledger.signing import address, reviewer_key
from engine.result import WAITS, SyntheticRow
from engine.settings import parse
from engine.synthesis.config import PolicyConfig
from engine.synthesis.files import FOLDER, picture_file, preview_file
from engine.synthesis.reviews import STATE, Requests, read_state, receipt, withdraw, write_review
from sweeps.governance import SHORT, runs_with_requests, status_of

Decision = Literal["approve", "deny"]
MOST_AT_ONCE = 200  # requests of one bulk decision
LONGEST_REASON = 2000  # characters
BASIS = 10_000
PICTURE = 16 << 20  # bytes
LARGE = 2**40  # a number of a report has 32 bits at most


class Asked(NamedTuple):
    """A request: the run that it is of, how it stands, and the run's whole state."""

    place: Place
    row: SyntheticRow
    status: str
    state: Requests

    @property
    def short(self) -> str:
        return self.row.request[:SHORT]

    @property
    def policy(self) -> PolicyConfig:
        return parse(PolicyConfig, self.state.policy, STATE)

    @property
    def waits(self) -> bool:
        """Whether it waits for a decision."""
        return self.status in WAITS

    @property
    def shown(self) -> str:
        """What of a preview there is, in a word."""
        if self.row.preview is None:
            return "not yet" if self.row.blind else "none wanted"
        return f"{self.row.preview.generated} beats" if self.row.preview.generated else "none could be made"

    @property
    def enough(self) -> bool:
        """Whether the floor of real beats is as high as the policy wants for the generator."""
        wanted = self.policy.min_real.get(self.row.generator)
        return wanted is not None and self.row.real_floor >= wanted


def add(app: FastAPI) -> None:
    """Adds the pages."""
    app.add_api_route("/requests", inbox)
    app.add_api_route("/requests/bulk", bulk, methods=["POST"])
    app.add_api_route("/requests/{id}/{request}", request_page)
    app.add_api_route("/requests/{id}/{request}/decide", decide, methods=["POST"])
    app.add_api_route("/requests/{id}/{request}/withdraw", take_back, methods=["POST"])
    app.add_api_route("/requests/{id}/{request}/receipt", signed)
    app.add_api_route("/requests/{id}/{request}/picture", picture)
    app.add_api_route("/requests/{id}/{request}/preview", preview)


# --- Reading ----------------------------------------------------------------------------------------------------------


def _runs(desk: Desk) -> list[Place]:
    """All runs with requests, of studies and by themselves."""
    found: list[Place] = []
    for place in desk.places.all():
        if place.kind == "run" and (place.path / FOLDER / STATE).exists():
            found.append(desk.place(place.id))
        elif place.kind == "study":
            try:
                paths = runs_with_requests(desk.place(place.id).path)
            except ConfigError:
                continue
            names = (f"{place.id}.{path.parent.name}.{path.name.removeprefix('seed-')}" for path in paths)
            found += [
                Place(name, f"{place.name}, {path.relative_to(place.path)}", "run", path, place.root)
                for name, path in zip(names, paths, strict=True)
            ]
    return found


def _all(desk: Desk) -> tuple[list[Asked], list[str]]:
    """All requests, those that wait first, and what could not be read."""
    found: list[Asked] = []
    wrong: list[str] = []
    for place in _runs(desk):
        try:
            state = read_state(place.path)
            parse(PolicyConfig, state.policy, f"{place.name}: {STATE}")
        except PulseLedgerError as error:
            wrong.append(str(error))
            continue
        found += [Asked(place, row, status_of(place.path, row), state) for row in state.requests]
    order = {**dict.fromkeys(WAITS, 0), "decided": 1}
    return sorted(found, key=lambda one: order.get(one.status, 2)), wrong


def _one(desk: Desk, id: str, request: str) -> Asked:
    place = desk.place(id)
    state = read_state(place.path)
    row = next((row for row in state.requests if row.request == request), None)
    if row is None:
        raise HTTPException(404, "There is no such request here.")
    return Asked(place, row, status_of(place.path, row), state)


def _account(desk: Desk, asked: Asked) -> str:
    """The account that would sign; "" where there is no key."""
    if desk.key is not None:
        return address(desk.key)
    if asked.state.keys == "keystore":
        return ""
    try:
        return address(reviewer_key(asked.state.seed, bytes.fromhex(asked.state.federation)))
    except (ValueError, OverflowError):  # of a file that nobody's run has written
        return ""


def _standing(desk: Desk, asked: Asked) -> str:
    """Why this reviewer cannot decide on a request; "" if he can."""
    account = _account(desk, asked)
    if not account:
        return "The run’s keys are in a keystore: start the dashboard with the reviewer’s, --key FILE."
    if account not in asked.state.reviewers:
        return f"{account} is no reviewer of this federation."
    if asked.state.reviewers[account].removeprefix("0x") == asked.row.organisation:
        return "Your organisation asks itself, so another one decides."
    return ""


def _own(desk: Desk, asked: Asked) -> bool:
    """Whether the reviewer belongs to the organisation that asks."""
    of = asked.state.reviewers.get(_account(desk, asked), "")
    return bool(of) and of.removeprefix("0x") == asked.row.organisation


class Bound(NamedTuple):
    """A number of a batch against the policy, as shares; `good` if it keeps to it."""

    name: str
    says: str
    value: float
    bound: float
    most: bool
    good: bool


def bounds(told: Mapping[str, int], made: int, policy: PolicyConfig) -> list[Bound]:
    """What the policy decides by, of `made` beats.

    >>> bounds({}, 30, PolicyConfig())
    []
    """
    if not told:
        return []
    numbers = {name: max(-LARGE, min(number, LARGE)) for name, number in told.items()}
    made = max(made, 1)
    known = (
        ("AUC of telling synthetic from real", "auc_bp", policy.max_auc, True),
        ("distance to real beats", "distance_bp", policy.max_distance, True),
        ("distance to single real beats", "nndr_bp", policy.min_nndr, False),
        ("spread", "spread_bp", policy.min_spread, False),
        ("change of the class’s recall", "utility_bp", policy.min_utility, False),
        ("recognised", "recognised_bp", policy.min_recognised, False),
    )
    found = []
    for title, name, bound, most in known:
        value = numbers.get(name, 0) / BASIS
        good = value <= bound if most else value >= bound
        found.append(Bound(title, f"{'at most' if most else 'at least'} {bound:g}", value, bound, most, good))
    for title, name, bound in (
        ("copies of real beats", "duplicates", policy.max_duplicates),
        ("repetitions", "repeated", policy.max_repeated),
    ):
        share = min(numbers.get(name, 0) / made, 1.0)
        found.append(Bound(title, f"at most {bound:g} of the batch", share, bound, True, share <= bound))
    return found


def checked(asked: Asked) -> list[tuple[str, str, bool]]:
    """The policy on a request in words: rule, how it stands, whether it is met."""
    row, policy = asked.row, asked.policy
    needed = policy.min_real.get(row.generator)
    ratio = int(row.real_floor * policy.ratio)
    cap = policy.share_cap
    share = "no limit" if cap >= 1 else f"{int(cap * row.real_floor / (1 - cap))} beats"
    return [
        (
            f"the generator {row.generator} may be used" + ("" if needed is None else f", from {needed} real beats on"),
            f"at least {row.real_floor} real beats of class {row.class_} are there",
            asked.enough,
        ),
        (f"at most {policy.ratio:g} synthetic beats for each real one", f"{ratio} beats of {row.wanted}", ratio > 0),
        (f"synthetic beats are at most {100 * cap:g} % of the class", share, cap > 0),
        (f"at most {policy.quota} for each hospital and class", f"{row.wanted} are asked for", policy.quota > 0),
    ]


class Shown(NamedTuple):
    """What is known of a preview.

    Attributes:
        wrong: why it cannot be shown; "" if it can.
        quality: the report on it.
        pictures: names -> digests that were signed.
        withheld: beats that were too like real ones to be shown.
    """

    wrong: str
    bounds: list[Bound]
    quality: dict[str, Any]
    pictures: dict[str, Any]
    withheld: Any = 0


def _previewed(asked: Asked) -> Shown:
    """The preview of a request, if the files are those that its hospital signed."""
    signed = asked.row.preview
    if signed is None:
        return Shown("", [], {}, {})
    try:
        found = _object(read_text(preview_file(asked.place.path / FOLDER, asked.row.request), 1 << 20))
    except (OSError, ValueError):
        return Shown("The report on it is not in the folder.", [], {}, {})
    if json_hash(found).hex() != signed.evidence:
        return Shown("The report on it is not the one that the hospital signed: do not decide on it.", [], {}, {})
    numbers, quality, pictures = (_mapping(found.get(name)) for name in ("numbers", "quality", "pictures"))
    told = {name: value for name, value in numbers.items() if type(value) is int}
    wrong = "" if signed.generated else f"None could be made: {quality.get('failed')}"
    return Shown(
        wrong,
        bounds(told, signed.generated, asked.policy) if not wrong else [],
        quality,
        pictures,
        found.get("withheld", 0),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _drawn(asked: Asked, shown: Shown, real: bool) -> bytes:
    """A picture of a preview, as its hospital signed it.

    Raises:
        DataError: it is not there, or another one.
    """
    path = picture_file(preview_file(asked.place.path / FOLDER, asked.row.request), real)
    try:
        data = read_bytes(path, PICTURE)
    except OSError:
        raise DataError("there is no picture of this preview.") from None
    if hashlib.sha256(data).hexdigest() != shown.pictures.get(path.name):
        raise DataError("the picture of this preview is not the one that the hospital signed.")
    return data


def _evidence(asked: Asked) -> dict[str, Any]:
    """The report on the batch that was made, if there is one."""
    if asked.row.file is None:
        return {}
    try:
        return _object(read_text(asked.place.path / FOLDER / Path(asked.row.file).name, 1 << 20))
    except (OSError, ValueError):
        return {}


def _object(text: str) -> dict[str, Any]:
    """JSON that should be an object; empty where it is none."""
    try:
        found = read_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# --- Pages ------------------------------------------------------------------------------------------------------------


def inbox(desk: At, session: Reviewer, page: int = 1) -> Response:
    """What waits, and what was decided."""
    found, wrong = _all(desk)
    waiting = [one for one in found if one.waits]
    past = [one for one in found if not one.waits]
    decisions = {one.row.request: _decided(one) for one in past}
    return desk.page(
        "inbox.html",
        session,
        waiting=waiting,
        past=Page.of(past, page),
        wrong=wrong,
        decisions=decisions,
        most=MOST_AT_ONCE,
    )


class Decided(NamedTuple):
    """A decision that lies in the folder.

    Attributes:
        what: in words; "" where nothing is decided.
    """

    what: str
    reason: str


def _decided(asked: Asked) -> Decided:
    said = receipt(asked.place.path, asked.row.request)
    if not said:
        return Decided("", asked.row.reasons)
    try:
        found = read_json(said)
        review = read_json(found["record"])
        what = f"approved, {review['granted']} beats" if review["approve"] is True else "denied"
        return Decided(what, str(found["reason"]))
    except (ValueError, KeyError, TypeError):
        return Decided("something that cannot be read", "the decision cannot be read")


def request_page(desk: At, session: Reviewer, id: str, request: str) -> Response:
    """One request: policy, evidence, decision."""
    asked = _one(desk, id, request)
    own = _own(desk, asked)
    return desk.page(
        "request.html",
        session,
        asked=asked,
        row=asked.row,
        record=_object(asked.row.record),
        checked=checked(asked),
        bounds=bounds(asked.row.numbers or {}, asked.row.granted, asked.policy),
        shown=_previewed(asked),
        own=own,
        evidence=_evidence(asked),
        hindered=_standing(desk, asked),
        account=_account(desk, asked),
        decided=_decided(asked),
        receipt=bool(receipt(asked.place.path, request)),
        drawn=own and _picture(asked) is not None,
    )


def decide(
    desk: At,
    session: ReviewerChanges,
    id: str,
    request: str,
    decision: Annotated[Decision, Form()],
    reason: Annotated[str, Form(max_length=LONGEST_REASON)] = "",
    granted: Annotated[int | None, Form()] = None,
) -> Response:
    """Signs a decision and leaves it for the run."""
    asked = _one(desk, id, request)
    _decide(desk, asked, decision, reason, asked.row.allowed if granted is None else granted)
    return RedirectResponse(f"/requests/{id}/{request}", 303)


def _decide(desk: Desk, asked: Asked, decision: Decision, reason: str, granted: int) -> None:
    if not reason.strip():
        raise ConfigError("A reason is needed, for the record.")
    if why := _standing(desk, asked):
        raise LedgerError(why)
    if decision == "approve" and not 1 <= granted <= asked.row.allowed:
        raise ConfigError(f"{granted} beats: the policy allows 1 to {asked.row.allowed} now.")
    write_review(asked.place.path, asked.row, decision == "approve", granted, reason, desk.key)


def bulk(
    desk: At,
    session: ReviewerChanges,
    decision: Annotated[Decision, Form()],
    chosen: Annotated[list[str] | None, Form()] = None,
    reason: Annotated[str, Form(max_length=LONGEST_REASON)] = "",
) -> Response:
    """The same decision on several requests, each signed by itself."""
    names = list(dict.fromkeys(chosen or ()))
    if not 1 <= len(names) <= MOST_AT_ONCE:
        raise ConfigError(f"Choose 1 to {MOST_AT_ONCE} requests.")
    told: list[tuple[str, str]] = []
    for name in names:
        id, _, request = name.partition("/")
        try:
            asked = _one(desk, id, request)
            _decide(desk, asked, decision, reason, asked.row.allowed)
            told.append((request[:SHORT], "approved" if decision == "approve" else "denied"))
        except PulseLedgerError as error:
            told.append((request[:SHORT], f"not decided: {error}"))
    return desk.page("bulk.html", session, told=told)


def take_back(desk: At, session: ReviewerChanges, id: str, request: str) -> Response:
    """Withdraws a decision that the run has not taken."""
    asked = _one(desk, id, request)
    if why := _standing(desk, asked):
        raise LedgerError(why)
    withdraw(asked.place.path, asked.row)
    return RedirectResponse(f"/requests/{id}/{request}", 303)


def signed(desk: At, session: Reviewer, id: str, request: str) -> Response:
    """The decision as it was signed, to keep."""
    asked = _one(desk, id, request)
    said = receipt(asked.place.path, request)
    if not said:
        raise HTTPException(404, "Nothing is decided on this request.")
    headers = {"Content-Disposition": f'attachment; filename="receipt-{asked.short}.json"'}
    return Response(said, media_type="application/json", headers=headers)


def preview(desk: At, session: Reviewer, id: str, request: str, real: bool = False) -> Response:
    """A picture of the preview: synthetic beats alone, or with the real ones for the hospital's own organisation."""
    asked = _one(desk, id, request)
    if real and not _own(desk, asked):
        raise HTTPException(403, "Real beats are shown to the hospital’s own reviewer alone.")
    return Response(_drawn(asked, _previewed(asked), real), media_type="image/png")


def _picture(asked: Asked) -> Path | None:
    if asked.row.file is None:
        return None
    path = asked.place.path / FOLDER / Path(asked.row.file).with_suffix(".png").name
    return path if path.is_file() else None


def picture(desk: At, session: Reviewer, id: str, request: str) -> Response:
    """Real and synthetic beats overlaid: patients' data, for the hospital's own organisation alone."""
    asked = _one(desk, id, request)
    if not _own(desk, asked):
        raise HTTPException(403, "Real beats are shown to the hospital’s own reviewer alone.")
    path = _picture(asked)
    if path is None:
        raise DataError("there is no picture of this batch.")
    return FileResponse(path, media_type="image/png")
