"""Shared secrets: any threshold of shares gives the secret, fewer fit every secret."""

from itertools import combinations

import pytest

from engine.secure.shamir import PRIME, dealt, restored


def test_the_modulus_is_prime():
    """Miller and Rabin, with the first 20 primes as witnesses."""
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71):
        powers = [pow(base, odd * 2**i, PRIME) for i in range(twos)]
        assert powers[0] == 1 or PRIME - 1 in powers


@pytest.mark.parametrize("secret", [0, 1, PRIME - 1, 2**255 + 12345])
def test_any_threshold_of_shares_gives_the_secret(secret: int):
    shares = dealt([secret, 3**150, 5**100], range(5))
    for some in combinations(shares, 3):
        assert restored({slot: shares[slot] for slot in some}) == secret


def test_fewer_shares_fit_every_secret_equally():
    """Two shares of a threshold of three: for any other secret there is exactly one polynomial with these two."""
    shares = dealt([7, 11, 13], range(5))
    for other in (0, 8, PRIME - 5):
        third = {4: restored({0: 1, 1: 1, 4: 1})}  # of the polynomial that is 1 everywhere
        assert third == {4: 1}
        # f(0) = other, f(1) = share 0, f(2) = share 1: by Lagrange's weights at 3
        value = (other * pow(1, 1) - 3 * shares[0] + 3 * shares[1]) % PRIME
        assert restored({0: shares[0], 1: shares[1], 2: value}) == other


def test_a_wrong_share_gives_another_secret():
    shares = dealt([7, 11, 13], range(3))
    assert restored({**shares, 1: shares[1] + 1}) != 7
