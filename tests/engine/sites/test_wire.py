"""Messages: what comes back is what was sent, and what is not ours is refused."""

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import HospitalError, HospitalLost
from engine.messages import Asked, Start, Update, Vote
from engine.sites.orders import WIRE, Done, Hello, Validate
from engine.sites.wire import DEEPEST, DTYPES, WireError

ARRAYS = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)).map(
    lambda one: np.arange(np.prod(one[1], dtype=int)).astype(one[0]).reshape(one[1])
)


def packed(value: Any) -> bytes:
    return msgpack.packb(value, use_bin_type=True)


@settings(max_examples=60, deadline=None)
@given(ARRAYS, st.integers(0, 2**63 - 1), st.floats(allow_nan=False), st.binary(max_size=9))
def test_records_come_back_as_they_were(array, number, value, data):
    asked = Asked(number, (0, 5), array, data, starts={5: Start(1, array, 2, value, 0.5)}, judges=(1,))
    back = WIRE.unpack(WIRE.pack(asked), Asked)
    assert (back.round, back.hospitals, back.model, back.judges) == (number, (0, 5), data, (1,))
    for one in (back.params, back.starts[5].params):
        assert one.dtype == array.dtype
        assert one.shape == array.shape
        assert (one == array).all()
        assert one.flags.writeable
    assert back.starts[5].work == value


def test_failures_come_back_without_what_they_showed_of_the_site():
    sent = HospitalLost(3, 2, "train", "no", "Traceback: /home/ward/records/100.dat")
    back = WIRE.unpack(WIRE.pack(sent), Update | HospitalError)
    assert type(back) is HospitalLost
    assert (back.hospital, back.round, back.stage, back.cause, back.trace) == (3, 2, "train", "no", "")
    assert b"ward" not in WIRE.pack(sent)


def test_an_update_and_a_vote_come_back():
    update = Update(1, np.ones(3, np.float32), 7, float("nan"), 9)
    back = WIRE.unpack(WIRE.pack(update), Update | HospitalError)
    assert back.vector is not None
    assert np.isnan(back.loss)
    vote = Vote((1, 2), {0: (3, 4)}, b"s")
    assert WIRE.unpack(WIRE.pack(vote), Vote) == vote


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", Hello, "no message"),
        (b"\xc1", Hello, "no message"),
        (packed([1, b""]), Hello, "a list in the place of Hello"),
        (packed(msgpack.ExtType(2, packed([999]))), Hello, "not in the table"),
        (packed(msgpack.ExtType(2, packed([True]))), Hello, "not in the table"),
        (packed(msgpack.ExtType(9, packed([0]))), Hello, "not in the table"),
        (packed(msgpack.ExtType(2, packed([0, 1]))), Hello, "of 1 fields, which has 2"),
        (packed(msgpack.ExtType(2, packed([0, "1", b""]))), Hello, "a str in the place of int"),
        (packed(msgpack.ExtType(2, packed([0, True, b""]))), Hello, "a bool in the place of int"),
        (WIRE.pack(Done(b"", 0, b"")), Hello, "a Done in the place of Hello"),
        (packed(msgpack.ExtType(1, packed([0, [2], b"\0" * 4]))), np.ndarray, "which says that it has 8"),
        (packed(msgpack.ExtType(1, packed([0, [-1], b""]))), np.ndarray, "an array that is none"),
        (packed(msgpack.ExtType(1, packed([7, [0], b""]))), np.ndarray, "an array that is none"),
        (packed(msgpack.ExtType(1, packed([0, [2**27, 2**27], b""]))), np.ndarray, "which says that it has"),
        (packed(msgpack.ExtType(3, packed([0, 1, 2, "train"]))), HospitalError, "a failure that is none"),
        (packed([[[]]] * 3), tuple[int, int], "in the place of"),
    ],
)
def test_what_is_not_ours_is_refused(data, kind, words):
    with pytest.raises(WireError, match=words):
        WIRE.unpack(data, kind)


def test_what_has_no_place_on_the_wire_does_not_leave():
    for value, words in (
        (Path("/etc"), "PosixPath"),
        (object(), "object"),
        (np.array(["a"]), "array of <U1"),
        ({1, 2}, "set"),
        (2**70, "int"),
    ):
        with pytest.raises(WireError, match="cannot be sent"):
            WIRE.pack(value)
        assert words
    deep: Any = 1
    for _ in range(DEEPEST + 2):
        deep = [deep]
    with pytest.raises(WireError, match="nested too deeply"):
        WIRE.pack(deep)
    nested = packed(1)
    for _ in range(200):
        nested = packed(msgpack.ExtType(2, packed([0, 1, b""])[:-2] + nested))
    with pytest.raises(WireError):
        WIRE.unpack(nested, Validate)
    bomb = b"\xdd\xff\xff\xff\xff"  # a list that says it has 4 thousand million items
    with pytest.raises(WireError, match="no message"):
        WIRE.unpack(bomb, list)
