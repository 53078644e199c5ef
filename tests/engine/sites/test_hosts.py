"""Sites and coordinator as processes of their own: killed at any moment; on hosts of their own with delay, loss and a cut."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from reference import ROOT
from servers import free_port
from sited import PASSWORD, Federation, made

from engine.experiment import run
from engine.paths import write_config
from engine.result import RESULT, Result

pytestmark = pytest.mark.long

ROUNDS = 12


class Host:
    """One of our commands on a host, which can be killed and started again."""

    def __init__(self, name: str, words: Sequence[str], log: Path, prefix: Sequence[str] = ()) -> None:
        self.name, self._log = name, log
        self._words = [*prefix, sys.executable, "-m", "sweeps", *words]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PULSELEDGER_KEYSTORE_PASSWORD": PASSWORD}
        with self._log.open("a") as file:
            self.process = subprocess.Popen(self._words, cwd=ROOT, env=environment, stdout=file, stderr=file)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    @property
    def said(self) -> str:
        return self._log.read_text()


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Federation:
    return made(tmp_path_factory.mktemp("hosts"), keystore=True)


@pytest.fixture(scope="module")
def config(federation, tiny_config):
    keys = {"ledger.backend": "embedded", "ledger.keystore": str(federation.home / "keys")}
    return federation.config(tiny_config, **keys, **{"federation.algorithm": "fedper", "federation.rounds": ROUNDS})


@pytest.fixture(scope="module")
def here(config, tmp_path_factory) -> Result:
    plain = config.model_copy(update={"ledger": config.ledger.model_copy(update={"keystore": None})})
    return run(plain, tmp_path_factory.mktemp("here") / "run")


def words(federation: Federation, hospital: int, address: str) -> list[str]:
    """The command of a site."""
    at = federation.at(hospital)
    flags = {"--join": address, "--data": at.data, "--key": at.keys, "--out": at.folder, "--names": "plain"}
    return ["hospital", *(str(word) for pair in flags.items() for word in pair), "--patience", "600"]


def require_same(there: Result, here: Result) -> None:
    assert there.model_hash == here.model_hash
    assert there.final == here.final
    assert [row.validation for row in there.rounds] == [row.validation for row in here.rounds]


@pytest.fixture
def clean(federation) -> Iterator[None]:
    yield
    for hospital in range(federation.hospitals):
        shutil.rmtree(federation.site(hospital) / "kept", ignore_errors=True)


def ended(hosts: Sequence[Host], seconds: float) -> None:
    """Waits until all are through."""
    end = time.monotonic() + seconds
    for host in hosts:
        assert host.process.wait(max(end - time.monotonic(), 0.1)) == 0, host.said


@pytest.mark.parametrize("seed", range(3))
def test_processes_that_are_killed_at_any_moment_come_to_the_same_bits(
    federation, config, here, tmp_path, seed, clean, monkeypatch
):
    monkeypatch.setenv("PULSELEDGER_KEYSTORE_PASSWORD", PASSWORD)
    port, folder = free_port(), tmp_path / "run"
    wanted = federation.sited(config, listen=f"127.0.0.1:{port}").model_copy(update={"out": str(folder)})
    write_config(tmp_path / "run.yaml", wanted)
    sites = [Host(f"site-{h}", words(federation, h, f"localhost:{port}"), tmp_path / f"{h}.log") for h in range(3)]
    head = Host("coordinator", ["run", str(tmp_path / "run.yaml")], tmp_path / "head.log")
    draw, kills = random.Random(seed), 0
    try:
        end = time.monotonic() + 500
        while not (folder / RESULT).exists():
            assert time.monotonic() < end, head.said + "".join(site.said for site in sites)
            time.sleep(draw.uniform(0.3, 2.0))  # a quiet machine is through in five seconds
            victim = draw.choice([head, *sites])
            if victim.process.poll() is None and kills < 12 and not (folder / RESULT).exists():
                victim.kill()
                kills += 1
                time.sleep(draw.uniform(0.0, 1.0))
                victim.start()
        ended([head], 200)
        for site in sites:  # one that was killed while it was to be told that all is over waits for nobody
            with contextlib.suppress(subprocess.TimeoutExpired):
                site.process.wait(5)
    finally:
        for host in (head, *sites):
            host.kill()
    assert kills >= 2
    require_same(Result.read(folder), here)


def sh(*line: str) -> None:
    subprocess.run(line, check=True, capture_output=True, timeout=20)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of four hosts, 10.87.21.1 to 4, on one bridge: the coordinator's, and three sites' behind slow lines that lose packets."""
    if shutil.which("ip") is None or shutil.which("tc") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need `ip`, `tc` and root: apt-get install iproute2, run as root")
    mark = f"p{os.getpid() % 10000}"
    names, bridge = [f"{mark}h{i}" for i in range(4)], f"{mark}b"
    try:
        try:
            sh("ip", "link", "add", bridge, "type", "bridge")
        except subprocess.CalledProcessError as error:
            pytest.skip(
                f"this machine allows no network of one's own, run in a container with CAP_SYS_ADMIN: {error.stderr.decode().strip()}"
            )
        sh("ip", "link", "set", bridge, "up")
        for i, name in enumerate(names):
            sh("ip", "netns", "add", name)
            sh("ip", "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
            sh("ip", "link", "set", f"{name}v", "master", bridge)
            sh("ip", "link", "set", f"{name}v", "up")
            sh("ip", "-n", name, "addr", "add", f"10.87.21.{i + 1}/24", "dev", "eth0")
            sh("ip", "-n", name, "link", "set", "eth0", "up")
            sh("ip", "-n", name, "link", "set", "lo", "up")
            if i:  # a kernel without netem cuts lines, and neither delays nor loses
                slow = (
                    "tc",
                    "-n",
                    name,
                    "qdisc",
                    "add",
                    "dev",
                    "eth0",
                    "root",
                    "netem",
                    "delay",
                    "40ms",
                    "10ms",
                    "loss",
                    "2%",
                )
                done = subprocess.run(slow, capture_output=True, text=True, check=False)
                if done.returncode:
                    warnings.warn(f"no delay and loss: {done.stderr.strip()}", stacklevel=1)
        yield names
    finally:
        for name in names:
            subprocess.run(("ip", "netns", "del", name), capture_output=True, check=False)
        subprocess.run(("ip", "link", "del", bridge), capture_output=True, check=False)


def test_hosts_with_delay_loss_and_a_cut_come_to_the_same_bits(federation, config, here, tmp_path, hosts, clean):
    folder = tmp_path / "run"
    wanted = federation.sited(config, listen="10.87.21.1:7443").model_copy(update={"out": str(folder)})
    write_config(tmp_path / "run.yaml", wanted)
    on = [("ip", "netns", "exec", name) for name in hosts]
    head = Host("coordinator", ["run", str(tmp_path / "run.yaml")], tmp_path / "head.log", on[0])
    sites = [
        Host(f"site-{h}", words(federation, h, "10.87.21.1:7443"), tmp_path / f"{h}.log", on[h + 1]) for h in range(3)
    ]
    try:
        end = time.monotonic() + 300
        while "round 3" not in sites[1].said:
            assert time.monotonic() < end, head.said + sites[1].said
            time.sleep(0.1)
        sh("ip", "-n", hosts[2], "link", "set", "eth0", "down")  # the second site's line is cut in the midst of a round
        time.sleep(20)
        assert not (folder / RESULT).exists()
        sh("ip", "-n", hosts[2], "link", "set", "eth0", "up")
        ended([head, *sites], 400)
    finally:
        for host in (head, *sites):
            host.kill()
    require_same(Result.read(folder), here)
