"""The page of `pulseledger claims`: a sentence and a picture for each claim, and `claims.json`."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from engine.files import write_text
from engine.homes import claim as claim_folder
from sweeps.claims import Found, as_document, judge, read_claims, registered
from sweeps.page import Page, Picture, Said, Section, Words

PAGE, DATA, TABLE = "claims.html", "claims.json", "claims.md"
COLOURS = {"validated": "#2a7f3f", "refuted": "#b3362b", "not shown": "#7a6a2a", "not testable": "#777777"}
HOW = (
    "Every number is of test predictions, patient by patient. A claim is validated where the paired test over patients (after Holm, over "
    "all claims of the file) and the interval of resampled patients both say so, refuted where the interval excludes it, and not testable "
    "where there are too few beats or patients. A point is a patient's own difference, mean over seeds."
)


def write_claims(folder: Path, file: Path, out: Path | None = None) -> tuple[list[Found], list[Path]]:
    """Judges the claims of a file by a study's predictions; writes page and data.

    Raises:
        PulseLedgerError: file or study is wrong, or the folder for the page is somebody else's.
    """
    claims, digest = read_claims(file)
    found, standing = judge(claims, folder), registered(folder, digest)
    out = out or folder / "claims"
    claim_folder(out, "report", (PAGE, DATA, TABLE))
    sections, drawn = [], {}
    for one in found:
        parts: list[Words | Picture] = [Words(one.sentence, "lead")]
        if one.difference is not None:
            picture = Picture(f"claim-{one.claim.id}", forest(one), f"{one.claim.id}: {one.verdict}")
            buffer = io.BytesIO()
            picture.figure.savefig(buffer, format="png", dpi=120)
            drawn[picture.stem] = buffer.getvalue()
            parts.append(picture)
        sections.append(Section(f"{one.claim.id} {one.verdict}", tuple(parts)))
    said = [Said(one.sentence, (), COLOURS[one.verdict]) for one in found]
    page = Page(
        f"Claims: {file.name}", said, HOW, [("claims", f"SHA-256 {digest}"), ("standing", standing)], sections, drawn
    )
    write_text(out / PAGE, page.html())
    write_text(out / DATA, as_document(found, digest, standing))
    write_text(out / TABLE, markdown(found, file.name, digest, standing))
    return found, [out / PAGE, out / DATA, out / TABLE]


def forest(found: Found) -> Figure:
    """Each patient's difference, and the pooled one with its interval under them, in points."""
    assert found.difference is not None
    order = sorted(range(len(found.each)), key=lambda i: found.each[i])
    figure = Figure(figsize=(6.4, 1.2 + 0.16 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    claim = found.claim
    least, greatest = claim.between or (-claim.margin, claim.margin)
    if claim.against:
        axes.axvline(0, color="#999999", linewidth=0.8)
    if least < greatest:
        axes.axvspan(100 * least, 100 * greatest, color="#eeeeee", zorder=0)
    axes.plot([100 * found.each[i] for i in order], range(1, len(order) + 1), "o", markersize=3, color="#444444")
    value, low, high = (100 * number for number in found.difference)
    colour = COLOURS[found.verdict]
    axes.plot([low, high], [0, 0], color=colour, linewidth=2)
    axes.plot([value], [0], "D", color=colour)
    axes.set_yticks(range(len(order) + 1), ["all", *(found.patients[i] for i in order)], fontsize=6)
    side = ", subject less other" if claim.against else ""
    what = (
        f"equality of recall (all), recall (patients){side}"
        if claim.groups
        else f"{claim.endpoint.replace('_', '-')}{side}"
    )
    axes.set_xlabel(f"points of {what}")
    return figure


def markdown(found: Sequence[Found], name: str, digest: str, standing: str) -> str:
    """The verdicts as a page that holds no beats, to be kept beside the file of claims."""
    head = f"# {name}\n\nSHA-256 of the claims: `{digest}`; {standing}.\n\n"
    head += "| claim | says | verdict | points | interval | p after Holm | patients | seeds |\n|---|---|---|---|---|---|---|---|\n"
    return head + "".join(_line(one) for one in found)


def _line(found: Found) -> str:
    claim, numbers, p = found.claim, [found.why, "–"], "–"
    if found.difference is not None:
        value, low, high = (f"{100 * number:{'+' if claim.against else ''}.1f}" for number in found.difference)
        numbers, p = (
            [value, f"[{low}, {high}]"],
            "interval alone" if found.corrected is None else f"{found.corrected:.3g}",
        )
    verdict = f"{found.verdict}, but no patient differs" if found.nobody else found.verdict
    cells = [claim.id, claim.says, verdict, *numbers, p, str(len(found.patients) or "–"), str(found.seeds or "–")]
    return f"| {' | '.join(cells)} |\n"


def told(found: Sequence[Found]) -> str:
    """What the command prints."""
    return "\n".join(one.sentence for one in found)
