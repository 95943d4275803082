"""From a run to files that a server can load: the adapter merged into F16, then quantized by the engine."""

from __future__ import annotations

import datetime
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from ..engine.jobs import check_quantization, quantize
from ..errors import BusyError, FinetuneError, ModelError, UsageError
from ..gguf.inspect import fingerprint, open_gguf
from ..gguf.merge import merge
from ..paths import Home, private_dir, replacing_path, write_json
from ..train.runs import Run
from ..train.worker import check_base

__all__ = ["Export", "ExportedFile", "Which", "export_adapter", "export_model", "read_export"]

#: Which of a run's adapters: the best on its validation side, or that of its last step.
Which = Literal["best", "last"]
#: `stage` is what is being done, for the user; then what is done of it.
Progress = Callable[[str, int, int], None]

#: Bytes a weight, rounded up, for the check of the disk; F16's for what is not listed.
BYTES_PER_WEIGHT: Final = {"q8_0": 1.07, "q6_k": 0.83, "q5_k_m": 0.72, "q5_k_s": 0.7, "q4_k_m": 0.62, "q4_0": 0.6}


class ExportedFile(BaseModel):
    """One file of an export. `bytes` is its size."""

    model_config = ConfigDict(extra="ignore")
    quant: str
    path: str
    sha256: str
    bytes: int


class Export(BaseModel):
    """export.json beside the files: where they come from."""

    model_config = ConfigDict(extra="ignore")
    run: str
    base: dict[str, str | None]
    adapter: Which = "best"
    adapter_sha256: str
    template: str
    created: str
    files: list[ExportedFile] = []


def read_export(folder: Path) -> Export | None:
    """export.json in `folder`, or None."""
    try:
        return Export.model_validate_json((folder / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def export_model(
    home: Home, run: Run, quants: Sequence[str], which: Which = "best", progress: Progress | None = None
) -> tuple[Export, bool]:
    """The tuned model of `run` as GGUF, one file for each of `quants`, in `<home>/models/<run>/`.

    Files that are there already, from the same adapter, are kept. Returns the export and whether anything was done.
    """
    wanted = [check_quantization(name) for name in dict.fromkeys(quants)]
    if not wanted:
        raise UsageError("Say which quantization to write, such as --quant q4_k_m.")
    record, adapter = run.record, run.adapter(which)
    check_base(record)
    with _alone(home, run) as folder:
        sha256 = fingerprint(adapter)
        earlier = read_export(folder)
        made = _whole(earlier, sha256) or Export(
            run=run.name, base={"path": record.base.path, "name": record.base.name, "sha256": record.base.sha256},
            adapter=which, adapter_sha256=sha256, template=record.template,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )  # fmt: skip
        missing = [quant for quant in wanted if quant not in {file.quant for file in made.files}]
        if missing:
            _check_room(folder, record.base.parameters, missing)
            if earlier and earlier.adapter_sha256 != sha256:
                _remove(folder, earlier)
            _write(folder, Path(record.base.path), adapter, made, missing, progress or _silent)
        return made, bool(missing)


def _write(folder: Path, base: Path, adapter: Path, made: Export, missing: Sequence[str], tell: Progress) -> None:
    half = folder / f"{made.run}-f16.gguf"
    if "f16" not in {file.quant for file in made.files}:
        merge(base, adapter, half, lambda done, total: tell("merging", done, total))
    for quant in missing:
        path = folder / f"{made.run}-{quant}.gguf"
        if quant != "f16":
            quantize(half, path, quant, _stage(tell, f"quantizing to {quant}"))
            _check_whole(path)
        sha = fingerprint(path, _stage(tell, f"hashing {quant}"))
        made.files.append(ExportedFile(quant=quant, path=str(path), sha256=sha, bytes=path.stat().st_size))
        write_json(folder / "export.json", made.model_dump())
    if "f16" not in {file.quant for file in made.files}:
        half.unlink()


def export_adapter(home: Home, run: Run, which: Which = "best") -> ExportedFile:
    """A copy of the run's adapter (GGUF LoRA) in `<home>/models/<run>/`."""
    source = run.adapter(which)
    with _alone(home, run) as folder:
        target = folder / f"{run.name}-adapter.gguf"
        with replacing_path(target) as temporary:
            shutil.copyfile(source, temporary)
    return ExportedFile(quant="adapter", path=str(target), sha256=fingerprint(target), bytes=target.stat().st_size)


@contextmanager
def _alone(home: Home, run: Run) -> Iterator[Path]:
    """The folder of the run's exports, with nobody else writing there and nothing left by a killed export."""
    folder = private_dir(private_dir(home.models) / run.name)
    lock = FileLock(folder / "export.lock", mode=0o600)
    try:
        lock.acquire(timeout=1)
    except Timeout as error:
        raise BusyError(f"Another session is exporting {run.name}: wait for it, then type the same again.") from error
    try:
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield folder
    except OSError as error:
        # NumPy says "100 requested and 20 written" where the disk is full.
        reason = error.strerror or "the disk is full"
        raise FinetuneError(f"Writing to {folder} failed ({reason}): make room, then type the same again.") from error
    finally:
        lock.release()


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


def _stage(tell: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: tell(stage, done, total)


def _whole(found: Export | None, adapter_sha256: str) -> Export | None:
    """The export `found`, with the files that still are what it says; None where it is of another adapter."""
    if found is None or found.adapter_sha256 != adapter_sha256:
        return None
    whole = [f for f in found.files if Path(f.path).is_file() and Path(f.path).stat().st_size == f.bytes]
    return found.model_copy(update={"files": whole})


def _remove(folder: Path, stale: Export) -> None:
    """Remove the files of another adapter, whose names the new ones would share."""
    (folder / "export.json").unlink()
    for file in stale.files:
        (folder / Path(file.path).name).unlink(missing_ok=True)


def _check_whole(path: Path) -> None:
    """The engine says that all went well also where the disk was full and the file ends in the middle."""
    try:
        open_gguf(path)
    except ModelError as error:
        path.unlink()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _check_room(folder: Path, parameters: int, quants: Sequence[str]) -> None:
    need = 2.1 * parameters + sum(BYTES_PER_WEIGHT.get(q, 2.1) * parameters for q in quants if q != "f16")
    free = shutil.disk_usage(folder).free
    if free < need:
        raise FinetuneError(
            f"The export needs {need / 2**30:.1f} GB of disk and {folder} has {free / 2**30:.1f} GB free: make room."
        )
