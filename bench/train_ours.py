"""The training bench's child process for ours: steps of the trainer on rows of tokens, as engine/loop.py makes them.

    python bench/train_ours.py '{"base": PATH, "rows": "full", "ctx": 512, ...}'

Prints one JSON line; the driver is bench/train.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from train_measure import measure, megabytes, quiet_output, read_job, steps_of, tell  # noqa: E402
from train_rows import Row  # noqa: E402

from meton_plugins.finetune.engine.accelerated import NativeTrainer  # noqa: E402
from meton_plugins.finetune.engine.adamw import AdamW, mean_gradient  # noqa: E402
from meton_plugins.finetune.engine.adapted import Adapter  # noqa: E402
from meton_plugins.finetune.engine.compute import ComputeConfig  # noqa: E402
from meton_plugins.finetune.engine.gradient import Trainer  # noqa: E402
from meton_plugins.finetune.engine.library import Library  # noqa: E402
from meton_plugins.finetune.engine.model import Model  # noqa: E402
from meton_plugins.finetune.engine.package import installed  # noqa: E402
from meton_plugins.finetune.engine.trainer_factory import open_trainer  # noqa: E402

#: As PyTorch's.
LEARNING_RATE: Final = 1e-4
WEIGHT_DECAY: Final = 0.01
MAX_NORM: Final = 1.0


@contextmanager
def open_ours(
    library: Library,
    base: Path,
    *,
    longest: int,
    threads: int,
    adapter: Adapter,
    precision: str,
    weights: str,
    tokens: npt.NDArray[np.int32] | None = None,
) -> Iterator[tuple[Trainer, str]]:
    """The trainer for rows of up to `longest` tokens, and in a few words how it computes.

    `tokens`: some of a real row, on which the pass is compared with the library's.
    """
    compute = ComputeConfig.model_validate({"precision": precision, "weights": weights, "threads": threads})
    tokens = np.arange(1, 40, dtype=np.int32) if tokens is None else tokens
    with Model(library, base) as model, open_trainer(model, base, longest, adapter, compute) as trainer:
        assert isinstance(trainer, NativeTrainer)
        trainer.check(tokens, threads)
        if trainer.bf16:
            trainer.check_bf16(tokens, threads)
        kept, numbers = weights, "bf16" if trainer.bf16 else "F32"
        yield trainer, f"our own pass, products in {numbers} by {trainer.blas}, weights {kept}"


def main() -> None:
    """Measure what the driver wants."""
    job, channel = read_job(), quiet_output()
    library = Library(installed())
    libraries = megabytes("VmRSS")
    optimizer = AdamW(weight_decay=WEIGHT_DECAY, max_norm=MAX_NORM)
    longest = max(row.length for rows in steps_of(job) for row in rows)
    with open_ours(
        library, Path(job["base"]), longest=longest, threads=job["threads"],
        adapter=Adapter(rank=job["rank"], alpha=2 * job["rank"]), precision=job["precision"], weights=job["weights"],
    ) as (trainer, how):  # fmt: skip

        def step(rows: list[Row]) -> float:
            parts, total = [], 0.0
            for group in trainer.groups(rows):
                loss, gradients = trainer.mean(group)
                learned = sum(row.learned for row in group)
                parts.append((learned, gradients))
                total += loss * learned
            optimizer.step(trainer.weights(), mean_gradient(parts), LEARNING_RATE)
            return total / sum(row.learned for row in rows)

        result = measure(step, job)
    tell(channel, {**result, "libraries_mb": libraries, "how": how})


if __name__ == "__main__":
    main()
