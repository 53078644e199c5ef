"""compare, report, ui: what only reads."""

import argparse
import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from engine.encoding import one_line
from engine.errors import ConfigError
from engine.paths import load_config, sqlite_uri
from engine.settings import parse
from sweeps.trust import require_trusted
from sweeps.verbs.parser import Verbs, trusts


def add(verbs: Verbs) -> None:
    """Adds the verbs."""
    sub = verbs.add("compare", compare, "table of the runs of a study, best first, per condition")
    sub.add_argument("folder", type=Path)
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON instead")
    form.add_argument("--csv", action="store_true", help="print CSV instead")
    trusts(sub)
    sub = verbs.add("report", report, "one HTML page and its pictures, to print or to hand on")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--out", type=Path, help="where page and pictures go; the study's folder/report by default")
    trusts(sub)
    sub = verbs.add("ui", ui, "MLflow on a folder's store")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--port", type=int, default=5000)
    trusts(sub)


def compare(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.rows import rows_of
    from sweeps.table import as_csv, as_json, print_table, table_console

    rows = rows_of(options.folder)
    if options.json:
        print(as_json(rows))
    elif options.csv:
        print(as_csv(rows), end="")
    else:
        print_table(rows, table_console())
    return 0


def report(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.report import write_report

    written = write_report(options.folder, options.out)
    print(f"{written[0]} and {len(written) - 1} pictures beside it")
    return 0


def ui(options: argparse.Namespace, rest: list[str], become: Callable[[str, list[str]], object] = os.execv) -> int:
    import socket

    from engine.tracking.config import TrackingConfig
    from engine.tracking.sqlite import settle

    folder: Path = options.folder
    described = next((p for p in (folder / "study.yaml", folder / "config.yaml") if p.exists()), None)
    values = load_config(described).get("tracking") if described is not None else None
    tracking = parse(TrackingConfig, values or {}, str(described))
    uri = tracking.uri
    if uri is None:
        store = next((p for p in (folder / "mlflow.db", folder.parent / "mlflow.db") if p.exists()), None)
        if store is None:
            raise ConfigError(f"{folder}: neither it nor the folder above holds an MLflow store (mlflow.db).")
        uri = sqlite_uri(store.resolve())
        with contextlib.suppress(sqlite3.Error):  # on a disk that is only read, pictures may be missing
            settle(store)
    elif uri.startswith(("http://", "https://")):
        print(one_line(f"MLflow: {uri} (a server that runs already), experiment {tracking.experiment}"))
        return 0
    else:
        require_trusted(uri, "tracking.uri", folder)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", options.port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "must be 0 to 65535"
            raise ConfigError(
                f"--port {options.port}: cannot be used ({reason}); choose another with --port."
            ) from None
    from engine.tracking.store import experiment_id

    # without the last part MLflow 3 opens on traces of language models
    kind = "?workflowType=machine_learning"
    runs = f"{kind}#/experiments/{experiment_id(uri, tracking.experiment)}/runs{kind}"
    print(f"MLflow: http://127.0.0.1:{options.port}/{runs}\n(Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    # in the place of this process, so that whoever ends it ends the server
    become(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(options.port)])
    return 0
