"""One projection: a frozen matrix and, where it is adapted, its two factors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .blas import Array
from .team import Team
from .weights import Weights

__all__ = ["Factors", "Linear"]


@dataclass
class Factors:
    """The adapter of one matrix, in place: y = W·x + scale · B·(A·x). `a` [rank, in], `b` [out, rank]."""

    name: str
    a: Array
    b: Array
    scale: float


class Linear:
    """y = x · Wᵀ (+ bias) for rows x [n, in], y [n, out]."""

    def __init__(self, name: str, weights: Weights, team: Team, factors: Factors | None) -> None:
        self.name, self._weights, self._team, self.factors = name, weights, team, factors
        bias = f"{name.removesuffix('.weight')}.bias"
        self.bias = weights.vector(bias) if bias in weights else None

    def forward(self, x: Array, out: Array) -> Array | None:
        """Write y to `out`; A·x [n, rank], which `learn` needs, or None without an adapter."""
        self._team.product(x, self._weights.matrix(self.name).T, out)
        down = None
        if self.factors:
            f = self.factors
            down = self._team.product(x, f.a.T, np.empty((len(x), len(f.a)), np.float32))
            self._team.product(down, f.b.T, out, add=True, scale=f.scale)
        if self.bias is not None:
            out += self.bias
        return down

    def pull(self, dy: Array, dx: Array | None = None, *, add: bool = False) -> Array | None:
        """From `dy` [n, out]: that of x into `dx` [n, in], unless it is None. Returns what `learn` needs."""
        if dx is not None:
            self._team.product(dy, self._weights.matrix(self.name), dx, add=add)
        f = self.factors
        if f is None:
            return None
        middle = self._team.product(dy, f.b, np.empty((len(dy), f.b.shape[1]), np.float32), scale=f.scale)
        if dx is not None:
            self._team.product(middle, f.a, dx, add=True)
        return middle

    def learn(self, dy: Array, x: Array, down: Array | None, middle: Array | None, gradients: dict[str, Array]) -> None:
        """Put the factors' gradients into `gradients`, flat. `down`: of `forward`; `middle`: of `pull`."""
        f = self.factors
        if f is None or down is None or middle is None:
            return
        gradients[f"{f.name}.lora_a"] = self._team.product(middle.T, x, np.empty_like(f.a)).reshape(-1)
        gradients[f"{f.name}.lora_b"] = self._team.product(dy.T, down, np.empty_like(f.b), scale=f.scale).reshape(-1)
