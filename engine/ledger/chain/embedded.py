"""An Ethereum virtual machine in this process: empty each time, filled by replaying what the journal holds."""

from collections.abc import Sequence
from typing import Any

from engine.encoding import keccak
from engine.errors import LedgerError
from engine.ledger.chain.base import EMBEDDED_CHAIN, ChainReceipt, ContractRevert, Log, Whereabouts
from engine.ledger.chain.contracts import explain_revert
from engine.ledger.chain.transactions import decode_transaction, require_chain_id, sign_transaction
from engine.ledger.signing import address, sign_digest
from engine.ledger.typed import address_bytes, checksum_address

# The embedded chain dies with its process, so its one account protects nothing; a fixed key gives the contract the
# same address in every run, and a replay the same hashes.
EMBEDDED_COORDINATOR = keccak(b"PulseLedger embedded coordinator 1")
EMBEDDED_AUDITOR = keccak(b"PulseLedger embedded auditor 1")
_EMBEDDED_TIME = 1_700_000_000  # seconds since 1970; no hash of ours depends on it


class EmbeddedChain:
    """py-evm in this process: empty each time, filled by replaying the raw transactions of the journal."""

    name = "embedded"
    timeout = 0.0

    def __init__(self) -> None:
        # Slow imports, and only this back end needs them.
        from eth.vm.forks import CancunVM
        from eth_tester.backends.pyevm import PyEVMBackend
        from eth_tester.backends.pyevm.main import get_default_genesis_params

        self._account = address_bytes(address(EMBEDDED_COORDINATOR))
        backend = PyEVMBackend(
            genesis_parameters=get_default_genesis_params({"timestamp": _EMBEDDED_TIME}),
            genesis_state={
                account: {"balance": 10**30, "nonce": 0, "code": b"", "storage": {}}
                for account in (self._account, address_bytes(address(EMBEDDED_AUDITOR)))
            },
            # The rules that the contract was compiled for, whatever a later version takes as its default.
            vm_configuration=((0, CancunVM),),
        )
        # The virtual machine itself: the layers above it look up a receipt by walking through all blocks.
        self._chain: Any = backend.chain
        self._receipts: dict[bytes, ChainReceipt] = {}
        self._logs: dict[bytes, tuple[Log, ...]] = {}
        self._nonce = 0
        self.chain_id = int(self._chain.chain_id)
        if self.chain_id != EMBEDDED_CHAIN:
            raise LedgerError(f"the embedded chain is chain {self.chain_id}, this version knows it as {EMBEDDED_CHAIN}")

    @property
    def sender(self) -> str:
        return checksum_address(self._account)

    def sign(self, to: str | None, data: bytes, gas: int, ahead: int = 0) -> bytes:
        # The base fee only falls from its first value, as the blocks are nearly empty.
        return sign_transaction(EMBEDDED_COORDINATOR, self.chain_id, self._nonce + ahead, to, data, gas, 0, 10**10)

    def sign_as(self, key: bytes, to: str, data: bytes, gas: int) -> bytes:
        nonce = self._chain.get_vm().state.get_nonce(address_bytes(address(key)))
        return sign_transaction(key, self.chain_id, nonce, to, data, gas, 0, 10**10)

    def sign_digest(self, digest: bytes) -> bytes:
        return sign_digest(digest, EMBEDDED_COORDINATOR)

    def dearer(self, raw: bytes) -> bytes | None:
        return None

    def send(self, raw: bytes) -> None:
        require_chain_id(raw, self)
        try:
            transaction = self._chain.get_transaction_builder().decode(raw)
            self._chain.set_header_timestamp(self._chain.get_canonical_head().timestamp + 1)
            _, receipt, computation = self._chain.apply_transaction(transaction)
            self._chain.mine_block()
        except Exception as error:  # the machine's libraries have no common base of their errors
            raise LedgerError(f"the embedded chain does not take the transaction: {error}") from error
        if transaction.sender == self._account:
            self._nonce = transaction.nonce + 1
        identity = keccak(raw)
        self._logs[identity] = tuple(_log(*one) for one in receipt.logs)
        self._receipts[identity] = ChainReceipt("0x" + identity.hex(), int(computation.is_success), receipt.gas_used)

    def receipt(self, transaction: bytes) -> ChainReceipt | None:
        return self._receipts.get(transaction)

    def logs(self, transaction: bytes) -> tuple[Log, ...]:
        return self._logs.get(transaction, ())

    def where(self, raw: bytes) -> Whereabouts:
        nonce = decode_transaction(raw)["nonce"]
        if keccak(raw) in self._receipts:
            return "mined"
        return "absent" if nonce == self._nonce else "displaced" if nonce < self._nonce else "gap"

    def call(self, to: str, data: bytes) -> bytes:
        from eth.exceptions import Revert, VMError
        from eth.vm.spoof import SpoofTransaction

        unsigned = self._chain.create_unsigned_transaction(
            nonce=self._nonce, gas_price=10**10, gas=10**7, to=address_bytes(to), value=0, data=data
        )
        transaction = SpoofTransaction(unsigned, from_=self._account)
        try:
            return bytes(self._execute(transaction))
        except Revert as error:
            raise ContractRevert(explain_revert(error.args[0] if error.args else b"")) from error
        except VMError as error:
            raise ContractRevert(str(error)) from error

    def _execute(self, transaction: Any) -> bytes:
        # As the chain's own method, but at the time of the next block: that one takes the time of day, and deadlines pass.
        head = self._chain.get_canonical_head()
        vm = self._chain.get_vm(head)
        block = vm.generate_block_from_parent_header_and_coinbase(head, head.coinbase)
        header = block.header.copy(base_fee_per_gas=0, timestamp=head.timestamp + 1)
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

    def close(self) -> None:
        self._chain = None


def _log(contract: bytes, topics: Sequence[int], data: bytes) -> Log:
    return Log(checksum_address(contract), tuple(topic.to_bytes(32, "big") for topic in topics), bytes(data))
