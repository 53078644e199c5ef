"""ledger: proofs, disputes and rewards of a run that is finished or paused, for its hospitals."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeps.verbs.parser import Verbs

FOLDER = ("folder", {"type": Path, "metavar": "DIR", "help": "of the run; of stamp: of the study"})
ROUND = {"type": int, "metavar": "ROUND", "help": "its number, from 1"}
HOSPITAL = {"type": int, "metavar": "HOSPITAL", "help": "its number, from 0"}


def add(verbs: Verbs) -> None:
    """Adds the verb and what it can do."""
    parser = verbs.add("ledger", ledger, "what a hospital can prove, dispute, claim or change in the ledger of a run")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")

    def sub(name: str, help: str, *places: tuple[str, dict[str, Any]]) -> argparse.ArgumentParser:
        one = what.add_parser(name, help=help, description=help, allow_abbrev=False)
        one.add_argument("--json", action="store_true", help="print one JSON document")
        for place, keys in places:
            one.add_argument(place, **keys)
        return one

    one = sub(
        "prove",
        "what a hospital sent in a round, or that it sent nothing",
        FOLDER,
        ("round", ROUND),
        ("slot", HOSPITAL),
    )
    one.add_argument("--out", type=Path, metavar="FILE", help="write the proof, for `ledger verify`")
    one = sub(
        "verify",
        "check a proof; needs nothing but its file",
        ("file", {"type": Path, "metavar": "FILE", "help": "as `ledger prove --out` writes it"}),
    )
    one.add_argument("--head", help="head of the round, as the contract or MLflow has it")
    sub(
        "submit",
        "show the contract an update that the coordinator does not take; the run must be paused",
        FOLDER,
        ("file", {"type": Path, "metavar": "FILE", "help": "update and signature, as in a proof"}),
    )
    one = sub(
        "dispute",
        "prove that a round holds something else than was promised, or an update that is too old or beyond its budget",
        FOLDER,
        ("round", ROUND),
        ("slot", HOSPITAL),
    )
    how = one.add_mutually_exclusive_group()
    how.add_argument(
        "--stale",
        action="store_true",
        help="the update that the round holds began from a model more than max_staleness rounds behind",
    )
    how.add_argument(
        "--overspent",
        action="store_true",
        help="the update that the round holds is beyond the privacy budget, which voids the round at once",
    )
    how.add_argument(
        "--receipt",
        type=Path,
        metavar="FILE",
        help="leaf and the coordinator's receipt, or an auditor's witness; default: a direct submission",
    )
    _add_later(sub)


def _add_later(sub: Callable[..., argparse.ArgumentParser]) -> None:
    """What is done about a round that stands."""
    one = sub("resolve", "decide a dispute, as an auditor", FOLDER, ("round", ROUND))
    one.add_argument("decision", choices=("uphold", "void"), help="the round stands, or it falls")
    one.add_argument(
        "--key", type=Path, metavar="FILE", help="the auditor's key; default: the one drawn for this ledger"
    )
    sub("finalize", "make the rounds of a run final, after the window for disputes", FOLDER)
    sub(
        "mark",
        "note the last round, to become final after its window also where the run goes on to seal rounds",
        FOLDER,
    )
    sub("abort", "end a round on record that is open beyond its deadline", FOLDER)
    sub(
        "erase",
        "erase what stands behind the commitments of an update, under its hospital's signature",
        FOLDER,
        ("round", ROUND),
        ("slot", HOSPITAL),
    )
    one = sub(
        "witness",
        "sign, as an auditor, that the vector of an update is here which a hospital has shown directly",
        FOLDER,
        ("round", ROUND),
        ("slot", HOSPITAL),
        ("file", {"type": Path, "metavar": "FILE", "help": "the hospital's vector, as in the archive"}),
    )
    one.add_argument(
        "--key", type=Path, metavar="FILE", help="the auditor's key; default: the one drawn for this ledger"
    )
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="for `ledger dispute --receipt`")
    one = sub("export", "a bundle of a finished run to hand on", FOLDER)
    one.add_argument("--public", action="store_true", required=True, help="without salts and what they hide")
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as public.plb")
    sub("claim", "pull the reward of a hospital", FOLDER, ("slot", HOSPITAL))
    one = sub("rotate", "give a hospital of a paused run a new key", FOLDER, ("slot", HOSPITAL))
    one.add_argument("--keystore", type=Path, metavar="DIR", help="default: ledger.keystore of the run")
    _add_openings(sub)
    one = sub("stamp", "the head of a study as a file to be stamped; a proof of it; or what another node holds", FOLDER)
    one.add_argument(
        "--file", type=Path, metavar="PROOF", help="reply of a time-stamp authority, or OpenTimestamps proof"
    )
    one.add_argument("--ca", type=Path, metavar="PEM", help="certificates of the authorities that you trust")
    one.add_argument("--rpc", metavar="URL", help="another node of the study's chain, or env:NAME")


def _add_openings(sub: Callable[..., argparse.ArgumentParser]) -> None:
    """What is done about a masked update."""
    key = (
        "--key",
        {"type": Path, "metavar": "FILE", "help": "the auditor's key; default: the one drawn for this ledger"},
    )
    place = (FOLDER, ("round", ROUND), ("slot", HOSPITAL))
    sub("challenge", "want a masked update opened, as an auditor; its hospital has a week", *place, key)
    one = sub("open", "open a hospital's masked update, with its key; answers a challenge", *place)
    one.add_argument("--chunks", type=int, metavar="N", help="so many that the head of the round draws; default: all")
    one.add_argument("--out", type=Path, required=True, metavar="FILE", help="for `ledger judge`")
    one = sub("judge", "check an opening against what the hospital signed", *place, key)
    one.add_argument("file", nargs="?", type=Path, metavar="FILE", help="as `ledger open --out` writes it")
    one.add_argument(
        "--withheld", action="store_true", help="the hospital hands the opening to nobody: fraud, by an auditor's word"
    )
    one.add_argument("--bound", type=float, metavar="X", help="largest entry of the weighted update that is allowed")
    one.add_argument("--tell", action="store_true", help="put the judgement onto the chain, as an auditor")
    one = sub("blobs", "models and updates of a run as blocks that are named by their content (CIDv1)", FOLDER)
    one.add_argument(
        "act", choices=("put", "check", "get"), help="into a store; whether all are there; lost rounds back"
    )
    one.add_argument(
        "place", nargs="?", metavar="PLACE", help="folder, Kubo API or gateway; default: blobs in the run's"
    )
    sub("overdue", "take the silence of a challenged hospital for fraud, after its week", *place)


def ledger(options: argparse.Namespace, rest: list[str]) -> int:
    from sweeps import ledger as desk

    code = 0
    match options.what:
        case "prove":
            done = desk.prove(options.folder, options.round, options.slot, options.out)
            present = "holds an update" if done["update"] is not None else "is empty"
            said = f"slot {options.slot} of round {options.round} {present}, under head {done['header']['head']}"
        case "verify":
            done = desk.verify(options.file, options.head)
            what = f"holds an update signed by {done['signer']}" if done["present"] else "is empty"
            known = "" if options.head else "; compare it with a head that you know"
            said = f"slot {done['hospital']} of round {done['round']} {what}, under head {done['head']}{known}"
        case "submit":
            done = desk.submit(options.folder, options.file)
            said = f"the update of hospital {done['hospital']} for round {done['round']} is with the contract"
        case "export":
            done = desk.export(options.folder, options.out)
            said = f"{options.out}: everything but salts and what they hide; `pulseledger audit` takes it"
        case "dispute":
            if options.overspent:
                done = desk.overspent(options.folder, options.round, options.slot)
            else:
                done = desk.dispute(options.folder, options.round, options.slot, options.receipt, options.stale)
            said = f"round {done['round']} is {done['status']}"
        case "resolve":
            done = desk.resolve(options.folder, options.round, options.decision == "void", options.key)
            said = f"round {done['round']} is {done['status']}"
        case "erase":
            done = desk.erase(options.folder, options.round, options.slot)
            said = f"weight and metrics of hospital {done['hospital']} in round {done['round']} are erased"
        case "witness":
            done = desk.witness(options.folder, options.round, options.slot, options.file, options.key, options.out)
            said = f"the auditor has the vector of hospital {done['hospital']} in round {done['round']}: {options.out}"
        case "finalize":
            done = desk.finalize(options.folder)
            after = "" if done["final"] else "; those after them are not yet"
            said = f"rounds 1 to {done['rounds']} are final{after}"
        case "mark":
            done = desk.mark(options.folder)
            said = f"round {done['round']} is noted; it can be final after its window"
        case "abort":
            done = desk.abort(options.folder)
            said = f"round {done['round']} is aborted"
        case "claim":
            done = desk.claim(options.folder, options.slot)
            said = f"hospital {done['hospital']} has {done['points']} points"
        case "challenge" | "open" | "judge" | "overdue":
            done, said, code = _opening(options)
        case "blobs":
            done, said, code = _blobs(options)
        case "stamp":
            done, said = _stamp(options)
        case _:
            done = desk.rotate(options.folder, options.slot, options.keystore)
            said = f"hospital {done['hospital']} signs with {done['to']} from round {done['round']} on; go on with `resume`"
    print(json.dumps(done) if options.json else said)
    return code


def _opening(options: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    """What is done about a masked update: the document, the sentence, the exit code; 1 for fraud."""
    from engine.errors import ConfigError
    from sweeps import openings

    place = (options.folder, options.round, options.slot)
    if options.what == "challenge":
        done = openings.challenge(*place, options.key)
        return (
            done,
            f"hospital {options.slot} must open its update of round {options.round} within a week; then {_hide(done)}",
            0,
        )
    if options.what == "open":
        done = openings.unlock(*place, options.chunks, options.out)
        told = ", and the contract knows its digest" if done["answered"] else ""
        return done, f"{options.out} opens the update of hospital {options.slot}{told}; {_hide(done)}", 0
    if options.what == "overdue":
        return (
            openings.overdue(*place),
            f"hospital {options.slot} has refused to open its update, which counts as fraud",
            1,
        )
    if options.withheld == (options.file is not None):
        raise ConfigError("ledger judge: name the file of the opening, or say --withheld.")
    if options.withheld:
        done = openings.withheld(*place, options.key)
        return done, f"hospital {options.slot}, round {options.round}: fraud: {done['reasons'][0]}; {_hide(done)}", 1
    done = openings.judge(*place, options.file, options.bound, options.key, options.tell)
    what = (
        "fraud: " + "; ".join(done["reasons"])
        if done["fraud"]
        else f"innocent; the largest entry is {done['largest']:.6g}"
    )
    if done["opened"] < done["chunks"]:
        what += f"; {done['opened']} of {done['chunks']} chunks, one bad tenth of which would stay unseen in {done['escapes']:.1%} of cases"
    return done, f"hospital {options.slot}, round {options.round}: {what}; {_hide(done)}", int(done["fraud"])


def _blobs(options: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    """Blocks of a run in a store: the document, the sentence, the exit code; 4 where one is lost, 1 where one is damaged."""
    from sweeps import blobs

    if options.act == "put":
        done = blobs.put(options.folder, options.place)
        return done, f"{done['blocks']} blocks, {done['bytes']:,} bytes, are in {done['place']}", 0
    if options.act == "get":
        done = blobs.get(options.folder, options.place)
        which = ", ".join(map(str, done["rounds"])) or "none"
        return done, f"rounds brought back from {done['place']}: {which}", 0
    done = blobs.check(options.folder, options.place)
    parts = [
        f"{what}: {one['cid']} (round {one['round']}" + (f", hospital {one['hospital']})" if one["round"] else ")")
        for what in ("damaged", "lost")
        for one in done[what]
    ]
    said = "\n".join(
        [f"{done['blocks']} blocks in {done['place']}", *parts, *(["not verified"] if done["lost"] else [])]
    )
    return done, said, 1 if done["damaged"] else 4 if done["lost"] else 0


def _hide(done: dict[str, Any]) -> str:
    if done["unopened"] > 1:
        return f"{done['unopened']} unopened hospitals hide each other"
    return "nothing hides the last unopened hospital" if done["unopened"] else "all of the sum is open"


def _stamp(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from engine.errors import ConfigError
    from sweeps import witness

    if options.rpc and (options.file or options.ca):
        raise ConfigError("ledger stamp: --rpc asks a node; --file and --ca are about a proof.")
    if options.ca and not options.file:
        raise ConfigError("ledger stamp: --ca goes with --file.")
    if options.rpc:
        done = witness.ask(options.folder, options.rpc)
        return done, f"the node holds head {done['head']} in contract {done['contract']}"
    if options.file:
        done = witness.attach(options.folder, options.file, options.ca)
        signed = "signed by an authority that you trust" if done["checked"] else "whose signature was not checked"
        when = f" at {done['time']}" if done["time"] else ""
        return done, f"{done['covers']} with head {done['head']} was there{when}, says {done['file']}, {signed}"
    done = witness.write_head(options.folder)
    return done, f"{done['file']} holds head {done['head']} ({done['covers']}); have it stamped, then --file PROOF"
