"""One group's masked sum in one round: the steps of its hospitals as pure functions of what was said so far, and the sum.

    0 advertise   fresh public keys, a commitment to the update, and to the seed of the own mask; signed      -> U1
    1 share       shares of both secrets for each of U1, encrypted for their holders, with their hashes; signed     -> U2
    2 mask        the update under masks shared with each of U2, and under the own one; signed                      -> U3
    3 agree       a signature on U3, one a round
    4 unmask      after `threshold` signatures on the same U3: shares of the own mask's seed of those in U3, of the mask key
                  of those in U2 without U3; never both of one hospital

Bonawitz et al. 2017 (ACM CCS), with signed keys and sets. A hospital's secrets of a round follow from what only it knows, the
context (federation, round, head before, group) and its commitment: a hospital that starts again goes on with the same ones,
another update or another history gives others. What a hospital said in an earlier step it knows by its own signature.
A threshold above two thirds of the group leaves no two sets with `threshold` signatures each, unless a third of the group signs twice.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from engine.errors import MaskError
from engine.secure import masks, shamir

KEYS, SHARES, MASKED, SURVIVORS = range(4)  # what is signed, by step
OWN, PAIR = b"own", b"pair"  # the two secrets of a hospital: seed of its own mask, key of those that it shares


class Voice(Protocol):
    """How a hospital signs what it says in a step, and knows what others have signed."""

    def sign(self, step: int, content: bytes) -> bytes:
        """Its signature over 32 bytes."""
        ...

    def check(self, slot: int, step: int, content: bytes, signature: bytes) -> None:
        """
        Raises:
            MaskError: it is not the signature of that hospital.
        """
        ...


class Terms(NamedTuple):
    """What a group has in common: 32 bytes of context, shares that give a secret back, and the fewest hospitals in a sum."""

    context: bytes
    threshold: int
    least: int


class Own(NamedTuple):
    """What one hospital brings along: its slot, what only it knows, and the commitment to its update."""

    slot: int
    seed: bytes
    terms: Terms
    commitment: bytes


class Keys(NamedTuple):
    """Step 0: X25519 keys of the channel and of the masks, hash of the own mask's seed, commitment to the update."""

    channel: bytes
    pair: bytes
    seal: bytes
    commitment: bytes
    signature: bytes


class Dealt(NamedTuple):
    """Step 1: for each of U1 its shares, encrypted, and the hashes of the share of the seed and of the key."""

    sealed: Mapping[int, bytes]
    hashes: Mapping[int, tuple[bytes, bytes]]
    signature: bytes


class Masked(NamedTuple):
    """Step 2: SHA-256 of the masked update, little-endian."""

    digest: bytes
    signature: bytes


class Revealed(NamedTuple):
    """Step 4: hospital -> this holder's share of its own mask's seed, and of its mask key."""

    own: Mapping[int, bytes] = {}
    pair: Mapping[int, bytes] = {}


@dataclass(frozen=True)
class Transcript:
    """What was said in a group, by slot, as far as it has come.

    Attributes:
        group: number of the group in its round.
        members: hospitals that were asked, ascending.
    """

    terms: Terms
    group: int = 0
    members: tuple[int, ...] = ()
    keys: Mapping[int, Keys] = field(default_factory=dict)
    dealt: Mapping[int, Dealt] = field(default_factory=dict)
    masked: Mapping[int, Masked] = field(default_factory=dict)
    agreed: Mapping[int, bytes] = field(default_factory=dict)
    revealed: Mapping[int, Revealed] = field(default_factory=dict)

    def after(self, step: str, answers: Mapping[int, Any]) -> "Transcript":
        """With the answers of a step, which has the name of its field."""
        fields: dict[str, Any] = {step: answers}
        return replace(self, **fields)


class Secrets(NamedTuple):
    """Of one hospital in one round: private keys, the seed of its own mask, and what salts its commitment; 32 bytes each."""

    channel: bytes
    pair: bytes
    own: bytes


def threshold_of(hospitals: int) -> int:
    """The least number above two thirds."""
    return 2 * hospitals // 3 + 1


def context_of(federation: bytes, round: int, head: bytes, group: int) -> bytes:
    """What binds everything to one group of one round after one history, 32 bytes."""
    place = federation + round.to_bytes(8, "big") + head + group.to_bytes(4, "big")
    return hashlib.sha256(b"PulseLedger masks 1|context|" + place).digest()


def salt_of(seed: bytes, context: bytes) -> bytes:
    """What salts a hospital's commitment, 32 bytes."""
    return masks.derived(seed, b"salt", context)


def secrets_of(own: Own) -> Secrets:
    """A hospital's secrets of a round."""
    context = own.terms.context + own.commitment
    scalars = [_scalar(own.seed, purpose, context) for purpose in (PAIR, OWN)]
    pair, seed = (scalar.to_bytes(32, "big") for scalar in scalars)
    return Secrets(masks.derived(own.seed, b"channel", context), pair, seed)


def _scalar(seed: bytes, purpose: bytes, context: bytes) -> int:
    return int.from_bytes(masks.derived(seed, purpose, context, 48), "big") % shamir.PRIME


# --- Steps of a hospital ----------------------------------------------------------------------------------------------


def advertise(own: Own, voice: Voice) -> Keys:
    """Step 0."""
    secrets = secrets_of(own)
    keys = Keys(masks.public(secrets.channel), masks.public(secrets.pair), seal_of(own.terms, own.slot, secrets.own), own.commitment, b"")  # fmt: skip
    return keys._replace(signature=voice.sign(KEYS, keys_content(own.terms, own.slot, keys)))


def share(own: Own, said: Transcript, voice: Voice) -> Dealt:
    """Step 1, once the keys of all are shown.

    Raises:
        MaskError: they are too few, not all signed, not all different, or this hospital's own are others.
    """
    terms, secrets = own.terms, secrets_of(own)
    require_enough("advertised keys", said.keys, terms)
    for slot, keys in said.keys.items():
        voice.check(slot, KEYS, keys_content(terms, slot, keys), keys.signature)
    require_distinct(said.keys)
    mine = said.keys.get(own.slot)
    if mine is None or mine[:4] != (masks.public(secrets.channel), masks.public(secrets.pair), seal_of(terms, own.slot, secrets.own), own.commitment):  # fmt: skip
        raise MaskError(f"hospital {own.slot} is shown other keys of its own than it advertised")
    everybody = keys_digest(said)
    shares = [_polynomial(own, secret, purpose, everybody, said) for secret, purpose in ((secrets.own, OWN), (secrets.pair, PAIR))]  # fmt: skip
    sealed, hashes = {}, {}
    for slot in said.keys:
        texts = [one[slot].to_bytes(32, "big") for one in shares]
        hashes[slot] = (_hash_of(terms, own.slot, slot, OWN, texts[0]), _hash_of(terms, own.slot, slot, PAIR, texts[1]))
        sealed[slot] = b"".join(texts) if slot == own.slot else _box(own, said, secrets, slot, everybody, texts)
    sealed[own.slot] = b""  # its own shares it makes again
    dealt = Dealt(sealed, hashes, b"")
    return dealt._replace(signature=voice.sign(SHARES, dealt_content(said, own.slot, dealt)))


def mask(own: Own, said: Transcript, numbers: np.ndarray, voice: Voice) -> tuple[np.ndarray, Masked]:
    """Step 2: int64[size] under all masks, once it is shown who has dealt shares.

    Raises:
        MaskError: they are too few, a share is not what its dealer has signed, an entry is so large that the sum might not
            fit into 64 bits, or the update is another one than was committed to.
    """
    terms, secrets = own.terms, secrets_of(own)
    require_enough("dealt shares", said.dealt, terms)
    _require_own(own, said.dealt, "shares")
    for slot, dealt in said.dealt.items():
        require_for_all(said, slot, dealt)
    opened_shares(own, said)
    if masks.committed(terms.context, own.slot, numbers, salt_of(own.seed, terms.context)) != own.commitment:
        raise MaskError(f"the update of hospital {own.slot} is not the one that it has committed to")
    room = (2**63 - 1) // len(said.keys)
    if len(numbers) and not -room <= int(numbers.min()) <= int(numbers.max()) <= room:
        raise MaskError(
            f"an entry of the update of hospital {own.slot} is so large that the sum over {len(said.keys)} hospitals might not fit "
            "into 64 bits, where it would wrap unseen; the training diverges, try a smaller learning rate"
        )
    pairs = {slot: pair_key(terms, secrets.pair, said.keys[slot].pair) for slot in said.dealt if slot != own.slot}
    hidden = masks.masked(numbers, own.slot, mask_key(terms, secrets.own), pairs)
    found = Masked(digest_of(hidden), b"")
    return hidden, found._replace(signature=voice.sign(MASKED, masked_content(said, own.slot, found)))


def agree(own: Own, said: Transcript, voice: Voice) -> bytes:
    """Step 3: a signature on those whose masked updates have arrived; who signs must remember `survivors` first.

    Raises:
        MaskError: they are too few, this hospital is not among them, or something is not what was signed.
    """
    require_enough("masked updates", said.masked, own.terms)
    if len(said.masked) < own.terms.least:
        raise MaskError(
            f"{len(said.masked)} masked updates have arrived, a sum of at least {own.terms.least} is wanted"
        )
    _require_own(own, said.masked, "masked update")
    if beyond := said.masked.keys() - said.dealt.keys():
        raise MaskError(f"hospital {min(beyond)} has sent a masked update, but has dealt no shares")
    return voice.sign(SURVIVORS, survivors_content(said))


def unmask(own: Own, said: Transcript, voice: Voice) -> Revealed:
    """Step 4: shares of the masks that remain in the sum.

    Raises:
        MaskError: fewer than the threshold have signed the same set.
    """
    require_agreed(said, voice)
    _require_own(own, said.agreed, "signature on who is in the sum")
    opened = opened_shares(own, said)
    present = {slot: opened[slot][0] for slot in said.masked}
    gone = {slot: opened[slot][1] for slot in said.dealt if slot not in said.masked}
    return Revealed(present, gone)


def _require_own(own: Own, said: Collection[int], what: str) -> None:
    if own.slot not in said:
        raise MaskError(f"the {what} of hospital {own.slot} is not among those that it is shown")


def _polynomial(own: Own, secret: bytes, purpose: bytes, everybody: bytes, said: Transcript) -> dict[int, int]:
    """Shares of a secret for all of U1; another set of keys has another polynomial."""
    context = own.terms.context + own.commitment + everybody
    others = [_scalar(own.seed, purpose + b"%d" % i, context) for i in range(1, own.terms.threshold)]
    return shamir.dealt([int.from_bytes(secret, "big"), *others], said.keys)


def opened_shares(own: Own, said: Transcript) -> dict[int, tuple[bytes, bytes]]:
    """Dealer -> this hospital's shares of the seed of its own mask and of its mask key.

    That they open at all says that their dealer was shown the same keys of all.

    Raises:
        MaskError: they do not open, or are not those whose hashes are shown.
    """
    secrets, everybody, found = secrets_of(own), keys_digest(said), {}
    for slot, dealt in said.dealt.items():
        if slot == own.slot:
            secret = ((secrets.own, OWN), (secrets.pair, PAIR))
            shares = [
                _polynomial(own, one, purpose, everybody, said)[slot].to_bytes(32, "big") for one, purpose in secret
            ]
        else:
            key, nonce, bound = _channel(own.terms, secrets.channel, said, (slot, own.slot), slot, everybody)
            try:
                text = ChaCha20Poly1305(key).decrypt(nonce, dealt.sealed[own.slot], bound)
            except (InvalidTag, KeyError, ValueError):
                raise MaskError(
                    f"the shares that hospital {slot} dealt to hospital {own.slot} cannot be opened"
                ) from None
            shares = [text[:32], text[32:]]
        require_share(said, slot, own.slot, OWN, shares[0])
        require_share(said, slot, own.slot, PAIR, shares[1])
        found[slot] = (shares[0], shares[1])
    return found


def _box(own: Own, said: Transcript, secrets: Secrets, to: int, everybody: bytes, texts: list[bytes]) -> bytes:
    key, nonce, bound = _channel(own.terms, secrets.channel, said, (own.slot, to), to, everybody)
    return ChaCha20Poly1305(key).encrypt(nonce, b"".join(texts), bound)


def _channel(
    terms: Terms, private: bytes, said: Transcript, way: tuple[int, int], other: int, everybody: bytes
) -> tuple[bytes, bytes, bytes]:
    """Key, nonce and bound data of what one hospital tells another, once under one set of keys."""
    place = b"".join(slot.to_bytes(4, "big") for slot in way)
    try:
        secret = masks.agreed(private, said.keys[other].channel)
    except ValueError:
        raise MaskError(f"the channel key of hospital {other} is none") from None
    key = masks.derived(secret, b"channel|" + place, terms.context + everybody)
    return key, place + bytes(4), terms.context + place


# --- What is signed, and whether it is right --------------------------------------------------------------------------


def _digest(label: bytes, context: bytes, *parts: bytes) -> bytes:
    return hashlib.sha256(b"PulseLedger masks 1|" + label + b"|" + context + b"".join(parts)).digest()


def _slot(slot: int) -> bytes:
    return slot.to_bytes(4, "big")


def seal_of(terms: Terms, slot: int, own: bytes) -> bytes:
    """Hash of the seed of a hospital's own mask."""
    return _digest(b"seal", terms.context, _slot(slot), own)


def keys_content(terms: Terms, slot: int, keys: Keys) -> bytes:
    """What is signed of step 0."""
    return _digest(b"keys", terms.context, _slot(slot), *keys[:4])


def keys_digest(said: Transcript) -> bytes:
    """Hash of the keys of all of U1: who deals shares signs that it was shown these."""
    rows = [_slot(slot) + b"".join(said.keys[slot][:4]) for slot in sorted(said.keys)]
    return _digest(b"all keys", said.terms.context, *rows)


def dealt_content(said: Transcript, slot: int, dealt: Dealt) -> bytes:
    """What is signed of step 1."""
    rows = [_slot(to) + dealt.hashes[to][0] + dealt.hashes[to][1] for to in sorted(dealt.hashes)]
    return _digest(b"shares", said.terms.context, _slot(slot), keys_digest(said), *rows)


def masked_content(said: Transcript, slot: int, masked: Masked) -> bytes:
    """What is signed of step 2: with the masked update those whose masks are in it."""
    dealers = b"".join(_slot(one) for one in sorted(said.dealt))
    known = (keys_digest(said), len(said.dealt).to_bytes(4, "big"), dealers)
    return _digest(b"masked", said.terms.context, _slot(slot), *known, masked.digest)


def survivors_content(said: Transcript) -> bytes:
    """What is signed of step 3: U3, and what each of it has sent."""
    rows = [_slot(slot) + said.masked[slot].digest for slot in sorted(said.masked)]
    return _digest(b"survivors", said.terms.context, *rows)


def _hash_of(terms: Terms, dealer: int, holder: int, purpose: bytes, share: bytes) -> bytes:
    return _digest(b"share|" + purpose, terms.context, _slot(dealer), _slot(holder), share)


def digest_of(numbers: np.ndarray) -> bytes:
    """SHA-256 of int64[size], little-endian."""
    return hashlib.sha256(numbers.astype("<i8", copy=False).tobytes()).digest()


def require_enough(what: str, said: Collection[int], terms: Terms) -> None:
    """
    Raises:
        MaskError: they are fewer than the threshold.
    """
    if len(said) < terms.threshold:
        raise MaskError(
            f"{what} of {len(said)} hospitals, fewer than the threshold of {terms.threshold}; nothing was revealed"
        )


def require_distinct(keys: Mapping[int, Keys]) -> None:
    """
    Raises:
        MaskError: a key stands twice, or is none.
    """
    seen: dict[bytes, int] = {}
    for slot, one in sorted(keys.items()):
        for key in (one.channel, one.pair):
            if len(key) != 32 or key in seen:
                raise MaskError(
                    f"hospital {slot} advertises a key that is none, or that of hospital {seen.get(key, slot)}"
                )
            seen[key] = slot


def require_for_all(said: Transcript, slot: int, dealt: Dealt) -> None:
    """
    Raises:
        MaskError: the shares are not for all of U1.
    """
    if slot not in said.keys or {*dealt.hashes} != {*said.keys} or {*dealt.sealed} != {*said.keys}:
        raise MaskError(f"hospital {slot} has not dealt shares to exactly those that advertised keys")


def require_dealt(said: Transcript, slot: int, dealt: Dealt, voice: Voice) -> None:
    """
    Raises:
        MaskError: the shares are not for all of U1, or not signed.
    """
    require_for_all(said, slot, dealt)
    voice.check(slot, SHARES, dealt_content(said, slot, dealt), dealt.signature)


def require_masked(said: Transcript, slot: int, masked: Masked, voice: Voice) -> None:
    """
    Raises:
        MaskError: the hospital has dealt no shares, or has not signed this.
    """
    if slot not in said.dealt:
        raise MaskError(f"hospital {slot} has sent a masked update, but has dealt no shares")
    voice.check(slot, MASKED, masked_content(said, slot, masked), masked.signature)


def require_agreed(said: Transcript, voice: Voice) -> None:
    """
    Raises:
        MaskError: fewer than the threshold have signed the set of those in the sum, or somebody who is not in it.
    """
    require_enough("signatures on who is in the sum", said.agreed, said.terms)
    content = survivors_content(said)
    for slot, signature in said.agreed.items():
        if slot not in said.masked:
            raise MaskError(f"hospital {slot} has signed a sum that it is not in")
        voice.check(slot, SURVIVORS, content, signature)


def require_share(said: Transcript, dealer: int, holder: int, purpose: bytes, share: bytes) -> None:
    """
    Raises:
        MaskError: it is not the share that the dealer has signed the hash of.
    """
    expected = said.dealt[dealer].hashes[holder][(OWN, PAIR).index(purpose)]
    if _hash_of(said.terms, dealer, holder, purpose, share) != expected:
        raise MaskError(
            f"the share of hospital {dealer} that hospital {holder} holds is not the one whose hash was signed"
        )


def require_revealed(said: Transcript, holder: int, revealed: Revealed) -> None:
    """
    Raises:
        MaskError: the shares are of others than they must be, or are not those whose hashes were signed.
    """
    if {*revealed.own} != {*said.masked} or {*revealed.pair} != {*said.dealt} - {*said.masked}:
        raise MaskError(f"hospital {holder} has not revealed exactly the shares that the sum needs")
    for purpose, shares in ((OWN, revealed.own), (PAIR, revealed.pair)):
        for dealer, share in shares.items():
            require_share(said, dealer, holder, purpose, share)


# --- The sum ----------------------------------------------------------------------------------------------------------


def mask_key(terms: Terms, own: bytes) -> bytes:
    """Key of the stream that is a hospital's own mask."""
    return masks.derived(own, b"mask", terms.context)


def pair_key(terms: Terms, private: bytes, other: bytes) -> bytes:
    """Key of the stream that two hospitals share.

    Raises:
        MaskError: the other's key is none.
    """
    try:
        return masks.derived(masks.agreed(private, other), b"pair mask", terms.context)
    except ValueError:
        raise MaskError("a mask key that was advertised is none") from None


def summed(said: Transcript, hidden: Mapping[int, np.ndarray]) -> np.ndarray:
    """The sum of the updates of U3, int64[size], from what they sent and the shares that were revealed.

    Raises:
        MaskError: too few have revealed shares, or a dealer has shared something else than its secrets.
    """
    require_enough("revealed shares", said.revealed, said.terms)
    total = np.zeros(len(next(iter(hidden.values()))), np.uint64)
    for slot in said.masked:
        total += hidden[slot].view(np.uint64)
        own = _restored(said, slot, {h: r.own[slot] for h, r in said.revealed.items()})
        if seal_of(said.terms, slot, own) != said.keys[slot].seal:
            raise MaskError(f"hospital {slot} has dealt shares of another seed than that of its mask")
        masks.shift(total, mask_key(said.terms, own), adds=False)
    for slot in said.dealt.keys() - said.masked.keys():
        pair = _restored(said, slot, {h: r.pair[slot] for h, r in said.revealed.items()})
        if masks.public(pair) != said.keys[slot].pair:
            raise MaskError(f"hospital {slot} has dealt shares of another mask key than it advertised")
        for present in said.masked:
            masks.shift(total, pair_key(said.terms, pair, said.keys[present].pair), adds=present > slot)
    return total.view(np.int64)


def _restored(said: Transcript, slot: int, shares: Mapping[int, bytes]) -> bytes:
    few = sorted(shares)[: said.terms.threshold]
    return shamir.restored({holder: int.from_bytes(shares[holder], "big") for holder in few}).to_bytes(32, "big")
