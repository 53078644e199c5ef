"""BPFISH (Singh and Pratap) recomputed from its printed equations and parameters, beside what the paper reports.

    python benchmarks/bpfish.py [--draws 20] [--records FOLDER [--rounds 15] [--seeds 3]]

Printed: what each association is worth by eq. 19 and 21 (the paper: F is 11.18 % above random association at N = 500); whether the
deadline of 24 minutes ever binds, and what the radio costs with the printed model size and with that of the printed network; what
sigma costs in epsilon by three readings of the sampling (the paper: 185, 8, 1.89). With --records, a folder of MIT-BIH, the
analogue of Table IV: accuracy of ten hospitals at these sigmas, and the fall beside the paper's. The chest X-rays themselves are not run.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from engine.association.market import Market, Offer, Report, Terms, total
from engine.association.matching import Matching, associate
from engine.config import RunConfig
from engine.experiment import run
from engine.privacy.accountant import Event, pld_epsilon, rdp_epsilon
from engine.seeds import generator
from engine.settings import parse
from engine.timing.fleet import shannon

IMAGES, ROUNDS, PASSES, BATCH, DELTA = 5270, 15, 10, 32, 1e-5
SIZES = ((10, 5), (50, 5), (100, 5), (500, 50))  # hospitals, miners
PRINTED_BITS = 3776.0
# padded 3 x 3 convolutions of 16 to 256 filters, two of each, five pools of 150 x 150, dense 512, 128, 68, 1
NETWORK_BITS = 32 * 3_351_641.0
METHODS = ("random", "paper", "capacity", "all-on-one", "optimal")
MOST = 100  # hospitals up to which the largest sum is sought
SIGMAS = (0.25, 0.6, 1.0)
PAPER = {0.0: ("none", 0.8993), 0.25: ("185", 0.8819), 0.6: ("8", 0.8454), 1.0: ("1.89", 0.7309)}  # Table IV


def market(seed: int, hospitals: int, miners: int, bits: float = PRINTED_BITS) -> Market:
    """A draw of Table III; transmit power is read as dBW, and every hospital has the same number of images."""
    reports, rates, beats = {}, {}, IMAGES // hospitals
    for hospital in range(hospitals):
        draw = generator(seed, "bpfish", 0, hospital)
        watts = 10 ** (draw.uniform(1, 10) / 10)
        reports[hospital] = Report(beats, PASSES * beats, draw.uniform(1e4, 3e4), draw.uniform(1e9, 2.6e9), watts, 1.0)
        rates[hospital] = [int(draw.integers(1, 11)) * shannon(20e6, draw.uniform(13, 20)) for _ in range(miners)]
    terms = Terms(ROUNDS, 1, bits, 1, 1e-28, 1.0, 24 * 60.0)
    return Market((Offer(10.0, 0.5, -(-hospitals // miners)),) * miners, reports, rates, terms)


def matched(one: Market, method: str, seed: int) -> Matching:
    """An association; at random any number may come to a miner, as where nobody associates."""
    if method == "random":
        offers = tuple(offer._replace(places=len(one.reports)) for offer in one.offers)
        one = Market(offers, one.reports, one.rates, one.terms)
    return associate(one, method, generator(seed, "association"))


def worth(draws: int) -> None:
    """Section 1: U of each association, and against random."""
    print(
        f"Utility U (eq. 19) of {draws} draws, and against random; F = U / 2 - J / 2 differs by less than 1e-3 of it:\n"
    )
    print("| N | S | " + " | ".join(METHODS) + " |\n|---|---|" + "---|" * len(METHODS))
    for hospitals, miners in SIZES:
        means = {}
        for method in METHODS:
            if method == "optimal" and hospitals > MOST:
                continue
            markets = [market(seed, hospitals, miners) for seed in range(draws)]
            means[method] = statistics.fmean(
                total(one, matched(one, method, seed).pairs) for seed, one in enumerate(markets)
            )
        base = means["random"]
        cells = [f"{u:,.0f} ({100 * (u / base - 1):+.1f} %)" if (u := means.get(m)) else "-" for m in METHODS]
        print(f"| {hospitals} | {miners} | {' | '.join(cells)} |", flush=True)
    print("\nThe paper reports +11.18 % over random at N = 500; by its equations U grows with the square of a crowd.\n")


def limits() -> None:
    """Sections 2 and 3: delays against the deadline, energies with both model sizes."""
    print("Slowest hospital and energies of seed 0, eq. 8 to 11; the deadline is 1,440 s:\n")
    print(
        "| N | model bits | slowest s | computing J | radio J a hospital | left out: would lose |\n|---|---|---|---|---|---|"
    )
    for hospitals, miners in (SIZES[0], SIZES[-1]):
        for bits in (PRINTED_BITS, NETWORK_BITS):
            one = market(0, hospitals, miners, bits)
            pairs = [(h, m) for h in one.reports for m in range(miners)]
            slowest = max(one.delay(*pair) for pair in pairs)
            energies = [one.energy(*pair) for pair in pairs]
            computing, radio = (statistics.fmean(energy[i] for energy in energies) for i in (0, 1))
            out = len(matched(one, "paper", 0).left_out)
            print(
                f"| {hospitals} | {bits:,.0f} | {slowest:.3g} | {computing:.2g} | {radio:.2g} | {out} of {hospitals} |"
            )
    print()


def accounting() -> None:
    """Section 4: epsilon of the sigmas by three readings of who samples how often."""
    batches = -(-IMAGES // BATCH)
    own = IMAGES // 10
    readings = (
        ("pooled, one pass a round", BATCH / IMAGES, ROUNDS * batches),
        ("one hospital, ten passes a round", BATCH / own, ROUNDS * PASSES * -(-own // BATCH)),
        ("one hospital, ten steps a round", BATCH / own, ROUNDS * PASSES),
    )
    print(f"Epsilon at delta {DELTA:g} of one image, RDP (PLD); the paper says 185, 8, 1.89:\n")
    print(
        "| reading | q | steps | "
        + " | ".join(f"sigma {s}" for s in SIGMAS)
        + " |\n|---|---|---|"
        + "---|" * len(SIGMAS)
    )
    for name, rate, steps in readings:
        cells = []
        for sigma in SIGMAS:
            events = (Event(rate, sigma, 1, steps),)
            cells.append(f"{rdp_epsilon(events, DELTA):.4g} ({pld_epsilon(events, DELTA):.4g})")
        print(f"| {name} | {rate:.4f} | {steps} | {' | '.join(cells)} |", flush=True)
    print("\nOnly the pooled reading gives the paper's figures, and no hospital samples from the pool.\n")


def config_of(folder: str, sigma: float, clip: float, rounds: int, seed: int) -> RunConfig:
    """Ten hospitals of MIT-BIH, ten steps a round with samples of 32 on average; no normalisation over a batch anywhere."""
    beats = 100_000 * 0.6 / 10
    privacy = {"method": "dp-sgd", "noise": sigma, "clip": clip, "steps": PASSES, "sampling_rate": BATCH / beats}
    plain = {"local_steps": PASSES, "batch_size": BATCH} if sigma == 0 else {"batch_size": BATCH}
    values = {
        "name": "bpfish",
        "seed": seed,
        "data": {
            "source": "mitdb",
            "folder": folder,
            "exclude": ["102", "104", "107", "217"],
            "window": [90, 162],
            "classes": "NSVF",
        },
        "cohort": {"hospitals": 10, "partition": "record-dirichlet", "alpha": 1.0},
        "federation": {"rounds": rounds, "learning_rate": 0.01 if sigma else 0.1, **plain},
        "privacy": privacy if sigma else {"method": "none"},
        "personalisation": {"method": "none"},
        "ledger": {"backend": "none"},
        "tracking": {"backend": "none"},
        "execution": {"pool": "inprocess"},
    }
    return parse(RunConfig, values, "benchmark")


def table_iv(folder: str, rounds: int, seeds: int, clips: Sequence[float] = (8.0,)) -> None:
    """Section 5: accuracy at each sigma, with the epsilon that was really spent."""
    print(
        f"Accuracy of the global model on MIT-BIH test beats, {rounds} rounds, {seeds} seeds, beside Table IV (chest X-rays):\n"
    )
    print("| clip | sigma | epsilon of a beat | accuracy % | macro-F1 | fall, points | paper: epsilon | paper: fall |")
    print("|---|---|---|---|---|---|---|---|")
    base = 0.0
    for clip in clips:
        for sigma in (0.0, *SIGMAS):
            found = []
            for seed in range(seeds):
                with tempfile.TemporaryDirectory() as place:
                    found.append(run(config_of(folder, sigma, clip, rounds, seed), Path(place) / "run"))
            accuracy = 100 * statistics.fmean(one.final.global_.accuracy or 0.0 for one in found)
            macro = statistics.fmean(one.final.global_.macro_f1 or 0.0 for one in found)
            base = accuracy if sigma == 0 else base
            spent = max((one.privacy.epsilon for one in found if one.privacy is not None), default=None)
            said, share = PAPER[sigma]
            fall = f"{base - accuracy:.2f} | {said} | {100 * (PAPER[0.0][1] - share):.2f}"
            print(
                f"| {clip:g} | {sigma} | {'none' if spent is None else f'{spent:.3g}'} | {accuracy:.2f} | {macro:.3f} | {fall} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=20, help="draws of Table III")
    parser.add_argument("--records", help="folder of MIT-BIH: trains as well")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clips", type=float, nargs="+", default=[8.0])
    given = parser.parse_args()
    worth(given.draws)
    limits()
    accounting()
    if given.records is not None:
        table_iv(given.records, given.rounds, given.seeds, given.clips)


if __name__ == "__main__":
    main()
