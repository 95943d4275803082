"""What a plan says to its user: what is odd about it, why it cannot be, and the nearest setting that can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ..engine.costs import Lengths
from ..settings import TrainSettings

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["refusal_of", "warnings_for"]

#: An extrapolation over more than this factor in length is said to be one.
FAR: Final = 4
#: Examples below which a LoRA mostly learns by heart.
FEW: Final = 50


def warnings_for(plan: Plan, settings: TrainSettings) -> list[str]:
    """What the user should know of this plan, each in one sentence with what to change."""
    found = []
    rows, checks = plan.rows.get("train", 0), plan.rows.get("validation", 0)
    if 0 < rows < FEW:
        found.append(f"{rows} examples are few: below {FEW} a model mostly learns them by heart; rate more answers.")
    if rows and not checks:
        found.append("There are no validation rows: nothing tells when to stop, and the last adapter is kept.")
    if settings.learning_rate > 1e-3:
        found.append(f"A learning rate of {settings.learning_rate:g} is high: above 1e-3 training often diverges.")
    scale = settings.lora_alpha / settings.lora_rank
    if not 0.5 <= scale <= 4:
        found.append(f"alpha / rank is {scale:g}: 1 to 2 is usual; set --lora-alpha {2 * settings.lora_rank}.")
    if settings.lora_rank > 128:
        found.append(f"Rank {settings.lora_rank} is high: above 128 it costs memory and rarely teaches more.")
    if rows and settings.batch_size > rows:
        found.append(f"--batch-size {settings.batch_size} is more than the {rows} rows: an epoch is one step.")
    left = sum(one.count for one in plan.left_out)
    if left and 10 * left > left + rows + checks:
        found.append(f"{left} examples are left out, more than a tenth: `left out` says why.")
    if plan.time.seconds is not None and not plan.time.undisturbed:
        found.append("Other programs used the CPU while this was measured, so the time is reckoned from the CPU's own "
                     "seconds: /finetune plan --remeasure measures again.")  # fmt: skip
    if plan.memory.measured_to and plan.longest > FAR * plan.memory.measured_to:
        found.append(f"Measured on rows of up to {plan.memory.measured_to} tokens; the rest is reckoned from them.")
    return found


def refusal_of(plan: Plan, sides: Mapping[str, Lengths]) -> str | None:
    """Why the run cannot be, in one sentence with what to change; None where it can."""
    if not plan.examples.get("train"):
        return f"The dataset {plan.dataset} has no training examples: rate more answers and build again."
    if not plan.rows.get("train"):
        return "No example is left to train on: all are left out; raise --ctx-size or build another dataset."
    if plan.disk_needed_mb > plan.disk_free_mb:
        return (
            f"The run needs {_gb(plan.disk_needed_mb)} of disk and {_gb(plan.disk_free_mb)} are free: make room, "
            "or use a smaller --lora-rank."
        )
    return None if plan.memory.fits is not False else _nearest(plan, sides)


def _nearest(plan: Plan, sides: Mapping[str, Lengths]) -> str:
    """Why the run does not fit into memory, and the nearest setting that does."""
    memory = plan.memory
    assert memory.peak is not None
    more = "" if memory.measured_to else "more than "
    said = f"The run needs {more}{_gb(memory.peak)} of memory and {_gb(memory.free)} may be used"
    helps = []
    if memory.largest_batch_size:
        helps.append(f"--batch-size {memory.largest_batch_size} fits")
    elif memory.largest_ctx_size:
        most = memory.largest_ctx_size
        out = Counter(side for side, one in sides.items() for row in one.rows if most < row[1] <= plan.ctx_size)
        helps.append(f"--ctx-size {most} fits and leaves out {sum(out.values())} more of "
                     f"{sum(plan.rows.values())} examples")  # fmt: skip
    else:
        helps.append("use a smaller base, or a smaller quantization of this one")
    for name, size in memory.ollama.items():
        helps.append(f"Ollama holds {_gb(size)} for {name}, and `ollama stop {name}` frees it")
    return f"{said}: {'; '.join(helps)}."


def _gb(megabytes: float) -> str:
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB"
