"""run, sweep, plan, resume, ask: what starts work, and what is asked of work under way."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import RunConfig
from engine.errors import ConfigError, LedgerError, PulseLedgerError, ReviewPending, Stopped
from engine.ledger.config import FIRST, Leader
from engine.ledger.keyfiles import read_key_file
from engine.paths import load_config
from engine.settings import parse
from sweeps.source import out_folder, read_file, with_flags
from sweeps.streams import say
from sweeps.text import first_line
from sweeps.verbs.parser import FAILED, MISTAKE, WAITING, Verbs

if TYPE_CHECKING:
    from engine.result import Result
    from sweeps.progress import RoundProgress
    from sweeps.space import StudyConfig


STORE = "MLflow store that several studies share; the same as --tracking.uri"


def add(verbs: Verbs) -> None:
    """Adds the verbs."""
    sub = verbs.add("run", run, "one federation", takes_keys=True)
    sub.add_argument("config", help="YAML file of a run")
    sub.add_argument("--json", action="store_true", help="print the result as one JSON document and nothing else")
    sub.add_argument("--store", metavar="URI", help=STORE)
    sub = verbs.add("sweep", sweep, "a study of many federations", takes_keys=True)
    sub.add_argument("config", help="YAML file of a study")
    sub.add_argument("--store", metavar="URI", help=STORE)
    sub = verbs.add("plan", plan, "what a study would run; starts nothing", takes_keys=True)
    sub.add_argument("config", help="YAML file of a study")
    sub.add_argument("--probe", action="store_true", help="run one round of each condition to estimate the time")
    sub = verbs.add("resume", resume, "go on with a killed study or run")
    sub.add_argument("folder", type=Path, help="of a study or run that was begun")
    sub.add_argument("--trials", type=int, metavar="N", help="of a study: have N trials in all from now on")
    sub.add_argument(
        "--as",
        dest="leader",
        default="",
        metavar="NAME",
        help="of a run whose coordinator is gone for good: go on as this one of ledger.successors",
    )
    sub.add_argument("--key", type=Path, metavar="FILE", help="with --as: its key, where none was drawn for it")
    sub = verbs.add(
        "ask", ask_driver, "ask a study under way to stop, to have more trials, or to prune one; or list what was asked"
    )
    sub.add_argument("folder", type=Path, help="of a study")
    sub.add_argument(
        "what",
        choices=("stop", "trials", "prune", "list"),
        help="end at checkpoints, have NUMBER trials, end trial NUMBER, or show all asked",
    )
    sub.add_argument("number", type=int, nargs="?", help="trials: how many in all; prune: the number of the trial")
    sub.add_argument("--wait", type=float, default=10.0, metavar="SECONDS", help="for an answer; 10 by default")
    sub.add_argument("--json", action="store_true", help="print one JSON document")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    from engine.result import RESULT
    from sweeps.checks import load_run
    from sweeps.progress import RoundProgress

    given = with_flags(read_file(options.config), [*_store(options), *rest], RunConfig)
    config = load_run(given.values, given.source)
    folder = out_folder(config)
    with _quiet_stdout(options.json), RoundProgress(config, quiet=options.json) as progress:
        if (folder / RESULT).exists():
            progress.note(f"{folder} is finished already; nothing is run again")
        result = _run_to_an_end(config, folder, progress)
    if options.json:
        print(json.dumps(result.document()))
    else:
        _print_result(result, folder)
    return 0


def sweep(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.checks import load_study
    from sweeps.plan import doubts
    from sweeps.space import StudyConfig
    from sweeps.start import start_study

    given = with_flags(read_file(options.config), [*_store(options), *rest], StudyConfig)
    study = load_study(given.values, given.source, given.flags)
    folder = out_folder(study)
    for text in doubts(study):
        say(f"warning: {text}")
    start_study(study, folder)
    return show_study(study, folder)


def plan(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.checks import load_study
    from sweeps.plan import plan_lines
    from sweeps.space import StudyConfig

    given = with_flags(read_file(options.config), rest, StudyConfig)
    study = load_study(given.values, given.source, given.flags)
    for line in plan_lines(study, options.probe):
        print(line, flush=True)
    return 0


def resume(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.folder import STUDY_FILE, is_study, read_study
    from sweeps.progress import RoundProgress

    folder: Path = options.folder
    if is_study(folder):
        from sweeps.start import resume_study

        if options.leader:
            raise ConfigError(f"{folder}: --as is for runs, and this is a study; name the folder of one of its runs.")
        resume_study(folder, trials=options.trials)
        return show_study(read_study(folder), folder)
    if options.trials is not None and folder.is_dir():
        raise ConfigError(f"{folder}: --trials is for studies, and this is none.")
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"{folder}: holds neither a study ({STUDY_FILE}) nor a run (config.yaml).")
    config = parse(RunConfig, load_config(folder / "config.yaml"), str(folder / "config.yaml"))
    if config.out is not None:
        config = config.model_copy(update={"out": str(folder.absolute())})  # wherever it was moved
    with RoundProgress(config) as progress:
        result = _run_to_an_end(config, folder, progress, _leader(options))
    _print_result(result, folder)
    return 0


def _leader(options: argparse.Namespace) -> Leader:
    """Who goes on with a run."""
    if options.key is not None and not options.leader:
        raise ConfigError("--key goes with --as NAME.")
    return Leader(options.leader, b"" if options.key is None else read_key_file(options.key))


def _run_to_an_end(config: RunConfig, folder: Path, progress: "RoundProgress", leader: Leader = FIRST) -> "Result":
    """Runs one federation; a signal ends it at its next checkpoint.

    Raises:
        KeyboardInterrupt: it was ended by a signal.
    """
    from engine.ledger.chain.base import ChainTrouble
    from engine.tracked import run_tracked
    from sweeps.signals import Ending, listening

    ending = Ending(folder, progress.note)
    place = progress.place()
    place = replace(place, observers=(*place.observers, ending), stopping=lambda: ending.wanted, leader=leader)
    try:
        with listening(ending.heard):
            return run_tracked(config, folder, folder.parent, place)
    except ReviewPending:
        raise
    except PulseLedgerError as error:
        if not ending.wanted and isinstance(error, ChainTrouble):
            raise LedgerError(f"{error}; `pulseledger resume {folder}` goes on.") from None
        if not ending.wanted:
            raise
        # a scheduler ends the hospitals' processes, too: what is lost with them is since the last checkpoint
        raise KeyboardInterrupt(
            f"stopped at a checkpoint; `pulseledger resume {folder}` goes on."
            if isinstance(error, Stopped)
            else f"stopped ({first_line(error)}); `pulseledger resume {folder}` goes on."
        ) from None


def ask_driver(options: argparse.Namespace, rest: list[str]) -> int:
    from dataclasses import asdict

    from sweeps.commands import ask, commands, wait

    folder: Path = options.folder
    if options.what == "list":
        found = commands(folder)
    else:
        asked = ask(folder, options.what, options.number)
        found = [wait(folder, asked, options.wait)]
    if options.json:
        print(json.dumps([asdict(command) for command in found]))
    for command in found if not options.json else ():
        value = "" if command.value is None else f" {command.value}"
        print(f"{command.verb}{value}: {command.state}{command.said and f' ({command.said})'}, asked by {command.by}")
    if options.what == "list" or found[0].state in ("accepted", "done"):
        return 0
    if found[0].state == "refused":
        return MISTAKE
    print(f"pulseledger: nobody has answered in {options.wait:g} s; is {folder} being driven?", file=sys.stderr)
    return WAITING


def _store(options: argparse.Namespace) -> list[str]:
    """The flag of a store as the key that it is."""
    return ["--tracking.uri", options.store] if options.store is not None else []


@contextlib.contextmanager
def _quiet_stdout(wanted: bool) -> Iterator[None]:
    """With --json, stdout is for the document alone: Ray prints messages of lost workers there."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


def _print_result(result: "Result", folder: Path) -> None:
    from sweeps.rows import rows_of
    from sweeps.table import print_table, table_console

    print_table(rows_of(folder), table_console())
    ledger = result.ledger
    if ledger.backend != "none":
        print(
            f"ledger: head {ledger.head:.18}..., {ledger.updates} updates in {ledger.rounds} rounds, "
            f"{ledger.gas_per_round:,.0f} gas a round, {ledger.critical_path_seconds:.3f} s "
            f"({100 * (ledger.overhead_share or 0):.2f} %) on the critical path"
        )
    print(f"results: {folder}")
    if result.config.tracking.backend == "mlflow":
        print(f"MLflow: pulseledger ui {folder}")


def show_study(study: "StudyConfig", folder: Path) -> int:
    """Shows a study that has ended; returns its exit code."""
    from engine.tracking.store import store_uri
    from sweeps.rows import rows_of
    from sweeps.table import print_table, table_console

    rows = rows_of(folder)
    print_table(rows, table_console())
    if study.tracking.backend == "mlflow":
        print(f"MLflow store: {store_uri(study.tracking, folder)}\nopen it with: pulseledger ui {folder}")
    print(f"audit it with: pulseledger audit {folder}")
    failed = sorted(row.trial for row in rows if row.state == "FAIL")
    if failed:
        say(f"pulseledger: {len(failed)} of {len(rows)} trials failed: {', '.join(map(str, failed))}.")
    return FAILED if failed else 0
