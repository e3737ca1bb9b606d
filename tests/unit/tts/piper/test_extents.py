"""Lengths as polynomials."""

import pytest

from wyoming_rknn.tts.piper.extents import Extent, product

N = Extent.unknown("input", 1, 1)
FOUND = Extent.unknown("found", 1, 0)
ANY = Extent.unknown("any", -1, None)


def number(value: int) -> Extent:
    return Extent.of(value)


def test_equal_however_it_is_computed() -> None:
    assert (N + number(1)) * (N - number(1)) == N * N - number(1)
    assert N * FOUND == FOUND * N
    assert (N - N).constant == 0
    assert product([]) == number(1)
    assert product([N, number(2), N]) == N * N + N * N


def test_constant() -> None:
    assert (N - N + number(7)).constant == 7
    assert number(0).constant == 0
    assert N.constant is None


def test_quotient_without_remainder() -> None:
    assert (N * number(6) + number(4)).divided(2) == N * number(3) + number(2)
    assert (N * number(6) + number(3)).divided(2) is None
    assert N.divided(0) is None


@pytest.mark.parametrize(
    ("extent", "bound", "told"),
    [
        (N, 1, True),
        (N, 2, False),
        (N - number(1), 0, True),
        (FOUND - number(1), 0, False),
        (N * N - N, 0, True),
        (N * number(2) - number(1), 1, True),
        (number(5) - N, 0, False),
        (N * FOUND, 0, True),
        (ANY, -9, False),
        (ANY - ANY + number(3), 3, True),
    ],
)
def test_least(extent: Extent, bound: int, told: bool) -> None:
    assert extent.at_least(bound) is told
