"""Which Ray is joined, and what is said within seconds where none is, none answers, or another token is wanted."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from nodes import Listener

from engine.errors import ResourceError
from engine.joining import chosen, found, lost, require_ray

grpc = pytest.importorskip("grpc", reason="grpcio is not installed (pip install pulseledger[cluster])")

OWN, HEAD = "127.0.0.1:40001", "10.0.0.5:6379"


def test_auto_is_the_one_ray_that_was_started_to_be_joined():
    assert chosen([HEAD], HEAD) == HEAD
    assert chosen([HEAD], None) == HEAD  # with a folder of its own
    assert chosen([OWN], OWN) == OWN  # on a machine without a network


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ([], "no Ray runs on this machine"),
        ([HEAD, OWN], f"several Rays on this machine, {HEAD}, {OWN}; give the HOST:PORT of one"),
        ([OWN], f"the only Ray on this machine, {OWN}, is another program's own"),
    ],
)
def test_auto_never_joins_a_strangers_ray(there: list[str], words: str):
    with pytest.raises(ResourceError, match=words):
        chosen(there, HEAD)


def test_auto_is_what_the_environment_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", HEAD)
    assert found("auto") == HEAD
    assert found("other:1") == "other:1"


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_nobody_and_somebody_else_are_told_within_seconds(silent: str):
    with pytest.raises(ResourceError, match=r"no Ray at '127\.0\.0\.1:9' \(.*refused\)"):
        require_ray("127.0.0.1:9")
    with pytest.raises(ResourceError, match=r"what listens there does not answer within 0\.3 s|is no Ray"):
        require_ray(silent, 0.3)
    with Listener() as web, pytest.raises(ResourceError, match="what listens there is no Ray"):
        require_ray(web.url.removeprefix("http://"), 1.0)
    assert "refused" in lost("127.0.0.1:9")
    assert lost(silent) == ""


class Locked(grpc.GenericRpcHandler):
    """A head that wants a token."""

    def service(self, details: Any) -> Any:
        wanted = ("authorization", "Bearer right") in tuple(details.invocation_metadata)

        def answer(request: bytes, context: Any) -> bytes:
            if not wanted:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


def test_a_head_that_wants_a_token_is_told(monkeypatch: pytest.MonkeyPatch):
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Locked()])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(
            ResourceError, match=r"wants the cluster's token, which RAY_AUTH_TOKEN, .* RAY_AUTH_MODE is disabled"
        ):
            require_ray(address)
    finally:
        server.stop(None)
