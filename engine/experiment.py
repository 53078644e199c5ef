"""run(config) -> result: the one place where the parts are joined."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine import checkpoint
from engine.actors import start_ray, stop_ray
from engine.algorithms.build import build_algorithm
from engine.config import RunConfig, config_hash
from engine.data.cohort import HospitalData, build_cohort
from engine.encoding import json_hash
from engine.errors import ConfigError, Stopped
from engine.files import write_text
from engine.hospital import Outcome, Task
from engine.ledger import archive
from engine.ledger.keys import read_registry
from engine.ledger.observer import LedgerObserver
from engine.ledger.records import Federation
from engine.ledger.signing import address, hospital_key
from engine.model import Network, build_network, initial_parameters, vector_hash
from engine.oracles.build import choose_oracle
from engine.outputs import assemble, draw_picture, write_outputs
from engine.pools.base import HospitalPool
from engine.pools.build import build_pool
from engine.result import RESULT, LedgerSummary, Result, SyntheticRow
from engine.rounds import LoopState, Observer, Plan, run_rounds, survivors
from engine.settings import dump_yaml
from engine.synthesis import governed
from engine.synthesis.balance import SYNTHETIC


@dataclass(frozen=True)
class Place:
    """Where a run works, and who listens; for runs that are part of something larger.

    Attributes:
        attempt: number of this attempt at the run; a newer one stops an older.
        observers: told after each round.
        note: told in plain words what is going on.
        stopping: asked after each checkpoint whether to end there with `Stopped`.
    """

    attempt: int = 0
    observers: tuple[Observer, ...] = ()
    note: Callable[[str], None] = lambda text: None
    stopping: Callable[[], bool] = lambda: False


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
    a checkpoint and a ledger that holds every round so far. A rung that the checkpoint has passed is left out.
    """
    hashed = config_hash(config)
    if (folder / RESULT).exists():
        result = Result.read(folder, hashed)
        draw_picture(folder, result, place.note)
        return result
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.fence(folder, place.attempt)
    cohort = build_cohort(config.data, config.cohort, place.note)
    algorithm = build_algorithm(config.federation, config.personalisation)
    hospitals = cohort.hospitals
    trainers = tuple(h.id for h in hospitals if h.trains)
    if algorithm.pooled:
        hospitals = (*hospitals, _pooled(hospitals))
        trainers = (hospitals[-1].id,)
    beats = cohort.beats
    synthetic = folder / governed.FOLDER if config.balance.method in SYNTHETIC else None
    requests: list[dict[str, Any]] = []
    network = build_network(config.model, beats.x.shape[1], beats.rr.shape[1], len(beats.classes))
    loaded = checkpoint.load(folder, hashed)
    state, pending = loaded or (LoopState(0, initial_parameters(network, config.seed)), [])
    if state.round:
        place.note(f"going on after round {state.round}")
    oracle = choose_oracle(config.execution, network, place.note)
    # what was really used: a resumed run asks for the same, as another oracle would give other last bits
    config = config.model_copy(update={"execution": config.execution.model_copy(update={"oracle": oracle})})
    write_text(folder / "config.yaml", dump_yaml(config))

    with ray_of(config), contextlib.ExitStack() as stack:
        per_round = max(1, round(config.federation.participation * len(trainers)))
        ledger = _open_ledger(config, folder, network, hospitals, algorithm.weighting, per_round, hashed, stack)
        if ledger is not None:
            ledger.replay(pending, state.round)
        if synthetic is not None:
            identity = _federation_id(config, hashed)
            organisations = () if ledger is None else ledger.organisations

            def note(text: str) -> None:
                place.note(text)
                if place.stopping():  # a generator may train for longer than all rounds
                    raise Stopped(f"{folder}: stopped while synthetic beats were made.")

            requests = governed.govern(config, cohort, folder, identity, ledger, organisations, note)
        place.note(f"starting {len(hospitals)} hospitals")
        pool = build_pool(
            hospitals,
            Task(
                config,
                network,
                beats.folder,
                None if ledger is None else ledger.signing,
                oracle,
                algorithm.weighting,
                keep_vectors=ledger is not None,
                synthetic=synthetic,
            ),
        )
        stack.callback(pool.close)
        if state.states:
            pool.restore(state.states)
        plan = Plan(
            rounds=config.federation.rounds,
            seed=config.seed,
            trainers=trainers,
            validators=tuple(h.id for h in cohort.hospitals if len(h.validation)),
            per_round=per_round,
            weighting=algorithm.weighting,
            min_hospitals=config.federation.min_hospitals,
            validate_participants=config.federation.validation == "participants",
            peers=config.ledger.reputation == "peers",
            classes=beats.classes,
            model_hash=lambda vector: vector_hash(vector, network.layout) if ledger is not None else b"",
            notice=lambda model, slots: ledger.notice(model, slots) if ledger is not None else None,
            received=lambda number, updates: ledger.received(number, updates) if ledger is not None else None,
        )
        observers = (*((ledger,) if ledger is not None else ()), *place.observers)
        before = time.perf_counter()
        paused = 0.0  # between chunks, which is nobody's work

        def save(new: LoopState) -> None:
            checkpoint.save(folder, new, hashed, ledger.pending() if ledger is not None else [], place.attempt)
            if new.round < plan.rounds and place.stopping():
                raise Stopped(f"{folder}: stopped after round {new.round}.")

        def scored(state: LoopState) -> tuple[Result, Sequence[Outcome]]:
            everybody = [h.id for h in cohort.hospitals]
            outcomes, missed = survivors(pool.finish(state.round, state.params, everybody), plan.min_hospitals)
            summary = LedgerSummary(backend="none")
            if ledger is not None:
                held = (
                    ledger.summary() if state.round < plan.rounds else _sign_off(ledger, pool, plan, state, hospitals)
                )
                waited = time.perf_counter() - before - paused
                critical = ledger.seconds + sum(row.hash_seconds + row.sign_seconds for row in state.history)
                summary = LedgerSummary(
                    **held,
                    open_seconds=ledger.open_seconds,
                    critical_path_seconds=critical,
                    overhead_share=critical / max(waited, sum(row.seconds for row in state.history)),
                )
            asked = None if synthetic is None else [SyntheticRow.model_validate(row) for row in requests]
            lost = [str(error) for error in missed]
            seconds = time.perf_counter() - started - paused
            result = assemble(config, hashed, cohort, network, state, outcomes, summary, seconds, asked, lost)
            return result, outcomes

        for rung in sorted(r for r in rungs if state.round <= r < plan.rounds):
            state = run_rounds(state, replace(plan, rounds=rung), pool, observers, save)
            so_far, _ = scored(state)
            left = time.perf_counter()
            try:
                yield so_far
            except GeneratorExit:
                if ledger is not None:
                    ledger.leave()
                raise
            paused += time.perf_counter() - left
        state = run_rounds(state, plan, pool, observers, save)
        result, outcomes = scored(state)
    bundle = None if ledger is None else ledger.bundle(result.document(), dump_yaml(config))
    result = result.ended(time.perf_counter() - started - paused, bundle)
    checkpoint.fence(folder, place.attempt)
    write_outputs(folder, result, cohort, network, state.params, outcomes)
    draw_picture(folder, result, place.note)
    return result


def _sign_off(
    ledger: LedgerObserver, pool: HospitalPool, plan: Plan, state: LoopState, hospitals: Sequence[HospitalData]
) -> dict[str, Any]:
    """All hospitals sign the last head, which no later update of theirs will name; returns the ledger's summary."""
    ledger.finish()
    signers = [h.id for h in hospitals]
    notice = ledger.notice(plan.model_hash(state.params), signers)
    heads = dict(zip(signers, pool.sign_head(state.round, notice, signers), strict=True))
    survivors(list(heads.values()), plan.min_hospitals)
    return ledger.close({slot: head for slot, head in heads.items() if isinstance(head, bytes)})


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


def _federation_id(config: RunConfig, hashed: str) -> bytes:
    return json_hash({"config": hashed, "name": config.name, "label": config.ledger.federation})


def _open_ledger(
    config: RunConfig,
    folder: Path,
    network: Network,
    hospitals: Sequence[HospitalData],
    weighting: str,
    per_round: int,
    hashed: str,
    stack: contextlib.ExitStack,
) -> LedgerObserver | None:
    if config.ledger.backend == "none":
        return None
    if config.ledger.reputation == "peers" and per_round < 2:
        raise ConfigError(
            f"ledger.reputation: peers needs at least two hospitals in a round to score each other, this run has {per_round}."
        )
    genesis = initial_parameters(network, config.seed)
    identity = _federation_id(config, hashed)
    addresses = tuple(address(hospital_key(config.seed, identity, h.id)) for h in hospitals)
    organisations: tuple[bytes, ...] = ()
    if config.ledger.keystore is not None:
        addresses, organisations = read_registry(Path(config.ledger.keystore), len(hospitals))
    federation = Federation(
        id=identity,
        config_hash=bytes.fromhex(hashed),
        hospitals=addresses,
        genesis_model=vector_hash(genesis, network.layout),
        layout=network.layout,
        weighting=weighting,
        organisations=organisations,
        quorum=min(config.federation.min_hospitals or per_round, per_round),
        window=config.ledger.window,
    )
    home = folder / "ledger"
    home.mkdir(exist_ok=True)
    archive.write_genesis(home, genesis)
    actor = config.execution.pool == "ray"
    ledger = LedgerObserver(home, federation, config.ledger, actor, config.federation.rounds)
    stack.callback(ledger.abandon)
    return ledger
