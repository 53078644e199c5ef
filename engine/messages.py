"""What crosses walls: between hospital, pool, loop, ledger and checkpoint. Plain frozen data, and the loop's protocols."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from engine.errors import HospitalError, PulseLedgerError, first_of
from engine.result import CommitteeRow, RoundSummary, SyntheticRow, VerdictRow

State = dict[str, np.ndarray]  # private to one hospital, or of the server's optimiser
# hospital of the update -> judge -> (correct predictions, beats) on the judge's validation part
Verdicts = Mapping[int, Mapping[int, tuple[int, int]]]
NEWEST = -1  # in the place of a round: the last
Column = Mapping[int, tuple[int | None, ...]]  # of one judge: hospital of the update -> its share of each class


class Signed(NamedTuple):
    """A hospital's word on its update, in the ledger's records.

    Attributes:
        update: the signed record.
        opening: what stands behind the commitments in it.
        leaf: of the signed record in the tree of the round.
    """

    update: Any
    opening: Any
    leaf: bytes


class Crafted(NamedTuple):
    """What a hostile hospital is told to send, float32[parameters], and what it is to remember; in simulations only."""

    vector: np.ndarray
    memory: State


class Job(NamedTuple):
    """A hospital's work that is under way on the virtual clock; times in microseconds, energies in nanojoules.

    Attributes:
        number: of the hospital's jobs, from 1.
        start: rounds that were done when it began, which names the model that it was given.
        tick: rounds that so many jobs would have been with everybody in time; decay of rates goes by it.
        work: share of the configured local work.
        meets: when its group is to arrive; 0 without groups.
        busy: that the job takes, without absences.
        lost: whether nothing will arrive.
    """

    hospital: int
    number: int
    start: int
    tick: int
    work: float
    began: int
    ends: int
    meets: int
    busy: int
    compute: int
    radio: int
    lost: bool


class Tally(NamedTuple):
    """What a hospital's jobs came to, until now: how many of each kind, microseconds, nanojoules.

    Attributes:
        delivered: taken into a round.
        dropped: that it lost; late: that were given up, as the others did not wait.
        busy: microseconds of all, whatever came of them; `wasted` of those that came to nothing.
        pace: microseconds that a whole job took last; 0 where none has ended.
    """

    jobs: int = 0
    delivered: int = 0
    dropped: int = 0
    late: int = 0
    busy: int = 0
    wasted: int = 0
    compute: int = 0
    radio: int = 0
    pace: int = 0


@dataclass(frozen=True)
class Timeline:
    """The virtual clock between two rounds: microseconds, jobs under way, jobs that ever began, tallies by hospital."""

    now: int = 0
    jobs: tuple[Job, ...] = ()
    begun: int = 0
    tallies: Mapping[int, Tally] = field(default_factory=dict)


class Absent(NamedTuple):
    """A job that ended in a round and is not in it: "dropped" or "late", and the rounds that were done when it began."""

    hospital: int
    number: int
    kind: Literal["dropped", "late"]
    start: int


class Pace(NamedTuple):
    """A round on the virtual clock: how it leaves the clock, what came in, who is not in it; nothing where no time is kept."""

    line: Timeline = Timeline()
    arrived: tuple[Job, ...] = ()
    absent: tuple[Absent, ...] = ()


NO_TIME = Pace()


class Start(NamedTuple):
    """Where a hospital's work of a round began, if not with the last model, and what it counts.

    Attributes:
        round: rounds that were done then.
        params: float32[parameters].
        tick, work: as of `Job`.
        discount: factor on the weight of the update.
    """

    round: int
    params: np.ndarray
    tick: int
    work: float
    discount: float


@dataclass(frozen=True)
class Asked:
    """Who works in a round, and from which model.

    Attributes:
        round, hospitals: from 1; ids, ascending.
        params: float32[parameters], the model to start from.
        model: its name on the ledger; b"" where none is kept.
        crafted: hostile hospital -> what it sends.
        starts: hospital -> where it began, of those for whom it is not the plain model of the round.
        pace: the round on the virtual clock.
        judges: of the round, who do not train; () where none are seated.
    """

    round: int
    hospitals: tuple[int, ...]
    params: np.ndarray
    model: bytes = b""
    crafted: Mapping[int, Crafted] = field(default_factory=dict)
    starts: Mapping[int, Start] = field(default_factory=dict)
    pace: Pace = NO_TIME
    judges: tuple[int, ...] = ()

    def start_of(self, hospital: int) -> Start:
        """Where this hospital's work begins."""
        return self.starts.get(hospital) or Start(self.round - 1, self.params, self.round, 1.0, 1.0)


@dataclass(frozen=True)
class Update:
    """What a hospital sends after a round.

    Attributes:
        vector: what the rule of aggregation has it send, as a rule float32[parameters], the change of the parameters; under masks
            int64[parameters + 1]; None where only the sum was wanted.
        samples: number of real train beats; balancing gives a hospital no more weight.
        loss: mean train loss.
        state: private state, kept by the pool to restore a lost hospital; the server does not look into it.
        signed: the hospital's word on it; None without a ledger.
        sign_seconds: time that checking the ledger, hashing and signing took.
        discount: factor on its weight, as the schedule has set it.
        start: rounds that were done when it began; NEWEST: all.
    """

    hospital: int
    vector: np.ndarray | None
    samples: int
    loss: float
    gradient_evaluations: int
    state: State = field(default_factory=dict)
    signed: Signed | None = None
    sign_seconds: float = 0.0
    discount: float = 1.0
    start: int = NEWEST


class Trained(NamedTuple):
    """A round's local work, as a pool answers.

    Attributes:
        answers: an update or a failure for each hospital that was asked, in the order of the ids.
        summed: the updates as far as the rule lets hosts add them up, int64[parameters]; None for other rules.
    """

    answers: Sequence[Update | HospitalError]
    summed: np.ndarray | None


@dataclass(frozen=True)
class Taken:
    """What the schedule takes of the answers into the round.

    Attributes:
        updates: by ascending hospital.
        lost: of hospitals that failed.
        summed: as of `Trained`, of these updates; of masked ones int64[groups, parameters + 1].
    """

    updates: tuple[Update, ...]
    lost: tuple[HospitalError, ...]
    summed: np.ndarray | None


class Opinion(NamedTuple):
    """What one hospital says of the other updates of a round.

    Attributes:
        scores: hospital of the update -> correct predictions and beats of the judge's validation part.
        signature: of the judge over them; b"" without a ledger.
    """

    scores: Mapping[int, tuple[int, int]]
    signature: bytes


class Commitment(NamedTuple):
    """To scores that a judge has not yet told, 32 bytes, with its signature; both b"" without a ledger."""

    digest: bytes
    signature: bytes


class Vote(NamedTuple):
    """What a judge of a committee reveals.

    Attributes:
        totals: beats of each class in its validation part, or of all; 10,000 for each with the measure mae.
        correct: hospital of the update -> right predictions of each, or 10,000 times the probabilities of the true class.
        salt, signature: what opens its commitment, and its word on all that; b"" without a ledger.
    """

    totals: tuple[int, ...]
    correct: Mapping[int, tuple[int, ...]]
    salt: bytes = b""
    signature: bytes = b""


@dataclass(frozen=True)
class Sitting:
    """A committee's work in a round.

    Attributes:
        members: who owed scores, ascending.
        commitments: of those who committed to scores, by judge.
        votes: of those who revealed scores that can be, by judge.
        columns: their shares: judge -> hospital of the update -> of each class, in parts of 10,000; None where there is none.
        scores, qualified: of each update, in parts of 10,000, and hospitals whose updates are good enough.
        percent: of the best score that this took.
        claims, leader: weight and cap of claims of one's own update, 0 without, and who leads the round, None without.
    """

    members: tuple[int, ...] = ()
    commitments: Mapping[int, Commitment] = field(default_factory=dict)
    votes: Mapping[int, Vote] = field(default_factory=dict)
    columns: Mapping[int, Column] = field(default_factory=dict)
    scores: Mapping[int, int] = field(default_factory=dict)
    qualified: frozenset[int] = frozenset()
    percent: int = 0
    claims: tuple[int, int] = (0, 0)
    leader: int | None = None

    @property
    def row(self) -> CommitteeRow | None:
        """As a round's record holds it; None where no committee sat."""
        if not self.scores:
            return None
        good = self.qualified
        rows = tuple(VerdictRow(hospital=h, score=s, qualified=h in good) for h, s in sorted(self.scores.items()))
        absent = tuple(judge for judge in self.members if judge not in self.votes)
        return CommitteeRow(judges=self.members, absent=absent, verdicts=rows, leader=self.leader)


NO_SITTING = Sitting()


class Judged(NamedTuple):
    """What all judges say of a round's updates; `signatures` are theirs, by judge.

    Attributes:
        sitting: of a committee.
        out: hospitals whose updates are not to go into the model.
    """

    verdicts: Verdicts
    signatures: Mapping[int, bytes] = {}
    sitting: Sitting = NO_SITTING
    out: frozenset[int] = frozenset()

    def counted(self, taken: Taken) -> Taken:
        """What goes into the model; sums of hosts hold everybody's updates, so they do where nobody is out."""
        if not self.out:
            return taken
        return Taken(tuple(u for u in taken.updates if u.hospital not in self.out), taken.lost, None)


class Measured(NamedTuple):
    """What hospitals measured in a round, by hospital; each signs its own share at the end of a run.

    Attributes:
        gradients: evaluations of the updates that were taken.
        tables: confusion matrices of the global model after the round on validation parts.
    """

    round: int
    gradients: Mapping[int, int]
    tables: Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """A hospital's answer to the final global model.

    Attributes:
        validation: confusion matrices of the validation part, under "global" and "personal".
        rows, true: positions of the test beats in the beat arrays, int64[n], and their classes, int8[n].
        predicted, confidence: under "global" and "personal": int8[n], and its softmax in parts of 10,000, int32[n].
        gradient_evaluations: spent on personalisation.
        privacy: what the privacy mechanism says of all that was released; None where there is none.
        triggered, guessed: by model: test beats that a backdoor led to its target, of how many; counts of membership inference.
        signed: the hospital's word on all this and on the last head; None without a ledger.
        sign_seconds: time that checking the ledger, hashing and signing took.
    """

    hospital: int
    validation: dict[str, np.ndarray]
    rows: np.ndarray
    true: np.ndarray
    predicted: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]
    gradient_evaluations: int
    privacy: Mapping[str, Any] | None = None
    triggered: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    guessed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    signed: Any = None
    sign_seconds: float = 0.0


class Ending(NamedTuple):
    """How a run ended, for its ledger to close with.

    Attributes:
        state: one of the ledger's `ENDINGS`.
        missing: hospitals that signed no result -> why, in a sentence.
        config: YAML text.
        data: digest of the beats, hex.
        document: of the result, plain JSON values; {} where none is kept.
        predictions: computes their digest, hex; asked only where a document is kept.
    """

    state: str
    missing: Mapping[int, str]
    config: str
    data: str
    document: Mapping[str, Any] = {}
    predictions: Callable[[], str] = str


@dataclass(frozen=True)
class LoopState:
    """Everything that a later round depends on; a checkpoint is exactly this.

    Attributes:
        round: rounds that are done.
        params: float32[parameters], the global model after them.
        states: hospital id -> private state.
        server: state of the server's optimiser.
        history: one record for each round, as in `result.json`.
        measured: of each round.
        timeline: the virtual clock after it.
        older: rounds that were done -> float32[parameters], the models that jobs under way began from, without the last.
    """

    round: int
    params: np.ndarray
    states: dict[int, State] = field(default_factory=dict)
    server: State = field(default_factory=dict)
    history: tuple[RoundSummary, ...] = ()
    measured: tuple[Measured, ...] = ()
    timeline: Timeline = Timeline()
    older: Mapping[int, np.ndarray] = field(default_factory=dict)


class Global(NamedTuple):
    """The global model, float32[parameters], what the server's optimiser remembers with it, and models before it."""

    params: np.ndarray
    server: State
    older: Mapping[int, np.ndarray] = {}


@dataclass(frozen=True)
class RoundRecord:
    """One finished round, as observers see it.

    Attributes:
        parent, model: names of the models before and after; b"" without a ledger.
        servers: state of the server's optimiser before and after.
        judged: by whom and how; nothing without judges.
        summary: the round's record in `result.json`.
        asked: who was, and from which models.
        older, masking: as of `LoopState`, before the round; what was said of masked sums, see `engine/secure`.
    """

    round: int
    parent: bytes
    model: bytes
    updates: tuple[Update, ...]
    judged: Judged
    summary: RoundSummary
    servers: tuple[State, State]
    asked: Asked
    older: Mapping[int, np.ndarray]
    masking: tuple[Any, ...] = ()


class Observer(Protocol):
    """Listens to the loop; may not change it."""

    def round_finished(self, record: RoundRecord) -> None:
        """Called once after each round, before its checkpoint."""
        ...


class Pool(Protocol):
    """All hospitals of one run. Answers come in the order of the ids that were asked for.

    A hospital that fails is answered by its HospitalError in place of a result; the caller decides what that means.

    Attributes:
        width: hospitals that work at the same time, at most.
    """

    width: int

    def ask(self, terms: Any, ids: Sequence[int]) -> Sequence[Sequence[Any] | HospitalError]:
        """Signed requests for synthetic beats, before the first round; `terms` is what the ledger tells of its policy."""
        ...

    def make(
        self, terms: Any, granted: Mapping[int, Sequence[SyntheticRow]]
    ) -> Sequence[Sequence[Any] | HospitalError]:
        """Makes synthetic beats for requests of each hospital, granted or to be previewed: a signed word on each, in their order.

        There is no deadline: a generator may train for longer than all rounds.
        """
        ...

    def keep(self, accepted: Mapping[int, Sequence[SyntheticRow]]) -> Sequence[HospitalError | None]:
        """Each hospital trains on exactly these synthetic beats besides its real ones."""
        ...

    def train(self, asked: Asked, notice: Any) -> Trained:
        """One round of local work; `notice` is what the ledger tells the hospitals, None without one."""
        ...

    def judge(self, asked: Asked, updates: Sequence[Update], ids: Sequence[int]) -> Sequence[Opinion | HospitalError]:
        """Each of these hospitals of a round scores the models that the others' updates make."""
        ...

    def commit(
        self, asked: Asked, updates: Sequence[Update], notice: Any, ids: Sequence[int]
    ) -> Sequence[Commitment | HospitalError]:
        """Each of these judges scores the updates of a round and commits to its scores; `notice` as for `train`."""
        ...

    def reveal(
        self,
        asked: Asked,
        updates: Sequence[Update],
        commitments: Mapping[int, Commitment],
        notice: Any,
        ids: Sequence[int],
    ) -> Sequence[Vote | HospitalError]:
        """Each of these judges tells its scores, once it is shown everybody's commitments."""
        ...

    def validate(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list[np.ndarray | HospitalError]:
        """Confusion matrices on the validation parts, int64[classes, classes] each."""
        ...

    def finish(self, round: int, params: np.ndarray, notice: Any, ids: Sequence[int]) -> list[Outcome | HospitalError]:
        """Personalisation and test; with a ledger each signs what came of it, and the head after `round`."""
        ...

    def restore(self, states: Mapping[int, State], measured: Sequence[Measured]) -> None:
        """Gives hospitals the private states of a checkpoint, and what they measured so far."""
        ...

    def close(self) -> None:
        """Lets go of processes."""
        ...


class Schedule(Protocol):
    """Who works when, and whose answers count. Depends on its own settings, the round and the state alone."""

    def ask(self, round: int, state: LoopState, model: bytes) -> Asked:
        """The work of a round; `model` names the state's parameters."""
        ...

    def take(self, asked: Asked, trained: Trained) -> Taken:
        """What counts of the answers.

        Raises:
            HospitalError, PulseLedgerError: too few hospitals answered.
        """
        ...


Judges = Callable[[Asked, Taken], Judged]  # who judge a round's updates, before they are merged


@dataclass(frozen=True)
class Rule:
    """From a round's updates to the next global model.

    Attributes:
        name: goes into the journal; the audit executes the rule of that name with arithmetic of its own.
        spec: plain data that, with the name, fixes the arithmetic; goes into the journal, too.
        encode: in the hospital: the change of the parameters, float32[parameters], and the hospital's private state ->
            what is sent, and what joins that state.
        partial: on a host, where the rule is additive: updates -> (their sum int64[parameters], what is wrong with the
            updates that are not in it, by hospital); None: all updates travel.
        join: the sums of several hosts -> the sum of all; updates may be added in any groups with the same bits.
        direction: state, what was taken, verdicts -> where the model goes, float64[parameters]; None: it stays.
        step: the server's optimiser: parameters, direction, its state, round -> float32[parameters], its state after.
        form: what a vector becomes on its way, of whatever is sent in its place, too.
        remembers: name under which the direction joins the server's state, for rules that start from the last one; "" for
            the others.
    """

    name: str
    spec: Mapping[str, Any]
    encode: Callable[[np.ndarray, State], tuple[np.ndarray, State]]
    partial: Callable[[Sequence[Update], int], tuple[np.ndarray, dict[int, str]]] | None
    join: Callable[[Sequence[np.ndarray], int], np.ndarray]
    direction: Callable[[LoopState, Taken, Verdicts], np.ndarray | None]
    step: Callable[[np.ndarray, np.ndarray, State, int], tuple[np.ndarray, State]]
    remembers: str = ""
    form: Callable[[np.ndarray], np.ndarray] = lambda vector: vector

    def merge(self, state: LoopState, taken: Taken, verdicts: Verdicts) -> tuple[np.ndarray, State]:
        """The next global model, float32[parameters] in a new array, and the state of the server's optimiser."""
        if not taken.updates:
            return state.params.copy(), state.server
        if taken.summed is None and self.partial is not None:  # what hosts have added up is not what counts
            taken = replace(taken, summed=self._added(taken.updates, state))
        direction = self.direction(state, taken, verdicts)
        if direction is None:
            return state.params.copy(), state.server
        params, server = self.step(state.params, direction, state.server, state.round + 1)
        return params, {**server, self.remembers: direction} if self.remembers else server

    def again(self, round: int, before: Global, updates: Sequence[Update], summed: np.ndarray | None = None) -> Global:
        """The global model after a round, out of what everybody sent, or with the sums of that.

        Raises:
            HospitalError: an update cannot be added.
        """
        state = LoopState(round - 1, before.params, server=before.server, older=before.older)
        return Global(*self.merge(state, Taken(tuple(updates), (), summed), {}))

    def _added(self, updates: Sequence[Update], state: LoopState) -> np.ndarray:
        assert self.partial is not None
        summed, refused = self.partial(updates, len(state.params))
        for hospital, why in refused.items():
            raise HospitalError(hospital, state.round + 1, "aggregate", why)
        return summed


def survivors(answers: Sequence[Any], min_hospitals: int | None) -> tuple[tuple[Any, ...], tuple[HospitalError, ...]]:
    """Parts answers from failures. Going on with fewer hospitals is something that somebody must ask for.

    Raises:
        HospitalError: the first failure, when `min_hospitals` is None.
        PulseLedgerError: fewer than `min_hospitals` answered; tells the first failure.
    """
    good = tuple(answer for answer in answers if not isinstance(answer, HospitalError))
    lost = tuple(answer for answer in answers if isinstance(answer, HospitalError))
    if lost and min_hospitals is None:
        raise first_of(lost)
    if lost and min_hospitals is not None and len(good) < min_hospitals:
        raise PulseLedgerError(
            f"{len(good)} hospitals answered, federation.min_hospitals is {min_hospitals}; first failure: {lost[0]}"
        )
    return good, lost
