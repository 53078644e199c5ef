"""data, keys, new: what there is to work with."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.encoding import one_line
from engine.errors import ConfigError
from engine.settings import parse
from sweeps.cohorts import cohort_words
from sweeps.source import Given, read_file, with_flags
from sweeps.text import leads_read
from sweeps.verbs.parser import Verbs


def add(verbs: Verbs) -> None:
    """Adds the verbs."""
    sub = verbs.add("data", data, "fetch a database, describe a cohort, or write simulated records", takes_keys=True)
    sub.add_argument("what", choices=("fetch", "describe", "simulate"), help="what to do")
    sub.add_argument(
        "config", nargs="?", help="YAML file of a run or study; for fetch: mitdb (the default), incart or svdb"
    )
    sub.add_argument("--folder", type=Path, help="where fetch or simulate writes")
    sub.add_argument("--like", metavar="DATABASE", help="simulate: in the form of incart or svdb; default: of MIT-BIH")
    sub.add_argument("--json", action="store_true", help="describe: print JSON")
    sub = verbs.add("keys", keys, "all keys of the configuration with what they may be, or one of them explained")
    sub.add_argument("key", nargs="?", help="a key, or a section, such as federation.learning_rate")
    sub.add_argument("--schema", choices=("run", "study"), help="print the JSON schema of such a file, for editors")
    sub.add_argument("--json", action="store_true", help="print all keys as one JSON document")
    sub = verbs.add("new", new, "write a commented YAML file to begin with")
    sub.add_argument("what", choices=("run", "study"), help="of which kind")
    sub.add_argument(
        "file", type=Path, nargs="?", help="default: run.yaml or study.yaml; never one that is there already"
    )


def data(options: argparse.Namespace, rest: list[str]) -> int:
    if options.what == "fetch":
        return _fetch(options.config or "mitdb", options.folder)
    given = with_flags(read_file(options.config) if options.config else Given({}, "flags"), rest, RunConfig)
    if options.what == "simulate":
        return _simulate(options, given)
    from engine.data.cohort import build_cohort

    cohorts = _cohorts(given)
    reports = {}
    for label, config in cohorts.items():
        cohort = build_cohort(config.data, config.cohort, _say if not options.json else lambda text: None)
        reports[label] = cohort.report
        if not options.json:
            if label:
                print(f"{label}: {cohort_words(config)}")
            _print_cohort(cohort.report)
    if options.json:
        print(json.dumps(reports[""] if list(reports) == [""] else reports))
    return 0


def _simulate(options: argparse.Namespace, given: Given) -> int:
    from engine.data.forms import FORMS, write_like
    from engine.data.simulate import write_records

    if options.folder is None:
        raise ConfigError("data simulate: --folder is needed, the folder to write.")
    if options.like not in (None, *FORMS):
        raise ConfigError(f"data simulate: --like {options.like} is no form; allowed: {', '.join(FORMS)}.")
    settings = _run_of(given).data.simulated
    asked = (options.folder, settings.patients, settings.seed, settings.minutes)
    names = write_records(*asked) if options.like is None else write_like(options.like, *asked)
    print(f"{len(names)} records of {settings.minutes:g} minutes in {options.folder}")
    return 0


def _run_of(given: Given) -> RunConfig:
    return parse(RunConfig, {k: v for k, v in given.values.items() if k in RunConfig.model_fields}, given.source)


def _cohorts(given: Given) -> dict[str, RunConfig]:
    """Label -> a configuration of each cohort that a run, or the trials of each condition of a study, has."""
    from sweeps.checks import load_study
    from sweeps.space import STUDY_KEYS, conditions, resolve
    from sweeps.tuned import kinds_of_trials

    if not given.values.keys() & set(STUDY_KEYS):
        return {"": _run_of(given)}
    study = load_study(given.values, given.source, given.flags)
    found: dict[str, RunConfig] = {}
    for place in conditions(study):
        seen: dict[str, RunConfig] = {}
        for _, keys in kinds_of_trials(study, place):
            config = resolve(study, place, keys, 0, given.source)
            said = ", ".join(f"{k}: {v}" for k, v in keys.items() if k.startswith(("data.", "cohort.")))
            seen.setdefault(config.model_dump_json(include={"data", "cohort"}), config)
            if seen[config.model_dump_json(include={"data", "cohort"})] is config:
                label = f"condition {place.label}" if study.conditions else ""
                found[f"{label}{'; ' if label and said else ''}{said}"] = config
    return found


def keys(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.keys import all_keys, explained, schema
    from sweeps.space import StudyConfig

    if options.schema is not None:
        print(schema(StudyConfig if options.schema == "study" else RunConfig), end="")
    elif options.json:
        print(json.dumps([key._asdict() for key in all_keys()]))
    else:
        for line in explained(options.key) if options.key else (key.line for key in all_keys()):
            print(line)
    return 0


def new(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.starting import write_new

    path = options.file or Path(f"{options.what}.yaml")
    write_new(options.what, path)
    verb = "sweep" if options.what == "study" else "run"
    print(
        f"{path} is written; change it, look at it with `pulseledger data describe {path}`, start it with `pulseledger {verb} {path}`"
    )
    return 0


def _fetch(name: str, folder: Path | None) -> int:
    from rich.progress import Progress

    from engine.data.fetch import fetch
    from engine.data.sources import DATASETS
    from engine.files import cache_folder
    from sweeps.table import table_console

    if name not in DATASETS:
        raise ConfigError(f"data fetch: {name!r} is no known database; allowed: {', '.join(DATASETS)}.")
    dataset = DATASETS[name]
    where = folder or cache_folder() / name
    with Progress(console=table_console(), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(dataset.title, total=None)

        def progress(text: str) -> None:
            done, total = text.split(" ", 1)[0].split("/")
            bar.update(task, completed=int(done), total=int(total), description=text.split(" ", 1)[1])

        fetched = fetch(dataset, where, progress=progress)
    print(f"{fetched} files fetched, all {len(dataset.files)} are in {where}")
    return 0


def _print_cohort(report: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from sweeps.table import table_console

    classes = list(report["classes"])
    left_out = report["left_out"]
    title, unit = f"{report['beats']:,} {report['unit']}", report["unit"]
    if report["leads"]:
        title += f", {left_out['edge']} more lie too near the end of a record for a window"
    reasons = {"lost": "on lost samples", "flat": "on flat stretches", "unclear": "with contradicting annotations"}
    title += "".join(f", {left_out[key]} {text}" for key, text in reasons.items() if left_out[key])
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    of_what = "records" if report["leads"] else "patients"
    for name in ("hospital", of_what, "train", "val", "test", *classes, "left out", "local majority"):
        table.add_column(name, justify="left" if name == of_what else "right", overflow="fold")
    for h in report["hospitals"]:
        share = h["local_majority_accuracy"]
        table.add_row(
            f"{h['id']}{'' if h['trains'] else ' (unseen)'}",
            Text(one_line(" ".join(h["records"]))) if len(h["records"]) <= 16 else f"{len(h['records'])} {of_what}",
            *(f"{h[k]:,}" for k in ("train", "validation", "test")),
            *(f"{h['classes'][c]:,}" for c in classes),
            f"{sum(h['left_out'].values()):,}",
            "-" if share is None else f"{100 * share:.2f} %",
        )
    table.add_row("all", "", "", "", "", *(f"{report['classes'][c]:,}" for c in classes), style="bold")
    table_console().print(table)
    for line in _reading(report):
        print(one_line(line))
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
        print(f"{name.replace('_', ' ')} on the test {unit}: {'-' if share is None else f'{100 * share:.2f} %'}")
    print(f"local majority accuracy over all {unit}: {100 * report['local_majority_accuracy_all']:.2f} %")
    print(f"patients in more than one hospital: {len(report['patients_shared'])}")
    for text in report["leaky"]:
        print(one_line(f"leaky: {text}"))


def _reading(report: dict[str, Any]) -> list[str]:
    """How the records were read, in lines."""
    leads, length = report["shape"]
    if report["features"]:
        lines = [f"features: {', '.join(report['features'])}; {report['missing_values']:,} values were missing"]
    elif report["leads"]:
        before, after = report["window"]
        own = ", ".join(f"{n} at {rate} Hz" for rate, n in report["native_rates"].items())
        lines = [f"sampling rate: {report['sampling_rate']:g} Hz ({own}); window {before} + {after} samples"]
        lines.append(f"records by lead: {leads_read(report['leads'])}")
    else:
        lines = [f"signals: {leads} of {length} samples"]
    lines.append(f"patients: {report['patients']}, known from: {report['patients_source'] or 'nothing'}")
    if report["doubled"]:
        lines.append(f"annotated more than once: {report['doubled']} beats")
    for key, text in (("symbols_dropped", "beats of symbols or classes left out"), ("symbols_no_beats", "no beats")):
        if report[key]:
            lines.append(f"{text}: {', '.join(f'{symbol} {count:,}' for symbol, count in report[key].items())}")
    return lines


def _say(text: str) -> None:
    print(text, flush=True)
