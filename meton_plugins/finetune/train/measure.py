"""What a run costs here, measured once for each base, adapter and engine, and kept."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..curate import dataset as datasets
from ..engine import costs
from ..engine.costs import Cost, Lengths, Point
from ..engine.manner import manner_of
from ..engine.package import installed
from ..errors import UsageError
from ..gguf.inspect import inspect, open_gguf
from ..graph import PASS
from ..paths import Home, private_dir
from .kept import keep, kept_file, read_kept
from .planner import Ingredients, chosen

__all__ = ["Measured", "cost_of", "known_cost", "lengths_of", "trainable"]

Progress = Callable[[int, int], None]

#: A curve is trusted up to so many times the longest row that was measured, where a longer one could be measured.
FAR: Final = 2


@dataclass(frozen=True)
class Measured:
    """A measurement: when it was made (ISO, UTC) and for rows of up to how many tokens. `fresh`: just now."""

    at: str
    longest: int
    cost: Cost
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


def known_cost(home: Home, made_of: Ingredients, longest: int) -> Measured | None:
    """What was measured before for such a run with rows of up to `longest` tokens, or None."""
    return _known(_cost_file(home, made_of, longest), longest)


def _known(file: Path, longest: int) -> Measured | None:
    values = read_kept(file)
    try:
        points = [Point(**point) for point in values["cost"]["points"]]
        found = Measured(values["at"], int(values["longest"]), Cost(**{**values["cost"], "points": points}))
    except (ValueError, KeyError, TypeError):
        return None
    reached = points[-1].length if points else 0
    # It stopped at its own longest row: there was no reason to go further then.
    stopped = reached < found.longest
    return found if longest <= found.longest or stopped or longest <= FAR * reached else None


def cost_of(
    home: Home, made_of: Ingredients, longest: int, room_mb: float, *, again: bool = False,
    progress: Progress | None = None,
) -> Measured:  # fmt: skip
    """What was measured before for such a run, or what is measured now, within `room_mb` of memory."""
    file = _cost_file(home, made_of, longest)
    known = None if again else _known(file, longest)
    if known:
        return known
    settings, base = made_of.settings, Path(made_of.base.path)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    size = made_of.base.size / 2**20
    if size > room_mb:  # loading it would take what others have
        return Measured(now, longest, Cost(size, 0.0, 1, {}, [], 0.0, 0.0, 1.0), fresh=True)
    cost = costs.probe(
        base, private_dir(home.root), rank=settings.lora_rank, targets=settings.lora_targets,
        adapter=trainable(base, settings.lora_rank, settings.lora_targets), longest=max(1, longest), room_mb=room_mb,
        workers=settings.threads, chat_template=settings.chat_template, accelerate=settings.accelerate,
        precision=settings.precision, weights=settings.weights, progress=progress,
    )  # fmt: skip
    if len(cost.points) > 1:  # what a full memory kept from being measured may fit tomorrow
        values = {**cost._asdict(), "points": [point._asdict() for point in cost.points]}
        keep(file, {"at": now, "longest": longest, "cost": values})
    return Measured(now, longest, cost, fresh=True)


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


def _cost_file(home: Home, made_of: Ingredients, longest: int) -> Path:
    settings, engine = made_of.settings, installed()
    manner = manner_of(
        engine, inspect(Path(made_of.base.path)), longest, accelerate=settings.accelerate,
        precision=settings.precision, weights=settings.weights,
    )  # fmt: skip
    return kept_file(
        home, "cost", made_of.base.sha256, settings.lora_rank, sorted(settings.lora_targets), settings.threads,
        settings.gpu_layers, engine.version, engine.backend, engine.products, PASS, dataclasses.astuple(manner),
    )  # fmt: skip
