"""Whether the pass computes on this machine what the library computes, and whether its gradient is that of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from .blas import Array
from .fan import Factors
from .network import Network

__all__ = ["LENGTH", "disagreement", "stir"]

#: Tokens that are compared.
LENGTH: Final = 24
#: Largest difference of the logits, as part of their spread. The library rounds activations to 8 bits before it
#: multiplies them by quantized weights, and to 16 before F16 ones; BF16 is for a pass that multiplies in bf16.
EXACT: Final = 0.01
BF16: Final = 0.03
ROUNDED: Final = 0.15
#: Largest difference between the slope that the gradient promises and the one that is measured, as part of it. In
#: bf16 the loss goes up and down in small steps.
SLOPE: Final = 0.03
BF16_SLOPE: Final = 0.1


def stir(factors: Mapping[str, Factors]) -> None:
    """Add small random numbers to each B: that of a new adapter is 0, which would hide all of A."""
    random = np.random.default_rng(0)
    for factor in factors.values():
        factor.b += random.normal(0, 0.02, factor.b.shape).astype(np.float32)


def disagreement(
    network: Network, factors: Mapping[str, Factors], tokens: npt.NDArray[np.int32], logits: Array, *, rounded: bool,
    bf16: bool = False,
) -> str | None:  # fmt: skip
    """What is wrong with the pass, to follow "because"; None where it is right. `logits`: the library's for `tokens`.

    `rounded`: the base holds other types than F32 and F16; `bf16`: the pass multiplies in bf16.
    """
    own = network.logits(tokens)
    spread = float(np.std(logits))
    apart = float(np.sqrt(np.mean((own - logits) ** 2))) / max(spread, 1e-9)
    if not apart <= (ROUNDED if rounded else BF16 if bf16 else EXACT):
        return f"its answers differ from the library's by {apart:.1%}"
    row = tokens, np.ones(len(tokens), np.bool_)
    _, gradients = network.gradients([row])
    promised = float(np.sqrt(sum(float(np.dot(g, g)) for g in gradients.values())))
    if not promised > 0:
        return "its gradient is zero"
    # Far enough that F32 shows the difference, near enough that the loss is nearly straight.
    step = 0.05 / promised
    sides = []
    for sign in (1, -1):
        _move(factors, gradients, sign * step / promised)
        sides.append(float(np.mean(network.losses([row])[0])))
        _move(factors, gradients, -sign * step / promised)
    measured = (sides[0] - sides[1]) / (2 * step)
    if not abs(measured - promised) <= (BF16_SLOPE if bf16 else SLOPE) * promised:
        return f"its gradient is not that of its loss ({promised:.4g} against {measured:.4g})"
    return None


def _move(factors: Mapping[str, Factors], gradients: Mapping[str, Array], by: float) -> None:
    for factor in factors.values():
        for name, part in ((f"{factor.name}.lora_a", factor.a), (f"{factor.name}.lora_b", factor.b)):
            part += np.float32(by) * gradients[name].reshape(part.shape)
