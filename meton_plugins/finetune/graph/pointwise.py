"""What is computed row by row: norms, the gated unit, rotary positions. Each function writes into arrays it is given.

Rows are pieces of a few hundred kilobytes (`team.Team.rows`), so that several passes over one stay in a core's cache.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .blas import Array
from .shape import Shape

__all__ = ["Rope", "gated", "gated_back", "norm", "norm_back"]


def norm(x: Array, weight: Array, epsilon: float, out: Array) -> None:
    """Root mean square norm over the last axis. Zhang and Sennrich (2019)."""
    np.multiply(x, _scale(x, epsilon), out=out)
    out *= weight


def norm_back(dy: Array, x: Array, weight: Array, epsilon: float, dx: Array, *, add: bool = False) -> None:
    """The gradient of x from that of norm(x), written or added to `dx`, which may be `dy`."""
    scale = _scale(x, epsilon)
    normed = x * scale
    inner = dy * weight
    along = np.vecdot(inner, normed) if hasattr(np, "vecdot") else np.einsum("...i,...i->...", inner, normed)
    along /= x.shape[-1]
    normed *= along[..., None]
    inner -= normed
    if add:
        inner *= scale
        dx += inner
    else:
        np.multiply(inner, scale, out=dx)


def _scale(x: Array, epsilon: float) -> Array:
    squares = np.einsum("...i,...i->...", x, x)[..., None]
    squares *= np.float32(1 / x.shape[-1])
    squares += np.float32(epsilon)
    np.sqrt(squares, out=squares)
    found: Array = np.divide(np.float32(1), squares, out=squares)
    return found


def gated(gate: Array, up: Array, out: Array) -> None:
    """out = silu(gate) · up. Shazeer, "GLU Variants Improve Transformer" (2020)."""
    _sigmoid(gate, out)
    out *= gate
    out *= up


def gated_back(dy: Array, gate: Array, up: Array) -> None:
    """`gate` and `up` become their own gradients, and `dy` becomes silu(gate) · up."""
    sigmoid = _sigmoid(gate, np.empty_like(gate))
    silu = gate * sigmoid
    # d silu(g)/dg = s + silu · (1 - s) = s + silu - silu · s
    np.multiply(silu, sigmoid, out=gate)
    np.subtract(silu, gate, out=gate)
    gate += sigmoid
    gate *= np.multiply(dy, up, out=sigmoid)
    np.multiply(dy, silu, out=sigmoid)
    np.multiply(silu, up, out=dy)
    up[...] = sigmoid


def _sigmoid(x: Array, out: Array) -> Array:
    np.negative(x, out=out)
    with np.errstate(over="ignore"):  # of a large number it is infinite, and its part of one 0
        np.exp(out, out=out)
    out += np.float32(1)
    found: Array = np.divide(np.float32(1), out, out=out)
    return found


class Rope:
    """Rotary positions. Su et al., "RoFormer" (2021). `factors`: what each angle is divided by, [head / 2]."""

    def __init__(self, shape: Shape, factors: Array | None, longest: int) -> None:
        half = np.arange(shape.head // 2, dtype=np.float64)
        angles = shape.rope_base ** (-2 * half / shape.head) / shape.rope_factor
        if factors is not None:
            angles /= factors
        turns = np.arange(longest)[:, None] * angles
        self._neighbours = shape.neighbours
        self._cos, self._sin = np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)

    def turn(self, x: Array, positions: npt.NDArray[np.int64], *, back: bool = False) -> None:
        """Turn heads x [n, heads, head] to their `positions` [n], in place; `back`: the gradient, the other way."""
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        if back:
            sin = -sin
        half = x.shape[-1] // 2
        left, right = (x[..., 0::2], x[..., 1::2]) if self._neighbours else (x[..., :half], x[..., half:])
        turned = left * cos
        turned -= right * sin
        right *= cos
        right += left * sin
        left[...] = turned
