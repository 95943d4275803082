"""The job of a training, in the child process: a run's folder becomes rows, weights to begin with, and a loop."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from ..errors import DataError
from ..gguf.chat_template import template_for
from ..gguf.inspect import check_trainable, inspect
from ..gguf.rows import Row, Skipped, build_rows
from ..graph.shape import Unsupported
from ..settings import TrainSettings
from . import checkpoint
from .adapted import Adapter
from .autotune import Wishes, autotune
from .compute import ComputeConfig
from .gradient import Trainer
from .library import Library
from .loop import Emit, Training, Wanted, mean_loss
from .model import Model
from .trainer_factory import open_trainer

__all__ = ["read_chats", "train", "with_system"]

OLD_CHILD_SECONDS: Final = 60
#: What the user should know of a run that goes on as it was begun.
COUNTS_ALL: Final = (
    "it began with an older version, so its validation loss goes on counting all learned tokens, Meton's form too"
)


def read_chats(path: Path, system: str) -> list[tuple[str, list[dict[str, str]]]]:
    """Id and messages of each line of a dataset file, `system` put before those that have no system message."""
    # By its bytes: an answer may hold a character that Python takes for the end of a line (U+2028, U+0085).
    values = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [(value["id"], with_system(value["messages"], system)) for value in values]


def with_system(messages: list[dict[str, str]], system: str) -> list[dict[str, str]]:
    """`messages` as they are trained: `system` comes first where there is one and they have none of their own."""
    if system and messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    return messages


def train(library: Library, job: dict[str, Any], emit: Emit, wanted: Wanted) -> None:
    """Train as `job` says (base, folder, system, learned, loss_counts, settings, threads), from its newest checkpoint
    if any.

    `start`, where the job has one: an adapter to begin with. `compute`: how, as recorded; where there is none it is
    decided here, and recorded before the first step. `cores` and `room_mb`: what this machine has for that.
    """
    folder, base = Path(job["folder"]), Path(job["base"])
    # The child of a killed worker may need a moment to die: two writers in one run would spoil its checkpoints.
    with FileLock(folder / "engine.lock", timeout=OLD_CHILD_SECONDS):
        _train(library, folder, base, job, emit, wanted)


def _train(library: Library, folder: Path, base: Path, job: dict[str, Any], emit: Emit, wanted: Wanted) -> None:
    settings = TrainSettings.model_validate(job["settings"])
    info = inspect(base)
    check_trainable(info)
    created = job.get("created")
    today = datetime.datetime.fromisoformat(created) if created else None
    template = template_for(info, settings.chat_template, today)
    found, damaged = checkpoint.usable(folder / "checkpoints")
    start = Path(job["start"]) if job.get("start") else None
    with Model(library, base, gpu_layers=settings.gpu_layers) as model:
        sides: dict[str, list[Row]] = {}
        for side in ("train", "validation"):
            chats = read_chats(folder / "dataset" / f"{side}.jsonl", job["system"])
            sides[side], skipped = build_rows(chats, template, model, settings.ctx_size, job["learned"])
            emit("rows", side=side, **_describe(sides[side], skipped))
        if job.get("loss_counts", "all") == "all" and any(row.answer is not None for row in sides["validation"]):
            sides["validation"] = [dataclasses.replace(row, answer=None) for row in sides["validation"]]
            emit("note", message=COUNTS_ALL)
        if not sides["train"]:
            raise DataError("No example is left to train on: all were skipped; see the log, or raise --ctx-size.")
        if damaged:
            there = "the one before it" if found else "the beginning"
            which = f"checkpoint {damaged[0]} was" if len(damaged) == 1 else f"checkpoints {' and '.join(damaged)} were"
            emit("note", message=f"the {which} damaged: training went on from {there}")
        longest = max(row.length for rows in sides.values() for row in rows)
        new = Adapter(
            rank=settings.lora_rank, alpha=settings.lora_alpha, targets=settings.lora_targets, seed=settings.seed
        )
        computing = _Computing(model, base, sides["train"], longest, new, settings, job, emit)
        computing.decide(resumed=found is not None)
        opened = computing.open

        base_loss = None
        if start and not found and sides["validation"]:
            # An adapter that is new changes nothing yet: this is the base's own loss, by the same arithmetic.
            with opened(new) as trainer:
                base_loss = mean_loss(trainer, sides["validation"], wanted)
        file = checkpoint.adapter_file(found) if found else start
        adapter = Adapter(file=file) if file else new
        with opened(adapter) as trainer:
            training = Training(
                folder, settings, sides["train"], sides["validation"], trainer, emit, wanted, start, base_loss
            )
            if found:
                training.restore(found)
            training.run()


class _Computing:
    """How the run computes: as recorded, or decided now and recorded through `emit`."""

    def __init__(
        self, model: Model, base: Path, rows: Sequence[Row], longest: int, adapter: Adapter, settings: TrainSettings,
        job: dict[str, Any], emit: Emit,
    ) -> None:  # fmt: skip
        self._model, self._base, self._rows, self._longest, self._adapter = model, base, rows, longest, adapter
        self._settings, self._job, self._emit = settings, job, emit
        recorded = job.get("compute")
        self.compute = ComputeConfig.model_validate(recorded) if recorded else ComputeConfig()
        self._recorded = bool(recorded)

    def decide(self, *, resumed: bool) -> None:
        """Measure, unless it is recorded; say what the user should know of it."""
        if self._recorded:
            if not resumed:
                self._say()
            return
        settings, job, cores = self._settings, self._job, int(self._job["cores"])
        # An older version recorded its threads, and nothing else.
        threads = min(int(job["threads"]), cores) if resumed else settings.threads
        wishes = Wishes(
            settings.accelerate and not settings.gpu_layers, settings.precision, settings.weights, threads, cores
        )
        rising = sorted(self._rows, key=lambda row: row.length)
        self._record(
            autotune(self._model, self._base, inspect(self._base), rising, self._adapter, wishes, float(job["room_mb"]))
        )
        if resumed:
            self._emit(
                "note",
                message="it began with an older version, which did not record how it computed, and goes on with "
                f"{self.compute.name}: bit-identity with an undisturbed run is lost",
            )
        self._say()

    def open(self, adapter: Adapter) -> Trainer:
        """A trainer for `adapter`; where what was recorded cannot be had on this machine, with what can be."""
        while True:
            compute = self.compute
            if not compute.own:  # its threads wait for each other without end where there are fewer cores
                compute = compute.model_copy(update={"threads": min(compute.threads, int(self._job["cores"]))})
            try:
                return open_trainer(self._model, self._base, self._longest, adapter, compute)
            except Unsupported as error:
                if self.compute.precision == "bf16":
                    changed = self.compute.model_copy(update={"precision": "f32", "weights": "packed"})
                else:
                    changed = self.compute.model_copy(update={"trainer": "library", "reason": str(error)})
                self._emit("note", message=f"it cannot go on computing as it began, because {error}")
                self._record(changed)
                self._say()

    def _record(self, compute: ComputeConfig) -> None:
        self.compute = compute
        self._emit("compute", compute=compute.model_dump())
        # Nothing is computed before it is recorded: a kill in between would let the run go on otherwise.
        self._emit("sync")

    def _say(self) -> None:
        if self.compute.reason:
            self._emit(
                "note",
                message=f"the library's own pass is used, which is slower, because {self.compute.reason}",
            )
        for note in self.compute.notes:
            self._emit("note", message=note)


def _describe(rows: Sequence[Row], skipped: Sequence[Skipped]) -> dict[str, Any]:
    return {
        "rows": len(rows),
        "tokens": sum(row.length for row in rows),
        "learned": sum(row.learned for row in rows),
        "counted": sum(row.counted for row in rows),
        "longest": max((row.length for row in rows), default=0),
        "skipped": [dataclasses.asdict(each) for each in skipped],
    }
