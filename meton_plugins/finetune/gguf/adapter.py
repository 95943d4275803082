"""LoRA adapters as GGUF files."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelError
from .header import ALIGNMENT, make_header
from .inspect import open_gguf

__all__ = ["tidy"]


def tidy(source: Path, target: Path) -> None:
    """Copy the adapter `source` to `target` without the parts that were never trained.

    The library gives biases a factor pair of their own, which its graph does not use (B stays 0) and which other
    programs refuse as misshapen. Tensors are written in the order of their names: the library's own order is that of a
    hash table, which is another one after a resume. Reading the file also proves that it is whole.
    """
    header = open_gguf(source)
    architecture = header.entries.get("general.architecture")
    if architecture is None or not header.tensors:
        raise ModelError(f"{source.name} is not a whole adapter.")
    tensors = sorted((t for t in header.tensors if ".bias.lora_" not in t.name), key=lambda tensor: tensor.name)
    entries = [architecture, *(entry for entry in header.entries.values() if entry != architecture)]
    head, _ = make_header(
        (header.raw(entry) for entry in entries),
        ((tensor.name, tensor.shape, tensor.tensor_type, tensor.n_bytes) for tensor in tensors),
    )
    with target.open("wb") as file:
        file.write(head)
        for tensor in tensors:
            file.write(header.numbers(tensor).data)
            file.write(bytes(-tensor.n_bytes % ALIGNMENT))
