"""Beats without hindsight: nothing of a beat's window or timing depends on what comes after its part.

What a train beat looks like must not change when the test part of its record does. Two things would let it: a scale that
is measured over the whole record (`normalise: record` does; `train` measures it over the train beats), and the local mean
of the RR ratios, which reaches some beats ahead, over the guard gap. So timing is worked out again for the beats before a
boundary, from the beats before it.
"""

import hashlib
from pathlib import Path

import numpy as np

from engine.data.beats import Beats, derived, reopened, rr_features
from engine.data.config import DataConfig
from engine.data.partitions import NO_END, TRAIN
from engine.errors import DataError


def without_hindsight(
    beats: Beats, data: DataConfig, owner: np.ndarray, part: np.ndarray, trains: np.ndarray, horizon: np.ndarray
) -> Beats:
    """The beats of a cohort, as arrays of their own in the cache; the given ones where nothing changes.

    Args:
        owner, part, trains, horizon: of `partitions`: hospital and part of each beat, whether a hospital trains, and the
            sample that ends what a beat may know.
    """
    scaled = data.normalise == "train"
    stops = scaled if data.rr_stop is None else data.rr_stop
    timed = stops and bool(beats.rr_names) and bool((horizon != NO_END).any())
    if not scaled and not timed:
        return beats
    learning = (owner >= 0) & trains[owner]
    key = [beats.digest.encode(), Path(__file__).read_bytes(), horizon.tobytes() if timed else b""]
    key += [array.tobytes() for array in (part == TRAIN, learning, owner)] if scaled else []
    place = beats.folder.with_name(f"{beats.folder.name}-{hashlib.sha256(b'|'.join(key)).hexdigest()[:16]}")
    try:
        return reopened(beats, place)
    except DataError:
        pass  # not made yet, or damaged: make it (again)
    changed = {}
    if timed:
        changed["rr"] = timing(beats, data, horizon)
    if scaled:
        changed["x"] = scaled_by_train(beats, owner, part, learning)
    return derived(beats, place, changed)


def timing(beats: Beats, data: DataConfig, horizon: np.ndarray) -> np.ndarray:
    """float32[beats, features]: RR features out of the annotated beats before each beat's horizon."""
    rr = np.array(beats.rr)
    ends = np.cumsum([record["peaks"] for record in beats.records])
    for r, record in enumerate(beats.records):
        peaks = np.asarray(beats.peak[ends[r] - record["peaks"] : ends[r]])
        mine = np.flatnonzero(beats.record == r)
        for end in np.unique(horizon[mine][horizon[mine] != NO_END]):
            before = peaks[peaks < end]
            rows = mine[horizon[mine] == end]
            features = rr_features(before / record["sampling_rate"], data)
            rr[rows] = features[np.searchsorted(before, beats.sample[rows])]
    return rr


def scaled_by_train(beats: Beats, owner: np.ndarray, part: np.ndarray, learning: np.ndarray) -> np.ndarray:
    """float32[beats, leads, window]: each record less the median and over the spread of its train beats' windows.

    A record's beats in hospitals that train and in those that only adapt are scaled apart. One without a train beat there
    takes the scale of its hospital's train beats.
    """
    x = np.array(beats.x)
    for r in range(len(beats.records)):
        for side in (True, False):
            rows = np.flatnonzero((beats.record == r) & (owner >= 0) & (learning == side))
            train = rows[part[rows] == TRAIN]
            if len(train):
                x[rows] = _scaled(beats.x[rows], beats.x[train])
                continue
            for hospital in np.unique(owner[rows]):
                mine = rows[owner[rows] == hospital]
                x[mine] = _scaled(beats.x[mine], beats.x[np.flatnonzero((owner == hospital) & (part == TRAIN))])
    return x


def _scaled(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Windows float32[beats, leads, window], each lead by itself."""
    if not known.size:
        return x
    result = np.empty_like(x)
    for lead in range(x.shape[1]):
        own = np.ascontiguousarray(known[:, lead])
        result[:, lead] = (x[:, lead] - np.median(own)) / max(float(own.std()), 1e-6)
    return result
