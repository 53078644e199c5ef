"""Time as a parameter."""

from engine.clock import REAL, JumpingClock, Stopwatch


def test_a_jumping_clock_moves_only_when_somebody_sleeps():
    clock = JumpingClock()
    assert clock.now() == clock.now() == 0.0
    clock.sleep(90.5)
    clock.sleep(-1)
    assert clock.now() == 90.5


def test_the_real_clock_goes_forward():
    before = REAL.now()
    REAL.sleep(0.001)
    assert REAL.now() >= before + 0.001


def test_laps_add_up_to_the_total():
    clock = JumpingClock()
    watch = Stopwatch(clock)
    for name, seconds in (("train", 2.0), ("hash", 0.5), ("train", 1.0)):
        clock.sleep(seconds)
        watch.lap(name)
    assert watch.laps == {"train": 3.0, "hash": 0.5}
    assert watch.total == 3.5
