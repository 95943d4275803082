"""One training: steps, validations, checkpoints, and when it is enough. Says what it does through `emit`."""

from __future__ import annotations

import dataclasses
import math
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ..errors import EngineError
from ..gguf.rows import Row
from ..paths import replacing_path
from ..settings import TrainSettings
from . import checkpoint
from .adamw import AdamW, mean_gradient
from .checkpoint import Position
from .gradient import Trainer
from .schedule import learning_rate, order
from .speed import Speed

__all__ = ["Emit", "MeanLoss", "Training", "Wanted", "mean_loss"]

Emit = Callable[..., None]
#: "stop", "pause" or None: what the worker wants.
Wanted = Callable[[], "str | None"]


class MeanLoss(NamedTuple):
    """Nats a token of some rows: over the tokens that count, over the other learned ones (Meton's form; None where
    there are none), and over all learned ones, as the loss of a step is.
    """

    counted: float
    form: float | None
    learned: float


def mean_loss(trainer: Trainer, rows: Sequence[Row], wanted: Wanted) -> MeanLoss | None:
    """Mean loss of `rows`; None where something else was wanted meanwhile."""
    counted = form = 0.0
    for group in trainer.groups(rows):
        if wanted():
            return None
        of_counted, of_form = trainer.totals(group)
        counted += of_counted
        form += of_form
    tokens, learned = sum(row.counted for row in rows), sum(row.learned for row in rows)
    others = learned - tokens
    return MeanLoss(counted / tokens, form / others if others else None, (counted + form) / learned)


class Training:
    """The loop over epochs and batches. A step is one update from `batch_size` rows.

    What is done next follows from the position alone, so that a resume decides as if it had never stopped.
    """

    def __init__(
        self, folder: Path, settings: TrainSettings, rows: list[Row], validation: list[Row], trainer: Trainer,
        emit: Emit, wanted: Wanted, start: Path | None = None, base_loss: MeanLoss | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.settings, self.rows, self.validation = folder, settings, rows, validation
        self.trainer, self.emit, self.wanted = trainer, emit, wanted
        self.start, self.base_loss = start, base_loss
        self.best = folder / checkpoint.BEST
        self.optimizer = AdamW(weight_decay=settings.weight_decay, max_norm=settings.max_grad_norm)
        self.batches = math.ceil(len(rows) / settings.batch_size)
        self.total = settings.epochs * self.batches
        self.position = Position()
        self._from: Path | None = None
        self._speed = Speed()
        self._validation_seconds = 0.0
        self._saved_step = 0
        self._saved_at = time.monotonic()

    def restore(self, found: Path) -> None:
        """Go on from the checkpoint `found`."""
        self.position = checkpoint.restore(found, self.optimizer)
        if self.position.batch >= self.batches:  # rows were forgotten since: this epoch has no batch left
            self._move(epoch=self.position.epoch + 1, batch=0)
        self._from = found
        self._saved_step = self.position.step
        self.emit("resumed", step=self.position.step, epoch=self.position.epoch)

    def run(self) -> None:
        """Train to the end, or until stop or pause is wanted, or until no better validation is to be expected."""
        checkpoint.place_best(self._from / checkpoint.BEST if self._from else None, self.best)
        self.emit("begin", steps=self.total, batches=self.batches, epochs=self.settings.epochs, **self._facts())
        while self._due() or not self._over():
            wish = self.wanted()
            if wish == "pause":
                self._save()
                self.emit("paused", step=self.position.step)
                return
            if wish:
                self._finish("stopped")
                return
            if self._due():
                self._validate()
            else:
                self._save_if_due()
                self._step()
        if self.position.step < self.total:
            mark = self.position.standing.mark_step
            self.emit(
                "early", step=self.position.step, message=f"stopped early: no better validation since step {mark}"
            )
        self._finish("finished")

    def _facts(self) -> dict[str, Any]:
        """Where the training stands, for those who look."""
        position, standing = self.position, self.position.standing
        return {
            "step": position.step, "base_loss": position.base_loss, "start_loss": position.start_loss,
            "best_loss": standing.best_loss, "best_step": standing.best_step, "since_best": standing.since,
            "base_form_loss": position.base_form_loss, "best_form_loss": position.best_form_loss,
        }  # fmt: skip

    def _over(self) -> bool:
        return self.position.step >= self.total or self.position.standing.tired(self.settings.patience)

    def _due(self) -> bool:
        """Whether a validation is to come before the next step."""
        step, every = self.position.step, self.settings.eval_steps
        wanted = self.position.batch == 0 or (every > 0 and step % every == 0)
        return bool(self.validation) and wanted and self.position.validated != step

    def _move(self, **changes: Any) -> None:
        self.position = dataclasses.replace(self.position, **changes)

    def _step(self) -> None:
        started = time.monotonic()
        settings, epoch, batch = self.settings, self.position.epoch, self.position.batch
        picked = order(len(self.rows), settings.seed, epoch)[batch * settings.batch_size :][: settings.batch_size]
        parts, total_loss, learned, tokens = [], 0.0, 0, 0
        for group in self.trainer.groups([self.rows[index] for index in picked]):
            loss, gradients = self.trainer.mean(group)
            count = sum(row.learned for row in group)
            parts.append((count, gradients))
            total_loss += loss * count
            learned += count
            tokens += sum(row.length for row in group)
        rate = learning_rate(self.position.step, self.total, settings.learning_rate, settings.warmup)
        norm = self.optimizer.step(self.trainer.weights(), mean_gradient(parts), rate)
        step = self.position.step + 1
        if not math.isfinite(total_loss + norm):
            raise EngineError(
                f"The loss is no longer a number at step {step}: training diverged; "
                f"halve --learning-rate (now {settings.learning_rate:g})."
            )
        last = batch + 1 >= self.batches
        self._move(step=step, epoch=epoch + last, batch=0 if last else batch + 1)
        seconds = time.monotonic() - started
        self._speed.add(tokens, seconds)
        self.emit(
            "step",
            step=step, steps=self.total, epoch=epoch + 1, epochs=settings.epochs,
            loss=total_loss / learned, learning_rate=rate, gradient_norm=norm, tokens=tokens, learned=learned,
            seconds=seconds, tokens_per_s=self._speed.tokens_per_s, seconds_left=self._seconds_left(),
            rss_mb=psutil.Process().memory_info().rss / 2**20,
        )  # fmt: skip

    def _seconds_left(self) -> float:
        """At most: it may stop early."""
        per_epoch = sum(row.length for row in self.rows)
        done = (self.position.epoch + self.position.batch / self.batches) * per_epoch
        left = max(0.0, self.settings.epochs * per_epoch - done) / max(self._speed.tokens_per_s, 1e-9)
        return left + self._validations_left() * self._seconds_of_validation()

    def _validations_left(self) -> int:
        if not self.validation:
            return 0
        left, every = self.settings.epochs - self.position.epoch + (self.position.batch == 0), self.settings.eval_steps
        if every:
            left += self._multiples(every) - self._multiples(math.lcm(every, self.batches))
        return left

    def _multiples(self, of: int) -> int:
        """How many of the steps from the last one on are multiples."""
        return self.total // of - (self.position.step - 1) // of

    def _seconds_of_validation(self) -> float:
        # A validation pass has no backward half; it takes about a third of the time a token.
        guess = sum(row.length for row in self.validation) / 3 / max(self._speed.tokens_per_s, 1e-9)
        return self._validation_seconds or guess

    def _validate(self) -> None:
        """Judge by the validation rows where the training stands; nothing is done where something else is wanted."""
        started = time.monotonic()
        loss = mean_loss(self.trainer, self.validation, self.wanted)
        if loss is None:
            return
        self._validation_seconds = time.monotonic() - started
        step, standing = self.position.step, self.position.standing
        if step == 0:
            base = self.base_loss if self.start else loss
            if base:
                self._move(base_loss=base.counted, base_form_loss=base.form)
            if not self.start:
                self._move(validated=0)
                self._tell_of(loss, epoch=0)
                return
            self._move(start_loss=loss.counted)
        standing = standing.after(step, loss.counted, self.settings.min_delta)
        if standing.best_step == step:
            self._keep_best()
            self._move(best_form_loss=loss.form)
        self._move(validated=step, standing=standing)
        epoch = self.position.epoch + (self.position.batch > 0)
        self._tell_of(self.base_loss if step == 0 else loss, epoch=epoch, best=standing.best_step == step)

    def _tell_of(self, shown: MeanLoss | None, **facts: Any) -> None:
        self.emit(
            "validation", loss=shown and shown.counted, form_loss=shown and shown.form,
            learned_loss=shown and shown.learned, **facts, **self._facts(),
        )  # fmt: skip

    def _keep_best(self) -> None:
        if self.position.step == 0 and self.start:
            with replacing_path(self.best) as temporary:
                shutil.copyfile(self.start, temporary)
        else:
            checkpoint.save_adapter(self.trainer, self.best)

    def _save_if_due(self) -> None:
        minutes = self.settings.save_minutes
        late = minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes
        if late or self.position.batch == 0 or self.position.step % self.settings.save_steps == 0:
            self._save()

    def _save(self) -> None:
        if self._saved_step == self.position.step:
            return
        # Who goes on from here does not tell of the steps before again: they must be told by now.
        self.emit("sync")
        best = self.best if self.position.standing.best_step is not None else None
        path = checkpoint.save(self.folder / "checkpoints", self.position, self.trainer, self.optimizer, best)
        self._saved_step, self._saved_at = self.position.step, time.monotonic()
        self.emit("checkpoint", step=self.position.step, path=path.name)

    def _finish(self, how: str) -> None:
        self._save()
        checkpoint.save_adapter(self.trainer, self.folder / "adapter.gguf")
        self.emit(how, peak_rss_mb=_peak_rss_mb(), **self._facts())


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
