"""The ledger of one study: its design before the first trial, then the beginning and the end of every trial.

`digest` of a row is the SHA-256 of the canonical JSON in its `content`; `head` is the contract's head after the row. The contract
fixes the number of trials when a study is registered. A change (more trials, another version of the code) is registered as the
next generation, under a study id derived from the first one, and names the first in its content. Later trials begin under
the newest generation; each trial ends under the one in which it began.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from engine.clock import REAL, Clock
from engine.encoding import canonical_json, hexed, json_hash, keccak, read_json
from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.base import Chain, NoContract
from engine.ledger.chain.contracts import call_data, deploy_data, is_deployed
from engine.ledger.config import LedgerConfig
from engine.ledger.delivery import Contradiction
from engine.ledger.format import ADMIN, COORDINATOR, STAGES, STUDY, STUDY_PURPOSES
from engine.ledger.subject import Subject
from engine.ledger.typed import Domain, address_bytes, word

_BEGUN, _ENDED = 1, 2  # kinds of records; every stage after BEGUN is an end


@dataclass(frozen=True)
class Design:
    """One registration of a study; `trials` is the number of trials that may begin under it or before it."""

    generation: int
    study: bytes
    content: str
    digest: bytes
    trials: int
    head: bytes


@dataclass(frozen=True)
class TrialRecord:
    """That a trial began or ended; `stage` is a position in `format.STAGES`."""

    seq: int
    study: bytes
    sequence: int
    trial: int
    stage: int
    content: str
    digest: bytes
    head: bytes


def study_id(identity: str, generation: int) -> bytes:
    """Return the id of a study (generation 0), or of an amendment to it, 32 bytes."""
    first = json_hash({"study": identity})
    return first if generation == 0 else json_hash({"first": hexed(first), "generation": generation})


class StudyLedger(Subject):
    """The ledger of one study in one folder; one writer at a time. The same record again changes nothing."""

    def __init__(
        self, folder: Path, identity: str, config: LedgerConfig, clock: Clock = REAL, chain: Chain | None = None
    ) -> None:
        """Open or create the ledger; rebuild the chain or compare with it.

        Args:
            folder: the `ledger/` folder of the study.
            identity: names the study, wherever its folder is moved.
            config: where to anchor; each study deploys a contract of its own.
            chain: in place of the one of the settings.

        Raises:
            LedgerError: a setting is wrong, the node is unreachable, another process writes here, or journal, chain
                and settings contradict each other.
        """
        self._identity, self._clock, self._seconds = identity, clock, 0.0
        self._book = Book(folder, STUDY, STUDY_PURPOSES, config, clock=clock, chain=chain)
        try:
            self._book.keep(self)
            self._book.begin(self._create, self._book.restore)
        except BaseException:
            self.close()
            raise

    @property
    def domain(self) -> Domain:
        """The chain and contract of the study."""
        return self._book.domain

    def register(self, design: Mapping[str, Any], trials: int) -> None:
        """Register the study, or an amendment where the design has changed or more trials are wanted.

        Raises:
            LedgerError: the chain refuses, or does not answer.
        """
        last = self._designs[-1] if self._designs else None
        if last is not None and last.trials >= trials and _design_of(last) == canonical_json(design):
            return
        generation = len(self._designs)
        study = study_id(self._identity, generation)
        content = {
            "design": design,
            "trials": trials,
            "generation": generation,
            "first": hexed(self._designs[0].study) if generation else None,
            # Trials that had begun already, unregistered or under an earlier generation.
            "begun": sum(kind == _BEGUN for _, kind in self._known),
        }
        digest, domain = json_hash(content), self.domain
        head = keccak(word(domain.chain_id) + word(address_bytes(domain.contract)) + study + digest + word(trials))
        row = Design(generation, study, canonical_json(content), digest, trials, head)
        data = call_data("registerStudy", study, digest, trials, contract="StudyLedger")
        self._write(Call("register", generation, domain.contract, data, {"designs": [astuple(row)]}), row)

    def record(self, trial: int, stage: str, content: Mapping[str, Any]) -> None:
        """Record that a trial began ("BEGUN") or ended ("COMPLETE", "PRUNED" or "FAILED").

        Args:
            content: plain data whose digest is anchored.

        Raises:
            LedgerError: the trial is recorded with another stage or content, or the chain refuses or does not answer.
        """
        started = self._clock.now()
        code, digest = STAGES.index(stage), json_hash(content)
        known = self._known.get((trial, min(code, _ENDED)))
        if known is not None:
            if (known.stage, known.digest) != (code, digest):
                raise LedgerError(
                    f"trial {trial} is recorded as {STAGES[known.stage]} with digest {hexed(known.digest)} in "
                    f"{self._book.path}, now it is {stage} with {hexed(digest)}"
                )
            return
        begun = self._known.get((trial, _BEGUN))
        if code != _BEGUN and begun is None:
            raise LedgerError(f"trial {trial} cannot end as {stage}: no beginning is recorded")
        study = self._designs[-1].study if begun is None else begun.study
        before, sequence = self._heads[study][0], self._heads[study][1] + 1
        head = keccak(before + word(sequence) + word(trial) + word(code) + digest)
        seq = len(self._known) + 1
        row = TrialRecord(seq, study, sequence, trial, code, canonical_json(content), digest, head)
        data = call_data("recordTrial", study, sequence, trial, code, digest, contract="StudyLedger")
        self._write(Call("record", seq, self.domain.contract, data, {"records": [astuple(row)]}), row)
        self._seconds += self._clock.now() - started

    def recorded(self) -> set[tuple[int, bool]]:
        """Return what is recorded: trial, and whether it is its end."""
        return {(trial, kind == _ENDED) for trial, kind in self._known}

    def summary(self) -> dict[str, Any]:
        """Return what a study reports of its ledger; `seconds` is the time spent in `record` of this process."""
        receipts = [t.receipt for t in self._book.transactions if t.receipt is not None]
        return {
            "head": " ".join(hexed(self._heads[design.study][0]) for design in self._designs),
            "contract": self.domain.contract,
            "chain_id": self.domain.chain_id,
            "backend": self._book.chain.name,
            "generations": len(self._designs),
            "records": len(self._known),
            "gas_total": sum(receipt.gas for receipt in receipts),
            "seconds": self._seconds,
        }

    def close(self) -> None:
        """Close journal and chain; a second call does nothing."""
        self._book.close()

    def reset(self) -> None:
        self._designs: list[Design] = []
        self._known: dict[tuple[int, int], TrialRecord] = {}  # trial and kind
        self._heads: dict[bytes, tuple[bytes, int]] = {}  # study -> head and number of its records
        for row in self._book.store.rows("designs"):
            self._note(Design(*row))
        for row in self._book.store.rows("records"):
            self._note(TrialRecord(*row))
        if self._designs and self._designs[0].study != study_id(self._identity, 0):
            raise LedgerError(f"the journal {self._book.path} belongs to another study than {self._identity}")

    def restored(self) -> None:
        chain, contract = self._book.chain, self.domain.contract
        code = chain.code(contract)
        if not is_deployed(code, "StudyLedger"):
            kind = LedgerError if code else NoContract
            raise kind(f"the code at {contract} on the {chain.name} chain is not this version's StudyLedger")
        for design in self._designs:
            state = self._book.query("StudyLedger", contract, "studyState", design.study)
            found, held = (state["head"], state["sequence"]), self._heads[design.study]
            if found != held:
                raise Contradiction(
                    f"journal and chain contradict each other: record {held[1]} with head {hexed(held[0])} in "
                    f"{self._book.path}, record {found[1]} with head {hexed(found[0])} in contract {contract}"
                )

    def _create(self) -> None:
        roles = [self._book.chain.accounts.address(role) for role in (ADMIN, COORDINATOR)]
        self._book.create({}, deploy_data(*roles, contract="StudyLedger"), lambda contract: ())

    def _write(self, call: Call, row: Design | TrialRecord) -> None:
        self._book.check(call)
        self._book.write(call)
        # What is in the journal counts; if the chain does not answer, it is settled before the next record.
        self._note(row)
        self._book.finish()

    def _note(self, row: Design | TrialRecord) -> None:
        if isinstance(row, Design):
            self._designs.append(row)
            self._heads[row.study] = (row.head, 0)
        else:
            self._known[row.trial, min(row.stage, _ENDED)] = row
            self._heads[row.study] = (row.head, row.sequence)


def _design_of(row: Design) -> str:
    return canonical_json(read_json(row.content)["design"])
