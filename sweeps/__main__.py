"""The command line: `pulseledger VERB ...`. Imports are inside the verbs, so that --help is quick."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from engine import __version__
from engine.errors import PulseLedgerError, ReviewPending
from sweeps.signals import ended_in_a_sentence, leave
from sweeps.streams import say, usable_streams
from sweeps.trust import trusting
from sweeps.verbs import auditing, data, governing, ledger, looking, running, serving, sites, supply
from sweeps.verbs.border import unforeseen
from sweeps.verbs.completion import complete
from sweeps.verbs.parser import CLOSED, INTERRUPTED, MISTAKE, WAITING, Parser, Verbs


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    usable_streams()
    parser = build_parser()
    complete(parser)
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.takes_keys:
        parser.error(f"unknown argument {rest[0]!r}")
    try:
        with ended_in_a_sentence(), trusting(getattr(options, "trust", ())):
            code = options.run(options, rest)
            sys.stdout.flush()  # what cannot be written is told, and is not lost to a signal at the end
            return code
    except ReviewPending as error:
        say(f"pulseledger: {error}")
        return WAITING
    except PulseLedgerError as error:
        for line in str(error).split("\n"):
            say(f"pulseledger: {line}")
        return MISTAKE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"pulseledger: {where}{error.strerror or error}.")
        return MISTAKE
    except KeyboardInterrupt as stop:
        how = str(stop) or "stopped; `pulseledger resume DIR` goes on from the last round."
        say(f"pulseledger: {how}")
        return INTERRUPTED
    except Exception as error:
        say(f"pulseledger: {unforeseen(error)}")
        return MISTAKE


def program() -> NoReturn:
    """The command line as a process of its own."""
    try:
        code = main()
    except KeyboardInterrupt:  # once more, as it was being said
        code = INTERRUPTED
    leave(code)


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="pulseledger",
        description="Experiments in personalised federated learning on ECG records, with a ledger.",
        epilog="Every key of the configuration is a flag: --cohort.hospitals 10. `pulseledger keys` lists them.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = Verbs(parser)
    for room in (running, looking, auditing, governing, ledger, data, serving, sites, supply):
        room.add(verbs)
    return parser


if __name__ == "__main__":
    program()
