"""One training on random rows in this process, paused and killed at will."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from meton_plugins.finetune.engine import checkpoint
from meton_plugins.finetune.engine.adapted import Adapter
from meton_plugins.finetune.engine.compute import ComputeConfig
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.loop import MeanLoss, Training
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.engine.trainer_factory import open_trainer
from meton_plugins.finetune.gguf.rows import Row
from meton_plugins.finetune.settings import TrainSettings

__all__ = ["Attempts", "Events", "Killed", "losses", "rows"]

Events = list[dict[str, Any]]


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def rows(count: int, seed: int) -> list[Row]:
    """Random rows of different lengths."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        tokens = random.integers(0, 200, int(random.integers(5, 20))).astype(np.int32)
        trained = np.arange(len(tokens)) > len(tokens) // 2
        made.append(Row(f"{seed}-{index}", tokens, trained))
    return made


class Attempts:
    """One run, trained in as many attempts as it takes, each with a model, trainer and optimizer of its own.

    `start`: an adapter to begin with, the base's own loss being `base_loss`. `curve`: what each validation gives, by
    its step, in the place of the true loss.
    """

    def __init__(
        self, library: Library, base: Path, folder: Path, *, start: Path | None = None, base_loss: float | None = None,
        curve: Callable[[int], float] | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        self.library, self.base, self.folder = library, base, folder
        self.start, self.curve = start, curve
        self.base_loss = None if base_loss is None else MeanLoss(base_loss, None, base_loss)
        #: Rows to learn from.
        self.count = 10
        folder.mkdir()
        self.settings = TrainSettings.model_validate(
            {"epochs": 2, "lora_rank": 4, "lora_alpha": 8, "learning_rate": 1e-2, "save_steps": 3, **settings}
        )

    def attempt(self, *, pause_at: int = 0, want: str = "pause", kill_at: int = 0, kill_in: str = "step") -> Events:
        """Train on until the end, or until `want` is asked for at step `pause_at`, or a kill at `kill_at`."""
        events: Events = []
        done = 0

        def emit(event: str, **values: Any) -> None:
            nonlocal done
            events.append({"event": event, **values})
            done = values.get("step", done) if event != "begin" else done
            if event == kill_in and kill_at and done >= kill_at:
                raise Killed

        settings = self.settings
        found, _ = checkpoint.usable(self.folder / "checkpoints")
        adapter = Adapter(
            rank=settings.lora_rank, alpha=settings.lora_alpha, seed=settings.seed,
            file=checkpoint.adapter_file(found) if found else self.start,
        )  # fmt: skip
        compute = ComputeConfig(trainer="own" if settings.accelerate and self.curve is None else "library")
        with (
            Model(self.library, self.base) as model,
            open_trainer(model, self.base, 32, adapter, compute) as trainer,
        ):
            training = Training(
                self.folder, settings, rows(self.count, 1), rows(3, 2), trainer, emit,
                lambda: want if pause_at and done >= pause_at else None, self.start, self.base_loss,
            )  # fmt: skip
            if found:
                training.restore(found)
            if curve := self.curve:
                trainer.loss = lambda tokens, trained: curve(training.position.step)  # type: ignore[method-assign]
            try:
                training.run()
            except Killed:
                events.append({"event": "killed"})
        return events

    @property
    def results(self) -> dict[str, bytes]:
        """Both adapters, byte for byte."""
        return {name: (self.folder / name).read_bytes() for name in ("adapter.gguf", "best.gguf")}


def losses(events: Events, kind: str = "step") -> dict[int, float]:
    """Loss by step, of steps or of validations."""
    return {event["step"]: event["loss"] for event in events if event["event"] == kind}
