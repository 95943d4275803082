"""What a training costs on this machine: memory and seconds of a few real rows, and the lengths of all rows.

Measured, not worked out from the model: a faster kernel or another backend changes both.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil

from ..gguf.chat_template import template_for
from ..gguf.inspect import inspect
from ..gguf.rows import build_rows
from .adamw import AdamW, mean_gradient
from .adapted import Adapter
from .checkpoint import save_adapter
from .gradient import Trainer
from .library import Library
from .manner import manner_of
from .model import Model
from .opening import open_trainer
from .package import Engine
from .trainer import read_chats

__all__ = ["SIDES", "lengths", "probe"]

Emit = Callable[..., None]
Wanted = Callable[[], "str | None"]

#: The sides of a dataset that a run reads.
SIDES: Final = ("train", "validation")
#: The first rows, in tokens; then they double. Three lengths after the first show the square of the length.
FIRST: Final = (4, 16)
LEAST: Final = 4
#: A row twice as long takes rarely more than so many times as long.
GROWTH: Final = 3
#: On a busy machine the measurement may take so many times as long as on a quiet one.
PATIENCE: Final = 3
#: Nearer to the end of the memory than by this factor, another row would teach little.
STEP: Final = 1.25
#: A row that takes longer than this, in seconds, is not measured twice.
ONCE: Final = 2.0
#: Copies of the adapter in a step: weights, accumulator, gradient, its mean, both moments.
COPIES: Final = 6
#: Rows for choosing the threads: first one on which threads that fight each other do little harm.
TRIAL_ROWS: Final = (16, 64)
#: Threads that are so much slower on a short row are not tried on a longer one.
HOPELESS: Final = 3.0
#: More threads must be so much faster: they take the machine from its user.
WORTH: Final = 0.9


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
    """Steps on rows that grow to `longest`, until `seconds` are used up or the next would need more than `room_mb`.

    `threads` 0: those that are fastest, of one and `cores`.
    """
    base = Path(job["base"])
    bench = _Bench(library.engine, base, job)
    with Model(library, base) as model:
        bench.warm(model)
        loaded, load_seconds = _peak_mb(), time.time() - psutil.Process().create_time()
        threads = int(job["threads"])
        tried: dict[str, float] = {}
        points: list[dict[str, float]] = []
        for length in bench.rising(points, loaded):
            emit("progress", done=min(length, bench.longest), total=bench.longest + 1)
            points.append(bench.point(model, length, threads or 1))
            if not threads and length >= min(FIRST[-1], bench.longest):
                # Not before it is known how much memory a row takes.
                threads, tried = bench.choose(model, points, loaded)
                if threads > 1:
                    points[:] = [bench.point(model, int(point["length"]), threads) for point in points]
        share = bench.cpu_seconds / max(max(threads, 1) * bench.wall_seconds, 1e-9)
        if points:
            bench.save(model)
    emit(
        "result",
        loaded_mb=loaded, load_seconds=load_seconds, threads=threads or 1, tried=tried, points=points,
        save_seconds=bench.save_seconds, save_mb=bench.save_mb,
        cpu_share=share, token_mb=bench.token_mb,
    )  # fmt: skip


class _Bench:
    """The measurement's wishes, and what it learns on its way."""

    def __init__(self, engine: Engine, base: Path, job: Mapping[str, Any]) -> None:
        self.base, self.job = base, job
        self.longest = int(job["longest"])
        self.seconds = float(job["seconds"])
        self.began, self.used = time.monotonic(), time.process_time()
        self.adapter = Adapter(rank=job["rank"], targets=job["targets"])
        wishes = {name: job[name] for name in ("accelerate", "precision", "weights") if name in job}
        self.manner = manner_of(engine, inspect(base), self.longest, **wishes)
        self.adapter_size = 0
        self.opened = 0
        self.save_seconds = self.save_mb = 0.0
        self.token_mb: float | None = None
        # Of the last gradient: the longest, by the threads that were chosen.
        self.cpu_seconds = self.wall_seconds = 0.0

    def warm(self, model: Model) -> None:
        """What a run has in memory beside the model: the template's interpreter."""
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        build_rows([("", chat)], template_for(inspect(self.base), self.job.get("chat_template")), model, 2**31)

    def choose(self, model: Model, points: list[dict[str, float]], loaded: float) -> tuple[int, dict[str, float]]:
        """The number of threads, and the seconds of a row by those that were tried."""
        cores, tried = int(self.job["cores"]), {}
        most = min(self.longest, self._safe(points[-2] if points[1:] else self._floor(loaded), points[-1]))
        for length in TRIAL_ROWS if cores > 1 else ():
            if length > most:
                break
            for threads in (1, cores):
                with self._open(model, length, threads) as trainer:
                    tried[threads] = min(self._gradient(model, trainer, length)[1] for _ in range(2))
            if tried[cores] > HOPELESS * tried[1] or 8 * sum(tried.values()) > self.seconds:
                break
        better = cores in tried and tried[cores] < WORTH * tried[1]
        return (cores if better else 1), {str(threads): seconds for threads, seconds in tried.items()}

    def _floor(self, loaded: float) -> dict[str, float]:
        """A row without tokens."""
        return {"length": 0.0, "peak_mb": loaded + COPIES * float(self.job["adapter"]) * 4 / 2**20}

    def rising(self, points: list[dict[str, float]], loaded: float) -> Iterator[int]:
        """Lengths to measure, each after what the ones before took."""
        floor = self._floor(loaded)
        length = min(FIRST[0], self.longest)
        if floor["peak_mb"] > float(self.job["room_mb"]):
            return
        while True:
            wall, cpu = time.monotonic(), time.process_time()
            yield length
            now, used = time.monotonic(), time.process_time()
            late = used - self.used + GROWTH * (used - cpu) > self.seconds
            late = late or now - self.began + GROWTH * (now - wall) > PATIENCE * self.seconds
            if length >= self.longest or (len(points) >= LEAST and late):
                return
            wished = next((first for first in FIRST if first > length), 2 * length)
            length = min(wished, self.longest, self._safe(points[-2] if points[1:] else floor, points[-1]))
            if length < min(STEP * points[-1]["length"], self.longest):
                return

    def _safe(self, one: Mapping[str, float], two: Mapping[str, float]) -> int:
        """The longest row that fits even if all that memory grew by from `one` to `two` grows with the square."""
        grown = max(two["peak_mb"] - one["peak_mb"], 1.0) / (two["length"] ** 2 - one["length"] ** 2)
        left = float(self.job["room_mb"]) - two["peak_mb"]
        return int(max(0.0, two["length"] ** 2 + left / grown) ** 0.5)

    def point(self, model: Model, length: int, threads: int) -> dict[str, float]:
        """Peak memory of the process in MB, and seconds of a gradient, a loss and a step, with rows of `length`."""
        _forget_peak()
        with self._open(model, length, threads) as trainer:
            self.token_mb = trainer.token_mb
            optimizer = AdamW()
            times: list[float] = []
            used: list[float] = []
            steps: list[float] = []
            while not times or (len(times) < 2 and times[0] < ONCE):
                gradients, seconds = self._gradient(model, trainer, length)
                times.append(seconds)
                used.append(self.cpu_seconds)
                started = time.monotonic()
                optimizer.step(trainer.weights(), mean_gradient([(length, gradients)]), 1e-5)
                steps.append(time.monotonic() - started)
                del gradients
            tokens, trained = self._row(model, length)
            started, cpu = time.monotonic(), time.process_time()
            trainer.loss(tokens, trained)
            loss, loss_cpu = time.monotonic() - started, time.process_time() - cpu
            # The library keeps the adapter of a closed context for as long as its model: no run has more than one.
            kept = (self.opened - 1) * self.adapter_size * 4 / 2**20
            return {
                "length": length, "peak_mb": _peak_mb() - kept, "gradient_s": sum(times) / len(times), "loss_s": loss,
                "step_s": min(steps), "gradient_cpu_s": min(used), "loss_cpu_s": loss_cpu,
            }  # fmt: skip

    def save(self, model: Model) -> None:
        """Write what a checkpoint holds, where the run's will be: the seconds and the memory that it takes."""
        length = min(FIRST[0], self.longest)
        with (
            self._open(model, length, 1) as trainer,
            tempfile.TemporaryDirectory(dir=self.job["scratch"], prefix=".probe-") as folder,
        ):
            optimizer = AdamW()
            optimizer.step(trainer.weights(), self._gradient(model, trainer, length)[0], 1e-5)
            _forget_peak()
            before, started = psutil.Process().memory_info().rss / 2**20, time.monotonic()
            save_adapter(trainer, Path(folder) / "adapter.gguf")
            np.savez(Path(folder) / "optimizer.npz", **optimizer.state())  # type: ignore[arg-type]
            self.save_seconds = time.monotonic() - started
            self.save_mb = max(0.0, _peak_mb() - before)

    def _open(self, model: Model, length: int, threads: int) -> Trainer:
        self.opened += 1
        tokens = self._row(model, length)[0]
        return open_trainer(model, self.base, length, threads, self.adapter, self.manner, tokens)

    def _row(self, model: Model, length: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        tokens = np.random.default_rng(length).integers(0, model.size, length + 1, dtype=np.int32)
        return tokens, np.ones(length + 1, dtype=np.bool_)

    def _gradient(
        self, model: Model, trainer: Trainer, length: int
    ) -> tuple[dict[str, npt.NDArray[np.float32]], float]:
        tokens, trained = self._row(model, length)
        started, used = time.monotonic(), time.process_time()
        _, gradients = trainer.gradients(tokens, trained)
        seconds = time.monotonic() - started
        self.cpu_seconds, self.wall_seconds = time.process_time() - used, seconds
        self.adapter_size = sum(gradient.size for gradient in gradients.values())
        return gradients, seconds


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
