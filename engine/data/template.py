"""A second look at each lead: the beat less what the record's beats usually look like.

The template of a record is the median of its windows in the first minutes; no label is looked at. It is made inside the hospital that
has the record, and of beats of the record's first part only (the train beats, where it has some), so nothing that is validated or tested
later is in it. A record that is tested from its beginning makes it of its own first minutes, which a clinic would have to wait for.
"""

import hashlib
import itertools
from pathlib import Path

import numpy as np

from engine.data.beats import Beats, derived, reopened
from engine.data.config import DataConfig
from engine.data.partitions import TRAIN, UNUSED
from engine.errors import DataError


def with_template(beats: Beats, data: DataConfig, owner: np.ndarray, part: np.ndarray, trains: np.ndarray) -> Beats:
    """The beats with as many leads more, each less its template, as arrays of their own in the cache; the given ones without.

    Args:
        owner, part, trains: of `partitions`: hospital and part of each beat, whether a hospital trains.
    """
    if data.template == "none":
        return beats
    key = [beats.digest.encode(), Path(__file__).read_bytes(), repr(data.template_minutes).encode()]
    key += [array.tobytes() for array in (owner, part, trains)]
    place = beats.folder.with_name(f"{beats.folder.name}-{hashlib.sha256(b'|'.join(key)).hexdigest()[:16]}")
    try:
        return reopened(beats, place)
    except DataError:
        pass  # not made yet, or damaged: make it (again)
    return derived(beats, place, {"x": np.concatenate([beats.x, less_template(beats, data, owner, part, trains)], 1)})


def less_template(
    beats: Beats, data: DataConfig, owner: np.ndarray, part: np.ndarray, trains: np.ndarray
) -> np.ndarray:
    """float32[beats, leads, window]: each window less its record's template. A record's beats in hospitals that train and in those that
    only adapt have templates of their own."""
    found = np.array(beats.x)
    learning = (owner >= 0) & trains[owner]
    for (r, record), side in itertools.product(enumerate(beats.records), (True, False)):
        mine = np.flatnonzero((beats.record == r) & (learning == side))
        known = _known(part[mine])
        if not len(mine):
            continue
        sample = np.asarray(beats.sample[mine])
        early = known & (sample < sample[known].min() + data.template_minutes * 60 * record["sampling_rate"])
        found[mine] -= np.median(beats.x[mine[early]], axis=0)
    return found


def _known(part: np.ndarray) -> np.ndarray:
    """bool[n]: the beats of a record's first part: those that train where any does."""
    used = part[part != UNUSED]
    if not len(used):
        return np.ones(len(part), bool)
    return part == (TRAIN if (used == TRAIN).any() else used[0])
