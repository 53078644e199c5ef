"""Every key of a configuration, explained: what it may be, its range, unit and default, and when it is read at all."""

import json
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from engine.config import RunConfig
from engine.data.config import CLASSES
from engine.errors import ConfigError
from engine.own.reference import FORMS, Own
from engine.reads import read_with
from engine.settings import bare, dotted_keys, near_key
from sweeps.owners import not_varied
from sweeps.scores import (
    MODELS,
    PARTS,
    PLAIN,
    UNTUNED,
    details,
    known_scores,
    objectives,
    shown,
)
from sweeps.space import STUDY_KEYS, StudyConfig

UNITS = {
    "data.rate": "Hz",
    "data.filter.band": "Hz",
    "data.filter.notch": "Hz",
    "data.window": "samples, or a time",
    "data.rr_context": "beats, or a time",
    "data.simulated.minutes": "min",
    "cohort.adapt_minutes": "min",
    "federation.batch_size": "beats",
    "balance.quota": "beats",
    "balance.policy.quota": "beats",
    "balance.policy.expiry_seconds": "s",
    "balance.timegan.patch": "samples",
    "balance.timegan.batch_size": "beats",
    "balance.timegan.minimum": "beats",
    "ledger.timeout": "s",
    "ledger.max_fee_gwei": "gwei",
    "ledger.window": "s",
    "ledger.deadline": "s",
    "ledger.confirmations": "blocks",
    "ledger.patience": "s",
    "execution.deadline": "s",
}
# sections' keys that a file may write more simply than the model says -> their JSON types
_LISTED = {
    "lead": ("string", "integer", "array", "null"),
    "leads": ("array", "null"),
    "classes": ("string", "array", "null"),
}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class Key(NamedTuple):
    """One key.

    Attributes:
        allowed: values or kind, and range, in words.
        default: as YAML has it.
        study: whether only studies have it.
        read_with: the values of others with which it is read at all; "" for one that always is.
        in_study: why it cannot differ between the trials of a study; "" where it can.
    """

    name: str
    allowed: str
    default: str
    unit: str
    description: str
    study: bool
    read_with: str
    in_study: str

    @property
    def line(self) -> str:
        """The key in one line."""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.name:40} {self.default:28} {self.allowed}{unit}; {self.description}{'  (studies)' if self.study else ''}"


def all_keys() -> list[Key]:
    """All keys, those of studies among them."""
    return [_key(name, field) for name, field in dotted_keys(StudyConfig).items()]


def explained(name: str) -> list[str]:
    """A key in lines; of a section, its keys.

    Raises:
        ConfigError: there is no such key.
    """
    found = {key.name: key for key in all_keys()}
    if "/" in name:
        return _score(name)
    if name not in found:
        within = [key.line for key in found.values() if key.name.startswith(f"{name}.")]
        if within:
            return within
        near = near_key(name, found)
        raise ConfigError(f"keys: there is no key {name}{f' (did you mean {near}?)' if near else ''}.")
    key = found[name]
    lines = [key.name, f"  {key.description}", f"  allowed: {key.allowed}{f', in {key.unit}' if key.unit else ''}"]
    lines.append(f"  default: {key.default}")
    lines += [f"  read with: {key.read_with}"] if key.read_with else []
    if not key.study:
        lines.append(f"  in a study: {key.in_study or 'may stand in conditions, baselines and search'}")
    if name in ("objectives", "constraints"):
        lines += [
            "  scores:",
            *(f"    {score}" for score in objectives(CLASSES)),
            "    and recall/NAME of each of data.classes",
        ]
    return lines


def _score(path: str) -> list[str]:
    """A score in lines; those of classes of one's own are called like those of AAMI."""
    part = path.rpartition("/")[0]
    of_class = part in [f"{beats}/{model}/recall" for beats in PARTS for model in MODELS]
    of_class |= part in [one.rpartition("/")[0] for one in details(CLASSES[:1]) if one.startswith("final/")]
    if not of_class and path not in (*objectives(CLASSES), *details(()), *UNTUNED):
        raise ConfigError(f"keys: {path!r} is no score; {known_scores(CLASSES, path)}.")
    return [path, f"  {shown(path).says}", f"  heading in tables: {shown(path).title}"]


def schema(model: type[RunConfig]) -> str:
    """The JSON schema of a file, for editors."""
    found = model.model_json_schema()
    found["title"] = f"PulseLedger {'study' if model is StudyConfig else 'run'}"
    for section in (found, *found.get("$defs", {}).values()):
        for name, field in section.get("properties", {}).items():
            if name in _LISTED:  # one is a list of one; letters of classes may stand without commas
                section["properties"][name] = {**field, "anyOf": [{"type": list(_LISTED[name])}]}
                section["properties"][name].pop("type", None)
                section["properties"][name].pop("items", None)
    if model is StudyConfig:
        pair = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}}
        spec = {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                **dict.fromkeys(("uniform", "log_uniform", "int", "log_int"), pair),
                "choice": {"type": "array", "minItems": 1},
                "when": {"type": "object"},
            },
        }
        names = {"enum": list(dotted_keys(RunConfig))}
        found["properties"]["search"] |= {"additionalProperties": spec, "propertyNames": names}
        scores = {
            "anyOf": [{"enum": list(PLAIN)}, {"pattern": f"^({'|'.join(PARTS)})/({'|'.join(MODELS)})/recall/.+$"}]
        }
        found["properties"]["objectives"]["propertyNames"] = scores
        found["properties"]["constraints"]["propertyNames"] = scores
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _key(name: str, field: Any) -> Key:
    default = field.get_default(call_default_factory=True)
    shown = _plain(default)
    words = ", ".join([_words(field.annotation), *_range(field.metadata)])
    study = name.partition(".")[0] in STUDY_KEYS
    when, why = ("", "") if study else (read_with(name), not_varied(name))
    return Key(name, words, json.dumps(shown), UNITS.get(name, ""), field.description or "", study, when, why)


def _plain(value: Any) -> Any:
    return (
        value.model_dump(mode="json")
        if hasattr(value, "model_dump")
        else list(value)
        if isinstance(value, tuple)
        else value
    )


def _words(kind: Any) -> str:
    """A type as a reader of a YAML file knows it."""
    if kind == Own:
        return FORMS
    if get_origin(kind) is Annotated:
        return _words(get_args(kind)[0])
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys("null" if k is NoneType else _words(k) for k in inner))
    if origin is tuple:
        if len(inner) == 2 and inner[1] is Ellipsis:
            return f"a list ({_words(inner[0])})"
        return f"a list of {len(inner)} ({_words(inner[0])})"
    if origin is list:
        return f"a list ({_words(inner[0])})"
    if origin is dict:
        return f"a mapping of {_words(inner[0])} to {_words(inner[1])}"
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a mapping"
    return {bool: "true | false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}.get(
        bare(kind), "a value"
    )


def _range(metadata: list[Any]) -> Iterator[str]:
    for bound in metadata:
        for name, sign in _SIGNS.items():
            if (limit := getattr(bound, name, None)) is not None:
                yield f"{sign} {limit:,}" if isinstance(limit, int) and limit < 1e9 else f"{sign} {limit:.3g}"
        if (least := getattr(bound, "min_length", None)) is not None:
            yield f"at least {least} letter{'s' * (least != 1)}"
        if (most := getattr(bound, "max_length", None)) is not None:
            yield f"at most {most} letters"
