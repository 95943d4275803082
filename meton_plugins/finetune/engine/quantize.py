"""Quantize an F16 file: the library says which type each tensor gets, and quantizes it block by block.

`llama_model_quantize` alone holds twice the largest tensor in F32: 2.5 GB for a model of 1.2 billion weights.
"""

from __future__ import annotations

import ctypes as C
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from ..gguf.header import Header, TensorInfo, number_entry
from ..gguf.inspect import open_gguf
from ..gguf.stream import Block, Job, blocks, floats, write_gguf
from .file_types import FILE_TYPES
from .library import Library

__all__ = ["quantize"]

#: `[  12/ 291] blk.0.attn_q.weight - [512, 512, 1, 1], type = f16, size = 0.50 MiB -> 0.14 MiB (q4_K)` in the log.
_TENSOR_LINE: Final = re.compile(
    r"^\[ *\d+/ *\d+\] (.+?) +- \[.*\], type = +(\w+), size = [^>\n]*(?:-> .*\((\w+)\))?$", re.M
)
#: GGML_QNT_VERSION.
QUANTIZATION_VERSION: Final = 2
#: What of the base's own words the library replaces or leaves out.
REPLACED: Final = ("general.quantization_version", "general.file_type", "general.alignment")


def quantize(
    library: Library, job: dict[str, Any], emit: Callable[..., None], wanted: Callable[[], str | None]
) -> None:
    """Write the F16 file `source` as `target` in another type."""
    source, kind = open_gguf(Path(job["source"])), job["type"]
    try:
        tensors = _types(library, source, kind)
        # Opened by its name: what it becomes at the end is its owner's to say.
        with Path(job["target"]).open("wb") as file:
            write_gguf(
                file,
                _entries(source, kind),
                tensors,
                partial(_jobs, library, source),
                job["threads"],
                lambda done, total: emit("progress", done=done, total=total),
            )
    except OSError as error:
        raise EngineError(f"The engine could not quantize to {kind} ({error.strerror}): is the disk full?") from error
    emit("result")


def _types(library: Library, source: Header, kind: str) -> list[tuple[TensorInfo, int]]:
    """The tensors in the order and with the types that the library gives them, when it writes no file."""
    from gguf import GGMLQuantizationType

    params = library.llama_model_quantize_default_params()
    params.ftype, params.dry_run = FILE_TYPES[kind], True
    said: list[str] = []
    library.listen(said.append)
    if library.llama_model_quantize(str(source.path).encode(), b"", C.byref(params)):
        raise EngineError(f"The engine could not quantize to {kind} ({library.complaint}).")
    tensors = {tensor.name: tensor for tensor in source.tensors}
    found: list[tuple[TensorInfo, int]] = []
    for name, old, new in _TENSOR_LINE.findall("".join(said)):
        if new and old not in ("f16", "f32"):
            raise EngineError(f"The engine could not quantize to {kind} (requantizing from type {old} is disabled).")
        found.append((tensors.pop(name), GGMLQuantizationType[(new or old).upper()]))
    if tensors:
        raise EngineError(
            f"The engine does not say what becomes of {next(iter(tensors))}: run /finetune setup --again."
        )
    return found


def _entries(source: Header, kind: str) -> Iterator[bytes]:
    for key, entry in source.entries.items():
        if key not in REPLACED:
            yield source.raw(entry)
    yield number_entry("general.quantization_version", QUANTIZATION_VERSION)
    yield number_entry("general.file_type", FILE_TYPES[kind])


def _jobs(library: Library, source: Header, tensor: TensorInfo, kind: int) -> Iterator[tuple[Block, Job]]:
    for block in blocks(tensor, 0, tensor.rows):
        yield block, partial(_quantized, library, source, tensor, kind, block)


def _quantized(library: Library, source: Header, tensor: TensorInfo, kind: int, block: Block) -> npt.NDArray[np.uint8]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if kind == tensor.tensor_type:
        return source.numbers(tensor, block.start, block.stop)
    numbers = np.ascontiguousarray(floats(source, tensor, block))
    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    made = np.empty(numbers.size // weights * size, np.uint8)
    library.ggml_quantize_chunk(kind, numbers.ctypes.data, made.ctypes.data, 0, len(block), tensor.shape[0], None)
    return made
