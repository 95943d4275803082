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
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import EngineError
from ..gguf.rows import Row
from .abi import EPOCH_CALLBACK, EVAL_CALLBACK
from .adapted import AdaptedContext, Adapter
from .model import Model
from .tensor import Place, at

__all__ = ["Adapter", "Array", "Gradients", "RowTrainer", "Trainer"]

Array = npt.NDArray[np.float32]
#: Tensor name to array.
Gradients = dict[str, Array]

#: GGML_TYPE_I32.
I32: Final = 26
#: What the library calls the gradient of a tensor.
GRADIENT: Final = b"grad for "
#: Between a device's name, the name of a tensor of another device that is copied to it, and a number.
COPY: Final = b"#"


class Trainer(Protocol):
    """What computes losses and gradients of rows, and holds the adapter. A context manager.

    Gradients are flat, by the adapter's tensor names, copies and the caller's own.
    """

    def __enter__(self) -> Trainer: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    @property
    def token_mb(self) -> float | None:
        """Memory that a token more in the longest row takes, in MB; None where it grows with the length's square."""

    def loss(self, tokens: npt.NDArray[np.int32], trained: npt.NDArray[np.bool_]) -> float:
        """Mean loss in nats over the learned tokens of one row; `tokens` and `trained` as in `gguf.rows.Row`."""

    def gradients(self, tokens: npt.NDArray[np.int32], trained: npt.NDArray[np.bool_]) -> tuple[float, Gradients]:
        """Loss as above, and its gradient."""

    def groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """`rows` by the passes that they go through in."""

    def totals(self, rows: Sequence[Row]) -> tuple[float, float]:
        """Summed loss over the counted tokens of one group, and over its other learned ones: those of Meton's form."""

    def mean(self, rows: Sequence[Row]) -> tuple[float, Gradients]:
        """Mean loss over the learned tokens of one group, and its gradient."""

    def weights(self) -> dict[str, Array]:
        """The adapter's tensors, flat: writing into them changes the adapter. Known after one gradient."""

    def save(self, path: Path) -> None:
        """Write the adapter as GGUF to `path`."""


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
        self.context = AdaptedContext(model, n_ctx, threads, adapter, self._on_eval)
        self.handle, self.n_ctx = self.context.handle, self.context.n_ctx
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
        self.context.close()

    @property
    def token_mb(self) -> float | None:
        """Not known: the graph attends over all pairs of a row."""
        return None

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

    def groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Each row for itself: the library's graph is one sequence."""
        return [[row] for row in rows]

    def totals(self, rows: Sequence[Row]) -> tuple[float, float]:
        """Summed loss in nats over the counted tokens of `rows`, and over their other learned ones."""
        counted = form = 0.0
        for row in rows:
            if row.answer is None:
                counted += self.loss(row.tokens, row.trained) * row.learned
                continue
            # The library's graph gives one number a pass. A token's loss depends on those before it alone, so the
            # second pass ends with the form, before the answer.
            counted += self.loss(row.tokens, row.answer) * row.counted
            others = row.trained & ~row.answer
            others[0] = False
            end = int(np.nonzero(others)[0][-1]) + 1
            form += self.loss(row.tokens[:end], others[:end]) * int(others.sum())
        return counted, form

    def mean(self, rows: Sequence[Row]) -> tuple[float, Gradients]:
        """Mean loss over the learned tokens of one row, and its gradient."""
        (row,) = rows
        return self.gradients(row.tokens, row.trained)

    def weights(self) -> dict[str, Array]:
        """The adapter's tensors, flat: writing into them changes the adapter. Known after one gradient."""
        return self._weights

    def save(self, path: Path) -> None:
        """Write the adapter as GGUF to `path`."""
        self._send()
        self.context.save(path)

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
