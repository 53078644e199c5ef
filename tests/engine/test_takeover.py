"""A coordinator that is killed between any two steps: on Ray, on a node, in a process of its own; the next one ends with the same bits."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from failing import FAILOVER, PATIENCE, STEPS, Whole, dying, led_by, same, silent, undisturbed
from nodes import KEY, Node
from processes import driver, until
from reference import Interrupted

from engine.audit.known import Known
from engine.audit.run import audit
from engine.config import RunConfig
from engine.encoding import keccak
from engine.experiment import run
from engine.ledger.chain.rpc import KEY_VARIABLE
from engine.ledger.signing import address
from engine.paths import write_config
from engine.result import MODEL, PREDICTIONS, RESULT, Result

pytestmark = pytest.mark.long

# The third account of the nodes' test phrase, which is funded.
SECOND_KEY = bytes.fromhex("5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a")
SECOND = address(SECOND_KEY)
FREE = ("--no-priority-fee", "--block-base-fee-per-gas", "0")  # whoever is drawn has no money


@pytest.fixture(scope="module")
def whole(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return undisturbed(tiny_config(**FAILOVER), tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def on_ray(ray2, whole: Whole, tiny_config, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    config = tiny_config(**FAILOVER, **{"execution.pool": "ray"})
    found = undisturbed(config, tmp_path_factory.mktemp("ray"))
    assert found.result.ledger.head == whole.result.ledger.head
    assert found.steps == whole.steps
    for name in (MODEL, PREDICTIONS):
        assert (found.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    return found


@pytest.mark.parametrize("moment", range(STEPS))
@pytest.mark.parametrize("pool", ["inprocess", "ray"])
def test_between_any_two_steps(request, tiny_config, tmp_path: Path, moment: int, pool: str):
    wanted = request.getfixturevalue("on_ray" if pool == "ray" else "whole")
    config = tiny_config(**FAILOVER, **{"execution.pool": pool})
    with pytest.raises(Interrupted):
        run(config, tmp_path, dying(moment))
    silent(tmp_path, PATIENCE)
    run(config, tmp_path, led_by("deputy"))
    same(tmp_path, wanted)
    assert audit(tmp_path).findings == []


# --- On a node --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY.hex())
        with Node("anvil", *FREE) as started:
            yield started


def anew(node: Node) -> None:
    """An empty chain, so that the same run has the same contract."""
    node.kill()
    node.start()


def on_node(node: Node) -> dict[str, Any]:
    return {**FAILOVER, "ledger.backend": "rpc", "ledger.url": node.url, "ledger.timeout": 20.0}


@pytest.fixture(scope="module")
def anchored(node: Node, tiny_config, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    anew(node)
    return undisturbed(tiny_config(**on_node(node)), tmp_path_factory.mktemp("anchored"))


@pytest.mark.parametrize("moment", range(STEPS))
def test_between_any_two_steps_on_a_node(node: Node, anchored: Whole, tiny_config, tmp_path: Path, moment: int):
    anew(node)
    config = tiny_config(**on_node(node))
    with pytest.raises(Interrupted):
        run(config, tmp_path, dying(moment))
    node("evm_increaseTime", hex(PATIENCE))
    node("evm_mine")
    run(config, tmp_path, led_by("deputy"))
    same(tmp_path, anchored)
    report = audit(tmp_path, known=Known(rpc=node.url))
    assert report.findings == []


# --- In processes of their own ----------------------------------------------------------------------------------------


def ended(folder: Path, *words: str) -> tuple[int, str]:
    """`pulseledger resume` in a process of its own: its exit code, and all that it says."""
    log = folder.parent / f"{folder.name}.log"
    before = len(log.read_text())
    with driver(folder, "resume", str(folder), *words) as process:
        code = process.wait(200)
    return code, log.read_text()[before:]


@pytest.mark.parametrize("pool", ["inprocess", "ray"])
def test_the_command_goes_on_where_a_process_was_killed(node: Node, tiny_config, tmp_path: Path, pool: str):
    """With the words that the page names, on a node whose contract holds the time; a stranger's key and haste are refused."""
    long = {"federation.rounds": 20, "federation.local_epochs": 4, "execution.pool": pool}
    config = tiny_config(**{**on_node(node), **long, "ledger.successors": ["deputy", SECOND]})
    anew(node)
    wanted = run(config, tmp_path / "whole")
    anew(node)
    folder, file, keys = tmp_path / "run", tmp_path / "run.yaml", tmp_path / "keys"
    write_config(file, config.model_copy(update={"out": str(folder)}))
    with driver(folder, "run", str(file)) as process:
        until(lambda: (folder / "checkpoint.safetensors").exists(), process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    assert not (folder / RESULT).exists()
    keys.mkdir()
    for name, key in (("second", SECOND_KEY), ("stranger", keccak(b"stranger"))):
        (keys / name).write_text(key.hex())
        (keys / name).chmod(0o600)
    by_second = ("--as", SECOND, "--key", str(keys / "second"))
    code, said = ended(folder, *by_second)
    assert (code, said.count("pulseledger: "), "Traceback" in said) == (2, 1, False), said
    assert f"it is too early for {SECOND}" in said
    node("evm_increaseTime", hex(2 * PATIENCE))
    node("evm_mine")
    code, said = ended(folder, "--as", SECOND, "--key", str(keys / "stranger"))
    assert (code, said.count("pulseledger: "), "Traceback" in said) == (2, 1, False), said
    assert f"the chain knows {SECOND} as {SECOND}" in said
    code, said = ended(folder, *by_second)
    assert code == 0, said
    found = Result.read(folder)
    assert (found.model_hash, found.final, found.ledger.head) == (wanted.model_hash, wanted.final, wanted.ledger.head)
    assert [(term.term, term.account) for term in found.ledger.terms] == [(2, SECOND)]
    assert audit(folder, known=Known(rpc=node.url)).findings == []
