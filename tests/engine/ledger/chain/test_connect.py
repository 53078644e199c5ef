"""The chain of a run's settings, and where its key comes from."""

import socket
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.errors import LedgerError
from engine.ledger.chain.connect import connect, read_key
from engine.ledger.chain.rpc import KEY_VARIABLE
from engine.ledger.config import LedgerConfig


def test_an_unreachable_node_is_told_in_one_sentence_and_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_VARIABLE, "07" * 32)
    # One port refuses, the other accepts and never answers.
    with socket.socket() as closed, socket.socket() as silent:
        closed.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for listener in (closed, silent):
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            monkeypatch.setenv("NODE_URL", url.replace("//", "//user:secret@"))
            started = time.monotonic()
            with pytest.raises(LedgerError, match=f"no Ethereum node answers at {url}") as refused:
                connect(LedgerConfig(backend="rpc", url="env:NODE_URL", timeout=1), tmp_path, True)
            assert time.monotonic() - started < 6
            assert "\n" not in str(refused.value)
            assert "secret" not in str(refused.value)
    monkeypatch.setenv("NODE_URL", "localhost:8545")
    with pytest.raises(LedgerError, match="NODE_URL does not hold an http or https address"):
        connect(LedgerConfig(backend="rpc", url="env:NODE_URL"), tmp_path, True)
    with pytest.raises(ValidationError, match="url is not an http or https address"):
        LedgerConfig(backend="rpc", url="localhost:8545")


def test_the_key_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(LedgerError, match="needs a private key"):
        read_key(None)
    file = tmp_path / "key"
    file.write_text("0x" + "07" * 32 + "\n")
    assert read_key(file) == b"\x07" * 32
    file.write_text("0x" + "00" * 32)
    with pytest.raises(LedgerError, match="does not hold a private key") as refused:
        read_key(file)
    assert "0000" not in str(refused.value)
    with pytest.raises(LedgerError, match="cannot be read"):
        read_key(tmp_path / "absent")
    monkeypatch.setenv(KEY_VARIABLE, "08" * 32)
    assert read_key(file) == b"\x08" * 32
