"""PulseLedger for Python: run a federation, drive a study, audit what they left behind.

    run(config, out)     one federation; returns its `Result`
    Study(config, out)   many of them, compared and tuned: `.run()`, `.results()`, `.best()`
    audit(folder)        recomputes everything that a ledger claims; `.clean`, `.lines()`
    Result.read(folder)  what a run came to

A configuration is a YAML file, a ready-made one such as "ready:quickstart", or plain values:

>>> import tempfile
>>> import pulseledger
>>> small = {
...     "data": {"window": [40, 60], "simulated": {"patients": 4, "minutes": 1}},
...     "cohort": {"hospitals": 2, "partition": "consecutive"},
...     "tracking": {"backend": "none"},
...     "execution": {"pool": "inprocess"},
... }
>>> with tempfile.TemporaryDirectory() as folder:
...     result = pulseledger.run(small, out=f"{folder}/run", federation__rounds=2)
...     report = pulseledger.audit(f"{folder}/run")
>>> len(result.rounds), result.config.cohort.hospitals, report.clean
(2, 2, True)

Everything that goes wrong is a `PulseLedgerError` with one sentence for each mistake:

>>> try:
...     pulseledger.run(small, federation__rounds=0)
... except pulseledger.PulseLedgerError as error:
...     print(error)
run: federation.rounds is 0: input should be greater than or equal to 1.
"""

# Imports are inside the functions, so that this one is quick.
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = Path(__file__).resolve().parents[1]
for _name in ("engine", "sweeps"):
    _found = importlib.util.find_spec(_name)
    if _found is None or _found.origin is None or Path(_found.origin).resolve().parents[1] != _HERE:
        raise ImportError(
            f"pulseledger: a package {_name!r} in {Path(_found.origin).parent if _found and _found.origin else 'the path'} "
            "hides PulseLedger's own; rename it, or start in another folder."
        )

from engine import __version__  # noqa: E402
from engine.errors import PulseLedgerError  # noqa: E402
from sweeps import Study  # noqa: E402

if TYPE_CHECKING:
    from engine.audit.report import Report
    from engine.result import Result

__all__ = ["PulseLedgerError", "Result", "Study", "__version__", "audit", "run"]


def run(
    config: "str | Path | Mapping[str, Any]",
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    **keys: Any,
) -> "Result":
    """Trains and tests one federation, or goes on with one that was interrupted.

    Args:
        config: a YAML file, a ready-made one such as "ready:run", or the values themselves.
        out: the folder; null: `out` of the configuration, else runs/NAME.
        say: told in plain words what goes on.
        keys: values put over those of `config`; a dotted key has two underscores: federation__rounds=5.

    Raises:
        PulseLedgerError: a setting, file or resource cannot be used, or a hospital failed.
    """
    from dataclasses import replace

    from engine.config import RunConfig
    from engine.experiment import HERE
    from engine.tracked import run_tracked
    from sweeps.checks import load_run
    from sweeps.source import given, out_folder

    settings = given(config, keys, RunConfig, "run")
    checked = load_run(settings.values, settings.source)
    folder = Path(out).expanduser() if out else out_folder(checked)
    return run_tracked(checked, folder, folder.parent, replace(HERE, note=say))


def audit(folder: str | Path) -> "Report":
    """Recomputes everything that the ledger of a run, a study or a bundle claims.

    Raises:
        PulseLedgerError: there is nothing that can be read.
    """
    from engine.audit import run as of_run
    from sweeps.audit import audit_study
    from sweeps.folder import is_study

    path = Path(folder).expanduser()
    return audit_study(path) if is_study(path) else of_run.audit(path)


def __getattr__(name: str) -> Any:
    if name == "Result":
        from engine.result import Result

        return Result
    raise AttributeError(f"module 'pulseledger' has no attribute {name!r}")
