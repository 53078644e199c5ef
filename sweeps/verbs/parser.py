"""How the command line is read: verbs, and every key of the configuration as a flag.

A key as a flag has the same dotted name, is checked by the same model and answered with the same sentence as in the YAML.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.settings import dotted_keys, load_yaml, set_key, yaml_value

MISTAKE = 2  # exit code of a user's mistake
WAITING = 3  # of a run or study that waits for a reviewer, and of a command that nobody has answered
INTERRUPTED = 130
READY = Path(__file__).parents[1]  # where the ready-made files are


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line, like everything else here; the usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"pulseledger: {message} (see {self.prog} --help).\n")


class Verbs:
    """Where verbs are added."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(
        self, name: str, run: Callable[[argparse.Namespace, list[str]], int], help: str, takes_keys: bool = False
    ) -> argparse.ArgumentParser:
        """A verb's own parser; `run` gets the options and, with `takes_keys`, the words that are none."""
        parser = self._verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
        parser.set_defaults(run=run, takes_keys=takes_keys)
        return parser


def trusts(sub: argparse.ArgumentParser) -> None:
    """Adds the flag that names servers which a folder may lead to."""
    words = "a server or address that may be opened where the folder names it; also in PULSELEDGER_TRUSTED"
    sub.add_argument("--trust", action="append", default=[], metavar="SERVER", help=words)


def values_of(path: str, rest: list[str], model: type[RunConfig]) -> dict[str, Any]:
    """The values of a YAML file with the flags put over them; ready-made files are found wherever the package is."""
    ready = READY / Path(path).name
    return overridden(load_yaml(path if Path(path).exists() or not ready.exists() else ready), rest, model)


def overridden(values: dict[str, Any], rest: list[str], model: type[RunConfig]) -> dict[str, Any]:
    """Puts `--key value` and `--key=value` flags over the values of a file."""
    words = list(rest)
    while words:
        flag = words.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"{flag!r} is not a flag; keys are given as --cohort.hospitals 10.")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not words:
                raise ConfigError(f"--{key}: a value is missing.")
            text = words.pop(0)
        key = "execution.address" if key == "address" else key.replace("-", "_")
        if key in ("conditions", "search", "objectives") or key not in dotted_keys(model):
            import difflib

            near = difflib.get_close_matches(key, dotted_keys(model), 1)
            hint = f" Did you mean --{near[0]}?" if near else " `pulseledger keys` lists all."
            raise ConfigError(f"--{key} is not a key of the configuration.{hint}")
        try:
            value = yaml_value(text)
        except ValueError as error:
            raise ConfigError(f"--{key}: {error}.") from None
        set_key(values, key, value)
    return values
