"""The ledger of one run: checks what hospitals signed, writes it down, and seals it round by round on a chain."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.encoding import canonical_json, json_hash, keccak
from engine.errors import LedgerError
from engine.ledger.chain import (
    GAS,
    GAS_OTHER,
    Chain,
    EmbeddedChain,
    NodeUnreachable,
    RpcChain,
    artefact,
    call_data,
    coordinator_role,
    created_contract,
    decode_transaction,
    deploy_data,
    is_deployed,
    public_url,
    query,
    read_key,
)
from engine.ledger.delivery import Contradiction, Refused, settle
from engine.ledger.journal import GOVERNED, RULE, ChainReceipt, Journal, JournalTransaction, Meta
from engine.ledger.merkle import (
    EMPTY,
    genesis_header,
    levels,
    next_head,
    paired_path,
    path,
    registry_leaves,
    registry_root,
    root,
    scores_levels,
    scores_root,
    update_leaf,
)
from engine.ledger.records import (
    NO_ROUND,
    SCHEMA,
    ZERO,
    Domain,
    Federation,
    Header,
    KeyRotation,
    Receipt,
    RoundEntry,
    RoundHead,
    Seal,
    SignedUpdate,
    SyntheticReport,
    SyntheticRequest,
    SyntheticReview,
    Verdicts,
    abi_tuple,
    address_bytes,
    commitments,
    digest,
    record_to_json,
    word,
)
from engine.ledger.reputation import BASE, rewards_levels, rewards_root, standing
from engine.ledger.signing import recover

# These must come through, whatever it takes; another transaction may be refused and stays refused.
_NEEDED = ("deploy", "open", "open-round", "seal", "deploy-synthetic")
_RESTORES = 3  # a chain can reorganise while it is being brought to the journal's state


@dataclass(frozen=True)
class Opened:
    """What a hospital and the loop must know of an open ledger.

    Attributes:
        domain: chain and contract that every update is signed for.
        coordinator: address that signs receipts.
        headers: of all rounds so far, the opening of the federation (round 0) first.
        decisions: hash chain of the decisions on synthetic data.
        verdicts: round -> verdicts, of the rounds that have some.
    """

    domain: Domain
    coordinator: str
    headers: tuple[Header, ...]
    decisions: bytes
    verdicts: Mapping[int, tuple[Verdicts, ...]]


@dataclass(frozen=True)
class Proof:
    """That `leaf` sits in `slot` of a sealed round; the leaf EMPTY shows that the slot has no update.

    `merkle.verify(header.root, leaf, slot, slots, siblings)` checks it.
    """

    header: Header
    slot: int
    slots: int
    leaf: bytes
    siblings: tuple[bytes, ...]


@dataclass(frozen=True)
class Governed:
    """What became of a step of governance: transaction hash (0x hex), gas, id, and the hash chain of decisions after."""

    kind: str
    id: bytes
    transaction: str
    gas: int
    decisions: bytes


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
        self._headers: list[Header] = []
        self._seals: list[Seal] = []
        self._open: _Key | None = None  # what was written down last, if the chain has not answered
        self._seconds = 0.0
        self._chain: Chain | None = None
        self._sent: dict[_Key, JournalTransaction] = {}
        self._rotations: list[KeyRotation] = []
        self._synthetic: str | None = None
        self._registry_root = registry_root(federation)
        if contract is not None:
            address_bytes(contract)
        self._journal = Journal(folder)
        try:
            if self._journal.meta is not None:
                self._require_same(self._journal.meta, backend, contract)
            self._chain = connect(backend, url, chain_id, key_file, confirmations, timeout)
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
    def synthetic_domain(self) -> Domain:
        """The chain and contract that requests, reviews and reports are signed for; deployed when first asked for."""
        if self._synthetic is None:
            self._finish_open()
            chain = self._open_chain()
            data = deploy_data(self._domain.contract, 0, contract="SyntheticLedger")
            raw = chain.sign(None, data, GAS["deploy-synthetic"])
            self._open = _key(self._journal.add_transaction("deploy-synthetic", 0, keccak(raw), raw))
            self._synthetic = created_contract(chain.sender, self._settle(self._open).raw)
        return Domain(self._domain.chain_id, self._synthetic)

    @property
    def head(self) -> bytes:
        """The head after the last sealed round, 32 bytes."""
        return self._headers[len(self._seals)].head

    def opened(self) -> Opened:
        """Return what hospitals and loop must know to begin or to go on."""
        decisions = self._decisions() if self._synthetic is not None else ZERO
        headers, verdicts = tuple(self._headers), self._journal.verdicts()
        return Opened(self._domain, self._open_chain().sender, headers, decisions, verdicts)

    def holder(self, slot: int, round: int) -> str:
        """Return the address whose signature counts for a slot in a round."""
        for rotation in reversed(self._rotations):
            if rotation.slot == slot and rotation.round <= round:
                return rotation.to
        return self._federation.hospitals[slot]

    # --- Rounds -------------------------------------------------------------------------------------------------------

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

    def receipts(self, round: int) -> dict[int, bytes]:
        """Return the coordinator's signature over the `Receipt` of every slot with an update in a round."""
        return self._journal.receipts(round)

    def prove(self, round: int, slot: int) -> Proof:
        """Prove what a slot holds in a sealed round: a leaf, or EMPTY.

        Raises:
            LedgerError: there is no such round or slot.
        """
        slots = len(self._federation.hospitals)
        if not 1 <= round <= len(self._seals):
            raise LedgerError(f"round {round} is not one of the {len(self._seals)} sealed rounds")
        if not 0 <= slot < slots:
            raise LedgerError(f"slot {slot} is not one of the {slots} slots of the tree")
        found = self._journal.leaves(round)
        leaves = [found.get(i, EMPTY) for i in range(slots)]
        return Proof(self._headers[round], slot, slots, leaves[slot], tuple(path(levels(leaves), slot)))

    def cosign(self, round: int, signatures: Mapping[int, bytes]) -> None:
        """Keep the hospitals' signatures under the head of a round (slot -> signature of `RoundHead`).

        Raises:
            LedgerError: the round is not sealed, or a signature is not the hospital's.
        """
        if not 0 <= round <= len(self._seals):
            raise LedgerError(f"round {round} is not one of the {len(self._seals)} sealed rounds")
        for slot, signature in sorted(signatures.items()):
            record = RoundHead(self._federation.id, round, slot, self._headers[round].head)
            self._require_signer(f"round {round}, hospital {slot}, head", record, signature, self.holder(slot, round))
        self._journal.add_heads(round, signatures)

    def finalize(self) -> None:
        """Make all sealed rounds final, in one transaction for any number of them, and with them the rewards.

        Raises:
            ContractRevert: the window for disputes has not passed, or there is an open dispute.
        """
        data = call_data("finalizeRound", self._federation.id, rewards_root(self._standing()[1]))
        self._transact("finalize", len(self._seals), data)

    def update_reputation(self, round: int) -> None:
        """Send the verdicts of a sealed round to the contract, one transaction for 16 hospitals.

        Raises:
            LedgerError: the round has no verdicts, or the contract refuses.
        """
        verdicts = self._journal.scores(round)
        if not verdicts:
            raise LedgerError(f"round {round} has no verdicts")
        tree = scores_levels(round, verdicts, self._journal.peers(round))
        for position, one in enumerate(verdicts):
            arguments = (one.index, one.participated, one.accepted, one.threshold, paired_path(tree, position))
            data = call_data("updateReputation", self._federation.id, self._abi_header(round), *arguments)
            self._transact("reputation", round, data)

    def claim(self, slot: int) -> int:
        """Pull the reward of a hospital, as of the last finalisation; return its points. The same again does nothing.

        Raises:
            ContractRevert: it is not the reward that was made final.
            LedgerError: the hospital has no reward.
        """
        rewards = self._standing()[1]
        if slot not in rewards:
            raise LedgerError(f"hospital {slot} has no reward to claim")
        organisation, membership = self._membership(slot)
        proof = paired_path(rewards_levels(rewards), sorted(rewards).index(slot))
        arguments = (self.holder(slot, NO_ROUND), organisation, membership, rewards[slot], proof)
        data = call_data("claimReward", self._federation.id, slot, *arguments)
        self._transact("claim", len(self._seals), data)
        return rewards[slot]

    def _standing(self) -> tuple[dict[int, int], dict[int, int]]:
        """Reputations and rewards after the last sealed round."""
        verdicts = self._journal.verdicts()
        return standing(verdicts[round] for round in sorted(verdicts) if round <= len(self._seals))

    # --- Hospitals against the coordinator ----------------------------------------------------------------------------

    def rotate(self, rotation: KeyRotation, old_signature: bytes, new_signature: bytes) -> None:
        """Change the address of a hospital; both keys have signed. The same again does nothing.

        Raises:
            LedgerError: a signature is wrong, the round has begun already, or the contract refuses.
        """
        where = f"rotation of hospital {rotation.slot}"
        if rotation.federation != self._federation.id or rotation.slot >= len(self._federation.hospitals):
            raise LedgerError(f"{where}: it belongs to another federation")
        if rotation not in self._rotations:
            holder = self.holder(rotation.slot, NO_ROUND)
            if rotation.from_ != holder:
                raise LedgerError(f"{where}: it leaves {rotation.from_}, the slot is held by {holder}")
            if rotation.round != len(self._headers):
                raise LedgerError(
                    f"{where}: it is for round {rotation.round}, the next one is round {len(self._headers)}"
                )
            known = {self.holder(s, NO_ROUND) for s in range(len(self._federation.hospitals))}
            if rotation.to in known:
                raise LedgerError(f"{where}: {rotation.to} already holds a slot")
        self._require_signer(f"{where}: old key", rotation, old_signature, rotation.from_)
        self._require_signer(f"{where}: new key", rotation, new_signature, rotation.to)
        organisation, proof = self._membership(rotation.slot)
        data = call_data("rotateKey", abi_tuple(rotation), organisation, proof, old_signature, new_signature)
        record = (rotation.slot, rotation.round, record_to_json(rotation), old_signature, new_signature)
        self._transact("rotate", rotation.round, data, row=("rotations", record))
        if rotation not in self._rotations:
            self._rotations.append(rotation)

    def submit(self, signed: SignedUpdate) -> None:
        """Show the contract an update directly, around a coordinator that does not take it.

        Raises:
            ContractRevert: the round is not open, the update is there already, or the signature does not count.
        """
        record = signed.record
        organisation, proof = self._membership(record.slot)
        account = self.holder(record.slot, record.round)
        data = call_data("submitUpdate", abi_tuple(record), signed.signature, account, organisation, proof)
        self._transact("submit", record.round, data)

    def dispute(self, round: int, slot: int, leaf: bytes = ZERO, signature: bytes = b"") -> None:
        """Show the contract that a sealed round holds something else than was promised.

        Args:
            leaf: what the coordinator's receipt names; zero where the promise is an update that was shown directly.
            signature: of the receipt.

        Raises:
            ContractRevert: it proves nothing.
        """
        proof = self.prove(round, slot)
        receipt = Receipt(self._federation.id, round, slot, leaf)
        arguments = (abi_tuple(receipt), signature, proof.leaf, list(proof.siblings))
        data = call_data("dispute", self._federation.id, self._abi_header(round), *arguments)
        self._transact("dispute", round, data)

    def resolve(self, round: int, voided: bool, key: bytes) -> None:
        """Decide a dispute with an auditor's key: the round is final, or void with all rounds after it.

        The model is then again the one before the first void round. An auditor is no coordinator, so that the decision
        is not taken by whom it is about; `grant("AUDITOR_ROLE", account)` makes one.

        Raises:
            LedgerError: there is no such dispute, the account is no auditor, or the chain does not answer.
        """
        self._finish_open()
        chain, contract = self._open_chain(), self._domain.contract
        data = call_data("resolveDispute", self._federation.id, self._abi_header(round), voided)
        raw = chain.sign_as(key, contract, data, GAS_OTHER)
        receipt = self._pass_on(self._journal.add_transaction("resolve", round, keccak(raw), raw))
        if receipt.status != 1:
            raise LedgerError(f"the contract refuses to resolve round {round}")
        self._model = self._current_model()

    def grant(self, role: str, account: str) -> None:
        """Give an account a role of the contract, such as "AUDITOR_ROLE"; the sender must be the admin.

        Raises:
            ContractRevert: it is not, or the account holds a role that excludes this one.
        """
        self._transact("grant", 0, call_data("grantRole", keccak(role.encode()), account))

    def round_status(self, round: int) -> str:
        """Return the contract's word on a round: NONE, OPEN, SEALED, DISPUTED, FINAL or VOID."""
        return _STATUS[query(self._open_chain(), self._domain.contract, "roundStatus", self._federation.id, round)]

    # --- Governance of synthetic data ---------------------------------------------------------------------------------

    def govern(
        self,
        kind: str,
        content: SyntheticRequest | SyntheticReview | SyntheticReport | Mapping[str, Any],
        signature: bytes | None = None,
        sender: str | None = None,
    ) -> Governed:
        """Write down a step of governance, send it, and return what the chain answered. The same again returns the same.

        Args:
            kind: "request", "review" or "report" with the signed record and its signature; "policy" with the values
                of the contract's Policy by name; "reviewer" with account and organisation; "expire" with request.
            sender: address of the reviewer, for a review.

        Raises:
            ContractRevert: the contract refuses it. A denial is no refusal: the request is then recorded as denied.
            LedgerError: it is written down already with other content.
        """
        contract = self.synthetic_domain.contract
        identity, arguments = self._governed(kind, content, signature, sender)
        text = canonical_json(_json(content)) if isinstance(content, Mapping) else record_to_json(content)
        for known_kind, known_id, known_text, known_signature, known_sender in self._journal.governed():
            if (known_kind, known_id) == (kind, identity):
                if (known_text, known_signature, known_sender) != (text, signature, sender):
                    raise LedgerError(f"{kind} 0x{identity.hex()} is already recorded with other content")
                break
        data = call_data(GOVERNED[kind], *arguments, contract="SyntheticLedger")
        row = ("synthetic", (None, kind, identity, text, signature, sender))
        done = self._transact(kind, 0, data, contract, row)
        assert done.receipt is not None
        return Governed(kind, identity, done.receipt.transaction, done.receipt.gas, self._decisions())

    def governance(self) -> tuple[Domain, list[tuple[str, bytes, str, bytes | None, str | None]]]:
        """Return the domain of requests, reviews and reports, and every step so far as the journal holds it."""
        return self.synthetic_domain, self._journal.governed()

    def request_state(self, request: bytes) -> dict[str, Any]:
        """Return what the contract holds of a request, by the names of its ABI."""
        contract = self.synthetic_domain.contract
        return query(self._open_chain(), contract, "requestState", request, contract="SyntheticLedger")

    def summary(self) -> dict[str, Any]:
        """Return what a run reports of its ledger; `seconds` is the time spent in `append` of this process."""
        transactions = [t for t in self._journal.transactions() if t.receipt is not None]
        gas = [seal.gas for seal in self._seals]
        reputations, rewards = self._standing()
        hospitals = [
            {"id": slot, "reputation": reputations.get(slot, BASE), "reward": rewards.get(slot, 0)}
            for slot in (range(len(self._federation.hospitals)) if reputations else ())
        ]
        return {
            **({"hospitals": hospitals} if hospitals else {}),
            "head": "0x" + self.head.hex(),
            "contract": self._domain.contract,
            "chain_id": self._domain.chain_id,
            "backend": self._open_chain().name,
            "updates": sum(seal.count for seal in self._seals),
            "rounds": len(self._seals),
            "cosigned": len(self._journal.heads(len(self._seals))),
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
        for name in asdict(self._federation):
            recorded, given = getattr(meta.federation, name), getattr(self._federation, name)
            if recorded != given:
                raise LedgerError(
                    f"the journal {self._journal.path} belongs to another federation: its {names.get(name, name)} "
                    f"({name}) is {_show(recorded)}, this run has {_show(given)}"
                )
        if meta.rule != RULE:
            raise LedgerError(
                f"the journal {self._journal.path} was written with aggregation rule {meta.rule}, "
                f"this version has {RULE}"
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
        transactions: list[tuple[str, int, bytes, bytes]] = []

        def sign(purpose: str, round: int, to: str | None, data: bytes) -> bytes:
            raw = chain.sign(to, data, GAS.get(purpose, GAS_OTHER), ahead=len(transactions))
            transactions.append((purpose, round, keccak(raw), raw))
            return raw

        contract = backend["contract"]
        if contract is None:
            raw = sign("deploy", 0, None, deploy_data(chain.sender, chain.sender, 0))
            contract = created_contract(chain.sender, raw)
        else:
            self._require_contract(contract)
            state = self._state(contract)
            if any(state["head"]):
                raise LedgerError(
                    f"contract {contract} already holds federation 0x{federation.id.hex()} at round {state['round']}, "
                    f"but {self._journal.path} does not exist: open the folder that it was written to"
                )
        fixed = (federation.id, federation.config_hash, self._registry_root, federation.genesis_model)
        sizes = (len(federation.hospitals), federation.quorum, federation.window)
        sign("open", 0, contract, call_data("openFederation", *fixed, *sizes))
        sign("open-round", 1, contract, call_data("openRound", federation.id, 1, federation.genesis_model, 0))
        self._journal.create(Meta(federation, Domain(chain.chain_id, contract), backend), transactions)
        # Together, so that they can share a block. What does not get through now is sent again by `_replay`.
        with suppress(LedgerError):
            for _, _, _, raw in transactions:
                chain.send(raw)

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
        genesis = genesis_header(self._domain, self._federation)
        self._headers = [genesis, *self._journal.rounds(genesis.head)]
        self._rotations = [rotation for rotation, _, _ in self._journal.rotations()]
        self._restore()

    def _restore(self) -> None:
        """Bring the chain to what the journal holds, in order; most often it is there already.

        Raises:
            Refused, Contradiction: it cannot be brought there, and that was no reorganisation in between.
        """
        for again in range(_RESTORES, -1, -1):
            try:
                self._replay()
                self._require_contract(self._domain.contract)
                self._require_state()
                return
            except (Refused, Contradiction):
                if not again:
                    raise

    def _replay(self) -> None:
        chain = self._open_chain()
        self._seals, self._open = [], None
        done_keys: set[_Key] = set()
        for transaction in self._journal.transactions():
            key = _key(transaction)
            if transaction.purpose == "resolve":
                self._pass_on(transaction)
                continue
            if key in done_keys:
                continue
            done_keys.add(key)
            try:
                done = self._settle(key)
            except Refused:
                if key[0] in _NEEDED:
                    raise
                continue  # the contract did not take it then, either
            if done.purpose == "deploy-synthetic":
                self._synthetic = created_contract(chain.sender, done.raw)
            elif done.purpose == "seal":
                if done.round != len(self._seals) + 1 or done.round >= len(self._headers):
                    raise LedgerError(f"the journal {self._journal.path} is damaged: round {done.round} is not whole")
                self._seals.append(_seal(self._headers[done.round], done))
        self._model = self._current_model()
        numbers = [header.round for header in self._headers]
        if numbers != list(range(len(self._seals) + 1)):
            raise LedgerError(f"the journal {self._journal.path} is damaged: round {len(self._seals) + 1} is not whole")

    def _require_contract(self, contract: str) -> None:
        chain = self._open_chain()
        if not is_deployed(chain.code(contract)):
            raise LedgerError(f"the code at {contract} on the {chain.name} chain is not this version's RoundLedger")
        if not query(chain, contract, "hasRole", coordinator_role(), chain.sender):
            raise LedgerError(f"account {chain.sender} is not a coordinator of contract {contract}")

    def _state(self, contract: str) -> dict[str, Any]:
        state: dict[str, Any] = query(self._open_chain(), contract, "federationState", self._federation.id)
        return state | state.pop("progress")

    def _require_state(self) -> None:
        """Compare the last sealed round with the contract."""
        round, state = len(self._seals), self._state(self._domain.contract)
        expected = {
            "round": round,
            "head": self.head,
            "model": self._model,
            "configHash": self._federation.config_hash,
            "registryRoot": self._registry_root,
        }
        for name, value in expected.items():
            if state[name] != value:
                raise Contradiction(
                    f"journal and chain contradict each other: {name} of round {round} is {_show(value)} in "
                    f"{self._journal.path} and {_show(state[name])} in contract {self._domain.contract}"
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
        if entry.round < len(self._headers):
            self._require_recorded(entry, tree_root)
        else:
            self._record(entry, leaves, tree_root)
        if entry.round > len(self._seals):
            self._finish_open()
        return self._seals[entry.round - 1]

    def _verify(self, entry: RoundEntry) -> dict[int, bytes]:
        """Check every update of a round; return the leaf of each slot that took part."""
        federation, hospitals = self._federation, self._federation.hospitals
        if len(entry.updates) < federation.quorum:
            raise LedgerError(
                f"round {entry.round} has {len(entry.updates)} updates, the quorum is {federation.quorum}"
            )
        if len(entry.openings) != len(entry.updates):
            raise LedgerError(
                f"round {entry.round} has {len(entry.openings)} openings for {len(entry.updates)} updates"
            )
        for name in ("parent_model", "model"):
            value = getattr(entry, name)
            if not isinstance(value, bytes) or len(value) != 32 or not any(value):
                raise LedgerError(f"round {entry.round}: {name} is not a hash of 32 bytes")
        if not 1 <= entry.round <= len(self._headers):
            raise LedgerError(f"round {entry.round} cannot follow round {len(self._headers) - 1}")
        leaves: dict[int, bytes] = {}
        for signed, opening in zip(entry.updates, entry.openings, strict=True):
            record = signed.record
            where = f"round {entry.round}, hospital {record.slot}"
            if record.slot >= len(hospitals):
                raise LedgerError(f"{where}: there are only {len(hospitals)} hospitals")
            if leaves and record.slot <= max(leaves):
                raise LedgerError(f"{where}: updates must be sorted by slot, one for each hospital")
            expected = {
                "schema": SCHEMA,
                "federation": federation.id,
                "round": entry.round,
                "parent_model": entry.parent_model,
                "parent_head": self._headers[entry.round - 1].head,
                "config_hash": federation.config_hash,
                **commitments(opening),
            }
            for name, value in expected.items():
                if getattr(record, name) != value:
                    raise LedgerError(
                        f"{where}: {name} is {_show(getattr(record, name))} in the record, expected {_show(value)}"
                    )
            self._require_signer(where, record, signed.signature, self.holder(record.slot, entry.round))
            leaves[record.slot] = update_leaf(signed, self._domain)
        return leaves

    def _require_signer(self, where: str, record: Any, signature: bytes, holder: str) -> None:
        try:
            signer = recover(record, signature, self._domain)
        except LedgerError as error:
            raise LedgerError(f"{where}: {error}") from error
        if signer != holder:
            raise LedgerError(
                f"{where}: signed by {signer} for chain {self._domain.chain_id} and contract "
                f"{self._domain.contract}, expected {holder}"
            )

    def _require_recorded(self, entry: RoundEntry, tree_root: bytes) -> None:
        recorded = self._headers[entry.round]
        given = {
            "parent_model": entry.parent_model,
            "model": entry.model,
            "root": tree_root,
            "scores_root": scores_root(entry.round, entry.verdicts, entry.peers),
            "decisions": entry.decisions,
        }
        for name, value in given.items():
            if getattr(recorded, name) != value:
                raise LedgerError(
                    f"round {entry.round} is already recorded with another {name}: {_show(getattr(recorded, name))}, "
                    f"now given {_show(value)}"
                )

    def _record(self, entry: RoundEntry, leaves: dict[int, bytes], tree_root: bytes) -> None:
        chain, federation, domain = self._open_chain(), self._federation, self._domain
        last = len(self._headers) - 1
        if last > len(self._seals):
            raise LedgerError(f"round {last} is recorded but not sealed: append it again before round {entry.round}")
        if entry.parent_model != self._model:
            raise LedgerError(
                f"round {entry.round} starts from model {_show(entry.parent_model)}, "
                f"round {last} ended with {_show(self._model)}"
            )
        self._finish_open()
        receipts = [
            chain.sign_digest(digest(Receipt(federation.id, entry.round, slot, leaf), domain))
            for slot, leaf in leaves.items()
        ]
        scores = scores_root(entry.round, entry.verdicts, entry.peers)
        models = (tree_root, entry.parent_model, entry.model)
        content = (*models, len(leaves), scores, entry.decisions)
        head = next_head(self.head, domain, federation.id, entry.round, *content)
        header = Header(entry.round, self.head, *content, head)
        direct = self._require_open(entry)
        data = call_data("sealRound", federation.id, _abi_header(header), direct, entry.next_deadline)
        raw = chain.sign(domain.contract, data, GAS["seal"])
        self._open = _key(self._journal.add_round(entry, list(leaves.values()), receipts, header, (keccak(raw), raw)))
        self._headers.append(header)

    def _require_open(self, entry: RoundEntry) -> int:
        """Open the round if a dispute or a pause left it closed; return the number of updates shown directly."""
        try:
            state = self._state(self._domain.contract)
        except NodeUnreachable:
            raise
        except LedgerError:
            state = {"head": None}
        if state["head"] != self.head:
            # A reorganisation took away rounds that were sealed, or a restart of the node even the contract.
            self._restore()
            state = self._state(self._domain.contract)
        if state["phase"] != _OPEN:
            data = call_data("openRound", self._federation.id, entry.round, entry.parent_model, 0)
            self._transact("open-round", entry.round, data)
        return int(state["submissions"])

    # --- Sending ------------------------------------------------------------------------------------------------------

    def _transact(
        self,
        purpose: str,
        round: int,
        data: bytes,
        to: str | None = None,
        row: tuple[str, tuple[Any, ...]] | None = None,
    ) -> JournalTransaction:
        """Journal and send a call, once: the same content again returns the transaction that succeeded."""
        self._finish_open()
        chain, to = self._open_chain(), to or self._domain.contract
        key = (purpose, round, address_bytes(to) + data)
        known = self._sent.get(key)
        if known is not None:
            return known
        # What the contract refuses now is refused before it is written down.
        chain.call(to, data)
        written = bool(self._attempts(key))
        raw = chain.sign(to, data, GAS.get(purpose, GAS_OTHER))
        self._journal.add_transaction(purpose, round, keccak(raw), raw, None if written else row)
        self._open = key
        try:
            return self._settle(key)
        except Refused:
            self._open = None
            raise

    def _finish_open(self) -> None:
        """Bring what was written down last to an end, and with it the round that it seals."""
        if self._open is None:
            return
        purpose, round, _ = self._open
        try:
            done = self._settle(self._open)
            if purpose == "seal":
                self._seals.append(_seal(self._headers[round], done))
                self._model = self._headers[round].model
                self._require_state()
        except (Refused, Contradiction):
            if purpose not in _NEEDED:
                self._open = None
                return
            # A reorganisation may have taken the rounds before it away.
            self._restore()

    def _settle(self, key: "_Key") -> JournalTransaction:
        """Bring a transaction to an end on the chain, by another attempt if need be."""
        gas = GAS.get(key[0], GAS_OTHER)
        self._sent[key] = done = settle(self._open_chain(), self._journal, self._attempts(key), gas)
        self._open = None
        return done

    def _pass_on(self, transaction: JournalTransaction) -> ChainReceipt:
        """Send the transaction of another account, once; it is not ours to sign again."""
        chain = self._open_chain()
        receipt = chain.receipt(transaction.hash)
        if receipt is None:
            chain.send(transaction.raw)
            deadline = time.monotonic() + chain.timeout
            while (receipt := chain.receipt(transaction.hash)) is None:
                if time.monotonic() > deadline:
                    raise LedgerError(f"the {chain.name} chain gave no receipt within {chain.timeout:g} s")
                time.sleep(0.1)
        if transaction.receipt is None:
            self._journal.set_receipt(transaction.seq, receipt)
        return receipt

    def _current_model(self) -> bytes:
        """Return the model that the next round starts from: the last one that was not voided."""
        round = len(self._seals)
        while round and self.round_status(round) == "VOID":
            round -= 1
        return self._headers[round].model

    def _attempts(self, key: "_Key") -> list[JournalTransaction]:
        return [t for t in self._journal.transactions(key[1]) if _key(t) == key]

    # --- Arguments of calls -------------------------------------------------------------------------------------------

    def _abi_header(self, round: int) -> tuple[Any, ...]:
        """A sealed round as the contract's Header."""
        if not 1 <= round <= len(self._seals):
            raise LedgerError(f"round {round} is not one of the {len(self._seals)} sealed rounds")
        return _abi_header(self._headers[round])

    def _membership(self, slot: int) -> tuple[bytes, list[bytes]]:
        """Organisation of a slot, and the proof of its leaf under the root of the registry."""
        if not 0 <= slot < len(self._federation.hospitals):
            raise LedgerError(f"there is no hospital {slot}")
        return self._federation.organisations[slot], path(levels(registry_leaves(self._federation)), slot)

    def _decisions(self) -> bytes:
        contract = self.synthetic_domain.contract
        return bytes(query(self._open_chain(), contract, "decisions", self._federation.id, contract="SyntheticLedger"))

    def _governed(
        self, kind: str, content: Any, signature: bytes | None, sender: str | None
    ) -> tuple[bytes, tuple[Any, ...]]:
        """The id of a step of governance, and the arguments of the function that takes it."""
        federation = self._federation.id
        match content:
            case SyntheticRequest() if kind == "request":
                account = self.holder(content.slot, NO_ROUND)
                organisation, proof = self._membership(content.slot)
                return digest(content, self.synthetic_domain), (
                    abi_tuple(content),
                    signature,
                    account,
                    organisation,
                    proof,
                )
            case SyntheticReview() if kind == "review":
                return content.request, (content.request, abi_tuple(content), signature, sender)
            case SyntheticReport() if kind == "report":
                return content.request, (content.request, abi_tuple(content), signature)
            case Mapping() if kind == "policy":
                policies = [text for known, _, text, _, _ in self._journal.governed() if known == "policy"]
                again = bool(policies) and policies[-1] == canonical_json(_json(content))
                version = len(policies) + (not again)
                identity = json_hash({"version": version, "policy": _json(content)})
                names = next(
                    item["inputs"][1]["components"]
                    for item in artefact("SyntheticLedger")["abi"]
                    if item.get("name") == "setPolicy"
                )
                missing = sorted({item["name"] for item in names} ^ set(content))
                if missing:
                    raise LedgerError(f"policy: {', '.join(missing)} missing or unknown")
                return identity, (federation, tuple(content[item["name"]] for item in names), identity)
            case Mapping() if kind == "reviewer":
                account = content["account"]
                self.grant("REVIEWER_ROLE", account)
                return word(address_bytes(account)), (account, content["organisation"])
            case Mapping() if kind == "expire":
                return content["request"], (content["request"],)
        raise LedgerError(f"governance: {kind!r} does not go with a {type(content).__name__}")


_OPEN = 1  # phase of a federation whose next round is open
_STATUS = ("NONE", "OPEN", "SEALED", "DISPUTED", "FINAL", "VOID")
_ABI_HEADER = ("round", "previous_head", "root", "parent_model", "model", "count", "scores_root", "decisions")


def _abi_header(header: Header) -> tuple[Any, ...]:
    return tuple(getattr(header, name) for name in _ABI_HEADER)


_Key = tuple[str, int, bytes]  # purpose, round, address and data of a call


def _key(transaction: JournalTransaction) -> _Key:
    """What a transaction is for: two with the same key are attempts at the same."""
    if transaction.purpose in ("seal", "deploy", "deploy-synthetic"):
        return transaction.purpose, transaction.round, b""
    content = decode_transaction(transaction.raw)
    return transaction.purpose, transaction.round, address_bytes(content["to"]) + content["data"]


def connect(
    backend: str,
    url: str | None,
    chain_id: int | None,
    key_file: str | Path | None,
    confirmations: int,
    timeout: float,
) -> Chain:
    """Connect to the chain of a back end, with the coordinator's key; the arguments are those of `Ledger`.

    Raises:
        LedgerError: a setting is wrong, or the node is unreachable or of another kind.
    """
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


def _seal(recorded: Header, transaction: JournalTransaction) -> Seal:
    receipt = transaction.receipt
    assert receipt is not None
    return Seal(recorded.round, recorded.root, recorded.head, recorded.count, receipt.transaction, receipt.gas)


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    text = str(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _json(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "0x" + item.hex() if isinstance(item, bytes) else item for name, item in value.items()}
