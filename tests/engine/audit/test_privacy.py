"""The audit of privacy: its own accountant, every field of mechanism and account, budgets on the ledger, opened seeds."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished import case_of, other
from simulators import Run

from engine.algorithms.base import Work
from engine.algorithms.budget import noised_samples
from engine.algorithms.build import build_algorithm
from engine.audit import accountant, closing, privacy, result, spec
from engine.audit.case import Case
from engine.audit.evidence import Evidence
from engine.audit.reading import read
from engine.audit.report import Finding, Note, collected
from engine.audit.run import audit
from engine.config import RunConfig
from engine.data.beats import open_beats
from engine.data.cohort import build_cohort
from engine.data.samples import Samples
from engine.encoding import canonical_json, unhexed
from engine.errors import LedgerError
from engine.experiment import run
from engine.ledger import archive
from engine.ledger.format import PRIVACY, tensor_name
from engine.ledger.subjects.privacy import require_spent, terms_digest
from engine.model import build_network
from engine.oracles.build import build_oracle
from engine.privacy.accountant import Event, pld_epsilon
from engine.privacy.dpsgd import from_seed
from engine.privacy.plan import mechanism_of
from engine.privacy.secret import opens, release_seed, simulated_secret
from engine.result import PrivacyReport

DELTA = 1e-5
KEYS = {
    "ledger.backend": "embedded",
    "privacy.method": "dp-sgd",
    "privacy.epsilon": 4.0,
    "privacy.steps": 3,
    "privacy.sampling_rate": 0.1,
    "personalisation.steps": 2,
}


# --- The second accountant --------------------------------------------------------------------------------------------

CASES = [
    (1.0, 0.5, 1, 1),
    (1.0, 10.0, 1, 100),
    (0.01, 1.0, 1, 1000),
    (0.001, 0.7, 1, 20000),
    (0.05, 1.0, 1, 10),
    (0.3, 4.0, 1, 200),
    (0.2, 1.0, 1, 1),
    (0.05, 0.6, 1, 3),
    (0.05, 8.4, 2, 500),
    (0.5, 0.4, 1, 2),
]


@pytest.mark.parametrize("case", CASES)
def test_two_accountants_agree_and_the_trainer_s_is_never_below(case: tuple[float, float, int, int]):
    mine, theirs = accountant.epsilon([case], DELTA), pld_epsilon([Event(*case)], DELTA)
    assert mine - 1e-6 <= theirs <= mine + 2e-3


def test_the_second_accountant_composes_kinds_too():
    events = [(0.05, 2.0, 1, 400), (0.05, 2.0, 2, 200)]
    assert accountant.epsilon(events, DELTA) == pytest.approx(3.4839, abs=1e-3)  # dp-accounting 0.6.0 says 3.48392
    assert accountant.epsilon(events[::-1], DELTA) == pytest.approx(accountant.epsilon(events, DELTA))
    assert accountant.epsilon([], DELTA) == accountant.epsilon([(0.1, 1.0, 1, 0)], DELTA) == 0


@pytest.mark.parametrize("case", [(0.05, 1.0, 1, 40), (0.3, 2.0, 2, 5), (1.0, 3.0, 1, 2)])
def test_the_second_accountant_says_more_for_more_of_anything_that_tells(case: tuple[float, float, int, int]):
    rate, sigma, uses, times = case
    cost = accountant.epsilon([case], DELTA)
    more = [(rate, sigma / 1.2, uses, times), (rate, sigma, uses + 1, times), (rate, sigma, uses, times + 3)]
    more += [(rate * 1.3, sigma, uses, times)] if rate < 0.5 else []
    assert all(accountant.epsilon([one], DELTA) > cost for one in more)
    assert accountant.epsilon([case], DELTA / 10) > cost
    other = (0.1, 2.0, 1, 30)
    assert accountant.epsilon([case, other], DELTA) > cost
    one_by_one = cost + accountant.epsilon([other], DELTA)
    assert accountant.epsilon([case, other], 2 * DELTA) <= one_by_one


def test_releases_that_hardly_ever_hold_a_record_cost_nothing():
    """Of 11 samples at a rate of 1e-6, what differs has a probability of less than delta."""
    assert accountant.epsilon([(1e-6, 1.0, 1, 11)], 1e-5) == 0.0
    assert accountant.epsilon([(1.0, 5000.0, 1, 1)], 1e-3) == 0.0
    assert accountant.epsilon([], 1e-5) == 0.0


def test_a_record_that_is_added_can_cost_more_than_one_that_is_removed():
    """Both ways are looked at: at large rates and little noise the two differ."""
    assert accountant.epsilon([(0.9, 3.0, 1, 1)], DELTA) == pytest.approx(1.18808, abs=1e-4)


# --- What was signed --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("private") / "run"
    run(tiny_config(**KEYS), place)
    return place


@pytest.fixture(scope="module")
def case(folder: Path) -> Case:
    return case_of(folder)


def found(case: Case) -> list[tuple[int | None, int | None, str, str]]:
    told = [one for one in privacy.check(case) if isinstance(one, Finding)]
    return [(one.round, one.hospital, one.record, one.field) for one in told]


def with_record(case: Case, number: int, slot: int, change: Callable[[dict[str, Any]], Any]) -> Case:
    """With another record of one update."""
    entry = case.rounds[number]
    update = entry.updates[slot]
    record = json.loads(update.opening.privacy)
    changed = change(record)
    text = None if changed is None else canonical_json(changed).encode()
    update = replace(update, opening=replace(update.opening, privacy=text))
    entry = replace(entry, updates={**entry.updates, slot: update})
    return replace(case, rounds={**case.rounds, number: entry})


def test_a_run_with_noise_is_clean_and_says_what_it_cannot_know(folder: Path):
    report = audit(folder)
    assert report.lines()[-1].endswith("clean")
    assert report.counts["privacy records"] == 3 * 2 + 3
    assert report.counts["epsilons"] == 3
    assert any("that noise was added is each hospital's word" in note and "simulation" in note for note in report.notes)


ALTERED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "rate": (lambda value: value // 2, "privacy.rate"),
    "sigma": (lambda value: 2 * value, "privacy.sigma"),
    "clip": (lambda value: value + 1, "privacy.clip"),
    "delta": (lambda value: value + 1, "privacy.delta"),
    "unit": (lambda value: "patient", "privacy.unit"),
    "mechanism": (lambda value: "dp-sgd/2", "privacy.mechanism"),
    "neighbours": (lambda value: "replace", "privacy.neighbours"),
    "sampler": (lambda value: "shuffled", "privacy.sampler"),
    "secret": (lambda value: "key", "privacy.secret"),
    "budget": (lambda value: [99, 0], "privacy.budget"),
    "steps": (lambda value: [2, 0], "privacy.steps"),
    "spent": (lambda value: [value[0] - 1, 0], "privacy.spent"),
    "noise": (lambda value: "0x00", "privacy.noise"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_field_of_an_update_is_named(case: Case, name: str):
    change, field = ALTERED[name]
    told = found(with_record(case, 2, 1, lambda record: {**record, name: change(record[name])}))
    assert told == [(2, 1, "opening", field)]


def test_whatever_else_is_wrong_with_a_record_is_named(case: Case):
    for change, field in (
        (lambda record: None, "privacy"),
        (lambda record: {**record, "extra": 1}, "privacy.extra"),
        (lambda record: {**record, "spent": [1.5, 0]}, "privacy.spent"),
        (lambda record: {**record, "steps": [True, 0]}, "privacy.spent"),
        (lambda record: {**record, "spent": [0, 8]}, "privacy.spent"),
    ):
        assert (2, 1, "opening", field) in found(with_record(case, 2, 1, change))


def test_a_budget_that_is_exceeded_and_an_account_that_shrinks_are_named(case: Case):
    over = with_record(case, 1, 0, lambda record: {**record, "spent": [9, 0]})
    assert (1, 0, "opening", "privacy.spent") in found(over)  # of 8
    assert (2, 0, "opening", "privacy.spent") in found(over)  # which now says less than before


def test_whether_the_round_of_an_update_beyond_the_budget_was_voided_is_told_and_by_whom(case: Case):
    over = with_record(case, 1, 0, lambda record: {**record, "spent": [9, 0]})
    told = [one.message for one in privacy.check(over) if isinstance(one, Finding)]
    assert any(
        message.endswith("its round stands: `pulseledger ledger dispute --overspent` voids it") for message in told
    )
    sent = next(t for t in case.transactions if t.purpose == "seal")
    call = sent.call._replace(arguments={"evidence": {"record": {"slot": 0}}})
    voiding = replace(sent, purpose="overspent", round=1, call=call)
    told = list(privacy.check(replace(over, transactions=(*case.transactions, voiding))))
    assert not any("its round stands" in one.message for one in told if isinstance(one, Finding))
    assert any("; its round was voided" in one.message for one in told if isinstance(one, Finding))
    who = (
        f"{spec.sender(sent.raw)} voided round 1, and those after it, by proof that the update of hospital 0 is beyond"
    )
    assert any(one.text.startswith(who) for one in told if isinstance(one, Note))


def test_a_lost_round_may_have_cost_something(case: Case):
    """The account may be ahead of the updates, where one of them was lost."""
    entry = case.rounds[1]
    without = replace(entry, updates={slot: one for slot, one in entry.updates.items() if slot != 2})
    assert found(replace(case, rounds={**case.rounds, 1: without})) == []


def test_noise_that_does_not_follow_from_the_epsilon_is_named_even_where_all_say_the_same(case: Case):
    """Everybody may say the same, and more noise than the epsilon asked for."""
    changed = case
    for number in case.rounds:
        for slot in case.rounds[number].updates:
            changed = with_record(changed, number, slot, lambda record: {**record, "sigma": 2 * record["sigma"]})
    assert (None, None, "opening", "privacy.sigma") in found(changed)


@pytest.mark.parametrize(("sigma", "is_right"), [(381_000, False), (382_000, True), (384_000, False)])
def test_noise_is_in_thousandths_which_cost_much_where_steps_are_few(case: Case, sigma: int, is_right: bool):
    """Eight samples at rate 0.1 cost 20.07 at 0.381, 19.96 at 0.382 and 19.75 at 0.384: the second is what epsilon 20 asks for."""
    changed = case
    for number in case.rounds:
        for slot in case.rounds[number].updates:
            changed = with_record(changed, number, slot, lambda record: {**record, "sigma": sigma})
    vars(changed)["config"] = {**case.config, "privacy": {**case.config["privacy"], "epsilon": 20.0}}
    assert ((None, None, "opening", "privacy.sigma") not in found(changed)) is is_right


def reported(case: Case, change: Callable[[dict[str, Any]], Any]) -> Case:
    document = json.loads(json.dumps(case.reported))
    change(document["privacy"])
    changed = replace(case)
    changed.__dict__["config"] = case.config  # the evidence is closed
    changed.__dict__["reported"] = document
    return changed


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda told: told.update(epsilon=told["epsilon"] - 0.001), "privacy.epsilon"),
        (lambda told: told.update(epsilon=told["epsilon"] + 0.03), "privacy.epsilon"),
        (lambda told: told.update(epsilon=math.nan), "privacy.epsilon"),
        (lambda told: told.update(epsilon=None), "privacy.epsilon"),
        (lambda told: told["hospitals"][1].update(epsilon=1.0), "privacy.hospitals.1.epsilon"),
        (lambda told: told["hospitals"][1].update(samples=[1, 0]), "privacy.hospitals.samples"),
        (lambda told: told["hospitals"][1].update(told=False), "privacy.hospitals.told"),
        (lambda told: told["hospitals"].pop(), "privacy.hospitals"),
        (lambda told: told.update(delta=1e-9), "privacy.delta"),
        (lambda told: told.update(sigma=9.0), "privacy.sigma"),
        (lambda told: told.update(clip=0.1), "privacy.clip"),
        (lambda told: told.update(sampling_rate=0.1001), "privacy.sampling_rate"),
        (lambda told: told.update(unit="patient"), "privacy.unit"),
        (lambda told: told.update(secret="key"), "privacy.secret"),
        (lambda told: told.update(not_protected=["nothing"]), "privacy.not_protected"),
        (lambda told: told.update(rdp=0.5), "privacy.rdp"),
        (lambda told: told.update(pld=0.5), "privacy.pld"),
        (lambda told: told.update(alone=0.5), "privacy.alone"),
        (lambda told: told.update(shares=2), "privacy.shares"),
    ],
)
def test_a_result_that_says_something_else_is_named(case: Case, change: Callable[[Any], Any], field: str):
    assert field in [name for *_, name in found(reported(case, change))]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of all values."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in items for place in places(each, (*path, key))] or [path]


def test_every_value_of_it_is_bound(folder: Path, tmp_path: Path):
    """Also those that no epsilon follows from, and that are in no statement."""
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    said = json.loads((copy / "result.json").read_text())
    assert {path[0] for path in places(said["privacy"])} == {*PrivacyReport.model_fields} - {"alone"}
    with Evidence(copy) as evidence:
        read_case, _ = collected(read(evidence))
        for path in places(said["privacy"]):
            document = json.loads(json.dumps(said))
            here = document["privacy"]
            for key in path[:-1]:
                here = here[key]
            here[path[-1]] = other(here[path[-1]])
            (copy / "result.json").write_text(json.dumps(document))
            told = [one for check in (closing.check, result.check) for one in check(replace(read_case))]
            assert any(isinstance(one, Finding) for one in told), path


def test_a_result_without_its_privacy_and_an_annex_without_its_name_are_named(case: Case):
    changed = reported(case, lambda told: None)
    changed.__dict__["reported"] = {name: value for name, value in case.reported.items() if name != "privacy"}
    assert found(changed) == [(None, None, "result", "privacy")]
    entry = case.rounds[2]
    digests = {name: value for name, value in entry.digests.items() if name != PRIVACY}
    assert found(replace(case, rounds={**case.rounds, 2: replace(entry, digests=digests)})) == [
        (2, None, "annex", PRIVACY)
    ]


def test_records_without_a_mechanism_are_named(case: Case):
    changed = replace(case)
    changed.__dict__["config"] = {**case.config, "privacy": {"method": "none", "parameters": {}}}
    changed.__dict__["reported"] = case.reported
    told = found(changed)
    assert (1, 0, "opening", "privacy") in told
    assert (None, 0, "hospital", "privacy") in told
    assert (None, None, "result", "privacy") in told


# --- The ledger -------------------------------------------------------------------------------------------------------

RECORD = {
    "budget": [10, 5],
    **{"clip": 1, "delta": 1, "mechanism": "dp-sgd/1", "neighbours": "add-remove", "rate": 1},
    **{"sampler": "poisson", "sigma": 1, "unit": "beat", "spent": [3, 1]},
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spent": [16, 0]}, "has spent [16, 0] noised samples, beyond the privacy budget [10, 5]"),
        ({"spent": [0, 6]}, "beyond the privacy budget"),
        ({"spent": [-1, 0]}, "does not say what privacy it has spent"),
        ({"spent": [True, 0]}, "does not say what privacy it has spent"),
        ({"spent": "all"}, "does not say what privacy it has spent"),
        ({"sigma": 2}, "has privacy terms"),
        ({"budget": [99, 9]}, "has privacy terms"),
    ],
)
def test_the_ledger_refuses_an_update_beyond_the_budget_or_with_other_terms(change: dict[str, Any], says: str):
    named = terms_digest(RECORD)
    require_spent("round 1, hospital 0", RECORD, named)
    require_spent("round 1, hospital 0", {**RECORD, "spent": [14, 1]}, named)  # the two of one sample pay for one
    with pytest.raises(LedgerError) as error:
        require_spent("round 1, hospital 0", {**RECORD, **change}, named)
    assert says in str(error.value)
    assert str(error.value).startswith("round 1, hospital 0: ")


def test_a_round_that_names_a_budget_takes_no_update_without_one(tmp_path: Path):
    simulated = Run(tmp_path)
    with simulated.open() as ledger:
        entry = simulated.entry(1, ledger.domain, ledger.head)
        with pytest.raises(LedgerError, match="hospital 0: the update has privacy terms 0x00"):
            ledger.append(replace(entry, digests={PRIVACY: terms_digest(RECORD)}))


# --- A dispute --------------------------------------------------------------------------------------------------------


def test_an_opened_seed_lets_an_inspector_compute_that_update_again(folder: Path, case: Case, tiny_config):
    """With the hospital's data, the seed of one release, and what is signed: the update, to the bit. Another seed opens nothing."""
    config = tiny_config(**KEYS)
    genesis = archive.read(folder / "ledger", 0)["genesis"]
    seed = release_seed(simulated_secret(config.seed, 1), 1, [genesis])  # the hospital gives it
    record = json.loads(case.rounds[1].updates[1].opening.privacy)
    assert opens(seed, unhexed(record["noise"]))
    assert not opens(bytes(32), unhexed(record["noise"]))

    cohort = build_cohort(config.data, config.cohort)
    beats = open_beats(cohort.beats.folder)
    samples = Samples(beats.x, beats.rr, beats.y, cohort.hospitals[1].train)
    network = build_network(config.model, *beats.shape, beats.rr.shape[1], len(beats.classes))
    budget = noised_samples(config.federation, config.personalisation, config.privacy.steps)
    mechanism = from_seed(mechanism_of(config.privacy, budget), np.zeros(len(samples)), seed, {})
    oracle = build_oracle(case.config["execution"]["oracle"], network)
    nothing = np.random.default_rng(0)
    work = Work(oracle, network.layout, genesis, {}, samples, nothing, 1, mechanism)
    update = build_algorithm(config.federation, config.personalisation).local(work).update
    np.testing.assert_array_equal(update, archive.read(folder / "ledger", 1)[tensor_name(1)])
