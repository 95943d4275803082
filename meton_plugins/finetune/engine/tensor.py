"""Views of the engine's tensors as NumPy arrays: no copies, valid as long as the graph that they belong to."""

from __future__ import annotations

import ctypes as C

import numpy as np
import numpy.typing as npt

from .abi import Tensor

__all__ = ["at", "flat"]


def at(address: int) -> Tensor:
    """The ggml_tensor at `address`."""
    return Tensor.from_address(address)


def flat(tensor: Tensor) -> npt.NDArray[np.float32]:
    """All elements of a contiguous F32 tensor, one dimension, writable."""
    count = tensor.ne[0] * tensor.ne[1] * tensor.ne[2] * tensor.ne[3]
    return np.ctypeslib.as_array((C.c_float * count).from_address(tensor.data))
