"""The doctor: what is here, what is missing, and what to do about it."""

from __future__ import annotations

import itertools
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from ..engine import gpu
from ..engine.package import find, platform_key
from ..errors import FinetuneError
from ..paths import Home
from ..settings import Settings

__all__ = ["Finding", "examine", "surface", "unfinished"]

#: The program of the engine's makers; see `_foreign_trainer`.
FOREIGN_TRAINER = "llama-finetune-lora"
#: Folders of the home folder in which people keep checkouts.
SOURCES = ("src", "code", "git", "projects", "repos", "work", "dev")
#: CPU features that decide which of the engine's backends runs, best first.
FEATURES = ("amx_int8", "avx512_bf16", "avx512f", "avx2", "avx", "sse4_2")


class Finding(NamedTuple):
    """One line of the doctor's table. `bad` keeps the main job from working, `note` is good to know."""

    verdict: Literal["ok", "note", "bad"]
    what: str
    found: str
    advice: str = ""


def examine(
    home: Home, settings: Settings, host: str, config: Path | None, slots: Mapping[str, str] | None = None
) -> list[Finding]:
    """All findings, in the order in which a user would mend them. `slots`: what they hold now, by `config`."""
    return [
        *_platform(), *_engine(), _products(settings), _gpu(), *_memory(), *_disk(home), *_server(settings),
        _host(host, config), *unfinished(home, slots), *_foreign_trainer(),
    ]  # fmt: skip


def unfinished(home: Home, slots: Mapping[str, str] | None = None) -> list[Finding]:
    """What a crash left open between a file and a slot, and which state holds."""
    from ..serve.history import History
    from ..serve.register import announced

    advice = "type the same /model-register line again: it does what is left to do"
    found = [Finding("note", "registration", f"{tag} was begun and not finished", advice) for tag in announced(home)]
    for swap in History(home.history).swaps():
        if swap.state != "begun":
            continue
        holds = (slots or {}).get(swap.slot)
        now = f"; it holds {holds} now" if holds else ""
        text = f"{swap.slot} of {swap.file} was to go from {swap.old} to {swap.new}{now}"
        found.append(Finding("note", "swap", text, "the next promote or rollback settles it"))
    return found


def surface(meton: Path) -> list[Finding]:
    """What a Meton checkout has of all that the plugin relies on. Looks at its source, imports nothing."""
    from ...host.launch import checked
    from ...host.surface import in_source

    there = in_source(checked(meton))
    return [
        Finding(
            "ok" if found else "bad",
            ".".join(need.label.split(".")[-2:]),
            need.why,
            "" if found else "missing: Meton starts without the plugin",
        )
        for need, found in there.items()
    ]


def _platform() -> Iterator[Finding]:
    flags = _cpu_flags()
    best = next((name for name in FEATURES if name in flags), "no vector units known")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{platform.machine()}, {cores} cores, {best}"
    try:
        key = platform_key()
    except FinetuneError as error:
        yield Finding("bad", "CPU", text, error.sentence)
        return
    if key != "linux-x64":
        yield Finding("note", "CPU", text, "unproven: only Linux on x86-64 was tested")
        return
    library, version = platform.libc_ver()
    old = library == "glibc" and tuple(int(part) for part in version.split(".")[:2]) < (2, 35)
    yield Finding("ok", "CPU", text)
    if old or library != "glibc":
        yield Finding("bad", "C library", f"{library or 'unknown'} {version}", "the engine needs glibc 2.35 or newer")


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), []))


def _engine() -> Iterator[Finding]:
    engine = find()
    if engine is None:
        yield Finding("bad", "engine", "not installed", "run /finetune setup")
    else:
        backend = engine.backend.removeprefix("libqvac-ggml-").removesuffix(".so")
        yield Finding("ok", "engine", f"qvac-fabric {engine.version}, {backend}, proven on this machine")


def _products(settings: Settings) -> Finding:
    from ..engine import compute, products
    from ..graph.blas import installed

    engine = find()
    if engine and engine.products:
        bf16 = settings.train.precision != "f32" and compute.multiplies_bf16()
        which = "" if settings.train.precision == "bf16" else " where that is measured to be faster"
        numbers = f"F32, or bf16{which}" if bf16 else "F32"
        return Finding("ok", "training", f"our own pass, products by {engine.products_name} in {numbers}")
    name, direct = installed()
    how = f"our own pass, products by {name}{'' if direct else ' through NumPy'}"
    if engine and products.offered():
        return Finding("note", "training", how, "/finetune setup fetches oneDNN, which is faster")
    return Finding("ok", "training", how)


def _gpu() -> Finding:
    if not gpu.has_loader():
        return Finding("ok", "GPU", f"none that programs can reach ({gpu.LOADER} is not here): the CPU trains")
    engine = find()
    if engine is None or not engine.gpu:
        return Finding("note", "GPU", "not looked for: the engine's GPU part is not here", "/finetune setup --gpu")
    try:
        device = gpu.describe()
    except FinetuneError as error:
        return Finding("note", "GPU", "none: the CPU trains", error.sentence)
    return Finding("note", "GPU", f"{device} via Vulkan", "unproven: --gpu-layers N uses it, see docs/gpu.md")


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    text = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GB free"
    small = memory.available < 2 * 2**30
    yield Finding("note" if small else "ok", "memory", text, "close other programs before a run" if small else "")


def _disk(home: Home) -> Iterator[Finding]:
    place = home.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    small = free < 10 * 2**30
    text = f"{free / 2**30:.1f} GB free for {home.root}"
    yield Finding("note" if small else "ok", "disk", text, "an export needs 2 to 3 times its base" if small else "")


def _server(settings: Settings) -> Iterator[Finding]:
    from ..serve.ollama import Server

    with Server(settings.serve.ollama_host) as server:
        try:
            version = server.check()
        except FinetuneError as error:
            yield Finding("note", "Ollama", "does not answer", error.sentence)
            return
        yield Finding("note" if server.warning else "ok", "Ollama", version, server.warning or "")


def _host(host: str, config: Path | None) -> Finding:
    if config is None:
        return Finding("note", "host", host, "no config.yaml: name one with --config, or set serve.config")
    return Finding("ok", "host", f"{host}, {config}")


def _foreign_trainer() -> Iterator[Finding]:
    found = shutil.which(FOREIGN_TRAINER) or next(_built(), None)
    if found:
        yield Finding(
            "note", FOREIGN_TRAINER, str(found),
            "not used: it never zeroes its gradients, so it trains weakly, and loses its work when stopped",
        )  # fmt: skip


def _built() -> Iterator[Path]:
    """The trainer where people build it: in a checkout of llama.cpp or of its fork, seldom on PATH."""
    places = [Path.home(), *(Path.home() / name for name in SOURCES), Path("/opt"), Path("/usr/local/src")]
    for place, checkout in itertools.product(places, ("*llama*", "*qvac*")):
        for file in place.glob(f"{checkout}/build*/bin/{FOREIGN_TRAINER}"):
            if os.access(file, os.X_OK):
                yield file
