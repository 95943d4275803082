"""The training bench: ours against PyTorch + PEFT, in turns, on the same shapes and rows, with the same threads.

    make bench-train, or python bench/train.py [--only 125m-512 30m] [--quick] [--again] [--ours-only]

Every run is a process of its own. Results go to bench/results/train.json after each group of cases and into
bench/train.md; cases that were measured with the same code are kept, so an interrupted bench is gone on with. --quick
and the tiny shape show that everything works: two steps, whose numbers are kept apart in .cache/bench/quick.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import record  # noqa: E402
import train_results as results  # noqa: E402
import train_table  # noqa: E402
from train_cases import TINY, Case, chosen, groups, quick  # noqa: E402
from train_pace import Pace  # noqa: E402
from train_shapes import CACHE, SHAPES, random_base  # noqa: E402
from train_venv import NAMED, torch_python  # noqa: E402

from meton_plugins.finetune.engine.compute import BF16_FLAGS  # noqa: E402
from meton_plugins.finetune.engine.costs import probe  # noqa: E402
from meton_plugins.finetune.engine.process import _MALLOC  # noqa: E402
from meton_plugins.finetune.errors import FinetuneError  # noqa: E402
from meton_plugins.finetune.settings import PROJECTIONS  # noqa: E402
from meton_plugins.finetune.train.measure import trainable  # noqa: E402
from meton_plugins.finetune.train.memory import available_mb  # noqa: E402
from meton_plugins.finetune.train.plan import peaks  # noqa: E402

QUICK: Final = CACHE / "quick"
#: Lines of a failed run that are shown.
TAIL: Final = 6


class Failed(Exception):
    """A run that gave no numbers."""


class Bench:
    """What is measured, by which Python, and where the results go."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.threads, self.folder = options.threads, options.results
        self.torch = None if options.ours_only else torch_python()
        #: Where the CPU does not multiply bf16 itself, it is slower than F32, and not measured.
        self.bf16 = bool(BF16_FLAGS & set(record.machine()["flags"]))
        self.commit = results.measured_code()
        cases = [quick(case) if options.quick else case for case in chosen(options.only)]
        old = {} if options.again else {one.name: one for one in results.read(self.folder).cases}
        self.cases = [case for case in cases if not self._measured(case, old.get(case.name))]
        self.kept = len(cases) - len(self.cases)
        self.pace = Pace([[(side, case.work) for side, case in self._turns(group)] for group in groups(self.cases)])

    def _measured(self, case: Case, old: results.Result | None) -> bool:
        if old is None or not self.commit or old.commit != self.commit:
            return False
        same = (old.threads, old.rounds, old.steps) == (self.threads, case.rounds, case.steps)
        return same and all(getattr(old, side) is not None for side in (*self._own(case), *self._torch()))

    def _own(self, case: Case) -> list[str]:
        return [
            "ours", *(["ours_low"] if case.rows == "chats" else []), *(["ours_bf16"] if self.bf16 else [])
        ]  # fmt: skip

    def _torch(self) -> list[str]:
        if not self.torch:
            return []
        return ["torch_fp32", *(["torch_bf16"] if self.bf16 else [])]

    def _turns(self, group: list[Case]) -> list[tuple[str, Case]]:
        """Sides and cases in the order of their runs: ours, PyTorch, ours, PyTorch."""
        own = [(side, case) for case in group for side in self._own(case)]
        return [*own, *((side, group[0]) for side in self._torch())] * group[0].rounds

    def measure(self, group: list[Case]) -> None:
        """All runs of cases that share PyTorch's, and their results into the file."""
        bases = {case.base: random_base(SHAPES[case.shape], case.vocab, case.base) for case in group}
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for side, case in self._turns(group):
            who = (side, "" if side.startswith("torch") else case.base)
            found.setdefault(who, []).append(self._run(side, case, bases[case.base]))
        for case in group:
            sides = {side: runs for (side, base), runs in found.items() if base in ("", case.base)}
            result = results.result(case, self.threads, self.commit, sides)
            if case.planned:
                result.planned_mb = round(planned_mb(bases[case.base], case.ctx, case.rank, self.threads), 1)
            results.keep(result, self.folder)

    def _run(self, side: str, case: Case, base: Path) -> dict[str, Any]:
        label = case.name.removesuffix(f"-{case.base}") if side.startswith("torch") else case.name
        print(f"[{self.pace.position}] {label:24}{side:11}", end="", flush=True)
        job = {**asdict(case), "threads": self.threads}
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "PYTHONDONTWRITEBYTECODE": "1"}
        if side.startswith("torch"):
            python, script = str(self.torch), "train_torch.py"
            job |= {"shape": asdict(SHAPES[case.shape]), "dtype": side.removeprefix("torch_")}
            environment["OPENBLAS_NUM_THREADS"] = str(self.threads)
        else:
            python, script = sys.executable, "train_ours.py"
            job |= {
                "base": str(base), "weights": "packed" if side == "ours_low" else "unpacked",
                "precision": "bf16" if side == "ours_bf16" else "f32",
            }  # fmt: skip
            # As engine/process.py starts the engine: how glibc gives memory back is part of the peak.
            environment |= {**_MALLOC, "OPENBLAS_NUM_THREADS": "1", "GGML_NO_BACKTRACE": "1"}
        began = time.monotonic()
        done = subprocess.run(
            [python, str(ROOT / "bench" / script), json.dumps(job)], env=environment, capture_output=True, text=True,
            errors="replace", check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
        self.pace.done(seconds)
        if done.returncode:
            print("failed", flush=True)
            words = "\n".join(done.stderr.strip().splitlines()[-TAIL:])
            raise Failed(f"{label} {side} ended with code {done.returncode}:\n{words}")
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        if not all(abs(loss) < float("inf") for loss in found["losses"]):
            print("failed", flush=True)
            raise Failed(f"{label} {side}: its loss is no number: {found['losses']}")
        peak = found["peak_rss_mb"] - found.get("gpu_libraries_mb", 0)
        print(f"{found['tokens_per_s']:8.1f} tokens/s {peak:7.0f} MB {seconds:6.0f} s   {self.pace.left}", flush=True)
        return found


def planned_mb(base: Path, ctx: int, rank: int, threads: int) -> float:
    """What the planner foresees for rows of `ctx` tokens in F32, weights packed, from the blocks that it measures."""
    room, adapter = available_mb(), trainable(base, rank, PROJECTIONS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in ("train", "validation"):
            (folder / f"{side}.jsonl").touch()  # without rows, it makes one of `ctx` tokens
        _, cost = probe(
            base, folder, [], folder, system="", learned="last", ctx_size=ctx, rank=rank, targets=PROJECTIONS,
            adapter=adapter, longest=ctx, room_mb=room, workers=threads, precision="f32", weights="packed",
        )  # fmt: skip
    return peaks(cost, room)(ctx)


def words() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cases whose names begin so")
    parser.add_argument("--quick", action="store_true", help="one round of two steps, kept in .cache/bench/quick")
    parser.add_argument("--again", action="store_true", help="also what was measured with the same code")
    parser.add_argument("--ours-only", action="store_true", help="without PyTorch")
    parser.add_argument("--threads", type=int, default=2, help="of both sides (2)")
    parser.add_argument("--list", action="store_true", help="name the cases and measure nothing")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where train.json goes")
    options = parser.parse_args()
    picked = chosen(options.only)
    if not picked:
        raise SystemExit(f"No case is named so: --list names all {len(chosen([])) + len(TINY)}.")
    apart = options.quick or options.ours_only or any(case in TINY for case in picked)
    options.results = options.results or (QUICK if apart else record.RESULTS)
    if options.list:
        print("\n".join(case.name for case in (*chosen([]), *TINY)))
        raise SystemExit(0)
    return options


def main() -> None:
    """Measure, show, keep; 1 where something failed."""
    options = words()
    bench = Bench(options)
    if not bench.torch and not options.ours_only:
        raise SystemExit(
            f"PyTorch is not there: type make bench-train, name a Python that has it in {NAMED}, or give --ours-only."
        )
    if bench.kept:
        print(f"cases kept, measured with the same code: {bench.kept}; --again measures them too")
    if bench.cases:
        print(f"cases: {len(bench.cases)}, runs: {bench.pace.runs}, {bench.pace.left}")
    failures = []
    for group in groups(bench.cases):
        try:
            bench.measure(group)
        except (Failed, FinetuneError) as error:
            failures.append(str(error))
            bench.pace.skip_group()
    if results.read(options.results).cases:
        table = train_table.write(options.results, bench.torch)
        print(f"{table} and {options.results / 'train.json'} are written")
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
