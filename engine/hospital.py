"""One hospital: its own data, its own key, its private state. Nothing here knows where it runs."""

import functools
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.aggregation import masked
from engine.aggregation.build import rule_of
from engine.algorithms.base import Algorithm, Work
from engine.algorithms.budget import noised_samples
from engine.algorithms.build import build_algorithm
from engine.attacks.own import Attack, build_attack
from engine.attacks.poison import HONEST, Conduct, conduct, hostile, lied, target_of, with_trigger
from engine.clock import Stopwatch
from engine.committee.verdicts import PARTS
from engine.config import RunConfig
from engine.data.augment import alter_of
from engine.data.beats import Beats, open_beats
from engine.data.cohort import HospitalData
from engine.data.samples import Samples, believed, judged, predicted
from engine.encoding import canonical_json, hexed
from engine.errors import HospitalError, HospitalLost, LedgerError
from engine.ledger import masking
from engine.ledger.recount import Shown
from engine.ledger.signer import Memory, Notice, Signer, Signing, Terms
from engine.ledger.sitting import counted
from engine.ledger.subjects.committee import require_said, said_digest
from engine.ledger.subjects.masks import require_masks
from engine.ledger.subjects.synthetic import SignedPreview, SignedReport, SignedRequest
from engine.ledger.subjects.updates import Header
from engine.messages import (
    NEWEST,
    Asked,
    Commitment,
    Global,
    Measured,
    Opinion,
    Outcome,
    Rule,
    Signed,
    Start,
    State,
    Update,
    Vote,
)
from engine.metrics import confusion
from engine.model import AnyNetwork, Layout, vector_hash
from engine.oracles.base import Batch, Oracle
from engine.own.call import OwnPartError, is_of_own, told
from engine.own.reference import is_own
from engine.own.source import Source
from engine.privacy.base import NONE
from engine.privacy.build import Mechanisms, build_privacy, oracle_of
from engine.privacy.membership import LEAST, guesses
from engine.privacy.secret import simulated_secret
from engine.result import SyntheticRow
from engine.secure.part import STAGE as MASK
from engine.secure.part import Hidden, Part, Place
from engine.secure.protocol import Transcript
from engine.secure.round import WITHDRAW
from engine.secure.vault import FOLDER as SECURE
from engine.secure.vault import Vault
from engine.seeds import generator
from engine.statement import statement
from engine.synthesis.balance import balanced
from engine.synthesis.config import makes_beats
from engine.synthesis.files import FOLDER
from engine.synthesis.workshop import Workshop, anatomy_of


@dataclass(frozen=True)
class Task:
    """Everything that makes a hospital besides its share of the data; small, and sent once.

    Attributes:
        beats: folder of the cut beats, mapped by every process.
        signing: None when no ledger is kept.
        oracle: what computes gradients, from `choose_oracle`.
        keep_vectors: send each update, too; without, only what the rule adds up leaves a host.
        secure: where hospitals keep what they must not forget of masked sums, see `engine/secure/vault.py`.
        synthetic: where the run's synthetic beats lie, see `engine/synthesis/files.py`.
        sources: of the user's own parts, for processes that have not read their files.
    """

    config: RunConfig
    network: AnyNetwork
    beats: Path
    signing: Signing | None
    oracle: str = "torch"
    keep_vectors: bool = True
    synthetic: Path = Path(FOLDER)
    secure: Path = Path(SECURE)
    sources: tuple[Source, ...] = ()


class Common(NamedTuple):
    """What hospitals of a process need not have each by itself: pure functions of a task, made once."""

    layout: Layout
    algorithm: Algorithm
    rule: Rule
    hostile: frozenset[int]
    attack: Attack


def common_of(task: Task) -> Common:
    """What a task's hospitals have in common."""
    config = task.config
    return Common(
        task.network.layout,
        build_algorithm(config.federation, config.personalisation),
        rule_of(config),
        hostile(config.attack, config.cohort.hospitals, config.seed),
        build_attack(config.attack),
    )


def commons(task: Task) -> Callable[[], Common]:
    """Gives each hospital of a process its own where a part is the user's, who may have it remember something; else all the same."""
    config = task.config
    if any(map(is_own, (config.federation.algorithm, config.aggregation.rule, config.attack.method))):
        return lambda: common_of(task)
    found = common_of(task)
    return lambda: found


@functools.lru_cache(maxsize=4)
def _mapped(folder: Path) -> Beats:
    """The beat arrays, mapped once for all hospitals of a process."""
    return open_beats(folder)


@functools.lru_cache(maxsize=4)
def _patients(folder: Path) -> np.ndarray:
    """int64[beats]: a number of each beat's patient."""
    beats = _mapped(folder)
    return np.unique([record["patient"] for record in beats.records], return_inverse=True)[1][beats.record]


@functools.cache
def _beside() -> ThreadPoolExecutor:
    """Where hospitals of this process compute rounds again while they train."""
    return ThreadPoolExecutor(1, thread_name_prefix="recount")


_hashed: tuple[np.ndarray | None, bytes] = (None, b"")


def _hash_of(params: np.ndarray, layout: Layout) -> bytes:
    """The model hash of the parameters that all hospitals of a process are given in a round, computed once."""
    global _hashed
    known, value = _hashed
    if known is not params:
        value = vector_hash(params, layout)
        _hashed = params, value
    return value


class _Unsent(NamedTuple):
    """An update whose masked form is not sent yet: its round, what else is signed with it, and the private state before it."""

    round: int
    words: tuple[int, dict[str, Any], dict[str, Any] | None, int]
    before: State


_NOTHING = _Unsent(0, (0, {}, None, 0), {})


class Hospital:
    """One hospital. Only this object reads its data.

    Every random number depends on (run seed, purpose, round, hospital), so a repeated call gives the same bits.
    """

    def __init__(self, data: HospitalData, task: Task, oracle: Oracle, common: Common | None = None) -> None:
        """Args: common: as of `commons`; None makes it."""
        self.id = data.id
        self.state: State = {}
        self._task = task
        self._seed = task.config.seed
        self._layout, self._algorithm, self._rule, self._hostile, self._attack = common or common_of(task)
        self._is_hostile = data.id in self._hostile
        self._signer = None if task.signing is None else Signer(self.id, task.signing, task.config.seed)
        self._mechanisms = self._build_privacy()
        self._privacy = NONE  # of the work under way
        beats = _mapped(task.beats)
        self._classes = beats.classes
        private = task.config.privacy
        patients = _patients(task.beats) if private.noised and private.unit == "patient" else None
        self._train, self._validation, self._test = (
            Samples(beats.x, beats.rr, beats.y, index, patient=patients)
            for index in (data.train, data.validation, data.test)
        )
        self._oracle = oracle_of(private, task.network, oracle, self._train)
        self._balanced: Samples | None = None  # the train part as it is trained on
        self._gradients: dict[int, int] = {}  # round -> evaluations of the update that was sent
        self._curve: dict[int, np.ndarray] = {}  # round -> confusion matrix of the global model after it
        self._unsent = _NOTHING
        self._votes: dict[int, Vote] = {}  # round -> what it found of its updates, of the last one that it judged

    def ask(self, terms: Terms) -> tuple[SignedRequest, ...]:
        """Signed requests for synthetic beats; see `Workshop`."""
        return self._guard(0, "ask", lambda: self._workshop.ask(self._signer_for(terms), terms))

    def make(self, terms: Terms, granted: Sequence[SyntheticRow]) -> tuple[SignedReport | SignedPreview, ...]:
        """Makes synthetic beats for granted requests, or previews for those that wait: a signed report on each."""
        return self._guard(0, "make", lambda: self._workshop.make(self._signer_for(terms), terms, granted))

    def keep(self, accepted: Sequence[SyntheticRow]) -> None:
        """From now on the hospital trains on these synthetic beats, too."""
        self._balanced = None
        self._guard(0, "keep", lambda: self._workshop.keep(accepted))

    def train(self, asked: Asked, notice: Notice | None) -> Update:
        """One round of local work; with a ledger, after a look at what the coordinator says of it."""
        return self._guard(asked.round, "train", lambda: self._do_train(asked, notice))

    def withdraw(self, round: int) -> None:
        """Forgets the update of a round: it is not sent."""
        self._gradients.pop(round, None)
        if self._signer is not None:
            self._signer.withdraw()

    def secure(self, step: str, groups: Sequence[Transcript], notice: Notice) -> Any:
        """A step of the masked sums of the round after the last of the notice; `WITHDRAW`: without this hospital after all."""
        round = notice.headers[-1].round + 1
        return self._guard(round, MASK, lambda: self._do_secure(step, groups, notice, round))

    def recall(self, measured: Sequence[Measured]) -> None:
        """Takes up what it measured before an interruption."""
        for one in measured:
            if self.id in one.gradients:
                self._gradients[one.round] = one.gradients[self.id]
            if self.id in one.tables:
                self._curve[one.round] = one.tables[self.id]

    def remember(self, memory: Memory) -> None:
        """Takes up what an earlier process of this hospital knew of the ledger."""
        if self._signer is not None:
            self._signer.restore(memory)

    def judge(self, asked: Asked, updates: Sequence[Update]) -> Opinion:
        """Scores the models that the other updates of a round make on the validation part; with a ledger, signed."""
        return self._guard(asked.round, "judge", lambda: self._do_judge(asked, updates))

    def commit(self, asked: Asked, updates: Sequence[Update], notice: Notice | None) -> Commitment:
        """As a judge of a committee, scores the updates of a round and commits to the scores."""
        return self._guard(asked.round, "judge", lambda: self._do_commit(asked, updates, notice))

    def reveal(
        self,
        asked: Asked,
        updates: Sequence[Update],
        commitments: Mapping[int, Commitment],
        notice: Notice | None,
    ) -> Vote:
        """Tells the scores, once everybody's commitments are shown."""
        return self._guard(asked.round, "judge", lambda: self._do_reveal(asked, updates, commitments, notice))

    def validate(self, round: int, params: np.ndarray) -> np.ndarray:
        """Confusion matrix of `params`, the model after a round, on the validation part."""
        self._curve[round] = self._guard(round, "validate", lambda: self._confusion(params, self._validation))
        return self._curve[round]

    def finish(self, round: int, params: np.ndarray, notice: Notice | None) -> Outcome:
        """Personalises the final model on the train part and tests both models; with a ledger, signs what came of it."""
        outcome = self._guard(round, "finish", lambda: self._do_finish(round, params))
        if self._signer is None:
            return outcome
        return self._guard(round, "ledger", lambda: self._do_sign(round, params, notice, outcome))

    def _do_train(self, asked: Asked, notice: Notice | None) -> Update:
        watch, start, before = Stopwatch(), asked.start_of(self.id), self.state
        if self._signer is not None:
            self._guard(asked.round, "ledger", lambda: self._check(asked.round - 1, asked.params, notice, start))
        recounted = self._recounting(notice)
        watch.lap("sign")
        draw = generator(self._seed, "batches", asked.round, self.id)
        conduct = self._conduct(asked.round)
        work = replace(self._work(start.params, draw, asked.round), round=start.tick, share=start.work)
        result = self._algorithm.local(replace(work, samples=conduct.beats(work.samples)))
        if not np.isfinite(result.update).all():
            raise FloatingPointError("the update is not finite; try a smaller learning rate")
        honest, memory = self._rule.encode(result.update, self.state)
        sent, tricks = asked.crafted.get(self.id) or conduct.send(honest, start.params, self.state)
        if sent is not honest:
            sent = self._rule.form(sent)  # whoever attacks sends in the same form
        self.state = {**result.state, **memory, **tricks, **self._privacy.memory()}
        self._gradients[asked.round] = result.gradient_evaluations
        watch.lap("train")
        signed = None
        self._guard(asked.round, "ledger", recounted)
        if self._signer is not None and notice is not None:
            metrics: dict[str, Any] = {
                "loss": result.loss if np.isfinite(result.loss) else None,
                "gradient_evaluations": result.gradient_evaluations,
            }
            words = (len(self._train), metrics, self._privacy.price(result.gradient_evaluations), start.round)
            if self._hides:
                self._part.hold(asked.round, masked.numbers(self._rule.spec["weighting"], len(self._train), sent))
                self._unsent = _Unsent(asked.round, words, before)
            else:
                signed = Signed(*self._signer.update(notice, vector_hash(sent, self._layout), *words))
        watch.lap("sign")
        return Update(
            hospital=self.id,
            vector=None if self._hides else sent,
            samples=len(self._train),
            loss=result.loss,
            gradient_evaluations=result.gradient_evaluations,
            state=self.state,
            signed=signed,
            sign_seconds=watch.laps["sign"],
            discount=start.discount,
            start=start.round if start.round < asked.round - 1 else NEWEST,
        )

    @property
    def _hides(self) -> bool:
        return self._task.config.aggregation.secure.groups > 0

    @functools.cached_property
    def _part(self) -> Part:
        """This hospital's part in masked sums."""
        assert self._signer is not None  # no masks without a ledger
        vault = Vault(self._task.secure, self.id)
        drawn = vault.secret() if self._task.config.ledger.keystore is not None else b""
        return Part(self.id, self._task.config.aggregation.secure, self._signer.mask_secret(drawn), vault)

    def _do_secure(self, step: str, groups: Sequence[Transcript], notice: Notice, round: int) -> Any:
        assert self._signer is not None
        assert self._task.signing is not None
        if step == WITHDRAW:
            self._part.drop()
            self._gradients.pop(round, None)
            if self._unsent.round == round:
                self.state, self._unsent = self._unsent.before, _NOTHING
            if self._signer.memory is not None and self._signer.memory.round == round:
                self._signer.withdraw()
            return None
        place = Place(self._task.signing.federation, round, notice.headers[-1].head)
        answer = self._part.answer(step, groups, place, self._signer.voice(notice))
        if not isinstance(answer, Hidden):
            return answer
        commitment = next(one.keys[self.id].commitment for one in groups if self.id in one.keys)
        return answer._replace(signed=Signed(*self._signer.update(notice, commitment, *self._unsent.words)))

    def _recounting(self, notice: Notice | None) -> Callable[[], None]:
        """Begins to compute the last round again, beside the training; returns what waits for it before this signs on."""
        if self._signer is None or notice is None or notice.shown is None or not self._signer.is_drawn(notice):
            return lambda: None
        return _beside().submit(self._recount, notice).result

    def _recount(self, notice: Notice) -> None:
        """Computes the model of the last round from what everybody sent.

        Raises:
            LedgerError: it is another one than the head commits to, or what is shown is not what was signed.
        """
        assert self._signer is not None
        assert notice.shown is not None
        header, shown = notice.headers[-1], notice.shown
        before, summed = Global(shown.before, dict(shown.server), shown.older), None
        groups = self._shown_groups(header, shown)

        def name(slot: int, vector: np.ndarray) -> bytes:
            return masking.require_named(groups, slot, vector) if groups else vector_hash(vector, self._layout)

        updates = [
            Update(u.slot, u.vector, u.samples, 0.0, 0, discount=u.discount, start=u.start)
            for u in self._signer.weighed(notice, self._layout, name)
        ]
        if groups:
            summed = masking.sums_of(groups, {u.hospital: u.vector for u in updates if u.vector is not None})
        if self._task.config.committee.gate:
            committee = self._task.config.committee
            said = require_said(header.round, shown.sitting, shown.digests[1], committee.percent, committee.claims)
            updates = counted(updates, said)
        after = self._rule.again(header.round, before, updates, summed)
        found = vector_hash(after.params, self._layout)
        if found != header.model:
            raise LedgerError(
                f"the updates of round {header.round} give model {hexed(found)}, the coordinator has made {hexed(header.model)}"
            )
        self._signer.require_remembered(notice, after.server)

    def _shown_groups(self, header: Header, shown: Shown) -> tuple[Transcript, ...]:
        """What was said of masked sums in the round that is computed again."""
        require_masks(header.round, shown.masks, shown.digests[1])
        assert self._task.signing is not None
        place = Place(self._task.signing.federation, header.round, header.previous_head)
        return masking.groups_in(shown.masks, self._task.config.aggregation.secure, place)

    def _do_judge(self, asked: Asked, updates: Sequence[Update]) -> Opinion:
        others = {u.hospital: u.vector for u in updates if u.hospital != self.id and u.vector is not None}
        tables = {h: self._confusion(asked.params + vector, self._validation) for h, vector in others.items()}
        scores = {h: (int(np.trace(table)), int(table.sum())) for h, table in tables.items()}
        if self._signer is None:
            return Opinion(scores, b"")
        said = [(h, vector_hash(others[h], self._layout), *scores[h]) for h in sorted(others)]
        return Opinion(scores, self._signer.scores(asked.round, said))

    def _do_commit(self, asked: Asked, updates: Sequence[Update], notice: Notice | None) -> Commitment:
        vote = self._vote(asked, updates)
        if self._signer is None or notice is None:
            return Commitment(b"", b"")
        if not self._signer.has_signed(notice):  # who trained in the round has checked before it did
            self._check(asked.round - 1, asked.params, notice)
        return Commitment(*self._signer.commitment(notice, self._said(vote, updates)))

    def _do_reveal(
        self, asked: Asked, updates: Sequence[Update], commitments: Mapping[int, Commitment], notice: Notice | None
    ) -> Vote:
        vote = self._vote(asked, updates)
        if self._signer is None or notice is None:
            return vote
        shown = {judge: one.digest for judge, one in commitments.items()}
        signature = self._signer.revealed(notice, self._said(vote, updates), shown)
        return vote._replace(salt=self._signer.scores_salt(asked.round), signature=signature)

    def _vote(self, asked: Asked, updates: Sequence[Update]) -> Vote:
        """What this judge finds of the updates, of its own only where one leads; found once a round, and again where its process was lost."""
        if asked.round not in self._votes:
            how, labels = self._task.config.committee, self._validation.labels()
            vectors = {u.hospital: u.vector for u in updates if u.vector is not None}
            models = {h: asked.params + v for h, v in vectors.items() if h != self.id or how.leader}

            def told(numbers: np.ndarray) -> tuple[int, ...]:
                return tuple(int(n) for n in (numbers if how.scores == "classes" else [numbers.sum()]))

            def right(params: np.ndarray) -> np.ndarray:
                """Right predictions of each class, or the probabilities of the true one in parts of 10,000."""
                if how.measure == "accuracy":
                    return np.diag(self._confusion(params, self._validation))
                found = believed(self._oracle, params, self._validation)
                return np.floor(PARTS * np.bincount(labels, found, len(self._classes)))

            unit = 1 if how.measure == "accuracy" else PARTS
            counts = unit * np.bincount(labels, minlength=len(self._classes))
            vote = Vote(told(counts), {h: told(right(params)) for h, params in models.items()})
            lies = self._is_hostile and how.hostile == "lie"
            self._votes = {asked.round: lied(vote, self._hostile) if lies else vote}
        return self._votes[asked.round]

    def _said(self, vote: Vote, updates: Sequence[Update]) -> bytes:
        hashes = {u.hospital: vector_hash(u.vector, self._layout) for u in updates if u.vector is not None}
        return said_digest(vote.totals, {h: (hashes[h], right) for h, right in vote.correct.items()})

    def _work(self, params: np.ndarray, draw: np.random.Generator, round: int = 0) -> Work:
        config, drawn = self._task.config, generator(self._seed, "augment", round, self.id)
        alter = alter_of(config.augment, drawn, 1 if config.data.template == "none" else 2)
        samples = replace(self._to_train_on(), alter=alter)
        self._privacy = self._mechanisms(round, params, self.state, samples)
        shown = self._privacy.shown(samples)
        return Work(self._oracle, self._layout, params, self.state, shown, draw, round, self._privacy, self._validation)

    def _conduct(self, round: int) -> Conduct:
        """Honest, but in a simulated attack."""
        if not self._is_hostile:
            return HONEST
        return conduct(self._task.config.attack, self._classes, self._seed, self.id, round, self._attack)

    def _build_privacy(self) -> Mechanisms:
        config = self._task.config

        def secret() -> bytes:
            if config.privacy.secret == "simulated":
                return simulated_secret(self._seed, self.id)
            if self._signer is None:
                raise LedgerError("privacy.secret key needs a ledger, whose keystore holds the hospital's key")
            return self._signer.secret()

        budget = noised_samples(config.federation, config.personalisation, config.privacy.steps)
        draw = functools.partial(generator, self._seed, "privacy", hospital=self.id)
        return build_privacy(config.privacy, self._task.network, budget, draw, secret)

    def _to_train_on(self) -> Samples:
        if self._balanced is None:
            balance = self._task.config.balance
            added = self._workshop.added() if makes_beats(balance.method) else None
            self._balanced = balanced(self._train, balance, self._classes, self._seed, self.id, added)
        return self._balanced

    @functools.cached_property
    def _workshop(self) -> Workshop:
        anatomy = anatomy_of(_mapped(self._task.beats))
        return Workshop(self.id, self._task.config, self._train, self._validation, anatomy, self._task.synthetic)

    def _signer_for(self, terms: Terms) -> Signer:
        """This hospital's own; where no ledger is kept, one for what is asked and reported."""
        return self._signer if self._signer is not None else Signer(self.id, terms.signing, self._seed)

    def _check(self, round: int, params: np.ndarray, notice: Notice | None, start: Start | None = None) -> None:
        """Requires the ledger to stand after `round`, with this model, and `start` to be one that it has sealed."""
        assert self._signer is not None
        if notice is None or not notice.headers or notice.headers[-1].round != round:
            raise LedgerError(f"the coordinator does not show the head of round {round}")
        if _hash_of(params, self._layout) != notice.model:
            raise LedgerError("the model that was given is not the one that would be signed for")
        self._signer.check(notice)
        if start is None or start.params is params:
            return
        if vector_hash(start.params, self._layout) != self._signer.model_after(notice, start.round):
            raise LedgerError(f"the model that was given is not the one after round {start.round}")

    def _do_sign(self, round: int, params: np.ndarray, notice: Notice | None, outcome: Outcome) -> Outcome:
        watch = Stopwatch()
        assert self._signer is not None
        self._check(round, params, notice)
        assert notice is not None
        self._recounting(notice)()
        parts = {"train": self._train, "validation": self._validation, "test": self._test}
        own = statement(_mapped(self._task.beats), parts, outcome, sum(self._gradients.values()), self._curve)
        signed = self._signer.result(notice, canonical_json(own))
        return replace(outcome, signed=signed, sign_seconds=watch.total)

    def _do_finish(self, round: int, params: np.ndarray) -> Outcome:
        personal, cost = params, 0
        self._privacy = self._mechanisms(0, params, self.state, self._train)
        if len(self._validation) or len(self._test):  # else nobody would look at a personal model
            draw = generator(self._seed, "personalise", round, self.id)
            personal, cost = self._algorithm.personalise(self._work(params, draw))
        models = {"global": params, "personal": personal}
        told = {name: judged(self._oracle, model, self._test) for name, model in models.items()}
        return Outcome(
            hospital=self.id,
            validation={name: self._confusion(model, self._validation) for name, model in models.items()},
            rows=self._test.index,
            true=self._test.labels(),
            predicted={name: classes for name, (classes, _) in told.items()},
            confidence={name: sure for name, (_, sure) in told.items()},
            gradient_evaluations=cost,
            privacy=self._privacy.price(cost),
            triggered=self._triggered(models),
            guessed=self._guessed(models),
        )

    def _guessed(self, models: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
        """How well each model tells the train part from the test part; nothing where that is not asked for, or a part is small."""
        if not self._task.config.privacy.membership or min(len(self._train), len(self._test)) < LEAST:
            return {}
        return {
            name: (*guesses(*(believed(self._oracle, model, part) for part in (self._train, self._test))),)
            for name, model in models.items()
        }

    def _triggered(self, models: Mapping[str, np.ndarray]) -> dict[str, tuple[int, int]]:
        """Of a simulated backdoor: test beats of other classes that each model calls the target under the trigger, and all such beats."""
        attack = self._task.config.attack
        if attack.method != "backdoor":
            return {}
        target = target_of(attack, self._classes)
        others = self._test.labels() != target
        said = {name: self._predict(model, self._test, with_trigger) for name, model in models.items()}
        return {name: (int((found[others] == target).sum()), int(others.sum())) for name, found in said.items()}

    def _predict(
        self, params: np.ndarray, samples: Samples, seen: Callable[[Batch], Batch] = lambda batch: batch
    ) -> np.ndarray:
        return predicted(self._oracle, params, samples, seen)

    def _confusion(self, params: np.ndarray, samples: Samples) -> np.ndarray:
        return confusion(samples.labels(), self._predict(params, samples), len(self._classes))

    def _guard(self, round: int, stage: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except HospitalError:
            raise
        except (Exception, SystemExit) as error:  # code of a user's own may want to end the program
            # memory that is short now may be there at the next attempt
            kind = HospitalLost if isinstance(error, MemoryError) else HospitalError
            text = told(error) if is_of_own(error) else f"{type(error).__name__}: {error}"
            if isinstance(error, OwnPartError):  # which says all in its sentence
                text = str(error)
            raise kind(self.id, round, stage, text.rstrip("."), traceback.format_exc()) from error
