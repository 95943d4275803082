"""Runs that were never trained: their record, their state and a course of events, written as a worker writes them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meton_plugins.finetune.paths import Home, private_dir, write_json
from meton_plugins.finetune.settings import TrainSettings
from meton_plugins.finetune.train.record import BaseRecord, RunRecord, State
from meton_plugins.finetune.train.runs import Run

AT = "2026-11-21T22:05:07.123+00:00"


def drawn_run(
    home: Home, name: str = "night-1", steps: int = 400, total: int = 400, *, status: str = "finished",
    validations: int = 8, seed: int = 1, state: dict[str, Any] | None = None, **changes: Any,
) -> Run:  # fmt: skip
    """A run in `home` whose loss falls evenly, with noise. `changes` are fields of its record."""
    folder = private_dir(private_dir(home.runs) / name)
    base = BaseRecord(
        path="/models/qwen2.5-coder-7b-f16.gguf", sha256="5" * 64, name="qwen2.5-coder:7b", architecture="qwen2",
        parameters=7_600_000_000, size=1, mtime_ns=1,
    )  # fmt: skip
    values: dict[str, Any] = {
        "name": name, "created": "2026-11-21T22:05:00+00:00", "base": base, "dataset": "mine-3f2a", "learned": "last",
        "examples": {"train": 133, "validation": 14}, "settings": TrainSettings(), "template": "basic", "system": "",
        "threads": 8, **changes,
    }  # fmt: skip
    write_json(folder / "run.json", RunRecord(**values).model_dump(mode="json"))
    events = list(course(steps, total, validations, seed))
    if status in ("finished", "stopped"):
        events.append({"event": status, "step": steps, "best_loss": 1.0, "best_step": steps, "peak_rss_mb": 8843.0})
        write_json(folder / "done", {"status": status})
    lines = [json.dumps({**event, "attempt": 1, "at": AT}) + "\n" for event in events]
    (folder / "events.jsonl").write_text("".join(lines), encoding="utf-8")
    losses = {event["step"]: event["loss"] for event in events if event["event"] == "validation"}
    best = min((step for step in losses if step), key=lambda step: losses[step], default=None)
    known = {
        "status": status, "attempt": 1, "step": steps, "steps": total, "epoch": 3, "epochs": 3, "skipped": 1,
        "loss": 0.8, "loss_trend": -0.1, "base_loss": losses.get(0), "validation_loss": losses.get(best or 0),
        "best_loss": losses.get(best) if best else None, "best_step": best, "tokens_per_s": 152.3,
        "seconds_left": 1.9 * (total - steps), "trained_seconds": 1.9 * steps, "peak_rss_mb": 8843.0,
    }  # fmt: skip
    write_json(folder / "state.json", State(**{**known, **(state or {})}).model_dump(mode="json"))
    return Run(folder)


def course(steps: int, total: int, validations: int = 8, seed: int = 1) -> Iterator[dict[str, Any]]:
    """The events of a training up to `steps` of `total`."""
    chance = random.Random(seed)
    skipped = [{"id": "a1b2c3", "reason": "1,411 tokens are more than --ctx-size 1024"}]
    facts = {"tokens": 45678, "learned": 12345, "longest": 1011}
    yield {"event": "rows", "side": "train", "rows": 133, **facts, "skipped": skipped}
    yield {"event": "rows", "side": "validation", "rows": 14, **facts, "skipped": []}
    yield {"event": "begin", "steps": total, "batches": 133, "epochs": 3}
    yield {"event": "validation", "step": 0, "epoch": 0, "loss": 3.2}
    every = max(1, total // validations) if validations else total + 1
    for step in range(1, steps + 1):
        fallen = math.exp(-step / (0.3 * total))
        yield {
            "event": "step", "step": step, "steps": total, "epoch": 1 + 3 * (step - 1) // total, "epochs": 3,
            "loss": 2.5 * fallen + 0.7 + chance.uniform(-0.3, 0.3), "learning_rate": 1e-4 * (1 - step / total / 1.1),
            "gradient_norm": 1.2 + chance.random(), "tokens": 300, "learned": 90, "seconds": 1.9,
            "tokens_per_s": 152.3, "seconds_left": 1.9 * (total - step), "rss_mb": 8800.0,
        }  # fmt: skip
        if step % every == 0:
            yield {
                "event": "validation", "step": step, "epoch": 1 + 3 * (step - 1) // total, "loss": 2.3 * fallen + 0.95,
                "best": True,
            }  # fmt: skip
            yield {"event": "checkpoint", "step": step, "path": f"step_{step}"}


def add_event(folder: Path, **event: Any) -> None:
    """One more line of events.jsonl."""
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**event, "attempt": 1, "at": AT}) + "\n")
