"""Finding the Ray that settings name, and what is wrong where there is none: within seconds, before Ray itself tries for minutes."""

import os
import socket
from collections.abc import Sequence
from typing import Any

from engine.errors import ResourceError

PATIENCE = 5.0  # seconds for a connection, and as many for an answer
_CHECK = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_TOKEN = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"


def use_token() -> None:
    """Ray's token where there is one, unless RAY_AUTH_MODE says otherwise: as `ray start` does, and a Ray of one machine."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    maybe_enable_token_auth_if_token_available(False)


def found(address: str) -> str:
    """The address to join: `auto` is RAY_ADDRESS, else the one Ray on this machine that was started to be joined.

    Raises:
        ResourceError: there is none, there are several, or it is another program's own.
    """
    if address != "auto":
        return address
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    from ray._private import services as private

    services: Any = private
    services.find_gcs_addresses.cache_clear()  # Ray remembers what it found
    return chosen(sorted(services.find_gcs_addresses()), services.find_bootstrap_address(None))


def chosen(there: Sequence[str], started: str | None) -> str:
    """What `auto` means on this machine.

    Args:
        there: HOST:PORT of every Ray on it.
        started: of the one that `ray start --head` left its address of, if it did.

    Raises:
        ResourceError: as of `found`.
    """
    if not there:
        raise ResourceError(
            "execution.address: no Ray runs on this machine; start one with `ray start --head`, or give HOST:PORT of another."
        )
    if len(there) > 1:
        raise ResourceError(
            f"execution.address: auto could mean several Rays on this machine, {', '.join(there)}; give the HOST:PORT of one."
        )
    if _is_loopback(there[0]) and there[0] != started:
        raise ResourceError(
            f"execution.address: the only Ray on this machine, {there[0]}, is another program's own; start one with `ray start "
            "--head`, or give this HOST:PORT if you mean it."
        )
    return there[0]


def require_ray(address: str, seconds: float = PATIENCE) -> None:
    """Refuse an address HOST:PORT where no Ray answers, or one that does not take our token; other forms are not looked at.

    Raises:
        ResourceError: it is one of these.
    """
    place = _place(address)
    if place is None:
        return
    if problem := _unheard(place, seconds) or _problem(address, seconds):
        raise ResourceError(f"execution.address: no Ray at {address!r} ({problem}).")


def lost(address: str) -> str:
    """Why the head at HOST:PORT is not there just now; "" if it is, and of other forms."""
    place = _place(address)
    return _unheard(place, PATIENCE) if place is not None else ""


def _place(address: str) -> tuple[str, int] | None:
    host, colon, port = address.rpartition(":")
    is_plain = colon and "/" not in host and port.isdigit() and int(port) < 65_536
    return (host.strip("[]"), int(port)) if is_plain else None


def _unheard(place: tuple[str, int], seconds: float) -> str:
    try:
        socket.create_connection(place, timeout=seconds).close()
    except OSError as error:
        return str(error)
    return ""


def _problem(address: str, seconds: float) -> str:
    """What is wrong with what listens there; "" if it is a Ray that takes us."""
    try:
        import grpc
    except ImportError:  # Ray itself finds out
        return ""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary(_CHECK)
        try:
            ask(b"", timeout=seconds, metadata=_token())
        except grpc.RpcError as error:
            return _meaning(error, grpc.StatusCode, seconds)
    return ""


def _meaning(error: Any, codes: Any, seconds: float) -> str:
    if error.code() == codes.UNAUTHENTICATED:
        mode = os.environ.get("RAY_AUTH_MODE", "unset")
        return f"it wants the cluster's token, which {_TOKEN} must hold on every node; RAY_AUTH_MODE is {mode} here"
    if error.code() == codes.DEADLINE_EXCEEDED:
        return f"what listens there does not answer within {seconds:g} s"
    return "what listens there is no Ray"


def _token() -> tuple[tuple[str, str], ...]:
    """Our token as a request carries it; nothing without one."""
    from ray import _raylet as private

    raylet: Any = private
    loader = raylet.AuthenticationTokenLoader.instance()
    return tuple(loader.get_token_for_http_header().items()) if loader.has_token() else ()


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    return host == "localhost" or host.startswith("127.") or host == "::1"
