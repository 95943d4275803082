"""What a training costs on this machine: memory and seconds of a few real rows, and the lengths of all rows.

Measured, not worked out from the model: a faster kernel or another backend changes both.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from ..gguf.chat_template import template_for
from ..gguf.inspect import GgufInfo, inspect
from ..gguf.rows import Row, build_rows
from .accelerated import NativeTrainer
from .adamw import AdamW, mean_gradient
from .adapted import Adapter
from .autotune import NoRoom, Wishes, autotune, block_times, sample_layers, within
from .checkpoint import save_adapter
from .compute import ComputeConfig
from .gradient import RowTrainer, Trainer
from .library import Library
from .model import Model
from .trainer import read_chats

__all__ = ["SIDES", "lengths", "probe"]

Emit = Callable[..., None]
Wanted = Callable[[], "str | None"]

#: The sides of a dataset that a run reads.
SIDES: Final = ("train", "validation")
#: Copies of the adapter's numbers in a step: gradient, its mean over the rows of a batch, both moments.
COPIES: Final = 4
#: Seconds of the plan's patience that the measurement of an own pass may use for rows, once it is decided.
ROW_SECONDS: Final = 5.0
#: Rows of the library's pass, in tokens: short ones, for it may take a second a token.
LIBRARY_LENGTHS: Final = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
#: Where not even a row of a few tokens fits.
NOTHING: Final[dict[str, Any]] = {
    "points": [], "save_seconds": 0.0, "save_mb": 0.0, "cpu_share": 1.0, "token_mb": None
}  # fmt: skip
#: So many of them at least: a line needs two points.
LEAST: Final = 2
#: A row twice as long rarely takes more than so many times as long.
GROWTH: Final = 3


def lengths(library: Library, job: dict[str, Any], emit: Emit, wanted: Wanted) -> None:
    """Id, length and learned tokens of every row that a run on a dataset would have, whatever its --ctx-size."""
    base, folder = Path(job["base"]), Path(job["dataset"])
    template = template_for(inspect(base), job.get("chat_template"))
    sides: dict[str, Any] = {}
    with Model(library, base, vocab_only=True) as model:
        for done, side in enumerate(SIDES):
            emit("progress", done=done, total=len(SIDES))
            chats = read_chats(folder / f"{side}.jsonl", job["system"])
            rows, refused = build_rows(chats, template, model, 2**31, job["learned"])
            sides[side] = {
                "rows": [(row.id, row.length, row.learned) for row in rows],
                "refused": [(one.id, one.reason) for one in refused],
            }
    emit("result", sides=sides)


def probe(library: Library, job: dict[str, Any], emit: Emit, wanted: Wanted) -> None:
    """How a run computes, where `compute` does not say it, and what it then costs on the rows with the ids `rows`.

    It keeps within `room_mb` of memory and takes about `seconds`; `longest` tokens has the longest row of the run.
    """
    base, started = Path(job["base"]), time.monotonic()
    info = inspect(base)
    with Model(library, base, gpu_layers=int(job.get("gpu_layers", 0))) as model:
        rows = _rows(model, info, job)
        loaded, load_seconds = _peak_mb(), time.time() - psutil.Process().create_time()
        adapter = Adapter(rank=job["rank"], targets=job["targets"])
        room = float(job["room_mb"]) - loaded
        try:
            if job.get("compute"):
                compute = ComputeConfig.model_validate(job["compute"])
            else:
                wishes = Wishes(*(job[name] for name in Wishes._fields))
                compute = autotune(
                    model, base, info, rows, adapter, wishes, room,
                    lambda done, total: emit("progress", done=done, total=total + 1),
                )  # fmt: skip
            cost = _cost(model, base, rows, adapter, compute, job, room, started + float(job["seconds"]))
        except NoRoom:
            compute, cost = None, NOTHING
    emit(
        "result", compute=compute.model_dump() if compute else None, loaded_mb=loaded, load_seconds=load_seconds, **cost
    )


def _cost(
    model: Model, base: Path, rows: Sequence[Row], adapter: Adapter, compute: ComputeConfig, job: Mapping[str, Any],
    room: float, until: float,
) -> dict[str, Any]:  # fmt: skip
    if compute.own:
        return _own_cost(model, base, rows, adapter, compute, job, room, until)
    return _library_cost(model, rows, adapter, compute, job, until)


def _rows(model: Model, info: GgufInfo, job: Mapping[str, Any]) -> list[Row]:
    """The rows with the wanted ids, the shortest first."""
    template, ids = template_for(info, job.get("chat_template")), set(job["rows"])
    chats = [
        chat
        for side in SIDES
        for chat in read_chats(Path(job["dataset"]) / f"{side}.jsonl", job["system"])
        if chat[0] in ids
    ]
    rows, _ = build_rows(chats, template, model, int(job["ctx_size"]), job["learned"])
    if not rows:  # nothing that a run could use: the plan says so by itself
        tokens = np.arange(int(job["longest"]) + 1, dtype=np.int32) % model.size
        return [Row("", tokens, np.ones(len(tokens), np.bool_))]
    return sorted(rows, key=lambda row: row.length)


def _own_cost(
    model: Model, base: Path, rows: Sequence[Row], adapter: Adapter, compute: ComputeConfig, job: Mapping[str, Any],
    room: float, until: float,
) -> dict[str, Any]:  # fmt: skip
    threads, bf16, unpacked = compute.threads, compute.precision == "bf16", compute.weights == "unpacked"
    size, took = int(job["adapter"]) * 4 / 2**20, 0.0
    # The library keeps the adapter of a closed context for as long as its model: no run has more than one.
    extra = 0.0 if job.get("compute") else size
    points: list[dict[str, float]] = []
    with NativeTrainer(model, base, int(job["longest"]), threads, adapter, bf16=bf16, unpacked=unpacked) as trainer:
        rows = [within(row, trainer, room) for row in rows]
        middle, token_mb, constant = rows[len(rows) // 2], trainer.token_mb, 0.0
        layers, of_gradient = sample_layers(trainer, middle, threads), (0.0, 0.0)
        # The middle one first: if it takes long, it is the only one.
        for row in {row.length: row for row in (middle, rows[-1], rows[0])}.values():
            began = time.monotonic()
            if points and began + GROWTH * took > max(until, began + ROW_SECONDS):
                break
            _forget_peak()
            times = block_times(trainer, row, layers, threads=threads, bf16=bf16, unpacked=unpacked, loss=not points)
            took = time.monotonic() - began
            if not points:
                # What the other blocks add: activations, gradients of their adapters, their weights where they stay.
                constant = _peak_mb() - extra - times.token_mb * row.length
                constant += size * (COPIES - len(layers) / trainer.layers)
                if unpacked:
                    rest = sorted(set(range(trainer.layers)) - set(layers))
                    constant += trainer.unpacked_bytes(rest, 2 if bf16 else 4) / 2**20
                of_gradient = times.loss / times.gradient, times.loss_cpu / times.gradient_cpu
            points.append({
                "length": row.length, "peak_mb": constant + token_mb * row.length, "gradient_s": times.gradient,
                "loss_s": of_gradient[0] * times.gradient, "gradient_cpu_s": times.gradient_cpu,
                "loss_cpu_s": of_gradient[1] * times.gradient_cpu,
            })  # fmt: skip
        points.sort(key=lambda point: point["length"])
        share = (
            sum(point["gradient_cpu_s"] for point in points) / sum(point["gradient_s"] for point in points) / threads
        )
        optimizer, began = AdamW(), time.monotonic()
        zeros = {name: np.zeros_like(values) for name, values in trainer.weights().items()}
        optimizer.step(trainer.weights(), mean_gradient([(1, zeros)]), 0.0)
        step = time.monotonic() - began
        save_seconds, save_mb = _save(trainer, optimizer, Path(job["scratch"]))
    return {
        "points": [{**point, "step_s": step} for point in points], "save_seconds": save_seconds, "save_mb": save_mb,
        "cpu_share": min(share, 1.0), "token_mb": token_mb,
    }  # fmt: skip


def _library_cost(
    model: Model, rows: Sequence[Row], adapter: Adapter, compute: ComputeConfig, job: Mapping[str, Any], until: float
) -> dict[str, Any]:  # fmt: skip
    """Rows cut to lengths that grow, until time or memory ends it: of the longest row, whose end is not reached."""
    points: list[dict[str, float]] = []
    longest, room = rows[-1], float(job["room_mb"])
    # Contexts that were opened before, whose adapters are still there: see `_own_cost`.
    optimizer, share, contexts = AdamW(), 1.0, 2 if compute.slowdown else 0
    save_seconds = save_mb = 0.0
    size = int(job["adapter"]) * 4 / 2**20
    for length in _rising(min(longest.length, int(job["longest"])), points, until, room):
        row = Row(longest.id, longest.tokens[: length + 1], np.ones(length + 1, np.bool_))
        _forget_peak()
        with RowTrainer(model, length, compute.threads, adapter) as trainer:
            wall, cpu = time.monotonic(), time.process_time()
            _, gradients = trainer.gradients(row.tokens, row.trained)
            gradient, gradient_cpu = time.monotonic() - wall, time.process_time() - cpu
            share = gradient_cpu / max(gradient * compute.threads, 1e-9)
            wall = time.monotonic()
            optimizer.step(trainer.weights(), mean_gradient([(length, gradients)]), 1e-5)
            step = time.monotonic() - wall
            wall, cpu = time.monotonic(), time.process_time()
            trainer.loss(row.tokens, row.trained)
            loss, loss_cpu = time.monotonic() - wall, time.process_time() - cpu
            points.append({
                "length": length, "peak_mb": _peak_mb() - contexts * size, "gradient_s": gradient, "loss_s": loss,
                "step_s": step, "gradient_cpu_s": gradient_cpu, "loss_cpu_s": loss_cpu,
            })  # fmt: skip
            contexts += 1
            if not save_seconds:
                save_seconds, save_mb = _save(trainer, optimizer, Path(job["scratch"]))
    return {
        "points": points, "save_seconds": save_seconds, "save_mb": save_mb, "cpu_share": min(share, 1.0),
        "token_mb": None,
    }  # fmt: skip


def _rising(longest: int, points: list[dict[str, float]], until: float, room_mb: float) -> Iterator[int]:
    """Lengths to measure, each after what the ones before took."""
    for length in [each for each in LIBRARY_LENGTHS if each < longest] + [longest]:
        now = time.monotonic()
        if points:
            last = points[-1]
            factor = length / last["length"]
            late = now + (last["gradient_s"] + last["loss_s"]) * factor > until
            grown = last["peak_mb"] - points[-2]["peak_mb"] if points[1:] else 0.0
            if (late and len(points) >= LEAST) or last["peak_mb"] + grown * factor**2 > room_mb:
                return
        yield length


def _save(trainer: Trainer, optimizer: AdamW, scratch: Path) -> tuple[float, float]:
    """Write what a checkpoint holds, where the run's will be: the seconds and the memory that it takes."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".probe-") as folder:
        _forget_peak()
        before, started = psutil.Process().memory_info().rss / 2**20, time.monotonic()
        save_adapter(trainer, Path(folder) / "adapter.gguf")
        np.savez(Path(folder) / "optimizer.npz", **optimizer.state())  # type: ignore[arg-type]
        return time.monotonic() - started, max(0.0, _peak_mb() - before)


def _forget_peak() -> None:
    """Let the peak begin anew, where the system can; elsewhere it only grows, as the rows do."""
    if sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return


def _peak_mb() -> float:
    """Most memory that this process held since `_forget_peak`."""
    if sys.platform == "linux":
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
        except (OSError, StopIteration, ValueError):
            return psutil.Process().memory_info().rss / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
