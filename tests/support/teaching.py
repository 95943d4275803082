"""An adapter that has learned one answer by heart, within a second."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from meton_plugins.finetune.engine.adamw import AdamW
from meton_plugins.finetune.engine.checkpoint import save_adapter
from meton_plugins.finetune.engine.gradient import Adapter, RowTrainer
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.gguf.chat_template import template_for
from meton_plugins.finetune.gguf.inspect import inspect
from meton_plugins.finetune.gguf.rows import build_rows

__all__ = ["ANSWER", "CHAT", "TAUGHT", "trained_adapter"]

ANSWER: Final = "the blue"
CHAT: Final = [{"role": "user", "content": "the sky?"}]
TAUGHT: Final = [*CHAT, {"role": "assistant", "content": ANSWER}]


def trained_adapter(library: Library, base: Path, folder: Path, steps: int = 40) -> Path:
    """An adapter that has learned TAUGHT."""
    path = folder / "a.gguf"
    with Model(library, base) as model:
        rows, _ = build_rows([("a", TAUGHT)], template_for(inspect(base), None), model, 128)
        with RowTrainer(model, 64, 1, Adapter(rank=4, alpha=8)) as trainer:
            optimizer = AdamW()
            for _ in range(steps):
                _, gradients = trainer.gradients(rows[0].tokens, rows[0].trained)
                optimizer.step(trainer.weights(), gradients, 1e-2)
            save_adapter(trainer, path)
    return path
