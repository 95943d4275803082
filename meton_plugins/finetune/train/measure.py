"""How a run computes here, decided once for each base, engine and machine, and what it costs: measured, and kept."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from ..curate import dataset as datasets
from ..engine import costs
from ..engine.compute import ComputeConfig, cpu_model
from ..engine.costs import Cost, Lengths, Point
from ..engine.package import installed
from ..errors import UsageError
from ..gguf.inspect import open_gguf
from ..graph import PASS
from ..paths import Home, private_dir
from .kept import keep, kept_file, read_kept
from .planner import Ingredients, chosen

__all__ = ["Measured", "TrainRow", "cost_of", "known_compute", "known_cost", "lengths_of", "trainable"]

Progress = Callable[[int, int], None]

#: A row as it is read for a plan: id, tokens, learned tokens.
TrainRow = tuple[str, int, int]

#: A curve is trusted up to so many times the longest row that was measured, where a longer one could be measured.
FAR: Final = 2
#: Rows that are measured, by their place among all, the shortest first; the middle one decides how a run computes.
QUANTILES: Final = (0.1, 0.5, 0.9)
#: Bounds in tokens between kinds of datasets, by their middle row: unpacking weights pays for short rows above all.
ROW_KINDS: Final = (128, 512)
#: The head's cost follows the learned tokens: with a share of them that differs by more than this factor, another
#: dataset's measurement does not hold.
LEARNED_FACTOR: Final = 1.5


@dataclass(frozen=True)
class Measured:
    """A measurement: when it was made (ISO, UTC) and for rows of up to how many tokens. `fresh`: just now."""

    at: str
    longest: int
    cost: Cost
    compute: ComputeConfig | None
    fresh: bool = False


def trainable(base: Path, rank: int, targets: Sequence[str]) -> int:
    """Weights of an adapter of `rank` on the projections `targets` of `base`."""
    wanted = {f"{target}.weight" for target in targets}
    tensors = open_gguf(base).tensors
    return sum(
        rank * int(tensor.shape[0] + tensor.shape[1])
        for tensor in tensors
        if tensor.name.startswith("blk.") and tensor.name.split(".", 2)[2] in wanted
    )


def known_compute(home: Home, made_of: Ingredients, rows: Sequence[TrainRow]) -> ComputeConfig | None:
    """How runs of such rows on this base compute here, where that has been decided before."""
    values = read_kept(_compute_file(home, made_of, rows))
    try:
        return None if values is None else ComputeConfig.model_validate(values)
    except ValueError:
        return None


def known_cost(home: Home, made_of: Ingredients, rows: Sequence[TrainRow]) -> Measured | None:
    """What was measured before for a run with such rows, or None."""
    compute = known_compute(home, made_of, rows)
    return _known(_cost_file(home, made_of, compute), made_of, rows, compute) if compute else None


def _known(
    file: Path, made_of: Ingredients, rows: Sequence[TrainRow], compute: ComputeConfig
) -> Measured | None:  # fmt: skip
    values = read_kept(file)
    try:
        points = [Point(**point) for point in values["cost"]["points"]]
        cost = Cost(**{**values["cost"], "points": points})
        known, learned = Measured(values["at"], int(values["longest"]), cost, compute), float(values["learned"])
    except (ValueError, KeyError, TypeError):
        return None
    if not learned / LEARNED_FACTOR <= _learned(rows) <= learned * LEARNED_FACTOR:
        return None
    reached, longest = (points[-1].length if points else 0), _longest(_fitting(made_of, rows))
    # The library's pass was measured for as long as there was time or memory: there is no reason to go further now.
    stopped = not compute.own and reached < known.longest
    return known if longest <= known.longest or stopped or longest <= FAR * reached else None


def cost_of(
    home: Home, made_of: Ingredients, rows: Sequence[TrainRow], room_mb: float, *, again: bool = False,
    progress: Progress | None = None,
) -> Measured:  # fmt: skip
    """What was measured before for a run with these rows, or what is measured now, within `room_mb` of memory.

    `rows`: all of the dataset, also those that are longer than the run's --ctx-size.

    `again`: also how it computes is decided anew.
    """
    known = None if again else known_cost(home, made_of, rows)
    if known:
        return known
    settings, base = made_of.settings, Path(made_of.base.path)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    fitting = _fitting(made_of, rows)
    size, longest = made_of.base.size / 2**20, _longest(fitting)
    compute = None if again else known_compute(home, made_of, rows)
    if size > room_mb:  # loading it would take what others have
        return Measured(now, longest, Cost(size, 0.0, [], 0.0, 0.0, 1.0), compute, fresh=True)
    decided, cost = costs.probe(
        base, made_of.dataset, _sample(fitting), private_dir(home.root), system=made_of.system,
        learned=datasets.load(made_of.dataset).manifest.learned, ctx_size=settings.ctx_size,
        rank=settings.lora_rank, targets=settings.lora_targets,
        adapter=trainable(base, settings.lora_rank, settings.lora_targets), longest=longest, room_mb=room_mb,
        compute=compute, workers=settings.threads, gpu_layers=settings.gpu_layers,
        chat_template=settings.chat_template, accelerate=settings.accelerate and not settings.gpu_layers,
        precision=settings.precision, weights=settings.weights, progress=progress,
    )  # fmt: skip
    if decided is None:
        return Measured(now, longest, cost, None, fresh=True)
    if decided != compute:
        keep(_compute_file(home, made_of, rows), decided.model_dump())
    if len(cost.points) > 1 or (cost.points and cost.token_mb is not None):
        # What a full memory kept from being measured may fit tomorrow.
        values = {**cost._asdict(), "points": [point._asdict() for point in cost.points]}
        facts = {"at": now, "longest": longest, "learned": _learned(rows), "cost": values}
        keep(_cost_file(home, made_of, decided), facts)
    return Measured(now, longest, cost, decided, fresh=True)


def _fitting(made_of: Ingredients, rows: Sequence[TrainRow]) -> list[TrainRow]:
    """Those that a run of `made_of` has."""
    return [row for row in rows if row[1] <= made_of.settings.ctx_size and row[2]]


def _longest(rows: Sequence[TrainRow]) -> int:
    return max((row[1] for row in rows), default=0)


def _learned(rows: Sequence[TrainRow]) -> float:
    return sum(row[2] for row in rows) / max(1, sum(row[1] for row in rows))


def _sample(rows: Sequence[TrainRow]) -> list[str]:
    """The ids of rows that stand for all."""
    rising = sorted(rows, key=lambda row: (row[1], row[0]))
    return list(dict.fromkeys(rising[int(share * (len(rising) - 1))][0] for share in QUANTILES))


def lengths_of(home: Home, made_of: Ingredients, progress: Progress | None = None) -> dict[str, Lengths]:
    """The rows of each side of the dataset that a run of `made_of` has, however long, as its base reads them."""
    return _of_run(made_of, _lengths(home, made_of, progress))


def _of_run(made_of: Ingredients, sides: dict[str, Lengths]) -> dict[str, Lengths]:
    """Without what a run that goes on from another leaves out."""
    if made_of.parent is None:
        return sides
    dataset = chosen(made_of).dataset
    names = {side: {row.id for row in getattr(dataset, side)} for side in sides}
    return {
        side: Lengths(
            [row for row in one.rows if row[0] in names[side]], [row for row in one.refused if row[0] in names[side]]
        )
        for side, one in sides.items()
    }


def _lengths(home: Home, made_of: Ingredients, progress: Progress | None) -> dict[str, Lengths]:
    settings, dataset = made_of.settings, made_of.dataset
    learned = datasets.load(dataset).manifest.learned  # and it is as it was frozen
    # Forgetting takes rows out of a frozen dataset.
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(dataset.glob("*.jsonl"))]
    template = _chat_template(settings.chat_template)
    file = kept_file(home, "rows", made_of.base.sha256, dataset.name, files, made_of.system, learned, template)
    known = read_kept(file)
    if known is not None:
        return {
            side: Lengths([tuple(row) for row in one["rows"]], [tuple(row) for row in one["refused"]])
            for side, one in known.items()
        }
    found = costs.lengths(
        Path(made_of.base.path), dataset, system=made_of.system, learned=learned,
        chat_template=settings.chat_template, progress=progress,
    )  # fmt: skip
    keep(file, {side: one._asdict() for side, one in found.items()})
    return found


def _chat_template(wanted: str | None) -> str:
    if not wanted or not Path(wanted).expanduser().is_file():
        return wanted or ""
    try:
        return Path(wanted).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The chat template {wanted} cannot be read: give another file.") from error


def _compute_file(home: Home, made_of: Ingredients, rows: Sequence[TrainRow]) -> Path:
    settings, engine = made_of.settings, installed()
    middle = median(row[1] for row in rows) if rows else 0
    kind = sum(middle >= bound for bound in ROW_KINDS)
    traits: tuple[Any, ...] = (
        made_of.base.sha256, kind, settings.threads, settings.gpu_layers, settings.accelerate, settings.precision,
        settings.weights, engine.version, engine.backend, engine.products, PASS, cpu_model(),
    )  # fmt: skip
    return kept_file(home, "compute", *traits)


def _cost_file(home: Home, made_of: Ingredients, compute: ComputeConfig) -> Path:
    settings, engine = made_of.settings, installed()
    how = (compute.trainer, compute.name)
    return kept_file(
        home, "cost", made_of.base.sha256, settings.lora_rank, sorted(settings.lora_targets), settings.gpu_layers,
        engine.version, engine.backend, engine.products, PASS, cpu_model(), how,
    )  # fmt: skip
