"""How long the training bench still takes: guessed at first, then from the runs that are over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Seconds a token and a million weights, on two cores with AVX2; what the first runs take corrects it.
RATES: Final = {
    "ours": 5.2e-5, "ours_low": 6.5e-5, "ours_bf16": 3e-5, "torch_fp32": 9.7e-5, "torch_bf16": 5e-5,
}  # fmt: skip
#: Seconds before the first step: imports, and the model into memory.
START: Final = {"ours": 3.0, "ours_low": 3.0, "ours_bf16": 3.0, "torch_fp32": 12.0, "torch_bf16": 12.0}

#: A side and its work: tokens times millions of weights.
Turn = tuple[str, float]


def guess(turn: Turn) -> float:
    """Seconds of a run."""
    side, work = turn
    return START[side] + RATES[side] * work


class Pace:
    """Where in the list of runs the bench is. Runs come in groups: one that fails is skipped to its end."""

    def __init__(self, groups: Sequence[Sequence[Turn]]) -> None:
        self._turns = [(number, turn) for number, turns in enumerate(groups) for turn in turns]
        self._at = 0
        self._took: dict[str, tuple[float, float]] = {}

    @property
    def runs(self) -> int:
        """How many there are in all."""
        return len(self._turns)

    @property
    def position(self) -> str:
        """The run that begins now, of all."""
        return f"{self._at + 1:{len(str(self.runs))}}/{self.runs}"

    def done(self, seconds: float) -> None:
        """The run took so long."""
        turn = self._turns[self._at][1]
        guessed, took = self._took.get(turn[0], (0.0, 0.0))
        self._took[turn[0]] = guessed + guess(turn), took + seconds
        self._at += 1

    def skip_group(self) -> None:
        """Go on with the group after that of the last run."""
        group = self._turns[self._at - 1][0]
        while self._at < self.runs and self._turns[self._at][0] == group:
            self._at += 1

    @property
    def seconds_left(self) -> float:
        """What the runs to come take, each side as much slower or faster than guessed as it was so far."""
        known = self._took.values()
        all_guessed, all_took = sum(one for one, _ in known) or 1.0, sum(two for _, two in known) or 1.0
        total = 0.0
        for _, turn in self._turns[self._at :]:
            guessed, took = self._took.get(turn[0], (all_guessed, all_took))
            total += guess(turn) * took / guessed
        return total

    @property
    def left(self) -> str:
        """The same in words."""
        seconds = self.seconds_left
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
