"""How the command line is read: verbs and exit codes. Keys of the configuration as flags: `sweeps.source`."""

import argparse
from collections.abc import Callable
from typing import NoReturn

FAILED = 1  # of a study that has ended with trials that failed
MISTAKE = 2  # exit code of a user's mistake
WAITING = 3  # of a run or study that waits for a reviewer, and of a command that nobody has answered
INTERRUPTED = 130
CLOSED = 141  # nobody reads the output any more, as of a program that SIGPIPE ends


KEYS = """keys as flags (every key of the configuration is one; `pulseledger keys` explains them):
  --out DIR                   where it goes; default: runs/NAME
  --seed N, --name NAME
  --cohort.hospitals N, --federation.rounds N, --federation.algorithm NAME, ...
  --pool NAME                 execution.pool: ray, threads, inprocess or sites
  --address HOST              a Ray to join: local, auto or HOST:PORT
  --ledger.backend NAME, --tracking.backend NAME
of studies:
  --trials N                  of the whole study
  --concurrency N             trials at a time
  --repeats N                 seeds of each trial
where a file is wanted, ready:NAME is a ready-made one, such as ready:quickstart"""


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
        parser = self._verbs.add_parser(
            name,
            help=help,
            description=help,
            allow_abbrev=False,
            epilog=KEYS if takes_keys else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run, takes_keys=takes_keys)
        return parser


def trusts(sub: argparse.ArgumentParser) -> None:
    """Adds the flag that names servers which a folder may lead to."""
    words = "a server or address that may be opened where the folder names it; also in PULSELEDGER_TRUSTED"
    sub.add_argument("--trust", action="append", default=[], metavar="SERVER", help=words)
