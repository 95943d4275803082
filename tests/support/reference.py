"""llama, qwen2 and qwen3 with a LoRA in float64 NumPy, from their published definitions: the engine is held against it.

Weights are dequantized; nothing of the engine's library is used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, quants

__all__ = ["Reference"]

Array = npt.NDArray[np.float64]


class Reference:
    """A base read from its GGUF. `lora`: flat factors by tensor name, as in the engine; `scale` is alpha / rank."""

    def __init__(self, base: Path, rank: int, scale: float) -> None:
        reader = GGUFReader(base)

        def value(key: str) -> float:
            field = reader.get_field(key)
            assert field is not None, key
            return float(field.contents())

        self.architecture = str(reader.get_field("general.architecture").contents())  # type: ignore[union-attr]
        name = self.architecture
        self.layers = int(value(f"{name}.block_count"))
        self.heads = int(value(f"{name}.attention.head_count"))
        self.kv_heads = int(value(f"{name}.attention.head_count_kv"))
        self.epsilon = value(f"{name}.attention.layer_norm_rms_epsilon")
        self.theta = value(f"{name}.rope.freq_base")
        self.weights: dict[str, Array] = {
            t.name: quants.dequantize(t.data, t.tensor_type).astype(np.float64).reshape(t.shape.tolist()[::-1])
            for t in reader.tensors
        }
        self.rank, self.scale = rank, scale

    def losses(self, tokens: npt.NDArray[np.int32], lora: dict[str, Array]) -> Array:
        """Loss in nats of each of tokens[1:], [n]."""
        logits = self.logits(tokens[:-1], lora)
        logits = logits - logits.max(axis=1, keepdims=True)
        picked = logits[np.arange(len(logits)), tokens[1:]]
        losses: Array = np.log(np.exp(logits).sum(axis=1)) - picked
        return losses

    def logits(self, tokens: npt.NDArray[np.int32], lora: dict[str, Array]) -> Array:
        """Logits [tokens, vocabulary]."""
        x = self.weights["token_embd.weight"][tokens]
        for layer in range(self.layers):
            block = f"blk.{layer}."
            x = x + self._attention(block, self._norm(x, f"{block}attn_norm.weight"), lora)
            h = self._norm(x, f"{block}ffn_norm.weight")
            gate = self._linear(f"{block}ffn_gate", h, lora)
            x = x + self._linear(
                f"{block}ffn_down", gate / (1 + np.exp(-gate)) * self._linear(f"{block}ffn_up", h, lora), lora
            )
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        logits: Array = self._norm(x, "output_norm.weight") @ head.T
        return logits

    def _norm(self, x: Array, name: str) -> Array:
        scaled: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon) * self.weights[name]
        return scaled

    def _linear(self, name: str, x: Array, lora: dict[str, Array]) -> Array:
        weight = self.weights[f"{name}.weight"]
        y: Array = x @ weight.T
        a = lora.get(f"{name}.weight.lora_a")
        if a is not None:
            b = lora[f"{name}.weight.lora_b"].reshape(weight.shape[0], self.rank)
            y = y + self.scale * (x @ a.reshape(self.rank, weight.shape[1]).T) @ b.T
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else y + bias

    def _attention(self, block: str, x: Array, lora: dict[str, Array]) -> Array:
        count = len(x)
        q = self._linear(f"{block}attn_q", x, lora).reshape(count, self.heads, -1)
        k = self._linear(f"{block}attn_k", x, lora).reshape(count, self.kv_heads, -1)
        v = self._linear(f"{block}attn_v", x, lora).reshape(count, self.kv_heads, -1)
        if self.architecture == "qwen3":
            q, k = self._norm(q, f"{block}attn_q_norm.weight"), self._norm(k, f"{block}attn_k_norm.weight")
        q, k = self._rotate(q), self._rotate(k)
        group = self.heads // self.kv_heads
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
        scores = np.where(np.tril(np.ones((count, count), dtype=bool)), scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        return self._linear(f"{block}attn_output", np.einsum("hqk,khd->qhd", scores, v).reshape(count, -1), lora)

    def _rotate(self, x: Array) -> Array:
        half = x.shape[-1] // 2
        angle = np.arange(len(x))[:, None] * self.theta ** (-np.arange(half) / half)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        # llama's GGUFs turn neighbours, the Qwen ones turn halves.
        first, second = (x[..., 0::2], x[..., 1::2]) if self.architecture == "llama" else (x[..., :half], x[..., half:])
        turned = (first * cos - second * sin, first * sin + second * cos)
        if self.architecture == "llama":
            return np.stack(turned, axis=-1).reshape(x.shape)
        return np.concatenate(turned, axis=-1)
