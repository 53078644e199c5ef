"""The files for a Besu network fit together; no Besu runs here."""

import json
import subprocess
import sys
from pathlib import Path

import rlp
import yaml
from eth_keys.datatypes import PrivateKey
from eth_utils import to_canonical_address
from reference import ROOT

DEPLOY = ROOT / "deploy/besu-qbft"


def prepare(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(DEPLOY / "prepare.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_genesis_block_names_the_validators_whose_keys_are_there(tmp_path: Path):
    out = tmp_path / "network"
    done = prepare("--out", str(out), "--chain-id", "77", "--block-seconds", "5")
    assert done.returncode == 0, done.stderr
    files = [out / f"validator{number}.key" for number in (1, 2, 3, 4)]
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    keys = [PrivateKey(bytes.fromhex(file.read_text().removeprefix("0x"))) for file in files]

    genesis = json.loads((out / "genesis.json").read_text())
    vanity, validators, votes, round, seals = rlp.decode(bytes.fromhex(genesis["extraData"][2:]))
    assert (vanity, votes, round, seals) == (bytes(32), [], b"", [])
    assert validators == sorted(to_canonical_address(key.public_key.to_address()) for key in keys)
    rules = genesis["config"]
    assert (rules["chainId"], rules["qbft"]["blockperiodseconds"], rules["qbft"]["requesttimeoutseconds"]) == (
        77,
        5,
        10,
    )
    assert (rules["londonBlock"], rules["shanghaiTime"], rules["cancunTime"], rules["zeroBaseFee"]) == (0, 0, 0, True)
    assert genesis["baseFeePerGas"] == "0x0"
    assert bytes.fromhex(genesis["mixHash"][2:]) == b"ctical byzantine fault tolerance"  # how Besu knows a BFT block

    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert list(services) == ["validator1", "validator2", "validator3", "validator4"]
    places = [service["networks"]["federation"]["ipv4_address"] for service in services.values()]
    peers = [f"enode://{key.public_key.to_hex()[2:]}@{place}:30303" for key, place in zip(keys, places, strict=True)]
    assert json.loads((out / "static-nodes.json").read_text()) == peers

    again = prepare("--out", str(out))
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "its keys would be lost" in again.stderr


def test_the_compose_file_gives_each_validator_its_own_key_and_files_that_exist(tmp_path: Path):
    assert prepare("--out", str(tmp_path / "network")).returncode == 0
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
        inside = {place: source for source, place in mounts.items()}
        assert inside["/key"] == f"./network/{name}.key"
        assert inside["/data"] in compose["volumes"]
        sources = [source for source in mounts if source.startswith("./network")]
        assert all((tmp_path / source).is_file() for source in sources)
        options = dict(option.lstrip("-").partition("=")[::2] for option in service["command"])
        assert options["min-gas-price"] == "0"
        named = (
            options["genesis-file"],
            options["node-private-key-file"],
            options["static-nodes-file"],
            options["data-path"],
        )
        assert set(named) == set(inside)
        # The open JSON-RPC port is reached from this machine only.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
