"""Results out of the model's own fields: any at all for properties, and one in which nothing is absent."""

import functools
import operator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from hypothesis import strategies as st

from engine.config import RunConfig
from engine.data.config import CLASSES
from engine.result import LedgerSummary, Part


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field, out of its type."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return values(args[0])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        return st.lists(values(args[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(st.sampled_from(CLASSES), values(args[1]), max_size=2)
    if NoneType in args:
        return st.none() | values(_some(kind))
    if kind is RunConfig:
        return st.builds(RunConfig, seed=st.integers(0, 9), name=st.text(min_size=1, max_size=5))
    if kind is LedgerSummary:
        held = {name: values(_some(field.annotation)) for name, field in LedgerSummary.model_fields.items()}
        return st.just(LedgerSummary(backend="none")) | st.builds(LedgerSummary, **held)
    if issubclass(kind, Part):
        return st.builds(kind, **{name: values(field.annotation) for name, field in kind.model_fields.items()})
    floats = st.floats(allow_nan=False, allow_infinity=False)
    return {int: st.integers(), float: floats, bool: st.booleans(), str: st.text(max_size=5)}[kind]


def whole(kind: Any) -> Any:
    """A document in which nothing is absent: lists have one item, mappings the entry N, numbers are 1 and 1.5."""
    origin, args = get_origin(kind), get_args(kind)
    if NoneType in args:
        return whole(_some(kind))
    if origin is Annotated:
        return whole(args[0])
    if origin is Literal:
        return args[0]
    if origin is tuple:
        return [whole(args[0])]
    if origin is dict:
        return {"N": whole(args[1])}
    if kind is RunConfig:
        return RunConfig().model_dump(mode="json")
    if issubclass(kind, Part):
        return {field.serialization_alias or name: whole(field.annotation) for name, field in kind.model_fields.items()}
    return {int: 1, float: 1.5, bool: True, str: "text"}[kind]


def _some(kind: Any) -> Any:
    """A type without the None beside it."""
    kinds = [each for each in get_args(kind) if each is not NoneType]
    return functools.reduce(operator.or_, kinds) if NoneType in get_args(kind) else kind
