"""LoRA adapters as GGUF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ModelError
from .full_disk import plain_errors
from .inspect import open_gguf

__all__ = ["tidy"]


def tidy(source: Path, target: Path) -> None:
    """Copy the adapter `source` to `target` without the parts that were never trained.

    The library gives biases a factor pair of their own, which its graph does not use (B stays 0) and which other
    programs refuse as misshapen. Tensors are written in the order of their names: the library's own order is that of a
    hash table, which is another one after a resume. Reading the file also proves that it is whole.
    """
    import gguf

    reader = open_gguf(source)
    architecture = reader.get_field("general.architecture")
    if architecture is None or not reader.tensors:
        raise ModelError(f"{source.name} is not a whole adapter.")
    writer = gguf.GGUFWriter(target, str(architecture.contents()))
    try:
        for key, field in reader.fields.items():
            if not key.startswith("GGUF.") and key != "general.architecture":
                writer.add_key_value(key, field.contents(), field.types[0])
        for tensor in sorted(reader.tensors, key=lambda tensor: tensor.name):
            if ".bias.lora_" not in tensor.name:
                writer.add_tensor(tensor.name, np.array(tensor.data))
        with plain_errors(target):
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
    finally:
        writer.close()
