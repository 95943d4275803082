"""Write a GGUF anew in F16: with an adapter merged in, or as a working copy of a BF16 base."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..paths import replacing
from .header import Header, TensorInfo, number_entry
from .inspect import open_gguf
from .stream import Block, Job, Numbers, Progress, blocks, floats, write_gguf

__all__ = ["f16_copy", "merge"]

#: Rows that the adapter's part is computed for at a time: 64 MB at a row of 4,096.
BLOCK_ROWS: Final = 4096
#: Threads at most: each holds a block, and the disk sets the pace long before.
MOST_THREADS: Final = 8
#: The largest number that F16 holds.
F16_MAX: Final = 65504.0


class Delta(NamedTuple):
    """What an adapter adds to a matrix: scale · B·A. The factors stay in the file until their turn."""

    lora: Header
    a: TensorInfo
    b: TensorInfo
    scale: float


def merge(base: Path, adapter: Path, out: Path, progress: Progress | None = None) -> int:
    """Write W + (alpha / rank) · B·A for every adapted tensor of `base`, in F16, and all else that the base holds.

    Returns the number of adapted tensors; `progress(tensors_done, tensors_total)`. The base is dequantized, never
    quantized again: merging into a quantized tensor rounds most of the tuning away.
    """
    lora = open_gguf(adapter)
    source = open_gguf(base)
    if lora.value("general.type") != "adapter" or lora.value("adapter.type") != "lora":
        raise ModelError(f"{adapter.name} is not a LoRA adapter.")
    if lora.value("general.architecture") != source.value("general.architecture"):
        raise ModelError(f"{adapter.name} was trained on another architecture than {base.name}: name its own base.")
    deltas = _deltas(lora, source)
    _rewrite(source, out, deltas, progress)
    return len(deltas)


def f16_copy(base: Path, out: Path, progress: Progress | None = None) -> None:
    """Write `base` with its matrices in F16, for bases of a type that cannot be trained on (BF16)."""
    _rewrite(open_gguf(base), out, {}, progress)


def _deltas(lora: Header, source: Header) -> dict[str, Delta]:
    adapter = lora.path
    alpha = lora.value("adapter.lora.alpha")
    if alpha is None:
        raise ModelError(f"{adapter.name} does not say its alpha.")
    parts = {t.name: t for t in lora.tensors}
    shapes = {t.name: t.shape for t in source.tensors}
    deltas: dict[str, Delta] = {}
    for name in parts:
        if not name.endswith(".lora_a"):
            continue
        weight = name.removesuffix(".lora_a")
        if weight not in shapes or f"{weight}.lora_b" not in parts:
            raise ModelError(f"{adapter.name} does not fit this base: {weight} has no partner.")
        a, b = parts[name], parts[f"{weight}.lora_b"]
        if shapes[weight] != (a.shape[0], b.shape[-1]) or a.shape[1:] != b.shape[:1]:
            raise ModelError(f"{adapter.name} does not fit this base: {weight} has another shape.")
        deltas[weight] = Delta(lora, a, b, float(alpha) / a.shape[1])
    return deltas


def _rewrite(source: Header, out: Path, deltas: dict[str, Delta], progress: Progress | None) -> None:
    from gguf import GGMLQuantizationType as Kind

    tensors = [(tensor, Kind.F16 if len(tensor.shape) > 1 else Kind.F32) for tensor in source.tensors]
    workers = min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    with replacing(out) as file:
        write_gguf(
            file,
            _entries(source),
            tensors,
            lambda tensor, _: _jobs(source, tensor, deltas.get(tensor.name)),
            workers,
            progress,
        )


def _entries(source: Header) -> Iterator[bytes]:
    """Everything that the base says of itself, as it says it; only the file type becomes F16."""
    yield source.raw(source.entries["general.architecture"])
    for key, entry in source.entries.items():
        # The alignment of the file is no longer the base's; the format cannot say what an empty array would hold.
        if key not in ("general.architecture", "general.file_type", "general.alignment") and entry.length != 0:
            yield source.raw(entry)
    yield number_entry("general.file_type", 1)


def _jobs(source: Header, tensor: TensorInfo, delta: Delta | None) -> Iterator[tuple[Block, Job]]:
    for first in range(0, tensor.rows, BLOCK_ROWS):
        last, added = min(first + BLOCK_ROWS, tensor.rows), None
        if delta is not None:
            # For many rows at once and by one thread: BLAS has threads of its own, which would wait for each other.
            added = floats(delta.lora, delta.b, range(first, last)) @ floats(delta.lora, delta.a, range(delta.a.rows))
            added *= np.float32(delta.scale)
        for block in blocks(tensor, first, last):
            part = None if added is None else added[block.start - first : block.stop - first]
            yield block, partial(_halved, source, tensor, block, part)


def _halved(source: Header, tensor: TensorInfo, block: Block, added: Numbers | None) -> npt.NDArray[Any]:
    """Rows of a matrix in F16 with `added` to them; a vector in F32, as it is."""
    rows = floats(source, tensor, block)
    if len(tensor.shape) == 1:
        return rows
    if added is not None:
        rows += added
    # Nothing compares with what is no number.
    if not (rows.max() <= F16_MAX and rows.min() >= -F16_MAX):
        raise ModelError(f"{tensor.name} holds numbers that F16 cannot: train again with a lower learning rate.")
    return rows.astype(np.float16)
