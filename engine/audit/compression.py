"""The form in which updates travelled, held against the vectors: written a second time from `engine/aggregation/compression.py`.

int8    with e the least whole number for which 127 * 2^e reaches the largest |x|, every x is a whole number times 2^e
top-k   not more than max(1, round(share * parameters)) entries are not zero
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def problem(config: Mapping[str, Any], vector: np.ndarray) -> str:
    """Why an update of a run of this configuration cannot be this vector; "" if it can."""
    update = config.get("update")
    form = update if isinstance(update, Mapping) else {}
    match form.get("compression"):
        case "int8":
            return "" if _in_levels(vector) else "the update has more than 255 levels of a power of two"
        case "top-k":
            share = form.get("share")
            most = max(1, round(share * len(vector))) if isinstance(share, int | float) else len(vector)
            many = int(np.count_nonzero(vector))
            return "" if many <= most else f"the update has {many} entries that are not zero, at most {most} are sent"
    return ""


def _in_levels(vector: np.ndarray) -> bool:
    largest = float(np.abs(vector).max(initial=0.0))
    if not np.isfinite(largest):
        return False
    if largest == 0.0:
        return True
    mantissa, exponent = np.frexp(largest)  # largest = mantissa * 2^exponent, 127 / 128 of it being the last that fits
    step = int(exponent) - 7 + bool(mantissa > 127 / 128)
    units = np.ldexp(vector.astype(np.float64), -step)
    return bool((units == np.rint(units)).all())
