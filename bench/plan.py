"""How true the plan is: foreseen against real memory and time, of short runs on random bases.

`python bench/plan.py [5 30 125]` plans and trains each case and writes bench/results/plan.json and bench/plan.md. Cases
that were measured before are kept where their size is not named. CPU seconds stand beside the seconds of the clock,
because other programs on the machine change these between the plan and the run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import record

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.models import make_base  # noqa: E402

from meton_plugins.finetune.commands.planning import foresee  # noqa: E402
from meton_plugins.finetune.curate import dataset  # noqa: E402
from meton_plugins.finetune.engine.package import installed  # noqa: E402
from meton_plugins.finetune.library import Library  # noqa: E402
from meton_plugins.finetune.paths import Home, engine_dir  # noqa: E402
from meton_plugins.finetune.settings import BuildSettings, TrainSettings  # noqa: E402
from meton_plugins.finetune.train.launch import start  # noqa: E402
from meton_plugins.finetune.train.planner import Ingredients, base_record, create  # noqa: E402
from meton_plugins.finetune.train.runs import Run  # noqa: E402
from meton_plugins.finetune.turn import Turn  # noqa: E402
from meton_plugins.host.console import ConsoleHost  # noqa: E402

#: About so many million weights.
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "5": {"width": 256, "layers": 6, "heads": 4, "kv_heads": 2, "inner": 768},
    "30": {"width": 512, "layers": 10, "heads": 8, "kv_heads": 4, "inner": 1536},
    "125": {"width": 1024, "layers": 10, "heads": 16, "kv_heads": 8, "inner": 3072},
}
#: Kind and longest row, by size: the large ones would take hours by the library's own kernels.
CASES: Final = {
    "5": [("f32", 128), ("f32", 512), ("q8_0", 256), ("q4_k_m", 256)],
    "30": [("f32", 256), ("q8_0", 128), ("q4_k_m", 128)],
    "125": [("f32", 128), ("q4_k_m", 128)],
}
#: Examples of a dataset; a tenth or two are validation.
EXAMPLES: Final = 12


def main() -> None:
    """Measure the sizes that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=[*SHAPES], help="millions of weights: 5, 30, 125")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    rows = {_key(row): row for row in record.get("plan").get("runs", [])}
    engine = installed().folder
    with tempfile.TemporaryDirectory() as folder:
        # A lock of its own: it measures beside whatever else trains.
        os.environ["XDG_DATA_HOME"] = str(Path(folder) / "share")
        engine_dir().parent.mkdir(parents=True)
        engine_dir().symlink_to(engine)
        for size in options.sizes:
            for kind, ctx_size in CASES[size]:
                row = case(Path(folder), size, kind, ctx_size, options.threads)
                print(row, flush=True)
                rows[_key(row)] = row
                record.put("plan", runs=[rows[key] for key in sorted(rows)])
                write_table()


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["parameters_m"], row["kind"], row["ctx_size"]


def case(folder: Path, size: str, kind: str, ctx_size: int, threads: int) -> dict[str, Any]:
    """Plan a run and train it: what was foreseen, and what came."""
    base = folder / f"{size}-{kind}.gguf"
    if not base.exists():
        make_base(base, "qwen3", kind=kind, **SHAPES[size])
    home = Home(folder / f"home-{size}-{kind}-{ctx_size}").make()
    data = examples(home, ctx_size)
    settings = TrainSettings(ctx_size=ctx_size, epochs=1, threads=threads)
    made_of = Ingredients(base_record(base, None), data, settings, "")
    host = ConsoleHost(home.root, json=True)  # no bar
    began = time.monotonic()
    plan = foresee(host, home, made_of)
    planned = time.monotonic() - began
    run = create(home, made_of, compute=plan.compute, plan=plan.model_dump(mode="json"))
    began = time.monotonic()
    start(run)
    cpu = watch(run)
    seconds = time.monotonic() - began
    state = run.state
    if state.status != "finished":
        raise SystemExit(f"{run.folder}: {state.status} {state.error}")
    assert plan.memory.peak is not None
    assert plan.time.seconds is not None
    assert plan.time.cpu_seconds is not None
    assert state.peak_rss_mb is not None
    return {
        "parameters_m": round(plan.parameters / 1e6, 1), "kind": kind.upper(), "ctx_size": ctx_size,
        "longest": plan.longest, "tokens": plan.tokens_per_epoch, "threads": plan.time.threads,
        "measured_to": plan.memory.measured_to, "planned_s": round(planned, 1),
        "busy_s": round(plan.time.busy_seconds or plan.time.seconds, 1),
        "cpu_share": round(plan.time.cpu_share or 0, 2),
        "memory_mb": pair(plan.memory.peak, state.peak_rss_mb), "seconds": pair(plan.time.seconds, seconds),
        "cpu_seconds": pair(plan.time.cpu_seconds, cpu),
    }  # fmt: skip


def pair(foreseen: float, real: float) -> dict[str, float]:
    """Both, and the first by the second."""
    return {"foreseen": round(foreseen, 1), "real": round(real, 1), "ratio": round(foreseen / real, 3)}


def watch(run: Run) -> float:
    """Wait until `run` is over; CPU seconds of its engine."""
    used = 0.0
    while run.alive or run.state.status == "starting":
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(run.state.pid).children(recursive=True):
                times = child.cpu_times()
                used = max(used, times.user + times.system)
        time.sleep(0.1)
    return used


def examples(home: Home, ctx_size: int) -> Path:
    """A dataset whose rows are from a fifth of `ctx_size` up to all of it, in a vocabulary of letters."""
    dice = random.Random(ctx_size)

    def turns() -> Iterator[Turn]:
        for number in range(EXAMPLES):
            # The chat's own marks take some forty tokens; a word of four letters and its blank take five.
            letters = (ctx_size - 45) * (0.2 + 0.8 * number / (EXAMPLES - 1))
            words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=4)) for _ in range(int(letters / 5.2))]
            yield Turn(
                session=f"s{number}", at=f"2026-01-{number + 1:02d}T10:00:00", question=f"Say {number}.",
                answer=" ".join(words),
            )  # fmt: skip

    with Library(home.library) as library:
        new, _ = library.add(list(turns()))
        library.rate(new, 5)
        chosen = BuildSettings(form="plain", context_turns=0)
        return home.datasets / dataset.build(library, chosen, home.datasets).id


def write_table() -> None:
    """bench/plan.md."""
    found = record.get("plan")
    machine = found["machine"]
    lines = [
        "# The plan against the run",
        "",
        f"`python bench/plan.py`, on {machine['cores']} cores of {machine['cpu']} ({' '.join(machine['flags'])}), "
        f"{machine['memory_gb']} GB. qwen3-shaped random bases, rank 16 on all projections, one epoch of some ten rows "
        "from a fifth of the context up to all of it.",
        "",
        "Foreseen / real and their ratio. The cores are shared with other work: `core share` is the part of its time "
        "in which the measurement had a core. Where that is below 0.8 the plan gives the seconds of a machine that has "
        "time for the run, so the clock's real seconds are more; `as busy` is what it foresees for one that stays "
        "as busy as it was. CPU seconds are what other work changes least.",
        "",
        "| base | context | rows up to | measured to | memory, MB | CPU seconds | seconds | as busy | core share "
        "| plan took |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["runs"]:
        three = (
            f"{row[name]['foreseen']:.0f} / {row[name]['real']:.0f} = **{row[name]['ratio']:.2f}**"
            for name in ("memory_mb", "cpu_seconds", "seconds")
        )
        lines.append(
            f"| {row['parameters_m']} M {row['kind']} | {row['ctx_size']} | {row['longest']} | {row['measured_to']} "
            f"| {' | '.join(three)} | {row.get('busy_s', '')} | {row['cpu_share']} | {row['planned_s']} s |"
        )
    (ROOT / "bench" / "plan.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
