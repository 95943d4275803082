"""What a diagnosis finds: what is wrong, by which numbers, and which setting to change; and how numbers are said."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "loss", "rate", "rounded"]


@dataclass(frozen=True)
class Finding:
    """`evidence` holds the numbers, `advice` the setting with a value; `short` ends the sentence "It is over, but".

    `bad`: it spoils what came of the run, or kept it from ending. `note`: worth knowing before the next one.
    """

    kind: str
    severity: Literal["bad", "note"]
    problem: str
    evidence: str
    advice: str
    short: str


def loss(value: float) -> str:
    """A loss with as many digits as say something."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def rate(value: float) -> str:
    """A learning rate as people type it: 5e-5, 0.02."""
    if not 0 < value < 0.001:
        return f"{value:.2g}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def rounded(value: float, step: int = 64) -> int:
    """`value` up to the next multiple of `step`: a context size that a person would type."""
    return max(step, math.ceil(value / step) * step)
