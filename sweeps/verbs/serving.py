"""dashboard: studies, audits and requests in a browser."""

import argparse
from pathlib import Path

from sweeps.verbs.parser import Verbs, trusts

ROLES = ("owner", "reviewer", "auditor")


def add(verbs: Verbs) -> None:
    """Adds the verb."""
    sub = verbs.add("dashboard", dashboard, "studies, audits and requests for synthetic beats in a browser")
    sub.add_argument("folders", type=Path, nargs="+", metavar="folder", help="of a study or run, or with some of them")
    sub.add_argument(
        "--role",
        action="append",
        choices=ROLES,
        help="whose pages a link opens: the owner's studies, the reviewer's requests, the auditor's evidence; several times if "
        "need be; owner by default",
    )
    sub.add_argument("--port", type=int, default=0, help="0, which is the default, takes a free one")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen at; others than this machine's need TLS")
    sub.add_argument("--tls-certificate", type=Path, metavar="PEM", help="certificate with its chain")
    sub.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    sub.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="the reviewer's key, which stays in this process; default: the simulated reviewer's",
    )
    trusts(sub)


def dashboard(options: argparse.Namespace, rest: list[str]) -> int:
    from dashboard.serve import serve

    roles = tuple(dict.fromkeys(options.role or ("owner",)))
    serve(options.folders, roles, options.host, options.port, options.tls_certificate, options.tls_key, options.key)
    return 0
