"""F16 working copies of bases that are stored as BF16, which the engine cannot train on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import ModelError
from ..gguf.inspect import GgufInfo, fingerprint, inspect
from ..gguf.merge import f16_copy
from ..paths import Home, private_dir

__all__ = ["f16_copy_of", "needs_f16_copy"]


def needs_f16_copy(info: GgufInfo) -> bool:
    """Whether all that keeps this file from being trained on is BF16."""
    return "BF16" in info.types and set(info.types) <= {"BF16", "F32", "F16"}


def f16_copy_of(home: Home, base: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """The F16 copy of `base` in `<home>/bases/`, made where it is not there yet."""
    copy = private_dir(home.root / "bases") / f"{fingerprint(base)[:16]}-f16.gguf"
    if copy.is_file():
        return copy
    need = 2.1 * inspect(base).parameters
    if shutil.disk_usage(copy.parent).free < need:
        raise ModelError(f"An F16 copy of {base.name} needs {need / 2**30:.1f} GB in {copy.parent}: make room.")
    f16_copy(base, copy, progress)
    return copy
