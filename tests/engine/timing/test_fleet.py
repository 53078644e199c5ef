"""What a job takes, by hand; absences, nights; named fleets and the file of one."""

from pathlib import Path

import numpy as np
import pytest

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.paths import anchored
from engine.settings import parse
from engine.timing.config import ClockConfig
from engine.timing.fleet import MICRO, Fleet, Load, shannon

LOAD = Load(beats=1000, batches=32, bits=4_000_000)
# 1000 beats * 10^6 cycles / 10^9 Hz = 1 s; 4 Mbit / 8 Mbit/s = 0.5 s up, / 16 Mbit/s = 0.25 s down
PLAIN = {"cycles": 1e6, "frequency": 1e9, "uplink": 8e6, "downlink": 16e6, "watts": 2.0, "kappa": 1e-28}


def test_a_job_is_computing_and_both_ways_by_hand():
    cost = Fleet(ClockConfig(fleet="equal", **PLAIN), 0, 3).cost(1, 1, LOAD)
    # 10^9 cycles * 10^-28 * 10^18 = 0.1 J; 0.5 s * 2 W = 1 J
    assert (cost.busy, cost.compute, cost.radio, cost.lost) == (1_750_000, 10**8, 10**9, False)
    half = Fleet(ClockConfig(fleet="equal", **PLAIN), 0, 3).cost(1, 1, LOAD, work=0.5)
    assert (half.busy, half.compute, half.radio) == (1_250_000, 5 * 10**7, 10**9)
    measured = Fleet(ClockConfig(fleet="equal", **PLAIN, gradient_seconds=0.125), 0, 3).cost(1, 1, LOAD)
    assert measured.busy == 4_750_000


def test_stragglers_take_longer_for_everything_and_those_named_are_slow():
    fleet = Fleet(ClockConfig(fleet="stragglers", slow=(2,), factor=10, **PLAIN), 0, 3)
    assert [fleet.cost(h, 1, LOAD).busy for h in range(3)] == [1_750_000, 1_750_000, 17_500_000]
    drawn = Fleet(ClockConfig(fleet="stragglers", share=0.2, factor=10), 7, 20).devices
    assert sorted(one.slow for one in drawn) == [1.0] * 16 + [10.0] * 4


def test_a_channel_has_shannon_s_rate():
    assert shannon(20e6, 10 * np.log10(3)) == pytest.approx(40e6)  # 1 + SINR = 4
    fleet = Fleet(ClockConfig(fleet="equal", **PLAIN, sinr=10 * np.log10(3), bandwidth=4e6), 0, 1)
    assert fleet.cost(0, 1, LOAD).busy == 2_000_000


def test_what_a_job_takes_depends_on_seed_hospital_and_number_alone():
    config = ClockConfig(fleet="stragglers", jitter=0.5, dropout=0.3)
    one, two = Fleet(config, 5, 8), Fleet(config, 5, 8)
    backwards = {(h, n): two.cost(h, n, LOAD) for n in range(20, 0, -1) for h in range(7, -1, -1)}
    forwards = {(h, n): one.cost(h, n, LOAD) for h in range(8) for n in range(1, 21)}
    assert forwards == backwards
    assert len({cost.busy for cost in forwards.values()}) >= 155  # of 160
    assert 25 < sum(cost.lost for cost in forwards.values()) < 75  # 48 expected, standard deviation 5.8


def test_jitter_is_lognormal():
    fleet = Fleet(ClockConfig(fleet="equal", jitter=0.5, cycles=1e6, uplink=1e15, downlink=1e15), 1, 1)
    logs = np.log([fleet.cost(0, n, LOAD).busy / 500_000 for n in range(1, 2001)])
    assert abs(logs.mean()) < 0.045  # four standard errors of 0.5 / sqrt(2000)
    assert logs.std() == pytest.approx(0.5, abs=0.035)


def test_an_absent_hospital_pauses():
    fleet = Fleet(ClockConfig(fleet="equal", on=10.0, off=5.0), 3, 2)
    end = fleet.end(0, 0, 1000 * MICRO)
    assert end / (1000 * MICRO) == pytest.approx(1.5, abs=0.25)  # 100 absences of 5 s in 1000 s of presence
    # in two parts it is the same
    middle = fleet.end(0, 0, 400 * MICRO)
    assert fleet.end(0, middle, 600 * MICRO) == end
    assert Fleet(ClockConfig(fleet="equal", on=10.0, off=5.0), 3, 2).end(0, 0, 1000 * MICRO) == end


def test_at_night_nothing_happens():
    fleet = Fleet(ClockConfig(fleet="equal", night=0.25, day=100.0), 3, 1)
    assert fleet.end(0, 0, 750 * MICRO) in range(
        975 * MICRO, 1025 * MICRO + 1
    )  # ten days but for the night at either end
    ends = [fleet.end(0, t * MICRO, 1) for t in range(0, 200)]
    assert sum(end - 1 != t * MICRO for t, end in enumerate(ends)) in range(49, 52)  # a quarter of two days waits


def test_the_fleet_of_bpfish_lies_in_its_table():
    for one in Fleet(ClockConfig(fleet="bpfish"), 0, 50).devices:
        assert 1e4 <= one.cycles <= 3e4
        assert 1e9 <= one.frequency <= 2.6e9
        assert 10**0.1 <= one.watts <= 10
        assert 20e6 * np.log2(1 + 10**1.3) <= one.uplink <= 200e6 * np.log2(101)


def test_a_fleet_s_file_becomes_part_of_the_configuration(tmp_path: Path):
    (tmp_path / "fleet.csv").write_text("\ufefffrequency,dropout\n1e9,0.1\n2e9,0\n")
    values = anchored({"cohort": {"hospitals": 2}, "clock": {"fleet": "fleet.csv"}}, tmp_path)
    config = parse(RunConfig, values, "test")
    assert config.clock.fleet == "listed"
    assert [(one.frequency, one.dropout) for one in config.clock.devices] == [(1e9, 0.1), (2e9, 0.0)]
    (tmp_path / "fleet.csv").unlink()
    assert parse(RunConfig, config.model_dump(mode="json"), "again") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed\n1\n", "no column is called 'speed'"),
        ("frequency\nfast\n", "row 1"),
        ("frequency\n1e9\n-1\n", "row 2"),
        ("frequency\n", "lists no hospital"),
        ("dropout\nnan\n", "row 1"),
        ("dropout\n0\n0.999\n", "row 2"),
        ("frequency,frequency\n1e9,2e9\n1e9,2e9\n", "column frequency stands twice"),
        ("frequency,dropout\n1e9\n1e9,0\n", "row 1: has no dropout"),
        ("frequency\n1e9\n", "clock.devices lists 1 hospitals, cohort.hospitals is 2"),
    ],
)
def test_a_file_that_is_no_fleet_is_refused_in_a_sentence(tmp_path: Path, text: str, message: str):
    (tmp_path / "fleet.csv").write_text(text)
    values = {"cohort": {"hospitals": 2}, "clock": {"fleet": str(tmp_path / "fleet.csv")}}
    with pytest.raises(ConfigError, match=message) as error:
        parse(RunConfig, values, "test")
    assert "\n" not in str(error.value)


def test_a_job_that_would_outlast_the_clock_is_refused_in_a_sentence():
    config = ClockConfig.model_validate({"fleet": "equal", "uplink": 1e-300})
    with pytest.raises(
        ConfigError, match=r"a job of hospital 0 would take .* s by its machine and link; allowed: 1e\+09 s"
    ):
        Fleet(config, 0, 2).cost(0, 1, Load(10, 1, 3_000))
