"""governance, keystore: reviewers, and keys."""

import argparse
from pathlib import Path

from engine.errors import ConfigError
from sweeps.verbs.parser import Verbs


def add(verbs: Verbs) -> None:
    """Adds the verbs."""
    sub = verbs.add(
        "governance", governance, "requests for synthetic beats: look at them, approve or deny those that wait"
    )
    sub.add_argument(
        "what",
        choices=("list", "show", "approve", "deny", "policy"),
        help="requests, one of them, a decision, or the rules",
    )
    sub.add_argument("folder", type=Path, help="of a run or study")
    sub.add_argument("id", nargs="?", default="", help="of the request, or how it begins; for show, approve and deny")
    sub.add_argument("--reason", help="approve, deny: why; it is kept and its digest signed")
    sub.add_argument("--granted", type=int, help="approve: number of beats; default: all that the policy allows")
    sub.add_argument("--key", type=Path, help="file with the reviewer's key; default: the simulated reviewer's")
    sub.add_argument("--json", action="store_true", help="print one JSON document")
    sub = verbs.add(
        "keystore",
        keystore,
        "encrypted signing keys for hospitals, for ledger.keystore; certificates for hospitals at sites",
    )
    sub.add_argument("folder", type=Path, help="for the keys; a new one with --hospitals")
    sub.add_argument("--hospitals", type=int, help="how many of them get a key")
    sub.add_argument(
        "--organisations", nargs="+", default=(), metavar="NAME", help="of each hospital; default: all apart"
    )
    sub.add_argument("--reviewer", metavar="NAME", help="make a reviewer's key, too; its organisation")
    words = "coordinator, or a hospital's number; an older one of the same counts no more"
    sub.add_argument("--issue", nargs="+", default=(), metavar="WHO", help=f"make certificates for sites: {words}")
    sub.add_argument("--revoke", nargs="+", default=(), metavar="WHO", help="of whom no certificate counts any more")


def governance(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps.governance import print_policy, print_request, print_requests, review

    match options.what:
        case "list":
            print_requests(options.folder, options.json)
        case "show":
            print_request(options.folder, options.id, options.json)
        case "policy":
            print_policy(options.folder, options.json)
        case _:
            approve = options.what == "approve"
            review(options.folder, options.id, approve, options.reason, options.granted, options.key, options.json)
    return 0


def keystore(options: argparse.Namespace, rest: list[str]) -> int:
    from engine.ledger.keystore import create_keystore, create_reviewer
    from engine.sites.authority import certificate_path, issue, revoke

    issued, revoked = ([_named(who) for who in given] for given in (options.issue, options.revoke))
    if options.hospitals is None:
        if options.reviewer is not None or options.organisations or not issued + revoked:
            raise ConfigError(
                "keystore: nothing to do; give --hospitals for keys, --issue or --revoke for certificates."
            )
        if issued:
            issue(options.folder, issued)
        if revoked:
            revoke(options.folder, revoked)
        for who in issued:
            print(f"{who}: {certificate_path(options.folder, who)}")
        for who in revoked:
            print(f"{who}: revoked")
        return 0
    if issued + revoked:
        raise ConfigError("keystore: --hospitals makes keys, --issue and --revoke are for certificates; one at a time.")
    for slot, address in enumerate(create_keystore(options.folder, options.hospitals, options.organisations)):
        print(f"hospital {slot}: {address}")
    if options.reviewer is not None:
        print(f"reviewer: {create_reviewer(options.folder, options.reviewer)}")
    return 0


def _named(who: str) -> str:
    """Whom a certificate is to name."""
    from engine.sites.authority import COORDINATOR, hospital_name

    if who != COORDINATOR and not (who.isascii() and who.isdigit()):
        raise ConfigError(f"keystore: {who!r:.40} is neither coordinator nor the number of a hospital.")
    return who if who == COORDINATOR else hospital_name(int(who))
