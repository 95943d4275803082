"""Make the folder of a new run: everything that its training needs, checked before a night is spent on it."""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..curate import dataset as datasets
from ..engine.jobs import threads
from ..engine.package import installed
from ..errors import DataError, UsageError
from ..gguf.chat_template import BUILT_IN, template_for
from ..gguf.inspect import check_trainable, fingerprint, inspect
from ..paths import Home, check_name, private_dir, replacing, sync_dir, write_json
from ..settings import TrainSettings
from .record import BaseRecord, RunRecord
from .runs import CHAT_TEMPLATE, Run

__all__ = ["Ingredients", "base_record", "check_new", "create", "free_name"]

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
    home: Home, made_of: Ingredients, name: str | None = None, *, sweep: str | None = None, workers: int = 0,
    plan: dict[str, Any] | None = None,
) -> Run:  # fmt: skip
    """The folder of a new run, whole or not at all. `workers`: threads, where the settings leave them open."""
    base, dataset, settings = made_of.base, made_of.dataset, made_of.settings
    engine = installed()
    template_for(inspect(Path(base.path)), settings.chat_template)
    check_new(home.runs, name, ())
    chosen = name or free_name(home.runs)
    final = home.runs / chosen
    frozen = datasets.load(dataset)
    counts = {side: len(getattr(frozen, side)) for side in SIDES}
    if not counts["train"]:
        raise DataError(f"The dataset {dataset.name} has no training examples: rate more answers and build again.")
    record = RunRecord(
        name=chosen, created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), base=base,
        dataset=frozen.id, learned=frozen.manifest.learned, examples=counts, settings=settings,
        template=settings.template, system=made_of.system, threads=threads(settings.threads or workers),
        parent=made_of.parent.name if made_of.parent else None, replay=made_of.replay, recipe=made_of.recipe,
        sweep=sweep, plan=plan,
        versions={"plugin": __version__, "engine": engine.version, "backend": engine.backend},
    )  # fmt: skip
    private_dir(home.runs)
    partial = Path(tempfile.mkdtemp(prefix=f".{chosen}.", dir=home.runs))
    try:
        for file in dataset.iterdir():
            _copy(file, private_dir(partial / "dataset") / file.name)
        if settings.chat_template and settings.chat_template not in BUILT_IN:
            _copy(Path(settings.chat_template).expanduser(), partial / CHAT_TEMPLATE)
        write_json(partial / "run.json", record.model_dump(mode="json"))
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_dir(home.runs)
    return Run(final)


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as file:
        file.write(source.read_bytes())
