"""What was sent from an account, kept for a node that forgets it."""

from pathlib import Path

from engine.ledger.chain.sent import Sent


def test_what_was_sent_last_for_each_number_is_there_in_order_as_far_as_none_is_missing(tmp_path: Path):
    sent = Sent(tmp_path / "new/sent.sqlite")
    assert sent.between(0, 9) == []
    for number in (2, 0, 1, 4):
        sent.note(number, bytes([number]))
    sent.note(1, b"dearer")
    again = Sent(tmp_path / "new/sent.sqlite")
    assert again.between(0, 9) == [b"\x00", b"dearer", b"\x02"]
    assert again.between(1, 2) == [b"dearer"]
    assert again.between(3, 9) == []


def test_a_file_that_cannot_be_read_or_written_holds_nothing(tmp_path: Path):
    (tmp_path / "damaged").write_bytes(b"no database" * 100)
    for place in (tmp_path / "damaged", tmp_path / "damaged/below"):
        Sent(place).note(1, b"it")
        assert Sent(place).between(1, 2) == []
