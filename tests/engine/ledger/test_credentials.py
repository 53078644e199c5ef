"""Credentials in the address of a node: refused in settings, taken from the environment, and in no file or line afterwards."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsed import Visitor, desk_on
from faulty import Faulty, error, status
from nodes import KEY, Node
from studies import BASE

from engine.actors import worker_logs
from engine.errors import ConfigError, LedgerError
from engine.experiment import run
from engine.settings import yaml_text
from sweeps.__main__ import main

SECRETS = ("alice", "s3cretPW", "PATHKEY", "QUERYKEY", KEY.hex())
OTHERS = {"MLFLOW_TRACKING_USERNAME": "b0bby", "MLFLOW_TRACKING_PASSWORD": "h0rseshoe", "PGPASSWORD": "el3phant"}


@pytest.fixture
def server(start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """A node behind an address with credentials, in the environment."""
    with Faulty(start("anvil").url) as made:
        address = made.url.replace("http://", "http://alice:s3cretPW@") + "/v3/PATHKEY?apikey=QUERYKEY"
        monkeypatch.setenv("NODE_URL", address)
        yield made


def require_kept_out(folder: Path, said: str = "") -> None:
    """No file below a folder, of whatever kind, and no line holds any of them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for secret in (*SECRETS, *OTHERS.values()):
        assert secret not in said
        for path in files:
            assert secret.encode() not in path.read_bytes(), path
    assert not [path for path in files if KEY in path.read_bytes()]


def test_no_file_or_line_of_a_run_holds_them(server: Faulty, tiny_config, tmp_path: Path):
    config = tiny_config(
        **{"ledger.backend": "rpc", "ledger.url": "env:NODE_URL", "ledger.timeout": 5.0, "federation.rounds": 1}
    )
    run(config, tmp_path / "run")
    assert server.seen[0][":path"] == "/v3/PATHKEY?apikey=QUERYKEY"
    server.fault("eth_sendRawTransaction", error(-32000, "project PATHKEY has no apikey=QUERYKEY"))
    with pytest.raises(LedgerError, match=r"project \.\.\. has no \.\.\.") as told:
        run(config, tmp_path / "stopped")
    require_kept_out(tmp_path, str(told.value))


@pytest.mark.parametrize("url", ["http://alice@node", "http://node/v3/PATHKEY", "http://node?apikey=QUERYKEY"])
def test_an_address_with_credentials_is_refused_in_settings(tiny_config, url: str):
    with pytest.raises(ConfigError, match=r"ledger: url has more than scheme, host and port.* env:NAME") as told:
        tiny_config(**{"ledger.backend": "rpc", "ledger.url": url})
    assert not any(secret in str(told.value) for secret in SECRETS)


PAGES = {
    "owner": ["/", "/studies/study", "/studies/study/trials/0", "/studies/study/trials/3"],
    "auditor": ["/audit", "/audit/study", "/audit/study/report", "/audit/study/registration"],
}


def pages(folder: Path) -> str:
    """All that the dashboard shows of a study."""
    desk, shown = desk_on(folder.parent), []
    for role, paths in PAGES.items():
        visitor = Visitor(desk, role)  # type: ignore[arg-type]
        for path in paths:
            page = visitor.get(path)
            assert page.status_code == 200, path
            shown.append(page.text)
    return "\n".join(shown)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a Ray that begins in the test keeps what its processes say; short, as its sockets' names must be."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


@pytest.mark.long
def test_no_file_or_line_of_a_study_holds_them(
    server: Faulty, sessions: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Its databases, pages, what is handed on, what a flag refused, and what Ray's processes wrote are among them."""
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)
    values = {
        **BASE,
        "federation": {"rounds": 2},
        "ledger": {"backend": "rpc", "url": "env:NODE_URL", "timeout": 20},
        "tracking": {"backend": "mlflow"},
        "search": {"federation.learning_rate": {"choice": [0.02, 0.03, 0.04, 0.05]}},
        "trials": 3,
        "concurrency": 2,
    }
    folder = tmp_path / "study"
    study = tmp_path / "wanted.yaml"  # another name, or its folder is taken for a study
    study.write_text(yaml_text(values))
    assert main(["sweep", str(study), "--out", str(folder), "--ledger.url", os.environ["NODE_URL"]]) == 2
    assert not folder.exists()
    assert main(["sweep", str(study), "--out", str(folder)]) == 0
    server.fault("eth_sendRawTransaction", status(401, b"PATHKEY"))
    assert main(["resume", str(folder), "--trials", "4"]) == 2
    server.heal()
    assert main(["resume", str(folder)]) == 0
    trial, public = folder / "trials/0000/seed-0", tmp_path / "public.plb"
    for words in (
        ["report", str(folder)],
        ["dossier", str(folder), "--no-audit"],
        ["compare", str(folder), "--csv"],
        ["compare", str(folder), "--json"],
        ["ledger", "export", str(trial), "--public", "--out", str(public)],
        ["audit", str(folder), "--rpc", "env:NODE_URL"],
    ):
        assert main(words) == 0, words
    server.fault("eth_getCode", status(403, b"s3cretPW is not the password of project PATHKEY"))
    assert main(["audit", str(folder), "--rpc", "env:NODE_URL"]) == 4
    shown = pages(folder)
    ray = Path(worker_logs()).parent if worker_logs() else sessions
    shutil.copytree(ray, tmp_path / "ray", symlinks=True, copy_function=_of_text)
    require_kept_out(tmp_path, "".join(capfd.readouterr()) + shown)


def _of_text(source: str, target: str) -> None:
    """Copies a file; not a socket."""
    if Path(source).is_file():
        shutil.copyfile(source, target)
