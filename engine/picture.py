"""The confusion matrices of a run as an SVG, which a browser and MLflow show; without matplotlib, whose import takes a second."""

from collections.abc import Iterator
from html import escape

from engine.result import Result, Scores

CELL, LEFT, TOP, GAP = 62, 64, 44, 56  # pixels
LETTER = 9  # pixels, of a class's name
_INK = "#08306b"


def confusion_svg(result: Result) -> str:
    """Both models' counts, global and personal, rows true and columns predicted; the shade is a cell's share of its row."""
    classes = list(result.final.global_.recall)
    side = CELL * len(classes)
    margin = LEFT + LETTER * (max(map(len, classes)) - 1)
    width, height = 2 * (margin + side) + GAP, TOP + side + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="14" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for model, scores, left in (
        ("global", result.final.global_, margin),
        ("personal", result.final.personal, 2 * margin + side + GAP // 2),
    ):
        lines += [f'<g transform="translate({left} {TOP})">', *_matrix(model, scores, classes, side), "</g>"]
    return "\n".join([*lines, "</svg>\n"])


def _matrix(model: str, scores: Scores, classes: list[str], side: int) -> Iterator[str]:
    yield _text(side / 2, -16, f"{model}: {_accuracy(scores)}")
    yield _text(side / 2, side + 42, "predicted")
    most = LETTER * max(map(len, classes))
    yield f'<text transform="translate({-31 - most} {side / 2:g}) rotate(-90)">true</text>'
    for i, (name, row) in enumerate(zip(classes, scores.confusion, strict=True)):
        yield _text((i + 0.5) * CELL, side + 20, name, most=CELL - 6)
        yield _text(-12 - most / 2, (i + 0.5) * CELL + 5, name, most=most)
        for j, count in enumerate(row):
            share = count / max(sum(row), 1)
            yield (
                f'<rect x="{j * CELL}" y="{i * CELL}" width="{CELL}" height="{CELL}" fill="{_INK}" fill-opacity="{share:.3f}"/>'
            )
            yield _text((j + 0.5) * CELL, (i + 0.5) * CELL + 5, f"{count:,}", "white" if share > 0.5 else "black")
    yield f'<rect width="{side}" height="{side}" fill="none" stroke="black"/>'


def _text(x: float, y: float, text: str, colour: str = "black", most: float = 1e9) -> str:
    """A text around a place; one that would take more than `most` pixels is narrowed."""
    narrow = f' textLength="{most:g}" lengthAdjust="spacingAndGlyphs"' if LETTER * len(text) > most else ""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}"{narrow}>{escape(text)}</text>'


def _accuracy(scores: Scores) -> str:
    if scores.accuracy is None or scores.macro_f1 is None:
        return "no test beats"
    return f"accuracy {scores.accuracy:.4f}, macro-F1 {scores.macro_f1:.3f}"
