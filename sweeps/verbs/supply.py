"""sbom: what is installed here, and under which licences."""

import argparse
import json
from pathlib import Path

from sweeps.streams import say
from sweeps.verbs.parser import FAILED, Verbs


def add(verbs: Verbs) -> None:
    """Adds the verb."""
    sub = verbs.add(
        "sbom", sbom, "bill of materials of this installation (CycloneDX JSON), and whether its licences go with ours"
    )
    sub.add_argument("--out", type=Path, metavar="FILE", help="where it goes; default: the standard output")
    sub.add_argument(
        "--extra", action="append", default=[], metavar="NAME", help="with an extra of the package, such as cluster"
    )


def sbom(options: argparse.Namespace, rest: list[str]) -> int:
    from engine.files import write_text
    from sweeps.supply import NAME, bom, components, refused

    parts = components(f"{NAME}[{','.join(options.extra)}]" if options.extra else NAME)
    text = json.dumps(bom(parts), indent=1) + "\n"
    if options.out is None:
        print(text, end="")
    else:
        write_text(options.out, text)
        say(f"{len(parts)} components in {options.out}")
    problems = refused(parts)
    for name, why in problems.items():
        say(f"{name}: {why}")
    return FAILED if problems else 0
