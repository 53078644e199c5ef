"""Broad sweeps of a property: a part of the cases in every suite, all of them with `-m long`."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def every(each: int, cases: Iterable[Sequence[Any]]) -> list[Any]:
    """Parameters of which every so-manieth is in the default suite, the others are long.

    @pytest.mark.parametrize(("table", "column"), every(3, COLUMNS))
    """
    return [pytest.param(*case, marks=[pytest.mark.long] * (number % each > 0)) for number, case in enumerate(cases)]
