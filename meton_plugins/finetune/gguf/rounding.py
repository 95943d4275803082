"""Choose the roundings of a change by what they do to the activations of training rows.

Rounding at random keeps a change in expectation, and adds the more noise the coarser the grid is. Here the quants of a
matrix row are chosen together, so that its answers to given activations X [n, in] are those of the exact weights:

    minimize ‖(Q - W) Xᵀ‖² + ridge · Σ_j ‖X_j‖² (Q - W)_j²

over all Q on the row's own grid, where W are the exact weights. The second term stands for activations that X does not
show. It is GPTQ's problem on a grid that is given (Frantar et al., 2022), solved by cyclic coordinate descent
(QuantEase, Behdin et al., 2023): one quant after the other takes the best level while all others stay. It begins with
the old quants, so that few move. Each is rounded with a small dither: without it, whatever is too small to move a quant
is always lost, and the tuning comes out too weak on other rows than these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from .grid import GRIDS, Bytes, Grid, Numbers, Tally, tally

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

__all__ = ["RoundedRows", "can_choose", "choose"]

#: With DITHER and SWEEPS chosen by measurement on SmolLM2 (Q4_1), after a short and a long training: less ridge or more
#: dither adds noise, no dither leaves what is small beside a step where it was.
RIDGE: Final = 1.0
#: In levels: the width of the uniform random offset that is added to a quant's best value before it is rounded.
DITHER: Final = 0.7
#: Passes over all columns. From the second on, what later columns became is known, and makes up for dither.
SWEEPS: Final = 3
#: The golden ratio's fractional part.
GOLDEN: Final = (5**0.5 - 1) / 2
#: Steps that are smaller are 0.
SMALLEST: Final = 1e-30
#: Columns whose quants are chosen before what they do to all activations is computed.
COLUMNS: Final = 32


class RoundedRows(NamedTuple):
    """Rows in their type. `answers` is the sum of squares of what the change adds to the answers to the activations,
    `left` that of what is missing in the rows or too much."""

    rows: Bytes
    tally: Tally
    answers: float
    left: float


def can_choose(kind: GGMLQuantizationType) -> bool:
    """Whether this type has blocks of quants; the steps of floats are so fine that chance does for them."""
    return kind.name in GRIDS


def choose(
    kind: GGMLQuantizationType, rows: Bytes, change: Numbers, inputs: Numbers, random: Numbers, *,
    ridge: float = RIDGE, sweeps: int = SWEEPS, dither: float = DITHER,
) -> RoundedRows:  # fmt: skip
    """The bytes of `rows` with `change` [rows, in] written into their quants; scales and minimums stay.

    `inputs` [n, in]: activations; `random` in [0, 1): a number for each weight. The same operands give the same bytes.
    """
    grid = GRIDS[kind.name]
    blocks = rows.reshape(-1, grid.block_bytes)
    codes, scales = grid.codes(blocks), grid.scales(blocks)
    levels, nearest = grid.values, _nearest(grid)
    # By columns, one of which is chosen at a time.
    old = np.ascontiguousarray(levels[codes].reshape(change.shape).T)
    steps = np.repeat(scales, grid.size // scales.shape[1], axis=1).reshape(change.shape).T
    steps, wanted = np.ascontiguousarray(steps), np.ascontiguousarray(change.T)
    # 0 where steps are, or as good as: nothing moves there, and nothing overflows.
    inverse = np.divide(np.float32(1), steps, out=np.zeros_like(steps), where=np.abs(steps) > SMALLEST)
    # As in `grid.move`: no -128 where there was none.
    lowest = np.minimum(old, levels.min() + np.float32(grid.signed))
    new = old.copy()
    answers = inputs @ wanted  # [n, rows]
    errors = -answers
    for number in range(sweeps):
        # Other numbers in each sweep, far from those before: the noise of one is not repeated.
        offsets = (np.modf(random.T + np.float32(number * GOLDEN))[0] - np.float32(0.5)) * np.float32(dither)
        offsets = np.ascontiguousarray(offsets)
        _sweep(inputs, errors, new, old, steps, inverse, wanted, lowest, offsets, nearest, ridge)
    codes = grid.codes_of(np.ascontiguousarray(new.T).reshape(codes.shape), codes)
    parts = change.reshape(*scales.shape, -1)
    exact = old + wanted * inverse
    beyond = np.maximum(exact - levels.max(), 0) + np.maximum(lowest - exact, 0)
    return RoundedRows(
        grid.with_codes(blocks, codes).reshape(rows.shape),
        tally(levels, scales, parts, np.ascontiguousarray(beyond.T).reshape(parts.shape)),
        float(np.square(answers, dtype=np.float64).sum()), float(np.square(errors, dtype=np.float64).sum()),
    )  # fmt: skip


def _sweep(
    inputs: Numbers, errors: Numbers, new: Numbers, old: Numbers, steps: Numbers, inverse: Numbers, wanted: Numbers,
    lowest: Numbers, offsets: Numbers, nearest: Callable[[Numbers], Numbers], ridge: float,
) -> None:  # fmt: skip
    """Choose each quant once, in order. `new`, the levels [in, rows], and `errors` [n, rows] are changed."""
    for first in range(0, len(new), COLUMNS):
        part = slice(first, min(first + COLUMNS, len(new)))
        x = inputs[:, part]
        # Half the gradient of the errors by each weight of the part, before any of its columns is chosen.
        slopes, products = x.T @ errors, x.T @ x
        moved = np.zeros_like(slopes)
        for place, column in enumerate(range(part.start, part.stop)):
            energy = products[place, place]
            if energy <= 0:
                continue  # It reads what is always 0.
            step = steps[column]
            apart = (new[column] - old[column]) * step - wanted[column]
            slope = slopes[place] + products[place, :place] @ moved[:place] + ridge * energy * apart
            best = new[column] - slope * (inverse[column] / ((1 + ridge) * energy)) + offsets[column]
            best = np.maximum(nearest(best), lowest[column])
            moved[place] = (best - new[column]) * step
            new[column] = best
        errors += x @ moved


def _nearest(grid: Grid) -> Callable[[Numbers], Numbers]:
    """What gives the level next to each number."""
    if not grid.levels:
        return lambda numbers: np.clip(np.rint(numbers), 0, grid.highest)
    ranked = np.unique(grid.values)
    middles = (ranked[1:] + ranked[:-1]) / 2
    return lambda numbers: ranked[np.searchsorted(middles, numbers)]
