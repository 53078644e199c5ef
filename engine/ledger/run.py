"""The ledger of one run: a book and its subjects, joined.

with RunLedger(folder, federation, rule, config) as ledger:
    ledger.append(entry)                  # checked, written down, sealed
    ledger.rounds.prove(1, slot=0)
    ledger.reputation.claim(0)
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from engine.clock import REAL, Clock
from engine.encoding import canonical_json, hexed, read_json
from engine.errors import LedgerError
from engine.ledger.accounts import ADMIN, AUDITOR, COORDINATOR
from engine.ledger.book import Book
from engine.ledger.chain.base import Chain
from engine.ledger.chain.contracts import deploy_data
from engine.ledger.config import FIRST, Leader, LedgerConfig
from engine.ledger.format import ADMIN_DELAY, BASE_REPUTATION, PURPOSES, RUN
from engine.ledger.recount import drawn
from engine.ledger.sitting import leader_of
from engine.ledger.store import read_meta, read_only
from engine.ledger.subjects.challenges import Challenges
from engine.ledger.subjects.closing import Closing
from engine.ledger.subjects.committee import Committees
from engine.ledger.subjects.disputes import Disputes
from engine.ledger.subjects.registry import (
    Federation,
    Registry,
    SignedRotation,
    federation_from_json,
    federation_to_json,
)
from engine.ledger.subjects.reputation import Found, Reputation
from engine.ledger.subjects.rounds import Closed, RoundEntry, Rounds, Seal
from engine.ledger.subjects.succession import Succession
from engine.ledger.subjects.synthetic import Synthetic
from engine.ledger.subjects.updates import Header
from engine.ledger.typed import Domain


@dataclass(frozen=True)
class Opened:
    """What a hospital and the loop must know of an open ledger.

    Attributes:
        domain: chain and contract that every update is signed for.
        coordinator: address that signs receipts.
        holders: for each slot every account that has held it.
        headers: of all rounds so far, the opening of the federation (round 0) first.
        decisions: hash chain of the decisions on synthetic data.
        found: round -> what moves reputations, of the rounds that have verdicts.
        led: accounts that have been coordinator so far.
    """

    domain: Domain
    coordinator: str
    holders: tuple[tuple[str, ...], ...]
    headers: tuple[Header, ...]
    decisions: bytes
    found: Mapping[int, Found]
    led: tuple[str, ...] = ()


class RunLedger:
    """One federation's ledger in one folder; one writer at a time.

    Attributes:
        book, registry, rounds, closing, disputes, challenges, reputation, committees, synthetic, succession: its parts.
    """

    def __init__(
        self,
        folder: Path,
        federation: Federation,
        rule: Mapping[str, Any],
        config: LedgerConfig,
        clock: Clock = REAL,
        chain: Chain | None = None,
        leader: Leader = FIRST,
        leads: bool = True,
    ) -> None:
        """Open or create the ledger; rebuild the chain or compare with it.

        Args:
            folder: the `ledger/` folder of the run.
            federation: must equal that of the journal if there is one.
            rule: how a round's model follows from its updates, plain data, see `format`; must equal that of the journal.
            chain: in place of the one of the settings.
            leader: who works as coordinator; one that does not lead so far takes over.
            leads: whether to lead, at all; else disputes, decisions and claims go on, whoever does.

        Raises:
            LedgerError: a setting is wrong, the node is unreachable, another process writes here, or journal, chain
                and arguments contradict each other; the message names both sides.
        """
        self._clock, self._federation, self._seconds = clock, federation, 0.0
        silent = _silence(folder)
        self.book = book = Book(folder, RUN, PURPOSES, config, config.contract, clock, chain, leader)
        try:
            self.registry = Registry(book, federation)
            most_stale = rule.get("settings", {}).get("max_staleness", 0)
            self.rounds = Rounds(book, self.registry, config.deadline, most_stale)
            self.closing = Closing(book, self.registry, self.rounds)
            self.disputes = Disputes(book, self.registry, self.rounds)
            self.reputation = Reputation(book, self.registry, self.rounds, leader_of)
            self.challenges = Challenges(book, self.registry, self.rounds)
            self.committees = Committees(book, self.registry, self.rounds)
            self.synthetic = Synthetic(book, self.registry, self.rounds)
            self.succession = Succession(book, federation, self.rounds, config, leader, silent)
            if not book.is_new:
                self._require_same(rule)
            book.keep(self.registry, self.succession, self.rounds, self.closing)
            book.begin(lambda: self._create(config.contract, rule), self.rounds.restore)
            if leads:
                self.succession.settle()
        except BaseException:
            book.close()
            raise

    @property
    def domain(self) -> Domain:
        """The chain and contract that every signature must be made for."""
        return self.book.domain

    @property
    def head(self) -> bytes:
        """The head after the last sealed round, 32 bytes."""
        return self.rounds.head

    def opened(self) -> Opened:
        """Return what hospitals and loop must know to begin or to go on."""
        headers, found = tuple(self.rounds.headers), self.reputation.found()
        who = (self.book.chain.sender, self.registry.holders())
        return Opened(self.domain, *who, headers, self.synthetic.decisions, found, self.succession.led)

    def append(self, entry: RoundEntry, closed: Closed | None = None) -> Seal:
        """As `Rounds.append`; the time that it takes is summed up."""
        started = self._clock.now()
        try:
            return self.rounds.append(entry, closed)
        finally:
            self._seconds += self._clock.now() - started

    def rotate(self, signed: SignedRotation) -> None:
        """As `Registry.rotate`, for the round that comes next."""
        self.registry.rotate(signed, len(self.rounds.headers))

    def summary(self) -> dict[str, Any]:
        """Return what a run reports of its ledger; `seconds` is the time spent in `append` of this process."""
        seals, receipts = self.rounds.seals, [t.receipt for t in self.book.transactions if t.receipt is not None]
        standing = self.reputation.standing()
        hospitals = [
            {
                "id": slot,
                "reputation": standing.reputations.get(slot, BASE_REPUTATION),
                "reward": standing.rewards.get(slot, 0),
            }
            for slot in (range(len(self._federation.hospitals)) if standing.reputations else ())
        ]
        return {
            **({"hospitals": hospitals} if hospitals else {}),
            "head": hexed(self.head),
            "contract": self.domain.contract,
            "chain_id": self.domain.chain_id,
            "backend": self.book.chain.name,
            "updates": sum(seal.count for seal in seals),
            "rounds": len(seals),
            "cosigned": len(self.closing.results()),
            **({"closing": hexed(self.closing.digest)} if self.closing.record is not None else {}),
            "transactions": len(receipts),
            "gas_total": sum(receipt.gas for receipt in receipts),
            "gas_per_round": sum(seal.gas for seal in seals) / len(seals) if seals else 0.0,
            "checked": len(self.checked()),
            **self._finality(),
            **self.succession.summary(),
            "seconds": self._seconds,
        }

    def checked(self) -> list[int]:
        """Return the rounds that a drawn hospital, or their leader, has computed again: one that has signed on, over their heads."""
        federation, last = self._federation, len(self.rounds.seals)
        signers: dict[int, set[int]] = {last + 1: set(self.closing.results())}
        for row in self.book.store.rows("updates"):
            signers.setdefault(row["round"], set()).add(row["slot"])
        headers = self.rounds.headers[1 : last + 1]
        wanted = {h.round: drawn(h.head, len(federation.hospitals), federation.checks) for h in headers}
        for row in self.book.store.rows("sittings") if federation.checks else ():
            leader = leader_of(row["sitting"])
            wanted[row["round"]] |= frozenset() if leader is None else {leader}
        return [round for round, slots in wanted.items() if slots & signers.get(round + 1, set())]

    def _finality(self) -> dict[str, Any]:
        """Whether all rounds are final, and from when on they can be made so: by the node's clock, or by that on the wall."""
        state = self.book.settled(lambda: self.rounds.state(self.domain.contract))
        wall = self.book.chain.name == "embedded"  # its own clock stands still between two blocks
        sealed = int(time.time()) if wall else state["sealedAt"]
        return {"final": state["finalized"] == len(self.rounds.seals), "final_after": sealed + state["window"]}

    def close(self) -> None:
        """Close journal and chain; a second call does nothing."""
        self.book.close()

    def __enter__(self) -> "RunLedger":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _create(self, contract: str | None, rule: Mapping[str, Any]) -> None:
        """Write the journal with what deploys the contract and opens the federation."""
        accounts, federation = self.book.chain.accounts, self._federation
        if contract is not None:
            self.rounds.require_contract(contract)
            self.rounds.require_coordinator(contract)
            state = self.rounds.state(contract)
            if any(state["head"]):
                raise LedgerError(
                    f"contract {contract} already holds federation {hexed(federation.id)} at round {state['round']}, "
                    f"but {self.book.path} does not exist: open the folder that it was written to"
                )
        meta = {"federation": federation_to_json(federation), "rule": canonical_json(rule)}
        roles: tuple[str, ...] = ()
        if contract is None:
            roles = tuple(accounts.address(role) for role in (ADMIN, COORDINATOR, AUDITOR))
        self.book.create(meta, deploy_data(*roles, ADMIN_DELAY) if roles else b"", self.rounds.opening)

    def _require_same(self, rule: Mapping[str, Any]) -> None:
        meta, path = self.book.store.meta, self.book.path
        recorded, kept = federation_of(meta, path)
        names = {"config_hash": "configuration", "genesis_model": "genesis model"}
        for name in (field.name for field in fields(Federation)):
            was, now = getattr(recorded, name), getattr(self._federation, name)
            if was != now:
                raise LedgerError(
                    f"the journal {path} belongs to another federation: its {names.get(name, name)} "
                    f"({name}) is {_show(was)}, this run has {_show(now)}"
                )
        if kept != canonical_json(rule):
            raise LedgerError(
                f"the journal {path} was written with aggregation rule {kept}, this run has {canonical_json(rule)}"
            )


def _silence(folder: Path) -> float:
    """Seconds since anything was written into a journal; 0 where there is none."""
    written = [path.stat().st_mtime for name in ("", "-wal") if (path := Path(folder) / (RUN.file + name)).exists()]
    return max(0.0, time.time() - max(written)) if written else 0.0


def reopened(folder: Path, config: LedgerConfig, clock: Clock = REAL, chain: Chain | None = None) -> RunLedger:
    """Open the ledger that a folder holds, for whatever federation and rule its journal names, without leading it.

    Raises:
        LedgerError: there is none; else as `RunLedger`.
    """
    path = Path(folder) / RUN.file
    with read_only(path) as journal:
        meta = read_meta(journal, RUN, path)
    federation, rule = federation_of(meta, path)
    return RunLedger(folder, federation, read_json(rule), config, clock, chain, leads=False)


def federation_of(meta: Mapping[str, str], path: Path) -> tuple[Federation, str]:
    """The federation that a journal belongs to, and its aggregation rule as JSON; raises LedgerError when damaged."""
    try:
        return federation_from_json(meta["federation"]), meta["rule"]
    except (KeyError, LedgerError) as error:
        raise LedgerError(f"the journal {path} is damaged: {error}") from error


def _show(value: Any) -> str:
    text = hexed(value) if isinstance(value, bytes) else str(value)
    return text if len(text) <= 100 else text[:97] + "..."
