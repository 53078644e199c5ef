"""An Ethereum virtual machine in this process: empty each time, filled by replaying what the journal holds."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.accounts import ADMIN, AUDITOR, COORDINATOR, DEPLOYER, EMBEDDED_DEPLOYER, Accounts
from engine.ledger.chain.base import EMBEDDED_CHAIN, ChainReceipt, ContractRevert, Log, Whereabouts
from engine.ledger.chain.contracts import explain_revert, selector
from engine.ledger.chain.transactions import decode_transaction, require_chain_id, sender_of, sign_transaction
from engine.ledger.format import ANSWER_TIME, LONGEST_WINDOW, MOST_SUCCESSORS
from engine.ledger.signing import address, sign_digest
from engine.ledger.typed import address_bytes, checksum_address

# For a chain of no ledger: tests, measurements, and an audit, which signs nothing.
EMBEDDED_COORDINATOR = EMBEDDED_DEPLOYER
EMBEDDED_ADMIN = keccak(b"PulseLedger embedded admin 1")
EMBEDDED_AUDITOR = keccak(b"PulseLedger embedded auditor 1")
WELL_KNOWN = Accounts(
    {COORDINATOR: EMBEDDED_COORDINATOR, ADMIN: EMBEDDED_ADMIN, AUDITOR: EMBEDDED_AUDITOR, DEPLOYER: EMBEDDED_DEPLOYER}
)
EMBEDDED_TIME = 1_700_000_000  # of the first block, seconds since 1970; no hash of ours depends on it


def seconds_to(data: bytes, patience: int = 0) -> int:
    """From one block to the next, which holds a call; `patience` is that with whoever leads.

    A takeover comes as late as the silence before it must have lasted, and no later: what else has a deadline keeps it.
    """
    if data[:4] == selector("expireChallenge", "MaskLedger"):
        return ANSWER_TIME
    if data[:4] == selector("takeOver", "SuccessionLedger"):
        return patience * min(int.from_bytes(data[36:68], "big") + 1, MOST_SUCCESSORS) + 1
    return LONGEST_WINDOW if data[:4] == selector("finalizeRound") else 1


def patience_of(data: bytes) -> int:
    """What a call that fixes the successors says of the patience with whoever leads; 0 of any other call."""
    return int.from_bytes(data[68:100], "big") if data[:4] == selector("appoint", "SuccessionLedger") else 0


class EmbeddedChain:
    """py-evm in this process: empty each time, filled by replaying the raw transactions of the journal.

    Gas costs nothing, so no account needs money. Its clock is no wall clock, so that a replay gives the same blocks: each
    comes a second after the one before, but one that makes rounds final comes after the longest window there is, and a takeover
    after the patience with whoever led. Whether that time has passed for people is for the command to say that does it.
    """

    name = "embedded"
    timeout = 0.0

    def __init__(self, accounts: Accounts = WELL_KNOWN) -> None:
        os.environ.setdefault("ETH_HASH_BACKEND", "pysha3")  # seven times as fast as what it would take by itself
        # Slow imports, and only this back end needs them.
        from eth.vm.forks import CancunVM
        from eth_tester.backends.pyevm import PyEVMBackend
        from eth_tester.backends.pyevm.main import get_default_genesis_params

        class FreeVM(CancunVM):
            """As the fork, in blocks without a base fee, which the virtual machine would not let the first one choose."""

            @classmethod
            def validate_gas(cls, header: Any, parent_header: Any) -> None:
                pass

        self.accounts = accounts
        self.sender = accounts.address(COORDINATOR)
        backend = PyEVMBackend(
            genesis_parameters=get_default_genesis_params({"timestamp": EMBEDDED_TIME}),
            genesis_state={
                address_bytes(address(EMBEDDED_DEPLOYER)): {"balance": 10**30, "nonce": 0, "code": b"", "storage": {}}
            },
            # The rules that the contract was compiled for, whatever a later version takes as its default.
            vm_configuration=((0, FreeVM),),
        )
        # The virtual machine itself: the layers above it look up a receipt by walking through all blocks.
        self._chain: Any = backend.chain
        self._receipts: dict[bytes, ChainReceipt] = {}
        self._logs: dict[bytes, tuple[Log, ...]] = {}
        self._patience = 0  # with whoever leads, seconds
        self._nonces: dict[str, int] = {}  # of every account that sent something
        self._answers: dict[
            tuple[str, str, bytes], bytes
        ] = {}  # of calls, until the next block: nothing else changes them
        self.chain_id = int(self._chain.chain_id)
        if self.chain_id != EMBEDDED_CHAIN:
            raise LedgerError(f"the embedded chain is chain {self.chain_id}, this version knows it as {EMBEDDED_CHAIN}")

    def within(self, seconds: float) -> AbstractContextManager[None]:
        return nullcontext()

    def turn(self, account: str) -> AbstractContextManager[None]:
        return nullcontext()

    def lost(self, account: str, end: int) -> list[bytes]:
        return []

    def sign(self, to: str | None, data: bytes, gas: int, ahead: int = 0, by: str | None = None) -> bytes:
        account = by or self.sender
        nonce = self._nonces.get(account, 0) + ahead
        return sign_transaction(self.accounts.key(account), self.chain_id, nonce, to, data, gas, 0, 0)

    def sign_as(self, key: bytes, to: str, data: bytes, gas: int) -> bytes:
        return sign_transaction(key, self.chain_id, self._nonces.get(address(key), 0), to, data, gas, 0, 0)

    def sign_digest(self, digest: bytes) -> bytes:
        return sign_digest(digest, self.accounts.key(self.sender))

    def time(self) -> int:
        return int(self._chain.get_canonical_head().timestamp)

    def dearer(self, raw: bytes) -> bytes | None:
        return None

    def cheaper(self, raw: bytes) -> bytes | None:
        return None

    def send(self, raw: bytes) -> None:
        require_chain_id(raw, self)
        try:
            transaction = self._chain.get_transaction_builder().decode(raw)
            free = {"timestamp": self._time_of(transaction.data), "base_fee_per_gas": 0}
            self._chain.header = self._chain.header.copy(**free)
            self._answers.clear()
            _, receipt, computation = self._chain.apply_transaction(transaction)
            self._chain.mine_block()
        except Exception as error:  # the machine's libraries have no common base of their errors
            raise LedgerError(f"the embedded chain does not take the transaction: {error}") from error
        self._patience = (computation.is_success and patience_of(transaction.data)) or self._patience
        self._nonces[checksum_address(transaction.sender)] = transaction.nonce + 1
        identity = keccak(raw)
        self._logs[identity] = tuple(_log(*one) for one in receipt.logs)
        self._receipts[identity] = ChainReceipt("0x" + identity.hex(), int(computation.is_success), receipt.gas_used)

    def receipt(self, transaction: bytes) -> ChainReceipt | None:
        return self._receipts.get(transaction)

    def logs(self, transaction: bytes) -> tuple[Log, ...]:
        return self._logs.get(transaction, ())

    def where(self, raw: bytes) -> Whereabouts:
        if keccak(raw) in self._receipts:
            return "mined"
        nonce, free = decode_transaction(raw)["nonce"], self._nonces.get(sender_of(raw), 0)
        return "absent" if nonce == free else "displaced" if nonce < free else "gap"

    def call(self, to: str, data: bytes, by: str | None = None, answers: bool = False) -> bytes:
        from eth.exceptions import Revert, VMError
        from eth.vm.spoof import SpoofTransaction

        account = by or self.sender
        if (known := self._answers.get((account, to, data))) is not None:
            return known
        unsigned = self._chain.create_unsigned_transaction(
            nonce=self._nonces.get(account, 0), gas_price=0, gas=10**7, to=address_bytes(to), value=0, data=data
        )
        transaction = SpoofTransaction(unsigned, from_=address_bytes(account))
        try:
            answer = self._answers[account, to, data] = bytes(self._execute(transaction))
            return answer
        except Revert as error:
            raise ContractRevert(explain_revert(error.args[0] if error.args else b"")) from error
        except VMError as error:
            raise ContractRevert(str(error)) from error

    def _time_of(self, data: bytes) -> int:
        """Time of the block of a call that comes next."""
        return self.time() + seconds_to(data, self._patience)

    def _execute(self, transaction: Any) -> bytes:
        # As the chain's own method, but at the time of the next block: that one takes the time of day, and deadlines pass.
        head = self._chain.get_canonical_head()
        vm = self._chain.get_vm(head)
        block = vm.generate_block_from_parent_header_and_coinbase(head, head.coinbase)
        header = block.header.copy(base_fee_per_gas=0, timestamp=self._time_of(transaction.data))
        state = vm.build_state(self._chain.chaindb.db, header, vm.chain_context, (head.hash, *vm.previous_hashes))
        snapshot = state.snapshot()
        try:
            computation = state.costless_execute_transaction(transaction)
            computation.raise_if_error()
            return bytes(computation.output)
        finally:
            state.revert(snapshot)

    def code(self, contract: str) -> bytes:
        return bytes(self._chain.get_vm().state.get_code(address_bytes(contract)))

    def is_behind(self) -> bool:
        return False

    def close(self) -> None:
        self._chain = None


def _log(contract: bytes, topics: Sequence[int], data: bytes) -> Log:
    return Log(checksum_address(contract), tuple(topic.to_bytes(32, "big") for topic in topics), bytes(data))
