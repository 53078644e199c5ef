"""What the chain says: recorded transactions executed again on an empty one, or a node asked for what it holds.

The contracts decide a second time here, so nothing of what they decide is computed elsewhere. All answers are read at once
into plain data, and the chain is let go of again.

Evidence does not choose how it is checked. Which back end a ledger is on follows from its chain id, which everybody signed;
which node is asked is the auditor's choice, never the journal's; and only transactions of this version's contracts are
executed, within bounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from engine.audit import limits, spec
from engine.audit.report import Count, Note, Reading, Told, collected, finding
from engine.audit.spec import Domain
from engine.audit.transactions import Transaction
from engine.errors import LedgerError
from engine.ledger.chain.base import EMBEDDED_CHAIN, Chain, ChainTrouble
from engine.ledger.chain.contracts import artefact, is_deployed, query, read_event
from engine.ledger.chain.embedded import EmbeddedChain
from engine.ledger.chain.rpc import RpcChain

_FIRST_ANSWER, _ANSWER = 2.0, 20.0  # seconds for the first answer of a node, and for any other

S = TypeVar("S")


Place = Callable[[Transaction], Mapping[str, Any]]  # round or trial of a finding about a transaction


class Event(NamedTuple):
    """An event of one of our contracts, with its values by name."""

    name: str
    values: Mapping[str, Any]


Events = Mapping[int, tuple[Event, ...]]  # of a transaction, by its seq


@dataclass(frozen=True)
class Executed(Generic[S]):
    """What the chain says.

    Attributes:
        told: what went wrong when it was asked, and how many transactions were executed again.
        state: what it holds after all transactions; None if it could not be asked.
        events: of the transactions that were executed, or asked for; none without a state.
    """

    told: tuple[Told, ...]
    state: S | None
    events: Events


@dataclass(frozen=True)
class RunState:
    """What the contracts hold of a run after all transactions.

    Attributes:
        federation: the RoundLedger's state of the federation, by name.
        reputations: by slot, of those that were asked for.
        decisions: head of the chain of decisions on synthetic data; zero where nothing was ever decided.
        used: what counts against the quota of a slot and class, of those that were asked for.
        shown: by round and slot, the leaf of an update that was shown directly, and whether the coordinator refused it.
    """

    federation: Mapping[str, Any]
    reputations: Mapping[int, int]
    decisions: bytes
    used: Mapping[tuple[int, int], int]
    shown: Mapping[tuple[int, int], tuple[bytes, bool]]


def execute_run(
    backend: Mapping[str, Any],
    domain: Domain,
    contracts: Mapping[str, str],
    transactions: Sequence[Transaction],
    federation: bytes,
    slots: Sequence[int],
    quotas: Sequence[tuple[int, int]],
    shown: Sequence[tuple[int, bytes, int]],
    rpc: str | None,
) -> Executed[RunState]:
    """Ask the chain of a run.

    Args:
        rpc: as of `execute`.
        slots: whose reputations are asked for.
        quotas: slot and class of what is asked for of the quotas.
        shown: round, model before it and slot of what is asked for of updates that were shown directly.
    """

    def questions(chain: Chain) -> RunState:
        def ask(contract: str, function: str, *values: Any) -> Any:
            return query(chain, contracts[contract], function, federation, *values, contract=contract)

        state = ask("RoundLedger", "federationState")
        judged = slots if "ReputationLedger" in contracts else ()
        governed = "SyntheticLedger" in contracts
        return RunState(
            state | state["progress"],
            {slot: ask("ReputationLedger", "reputation", slot) for slot in judged},
            ask("SyntheticLedger", "decisions") if governed else spec.ZERO,
            {place: ask("SyntheticLedger", "used", *place) for place in (quotas if governed else ())},
            {
                (round, slot): (kept["leaf"], kept["refused"])
                for round, model, slot in shown
                if any((kept := ask("RoundLedger", "submission", round, model, slot))["leaf"])
            },
        )

    return execute(backend, domain, contracts, transactions, lambda t: {"round": t.round}, questions, rpc)


Execute = Callable[..., Executed[RunState]]  # as `execute_run`


def execute(
    backend: Mapping[str, Any],
    domain: Domain,
    contracts: Mapping[str, str],
    transactions: Sequence[Transaction],
    place: Place,
    questions: Callable[[Chain], S],
    rpc: str | None,
) -> Executed[S]:
    """Ask the chain of a journal: one in this process after executing all transactions, a node as it is.

    Args:
        backend: as in the journal.
        rpc: address of the node, from the auditor; None asks none.
        contracts: name of each contract -> its address.
        questions: asks for what the chain holds after all transactions.
    """
    found, told = collected(_execute(backend, domain, contracts, transactions, place, questions, rpc))
    state, events = found if found is not None else (None, {})
    return Executed(tuple(told), state, events)


def _execute(
    backend: Mapping[str, Any],
    domain: Domain,
    contracts: Mapping[str, str],
    transactions: Sequence[Transaction],
    place: Place,
    questions: Callable[[Chain], S],
    rpc: str | None,
) -> Reading[tuple[S, Events] | None]:
    chain = yield from _connect(backend, domain, rpc)
    if chain is None:
        return None
    try:
        if isinstance(chain, EmbeddedChain):
            problem = _unfit(contracts, transactions)
            if problem:
                yield Note(f"the transactions were not executed again: {problem}", unchecked=True)
                return None
            whole, answered = (yield from _replay(chain, transactions, place)), transactions
        else:
            whole, answered = True, _of_governance(transactions)
        right = whole and (yield from _check_contracts(chain, domain, contracts))
        if not right:
            return None
        return questions(chain), {t.seq: _events(chain, t, contracts) for t in answered}
    except ChainTrouble as error:
        yield Note(f"the chain was not compared: {error}", unchecked=True)
        return None
    except LedgerError as error:
        message = f"the contract does not answer: {error}"
        yield finding("chain", "contract", "an answer", "none", message)
        return None
    finally:
        chain.close()


def _connect(backend: Mapping[str, Any], domain: Domain, rpc: str | None) -> Reading[Chain | None]:
    expected = "embedded" if domain.chain_id == EMBEDDED_CHAIN else "rpc"
    name = backend.get("name")
    if name != expected:
        message = "the back end is not that of the chain that everybody signed for"
        yield finding("meta", "backend", expected, name, message)
        return None
    if expected == "embedded":
        if rpc is not None:
            message = "the ledger is on no node, but the auditor knows it on one"
            yield finding("meta", "backend", "rpc", name, message)
            return None
        return EmbeddedChain()
    if rpc is None:
        words = f"the node was not asked: the ledger is on chain {domain.chain_id}; name a node of yours with --rpc URL"
        yield Note(words, unchecked=True)
        return None
    try:
        return RpcChain(rpc, timeout=_ANSWER, first=_FIRST_ANSWER)
    except LedgerError as error:
        yield Note(f"the chain was not compared: {error}", unchecked=True)
        return None


def _unfit(contracts: Mapping[str, str], transactions: Sequence[Transaction]) -> str:
    """Why transactions are not executed here: other code than ours, or more of it than ours takes; "" if there is nothing."""
    ours, gas = {*contracts.values()}, 0
    for transaction in transactions:
        seq, known, call = transaction.seq, transaction.known, transaction.call
        if known is None or call is None:
            return f"transaction {seq} is none of the format"
        if transaction.creates:
            code = bytes.fromhex(artefact(known.contract)["bytecode"][2:])
            if call.to is not None or call.data[: len(code)] != code:
                return f"transaction {seq} creates other code than the {known.contract} of this version"
        elif call.to not in ours:
            return f"transaction {seq} calls another contract"
        if call.gas > known.gas:
            return f"transaction {seq} may take {call.gas} gas, of at most {known.gas}"
        gas += call.gas
    return f"they may take {gas} gas, of at most {limits.GAS}" if gas > limits.GAS else ""


def _replay(chain: EmbeddedChain, transactions: Sequence[Transaction], place: Place) -> Reading[bool]:
    """Execute recorded transactions again on an empty chain; returns whether all could be."""
    for transaction in transactions:
        where = place(transaction)
        try:
            chain.send(transaction.raw)
        except LedgerError as error:
            message = f"transaction {transaction.seq} cannot be executed again: {error}"
            yield finding("chain", "transaction", "execution", "refusal", message, **where)
            words = "the head on the chain was not compared, as the execution stopped before it"
            yield Note(words, unchecked=True)
            return False
        yield Count("re-executed")
        receipt = chain.receipt(spec.keccak256(transaction.raw))
        assert receipt is not None
        for name in ("status", "gas") if transaction.receipt is not None else ():
            expected, found = getattr(receipt, name), getattr(transaction.receipt, name)
            if expected != found:
                message = f"executing transaction {transaction.seq} again gives another {name}"
                yield finding("transaction", name, expected, found, message, **where)
    return True


def _check_contracts(chain: Chain, domain: Domain, contracts: Mapping[str, str]) -> Reading[bool]:
    """Whether it is the right chain, and the contracts on it are this version's."""
    if chain.chain_id != domain.chain_id:
        message = "the chain is not the one that the journal belongs to"
        yield finding("chain", "chain_id", domain.chain_id, chain.chain_id, message)
        return False
    for name, address in contracts.items():
        code = chain.code(address)
        if not code and chain.is_behind():
            words = f"the chain was not compared: the node has no {name} so far, and is not up to date by its own word"
            yield Note(words, unchecked=True)
            return False
        if not code:
            message = f"there is no {name} where the journal has it"
            yield finding("chain", "code", name, "nothing", message)
            return False
        if not is_deployed(code, name):
            words = f"the contract at {address} is not the {name} of this version: what it holds proves nothing"
            yield Note(words, unchecked=True)
            return False
    return True


def _of_governance(transactions: Sequence[Transaction]) -> Sequence[Transaction]:
    """Of a node, only what the journal does not say is asked for: what became of the steps of governance."""
    governed = [t for t in transactions if t.known is not None and t.known.contract == "SyntheticLedger"]
    return [t for t in governed if t.succeeded]


def _events(chain: Chain, transaction: Transaction, contracts: Mapping[str, str]) -> tuple[Event, ...]:
    names = {address: name for name, address in contracts.items()}
    logs = chain.logs(spec.keccak256(transaction.raw))
    return tuple(Event(*read_event(log, names[log.contract])) for log in logs if log.contract in names)
