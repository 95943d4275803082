"""From a run to files that a server can load: the adapter merged into F16, then quantized by the engine."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from ..engine.jobs import check_quantization, quantize
from ..errors import BusyError, FinetuneError, UsageError
from ..gguf.inspect import fingerprint
from ..gguf.merge import merge
from ..paths import Home, private_dir, replacing_path, write_json
from ..train.runs import Run
from ..train.worker import check_base
from .export_record import Export, ExportedFile, Which, read_export
from .survival import measure, unmeasured

__all__ = ["export_adapter", "export_model"]

#: `stage` is what is being done, for the user; then what is done of it.
Progress = Callable[[str, int, int], None]

#: Bytes a weight, rounded up, for the check of the disk; F16's for what is not listed.
BYTES_PER_WEIGHT: Final = {"q8_0": 1.07, "q6_k": 0.83, "q5_k_m": 0.72, "q5_k_s": 0.7, "q4_k_m": 0.62, "q4_0": 0.6}


def export_model(
    home: Home,
    run: Run,
    quants: Sequence[str],
    which: Which = "best",
    progress: Progress | None = None,
    *,
    check: bool = True,
) -> tuple[Export, bool]:
    """The tuned model of `run` as GGUF, one file for each of `quants`, in `<home>/models/<run>/`.

    Files that are there already, from the same adapter, are kept. `check`: measure what each keeps of the adapter's
    gain, once. Returns the export and whether anything was written.
    """
    wanted = [check_quantization(name) for name in dict.fromkeys(quants)]
    if not wanted:
        raise UsageError("Say which quantization to write, such as --quant q4_k_m.")
    record, adapter = run.record, run.adapter(which)
    check_base(record)
    tell = progress or _silent
    with _alone(home, run) as folder:
        sha256 = fingerprint(adapter)
        earlier = read_export(folder)
        made = _whole(earlier, sha256) or Export(
            run=run.name, base={"path": record.base.path, "name": record.base.name, "sha256": record.base.sha256},
            adapter=which, adapter_sha256=sha256, template=record.template,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )  # fmt: skip
        missing = [quant for quant in wanted if not made.has(quant)]
        half = folder / f"{made.run}-f16.gguf"

        def save() -> None:
            write_json(folder / "export.json", made.model_dump())

        try:
            if missing:
                _check_room(folder, record.base.parameters, missing)
                if earlier and earlier.adapter_sha256 != sha256:
                    _remove(folder, earlier)
                _write(half, Path(record.base.path), adapter, made, missing, save, tell)
            if check and unmeasured(made):
                measure(home, run, adapter, half, made, save, tell)
        finally:
            # Also one that a killed export had left; it is the largest of all.
            if not made.has("f16"):
                half.unlink(missing_ok=True)
        return made, bool(missing)


def _write(
    half: Path,
    base: Path,
    adapter: Path,
    made: Export,
    missing: Sequence[str],
    save: Callable[[], None],
    tell: Progress,
) -> None:
    if not made.has("f16"):
        merge(base, adapter, half, lambda done, total: tell("merging", done, total))
    for quant in missing:
        path = half.with_name(f"{made.run}-{quant}.gguf")
        if quant != "f16":
            quantize(half, path, quant, _stage(tell, f"quantizing to {quant}"))
        sha = fingerprint(path, _stage(tell, f"hashing {quant}"))
        made.files.append(ExportedFile(quant=quant, path=str(path), sha256=sha, bytes=path.stat().st_size))
        save()


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


def _check_room(folder: Path, parameters: int, quants: Sequence[str]) -> None:
    need = 2.1 * parameters + sum(BYTES_PER_WEIGHT.get(q, 2.1) * parameters for q in quants if q != "f16")
    free = shutil.disk_usage(folder).free
    if free < need:
        raise FinetuneError(
            f"The export needs {need / 2**30:.1f} GB of disk and {folder} has {free / 2**30:.1f} GB free: make room."
        )
