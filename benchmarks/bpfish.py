"""BPFISH (Singh and Pratap) recomputed from its printed equations and parameters, beside what the paper reports.

    python benchmarks/bpfish.py [--draws 20] [--records FOLDER [--rounds 15] [--seeds 3] [--clips 8] [--rates 0.1] [--jobs 1]]

Printed: what each association is worth by eq. 19 and 21 (the paper: F is 11.18 % above random association at N = 500); whether the
deadline of 24 minutes ever binds, and what the radio costs with the printed model size and with that of the printed network; what
sigma costs in epsilon by three readings of the sampling (the paper: 185, 8, 1.89). With --records, a folder of MIT-BIH, the
analogue of Table IV: accuracy of ten hospitals at these sigmas, which are all that differs between its rows, and the fall beside
the paper's. The chest X-rays themselves are not run. --draws 0 trains only.
"""

import argparse
import math
import multiprocessing
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

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
MITDB = {"source": "mitdb", "exclude": ["102", "104", "107", "217"], "window": [90, 162], "classes": "NSVF"}
SIGMAS = (0.25, 0.6, 1.0)
HOSPITALS, TRAIN_BEATS = 10, 6000  # of the analogue; a hospital of MIT-BIH has some 6,000 train beats
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


def config_of(source: Mapping[str, Any], sigma: float, clip: float, rate: float, rounds: int, seed: int) -> RunConfig:
    """Ten hospitals, ten steps a round on samples of 32 beats on average, and nothing but sigma differs between two rows.

    Args:
        source: the section `data`.
        sigma: 0: the same samples and clipped gradients, without noise.
        rate: of learning.
    """
    share = BATCH / TRAIN_BEATS
    if sigma:
        how = {"noise": sigma, "clip": clip, "steps": PASSES, "sampling_rate": share, "delta": DELTA}
        privacy = {"method": "dp-sgd", **how}
    else:
        without = f"{Path(__file__).with_name('unnoised.py')}:clipped"
        privacy = {"method": without, "parameters": {"rate": share, "clip": clip, "steps": PASSES}}
    values = {
        "name": "bpfish",
        "seed": seed,
        "data": dict(source),
        "cohort": {"hospitals": HOSPITALS, "partition": "record-dirichlet", "alpha": 1.0},
        "federation": {"rounds": rounds, "learning_rate": rate},
        "privacy": privacy,
        "personalisation": {"method": "none"},
        "ledger": {"backend": "none"},
        "tracking": {"backend": "none"},
        "execution": {"pool": "inprocess"},
    }
    return parse(RunConfig, values, "benchmark")


class Trained(NamedTuple):
    """A run: accuracy in percent and macro-F1 of the global model, epsilon by both bounds, train beats of all hospitals."""

    accuracy: float
    macro: float
    pld: float
    rdp: float
    beats: int


def trained(source: Mapping[str, Any], sigma: float, clip: float, rate: float, rounds: int, seed: int) -> Trained:
    """Trains one federation; the largest epsilon of a hospital, by what each really took."""
    with tempfile.TemporaryDirectory() as place:
        found = run(config_of(source, sigma, clip, rate, rounds, seed), Path(place) / "run")
    scores, spent = found.final.global_, found.privacy
    costs = (math.nan, math.nan) if spent is None else (spent.pld, spent.rdp)
    beats = sum(hospital.train for hospital in found.cohort.hospitals)
    return Trained(100 * (scores.accuracy or 0.0), scores.macro_f1 or 0.0, *costs, beats)


def table_iv(
    source: Mapping[str, Any], rounds: int, seeds: int, clips: Sequence[float], rates: Sequence[float], jobs: int
) -> None:
    """Section 5: accuracy at each sigma, with the epsilon that a hospital really spent and the one that pooling would have."""
    print(
        f"Accuracy of the global model on test beats, {rounds} rounds, {seeds} seeds, beside Table IV (chest X-rays). In every row each "
        f"beat is in a batch with probability {BATCH}/{TRAIN_BEATS}, a hospital takes {PASSES} steps a round, and gradients are clipped:\n"
    )
    head = "| clip | learning rate | sigma | epsilon of a hospital: PLD (RDP) | pooled: PLD (RDP) | accuracy % | macro-F1 | fall, points "
    print(f"{head}| paper: epsilon | paper: fall |\n" + "|---" * 10 + "|")
    rows = [(sigma, clip, rate) for clip in clips for rate in rates for sigma in (0.0, *SIGMAS)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        runs = {row: [pool.submit(trained, source, *row, rounds, seed) for seed in range(seeds)] for row in rows}
        base: list[float] = []
        for (sigma, clip, rate), futures in runs.items():
            found = [one.result() for one in futures]
            if sigma == 0:
                base = [one.accuracy for one in found]
            falls = [before - one.accuracy for before, one in zip(base, found, strict=True)]
            said, share = PAPER[sigma]
            cells = [
                f"{clip:g}",
                f"{rate:g}",
                f"{sigma:g}",
                *spending(found, sigma, rounds),
                f"{statistics.fmean(one.accuracy for one in found):.2f}",
                f"{statistics.fmean(one.macro for one in found):.3f}",
                f"{statistics.fmean(falls):.2f} ({min(falls):.2f} to {max(falls):.2f})",
                said,
                f"{100 * (PAPER[0.0][1] - share):.2f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(
        "\nPooled: as if every batch were drawn from the train beats of all hospitals, as the paper's figures presume."
    )


def spending(found: Sequence[Trained], sigma: float, rounds: int) -> tuple[str, str]:
    """The two accountings of a row: each hospital by its own samples, and all batches as if drawn from one pool."""
    if sigma == 0:
        return "none", "none"
    own = f"{max(one.pld for one in found):.3g} ({max(one.rdp for one in found):.3g})"
    pool = (Event(BATCH / min(one.beats for one in found), sigma, 1, rounds * PASSES * HOSPITALS),)
    return own, f"{pld_epsilon(pool, DELTA):.3g} ({rdp_epsilon(pool, DELTA):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=20, help="draws of Table III")
    parser.add_argument("--records", help="folder of MIT-BIH: trains as well")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clips", type=float, nargs="+", default=[8.0], help="norms; the paper has 1, 4 and 8")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1], help="learning rates, each for all sigmas")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    given = parser.parse_args()
    if given.draws:
        worth(given.draws)
        limits()
        accounting()
    if given.records is not None:
        table_iv({**MITDB, "folder": given.records}, given.rounds, given.seeds, given.clips, given.rates, given.jobs)


if __name__ == "__main__":
    main()
