"""Loss and gradient of one row at a time, at its exact length, from the engine's own training graph.

Two defects of the library make its optimizer train wrongly without an error (gradients are never zeroed, and
`use_extra_bufts`, see `Model`). Here its optimizer steps are turned into no-ops as the graph runs, the gradients are
read from their accumulators and zeroed, and `adamw.AdamW` does the stepping.
"""

from __future__ import annotations

import ctypes as C
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from ..settings import PROJECTIONS
from .abi import EPOCH_CALLBACK, EVAL_CALLBACK, LoraParams
from .model import Model, attach
from .tensor import Place, at

__all__ = ["Adapter", "Array", "Gradients", "RowTrainer"]

Array = npt.NDArray[np.float32]
#: Tensor name to array.
Gradients = dict[str, Array]

#: Bits of llama_lora_target_module, in the order of settings.PROJECTIONS.
TARGET_BITS: Final = {name: 1 << bit for bit, name in enumerate(PROJECTIONS)}
#: GGML_TYPE_I32.
I32: Final = 26
#: What the library calls the gradient of a tensor.
GRADIENT: Final = b"grad for "
#: Between a device's name, the name of a tensor of another device that is copied to it, and a number.
COPY: Final = b"#"
#: Standard deviation of the adapter's first weights, the library's own default.
INIT_STD: Final = 0.02


class Adapter:
    """How to begin: new weights of a rank, scale and seed, or those of a file."""

    def __init__(
        self, *, rank: int = 16, alpha: float = 32, targets: Sequence[str] = PROJECTIONS, seed: int = 42,
        file: Path | None = None,
    ) -> None:  # fmt: skip
        self.rank, self.alpha, self.targets, self.seed, self.file = rank, alpha, tuple(targets), seed, file


class RowTrainer:
    """The training context of a model and its adapter. A context manager; one at a time on a model."""

    def __init__(self, model: Model, n_ctx: int, threads: int, adapter: Adapter) -> None:
        self.model = model
        self.library = model.library
        self._adamw_op = self.library.op("OPT_STEP_ADAMW")
        self._steps: list[tuple[int, int]] = []
        #: With a GPU: where each gradient is added up, by name.
        self._sums: dict[bytes, int] = {}
        self._weights: dict[str, Array] = {}
        #: Those of `_weights` that lie on a GPU.
        self._away: dict[str, Place] = {}
        self._gradients: Gradients = {}
        self._loss = float("nan")
        self._ready = False
        # Bound methods must outlive the context that calls them.
        self._on_eval = EVAL_CALLBACK(self._eval)
        self._on_epoch = EPOCH_CALLBACK(self._epoch)
        self.handle = self._context(n_ctx, threads)
        self.n_ctx = int(self.library.llama_n_ctx(self.handle))
        self._apply_threads()
        self.adapter = attach(model, self.handle, adapter.file) if adapter.file else self._new_adapter(adapter)
        self._dataset = self.library.ggml_opt_dataset_init_with_masks(
            I32, I32, I32, self.n_ctx, self.n_ctx, self.n_ctx, 1, 1
        )
        parts = ("ggml_opt_dataset_data", "ggml_opt_dataset_labels", "ggml_opt_dataset_masks")
        self._tokens, self._labels, self._masks = (
            np.ctypeslib.as_array(
                (C.c_int32 * self.n_ctx).from_address(
                    self.library.ggml_get_data(getattr(self.library, part)(self._dataset))
                )
            )
            for part in parts
        )
        self._result_train = self.library.ggml_opt_result_init()
        self._result_eval = self.library.ggml_opt_result_init()
        self._constant = self.library.ggml_opt_get_default_optimizer_params(None)

    def __enter__(self) -> RowTrainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ready:
            self.library.llama_opt_cleanup(self.handle)
        self.library.ggml_opt_result_free(self._result_train)
        self.library.ggml_opt_result_free(self._result_eval)
        self.library.ggml_opt_dataset_free(self._dataset)
        self.library.llama_free(self.handle)

    def _context(self, n_ctx: int, threads: int) -> int:
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

    def loss(self, tokens: npt.NDArray[np.int32], trained: npt.NDArray[np.bool_]) -> float:
        """Mean loss in nats over the learned tokens of one row; `tokens` and `trained` as in `gguf.rows.Row`."""
        self._run(tokens, trained, train=False)
        return self._loss

    def gradients(self, tokens: npt.NDArray[np.int32], trained: npt.NDArray[np.bool_]) -> tuple[float, Gradients]:
        """Loss as above, and its gradient for every adapter tensor, flat. Arrays are copies and the caller's own."""
        self._run(tokens, trained, train=True)
        if not self._gradients:
            raise EngineError("The engine computed no gradient: its training graph is not the one that was tested.")
        return self._loss, self._gradients

    def weights(self) -> dict[str, Array]:
        """The adapter's tensors, flat: writing into them changes the adapter. Known after one gradient."""
        return self._weights

    def save(self, path: Path) -> None:
        """Write the adapter as GGUF to `path`."""
        self._send()
        if not self.library.llama_lora_save_adapter(self.adapter, str(path).encode(), self.model.handle):
            raise EngineError(
                f"The adapter could not be written to {path}: if the disk is full, make room, then resume."
            )

    def _run(self, tokens: npt.NDArray[np.int32], trained: npt.NDArray[np.bool_], *, train: bool) -> None:
        length = len(tokens) - 1
        if not 1 <= length <= self.n_ctx:
            raise EngineError(f"A row of {length} tokens does not fit a context of {self.n_ctx}.")
        self._send()
        self._set_length(length)
        self._tokens[:length], self._tokens[length:] = tokens[:-1], 0
        self._labels[:length], self._labels[length:] = tokens[1:], 0
        self._masks[:length], self._masks[length:] = trained[1:], 0
        self._steps.clear()
        self._sums.clear()
        self._gradients = {}
        self.library.llama_opt_epoch(
            self.handle,
            self._dataset,
            self._result_train,
            self._result_eval,
            int(train),
            self._on_epoch,
            self._on_epoch,
        )

    def _send(self) -> None:
        # Whoever got the weights may have changed them at any time since.
        for name, place in self._away.items():
            place.put(self._weights[name])

    def _set_length(self, length: int) -> None:
        # The length belongs to the model, so the optimizer context is made anew for each row (0.1 ms).
        if self._ready:
            self.library.llama_opt_cleanup(self.handle)
        params = self.library.llama_opt_default_params()
        params.n_ctx_train = length
        params.param_filter = _address(self.library.llama_opt_param_filter_lora)
        params.get_opt_pars = _address(self.library.ggml_opt_get_constant_optimizer_params)
        params.get_opt_pars_ud = C.addressof(self._constant)
        params.optimizer_type = 0
        params.assistant_loss_only = True
        self.library.llama_opt_init(self.handle, self.model.handle, params)
        self._ready = True

    def _eval(self, node: int, ask: bool, _user: Any) -> bool:
        if ask:
            tensor = at(node)
            if tensor.op == self._adamw_op:
                self._steps.append((tensor.src[0], tensor.src[1]))
                tensor.op = 0
            elif self.model.gpu_layers and tensor.view_src and tensor.name.startswith(GRADIENT):
                self._sums[tensor.name] = node
        return False

    def _sum(self, gradient: int) -> int:
        # Where weight and gradient lie on two devices, the step sees a copy: its memory has long been used for other
        # things, and zeroing it leaves the sum as it is.
        _, copied, rest = at(gradient).name.partition(COPY)
        if not copied:
            return gradient
        found = self._sums.get(rest.rpartition(COPY)[0])
        if found is None:
            raise EngineError("A gradient on the GPU cannot be found: train with --gpu-layers 0.")
        return found

    def _epoch(self, train: bool, _o: Any, _d: Any, result: int, _i: int, _n: int, _t: int) -> None:
        try:
            value, spread = C.c_double(), C.c_double()
            self.library.ggml_opt_result_loss(result, C.byref(value), C.byref(spread))
            self.library.ggml_opt_result_reset(result)
            self._loss = value.value
            if train:
                for weight, gradient in self._steps:
                    tensor = at(weight)
                    name = tensor.name.decode()
                    # Zeroed as it is taken: the library adds to it for ever.
                    self._gradients[name] = Place(self.library, at(self._sum(gradient))).take()
                    if name not in self._weights:
                        place = Place(self.library, tensor)
                        self._weights[name] = place.values()
                        if not place.on_host:
                            self._away[name] = place
        except BaseException:  # an exception cannot cross C; going on would train on rubbish
            traceback.print_exc(file=sys.stderr)
            os._exit(70)


def _address(function: Any) -> int | None:
    return C.cast(function, C.c_void_p).value
