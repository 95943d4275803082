"""What the training bench found: bench/results/train.json as data, with the ratios made of it."""

from __future__ import annotations

import hashlib
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import record
from pydantic import BaseModel, ConfigDict
from train_cases import CASES, Case

ROOT: Final = Path(__file__).resolve().parent.parent
SUBJECT: Final = "train"
#: What decides the numbers.
CODE: Final = (
    *(f"meton_plugins/finetune/{part}" for part in ("engine", "gguf", "graph")),
    *(f"bench/train_{part}.py" for part in ("measure", "ours", "rows", "shapes", "torch")),
    "requirements/bench-train.txt",
)
#: What the ratios of each name are between: the same numbers on both sides.
AGAINST: Final = {
    "fp32": ("ours", "torch_fp32"), "fp32_low": ("ours_low", "torch_fp32"), "bf16": ("ours_bf16", "torch_bf16"),
}  # fmt: skip


class Strict(BaseModel):
    """A field that is not known is an error."""

    model_config = ConfigDict(extra="forbid")


class Figures(Strict):
    """One side of a case. `useful` are the tokens that are learned.

    Median of `runs` (tokens/s of each), whose distance is `spread` (of the median); of memory the most. `libraries_mb`:
    the part of `peak_rss_mb` that interpreter and libraries took before there was a model; `gpu_libraries_mb` is what
    torch's libraries for a GPU took beside that: it is counted in neither. `cores`: how many were at work, on average.
    """

    tokens_per_s: float
    useful_tokens_per_s: float
    cpu_s_per_step: float
    peak_rss_mb: float
    libraries_mb: float
    gpu_libraries_mb: float | None = None
    cores: float
    spread: float
    runs: list[float]
    how: str


class Result(Strict):
    """A case with both sides. Ratios are ours by PyTorch's: of speed better above 1, of memory below."""

    name: str
    commit: str
    params_m: float
    vocab: int
    ctx: int
    base: str
    rows: str
    batch: int
    rank: int
    threads: int
    rounds: int
    steps: int
    #: What the planner foresees, where it was asked.
    planned_mb: float | None = None
    #: Products in F32, against PyTorch's fp32; with the weights packed; products in bf16, against PyTorch's bf16.
    ours: Figures
    ours_low: Figures | None = None
    ours_bf16: Figures | None = None
    torch_fp32: Figures | None = None
    torch_bf16: Figures | None = None
    ratio_speed_fp32: float | None = None
    ratio_memory_fp32: float | None = None
    ratio_speed_bf16: float | None = None
    ratio_memory_bf16: float | None = None
    ratio_speed_fp32_low: float | None = None
    ratio_memory_fp32_low: float | None = None


class Found(Strict):
    """The whole file."""

    machine: dict[str, Any]
    cases: list[Result] = []


def read(folder: Path = record.RESULTS) -> Found:
    """What was measured on this machine; of another one, nothing is gone on with."""
    values = record.get(SUBJECT, folder)
    if not values or any(values["machine"][key] != record.machine()[key] for key in ("cpu", "cores", "flags")):
        return Found(machine=record.machine())
    return Found.model_validate(values)


def keep(result: Result, folder: Path) -> None:
    """Put `result` into the file, over an older one of the same case, in the order of the bench."""
    cases = {one.name: one for one in read(folder).cases} | {result.name: result}
    order = [case.name for case in CASES]
    ranked = sorted(cases.values(), key=lambda one: order.index(one.name) if one.name in order else len(order))
    record.put(SUBJECT, folder, cases=[one.model_dump(mode="json") for one in ranked])


def figures(runs: Sequence[Mapping[str, Any]]) -> Figures:
    """What the runs of one side say together."""
    speeds = [float(run["tokens_per_s"]) for run in runs]
    middle = statistics.median(speeds)
    gpu = max((float(run.get("gpu_libraries_mb", 0)) for run in runs), default=0)
    return Figures(
        tokens_per_s=round(middle, 2),
        useful_tokens_per_s=round(statistics.median(run["useful_tokens_per_s"] for run in runs), 2),
        cpu_s_per_step=round(statistics.median(run["cpu_s_per_step"] for run in runs), 3),
        peak_rss_mb=round(max(run["peak_rss_mb"] for run in runs) - gpu, 1),
        libraries_mb=round(max(run["libraries_mb"] for run in runs) - gpu, 1),
        gpu_libraries_mb=round(gpu, 1) if "gpu_libraries_mb" in runs[0] else None,
        cores=round(statistics.median(run["cores"] for run in runs), 2),
        spread=round((max(speeds) - min(speeds)) / middle, 3),
        runs=[round(speed, 2) for speed in speeds],
        how=str(runs[0]["how"]),
    )


def result(case: Case, threads: int, commit: str, sides: Mapping[str, Sequence[Mapping[str, Any]]]) -> Result:
    """A case of the runs of its sides: ours, and of the others those that ran."""
    found = {side: figures(runs) for side, runs in sides.items() if runs}
    ratios: dict[str, float] = {}
    for name, (own, other) in AGAINST.items():
        if own in found and other in found:
            ratios[f"ratio_speed_{name}"] = round(found[own].tokens_per_s / found[other].tokens_per_s, 3)
            ratios[f"ratio_memory_{name}"] = round(found[own].peak_rss_mb / found[other].peak_rss_mb, 3)
    return Result(
        name=case.name, commit=commit, params_m=case.parameters_m, vocab=case.vocab, ctx=case.ctx, base=case.base,
        rows=case.rows, batch=case.batch, rank=case.rank, threads=threads, rounds=case.rounds, steps=case.steps,
        **found, **ratios,
    )  # fmt: skip


def measured_code(code: Sequence[str] = CODE) -> str:
    """The commit that last changed `code`, with a mark of what has changed since; empty without git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if not done.returncode else ""

    commit = git("log", "-1", "--format=%h", "--abbrev=12", "--", *code)
    new = git("ls-files", "--others", "--exclude-standard", "--", *code)
    changed = git("diff", "HEAD", "--", *code) + "".join(_content(name) for name in new.splitlines())
    return f"{commit}+{hashlib.sha256(changed.encode()).hexdigest()[:8]}" if commit and changed else commit


def _content(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")
