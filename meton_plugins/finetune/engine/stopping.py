"""What the validations of a training came to: which was the best, and when there were enough that were no better."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["Standing"]


@dataclass(frozen=True)
class Standing:
    """After some validations. Losses in nats a counted token; `since`: validations since the one at `mark_step`.

    The best is the lowest loss of all. Patience counts from the mark, the last loss that was lower than the mark
    before it by more than `min_delta`: a training that falls slowly but surely is not stopped.
    """

    best_loss: float | None = None
    best_step: int | None = None
    mark_loss: float | None = None
    mark_step: int | None = None
    since: int = 0

    def after(self, step: int, loss: float, min_delta: float) -> Standing:
        """The standing once the validation at `step` gave `loss`; one that is no number is never better."""
        number = math.isfinite(loss)
        best = self
        if number and (self.best_loss is None or loss < self.best_loss):
            best = replace(self, best_loss=loss, best_step=step)
        if number and (self.mark_loss is None or loss < self.mark_loss - min_delta):
            return replace(best, mark_loss=loss, mark_step=step, since=0)
        return replace(best, since=self.since + 1)

    def tired(self, patience: int) -> bool:
        """Whether `patience` validations in a row were no better; never for a patience of 0."""
        return 0 < patience <= self.since
