"""A reader opens what lies in a folder, and of the servers that a folder names only those that the user has named, too."""

import json
from collections.abc import Iterator
from pathlib import Path
from socket import create_server
from threading import Thread

import pytest
from studies import BASE, study_of, write_study

from engine.errors import NotTrusted
from engine.settings import dump_yaml
from sweeps.__main__ import main
from sweeps.trust import VARIABLE, driven, is_trusted, require_trusted, trusting

VALUES = {**BASE, "search": {"federation.learning_rate": {"choice": [0.02]}}, "trials": 1}
FAILED = {"federation.learning_rate": 0.02, "state": "FAIL", "error": "x"}


class Watched:
    """A port that counts who comes, and hangs up."""

    def __init__(self) -> None:
        self.came = 0
        self._server = create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.came += 1
            connection.close()

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    server = Watched()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("address", "servers", "trusted"),
    [
        ("postgresql+psycopg://me@db:5432/a", ["db"], True),
        ("postgresql+psycopg://me@db:5432/a", ["db:5432"], True),
        ("postgresql+psycopg://me@DB/a", ["db"], True),
        ("http://db/mlflow", ["db"], True),
        ("postgresql+psycopg://me@db:5432/a", ["db:5433"], False),
        ("postgresql+psycopg://me@db.evil/a", ["db"], False),
        ("postgresql+psycopg://db@evil/a", ["db"], False),
        # what follows leads elsewhere than it seems to
        ("postgresql+psycopg://db/a?host=evil", ["db"], False),
        ("postgresql+psycopg://db/a?hostaddr=6.6.6.6", ["db"], False),
        ("postgresql+psycopg://db,evil/a", ["db"], False),
        ("postgresql+psycopg://%2Ftmp/a", ["%2ftmp"], False),
        ("postgresql+psycopg:///a", [""], False),
        ("postgresql+psycopg://[::1/a", ["::1"], False),
        ("postgresql+psycopg://db:99999999/a", ["db"], False),
        # but somebody may have named just that
        ("postgresql+psycopg://db/a?host=other", ["postgresql+psycopg://db/a?host=other"], True),
    ],
)
def test_a_server_is_trusted_by_its_name_or_by_its_whole_address(address: str, servers: list[str], trusted: bool):
    assert is_trusted(address, servers) == trusted


def test_the_users_list_is_the_environment_a_file_a_flag_and_what_was_driven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def may_open(host: str) -> bool:
        try:
            require_trusted(f"postgresql+psycopg://{host}/a", "storage", tmp_path)
        except NotTrusted:
            return False
        return True

    hosts = ["one", "two", "three", "four", "five"]
    assert not any(map(may_open, hosts))
    with pytest.raises(NotTrusted, match="give --trust six, or name it in PULSELEDGER_TRUSTED"):
        require_trusted("postgresql+psycopg://me@six:1/a", "storage", tmp_path)
    monkeypatch.setenv(VARIABLE, "one, two")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "pulseledger").mkdir(parents=True)
    (tmp_path / "home" / "pulseledger" / "trusted.txt").write_text("# mine\nthree  # the lab's\n\n")
    driven("postgresql+psycopg://four/a")
    with trusting(["five"]):
        assert all(map(may_open, hosts))
    assert not may_open("five")


def test_files_in_the_folder_and_the_store_beside_it_need_no_trust(tmp_path: Path):
    study = tmp_path / "study"
    study.mkdir()
    for inside in (study / "mlflow.db", tmp_path / "mlflow.db", study / "a" / ".." / "b.db"):
        require_trusted(f"sqlite:///{inside}", "tracking.uri", study)
    (study / "link.db").symlink_to("/etc/passwd")
    outside = (tmp_path / "other.db", study / ".." / "other.db", study / "link.db", Path("/etc/passwd"))
    for address in (
        *map("sqlite:///{}".format, outside),
        f"sqlite:///file:{study}/a?uri=true",
        f"sqlite+x:///{study}/a",
    ):
        with pytest.raises(NotTrusted, match="uri is"):
            require_trusted(address, "tracking.uri", study)


def foreign(folder: Path, watched: Watched) -> str:
    """Somebody's study folder, whose database is a server that he chose."""
    write_study(folder, VALUES, [FAILED])
    address = f"postgresql+psycopg://me@127.0.0.1:{watched.port}/a"
    study = study_of(VALUES, storage=address)
    (folder / "study.yaml").write_text(dump_yaml(study))
    return address


def test_no_reader_connects_to_a_server_that_only_the_folder_names(
    tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "s"
    address = foreign(folder, watched)
    monkeypatch.setenv("PGPASSWORD", "mine")
    for words in (["compare"], ["compare", "--csv"], ["report"]):
        assert main([*words, str(folder)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert f"storage is {address.replace('me@', '')}, which was not opened" in said.err
    assert main(["audit", str(folder), "--json"]) in (1, 4)
    (report,) = json.loads(capsys.readouterr().out).values()
    assert any(note.startswith("Optuna's database was not compared") for note in report["unchecked"])
    assert watched.came == 0
    # named by the user it is opened
    assert main(["compare", str(folder), "--trust", "127.0.0.1"]) == 2
    assert "cannot be used" in capsys.readouterr().err
    assert watched.came > 0


def test_ui_opens_no_database_that_only_the_folder_names(
    tmp_path: Path, watched: Watched, capsys: pytest.CaptureFixture[str]
):
    for uri in (f"postgresql://me@127.0.0.1:{watched.port}/a", "sqlite:////etc/passwd"):
        (tmp_path / "config.yaml").write_text(f"tracking: {{uri: '{uri}'}}\n")
        assert main(["ui", str(tmp_path)]) == 2
        assert "tracking.uri is" in capsys.readouterr().err
    assert watched.came == 0
