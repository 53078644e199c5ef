"""Tab completion: verbs, their flags, files, and every key of the configuration with its values.

eval "$(register-python-argcomplete pulseledger)"
"""

import argparse
import os
from typing import Any

ASKED = "_ARGCOMPLETE"  # in the environment of a shell that asks


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers a shell that asks, and ends; does nothing otherwise."""
    if ASKED not in os.environ:
        return
    import argcomplete

    for name, verb in verbs_of(parser).items():
        if verb.get_default("takes_keys"):
            _add_keys(verb)
        elif name == "keys":
            _complete_keys(verb)
    argcomplete.autocomplete(parser, always_complete_options="long")


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of all verbs by their names."""
    actions: list[Any] = parser._actions
    return next(dict(action.choices) for action in actions if isinstance(action, argparse._SubParsersAction))


def _complete_keys(verb: argparse.ArgumentParser) -> None:
    from engine.settings import dotted_keys
    from sweeps.space import StudyConfig

    for action in verb._actions:
        if action.dest == "key":
            action.completer = lambda prefix, **more: list(dotted_keys(StudyConfig))  # type: ignore[attr-defined]


def _add_keys(verb: argparse.ArgumentParser) -> None:
    from engine.settings import dotted_keys, words
    from sweeps.source import ready
    from sweeps.space import StudyConfig

    known = {option for action in verb._actions for option in action.option_strings}
    for key, field in dotted_keys(StudyConfig).items():
        if f"--{key}" not in known:
            named = [str(word) for word in words(field.annotation)]
            verb.add_argument(
                f"--{key}", choices=named or None, help=field.description and field.description.replace("%", "%%")
            )
    from argcomplete.completers import FilesCompleter

    files = FilesCompleter(("yaml", "yml"))
    for action in verb._actions:
        if action.dest == "config":
            action.completer = lambda prefix, **more: [*files(prefix, **more), *ready()]  # type: ignore[attr-defined]
