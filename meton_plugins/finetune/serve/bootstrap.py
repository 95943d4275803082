"""The paired bootstrap: between what bounds the difference of two models lies, judged by the same examples.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; paired over examples as in Koehn,
"Statistical Significance Tests for Machine Translation Evaluation" (2004).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from ..engine.jobs import Loss

__all__ = ["Interval", "difference"]

#: With so many, the bounds move by about a hundredth of the interval's width from seed to seed.
RESAMPLES: Final = 10_000
#: A block of this many numbers at a time keeps the memory small, however many examples there are.
BLOCK: Final = 2_000_000


class Interval(NamedTuple):
    """A mean difference in nats a token, with its 95% interval, over so many examples."""

    mean: float
    low: float
    high: float
    examples: int


def difference(new: Mapping[str, Loss], old: Mapping[str, Loss], seed: int = 0) -> Interval:
    """How much more nats a token `new` loses than `old` over the examples that both were asked; below 0 is better.

    Tokens are counted as `old` does, so that models with other tokenizers can be compared: nats of a whole answer do
    not depend on how it is cut into tokens. ValueError where they have no example in common.
    """
    names = sorted(new.keys() & old.keys())
    if not names:
        raise ValueError("no example was put to both models")
    nats = np.array([new[name].nats - old[name].nats for name in names])
    tokens = np.array([old[name].tokens for name in names], dtype=np.float64)
    random = np.random.default_rng(seed)
    count = len(names)
    means: list[float] = []
    while len(means) < RESAMPLES:
        block = min(RESAMPLES - len(means), max(1, BLOCK // count))
        picked = random.integers(0, count, size=(block, count))
        means.extend((nats[picked].sum(axis=1) / tokens[picked].sum(axis=1)).tolist())
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(nats.sum() / tokens.sum()), float(low), float(high), count)
