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
from ..settings import TrainSettings
from . import checkpoint
from .adapted import Adapter
from .gradient import Trainer
from .library import Library
from .loop import Emit, Training, Wanted, mean_loss
from .manner import manner_of
from .model import Model
from .opening import open_trainer

__all__ = ["read_chats", "train", "with_system"]

OLD_CHILD_SECONDS: Final = 60


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
    """Train as `job` says (base, folder, system, learned, settings, threads), from its newest checkpoint if any.

    `start`, where the job has one: an adapter to begin with.
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
        manner = manner_of(
            library.engine, info, longest, accelerate=settings.accelerate, precision=settings.precision,
            weights=settings.weights,
        )  # fmt: skip
        if settings.precision == "bf16" and settings.accelerate and not manner.bf16:
            emit("note", message=f"weights are multiplied in F32: {library.engine.products_name} has no bf16 here")

        def opened(adapter: Adapter) -> Trainer:
            tokens = sides["train"][0].tokens
            return open_trainer(
                model, base, longest, job["threads"], adapter, manner, tokens, lambda text: emit("note", message=text)
            )

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


def _describe(rows: Sequence[Row], skipped: Sequence[Skipped]) -> dict[str, Any]:
    return {
        "rows": len(rows),
        "tokens": sum(row.length for row in rows),
        "learned": sum(row.learned for row in rows),
        "longest": max((row.length for row in rows), default=0),
        "skipped": [dataclasses.asdict(each) for each in skipped],
    }
