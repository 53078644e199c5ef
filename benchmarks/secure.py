"""What it costs to hide updates: bytes and CPU seconds of one hospital's update, in the clear, under masks, encrypted.

    python benchmarks/secure.py                 one hospital of 20, an update of 21,732 entries
    python benchmarks/secure.py --audit         also: ten masked rounds of 20 hospitals, audited

Masks: all steps of a round, with keys, signatures and their checks; nothing that another hospital of the process has computed
is used again. Paillier: fixed point of 32 bits packed with 6 bits of headroom (64 summands) into 2,048 bits, of this file's own;
a few ciphertexts are timed and counted up. Its key must not be the coordinator's, which could decrypt single updates: there is no
threshold decryption here. CKKS is timed where TenSEAL is installed (the extra `benchmarks`); its sums are not exact, the error is told.
"""

import argparse
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from Crypto.Util.number import getPrime

from engine.aggregation import mean
from engine.aggregation.masked import numbers
from engine.config import RunConfig
from engine.ledger.signing import address, hospital_key
from engine.ledger.subjects import masks as ledger_masks
from engine.ledger.subjects.masks import StepVoice
from engine.ledger.typed import Domain
from engine.secure import masks, protocol, shamir
from engine.secure.protocol import Own, Terms, Transcript

ENTRIES = 21_732
ENTRY_BITS, ROOM_BITS = 32, 6
FEDERATION, HEAD = b"f" * 32, b"h" * 32
DOMAIN = Domain(1337, "0x9Be9069a4d2Fb9ec284cc4d149b6388A279f4ABa")


def forget() -> None:
    """What one hospital has computed, another has not."""
    for known in (masks.agreed, masks._private, shamir._weights, ledger_masks._recovered):
        known.cache_clear()


def masked(hospitals: int, entries: int, lost: int = 2) -> dict[str, float]:
    """CPU seconds of one hospital in each step, of the coordinator for the sum, and bytes that a hospital sends."""
    keys = [hospital_key(1, FEDERATION, slot) for slot in range(hospitals)]
    holders = [(address(key),) for key in keys]
    terms = Terms(protocol.context_of(FEDERATION, 1, HEAD, 0), protocol.threshold_of(hospitals), 3)
    draw = np.random.default_rng(0)
    updates = {
        slot: numbers("samples", 500, draw.normal(0, 1e-3, entries).astype(np.float32)) for slot in range(hospitals)
    }
    spent: dict[str, list[float]] = {}

    def timed(step: str, work: Any) -> Any:
        started = time.process_time()
        found = work()
        spent.setdefault(step, []).append(time.process_time() - started)
        return found

    owns = {}
    for slot in range(hospitals):
        seed = secrets.token_bytes(32)
        salt = protocol.salt_of(seed, terms.context)
        commitment = timed(
            "commit", lambda slot=slot, salt=salt: masks.committed(terms.context, slot, updates[slot], salt)
        )
        owns[slot] = Own(slot, seed, terms, commitment)
    voices = {slot: StepVoice(DOMAIN, FEDERATION, 1, HEAD, holders, slot, key) for slot, key in enumerate(keys)}
    said, present = Transcript(terms, 0, tuple(range(hospitals))), set(range(hospitals))
    said = said.after(
        "keys", {s: timed("advertise", lambda s=s: protocol.advertise(owns[s], voices[s])) for s in present}
    )
    hidden: dict[int, np.ndarray] = {}
    one = 0  # the hospital that is measured from here on: what it computes in one step it knows in the next
    others = {s: protocol.share(owns[s], said, voices[s]) for s in present - {one}}
    forget()
    said = said.after("dealt", {**others, one: timed("share", lambda: protocol.share(owns[one], said, voices[one]))})
    mine = timed("mask", lambda: protocol.mask(owns[one], said, updates[one], voices[one]))
    rest = {
        s: protocol.mask(owns[s], said, updates[s], voices[s]) for s in sorted(present - {one})[: hospitals - 1 - lost]
    }
    answers = {one: mine, **rest}
    hidden = {s: vector for s, (vector, _) in answers.items()}
    said = said.after("masked", {s: word for s, (_, word) in answers.items()})
    signed = timed("agree", lambda: protocol.agree(owns[one], said, voices[one]))
    said = said.after("agreed", {one: signed, **{s: protocol.agree(owns[s], said, voices[s]) for s in rest}})
    ledger_masks._recovered.cache_clear()
    told = timed("unmask", lambda: protocol.unmask(owns[one], said, voices[one]))
    said = said.after("revealed", {one: told, **{s: protocol.unmask(owns[s], said, voices[s]) for s in rest}})
    total = timed("sum (coordinator)", lambda: protocol.summed(said, hidden))
    assert (total == sum(updates[s] for s in said.masked)).all()
    small = 5 * 65 + 4 * 32 + hospitals * (80 + 64) + len(told.own) * 32 + len(told.pair) * 32
    return {**{step: float(np.mean(times)) for step, times in spent.items()}, "bytes": 8.0 * (entries + 1) + small}


class Paillier:
    """Additively homomorphic encryption (Paillier 1999) with g = n + 1, for this comparison only."""

    def __init__(self, bits: int = 2048) -> None:
        self.p, self.q = getPrime(bits // 2), getPrime(bits // 2)
        self.n = self.p * self.q
        self.square = self.n * self.n

    def encrypt(self, number: int) -> int:
        return (1 + number * self.n) * pow(secrets.randbelow(self.n - 1) + 1, self.n, self.square) % self.square

    def decrypt(self, cipher: int) -> int:
        order = (self.p - 1) * (self.q - 1)
        return (pow(cipher, order, self.square) - 1) // self.n * pow(order, -1, self.n) % self.n


def paillier(entries: int, sample: int = 4) -> dict[str, float]:
    """CPU seconds of one update and its bytes; checks that two packed ciphertexts add up."""
    box = Paillier()
    width = ENTRY_BITS + ROOM_BITS
    packed = (box.n.bit_length() - 1) // width
    many = -(-entries // packed)
    draw = np.random.default_rng(0)

    def pack(values: list[int]) -> int:
        return sum((value + 2 ** (ENTRY_BITS - 1)) << i * width for i, value in enumerate(values))

    values = [draw.integers(-(2**31), 2**31, packed).tolist() for _ in range(sample)]
    started = time.process_time()
    ciphers = [box.encrypt(pack(row)) for row in values]
    encrypt = (time.process_time() - started) / sample * many
    started = time.process_time()
    both = box.decrypt(ciphers[0] * ciphers[1] % box.square)
    decrypt = (time.process_time() - started) * many
    found = [(both >> i * width & (1 << width) - 1) - 2**ENTRY_BITS for i in range(packed)]
    assert found == [a + b for a, b in zip(values[0], values[1], strict=True)]
    return {"encrypt": encrypt, "decrypt": decrypt, "bytes": many * 2 * box.n.bit_length() / 8}


def ckks(entries: int, summands: int = 4) -> dict[str, float] | None:
    """As `paillier`, under a public key, with the largest error of a sum; None where TenSEAL is not installed."""
    try:
        import tenseal
    except ImportError:
        return None
    private = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60])
    private.global_scale = 2.0**40
    public = tenseal.context_from(private.serialize(save_secret_key=False))
    updates = np.random.default_rng(0).normal(0, 1e-3, (summands, entries))

    def encrypted(update: np.ndarray) -> list[Any]:
        return [tenseal.ckks_vector(public, update[i : i + 4096].tolist()) for i in range(0, entries, 4096)]

    started = time.process_time()
    sums = encrypted(updates[0])
    encrypt = time.process_time() - started
    size = float(sum(len(part.serialize()) for part in sums))
    for update in updates[1:]:
        sums = [a + b for a, b in zip(sums, encrypted(update), strict=True)]
    started = time.process_time()
    found = np.concatenate([part.decrypt(private.secret_key()) for part in sums])
    decrypt = time.process_time() - started
    error = float(np.abs(found - updates.sum(0)).max())
    return {"encrypt": encrypt, "decrypt": decrypt, "bytes": size, "error": error}


def audited(hospitals: int, rounds: int, folder: Path) -> tuple[float, str, int]:
    """Seconds to audit masked rounds, the verdict, and parameters of the model."""
    from engine.audit.run import audit
    from engine.experiment import run

    config = RunConfig.model_validate(
        {
            "data": {"simulated": {"patients": max(24, hospitals + 4), "minutes": 1.5}},
            "cohort": {"hospitals": hospitals, "partition": "record-dirichlet", "alpha": 10.0},
            "federation": {"rounds": rounds, "local_steps": 1},
            "aggregation": {"secure": {"method": "masks"}},
            "ledger": {"window": 0},
            "tracking": {"backend": "none"},
            "execution": {"pool": "inprocess"},
        }
    )
    result = run(config, folder / "run")
    assert result.rounds
    times = []
    for _ in range(3):
        started = time.process_time()
        report = audit(folder / "run")
        times.append(time.process_time() - started)
    from safetensors.numpy import load_file

    size = sum(tensor.size for tensor in load_file(folder / "run" / "model.safetensors").values())
    return min(times), str(report.verdict), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", type=int, default=20)
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--audit", action="store_true", help="ten masked rounds, audited")
    options = parser.parse_args()
    runs = [masked(options.hospitals, options.entries) for _ in range(options.repeats)]
    best = {name: min(run[name] for run in runs) for name in runs[0]}
    steps = [name for name in best if name not in ("bytes", "sum (coordinator)")]
    plain_bytes = 4.0 * options.entries
    update = np.random.default_rng(0).normal(0, 1e-3, options.entries).astype(np.float32)
    started = time.process_time()
    mean.add(np.zeros(options.entries, np.int64), 500.0, update)
    plain = time.process_time() - started
    own = sum(best[step] for step in steps)
    print(f"{options.hospitals} hospitals, {options.entries} entries, CPU time, best of {options.repeats}")
    for step in (*steps, "sum (coordinator)"):
        print(f"  {step:<20}{1000 * best[step]:8.2f} ms")
    rows = [("plain", plain_bytes, plain), ("masks", best["bytes"], own)]
    box = paillier(options.entries)
    rows.append(("Paillier, packed", box["bytes"], box["encrypt"]))
    other = ckks(options.entries)
    rows += [("CKKS", other["bytes"], other["encrypt"])] if other is not None else []
    print(f"{'way':<20}{'bytes':>12}{'x plain':>10}{'CPU s':>10}")
    for name, size, seconds in rows:
        print(f"{name:<20}{size:>12,.0f}{size / plain_bytes:>10.2f}{seconds:>10.4f}")
    if other is None:
        print("CKKS was not measured: TenSEAL is not installed (pip install pulseledger[benchmarks])")
    else:
        print(f"CKKS is not exact: a sum of 4 updates of size 0.001 is off by up to {other['error']:.1e}")
    if options.audit:
        with tempfile.TemporaryDirectory() as folder:
            seconds, verdict, size = audited(options.hospitals, 10, Path(folder))
        print(
            f"audit of 10 masked rounds of {options.hospitals} hospitals, {size} parameters: {seconds:.2f} s CPU, {verdict}"
        )


if __name__ == "__main__":
    main()
