"""A context of a model with an adapter that can be trained: made new, read from a file, written to one."""

from __future__ import annotations

import ctypes as C
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from ..settings import PROJECTIONS
from .abi import LoraParams
from .model import Model, attach

__all__ = ["AdaptedContext", "Adapter"]

#: Bits of llama_lora_target_module, in the order of settings.PROJECTIONS.
TARGET_BITS: Final = {name: 1 << bit for bit, name in enumerate(PROJECTIONS)}
#: Standard deviation of the adapter's first weights, the library's own default.
INIT_STD: Final = 0.02


class Adapter:
    """How to begin: new weights of a rank, scale and seed, or those of a file."""

    def __init__(
        self, *, rank: int = 16, alpha: float = 32, targets: Sequence[str] = PROJECTIONS, seed: int = 42,
        file: Path | None = None,
    ) -> None:  # fmt: skip
        self.rank, self.alpha, self.targets, self.seed, self.file = rank, alpha, tuple(targets), seed, file


class AdaptedContext:
    """The library's context, `n_ctx` tokens long, which calls `on_eval` (an EVAL_CALLBACK) about every node."""

    def __init__(self, model: Model, n_ctx: int, threads: int, adapter: Adapter, on_eval: Any) -> None:
        self.model, self.library = model, model.library
        self._on_eval = on_eval  # must outlive the context that calls it
        self.handle = self._open(n_ctx, threads)
        self.n_ctx = int(self.library.llama_n_ctx(self.handle))
        self._apply_threads()
        self.adapter = attach(model, self.handle, adapter.file) if adapter.file else self._new_adapter(adapter)

    def close(self) -> None:
        """Free the context; the adapter stays with the model."""
        self.library.llama_free(self.handle)

    def save(self, path: Path) -> None:
        """Write the adapter as GGUF to `path`."""
        if not self.library.llama_lora_save_adapter(self.adapter, str(path).encode(), self.model.handle):
            raise EngineError(
                f"The adapter could not be written to {path}: if the disk is full, make room, then resume."
            )

    def logits(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """[n, vocabulary] of what follows each of `tokens` [n], read as a text of their own."""
        library, count = self.library, len(tokens)
        library.llama_memory_clear(library.llama_get_memory(self.handle), True)
        with self.model.batch(tokens) as batch:
            if library.llama_decode(self.handle, batch):
                raise EngineError(f"The engine could not read {count} tokens.")
        rows = [library.llama_get_logits_ith(self.handle, place) for place in range(count)]
        found = [np.ctypeslib.as_array(row, shape=(self.model.size,)).copy() for row in rows]
        library.llama_memory_clear(library.llama_get_memory(self.handle), True)
        return np.stack(found)

    def _open(self, n_ctx: int, threads: int) -> int:
        params = self.library.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 0  # has no backward pass: aborts, also as "auto"
        params.type_k = params.type_v = 0
        params.training = True
        params.cb_eval = C.cast(self._on_eval, C.c_void_p).value
        handle = self.library.llama_init_from_model(self.model.handle, params)
        if not handle:
            raise EngineError(f"The engine has no memory for rows of {n_ctx} tokens: use a smaller --ctx-size.")
        return int(handle)

    def _apply_threads(self) -> None:
        # The thread counts of a context take effect with its first decode; training alone never applies them.
        token = (C.c_int32 * 1)(max(self.model.bos or 0, 0))
        if self.library.llama_decode(self.handle, self.library.llama_batch_get_one(token, 1)):
            raise EngineError(f"The engine cannot run this model ({self.library.complaint}): use another base.")
        self.library.llama_memory_clear(self.library.llama_get_memory(self.handle), True)

    def _new_adapter(self, adapter: Adapter) -> int:
        params = LoraParams(
            target_modules=sum(TARGET_BITS[name] for name in adapter.targets),
            rank=adapter.rank,
            alpha=adapter.alpha,
            dropout=0.0,
            init_std=INIT_STD,
            seed=adapter.seed or 2**32 - 1,  # to the library, 0 means another seed every time
        )
        handle = self.library.llama_lora_training_init(self.handle, self.model.handle, C.byref(params))
        if not handle:
            raise EngineError(
                f"The engine cannot make an adapter for this base ({self.library.complaint}): use another."
            )
        return int(handle)
