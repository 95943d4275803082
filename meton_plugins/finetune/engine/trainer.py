"""One training, in the child process: rows, steps, validation, checkpoints. Says what it does through `emit`."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import psutil
from filelock import FileLock

from ..errors import DataError, EngineError
from ..gguf.chat_template import template_for
from ..gguf.inspect import check_trainable, inspect
from ..gguf.rows import Row, Skipped, build_rows
from ..settings import TrainSettings
from . import checkpoint
from .adamw import AdamW, mean_gradient
from .checkpoint import Position
from .gradient import Adapter, RowTrainer
from .library import Library
from .model import Model
from .schedule import learning_rate, order

__all__ = ["Training", "read_chats", "train", "with_system"]

Emit = Callable[..., None]
#: "stop", "pause" or None: what the worker wants.
Wanted = Callable[[], "str | None"]
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
    """Train as `job` says (base, folder, system, learned, settings, threads), from its newest checkpoint if any."""
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
    with Model(library, base, gpu_layers=settings.gpu_layers) as model:
        sides: dict[str, list[Row]] = {}
        for side in ("train", "validation"):
            chats = read_chats(folder / "dataset" / f"{side}.jsonl", job["system"])
            sides[side], skipped = build_rows(chats, template, model, settings.ctx_size, job["learned"])
            emit("rows", side=side, **_describe(sides[side], skipped))
        if not sides["train"]:
            raise DataError("No example is left to train on: all were skipped; see the log, or raise --ctx-size.")
        longest = max(row.length for rows in sides.values() for row in rows)
        found = checkpoint.latest(folder / "checkpoints")
        begun_with = folder / "start.gguf"
        adapter = Adapter(
            rank=settings.lora_rank, alpha=settings.lora_alpha, targets=settings.lora_targets, seed=settings.seed,
            file=checkpoint.adapter_file(found) if found else begun_with if begun_with.is_file() else None,
        )  # fmt: skip
        with RowTrainer(model, longest, job["threads"], adapter) as trainer:
            training = Training(folder, settings, sides["train"], sides["validation"], trainer, emit, wanted)
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


class Training:
    """The loop over epochs and batches. A step is one update from `batch_size` rows."""

    def __init__(
        self, folder: Path, settings: TrainSettings, rows: list[Row], validation: list[Row], trainer: RowTrainer,
        emit: Emit, wanted: Wanted,
    ) -> None:  # fmt: skip
        self.folder, self.settings, self.rows, self.validation = folder, settings, rows, validation
        self.trainer, self.emit, self.wanted = trainer, emit, wanted
        self.optimizer = AdamW(weight_decay=settings.weight_decay, max_norm=settings.max_grad_norm)
        self.batches = math.ceil(len(rows) / settings.batch_size)
        self.total = settings.epochs * self.batches
        self.position = Position()
        self._speed = 0.0
        self._saved_step = -1

    def restore(self, found: Path) -> None:
        """Go on from the checkpoint `found`."""
        self.position = checkpoint.restore(found, self.optimizer)
        self._saved_step = self.position.step
        self.emit("resumed", step=self.position.step, epoch=self.position.epoch)

    def run(self) -> None:
        """Train to the end, or until stop or pause is wanted."""
        self.emit("begin", steps=self.total, batches=self.batches, epochs=self.settings.epochs)
        if self.position.step == 0 and self.validation:
            loss = self._validate()
            self._move(base_loss=loss)
            self.emit("validation", step=0, epoch=0, loss=loss)
        for epoch in range(self.position.epoch, self.settings.epochs):
            for batch in range(self.position.batch, self.batches):
                self._step(epoch, batch)
                self._move(step=self.position.step + 1, batch=batch + 1)
                wanted = self.wanted()
                if wanted:
                    self._save()
                    if wanted == "pause":
                        self.emit("paused", step=self.position.step)
                        return
                    self._finish("stopped")
                    return
                if self.position.step % self.settings.save_steps == 0 and batch + 1 < self.batches:
                    self._save()
            self._move(epoch=epoch + 1, batch=0)
            self._end_epoch(epoch + 1)
        self._finish("finished")

    def _move(self, **changes: Any) -> None:
        self.position = dataclasses.replace(self.position, **changes)

    def _step(self, epoch: int, batch: int) -> None:
        started = time.monotonic()
        settings = self.settings
        picked = order(len(self.rows), settings.seed, epoch)[batch * settings.batch_size :][: settings.batch_size]
        parts, total_loss, learned, tokens = [], 0.0, 0, 0
        for index in picked:
            row = self.rows[index]
            loss, gradients = self.trainer.gradients(row.tokens, row.trained)
            parts.append((row.learned, gradients))
            total_loss += loss * row.learned
            learned += row.learned
            tokens += row.length
        rate = learning_rate(self.position.step, self.total, settings.learning_rate, settings.warmup)
        norm = self.optimizer.step(self.trainer.weights(), mean_gradient(parts), rate)
        if not math.isfinite(total_loss + norm):
            raise EngineError(
                f"The loss is no longer a number at step {self.position.step + 1}: training diverged; "
                f"halve --learning-rate (now {settings.learning_rate:g})."
            )
        seconds = time.monotonic() - started
        self._speed = tokens / seconds if not self._speed else 0.9 * self._speed + 0.1 * tokens / seconds
        self.emit(
            "step",
            step=self.position.step + 1, steps=self.total, epoch=epoch + 1, epochs=settings.epochs,
            loss=total_loss / learned, learning_rate=rate, gradient_norm=norm, tokens=tokens, learned=learned,
            seconds=seconds, tokens_per_s=self._speed, seconds_left=self._seconds_left(epoch, batch),
            rss_mb=psutil.Process().memory_info().rss / 2**20,
        )  # fmt: skip

    def _seconds_left(self, epoch: int, batch: int) -> float:
        per_epoch = sum(row.length for row in self.rows)
        done = (epoch + (batch + 1) / self.batches) * per_epoch
        checks = sum(row.length for row in self.validation) * (self.settings.epochs - epoch)
        # A validation pass has no backward half; it takes about a third of the time a token.
        return max(0.0, self.settings.epochs * per_epoch - done + checks / 3) / max(self._speed, 1e-9)

    def _validate(self) -> float:
        """Mean loss over all learned tokens of the validation rows."""
        total = sum(self.trainer.loss(row.tokens, row.trained) * row.learned for row in self.validation)
        return total / sum(row.learned for row in self.validation)

    def _end_epoch(self, epoch: int) -> None:
        if self.validation:
            loss = self._validate()
            best = self.position.best_loss is None or loss < self.position.best_loss
            if best:
                checkpoint.save_adapter(self.trainer, self.folder / "best.gguf")
                self._move(best_loss=loss, best_step=self.position.step)
            self.emit("validation", step=self.position.step, epoch=epoch, loss=loss, best=best)
        self._save()

    def _save(self) -> None:
        if self._saved_step == self.position.step:
            return
        path = checkpoint.save(self.folder / "checkpoints", self.position, self.trainer, self.optimizer)
        self._saved_step = self.position.step
        self.emit("checkpoint", step=self.position.step, path=path.name)

    def _finish(self, how: str) -> None:
        checkpoint.save_adapter(self.trainer, self.folder / "adapter.gguf")
        self.emit(
            how,
            step=self.position.step, best_loss=self.position.best_loss, best_step=self.position.best_step,
            base_loss=self.position.base_loss, peak_rss_mb=_peak_rss_mb(),
        )  # fmt: skip


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
