"""data, keys: what there is to work with."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.errors import ConfigError
from engine.settings import dotted_keys, parse
from sweeps.verbs.parser import Verbs, overridden, values_of


def add(verbs: Verbs) -> None:
    """Adds the verbs."""
    sub = verbs.add("data", data, "fetch MIT-BIH, describe a cohort, or write simulated records", takes_keys=True)
    sub.add_argument("what", choices=("fetch", "describe", "simulate"))
    sub.add_argument("config", nargs="?", help="YAML file of a run or study, for describe and simulate")
    sub.add_argument("--folder", type=Path, help="where fetch or simulate writes")
    sub.add_argument("--json", action="store_true", help="describe: print JSON")
    verbs.add("keys", keys, "all keys of the configuration, with defaults")


def data(options: argparse.Namespace, rest: list[str]) -> int:
    if options.what == "fetch":
        return _fetch(options.folder)
    values = values_of(options.config, rest, RunConfig) if options.config else overridden({}, rest, RunConfig)
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


def keys(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.space import STUDY_KEYS, StudyConfig

    for key, field in dotted_keys(StudyConfig).items():
        default = field.get_default(call_default_factory=True)
        shown = list(default) if isinstance(default, tuple) else default
        mark = "  (studies)" if key in STUDY_KEYS else ""
        print(f"{key:40} {json.dumps(shown):28} {field.description or ''}{mark}")
    return 0


def _fetch(folder: Path | None) -> int:
    from rich.progress import Progress

    from engine.data.records import fetch_mitdb
    from engine.files import cache_folder
    from sweeps.table import table_console

    where = folder or cache_folder() / "mitdb"
    with Progress(console=table_console(), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("MIT-BIH", total=None)

        def progress(text: str) -> None:
            done, total = text.split(" ", 1)[0].split("/")
            bar.update(task, completed=int(done), total=int(total), description=text.split(" ", 1)[1])

        fetched = fetch_mitdb(where, progress=progress)
    print(f"{fetched} files fetched, all 144 are in {where}")
    return 0


def _print_cohort(report: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    from sweeps.table import table_console

    classes = list(report["classes"])
    title = f"{report['beats']:,} beats, {report['edge_beats']} more lie too near the end of a record for a window"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("hospital", "records", "train", "val", "test", *classes, "local majority"):
        table.add_column(name, justify="left" if name == "records" else "right", overflow="fold")
    for h in report["hospitals"]:
        share = h["local_majority_accuracy"]
        table.add_row(
            f"{h['id']}{'' if h['trains'] else ' (unseen)'}",
            " ".join(h["records"]) if len(h["records"]) <= 16 else f"{len(h['records'])} records",
            *(f"{h[k]:,}" for k in ("train", "validation", "test")),
            *(f"{h['classes'][c]:,}" for c in classes),
            "-" if share is None else f"{100 * share:.2f} %",
        )
    table.add_row("all", "", "", "", "", *(f"{report['classes'][c]:,}" for c in classes), style="bold")
    table_console().print(table)
    h = report["heterogeneity"]
    print(
        f"label distance (EMD) mean {h['emd_mean']:.3f}, max {h['emd_max']:.3f}; Jensen-Shannon {h['js']:.3f}; "
        f"Hellinger {h['hellinger']:.3f}; variation of sizes {h['size_cv']:.2f}"
    )
    for c, missing in report["missing"].items():
        if missing:
            print(f"without {c}: hospitals {', '.join(map(str, missing))}")
    for name in ("local_majority_accuracy", "global_majority_accuracy"):
        print(f"{name.replace('_', ' ')} on the test beats: {100 * report[name]:.2f} %")
    print(f"local majority accuracy over all beats: {100 * report['local_majority_accuracy_all']:.2f} %")
    print(f"patients in more than one hospital: {len(report['patients_shared'])}")
    for text in report["leaky"]:
        print(f"leaky: {text}")


def _say(text: str) -> None:
    print(text, flush=True)
