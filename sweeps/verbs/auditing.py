"""audit: what a ledger claims, recomputed; its exit code is the grade of the verdict."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from engine.audit import spec
from engine.audit.known import NOTHING, Known
from engine.audit.report import Report
from engine.encoding import unhexed
from engine.errors import ConfigError, PulseLedgerError
from sweeps.verbs.border import unforeseen
from sweeps.verbs.parser import Verbs, trusts

HELP = (
    "recompute everything the ledger claims; ends with 0 clean, 1 findings, 2 unreadable, 4 not verified (something could "
    "not be checked: each is named), 5 unfinished"
)


def add(verbs: Verbs) -> None:
    """Adds the verb."""
    sub = verbs.add("audit", audit, HELP)
    sub.add_argument("path", type=Path, nargs="?", help="folder of a run or study, or a bundle (.plb)")
    sub.add_argument("--against", type=Path, metavar="COPY", help="another copy of the same run: proves equivocation")
    sub.add_argument(
        "--mlflow",
        metavar="RUN_ID",
        help="start from a run in MLflow: its parameters, metrics and tags, of a study those of all trials, are compared",
    )
    sub.add_argument("--store", metavar="URI", help="of MLflow; default: mlflow.db in the folder or above it")
    sub.add_argument(
        "--rpc",
        metavar="URL",
        help="a node of yours to ask for a ledger that is on one, or env:NAME for an address with credentials",
    )
    sub.add_argument("--head", metavar="HASH", help="the head that you know, such as from another hospital")
    sub.add_argument("--contract", metavar="ADDRESS", help="the contract that you know")
    sub.add_argument(
        "--execute-own",
        action="store_true",
        help="execute the user's own rule of aggregation that the folder holds, to compute its models again: somebody else's code",
    )
    trusts(sub)
    sub.add_argument("--json", action="store_true", help="print one JSON document")


def audit(options: argparse.Namespace, rest: list[str]) -> int:
    work = _work(options)
    path, report = bordered(work, options.path)
    if options.json:
        print(json.dumps({str(path): report.to_dict()}))
    elif report.unreadable:
        print(f"pulseledger: {report.lines()[0].partition(': ')[2]}", file=sys.stderr)
    else:
        for line in report.lines():
            print(
                line.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8")
            )
    return report.verdict.code


def bordered(work: Callable[[], tuple[Path, Report]], path: Path | None) -> tuple[Path | None, Report]:
    """What an audit comes to, whatever the evidence makes of its readers: evidence is somebody else's."""
    try:
        return work()
    except PulseLedgerError as error:
        return path, Report(unreadable=str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return path, Report(unreadable=f"{where}{error.strerror or error}.")
    except Exception as error:
        return path, Report(unreadable=f"{path}: {unforeseen(error)}")


def _work(options: argparse.Namespace) -> Callable[[], tuple[Path, Report]]:
    """What is asked for; raises ConfigError for words that do not go together."""
    from engine.audit import run
    from sweeps.audit import audit_folder, own_rule
    from sweeps.folder import is_study
    from sweeps.mirror_audit import audit_mlflow

    path: Path | None = options.path
    execute = own_rule if options.execute_own else None
    known = Known(options.rpc, _head(options.head), _contract(options.contract), execute)
    if options.store is not None and options.mlflow is None:
        raise ConfigError("audit: --store names an MLflow store and goes with --mlflow.")
    if options.against is not None and options.mlflow is not None:
        raise ConfigError("audit: --against compares two copies of a run and does not go with --mlflow.")
    if options.mlflow is not None:
        return lambda: audit_mlflow(options.mlflow, options.store, path, known)
    if path is None:
        raise ConfigError("audit: a folder, a bundle or --mlflow RUN_ID is needed.")
    if options.against is None:
        return lambda: (path, audit_folder(path, known=known))
    if known != NOTHING:
        raise ConfigError(
            "audit: --against compares two copies with each other; --rpc, --head, --contract and --execute-own do not go with it."
        )
    for copy in (path, options.against):
        if is_study(copy):
            raise ConfigError(f"{copy}: --against compares runs; this is a study, whose runs are in trials/*/seed-*.")
    return lambda: (path, run.compare(path, options.against))


def _head(text: str | None) -> bytes | None:
    if text is None:
        return None
    found = spec.hash_of(text.lower() if text.startswith("0x") else f"0x{text}")
    if found is None:
        raise ConfigError(f"audit: --head {text!r:.80} is no hash; allowed: 64 hexadecimal digits.")
    return found


def _contract(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        raw = unhexed(text.lower())
    except ValueError:
        raw = b""
    if len(raw) != 20:
        raise ConfigError(f"audit: --contract {text!r:.80} is no address; allowed: 0x and 40 hexadecimal digits.")
    return spec.write_address(raw)
