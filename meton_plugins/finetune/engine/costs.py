"""What training would cost here, asked of the engine in a child process: rows by their lengths, measured steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .compute import ComputeConfig
from .jobs import named_template, threads, whole_path
from .process import run_job

__all__ = ["Cost", "Lengths", "Point", "lengths", "probe"]

Progress = Callable[[int, int], None]


class Lengths(NamedTuple):
    """One side of a dataset as a run reads it: (id, tokens, learned tokens) of each row, (id, reason) where none is.

    Whole: what is longer than a run's --ctx-size is in `rows` too.
    """

    rows: list[tuple[str, int, int]]
    refused: list[tuple[str, str]]


def lengths(
    base: Path, dataset: Path, *, system: str = "", learned: Literal["last", "all"] = "last",
    chat_template: str | None = None, progress: Progress | None = None,
) -> dict[str, Lengths]:  # fmt: skip
    """The rows of each side of the frozen dataset in the folder `dataset`."""
    result = run_job(
        "lengths", base=whole_path(base), dataset=whole_path(dataset), system=system, learned=learned,
        chat_template=named_template(chat_template), progress=progress,
    )  # fmt: skip
    return {
        side: Lengths([tuple(row) for row in found["rows"]], [tuple(one) for one in found["refused"]])
        for side, found in result["sides"].items()
    }


class Point(NamedTuple):
    """What rows of `length` tokens cost: the process's peak memory in MB; seconds of a gradient, a loss, a step.

    `gradient_cpu_s` and `loss_cpu_s`: of all cores together, which other programs hardly change.
    """

    length: int
    peak_mb: float
    gradient_s: float
    loss_s: float
    step_s: float
    gradient_cpu_s: float
    loss_cpu_s: float


class Cost(NamedTuple):
    """What `probe` measured. `points` rise in length, and there are none where not even one row fits; `loaded_mb`: the
    process with the base and nothing else.

    `save_seconds` and `save_mb`: what a checkpoint takes, `save_mb` on top of the memory of the rows.
    `cpu_share`: part of its threads' time in which they really had a core; well below 1 on a busy machine.
    `token_mb`: memory that a token more takes; None where it grows with the length's square.
    """

    loaded_mb: float
    load_seconds: float
    points: list[Point]
    save_seconds: float
    save_mb: float
    cpu_share: float
    token_mb: float | None = None


def probe(
    base: Path, dataset: Path, rows: Sequence[str], scratch: Path, *, system: str, learned: Literal["last", "all"],
    ctx_size: int, rank: int, targets: Sequence[str], adapter: int, longest: int, room_mb: float,
    compute: ComputeConfig | None = None, workers: int = 0, gpu_layers: int = 0, seconds: float = 12.0,
    chat_template: str | None = None, accelerate: bool = True, precision: str = "auto", weights: str = "auto",
    progress: Progress | None = None,
) -> tuple[ComputeConfig | None, Cost]:  # fmt: skip
    """How a run on `base` computes, unless `compute` says it, and what an adapter with so many weights then costs.

    It is measured on the rows of the frozen `dataset` with the ids `rows`, within `room_mb` of memory, in about
    `seconds`. Without room for a row of a few tokens, nothing is decided. A checkpoint is written to the folder
    `scratch` and removed again.
    """
    result = run_job(
        "probe", base=whole_path(base), dataset=whole_path(dataset), rows=list(rows), system=system, learned=learned,
        ctx_size=ctx_size, rank=rank, targets=list(targets), adapter=adapter, longest=longest, room_mb=room_mb,
        compute=compute.model_dump() if compute else None, threads=workers, cores=threads(), gpu_layers=gpu_layers,
        seconds=seconds, chat_template=named_template(chat_template), scratch=whole_path(scratch),
        accelerate=accelerate, precision=precision, weights=weights, progress=progress,
    )  # fmt: skip
    points = [Point(**{**point, "length": int(point["length"])}) for point in result["points"]]
    cost = Cost(**{**{name: result[name] for name in Cost._fields}, "points": points})
    return ComputeConfig.model_validate(result["compute"]) if result["compute"] else None, cost
