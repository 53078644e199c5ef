"""Hospitals in Ray actors.

A host actor holds one or many hospitals and answers one call a round. A host that dies is built again, its
hospitals get their last returned state back, and the call is repeated: a round is a pure function of its arguments,
so the repetition gives the same bits.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from engine.actors import SITE, Spot, end_actor, give_back, idle_cpus, imported_ray, take_actor
from engine.aggregation.build import rule_of
from engine.clock import REAL, Clock
from engine.data.cohort import HospitalData
from engine.errors import ConfigError, HospitalError, HospitalLost, PulseLedgerError, ResourceError
from engine.hospital import Task
from engine.ledger.signer import Memory, Notice, Terms
from engine.ledger.subjects.synthetic import SignedPreview, SignedReport, SignedRequest
from engine.messages import Asked, Commitment, Measured, Opinion, Outcome, State, Trained, Update, Vote
from engine.pools.config import ExecutionConfig
from engine.pools.local import InProcessPool
from engine.result import SyntheticRow
from engine.secure.part import MASKED, Hidden
from engine.secure.protocol import Transcript
from engine.secure.round import WITHDRAW

ATTEMPTS = 3  # of one call on a host that keeps dying
CPU_SHARE = 0.9  # of a placement group's or machine's CPUs that hosts divide among themselves


class _Unmasked(NamedTuple):
    """The training of a round whose updates only hospitals have, until they mask them: a host that is lost meanwhile repeats it.

    Attributes:
        call: of `_Host.train`, without hospitals.
        states: hospital -> its state after it, which counts once its update is sent.
    """

    call: tuple[int, Any, Any]
    states: dict[int, dict[str, np.ndarray]]


class RayPool:
    """Hospitals in Ray actors: one each while they are few, host actors that hold many beyond that."""

    def __init__(self, hospitals: Sequence[HospitalData], task: Task, clock: Clock = REAL) -> None:
        self._ray = imported_ray()
        self._clock = clock
        execution = task.config.execution
        self._hospitals = {data.id: data for data in hospitals}
        self._rule = rule_of(task.config)
        self._deadline = execution.deadline
        sizes = [(data.id, len(data.train)) for data in hospitals]
        cpus = self._free_cpus()
        groups = sited_groups(sizes, execution, cpus)
        self.width = max(1, min(len(groups), int(cpus)))
        self._task = self._ray.put(task)
        # in whole ten-thousandths, as Ray counts
        self._share = max(1, int(1e4 * min(1.0, CPU_SHARE * self._site_cpus(groups, cpus)))) / 1e4
        self._spread = execution.placement == "spread"
        self._places = [self._place(site, i) for i, (site, _) in enumerate(groups)]
        self._groups = {i: group for i, (_, group) in enumerate(groups)}
        self._host_of = {hospital: i for i, group in self._groups.items() for hospital in group}
        self._states: dict[int, dict[str, np.ndarray]] = {}
        self._memories: dict[int, Memory] = {}
        self._measured: dict[int, Measured] = {}
        self._hides = task.config.aggregation.secure.groups > 0
        self._unmasked: _Unmasked | None = None
        self._ready: dict[int, Any] = {}
        self._hosts = {i: self._start(i) for i in self._groups}
        self._wait_until_ready()

    def ask(self, terms: Terms, ids: Sequence[int]) -> list[tuple[SignedRequest, ...] | HospitalError]:
        return self._each("ask", ids, 0, terms)

    def make(
        self, terms: Terms, granted: Mapping[int, Sequence[SyntheticRow]]
    ) -> list[tuple[SignedReport | SignedPreview, ...] | HospitalError]:
        return self._each("make", list(granted), 0, (terms, granted), deadline=math.inf)

    def keep(self, accepted: Mapping[int, Sequence[SyntheticRow]]) -> list[HospitalError | None]:
        return self._each("keep", list(accepted), 0, accepted, deadline=math.inf)

    def train(self, asked: Asked, notice: Notice | None) -> Trained:
        told, self._unmasked = self._ray.put(notice), None
        by_host = self._ask("train", asked.hospitals, asked.round, asked, told)
        answers = {
            h: a
            for i, part in by_host.items()
            for h, a in zip(self._wanted(i, asked.hospitals), part.answers, strict=True)
        }
        updates = [a for a in answers.values() if isinstance(a, Update)]
        gradients = {update.hospital: update.gradient_evaluations for update in updates}
        self._measured[asked.round] = Measured(asked.round, gradients, {})
        states = {update.hospital: update.state for update in updates}
        if self._hides:
            self._unmasked = _Unmasked((asked.round, self._ray.put(asked), told), states)
        else:
            self._states |= states
        for update in updates:
            if update.signed is not None:
                signed = update.signed
                self._memories[update.hospital] = Memory(asked.round, signed.leaf, signed.update.record.parent_head)
        sums = [part.summed for part in by_host.values() if part.summed is not None]
        summed = self._rule.join(sums, len(asked.params)) if self._rule.partial is not None else None
        return Trained([answers[h] for h in asked.hospitals], summed)

    def judge(self, asked: Asked, updates: Sequence[Update], ids: Sequence[int]) -> list[Opinion | HospitalError]:
        return self._each("judge", ids, asked.round, asked, self._bare(updates))

    def commit(
        self, asked: Asked, updates: Sequence[Update], notice: Notice | None, ids: Sequence[int]
    ) -> list[Commitment | HospitalError]:
        return self._each("commit", ids, asked.round, asked, self._bare(updates), self._ray.put(notice))

    def reveal(
        self,
        asked: Asked,
        updates: Sequence[Update],
        commitments: Mapping[int, Commitment],
        notice: Notice | None,
        ids: Sequence[int],
    ) -> list[Vote | HospitalError]:
        told = (asked, commitments)
        return self._each("reveal", ids, asked.round, told, self._bare(updates), self._ray.put(notice))

    def secure(self, step: str, groups: Sequence[Transcript], notice: Notice, ids: Sequence[int]) -> list[Any]:
        """As the protocol `MaskingPool` says."""
        round = notice.headers[-1].round + 1
        answers = self._each("secure", ids, round, (step, groups), self._ray.put(notice))
        trained = self._unmasked.states if self._unmasked is not None else {}
        for hospital, answer in zip(ids, answers, strict=True):
            if isinstance(answer, Hidden):
                record = answer.signed.update.record
                self._memories[hospital] = Memory(round, answer.signed.leaf, record.parent_head)
                self._states[hospital] = trained[hospital]
        if step == MASKED:
            self._unmasked = None
        if step == WITHDRAW:
            for hospital in ids:
                trained.pop(hospital, None)
            self._memories = {h: one for h, one in self._memories.items() if h not in ids or one.round < round}
            gradients = {h: n for h, n in self._measured[round].gradients.items() if h not in ids}
            self._measured[round] = Measured(round, gradients, {})
        return answers

    def _bare(self, updates: Sequence[Update]) -> Any:
        """What judges need of updates, and no hospital's state, in Ray's store."""
        return self._ray.put([replace(update, state={}, signed=None) for update in updates])

    def validate(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list[np.ndarray | HospitalError]:
        answers = self._each("validate", ids, round, params)
        known = {h: a for h, a in zip(ids, answers, strict=True) if not isinstance(a, HospitalError)}
        self._measured[round] = self._measured.get(round, Measured(round, {}, {}))._replace(tables=known)
        return answers

    def finish(
        self, round: int, params: np.ndarray, notice: Notice | None, ids: Sequence[int]
    ) -> list[Outcome | HospitalError]:
        return self._each("finish", ids, round, params, self._ray.put(notice))

    def restore(self, states: Mapping[int, State], measured: Sequence[Measured]) -> None:
        self._states, self._unmasked = dict(states), None
        self._measured = {one.round: one for one in measured}
        calls = [host.restore.remote(self._states_of(i), self._measured_by(i)) for i, host in self._hosts.items()]
        self._ray.get(calls)

    def close(self) -> None:
        for i, host in self._hosts.items():
            give_back(host, _Host, self._share, self._places[i])
        self._hosts = {}

    def processes(self) -> list[int]:
        """Process ids of the hosts, for tests that kill one."""
        return self._ray.get([host.process.remote() for host in self._hosts.values()])

    def nodes(self) -> dict[int, str]:
        """Hospital -> id of the Ray node where its actor is."""
        found = self._ray.get([host.node.remote() for host in self._hosts.values()])
        return {h: node for i, node in zip(self._hosts, found, strict=True) for h in self._groups[i]}

    def _each(
        self, method: str, ids: Sequence[int], round: int, content: Any, *args: Any, deadline: float | None = None
    ) -> list[Any]:
        by_host = self._ask(method, ids, round, content, *args, deadline=deadline)
        answers = {h: a for i, part in by_host.items() for h, a in zip(self._wanted(i, ids), part, strict=True)}
        return [answers[h] for h in ids]

    def _wanted(self, host: int, ids: Sequence[int]) -> list[int]:
        return [h for h in ids if self._host_of[h] == host]

    def _ask(
        self,
        method: str,
        ids: Sequence[int],
        round: int,
        content: Any,
        *args: Any,
        deadline: float | None = None,
    ) -> dict[int, Any]:
        """One call to each host that holds one of `ids`; host -> its answer, of failures when it is lost for good.

        Args:
            deadline: seconds until a host counts as lost, infinity for never; None: that of a round.
        """
        allowed = self._deadline if deadline is None else deadline
        wanted = {i: self._wanted(i, ids) for i in self._hosts}
        shared = self._ray.put(content)
        calls = {
            i: getattr(self._hosts[i], method).remote(round, shared, *args, hospitals)
            for i, hospitals in wanted.items()
            if hospitals
        }
        answers: dict[int, Any] = {}
        end = self._clock.now() + allowed
        for i, call in calls.items():
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    left = None if allowed == math.inf else max(end - self._clock.now(), 0.0)
                    answers[i] = self._ray.get(call, timeout=left)
                    break
                except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError) as error:
                    late = isinstance(error, self._ray.exceptions.GetTimeoutError)
                    self._restart(i)
                    if attempt == ATTEMPTS:
                        cause = f"no answer in {allowed:g} s" if late else "its process was lost"
                        lost = [HospitalLost(h, round, method, f"{cause}, {ATTEMPTS} times") for h in wanted[i]]
                        answers[i] = Trained(lost, None) if method == "train" else lost
                    else:
                        end = self._clock.now() + allowed
                        call = getattr(self._hosts[i], method).remote(round, shared, *args, wanted[i])
        return answers

    def _start(self, i: int) -> Any:
        host = take_actor(_Host, self._share, self._places[i])
        # not waited for: whatever goes wrong here comes back with the first answer
        own = (self._states_of(i), self._measured_by(i), self._memories_of(i))
        self._ready[i] = host.setup.remote(self._task, [self._hospitals[h] for h in self._groups[i]], *own)
        return host

    def _restart(self, i: int) -> None:
        end_actor(self._hosts[i])
        self._hosts[i] = self._start(i)
        if self._unmasked is not None and (ids := [h for h in self._groups[i] if h in self._unmasked.states]):
            self._hosts[i].train.remote(*self._unmasked.call, ids)

    def _states_of(self, i: int) -> dict[int, dict[str, np.ndarray]]:
        return {h: self._states[h] for h in self._groups[i] if h in self._states}

    def _memories_of(self, i: int) -> dict[int, Memory]:
        return {h: self._memories[h] for h in self._groups[i] if h in self._memories}

    def _measured_by(self, i: int) -> list[Measured]:
        """What the hospitals of a host measured; no other host is told of it."""
        own = set(self._groups[i])
        return [
            Measured(
                one.round,
                {h: n for h, n in one.gradients.items() if h in own},
                {h: table for h, table in one.tables.items() if h in own},
            )
            for one in self._measured.values()
        ]

    def _wait_until_ready(self, seconds: float = 120.0) -> None:
        """Waits for all hosts; a host whose construction failed raises here, an infeasible one says what it wanted."""
        calls = list(self._ready.values())
        _, waiting = self._ray.wait(calls, num_returns=len(calls), timeout=seconds)
        if waiting:
            there = self._ray.cluster_resources().get("CPU", 0)
            free = self._ray.available_resources().get("CPU", 0)
            self._end()
            sites = sorted({place.site for place in self._places if place.site is not None})
            where = f" on a node labelled {SITE}={' or '.join(sites)}" if sites else ""
            raise ResourceError(
                f"{len(waiting)} of {len(calls)} hospital actors did not start in {seconds:g} s: each wants "
                f"{self._share:.2g} CPU{where}, the cluster has {there:g} CPU of which {free:g} are free."
            )
        for i in self._hosts:
            try:
                self._ray.get(self._ready[i])
            except self._ray.exceptions.RayActorError:
                self._restart(i)  # an idle actor may have died unnoticed
            except self._ray.exceptions.RayTaskError as error:
                self._end()
                raise PulseLedgerError(
                    f"a hospital could not be built: {type(error.cause).__name__}: {error.cause}"
                ) from None

    def _end(self) -> None:
        for host in self._hosts.values():
            end_actor(host)
        self._hosts = {}

    def _place(self, site: str | None, host: int) -> Spot:
        group = self._ray.util.get_current_placement_group()
        if group is None:
            return Spot(site=site, spread=site is None and self._spread)
        # a trial's bundles after the runner's are those of its hosts, in the same order
        return Spot(bundle=host + 1) if site is not None else Spot()

    def _site_cpus(self, groups: Sequence[tuple[str | None, list[int]]], cpus: float) -> float:
        """CPUs for a host, of the site that has the fewest; those that have not joined yet do not count."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        shares = [cpus / len(groups)]
        for site in {site for site, _ in groups if site is not None}:
            there = sum(n["Resources"].get("CPU", 0.0) for n in nodes if n["Labels"].get(SITE) == site)
            shares.append(there / sum(name == site for name, _ in groups) or shares[0])
        return min(shares)

    def _free_cpus(self) -> float:
        group = self._ray.util.get_current_placement_group()
        if group is not None:
            # bundle 0 is the runner's own
            return round(sum(bundle.get("CPU", 0) for bundle in group.bundle_specs[1:]), 4)
        there = self._ray.cluster_resources().get("CPU", 0.0)
        # Ray's count lags behind; and rounded, as a share that differs in its last bit is another kind of actor
        free = min(there, round(self._ray.available_resources().get("CPU", 0.0) + idle_cpus(_Host), 3))
        if free <= 0:
            raise ResourceError(f"the hospitals want CPUs, but none of the cluster's {there:g} is free.")
        return free


class _Host:
    """The Ray actor: holds hospitals, has one oracle, answers one call a round."""

    def setup(
        self,
        task: Task,
        hospitals: Sequence[HospitalData],
        states: dict[int, Any],
        measured: Sequence[Measured],
        memories: dict[int, Memory],
    ) -> None:
        self._pool = InProcessPool(hospitals, task)
        self.restore(states, measured)
        self._pool.remember(memories)

    def ask(self, round: int, terms: Terms, ids: Sequence[int]) -> list[Any]:
        return self._pool.ask(terms, ids)

    def make(
        self, round: int, content: tuple[Terms, Mapping[int, Sequence[SyntheticRow]]], ids: Sequence[int]
    ) -> list[Any]:
        terms, granted = content
        return self._pool.make(terms, {h: granted[h] for h in ids})

    def keep(self, round: int, accepted: Mapping[int, Sequence[SyntheticRow]], ids: Sequence[int]) -> list[Any]:
        return self._pool.keep({h: accepted[h] for h in ids})

    def train(self, round: int, asked: Asked, notice: Notice | None, ids: Sequence[int]) -> Trained:
        return self._pool.train(replace(asked, hospitals=tuple(ids)), notice)

    def judge(
        self, round: int, asked: Asked, updates: Sequence[Update], ids: Sequence[int]
    ) -> list[Opinion | HospitalError]:
        return self._pool.judge(asked, updates, ids)

    def commit(
        self, round: int, asked: Asked, updates: Sequence[Update], notice: Notice | None, ids: Sequence[int]
    ) -> list[Commitment | HospitalError]:
        return self._pool.commit(asked, updates, notice, ids)

    def reveal(
        self,
        round: int,
        told: tuple[Asked, Mapping[int, Commitment]],
        updates: Sequence[Update],
        notice: Notice | None,
        ids: Sequence[int],
    ) -> list[Vote | HospitalError]:
        asked, commitments = told
        return self._pool.reveal(asked, updates, commitments, notice, ids)

    def secure(
        self, round: int, content: tuple[str, Sequence[Transcript]], notice: Notice, ids: Sequence[int]
    ) -> list[Any]:
        return self._pool.secure(*content, notice, ids)

    def validate(self, round: int, params: np.ndarray, ids: Sequence[int]) -> list[np.ndarray | HospitalError]:
        return self._pool.validate(round, params, ids)

    def finish(
        self, round: int, params: np.ndarray, notice: Notice | None, ids: Sequence[int]
    ) -> list[Outcome | HospitalError]:
        return self._pool.finish(round, params, notice, ids)

    def restore(self, states: dict[int, Any], measured: Sequence[Measured]) -> None:
        # arrays that came through Ray are read-only views of its store; a state must outlive them
        own = {h: {k: np.array(v) for k, v in state.items()} for h, state in states.items()}
        self._pool.restore(
            own, [one._replace(tables={h: np.array(t) for h, t in one.tables.items()}) for one in measured]
        )

    def process(self) -> int:
        return os.getpid()

    def node(self) -> str:
        return imported_ray().get_runtime_context().get_node_id()


def host_groups(sizes: Sequence[tuple[int, int]], execution: ExecutionConfig, cpus: float) -> list[list[int]]:
    """Which hospitals share a host actor.

    Args:
        sizes: (hospital id, number of train beats) of each hospital.
        cpus: CPUs that the hosts may use.

    Returns:
        Lists of hospital ids. With "auto", one hospital each up to two for each CPU; beyond that as many hosts as
        CPUs, the largest hospitals placed first, each on the host with the least work so far.
    """
    per = execution.hospitals_per_actor
    if per == "auto":
        hosts = len(sizes) if len(sizes) <= 2 * cpus else max(1, round(cpus))
    else:
        hosts = -(-len(sizes) // int(per))
    hosts = min(hosts, len(sizes))
    groups: list[list[int]] = [[] for _ in range(hosts)]
    work = [0] * hosts
    limit = len(sizes) if per == "auto" else int(per)
    for hospital, beats in sorted(sizes, key=lambda item: (-item[1], item[0])):
        host = min((i for i in range(hosts) if len(groups[i]) < limit), key=lambda i: (work[i], len(groups[i]), i))
        groups[host].append(hospital)
        work[host] += beats
    return [sorted(group) for group in groups]


def sited_groups(
    sizes: Sequence[tuple[int, int]], execution: ExecutionConfig, cpus: float
) -> list[tuple[str | None, list[int]]]:
    """Which hospitals share a host actor, and at which site; only those of one site ever do.

    Args:
        sizes, cpus: as for `host_groups`; each site has an equal part of the CPUs.

    Returns:
        (site, hospital ids) of each host, in the order of the sites' names; the site is None without `execution.sites`.
    """
    if not execution.sites:
        return [(None, group) for group in host_groups(sizes, execution, cpus)]
    at: dict[str, list[tuple[int, int]]] = {}
    for hospital, beats in sizes:
        if hospital not in execution.sites:
            raise ConfigError(f"execution.sites names no site for hospital {hospital}; it needs one for each, or none.")
        at.setdefault(execution.sites[hospital], []).append((hospital, beats))
    return [(site, group) for site in sorted(at) for group in host_groups(at[site], execution, cpus / len(at))]
