"""Ours in the real proof: a data folder for each model, whose runs are started, broken off and exported by commands."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import psutil
from real_cases import COMMON, Training

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from meton_plugins.finetune.curate import dataset  # noqa: E402
from meton_plugins.finetune.curate.manifest import MANIFEST  # noqa: E402
from meton_plugins.finetune.engine.jobs import evaluate  # noqa: E402
from meton_plugins.finetune.library import Library  # noqa: E402
from meton_plugins.finetune.paths import Home  # noqa: E402
from meton_plugins.finetune.settings import BuildSettings  # noqa: E402
from meton_plugins.finetune.train.runs import Run  # noqa: E402
from meton_plugins.finetune.turn import Turn  # noqa: E402

COMPANY: Final = ROOT / "examples" / "company"
#: Of the unrelated texts, which are longer than what is trained.
UNRELATED_CTX: Final = 1024


class Failed(Exception):
    """A part that gave no numbers."""


class Bench:
    """The data folder `folder` of one model, which is the file `base`. `threads`: 0 for the product's own choice."""

    def __init__(self, folder: Path, base: Path, engine: Path, threads: int) -> None:
        self.folder, self.base, self.threads = folder, base, threads
        self.home = Home(folder / "home").make()
        share = folder / "share"
        self.environment = {
            **os.environ, "METON_FINETUNE_HOME": str(self.home.root), "XDG_DATA_HOME": str(share), "COLUMNS": "120",
        }  # fmt: skip
        # Nothing that was measured on this machine before is found there: the plan's time counts from nothing.
        linked = share / "meton-finetune" / "engine"
        linked.parent.mkdir(parents=True, exist_ok=True)
        linked.unlink(missing_ok=True)
        linked.symlink_to(engine)
        os.environ |= {name: self.environment[name] for name in ("METON_FINETUNE_HOME", "XDG_DATA_HOME")}
        self.whole = self._dataset()

    def _dataset(self) -> Path:
        """The chats about the company, frozen."""
        known = self.folder / "dataset"
        if known.is_file():
            return Path(known.read_text(encoding="utf-8"))
        facts = json.loads((COMPANY / "facts.json").read_text(encoding="utf-8"))["facts"]
        turns = [
            Turn(
                session=f"company-{number:02d}-{way}", at=f"2026-02-{number % 28 + 1:02d}T1{way}:{number:02d}:00",
                question=question, answer=fact["answer"],
            )
            for number, fact in enumerate(facts)
            for way, question in enumerate(fact["questions"])
        ]  # fmt: skip
        # Two questions about a fact have the same answer: as duplicates one would go.
        settings = BuildSettings(context_turns=0, deduplicate=False)
        with Library(self.home.library) as library:
            library.rate(library.add(turns)[0], 5)
            path = self.home.datasets / dataset.build(library, settings, self.home.datasets).id
        known.write_text(str(path), encoding="utf-8")
        return path

    def first_rows(self, count: int) -> Path:
        """A dataset of the first `count` training rows, with all that validate."""
        path = self.folder / "datasets" / str(count)
        if not path.exists():
            aside = path.with_name(f".{count}")
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(self.whole, aside)
            lines = (aside / "train.jsonl").read_bytes().splitlines(keepends=True)
            if len(lines) < count:
                raise Failed(f"{count} training rows are wanted and the dataset has {len(lines)}.")
            raw = b"".join(lines[:count])
            (aside / "train.jsonl").write_bytes(raw)
            manifest = json.loads((aside / MANIFEST).read_text(encoding="utf-8"))
            manifest["files"]["train.jsonl"] |= {
                "sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw), "lines": count,
            }  # fmt: skip
            manifest["id"] = hashlib.sha256(raw).hexdigest()[:12]
            (aside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            aside.rename(path)
        return path

    def type(self, *words: str) -> Any:
        """What a command says in JSON."""
        command = [sys.executable, "-m", "meton_plugins.finetune", "--json", *words]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"{' '.join(words)}: {(done.stdout + done.stderr).strip()[-600:]}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def flags(self, training: Training, precision: str = "auto") -> list[str]:
        """The words after `plan` and `start`."""
        values = {
            **COMMON, "base": self.base, "dataset": self.first_rows(training.rows), "epochs": training.epochs,
            "learning-rate": training.learning_rate, "precision": precision, "threads": self.threads,
        }  # fmt: skip
        return [f"--{name}={value}" for name, value in values.items()]

    def run(self, name: str) -> Run:
        return Run(self.home.runs / name)

    def start(self, name: str, training: Training, precision: str = "auto") -> Run:
        """Begin a run anew, whatever an interrupted bench has left of it."""
        run = self.run(name)
        if run.folder.exists():
            self.end(run)
            shutil.rmtree(run.folder)
        self.type("finetune", "start", "--yes", "--name", name, *self.flags(training, precision))
        return run

    def train(self, name: str, training: Training, precision: str = "auto") -> Run:
        """A run from its beginning to its end."""
        run = self.start(name, training, precision)
        self.wait(run)
        return run

    def wait(self, run: Run) -> None:
        """Until `run` is over; Failed where it did not finish."""
        while run.alive or run.state.status == "starting":
            time.sleep(0.5)
        if run.status != "finished":
            raise Failed(f"The run {run.name} is {run.status}: {run.state.error}")

    def interrupted(self, name: str, training: Training, how: str) -> Run:
        """The same run, killed or paused in its middle, and resumed."""
        run, half = self.start(name, training), training.steps // 2
        while last_step(run) < half and run.alive:
            time.sleep(0.05)
        if how == "pause":
            self.type("finetune", "pause", name)
        else:
            self.end(run)
        while run.alive:
            time.sleep(0.1)
        if run.done:
            raise Failed(f"The run {name} was over before it could be broken off.")
        self.type("finetune", "resume", name)
        self.wait(run)
        return run

    def end(self, run: Run) -> None:
        """SIGKILL to the worker of `run` and its engine."""
        if not run.alive:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = psutil.Process(run.state.pid)
            for process in [*worker.children(recursive=True), worker]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def export(self, run: Run, quant: str) -> Path:
        """The file of an export with the last adapter."""
        self.type("export", "model", run.name, "--adapter", "last", "--quant", quant, "--no-check")
        record = json.loads((self.home.models / run.name / "export.json").read_text(encoding="utf-8"))
        return Path(record["files"][-1]["path"])

    def validation_loss(self, run: Run, model: Path, adapter: Path | None = None) -> float:
        """Of a model on the validation rows of `run`, by the library's own pass."""
        record = run.record
        file = run.folder / "dataset" / "validation.jsonl"
        return evaluate(model, file, system=record.system, adapter=adapter, ctx_size=record.settings.ctx_size)

    def unrelated_loss(self, model: Path, adapter: Path | None = None) -> float:
        """Of a model on texts that have nothing to do with what is taught."""
        file = self.folder / "unrelated.jsonl"
        texts = json.loads((COMPANY / "unrelated.json").read_text(encoding="utf-8"))["texts"]
        lines = [
            {
                "id": str(number),
                "messages": [
                    {"role": "user", "content": one["ask"]},
                    {"role": "assistant", "content": one["text"]},
                ],
            }
            for number, one in enumerate(texts)
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return evaluate(model, file, adapter=adapter, ctx_size=UNRELATED_CTX)


def last_step(run: Run) -> int:
    return max((event["step"] for event in run.events() if event["event"] == "step"), default=0)


def tokens_per_s(run: Run) -> float:
    """Of all steps but the first, which is a warm-up on both sides."""
    steps = [event for event in run.events() if event["event"] == "step"][1:]
    return float(sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps))


def seconds_of(run: Run) -> float:
    """From the first word of its worker to the last."""
    at = [datetime.datetime.fromisoformat(event["at"]) for event in run.events()]
    return (at[-1] - at[0]).total_seconds()


def compute_of(run: Run) -> tuple[str, str]:
    """Whose pass a run went by, and in which numbers, as run.json records it."""
    compute = run.record.compute
    return (compute.trainer, compute.precision) if compute else ("library", "f32")
