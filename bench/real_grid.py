"""How large a change of a run is beside the grid that its base's weights lie on: RMS of the change by RMS of the steps.

Written from the formats' own description, without the code under test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

Array = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
#: A matrix is looked at in so many rows, evenly spread: the mean over all is the same.
ROWS: Final = 128
#: Types whose block is one scale in F16 and quants; the bytes of a block.
SIMPLE: Final = {Type.Q4_0: 18, Type.Q4_1: 20, Type.Q5_0: 22, Type.Q5_1: 24, Type.Q8_0: 34}


def half(raw: Bytes, at: int) -> Array:
    """The F16 number at byte `at` of every block."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16).astype(np.float32)


def steps_of(raw: Bytes, kind: Type) -> Array:
    """The distance of neighbouring values in every block or sub-block of `raw`; all are of one length in a type."""
    if kind in SIMPLE:
        return half(raw.reshape(-1, SIMPLE[kind]), 0)
    if kind in (Type.Q4_K, Type.Q5_K):
        blocks = raw.reshape(-1, 144 if kind == Type.Q4_K else 176)
        packed = blocks[:, 4:16]
        low, high = packed[:, :4] & 63, (packed[:, 8:12] & 15) | ((packed[:, :4] >> 6) << 4)
        return half(blocks, 0) * np.concatenate([low, high], 1)
    if kind == Type.Q6_K:
        blocks = raw.reshape(-1, 210)
        return half(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    raise SystemExit(f"The bench does not know the grid of {kind.name}.")


def change_per_step(base: Path, adapter: Path) -> float:
    """Over all adapted tensors: the RMS of the change that `adapter` makes by the RMS of the grid's step, the mean."""
    reader = gguf.GGUFReader(adapter)
    field: Any = reader.get_field("adapter.lora.alpha")
    factors = {tensor.name: np.array(tensor.data, np.float32) for tensor in reader.tensors}
    ratios = []
    for tensor in gguf.GGUFReader(base).tensors:
        a = factors.get(f"{tensor.name}.lora_a")
        if a is None:
            continue
        b = factors[f"{tensor.name}.lora_b"]
        picked = np.linspace(0, len(b) - 1, min(ROWS, len(b))).astype(np.int64)
        change = (float(field.contents()) / len(a)) * (b[picked] @ a)
        raw = np.asarray(tensor.data).view(np.uint8).reshape(len(b), -1)[picked]
        step = steps_of(np.ascontiguousarray(raw).reshape(-1), tensor.tensor_type)
        ratios.append(float(np.sqrt(np.mean(change**2)) / np.sqrt(np.mean(step**2))))
    return float(np.mean(ratios))
