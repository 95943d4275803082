"""From a run to files that a server can load: the adapter merged into its base, in the base's own types or others."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from ..curate.manifest import FILES
from ..engine.jobs import TrainingRows, check_quantization, default_quantization, quantize
from ..errors import BusyError, FinetuneError, UsageError
from ..gguf.inspect import fingerprint
from ..gguf.merge import SEED, merge
from ..paths import Home, private_dir, replacing_path, write_json
from ..train.runs import Run
from ..train.worker import check_base
from .export_record import Export, ExportedFile, Rounding, Which, read_export
from .subject import template_of
from .survival import measure, unmeasured

__all__ = ["export_adapter", "export_model"]

#: `stage` is what is being done, for the user; then what is done of it.
Progress = Callable[[str, int, int], None]

#: Bytes a weight, rounded up, for the check of the disk; F16's for what is not listed.
BYTES_PER_WEIGHT: Final = {
    "q8_0": 1.07, "q6_k": 0.83, "q5_k_m": 0.72, "q5_k_s": 0.7, "q5_0": 0.7, "q4_k_m": 0.62, "q4_k_s": 0.6, "q4_0": 0.6,
    "q3_k_l": 0.56, "q3_k_m": 0.52, "q3_k_s": 0.48, "q2_k": 0.45,
}  # fmt: skip


def export_model(
    home: Home,
    run: Run,
    quants: Sequence[str] | None = None,
    which: Which = "best",
    progress: Progress | None = None,
    *,
    check: bool = True,
) -> tuple[Export, bool]:
    """The tuned model of `run` as GGUF, one file for each of `quants`, in `<home>/models/<run>/`.

    Without `quants`, in the type that suits the base. Files that are there already, from the same adapter, are kept.
    `check`: measure what each keeps of the adapter's gain, once. Returns the export and whether anything was written.
    """
    record, adapter = run.record, run.adapter(which)
    base = Path(record.base.path)
    if quants is not None and not quants:
        raise UsageError("Say which quantization to write, such as --quant q4_k_m.")
    wanted = [check_quantization(name) for name in dict.fromkeys(quants or ())]
    check_base(record)
    wanted = wanted or [default_quantization(base)]
    tell = progress or _silent
    with _alone(home, run) as folder:
        sha256 = fingerprint(adapter)
        earlier = read_export(folder)
        export = _whole(earlier, sha256) or Export(
            run=run.name, base={"path": record.base.path, "name": record.base.name, "sha256": record.base.sha256},
            adapter=which, adapter_sha256=sha256, template=record.template,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )  # fmt: skip
        missing = [quant for quant in wanted if not export.has(quant)]
        if not export.has("f16"):
            # A killed export of an earlier version may have left it; it is the largest of all.
            (folder / f"{run.name}-f16.gguf").unlink(missing_ok=True)

        def save() -> None:
            write_json(folder / "export.json", export.model_dump())

        if missing:
            _check_room(folder, base, record.base.parameters, missing)
            if earlier and earlier.adapter_sha256 != sha256:
                _remove(folder, earlier)
            for quant in missing:
                export.files.append(_write(folder / f"{run.name}-{quant}.gguf", run, adapter, quant, tell))
                save()
        if check and unmeasured(export):
            measure(home, run, adapter, export, save, tell)
        return export, bool(missing)


def _write(path: Path, run: Run, adapter: Path, quant: str, tell: Progress) -> ExportedFile:
    """Write one file of the base of `run` with `adapter`; F16 needs no engine."""
    record, stage = run.record, _stage(tell, f"writing {quant}")
    base = Path(record.base.path)
    if quant == "f16":
        written = merge(base, adapter, path, stage)
    else:
        rows = TrainingRows(
            run.folder / "dataset" / FILES["train"], record.system, record.settings.ctx_size, record.learned,
            template_of(run),
        )  # fmt: skip
        written = quantize(base, path, quant, stage, adapter=adapter, rows=rows)
    sha256 = fingerprint(path, _stage(tell, f"hashing {quant}"))
    # A type that was asked for is none that a tensor was driven to.
    return ExportedFile(
        quant=quant, path=str(path), sha256=sha256, bytes=path.stat().st_size, types=written.types,
        retyped=written.retyped if quant == "base" else {}, change_per_step=written.change_per_step,
        clipped=written.clipped, seed=SEED,
        rounding=Rounding(**written.chosen._asdict()) if written.chosen else None,
    )  # fmt: skip


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


def _check_room(folder: Path, base: Path, parameters: int, quants: Sequence[str]) -> None:
    size = base.stat().st_size
    need = sum(1.01 * size if q == "base" else BYTES_PER_WEIGHT.get(q, 2.1) * parameters for q in quants)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise FinetuneError(
            f"The export needs {need / 2**30:.1f} GB of disk and {folder} has {free / 2**30:.1f} GB free: make room."
        )
