"""How a run computes: by whose pass, in which numbers, and whether the base's weights stay unpacked."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from ..gguf.inspect import GgufInfo
from .container import CGROUP, limit_bytes
from .package import Engine

__all__ = ["Manner", "manner_of", "multiplies_half"]

#: Part of the machine's memory that unpacked weights may take where nothing else is wished.
SHARE: Final = 1 / 16
#: From so many tokens on, unpacking to F32 takes too small a part of a row's time to be worth the memory.
LONG: Final = 512
#: What a CPU says that multiplies bf16 by itself.
HALF_FLAGS: Final = re.compile(r"\b(avx512_bf16|amx_bf16)\b")
CPU: Final = Path("/proc/cpuinfo")


@dataclass
class Manner:
    """How to compute. `accelerate`: by our own pass; `half`: with the base's weights in bf16, `unpacked`: and kept so.

    `checked`: whether the pass has been compared with the library on this base before, by this process.
    """

    accelerate: bool = True
    half: bool = False
    unpacked: bool = False
    checked: bool = False


def manner_of(
    engine: Engine, base: GgufInfo, longest: int, *, accelerate: bool = True, precision: str = "auto",
    weights: str = "auto",
) -> Manner:  # fmt: skip
    """For rows of up to `longest` tokens; the wishes as in settings.TrainSettings.

    By what the machine has, not by what is free now: the plan's memory must be that of the run.
    """
    # What bf16 rounds away of a quantized base is less than the engine's own rounding to 8 bits; of another one, losses
    # would differ by a thousandth after some steps.
    wished = base.quantized if precision == "auto" else precision == "bf16"
    half = accelerate and wished and bool(engine.products) and multiplies_half()
    if weights != "auto":
        return Manner(accelerate, half, weights == "unpacked")
    most = min(psutil.virtual_memory().total, limit_bytes(CGROUP))
    fits = (2 if half else 4) * base.parameters <= SHARE * most
    return Manner(accelerate, half, fits and (half or longest < LONG))


@functools.cache
def multiplies_half() -> bool:
    """Whether this CPU multiplies bf16 itself."""
    try:
        return HALF_FLAGS.search(CPU.read_text(encoding="ascii", errors="replace")) is not None
    except OSError:  # no Linux
        return False
