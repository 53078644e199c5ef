"""The weighted mean in fixed point."""

import numpy as np

from engine.aggregation.mean import weighted_mean


def test_weighted_mean_by_hand():
    start = np.array([1, 2], np.float32)
    updates = [(1, np.array([4, 0], np.float32)), (3, np.array([0, 8], np.float32))]
    np.testing.assert_array_equal(weighted_mean(start, updates), np.array([2, 8], np.float32))
    assert weighted_mean(start, updates).dtype == np.float32
    np.testing.assert_array_equal(weighted_mean(start, [(0, updates[0][1])]), start)
