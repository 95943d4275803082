"""Make the folder of a new run: everything that its training needs, checked before a night is spent on it."""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .. import __version__
from ..curate import dataset as datasets
from ..engine.jobs import threads
from ..engine.package import installed
from ..errors import DataError, UsageError
from ..gguf.chat_template import template_for
from ..gguf.inspect import check_trainable, fingerprint, inspect
from ..paths import Home, check_name, private_dir, sync_dir
from ..settings import TrainSettings
from .record import BaseRecord, RunRecord
from .runs import Run, all_runs

__all__ = ["base_record", "create", "free_name"]

SIDES = ("train", "validation")


def free_name(runs: Path) -> str:
    """The first of run-1, run-2, ... that no run has."""
    taken = {run.name for run in all_runs(runs)}
    return next(name for number in range(1, len(taken) + 2) if (name := f"run-{number}") not in taken)


def base_record(base: Path, name: str | None, progress: Callable[[int, int], None] | None = None) -> BaseRecord:
    """The facts of `base`; ModelError where it cannot be trained on. Reads the whole file for its hash."""
    info = inspect(base)
    check_trainable(info)
    facts = base.stat()
    return BaseRecord(
        path=str(base.resolve()), sha256=fingerprint(base, progress), name=name, architecture=info.architecture,
        parameters=info.parameters, size=facts.st_size, mtime_ns=facts.st_mtime_ns,
    )  # fmt: skip


def create(
    home: Home, *, base: BaseRecord, dataset: Path, settings: TrainSettings, system: str, name: str | None = None,
    reserved: tuple[str, ...] = (),
) -> Run:  # fmt: skip
    """The folder of a new run, whole or not at all. `reserved`: words that are commands, which no run may be called."""
    engine = installed()
    template_for(inspect(Path(base.path)), settings.chat_template)
    chosen = check_name(name, "run") if name else free_name(home.runs)
    if chosen in reserved:
        raise UsageError(f"{chosen!r} is a command's word: give the run another --name.")
    final = home.runs / chosen
    if final.exists():
        raise UsageError(f"There is a run {chosen!r} already: give another --name.")
    frozen = datasets.load(dataset)
    counts = {side: len(getattr(frozen, side)) for side in SIDES}
    if not counts["train"]:
        raise DataError(f"The dataset {dataset.name} has no training examples: rate more answers and build again.")
    record = RunRecord(
        name=chosen, created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), base=base,
        dataset=frozen.id, learned=frozen.manifest.learned, examples=counts, settings=settings,
        template=settings.template, system=system,
        threads=threads(settings.threads),
        versions={"plugin": __version__, "engine": engine.version, "backend": engine.backend},
    )  # fmt: skip
    private_dir(home.runs)
    partial = Path(tempfile.mkdtemp(prefix=f".{chosen}.", dir=home.runs))
    try:
        shutil.copytree(dataset, partial / "dataset")
        (partial / "run.json").write_text(record.model_dump_json(indent=1), encoding="utf-8")
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_dir(home.runs)
    return Run(final)
