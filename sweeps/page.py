"""The HTML of a report: sections with tables and pictures, in one file that asks for nothing from anywhere."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

STYLE = """
@page { size: A4; margin: 15mm }
* { box-sizing: border-box }
body { font: 10pt/1.4 "DejaVu Sans", Verdana, sans-serif; color: #111; background: #fff; max-width: 190mm;
       margin: 0 auto; padding: 5mm }
h1 { font-size: 17pt; margin: 0 0 1mm } h2 { font-size: 13pt; margin: 8mm 0 2mm; border-bottom: 0.4mm solid #111 }
h3 { font-size: 10pt; margin: 4mm 0 1mm } p { margin: 1mm 0 2mm } code { font: 0.92em "DejaVu Sans Mono", monospace }
table { border-collapse: collapse; font-size: 7pt; line-height: 1.25; width: 100%; margin-bottom: 2mm }
th { font-weight: bold; text-align: right; vertical-align: bottom; border-bottom: 0.2mm solid #111; padding: 0.6mm 0.7mm }
td { text-align: right; vertical-align: top; padding: 0.5mm 0.7mm; border-bottom: 0.1mm solid #ddd;
     font-variant-numeric: tabular-nums }
.word { text-align: left; overflow-wrap: break-word; min-width: 16mm } tfoot td { border-bottom: 0; font-style: italic }
th.word { overflow-wrap: normal }
.facts { width: auto; font-size: 9pt } .facts td { border: 0; text-align: left }
.facts td:first-child { color: #444; padding-right: 5mm; white-space: nowrap }
figure { margin: 3mm 0 5mm } img { max-width: 100%; max-height: 225mm; display: block; margin: 0 auto }
figcaption { font-size: 8.5pt; color: #222; margin-top: 1mm }
.missing { color: #444; font-style: italic } .leaky { font-weight: bold }
thead { display: table-header-group } tfoot { display: table-row-group }
@media print { body { padding: 0; max-width: none } h2, h3, .lead { break-after: avoid } figure, table, tr { break-inside: avoid }
               p { orphans: 3; widows: 3 } }
"""


@dataclass(frozen=True)
class Picture:
    """A figure with its file's stem, and its caption."""

    stem: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, HTML before the pictures, the pictures, and why there are none."""

    title: str
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    missing: str = ""


def whole_page(name: str, facts: str, sections: Sequence[Section], drawn: Mapping[str, bytes]) -> str:
    """The whole page; `drawn` holds the PNG of each picture by its stem."""
    # nothing may be fetched, whatever a name in the study says
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{escape(name)}: report</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(name)}</h1><p>Report of a PulseLedger study</p>",
        facts,
    ]
    for section in sections:
        parts.append(f"<section><h2>{escape(section.title)}</h2>")
        if section.missing:
            parts.append(f"<p class=missing>Left out: {escape(section.missing)}.</p>")
        parts.append(section.text)
        for picture in section.pictures:
            data = base64.b64encode(drawn[picture.stem]).decode()
            parts.append(
                f'<figure id="{picture.stem}"><img alt="{escape(section.title)}" style="width: {picture.figure.get_figwidth():.2f}in" '
                f'src="data:image/png;base64,{data}">'
                f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
            )
        parts.append("</section>\n")
    parts.append("</body></html>\n")
    return "\n".join(parts)


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    foot: Sequence[Sequence[str]] = (),
    words: Iterable[int] = (),
) -> str:
    """An HTML table; columns in `words` are text, the others numbers."""
    texts = set(words)

    def line(cells: Sequence[str], tag: str) -> str:
        return (
            "<tr>"
            + "".join(
                f"<{tag}{' class=word' if i in texts else ''}>{escape(cell) if tag == 'td' else breakable(cell)}</{tag}>"
                for i, cell in enumerate(cells)
            )
            + "</tr>"
        )

    body = "".join(line(row, "td") for row in rows)
    end = f"<tfoot>{''.join(line(row, 'td') for row in foot)}</tfoot>" if foot else ""
    return f"<table><thead>{line(heads, 'th')}</thead><tbody>{body}</tbody>{end}</table>"


def pictures(stem: str, figures: Sequence[Figure], caption: str) -> tuple[Picture, ...]:
    """Figures that continue each other, numbered if they are several."""
    if len(figures) == 1:
        return (Picture(stem, figures[0], caption),)
    return tuple(
        Picture(f"{stem}-{i + 1}", figure, f"{caption} (Part {i + 1} of {len(figures)}.)")
        for i, figure in enumerate(figures)
    )


def escape(value: Any) -> str:
    """A value as text of a page."""
    return html.escape(str(value))


def code(value: str) -> str:
    """A key or a command."""
    return f"<code>{escape(value)}</code>"


def breakable(heading: str) -> str:
    """A heading that may be broken after the slashes and underscores of a score's path."""
    return escape(heading).replace("/", "/<wbr>").replace("_", "_<wbr>")
