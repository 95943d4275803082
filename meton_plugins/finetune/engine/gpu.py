"""The GPU, through the engine's Vulkan backend: which device there is, and in plain words why there is none.

What loads it is the child process alone: a driver that crashes takes no session with it.
"""

from __future__ import annotations

import ctypes as C
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import EngineError
from .package import installed
from .process import run_job

if TYPE_CHECKING:
    from .library import Library

__all__ = ["LOADER", "Device", "describe", "find_device", "has_loader", "look", "prove"]

#: What every Vulkan driver is reached through; it comes with the driver, or alone.
LOADER: Final = "libvulkan.so.1"
#: Said with every refusal.
ELSE: Final = "or train with --gpu-layers 0"
#: More than any base has: all of them.
ALL_LAYERS: Final = 1000
#: How far the proof's losses on a GPU may lie from those on the CPU, in nats: a GPU rounds products to half precision.
TOLERANCE: Final = 0.02


class Device(NamedTuple):
    """A GPU as the engine knows it: its handle, its Vulkan name, the driver's words for it, its memory in bytes."""

    handle: int
    name: str
    description: str
    memory: int

    @property
    def text(self) -> str:
        """In one line."""
        return f"{self.description} ({self.name}, {self.memory / 2**30:.1f} GB)"


def has_loader() -> bool:
    """Whether programs on this machine can ask for Vulkan at all."""
    try:
        C.CDLL(LOADER)
    except OSError:
        return False
    return True


def find_device(library: Library) -> Device:
    """The first GPU, its backend loaded into `library`; EngineError says what is missing and what to do."""
    engine = library.engine
    if not engine.gpu:
        raise EngineError(f"The engine's GPU part (Vulkan) is not installed: run /finetune setup --gpu, {ELSE}.")
    if not has_loader():
        raise EngineError(
            f"There is no Vulkan loader ({LOADER}) on this machine: install your GPU's driver and libvulkan1, {ELSE}."
        )
    backend = library.ggml_backend_load(str(engine.folder / engine.gpu).encode())
    count = library.ggml_backend_reg_dev_count(backend) if backend else 0
    if not count:
        raise EngineError(
            f"Vulkan finds no GPU on this machine (vulkaninfo --summary says more): install your GPU's driver, {ELSE}."
        )
    handle = library.ggml_backend_reg_dev_get(backend, 0)
    free, total = C.c_size_t(), C.c_size_t()
    library.ggml_backend_dev_memory(handle, C.byref(free), C.byref(total))
    name, description = (
        function(handle).decode("utf-8", "replace")
        for function in (library.ggml_backend_dev_name, library.ggml_backend_dev_description)
    )
    return Device(handle, name, description, total.value)


def look(library: Library, job: dict[str, Any], emit: Callable[..., None], wanted: Callable[[], str | None]) -> None:
    """The child's job: say which device there is."""
    emit("result", device=find_device(library).text)


def describe() -> str:
    """The device that training on a GPU would use, in one line; EngineError where there is none."""
    return str(run_job("gpu")["device"])


def prove() -> str:
    """Two steps of training on the device; its line, or EngineError where they do not give the CPU's losses."""
    device, cpu = describe(), installed().proof
    result = run_job("prove", threads=1, gpu_layers=ALL_LAYERS)
    first, last = result["first_loss"], result["last_loss"]
    # Put so that a loss which is no number is refused too.
    if not all(abs(result[name] - cpu[name]) <= TOLERANCE for name in ("first_loss", "last_loss")):
        raise EngineError(
            f"{device} trains wrongly (loss {first:.4f} to {last:.4f}, on the CPU {cpu['first_loss']:.4f} to "
            f"{cpu['last_loss']:.4f}): update its driver, {ELSE}."
        )
    return device
