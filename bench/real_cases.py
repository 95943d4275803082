"""What the real proof trains on which model. The budgets on two cores: 12, 30 and 50 minutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

#: Of all runs. The worker is not to give way: what is measured is the machine's.
COMMON: Final[dict[str, Any]] = {
    "ctx-size": 512, "batch-size": 1, "lora-rank": 16, "lora-alpha": 32, "save-steps": 10, "save-minutes": 0,
    "patience": 0, "nice": 0, "template": "basic",
}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """A run: on the first `rows` of the training side, `epochs` times."""

    rows: int
    epochs: int
    learning_rate: float

    @property
    def steps(self) -> int:
        return self.rows * self.epochs


@dataclass(frozen=True)
class Case:
    """One model. `long` moves the weights by about a fifth of their grid's step, `short` by about a fiftieth.

    The long run goes by the settings that nobody has to choose; the short one in F32, and PEFT does the same steps.
    `interrupted`: what befalls a second long run in its middle. `speed_rows`: rows that speed is measured on once more.
    """

    name: str
    long: Training
    short: Training
    quants: tuple[str, ...]
    interrupted: Literal["kill", "pause"]
    speed_rows: int = 12


# Learning rates by the grid: SmolLM2's Q4_1 has coarse steps, of which 160 steps at 1e-3 moved its weights by 0.048 and
# 20 at 4e-4 by 0.0065.
CASES: Final = {
    case.name: case
    for case in (
        Case("smollm2", Training(80, 2, 3e-3), Training(20, 1, 1.2e-3), ("base", "q8_0"), "kill"),
        Case("qwen0.5b", Training(80, 2, 3e-4), Training(20, 1, 2e-4), ("base", "q8_0"), "kill"),
        Case("qwen1.5b", Training(60, 1, 5e-4), Training(20, 1, 2e-4), ("base",), "pause", 8),
    )
}
