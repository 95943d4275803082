"""How a run computes: by whose pass, in which numbers, with how many threads, and whether the weights stay unpacked."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field

from ..gguf.inspect import GgufInfo
from .package import Engine

__all__ = ["BF16_FLAGS", "ComputeConfig", "bf16_allowed", "cpu_model", "multiplies_bf16"]

#: CPU flags for native bf16. They say that a product in bf16 is possible, not that it is faster: that is measured.
BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16"})
CPU: Final = Path("/proc/cpuinfo")


class ComputeConfig(BaseModel):
    """What was decided and measured once for a base, an engine and a machine, and is recorded in each run.

    `trainer`: our own pass, or the library's. `reason`: why it is the library's, to follow "because"; `slowdown`: by
    what factor that takes longer, None where it was not measured. `weights`: of the base, unpacked once and kept, or
    unpacked whenever they are needed. `products`: the library that multiplies. `notes`: what was wished for and cannot
    be. `tokens_per_s`: what was measured, by candidate.
    """

    # It is kept in run.json: a later version may write more.
    model_config = ConfigDict(extra="ignore")

    trainer: Literal["own", "library"] = "own"
    precision: Literal["f32", "bf16"] = "f32"
    weights: Literal["packed", "unpacked"] = "packed"
    threads: int = 1
    products: str = ""
    reason: str | None = None
    slowdown: float | None = None
    notes: list[str] = Field(default_factory=list)
    tokens_per_s: dict[str, float] = Field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether our own pass computes."""
        return self.trainer == "own"

    @property
    def name(self) -> str:
        """A candidate's name, as in `tokens_per_s`."""
        return f"{self.precision} {self.weights} x{self.threads}"


def bf16_allowed(engine: Engine, base: GgufInfo, precision: str) -> bool:
    """Whether products in bf16 may be tried; `precision` is the wish, as in settings.TrainSettings.

    What bf16 rounds away of a quantized base is less than the engine's own rounding of activations to 8 bits. Of an
    F16 or F32 base it is more: losses would differ by a thousandth after some steps, so there it has to be asked for.
    """
    wished = base.quantized if precision == "auto" else precision == "bf16"
    return wished and bool(engine.products) and multiplies_bf16()


@functools.cache
def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself."""
    try:
        return not BF16_FLAGS.isdisjoint(CPU.read_text(encoding="ascii", errors="replace").split())
    except OSError:  # no Linux
        return False


@functools.cache
def cpu_model() -> str:
    """The CPU's own name and its cores: what was measured holds for this machine alone."""
    try:
        lines = CPU.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part")))
    return f"{next(names, 'CPU')} x{psutil.cpu_count()}"
