"""What crosses walls."""

from engine.errors import HospitalError
from engine.messages import survivors


def test_survivors_keep_their_order():
    lost = HospitalError(3, 1, "train", "x")
    assert survivors([1, 2], None) == ((1, 2), ())
    assert survivors([5, lost, 4], 1) == ((5, 4), (lost,))
