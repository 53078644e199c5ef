"""Pages to look at: real against synthetic beats, where they lie, and the score card; or synthetic beats alone."""

from pathlib import Path
from typing import Any

import numpy as np

from engine.files import whole
from engine.oracles.base import Batch
from engine.seeds import generator
from engine.synthesis.distances import FEW, NotComputable
from engine.synthesis.generators import Space
from engine.synthesis.quality import Anatomy, Report, evidence_numbers

SHOWN = 30  # beats drawn one by one
EMBEDDED = 300  # beats of a kind in the embeddings
REAL, MADE = "#4477aa", "#cc6677"


def draw_quality(report: Report, real: Batch, synthetic: Batch, anatomy: Anatomy, path: Path, seed: int = 0) -> None:
    """Writes the page as PNG.

    Args:
        real: real beats of the class, such as all of train and held-out part.
    """
    from matplotlib.figure import Figure
    from threadpoolctl import threadpool_limits

    draw = generator(seed, "picture")
    leads = real.x.shape[1]
    figure = Figure(figsize=(13, 4 + 4 * leads), layout="constrained")
    figure.suptitle(
        f"{report.generator}, class {report.label}: {report.synthetic} synthetic beats from {report.real} real ones"
    )
    axes = figure.subplots(leads + 1, 3)
    for lead in range(leads):
        name = f"lead {lead + 1}: " if leads > 1 else ""
        own, made = (np.asarray(beats.x[:, lead]) for beats in (real, synthetic))
        _shapes(axes[lead], name, own, made, anatomy, draw)
    with threadpool_limits(1):
        _embeddings(axes[-1, 0], axes[-1, 1], real, synthetic, draw)
    axes[-1, 2].axis("off")
    axes[-1, 2].text(0, 1, _card(report), family="monospace", fontsize=8, va="top", transform=axes[-1, 2].transAxes)
    figure.savefig(path, format="png", dpi=100)


def draw_alone(synthetic: Batch, anatomy: Anatomy, path: Path) -> None:
    """Writes a page of synthetic beats as PNG, with nothing of real ones, nor how many there are."""
    from matplotlib.figure import Figure

    leads = synthetic.x.shape[1]
    figure = Figure(figsize=(13, 4 * leads), layout="constrained")
    for lead, axes in enumerate(figure.subplots(leads, 2, squeeze=False)):
        x = np.asarray(synthetic.x[:, lead])
        seconds = (np.arange(x.shape[1]) - anatomy.before) / anatomy.sampling_rate
        name = f"lead {lead + 1}: " if leads > 1 else ""
        axes[0].plot(seconds, x[:SHOWN].T, color=MADE, alpha=0.5, linewidth=0.8)
        axes[0].set(title=f"{name}synthetic, {min(len(x), SHOWN)} beats of {len(x)}", ylabel="amplitude")
        axes[1].plot(seconds, x.mean(0), color=MADE)
        axes[1].fill_between(seconds, x.mean(0) - x.std(0), x.mean(0) + x.std(0), color=MADE, alpha=0.2, linewidth=0)
        axes[1].set(title=f"{name}mean ± standard deviation")
        axes[1].sharey(axes[0])
        for axis in axes:
            axis.set(xlabel="seconds from the R peak")
    with whole(path) as part:
        figure.savefig(part, format="png", dpi=100)


def _shapes(
    axes: Any, lead: str, real: np.ndarray, synthetic: np.ndarray, anatomy: Anatomy, draw: np.random.Generator
) -> None:
    """Windows of one lead, float32[n, window] each: one by one, and their means."""
    seconds = (np.arange(real.shape[1]) - anatomy.before) / anatomy.sampling_rate
    for axis, x, name, colour in ((axes[0], real, "real", REAL), (axes[1], synthetic, "synthetic", MADE)):
        rows = draw.permutation(len(x))[:SHOWN]
        axis.plot(seconds, x[rows].T, color=colour, alpha=0.4, linewidth=0.7)
        axis.set(title=f"{lead}{name}, {len(rows)} beats", xlabel="seconds from the R peak", ylabel="amplitude")
        centre, spread = x.mean(0), x.std(0)
        axes[2].plot(seconds, centre, color=colour, label=name)
        axes[2].fill_between(seconds, centre - spread, centre + spread, color=colour, alpha=0.2, linewidth=0)
    axes[2].set(title=f"{lead}mean ± standard deviation", xlabel="seconds from the R peak")
    axes[2].legend()
    axes[1].sharey(axes[0])


def _embeddings(pca: Any, tsne: Any, real: Batch, synthetic: Batch, draw: np.random.Generator) -> None:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    space = Space.of(real)
    parts = [space.joint(beats.x, beats.rr)[draw.permutation(len(beats.y))[:EMBEDDED]] for beats in (real, synthetic)]
    points, count = np.concatenate(parts), len(parts[0])
    for axis, name in ((pca, "PCA"), (tsne, "t-SNE")):
        axis.set(title=f"{name} of windows and RR features", xticks=[], yticks=[])
        if min(map(len, parts)) < FEW:
            axis.text(0.5, 0.5, f"not computable: {count} real, {len(parts[1])} synthetic beats", ha="center")
            continue
        seed = int(draw.integers(2**31))
        if name == "PCA":
            flat = PCA(2, random_state=seed).fit_transform(points)
        else:
            flat = TSNE(perplexity=min(30.0, len(points) / 4), random_state=seed, init="pca").fit_transform(points)
        axis.scatter(*flat[:count].T, s=8, color=REAL, alpha=0.6, label="real")
        axis.scatter(*flat[count:].T, s=8, color=MADE, alpha=0.6, label="synthetic")


def _card(report: Report) -> str:
    lines = [f"compared with {report.reference} real beats, {report.held_out} held out", ""]
    tier: Any = report.statistical
    if isinstance(tier, NotComputable):
        lines.append(f"statistical: not computable,\n  {tier.not_computable}")
    else:
        lines += [f"KS {name:<20} {ks.statistic:.3f}  Holm p {ks.holm:.3g}" for name, ks in tier.ks.items()]
        lines.append(f"MMD²                    {tier.mmd:.4f} p {tier.mmd_p:.3g}")
        lines.append(f"correlation difference  {_number(tier.correlation_difference)}")
    tier = report.discriminative
    if isinstance(tier, NotComputable):
        lines.append(f"discriminative: not computable,\n  {tier.not_computable}")
    else:
        for name, one in (("GRU", tier.gru), ("linear", tier.linear)):
            lines.append(f"real or not, {name:<10} score {one.score:.3f}  AUC {one.auc:.3f}")
    tier = report.utility
    if isinstance(tier, NotComputable):
        lines.append(f"utility: not computable,\n  {tier.not_computable}")
    else:
        lines.append("recall           " + "".join(f"{name[:6]:>7}" for name in tier.trtr.recall))
        for name, scores in (("TRTR", tier.trtr), ("TSTR", tier.tstr), ("TRTS", tier.trts), ("added", tier.added)):
            values = (scores.recall.get(label) for label in tier.trtr.recall)
            lines.append(f"  {name:<15}" + "".join("      -" if v is None else f"{v:7.3f}" for v in values))
    tier = report.recognition
    if isinstance(tier, NotComputable):
        lines.append(f"recognition: not computable,\n  {tier.not_computable}")
    else:
        lines.append(f"recall of train beats             {tier.real:.3f} by real, {tier.synthetic:.3f} by synthetic")
    lines.append(f"repeated                          {report.variety.repeated}")
    lines.append(f"spread                            {_number(report.variety.spread)}")
    lines.append(f"distance to real beats            {_number(report.variety.distance)}")
    tier = report.privacy
    if isinstance(tier, NotComputable):
        lines.append(f"privacy: not computable,\n  {tier.not_computable}")
    else:
        lines.append(f"nearest-neighbour distance ratio  {_number(tier.nndr)}")
        lines.append(f"exact and near copies             {tier.exact}, {tier.near}")
        lines.append(f"membership inference AUC          {_number(tier.membership_auc)}")
    lines += ["", *(f"{name:<12}{value:>8}" for name, value in evidence_numbers(report).items())]
    return "\n".join(lines)


def _number(value: float | NotComputable) -> str:
    return "not computable" if isinstance(value, NotComputable) else f"{value:.3f}"
