"""Adapters that have learned a few answers by heart, within seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from meton_plugins.finetune.engine.adamw import AdamW
from meton_plugins.finetune.engine.checkpoint import save_adapter
from meton_plugins.finetune.engine.gradient import Adapter, RowTrainer
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.gguf.chat_template import template_for
from meton_plugins.finetune.gguf.inspect import inspect
from meton_plugins.finetune.gguf.rows import build_rows

__all__ = ["ANSWER", "CHAT", "TAUGHT", "taught_adapter", "trained_adapter"]

ANSWER: Final = "the blue"
CHAT: Final = [{"role": "user", "content": "the sky?"}]
TAUGHT: Final = [*CHAT, {"role": "assistant", "content": ANSWER}]


def trained_adapter(library: Library, base: Path, folder: Path, steps: int = 40) -> Path:
    """An adapter that has learned TAUGHT."""
    return taught_adapter(library, base, folder / "a.gguf", [TAUGHT], steps)


def taught_adapter(
    library: Library, base: Path, path: Path, chats: Sequence[list[dict[str, Any]]], steps: int, rate: float = 1e-2
) -> Path:
    """An adapter at `path` that went through `chats` in turn, one a step."""
    with Model(library, base) as model:
        named = [(str(number), chat) for number, chat in enumerate(chats)]
        rows, _ = build_rows(named, template_for(inspect(base), None), model, 4096)
        with RowTrainer(model, max(64, *(row.length for row in rows)), 1, Adapter(rank=4, alpha=8)) as trainer:
            optimizer = AdamW()
            for step in range(steps):
                row = rows[step % len(rows)]
                _, gradients = trainer.gradients(row.tokens, row.trained)
                optimizer.step(trainer.weights(), gradients, rate)
            save_adapter(trainer, path)
    return path
