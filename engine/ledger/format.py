"""The format of a ledger: the one page that its writer and its auditor share. Tables, files, purposes, numbers; no work.

A journal is one SQLite file. Rows are in the order in which they were written; hashes, signatures and raw transactions
are BLOBs, records are canonical JSON with bytes as 0x hex. A row is on disk before what it describes is sent.

Tables of a run's journal:

    meta          key `format` is "8"; `federation`, `domain`, `backend` and `rule` hold JSON
    updates       ModelUpdate, what the tree of a round is made of
    openings      what stands behind the salted commitments of an update, unless it was erased
    erasures      of a hospital over Erasure(federation, round, slot, leaf), in the place of an opening
    absences      of the coordinator over Absence(federation, round, slot, job, kind, start): `kind` is one of `ABSENCES`
    receipts      of the coordinator over Receipt(federation, round, slot, leaf)
    results       HospitalResult of the last round, signed by its hospital; `content` is what it states of itself
    closings      RunClosing, signed by the coordinator, one row at most; `content` names the hospitals without a result
    rounds        what a head commits to; the head before it is that of the row before
    annexes       the digests behind the annex of a round, by ascending bytes of the name; none is zero
    rotations     KeyRotation, signed by the old and by the new key
    scores        Verdicts, one row for 16 hospitals, by ascending index
    peers         PeerScore, what the verdicts follow from
    judges        of a hospital over PeerScores, all that it found of the updates of a round
    sittings      what the committee of a round said, as the CommitteeLedger takes it
    maskings      what was said of one masked sum of a round (`bucket` from 0), JSON; see engine/ledger/masking.py
    votes         of each of its members: commitment to its scores, what opens it, both signed; empty where it gave none
    synthetic     steps of the governance of synthetic data; `kind` is a key of `GOVERNED`
    transactions  `seq` from 1 without a gap; `purpose` is a key of `PURPOSES`; `receipt` is NULL until the chain answers

and of a study's, where `round` of a transaction is a generation or the `seq` of a record:

    meta          key `format` is "3"; `domain` and `backend` hold JSON
    designs       registrations of the study
    records       that a trial began or ended; `stage` is a position in `STAGES`

A bundle holds all of a run in one file, a zip archive without compression; names are sorted and times fixed, so equal
content gives equal bytes:

    manifest.json                  `public` if openings were left out; format, sha256 of every other entry and of each contract's build, `result` and its hash
    config.yaml                    the configuration of the run
    journal/<table>.jsonl          one JSON object a row and line, BLOBs as 0x hex
    updates/00000.safetensors      tensor "genesis": the parameters before round 1
    updates/00007.safetensors      tensors "slot-0003": the change that hospital 3 sent in round 7; under masks int64[parameters + 1]
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

# --- Journals ---------------------------------------------------------------------------------------------------------

INTEGER, TEXT, BLOB = "INTEGER NOT NULL", "TEXT NOT NULL", "BLOB NOT NULL"
BLOB_OR_NULL, TEXT_OR_NULL = "BLOB", "TEXT"


class Table(NamedTuple):
    """A table: SQL types by column, in their order; then the sets of columns that name a row, the primary key first."""

    columns: Mapping[str, str]
    keys: tuple[tuple[str, ...], ...]

    @property
    def sql(self) -> str:
        """Everything between the parentheses of CREATE TABLE."""
        columns = [f"{name} {kind}" for name, kind in self.columns.items()]
        kinds = ["PRIMARY KEY", *["UNIQUE"] * len(self.keys)]
        return ", ".join(
            [*columns, *(f"{kind} ({', '.join(key)})" for kind, key in zip(kinds, self.keys, strict=False))]
        )


class Journal(NamedTuple):
    """A kind of journal: name of its file, format, tables by name."""

    file: str
    format: int
    tables: Mapping[str, Table]


_META = Table({"key": TEXT, "value": TEXT}, (("key",),))
_OF_UPDATE = {"round": INTEGER, "slot": INTEGER}
_TRANSACTIONS = Table(
    {"seq": INTEGER, "purpose": TEXT, "round": INTEGER, "hash": BLOB, "raw": BLOB, "receipt": TEXT_OR_NULL}, (("seq",),)
)

RUN = Journal(
    "journal.sqlite",
    8,
    {
        "meta": _META,
        "updates": Table({**_OF_UPDATE, "record": TEXT, "signature": BLOB, "leaf": BLOB}, (("round", "slot"),)),
        "openings": Table({**_OF_UPDATE, "opening": TEXT}, (("round", "slot"),)),
        "erasures": Table({**_OF_UPDATE, "signature": BLOB}, (("round", "slot"),)),
        "receipts": Table({**_OF_UPDATE, "signature": BLOB}, (("round", "slot"),)),
        "absences": Table(
            {**_OF_UPDATE, "job": INTEGER, "kind": TEXT, "start": INTEGER, "signature": BLOB},
            (("round", "slot", "job"),),
        ),
        "results": Table({"slot": INTEGER, "record": TEXT, "signature": BLOB, "content": TEXT}, (("slot",),)),
        "closings": Table({"round": INTEGER, "record": TEXT, "signature": BLOB, "content": TEXT}, (("round",),)),
        "rounds": Table(
            {
                "round": INTEGER,
                "parent_model": BLOB,
                "model": BLOB,
                "count": INTEGER,
                "root": BLOB,
                "annex": BLOB,
                "head": BLOB,
            },
            (("round",),),
        ),
        "annexes": Table({"round": INTEGER, "name": TEXT, "digest": BLOB}, (("round", "name"),)),
        "rotations": Table(
            {"slot": INTEGER, "round": INTEGER, "record": TEXT, "old_signature": BLOB, "new_signature": BLOB},
            (("slot", "round"),),
        ),
        "scores": Table({"round": INTEGER, "verdicts": TEXT}, (("round", "verdicts"),)),
        "peers": Table(
            {**_OF_UPDATE, "judge": INTEGER, "correct": INTEGER, "total": INTEGER}, (("round", "slot", "judge"),)
        ),
        "judges": Table({**_OF_UPDATE, "signature": BLOB}, (("round", "slot"),)),
        "sittings": Table({"round": INTEGER, "sitting": TEXT}, (("round",),)),
        "maskings": Table({"round": INTEGER, "bucket": INTEGER, "said": TEXT}, (("round", "bucket"),)),
        "votes": Table(
            {
                **_OF_UPDATE,
                "commitment": BLOB,
                "committed": BLOB,
                "salt": BLOB,
                "scores": TEXT,
                "signature": BLOB,
            },
            (("round", "slot"),),
        ),
        "synthetic": Table(
            {
                "seq": INTEGER,
                "kind": TEXT,
                "id": BLOB,
                "record": TEXT,
                "signature": BLOB_OR_NULL,
                "sender": TEXT_OR_NULL,
            },
            (("seq",), ("kind", "id")),
        ),
        "transactions": _TRANSACTIONS,
    },
)

STUDY = Journal(
    "study.sqlite",
    3,
    {
        "meta": _META,
        "designs": Table(
            {
                "generation": INTEGER,
                "study": BLOB,
                "content": TEXT,
                "digest": BLOB,
                "trials": INTEGER,
                "head": BLOB,
            },
            (("generation",), ("study",)),
        ),
        "records": Table(
            {
                "seq": INTEGER,
                "study": BLOB,
                "sequence": INTEGER,
                "trial": INTEGER,
                "stage": INTEGER,
                "content": TEXT,
                "digest": BLOB,
                "head": BLOB,
            },
            (("seq",), ("study", "sequence"), ("trial", "stage")),
        ),
        "transactions": _TRANSACTIONS,
    },
)

# --- Transactions -----------------------------------------------------------------------------------------------------


# Roles of a ledger's accounts; whoever creates contracts is the deployer.
COORDINATOR, ADMIN, AUDITOR, DEPLOYER = "coordinator", "admin", "auditor", "deployer"


class Purpose(NamedTuple):
    """What a transaction is for.

    Attributes:
        contract: name of its build.
        function: that it calls; "" creates the contract.
        required: the ledger cannot be without it. The contract may refuse another, which then stays refused.
        foreign: an account that is none of the ledger's signs it.
        repeats: the same content can be wanted again after it was taken, of a round that was opened again, say.
        gas: limit; the measured use is well below.
        by: role of the account that signs it.
    """

    contract: str
    function: str
    required: bool = False
    foreign: bool = False
    repeats: bool = False
    gas: int = 1_500_000
    by: str = COORDINATOR


# Kinds of steps in the governance of synthetic data -> function of SyntheticLedger that takes one.
GOVERNED = {
    "policy": "setPolicy",
    "reviewer": "setReviewer",
    "request": "requestSynthetic",
    "preview": "previewSynthetic",
    "review": "reviewSynthetic",
    "report": "reportSynthetic",
    "expire": "expireSynthetic",
}

_OF_ADMIN = ("policy", "reviewer")

PURPOSES = {
    "deploy": Purpose("RoundLedger", "", required=True, gas=7_000_000, by=DEPLOYER),
    "open": Purpose("RoundLedger", "openFederation", required=True),
    "open-round": Purpose("RoundLedger", "openRound", required=True),
    "seal": Purpose("RoundLedger", "sealRound", required=True, gas=200_000),
    "close": Purpose("RoundLedger", "closeFederation", required=True),
    "mark": Purpose("RoundLedger", "markRound", repeats=True),
    "finalize": Purpose("RoundLedger", "finalizeRound", repeats=True),
    "submit": Purpose("RoundLedger", "submitUpdate"),
    "refuse": Purpose("RoundLedger", "refuseUpdate"),
    "abort": Purpose("RoundLedger", "abortRound", repeats=True),
    "dispute": Purpose("RoundLedger", "dispute"),
    "dispute-update": Purpose("RoundLedger", "disputeUpdate"),
    "resolve": Purpose("RoundLedger", "resolveDispute", foreign=True),
    "overspent": Purpose("RoundLedger", "voidOverspent"),
    "rotate": Purpose("RoundLedger", "rotateKey"),
    "grant": Purpose("RoundLedger", "grantRole", by=ADMIN),
    "deploy-reputation": Purpose("ReputationLedger", "", required=True, gas=3_000_000, by=DEPLOYER),
    "reputation": Purpose("ReputationLedger", "updateReputation"),
    "claim": Purpose("ReputationLedger", "claimReward"),
    "deploy-committee": Purpose("CommitteeLedger", "", required=True, gas=3_000_000, by=DEPLOYER),
    "judge": Purpose("CommitteeLedger", "judgeRound", gas=12_000_000),
    "deploy-masks": Purpose("MaskLedger", "", required=True, gas=3_000_000, by=DEPLOYER),
    "challenge": Purpose("MaskLedger", "challengeUpdate", foreign=True),
    "answer": Purpose("MaskLedger", "answerChallenge"),
    "decide": Purpose("MaskLedger", "decideChallenge", foreign=True),
    "expire-challenge": Purpose("MaskLedger", "expireChallenge"),
    "deploy-succession": Purpose("SuccessionLedger", "", required=True, gas=3_000_000, by=DEPLOYER),
    "entrust": Purpose("RoundLedger", "entrust", required=True),
    "appoint": Purpose("SuccessionLedger", "appoint", required=True),
    "alive": Purpose("SuccessionLedger", "reportAlive", repeats=True),
    "take-over": Purpose("SuccessionLedger", "takeOver"),
    "deploy-synthetic": Purpose("SyntheticLedger", "", required=True, gas=7_000_000, by=DEPLOYER),
    **{
        kind: Purpose("SyntheticLedger", function, by=ADMIN if kind in _OF_ADMIN else COORDINATOR)
        for kind, function in GOVERNED.items()
    },
}

STUDY_PURPOSES = {
    "deploy": Purpose("StudyLedger", "", required=True, gas=3_000_000, by=DEPLOYER),
    "register": Purpose("StudyLedger", "registerStudy", required=True),
    "record": Purpose("StudyLedger", "recordTrial", required=True),
}

# Seconds between the two steps of a change of the admin, and until a new version of a policy is in force.
ADMIN_DELAY, POLICY_DELAY = 86_400, 86_400

# Enumerations of the contracts; a value is a position.
STAGES = ("NONE", "BEGUN", "COMPLETE", "PRUNED", "FAILED")
ROUND_STATUS = ("NONE", "OPEN", "SEALED", "DISPUTED", "FINAL", "VOID")
PHASES = ("IDLE", "OPEN", "DISPUTED", "CLOSED", "ABORTED")
CHALLENGES = ("NONE", "CHALLENGED", "ANSWERED", "INNOCENT", "FRAUD")
LONGEST_WINDOW = 2**24  # seconds
ANSWER_TIME = 7 * 86_400  # seconds in which a hospital must open a masked update that was challenged
MOST_SUCCESSORS = 16
RING = 4  # heads that the RoundLedger keeps; older rounds are shown by the headers after them
ENDINGS = ("none", "complete", "pruned")  # how a run ended, `state` of a RunClosing

# --- Rounds -----------------------------------------------------------------------------------------------------------

ZERO = bytes(32)
NO_ROUND = 2**64 - 1  # as deadline of the next round: do not open it; as number of a round: after all others
SCHEMA = 2  # of a ModelUpdate

# Names of digests in an annex: hash chain of all decisions on synthetic data so far; root over the round's verdicts and
# the peers' scores behind them; root over the rewards of all hospitals after the round; hash of what the server's optimiser
# remembers after the round, named tensors float64[P] as a model's; hash of the JSON of a privacy mechanism and its budget,
# `PRIVACY_TERMS` of what each update says of it; what the round's committee said.
DECISIONS, SCORES, REWARDS, SERVER, PRIVACY = "decisions", "scores", "rewards", "server", "privacy"
COMMITTEE = "committee"
MASKS = "masks"  # what was said of all masked sums of the round
PRIVACY_TERMS = ("budget", "clip", "delta", "mechanism", "neighbours", "rate", "sampler", "shares", "sigma", "unit")
# Hash of the virtual clock after the round: canonical JSON of {"now": microseconds, "absent": [[slot, job, kind, start], ...]}.
CLOCK = "clock"
# Hash of the association with miners that the round works under: canonical JSON, see `engine/association/build.py`.
ASSOCIATION = "association"
ABSENCES = ("dropped", "late")  # why a job on the virtual clock came to nothing: lost, or given up

# How a round's model follows from its updates, the meta key `rule`: {"name": MEAN, "weighting": one of WEIGHTINGS,
# "server": {"method": "none"}}, and "settings" for other rules, see engine/audit/robust.py; of the mean only where updates may
# begin from older models: {"max_staleness": rounds, "of_models": whether models are averaged in the place of changes}. The mean is a sum in integers,
# of entries times weight in units of 2^-36: see engine/aggregation/mean.py. A change of the arithmetic needs a new name.
# A user's own rule is {"name": OWN_RULE, "weighting", "server", "part": FILE.py:NAME@DIGEST of its source, "parameters": {...}}.
MEAN = "mean/fixed-36"
OWN_RULE = "own"
WEIGHTINGS = ("samples", "uniform", "none")

# Of hospitals: reputation before the first verdict, and at most; verdicts in one word of the contract; a score of 1.
BASE_REPUTATION, MAX_REPUTATION = 10, 100
LEADER_REWARD = 100  # points of whoever leads a round, beside those of its update
WORD = 16
PARTS = 1_000_000

# Of a committee: a whole share, and what stands in the place of one that there is not; percent of the best score.
SHARE_PARTS, NO_SHARE = 10_000, 2**16 - 1

# --- What a closing binds ---------------------------------------------------------------------------------------------

# Of result.json a closing binds everything but these: how long something took on the machine where it ran. A star stands
# for every item of a list. `ledger` is not hashed either: transactions follow on the closing, and each of its values but
# those here follows from the journal.
UNBOUND = (
    "timing.train_seconds",
    "timing.rounds_seconds",
    "timing.total_seconds",
    "rounds.*.seconds",
    "rounds.*.train_seconds",
    "rounds.*.peer_seconds",
    "rounds.*.hash_seconds",
    "rounds.*.sign_seconds",
    "ledger.seconds",
    "ledger.open_seconds",
    "ledger.close_seconds",
    "ledger.critical_path_seconds",
    "ledger.overhead_share",
    "ledger.final",  # as it was at the end of the run; the chain tells how it is
    "ledger.final_after",
)
OF_LEDGER = "ledger"
RESULT_VERSION = 5  # of result.json

# --- Files beside the journal -----------------------------------------------------------------------------------------

BUNDLE, BUNDLE_FORMAT = "bundle.plb", 1
MANIFEST, CONFIG = "manifest.json", "config.yaml"
GENESIS = "genesis"
BEFORE, BEFORE_THAT = "before.safetensors", "before-that.safetensors"  # beside the journal, while a run goes on


def rows_name(table: str) -> str:
    """Where the rows of a table lie in a bundle."""
    return f"journal/{table}.jsonl"


def vectors_name(round: int) -> str:
    """Where the vectors of a round lie, in a bundle and beside the journal; round 0 is the genesis."""
    return f"updates/{round:05d}.safetensors"


def tensor_name(slot: int) -> str:
    """What the vector of a hospital is called there."""
    return f"slot-{slot:04d}"


def row_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a journal as plain data for a bundle: BLOBs as 0x hex."""
    return {name: "0x" + value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
