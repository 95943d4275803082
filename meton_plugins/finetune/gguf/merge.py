"""Write a GGUF anew in F16, tensor by tensor: with an adapter merged in, or as a working copy of a BF16 base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..paths import replacing_path
from .full_disk import plain_errors
from .inspect import open_gguf

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter, ReaderTensor

__all__ = ["f16_copy", "merge"]

#: Rows dequantized at a time: 64 MB of F32 at a row of 4,096.
BLOCK_ROWS: Final = 4096
#: The largest number that F16 holds.
F16_MAX: Final = 65504.0

Progress = Callable[[int, int], None]
Delta = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]


def merge(base: Path, adapter: Path, out: Path, progress: Progress | None = None) -> int:
    """Write W + (alpha / rank) · B·A for every adapted tensor of `base`, in F16, and all else that the base holds.

    Returns the number of adapted tensors; `progress(tensors_done, tensors_total)`. The base is dequantized, never
    quantized again: merging into a quantized tensor rounds most of the tuning away.
    """
    lora = open_gguf(adapter)
    source = open_gguf(base)
    if _text(lora, "general.type") != "adapter" or _text(lora, "adapter.type") != "lora":
        raise ModelError(f"{adapter.name} is not a LoRA adapter.")
    if _text(lora, "general.architecture") != _text(source, "general.architecture"):
        raise ModelError(f"{adapter.name} was trained on another architecture than {base.name}: name its own base.")
    deltas = _deltas(lora, source, adapter)
    _rewrite(source, out, deltas, progress)
    return len(deltas)


def f16_copy(base: Path, out: Path, progress: Progress | None = None) -> None:
    """Write `base` with its matrices in F16, for bases of a type that cannot be trained on (BF16)."""
    _rewrite(open_gguf(base), out, {}, progress)


def _text(reader: GGUFReader, key: str) -> str:
    found = reader.get_field(key)
    return "" if found is None else str(found.contents())


def _deltas(lora: GGUFReader, source: GGUFReader, adapter: Path) -> dict[str, Delta]:
    alpha_field = lora.get_field("adapter.lora.alpha")
    if alpha_field is None:
        raise ModelError(f"{adapter.name} does not say its alpha.")
    alpha = float(alpha_field.contents())
    parts = {t.name: t for t in lora.tensors}
    shapes = {t.name: tuple(int(n) for n in t.shape) for t in source.tensors}
    deltas: dict[str, Delta] = {}
    for name in parts:
        if not name.endswith(".lora_a"):
            continue
        weight = name.removesuffix(".lora_a")
        if weight not in shapes or f"{weight}.lora_b" not in parts:
            raise ModelError(f"{adapter.name} does not fit this base: {weight} has no partner.")
        a, b = _f32(parts[name]), _f32(parts[f"{weight}.lora_b"])
        if shapes[weight] != (a.shape[1], b.shape[0]) or a.shape[0] != b.shape[1]:
            raise ModelError(f"{adapter.name} does not fit this base: {weight} has another shape.")
        deltas[weight] = (a, b, alpha / a.shape[0])
    return deltas


def _f32(tensor: ReaderTensor) -> npt.NDArray[np.float32]:
    from gguf.quants import dequantize

    shape = tuple(int(n) for n in reversed(tensor.shape))
    return np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(shape)


def _rewrite(source: GGUFReader, out: Path, deltas: dict[str, Delta], progress: Progress | None) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    architecture = _text(source, "general.architecture")
    with plain_errors(out), replacing_path(out) as temporary:
        writer = GGUFWriter(temporary, architecture)
        _copy_metadata(source, writer)
        halves = {t.name: len(t.shape) > 1 for t in source.tensors}
        for tensor in source.tensors:
            shape = tuple(int(n) for n in reversed(tensor.shape))
            if halves[tensor.name]:
                size = 2 * int(tensor.n_elements)
                writer.add_tensor_info(tensor.name, shape, np.dtype(np.float16), size, GGMLQuantizationType.F16)
            else:
                size = 4 * int(tensor.n_elements)
                writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, GGMLQuantizationType.F32)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for done, tensor in enumerate(source.tensors, 1):
                if halves[tensor.name]:
                    writer.write_tensor_data(_halved(tensor, deltas.get(tensor.name)))
                else:
                    writer.write_tensor_data(_f32(tensor))
                if progress:
                    progress(done, len(source.tensors))
        finally:
            writer.close()


def _copy_metadata(source: GGUFReader, writer: GGUFWriter) -> None:
    """Everything that the base says of itself, as it says it; only the file type becomes F16."""
    from gguf import GGUFValueType

    for key, entry in source.fields.items():
        # The writer adds its own header and architecture; type and alignment of the file are no longer the base's.
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type", "general.alignment"):
            continue
        value: Any = entry.contents()
        kind = entry.types[0]
        inner = entry.types[-1] if kind == GGUFValueType.ARRAY else None
        if kind == GGUFValueType.ARRAY and len(value) == 0:
            continue  # the format cannot say what an empty array would hold
        writer.add_key_value(key, value, kind, inner)
    writer.add_file_type(1)


def _halved(tensor: ReaderTensor, delta: Delta | None) -> npt.NDArray[np.float16]:
    """The matrix in F16 with `delta` added; only BLOCK_ROWS rows exist in F32 at a time."""
    from gguf.quants import dequantize

    shape = tuple(int(n) for n in reversed(tensor.shape))
    flat = tensor.data.reshape(-1, tensor.data.shape[-1])
    half = np.empty(shape, dtype=np.float16)
    target = half.reshape(-1, shape[-1])
    for start in range(0, len(target), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(target))
        block = np.array(dequantize(flat[start:stop], tensor.tensor_type), dtype=np.float32).reshape(-1, shape[-1])
        if delta is not None:
            a, b, scale = delta
            block += np.float32(scale) * (b[start:stop] @ a)
        if not np.isfinite(block).all() or np.abs(block).max(initial=0) > F16_MAX:
            raise ModelError(f"{tensor.name} holds numbers that F16 cannot: train again with a lower learning rate.")
        target[start:stop] = block
    return half
