"""From the command line to a server: address, certificate, keys, and the links that let in."""

import ipaddress
import json
import os
import socket
import ssl
import sys
import tempfile
from collections.abc import Sequence
from getpass import getpass
from pathlib import Path
from typing import NamedTuple

from dashboard.app import build
from dashboard.desk import Desk
from dashboard.doorman import Doorman, Role
from dashboard.judging import Judges
from dashboard.places import Places
from engine.errors import ConfigError
from engine.ledger.keyfiles import PASSWORD_VARIABLE, read_key_file


class Address(NamedTuple):
    """Where it is reached.

    Attributes:
        origins: by which a browser may name it.
        shown: the one that is printed.
    """

    origins: tuple[str, ...]
    shown: str


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nothing else.

    >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_of(host: str, port: int, tls: bool) -> Address:
    """Names of an address; of one of this machine also the others that people type."""
    scheme, names = "https" if tls else "http", [host]
    if is_loopback(host):
        names += [name for name in ("127.0.0.1", "localhost") if name not in names]
    shown = [f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}" for name in names]
    return Address(tuple(shown), shown[0])


def listen(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen()  # whoever follows a link at once waits, and is not refused
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "is none"
        raise ConfigError(f"--host {host} --port {port}: cannot be used ({reason}).") from None
    return bound


def require_tls(host: str, certificate: Path | None, key: Path | None) -> bool:
    """Whether it speaks TLS, which it must beyond this machine.

    Raises:
        ConfigError: it must and cannot.
    """
    if (certificate is None) != (key is None):
        raise ConfigError("--tls-certificate and --tls-key go together.")
    if certificate is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines: give --tls-certificate and --tls-key, or leave it at 127.0.0.1."
        )
    if host in ("0.0.0.0", "::", ""):
        raise ConfigError(
            f"--host {host}: give the name or the one address by which browsers reach it; every other one is refused."
        )
    if certificate is None or key is None:
        return False
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--tls-certificate {certificate} --tls-key {key}: are no certificate with its key, unencrypted ({error})."
        ) from None
    return True


def reviewers_key(file: Path | None) -> bytes | None:
    """The reviewer's key; the password of an encrypted one is asked for in the terminal.

    Raises:
        LedgerError: the file is damaged, or the password is wrong.
    """
    if file is None:
        return None
    try:
        encrypted = isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        encrypted = False
    asked = encrypted and not os.environ.get(PASSWORD_VARIABLE) and sys.stdin.isatty()
    return read_key_file(file, getpass(f"password of {file}: ") if asked else None)


def serve(
    folders: Sequence[Path],
    roles: Sequence[Role],
    host: str,
    port: int,
    certificate: Path | None,
    tls_key: Path | None,
    key: Path | None,
) -> None:
    """Serves until it is interrupted.

    Raises:
        PulseLedgerError: a folder, an address, a certificate or a key cannot be used.
    """
    import uvicorn

    from dashboard.patience import Impatient

    tls = require_tls(host, certificate, tls_key)
    if key is not None and "reviewer" not in roles:
        raise ConfigError("--key is the reviewer’s: it goes with --role reviewer.")
    with tempfile.TemporaryDirectory(prefix="pulseledger-") as uploads, listen(host, port) as bound:
        number = bound.getsockname()[1]
        where = address_of(host, number, tls)
        doorman, judges = Doorman(roles), Judges()

        def say(role: Role) -> None:
            print(f"{role}: {where.shown}/login?key={doorman.link(role)}", flush=True)

        signer = reviewers_key(key)
        desk = Desk(Places(folders), doorman, judges, Path(uploads), signer, f"pulseledger-{number}", tls, say)
        app = build(desk, where.origins)
        config = uvicorn.Config(
            app,
            http=Impatient,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            ssl_certfile=certificate,
            ssl_keyfile=tls_key,
        )
        print("Each link lets in once; another is printed then. Ctrl-C ends it.")
        for role in roles:
            say(role)
        try:
            uvicorn.Server(config).run(sockets=[bound])
        except KeyboardInterrupt:
            pass
        finally:
            judges.close()
            desk.work.close()
