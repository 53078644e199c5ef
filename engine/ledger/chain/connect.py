"""The chain of a run's settings."""

import os
from pathlib import Path

from engine.errors import LedgerError
from engine.ledger.accounts import drawn_key, open_accounts
from engine.ledger.chain.base import EMBEDDED_CHAIN, Chain, ChainTrouble
from engine.ledger.chain.embedded import EmbeddedChain
from engine.ledger.chain.rpc import KEY_VARIABLE, RpcChain
from engine.ledger.config import FIRST, Leader, LedgerConfig
from engine.ledger.signing import address


def connect(config: LedgerConfig, folder: Path, is_new: bool, leader: Leader = FIRST) -> Chain:
    """Connect to the chain of a back end, with the accounts of the ledger in a folder.

    Args:
        is_new: whether the folder holds no journal so far; accounts are then drawn.
        leader: who works as coordinator.

    Raises:
        LedgerError: a setting is wrong, or the node is unreachable or of another kind.
    """
    if config.backend == "rpc":
        if not config.url:
            raise LedgerError("ledger.backend rpc needs ledger.url")
        key = leader.key or (drawn_key(folder, leader.name) if leader.name else read_key(config.key_file))
        accounts = open_accounts(folder, config, is_new, key, leader)
        given = (config.url, config.chain_id, accounts, config.confirmations, config.timeout)
        node = RpcChain(*given, max_fee=config.max_fee_gwei)
        if node.chain_id == EMBEDDED_CHAIN:
            raise LedgerError(
                f"the node at {node.url} is on chain {node.chain_id}, which is that of the embedded back end"
            )
        node.require_rules()
        return node
    if config.backend != "embedded":
        raise LedgerError(f"ledger.backend: expected embedded or rpc, found {config.backend!r}")
    if config.chain_id not in (None, EMBEDDED_CHAIN):
        raise LedgerError(f"the embedded chain is chain {EMBEDDED_CHAIN}, ledger.chain_id is {config.chain_id}")
    return EmbeddedChain(open_accounts(folder, config, is_new, None, leader))


def read_key(key_file: str | Path | None) -> bytes:
    """Read the 32-byte key of the coordinator: from the environment, else from a file of 64 hex digits.

    Raises:
        ChainTrouble: there is none on this machine.
        LedgerError: it is not a key. The message never holds any of it.
    """
    source, text = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "")
    if not text and key_file is not None:
        source = str(key_file)
        try:
            text = Path(key_file).read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise ChainTrouble(f"ledger.key_file {key_file} cannot be read") from error
    if not text:
        raise ChainTrouble(f"ledger.backend rpc needs a private key in {KEY_VARIABLE} or ledger.key_file")
    try:
        key = bytes.fromhex(text.strip().removeprefix("0x"))
        address(key)
    except (ValueError, LedgerError):
        raise LedgerError(f"{source} does not hold a private key of 64 hex digits") from None
    return key
