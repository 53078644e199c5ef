"""What a cluster needs: files that are checked without one, and a job that is submitted to a head node of this machine.

The structure of the RayJob is checked by hand; this is not KubeRay's CRD.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from reference import ROOT
from servers import free_port

from engine import __version__
from engine.settings import load_yaml
from sweeps.__main__ import build_parser
from sweeps.checks import load_study

DEPLOY = ROOT / "deploy"
IMAGE = f"pulseledger:{__version__}"
LAUNCHERS = sorted(DEPLOY.glob("ray-cluster.*.yaml"))
MANIFESTS = sorted((DEPLOY / "kuberay").glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def everything() -> list[dict[str, Any]]:
    return [d for path in MANIFESTS for d in documents(path)]


def rayjob() -> dict[str, Any]:
    return next(d for d in everything() if d["kind"] == "RayJob")


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, pod specification) of everything that makes pods."""
    for d in everything():
        if d["kind"] in ("Deployment", "StatefulSet"):
            yield d["metadata"]["name"], d["spec"]["template"]["spec"]
    cluster = rayjob()["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group.get("groupName", "head"), group["template"]["spec"]


def sweep_command(words: list[str]) -> Any:
    options, rest = build_parser().parse_known_args(words[1:])
    assert words[0] == "pulseledger"
    assert options.verb == "sweep"
    return options, rest


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_launcher_files_fit_rays_schema(path: Path):
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    values = yaml.safe_load(path.read_text())
    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**values, "max_worker": 3}, schema)  # the schema does look
    assert values["docker"]["image"].rpartition("/")[2] == IMAGE
    assert "--env=PGPASSWORD" in values["docker"]["run_options"]  # by name: its value is in no file
    starts = [*values["head_start_ray_commands"], *values["worker_start_ray_commands"]]
    check_options(
        "ray start", [word for line in starts for word in line.split("ray start")[-1].split() if "ray stop" not in line]
    )


def check_options(command: str, words: list[str]) -> None:
    """Every --option must be one of the installed program's."""
    if command == "ray start":
        from ray.scripts.scripts import start as program
    else:
        from mlflow.cli import server as program
    known = {name for parameter in program.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert options
    assert options <= known, f"{command} has no {options - known}"


def test_the_study_of_the_example_loads_and_has_no_password():
    study = load_study(load_yaml(DEPLOY / "study.yaml"), "study.yaml")
    assert study.storage == "postgresql+psycopg://pulseledger@postgres:5432/optuna"
    assert study.tracking.uri == "http://mlflow:5000"


def test_the_image_is_of_the_versions_that_are_pinned():
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^FROM rayproject/ray:([\d.]+)-py311", text, re.MULTILINE) == [ray.__version__]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in packages} <= names  # each of them is in the image
    assert "[cluster]" in text


def test_the_rayjob_has_the_fields_it_needs():
    job = rayjob()
    assert job["apiVersion"] == "ray.io/v1"
    spec = job["spec"]
    known = {
        "entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "activeDeadlineSeconds", "rayClusterSpec", "runtimeEnvYAML", "suspend", "submitterPodTemplate", "entrypointNumCpus",
    }  # fmt: skip
    assert set(spec) <= known
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    assert spec["shutdownAfterJobFinishes"] is True  # without it ttlSecondsAfterFinished is refused
    cluster = spec["rayClusterSpec"]
    assert set(cluster) <= {
        "rayVersion",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    }
    assert cluster["rayVersion"] == ray.__version__
    # values of rayStartParams are strings for KubeRay, and options for Ray
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    check_options("ray start", [f"--{name}" for name in cluster["headGroupSpec"]["rayStartParams"]])
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    options, rest = sweep_command(spec["entrypoint"].split())
    assert rest[:2] == ["--address", "auto"]
    mounts = {m["mountPath"] for m in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert str(Path(options.config).parent) in mounts
    assert any(rest[rest.index("--out") + 1].startswith(f"{mount}/") for mount in mounts)


def test_manifests_agree_with_each_other():
    made = {(d["kind"], d["metadata"]["name"]) for d in everything()}
    by_hand = {("Secret", "pulseledger-database"), ("ConfigMap", "pulseledger-study")}  # said in the files' comments
    labels = [
        d["spec"]["template"]["metadata"]["labels"] for d in everything() if d["kind"] in ("Deployment", "StatefulSet")
    ]
    for d in everything():
        if d["kind"] == "Service":
            assert d["spec"]["selector"] in labels
    services = {d["metadata"]["name"]: d["spec"]["ports"][0]["port"] for d in everything() if d["kind"] == "Service"}
    assert services == {"postgres": 5432, "mlflow": 5000}  # what study.yaml and the server's address name
    for name, pod in pods():
        volumes = {v["name"]: v for v in pod.get("volumes", [])}
        for container in pod["containers"]:
            assert container["image"] in (IMAGE, "postgres:17")
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes or (name, mount["name"]) == ("pulseledger-postgres", "data")
            for variable in container.get("env", []):
                if "PASSWORD" in variable["name"]:
                    assert variable["valueFrom"]["secretKeyRef"] == {"name": "pulseledger-database", "key": "password"}
            if "mlflow" in container.get("command", []):
                check_options("mlflow server", container["command"])
        for volume in volumes.values():
            for kind, key, field in (
                ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
                ("ConfigMap", "configMap", "name"),
            ):
                if key in volume:
                    assert (kind, volume[key][field]) in made | by_hand


def test_the_compose_file_agrees_with_itself():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"postgres", "mlflow", "head", "worker"}
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services)
        assert service["image"] == ("postgres:17" if name == "postgres" else IMAGE)
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith("./") else source in compose["volumes"]
        for variable, value in service["environment"].items():
            assert "PASSWORD" not in variable or value.startswith("${PGPASSWORD:?")
    check_options("mlflow server", services["mlflow"]["command"])
    for name in ("head", "worker"):
        assert services[name]["command"][:2] == ["ray", "start"]
        check_options("ray start", services[name]["command"])
    assert (DEPLOY / "databases.sql").read_text().count("CREATE DATABASE mlflow") == 1


def test_the_readme_names_every_file():
    text = (DEPLOY / "README.md").read_text()
    for path in (*LAUNCHERS, *MANIFESTS, DEPLOY / "Dockerfile", DEPLOY / "compose.yaml", DEPLOY / "job.sh"):
        assert f"`{path.relative_to(DEPLOY)}`" in text


def test_the_job_script_says_what_it_wants():
    done = subprocess.run(["bash", str(DEPLOY / "job.sh")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage:" in done.stderr


# --- A job ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def head(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """A head node with the dashboard; every port is free, as other Rays may run beside it."""
    dashboard = free_port()
    ports = {"--port": free_port(), "--dashboard-port": dashboard, "--dashboard-agent-listen-port": free_port()}
    words = [f"{name}={port}" for name, port in ports.items()]
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--num-cpus=2",
        "--include-dashboard=true",
    ]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--temp-dir={folder}", "--block", *words],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 120
        while True:
            assert process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < end, (folder / "head.log").read_text()
            with contextlib.suppress(OSError):
                with contextlib.suppress(urllib.error.HTTPError):  # it wants the token, and is there
                    urllib.request.urlopen(f"http://127.0.0.1:{dashboard}/api/version", timeout=2).close()
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        process.send_signal(signal.SIGTERM)  # it ends what it started; `ray stop` would end every Ray of the machine
        process.wait(timeout=60)


VALUES = {
    "name": "job",
    "data": {"window": [90, 162], "simulated": {"patients": 6, "minutes": 1.5}},
    "cohort": {"hospitals": 3},
    "model": {"channels": [8, 8, 16], "hidden": 16},
    "federation": {"rounds": 3},
    "ledger": {"backend": "none"},
    "search": {"federation.learning_rate": {"log_uniform": [0.01, 0.1]}},
    "trials": 2,
}


def at_home(folder: Path, token: str) -> dict[str, str]:
    """The environment of a user with a home of its own, and a token in it unless that is empty."""
    (folder / ".ray").mkdir(parents=True)
    if token:
        (folder / ".ray/auth_token").write_text(token)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    rest = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"HOME": str(folder), "PYTHONPATH": str(ROOT), "PATH": programs, "RAY_worker_niceness": "0"}
    return {**rest, **own}


@pytest.mark.long
def test_a_job_is_submitted_and_submitted_again_with_the_token_of_the_cluster(tmp_path: Path):
    study, folder = tmp_path / "study.yaml", tmp_path / "out"
    study.write_text(yaml.safe_dump(VALUES))
    environment = at_home(tmp_path / "home", "the-token-of-the-cluster")
    # Ray's sockets lie below its folder, and a socket's path may have 107 characters
    short = tempfile.TemporaryDirectory(prefix="pulseledger-", dir="/tmp", ignore_cleanup_errors=True)
    with short, head(Path(short.name), environment) as address:
        words = ["bash", str(DEPLOY / "job.sh"), str(study), str(folder), "--concurrency", "1"]
        stranger = at_home(tmp_path / "stranger", "") | {"RAY_ADDRESS": address}
        done = subprocess.run(words, env=stranger, capture_output=True, text=True, timeout=60)
        assert (done.returncode, "wants the cluster's token" in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
        environment["RAY_ADDRESS"] = address
        for trials in (2, 3):
            end = time.monotonic() + 60
            while True:  # the agent that starts jobs comes after the dashboard
                done = subprocess.run(
                    [*words, "--trials", str(trials)], env=environment, capture_output=True, text=True, timeout=180
                )
                if "No available agent" not in done.stderr + done.stdout or time.monotonic() > end:
                    break
                time.sleep(2)
            assert done.returncode == 0, done.stdout + done.stderr
            assert len(list(folder.glob("trials/*/seed-0/result.json"))) == trials
        said = done.stdout.split("Running entrypoint")[1]
        assert "trial 2 (3/3)" in said
        assert "trial 0 (" not in said  # it was there already


# --- By hand ----------------------------------------------------------------------------------------------------------


def by_hand(places: dict[str, str]) -> list[str]:
    """The commands of the section, in their order, with this machine's places in them."""
    section = (DEPLOY / "README.md").read_text(encoding="utf-8").split("## By hand\n")[1].split("\n## ")[0]
    found = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    for word, place in places.items():
        found = [line.replace(word, place) for line in found]
    return found


@pytest.mark.long
def test_the_lines_of_by_hand_make_a_cluster_with_tokens(tmp_path: Path):
    ports = {word: str(free_port()) for word in (":6379", ":8265", ":5000")}
    places = {f"{sign}{word[1:]}": f"{sign}{port}" for word, port in ports.items() for sign in ":="}
    places |= {"HEAD": "127.0.0.1", "/shared": str(tmp_path), "study.yaml": str(tmp_path / "study.yaml")}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(VALUES))
    environment = at_home(tmp_path / "home", "")
    short = tempfile.TemporaryDirectory(prefix="pulseledger-", dir="/tmp", ignore_cleanup_errors=True)
    with short, contextlib.ExitStack() as stack:
        beside = f" --temp-dir={short.name} --dashboard-agent-listen-port={free_port()}"  # other Rays may run here
        for line in by_hand(places):
            program, *words = shlex.split(line)
            if program == "export":
                environment |= dict(word.split("=", 1) for word in words)
            elif "--block" in words or program == "mlflow":
                more = beside if "--head" in words else ""
                stack.enter_context(served(line + more, environment, tmp_path))
                opened = next(port for word, port in ports.items() if port in line)
                heard(int(opened))
            else:
                done = subprocess.run(shlex.split(line), env=environment, capture_output=True, text=True, timeout=280)
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert len(list(tmp_path.glob("runs/check/trials/*/seed-0/result.json"))) == 2
        refused = subprocess.run(
            shlex.split(line), env=at_home(tmp_path / "stranger", ""), capture_output=True, text=True, timeout=60
        )
        assert refused.returncode == 2
        assert "wants the cluster's token" in refused.stderr
        assert "Traceback" not in refused.stderr


@contextlib.contextmanager
def served(line: str, environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A command that goes on until it is ended."""
    with (folder / "served.log").open("a") as log:
        process = subprocess.Popen(
            shlex.split(line), env=environment, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def heard(port: int) -> None:
    end = time.monotonic() + 240
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        assert time.monotonic() < end, f"nobody listens on {port}"
        time.sleep(0.5)
