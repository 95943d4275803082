"""A base loaded into the engine: its tokenizer, and greedy answers."""

from __future__ import annotations

import contextlib
import ctypes as C
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from .abi import Batch
from .gpu import find_device
from .library import Library

__all__ = ["Decoder", "Model"]


class Model:
    """A GGUF in memory, `gpu_layers` of it on the GPU. A context manager; a `gguf.tokenizer.Tokenizer`."""

    def __init__(self, library: Library, path: Path, *, vocab_only: bool = False, gpu_layers: int = 0) -> None:
        self.library = library
        self.gpu_layers = gpu_layers
        params = library.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if gpu_layers:  # one device: training over several was never tried
            devices = (C.c_void_p * 2)(find_device(library).handle, None)
            params.devices = C.addressof(devices)
        params.load_mode = 0  # read, not mapped: a file that changes under a map kills the process
        params.use_extra_bufts = False  # repacked weights train wrongly, without an error
        params.vocab_only = vocab_only
        self.handle = library.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise EngineError(f"The engine cannot load {path.name} ({library.complaint}): use another version of it.")
        self.vocab = library.llama_model_get_vocab(self.handle)
        self.size: int = library.llama_vocab_n_tokens(self.vocab)
        bos = library.llama_vocab_bos(self.vocab)
        self._bos = bos if bos >= 0 and library.llama_vocab_get_add_bos(self.vocab) else None
        self.piece = lru_cache(maxsize=65536)(self._piece)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the weights."""
        if self.handle:
            self.library.llama_model_free(self.handle)
            self.handle = None

    @property
    def bos(self) -> int | None:
        """The token put before every text, or None."""
        return self._bos

    def encode(self, text: str, *, start: bool) -> list[int]:
        """Token ids of `text`; special tokens written in it are recognised, as the server does."""
        raw = text.encode()
        room = len(raw) + 8
        buffer = (C.c_int32 * room)()
        count = self.library.llama_tokenize(self.vocab, raw, len(raw), buffer, room, start, True)
        if count < 0:
            raise EngineError("The engine cannot tokenize a text of this length.")
        return list(buffer[:count])

    @contextlib.contextmanager
    def batch(self, tokens: npt.NDArray[np.int32]) -> Iterator[Batch]:
        """`tokens` as a text of their own to decode, with the logits of every one."""
        batch = self.library.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens.tolist()):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
                batch.seq_id[i][0] = 0
            yield batch
        finally:
            self.library.llama_batch_free(batch)

    def _piece(self, token: int) -> bytes:
        for room in (64, 4096):
            buffer = C.create_string_buffer(room)
            count = self.library.llama_token_to_piece(self.vocab, token, buffer, room, 0, True)
            if count >= 0:
                return bytes(buffer.raw[:count])
        raise EngineError(f"The engine cannot spell token {token}.")

    def is_end(self, token: int) -> bool:
        """Whether generation stops at `token`."""
        return bool(self.library.llama_vocab_is_eog(self.vocab, token))

    def is_special(self, token: int) -> bool:
        """Whether `token` is a control token."""
        return bool(self.library.llama_vocab_is_control(self.vocab, token))

    def text(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`."""
        return b"".join(self.piece(t) for t in tokens).decode("utf-8", "replace")


class Decoder:
    """A context for reading and speaking, `n_ctx` tokens long, with an adapter if one is given. A context manager.

    `batch`: tokens read at a time, all of the context by default. Memory grows with batch times context.
    """

    def __init__(
        self, model: Model, n_ctx: int, threads: int, adapter: Path | None = None, batch: int | None = None
    ) -> None:
        self.model = model
        library = model.library
        self.batch = min(batch or n_ctx, n_ctx)
        params = library.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = self.batch
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 0
        params.type_k = params.type_v = 0
        self.handle = library.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise EngineError(f"The engine has no memory for a context of {n_ctx} tokens: use a smaller one.")
        if adapter is not None:
            attach(model, self.handle, adapter)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.model.library.llama_free(self.handle)

    def forget(self) -> None:
        """Start a new text."""
        self.model.library.llama_memory_clear(self.model.library.llama_get_memory(self.handle), True)

    def back_to(self, length: int) -> None:
        """Forget all but the first `length` tokens: what they cost is not paid again."""
        memory = self.model.library.llama_get_memory(self.handle)
        if not self.model.library.llama_memory_seq_rm(memory, 0, length, -1):
            raise EngineError("The engine cannot keep the beginning of a text: this base's memory has no parts.")

    def read(self, tokens: Sequence[int], progress: Callable[[int], None] | None = None) -> npt.NDArray[np.float32]:
        """Go on with `tokens`; logits [vocabulary] of what comes next. `progress(tokens read so far)`."""
        for start in range(0, len(tokens), self.batch):
            part = tokens[start : start + self.batch]
            array = (C.c_int32 * len(part))(*part)
            batch = self.model.library.llama_batch_get_one(array, len(part))
            code = self.model.library.llama_decode(self.handle, batch)
            if code:
                raise EngineError(f"The engine could not read {len(tokens)} tokens (code {code}).")
            if progress:
                progress(start + len(part))
        logits = self.model.library.llama_get_logits_ith(self.handle, -1)
        found: npt.NDArray[np.float32] = np.ctypeslib.as_array(logits, shape=(self.model.size,))
        return np.array(found, dtype=np.float32)

    def losses(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """Loss in nats of each of tokens[1:] after those before it, [n]: the text read anew, all at once."""
        self.forget()
        count = len(tokens) - 1
        library = self.model.library
        with self.model.batch(tokens[:-1]) as batch:
            if library.llama_decode(self.handle, batch):
                raise EngineError(f"The engine could not read {count} tokens.")
        out = np.empty(count, dtype=np.float64)
        for i in range(count):
            pointer = library.llama_get_logits_ith(self.handle, i)
            logits = np.ctypeslib.as_array(pointer, shape=(self.model.size,)).astype(np.float64)
            logits -= logits.max()
            out[i] = np.log(np.exp(logits).sum()) - logits[tokens[i + 1]]
        return out

    def speak(self, prompt: Sequence[int], limit: int) -> Iterator[int]:
        """The likeliest tokens after `prompt`, up to the first end token or `limit`."""
        logits = self.read(prompt)
        for _ in range(limit):
            token = int(logits.argmax())
            if self.model.is_end(token):
                return
            yield token
            logits = self.read([token])


def attach(model: Model, context: int, adapter: Path) -> int:
    """Load `adapter` and give it to `context` at full scale; its handle."""
    library = model.library
    handle = library.llama_adapter_lora_init(model.handle, str(adapter).encode())
    if not handle:
        raise EngineError(f"The adapter {adapter.name} does not fit this base: name the base that it was trained on.")
    handles, scales = (C.c_void_p * 1)(handle), (C.c_float * 1)(1.0)
    if library.llama_set_adapters_lora(context, handles, 1, scales):
        raise EngineError(f"The engine refuses the adapter {adapter.name}.")
    return int(handle)
