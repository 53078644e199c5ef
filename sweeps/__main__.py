"""The command line: `pulseledger VERB ...`.

argparse for the verbs; every key of the configuration is a flag of the same dotted name, checked by the same model
and answered with the same sentence as a key in the YAML. Imports are inside the verbs, so that --help is quick.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine import __version__
from engine.config import RunConfig
from engine.errors import ConfigError, PulseLedgerError, ReviewPending
from engine.settings import dotted_keys, load_yaml, parse, set_key, yaml_value

MISTAKE = 2  # exit code of a user's mistake
WAITING = 3  # of a run or study that waits for a reviewer
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.takes_keys:
        parser.error(f"unknown argument {rest[0]!r}")
    try:
        return options.run(options, rest)
    except ReviewPending as error:
        print(f"pulseledger: {error}", file=sys.stderr)
        return WAITING
    except PulseLedgerError as error:
        print(f"pulseledger: {error}", file=sys.stderr)
        return MISTAKE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"pulseledger: {where}{error.strerror or error}.", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt as stop:
        how = str(stop) or "stopped; `pulseledger resume DIR` goes on from the last round."
        print(f"pulseledger: {how}", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line, like everything else here; the usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"pulseledger: {message} (see {self.prog} --help).\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pulseledger",
        description="Experiments in personalised federated learning on ECG records, with a ledger.",
        epilog="Every key of the configuration is a flag: --cohort.hospitals 10. `pulseledger keys` lists them.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[..., int], help: str, takes_keys: bool = False) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(run=run, takes_keys=takes_keys)
        return sub

    sub = verb("run", _run, "one federation", takes_keys=True)
    sub.add_argument("config", help="YAML file of a run")
    sub.add_argument("--json", action="store_true", help="print the result as one JSON document and nothing else")
    sub = verb("sweep", _sweep, "a study of many federations", takes_keys=True)
    sub.add_argument("config", help="YAML file of a study")
    sub = verb("plan", _plan, "what a study would run; starts nothing", takes_keys=True)
    sub.add_argument("config", help="YAML file of a study")
    sub.add_argument("--probe", action="store_true", help="run one round of each condition to estimate the time")
    sub = verb("resume", _resume, "go on with a killed study or run")
    sub.add_argument("folder", type=Path)
    sub = verb("compare", _compare, "table of the runs of a study, best first, per condition")
    sub.add_argument("folder", type=Path)
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON instead")
    form.add_argument("--csv", action="store_true", help="print CSV instead")
    sub = verb("report", _report, "one HTML page and its pictures, to print or to hand on")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--out", type=Path, help="where page and pictures go; the study's folder/report by default")
    sub = verb("audit", _audit, "recompute everything the ledger claims; 0 clean, 1 findings, 2 unreadable")
    sub.add_argument("path", type=Path, nargs="?", help="folder of a run or study, or a bundle (.plb)")
    sub.add_argument("--against", type=Path, metavar="COPY", help="another copy of the same run: proves equivocation")
    sub.add_argument("--mlflow", metavar="RUN_ID", help="start from a run in MLflow; its tags are compared, too")
    sub.add_argument("--store", metavar="URI", help="of MLflow; default: mlflow.db in the folder or above it")
    sub.add_argument("--json", action="store_true", help="print one JSON document")
    sub = verb("governance", _governance, "requests for synthetic beats: look at them, approve or deny those that wait")
    sub.add_argument("what", choices=("list", "show", "approve", "deny", "policy"))
    sub.add_argument("folder", type=Path, help="of a run or study")
    sub.add_argument("id", nargs="?", default="", help="of the request, or how it begins; for show, approve and deny")
    sub.add_argument("--reason", help="approve, deny: why; it is kept and its digest signed")
    sub.add_argument("--granted", type=int, help="approve: number of beats; default: all that the policy allows")
    sub.add_argument("--key", type=Path, help="file with the reviewer's key; default: the simulated reviewer's")
    sub.add_argument("--json", action="store_true", help="print one JSON document")
    sub = verb("data", _data, "fetch a database, describe a cohort, or write simulated records", takes_keys=True)
    sub.add_argument("what", choices=("fetch", "describe", "simulate"))
    sub.add_argument(
        "config",
        nargs="?",
        help="describe, simulate: YAML file of a run or study; fetch: mitdb (default), incart or svdb",
    )
    sub.add_argument("--folder", type=Path, help="where fetch or simulate writes")
    sub.add_argument("--json", action="store_true", help="describe: print JSON")
    sub = verb("ui", _ui, "MLflow on a folder's store")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--port", type=int, default=5000)
    verb("keys", _keys, "all keys of the configuration, with defaults")
    sub = verb("keystore", _keystore, "encrypted signing keys for the hospitals of a run, for ledger.keystore")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--hospitals", type=int, required=True)
    sub.add_argument(
        "--organisations", nargs="+", default=(), metavar="NAME", help="of each hospital; default: all apart"
    )
    sub.add_argument("--reviewer", metavar="NAME", help="make a reviewer's key, too; its organisation")
    return parser


def _keystore(options: argparse.Namespace, rest: list[str]) -> int:
    from engine.ledger.keys import create_keystore, create_reviewer

    for slot, address in enumerate(create_keystore(options.folder, options.hospitals, options.organisations)):
        print(f"hospital {slot}: {address}")
    if options.reviewer is not None:
        print(f"reviewer: {create_reviewer(options.folder, options.reviewer)}")
    return 0


def _governance(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.governance import print_policy, print_request, print_requests, review

    match options.what:
        case "list":
            print_requests(options.folder, options.json)
        case "show":
            print_request(options.folder, options.id, options.json)
        case "policy":
            print_policy(options.folder, options.json)
        case _:
            approve = options.what == "approve"
            review(options.folder, options.id, approve, options.reason, options.granted, options.key, options.json)
    return 0


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    from engine.result import RESULT
    from engine.tracked import run_tracked
    from sweeps.progress import RoundProgress

    config = parse(RunConfig, _values(options.config, rest, RunConfig), options.config)
    folder = Path(config.out or f"runs/{config.name}")
    with _quiet_stdout(options.json), RoundProgress(config.federation.rounds, quiet=options.json) as progress:
        if (folder / RESULT).exists():
            progress.note(f"{folder} is finished already; nothing is run again")
        result = run_tracked(config, folder, folder.parent, progress.place())
    if options.json:
        print(json.dumps(result))
    else:
        _print_result(result, folder)
    return 0


def _sweep(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.compare import print_table, rows_of
    from sweeps.space import StudyConfig, load_study
    from sweeps.study import start_study

    study = load_study(_values(options.config, rest, StudyConfig), options.config)
    folder = Path(study.out or f"runs/{study.name}")
    start_study(study, folder)
    print_table(rows_of(folder), _console())
    _print_store(study, folder)
    return 0


def _plan(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.plan import plan_lines
    from sweeps.space import StudyConfig, load_study

    study = load_study(_values(options.config, rest, StudyConfig), options.config)
    for line in plan_lines(study, options.probe):
        print(line, flush=True)
    return 0


def _resume(options: argparse.Namespace, rest: list[str]) -> int:
    from engine.tracked import run_tracked
    from sweeps.compare import print_table, rows_of
    from sweeps.progress import RoundProgress
    from sweeps.study import STUDY_FILE, read_study, resume_study

    folder: Path = options.folder
    if (folder / STUDY_FILE).exists():
        resume_study(folder)
        print_table(rows_of(folder), _console())
        _print_store(read_study(folder), folder)
        return 0
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"{folder}: holds neither a study ({STUDY_FILE}) nor a run (config.yaml).")
    config = parse(RunConfig, load_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
    with RoundProgress(config.federation.rounds) as progress:
        result = run_tracked(config, folder, folder.parent, progress.place())
    _print_result(result, folder)
    return 0


def _compare(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.compare import as_csv, as_json, print_table, rows_of

    rows = rows_of(options.folder)
    if options.json:
        print(as_json(rows))
    elif options.csv:
        print(as_csv(rows), end="")
    else:
        print_table(rows, _console())
    return 0


def _report(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.report import write_report

    written = write_report(options.folder, options.out)
    print(f"{written[0]} and {len(written) - 1} pictures beside it")
    return 0


def _audit(options: argparse.Namespace, rest: list[str]) -> int:
    from engine.ledger.audit import audit, compare
    from sweeps.audit import audit_mlflow, audit_study
    from sweeps.study import STUDY_FILE

    path: Path | None = options.path
    if options.store is not None and options.mlflow is None:
        raise ConfigError("audit: --store names an MLflow store and goes with --mlflow.")
    if options.against is not None and options.mlflow is not None:
        raise ConfigError("audit: --against compares two copies of a run and does not go with --mlflow.")
    if options.mlflow is not None:
        path, report = audit_mlflow(options.mlflow, options.store, path)
    elif path is None:
        raise ConfigError("audit: a folder, a bundle or --mlflow RUN_ID is needed.")
    elif options.against is not None:
        for copy in (path, options.against):
            if (copy / STUDY_FILE).exists():
                raise ConfigError(
                    f"{copy}: --against compares runs; this is a study, whose runs are in trials/*/seed-*."
                )
        report = compare(path, options.against)
    else:
        report = audit_study(path) if (path / STUDY_FILE).exists() else audit(path)
    if options.json:
        print(json.dumps({str(path): report.to_dict()}))
    else:
        for line in report.lines():
            print(line)
    return int(not report.clean)


def _data(options: argparse.Namespace, rest: list[str]) -> int:
    if options.what == "fetch":
        return _fetch(options.config or "mitdb", options.folder)
    values = _values(options.config, rest, RunConfig) if options.config else _overrides({}, rest, RunConfig)
    config = parse(
        RunConfig, {k: v for k, v in values.items() if k in RunConfig.model_fields}, options.config or "flags"
    )
    if options.what == "simulate":
        from engine.data.simulate import write_records

        if options.folder is None:
            raise ConfigError("data simulate: --folder is needed, the folder to write.")
        settings = config.data.simulated
        names = write_records(options.folder, settings.patients, settings.seed, settings.minutes)
        print(f"{len(names)} records of {settings.minutes:g} minutes in {options.folder}")
        return 0
    from engine.data.cohort import build_cohort

    cohort = build_cohort(config.data, config.cohort, _say if not options.json else lambda text: None)
    if options.json:
        print(json.dumps(cohort.report))
    else:
        _print_cohort(cohort.report)
    return 0


def _fetch(name: str, folder: Path | None) -> int:
    from rich.progress import Progress

    from engine.data.fetch import fetch
    from engine.data.sources import DATASETS
    from engine.files import cache_folder

    if name not in DATASETS:
        raise ConfigError(f"data fetch: {name!r} is no known database; allowed: {', '.join(DATASETS)}.")
    dataset = DATASETS[name]
    where = folder or cache_folder() / name
    with Progress(console=_console(), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(dataset.title, total=None)

        def progress(text: str) -> None:
            done, total = text.split(" ", 1)[0].split("/")
            bar.update(task, completed=int(done), total=int(total), description=text.split(" ", 1)[1])

        fetched = fetch(dataset, where, progress=progress)
    print(f"{fetched} files fetched, all {len(dataset.files)} are in {where}")
    return 0


def _ui(options: argparse.Namespace, rest: list[str]) -> int:
    import socket

    from engine.tracking.config import TrackingConfig

    folder: Path = options.folder
    described = next((p for p in (folder / "study.yaml", folder / "config.yaml") if p.exists()), None)
    values = load_yaml(described).get("tracking") if described is not None else None
    tracking = parse(TrackingConfig, values or {}, str(described))
    uri = tracking.uri
    if uri is None:
        store = next((p for p in (folder / "mlflow.db", folder.parent / "mlflow.db") if p.exists()), None)
        if store is None:
            raise ConfigError(f"{folder}: neither it nor the folder above holds an MLflow store (mlflow.db).")
        uri = f"sqlite:///{store.resolve()}"
    elif uri.startswith(("http://", "https://")):
        print(f"MLflow: {uri} (a server that runs already), experiment {tracking.experiment}")
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", options.port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "must be 0 to 65535"
            raise ConfigError(
                f"--port {options.port}: cannot be used ({reason}); choose another with --port."
            ) from None
    from engine.tracking.tracking import experiment_id

    # without the last part MLflow 3 opens on traces of language models
    kind = "?workflowType=machine_learning"
    runs = f"{kind}#/experiments/{experiment_id(uri, tracking.experiment)}/runs{kind}"
    print(f"MLflow: http://127.0.0.1:{options.port}/{runs}\n(Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    # in the place of this process, so that whoever ends it ends the server
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(options.port)])


def _keys(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.space import STUDY_KEYS, StudyConfig

    for key, field in dotted_keys(StudyConfig).items():
        default = field.get_default(call_default_factory=True)
        shown = list(default) if isinstance(default, tuple) else default
        mark = "  (studies)" if key in STUDY_KEYS else ""
        print(f"{key:40} {json.dumps(shown):28} {field.description or ''}{mark}")
    return 0


def _values(path: str, rest: list[str], model: type[RunConfig]) -> dict[str, Any]:
    ready = Path(__file__).parent / Path(path).name
    # the ready-made files are found wherever the package is installed
    return _overrides(load_yaml(path if Path(path).exists() or not ready.exists() else ready), rest, model)


def _overrides(values: dict[str, Any], rest: list[str], model: type[RunConfig]) -> dict[str, Any]:
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


@contextlib.contextmanager
def _quiet_stdout(wanted: bool):  # type: ignore[no-untyped-def]
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


def _print_result(result: dict[str, Any], folder: Path) -> None:
    from sweeps.compare import print_table, rows_of

    print_table(rows_of(folder), _console())
    ledger = result["ledger"]
    if ledger["backend"] != "none":
        print(
            f"ledger: head {ledger['head'][:18]}..., {ledger['updates']} updates in {ledger['rounds']} rounds, "
            f"{ledger['gas_per_round']:,.0f} gas a round, {ledger['critical_path_seconds']:.3f} s "
            f"({100 * ledger['overhead_share']:.2f} %) on the critical path"
        )
    print(f"results: {folder}")
    if result["config"]["tracking"]["backend"] == "mlflow":
        print(f"MLflow: pulseledger ui {folder}")


def _print_store(study: Any, folder: Path) -> None:
    from engine.tracking.tracking import store_uri

    if study.tracking.backend == "mlflow":
        print(f"MLflow store: {store_uri(study.tracking, folder)}\nopen it with: pulseledger ui {folder}")
    print(f"audit it with: pulseledger audit {folder}")


def _print_cohort(report: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    console = _console()
    classes = list(report["classes"])
    left_out = report["left_out"]
    title = f"{report['beats']:,} beats, {left_out['edge']} more lie too near the end of a record for a window"
    reasons = {"lost": "on lost samples", "flat": "on flat stretches", "unclear": "with contradicting annotations"}
    title += "".join(f", {left_out[key]} {text}" for key, text in reasons.items() if left_out[key])
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("hospital", "records", "train", "val", "test", *classes, "left out", "local majority"):
        table.add_column(name, justify="left" if name == "records" else "right", overflow="fold")
    for h in report["hospitals"]:
        share = h["local_majority_accuracy"]
        table.add_row(
            f"{h['id']}{'' if h['trains'] else ' (unseen)'}",
            " ".join(h["records"]) if len(h["records"]) <= 16 else f"{len(h['records'])} records",
            *(f"{h[k]:,}" for k in ("train", "validation", "test")),
            *(f"{h['classes'][c]:,}" for c in classes),
            f"{sum(h['left_out'].values()):,}",
            "-" if share is None else f"{100 * share:.2f} %",
        )
    table.add_row("all", "", "", "", "", *(f"{report['classes'][c]:,}" for c in classes), style="bold")
    console.print(table)
    for line in _reading(report):
        print(line)
    h = report["heterogeneity"]
    print(
        f"label distance (EMD) mean {h['emd_mean']:.3f}, max {h['emd_max']:.3f}; Jensen-Shannon {h['js']:.3f}; "
        f"Hellinger {h['hellinger']:.3f}; variation of sizes {h['size_cv']:.2f}"
    )
    for c, missing in report["missing"].items():
        if missing:
            print(f"without {c}: hospitals {', '.join(map(str, missing))}")
    for name in ("local_majority_accuracy", "global_majority_accuracy"):
        share = report[name]
        print(f"{name.replace('_', ' ')} on the test beats: {'-' if share is None else f'{100 * share:.2f} %'}")
    print(f"local majority accuracy over all beats: {100 * report['local_majority_accuracy_all']:.2f} %")
    print(f"patients in more than one hospital: {len(report['patients_shared'])}")
    for text in report["leaky"]:
        print(f"leaky: {text}")


def _reading(report: dict[str, Any]) -> list[str]:
    """How the records were read, in lines."""
    before, after = report["window"]
    rates = report["native_rates"]
    own = ", ".join(f"{n} at {rate} Hz" for rate, n in rates.items())
    lines = [f"sampling rate: {report['sampling_rate']:g} Hz ({own}); window {before} + {after} samples"]
    names = sorted(report["leads"].items(), key=lambda item: -len(item[1]))
    few = [f"{lead}: {', '.join(who) if len(who) <= 8 and len(names) > 1 else len(who)}" for lead, who in names]
    lines.append(f"leads: {'; '.join(few)}")
    lines.append(f"patients: {report['patients']} ({report['patients_source'] or 'each record is taken for one'})")
    if report["doubled"]:
        lines.append(f"annotated more than once: {report['doubled']} beats")
    for key, text in (("symbols_dropped", "beats of other symbols left out"), ("symbols_no_beats", "no beats")):
        if report[key]:
            lines.append(f"{text}: {', '.join(f'{symbol} {count:,}' for symbol, count in report[key].items())}")
    return lines


def _console():  # type: ignore[no-untyped-def]
    from rich.console import Console

    # without a terminal there is no width to ask for, and a table folded at 80 columns cannot be read
    return Console(width=None if sys.stdout.isatty() else 170)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
