"""Everything that a training needs to go on as if it had never stopped. The last two are kept."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ..errors import EngineError, ModelError
from ..gguf.adapter import tidy
from ..paths import replacing_path, sync_dir, write_json
from .adamw import AdamW
from .gradient import RowTrainer

__all__ = ["Position", "adapter_file", "latest", "restore", "save", "save_adapter"]

KEEP: Final = 2


@dataclass(frozen=True)
class Position:
    """Where a training stands. `step` counts optimizer steps done; `batch` those done within `epoch` (from 0)."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    base_loss: float | None = None


def save_adapter(trainer: RowTrainer, path: Path) -> None:
    """Write the adapter to `path`, whole or not at all."""
    raw = path.with_name(f".{path.name}.raw.tmp")
    try:
        trainer.save(raw)
        with replacing_path(path) as temporary:
            tidy(raw, temporary)
    except ModelError as error:  # half a file, to which the library said yes
        raise EngineError(
            f"The adapter could not be written to {path}: if the disk is full, make room, then resume."
        ) from error
    finally:
        raw.unlink(missing_ok=True)


def save(folder: Path, position: Position, trainer: RowTrainer, optimizer: AdamW) -> Path:
    """A new checkpoint in `folder`; older ones than the last two are removed once it is safe."""
    folder.mkdir(exist_ok=True)
    final = folder / f"step_{position.step:08d}"
    for leftover in folder.glob(".step_*.partial"):  # of an attempt that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    partial = folder / f".{final.name}.partial"
    partial.mkdir()
    try:
        save_adapter(trainer, partial / "adapter.gguf")
        with replacing_path(partial / "optimizer.npz") as path, path.open("wb") as file:
            np.savez(file, **optimizer.state())  # type: ignore[arg-type]
        write_json(partial / "position.json", {**asdict(position), "optimizer_steps": optimizer.steps})
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


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*") if (path / "position.json").is_file())


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = _all(folder) if folder.is_dir() else []
    return found[-1] if found else None


def adapter_file(checkpoint: Path) -> Path:
    """The weights to begin with."""
    return checkpoint / "adapter.gguf"


def restore(checkpoint: Path, optimizer: AdamW) -> Position:
    """Fill `optimizer` from `checkpoint`; the position to go on from."""
    try:
        values = json.loads((checkpoint / "position.json").read_text(encoding="utf-8"))
        with (checkpoint / "optimizer.npz").open("rb") as file, np.load(file) as arrays:
            optimizer.load(values.pop("optimizer_steps"), {name: arrays[name] for name in arrays.files})
        return Position(**values)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise EngineError(
            f"The checkpoint {checkpoint} cannot be read: delete it to resume from the one before."
        ) from error
