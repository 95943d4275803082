"""Quantize a model, with an adapter merged in or as it is: the library says which type each tensor gets, and
quantizes it block by block.

`llama_model_quantize` alone holds twice the largest tensor in F32: 2.5 GB for a model of 1.2 billion weights.
"""

from __future__ import annotations

import ctypes as C
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from ..gguf.header import Header, number_entry
from ..gguf.inspect import open_gguf
from ..gguf.merge import SEED, Types, base_layout, base_types, read_deltas, write_model
from ..gguf.stream import Numbers, new_layout
from .file_types import FILE_TYPES
from .library import Library

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

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
    """Write the file `source`, with `adapter` merged in where one is given, as `target` in another type.

    The type base means the base's own types. A quantized source is quantized again only where its type changes, from
    the exact weights.
    """
    source, kind = open_gguf(Path(job["source"])), job["type"]
    deltas = read_deltas(source, Path(job["adapter"])) if job.get("adapter") else {}

    def quantized(type_: GGMLQuantizationType, rows: Numbers) -> npt.NDArray[np.uint8]:
        from gguf import GGML_QUANT_SIZES

        weights, size = GGML_QUANT_SIZES[type_]
        written = np.empty(rows.size // weights * size, np.uint8)
        library.ggml_quantize_chunk(type_, rows.ctypes.data, written.ctypes.data, 0, *rows.shape, None)
        return written

    try:
        types = base_types(source, deltas) if kind == "base" else library_types(library, source, kind)
        layout = base_layout(source, types) if kind == "base" else new_layout(_entries(source, kind), types)
        # Opened by its name: what it becomes at the end is its owner's to say.
        with Path(job["target"]).open("wb") as file:
            written = write_model(
                file, source, deltas, layout, types, threads=job["threads"], quantizer=quantized,
                seed=job.get("seed", SEED), progress=lambda done, total: emit("progress", done=done, total=total),
            )  # fmt: skip
    except OSError as error:
        raise EngineError(f"The engine could not quantize to {kind} ({error.strerror}): is the disk full?") from error
    emit("result", written=written._asdict())


def library_types(library: Library, source: Header, kind: str) -> Types:
    """The tensors in the order and with the types that the library gives them, when it writes no file.

    It chooses by name, shape and place, whatever the type of `source` is.
    """
    from gguf import GGMLQuantizationType

    params = library.llama_model_quantize_default_params()
    params.ftype, params.dry_run, params.allow_requantize = FILE_TYPES[kind], True, True
    lines: list[str] = []
    library.listen(lines.append)
    if library.llama_model_quantize(str(source.path).encode(), b"", C.byref(params)):
        raise EngineError(f"The engine could not quantize to {kind} ({library.complaint}).")
    tensors = {tensor.name: tensor for tensor in source.tensors}
    types: list[tuple[Any, GGMLQuantizationType]] = []
    for name, old, new in _TENSOR_LINE.findall("".join(lines)):
        types.append((tensors.pop(name), GGMLQuantizationType[(new or old).upper()]))
    if tensors:
        raise EngineError(
            f"The engine does not say what becomes of {next(iter(tensors))}: run /finetune setup --again."
        )
    return types


def _entries(source: Header, kind: str) -> Iterator[bytes]:
    for key, entry in source.entries.items():
        if key not in REPLACED:
            yield source.raw(entry)
    yield number_entry("general.quantization_version", QUANTIZATION_VERSION)
    yield number_entry("general.file_type", FILE_TYPES[kind])
