"""The real proof's child process for ours: rows as a run makes them, the first adapter, and losses in F32.

    python bench/real_ours.py '{"run": FOLDER, "out": FOLDER, "adapters": {"tuned": PATH}}'

Writes into `out`: rows.npz (the training rows in the order of the run's steps, then the validation rows), start.gguf
(the adapter as it is before the first step). Prints one JSON line: the mean loss of the validation rows with the
untrained adapter and with each of `adapters`, over all learned tokens. The driver is bench/prove_real.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import numpy as np  # noqa: E402
from train_measure import quiet_output, read_job, tell  # noqa: E402
from train_ours import open_ours  # noqa: E402

from meton_plugins.finetune.engine.adapted import Adapter  # noqa: E402
from meton_plugins.finetune.engine.checkpoint import save_adapter  # noqa: E402
from meton_plugins.finetune.engine.library import Library  # noqa: E402
from meton_plugins.finetune.engine.model import Model  # noqa: E402
from meton_plugins.finetune.engine.package import installed  # noqa: E402
from meton_plugins.finetune.engine.schedule import learning_rate, order  # noqa: E402
from meton_plugins.finetune.engine.trainer import read_chats  # noqa: E402
from meton_plugins.finetune.gguf.chat_template import template_for  # noqa: E402
from meton_plugins.finetune.gguf.inspect import inspect  # noqa: E402
from meton_plugins.finetune.gguf.rows import Row, build_rows  # noqa: E402
from meton_plugins.finetune.train.record import RunRecord  # noqa: E402
from meton_plugins.finetune.train.runs import Run  # noqa: E402


def rows_of(run: Run, record: RunRecord, library: Library) -> dict[str, list[Row]]:
    """Both sides of the run's dataset, as its trainer reads them."""
    base, settings = Path(record.base.path), record.settings
    template = template_for(inspect(base), settings.chat_template)
    with Model(library, base, vocab_only=True) as model:
        return {
            side: build_rows(
                read_chats(run.folder / "dataset" / f"{side}.jsonl", record.system), template, model,
                settings.ctx_size, record.learned,
            )[0]
            for side in ("train", "validation")
        }  # fmt: skip


def in_order(record: RunRecord, rows: list[Row]) -> tuple[list[Row], list[float]]:
    """The row of every step and its learning rate; for runs of one row a step."""
    settings = record.settings
    if settings.batch_size != 1:
        raise SystemExit("The comparison is for runs of one row a step.")
    picked = [int(index) for epoch in range(settings.epochs) for index in order(len(rows), settings.seed, epoch)]
    rates = [learning_rate(step, len(picked), settings.learning_rate, settings.warmup) for step in range(len(picked))]
    return [rows[index] for index in picked], rates


def main() -> None:
    """Write what PEFT begins with, and measure."""
    job, channel = read_job(), quiet_output()
    run, out = Run(Path(job["run"])), Path(job["out"])
    record, library = run.record, Library(installed())
    sides = rows_of(run, record, library)
    steps, rates = in_order(record, sides["train"])
    arrays: dict[str, Any] = {"rates": np.asarray(rates, np.float64)}
    for side, rows in (("train", steps), ("validation", sides["validation"])):
        arrays[f"{side}_count"] = len(rows)
        for number, row in enumerate(rows):
            arrays[f"{side}_{number}_tokens"] = row.tokens
            arrays[f"{side}_{number}_trained"] = row.trained
    np.savez(out / "rows.npz", **arrays)
    settings, losses = record.settings, {}
    adapter = Adapter(rank=settings.lora_rank, alpha=settings.lora_alpha, seed=settings.seed)
    longest = max(row.length for rows in sides.values() for row in rows)
    base = Path(record.base.path)
    for name, file in {"base": None, **job.get("adapters", {})}.items():
        adapter.file = Path(file) if file else None
        with open_ours(
            library, base, longest=longest, threads=record.threads, adapter=adapter, precision="f32", weights="packed",
            tokens=sides["validation"][0].tokens,
        ) as (trainer, _):  # fmt: skip
            if not file:
                save_adapter(trainer, out / "start.gguf")
            total = sum(trainer.loss(row.tokens, row.trained) * row.learned for row in sides["validation"])
            losses[name] = total / sum(row.learned for row in sides["validation"])
    tell(channel, {"losses": losses, "rows": len(steps), "validation_rows": len(sides["validation"])})


if __name__ == "__main__":
    main()
