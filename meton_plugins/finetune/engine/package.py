"""The engine's package: what is pinned, what of it is kept, and where it lies once installed."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from ..errors import EngineError
from ..paths import engine_dir, write_json

__all__ = [
    "HEADERS", "INTEGRITY", "NPM_NAME", "NUMPY", "ONEDNN", "VERSION", "Engine", "find", "installed", "platform_key",
    "record",
]  # fmt: skip

NPM_NAME: Final = "@qvac/fabric"
VERSION: Final = "0.15.0"
#: npm's own integrity of that version; a package with another is not installed.
INTEGRITY: Final = "sha512-07ppIuba4iUzgDgHxyDKZLF30qZ21miiITsMDN8aFPIPsOxSNfQY0WGE4YkiOHH8rqjytzV4le8ei+UjN3st0A=="
#: The version of oneDNN that `products.py` installs.
ONEDNN: Final = "3.2.0"
#: What multiplies without it.
NUMPY: Final = "NumPy's BLAS"
#: Kept so that a test can compare our structs with the library's.
HEADERS: Final = ("llama/llama.h", "ggml.h", "ggml-backend.h", "ggml-opt.h")

#: The marker, written last: a folder without it is not an engine.
_RECORD: Final = "engine.json"

_PLATFORMS: Final = {
    ("linux", "x86_64"): "linux-x64",
    ("linux", "aarch64"): "linux-arm64",
    ("darwin", "arm64"): "darwin-arm64",
    ("darwin", "x86_64"): "darwin-x64",
}


@dataclass(frozen=True)
class Engine:
    """An installed engine. `library`, `backend` and `gpu` are files in `folder`; `proof` is what its two steps gave.

    `gpu` is empty where the GPU's backend is not kept: it is twice as large as all else; `products`, the library of
    `products.py`, where it could not be had.
    """

    folder: Path
    version: str
    integrity: str
    library: str
    backend: str
    proof: dict[str, float]
    gpu: str = ""
    products: str = ""

    @property
    def library_path(self) -> Path:
        return self.folder / self.library

    @property
    def backend_path(self) -> Path:
        return self.folder / self.backend

    @property
    def products_path(self) -> Path | None:
        return self.folder / self.products if self.products else None

    @property
    def products_name(self) -> str:
        """What multiplies matrices in our own pass."""
        return f"oneDNN {ONEDNN}" if self.products else NUMPY

    @property
    def include(self) -> Path:
        return self.folder / "include"


def platform_key() -> str:
    """The package's name for this platform; EngineError in one sentence where the engine does not run."""
    if sys.platform == "win32":
        raise EngineError("The engine does not run on Windows: use Linux, or WSL 2.")
    key = _PLATFORMS.get((sys.platform, platform.machine()))
    if key is None:
        raise EngineError(f"The engine is not built for {sys.platform} on {platform.machine()}: use Linux on x86-64.")
    return key


def find() -> Engine | None:
    """The installed engine of the pinned version, or None."""
    folder = engine_dir()
    try:
        values = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        engine = Engine(folder=folder, **values)
        whole = engine.library_path.is_file() and engine.backend_path.is_file() and (folder / engine.gpu).exists()
        if engine.products_path and not engine.products_path.is_file():  # training goes on without it
            engine = replace(engine, products="")
    except (OSError, ValueError, TypeError):
        return None
    return engine if whole and engine.version == VERSION and engine.integrity == INTEGRITY else None


def installed() -> Engine:
    """The installed engine; EngineError says how to get it."""
    engine = find()
    if engine is None:
        raise EngineError(
            "The training engine is not installed: run /finetune setup (or meton-finetune finetune setup)."
        )
    return engine


def record(engine: Engine) -> None:
    """Write the marker that makes `engine.folder` an engine."""
    values = asdict(engine)
    del values["folder"]
    write_json(engine.folder / _RECORD, values)
