"""Runs with synthetic beats, and the flow of their governance without any training.

flow = Flow(config, cohort)
rows, decisions, transactions = flow(tmp_path)                  # to the end
flow(tmp_path, after={"take": 2})                               # Interrupted after the ledger has taken two steps
flow(tmp_path, hospitals=flow.hospitals(tmp_path, width=3))     # three hospitals work at the same time
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reference import Interrupted
from simulators import rule_of

from engine.config import RunConfig, config_hash
from engine.data.cohort import Cohort
from engine.data.samples import Samples
from engine.errors import HospitalError, PulseLedgerError
from engine.ledger.desk import LedgerDesk
from engine.ledger.observer import LedgerObserver
from engine.ledger.signer import Signer, Terms
from engine.ledger.signing import address, hospital_key
from engine.ledger.subjects.registry import Federation
from engine.ledger.subjects.synthetic import Governed, Step
from engine.oracles.base import Batch
from engine.result import SyntheticRow
from engine.synthesis.evidence import Evidence
from engine.synthesis.files import FOLDER, batch_digest, load_synthetic
from engine.synthesis.generators import Synthetic, generate
from engine.synthesis.govern import govern
from engine.synthesis.quality import Anatomy
from engine.synthesis.reviews import read_state
from engine.synthesis.workshop import Generate, Workshop, anatomy_of

SMOTE = {"balance.method": "smote", "balance.classes": "SV", "ledger.backend": "embedded"}
HUMAN = {**SMOTE, "balance.policy.mode": "human", "balance.policy.preview": 0}
# a policy that lets through whatever was made: the tests are about something else
OPEN = {
    "balance.policy.min_nndr": 0,
    "balance.policy.max_distance": 6.5535,
    "balance.policy.max_duplicates": 1,
    "balance.policy.max_repeated": 1,
    "balance.policy.min_spread": 0,
    "balance.policy.min_recognised": 0,
}
HIDDEN = ("request", "file", "record")  # what of a row depends on the chain and on the federation's name
ID = b"\x11" * 32


def plain(rows: Sequence[SyntheticRow] | None) -> list[dict[str, Any]]:
    """Rows without what depends on where they were signed for."""
    return [{key: value for key, value in row.document().items() if key not in HIDDEN} for row in rows or ()]


def beats_of(folder: Path) -> dict[str, bytes]:
    """Digest of each file of synthetic beats."""
    return {p.name: batch_digest(load_synthetic(p)) for p in sorted((folder / FOLDER).glob("*.npz"))}


def waiting(folder: Path) -> tuple[SyntheticRow, ...]:
    """Requests of a run that wait for a reviewer."""
    return read_state(folder).pending()


class After:
    """Raises after the n-th of the moments that are counted, or never."""

    def __init__(self, left: float = float("inf")) -> None:
        self.left = left

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted


def praised(train: Batch, held_out: Batch, made: Synthetic, anatomy: Anatomy, seed: int, page: Path) -> Evidence:
    """Measures nothing: whatever was made is good."""
    page.write_bytes(b"\x89PNG")
    return Evidence({"synthetic": len(made)}, PRAISE)


PRAISE = {"auc_bp": 5_000, "nndr_bp": 9_000, "distance_bp": 10_000, "duplicates": 0, "repeated": 0}
PRAISE |= {"spread_bp": 10_000, "utility_bp": 0, "recognised_bp": 10_000}


class Hospitals:
    """A pool of nothing but workshops, each with its key.

    Attributes:
        calls: what was called for which hospitals.
    """

    def __init__(
        self,
        config: RunConfig,
        cohort: Cohort,
        home: Path,
        width: int = 1,
        moments: Mapping[str, After] = {},
        generate: Generate = generate,
    ) -> None:
        beats, self._seed, self._moments = cohort.beats, config.seed, moments
        self.width, self.calls = width, list[tuple[str, tuple[int, ...]]]()
        part = {
            h.id: [Samples(beats.x, beats.rr, beats.y, rows) for rows in (h.train, h.validation)]
            for h in cohort.hospitals
        }
        anatomy = anatomy_of(beats)
        self._workshops = {
            h: Workshop(h, config, *parts, anatomy, home / FOLDER, generate, praised) for h, parts in part.items()
        }

    def ask(self, terms: Terms, ids: Sequence[int]) -> list[Any]:
        self.calls.append(("ask", tuple(ids)))
        return [self._moment("ask", self._workshops[h].ask(self._signer(h, terms), terms)) for h in ids]

    def make(self, terms: Terms, granted: Mapping[int, Sequence[SyntheticRow]]) -> list[Any]:
        self.calls.append(("make", tuple(granted)))

        def one(hospital: int, rows: Sequence[SyntheticRow]) -> Any:
            return self._moment("make", self._workshops[hospital].make(self._signer(hospital, terms), terms, rows))

        return [self._guarded(h, "make", lambda h=h, rows=rows: one(h, rows)) for h, rows in granted.items()]

    def keep(self, accepted: Mapping[int, Sequence[SyntheticRow]]) -> list[Any]:
        self.calls.append(("keep", tuple(accepted)))
        return [
            self._guarded(h, "keep", lambda h=h, rows=rows: self._moment("keep", self._workshops[h].keep(rows)))
            for h, rows in accepted.items()
        ]

    def _signer(self, hospital: int, terms: Terms) -> Signer:
        return Signer(hospital, terms.signing, self._seed)

    def _guarded(self, hospital: int, stage: str, work: Any) -> Any:
        try:
            return work()
        except PulseLedgerError as error:
            return HospitalError(hospital, 0, stage, str(error))

    def _moment(self, name: str, answer: Any) -> Any:
        if name in self._moments:
            self._moments[name]()
        return answer


class Killed(LedgerObserver):
    """A ledger whose run ends after some step was taken."""

    after = After()

    def desk(self, federation: bytes) -> LedgerDesk:
        return LedgerDesk(self)

    def govern(self, step: Step) -> Governed:
        done = super().govern(step)
        self.after()
        return done


class Flow:
    """The flow alone on a ledger of its own."""

    def __init__(self, config: RunConfig, cohort: Cohort) -> None:
        self.config, self.cohort = config, cohort
        addresses = tuple(address(hospital_key(config.seed, ID, h.id)) for h in cohort.hospitals)
        self.federation = Federation(ID, bytes.fromhex(config_hash(config)), addresses, b"\x33" * 32, (("w", (2,)),))

    def hospitals(self, folder: Path, **keys: Any) -> Hospitals:
        """The hospitals of a run in `folder`."""
        return Hospitals(self.config, self.cohort, folder, **keys)

    def __call__(self, folder: Path, hospitals: Hospitals | None = None, moments: Mapping[str, After] = {}) -> "Flowed":
        """Runs it to its end, or to one of the moments: "take" of the ledger, "ask", "make", "keep" of a hospital, "note"."""
        (folder / "ledger").mkdir(parents=True, exist_ok=True)
        ledger = Killed(folder / "ledger", self.federation, rule_of("samples"), self.config.ledger, False, 1)
        ledger.after = moments.get("take", After())
        pool, said = hospitals or self.hospitals(folder, moments=moments), moments.get("note", After())
        keepers = {h.id: (h.id,) for h in self.cohort.hospitals}
        try:
            rows = govern(self.config, folder, ledger, ID, pool, keepers, lambda text: said())  # type: ignore[arg-type]
            return Flowed(rows, ledger.decisions, ledger.summary()["transactions"])
        finally:
            ledger.abandon()


class Flowed(NamedTuple):
    """What came of it."""

    rows: tuple[SyntheticRow, ...]
    decisions: bytes
    transactions: int
