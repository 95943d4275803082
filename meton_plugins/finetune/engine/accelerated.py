"""Loss and gradient by our own pass (`graph.network`), on weights and adapter where the library holds them in memory.

The library loads base and adapter, and writes the adapter; what lies between is computed here, several times faster
and in a part of the memory. Before it is relied on (`autotune`), it is compared with the library on rows of the run.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..gguf.inspect import open_gguf
from ..gguf.rows import Row
from ..graph.blas import Blas
from ..graph.check import LENGTH, Reference, Rounding, bf16_disagreement, disagreement, gradient_disagreement, perturb
from ..graph.fan import Factors
from ..graph.network import Network
from ..graph.network import Row as Tokens
from ..graph.packing import packed
from ..graph.shape import Shape, Unsupported, shape_of
from ..graph.team import Team
from ..graph.weights import Stored, Unpack, Weights
from .abi import EVAL_CALLBACK, TO_FLOAT, Tensor
from .adapted import AdaptedContext, Adapter
from .gradient import Array, Gradients
from .library import Library
from .model import Model
from .tensor import at, flat

__all__ = ["NativeTrainer", "shape_of_file"]

#: GGML_TYPE_F32, GGML_TYPE_F16 and GGML_TYPE_BF16.
F32: Final = 0
F16: Final = 1
BF16: Final = 30
FACTORS: Final = (".lora_a", ".lora_b")
#: What the library calls the hidden states after a block.
LAYER_OUTPUT: Final = re.compile(r"l_out-(\d+)")
#: Blocks on which gradients are checked: they run the same code in all.
GRADIENT_BLOCKS: Final = 2


class NativeTrainer:
    """Like `gradient.RowTrainer`; Unsupported where this base, or this machine, is not one for our own pass.

    `bf16`: multiply the base's weights in bf16; `unpacked`: keep all weights as they are multiplied.
    """

    def __init__(
        self, model: Model, base: Path, longest: int, threads: int, adapter: Adapter, *, bf16: bool = False,
        unpacked: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.library = model, model.library
        self._shape, self._blas = shape_of_file(base), Blas(model.library.engine.products_path, bf16=bf16)
        self._tensors: dict[str, Tensor] = {}
        self._hidden: dict[int, Array] | None = None
        self._watching = False
        self._on_eval = EVAL_CALLBACK(self._eval)
        self.context = AdaptedContext(model, LENGTH, 1, adapter, self._on_eval)
        self.n_ctx = longest
        self._team = Team(self._blas, threads)
        try:
            self._build(adapter, unpacked)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> NativeTrainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, free what the library holds and what the pass did."""
        # The callback refers to this object and it to the callback: what it holds would stay until Python looks.
        vars(self).pop("_network", None)
        self._team.close()
        self.context.close()

    @property
    def blas(self) -> str:
        """What makes the products, to show."""
        return self._team.blas.name

    @property
    def bf16(self) -> bool:
        """Whether the base's weights are multiplied in bf16."""
        return self._team.blas.bf16

    @property
    def layers(self) -> int:
        """Blocks of the base."""
        return self._shape.layers

    @property
    def token_mb(self) -> float:
        """Memory that a token more in the longest row takes."""
        return self._network.token_bytes / 2**20

    def loss(self, tokens: npt.NDArray[np.int32], trained: npt.NDArray[np.bool_]) -> float:
        """Mean loss in nats over the learned tokens of one row; `tokens` and `trained` as in `gguf.rows.Row`."""
        return float(np.mean(self._network.losses([(tokens, trained)])[0]))

    def gradients(self, tokens: npt.NDArray[np.int32], trained: npt.NDArray[np.bool_]) -> tuple[float, Gradients]:
        """Loss as above, and its gradient for every adapter tensor, flat."""
        return self._network.gradients([(tokens, trained)])

    def groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """`rows` by the passes that they go through in: as many together as the longest row alone would be."""
        return [[rows[place] for place in group] for group in packed([row.length for row in rows], self.n_ctx)]

    def totals(self, rows: Sequence[Row]) -> tuple[float, float]:
        """Summed loss in nats over the counted tokens of one group, and over its other learned ones."""
        found = self._network.losses([(row.tokens, row.trained) for row in rows])
        both = [
            (each[row.of_learned].sum(), each[~row.of_learned].sum()) for each, row in zip(found, rows, strict=True)
        ]
        return float(sum(counted for counted, _ in both)), float(sum(form for _, form in both))

    def mean(self, rows: Sequence[Row]) -> tuple[float, Gradients]:
        """Mean loss over the learned tokens of one group, and its gradient."""
        return self._network.gradients([(row.tokens, row.trained) for row in rows])

    def linear_inputs(self, rows: Sequence[Row]) -> Iterator[dict[str, Array]]:
        """For each block in turn what its projections read, [tokens, width] by name, all `rows` in one pass."""
        return self._network.linear_inputs([(row.tokens, row.trained) for row in rows])

    def weights(self) -> dict[str, Array]:
        """The adapter's tensors, flat: writing into them changes the adapter."""
        return self._weights

    def save(self, path: Path) -> None:
        """Write the adapter as GGUF to `path`."""
        self.context.save(path)

    @contextlib.contextmanager
    def part(
        self, longest: int, layers: Sequence[int] | None = None, *, threads: int, bf16: bool = False,
        unpacked: bool = False,
    ) -> Iterator[Network]:  # fmt: skip
        """The same base and adapter once more, some blocks of it or all, computed in another way."""
        team = Team(Blas(self.library.engine.products_path, bf16=bf16), threads)
        try:
            weights = Weights(self._stored_tensors, team, keep=unpacked)
            yield Network(self._shape, weights, team, self._factors, longest, layers)
        finally:
            team.close()

    def unpacked_bytes(self, layers: Sequence[int], width: int) -> int:
        """Bytes that the matrices of these blocks take when they stay unpacked, each number in `width` bytes."""
        names = [f"blk.{layer}." for layer in layers]
        return width * sum(
            tensor.rows * tensor.columns
            for name, tensor in self._stored_tensors.items()
            if tensor.rows > 1 and name.startswith(tuple(names)) and (tensor.unpack or width == 2)
        )

    def check(self, tokens: npt.NDArray[np.int32], threads: int) -> None:
        """Unsupported where the pass does not compute in F32 what the library computes for `tokens`, or a gradient that
        is not its loss's. The adapter is as before when it returns."""
        tokens = _some(tokens)
        with self._perturbed(), self.part(2 * LENGTH, threads=threads) as network:
            if wrong := disagreement(network, self._reference(tokens), self._rounding()):
                raise Unsupported(wrong)
            with self.part(LENGTH, self._few(), threads=threads) as few:
                if wrong := gradient_disagreement(few, self._factors, _all_learned(tokens)):
                    raise Unsupported(wrong)

    def check_bf16(self, tokens: npt.NDArray[np.int32], threads: int) -> None:
        """Unsupported where the pass computes in bf16 something else than in F32, which `check` has found right."""
        tokens = _some(tokens)
        with self._perturbed():
            with self.part(2 * LENGTH, threads=threads, bf16=True) as network:
                rounding: Rounding = "bf16" if self._rounding() == "exact" else self._rounding()
                if wrong := disagreement(network, self._reference(tokens), rounding):
                    raise Unsupported(f"in bf16 {wrong}")
            with (
                self.part(LENGTH, self._few(), threads=threads, bf16=True) as few,
                self.part(LENGTH, self._few(), threads=threads) as exact,
            ):
                if wrong := bf16_disagreement(few, exact, _all_learned(tokens)):
                    raise Unsupported(wrong)

    def _few(self) -> list[int]:
        """A few blocks, from the first to the last."""
        return sorted({round(place) for place in np.linspace(0, self.layers - 1, min(GRADIENT_BLOCKS, self.layers))})

    def _rounding(self) -> Rounding:
        kinds = {tensor.type for tensor in self._tensors.values()} - {F32, F16}
        return "quantized" if kinds - {BF16} else "bf16" if kinds else "exact"

    @contextlib.contextmanager
    def _perturbed(self) -> Iterator[None]:
        before = {name: values.copy() for name, values in self._weights.items()}
        perturb(self._factors)
        try:
            yield
        finally:
            for name, values in before.items():
                self._weights[name][:] = values

    def _reference(self, tokens: npt.NDArray[np.int32]) -> Reference:
        self._hidden = {}
        try:
            logits, hidden = self.context.logits(tokens), self._hidden
        finally:
            self._hidden = None
        if sorted(hidden) != list(range(self.layers)) or any(len(each) != len(tokens) for each in hidden.values()):
            raise Unsupported("the library does not show what its blocks compute")
        return Reference(tokens, [hidden[layer] for layer in range(self.layers)], logits)

    def _build(self, adapter: Adapter, unpacked: bool) -> None:
        self._watching = True
        self.context.logits(np.zeros(1, np.int32))
        self._watching = False
        self._factors = self._factors_of(adapter)
        self._stored_tensors = self._stored()
        weights = Weights(self._stored_tensors, self._team, keep=unpacked)
        self._network = Network(self._shape, weights, self._team, self._factors, self.n_ctx)
        self._weights = {
            f"{name}{kind}": factor.reshape(-1)
            for name, both in self._factors.items()
            for kind, factor in zip(FACTORS, (both.a, both.b), strict=True)
        }

    def _factors_of(self, adapter: Adapter) -> dict[str, Factors]:
        alpha = _alpha_of(adapter.file) if adapter.file else adapter.alpha
        found = {}
        for name, tensor in self._tensors.items():
            if name.endswith(".weight.lora_a"):
                whole = name.removesuffix(".lora_a")
                a, b = _matrix(tensor), _matrix(self._tensors[f"{whole}.lora_b"])
                found[whole] = Factors(whole, a, b, alpha / len(a))
        if not found:
            raise Unsupported("the library does not show its adapter")
        return found

    def _stored(self) -> dict[str, Stored]:
        unpacks: dict[int, Unpack | None] = {F32: None}
        found = {}
        for name, tensor in self._tensors.items():
            if name.endswith(FACTORS):
                continue
            if tensor.type not in unpacks:
                unpacks[tensor.type] = _unpack_of(self.library, tensor.type)
            found[name] = Stored(
                tensor.data, int(tensor.ne[1]), int(tensor.ne[0]), int(tensor.nb[1]), unpacks[tensor.type]
            )
        return found

    def _eval(self, node: int, ask: bool, _user: Any) -> bool:
        if self._hidden is not None:
            tensor = at(node)
            named = LAYER_OUTPUT.fullmatch(tensor.name.decode("utf-8", "replace"))
            if named and not ask:
                self._hidden[int(named.group(1))] = _matrix(tensor).copy()
            return named is not None
        if ask and self._watching:
            for address in at(node).src:
                # What no operation made is a weight, or one of the pass's inputs.
                if address and not at(address).op:
                    tensor = at(address)
                    name = tensor.name.decode("utf-8", "replace")
                    if name.endswith((".weight", ".bias", *FACTORS)):
                        self._tensors[name] = Tensor.from_buffer_copy(tensor)
        return False


def _some(tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The first tokens of a row; those of a very short one are repeated, since the first one does not count."""
    return np.resize(tokens, min(max(len(tokens), LENGTH // 4), LENGTH))


def _all_learned(tokens: npt.NDArray[np.int32]) -> Tokens:
    return tokens, np.ones(len(tokens), np.bool_)


@functools.lru_cache(maxsize=1)  # a header with 150,000 tokens takes half a second to read
def shape_of_file(base: Path) -> Shape:
    """The shape of the base; Unsupported as in `graph.shape.shape_of`."""
    header = open_gguf(base)
    values = {key: header.value(key) for key in header.entries if not key.startswith("tokenizer.")}
    sizes = {tensor.name: tuple(reversed(tensor.shape)) for tensor in header.tensors}
    return shape_of(str(values.get("general.architecture")), values, sizes)


def _alpha_of(adapter: Path) -> float:
    alpha = open_gguf(adapter).value("adapter.lora.alpha")
    if alpha is None:
        raise Unsupported("the adapter does not say its alpha")
    return float(alpha)


def _matrix(tensor: Tensor) -> Array:
    return flat(tensor).reshape(int(tensor.ne[1]), int(tensor.ne[0]))


def _unpack_of(library: Library, kind: int) -> Unpack:
    function = library.ggml_get_type_traits(kind).contents.to_float
    if not function:
        raise Unsupported(f"tensors of type {kind} cannot be unpacked")
    unpack: Unpack = TO_FLOAT(function)
    return unpack
