"""Where MLflow shows a trial or a run, out of its folder: a link that somebody may follow, never a server that is asked from here."""

import urllib.parse
from pathlib import Path
from typing import NamedTuple

from dashboard.places import Place
from engine.config import RunConfig
from engine.errors import PulseLedgerError
from engine.ledger.format import CONFIG
from engine.paths import SQLITE, load_config, sqlite_path
from engine.settings import parse
from engine.tracking.config import TrackingConfig, has_password
from engine.tracking.merged import run_ids
from engine.tracking.store import store_uri
from sweeps.folder import read_study
from sweeps.places import key_of, run_address


class Tracked(NamedTuple):
    """
    Attributes:
        href: "" where there is none.
        command: whether `pulseledger ui` opens it.
    """

    says: str
    href: str = ""
    title: str = ""
    command: bool = False


def where(place: Place, trial: int | None) -> Tracked:
    """Of a trial of a study, or of a run (None)."""
    try:
        if trial is None:
            return _link(place, parse(RunConfig, load_config(place.path / CONFIG), CONFIG).tracking)
        study = read_study(place.path)
        key = key_of(study, place.path)
        return _link(place, study.tracking, key, f"{key}/{trial}")
    except (PulseLedgerError, OSError):
        return Tracked("Whether MLflow has it cannot be read.")


def _link(place: Place, tracking: TrackingConfig, study: str = "", key: str = "") -> Tracked:
    if tracking.backend == "none":
        return Tracked("Not tracked in MLflow.")
    uri = store_uri(tracking, place.path)
    if is_server(uri):
        return Tracked(f"experiment {tracking.experiment}", uri, "MLflow’s server")
    if not uri.startswith(SQLITE):
        return Tracked("MLflow’s store has an address that is not linked to.")
    if not _inside(sqlite_path(uri), place.root):
        return Tracked("MLflow’s store lies outside these folders, and is not opened.")
    found = run_ids(sqlite_path(uri), study).get(key) if study else None
    if found is None:
        return Tracked("Opened by", command=True)
    return Tracked(
        "leads somewhere while this runs:", run_address(*found), f"Run {found[1][:8]} in MLflow", command=True
    )


def is_server(uri: str) -> bool:
    """Whether an address is one of a web server, with nothing in it that would be given away.

    >>> [is_server(uri) for uri in ("https://m.example/x", "javascript:alert(1)", "http:///x", "http://a:b@m.example")]
    [True, False, False, False]
    """
    try:
        parts = urllib.parse.urlsplit(uri)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not has_password(uri)
    except ValueError:
        return False


def _inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):
        return False
