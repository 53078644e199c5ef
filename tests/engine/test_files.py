"""Files that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from engine.errors import DataError, LedgerError
from engine.files import is_own, own_cache, read_bytes, read_text, whole


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_takes_its_place_and_leaves_nothing_beside_it(tmp_path: Path, durable: bool):
    with whole(tmp_path / "a", durable) as part:
        part.write_text("new")
        assert not (tmp_path / "a").exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new"}


def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "a") as part:
        part.write_text(f"half{1 // 0}")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_what_the_disk_refuses_is_one_sentence_of_the_wanted_kind(tmp_path: Path):
    for kind in (DataError, LedgerError):
        with (
            pytest.raises(kind, match=r"a: cannot be written \(No such file or directory\)"),
            whole(tmp_path / "away" / "a", error=kind) as part,
        ):
            part.write_text("x")


def test_a_key_is_never_readable_by_others(tmp_path: Path):
    with whole(tmp_path / "key", durable=True, mode=0o600) as part:
        assert part.stat().st_mode & 0o777 == 0o600
        part.write_text("secret")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


# --- What is this user's own ------------------------------------------------------------------------------------------


def test_the_cache_is_taken_only_where_nobody_else_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path / "cache"))
    home = own_cache("native")
    assert home == tmp_path / "cache" / "native"
    assert [folder.stat().st_mode & 0o777 for folder in (home.parent, home)] == [0o700, 0o700]
    for folder in (home.parent, home):
        for mode in (0o770, 0o702, 0o777):
            folder.chmod(mode)
            with pytest.raises(DataError, match=f"{folder}: others can write there or own it"):
                own_cache("native")
        folder.chmod(0o755)
    assert own_cache("native") == home


def test_a_cache_of_somebody_else_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away: run as root")
    monkeypatch.setenv("PULSELEDGER_CACHE", str(tmp_path))
    os.chown(own_cache("beats"), 65534, -1)
    with pytest.raises(DataError, match="others can write there or own it"):
        own_cache("beats")
    (tmp_path / "file").touch()
    assert is_own(tmp_path / "file")
    os.chown(tmp_path / "file", 65534, -1)
    assert not is_own(tmp_path / "file")
    assert not is_own(tmp_path / "nothing")


# --- What somebody else made ------------------------------------------------------------------------------------------


def test_only_a_plain_file_of_a_bounded_size_is_read(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    assert read_text(path, 9) == "12345"
    with pytest.raises(OSError, match="holds 5 bytes, of at most 4"):
        read_bytes(path, 4)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(OSError, match="is no plain file"):
            read_bytes(tmp_path / name, 5)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(path, 9)
