"""The beat less the record's usual beat: by hand, and that it knows nothing of what comes later."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engine.config import RunConfig
from engine.data.beats import Beats
from engine.data.cohort import build_cohort
from engine.data.config import CohortConfig, DataConfig
from engine.data.partitions import partition, split
from engine.data.template import less_template, with_template

Make = Callable[..., Beats]
LEADS = DataConfig(template="leads", template_minutes=0.1)  # 2,160 samples of 360 Hz, seven beats of 300
ONE = CohortConfig(hospitals=1)


def valued(beats: Beats, values: list[float]) -> Beats:
    """Each window is one value all along."""
    return replace(beats, x=np.tile(np.array(values, np.float32)[:, None, None], (1, 1, beats.x.shape[2])))


def test_the_template_is_the_median_beat_of_the_first_minutes_that_train(beats_of: Make):
    beats = valued(
        beats_of({"a": "N" * 20}), [5, 1, 2, 9, 3, 4, 100, *[50] * 13]
    )  # twelve train, eight beats lie within 0.1 min of the first
    owner = partition(beats, ONE)
    part, trains = split(beats, owner, ONE)
    less = less_template(beats, LEADS, owner, part, trains)
    median = float(np.median([5, 1, 2, 9, 3, 4, 100, 50]))
    assert less[:, 0, 0].tolist() == (beats.x[:, 0, 0] - np.float32(median)).tolist()


def test_what_is_validated_or_tested_is_in_no_template(beats_of: Make):
    beats = valued(
        beats_of({"a": "N" * 10}), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    )  # six train; seven lie in the first minutes
    owner = partition(beats, ONE)
    part, trains = split(beats, owner, ONE)
    less = less_template(beats, LEADS, owner, part, trains)
    assert less[0, 0, 0] == 1 - 3.5
    other = valued(beats, [1, 2, 3, 4, 5, 6, -7, -8, -9, -10])
    assert less_template(other, LEADS, owner, part, trains)[:6].tolist() == less[:6].tolist()


def test_each_record_has_its_own_and_each_lead(beats_of: Make):
    beats = valued(beats_of({"a": "NNN", "b": "NNN"}), [1, 1, 1, 7, 7, 8])
    beats = replace(beats, x=np.concatenate([beats.x, 10 * beats.x], 1))
    config = CohortConfig(hospitals=2, partition="one-record")
    owner = partition(beats, config)
    part, trains = split(beats, owner, config)
    less = less_template(beats, LEADS, owner, part, trains)
    assert less[:, 0, 0].tolist() == [0, 0, 0, 0, 0, 1]
    assert less[:, 1, 0].tolist() == [0, 0, 0, 0, 0, 10]


def test_without_a_template_the_beats_are_the_same(beats_of: Make):
    beats = beats_of({"a": "NNN"})
    nobody = np.zeros(3, np.int32)
    assert with_template(beats, DataConfig(), nobody, nobody, np.ones(1, bool)) is beats


def test_a_cohort_has_each_lead_twice_and_comes_to_it_again(tiny_config: Callable[..., RunConfig]):
    plain, config = tiny_config(), tiny_config(**{"data.template": "leads"})
    cohort = build_cohort(config.data, config.cohort)
    before = build_cohort(plain.data, plain.cohort)
    assert cohort.beats.digest == before.beats.digest  # the same beats of the same records
    assert cohort.beats.x[:, :1].tobytes() == np.ascontiguousarray(before.beats.x).tobytes()
    assert cohort.report["shape"] == [2, before.report["shape"][1]]
    again = build_cohort(config.data, config.cohort)
    assert again.beats.folder == cohort.beats.folder != before.beats.folder
    assert float(np.abs(np.median(cohort.beats.x[:, 1], 0)).max()) < float(
        np.abs(np.median(cohort.beats.x[:, 0], 0)).max()
    )
