"""What a run will be, before it begins: its size, memory, time and disk, what it leaves out, and whether it can be."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from ..engine.compute import ComputeConfig
from ..engine.costs import Cost, Lengths
from ..engine.schedule import order
from ..gguf.inspect import GgufInfo
from ..graph.packing import packed
from ..paths import Home
from ..settings import TrainSettings
from .advice import refusal_of, warnings_for
from .families import family_of, proof_of
from .fit import Curve, fit
from .measure import Measured, trainable
from .memory import RESERVE_MB
from .planner import Ingredients

__all__ = ["LeftOut", "Memory", "Plan", "Time", "make_plan", "peaks"]

#: Ids named for each reason; `logs` of the run names all.
IDS: Final = 3
#: Below this part of its threads' time the measurement shared the machine with others.
CALM: Final = 0.8
#: Bytes of a weight's state on disk: the adapter, and both moments in checkpoints.
WEIGHT, MOMENTS = 4, 8
#: Two checkpoints kept, one being written; best, last and the raw file that they are made of.
CHECKPOINTS, ADAPTERS = 3, 3
#: Bytes of events and log a step.
LINE: Final = 700


class _Part(BaseModel):
    # Plans are kept in run.json: a later version may write more.
    model_config = ConfigDict(extra="ignore")


class LeftOut(_Part):
    """Rows that are not trained on for one reason; `ids` are the first few."""

    reason: str
    count: int
    ids: list[str]


class Memory(_Part):
    """In MB. `peak`: the engine's most, foreseen; `free`: what may be used, a reserve already taken off.

    `measured_to`: the longest row, in tokens, that was tried; `ollama`: what the server holds, by model. Where it does
    not fit, `largest_batch_size` or else `largest_ctx_size` does, if there is one.
    """

    peak: float | None
    free: float
    fits: bool | None
    measured_to: int = 0
    largest_ctx_size: int | None = None
    largest_batch_size: int | None = None
    ollama: dict[str, float] = Field(default_factory=dict)


class Time(_Part):
    """`seconds` of the whole run, foreseen, with `threads`; `cpu_seconds` of all cores together.

    Where other programs disturbed the measurement, `seconds` is that of a machine which has time for the run, and
    `busy_seconds` what it takes while they go on.
    """

    seconds: float | None
    cpu_seconds: float | None
    busy_seconds: float | None = None
    threads: int
    tokens_per_s: float | None
    measured: str | None = None
    cpu_share: float | None = None

    @property
    def undisturbed(self) -> bool:
        """Whether the measurement had the cores that it asked for."""
        return self.cpu_share is not None and self.cpu_share >= CALM


class Plan(_Part):
    """All that is foreseen of a run. `refusal`: why it cannot be, in one sentence; `parity` is filled by commands.

    `compute`: how it will compute; None where that is decided at its start, for another run trains now.
    """

    base: str
    path: str
    architecture: str
    family: str | None
    proof: str
    types: dict[str, int]
    parameters: int
    trainable: int
    dataset: str
    examples: dict[str, int]
    rows: dict[str, int]
    tokens_per_epoch: int
    learned_per_epoch: int
    longest: int
    batch_size: int
    ctx_size: int
    epochs: int
    steps: int
    memory: Memory
    time: Time
    compute: ComputeConfig | None = None
    disk_needed_mb: float
    disk_free_mb: float
    left_out: list[LeftOut]
    parity: list[dict[str, Any]] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    refusal: str | None = None

    @property
    def percent(self) -> float:
        """Trainable weights in percent of the base's."""
        return 100 * self.trainable / max(1, self.parameters)


def make_plan(
    home: Home, made_of: Ingredients, info: GgufInfo, sides: Mapping[str, Lengths], measured: Measured | None,
    free_mb: float, *, ollama: Mapping[str, float] | None = None, ahead: bool = False,
) -> Plan:  # fmt: skip
    """The plan for a run of `made_of`. `free_mb`: memory to be had now; `ollama`: MB that its server holds, by model.

    `ahead`: the run will wait for another one, so that the memory of now decides nothing.
    """
    settings = made_of.settings
    kept = {side: [row for row in one.rows if row[1] <= settings.ctx_size and row[2]] for side, one in sides.items()}
    train, validation = ([row[1] for row in kept.get(side, [])] for side in ("train", "validation"))
    steps = settings.epochs * math.ceil(len(train) / settings.batch_size)
    weights = trainable(Path(made_of.base.path), settings.lora_rank, settings.lora_targets)
    longest = max([*train, *validation], default=0)
    family = family_of(info.architecture, info.name, made_of.base.name or "", info.path.name)
    text = sum(file.stat().st_size for file in made_of.dataset.glob("*.jsonl"))
    memory = _memory(settings, measured, weights, longest, text, max(0.0, free_mb - RESERVE_MB), sides)
    if ahead:
        memory.fits = None
    memory.ollama = dict(ollama or {})
    need = (CHECKPOINTS * (WEIGHT + MOMENTS) + ADAPTERS * WEIGHT) * weights + LINE * steps + 2 * text
    place = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    plan = Plan(
        base=made_of.base.name or Path(made_of.base.path).name, path=made_of.base.path,
        architecture=info.architecture, family=family.name if family else None,
        proof=proof_of(info.architecture, family), types=info.types, parameters=info.parameters, trainable=weights,
        dataset=made_of.dataset.name, examples={side: _examples(one) for side, one in sides.items()},
        rows={side: len(rows) for side, rows in kept.items()}, tokens_per_epoch=sum(train),
        learned_per_epoch=sum(row[2] for row in kept.get("train", [])), longest=longest,
        batch_size=settings.batch_size, ctx_size=settings.ctx_size, epochs=settings.epochs, steps=steps, memory=memory,
        time=_time(settings, measured, train, validation, steps), compute=measured.compute if measured else None,
        disk_needed_mb=need / 2**20,
        disk_free_mb=shutil.disk_usage(place).free / 2**20, left_out=_left_out(sides, settings.ctx_size),
    )  # fmt: skip
    plan.warnings = warnings_for(plan, settings)
    plan.refusal = refusal_of(plan, sides)
    return plan


def _examples(side: Lengths) -> int:
    return len({row[0] for row in side.rows} | {one[0] for one in side.refused})


def _left_out(sides: Mapping[str, Lengths], ctx_size: int) -> list[LeftOut]:
    found: dict[str, list[str]] = {}
    for side in sides.values():
        for name, reason in side.refused:
            found.setdefault(reason, []).append(name)
        for name, length, _learned in side.rows:
            if length > ctx_size:
                found.setdefault(f"longer than --ctx-size {ctx_size}", []).append(name)
    order = sorted(found.items(), key=lambda one: -len(one[1]))
    return [LeftOut(reason=reason, count=len(ids), ids=ids[:IDS]) for reason, ids in order]


def peaks(cost: Cost, room_mb: float) -> Curve:
    """Memory in MB over the length of the longest row; more than `room_mb` where not one row could be tried in it."""
    points = [(float(point.length), point.peak_mb) for point in cost.points]
    if not points:  # not even a row of a few tokens was safe to try
        return Curve(max(cost.loaded_mb, room_mb + 1), 0.0, 0.0)
    if cost.token_mb is not None:
        return Curve(max(peak - cost.token_mb * length for length, peak in points), cost.token_mb, 0.0)
    if len(points) > 2:
        return fit(points[1:] if len(points) > 3 else points)  # the first one's memory was still being warmed up
    # Memory ended the measurement: what is not known is taken to grow as fast as it can.
    (a, low), (b, high) = [(0.0, cost.loaded_mb), *points][-2:]
    square = max(0.0, high - low) / (b * b - a * a)
    return Curve(high - square * b * b, 0.0, square)


def _memory(
    settings: TrainSettings, measured: Measured | None, weights: int, longest: int, text: int, room: float,
    sides: Mapping[str, Lengths],
) -> Memory:  # fmt: skip
    if measured is None:
        return Memory(peak=None, free=room, fits=None)
    cost = measured.cost
    # Beside the rows: gradients of a batch's other rows, a checkpoint as it is written, the dataset's own text.
    gradient = weights * 4 / 2**20
    # A step never has more rows than there are.
    batch = min(settings.batch_size, sum(row[1] <= settings.ctx_size and row[2] > 0 for row in sides["train"].rows))
    others = max(0, batch - 1) * gradient
    more = others + cost.save_mb + 2 * text / 2**20
    curve = peaks(cost, room)
    peak = curve(longest) + more
    reached = cost.points[-1].length if cost.points else 0
    made = Memory(peak=peak, free=room, fits=peak <= room, measured_to=reached)
    alone = peak - others
    if peak > room >= alone:
        made.largest_batch_size = 1 + int((room - alone) / gradient)
    elif peak > room:
        most = curve.longest(room - more, min(settings.ctx_size, longest))
        fitting = [row[1] for row in sides["train"].rows if row[2] and row[1] <= most]
        made.largest_ctx_size = most if fitting and most >= 8 else None
    return made


def _time(
    settings: TrainSettings, measured: Measured | None, train: Sequence[int], validation: Sequence[int], steps: int
) -> Time:  # fmt: skip
    if measured is None or not measured.cost.points:
        return Time(seconds=None, cpu_seconds=None, threads=settings.threads, tokens_per_s=None)
    cost, compute = measured.cost, measured.compute or ComputeConfig(threads=settings.threads or 1)
    threads, together = compute.threads, max([*train, *validation], default=0) if compute.own else 0

    def total(what: str, lengths: Sequence[int]) -> tuple[float, float]:
        """Seconds, and CPU seconds: these are steadier, so they give the curve, and all points together its height."""
        wall, cpu = ([max(1e-6, getattr(point, f"{what}_{unit}")) for point in cost.points] for unit in ("s", "cpu_s"))
        found = fit([(float(point.length), seconds) for point, seconds in zip(cost.points, cpu, strict=True)])
        used = found.total(lengths)
        return used * sum(wall) / sum(cpu), used

    within = len(train) // settings.batch_size // settings.eval_steps if settings.eval_steps else 0
    checks = (1 + settings.epochs * (1 + within)) if validation else 0
    # What goes through the base in one pass costs about as much as one row of that length.
    passes = _passes(train, settings.batch_size, settings.seed, together)
    checked = _passes(validation, len(validation), settings.seed, together)
    (epoch, epoch_cpu), (check, check_cpu) = total("gradient", passes), total("loss", checked)
    minutes = settings.epochs * epoch / 60 / settings.save_minutes if settings.save_minutes else 0
    saves = settings.epochs + steps // settings.save_steps + minutes
    other = cost.load_seconds + saves * cost.save_seconds + steps * min(point.step_s for point in cost.points)
    seconds = settings.epochs * epoch + checks * check + other
    cpu = settings.epochs * epoch_cpu + checks * check_cpu + other * min(1.0, cost.cpu_share)
    calm = cost.cpu_share >= CALM
    quick = epoch if calm else epoch_cpu / threads
    return Time(
        seconds=seconds if calm else cpu / threads, cpu_seconds=cpu, busy_seconds=None if calm else seconds,
        threads=threads, tokens_per_s=sum(train) / quick if quick else None, measured=measured.at,
        cpu_share=cost.cpu_share,
    )  # fmt: skip


def _passes(lengths: Sequence[int], batch_size: int, seed: int, together: int) -> list[int]:
    """Tokens of each pass in an epoch over rows of these `lengths`; up to `together` of a batch go through in one."""
    if batch_size < 2 or not together or not lengths:
        return list(lengths)
    turn = [lengths[place] for place in order(len(lengths), seed, 0)]
    batches = [turn[start : start + batch_size] for start in range(0, len(turn), batch_size)]
    return [sum(batch[place] for place in group) for batch in batches for group in packed(batch, together)]
