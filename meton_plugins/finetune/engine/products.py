"""oneDNN, which makes the matrix products of our own pass: fetch the pinned wheel, check it, keep its library, try it.

Training goes on without it, by the BLAS that NumPy brings: so whatever keeps it from being installed is told, no more.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..gguf.inspect import sha256_of
from .package import ONEDNN, platform_key
from .process import bootstrap

__all__ = ["KEPT", "LIBRARY", "add", "offered"]

#: As PyPI calls it. It is the last that needs no more than libgomp: later ones are built for Intel's own runtimes.
PROJECT: Final = "onednn-cpu-gomp"
RELEASE: Final = "2023.2.0"
WHEEL: Final = f"onednn_cpu_gomp-{RELEASE}-py2.py3-none-manylinux1_x86_64.whl"
SHA256: Final = "2f22a54d6a890ed14bfa185d42a4be65d8b5b1df85dc1f0f3a9abe31620416fb"
#: The library's name in the engine's folder, and what of the wheel is kept there under which name.
LIBRARY: Final = "libdnnl.so.3"
_INSIDE: Final = f"onednn_cpu_gomp-{RELEASE}.data/data"
KEPT: Final = {f"{_INSIDE}/lib/{LIBRARY}": LIBRARY, f"{_INSIDE}/share/doc/onednn/LICENSE": "LICENSE-oneDNN"}

Say = Callable[[str], None]


def offered() -> bool:
    """Whether there is a wheel for this platform."""
    return platform_key() == "linux-x64"


def add(folder: Path, scratch: Path, say: Say, beside: Path | None = None) -> str:
    """Put the library into the engine's `folder`; its name there, or "" where that is not to be.

    `scratch`: a folder on the same disk. `beside`: the engine's package, given as a file: then the wheel is looked for
    in its folder, and nothing is fetched.
    """
    if not offered():
        return ""
    try:
        wheel = beside.parent / WHEEL if beside else _fetch(scratch, say)
        if beside and not wheel.is_file():
            raise _Missing(f"{WHEEL} is not beside {beside.name}")
        return _install(wheel, folder, scratch)
    except (_Missing, OSError) as error:
        say(f"without oneDNN, training is somewhat slower: {error}")
        return ""


class _Missing(Exception):
    """Why there is no library; the text ends a sentence."""


def _fetch(scratch: Path, say: Say) -> Path:
    say(f"fetching oneDNN {ONEDNN} with pip (39 MB)")
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip3") or ""]
    if not pip[0]:
        raise _Missing("pip is not here to fetch it")
    command = [
        *pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--retries=1",
        "--dest", str(scratch), f"{PROJECT}=={RELEASE}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode or not (scratch / WHEEL).is_file():
        words = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        raise _Missing(words[-1].removeprefix("ERROR:").strip() if words else f"pip ended with code {done.returncode}")
    return scratch / WHEEL


def _install(wheel: Path, folder: Path, scratch: Path) -> str:
    if sha256_of(wheel) != SHA256:
        raise _Missing(f"{wheel.name} is not as it was published")
    with zipfile.ZipFile(wheel) as archive:
        for inside, name in KEPT.items():
            with archive.open(inside) as source, (scratch / name).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    # In a process of its own: what a CPU cannot run ends it.
    done = subprocess.run(
        [*bootstrap("meton_plugins.finetune.graph.onednn"), str(scratch / LIBRARY)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise _Missing(words[-1] if words else f"it ends with code {done.returncode}")
    for name in KEPT.values():
        (scratch / name).replace(folder / name)
    return LIBRARY
