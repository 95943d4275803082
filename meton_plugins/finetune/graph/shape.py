"""What the pass must know of a base beside its weights, and whether it is a base that the pass computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Shape", "Unsupported", "shape_of"]


class Unsupported(Exception):
    """This base holds something that the pass does not compute; the text says what, to follow "because"."""


#: Rotary positions turn neighbours (0, 1), (2, 3), … in llama, halves (0, n/2), (1, n/2 + 1), … in the others.
NEIGHBOURS: Final = {"llama": True, "qwen2": False, "qwen3": False}

#: Keys below the architecture's name that are understood here, or that change nothing of what is computed.
KEYS: Final = frozenset({
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count", "rope.scaling.type",
    "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned",
})  # fmt: skip

#: Tensors outside of the blocks.
OUTSIDE: Final = frozenset({"token_embd.weight", "output.weight", "output_norm.weight", "rope_freqs.weight"})
MATRICES: Final = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORMS: Final = ("attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm")
BIASES: Final = ("attn_q", "attn_k", "attn_v", "attn_output")
WITHIN: Final = frozenset({f"{name}.weight" for name in (*MATRICES, *NORMS)} | {f"{name}.bias" for name in BIASES})


@dataclass(frozen=True)
class Shape:
    """Sizes in numbers: `width` of a token, `heads` · `head` of its queries, `kv_heads` · `head` of keys and of
    values, `inner` of the feed-forward part."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int
    epsilon: float
    rope_base: float
    #: Positions are divided by it.
    rope_factor: float
    neighbours: bool
    #: Weights in all.
    parameters: int


def shape_of(architecture: str, values: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]) -> Shape:
    """The shape of a base. `values`: its metadata by key; `tensors`: the sizes of each, rows first.

    Unsupported where it has a key or a tensor that is not known here: computing as if it were not there would be wrong
    without an error.
    """
    if architecture not in NEIGHBOURS:
        raise Unsupported(f"the architecture is {architecture}")
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
    strange = sorted(set(own) - KEYS)
    if strange:
        raise Unsupported(f"it says {prefix}{strange[0]}")
    for name in tensors:
        if name not in OUTSIDE and not (name.startswith("blk.") and name.split(".", 2)[-1] in WITHIN):
            raise Unsupported(f"it holds the tensor {name}")
    scaling = own.get("rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise Unsupported(f"its positions are scaled by {scaling}")
    try:
        width, heads = int(own["embedding_length"]), int(own["attention.head_count"])
        head = int(own.get("attention.key_length", width // heads))
        shape = Shape(
            layers=int(own["block_count"]), width=width, heads=heads,
            kv_heads=int(own.get("attention.head_count_kv", heads)), head=head, inner=int(own["feed_forward_length"]),
            vocabulary=tensors["token_embd.weight"][0], epsilon=float(own["attention.layer_norm_rms_epsilon"]),
            rope_base=float(own.get("rope.freq_base", 10000.0)),
            rope_factor=float(own.get("rope.scaling.factor", 1.0)) if scaling == "linear" else 1.0,
            neighbours=NEIGHBOURS[architecture], parameters=sum(math.prod(size) for size in tensors.values()),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise Unsupported(f"its description is not as expected ({error})") from error
    _check(shape, own, tensors)
    return shape


def _check(shape: Shape, own: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]) -> None:
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    same = own.get("attention.value_length", shape.head), own.get("rope.dimension_count", shape.head)
    if any(int(each) != shape.head for each in same) or shape.head % 2 or shape.heads % shape.kv_heads:
        raise Unsupported("its heads are of several sizes")
    sizes = {
        "attn_q": (queries, shape.width), "attn_k": (keys, shape.width), "attn_v": (keys, shape.width),
        "attn_output": (shape.width, queries), "ffn_gate": (shape.inner, shape.width),
        "ffn_up": (shape.inner, shape.width), "ffn_down": (shape.width, shape.inner),
    }  # fmt: skip
    for layer in range(shape.layers):
        for name, size in sizes.items():
            if tensors.get(f"blk.{layer}.{name}.weight") != size:
                raise Unsupported(f"blk.{layer}.{name}.weight is not {size[0]} x {size[1]}")
