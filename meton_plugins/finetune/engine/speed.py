"""How fast a training goes, from its last steps, whatever happened to a few of them."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final

__all__ = ["Speed"]

#: Steps that are looked back on.
WINDOW: Final = 50
#: A step that took so many times as long a token as is usual was not training: the machine slept, or the disk hung.
STRANGE: Final = 4.0


class Speed:
    """Tokens a second over the last steps, without those that were disturbed."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def add(self, tokens: int, seconds: float) -> None:
        """A step of `tokens` tokens took `seconds`."""
        self._steps.append((tokens, max(seconds, 1e-9)))

    @property
    def tokens_per_s(self) -> float:
        """0 before the first step."""
        if not self._steps:
            return 0.0
        usual = median(seconds / tokens for tokens, seconds in self._steps)
        sound = [(tokens, seconds) for tokens, seconds in self._steps if seconds / tokens <= STRANGE * usual]
        return sum(tokens for tokens, _ in sound) / sum(seconds for _, seconds in sound)
