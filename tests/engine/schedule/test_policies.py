"""Policies of selection: by hand, their floor, what a bandit learns, and the audit's own arithmetic."""

import math
from pathlib import Path

import numpy as np
import pytest
from finished import audit
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Interrupted, StopAfter, numbers

from engine.audit import clock, selection
from engine.audit import policies as theirs
from engine.audit.report import Verdict
from engine.errors import ConfigError
from engine.experiment import Place, run
from engine.messages import Measured
from engine.result import CommitteeRow, RoundSummary, Scores, VerdictRow
from engine.schedule.config import BY_VERDICTS, FLOORED
from engine.schedule.policies import (
    POLICIES,
    Fact,
    behind,
    best,
    chosen,
    facts,
    oort,
    power_of_choice,
    round_robin,
    ucb,
)
from engine.seeds import generator


def draw(round: int = 1) -> np.random.Generator:
    return generator(0, "participation", round)


def table(right: int, wrong: int) -> np.ndarray:
    return np.array([[right, wrong], [0, 0]])


def judged(round: int, qualified: dict[int, bool]) -> RoundSummary:
    verdicts = tuple(VerdictRow(hospital=h, score=1, qualified=good) for h, good in qualified.items())
    committee = CommitteeRow(judges=(), absent=(), verdicts=verdicts)
    return RoundSummary.model_construct(round=round, committee=committee, validation=Scores.model_construct())


def test_facts_are_those_of_the_rounds_that_took_an_update():
    measured = [
        Measured(1, {0: 9, 1: 9}, {0: table(1, 3), 1: table(2, 2)}),  # mean recall 3 / 8
        Measured(2, {1: 9}, {0: table(4, 0), 1: table(2, 2)}),  # 6 / 8: the largest gain
    ]
    found = facts((0, 1, 2), measured, [judged(1, {0: True, 1: False}), judged(2, {1: True})])
    assert found == {
        0: Fact(1, 1, 4, 0, 1, 1, 0.0),
        1: Fact(2, 2, 4, 2, 1, 2, 1.0),
        2: Fact(),
    }


def test_turns_go_to_those_who_were_asked_longest_ago():
    known = {0: Fact(3, 5), 1: Fact(1, 2), 2: Fact(), 3: Fact(1, 2)}
    assert round_robin(known, 6, 3, draw()) == [2, 1, 3]


def test_the_most_wrong_of_all_are_chosen_where_all_are_drawn():
    known = {0: Fact(beats=10, wrong=1), 1: Fact(beats=10, wrong=9), 2: Fact(), 3: Fact(beats=10, wrong=5)}
    assert power_of_choice(known, 2, 2, draw()) == [1, 2]  # 2 has the mean of 0.1, 0.9 and 0.5, as much as 3


def test_a_claim_of_a_loss_is_no_fact():
    """Whoever says that his loss is 100 is asked no more often for it: no field of a fact is said by the hospital at will."""
    assert {"loss", "claimed"} & {*Fact._fields} == set()


def test_utility_by_hand():
    known = {0: Fact(1, 1, 100, 64), 1: Fact(1, 3, 400, 4), 2: Fact(1, 2, 100, 1)}
    # u = 80, 40, 10; the quantile of three is the middle one: 40; with sqrt(0.1 ln 4 / last)
    expected = {
        0: 1.0 + math.sqrt(0.1 * math.log(4)),
        1: 1.0 + math.sqrt(0.1 * math.log(4) / 3),
        2: 0.25 + math.sqrt(0.1 * math.log(4) / 2),
    }
    assert oort(known, 4, 2, draw()) == best(expected, 2) == [0, 1]
    assert oort({**known, 3: Fact()}, 4, 1, draw()) == [3]  # one of those never asked first


def test_who_was_never_asked_has_no_bound():
    known = {0: Fact(times=1, gain=1.0), 1: Fact(), 2: Fact(times=4, gain=1.0)}
    assert ucb(known, 5, 2, draw()) == [1, 0]


def test_a_bandit_finds_the_hospital_whose_rounds_gain_most():
    """Known means, one hospital a round: the share of the best one grows, and what is lost against it grows ever slower."""
    means, chance = (0.2, 0.5, 0.9), np.random.default_rng(1)
    known, lost = dict.fromkeys(range(3), Fact()), []
    for round in range(1, 1001):
        (one,) = chosen("ucb", known, round, 1, 0.0, draw(round))
        fact = known[one]
        gain = float(chance.random() < means[one])
        known[one] = fact._replace(times=fact.times + 1, last=round, gain=fact.gain + gain)
        lost.append(0.9 - means[one])
    assert known[2].times > 800
    assert sum(lost[500:]) < sum(lost[:500]) / 2


@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_falls_behind_the_floor(policy: str):
    known, wanted, floor = {h: Fact(beats=10, wrong=h) for h in range(10)}, 3, 0.5
    for round in range(1, 61):
        assert len(behind(known, round, wanted, floor)) <= 10
        found = chosen(policy, known, round, wanted, floor, draw(round))
        assert found == sorted(set(found))
        assert len(found) == wanted
        for h in found:
            known[h] = known[h]._replace(times=known[h].times + 1, last=round)
    even = wanted * 60 / 10
    assert min(fact.times for fact in known.values()) >= math.floor(floor * even) - 1
    if policy == "round-robin":
        assert {fact.times for fact in known.values()} == {18}


fact = st.builds(
    lambda times, ago, beats, wrong, judged, good, gain: Fact(
        times, ago if times else 0, beats, min(wrong, beats), min(good, judged), judged, gain * times
    ),
    st.integers(0, 5), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 5), st.integers(0, 5),
    st.sampled_from([0.0, 0.25, 1.0]),
)  # fmt: skip


@settings(max_examples=60)
@given(st.dictionaries(st.integers(0, 20), fact, min_size=2, max_size=9), st.data())
def test_the_audit_chooses_the_same(known, data):
    known = dict(sorted(known.items()))
    wanted, round = data.draw(st.integers(1, len(known) - 1)), data.draw(st.integers(1, 30))
    floor = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    for policy in POLICIES:
        again = {
            h: theirs.Known(f.times, f.last, f.beats, f.wrong, f.qualified, f.judged, f.gain) for h, f in known.items()
        }
        found = chosen(policy, known, round, wanted, floor, draw(round))
        assert {*found} == theirs.chosen(policy, again, round, wanted, floor, draw(round)), policy


def test_both_sides_know_the_same_policies():
    assert tuple(POLICIES) == theirs.NAMES == FLOORED


FEW = {"cohort.hospitals": 5, "data.simulated.patients": 6, "federation.rounds": 4, "federation.participation": 0.4}
LEDGER = {"ledger.backend": "embedded", "ledger.window": 0}


CLOCK = {"clock.fleet": "stragglers", "clock.share": 0.4, "clock.dropout": 0.2}
LATE = {**CLOCK, "schedule.mode": "buffered", "schedule.buffer": 1}
BY_SCORES = [p for p in POLICIES if p not in BY_VERDICTS]


@pytest.mark.parametrize(
    ("policy", "more"),
    [
        *((p, {}) if p in ("oort", "thompson") else pytest.param(p, {}, marks=pytest.mark.long) for p in POLICIES),
        ("power-of-choice", LATE),
        *(pytest.param(p, CLOCK, marks=pytest.mark.long) for p in BY_SCORES),
        *(pytest.param(p, LATE, marks=pytest.mark.long) for p in BY_SCORES if p != "power-of-choice"),
    ],
)
def test_a_run_goes_on_bit_for_bit_and_the_audit_replays_whom_it_asked(policy: str, more, tiny_config, tmp_path: Path):
    committee = {"committee.method": "others"} if policy in BY_VERDICTS else {}
    config = tiny_config(**FEW, **LEDGER, **committee, **more, **{"selection.policy": policy})
    straight = run(config, tmp_path / "straight")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stumbling", Place(observers=(StopAfter(2),)))
    run(config, tmp_path / "stumbling")
    assert numbers(straight, tmp_path / "straight") == numbers(straight, tmp_path / "stumbling")
    report = audit(tmp_path / "stumbling")
    assert report.findings == []
    assert report.verdict is Verdict.CLEAN
    path = tmp_path / "stumbling" / "config.yaml"
    path.write_text(path.read_text().replace(f"policy: {policy}", "policy: random"))
    found = {f.field for f in audit(tmp_path / "stumbling", [clock.check if more else selection.check]).findings}
    assert found & {"selection", "clock"}


def test_a_policy_of_one_s_own_keeps_no_virtual_time(tiny_config):
    with pytest.raises(ConfigError, match="a selection policy of your own cannot be computed again"):
        tiny_config(**FEW, **CLOCK, **{"selection.policy": "examples/parts/selection.py:turns"})
