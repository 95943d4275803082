"""Choose the roundings of a change by what they do to the activations of training rows and of other texts.

Rounding at random keeps a change in expectation, and adds the more noise the coarser the grid is. Here the quants of a
matrix row are chosen together, so that its answers to given activations X [n, in] are those of the exact weights W:

    minimize ‖(Q - W) Xᵀ‖² + Σ_j ‖X_j‖² (Q - C)_j²

over all Q on the row's own grid. It is GPTQ's problem on a grid that is given (Frantar et al., 2022), solved by cyclic
coordinate descent (QuantEase, Behdin et al., 2023): one quant after the other takes the best level while all others
stay. The second term is for what X does not show. On a fine grid, C are the weights rounded at random, which are right
in expectation and add little noise. On a coarse grid that noise would show on every other text, so C are W themselves:
a quant moves only for a reason.

The least error alone leaves the tuning too weak: where it costs less to do nothing than to round, nothing moves, in all
rows and blocks alike. So the few directions that the adapter reads count more (`emphasized`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from .grid import GRIDS, Bytes, Grid, Numbers, Tally, tally

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

__all__ = ["RoundedRows", "can_choose", "choose", "emphasized"]

#: The types whose noise shows on other texts, or whose levels are uneven. Measured after a short and a long training
#: each, as EMPHASIS and LOUDEST: to start at random costs SmolLM2 (Q4_1) 0.13 nats a token on unrelated text.
#: Qwen2.5-Coder-0.5B (Q4_K, Q5_0, Q6_K, Q8_0) it costs nothing, and 0.012 where its Q4_K starts at the nearest levels.
#: No other type was measured on a real model: those are put beside the one with as many levels.
COARSE: Final = ("Q2_K", "Q3_K", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "MXFP4")
#: How many times larger the directions that the adapter reads are added again. At 10, a long training kept 84% on rows
#: that were not looked at.
EMPHASIS: Final = 3
#: Passes over all columns. From the second on, what later columns became is known.
SWEEPS: Final = 2
#: A column's size counts up to so many times the median where directions are read off sizes alone: a few columns with
#: massive activations would be all that such a direction sees.
LOUDEST: Final = 3
#: Steps that are smaller are 0.
SMALLEST: Final = 1e-30
#: Columns whose quants are chosen before what they do to all activations is computed.
COLUMNS: Final = 32


class RoundedRows(NamedTuple):
    """Rows in their type. `answers` is the sum of squares of what the change adds to the answers to the given
    activations, `left` that of the error in what the rows add."""

    rows: Bytes
    tally: Tally
    answers: float
    left: float


def can_choose(kind: GGMLQuantizationType) -> bool:
    """Whether this type has blocks of quants; the steps of floats are so fine that chance does for them."""
    return kind.name in GRIDS


def emphasized(kind: GGMLQuantizationType, inputs: Numbers, trained: int, a: Numbers) -> Numbers:
    """Activations for `choose` that stand for `inputs` [n, in], with more weight on what an adapter reads.

    `a` [rank, in] is the adapter's A; the first `trained` of `inputs` are from training rows. Of these the part that A
    sees is added once more, EMPHASIS times as large. On a coarse grid its directions are added likewise for columns
    that do not depend on each other, which is what is assumed of activations that `inputs` does not show.
    """
    known = inputs[:trained]
    parts = [inputs, EMPHASIS * (_directions(known @ a.T) @ known)]
    if kind.name in COARSE:
        sizes = np.sqrt(np.square(inputs).sum(0))
        sizes = np.minimum(sizes, LOUDEST * np.median(sizes))
        parts.append(EMPHASIS * (_directions((a * sizes).T) * sizes))
    whole = np.concatenate(parts)
    # R of X = QR gives the same sums of squares with fewer rows; it takes about as long as a sweep.
    many = len(whole) > 4 * whole.shape[1]
    return np.ascontiguousarray(np.linalg.qr(whole, mode="r") if many else whole, np.float32)


def _directions(answers: Numbers) -> Numbers:
    """An orthonormal basis of the space of the columns of `answers` [n, rank], a row for each."""
    basis: Numbers = np.linalg.qr(answers.astype(np.float64))[0].astype(np.float32).T
    return basis


def choose(kind: GGMLQuantizationType, rows: Bytes, change: Numbers, inputs: Numbers, random: Numbers) -> RoundedRows:
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
    exact = old + wanted * inverse
    new, center = old.copy(), exact
    if kind.name not in COARSE:
        new = np.maximum(nearest(np.floor(exact + random.T)), lowest)
        center = new.copy()
    answers = inputs @ wanted  # [n, rows]
    errors = inputs @ ((new - old) * steps) - answers
    for _ in range(SWEEPS):
        _sweep(inputs, errors, new, center, steps, inverse, lowest, nearest)
    codes = grid.codes_of(np.ascontiguousarray(new.T).reshape(codes.shape), codes)
    parts = change.reshape(*scales.shape, -1)
    beyond = np.maximum(exact - levels.max(), 0) + np.maximum(lowest - exact, 0)
    return RoundedRows(
        grid.with_codes(blocks, codes).reshape(rows.shape),
        tally(levels, scales, parts, np.ascontiguousarray(beyond.T).reshape(parts.shape)),
        float(np.square(answers, dtype=np.float64).sum()), float(np.square(errors, dtype=np.float64).sum()),
    )  # fmt: skip


def _sweep(
    inputs: Numbers, errors: Numbers, new: Numbers, center: Numbers, steps: Numbers, inverse: Numbers, lowest: Numbers,
    nearest: Callable[[Numbers], Numbers],
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
            apart = (new[column] - center[column]) * step
            slope = slopes[place] + products[place, :place] @ moved[:place] + energy * apart
            best = np.maximum(nearest(new[column] - slope * (inverse[column] / (2 * energy))), lowest[column])
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
