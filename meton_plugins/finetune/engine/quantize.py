"""Quantize a model, with an adapter merged in or as it is: the library says which type each tensor gets, and
quantizes it block by block.

`llama_model_quantize` alone holds twice the largest tensor in F32: 2.5 GB for a model of 1.2 billion weights.
"""

from __future__ import annotations

import ctypes as C
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import EngineError, FinetuneError, ModelError
from ..gguf.grid import random_numbers
from ..gguf.header import Header, TensorInfo, number_entry
from ..gguf.inspect import open_gguf
from ..gguf.merge import (
    CHUNK_NUMBERS,
    MOST_THREADS,
    SEED,
    Chosen,
    Delta,
    Tallies,
    Types,
    base_layout,
    base_types,
    check_change,
    read_deltas,
    write_model,
    written,
)  # fmt: skip
from ..gguf.rounding import RoundedRows, can_choose, choose, emphasized
from ..gguf.stream import Layout, Numbers, new_layout, write_at
from ..graph.shape import Unsupported
from .activations import Activations, activations
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
    the exact weights; else its roundings are chosen on the training rows that `rows` says (`gguf.rounding`), or go at
    random where there are none or our own pass does not read this base.
    """
    source, kind, seed = open_gguf(Path(job["source"])), job["type"], job.get("seed", SEED)
    deltas = read_deltas(source, Path(job["adapter"])) if job.get("adapter") else {}

    def quantized(type_: GGMLQuantizationType, rows: Numbers) -> npt.NDArray[np.uint8]:
        from gguf import GGML_QUANT_SIZES

        weights, size = GGML_QUANT_SIZES[type_]
        made = np.empty(rows.size // weights * size, np.uint8)
        library.ggml_quantize_chunk(type_, rows.ctypes.data, made.ctypes.data, 0, *rows.shape, None)
        return made

    try:
        types = base_types(source, deltas) if kind == "base" else library_types(library, source, kind)
        layout = base_layout(source, types) if kind == "base" else new_layout(_entries(source, kind), types)
        with ExitStack() as opened:
            read, chosen = _activations(opened, library, job, {
                tensor.name for tensor, type_ in types
                if tensor.name in deltas and type_ == tensor.tensor_type and can_choose(type_)
            })  # fmt: skip
            total = len(types) + (len(read.names) if read else 0)
            # Opened by its name: what it becomes at the end is its owner's to say.
            file = opened.enter_context(Path(job["target"]).open("wb"))
            # What is chosen later is copied for now.
            others = deltas if read is None else {name: each for name, each in deltas.items() if name not in read.names}
            tallies = write_model(
                file, source, others, layout, types, threads=job["threads"], quantizer=quantized,
                seed=seed, progress=lambda done, _: emit("progress", done=done, total=total),
            )  # fmt: skip
            if read:
                tell = partial(emit, "progress", total=total)
                chosen = _choose(file, source, deltas, layout, types, read, tallies, job["threads"], seed, tell)
    except OSError as error:
        raise EngineError(f"The engine could not quantize to {kind} ({error.strerror}): is the disk full?") from error
    emit("result", written=written(types, deltas, tallies, chosen)._asdict())


class Read(NamedTuple):
    """Tensors whose roundings are chosen, and what they read."""

    found: Activations
    names: set[str]


def _activations(
    opened: ExitStack, library: Library, job: dict[str, Any], names: set[str]
) -> tuple[Read | None, Chosen | None]:
    """What the tensors `names` read on training rows, or why it cannot be had."""
    if not names:
        return None, None
    if not job.get("rows"):
        return None, Chosen(reason="no training rows were given")
    try:
        found = opened.enter_context(
            activations(library, Path(job["source"]), Path(job["adapter"]), job["rows"], job["threads"])
        )
    except (OSError, ValueError, Unsupported, FinetuneError) as error:
        return None, Chosen(reason=str(error).rstrip("."))
    return Read(found, names), None


def _choose(
    file: IO[bytes], source: Header, deltas: dict[str, Delta], layout: Layout, types: Types, read: Read,
    tallies: Tallies, threads: int, seed: int, tell: Callable[..., None],
) -> Chosen:  # fmt: skip
    """Choose the roundings of the tensors of `read` and write them where `layout` has them in `file`."""
    places = {tensor.name: (tensor, at) for (tensor, _), at in zip(types, layout.offsets, strict=True)}
    handle, done, answers, left = file.fileno(), len(types), [], []
    file.flush()

    def choose_rows(tensor: TensorInfo, at: int, block: range, inputs: Numbers) -> RoundedRows:
        change = deltas[tensor.name].rows(block.start, block.stop)
        check_change(tensor, change)
        random = random_numbers(seed, tensor.name, block.start, len(block), tensor.shape[0])
        chosen = choose(tensor.tensor_type, source.numbers(tensor, block.start, block.stop), change, inputs, random)
        write_at(handle, chosen.rows, at + block.start * (tensor.n_bytes // tensor.rows))
        return chosen

    # NumPy's BLAS has one thread here: the bytes do not depend on how many blocks are worked on at a time.
    with ThreadPoolExecutor(min(threads, MOST_THREADS)) as pool:
        for inputs in read.found.blocks:
            for name in sorted(read.names & inputs.keys()):
                if not np.isfinite(inputs[name]).all():
                    raise ModelError(f"{name} reads what is no number: train again with a lower learning rate.")
                tensor, at = places[name]
                step = max(1, CHUNK_NUMBERS // 2 // tensor.shape[0])
                blocks = [range(first, min(first + step, tensor.rows)) for first in range(0, tensor.rows, step)]
                looked = emphasized(tensor.tensor_type, inputs[name], read.found.tokens, deltas[name].factor)
                found = list(pool.map(lambda block: choose_rows(tensor, at, block, looked), blocks))  # noqa: B023
                tallies[name] = [one.tally for one in found]
                answers.append(math.fsum(one.answers for one in found))
                left.append(math.fsum(one.left for one in found))
                done += 1
                tell(done=done)
    if done < len(types) + len(read.names):
        # They were copied from the base, and the file would lack their part of the tuning.
        raise EngineError(f"Our own pass does not read {min(read.names - tallies.keys())}, which the adapter changes.")
    error = [math.sqrt(one / whole) for one, whole in zip(left, answers, strict=True) if whole]
    return Chosen(
        len(answers), read.found.rows, read.found.tokens, math.fsum(error) / len(error) if error else None
    )  # fmt: skip


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
