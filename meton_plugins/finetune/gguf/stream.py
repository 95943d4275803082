"""Write a GGUF block by block, in several threads: a few blocks are in memory, however large model and tensors are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from os import pwrite
from typing import IO, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .header import ALIGNMENT, Header, TensorInfo, make_header

__all__ = [
    "Block", "Job", "Layout", "Numbers", "Progress", "blocks", "floats", "new_layout", "same_layout", "write_at",
    "write_gguf",
]  # fmt: skip

#: Numbers of a block, unless a row has more: what is made of them on the way stays in the processor's caches.
BLOCK_NUMBERS: Final = 1 << 17

#: Some rows of a matrix.
Block = range
Numbers = npt.NDArray[np.float32]
#: Makes the bytes of a block, in any thread.
Job = Callable[[], npt.NDArray[Any]]
#: progress(tensors_done, tensors_total)
Progress = Callable[[int, int], None]


class Layout(NamedTuple):
    """A file before its numbers are known: `head` up to them, where each tensor begins, the size of the whole file."""

    head: bytes
    offsets: list[int]
    size: int


def new_layout(
    entries: Iterable[bytes], tensors: Sequence[tuple[TensorInfo, int]], alignment: int = ALIGNMENT
) -> Layout:
    """A file with `entries` and `tensors`, each with the number of its type there, one after the other."""
    sizes = [_row_bytes(tensor, kind) * tensor.rows for tensor, kind in tensors]
    named = ((t.name, t.shape, kind, size) for (t, kind), size in zip(tensors, sizes, strict=True))
    head, offsets = make_header(entries, named, alignment)
    begin = [len(head) + offset for offset in offsets]
    return Layout(head, begin[:-1], begin[-1])


def same_layout(source: Header) -> Layout:
    """The file that `source` is."""
    head = source.head + bytes(source.data_offset - len(source.head))
    return Layout(head, [tensor.data_offset for tensor in source.tensors], source.path.stat().st_size)


def write_gguf(
    file: IO[bytes],
    layout: Layout,
    tensors: Sequence[tuple[TensorInfo, int]],
    jobs: Callable[[TensorInfo, int], Iterator[tuple[Block, Job]]],
    workers: int,
    progress: Progress | None = None,
) -> None:
    """Write `tensors`, each with the number of its new type, to the empty `file`, where `layout` has them.

    `jobs(tensor, type)` gives its blocks in order, and what makes each; it is asked one block after the other.
    """
    rows = [_row_bytes(tensor, kind) for tensor, kind in tensors]
    with ThreadPoolExecutor(workers) as pool:
        file.write(layout.head)
        file.truncate(layout.size)
        handle = file.fileno()

        def write(job: Job, at: int) -> None:
            write_at(handle, job(), at)

        begun: deque[tuple[int, Future[None]]] = deque()

        def finish() -> None:
            ended, block = begun.popleft()
            block.result()
            if ended and progress:
                progress(ended, len(tensors))

        for number, (tensor, kind) in enumerate(tensors, 1):
            for block, job in jobs(tensor, kind):
                at = layout.offsets[number - 1] + block.start * rows[number - 1]
                begun.append((number if block.stop == tensor.rows else 0, pool.submit(write, job, at)))
                # As many wait as are worked on: a whole model of them would fill the memory.
                if len(begun) > 2 * workers:
                    finish()
        while begun:
            finish()


def write_at(handle: int, numbers: npt.NDArray[Any], at: int) -> None:
    """Write all bytes of `numbers` at the place `at` of an open file; one call of the system may write fewer."""
    left = numbers.data.cast("B")
    while left:
        done = pwrite(handle, left, at)
        left, at = left[done:], at + done


def _row_bytes(tensor: TensorInfo, kind: int) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    weights, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return tensor.shape[0] // weights * size


def blocks(tensor: TensorInfo, first: int, last: int) -> Iterator[Block]:
    """Rows `first` to `last` of `tensor` in blocks."""
    step = max(1, BLOCK_NUMBERS // tensor.shape[0])
    for start in range(first, last, step):
        yield range(start, min(start + step, last))


def floats(source: Header, tensor: TensorInfo, block: Block) -> Numbers:
    """The numbers of some rows, in F32."""
    from gguf.quants import dequantize

    read = source.numbers(tensor, block.start, block.stop)
    return np.asarray(dequantize(read, tensor.tensor_type), dtype=np.float32)
