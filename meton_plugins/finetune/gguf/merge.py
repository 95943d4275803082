"""Write a GGUF anew with an adapter merged in, tensor by tensor: in the base's own types, in F16 or in other types.

A tensor that keeps its type is moved on its own grid (`grid`), or copied where the adapter does not touch it. Every
other tensor is dequantized, changed and quantized again, a block of rows at a time, so no F16 file lies in between.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..paths import replacing
from .grid import Tally, has_grid, move, random_numbers
from .header import Header, TensorInfo, number_entry
from .inspect import open_gguf
from .stream import Block, Job, Layout, Numbers, Progress, blocks, floats, new_layout, same_layout, write_gguf

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

__all__ = [
    "CHUNK_NUMBERS", "MOST_THREADS", "SEED", "Chosen", "Delta", "Tallies", "Types", "Written", "base_layout",
    "base_types", "check_change", "merge", "read_deltas", "write_model", "written",
]  # fmt: skip

#: Numbers that the adapter's part is computed for at a time: 48 MB while it is.
CHUNK_NUMBERS: Final = 1 << 22
#: Threads at most: each holds a block, and the disk sets the pace long before.
MOST_THREADS: Final = 8
#: The largest number that F16 holds.
F16_MAX: Final = 65504.0
#: Decides the roundings, unless another is given.
SEED: Final = 1
#: Where a tensor goes whose type has no grid of its own, the smallest first.
FALLBACKS: Final = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16")

#: The tensors of a file in their order, with the type that each gets.
Types = Sequence[tuple[TensorInfo, "GGMLQuantizationType"]]
#: What was rounded, by tensor: a tally for each block of its rows.
Tallies = dict[str, list[Tally]]
#: Rows of numbers in another type.
Quantizer = Callable[["GGMLQuantizationType", Numbers], npt.NDArray[np.uint8]]


class Delta(NamedTuple):
    """What an adapter adds to a matrix: scale · B·A. The factors stay in the file until their turn."""

    lora: Header
    a: TensorInfo
    b: TensorInfo
    scale: float

    @property
    def factor(self) -> Numbers:
        """A, [rank, in]."""
        return floats(self.lora, self.a, range(self.a.rows))

    def rows(self, first: int, last: int) -> Numbers:
        """What it adds to rows `first` to `last`.

        In F64 before it is rounded to F32: the last bits of an F32 product depend on the number of threads and rows,
        and with them the bytes of the file would.
        """
        a = self.factor.astype(np.float64) * self.scale
        return (floats(self.lora, self.b, range(first, last)).astype(np.float64) @ a).astype(np.float32)


class Written(NamedTuple):
    """What became of a model: tensors by type, what could not stay in its type and where it went.

    `change_per_step`: the mean over all tensors on the base's own grid of RMS change / mean step, None without any;
    `clipped`: the part of the change on these grids that lies past the ends of a block's levels, which other weights
    of the block make up for, or in blocks of scale 0.
    """

    adapted: int
    types: dict[str, int]
    retyped: dict[str, int]
    change_per_step: float | None
    clipped: float
    chosen: Chosen | None = None


class Chosen(NamedTuple):
    """Roundings chosen by activations (`rounding`): how many tensors, on how many training rows and tokens of them, and
    how large the error that is left is beside what the change adds, in norms over all that was looked at: these rows,
    general texts and the directions that count more.

    `reason`: why they were not, and go at random.
    """

    tensors: int = 0
    rows: int = 0
    tokens: int = 0
    error: float | None = None
    reason: str = ""


def merge(
    base: Path, adapter: Path, out: Path, progress: Progress | None = None, *, kind: str = "f16", seed: int = SEED
) -> Written:
    """Write W + (alpha / rank) · B·A for every adapted tensor of `base`, and all else that the base holds.

    `kind`: f16, or base for the base's own types, on whose grids roundings go at random. `progress(tensors_done,
    tensors_total)`. ModelError where a tensor must change into a type that only the engine writes (`engine.quantize`).
    """
    source = open_gguf(base)
    deltas = read_deltas(source, adapter)
    types = base_types(source, deltas) if kind == "base" else _f16_types(source)
    layout = base_layout(source, types) if kind == "base" else new_layout(_f16_entries(source), types)
    with replacing(out) as file:
        tallies = write_model(file, source, deltas, layout, types, threads=_threads(), seed=seed, progress=progress)
    return written(types, deltas, tallies)


def read_deltas(source: Header, adapter: Path) -> dict[str, Delta]:
    """What `adapter` adds, by the tensor of `source`; ModelError where it belongs to another base."""
    lora = open_gguf(adapter)
    if lora.value("general.type") != "adapter" or lora.value("adapter.type") != "lora":
        raise ModelError(f"{adapter.name} is not a LoRA adapter.")
    if lora.value("general.architecture") != source.value("general.architecture"):
        raise ModelError(
            f"{adapter.name} was trained on another architecture than {source.path.name}: name its own base."
        )
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


def base_types(source: Header, deltas: dict[str, Delta]) -> Types:
    """The base's own types; an adapted tensor of a type without a grid gets the smallest that is not smaller."""
    return [(t, _fallback(t) if t.name in deltas else t.tensor_type) for t in source.tensors]


def _fallback(tensor: TensorInfo) -> GGMLQuantizationType:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if has_grid(tensor.tensor_type):
        return tensor.tensor_type
    weights, size = GGML_QUANT_SIZES[tensor.tensor_type]
    for name in FALLBACKS:
        kind = GGMLQuantizationType[name]
        columns, row = GGML_QUANT_SIZES[kind]
        if row * weights >= size * columns and tensor.shape[0] % columns == 0:
            return kind
    return GGMLQuantizationType.F32


def base_layout(source: Header, types: Types) -> Layout:
    """The base's own header, byte for byte; where a type changes, its keys with other places of the tensors."""
    if all(kind == tensor.tensor_type for tensor, kind in types):
        return same_layout(source)
    return new_layout(map(source.raw, source.entries.values()), types, source.alignment)


def _f16_types(source: Header) -> Types:
    from gguf import GGMLQuantizationType as Kind

    return [(tensor, Kind.F16 if len(tensor.shape) > 1 else Kind.F32) for tensor in source.tensors]


def _f16_entries(source: Header) -> Iterator[bytes]:
    """Everything that the base says of itself, as it says it; only the file type becomes F16."""
    yield source.raw(source.entries["general.architecture"])
    for key, entry in source.entries.items():
        # The alignment of the file is no longer the base's.
        if key not in ("general.architecture", "general.file_type", "general.alignment"):
            yield source.raw(entry)
    yield number_entry("general.file_type", 1)


def _threads() -> int:
    return min(MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


def write_model(
    file: IO[bytes],
    source: Header,
    deltas: dict[str, Delta],
    layout: Layout,
    types: Types,
    *,
    threads: int,
    quantizer: Quantizer | None = None,
    seed: int = SEED,
    progress: Progress | None = None,
) -> Tallies:
    """Write the tensors of `source` with `deltas` as `types` to the empty `file`."""
    # Appended by many threads in any order: the sums that are made of them later do not depend on it.
    tallies: Tallies = {}

    def jobs(tensor: TensorInfo, number: int) -> Iterator[tuple[Block, Job]]:
        kind = type(tensor.tensor_type)(number)
        delta = deltas.get(tensor.name)
        if delta is None and kind == tensor.tensor_type:
            for block in blocks(tensor, 0, tensor.rows):
                yield block, partial(source.numbers, tensor, block.start, block.stop)
            return
        # For many rows at once and by one thread: BLAS has threads of its own, which would wait for each other.
        step = tensor.rows if delta is None else max(1, CHUNK_NUMBERS // tensor.shape[0])
        for first in range(0, tensor.rows, step):
            last = min(first + step, tensor.rows)
            added = None if delta is None else delta.rows(first, last)
            for block in blocks(tensor, first, last):
                part = None if added is None else added[block.start - first : block.stop - first]
                if part is not None and kind == tensor.tensor_type:
                    sums = tallies.setdefault(tensor.name, [])
                    yield block, partial(_moved, source, tensor, block, part, seed, sums)
                else:
                    yield block, partial(_quantized, source, tensor, block, part, kind, quantizer)

    write_gguf(file, layout, types, jobs, threads, progress)
    return tallies


def written(types: Types, deltas: Mapping[str, Delta], tallies: Tallies, chosen: Chosen | None = None) -> Written:
    """What became of the tensors."""
    retyped = Counter(
        f"{tensor.tensor_type.name} → {kind.name}"
        for tensor, kind in types
        if tensor.name in deltas and kind != tensor.tensor_type
    )
    return Written(
        len(deltas), dict(Counter(kind.name for _, kind in types)), dict(retyped), *_summary(tallies), chosen
    )


def _summary(tallies: Tallies) -> tuple[float | None, float]:
    """`change_per_step` and `clipped`."""
    ratios, changes, lost = [], [], []
    for sums in tallies.values():
        weights = sum(tally.weights for tally in sums)
        steps = math.fsum(tally.steps for tally in sums)
        if steps:
            squares = math.fsum(tally.squares for tally in sums)
            ratios.append(math.sqrt(squares / weights) / (steps / weights))
        changes += [tally.changes for tally in sums]
        lost += [tally.lost for tally in sums]
    whole = math.fsum(changes)
    return math.fsum(ratios) / len(ratios) if ratios else None, math.fsum(lost) / whole if whole else 0.0


def _moved(
    source: Header, tensor: TensorInfo, block: Block, added: Numbers, seed: int, sums: list[Tally]
) -> npt.NDArray[Any]:
    """Rows of a matrix in its own type, with `added` rounded on its own grid."""
    check_change(tensor, added)
    rows = source.numbers(tensor, block.start, block.stop)
    random = random_numbers(seed, tensor.name, block.start, len(block), tensor.shape[0])
    moved, tally = move(tensor.tensor_type, rows, added, random)
    if tensor.tensor_type.name == "F16":
        _check_f16(tensor, moved.view(np.float16))
    sums.append(tally)
    return moved


def check_change(tensor: TensorInfo, change: Numbers) -> None:
    """ModelError where what `tensor` would change by is no number."""
    if not np.isfinite(change).all():
        raise ModelError(f"{tensor.name} would change by what is no number: train again with a lower learning rate.")


def _quantized(
    source: Header,
    tensor: TensorInfo,
    block: Block,
    added: Numbers | None,
    kind: GGMLQuantizationType,
    quantizer: Quantizer | None,
) -> npt.NDArray[Any]:
    """Rows of a matrix in another type, with `added` to them."""
    rows = floats(source, tensor, block)
    if added is not None:
        rows = rows + added
    if kind.name == "F32":
        return rows
    if kind.name == "F16":
        _check_f16(tensor, rows)
        return rows.astype(np.float16)
    if quantizer is None:
        raise ModelError(f"{tensor.name} cannot be written as {kind.name} without the engine.")
    return quantizer(kind, np.ascontiguousarray(rows))


def _check_f16(tensor: TensorInfo, rows: npt.NDArray[Any]) -> None:
    # Nothing compares with what is no number.
    if not (rows.max() <= F16_MAX and rows.min() >= -F16_MAX):
        raise ModelError(f"{tensor.name} holds numbers that F16 cannot: train again with a lower learning rate.")
