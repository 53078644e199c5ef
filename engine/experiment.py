"""run(config) -> result: the one place where the parts are joined."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine import checkpoint
from engine.actors import start_ray, stop_ray
from engine.aggregation.build import rule_of
from engine.algorithms.build import build_algorithm
from engine.association.build import Miners
from engine.attacks.poison import hostile
from engine.attacks.pool import attacked
from engine.clock import REAL, Clock
from engine.committee.build import build_committee, require_room, seat, trainers_of
from engine.config import RunConfig, config_hash
from engine.data.beats import Beats
from engine.data.cohort import Cohort, HospitalData, build_cohort
from engine.data.config import CohortConfig, DataConfig
from engine.encoding import json_hash
from engine.errors import ConfigError, HospitalError, Stopped
from engine.homes import claim, kind_of
from engine.hospital import Task
from engine.ledger import archive
from engine.ledger.base import NO_LEDGER, LoopLedger
from engine.ledger.config import FIRST, Leader
from engine.ledger.format import ASSOCIATION, PRIVACY, ZERO
from engine.ledger.keystore import read_registry, with_key
from engine.ledger.masking import build_masking
from engine.ledger.observer import LedgerObserver
from engine.ledger.signing import address, hospital_key
from engine.ledger.subjects.privacy import terms_digest
from engine.ledger.subjects.registry import Federation as LedgerFederation
from engine.ledger.subjects.succession import require_named, require_successors
from engine.messages import Asked, Ending, Judges, LoopState, Observer, Outcome, Pool, Rule, survivors
from engine.model import SHORTEST, AnyNetwork, build_network, initial_parameters, vector_hash
from engine.oracles.build import choose_oracle
from engine.outputs import (
    assemble,
    draw_picture,
    predictions,
    predictions_digest,
    privacy_report,
    privacy_terms,
    write_outputs,
)
from engine.own.reference import digests, require_same, titled
from engine.own.source import FOLDER as OWN_FOLDER
from engine.own.source import hold, of_digests
from engine.parts import require_parts
from engine.paths import write_config
from engine.pools.build import build_pool
from engine.result import MODEL, PICTURE, PREDICTIONS, RESULT, LedgerSummary, Result, SyntheticRow
from engine.rounds import Parts, Validation, run_rounds
from engine.schedule.build import build_schedule
from engine.schedule.judges import Peers, nobody
from engine.secure.vault import FOLDER as SECURE_FOLDER
from engine.settings import load_yaml
from engine.synthesis.config import makes_beats
from engine.synthesis.files import FOLDER as SYNTHETIC_FOLDER
from engine.synthesis.govern import govern
from engine.virtual import miners_of, timed, waits_for_all

CONFIG = "config.yaml"  # in a run's folder: what it really used


@dataclass(frozen=True)
class Place:
    """Where a run works, and who listens; for runs that are part of something larger.

    Attributes:
        attempt: number of this attempt at the run; a newer one stops an older.
        observers: told after each round.
        note: told in plain words what is going on.
        stopping: asked after each checkpoint whether to end there with `Stopped`.
        pruned: asked when a run is left at a rung: whether for good, so that its ledger is closed.
        cohort, pool: what makes the hospitals' data, and the place where they live; a caller may give others.
        parts: makes other parts of the loop from those of the settings.
        leader: who works as coordinator.
    """

    attempt: int = 0
    observers: tuple[Observer, ...] = ()
    note: Callable[[str], None] = lambda text: None
    stopping: Callable[[], bool] = lambda: False
    pruned: Callable[[], bool] = lambda: False
    cohort: Callable[[DataConfig, CohortConfig, Callable[[str], None]], Cohort] = build_cohort
    pool: Callable[[Sequence[HospitalData], Task], Pool] = build_pool
    parts: Callable[[Parts], Parts] = lambda parts: parts
    leader: Leader = FIRST


HERE = Place()


def run(config: RunConfig, folder: Path, place: Place = HERE) -> Result:
    """Trains and tests one federation, or goes on with one that was interrupted.

    Everything is written into `folder`; a finished run there is returned as it is, a checkpoint is continued. The
    result does not depend on where hospitals live, on interruptions, or on the ledger.

    Raises:
        ReviewPending: a request for synthetic beats waits for a reviewer.
        PulseLedgerError: a setting, file or resource is not usable, or a hospital failed.
    """
    return drained(steps(config, folder, place))


def steps(
    config: RunConfig, folder: Path, place: Place = HERE, rungs: Sequence[int] = ()
) -> Generator[Result, None, Result]:
    """`run` in chunks: yields what the result would be after each round of `rungs`, and returns the result.

    Hospitals stay where they are between chunks. The chunks change no number. A generator that is closed early leaves
    a checkpoint and a ledger that holds every round so far, or, where the run was pruned, says that it ended there.
    A rung that the checkpoint has passed is left out.
    """
    with placed(config, folder, place) as there:
        return (yield from _steps(config, folder, there, rungs))


@contextlib.contextmanager
def placed(config: RunConfig, folder: Path, place: Place) -> Iterator[Place]:
    """Where the hospitals of a run are: at sites that join it for as long as it is not finished, else as `place` says."""
    if config.execution.pool != "sites" or (folder / RESULT).exists():
        yield place
        return
    from engine.sites.coordinate import sited  # with gRPC, which no other run needs

    with sited(config, place.note) as sites:
        yield replace(place, cohort=sites.cohort, pool=sites.pool)


def _steps(config: RunConfig, folder: Path, place: Place, rungs: Sequence[int]) -> Generator[Result, None, Result]:
    hashed = config_hash(config)
    if rungs and config.privacy.method == "dp-sgd":
        raise ConfigError(
            f"privacy.method {config.privacy.method} does not go with pruning: each look at a model on the way is a release that "
            "no budget has room for; take sampler settings without a pruner."
        )
    require_named(config.ledger, place.leader)
    claim_run(folder, config)
    if (folder / RESULT).exists():
        result = Result.read(folder, hashed)
        if place.leader.name:
            place.note(f"{folder} is finished: {place.leader.name} has nothing to lead")
        draw_picture(folder, result, place.note)
        return result
    spent = _Spent()
    checkpoint.fence(folder, place.attempt)
    with ray_of(config), contextlib.ExitStack() as stack:
        joined, state = join(config, hashed, folder, place, stack)
        spent.begin_loop()
        for rung in sorted(r for r in rungs if state.round <= r < joined.parts.rounds):
            state = joined.advance(state, rung)
            so_far, scored = joined.scored(state, spent)
            with spent.paused():
                try:
                    yield so_far
                except GeneratorExit:
                    joined.leave(scored)
                    raise
        state = joined.advance(state, joined.parts.rounds)
        result, scored = joined.scored(state, spent)
        table = predictions(joined.cohort, scored.outcomes)
        last = spent.clock.now()
        held = joined.close(scored, result, lambda: predictions_digest(table))
        closing = spent.clock.now() - last
        result = result.ended(spent.total(), joined.ledger_summary(held, state, scored, spent, closing))
    joined.parts.ledger.bundle(result.document(), joined.config_text)
    checkpoint.fence(folder, place.attempt)
    write_outputs(folder, result, table, joined.network, state.params)
    draw_picture(folder, result, place.note)
    return result


def claim_run(folder: Path, config: RunConfig) -> None:
    """Makes the folder of a run, or finds it again; from its first moment on `resume` knows what was to be run.

    Raises:
        ConfigError: somebody else's files are there, or a part of the user's own is wrong or was edited.
    """
    written = (
        CONFIG,
        RESULT,
        MODEL,
        PREDICTIONS,
        PICTURE,
        checkpoint.NAME,
        "ledger",
        SYNTHETIC_FOLDER,
        SECURE_FOLDER,
        OWN_FOLDER,
    )
    if (folder / RESULT).exists() and not kind_of(folder):
        Result.read(folder)  # of an earlier release, or none of ours
        return
    if kind_of(folder) == "run" and (folder / CONFIG).exists():
        require_same(folder, load_yaml(folder / CONFIG), config)
        hold(folder, digests(config))
    if not (folder / RESULT).exists():
        require_parts(config)
    claim(folder, "run", written)
    hold(folder, digests(config))
    if not (folder / CONFIG).exists():
        write_config(folder / CONFIG, config)


@dataclass
class _Spent:
    """Seconds of a run, without the pauses between its chunks, which are nobody's work."""

    clock: Clock = REAL
    _pauses: float = 0.0
    _began: float = field(init=False)
    _loop: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self._loop = self.clock.now()

    def begin_loop(self) -> None:
        """The first round begins now."""
        self._loop = self.clock.now()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count."""
        left = self.clock.now()
        yield
        self._pauses += self.clock.now() - left

    def total(self) -> float:
        """Since the run began."""
        return self.clock.now() - self._began - self._pauses

    def loop(self) -> float:
        """Since the first round began."""
        return self.clock.now() - self._loop - self._pauses


@dataclass(frozen=True)
class Scored:
    """What hospitals made of a model.

    Attributes:
        outcomes: of the cohort's hospitals.
        signed: what hospitals signed, by id; the imaginary one of pooled data does, too.
        missing: hospitals that failed, and how.
        sign_seconds: that it took longer as hospitals signed.
    """

    outcomes: tuple[Outcome, ...]
    signed: Mapping[int, Any]
    missing: Mapping[int, str]
    sign_seconds: float


@dataclass(frozen=True)
class Federation:
    """One run with all its parts joined.

    Attributes:
        config: as it is really used.
        hospitals: of the cohort, and the imaginary one of pooled data.
        requests: how the requests for synthetic beats ended; None where none are made.
    """

    config: RunConfig
    hashed: str
    folder: Path
    place: Place
    cohort: Cohort
    hospitals: tuple[HospitalData, ...]
    network: AnyNetwork
    parts: Parts
    requests: tuple[SyntheticRow, ...] | None
    miners: Miners

    @property
    def config_text(self) -> str:
        """The configuration as it lies in the folder."""
        return (self.folder / CONFIG).read_text(encoding="utf-8")

    def advance(self, state: LoopState, rounds: int) -> LoopState:
        """Runs the loop up to a round, with a checkpoint after each."""

        def save(new: LoopState) -> None:
            pending, data = self.parts.ledger.pending(), self.cohort.beats.digest
            checkpoint.save(self.folder, new, self.hashed, pending, self.place.attempt, data)
            if new.round < self.parts.rounds and self.place.stopping():
                raise Stopped(f"{self.folder}: stopped after round {new.round}.")

        return run_rounds(state, replace(self.parts, rounds=rounds), self.place.observers, save)

    def scored(self, state: LoopState, spent: _Spent) -> tuple[Result, Scored]:
        """The result as of `state`, and what the hospitals made of its model."""
        ledger, everybody = self.parts.ledger, tuple(h.id for h in self.hospitals)
        ledger.finish()
        notice = ledger.notice(Asked(state.round + 1, everybody, state.params, ledger.name(state.params)))
        answers = self.parts.pool.finish(state.round, state.params, notice, everybody)
        good, _ = survivors(answers, self.config.federation.min_hospitals)
        failed = [answer for answer in answers if isinstance(answer, HospitalError)]
        cohort = {h.id for h in self.cohort.hospitals}
        scored = Scored(
            tuple(one for one in good if one.hospital in cohort),
            {one.hospital: one.signed for one in good},
            {error.hospital: str(error) for error in failed},
            sum(one.sign_seconds for one in good) / self.parts.pool.width,
        )
        summary = self.ledger_summary(ledger.summary(), state, scored, spent)
        run = (self.config, self.hashed, self.cohort, self.network, state, scored.outcomes)
        lost = list(scored.missing.values())
        enemies = hostile(self.config.attack, len(self.cohort.hospitals), self.config.seed)
        said = {one.hospital: one.privacy for one in good}
        privacy = privacy_report(self.config, self.cohort, {h.id: said.get(h.id) for h in self.hospitals})
        miners = self.miners.report(state.history[-1].train_loss if state.history else None)
        return assemble(*run, summary, spent.total(), self.requests, lost, enemies, privacy, miners), scored

    def close(self, scored: Scored, result: Result, predictions: Callable[[], str]) -> dict[str, Any]:
        """Closes the ledger over a result and what the hospitals signed; returns what it holds."""
        data = self.cohort.beats.digest
        ending = Ending("complete", scored.missing, self.config_text, data, result.document(), predictions)
        return self.parts.ledger.close(scored.signed, ending)

    def leave(self, scored: Scored) -> None:
        """Lets go at a rung: for good where the run was pruned."""
        if not self.place.pruned():
            self.parts.ledger.leave()
            return
        ending = Ending("pruned", scored.missing, self.config_text, self.cohort.beats.digest)
        self.parts.ledger.close(scored.signed, ending)

    def ledger_summary(
        self, held: Mapping[str, Any], state: LoopState, scored: Scored, spent: _Spent, closing: float = 0.0
    ) -> LedgerSummary:
        """What the ledger holds, and what it cost so far; `closing` are seconds."""
        seconds = ledger_seconds(self.parts.ledger, state, scored.sign_seconds, spent.loop() - closing, closing)
        return LedgerSummary.model_validate({**held, **seconds})


def ledger_seconds(
    ledger: LoopLedger, state: LoopState, signing: float, loop: float, closing: float = 0.0
) -> dict[str, float]:
    """What the ledger cost; {} where nobody signs.

    Args:
        signing: seconds of the hospitals' signatures at the end.
        loop: seconds from the first round until the last model is scored.
        closing: seconds after that.
    """
    if ledger.signing is None:
        return {}
    critical = ledger.seconds + signing + sum(row.hash_seconds + row.sign_seconds for row in state.history)
    return {
        "open_seconds": ledger.open_seconds,
        "close_seconds": closing,
        "critical_path_seconds": critical,
        "overhead_share": critical / max(loop, sum(row.seconds for row in state.history)),
    }


def join(
    config: RunConfig, hashed: str, folder: Path, place: Place, stack: contextlib.ExitStack
) -> tuple[Federation, LoopState]:
    """Joins the parts of a run, and takes up its checkpoint; `stack` lets go of what was opened."""
    cohort = place.cohort(config.data, config.cohort, place.note)
    beats = cohort.beats
    enemies = hostile(config.attack, len(cohort.hospitals), config.seed)
    hospitals, trainers = _trainers(config, cohort.hospitals, enemies)
    require_network(config, beats)
    network = build_network(config.model, *beats.shape, beats.rr.shape[1], len(beats.classes))
    loaded = checkpoint.load(folder, hashed, beats.digest)
    state, pending = loaded or (LoopState(0, initial_parameters(network, config.seed)), [])
    if state.round:
        place.note(f"going on after round {state.round}")
    oracle = choose_oracle(config.execution, network, place.note)
    # what was really used: a resumed run asks for the same, as another oracle would give other last bits
    config = config.model_copy(update={"execution": config.execution.model_copy(update={"oracle": oracle})})
    write_config(folder / CONFIG, config)

    rule, miners = rule_of(config), miners_of(config, hospitals, trainers, network.size)
    trainers = miners.trainers(trainers)
    wanted = max(1, round(config.federation.participation * len(trainers)))
    per_round = trainers_of(config.committee, wanted, len(trainers))
    identity = _federation_id(config, hashed, beats.digest)
    given = (hospitals, rule, per_round, miners.digest(), place.leader)
    ledger = open_ledger(config, hashed, identity, folder, network, *given)
    stack.callback(ledger.abandon)
    ledger.replay(pending, state.round, rule.again)
    place.note(f"starting {len(hospitals)} hospitals")
    judged = config.committee.method != "none"
    keep = ledger.wants_vectors or rule.partial is None or bool(enemies) or judged
    home = folder.absolute()  # other processes may stand in other folders
    own = (home / SYNTHETIC_FOLDER, home / SECURE_FOLDER)
    task = Task(config, network, beats.folder, ledger.signing, oracle, keep, *own, of_digests(digests(config)))
    pool = attacked(place.pool(hospitals, task), config.attack, enemies, rule)
    stack.callback(pool.close)
    requests = _synthetic(config, identity, folder, place, ledger, pool, _keepers(cohort, hospitals))
    if state.round:
        pool.restore(state.states, state.measured)
    validators = tuple(h.id for h in cohort.hospitals if len(h.validation))
    scoring = tuple(h for h in validators if h not in enemies)
    least = config.federation.min_hospitals
    seats = tuple(h for h in trainers if h in validators)
    schedule = build_schedule(config.schedule, config.selection, config.seed, trainers, per_round, least)
    schedule = timed(schedule, config, hospitals, network.size, miners.rates)
    parts = Parts(
        rounds=config.federation.rounds,
        pool=pool,
        schedule=seat(config.committee, schedule, seats, lambda params: vector_hash(params, network.layout)),
        rule=rule,
        validation=Validation(
            scoring, beats.classes, cohort.scored, config.federation.validation == "participants", least
        ),
        judges=_judges(config, pool, validators if config.committee.method == "others" else seats, ledger),
        ledger=ledger,
        masking=build_masking(config, pool, ledger.signing, rule, trainers, per_round),
    )
    return Federation(
        config, hashed, folder, place, cohort, hospitals, network, place.parts(parts), requests, miners
    ), state


def _trainers(
    config: RunConfig, hospitals: tuple[HospitalData, ...], enemies: frozenset[int]
) -> tuple[tuple[HospitalData, ...], tuple[int, ...]]:
    """All hospitals, the imaginary one of pooled data among them, and the ids of those who may train."""
    if build_algorithm(config.federation, config.personalisation).pooled:
        return (*hospitals, _pooled(hospitals)), (len(hospitals),)
    left_out = enemies if config.attack.method == "left-out" else frozenset()
    return hospitals, tuple(h.id for h in hospitals if h.trains and h.id not in left_out)


def _judges(config: RunConfig, pool: Pool, validators: Sequence[int], ledger: LoopLedger) -> Judges:
    if config.committee.method != "none":
        return build_committee(config.committee, pool, validators, ledger.notice)
    return Peers(pool, validators) if config.ledger.reputation == "peers" else nobody


def require_network(config: RunConfig, beats: Beats) -> None:
    """
    Raises:
        ConfigError: the built-in network, or what alters beats, cannot work on such samples.
    """
    if config.augment.active and beats.features:
        raise ConfigError(f"augment alters signals, and {titled(config.data.source)} gives features; allowed: zeros.")
    if config.model.network == "cnn" and (beats.features or beats.shape[1] < SHORTEST):
        raise ConfigError(
            f"model.network: cnn looks along signals of at least {SHORTEST} samples, and {titled(config.data.source)} gives "
            f"{len(beats.features) or beats.shape[1]} {'features' if beats.features else 'samples'}; name a network of your own."
        )


def _synthetic(
    config: RunConfig,
    identity: bytes,
    folder: Path,
    place: Place,
    ledger: LoopLedger,
    pool: Pool,
    keepers: Mapping[int, Sequence[int]],
) -> tuple[SyntheticRow, ...] | None:
    """Brings the requests for synthetic beats to their end, if the run makes any."""
    if not makes_beats(config.balance.method):
        return None

    def note(text: str) -> None:
        place.note(text)
        if place.stopping():  # generators may train for longer than all rounds
            raise Stopped(f"{folder}: stopped while synthetic beats were made.")

    return govern(config, folder, ledger, identity, pool, keepers, note)


def _keepers(cohort: Cohort, hospitals: Sequence[HospitalData]) -> dict[int, tuple[int, ...]]:
    """Hospital -> those whose synthetic beats it trains on; the imaginary one has everybody's whose data it pools."""
    own = {h.id for h in cohort.hospitals}
    everybody = tuple(h.id for h in cohort.hospitals if h.trains)
    return {h.id: (h.id,) if h.id in own else everybody for h in hospitals}


def drained(chunks: Generator[Any, None, Result]) -> Result:
    """What a generator returns at its end."""
    while True:
        try:
            next(chunks)
        except StopIteration as end:
            return end.value


@contextlib.contextmanager
def ray_of(config: RunConfig) -> Iterator[None]:
    """A Ray for a run whose hospitals live there, for as long as nobody else keeps one."""
    started = config.execution.pool == "ray" and start_ray(config.execution)
    try:
        yield
    finally:
        if started:
            stop_ray()


def _pooled(hospitals: Sequence[HospitalData]) -> HospitalData:
    """The imaginary hospital of the centralised reference line: everybody's train data."""
    train = np.sort(np.concatenate([h.train for h in hospitals if h.trains]))
    none = np.zeros(0, np.int64)
    return HospitalData(len(hospitals), train, none, none)


def _federation_id(config: RunConfig, hashed: str, data: str) -> bytes:
    """What every signature commits to: the settings, the digest of the beats, and the names of the run."""
    return json_hash({"config": hashed, "data": data, "name": config.name, "label": config.ledger.federation})


def _require_judges(hospitals: Sequence[HospitalData], per_round: int) -> None:
    """Whoever takes part in a round, each has another who can score its update.

    Raises:
        ConfigError: a round may lack two hospitals with validation beats.
    """
    if per_round < 2:
        raise ConfigError(
            f"ledger.reputation: peers needs at least two hospitals in a round to score each other, this run has {per_round}."
        )
    without = [h.id for h in hospitals if h.trains and not len(h.validation)]
    if per_round - len(without) < 2:
        raise ConfigError(
            "ledger.reputation: peers needs at least two hospitals with validation beats in every round; "
            f"{'hospital' if len(without) == 1 else 'hospitals'} {', '.join(map(str, without))} of rounds of {per_round} "
            "have none (cohort.fractions, cohort.split, data.classes)."
        )


def _drawn_slots(checks: int, slots: int, per_round: int) -> int:
    """How many slots are drawn, so that on average `checks` of them take part in the next round and compute this one again."""
    return min(slots, -(-checks * slots // per_round))


def open_ledger(
    config: RunConfig,
    hashed: str,
    identity: bytes,
    folder: Path,
    network: AnyNetwork,
    hospitals: Sequence[HospitalData],
    rule: Rule,
    per_round: int,
    association: bytes = ZERO,
    leader: Leader = FIRST,
) -> LoopLedger:
    """The ledger of a run: opened or created in its folder, or the one that keeps nothing.

    Raises:
        LedgerError: the node is unreachable, or journal, chain and this run contradict each other.
    """
    if config.ledger.backend == "none":
        return NO_LEDGER
    require_room(config.committee, per_round, len(config.data.labels))
    if config.ledger.reputation == "peers":
        _require_judges(hospitals, per_round)
    genesis = initial_parameters(network, config.seed)
    addresses = tuple(address(hospital_key(config.seed, identity, h.id)) for h in hospitals)
    organisations: tuple[bytes, ...] = ()
    if config.ledger.keystore is not None:
        addresses, organisations = read_registry(Path(config.ledger.keystore), len(hospitals))
    federation = LedgerFederation(
        id=identity,
        config_hash=bytes.fromhex(hashed),
        hospitals=addresses,
        genesis_model=vector_hash(genesis, network.layout),
        layout=network.layout,
        organisations=organisations,
        quorum=min(config.federation.min_hospitals or (per_round if waits_for_all(config) else 1), per_round),
        window=config.ledger.window,
        checks=_drawn_slots(config.ledger.checks, len(hospitals), per_round),
    )
    home = folder / "ledger"
    require_successors(config.ledger, len(hospitals), home, leader)
    home.mkdir(exist_ok=True)
    archive.write_genesis(home, genesis)
    actor, lasting = (config.execution.pool == name for name in ("ray", "sites"))
    gate = {"gate": True} if config.committee.gate else {}
    described = {"name": rule.name, **rule.spec, **gate}
    named = {PRIVACY: terms_digest(privacy_terms(config)), ASSOCIATION: association}
    return LedgerObserver(
        home,
        federation,
        described,
        config.ledger,
        actor,
        config.federation.rounds,
        named=named,
        lasting=lasting,
        leader=with_key(leader, config.seed, identity, config.ledger.keystore),
    )
