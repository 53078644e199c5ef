"""The answer of a study: differences and intervals by hand, and the sentences that they are told in."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import condition, outcome, row

from sweeps.answer import Paired, answer_of, answers, between, paired
from sweeps.rows import Spread

T2 = 4.302653  # Student's t, two degrees of freedom, 97.5 %


def scores(*rows: list[float]) -> list[dict[int, float]]:
    """Rows are seeds, columns hospitals."""
    return [dict(enumerate(each)) for each in rows]


# --- Paired differences -----------------------------------------------------------------------------------------------


def test_a_difference_over_seeds_and_hospitals_by_hand():
    """Differences are 0.3 and 0.1 in the first seed, 0.1 and -0.1 in the second.

    Seeds' means are 0.2 and 0: variance 0.02, of their mean 0.01; so are the hospitals'. Both together 0.02, with
    0.02^2 / (0.01^2 + 0.01^2) = 2 degrees of freedom.
    """
    found = paired(scores([0.8, 0.6], [0.6, 0.4]), scores([0.5, 0.5], [0.5, 0.5]))
    assert found is not None
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.1 - T2 * 0.02**0.5, 0.1 + T2 * 0.02**0.5), abs=1e-6)
    assert (found.seeds, found.hospitals) == (2, 2)
    assert (found.gain, found.lose, found.level) == ((0,), (), (1,))  # the other gains in one seed only
    assert found.tie


def test_one_seed_leaves_the_hospitals_and_one_hospital_the_seeds():
    half = T2 * 0.1 / 3**0.5  # 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1
    for table in ([[0.6, 0.7, 0.8]], [[0.6], [0.7], [0.8]]):
        found = paired(scores(*table), scores(*[[0.5] * len(seed) for seed in table]))
        assert found is not None
        assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-6)
    single = paired(scores([0.6]), scores([0.5]))
    assert single is not None
    assert (single.low, single.high) == (None, None)
    assert single.tie  # nothing is known
    assert str(single) == "+0.100 (no interval)"


def test_an_interval_does_not_reach_further_than_scores_and_one_that_wide_is_said_to_tell_nothing():
    """Two hospitals, 0.4 and 0 apart: mean 0.2, half of the interval t * 0.2 with one degree of freedom, over 2."""
    found = paired(scores([0.9, 0.5]), scores([0.5, 0.5]))
    assert found is not None
    assert (found.mean, found.low, found.high, found.width) == (pytest.approx(0.2), -1.0, 1.0, 2.0)
    wide, narrow = ({0: 0.9, 1: 0.5}, {0: 0.5, 1: 0.5}), ({0: 0.9, 1: 0.9}, {0: 0.5, 1: 0.501})
    (one,), (other,) = (answers(condition(outcome("fedavg", a), outcome("local", b))) for a, b in (wide, narrow))
    said = "2 hospitals and 1 seed are too few to tell methods apart: an interval is 1 wide or more."
    assert said in one.notes
    assert said not in other.notes


def test_several_intervals_that_hold_together_are_wider():
    ours, theirs = scores([0.6, 0.7, 0.8]), scores([0.5, 0.5, 0.5])
    one, five = paired(ours, theirs), paired(ours, theirs, comparisons=5)
    assert one is not None
    assert five is not None
    # Student's t with two degrees of freedom at 1 - 0.05 / 10 is 9.924843
    assert five.high - five.mean == pytest.approx(9.924843 * 0.1 / 3**0.5, abs=1e-6)
    assert (five.mean, five.gain) == (one.mean, one.gain)


def test_only_hospitals_that_both_have_in_every_seed_are_compared():
    found = paired([{0: 0.5, 1: 0.5, 2: 0.9}, {0: 0.5, 1: 0.5}], [{0: 0.4, 1: 0.6, 2: 0.1}, {0: 0.4, 1: 0.6, 3: 0.1}])
    assert found is not None
    assert (found.gain, found.lose, found.mean) == ((0,), (1,), pytest.approx(0.0))
    assert paired([{0: 0.5}], [{1: 0.5}]) is None
    assert paired([], []) is None
    same = paired(scores([0.5, 0.7]), scores([0.5, 0.7]))
    assert same is not None
    assert (same.mean, same.low, same.high, same.level) == (0, 0, 0, (0, 1))
    assert same.tie


tables = st.integers(1, 4).flatmap(
    lambda hospitals: st.lists(
        st.lists(st.integers(0, 100), min_size=hospitals, max_size=hospitals), min_size=1, max_size=4
    )
)


@given(tables)
def test_seen_from_the_other_side_all_signs_turn(table: list[list[int]]):
    ours = scores(*[[value / 100 for value in seed] for seed in table])
    theirs = scores(*[[0.5] * len(seed) for seed in table])
    one, other = paired(ours, theirs), paired(theirs, ours)
    assert one is not None
    assert other is not None
    turned = other.turned()
    assert (turned.gain, turned.lose, turned.level) == (one.gain, one.lose, one.level)
    assert turned.mean == pytest.approx(one.mean)
    assert sorted((*one.gain, *one.lose, *one.level)) == list(range(len(table[0])))
    if one.low is not None and one.high is not None:
        assert one.low <= one.mean <= one.high
        assert (turned.low, turned.high) == (pytest.approx(one.low), pytest.approx(one.high))


# --- Sentences --------------------------------------------------------------------------------------------------------


def test_the_whole_sentence_of_a_clear_case():
    """FedAvg is 0.3, 0.301, 0.299 above being alone, in the mean hospital 0.8; the interval's half is t * 0.001 / sqrt 3."""
    fedavg = outcome("fedavg", {0: 0.8, 1: 0.801, 2: 0.799}, common=0.7, gradients=1200)
    (found,) = answers(condition(fedavg, outcome("local", {0: 0.5, 1: 0.5, 2: 0.5})))
    half = 7.648889 * 0.001 / 3**0.5  # three comparisons: t at 1 - 0.05 / 6
    low, high = f"{0.3 - half:+.3f}", f"{0.3 + half:+.3f}"
    assert found.sentence == (
        f"all: FedAvg is best (macro-F1 0.800 in the mean hospital), +0.300 [{low}, {high}] over local-only, the next; "
        f"+0.300 [{low}, {high}] over local-only, where all 3 hospitals gain; "
        f"+0.550 [{0.55 - half:+.3f}, {0.55 + half:+.3f}] over each hospital's commonest class; "
        f"+0.100 [{0.1 - half:+.3f}, {0.1 + half:+.3f}] over its global model, where all 3 hospitals gain; "
        "it costs 1,200 gradients (local-only 1,000), 2.0 MB of models sent and no ledger."
    )
    assert found.notes == (
        "One seed: intervals are over hospitals only, and another seed may turn what is close.",
        "Not testable within single hospitals, where a class has fewer than 50: F in 0, 1 and 2.",
        "Not at equal gradients: from 1,000 to 1,200.",
    )
    assert (found.best, found.level, found.subject) == ("FedAvg", (), "FedAvg")


def test_what_the_interval_does_not_tell_apart_is_a_tie():
    (found,) = answers(condition(outcome("fedavg", {0: 0.9, 1: 0.6}), outcome("fedprox", {0: 0.5, 1: 0.8})))
    assert found.best == "FedAvg"
    assert found.level == ("FedProx",)
    assert (
        "FedAvg is ahead (macro-F1 0.750 in the mean hospital) but is not told from FedProx (-0.100 [" in found.sentence
    )
    assert found.sentence.count("a tie") == 1
    assert "No local-only trial: whether federating pays at all cannot be said." in found.notes


def test_losing_to_being_alone_is_said_first():
    lone, fedavg = outcome("local", {0: 0.9, 1: 0.901}), outcome("fedavg", {0: 0.5, 1: 0.501}, common=0.6)
    (found,) = answers(condition(fedavg, lone))
    assert (found.best, found.subject) == ("local-only", "FedAvg")
    assert "no method beats being alone: FedAvg, the best that federates, is at 0.500" in found.sentence
    assert "-0.400 [-0.400, -0.400] over local-only, where all 2 hospitals lose" in found.sentence
    assert "over its global model, where all 2 hospitals lose" in found.sentence


def test_hospitals_are_named_by_whether_they_gain():
    fedavg = outcome("fedavg", {0: 0.6, 1: 0.6, 2: 0.4, 3: 0.5}, {0: 0.6, 1: 0.4, 2: 0.4, 3: 0.5})
    lone = outcome("local", *[dict.fromkeys(range(4), 0.5)] * 2)
    (found,) = answers(condition(fedavg, lone))
    assert found.alone is not None
    assert (found.alone.gain, found.alone.lose, found.alone.level) == ((0,), (2,), (1, 3))
    assert "1 of 4 hospitals gains (0), 1 loses (2), 2 neither (1 and 3)" in found.sentence


def test_pooled_data_are_a_line_to_compare_with_and_never_the_best():
    pooled = outcome("centralised", {0: 0.9, 1: 0.9})
    (found,) = answers(condition(pooled, outcome("fedavg", {0: 0.7, 1: 0.7}), outcome("local", {0: 0.6, 1: 0.6})))
    assert [standing.title for standing in found.standings] == ["FedAvg", "local-only", "centralised"]
    assert "Pooling all beats, centralised reaches 0.900: +0.200 [+0.200, +0.200]." in found.notes


def test_a_method_is_judged_by_its_best_trial_on_validation_and_says_of_how_many():
    first, second = outcome("fedavg", {0: 0.5, 1: 0.5}), outcome("fedavg", {0: 0.9, 1: 0.9})
    (found,) = answers(condition(first, second, outcome("local", {0: 0.6, 1: 0.6})))
    assert [(s.title, s.trial, s.trials) for s in found.standings] == [("local-only", 2, 1), ("FedAvg", 0, 2)]
    said = "Not at equal tuning: the trial that is best on validation, of 2 for FedAvg, of 1 for local-only."
    assert said in found.notes


def test_other_beats_and_broken_constraints_are_left_out_aloud():
    other = outcome("fedprox", {0: 0.9, 1: 0.9}, digest="another")
    rows = [
        *condition(outcome("fedavg", {0: 0.5, 1: 0.5}), other),
        row(2, outcome("local", {0: 0.9, 1: 0.9}), constraints={"ledger/overhead_share": 0.1}),
    ]
    found = answer_of("all", rows)
    assert [standing.title for standing in found.standings] == ["FedAvg"]
    assert "FedProx is left out: it was tested on other beats." in found.notes
    assert "local-only is left out: all its trials break a constraint." in found.notes
    assert found.sentence.startswith("all: only FedAvg was run to compare (macro-F1 0.500 in the mean hospital); ")


def test_classes_with_too_few_test_beats_are_named():
    short = outcome("fedavg", {0: 0.5, 1: 0.5}, support={"N": 900, "S": 49, "V": 50, "F": 3}, scored=("N", "S", "V"))
    (found,) = answers(condition(short))
    assert "Not testable, with fewer than 50 test beats: S (49), F (3)." in found.notes
    assert "In no macro-F1, as they have no validation beats: F (3) test beats." in found.notes


def test_tuning_on_test_beats_and_an_interim_state_are_told():
    rows = [*condition(outcome("fedavg", {0: 0.5, 1: 0.5})), row(1, None, state="RUNNING"), row(2, None, state="FAIL")]
    assert "Interim: 1 trial still under way." in answer_of("all", rows).notes
    rows[0] = replace(rows[0], tuned_on_test=True)
    assert "Tuned on test beats: these scores are too good." in answer_of("all", rows).notes


def test_nothing_can_be_said_without_a_trial_that_was_tested():
    found = answer_of("hospitals=2", [row(0, None, "hospitals=2", "FAIL"), row(1, None, "hospitals=2", "PRUNED")])
    assert found.sentence == (
        "hospitals=2: nothing can be said, no trial has test scores to compare (1 fail, 1 pruned)."
    )
    assert found.document()["best"] == ""
    assert answers([]) == []


def test_the_ledger_s_cost_is_part_of_the_sentence():
    scores = {"ledger/overhead_share": Spread(0.0091), "ledger/gas_per_round": Spread(73328.0)}
    plain = outcome("fedavg", {0: 0.5, 1: 0.5})
    (found,) = answers(condition(outcome("fedavg", {0: 0.5, 1: 0.5}, scores={**plain.scores, **scores})))
    assert "0.91 % of the rounds' time and 73,328 gas a round for the ledger" in found.sentence


def test_every_condition_has_an_answer_in_the_order_of_the_rows():
    rows = [*condition(outcome("fedavg", {0: 0.5}), label="b"), *condition(outcome("fedavg", {0: 0.5}), label="a")]
    assert [found.condition for found in answers(rows)] == ["b", "a"]
    assert "One hospital: intervals are over seeds only." in answers(rows)[0].notes


def test_an_answer_is_plain_json():
    import json

    (found,) = answers(condition(outcome("fedavg", {0: 0.8, 1: 0.9}, common=0.5), outcome("local", {0: 0.5, 1: 0.5})))
    document = found.document()
    assert json.loads(json.dumps(document)) == document
    assert document["subject_less"]["local-only"]["gain"] == [0, 1]
    assert document["best_less"]["local-only"]["mean"] == pytest.approx(0.35)


# --- Several studies --------------------------------------------------------------------------------------------------


def test_studies_are_held_against_each_other_by_condition_and_method():
    one = condition(outcome("fedavg", {0: 0.5, 1: 0.501}), outcome("local", {0: 0.5, 1: 0.5}), label="hospitals=2")
    two = condition(outcome("fedavg", {0: 0.7, 1: 0.701}), outcome("fedprox", {0: 0.5, 1: 0.5}), label="hospitals=2")
    said = between({"a": one, "b": two})
    assert said == ["hospitals=2, FedAvg: b is +0.200 [+0.200, +0.200] over a, where all 2 hospitals gain."]
    other = condition(outcome("fedavg", {0: 0.7, 1: 0.7}, digest="another"), label="hospitals=2")
    assert between({"a": one, "c": other}) == ["hospitals=2, FedAvg: a and c were tested on other beats."]
    assert between({"a": one}) == []
    assert between({"a": one, "d": condition(outcome("fedavg", {0: 0.5}), label="hospitals=3")}) == []


def test_a_paired_difference_is_a_value():
    assert Paired(0.1, 0.05, 0.15, 1, (0,), (), ()) == Paired(0.1, 0.05, 0.15, 1, (0,), (), ())
