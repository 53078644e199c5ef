"""Who is who: changes of the hospitals' keys, each signed by the key that leaves and by the one that comes."""

from collections.abc import Iterator

from engine.audit.case import Case, Rotation
from engine.audit.records import check_signature
from engine.audit.report import Count, Told, finding


def check(case: Case) -> Iterator[Told]:
    """Check each change of a key against the ones before it."""
    for position, rotation in enumerate(case.rotations):
        yield from _check_rotation(case, position, rotation)


def _check_rotation(case: Case, position: int, rotation: Rotation) -> Iterator[Told]:
    record, where = rotation.record, {"round": rotation.round, "hospital": rotation.slot}
    expected = {"federation": case.federation.id, "slot": rotation.slot, "round": rotation.round}
    for name, value in expected.items():
        if record[name] != value:
            message = f"{name} of the rotation is not that of its row"
            yield finding("rotation", name, value, record[name], message, **where)
    before = case.holder(record["slot"], changes=position)
    if record["from_"] != before:
        message = "the rotation leaves a key that does not hold the slot"
        yield finding("rotation", "from_", before, record["from_"], message, **where)
    digest = record.digest(case.domain)
    for name, signature, key in (
        ("old_signature", rotation.old_signature, record["from_"]),
        ("new_signature", rotation.new_signature, record["to"]),
    ):
        yield from check_signature(digest, signature, key, "rotation", name, where)
    shown = [t.arguments.get("rotation") for t in case.transactions if t.purpose == "rotate" and t.succeeded]
    if record.members not in shown:
        message = "the rotation was never shown to the contract"
        yield finding("rotation", "transaction", "one", None, message, **where)
    yield Count("rotations")
