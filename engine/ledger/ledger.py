"""The ledger of one run: checks what hospitals signed, writes it down, and seals it round by round on a chain."""

import time
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

from engine.errors import LedgerError
from engine.ledger.chain import (
    GAS,
    Chain,
    EmbeddedChain,
    RpcChain,
    call_data,
    coordinator_role,
    created_contract,
    deploy_data,
    deployed_code,
    public_url,
    read_key,
    read_state,
)
from engine.ledger.delivery import Contradiction, Refused, settle
from engine.ledger.journal import Journal, JournalRound, JournalTransaction, Meta
from engine.ledger.merkle import EMPTY, genesis_head, next_head, registry_root, root, update_leaf
from engine.ledger.records import Domain, Federation, RoundEntry, Seal, address_bytes
from engine.ledger.signing import recover

_RESTORES = 3  # a chain can reorganise while it is being brought to the journal's state


class Ledger:
    """One federation's ledger in one folder; one writer at a time.

    Everything is in the journal before it is sent, so an append that a crash or an unreachable node interrupted is
    finished by opening the folder again, or by appending the same round again.
    """

    def __init__(
        self,
        folder: Path,
        federation: Federation,
        backend: str = "embedded",
        url: str | None = None,
        chain_id: int | None = None,
        contract: str | None = None,
        key_file: str | Path | None = None,
        confirmations: int = 0,
        timeout: float = 300.0,
    ) -> None:
        """Open or create the ledger; rebuild the chain or compare with it.

        Args:
            folder: the `ledger/` folder of the run.
            federation: must equal that of the journal if there is one.
            backend: "embedded" or "rpc".
            url: of the node, for rpc.
            chain_id: the chain that the caller means; None takes the one that is there.
            contract: a RoundLedger that is already deployed, for rpc; None deploys one.
            key_file: file with the coordinator's key, for rpc, where the environment has none.
            confirmations: blocks on top of a transaction's own before it counts, for rpc.
            timeout: seconds that a transaction may take, for rpc.

        Raises:
            LedgerError: a setting is wrong, the node is unreachable, another process writes here, or journal, chain
                and arguments contradict each other; the message names both sides.
        """
        self._federation = federation
        # A round without a seal is in the journal, but the chain has not answered; there is at most one, the last.
        self._rounds: list[JournalRound] = []
        self._seals: list[Seal] = []
        self._seconds = 0.0
        self._chain: Chain | None = None
        self._registry_root = registry_root(federation.hospitals)
        if contract is not None:
            address_bytes(contract)
        self._journal = Journal(folder)
        try:
            if self._journal.meta is not None:
                self._require_same(self._journal.meta, backend, contract)
            self._chain = _connect(backend, url, chain_id, key_file, confirmations, timeout)
            if self._journal.meta is None:
                if contract is not None and backend == "embedded":
                    raise LedgerError("ledger.contract names a contract on a node, the embedded chain deploys its own")
                self._create({"name": backend, "url": public_url(url) if url else None, "contract": contract})
            self._load()
        except BaseException:
            self.close()
            raise

    @property
    def domain(self) -> Domain:
        """The chain and contract that every signature must be made for."""
        return self._domain

    @property
    def head(self) -> bytes:
        """The head after the last sealed round, 32 bytes."""
        return self._seals[-1].head if self._seals else genesis_head(self._domain, self._federation)

    @property
    def _model(self) -> bytes:
        return self._rounds[-1].model if self._rounds else self._federation.genesis_model

    def append(self, entry: RoundEntry) -> Seal:
        """Check a round, write it down and seal it. The same round again returns the same seal.

        Raises:
            LedgerError: a signature, slot, parent or number is wrong; the round is sealed with other content; the
                chain refuses or does not answer. What the journal already holds is not lost.
        """
        started = time.perf_counter()
        try:
            return self._append(entry)
        finally:
            self._seconds += time.perf_counter() - started

    def seals(self) -> list[Seal]:
        """Return the seals of all rounds so far, in order."""
        return list(self._seals)

    def summary(self) -> dict[str, Any]:
        """Return what a run reports of its ledger; `seconds` is the time spent in `append` of this process."""
        transactions = [t for t in self._journal.transactions() if t.receipt is not None]
        gas = [seal.gas for seal in self._seals]
        return {
            "head": "0x" + self.head.hex(),
            "contract": self._domain.contract,
            "chain_id": self._domain.chain_id,
            "backend": self._open_chain().name,
            "updates": sum(seal.count for seal in self._seals),
            "rounds": len(self._seals),
            "transactions": len(transactions),
            "gas_total": sum(t.receipt.gas for t in transactions if t.receipt is not None),
            "gas_per_round": sum(gas) / len(gas) if gas else 0.0,
            "seconds": self._seconds,
        }

    def close(self) -> None:
        """Close journal and chain; a second call does nothing."""
        self._journal.close()
        if self._chain is not None:
            self._chain.close()
            self._chain = None

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- Opening ------------------------------------------------------------------------------------------------------

    def _require_same(self, meta: Meta, backend: str, contract: str | None) -> None:
        names = {"id": "id", "config_hash": "configuration", "hospitals": "hospitals", "genesis_model": "genesis model"}
        for name in ("id", "config_hash", "hospitals", "genesis_model", "layout", "weighting"):
            recorded, given = getattr(meta.federation, name), getattr(self._federation, name)
            if recorded != given:
                raise LedgerError(
                    f"the journal {self._journal.path} belongs to another federation: its {names.get(name, name)} "
                    f"({name}) is {_show(recorded)}, this run has {_show(given)}"
                )
        if meta.backend.get("name") != backend:
            raise LedgerError(
                f"the journal {self._journal.path} was written with ledger.backend {meta.backend.get('name')}, "
                f"this run has {backend}"
            )
        if contract is not None and contract != meta.domain.contract:
            raise LedgerError(
                f"the journal {self._journal.path} belongs to contract {meta.domain.contract}, "
                f"this run names {contract}"
            )

    def _create(self, backend: dict[str, Any]) -> None:
        chain, federation = self._open_chain(), self._federation
        transactions = []
        contract = backend["contract"]
        if contract is None:
            raw = chain.sign(None, deploy_data(chain.sender, chain.sender), GAS["deploy"])
            contract = created_contract(chain.sender, raw)
            transactions.append(("deploy", 0, keccak(raw), raw))
        else:
            self._require_contract(contract)
            state = read_state(chain, contract, federation.id)
            if any(state["head"]):
                raise LedgerError(
                    f"contract {contract} already holds federation 0x{federation.id.hex()} at round {state['round']}, "
                    f"but {self._journal.path} does not exist: open the folder that it was written to"
                )
        raw = chain.sign(contract, self._open_data(), GAS["open"], ahead=len(transactions))
        transactions.append(("open", 0, keccak(raw), raw))
        self._journal.create(Meta(federation, Domain(chain.chain_id, contract), backend), transactions)

    def _load(self) -> None:
        """Replay what the chain lacks, note what the journal lacks, refuse what contradicts."""
        chain, meta = self._open_chain(), self._journal.meta
        assert meta is not None
        self._domain = meta.domain
        if chain.chain_id != meta.domain.chain_id:
            raise LedgerError(
                f"the journal {self._journal.path} belongs to chain {meta.domain.chain_id}, "
                f"the {chain.name} chain is {chain.chain_id}"
            )
        self._rounds = self._journal.rounds()
        self._restore()

    def _attempts(self) -> dict[tuple[str, int], list[JournalTransaction]]:
        """Return the transactions of the journal by purpose and round, in the order in which they were first signed."""
        attempts: dict[tuple[str, int], list[JournalTransaction]] = {}
        for transaction in self._journal.transactions():
            attempts.setdefault((transaction.purpose, transaction.round), []).append(transaction)
        return attempts

    def _restore(self) -> None:
        """Bring the chain to what the journal holds, in order; most often it is there already.

        Raises:
            Refused, Contradiction: it cannot be brought there, and that was no reorganisation in between.
        """
        for again in range(_RESTORES, -1, -1):
            try:
                done = {key: self._settle(attempts) for key, attempts in self._attempts().items()}
                self._require_contract(self._domain.contract)
                self._seals = []
                for number, recorded in enumerate(self._rounds, 1):
                    sealed = done.get(("seal", number))
                    if sealed is None or recorded.round != number:
                        raise LedgerError(f"the journal {self._journal.path} is damaged: round {number} is not whole")
                    self._seals.append(_seal(recorded, sealed))
                self._require_state(len(self._rounds), self.head, self._model)
                return
            except (Refused, Contradiction):
                if not again:
                    raise

    def _require_contract(self, contract: str) -> None:
        chain = self._open_chain()
        if chain.code(contract) != deployed_code():
            raise LedgerError(f"the code at {contract} on the {chain.name} chain is not this version's RoundLedger")
        answer = chain.call(contract, call_data("hasRole", coordinator_role(), address_bytes(chain.sender)))
        if not any(answer):
            raise LedgerError(f"account {chain.sender} is not a coordinator of contract {contract}")

    def _require_state(self, round: int, head: bytes, model: bytes) -> None:
        state = read_state(self._open_chain(), self._domain.contract, self._federation.id)
        expected = {
            "round": round,
            "head": head,
            "model": model,
            "config_hash": self._federation.config_hash,
            "registry_root": self._registry_root,
        }
        for name, value in expected.items():
            if state[name] != value:
                raise Contradiction(
                    f"journal and chain contradict each other: {name} of round {round} is {_show(value)} in "
                    f"{self._journal.path} and {_show(state[name])} in contract {self._domain.contract}"
                )

    def _open_data(self) -> bytes:
        federation = self._federation
        return call_data(
            "openFederation", federation.id, federation.config_hash, self._registry_root, federation.genesis_model
        )

    def _open_chain(self) -> Chain:
        if self._chain is None:
            raise LedgerError(f"the ledger {self._journal.path.parent} is closed")
        return self._chain

    # --- Appending ----------------------------------------------------------------------------------------------------

    def _append(self, entry: RoundEntry) -> Seal:
        self._open_chain()
        leaves = self._verify(entry)
        slots = len(self._federation.hospitals)
        tree_root = root([leaves.get(slot, EMPTY) for slot in range(slots)])
        if entry.round <= len(self._rounds):
            self._require_recorded(entry, tree_root)
        else:
            self._record(entry, leaves, tree_root)
        if entry.round > len(self._seals):
            self._finish()
        return self._seals[entry.round - 1]

    def _verify(self, entry: RoundEntry) -> dict[int, bytes]:
        """Check every update of a round; return the leaf of each slot that took part."""
        federation, hospitals = self._federation, self._federation.hospitals
        if not entry.updates:
            raise LedgerError(f"round {entry.round} has no update")
        for name in ("parent_model", "model"):
            value = getattr(entry, name)
            if not isinstance(value, bytes) or len(value) != 32 or not any(value):
                raise LedgerError(f"round {entry.round}: {name} is not a hash of 32 bytes")
        leaves: dict[int, bytes] = {}
        for signed in entry.updates:
            record = signed.record
            where = f"round {entry.round}, hospital {record.slot}"
            if record.slot >= len(hospitals):
                raise LedgerError(f"{where}: there are only {len(hospitals)} hospitals")
            if leaves and record.slot <= max(leaves):
                raise LedgerError(f"{where}: updates must be sorted by slot, one for each hospital")
            expected = {
                "schema": 1,
                "federation": federation.id,
                "round": entry.round,
                "parent_model": entry.parent_model,
                "config_hash": federation.config_hash,
            }
            for name, value in expected.items():
                if getattr(record, name) != value:
                    raise LedgerError(
                        f"{where}: {name} is {_show(getattr(record, name))} in the record, expected {_show(value)}"
                    )
            try:
                signer = recover(signed, self._domain)
            except LedgerError as error:
                raise LedgerError(f"{where}: {error}") from error
            if signer != hospitals[record.slot]:
                raise LedgerError(
                    f"{where}: signed by {signer} for chain {self._domain.chain_id} and contract "
                    f"{self._domain.contract}, expected {hospitals[record.slot]}"
                )
            leaves[record.slot] = update_leaf(signed, self._domain)
        return leaves

    def _require_recorded(self, entry: RoundEntry, tree_root: bytes) -> None:
        recorded = self._rounds[entry.round - 1]
        given = {"parent_model": entry.parent_model, "model": entry.model, "root": tree_root}
        for name, value in given.items():
            if getattr(recorded, name) != value:
                raise LedgerError(
                    f"round {entry.round} is already recorded with another {name}: {_show(getattr(recorded, name))}, "
                    f"now given {_show(value)}"
                )

    def _record(self, entry: RoundEntry, leaves: dict[int, bytes], tree_root: bytes) -> None:
        chain, federation, slots = self._open_chain(), self._federation, len(self._federation.hospitals)
        last = len(self._rounds)
        if entry.round != last + 1:
            raise LedgerError(f"round {entry.round} cannot follow round {last}")
        if last > len(self._seals):
            raise LedgerError(f"round {last} is recorded but not sealed: append it again before round {entry.round}")
        if entry.parent_model != self._model:
            raise LedgerError(
                f"round {entry.round} starts from model {_show(entry.parent_model)}, "
                f"round {last} ended with {_show(self._model)}"
            )
        fields = (federation.id, entry.round, tree_root, entry.parent_model, entry.model, len(leaves), slots)
        head = next_head(self.head, self._domain, *fields)
        if chain.call(self._domain.contract, call_data("head", federation.id)) != self.head:
            # A reorganisation took away rounds that were sealed, or a restart of the node even the contract.
            self._restore()
        raw = chain.sign(self._domain.contract, call_data("sealRound", *fields), GAS["seal"])
        self._journal.add_round(entry, list(leaves.values()), tree_root, head, (keccak(raw), raw))
        self._rounds.append(JournalRound(entry.round, entry.parent_model, entry.model, len(leaves), tree_root, head))

    def _finish(self) -> None:
        """Seal the last recorded round."""
        recorded = self._rounds[-1]
        try:
            done = self._settle([t for t in self._journal.transactions(recorded.round) if t.purpose == "seal"])
            self._require_state(recorded.round, recorded.head, recorded.model)
            self._seals.append(_seal(recorded, done))
        except (Refused, Contradiction):
            # A reorganisation may have taken the rounds before it away.
            self._restore()

    def _settle(self, attempts: list[JournalTransaction]) -> JournalTransaction:
        return settle(self._open_chain(), self._journal, attempts, GAS[attempts[-1].purpose])


def _connect(
    backend: str,
    url: str | None,
    chain_id: int | None,
    key_file: str | Path | None,
    confirmations: int,
    timeout: float,
) -> Chain:
    if backend == "rpc":
        if not url:
            raise LedgerError("ledger.backend rpc needs ledger.url")
        node = RpcChain(url, chain_id, read_key(key_file), confirmations, timeout)
        node.require_rules()
        return node
    if backend != "embedded":
        raise LedgerError(f"ledger.backend: expected embedded or rpc, found {backend!r}")
    chain = EmbeddedChain()
    if chain_id is not None and chain_id != chain.chain_id:
        raise LedgerError(f"the embedded chain is chain {chain.chain_id}, ledger.chain_id is {chain_id}")
    return chain


def _seal(recorded: JournalRound, transaction: JournalTransaction) -> Seal:
    receipt = transaction.receipt
    assert receipt is not None
    return Seal(recorded.round, recorded.root, recorded.head, recorded.count, receipt.transaction, receipt.gas)


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."
