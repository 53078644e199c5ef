"""compare, report, claims, ui: what only reads."""

import argparse
import hashlib
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.encoding import one_line
from engine.errors import ConfigError
from engine.paths import SQLITE, load_config, sqlite_path, sqlite_uri
from engine.settings import parse
from sweeps.trust import require_trusted
from sweeps.verbs.parser import Verbs, trusts


def add(verbs: Verbs) -> None:
    """Adds the verbs."""
    sub = verbs.add(
        "compare", compare, "which method is best, and the table of a study's trials; or several studies by method"
    )
    sub.add_argument("folders", type=Path, nargs="+", metavar="folder", help="of a study or run")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--wide", action="store_true", help="all columns, however wide the terminal is")
    form.add_argument("--json", action="store_true", help="print JSON instead: answers and rows, complete")
    form.add_argument("--csv", action="store_true", help="print CSV instead: rows, complete")
    trusts(sub)
    sub = verbs.add("report", report, "one HTML page and its pictures, to print or to hand on")
    sub.add_argument("folder", type=Path, help="of a study")
    sub.add_argument("--out", type=Path, help="where page and pictures go; the study's folder/report by default")
    sub.add_argument("--no-audit", action="store_true", help="do not audit the study for the verdict on the page")
    trusts(sub)
    sub = verbs.add(
        "dossier", dossier, "the file for the regulator: HTML and Markdown, with what people must add marked"
    )
    sub.add_argument("folder", type=Path, help="of a study or run")
    sub.add_argument("--out", type=Path, help="where it goes; the folder's dossier/ by default")
    sub.add_argument("--no-audit", action="store_true", help="do not audit the folder for the verdict in it")
    trusts(sub)
    sub = verbs.add(
        "claims",
        claims,
        "verdicts on claims that were written down beforehand, by the test beats of a study's patients",
    )
    sub.add_argument("folder", type=Path, help="of a study")
    sub.add_argument("file", type=Path, help="the claims, YAML")
    sub.add_argument("--out", type=Path, help="where page and data go; the study's folder/claims by default")
    sub.add_argument("--hash", action="store_true", help="only print the hash of the file, for the study's key claims")
    sub = verbs.add("ui", ui, "MLflow on a folder's store, on those of several folders together, or on a shared one")
    sub.add_argument("folders", type=Path, nargs="*", metavar="folder", help="of a study or run")
    sub.add_argument("--store", metavar="URI", help="MLflow store that several studies share, in place of folders")
    sub.add_argument("--port", type=int, default=5000, help="of 127.0.0.1; 5000 by default")
    trusts(sub)


def compare(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.rows import rows_of
    from sweeps.table import as_csv, as_json, print_studies, print_table, table_console

    studies = {str(folder): rows_of(folder) for folder in dict.fromkeys(options.folders)}
    if options.json:
        print(as_json(studies))
    elif options.csv:
        print(as_csv(studies), end="")
    elif len(studies) == 1:
        print_table(next(iter(studies.values())), table_console(), options.wide)
    else:
        print_studies(studies, table_console())
    return 0


def report(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.report import write_report

    written = write_report(options.folder, options.out, None if options.no_audit else _verdict)
    print(f"{written[0]} and {len(written) - 1} pictures beside it")
    return 0


def dossier(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.dossier.write import write_dossier

    written = write_dossier(options.folder, options.out, _unaudited if options.no_audit else _verdict)
    print(f"{written[0]} and {written[1]}; what people must add is marked in them")
    return 0


def _unaudited(folder: Path) -> str:
    return "not made: pulseledger audit DIR recomputes everything"


def claims(options: argparse.Namespace, rest: list[str]) -> int:
    if options.hash:
        from sweeps.claims import read_claims

        print(read_claims(options.file)[1])
        return 0
    from sweeps.claims_page import told, write_claims

    found, written = write_claims(options.folder, options.file, options.out)
    print(told(found))
    print(", ".join(map(str, written)))
    return 0


def _verdict(folder: Path) -> str:
    """How the audit of a study went, in its own last line."""
    from engine.errors import PulseLedgerError
    from sweeps.audit import audit_folder

    try:
        *_, last = audit_folder(folder).lines()
    except PulseLedgerError as error:
        return f"could not be made ({error})"
    return last.removeprefix("verdict: ")


def ui(options: argparse.Namespace, rest: list[str], become: Callable[[str, list[str]], object] = os.execv) -> int:
    stores = [Opened.of(folder) for folder in dict.fromkeys(options.folders)]
    if options.store is not None and not stores:
        stores = [Opened(options.store, "")]
    elif options.store is not None or not stores:
        raise ConfigError("ui: give one or more folders, or --store URI.")
    for opened in stores if len({opened.uri for opened in stores}) == 1 else ():
        if opened.uri.startswith(("http://", "https://")):
            text = f"MLflow: {opened.uri} (a server that runs already), experiment {opened.experiment or 'any'}"
            print(one_line(text))
            return 0
    _require_port(options.port)
    uri, experiment = _together(options.folders, stores)
    from engine.tracking.store import runs_address

    place = runs_address(uri, experiment) if experiment else "?workflowType=machine_learning#/experiments"
    print(f"MLflow: http://127.0.0.1:{options.port}/{place}\n(Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    # in the place of this process, so that whoever ends it ends the server
    become(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(options.port)])
    return 0


class Opened(NamedTuple):
    """The store that a folder's runs are in, and the experiment; no name means all of them."""

    uri: str
    experiment: str

    @classmethod
    def of(cls, folder: Path) -> "Opened":
        """Of a study's or a run's folder.

        Raises:
            ConfigError: there is no store.
        """
        from engine.tracking.config import TrackingConfig

        described = next((p for p in (folder / "study.yaml", folder / "config.yaml") if p.exists()), None)
        values = load_config(described).get("tracking") if described is not None else None
        tracking = parse(TrackingConfig, values or {}, str(described))
        if tracking.uri is not None:
            if not tracking.uri.startswith(("http://", "https://")):  # no server is opened here, it is only named
                require_trusted(tracking.uri, "tracking.uri", folder)
            return cls(tracking.uri, tracking.experiment)
        store = next((p for p in (folder / "mlflow.db", folder.parent / "mlflow.db") if p.exists()), None)
        if store is None:
            raise ConfigError(f"{folder}: neither it nor the folder above holds an MLflow store (mlflow.db).")
        return cls(sqlite_uri(_found(store.resolve())), tracking.experiment)


def _found(store: Path) -> Path:
    """The store, or a copy of it where its folder was moved: whoever looks writes nothing into a folder."""
    from engine.files import own_cache
    from engine.tracking.sqlite import settled

    copy = own_cache("ui") / f"{hashlib.sha256(bytes(store)).hexdigest()[:16]}.db"
    try:
        found = settled(store, copy)
    except sqlite3.Error as error:
        raise ConfigError(f"{store}: is no MLflow store ({error}).") from None
    if found != store:
        print(
            f"{one_line(str(store))} was moved: this is a copy of it as it is now; what is changed in it does not stay"
        )
    return found


def _together(folders: Sequence[Path], stores: Sequence[Opened]) -> tuple[str, str]:
    """One store with what is in all of them, and the experiment to open: of several stores a copy, as they are now.

    Raises:
        ConfigError: one of several is no SQLite file.
    """
    from engine.files import own_cache
    from engine.tracking.merged import merge_stores

    if len({opened.uri for opened in stores}) == 1:
        return stores[0].uri, stores[0].experiment if len({opened.experiment for opened in stores}) == 1 else ""
    paths: dict[str, Path] = {}
    for folder, opened in zip(dict.fromkeys(folders), stores, strict=True):
        path = sqlite_path(opened.uri)
        if not opened.uri.startswith(SQLITE):
            raise ConfigError(f"{folder}: its MLflow store is no SQLite file ({opened.uri}); open it by itself.")
        if path not in paths.values():
            paths[folder.resolve().name if folder.resolve().name not in paths else str(folder)] = path
    target = own_cache("ui") / "together.db"
    merge_stores(paths, target)
    print(f"a copy of {len(paths)} stores as they are now; what is changed in it does not stay", flush=True)
    return sqlite_uri(target), ""


def _require_port(port: int) -> None:
    """
    Raises:
        ConfigError: it cannot be listened at.
    """
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "must be 0 to 65535"
            raise ConfigError(f"--port {port}: cannot be used ({reason}); choose another with --port.") from None
