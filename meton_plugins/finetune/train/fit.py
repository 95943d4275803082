"""What rows of any length cost, from those that were measured: a constant, a part by the token, a part by its square.

Memory is such a sum by the shapes of the graph (activations grow with the tokens, attention with their square), and
time nearly so.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Curve", "fit"]

#: The shortest rows may take another kernel than all others: the curve is laid through the longest.
LAST: Final = 4


@dataclass(frozen=True)
class Curve:
    """constant + each · length + square · length²; no part is negative."""

    constant: float
    each: float
    square: float

    def __call__(self, length: float) -> float:
        return self.constant + self.each * length + self.square * length * length

    def total(self, lengths: Sequence[int]) -> float:
        """The sum over rows of these lengths."""
        array = np.asarray(lengths, dtype=np.float64)
        return float(self.constant * len(array) + self.each * array.sum() + self.square * np.square(array).sum())

    def longest(self, most: float, below: int) -> int:
        """The longest row, of at most `below` tokens, that costs at most `most`; 0 where even one token is too much."""
        low, high = 0, below
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self(middle) <= most else (low, middle - 1)
        return low


def fit(points: Sequence[tuple[float, float]], last: int = LAST) -> Curve:
    """The curve that is nearest to the last of `points` (length, cost), by relative error."""
    used = sorted(points)[-last:]
    lengths = np.array([length for length, _ in used], dtype=np.float64)
    costs = np.array([cost for _, cost in used], dtype=np.float64)
    columns = np.stack([np.ones_like(lengths), lengths, np.square(lengths)], axis=1) / costs[:, None]
    best = (float("inf"), np.zeros(3))
    # Least squares without negative parts: with three there are seven ways, and all can be tried.
    for size in (1, 2, 3):
        for chosen in itertools.combinations(range(3), min(size, 3)):
            best = min(best, _solve(columns, chosen), key=lambda one: one[0])
    constant, each, square = (float(value) for value in best[1])
    return Curve(constant, each, square)


def _solve(columns: npt.NDArray[np.float64], chosen: tuple[int, ...]) -> tuple[float, npt.NDArray[np.float64]]:
    """The error and the parts with `chosen` ones alone; infinite where one would be negative."""
    if len(chosen) > len(columns):
        return float("inf"), np.zeros(3)
    found, *_ = np.linalg.lstsq(columns[:, chosen], np.ones(len(columns)), rcond=None)
    if (found < 0).any():
        return float("inf"), np.zeros(3)
    parts = np.zeros(3)
    parts[list(chosen)] = found
    return float(np.square(columns @ parts - 1).sum()), parts
