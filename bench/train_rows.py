"""The rows that both sides of the training bench learn from: the same tokens, drawn anew from the same seed.

Both child processes read this, so it takes nothing but NumPy.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

#: Of twenty chats with these lengths: 43 to 511 tokens, and in the mean
SEED: Final = 17
MEAN: Final = 187
#: Lengths of real chats: log-normal, in tokens.
MEDIAN, SPREAD, SHORTEST, LONGEST = 170, 0.6, 30, 511


class Row(NamedTuple):
    """`tokens` int32 [n + 1] and `trained` bool [n + 1], as in meton_plugins.finetune.gguf.rows."""

    tokens: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]

    @property
    def length(self) -> int:
        """Tokens that the model reads."""
        return len(self.tokens) - 1

    @property
    def learned(self) -> int:
        """Tokens that are learned."""
        return int(self.trained[1:].sum())

    def cut(self, length: int) -> Row:
        """Its last `length` tokens."""
        return Row(self.tokens[-length - 1 :], self.trained[-length - 1 :])


def make_rows(kind: str, context: int, vocabulary: int, count: int) -> list[Row]:
    """`full`: all of the context, every token trained; `chats`: real lengths, the second half of each trained."""
    dice = np.random.default_rng(SEED)
    if kind == "full":
        lengths = np.full(count, context)
    else:
        drawn = np.exp(dice.normal(np.log(MEDIAN), SPREAD, count))
        lengths = np.clip(drawn, SHORTEST, min(LONGEST, context)).astype(int)
    rows = []
    for length in lengths.tolist():
        # The last ids are special tokens.
        tokens = dice.integers(0, vocabulary - 3, length + 1).astype(np.int32)
        trained = np.ones(length + 1, np.bool_)
        if kind == "chats":
            trained[: length // 2 + 1] = False
        rows.append(Row(tokens, trained))
    return rows


def batches(rows: list[Row], size: int) -> list[list[Row]]:
    """`rows` in steps of `size`."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]
