"""The table of what the software does, and of what frameworks ask for; both lie beside this file."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import ConfigError
from engine.settings import load_yaml

HOME = Path(__file__).parent


class Measure(NamedTuple):
    """What the software does, the tests that show it, what it does not do, and of what a study must make use for it to be in force;
    "" where that is nothing."""

    name: str
    does: str
    tests: tuple[str, ...]
    limits: str
    when: str = ""

    @property
    def shown_by(self) -> str:
        """The names of the tests, without their files."""
        return ", ".join(test.partition("::")[2] for test in self.tests)


@cache
def measures() -> Mapping[str, Measure]:
    """By name.

    Raises:
        ConfigError: one claims something that no test shows.
    """
    found = {}
    for name, said in load_yaml(HOME / "measures.yaml").items():
        if not said["tests"] or not all("::test_" in test for test in said["tests"]):
            raise ConfigError(f"measures.yaml: {name}: nothing is claimed without a test; name one as FILE::test_NAME.")
        found[name] = Measure(name, said["does"], tuple(said["tests"]), said["not"], said.get("when", ""))
    return found


@cache
def frameworks() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Each framework's lines, whose `by` names measures.

    Raises:
        ConfigError: one names a measure that is none.
    """
    found = load_yaml(HOME / "frameworks.yaml")
    for name, lines in found.items():
        if unknown := sorted({one for line in lines for one in line.get("by", ())} - measures().keys()):
            raise ConfigError(f"frameworks.yaml: {name}: {unknown[0]} is no measure.")
    return found
