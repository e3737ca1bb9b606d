"""Lengths that a graph computes with: polynomials in lengths that are known only when it runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import NamedTuple, TypeAlias


class Unknown(NamedTuple):
    """A whole number that a graph reads from its input."""

    tensor: str
    axis: int
    """Which of the tensor's axes has this length; `VALUE` if the number is the tensor's only element."""
    low: int | None
    """What it is at least; `None` if nothing is known."""


VALUE = -1
"""In place of an axis: the number is a tensor's only element."""

_Product: TypeAlias = tuple[Unknown, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """A polynomial with whole coefficients: what multiplies each product of unknowns, zeros left out."""

    terms: frozenset[tuple[_Product, int]]

    @staticmethod
    def of(number: int) -> "Extent":
        """Return a constant."""
        return Extent(frozenset({((), number)} if number else ()))

    @staticmethod
    def unknown(tensor: str, axis: int, low: int | None) -> "Extent":
        """Return an unknown by itself."""
        return Extent(frozenset({((Unknown(tensor, axis, low),), 1)}))

    @property
    def constant(self) -> int | None:
        """Return the number if nothing is unknown."""
        factors = self.coefficients
        return factors.get((), 0) if set(factors) <= {()} else None

    @property
    def coefficients(self) -> Mapping[_Product, int]:
        """Return what multiplies each product of unknowns."""
        return dict(self.terms)

    @property
    def unknowns(self) -> frozenset[Unknown]:
        """Return what must be known to compute it."""
        return frozenset(unknown for product, _ in self.terms for unknown in product)

    def __add__(self, other: "Extent") -> "Extent":
        return _collected([*self.terms, *other.terms])

    def __sub__(self, other: "Extent") -> "Extent":
        return _collected([*self.terms, *((product, -factor) for product, factor in other.terms)])

    def __mul__(self, other: "Extent") -> "Extent":
        return _collected(
            (tuple(sorted((*left, *right), key=repr)), factor * times)
            for left, factor in self.terms
            for right, times in other.terms
        )

    def divided(self, divisor: int) -> "Extent | None":
        """Return a quotient without remainder."""
        if divisor == 0 or any(factor % divisor for _, factor in self.terms):
            return None
        return Extent(frozenset((product, factor // divisor) for product, factor in self.terms))

    def at_least(self, bound: int) -> bool:
        """Tell whether it is never less than `bound`; False if that cannot be told."""
        if any(unknown.low is None for unknown in self.unknowns):
            return False
        above = Extent.of(0)
        for product, factor in self.terms:
            # Counted from the least, every unknown is 0 or more, so terms without minus signs only add.
            raised = (Extent.unknown(u.tensor, u.axis, 0) + Extent.of(u.low or 0) for u in product)
            above += reduce(mul, raised, Extent.of(factor))
        factors = dict(above.terms)
        return factors.pop((), 0) >= bound and all(factor > 0 for factor in factors.values())


def product(extents: Iterable[Extent]) -> Extent:
    """Return the product; 1 for nothing."""
    return reduce(mul, extents, Extent.of(1))


def _collected(terms: Iterable[tuple[_Product, int]]) -> Extent:
    sums: dict[_Product, int] = {}
    for product_, factor in terms:
        sums[product_] = sums.get(product_, 0) + factor
    return Extent(frozenset((product_, factor) for product_, factor in sums.items() if factor))
