"""A Ray that this machine has for itself is reached by nobody else."""

import ipaddress

import psutil
import pytest


def test_a_local_ray_listens_on_this_machine_only(ray2: None):
    listening = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        listening += [(process.name(), one.laddr.ip) for one in connections if one.status == psutil.CONN_LISTEN]
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    for name, place in listening:
        address = ipaddress.ip_address(place)
        assert (getattr(address, "ipv4_mapped", None) or address).is_loopback, (name, place)


@pytest.mark.parametrize("word", ["RAY_AUTH_MODE: disabled", "RAY_AUTH_MODE=disabled"])
def test_no_file_of_a_cluster_switches_rays_token_off(word: str):
    from reference import ROOT

    for path in sorted((ROOT / "deploy").rglob("*.*")):
        assert word not in path.read_text(encoding="utf-8"), path
