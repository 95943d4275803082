"""Decide by a short measurement how a run computes: on its own rows, on some blocks of the base, within seconds.

All blocks of a base have the same shapes, so the time of a few of them gives the time of all; a whole pass through a
base of 1.5 billion weights takes longer than a user waits for a plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ..gguf.inspect import GgufInfo, check_library_trainable
from ..gguf.rows import Row
from ..graph.network import Network
from ..graph.shape import Unsupported
from .accelerated import NativeTrainer
from .adapted import Adapter
from .compute import ComputeConfig, bf16_allowed
from .gradient import RowTrainer
from .model import Model

__all__ = ["BlockTimes", "NoRoom", "Wishes", "autotune", "block_times", "sample_layers", "within"]

#: Another candidate must take at most this part of the time: more threads take the machine from its user, unpacked
#: weights its memory, and bf16 some of the exactness.
WORTH: Final = 0.9
#: A measurement whose threads had a core for less than this part of their time shared the machine with others.
CALM: Final = 0.8
#: Threads that compute for more than this part of the time are worth having: one alone would take longer.
BUSY: Final = 0.75
#: Threads of an undisturbed pass wait for each other: it takes so much longer than its CPU seconds, shared out, say.
WAITING: Final = 1.15
#: Part of the free memory that unpacked weights may take where nothing else is wished: the user's programs grow too.
MEMORY_SHARE: Final = 0.5
#: Seconds that one gradient on the sampled blocks may take; more blocks make the estimate steadier.
SAMPLE_SECONDS: Final = 0.5
#: Tokens of the pass before a measurement.
WARM_TOKENS: Final = 8
#: Without room for so many, nothing is measured.
FEWEST_TOKENS: Final = 4
#: Tokens of a row on which the library's pass is timed against ours, where ours cannot be relied on.
SLOWDOWN_TOKENS: Final = 8

Progress = Callable[[int, int], None]


class Wishes(NamedTuple):
    """What the settings leave open, or do not (settings.TrainSettings). `threads` 0: the fastest of 1 and `cores`."""

    accelerate: bool
    precision: str
    weights: str
    threads: int
    cores: int


@dataclass(frozen=True)
class BlockTimes:
    """Seconds that a row takes on a whole base, from two measurements on some of its blocks. CPU seconds are of all
    threads together, which other programs on the machine hardly change."""

    gradient: float
    loss: float
    gradient_cpu: float
    loss_cpu: float
    #: Memory in MB that a token more takes with the sampled blocks alone.
    token_mb: float

    def undisturbed(self, threads: int) -> float:
        """Seconds of a gradient on a machine that has time for it: what is decided while another program works is kept,
        and must not be decided by that program."""
        calm = self.gradient_cpu >= CALM * threads * self.gradient
        return self.gradient if calm else min(self.gradient, WAITING * self.gradient_cpu / threads)


def autotune(
    model: Model, base: Path, info: GgufInfo, rows: Sequence[Row], adapter: Adapter, wishes: Wishes, room_mb: float,
    progress: Progress | None = None,
) -> ComputeConfig:  # fmt: skip
    """How to compute on `rows`, the shortest first, the middle one as long as most are. `room_mb`: free memory.

    NoRoom where that is too little; ModelError where only our own pass could train this base, and may not.
    """
    tell = progress or (lambda done, total: None)
    if not wishes.accelerate:
        check_library_trainable(info)
        return _by_library(wishes, None)
    threads = wishes.threads or wishes.cores
    try:
        trainer = NativeTrainer(model, base, rows[-1].length, threads, adapter)
    except Unsupported as error:
        check_library_trainable(info, str(error))
        return _by_library(wishes, str(error))
    with trainer:
        row = within(rows[len(rows) // 2], trainer, room_mb)
        try:
            trainer.check(rows[-1].tokens, threads)
            tell(1, 3)
        except Unsupported as error:
            wrong = str(error)
        else:
            return _fastest(trainer, info, row, rows[-1], wishes, room_mb, tell)
        check_library_trainable(info, wrong)
        seconds = _own_seconds(trainer, row, threads)
    library = _library_seconds(model, row, adapter, threads)
    return _by_library(wishes, wrong, slowdown=library / seconds)


class NoRoom(Exception):
    """The memory that is free is not enough for a row of a few tokens."""


def within(row: Row, trainer: NativeTrainer, room_mb: float) -> Row:
    """As much of `row` as fits into the memory that is free, its end left out; NoRoom where that is nothing."""
    most = int(room_mb / trainer.token_mb)
    if most < FEWEST_TOKENS:
        raise NoRoom
    if row.length <= most:
        return row
    return replace(row, tokens=row.tokens[: most + 1], trained=row.trained[: most + 1], answer=None)


def block_times(
    trainer: NativeTrainer, row: Row, layers: Sequence[int], *, threads: int, bf16: bool, unpacked: bool,
    loss: bool = False,
) -> BlockTimes:  # fmt: skip
    """What `row` takes on the whole base, from its time on the blocks `layers`; `loss`: measure that too."""
    more, rows = trainer.layers / len(layers), [(row.tokens, row.trained)]

    def whole(network: Network, wall: float, cpu: float) -> tuple[float, float]:
        blocks, blocks_cpu = network.block_seconds, network.block_cpu_seconds
        return (
            time.monotonic() - wall + (more - 1) * blocks,
            time.process_time() - cpu + (more - 1) * blocks_cpu,
        )

    with trainer.part(row.length, layers, threads=threads, bf16=bf16, unpacked=unpacked) as network:
        # Weights that stay are unpacked once in a run, and are so before the measurement.
        network.losses([(row.tokens[:WARM_TOKENS], np.ones(WARM_TOKENS, np.bool_)[: len(row.tokens)])])
        wall, cpu = time.monotonic(), time.process_time()
        network.gradients(rows)
        gradient, gradient_cpu = whole(network, wall, cpu)
        token_mb = network.token_bytes / 2**20
        if not loss:
            return BlockTimes(gradient, 0.0, gradient_cpu, 0.0, token_mb)
        wall, cpu = time.monotonic(), time.process_time()
        network.losses(rows)
        took, took_cpu = whole(network, wall, cpu)
        return BlockTimes(gradient, took, gradient_cpu, took_cpu, token_mb)


def sample_layers(trainer: NativeTrainer, row: Row, threads: int, seconds: float = SAMPLE_SECONDS) -> list[int]:
    """Blocks from the first to the last on which a gradient of `row` takes about `seconds`; at least two."""
    with trainer.part(row.length, [0], threads=threads) as first:
        first.losses([(row.tokens, row.trained)])
        # The way back takes about as long again, and half of that for the activations' gradients.
        one = 3 * first.block_seconds
    count = int(min(max(seconds / max(one, 1e-6), 2), trainer.layers))
    if 2 * count > trainer.layers:  # the whole of it then costs hardly more, and is no estimate
        count = trainer.layers
    return sorted({round(place) for place in np.linspace(0, trainer.layers - 1, count)})


def _fastest(
    trainer: NativeTrainer, info: GgufInfo, row: Row, longest: Row, wishes: Wishes, room_mb: float, tell: Progress
) -> ComputeConfig:  # fmt: skip
    notes: list[str] = []
    layers, speeds = sample_layers(trainer, row, wishes.threads or wishes.cores), {}
    every, busy = range(trainer.layers), False

    def seconds(config: ComputeConfig) -> float:
        times = block_times(
            trainer, row, layers, threads=config.threads, bf16=config.precision == "bf16",
            unpacked=config.weights == "unpacked",
        )  # fmt: skip
        nonlocal busy
        busy = times.gradient_cpu >= BUSY * config.threads * times.gradient
        took = times.undisturbed(config.threads)
        speeds[config.name] = round(row.length / max(took, 1e-9), 1)
        return took

    def fits(width: int) -> bool:
        return trainer.unpacked_bytes(every, width) / 2**20 <= MEMORY_SHARE * room_mb

    packed = wishes.weights == "packed" or (wishes.weights == "auto" and not fits(4))
    best = ComputeConfig(
        threads=wishes.threads or wishes.cores, weights="unpacked" if wishes.weights == "unpacked" else "packed",
        products=trainer.blas,
    )  # fmt: skip
    fastest = seconds(best)
    if not wishes.threads and wishes.cores > 1 and not busy:
        one = best.model_copy(update={"threads": 1})
        alone = seconds(one)
        if not fastest < WORTH * alone:
            best, fastest = one, alone
    if wishes.weights == "auto" and not packed:
        kept = best.model_copy(update={"weights": "unpacked"})
        if (took := seconds(kept)) < WORTH * fastest:
            best, fastest = kept, took
    tell(2, 3)
    if bf16_allowed(trainer.library.engine, info, wishes.precision):
        try:
            trainer.check_bf16(longest.tokens, best.threads)
        except Unsupported as error:
            notes.append(f"the base's weights are multiplied in F32, because {error}")
        else:
            for weights in ("packed", "unpacked"):
                if wishes.weights not in ("auto", weights) or (weights == "unpacked" and not fits(2)):
                    continue
                half = best.model_copy(update={"precision": "bf16", "weights": weights})
                took = seconds(half)
                if (wishes.precision == "bf16" and best.precision == "f32") or took < WORTH * fastest:
                    best, fastest = half, took
    elif wishes.precision == "bf16":
        notes.append(f"weights are multiplied in F32: {trainer.blas} has no bf16 here")
    return best.model_copy(update={"notes": notes, "tokens_per_s": speeds})


def _by_library(wishes: Wishes, reason: str | None, slowdown: float | None = None) -> ComputeConfig:
    return ComputeConfig(
        trainer="library", threads=wishes.threads or wishes.cores, products="ggml", reason=reason, slowdown=slowdown
    )


def _own_seconds(trainer: NativeTrainer, row: Row, threads: int) -> float:
    short = _cut(row)
    layers = sample_layers(trainer, short, threads)
    return block_times(trainer, short, layers, threads=threads, bf16=False, unpacked=False).gradient


def _library_seconds(model: Model, row: Row, adapter: Adapter, threads: int) -> float:
    short = _cut(row)
    with RowTrainer(model, short.length, threads, adapter) as trainer:
        started = time.monotonic()
        trainer.gradients(short.tokens, short.trained)
        return time.monotonic() - started


def _cut(row: Row) -> Row:
    """Its first tokens, all learned."""
    tokens = row.tokens[: SLOWDOWN_TOKENS + 1]
    return Row(row.id, tokens, np.ones(len(tokens), np.bool_))
