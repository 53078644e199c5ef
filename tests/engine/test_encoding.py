"""One way to write bytes."""

import hashlib

import pytest

from engine import encoding
from engine.encoding import canonical_json, hexed, json_hash, one_line, read_json, require_size, unhexed


def test_canonical_json_is_sorted_tight_and_utf8():
    assert canonical_json({"b": [1, 2.5, None], "a": "ň"}) == '{"a":"ň","b":[1,2.5,null]}'
    assert json_hash({"b": 1, "a": "ň"}) == hashlib.sha256('{"a":"ň","b":1}'.encode()).digest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_canonical_json_has_no_word_for_what_json_lacks(value: float):
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": value})


@pytest.mark.parametrize("text", [None, b"{}", 5, "", "{", "[" * 200 + "]" * 200])
def test_json_that_is_none_is_a_value_error(text: object):
    with pytest.raises(ValueError):  # noqa: PT011 (json's own words)
        read_json(text)


def test_brackets_inside_of_strings_do_not_nest():
    assert read_json('["' + "[" * 500 + '"]') == ["[" * 500]


def test_hex_goes_there_and_back():
    assert unhexed(hexed(b"\x00\xff")) == b"\x00\xff"
    for wrong in ("00ff", 255, None, "0xzz"):
        with pytest.raises(ValueError):  # noqa: PT011
            unhexed(wrong)


def test_both_implementations_of_keccak_agree(monkeypatch: pytest.MonkeyPatch):
    known = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"  # of nothing
    examples = [b"", b"abc", bytes(200)]
    assert encoding.keccak(b"").hex() == known
    fastest = [encoding.keccak(data) for data in examples]
    # the faster library need not be installed, and then the other must give the same
    monkeypatch.setattr(encoding, "keccak_256", None)
    assert [encoding.keccak(data) for data in examples] == fastest


def test_what_stands_in_several_places_counts_in_each():
    """1 + 9 * (1 + 9 * (1 + 9)) = 820 values, written as three lists."""
    value: list = ["x"] * 9
    for _ in range(2):
        value = [value] * 9
    require_size(value, 820)
    with pytest.raises(ValueError, match="more than 819 values"):
        require_size(value, 819)
    for _ in range(80):  # nobody could write this out
        value = [value] * 9
    with pytest.raises(ValueError, match="more than 1000000 values"):
        require_size(value)
    value.append(value)
    with pytest.raises(ValueError, match="holds itself"):
        require_size(value)


def test_no_letter_moves_the_cursor():
    assert one_line("a\nb\x1b[2J\u202e\u2028\x00\x7f\ud800") == "a\\nb\\x1b[2J\\u202e\\u2028\\x00\\x7f\\ud800"
    assert one_line("Zürich, 北京: 5 µV") == "Zürich, 北京: 5 µV"
