"""The proof on real models: training against PEFT, resume, export onto the base's own grid and the plan, measured.

    make prove-real, or python bench/prove_real.py [smollm2] [qwen0.5b] [qwen1.5b] [--again] [--parts PART ...]

Each model is measured part by part, and every part is kept in .cache/bench/real with the code that it was measured
with: a bench that was broken off goes on where it was, and a model can be measured alone. A name may also be
NAME=/path/to/file.gguf. Results go to bench/results/real.json after each model and into docs/real-models.md. Without
PyTorch (`python bench/train_venv.py` brings it) PEFT's numbers are left out, and where a model cannot be had it is
skipped; both are said.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import real_table  # noqa: E402
import record  # noqa: E402
from real_cases import CASES, Case  # noqa: E402
from real_grid import change_per_step  # noqa: E402
from real_runs import Bench, Failed, compute_of, seconds_of, tokens_per_s  # noqa: E402
from train_results import measured_code  # noqa: E402
from train_venv import torch_python  # noqa: E402

from meton_plugins.finetune.engine.jobs import threads  # noqa: E402
from meton_plugins.finetune.engine.package import installed  # noqa: E402
from meton_plugins.finetune.errors import FinetuneError  # noqa: E402
from tools.real_models import Unavailable, real_model  # noqa: E402

SUBJECT: Final = "real"
CACHE: Final = ROOT / ".cache" / "bench" / "real"
#: What decides the numbers.
CODE: Final = (
    *(f"meton_plugins/finetune/{part}" for part in ("engine", "gguf", "graph", "serve", "train")),
    *(f"bench/real_{part}.py" for part in ("cases", "grid", "ours", "peft", "runs")),
    "examples/company", "requirements/bench-train.txt",
)  # fmt: skip
#: Lines of a failed child that are shown.
TAIL: Final = 6

Values = dict[str, Any]


class Proof:
    """All parts of one model; each is a method that gives its numbers, and may read those before it."""

    def __init__(self, case: Case, base: Path, engine: Path, folder: Path, python: str | None) -> None:
        self.case, self.base, self.folder, self.python = case, base, folder, python
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "parts.json"
        self.bench = Bench(folder, base, engine, 0)
        self.parts: dict[str, Values] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    #: In this order. Ours and PEFT are measured in turns.
    ORDER: Final = ("plan", "long", "short", "losses", "peft", "speed", "peft_bf16", "resumed", "exports")

    def measure(self, only: list[str]) -> None:
        """Every part that is not there yet, or only those that are named."""
        for name in self.ORDER:
            if name in self.parts and name not in only:
                continue
            if only and name not in only:
                continue
            if name.startswith("peft") and self.python is None:
                print(f"  {name}: left out, there is no PyTorch here", flush=True)
                continue
            began = time.monotonic()
            part: Callable[[], Values] = getattr(self, name)
            values = part()
            self.parts[name] = {**values, "took_s": round(time.monotonic() - began, 1)}
            temporary = self.file.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.parts, indent=1), encoding="utf-8")
            temporary.replace(self.file)
            print(f"  {name}: {json.dumps(self.parts[name])[:300]}", flush=True)

    def plan(self) -> Values:
        """Asked for the first time: nothing about this machine or this base is kept."""
        began = time.monotonic()
        plan = self.bench.type("finetune", "plan", *self.bench.flags(self.case.long))
        seconds = time.monotonic() - began
        return {"seconds": seconds, "foreseen_s": plan["time"]["seconds"], "foreseen_mb": plan["memory"]["peak"]}

    def long(self) -> Values:
        """The run that nobody touches."""
        run = self.bench.train("long", self.case.long)
        state, (whose, numbers) = run.state, compute_of(run)
        return {
            "pass": whose, "precision": numbers, "seconds": seconds_of(run), "peak_mb": state.peak_rss_mb,
            "tokens_per_s": tokens_per_s(run), "base_loss": state.base_loss, "tuned_loss": state.validation_loss,
            "note": state.note,
        }  # fmt: skip

    def short(self) -> Values:
        """In F32: PEFT goes the same way."""
        run = self.bench.train("short", self.case.short, "f32")
        losses = [event["loss"] for event in run.events() if event["event"] == "step"]
        return {"losses": losses, "tokens_per_s": tokens_per_s(run), "pass": compute_of(run)[0], "note": run.state.note}

    def losses(self) -> Values:
        """Of the short run's base and adapter over all learned tokens, and what PEFT begins with."""
        run = self.bench.run("short")
        job = {"run": str(run.folder), "out": str(self.folder), "adapters": {"tuned": str(run.adapter("last"))}}
        return self._child(sys.executable, "real_ours.py", job)

    def peft(self) -> Values:
        """The short run's steps in F32, and its validation rows before and after them."""
        return self._torch("fp32", self.case.short.steps, judge=True)

    def speed(self) -> Values:
        """Ours once more, beside PEFT's runs in time, as it computes where nothing is set."""
        rows = self.case.speed_rows
        training = self.case.short.__class__(rows, 1, self.case.short.learning_rate)
        run = self.bench.train("speed", training)
        return {"tokens_per_s": tokens_per_s(run), "precision": compute_of(run)[1]}

    def peft_bf16(self) -> Values:
        """Its speed in bf16, which may be its best."""
        return self._torch("bf16", self.case.speed_rows, judge=False)

    def resumed(self) -> Values:
        """The long run again, broken off in its middle: whether both adapters are the same bytes."""
        run = self.bench.interrupted("resumed", self.case.long, self.case.interrupted)
        whole = self.bench.run("long")
        same = {
            name: (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
            for name in ("adapter.gguf", "best.gguf")
        }
        went_on = [event["step"] for event in run.events() if event["event"] == "resumed"]
        return {"identical": all(same.values()), "how": self.case.interrupted, "resumed_at": went_on}

    def exports(self) -> Values:
        """What files of the tuned model keep, read by the library as the base and the adapter are."""
        made: list[Values] = []
        unrelated = self.bench.unrelated_loss(self.base)
        for name in ("short", "long"):
            run, change = self.bench.run(name), None
            adapter = run.adapter("last")
            change = change_per_step(self.base, adapter)
            base, exact = (self.bench.validation_loss(run, self.base, one) for one in (None, adapter))
            exact_unrelated = self.bench.unrelated_loss(self.base, adapter)
            for quant in self.case.quants:
                file = self.bench.export(run, quant)
                loss = self.bench.validation_loss(run, file)
                made.append({
                    "quant": quant, "run": name, "change_per_step": change,
                    "mb": file.stat().st_size / 2**20, "base_mb": self.base.stat().st_size / 2**20,
                    "kept": (base - loss) / (base - exact), "base_loss": base, "adapter_loss": exact, "loss": loss,
                    "unrelated_loss_change": self.bench.unrelated_loss(file) - exact_unrelated,
                    "unrelated_loss_change_of_tuning": exact_unrelated - unrelated,
                })  # fmt: skip
                file.unlink()
        return {"files": made}

    def _torch(self, dtype: str, steps: int, *, judge: bool) -> Values:
        assert self.python
        job = {
            "base": str(self.base), "dtype": dtype, "in": str(self.folder), "steps": steps, "judge": judge,
            "threads": threads(),
        }  # fmt: skip
        return self._child(self.python, "real_peft.py", job)

    def _child(self, python: str, script: str, job: Values) -> Values:
        command = [python, str(ROOT / "bench" / script), json.dumps(job)]
        environment = {**self.bench.environment, "PYTHONPATH": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise Failed(f"{script}: " + "\n".join(done.stderr.splitlines()[-TAIL:]))
        return dict(json.loads(done.stdout))

    def result(self) -> Values:
        """The numbers of the issue's schema, and under `more` what they were made of."""
        part = {name: self.parts.get(name, {}) for name in self.ORDER}
        long, short, peft, plan = part["long"], part["short"], part["peft"], part["plan"]
        speeds = [one["tokens_per_s"] for one in (peft, part["peft_bf16"]) if one]
        pairs = list(zip(short.get("losses", []), peft.get("losses", []), strict=False))
        ratios: Values = {"seconds": plan.get("seconds")}
        for name, foreseen, taken in (("time", "foreseen_s", "seconds"), ("memory", "foreseen_mb", "peak_mb")):
            both = plan.get(foreseen) and long.get(taken)
            ratios[f"{name}_ratio"] = plan[foreseen] / long[taken] if both else None
        return {
            "name": self.case.name, "pass": long.get("pass"), "precision": long.get("precision"),
            "tokens_per_s": part["speed"].get("tokens_per_s", long.get("tokens_per_s")),
            "tokens_per_s_peft_best": max(speeds, default=None),
            "peak_mb": long.get("peak_mb"), "peak_mb_peft": peft.get("training_peak_mb"),
            "base_loss": part["losses"].get("losses", {}).get("base"), "base_loss_peft": peft.get("base_loss"),
            "tuned_loss": part["losses"].get("losses", {}).get("tuned"), "tuned_loss_peft": peft.get("tuned_loss"),
            "exports": part["exports"].get("files", []), "resumed_identical": part["resumed"].get("identical"),
            "plan": ratios,
            "more": {
                "step_loss_difference": max((abs(ours - theirs) for ours, theirs in pairs), default=None),
                "steps": {"short": self.case.short.steps, "long": self.case.long.steps},
                "long_loss": [long.get("base_loss"), long.get("tuned_loss")],
                "tokens_per_s": {name: one.get("tokens_per_s") for name, one in part.items() if "tokens_per_s" in one},
                "interrupted": self.case.interrupted,
                "notes": [one["note"] for one in (long, short) if one.get("note")],
                "took_s": {name: one["took_s"] for name, one in part.items() if one},
            },
        }  # fmt: skip


def main() -> int:
    """Measure the models that are named; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[*CASES], help="NAME, or NAME=FILE (default: all)")
    parser.add_argument("--again", action="store_true", help="measure also what was measured with the same code")
    parser.add_argument("--parts", nargs="+", default=[], choices=Proof.ORDER, help="measure only these, again")
    options = parser.parse_args()
    engine, python, failed = installed().folder, torch_python(), False
    code = measured_code(CODE) or "unknown"
    for word in options.models:
        name, _, file = word.partition("=")
        if name not in CASES:
            parser.error(f"there is no model {name}: there are {', '.join(CASES)}")
        try:
            base = real_model(file or name)
        except Unavailable as error:
            print(f"{name} is skipped. {error}", flush=True)
            continue
        print(f"{name} ({code})", flush=True)
        proof = Proof(CASES[name], base, engine, CACHE / f"{name}-{code.replace('+', '-')}", python)
        if options.again:
            proof.parts.clear()
        try:
            proof.measure(options.parts)
        except (Failed, FinetuneError, OSError) as error:
            print(f"  failed: {error}", flush=True)
            failed = True
        keep({**proof.result(), "code": code})
    return 1 if failed else 0


def keep(result: Values, folder: Path = record.RESULTS) -> None:
    """Put the result of a model into bench/results/real.json, and what is in there into the docs."""
    models = {one["name"]: one for one in record.get(SUBJECT, folder).get("models", [])} | {result["name"]: result}
    record.put(SUBJECT, folder, models=[models[name] for name in CASES if name in models])
    real_table.write(record.get(SUBJECT, folder))


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
