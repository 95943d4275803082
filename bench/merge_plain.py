"""The merge that one writes who does not think of memory: all tensors whole, in NumPy, with the gguf package alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write `base` with `adapter` merged in, in F16, to `out`."""
    source, lora = GGUFReader(base), GGUFReader(adapter)
    factors = {t.name: np.array(t.data) for t in lora.tensors}
    alpha = float(lora.get_field("adapter.lora.alpha").contents())
    writer = GGUFWriter(out, source.get_field("general.architecture").contents())
    for key, field in source.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    writer.add_file_type(1)
    for tensor in source.tensors:
        weight = np.array(dequantize(tensor.data, tensor.tensor_type))
        if f"{tensor.name}.lora_a" in factors:
            a, b = factors[f"{tensor.name}.lora_a"], factors[f"{tensor.name}.lora_b"]
            weight += alpha / len(a) * (b @ a)
        writer.add_tensor(tensor.name, weight.astype(np.float16) if weight.ndim > 1 else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    handle = os.open(out, os.O_RDWR)
    os.fsync(handle)
    os.close(handle)
