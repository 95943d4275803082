"""The types that a GGUF can be quantized to."""

from __future__ import annotations

from typing import Final

__all__ = ["FILE_TYPES", "QUANTIZATIONS"]

#: llama_ftype by the name that users type, smallest file last.
FILE_TYPES: Final = {
    "f16": 1, "q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q5_k_s": 16, "q5_0": 8, "q4_k_m": 15, "q4_k_s": 14, "q4_0": 2,
    "q3_k_l": 13, "q3_k_m": 12, "q3_k_s": 11, "q2_k": 10,
}  # fmt: skip

#: What an export can be written as: the base's own types, or one of these.
QUANTIZATIONS: Final = ("base", *FILE_TYPES)
