"""Everything that a training needs to go on as if it had never stopped. The last two are kept."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import DiskFull, EngineError, ModelError
from ..gguf.adapter import tidy
from ..gguf.inspect import sha256_of
from ..paths import replacing_path, sync_dir, write_json
from .adamw import AdamW
from .gradient import Trainer
from .stopping import Standing

__all__ = [
    "BEST",
    "Position",
    "adapter_file",
    "check",
    "latest",
    "place_best",
    "restore",
    "save",
    "save_adapter",
    "usable",
]

KEEP: Final = 2
ADAPTER: Final = "adapter.gguf"
OPTIMIZER: Final = "optimizer.npz"
BEST: Final = "best.gguf"
POSITION: Final = "position.json"


@dataclass(frozen=True)
class Position:
    """Where a training stands. `step` counts optimizer steps done; `batch` those done within `epoch` (from 0).

    `validated`: the last step after which the validation that was due has been done, -1 before the first.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    validated: int = -1
    base_loss: float | None = None
    start_loss: float | None = None
    #: What the form alone loses: with the base, and with the best adapter. Checkpoints of older versions have neither.
    base_form_loss: float | None = None
    best_form_loss: float | None = None
    standing: Standing = field(default_factory=Standing)


def save_adapter(trainer: Trainer, path: Path) -> None:
    """Write the adapter to `path`, whole or not at all; DiskFull where the library could not, or only half of it."""
    raw = path.with_name(f".{path.name}.raw.tmp")
    try:
        trainer.save(raw)
        with replacing_path(path) as temporary:
            tidy(raw, temporary)
    except (EngineError, ModelError) as error:  # half a file, to which the library may have said yes
        raise DiskFull(
            f"The adapter could not be written to {path}: if the disk is full, make room, then resume."
        ) from error
    finally:
        raw.unlink(missing_ok=True)


def save(
    folder: Path, position: Position, trainer: Trainer, optimizer: AdamW, best: Path | None = None
) -> Path:  # fmt: skip
    """A new checkpoint in `folder`; older ones than the last two are removed once it is safe.

    `best`: the best adapter so far. It belongs to the position: a training that goes on from here has no later one.
    """
    folder.mkdir(exist_ok=True)
    final = folder / f"step_{position.step:08d}"
    for leftover in folder.glob(".step_*.partial"):  # of an attempt that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    partial = folder / f".{final.name}.partial"
    partial.mkdir()
    try:
        save_adapter(trainer, partial / ADAPTER)
        with replacing_path(partial / OPTIMIZER) as path, path.open("wb") as file:
            np.savez(file, **optimizer.state())  # type: ignore[arg-type]
        if best is not None and best.is_file():
            _same_file(best, partial / BEST)
        sums = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
        write_json(partial / POSITION, {**asdict(position), "optimizer_steps": optimizer.steps, "sha256": sums})
        if final.exists():  # the same step again, after a kill between two checkpoints
            shutil.rmtree(final)
        os.replace(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_dir(folder)
    for old in _all(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def place_best(source: Path | None, target: Path) -> None:
    """Make `target` the best adapter of a checkpoint, or nothing, where there was none yet.

    A killed attempt may have been further, with a better one: who stops before he is there again must not get it.
    """
    if source is None or not source.is_file():
        target.unlink(missing_ok=True)
    elif not (target.is_file() and target.samefile(source)):  # a rename between two names of a file leaves both
        with replacing_path(target) as temporary:
            _same_file(source, temporary)


def _same_file(source: Path, target: Path) -> None:
    """A second name of `source`, which is only ever replaced as a whole; a copy where the file system has none."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with replacing_path(target) as temporary:
            shutil.copyfile(source, temporary)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*") if (path / POSITION).is_file())


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, or None."""
    found = _all(folder) if folder.is_dir() else []
    return found[-1] if found else None


def usable(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, or None; and the names of damaged ones, which are set aside.

    A power cut can damage what was synced: disks lie.
    """
    damaged: list[str] = []
    while newest := latest(folder):
        try:
            check(newest)
            return newest, damaged
        except EngineError:
            aside = folder / f"damaged_{newest.name}"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(newest, aside)
            damaged.append(newest.name)
    return None, damaged


def check(checkpoint: Path) -> None:
    """EngineError where a file of `checkpoint` is not as it was written."""
    restore(checkpoint, AdamW())
    for name, wanted in _values(checkpoint).get("sha256", {}).items():
        if not (checkpoint / name).is_file() or sha256_of(checkpoint / name) != wanted:
            raise _unreadable(checkpoint)


def adapter_file(checkpoint: Path) -> Path:
    """The weights to begin with."""
    return checkpoint / ADAPTER


def restore(checkpoint: Path, optimizer: AdamW) -> Position:
    """Fill `optimizer` from `checkpoint`; the position to go on from."""
    values = _values(checkpoint)
    values.pop("sha256", None)
    try:
        with (checkpoint / OPTIMIZER).open("rb") as file, np.load(file) as arrays:
            optimizer.load(values.pop("optimizer_steps"), {name: arrays[name] for name in arrays.files})
        return Position(**{**values, "standing": Standing(**values["standing"])})
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise _unreadable(checkpoint) from error


def _values(checkpoint: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((checkpoint / POSITION).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(checkpoint) from error


def _unreadable(checkpoint: Path) -> EngineError:
    return EngineError(f"The checkpoint {checkpoint} cannot be read: delete it to resume from the one before.")
