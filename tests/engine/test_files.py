"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from engine.errors import DataError, LedgerError
from engine.files import whole


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
