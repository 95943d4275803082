"""Write a GGUF anew in F16, block by block: with an adapter merged in, or as a working copy of a BF16 base.

A few blocks are in memory at a time, however large the model and its tensors are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..paths import replacing
from .header import Header, TensorInfo, make_header, number_entry
from .inspect import open_gguf

__all__ = ["f16_copy", "merge"]

#: Rows that the adapter's part is computed for at a time: 64 MB at a row of 4,096.
BLOCK_ROWS: Final = 4096
#: Numbers of a block, unless a row has more: what is made of them on the way stays in the processor's caches.
BLOCK_NUMBERS: Final = 1 << 17
#: Threads at most: each holds a block, and the disk sets the pace long before.
MOST_THREADS: Final = 8
#: The largest number that F16 holds.
F16_MAX: Final = 65504.0

Progress = Callable[[int, int], None]
Numbers = npt.NDArray[np.float32]
Delta = tuple[Numbers, Numbers, float]
#: Some rows of a matrix.
Block = range


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
        a, b = (_f32(lora, tensor, range(tensor.rows)) for tensor in (parts[name], parts[f"{weight}.lora_b"]))
        if shapes[weight] != (a.shape[1], b.shape[0]) or a.shape[0] != b.shape[1]:
            raise ModelError(f"{adapter.name} does not fit this base: {weight} has another shape.")
        deltas[weight] = (a, b, float(alpha) / a.shape[0])
    return deltas


def _rewrite(source: Header, out: Path, deltas: dict[str, Delta], progress: Progress | None) -> None:
    from gguf import GGMLQuantizationType as Kind

    kinds = [(t, Kind.F16, 2) if len(t.shape) > 1 else (t, Kind.F32, 4) for t in source.tensors]
    head, offsets = make_header(
        _entries(source), ((t.name, t.shape, kind, size * t.n_elements) for t, kind, size in kinds)
    )
    workers = min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    with replacing(out) as file, ThreadPoolExecutor(workers) as pool:
        file.write(head)
        file.truncate(len(head) + offsets[-1])
        handle = file.fileno()

        def write(tensor: TensorInfo, block: Block, offset: int, added: Numbers | None) -> None:
            made = _halved(source, tensor, block, added)
            left, at = made.data.cast("B"), len(head) + offset + block.start * tensor.shape[0] * made.itemsize
            while left:
                done = os.pwrite(handle, left, at)
                left, at = left[done:], at + done

        begun: deque[tuple[int, Future[None]]] = deque()

        def finish() -> None:
            ended, block = begun.popleft()
            block.result()
            if ended and progress:
                progress(ended, len(source.tensors))

        for number, (tensor, offset) in enumerate(zip(source.tensors, offsets, strict=False), 1):
            for block, added in _blocks(tensor, deltas.get(tensor.name)):
                ended = number if block.stop == tensor.rows else 0
                begun.append((ended, pool.submit(write, tensor, block, offset, added)))
                # As many wait as are worked on: a whole model of them would fill the memory.
                if len(begun) > 2 * workers:
                    finish()
        while begun:
            finish()


def _entries(source: Header) -> Iterator[bytes]:
    """Everything that the base says of itself, as it says it; only the file type becomes F16."""
    yield source.raw(source.entries["general.architecture"])
    for key, entry in source.entries.items():
        # The alignment of the file is no longer the base's; the format cannot say what an empty array would hold.
        if key not in ("general.architecture", "general.file_type", "general.alignment") and entry.length != 0:
            yield source.raw(entry)
    yield number_entry("general.file_type", 1)


def _blocks(tensor: TensorInfo, delta: Delta | None) -> Iterator[tuple[Block, Numbers | None]]:
    """The rows of each block, and what the adapter adds to them."""
    step = max(1, BLOCK_NUMBERS // tensor.shape[0])
    for first in range(0, tensor.rows, BLOCK_ROWS):
        last, added = min(first + BLOCK_ROWS, tensor.rows), None
        if delta is not None:
            a, b, scale = delta
            # For many rows at once and by one thread: BLAS has threads of its own, which would wait for each other.
            added = b[first:last] @ a
            added *= np.float32(scale)
        for start in range(first, last, step):
            stop = min(start + step, last)
            yield range(start, stop), None if added is None else added[start - first : stop - first]


def _halved(source: Header, tensor: TensorInfo, block: Block, added: Numbers | None) -> npt.NDArray[Any]:
    """Rows of a matrix in F16 with `added` to them; a vector in F32, as it is."""
    rows = _f32(source, tensor, block)
    if len(tensor.shape) == 1:
        return rows
    if added is not None:
        rows += added
    # Nothing compares with what is no number.
    if not (rows.max() <= F16_MAX and rows.min() >= -F16_MAX):
        raise ModelError(f"{tensor.name} holds numbers that F16 cannot: train again with a lower learning rate.")
    return rows.astype(np.float16)


def _f32(source: Header, tensor: TensorInfo, block: Block) -> Numbers:
    from gguf.quants import dequantize

    read = source.numbers(tensor, block.start, block.stop)
    return np.asarray(dequantize(read, tensor.tensor_type), dtype=np.float32)
