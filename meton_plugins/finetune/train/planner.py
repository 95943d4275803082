"""Make the folder of a new run: everything that its training needs, checked before a night is spent on it."""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..curate import dataset as datasets
from ..curate.manifest import MANIFEST
from ..engine import gpu
from ..engine.compute import ComputeConfig
from ..engine.jobs import threads
from ..engine.package import installed
from ..errors import DataError, UsageError
from ..gguf.chat_template import BUILT_IN, template_for
from ..gguf.inspect import check_trainable, fingerprint, inspect, sha256_of
from ..paths import Home, check_name, private_dir, replacing, sync_dir, write_json
from ..settings import TrainSettings
from .lineage import adapter_of, learned, remember
from .record import BaseRecord, RunRecord
from .replay import REPLAY, Chosen, choose
from .runs import CHAT_TEMPLATE, START, Run
from .unfinished import owned, sweep_unfinished

__all__ = [
    "Ingredients",
    "base_record",
    "check_judged",
    "check_new",
    "chosen",
    "create",
    "create_sweep",
    "free_name",
]

SIDES: Final = ("train", "validation")


@dataclass(frozen=True)
class Ingredients:
    """What a run is made of. `parent`: the run that it continues; `replay` and `recipe` as in `RunRecord`."""

    base: BaseRecord
    dataset: Path
    settings: TrainSettings
    system: str
    parent: Run | None = None
    replay: float | None = None
    recipe: str | None = None


def free_name(runs: Path) -> str:
    """The first of run-1, run-2, ... that nothing in the folder `runs` has."""
    taken = {path.name for path in runs.iterdir()} if runs.is_dir() else set()
    return next(name for number in range(1, len(taken) + 2) if (name := f"run-{number}") not in taken)


def base_record(base: Path, name: str | None, progress: Callable[[int, int], None] | None = None) -> BaseRecord:
    """The facts of `base`; ModelError where it cannot be trained on. Reads the whole file for its hash."""
    info = inspect(base)
    check_trainable(info, name)
    facts = base.stat()
    return BaseRecord(
        path=str(base.resolve()), sha256=fingerprint(base, progress), name=name, architecture=info.architecture,
        parameters=info.parameters, size=facts.st_size, mtime_ns=facts.st_mtime_ns,
    )  # fmt: skip


def check_new(runs: Path, name: str | None, reserved: Collection[str]) -> None:
    """UsageError where no new run in the folder `runs` can be called `name`. `reserved`: words of commands."""
    if name is None:
        return
    check_name(name, "run")
    if name in reserved:
        raise UsageError(f"{name!r} is a command's word: give the run another --name.")
    if (runs / name).exists():
        raise UsageError(f"There is a run {name!r} already: give another --name.")


def create(
    home: Home, made_of: Ingredients, name: str | None = None, *, sweep: str | None = None, keep_all: bool = False,
    compute: ComputeConfig | None = None, plan: dict[str, Any] | None = None,
) -> Run:  # fmt: skip
    """The folder of a new run, whole or not at all. `compute`: how it computes; None where its worker is to decide."""
    base, settings = made_of.base, made_of.settings
    engine = installed()
    versions = {
        "plugin": __version__, "engine": engine.version, "backend": engine.backend, "products": engine.products_name,
    }  # fmt: skip
    if settings.gpu_layers:  # a GPU that trains wrongly, or is none, is refused before the night
        versions["gpu"] = gpu.prove()
    template_for(inspect(Path(base.path)), settings.chat_template)
    check_new(home.runs, name, ())
    called = name or free_name(home.runs)
    final = home.runs / called
    rows = chosen(made_of)
    counts = {side: len(getattr(rows.dataset, side)) for side in SIDES}
    record = RunRecord(
        name=called, created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), base=base,
        dataset=rows.dataset.id, learned=rows.dataset.manifest.learned, examples=counts, settings=settings,
        template=settings.template, system=made_of.system, loss_counts="answer",
        threads=compute.threads if compute else threads(settings.threads), compute=compute,
        parent=made_of.parent.name if made_of.parent else None, replay=made_of.replay, recipe=made_of.recipe,
        sweep=sweep, keep_all=keep_all, plan=plan,
        versions=versions,
    )  # fmt: skip
    sweep_unfinished(private_dir(home.runs))
    partial = Path(tempfile.mkdtemp(prefix=f".{called}.", dir=home.runs))
    try:
        with owned(partial):
            _freeze(rows, private_dir(partial / "dataset"))
            if settings.chat_template and settings.chat_template not in BUILT_IN:
                _copy(Path(settings.chat_template).expanduser(), partial / CHAT_TEMPLATE)
            if made_of.parent:
                record = record.model_copy(update={"parent_adapter": _begin_with(made_of.parent, partial)})
            write_json(partial / "run.json", record.model_dump(mode="json"))
            partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_dir(home.runs)
    return Run(final)


def _begin_with(parent: Run, folder: Path) -> str:
    """Put into `folder`, which goes on from `parent`, its adapter and what it has learned; the adapter's sha256."""
    _copy(adapter_of(parent), folder / START)
    # Of the copy: nobody can have changed it between the two looks.
    sha256 = sha256_of(folder / START)
    remember(folder, learned(parent), sha256)
    for note in parent.redacted:
        if note.trained or note.through:
            through = {"trained": 0, "judged": 0, "through": note.through or parent.name}
            Run(folder).redact(note.model_copy(update=through))
    return sha256


def chosen(made_of: Ingredients) -> Chosen:
    """The rows that a run of these ingredients is trained on and judged by; DataError where none are to train on."""
    frozen = datasets.load(made_of.dataset)
    if not frozen.train:
        raise DataError(
            f"The dataset {made_of.dataset.name} has no training examples: rate more answers and build again."
        )
    if made_of.parent is None:
        return Chosen(frozen, None, {})
    return choose(frozen, learned(made_of.parent), made_of.replay, made_of.settings.seed)


def _freeze(rows: Chosen, folder: Path) -> None:
    """The run's own copy of its dataset."""
    for file in rows.dataset.path.iterdir():
        _copy(file, folder / file.name)
    for name, raw in rows.files.items():
        with replacing(folder / name) as target:
            target.write(raw)
    if rows.files:
        write_json(folder / MANIFEST, rows.dataset.manifest.model_dump(mode="json"))
    if rows.replay:
        write_json(folder / REPLAY, rows.replay.model_dump())


def check_judged(made_of: Ingredients) -> None:
    """DataError where the runs would have no validation side: nothing would tell which one is best."""
    if not chosen(made_of).dataset.validation:
        raise DataError(
            f"The dataset {made_of.dataset.name} has no validation examples, "
            "by which the runs of a sweep are compared: rate more answers and build again."
        )


def create_sweep(
    home: Home,
    made_of: Ingredients,
    settings: Sequence[TrainSettings],
    name: str,
    *,
    keep_all: bool = False,
    compute: ComputeConfig | None = None,
) -> list[Run]:
    """The folders of the runs `name`-1, `name`-2, ...: one for each of `settings`; all of them or none."""
    made: list[Run] = []
    try:
        for number, each in enumerate(settings, 1):
            parts = replace(made_of, settings=each)
            made.append(create(home, parts, f"{name}-{number}", sweep=name, keep_all=keep_all, compute=compute))
    except BaseException:
        for run in made:
            shutil.rmtree(run.folder, ignore_errors=True)
        raise
    return made


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, replacing(target) as file:
        shutil.copyfileobj(read, file, 1 << 22)
