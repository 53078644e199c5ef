"""A configuration to begin with: the keys that one needs, each with what it means and may be."""

import json
from pathlib import Path
from typing import Any, Literal

from engine.errors import ConfigError
from engine.files import write_text
from sweeps.keys import Key, all_keys

HERE = Path(__file__).parent
What = Literal["run", "study"]

# key -> the value to begin with; None: the default
_RUN: dict[str, Any] = {
    "seed": None,
    "data.source": None,
    "data.folder": None,
    "data.classes": None,
    "data.window": [90, 162],
    "data.simulated.patients": None,
    "cohort.hospitals": 4,
    "cohort.partition": None,
    "cohort.split": None,
    "federation.algorithm": None,
    "federation.rounds": 12,
    "federation.local_epochs": None,
    "federation.batch_size": None,
    "federation.learning_rate": 0.05,
    "federation.participation": None,
    "personalisation.method": None,
    "personalisation.epochs": 2,
    "ledger.backend": None,
    "tracking.backend": None,
    "execution.pool": None,
}
_STUDY = """
# What is compared: every combination of the values of these axes is a condition. An axis with a name of yours holds
# mappings of several keys.
conditions:
  cohort.hospitals: [3, 6]
  skew:
    - {cohort.partition: pathology}
    - {cohort.partition: record-dirichlet, cohort.alpha: 1.0}
# Reference lines: run once in each condition and not tuned.
baselines:
  - {federation.algorithm: local} # each hospital alone
# What is tuned within each condition: uniform, log_uniform, int, log_int: [low, high], or choice: [...]. With `when` a key
# is only there in trials that have one of these values.
search:
  federation.algorithm: {choice: [fedavg, perfedavg]}
  federation.learning_rate: {log_uniform: [0.01, 0.2], when: {federation.algorithm: fedavg}}
  federation.perfedavg.alpha: {log_uniform: [0.005, 0.1], when: {federation.algorithm: perfedavg}}
  federation.perfedavg.beta: {log_uniform: [0.03, 0.3], when: {federation.algorithm: perfedavg}}
sampler: tpe # `pulseledger keys sampler` lists all
trials: 12 # of the whole study, baselines among them
repeats: 1 # seeds of each trial: seed, seed + 1, ...
# What is tuned for; `pulseledger keys objectives` lists all scores. Scores of test beats (final/...) are for the end.
objectives:
  validation/personal/macro_f1: maximize
"""


def starting_text(what: What) -> str:
    """The YAML of a run or study with comments."""
    known = {key.name: key for key in all_keys()}
    lines = [
        f"# yaml-language-server: $schema={(HERE / f'{what}.schema.json').as_uri()}",
        f"# A {what} of PulseLedger. `pulseledger keys` lists every key, `pulseledger keys KEY` explains one.",
        f"name: my-{what}",
    ]
    varied = ("cohort.hospitals", "cohort.partition", "federation.algorithm", "federation.learning_rate")
    open_section: list[str] = []
    for name, value in _RUN.items():
        if what == "study" and name in varied:
            continue
        *section, last = name.split(".")
        for depth in range(len(section)):
            if section[: depth + 1] != open_section[: depth + 1]:
                lines.append(f"{'  ' * depth}{section[depth]}:")
        open_section = section
        lines.append(f"{'  ' * len(section)}{last}: {_value(known[name], value)} # {_comment(known[name])}")
    return "\n".join(lines) + "\n" + (_STUDY if what == "study" else "")


def write_new(what: What, path: Path) -> None:
    """Writes it into a new file.

    Raises:
        ConfigError: there is a file of this name.
    """
    if path.exists():
        raise ConfigError(f"{path}: is there already and is left alone; give another name.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: its folder does not exist.")
    write_text(path, starting_text(what))


def _value(key: Key, value: Any) -> str:
    text = key.default if value is None else json.dumps(value)
    return text.strip('"') if text.startswith('"') else text


def _comment(key: Key) -> str:
    unit = f" [{key.unit}]" if key.unit else ""
    return f"{key.description}; {key.allowed}{unit}"
