"""Runs on a tiny base: what they are made of, a shell in which commands are typed, and waiting that gives up."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.settings import BuildSettings, TrainSettings
from meton_plugins.finetune.train import planner
from meton_plugins.finetune.train.launch import start
from meton_plugins.finetune.train.planner import base_record, create
from meton_plugins.finetune.train.runs import Run
from meton_plugins.finetune.turn import Turn

#: One thread: two fight each other wherever something else is at work, which makes a step a hundred times slower.
SETTINGS = TrainSettings(
    epochs=6, save_steps=5, threads=1, template="bare", lora_rank=4, learning_rate=1e-3, patience=0
)
#: Datasets of one row an example, a dozen words each.
SHORT = BuildSettings(form="plain", context_turns=0)
SLOW = 90.0


def until(true: Callable[[], Any], what: str, seconds: float = SLOW) -> None:
    """Wait for `true`, looking every few milliseconds; the test fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(0.005)


def rated(home: Home, start: int, stop: int) -> list[str]:
    """Add the examples number `start` to `stop`, all of them rated, to the library; their ids."""
    turns = [
        Turn(
            session=f"s{number}",
            at=f"2026-01-{number % 28 + 1:02d}T10:{number // 28:02d}:00",
            question=f"What is number {number}?",
            answer=f"It is {number * 7}, as all know.",
        )
        for number in range(start, stop)
    ]
    with Library(home.make().library) as library:
        new, _ = library.add(turns)
        library.rate(new, 5)
    return new


def frozen(home: Home, settings: BuildSettings = SHORT) -> Path:
    """A dataset of all that is in the library; its folder."""
    with Library(home.library) as library:
        return home.datasets / dataset.build(library, settings, home.datasets).id


def small_dataset(folder: Path, examples: int = 12) -> Path:
    """A frozen dataset of short rows in the data folder `folder`; its path."""
    home = Home(folder).make()
    rated(home, 0, examples)
    return frozen(home)


def judged_dataset(home: Home) -> Path:
    """The same of 80 examples, of which 26 are held out: enough for a gate."""
    new = rated(home, 0, 80)
    with Library(home.library) as library:
        library.tag(new[:26], add=["judge"])
    return frozen(home, SHORT.model_copy(update={"heldout": "judge"}))


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """What is started meanwhile has one core, and so one thread: see SETTINGS."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {random.choice(sorted(cores))})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


class Shell(subprocess.Popen[str]):
    """A process that ends with the test that waits for it in vain."""

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)


@dataclass
class Bench:
    """A data folder with a base and a dataset at hand. `command` types into a shell, `run` uses the services."""

    home: Home
    base: Path
    dataset: Path
    environment: dict[str, str] = field(default_factory=dict)

    def create(self, name: str = "one", **changes: Any) -> Run:
        """A new run's folder, not yet trained."""
        settings = SETTINGS.model_copy(update=changes)
        return create(self.home, planner.Ingredients(base_record(self.base, None), self.dataset, settings, ""), name)

    def train(self, name: str = "one", **changes: Any) -> Run:
        """A run that was trained to its end."""
        run = self.create(name, **changes)
        start(run)
        over(run)
        return run

    def words(self, *words: str, name: str = "one", **flags: Any) -> list[str]:
        """`finetune start` with these settings, as a user types it."""
        said = {
            **SETTINGS.model_dump(include={"epochs", "save_steps", "threads", "template", "lora_rank", "patience"}),
            **flags,
        }
        said |= {"base": self.base, "dataset": self.dataset, "name": name, "learning_rate": SETTINGS.learning_rate}
        given = [f"--{flag.replace('_', '-')}={value}" for flag, value in said.items()]
        return ["finetune", "start", *given, *words]

    def popen(self, *words: str, **options: Any) -> Shell:
        """`meton-finetune WORDS` in a process group of its own, as a terminal would run it."""
        command = [sys.executable, "-m", "meton_plugins.finetune", *words]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
        environment = {**os.environ, **self.environment, "COLUMNS": "120"}
        with one_core():
            return Shell(command, env=environment, start_new_session=True, **options)

    def command(self, *words: str, code: int = 0) -> str:
        """What `meton-finetune WORDS` prints, having ended with `code`."""
        with self.popen(*words) as process:
            said, _ = process.communicate(timeout=SLOW)
        assert process.returncode == code, said
        return str(said)

    def json(self, *words: str, code: int = 0) -> Any:
        """The same, read as JSON."""
        return json.loads(self.command("--json", *words, code=code))

    def run(self, name: str = "one") -> Run:
        """The run of that name."""
        return Run(self.home.runs / name)


def over(run: Run) -> None:
    """Wait until the worker of `run` is gone."""
    until(lambda: not run.alive and run.state.status != "starting", f"{run.name} is over")


def reached(run: Run, step: int) -> None:
    """Wait until `run` has done `step` steps of its training."""
    until(lambda: _step(run) >= step or run.done, f"{run.name} reaches step {step}")
    assert not run.done, "the run was over before the test could touch it: train for longer"


def _step(run: Run) -> int:
    return max((event["step"] for event in run.events() if event["event"] == "step"), default=0)


def steps(run: Run) -> list[int]:
    """The steps of the run's events, as readers see them."""
    return [event["step"] for event in run.events() if event["event"] == "step"]


def children(pid: int) -> list[psutil.Process]:
    """The engines of the worker `pid`."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def workers(runs: Path) -> list[psutil.Process]:
    """The workers of the runs in the folder `runs`."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if any(str(word).startswith(f"{runs}/") for word in p.info["cmdline"] or ())]


def end_workers(runs: Path) -> None:
    """End every worker of the runs in `runs`, and its engine with it."""
    for process in workers(runs):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(10)


@dataclass(frozen=True)
class Ingredients:
    """What every run of a test session is made of, and the adapter that `SETTINGS` make of it without interruption."""

    base: Path
    dataset: Path
    adapter: Path
    run: Path
