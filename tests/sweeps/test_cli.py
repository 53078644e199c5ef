"""The command line as a user meets it: in a process of its own."""

import argparse
import contextlib
import functools
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from mlflow import MlflowClient
from reference import ROOT, TINY, as_flags, command

from engine.config import RunConfig
from engine.errors import NotTrusted
from engine.settings import dotted_keys, load_yaml, parse
from sweeps.__main__ import build_parser, main
from sweeps.checks import load_study
from sweeps.keys import UNITS, schema
from sweeps.space import StudyConfig, conditions
from sweeps.trust import trusting
from sweeps.verbs import looking

RUN = ROOT / "sweeps" / "run.yaml"


def tiny_run(out: Path, *words: str, **keys: Any) -> tuple[Any, ...]:
    return ("run", RUN, "--out", out, *words, *as_flags(**TINY | keys))


# --- What goes well ---------------------------------------------------------------------------------------------------


def test_help_is_quick_and_names_every_verb():
    began = time.monotonic()
    done = command("--help")
    seconds = time.monotonic() - began
    assert done.returncode == 0
    for verb in ("run", "sweep", "plan", "resume", "ask", "compare", "audit", "data", "ui", "keys"):
        assert f"    {verb} " in done.stdout
    assert done.stderr == ""
    assert seconds < 5  # importing torch, Ray and MLflow takes longer on this machine


def every_parser(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from every_parser(inner)


def test_help_explains_every_argument_of_every_command():
    lacking = [
        f"{parser.prog}: {action.dest}"
        for parser in every_parser(build_parser())
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction) and not action.help
    ]
    assert lacking == []


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from sweeps.__main__ import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'web3', 'pandas', 'wfdb'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([os.sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: pulseledger run")


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run with --json and two keys given as flags."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    return folder, command(*tiny_run(folder, "--json", **{"federation.batch_size": 24, "seed": 5}))


def test_run_with_json_prints_one_document_and_nothing_else(printed):
    folder, done = printed
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert result == json.loads((folder / "result.json").read_text())
    assert len(result["rounds"]) == 2


def test_flags_are_keys_and_are_echoed(printed):
    folder, done = printed
    config = json.loads(done.stdout)["config"]
    assert (config["federation"]["batch_size"], config["seed"], config["out"]) == (24, 5, str(folder))
    assert config["cohort"]["hospitals"] == 3
    assert yaml.safe_load((folder / "config.yaml").read_text()) == config


def test_a_finished_run_is_shown_again(printed, capsys):
    folder, first = printed
    words = tiny_run(folder, **{"federation.batch_size": 24, "seed": 5})
    assert main(list(map(str, words))) == 0
    said = capsys.readouterr()
    assert "is finished already; nothing is run again" in said.err
    assert json.loads(first.stdout)["ledger"]["head"][:18] in said.out
    assert f"results: {folder}" in said.out


def test_audit_tells_clean_from_findings_from_unreadable(printed, tmp_path: Path, capsys):
    folder, _ = printed
    assert main(["audit", str(folder)]) == 0
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    path = broken / "ledger" / "updates" / "00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert main(["audit", str(broken)]) == 1
    out = capsys.readouterr().out
    assert "finding: round 2" in out
    assert main(["audit", str(broken), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)[str(broken)]
    assert (report["verdict"], report["exit_code"]) == ("findings", 1)
    assert any(f["round"] == 2 for f in report["findings"])
    shutil.rmtree(broken / "ledger")
    assert main(["audit", str(broken)]) == 2
    assert capsys.readouterr().err.startswith("pulseledger: ")


def test_audit_of_a_bundle_and_of_two_copies(printed, tmp_path: Path, capsys):
    folder, _ = printed
    bundle = folder / "ledger" / "bundle.plb"
    assert main(["audit", str(bundle), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document[str(bundle)]["counts"]["rounds"] == 2
    assert main(["audit", str(folder), "--against", str(bundle)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "verdict: clean"
    assert main(["audit", str(tmp_path / "other"), "--against", str(bundle)]) == 2
    (tmp_path / "study.yaml").write_text("name: s\n")
    assert main(["audit", str(bundle), "--against", str(tmp_path)]) == 2
    assert "--against compares runs; this is a study" in capsys.readouterr().err


def test_compare_of_a_single_run(printed, capsys):
    folder, done = printed
    assert main(["compare", str(folder), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)[str(folder)]["rows"]
    assert row["scores"]["final/personal/accuracy"]["mean"] == json.loads(done.stdout)["final"]["personal"]["accuracy"]
    assert main(["compare", str(folder), "--csv"]) == 0
    header, values = capsys.readouterr().out.splitlines()
    assert len(header.split(",")) > 20
    assert "fedavg" in values.split(",")


def test_data_describe_speaks_json(capsys):
    assert main(["data", "describe", str(RUN), "--json", *as_flags(**TINY)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["hospitals"]) == 3
    assert report["beats"] == sum(sum(h["classes"].values()) for h in report["hospitals"])
    assert main(["data", "describe", str(RUN), *as_flags(**TINY)]) == 0
    assert f"{report['beats']:,} beats" in capsys.readouterr().out


def test_plan_starts_nothing(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # a ready-made file is found by its name, wherever one stands
    assert main(["plan", "ready:quickstart", "--federation.rounds", "3"]) == 0
    out = capsys.readouterr().out
    assert "3 rounds each" in out
    assert out.count("  condition hospitals=") == 4
    assert list(tmp_path.iterdir()) == []


def test_keys_lists_every_key(capsys):
    assert main(["keys"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert listed >= set(dotted_keys(RunConfig)) | {"conditions", "search", "repeats"}


def test_ui_opens_the_store_of_the_configuration(ended: Path, tmp_path: Path, capsys):
    (tmp_path / "study.yaml").write_text("tracking: {uri: 'http://mlflow.example:5000', experiment: mine}\n")
    assert main(["ui", str(tmp_path)]) == 0
    assert (
        capsys.readouterr().out == "MLflow: http://mlflow.example:5000 (a server that runs already), experiment mine\n"
    )

    uri = f"sqlite:///{ended / 'mlflow.db'}"
    (tmp_path / "study.yaml").write_text(f"tracking: {{uri: '{uri}', experiment: pulseledger}}\n")
    started: list[Any] = []
    options = argparse.Namespace(folders=[tmp_path], store=None, port=0)
    with pytest.raises(NotTrusted, match=r"tracking\.uri .* was not opened"):
        looking.ui(options, [], become=lambda path, words: started.extend(words))
    with trusting([uri]):
        looking.ui(options, [], become=lambda path, words: started.extend(words))
    assert started[started.index("--backend-store-uri") + 1] == uri
    assert "#/experiments/1/runs" in capsys.readouterr().out
    looking.ui(argparse.Namespace(folders=[], store=uri, port=0), [], become=lambda path, words: started.extend(words))
    assert started.count(uri) == 2
    for words in (["ui"], ["ui", str(ended), "--store", uri]):
        assert main(words) == 2
        assert capsys.readouterr().err == "pulseledger: ui: give one or more folders, or --store URI.\n"


def test_ui_shows_several_folders_together(ended: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "cache"))
    other = Path(shutil.copytree(ended, tmp_path / "other"))
    started: list[str] = []
    options = argparse.Namespace(folders=[ended, other], store=None, port=0)
    looking.ui(options, [], become=lambda path, words: started.extend(words))
    uri = started[started.index("--backend-store-uri") + 1]
    client = MlflowClient(uri)
    names = {experiment.name: experiment for experiment in client.search_experiments()}
    assert set(names) >= {f"{ended.name} / pulseledger", "other / pulseledger"}
    assert "a copy of 2 stores as they are now" in capsys.readouterr().out


def test_resume_goes_on_with_a_single_run(tmp_path: Path, capsys):
    """Of a finished run, the checkpoint of the last round and the ledger are left."""
    folder = tmp_path / "run"
    assert main(list(map(str, tiny_run(folder, "--json")))) == 0
    whole = json.loads(capsys.readouterr().out)
    for name in ("result.json", "predictions.parquet", "model.safetensors"):
        (folder / name).unlink()
    assert main(["resume", str(folder)]) == 0
    assert "going on after round 2" in capsys.readouterr().err
    again = json.loads((folder / "result.json").read_text())
    assert (again["model_hash"], again["ledger"]["head"]) == (whole["model_hash"], whole["ledger"]["head"])


# --- Mistakes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that somebody else has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


MISTAKES: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    "typo in a key": (("run", "{typo}"), ("{typo}: federation.round is not a known key", "rounds", "did you mean")),
    "value out of range": (("run", RUN, "--federation.rounds", "0"), ("federation.rounds is 0", "greater than")),
    "wrong kind of value": (("run", RUN, "--cohort.hospitals", "many"), ("cohort.hospitals is 'many'", "integer")),
    "unknown flag": (("run", RUN, "--cohort.hospitls", "3"), ("--cohort.hospitls", "--cohort.hospitals?")),
    "flag without a value": (("run", RUN, "--seed"), ("--seed: a value is missing",)),
    "unknown flag of a verb without keys": (("audit", "{tmp}", "--fast"), ("'--fast'",)),
    "missing argument": (("run",), ("config",)),
    "unknown verb": (("runn",), ("'runn'", "'run'")),
    "no verb": ((), ("VERB",)),
    "missing file": (("run", "{tmp}/no.yaml"), ("{tmp}/no.yaml: cannot be read (No such file",)),
    "a missing file with the name of a ready-made one": (
        ("plan", "{tmp}/quickstart.yaml"),
        ("{tmp}/quickstart.yaml: cannot be read (No such file", "the ready-made one is ready:quickstart"),
    ),
    "a ready-made file that is none": (("plan", "ready:quickstarts"), ("ready:quickstarts: there is no such", "ready:quickstart,")),
    "a flag that is given twice": (("run", RUN, "--seed", "1", "--seed=2"), ("--seed is given twice",)),
    "a flag that a condition sets over": (
        ("plan", "ready:quickstart", "--cohort.hospitals", "5"),
        ("--cohort.hospitals would change nothing that conditions.cohort.hospitals does not set over it",),
    ),
    "a key that is none": (("keys", "federation.round"), ("there is no key federation.round", "federation.rounds?")),
    "trials of a run": (("resume", "{tmp}", "--trials", "4"), ("{tmp}: --trials is for studies",)),
    "a folder as file": (("sweep", "{tmp}"), ("{tmp}: cannot be read (Is a directory)",)),
    "broken YAML": (("plan", "{broken}"), ("{broken}, line 2: is not valid YAML",)),
    "a run as a study's folder": (("resume", "{tmp}"), ("{tmp}: holds neither a study", "nor a run")),
    "nothing to compare": (("compare", "{tmp}/no"), ("{tmp}/no: holds neither a study", "nor a finished run")),
    "a command that is none": (("ask", "{tmp}", "pause"), ("'pause'", "'stop'")),
    "a command to no study": (("ask", "{tmp}", "stop"), ("{tmp}: holds no study",)),
    "nothing to audit": (("audit", "{tmp}/no"), ("{tmp}/no",)),
    "an audit of nothing": (("audit",), ("a folder, a bundle or --mlflow RUN_ID",)),
    "a store without a run": (("audit", "{tmp}", "--store", "sqlite:///x.db"), ("--store", "--mlflow")),
    "no MLflow store": (("audit", "{tmp}", "--mlflow", "0123"), ("{tmp}: neither it nor the folder above", "--store")),
    "missing records": (
        ("run", RUN, "--json", "--data.source", "folder", "--data.folder", "{tmp}/no", "--execution.pool", "inprocess",
         "--out", "{tmp}/out", "--tracking.backend", "none"), ("data.folder: {tmp}/no is not a folder",),
    ),
    "unreachable node": (
        (*tiny_run(Path("{tmp}/rpc"), "--json", **{"ledger.backend": "rpc", "ledger.url": "http://127.0.0.1:9", "ledger.timeout": 1}),),
        ("http://127.0.0.1:9",),
    ),
    "unreachable Ray": (
        (*tiny_run(Path("{tmp}/ray"), "--json", "--address", "127.0.0.1:9", **{"execution.pool": "ray"}),),
        ("execution.address: no Ray at '127.0.0.1:9'", "refused"),
    ),
    "unreachable MLflow": (
        (*tiny_run(Path("{tmp}/m"), **{"tracking.backend": "mlflow", "tracking.uri": "http://127.0.0.1:9"}),),
        ("tracking.uri: no MLflow store at http://127.0.0.1:9 (Connection refused)",),
    ),
    "a file where the folder should be": ((*tiny_run(Path("{typo}"), "--json"),), ("{typo}",)),
    "a folder that cannot be made": ((*tiny_run(Path("/proc/no/run"), "--json"),), ("/proc/no",)),
    "a port in use": (("ui", "{store}", "--port", "{port}"), ("--port {port}: cannot be used (Address already in use)",)),
    "a port that is none": (("ui", "{store}", "--port", "70000"), ("--port 70000: cannot be used", "65535")),
    "no store to show": (("ui", "{tmp}"), ("{tmp}: neither it nor the folder above holds an MLflow store",)),
    "simulate without a folder": (("data", "simulate"), ("--folder is needed",)),
}  # fmt: skip


# What is said as a process ends is heard only outside of this one, where there may be a Ray already. The first two are for
# all others.
OUTSIDE = ("typo in a key", "unreachable Ray", "missing records", "unreachable node", "unreachable MLflow")
RUNS = [(mistake, mistake in OUTSIDE[:2]) for mistake in MISTAKES]
RUNS += [pytest.param(mistake, True, marks=pytest.mark.long) for mistake in OUTSIDE[2:]]  # type: ignore[list-item]


@pytest.mark.parametrize(("mistake", "outside"), RUNS)
def test_a_mistake_ends_in_one_sentence(mistake: str, outside: bool, tmp_path: Path, listener: int, monkeypatch, capfd):
    places = {"tmp": tmp_path, "port": listener}
    for name, text in (("typo", "federation: {round: 3}\n"), ("broken", "seed: 1\n]\n")):
        places[name] = tmp_path / f"{name}.yaml"
        places[name].write_text(text)
    places["store"] = tmp_path / "store"
    places["store"].mkdir()
    with contextlib.closing(sqlite3.connect(places["store"] / "mlflow.db")) as store:
        store.execute("CREATE TABLE experiments (experiment_id INTEGER, artifact_location TEXT)")
        store.execute("CREATE TABLE experiment_tags (experiment_id INTEGER, key TEXT)")
    words, parts = MISTAKES[mistake]
    monkeypatch.setenv("PULSELEDGER_LEDGER_KEY", "0x" + "17" * 32)
    given = [str(word).format(**places) if "{" in str(word) else str(word) for word in words]
    if outside:
        done = command(*given)
        code, out, err = done.returncode, done.stdout, done.stderr
    else:
        try:
            code = main(given)
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        out, err = capfd.readouterr()
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("pulseledger: ")
    assert "Traceback" not in err
    for part in parts:
        assert part.format(**places) in err


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(words, capture_output=True, timeout=20).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk is not permitted here: run as root, in a container with CAP_SYS_ADMIN")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=20)


@pytest.mark.parametrize("backend", ["embedded", "none"])
def test_a_full_disk_ends_in_one_sentence(full: Path, backend: str):
    keys = {"ledger.backend": backend, "federation.rounds": 60, "model.hidden": 128}
    done = command(*tiny_run(full / "run", "--json", **keys))
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("pulseledger: ")
    assert str(full / "run") in done.stderr
    assert "No space left on device" in done.stderr or "disk is full" in done.stderr


def test_a_full_disk_ends_in_one_sentence_wherever_it_is_noticed(tmp_path: Path, monkeypatch, capsys):
    """Without a disk to fill up: the one write that a study does first."""

    def no_space(self: Path, *args: Any, **kwargs: Any) -> int:
        raise OSError(28, os.strerror(28), str(self))

    study = tmp_path / "study.yaml"
    study.write_text("name: full\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", no_space)
        assert main(["sweep", str(study), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pulseledger: {tmp_path / 'out'}")
    assert error.endswith("(No space left on device).\n")
    assert error.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, tmp_path: Path):
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.tracked.run_tracked", interrupted)
    assert main(list(map(str, tiny_run(tmp_path)))) == 130
    assert capsys.readouterr().err == ("pulseledger: stopped; `pulseledger resume DIR` goes on from the last round.\n")


def test_output_into_a_closed_pipe_is_no_error():
    words = f"{os.sys.executable} -m sweeps keys | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("name ")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 141)


# --- Writing without guessing -----------------------------------------------------------------------------------------


def test_help_of_a_verb_shows_its_flags(capsys):
    wanted = {
        "run": ("--out DIR", "--json"),
        "sweep": ("--trials N", "--concurrency N", "--address"),
        "resume": ("--trials N",),
    }
    for verb, flags in {**wanted, "keys": ("--schema",), "new": ("file",)}.items():
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        out = capsys.readouterr().out
        assert all(flag in out for flag in flags), verb


@pytest.mark.parametrize("what", ["run", "study"])
def test_a_new_file_has_comments_loads_and_is_never_written_over(what: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", what]) == 0
    file = tmp_path / f"{what}.yaml"
    text = file.read_text()
    assert text.count(" # ") > 15
    assert text.startswith("# yaml-language-server: $schema=file:///")
    assert Path(text.split("\n")[0].partition("file://")[2]).exists()
    values = load_yaml(file)
    if what == "study":
        assert len(conditions(load_study(values, "test"))) == 4
    else:
        parse(RunConfig, values, "test")
    file.write_text("mine")
    assert main(["new", what]) == 2
    assert "is there already and is left alone" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_keys_tell_range_unit_default_and_when_they_are_read(capsys):
    assert main(["keys", "cohort.adapt_minutes"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cohort.adapt_minutes",
        "  minutes at the start of an unseen record used to adapt",
        "  allowed: a number, > 0, in min",
        "  default: 5.0",
        "  read with: cohort.split: leave-one-hospital-out | inter-patient | other-database",
        "  in a study: may stand in conditions, baselines and search",
    ]
    assert main(["keys", "federation.algorithm"]) == 0
    assert "  allowed: fedavg | fedprox | scaffold | perfedavg | ditto | fedper" in capsys.readouterr().out
    assert main(["keys", "seed"]) == 0
    assert "belongs to the study" in capsys.readouterr().out
    assert main(["keys", "objectives"]) == 0
    assert "    validation/personal/macro_f1" in capsys.readouterr().out.splitlines()
    assert set(UNITS) <= set(dotted_keys(RunConfig))


@pytest.mark.parametrize("kind", ["run", "study"])
def test_the_schema_that_ships_is_that_of_the_program(kind: str):
    """If this fails: python -m sweeps keys --schema KIND > sweeps/KIND.schema.json"""
    assert (ROOT / "sweeps" / f"{kind}.schema.json").read_text() == schema(
        StudyConfig if kind == "study" else RunConfig
    )


@functools.cache
def validator(file: Path) -> Any:
    """Of the schema in a file, which is looked at once: that takes longer than all files that keep to it."""
    schema = json.loads(file.read_text())
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_ready_files_name_their_schema_and_keep_to_it(path: Path):
    first = path.read_text().split("\n")[0]
    schema = validator((path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve())
    schema.validate(json.loads(json.dumps(load_yaml(path))))
    with pytest.raises(jsonschema.ValidationError):
        schema.validate({"federation": {"roundz": 3}})


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("pulseledger swe", "sweep "),
        ("pulseledger sweep ready:q", "ready:quickstart "),
        ("pulseledger run x.yaml --federation.al", "--federation.algorithm "),
        ("pulseledger run x.yaml --federation.algorithm per", "perfedavg "),
        ("pulseledger resume --tr", "--trials "),
        ("pulseledger keys federation.le", "federation.learning_rate "),
    ],
)
def test_the_tab_key_completes(line: str, wanted: str):
    asked = {
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_SHELL": "bash",
    }
    words = ["bash", "-c", f"{sys.executable} -m sweeps 8>&1 9>/dev/null"]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True, timeout=60)
    assert done.stdout == wanted


def test_data_describe_goes_by_condition(tmp_path: Path, capsys):
    study = tmp_path / "study.yaml"
    values = {
        "data": {"window": [40, 60], "simulated": {"patients": 4, "minutes": 1}},
        "cohort": {"partition": "consecutive"},
    }
    study.write_text(yaml.safe_dump({**values, "conditions": {"cohort.hospitals": [2, 3]}}))
    assert main(["data", "describe", str(study)]) == 0
    out = capsys.readouterr().out
    assert (
        "condition hospitals=2: 2 hospitals of 4 patients (simulated), partition consecutive, split chronological"
        in out
    )
    assert "condition hospitals=3: 3 hospitals of 4 patients" in out
    assert main(["data", "describe", str(study), "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert {label: len(report["hospitals"]) for label, report in reports.items()} == {
        "condition hospitals=2": 2,
        "condition hospitals=3": 3,
    }


def test_the_public_interface_s_own_examples_run():
    import doctest

    import pulseledger

    assert set(pulseledger.__all__) == {"PulseLedgerError", "Result", "Study", "__version__", "audit", "run"}
    assert all(getattr(pulseledger, name) for name in pulseledger.__all__)
    result = doctest.testmod(pulseledger)
    assert (result.failed, result.attempted > 4) == (0, True)
