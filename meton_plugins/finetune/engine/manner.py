"""How a run computes: by whose pass, in which numbers, and whether the base's weights stay unpacked."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from ..gguf.inspect import GgufInfo
from .container import CGROUP, limit_bytes
from .package import Engine

__all__ = ["BF16_FLAGS", "Manner", "manner_of", "multiplies_bf16"]

#: Part of the machine's memory that unpacked weights may take where nothing else is wished.
SHARE: Final = 1 / 16
#: From so many tokens on, unpacking to F32 takes too small a part of a row's time to be worth the memory.
LONG: Final = 512
#: One of these a CPU says that multiplies bf16 by itself.
BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16"})
CPU: Final = Path("/proc/cpuinfo")


@dataclass
class Manner:
    """How to compute. `accelerate`: by our own pass; `bf16`: with the base's weights in bf16, `unpacked`: and kept so;
    `unpacked_f32`: whether they would be kept in F32, should bf16 turn out to be too coarse.

    `checked`: whether the pass has been compared with the library on this base before, by this process.
    """

    accelerate: bool = True
    bf16: bool = False
    unpacked: bool = False
    unpacked_f32: bool = False
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
    bf16 = accelerate and wished and bool(engine.products) and multiplies_bf16()
    if weights != "auto":
        kept_f32 = kept_bf16 = weights == "unpacked"
    else:
        room = SHARE * min(psutil.virtual_memory().total, limit_bytes(CGROUP))
        kept_f32 = 4 * base.parameters <= room and longest < LONG
        kept_bf16 = 2 * base.parameters <= room
    return Manner(accelerate, bf16, kept_bf16 if bf16 else kept_f32, kept_f32)


@functools.cache
def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself."""
    try:
        return not BF16_FLAGS.isdisjoint(CPU.read_text(encoding="ascii", errors="replace").split())
    except OSError:  # no Linux
        return False
