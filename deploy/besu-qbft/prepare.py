"""Makes what the four validators need: their keys, the genesis block that names them, and the list of peers.

    python deploy/besu-qbft/prepare.py            # writes deploy/besu-qbft/network/

The block extra data follows the QBFT specification of Besu: RLP of (32 bytes of vanity, validators, no vote, round 0,
no seals). The folder holds private keys: keep it out of version control and give each validator only its own.
"""

import argparse
import json
import os
import secrets
import sys
from pathlib import Path

import coincurve
import rlp
from eth_hash.auto import keccak

HERE = Path(__file__).parent
ADDRESSES = [f"172.28.1.{10 + number}" for number in range(1, 5)]  # as in compose.yaml


def main() -> int:
    """Write the folder; return 2 if it is there already."""
    parser = argparse.ArgumentParser(description="Keys, genesis and peers for compose.yaml.")
    parser.add_argument("--out", type=Path, default=HERE / "network", help="new folder (default: network/ beside this)")
    parser.add_argument("--chain-id", type=int, default=20261, help="chain id (default: 20261)")
    parser.add_argument("--block-seconds", type=int, default=2, help="time between two blocks (default: 2)")
    given = parser.parse_args()
    try:
        given.out.mkdir(parents=True)
    except FileExistsError:
        print(f"{given.out} exists: its keys would be lost; remove it first, or give --out", file=sys.stderr)
        return 2

    publics = []
    for number in range(1, len(ADDRESSES) + 1):
        key = coincurve.PrivateKey(secrets.token_bytes(32))
        descriptor = os.open(given.out / f"validator{number}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("0x" + key.to_hex().rjust(64, "0"))
        publics.append(key.public_key.format(compressed=False)[1:])

    genesis = json.loads((HERE / "genesis.template.json").read_text(encoding="utf-8"))
    genesis["config"]["chainId"] = given.chain_id
    genesis["config"]["qbft"]["blockperiodseconds"] = given.block_seconds
    genesis["config"]["qbft"]["requesttimeoutseconds"] = 2 * given.block_seconds
    validators = sorted(keccak(public)[-20:] for public in publics)
    genesis["extraData"] = "0x" + rlp.encode([bytes(32), validators, [], 0, []]).hex()
    _write(given.out / "genesis.json", genesis)
    peers = [f"enode://{public.hex()}@{place}:30303" for public, place in zip(publics, ADDRESSES, strict=True)]
    _write(given.out / "static-nodes.json", peers)
    print(f"wrote {given.out}: {len(peers)} validators, chain {given.chain_id}")
    return 0


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
