"""Whether the pass computes on this machine what the library computes, and whether its gradient is that of its loss.

On a real model the logits of two correct programs differ more than one expects: the library rounds activations to
8 bits before it multiplies them by quantized weights, and a few tokens (the first one above all) have activations a
hundred times as large as the others, which that rounding spoils. Two things keep the check sharp all the same: each
block is compared by itself, on the hidden states that the library fed to its own, so that rounding does not add up
over the blocks; and of the errors of all tokens the median counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from .blas import Array
from .fan import Factors
from .network import Network, Row

__all__ = ["LENGTH", "Reference", "Rounding", "bf16_disagreement", "disagreement", "gradient_disagreement", "perturb"]

#: Tokens that are compared, at most.
LENGTH: Final = 24

#: How the library rounds what it multiplies by the base's weights: hardly (F32 and F16 bases), to bf16, to 8 bits.
Rounding = Literal["exact", "bf16", "quantized"]


@dataclass(frozen=True)
class Limits:
    """The largest errors of a correct pass, each about twice what was measured on correct ones.

    `layer`: of one block's change of the hidden state, relative, median over the tokens; `layers`: the median of that
    over the blocks; `logits`: RMS error of a token's logits as part of their spread, of the whole model, median over
    the tokens; `loss`: of the mean loss, in nats; `likeliest`: part of the tokens for which both must name the same.

    Measured on SmolLM2 135M (Q4_1) and Qwen2.5-Coder 0.5B and 1.5B (Q4_K_M), correct: layer 0.021 to 0.028, layers
    0.017 to 0.022, logits 0.03 to 0.07. With a wrong rotary base: layers 0.054 to 0.070. With one swapped weight or a
    missing bias: layer 0.14 to 2.7; only norms of neighbouring layers (0.08) and single key biases, which change
    nothing of the logits either (0.045), are nearer.
    """

    layer: float
    layers: float
    logits: float
    loss: float
    likeliest: float


LIMITS: Final[Mapping[Rounding, Limits]] = {
    "exact": Limits(layer=0.01, layers=0.005, logits=0.02, loss=0.02, likeliest=0.9),
    "bf16": Limits(layer=0.04, layers=0.02, logits=0.1, loss=0.1, likeliest=0.75),
    "quantized": Limits(layer=0.07, layers=0.045, logits=0.2, loss=0.25, likeliest=0.7),
}

#: Largest difference between the slope that the gradient promises and the one that is measured, as part of it.
SLOPE: Final = 0.03
#: The first step of the finite difference changes the loss by about this much, in nats. Where the loss is too curved
#: for it, halved steps show that, and are extrapolated to a step of zero (Richardson).
STEP: Final = 0.02
HALVINGS: Final = 4
#: Of the gradient in bf16 and the one in F32: the smallest cosine, and the largest difference of their norms.
COSINE: Final = 0.98
NORMS: Final = 0.05


@dataclass(frozen=True)
class Reference:
    """What the library computes for `tokens` [n]: `hidden`, the state after each block [n, width]; `logits` [n,
    vocabulary]."""

    tokens: npt.NDArray[np.int32]
    hidden: list[Array]
    logits: Array


def perturb(factors: Mapping[str, Factors]) -> None:
    """Add small random numbers to each B: that of a new adapter is 0, which would hide all of A."""
    random = np.random.default_rng(0)
    for factor in factors.values():
        factor.b += random.normal(0, 0.02, factor.b.shape).astype(np.float32)


def disagreement(network: Network, reference: Reference, rounding: Rounding) -> str | None:
    """What is wrong with the forward pass, to follow "because"; None where it is right."""
    limits, tokens = LIMITS[rounding], reference.tokens
    errors, logits = _errors(network, reference)
    for name, error, most in (
        (f"block {int(np.argmax(errors))}", float(errors.max()), limits.layer),
        ("the blocks together", float(np.median(errors)), limits.layers),
    ):
        if not error <= most:
            return f"its hidden states differ from the library's by {error:.1%} in {name} (at most {most:.1%} is usual)"
    # Of the first token, whose activations are the largest, rounding may leave nothing.
    own, theirs = logits[1:], reference.logits[1:]
    apart = float(np.median(np.sqrt(np.mean((own - theirs) ** 2, axis=1)) / np.maximum(np.std(theirs, axis=1), 1e-9)))
    if not apart <= limits.logits:
        return f"its logits differ from the library's by {apart:.1%}"
    # Where the library itself sees two tokens as nearly alike, either of them will do.
    top = theirs.max(axis=1)
    chosen = theirs[np.arange(len(own)), own.argmax(axis=1)]
    same = float(np.mean(top - chosen <= limits.logits * np.std(theirs, axis=1)))
    if not same >= limits.likeliest:
        return f"it names the library's likeliest token only {same:.0%} of the time"
    targets = tokens[2:]
    difference = float(np.mean(_losses(own[:-1], targets)) - np.mean(_losses(theirs[:-1], targets)))
    if not abs(difference) <= limits.loss:
        return f"its loss differs from the library's by {difference:+.3f} nats a token"
    return None


def gradient_disagreement(network: Network, factors: Mapping[str, Factors], row: Row) -> str | None:
    """What is wrong with the gradient of a pass in F32, to follow "because"; None where it is that of the loss."""
    _, gradients = network.gradients([row])
    promised = float(np.sqrt(sum(float(np.dot(g, g)) for g in gradients.values())))
    if not (promised > 0 and np.isfinite(promised)):
        return "its gradient is zero" if promised == 0 else "its gradient is not a number"
    step, before, slopes = STEP / promised, float("nan"), []
    for _ in range(HALVINGS):
        slope = _slope(network, factors, row, gradients, promised, step)
        slopes.append(slope)
        # The error of a central difference falls with the square of the step: two of them give its limit.
        measured = slope if len(slopes) == 1 else (4 * slope - before) / 3
        if abs(measured - promised) <= SLOPE * promised:
            return None
        before, step = slope, step / 2
    return f"its gradient is not that of its loss ({promised:.4g} against {measured:.4g})"


def bf16_disagreement(network: Network, exact: Network, row: Row) -> str | None:
    """What is wrong with the gradient of a pass in bf16, to follow "because"; None where it is that of the F32 pass.

    A finite difference would tell nothing: in bf16 the loss goes up and down in steps.
    """
    (_, rounded), (_, gradients) = network.gradients([row]), exact.gradients([row])
    a, b = (
        np.concatenate([each[name] for name in sorted(gradients)]).astype(np.float64) for each in (rounded, gradients)
    )
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    cosine = float(a @ b) / max(norms[0] * norms[1], 1e-30)
    if not (cosine >= COSINE and abs(norms[0] - norms[1]) <= NORMS * norms[1]):
        return f"bf16 changes its gradient too much (cosine {cosine:.4f}, norm {norms[0]:.4g} against {norms[1]:.4g})"
    return None


def _errors(network: Network, reference: Reference) -> tuple[npt.NDArray[np.float64], Array]:
    """The relative error of each block's change of the hidden state, median over the tokens, where it reads what the
    library's own block read; and the logits of the whole pass."""
    hidden, logits = network.hidden(reference.tokens, reference.hidden)
    errors = []
    for start, own, theirs in zip(hidden.inputs, hidden.outputs, reference.hidden, strict=True):
        change = np.sqrt(np.sum((theirs - start) ** 2, axis=1))
        error = np.sqrt(np.sum((own - theirs) ** 2, axis=1)) / np.maximum(change, 1e-30)
        errors.append(float(np.median(error[1:])))
    return np.array(errors), logits


def _slope(
    network: Network, factors: Mapping[str, Factors], row: Row, gradients: Mapping[str, Array], norm: float, step: float
) -> float:  # fmt: skip
    """The loss's slope along the gradient, by a central difference `step` to either side."""
    sides = []
    for sign in (1, -1):
        _move(factors, gradients, sign * step / norm)
        sides.append(float(np.mean(network.losses([row])[0])))
        _move(factors, gradients, -sign * step / norm)
    return (sides[0] - sides[1]) / (2 * step)


def _move(factors: Mapping[str, Factors], gradients: Mapping[str, Array], by: float) -> None:
    for factor in factors.values():
        for name, part in ((f"{factor.name}.lora_a", factor.a), (f"{factor.name}.lora_b", factor.b)):
            if name in gradients:
                part += np.float32(by) * gradients[name].reshape(part.shape)


def _losses(logits: Array, targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    losses: npt.NDArray[np.float64] = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(wide)), targets]
    return losses
