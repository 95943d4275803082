"""The tool that kills trainings: it finds nothing here, and it would find what it should."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meton_plugins.finetune.engine.package import Engine
from meton_plugins.finetune.paths import engine_dir
from meton_plugins.finetune.train.runs import Run
from tools.faults_train import Broken, check, identical

pytest_plugins = ["support.run_fixtures"]

ROOT = Path(__file__).resolve().parent.parent
KILLS = 6


def test_kill_9_at_any_moment_changes_nothing(engine: Engine) -> None:
    assert engine.folder == engine_dir()
    command = [sys.executable, str(ROOT / "tools" / "faults_train.py"), "--kills", str(KILLS), "--real", "0"]
    command += ["--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    last = done.stdout.splitlines()[-1:]
    assert last == [f"{KILLS} kills, {KILLS} survived, {KILLS} identical"], done.stdout + done.stderr
    assert done.returncode == 0
    # A full disk is among the kills wherever one can be mounted.
    assert ("No disk can be mounted" in done.stdout) != (" × disk" in done.stdout)


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]


def write(run: Run, events: list[dict[str, Any]]) -> None:
    (run.folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def state(run: Run, **changes: Any) -> None:
    path = run.folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def not_over(run: Run) -> None:
    state(run, status="failed", error="The engine was killed.")


def stopped_elsewhere(run: Run) -> None:
    state(run, step=run.state.step - 1)


def other_best(run: Run) -> None:
    state(run, best_step=(run.state.best_step or 0) + 1)


def torn_line(run: Run) -> None:
    path = run.folder / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-40])


def lost_step(run: Run) -> None:
    write(run, [event for event in lines(run) if (event["event"], event.get("step")) != ("step", 7)])


def lost_validation(run: Run) -> None:
    write(run, [event for event in lines(run) if (event["event"], event.get("step")) != ("validation", 10)])


def other_loss(run: Run) -> None:
    changed = [{**e, "loss": e["loss"] + 1e-9} if (e["event"], e.get("step")) == ("step", 7) else e for e in lines(run)]
    write(run, changed)


def two_engines(run: Run) -> None:
    twice: list[dict[str, Any]] = []
    for event in lines(run):
        twice += [event, event] if event["event"] == "step" else [event]
    write(run, twice)


def two_workers(run: Run) -> None:
    write(run, [{**event, "attempt": 1 + number % 2} for number, event in enumerate(lines(run))])


@pytest.mark.parametrize(
    "spoil",
    [
        not_over, stopped_elsewhere, other_best, torn_line, lost_step, lost_validation, other_loss, two_engines,
        two_workers,
    ],
)  # fmt: skip
def test_it_would_find_it(trained: Run, tmp_path: Path, spoil: Callable[[Run], None]) -> None:
    reference = Run(Path(shutil.copytree(trained.folder, tmp_path / "reference")))
    check(trained, reference)
    spoil(trained)
    with pytest.raises(Broken):
        check(trained, reference)


@pytest.mark.parametrize("name", ["adapter.gguf", "best.gguf"])
def test_it_would_find_another_adapter(trained: Run, tmp_path: Path, name: str) -> None:
    reference = Run(Path(shutil.copytree(trained.folder, tmp_path / "reference")))
    assert identical(trained, reference)
    raw = bytearray((trained.folder / name).read_bytes())
    raw[-1] ^= 1
    (trained.folder / name).write_bytes(raw)
    assert not identical(trained, reference)
