"""Requests for synthetic beats of a run or a whole study, as a reviewer sees and decides them."""

import json
import sys
from pathlib import Path
from typing import Any

from engine.encoding import one_line, read_json
from engine.errors import ConfigError, DataError
from engine.files import read_text
from engine.ledger.keyfiles import read_key_file
from engine.result import WAITS, SyntheticRow
from engine.settings import parse
from engine.synthesis.config import PolicyConfig
from engine.synthesis.files import FOLDER
from engine.synthesis.reviews import STATE, decided, read_state, write_review

SHORT = 16  # digits of a request's id that are shown


def runs_with_requests(folder: Path) -> list[Path]:
    """The folder of a run, or those of all runs of a study, that have requests.

    Raises:
        ConfigError: there is none.
    """
    if (folder / FOLDER / STATE).exists():
        return [folder]
    runs = sorted(path.parent.parent for path in folder.glob(f"trials/*/seed-*/{FOLDER}/{STATE}"))
    if not runs:
        raise ConfigError(f"{folder}: holds no requests for synthetic beats.")
    return runs


def requests(folder: Path) -> list[tuple[Path, SyntheticRow]]:
    """All requests below a folder, each with the folder of its run; those that wait come first."""
    rows = [(run, row) for run in runs_with_requests(folder) for row in read_state(run).requests]
    return sorted(rows, key=lambda found: status_of(*found) not in WAITS)


def find(folder: Path, start: str) -> tuple[Path, SyntheticRow]:
    """The one request whose id begins so, with the folder of its run.

    Raises:
        ConfigError: there is none, or several.
    """
    rows = requests(folder)
    found = [(run, row) for run, row in rows if start and row.request.startswith(start.removeprefix("0x").lower())]
    if len(found) != 1:
        what = f"{len(found)} requests begin with {start!r}" if start else "an ID is needed"
        known = ", ".join(row.request[:SHORT] for _, row in (found or rows)[:5])
        raise ConfigError(f"{folder}: {what}; there are {known}{', ...' if len(found or rows) > 5 else ''}.")
    return found[0]


def review(
    folder: Path, start: str, approve: bool, reason: str | None, granted: int | None, key: Path | None, as_json: bool
) -> None:
    """Leaves a signed decision for the run; the policy's limits are checked before.

    Raises:
        ConfigError: something is missing.
        LedgerError: the decision is not possible, or not this reviewer's.
    """
    verb = "approve" if approve else "deny"
    if not (reason or "").strip():
        raise ConfigError(f"governance {verb}: --reason is needed, for the record.")
    if granted is not None and not approve:
        raise ConfigError("governance deny: --granted goes with approve.")
    run, row = find(folder, start)
    amount = row.allowed if granted is None else granted
    signer = None if key is None else read_key_file(key)
    if granted is not None and not 1 <= granted <= row.allowed and status_of(run, row) in WAITS:
        raise ConfigError(f"--granted {granted}: the policy allows 1 to {row.allowed} beats now.")
    write_review(run, row, approve, amount, str(reason), signer)
    if as_json:
        done = {"request": row.request, "approve": approve, "granted": amount if approve else 0, "reason": reason}
        print(json.dumps({**done, "run": str(run)}))
        return
    what = f"approved, {amount} of {row.wanted} beats" if approve else "denied"
    print(
        f"request {row.request[:SHORT]} {what}; the run takes the decision when it goes on: pulseledger resume {folder}"
    )


def print_requests(folder: Path, as_json: bool) -> None:
    """One table of all requests, those that wait first."""
    rows = requests(folder)
    if as_json:
        print(json.dumps([_document(run, row) for run, row in rows]))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    several = len({run for run, _ in rows}) > 1
    waiting = sum(status_of(run, row) in WAITS for run, row in rows)
    table = Table(title=f"{len(rows)} requests, {waiting} wait for a reviewer", box=box.SIMPLE_HEAD, pad_edge=False)
    numbers = ("hospital", "asked", "allowed now", "granted", "accepted")
    for name in ("request", *(("run",) if several else ()), "hospital", "class", "generator", *numbers[1:], "status"):
        table.add_column(name, justify="right" if name in numbers else "left", no_wrap=name != "run")
    table.add_column("reasons")
    for run, row in rows:
        home = (str(run.relative_to(folder)),) if several else ()
        amounts = (amount if amount else "-" for amount in (row.wanted, row.allowed, row.granted, row.accepted))
        words = (row.request[:SHORT], *home, row.hospital, row.class_, row.generator, *amounts)
        table.add_row(*(Text(one_line(str(word))) for word in (*words, status_of(run, row), row.reasons)))
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table)
    for run in dict.fromkeys(run for run, _ in rows):
        if loose := parse(PolicyConfig, read_state(run).policy, "governance.json").loose:
            where = f"{run.relative_to(folder)}: " if several else ""
            console.print(f"{where}policy looser than the default: {loose}", highlight=False, markup=False)


def print_request(folder: Path, start: str, as_json: bool) -> None:
    """Everything about one request: what was signed, how it stands, and the evidence on what was made."""
    run, row = find(folder, start)
    shown = {**_document(run, row), "record": json.loads(row.record)}
    if row.file is not None:
        try:
            shown["report"] = read_json(read_text(run / FOLDER / Path(row.file).name))
        except (OSError, ValueError) as error:
            raise DataError(f"{run / row.file}: is not readable ({error}).") from None
    _print(shown, as_json)


def print_policy(folder: Path, as_json: bool) -> None:
    """The policy in force, of each run where they differ."""
    policies: dict[str, dict[str, Any]] = {}
    for run in runs_with_requests(folder):
        policy = read_state(run).policy
        policies.setdefault(json.dumps(policy), {})[str(run)] = policy
    if len(policies) == 1:
        _print(next(iter(next(iter(policies.values())).values())), as_json)
        return
    _print({run: policy for same in policies.values() for run, policy in same.items()}, as_json)


def status_of(run: Path, row: SyntheticRow) -> str:
    """As reviewers see it: one that is decided no longer waits for them, though the run has not taken the decision."""
    return "decided" if row.status in WAITS and decided(run, row.request) else row.status


def _document(run: Path, row: SyntheticRow) -> dict[str, Any]:
    return {**row.document(), "status": status_of(run, row), "run": str(run)}


def _print(value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(value))
        return
    import yaml

    print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")
