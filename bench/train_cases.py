"""The cases of the training bench, and which of them are measured beside the same run of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from train_rows import LONGEST, MEAN
from train_shapes import SHAPES

SMALL, LARGE = 32_000, 151_936
#: Of the tiny shape: only to see that everything works.
LEAST: Final = 1000


@dataclass(frozen=True)
class Case:
    """What is trained. `batch`: rows a step; `rounds`: how often ours and PyTorch take turns.

    `planned`: the planner is asked for the memory too. `steps` are counted after a warm-up, the first step once more,
    cut to `warm_tokens` a row where that is not 0.
    """

    shape: str
    ctx: int = 512
    base: str = "q4_k_m"
    rows: str = "full"
    vocab: int = SMALL
    batch: int = 1
    rank: int = 16
    rounds: int = 3
    steps: int = 5
    warm_tokens: int = 0
    planned: bool = False

    @property
    def name(self) -> str:
        """As it is typed after --only."""
        length = str(self.ctx) if self.rows == "full" else f"chats{self.batch if self.batch > 1 else ''}"
        rank = [f"r{self.rank}"] if self.rank != 16 else []
        return "-".join([self.shape, length, *(["152k"] if self.vocab == LARGE else []), *rank, self.base])

    @property
    def parameters_m(self) -> float:
        """Millions of weights, the adapter left out."""
        return round(SHAPES[self.shape].weights(self.vocab) / 1e6, 1)

    @property
    def work(self) -> float:
        """Tokens of a run with its warm-up, about, times millions of weights: what its seconds go with."""
        mean = self.ctx if self.rows == "full" else min(MEAN, self.ctx)
        warm = min(self.warm_tokens or mean, mean)
        return self.batch * (self.steps * mean + warm) * self.parameters_m


CHATS: Final[dict[str, Any]] = {"rows": "chats", "ctx": LONGEST}
#: Long rows are warmed up with shorter ones: a step of the large model takes a minute.
LONG: Final[dict[str, Any]] = {"ctx": 1024, "warm_tokens": 256}
#: All of it takes some 40 minutes on two cores with AVX2: so the large model, and the cases that only draw how
#: something grows, have one round.
CASES: Final = (
    *(Case("125m", ctx=512, base=base) for base in ("q4_k_m", "q8_0", "f16")),
    *(Case("125m", **LONG, base=base) for base in ("q4_k_m", "q8_0", "f16")),
    Case("125m", **CHATS, steps=20),
    Case("125m", **CHATS, batch=4, rounds=1),
    Case("500m", **LONG, vocab=LARGE, rounds=1, planned=True),
    Case("125m", ctx=256, rounds=1),
    Case("30m", ctx=256, rounds=1),
    Case("30m", ctx=512, rounds=1),
    Case("30m", **LONG, rounds=1),
    Case("30m", ctx=512, vocab=LARGE, rounds=1),
    *(Case("30m", ctx=512, rank=rank, rounds=1) for rank in (4, 64)),
)
#: Seconds each. Only --only chooses them, and their numbers are kept apart.
TINY: Final = (
    *(Case("tiny", ctx=64, base=base, vocab=LEAST, steps=2, rounds=1) for base in ("q4_k_m", "f16")),
    Case("tiny", rows="chats", ctx=64, batch=2, vocab=LEAST, steps=2, rounds=1),
)


def chosen(only: Sequence[str]) -> list[Case]:
    """The cases whose names begin with one of `only`; all but the tiny ones where nothing is named."""
    if not only:
        return list(CASES)
    return [case for case in (*CASES, *TINY) if any(case.name.startswith(start) for start in only)]


def quick(case: Case) -> Case:
    """The same in one round of two steps."""
    return replace(case, rounds=1, steps=2)


def groups(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases that differ in the base alone: PyTorch, which knows no GGUF, is measured once for all of them."""
    made: dict[Case, list[Case]] = {}
    for case in cases:
        made.setdefault(replace(case, base=""), []).append(case)
    return list(made.values())
