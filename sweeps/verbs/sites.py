"""hospital: a process at a site, which joins the run of a coordinator elsewhere."""

import argparse
from pathlib import Path

from sweeps.streams import say
from sweeps.verbs.parser import Verbs

PATIENCE = 3600.0


def add(verbs: Verbs) -> None:
    """Adds the verb."""
    sub = verbs.add("hospital", hospital, "one hospital of a run elsewhere, with records, key and cache of its own")
    sub.add_argument("--join", required=True, metavar="HOST:PORT", help="of the coordinator")
    sub.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="with this hospital's WFDB records, and no other's"
    )
    sub.add_argument(
        "--key",
        required=True,
        type=Path,
        metavar="DIR",
        help="with authority.pem, this hospital's certificate hospital-NNNN.pem and, where a ledger is kept, hospital-NNNN.json",
    )
    sub.add_argument("--out", type=Path, metavar="DIR", help="what must not be lost; default: runs/hospital-N")
    sub.add_argument(
        "--patients", metavar="CSV", help="whose the records are; default: as the run says (data.patients)"
    )
    sub.add_argument(
        "--names", choices=("numbers", "plain"), default="numbers", help="what records and patients are called outside"
    )
    sub.add_argument(
        "--expect", default="", metavar="HASH", help="how the run's configuration is named; works under no other"
    )
    sub.add_argument(
        "--patience", type=float, default=PATIENCE, metavar="SECONDS", help="without a coordinator; 3600 by default"
    )


def hospital(options: argparse.Namespace, rest: list[str]) -> int:
    from engine.sites.authority import credentials, hospital_in, hospital_name
    from engine.sites.site import Home, Line, serve

    slot = hospital_in(options.key)
    own = credentials(options.key, hospital_name(slot))
    folder = options.out or Path("runs") / f"hospital-{slot}"
    plain = options.names == "plain"
    home = Home(slot, options.data.absolute(), options.key.absolute(), folder, options.patients, plain, options.expect)
    address = options.join.removeprefix("https://").rstrip("/")
    line = Line(address, own)
    try:
        serve(line, home, options.patience, lambda text: say(f"hospital {slot}: {text}"))
    finally:
        line.close()
    say(f"hospital {slot}: the run is over")
    return 0
