"""Random bases of any size with a vocabulary as large as a real one's, and a LoRA for each, written row by row."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from meton_plugins.finetune.engine.jobs import quantize  # noqa: E402

#: Qwen's vocabulary.
VOCABULARY: Final = 151_936
RANK: Final = 16
#: So many random numbers are drawn; every matrix is made of them. What they are changes no time and no memory.
DRAWN: Final = 1 << 20

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """A qwen3-shaped base whose head is its embedding."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Names and shapes (rows, columns), in the order of the file."""
        head = 64 if self.width < 1024 else 128
        yield "token_embd.weight", (VOCABULARY, self.width)
        for layer in range(self.layers):
            for name, shape in {
                "attn_norm": (self.width,),
                "attn_q": (self.heads * head, self.width),
                "attn_k": (self.kv_heads * head, self.width),
                "attn_v": (self.kv_heads * head, self.width),
                "attn_output": (self.width, self.heads * head),
                "attn_q_norm": (head,),
                "attn_k_norm": (head,),
                "ffn_norm": (self.width,),
                "ffn_gate": (self.inner, self.width),
                "ffn_up": (self.inner, self.width),
                "ffn_down": (self.width, self.inner),
            }.items():
                yield f"blk.{layer}.{name}.weight", shape
        yield "output_norm.weight", (self.width,)

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(shape)) for _, shape in self.tensors())

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor in F32."""
        return 4 * max(int(np.prod(shape)) for _, shape in self.tensors())


#: 0.4 has the same largest tensor as 0.1, and twelve times its layers.
SIZES: Final = {
    "0.1": Size(width=512, layers=8, heads=8, kv_heads=4, inner=1536),
    "0.4": Size(width=512, layers=96, heads=8, kv_heads=4, inner=1536),
    "0.5": Size(width=896, layers=24, heads=14, kv_heads=2, inner=4864),
    "1.2": Size(width=2048, layers=18, heads=16, kv_heads=8, inner=6144),
}


def make_base(path: Path, size: Size, kind: str) -> Path:
    """Write a base of type `kind` (f16 or one of the engine's) to `path`, where it is not yet; `path`."""
    if path.exists():
        return path
    half = path if kind == "f16" else path.with_suffix(".half")
    writer = GGUFWriter(half, "qwen3")
    _describe(writer, size)
    _write(writer, dict(size.tensors()), np.float16)
    if kind != "f16":
        quantize(half, path, kind)
        half.unlink()
    return path


def make_adapter(path: Path, size: Size) -> Path:
    """Write a LoRA on all projections to `path`, where it is not yet; `path`."""
    if path.exists():
        return path
    writer = GGUFWriter(path, "qwen3")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0 * RANK)
    factors: dict[str, Shape] = {}
    for name, shape in size.tensors():
        if name.startswith("blk.") and len(shape) == 2:
            factors[f"{name}.lora_a"] = (RANK, shape[1])
            factors[f"{name}.lora_b"] = (shape[0], RANK)
    _write(writer, factors, np.float32)
    return path


def _describe(writer: GGUFWriter, size: Size) -> None:
    writer.add_name("random")
    writer.add_context_length(32_768)
    writer.add_embedding_length(size.width)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.inner)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_key_length(64 if size.width < 1024 else 128)
    writer.add_value_length(64 if size.width < 1024 else 128)
    writer.add_file_type(1)
    # As long as a real vocabulary's; nothing is ever said in it.
    words = [f"w{number}" for number in range(VOCABULARY)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words)
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges([f"w {number}" for number in range(VOCABULARY - 500)])


def _write(writer: GGUFWriter, shapes: dict[str, Shape], numbers: Any) -> None:
    """All tensors, each made of the same random numbers: matrices of the type `numbers`, the rest ones in F32."""
    kinds = {np.float16: GGMLQuantizationType.F16, np.float32: GGMLQuantizationType.F32}
    drawn = (np.random.default_rng(0).standard_normal(DRAWN, dtype=np.float32) * np.float32(0.02)).astype(numbers)
    for name, shape in shapes.items():
        kind: Any = numbers if len(shape) > 1 else np.float32
        writer.add_tensor_info(name, shape, np.dtype(kind), int(np.prod(shape)) * np.dtype(kind).itemsize, kinds[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for shape in shapes.values():
        writer.write_tensor_data(np.resize(drawn, shape) if len(shape) > 1 else np.ones(shape, np.float32))
    writer.close()
