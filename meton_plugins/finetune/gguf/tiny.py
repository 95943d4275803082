"""A tiny base with random weights, made on the spot: to prove the engine, for the demo and for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from .chat_template import BUILT_IN

__all__ = ["SPECIAL", "TinyShape", "byte_letters", "make_tiny"]

SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class TinyShape:
    """Size of the base: `width` is divided among `heads`; `seed` decides the weights."""

    architecture: str = "qwen2"
    width: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    inner: int = 128
    context: int = 2048
    tied: bool = False
    seed: int = 0


def byte_letters() -> list[str]:
    """The 256 letters that byte-level BPE writes bytes with (GPT-2's table), by byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, spare = {}, 256
    for byte in range(256):
        if byte in plain:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(spare)
            spare += 1
    return [letters[byte] for byte in range(256)]


def make_tiny(
    path: Path,
    shape: TinyShape = TinyShape(),
    *,
    merges: Sequence[tuple[str, str]] = (("t", "h"),),
    pieces: Sequence[tuple[str, float]] | None = None,
    half: bool = False,
    chat_template: str | None = BUILT_IN["chatml"],
) -> Path:
    """Write a base to `path`: byte-level BPE with `merges`, or SentencePiece with `pieces` (text and score).

    Matrices are F32, or F16 with `half`. Returns `path`.
    """
    import gguf

    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name("tiny")
    writer.add_license("MIT")
    head = shape.width // shape.heads
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_file_type(1 if half else 0)
    vocabulary = _sentencepiece(writer, pieces) if pieces is not None else _byte_level(writer, merges)
    writer.add_vocab_size(vocabulary)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for name, values in _weights(shape, vocabulary):
        writer.add_tensor(name, values.astype(np.float16) if half and values.ndim == 2 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _byte_level(writer: object, merges: Sequence[tuple[str, str]]) -> int:
    import gguf

    assert isinstance(writer, gguf.GGUFWriter)
    # A dict, because a vocabulary of 150,000 would take minutes in a list.
    spelled = dict.fromkeys([*byte_letters(), *(left + right for left, right in merges)])
    tokens = [*spelled, *SPECIAL]
    types = [gguf.TokenType.NORMAL] * len(spelled) + [gguf.TokenType.CONTROL] * len(SPECIAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    return len(tokens)


def _sentencepiece(writer: object, pieces: Sequence[tuple[str, float]]) -> int:
    import gguf

    assert isinstance(writer, gguf.GGUFWriter)
    kinds = gguf.TokenType
    table: list[tuple[str, float, int]] = [("<unk>", 0.0, kinds.UNKNOWN), ("<s>", 0.0, kinds.CONTROL)]
    table += [("</s>", 0.0, kinds.CONTROL)]
    table += [(f"<0x{byte:02X}>", 0.0, kinds.BYTE) for byte in range(256)]
    table += [(text, score, kinds.NORMAL) for text, score in pieces]
    table += [(text, 0.0, kinds.CONTROL) for text in SPECIAL]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _, _ in table])
    writer.add_token_scores([score for _, score, _ in table])
    writer.add_token_types([kind for _, _, kind in table])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    return len(table)


def _weights(shape: TinyShape, vocabulary: int) -> list[tuple[str, npt.NDArray[np.float32]]]:
    random = np.random.default_rng(shape.seed)
    head = shape.width // shape.heads

    def matrix(rows: int, columns: int, spread: float | None = None) -> npt.NDArray[np.float32]:
        drawn: npt.NDArray[np.float32] = random.standard_normal((rows, columns), dtype=np.float32)
        drawn *= np.float32(spread or columns**-0.5)
        return drawn

    def ones(count: int) -> npt.NDArray[np.float32]:
        return np.ones(count, dtype=np.float32)

    made = [("token_embd.weight", matrix(vocabulary, shape.width, 0.02 if shape.tied else 0.5))]
    sizes = {"attn_q": shape.heads * head, "attn_k": shape.kv_heads * head, "attn_v": shape.kv_heads * head}
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        made.append((f"{prefix}attn_norm.weight", ones(shape.width)))
        made.append((f"{prefix}ffn_norm.weight", ones(shape.width)))
        for name, rows in sizes.items():
            made.append((f"{prefix}{name}.weight", matrix(rows, shape.width)))
            if shape.architecture == "qwen2":
                made.append((f"{prefix}{name}.bias", matrix(1, rows, 0.02)[0]))
        if shape.architecture == "qwen3":
            made.append((f"{prefix}attn_q_norm.weight", ones(head)))
            made.append((f"{prefix}attn_k_norm.weight", ones(head)))
        made.append((f"{prefix}attn_output.weight", matrix(shape.width, shape.heads * head)))
        made.append((f"{prefix}ffn_gate.weight", matrix(shape.inner, shape.width)))
        made.append((f"{prefix}ffn_up.weight", matrix(shape.inner, shape.width)))
        made.append((f"{prefix}ffn_down.weight", matrix(shape.width, shape.inner)))
    made.append(("output_norm.weight", ones(shape.width)))
    if not shape.tied:
        made.append(("output.weight", matrix(vocabulary, shape.width)))
    return made
