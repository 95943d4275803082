"""The engine's tensors as NumPy arrays: views where they lie in this machine's memory, copies where on a device."""

from __future__ import annotations

import ctypes as C
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .abi import Tensor

if TYPE_CHECKING:
    from .library import Library

__all__ = ["Place", "at", "flat"]

Array = npt.NDArray[np.float32]


def at(address: int) -> Tensor:
    """The ggml_tensor at `address`."""
    return Tensor.from_address(address)


def flat(tensor: Tensor) -> Array:
    """All elements of a contiguous F32 tensor in this machine's memory, one dimension, writable, no copy."""
    count = tensor.ne[0] * tensor.ne[1] * tensor.ne[2] * tensor.ne[3]
    return np.ctypeslib.as_array((C.c_float * count).from_address(tensor.data))


class Place:
    """Where the numbers of a contiguous F32 tensor lie. Good as long as its buffer, also after its graph is gone."""

    def __init__(self, library: Library, tensor: Tensor) -> None:
        self._library = library
        # The tensor itself belongs to a graph that the library frees after each row; its buffer stays.
        self._tensor = Tensor.from_buffer_copy(tensor)
        if tensor.view_src:
            self._tensor.buffer, self._tensor.view_src, self._tensor.view_offs = at(tensor.view_src).buffer, None, 0
        buffer = self._tensor.buffer
        #: Whether the processor can read and write them where they lie: a device's addresses are not memory.
        self.on_host: bool = not buffer or bool(library.ggml_backend_buffer_is_host(buffer))

    def values(self) -> Array:
        """The numbers: a view on the host, a copy of a device's, for `put` to write back."""
        if self.on_host:
            return flat(self._tensor)
        values = np.empty(int(np.prod(self._tensor.ne[:])), dtype=np.float32)
        self._library.ggml_backend_tensor_get(C.byref(self._tensor), values.ctypes.data, 0, values.nbytes)
        return values

    def take(self) -> Array:
        """A copy of the numbers, which are 0 from then on."""
        if self.on_host:
            view = flat(self._tensor)
            taken: Array = view.copy()
            view.fill(0)
            return taken
        values = self.values()
        self.put(np.zeros_like(values))
        return values

    def put(self, values: Array) -> None:
        """Make `values` the device's; what is on the host is its own view and needs no writing."""
        if not self.on_host:
            self._library.ggml_backend_tensor_set(C.byref(self._tensor), values.ctypes.data, 0, values.nbytes)
