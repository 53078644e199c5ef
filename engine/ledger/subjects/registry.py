"""Who is who: the federation, its hospitals, and changes of their keys."""

from dataclasses import dataclass, fields
from typing import Any

from engine.encoding import canonical_json, hexed, keccak, unhexed
from engine.errors import LedgerError
from engine.ledger.book import Book, Call
from engine.ledger.chain.contracts import call_data
from engine.ledger.format import NO_ROUND
from engine.ledger.signing import require_signer
from engine.ledger.subject import Subject
from engine.ledger.trees import levels, path, root
from engine.ledger.typed import (
    U32,
    U64,
    Address,
    Bytes32,
    Record,
    abi_tuple,
    address_bytes,
    read_object,
    record_from_json,
    record_to_json,
    require_type,
)


@dataclass(frozen=True)
class Federation:
    """What is fixed before round 1.

    Attributes:
        id: 32 bytes.
        config_hash: hash of the configuration, 32 bytes.
        hospitals: checksum address of each slot.
        genesis_model: hash of the model before round 1, 32 bytes.
        layout: (name, shape) of each tensor in the order of the flat vector.
        organisations: 32 bytes for each slot; empty makes every hospital an organisation of its own.
        quorum: least number of updates of a round.
        window: seconds in which a sealed round can be disputed.
        checks: slots that are drawn for a round to compute its model again, see `recount`; 0 where none can or shall.

    Raises:
        LedgerError: a value has the wrong type, length or range, or a hospital appears twice.
    """

    id: bytes
    config_hash: bytes
    hospitals: tuple[str, ...]
    genesis_model: bytes
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    organisations: tuple[bytes, ...] = ()
    quorum: int = 1
    window: int = 0
    checks: int = 0

    def __post_init__(self) -> None:
        for name in ("id", "config_hash", "genesis_model"):
            require_type(name, getattr(self, name), "bytes32")
        # Lists are as good as tuples to a caller, but equality with what was read back must hold.
        object.__setattr__(self, "hospitals", tuple(self.hospitals))
        layout = tuple((str(name), tuple(int(size) for size in shape)) for name, shape in self.layout)
        object.__setattr__(self, "layout", layout)
        for hospital in self.hospitals:
            address_bytes(hospital)
        if not self.hospitals or len(set(self.hospitals)) != len(self.hospitals):
            raise LedgerError("a federation needs at least one hospital, and every hospital an address of its own")
        own = self.organisations or tuple(organisation(slot) for slot in range(len(self.hospitals)))
        object.__setattr__(self, "organisations", tuple(own))
        for value in self.organisations:
            require_type("organisation", value, "bytes32")
        if len(self.organisations) != len(self.hospitals):
            raise LedgerError(
                f"organisations: expected {len(self.hospitals)}, one for each slot, found {len(self.organisations)}"
            )
        for name in ("quorum", "window", "checks"):
            require_type(name, getattr(self, name), "uint24")
        if not 1 <= self.quorum <= len(self.hospitals):
            raise LedgerError(f"quorum: expected 1 to {len(self.hospitals)}, found {self.quorum!r}")


@dataclass(frozen=True)
class KeyRotation(Record):
    """A hospital's new address (`to`), valid from `round` on; signed by the old and by the new key."""

    federation: Bytes32
    slot: U32
    from_: Address
    to: Address
    round: U64


@dataclass(frozen=True)
class SignedRotation:
    """A rotation with the signatures of both keys."""

    record: KeyRotation
    old: bytes
    new: bytes


def organisation(slot: int) -> bytes:
    """Return the organisation of a hospital that belongs to no other."""
    return keccak(b"PulseLedger organisation 1|%d" % slot)


def registry_leaves(federation: Federation) -> list[bytes]:
    """Compute the leaf of every slot of the registry: its number, first address and organisation."""
    pairs = zip(federation.hospitals, federation.organisations, strict=True)
    return [
        keccak(b"\x00" + slot.to_bytes(4, "big") + address_bytes(hospital) + organisation)
        for slot, (hospital, organisation) in enumerate(pairs)
    ]


def registry_root(federation: Federation) -> bytes:
    """Compute the root of the registry of hospitals, the same tree as that of a round."""
    return root(registry_leaves(federation))


class Registry(Subject):
    """The hospitals of an open federation.

    Attributes:
        federation: that they belong to.
        root: of the registry.
    """

    def __init__(self, book: Book, federation: Federation) -> None:
        self._book, self.federation = book, federation
        self._levels = levels(registry_leaves(federation))
        self._rotations: list[KeyRotation] = []
        self.root = self._levels[-1][0]

    def holder(self, slot: int, round: int = NO_ROUND) -> str:
        """Return the address whose signature counts for a slot in a round, by default in the rounds to come."""
        for rotation in reversed(self._rotations):
            if rotation.slot == slot and rotation.round <= round:
                return rotation.to
        return self.federation.hospitals[slot]

    def membership(self, slot: int) -> tuple[bytes, list[bytes]]:
        """Return the organisation of a slot, and the siblings of its leaf under the root.

        Raises:
            LedgerError: there is no such slot.
        """
        if not 0 <= slot < len(self.federation.hospitals):
            raise LedgerError(f"there is no hospital {slot}")
        return self.federation.organisations[slot], path(self._levels, slot)

    def rotate(self, signed: SignedRotation, next_round: int) -> None:
        """Change the address of a hospital. The same again does nothing.

        Args:
            next_round: number of the round that comes next; a rotation is for that one.

        Raises:
            LedgerError: a signature is wrong, the round has begun already, or the contract refuses.
        """
        rotation, domain = signed.record, self._book.domain
        where = f"rotation of hospital {rotation.slot}"
        if rotation.federation != self.federation.id or rotation.slot >= len(self.federation.hospitals):
            raise LedgerError(f"{where}: it belongs to another federation")
        if rotation not in self._rotations:
            holder = self.holder(rotation.slot)
            if rotation.from_ != holder:
                raise LedgerError(f"{where}: it leaves {rotation.from_}, the slot is held by {holder}")
            if rotation.round != next_round:
                raise LedgerError(f"{where}: it is for round {rotation.round}, the next one is round {next_round}")
            if rotation.to in {self.holder(slot) for slot in range(len(self.federation.hospitals))}:
                raise LedgerError(f"{where}: {rotation.to} already holds a slot")
        require_signer(f"{where}: old key", rotation, signed.old, domain, rotation.from_)
        require_signer(f"{where}: new key", rotation, signed.new, domain, rotation.to)
        data = call_data("rotateKey", abi_tuple(rotation), *self.membership(rotation.slot), signed.old, signed.new)
        row = (rotation.slot, rotation.round, record_to_json(rotation), signed.old, signed.new)
        self._book.send(Call("rotate", rotation.round, domain.contract, data, {"rotations": [row]}))
        if rotation not in self._rotations:
            self._rotations.append(rotation)

    def holders(self) -> tuple[tuple[str, ...], ...]:
        """Return, for each slot, every address that has held it so far."""
        later: dict[int, tuple[str, ...]] = {}
        for rotation in self._rotations:
            later[rotation.slot] = (*later.get(rotation.slot, ()), rotation.to)
        return tuple((first, *later.get(slot, ())) for slot, first in enumerate(self.federation.hospitals))

    def reset(self) -> None:
        self._rotations = [record_from_json(KeyRotation, row["record"]) for row in self._book.store.rows("rotations")]


# --- JSON -------------------------------------------------------------------------------------------------------------


def federation_to_json(federation: Federation) -> str:
    """Write a federation as canonical JSON, bytes as 0x hex."""
    values = {field.name: getattr(federation, field.name) for field in fields(Federation)}
    return canonical_json({name: _plain(value) for name, value in values.items()})


def federation_from_json(text: Any) -> Federation:
    """Read what `federation_to_json` wrote.

    Raises:
        LedgerError: not JSON, or a field is missing, unknown or wrong.
    """
    values = read_object("federation", text, {field.name for field in fields(Federation)})
    try:
        for name in ("id", "config_hash", "genesis_model"):
            values[name] = unhexed(values[name])
        values["organisations"] = tuple(unhexed(one) for one in values["organisations"])
        return Federation(**values)
    except (TypeError, ValueError) as error:
        raise LedgerError(f"federation: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return hexed(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
