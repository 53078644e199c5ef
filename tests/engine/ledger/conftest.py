"""Nodes for the tests of the ledger."""

from collections.abc import Callable, Iterator

import pytest
from nodes import CHAIN_ID, KEY, Node

from engine.ledger.chain.rpc import KEY_VARIABLE


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    """Starts nodes and ends them after the test: `start("anvil", "--block-time", "1")`."""
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    nodes: list[Node] = []

    def begin(program: str, *options: str, chain_id: int = CHAIN_ID) -> Node:
        nodes.append(Node(program, *options, chain_id=chain_id))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.kill()
