"""AdamW over the adapter's tensors, in NumPy: gradient accumulation, clipping and an exact state to resume from.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["AdamW", "mean_gradient"]

Arrays = dict[str, npt.NDArray[np.float32]]


def mean_gradient(rows: list[tuple[int, Arrays]]) -> Arrays:
    """The gradient of the mean loss over all learned tokens of several rows.

    `rows`: for each, its number of learned tokens and the gradient of its own mean loss.
    """
    total = sum(count for count, _ in rows)
    names = rows[0][1]
    return {
        name: sum((grads[name] * np.float32(count / total) for count, grads in rows[1:]),
                  names[name] * np.float32(rows[0][0] / total))
        for name in names
    }  # fmt: skip


class AdamW:
    """Updates weights in place. All state is F32 and a step count, so that a saved one goes on bit by bit."""

    def __init__(
        self, *, weight_decay: float = 0.01, max_norm: float = 1.0, beta1: float = 0.9, beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:  # fmt: skip
        self.weight_decay, self.max_norm = weight_decay, max_norm
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.steps = 0
        self.first: Arrays = {}
        self.second: Arrays = {}

    def step(self, weights: Arrays, gradients: Arrays, learning_rate: float) -> float:
        """One update; the gradient's norm before clipping. Where that is no number, nothing is changed."""
        norm = float(np.sqrt(sum(float(np.dot(g, g)) for g in gradients.values())))
        if not math.isfinite(norm):
            return norm
        scale = np.float32(min(1.0, self.max_norm / norm) if self.max_norm and norm else 1.0)
        self.steps += 1
        b1, b2 = np.float32(self.beta1), np.float32(self.beta2)
        rate = np.float32(learning_rate / (1 - self.beta1**self.steps))
        correction = np.float32(1 / (1 - self.beta2**self.steps))
        keep = np.float32(1 - learning_rate * self.weight_decay)
        for name, gradient in gradients.items():
            g = gradient * scale
            m = self.first.setdefault(name, np.zeros_like(g))
            v = self.second.setdefault(name, np.zeros_like(g))
            m *= b1
            m += (1 - b1) * g
            v *= b2
            v += (1 - b2) * g * g
            weight = weights[name]
            weight *= keep
            weight -= rate * m / (np.sqrt(v * correction) + np.float32(self.epsilon))
        return norm

    def state(self) -> Arrays:
        """Both moments as arrays to save; `load` takes them back."""
        return {
            **{f"m/{name}": value for name, value in self.first.items()},
            **{f"v/{name}": value for name, value in self.second.items()},
        }

    def load(self, steps: int, arrays: Arrays) -> None:
        """Go on from a saved state."""
        self.steps = steps
        self.first = {name[2:]: value.copy() for name, value in arrays.items() if name.startswith("m/")}
        self.second = {name[2:]: value.copy() for name, value in arrays.items() if name.startswith("v/")}
