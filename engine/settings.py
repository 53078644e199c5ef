"""How settings are written: frozen sections, checked before any work starts, read from and written to YAML.

Unknown keys are refused; a mistake is one sentence that names the key and what is allowed.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from engine.encoding import require_size
from engine.errors import ConfigError


class Mistake(NamedTuple):
    """What is wrong with a key, or with several that do not go together.

    Attributes:
        says: without the full stop.
        keys: all that it goes by, dotted; where one of several is wrong by itself, nothing is said of them together.
    """

    says: str
    keys: Sequence[str]


class Section(BaseModel):
    """Settings that belong together. Each stands beside what it configures."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and _is_number(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("is true or false, where a number is wanted")
        return value

    def clashes(self) -> Iterator[Mistake]:
        """What does not go together, each key by itself being right; keys are named from this section on."""
        return iter(())

    @model_validator(mode="after")
    def _together(self, info: ValidationInfo) -> Self:
        if info.context is not _LOOSE:
            for clash in self.clashes():
                raise ValueError(clash.says)
        return self


def _is_number(kind: Any) -> bool:
    """Whether a field takes numbers and neither true nor false; pydantic would take true for 1."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    plain = {get_args(each)[0] if get_origin(each) is Annotated else each for each in kinds}
    return bool(plain & {int, float}) and bool not in plain


_LOOSE: dict[str, Any] = {"clashes": "are looked for afterwards"}  # validate with this context: each key by itself


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], values: Any, source: str) -> Model:
    """Checks `values` against `model`; each mistake becomes a sentence that names the key and what is allowed."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: must be a mapping of keys such as {', '.join(list(model.model_fields)[:4])}.")
    try:
        return model.model_validate(values)
    except ValidationError:
        raise refusal(source, (mistake.says for mistake in mistakes(model, values))) from None


def mistakes(model: type[BaseModel], values: Mapping[str, Any]) -> list[Mistake]:
    """All that is wrong with `values`: keys by themselves, then what does not go together."""
    found: list[Mistake] = []
    try:
        checked = model.model_validate(values, context=_LOOSE)
    except ValidationError as error:
        wrong = sentences(model, error)
        found = [Mistake(says, [key]) for key, says in wrong.items()]
        try:  # the rest is looked at even so
            checked = model.model_validate(_without(values, list(wrong)), context=_LOOSE)
        except ValidationError:
            return found
    alone = [key for mistake in found for key in mistake.keys]
    return found + [
        clash
        for clash in _clashes(checked)
        if not any(_within(key, bad) or _within(bad, key) for key in clash.keys for bad in alone)
    ]


def _clashes(section: Any, path: str = "") -> Iterator[Mistake]:
    """The clashes of a section and of those within, named from the whole file on."""
    for clash in section.clashes():
        keys = [f"{path}.{key}" if path else key for key in clash.keys]
        yield Mistake(f"{path}: {clash.says}" if path else clash.says, keys)
    for name in type(section).model_fields:
        if isinstance(inner := getattr(section, name), Section):
            yield from _clashes(inner, f"{path}.{name}" if path else name)


def _without(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The values without what stands at these keys; a wrong item takes its list with it."""

    def rest(part: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        left = {}
        for name, value in part.items():
            path = f"{prefix}{name}"
            below = [key for key in keys if _within(key, path)]
            if not below or (isinstance(value, dict) and path not in below):
                left[name] = rest(value, f"{path}.") if below else value
        return left

    return rest(values, "")


def _within(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def refusal(source: str, problems: Iterable[str]) -> ConfigError:
    """All that is wrong with a file, a sentence a line."""
    return ConfigError("\n".join(f"{source}: {problem}." for problem in problems))


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Reads one YAML mapping. Raises ConfigError for a missing file, a folder or broken YAML."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot be read ({reason}); give a YAML file.") from None
    try:
        values = yaml.load(text, _Loader)
        require_size(values)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: more digits than a number may have
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{path}{where}: is not valid YAML ({problem}).") from None
    if values is None:
        raise ConfigError(f"{path}: holds nothing; give a YAML file of keys and values.")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of keys, not a {type(values).__name__}.")
    if _holds_itself(values, ()):
        raise ConfigError(f"{path}: is not valid (an alias stands within what it is an alias of).")
    return values


def _holds_itself(value: Any, around: tuple[int, ...]) -> bool:
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return id(value) in around or any(_holds_itself(part, (*around, id(value))) for part in parts)


def yaml_value(text: str) -> Any:
    """One value of a flag, read as in a file: `[04015, 0001]` are two names. Raises ValueError where it is no YAML."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{text!r} is not a YAML value") from error


def dump_yaml(model: BaseModel) -> str:
    """The YAML that `load_yaml` and `parse` turn into an equal model."""
    return yaml_text(model.model_dump(mode="json"))


def yaml_text(values: dict[str, Any]) -> str:
    """Plain values as YAML."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def name_text(value: Any) -> Any:
    """A name as it was written, for `BeforeValidator`: 100 is "100"; a number that does not print back is refused."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, bool | float | NoneType):
        raise ValueError("is no name but a number, true, false or null; put it into quotes to make it one")
    return value


Name = Annotated[str, BeforeValidator(name_text), WithJsonSchema({"type": ["string", "integer"]})]


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key such as `cohort.alpha` in nested dictionaries, in place."""
    *path, last = key.split(".")
    for name in path:
        child = values.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {name} is not a section.")
        values[name] = values = dict(child)  # another place of the file may hold the same one, by a YAML alias
    values[last] = value


def dotted_keys(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every leaf key of `model`, dotted, with its pydantic field."""
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys.update(dotted_keys(kind, f"{prefix}{name}."))
        else:
            keys[prefix + name] = field
    return keys


def words(kind: Any) -> tuple[Any, ...]:
    """The words that a key may be, beside whatever else it may be; empty for one that has none."""
    if get_origin(kind) is Annotated:
        return words(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return get_args(kind)
    return (
        tuple(word for each in get_args(kind) for word in words(each)) if get_origin(kind) in (Union, UnionType) else ()
    )


def near_key(key: str, known: Iterable[str]) -> str:
    """The known key that is spelt most like this one, or whose last part is; empty if none is near."""
    known = list(known)
    if near := difflib.get_close_matches(key, known, 1):
        return near[0]
    ends = {name.rsplit(".", 1)[-1]: name for name in known}
    near = difflib.get_close_matches(key.rsplit(".", 1)[-1], ends, 1)
    return ends[near[0]] if near else ""


def sentences(model: type[BaseModel], error: ValidationError) -> dict[str, str]:
    """Dotted key -> what is wrong with it, without the full stop: its value, and what is allowed."""
    found: dict[str, str] = {}
    for each in error.errors():
        path = _user_path(model, each["loc"])
        # what is wrong below a key that is told already is an alternative of its kinds
        if not any(".".join(path[:n]) in found for n in range(1, len(path) + 1)):
            found[".".join(path)] = _sentence(model, error, each, path)
    return found


def sentence(model: type[BaseModel], error: ValidationError) -> str:
    """The first thing that is wrong, as in `sentences`."""
    return next(iter(sentences(model, error).values()))


def _sentence(model: type[BaseModel], error: ValidationError, first: Any, path: list[str]) -> str:
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        owner: Any = model
        for name in path[:-1]:
            owner = owner.model_fields[name].annotation
        allowed = list(owner.model_fields)
        if path[-1] in dotted_keys(owner):
            section, _, name = path[-1].rpartition(".")
            return f"{key} stands outside of its section; write {name} within {section}"
        near = difflib.get_close_matches(path[-1], allowed, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{key} is not a known key{hint}; allowed here: {', '.join(allowed)}"
    # a value that may be of several kinds has one error for each kind
    same = [e["msg"] for e in error.errors() if _user_path(model, e["loc"])[: len(path)] == path]
    messages = [m.removeprefix("Value error, ") for m in dict.fromkeys(same)]
    if isinstance(first["input"], str) and (expected := _near_word(model, path, first["input"])):
        messages[0] += f" (did you mean {expected}?)"
    message = ", or ".join(m[0].lower() + m[1:] for m in messages)
    given = first["input"]
    shown = f" is {given!r:.200}" if not isinstance(given, dict | BaseModel) else ""
    return f"{key}{shown}: {message}" if key else messages[0]


def _near_word(model: type[BaseModel], path: list[str], given: str) -> str:
    field: Any = dotted_keys(model).get(".".join(path))
    known = [str(word) for word in words(field.annotation)] if field is not None else []
    return next(iter(difflib.get_close_matches(given, known, 1)), "")


def _user_path(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that a user typed: pydantic adds the tried alternatives of a union, and "function-after"."""
    path: list[str] = []
    section: Any = model
    for part in location:
        if isinstance(part, int):
            path.append(str(part))
            section = bare(_item(section))
        elif isinstance(section, type) and issubclass(section, BaseModel):
            path.append(part)
            fields = section.model_fields
            field = next((f for name, f in fields.items() if part in (name, f.validation_alias)), None)
            section = bare(field.annotation) if field else None
        elif get_origin(section) is dict:
            path.append(part)
            section = bare(_item(section))
    return path


def bare(kind: Any) -> Any:
    """A type without what is annotated to it, and without None beside it."""
    if get_origin(kind) is Annotated:
        return bare(get_args(kind)[0])
    kinds = [k for k in get_args(kind) if k is not NoneType] if get_origin(kind) in (Union, UnionType) else []
    return bare(kinds[0]) if len(kinds) == 1 else kind


def _item(kind: Any) -> Any:
    """What a list, or a mapping, holds."""
    return (get_args(kind) or (None,))[-1 if get_origin(kind) is dict else 0]


# YAML 1.2's plain scalars: `no` and `0001` are text, `1e-3` is a number. Numbers that would not print back as they were
# written (04015, 3141595_0001, 0x1F, +5) stay text, too: record names look like that, and a number's field reads them.
_PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"0|-?[1-9][0-9]*", "-0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


class _Loader(yaml.SafeLoader):
    """YAML in which a key may stand only once: the second would silently win."""

    yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # the merge key  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# libyaml where it is there, four times faster
class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes text that a reader of YAML 1.1 or of 1.2 would take for something else."""


for _tag, (_pattern, _first) in _PLAIN.items():
    for _end in (_Loader, _Dumper):
        _end.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
