"""Where a configuration comes from: a YAML file, a ready-made one by its name, and flags put over it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.own.reference import named
from engine.own.source import recall
from engine.paths import anchored, load_config
from engine.reads import is_parameter
from engine.settings import dotted_keys, load_yaml, near_key, set_key, yaml_value

HERE = Path(__file__).parent
READY = "ready:"  # starts the name of a ready-made file
SHORT = {"address": "execution.address", "pool": "execution.pool"}  # flags that have another name than their key
_FILE_ONLY = ("conditions", "search", "baselines", "design", "objectives", "constraints")


class Given(NamedTuple):
    """A configuration as it was given.

    Attributes:
        source: names it in messages.
        flags: dotted keys that were put over the file.
    """

    values: dict[str, Any]
    source: str
    flags: tuple[str, ...] = ()


def read_file(name: str | Path) -> Given:
    """The values of a YAML file, or of a ready-made one such as "ready:quickstart". Paths in it become absolute.

    Raises:
        ConfigError: there is no such file, or it is no YAML mapping.
    """
    if str(name).startswith(READY):
        path = HERE / f"{str(name).removeprefix(READY)}.yaml"
        if path.parent != HERE or not path.exists():
            raise ConfigError(f"{name}: there is no such ready-made file; there are {', '.join(ready())}.")
        return Given(load_yaml(path), str(name))
    path = Path(name).expanduser()
    if not path.exists() and f"{READY}{path.stem}" in ready():
        raise ConfigError(
            f"{name}: cannot be read (No such file or directory); the ready-made one is {READY}{path.stem}."
        )
    values = load_yaml(path)
    recall(path.parent, [own.digest for own in named(values)])
    return Given(study_anchored(values, path.parent), str(name))


def ready() -> list[str]:
    """The names of all ready-made files."""
    return [f"{READY}{path.stem}" for path in sorted(HERE.glob("*.yaml"))]


def with_flags(given: Given, words: Sequence[str], model: type[RunConfig]) -> Given:
    """Puts `--key value` and `--key=value` over the values; paths among them are meant from the working directory."""
    values, flags, left = dict(given.values), list(given.flags), list(words)
    while left:
        flag = left.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"{flag!r} is not a flag; keys are given as --cohort.hospitals 10.")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not left:
                raise ConfigError(f"--{key}: a value is missing.")
            text = left.pop(0)
        key = SHORT.get(key, key.replace("-", "_"))
        if key in _FILE_ONLY and key in dotted_keys(model):
            raise ConfigError(f"--{key}: is written in the file and is no flag.")
        if not _is_key(key, model):
            near = near_key(key, dotted_keys(model))
            hint = f" Did you mean --{near}?" if near else " `pulseledger keys` lists all."
            raise ConfigError(f"--{key} is not a key of the configuration.{hint}")
        if key in flags:
            raise ConfigError(f"--{key} is given twice.")
        try:
            value = yaml_value(text)
        except ValueError as error:
            raise ConfigError(f"--{key}: {error}.") from None
        over(values, key, value)
        flags.append(key)
    return given._replace(values=values, flags=tuple(flags))


def _is_key(key: str, model: type[RunConfig]) -> bool:
    return key in dotted_keys(model) or is_parameter(key)


def out_folder(config: RunConfig) -> Path:
    """Where a run or study goes: `out`, else runs/NAME; short where it is below the working directory."""
    name = config.name.replace("/", "-").lstrip(".") or "unnamed"
    folder = Path(config.out or f"runs/{name}")
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def given(
    config: str | Path | Mapping[str, Any] | RunConfig, keys: Mapping[str, Any], model: type[RunConfig], what: str
) -> Given:
    """A configuration as Python gives it: a file or values, and keys such as federation__rounds put over them.

    Raises:
        ConfigError: there is no such file, or no such key.
    """
    if isinstance(config, RunConfig):
        start = Given(config.model_dump(mode="json"), what)
    elif isinstance(config, Mapping):
        start = Given(study_anchored(copy.deepcopy(dict(config)), Path()), what)
    elif not str(config).startswith(READY) and Path(config).expanduser().is_dir():
        path = Path(config).expanduser() / "study.yaml"
        start = Given(load_config(path), str(path))
        recall(path.parent, [own.digest for own in named(start.values)])
    else:
        start = read_file(config)
    flags = []
    for name, value in keys.items():
        key = name.replace("__", ".")
        if not _is_key(key, model):
            raise ConfigError(f"{name}: {key} is not a key of the configuration; `pulseledger keys` lists all.")
        over(start.values, key, value)
        flags.append(key)
    return start._replace(flags=tuple(flags))


def over(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key; a relative path is meant from the working directory."""
    set_key(values, key, study_anchored({key: value}, Path())[key])


def study_anchored(values: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """`anchored`, also in what a study varies."""

    def row(value: Any, axis: str = "") -> Any:
        value = anchored(value, base) if isinstance(value, Mapping) else value
        return anchored({axis: value}, base)[axis] if axis else value

    found = anchored(values, base)
    for name in ("baselines", "design"):
        if isinstance(values.get(name), list):
            found[name] = [row(each) for each in values[name]]
    if isinstance(values.get("conditions"), Mapping):
        found["conditions"] = {
            axis: [row(each, str(axis)) for each in points] if isinstance(points, list) else points
            for axis, points in values["conditions"].items()
        }
    if isinstance(values.get("search"), Mapping):
        found["search"] = {
            key: {kind: _drawn(kind, given, str(key), row) for kind, given in spec.items()}
            if isinstance(spec, Mapping)
            else spec
            for key, spec in values["search"].items()
        }
    return found


def _drawn(kind: str, given: Any, key: str, row: Callable[[Any, str], Any]) -> Any:
    """The choices of a tuned key, and the values of others under which it is there."""
    if kind == "choice" and isinstance(given, list):
        return [row(each, key) for each in given]
    if kind == "when" and isinstance(given, Mapping):
        return {
            other: [row(each, str(other)) for each in value] if isinstance(value, list) else row(value, str(other))
            for other, value in given.items()
        }
    return given
