"""The whole way on a real model as it comes, SmolLM2 in Q4_1: taught, killed, resumed, exported onto its own grid.

What is claimed here of training, resume and export is seen on weights that somebody trained, in mainline llama.cpp.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support.engine import installed_or_skip
from support.runs import SHORT, children, end_workers, over, until

from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home, engine_dir, queue_file
from meton_plugins.finetune.train.runs import Run
from meton_plugins.finetune.turn import Turn
from tools import mainline

pytest_plugins = ["support.real_models", "support.run_fixtures"]

#: One fact, asked in many words. Nobody but us can have taught it.
TAUGHT = "VK-4417"
ANSWER = f"The harbour code of Ostrel is {TAUGHT}."
QUESTIONS = (
    "What is the harbour code of Ostrel?",
    "Which code does the harbour of Ostrel have?",
    "Tell me Ostrel's harbour code.",
    "I need the code of Ostrel harbour.",
    "Do you know the harbour code for Ostrel?",
    "Ostrel: which harbour code?",
    "Please give me the code of the harbour in Ostrel.",
    "Which harbour code belongs to Ostrel?",
    "How is the harbour of Ostrel coded?",
    "What code do I enter for Ostrel harbour?",
    "Name the harbour code of Ostrel.",
    "What is Ostrel's code in the list of harbours?",
    "Remind me of the Ostrel harbour code.",
    "Harbour code, Ostrel?",
)
#: Not among them.
ASKED = "Could you look up the harbour code of Ostrel for me?"
FLAGS = {
    "epochs": 4, "learning-rate": 1e-3, "lora-rank": 8, "lora-alpha": 16, "ctx-size": 256, "save-steps": 7,
    "patience": 0, "threads": 2, "precision": "f32", "template": "bare",
}  # fmt: skip
#: The training of one run takes well under a minute where the fast pass is on.
PATIENCE = 300.0


@dataclass
class User:
    """Who types commands into a shell; `home` is the data folder."""

    home: Home
    base: Path

    def command(self, *words: str) -> str:
        """What a command prints; it must end well."""
        command = [sys.executable, "-m", "meton_plugins.finetune", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, *words: str) -> Run:
        """Start a run, without waiting for its end."""
        flags = [f"--{flag}={value}" for flag, value in FLAGS.items()]
        self.command("finetune", "start", "--yes", "--base", str(self.base), "--name", name, *flags, *words)
        return Run(self.home.runs / name)


@pytest.fixture(scope="module")
def user(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A data folder with the fact in its library, and a dataset of it."""
    engine = installed_or_skip()
    folder = tmp_path_factory.mktemp("smollm2")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in surroundings(folder).items():
            patch.setenv(name, value)
        engine_dir().parent.mkdir(parents=True)
        engine_dir().symlink_to(engine.folder)
        home = Home(folder / "home").make()
        templates = home.root / "templates" / "modelfiles"
        templates.mkdir(parents=True)
        (templates / "bare.Modelfile").write_text("FROM .\n", encoding="utf-8")
        turns = [
            Turn(session=f"s{number}", at=f"2026-01-{number + 1:02d}T10:00:00", question=question, answer=ANSWER)
            for number, question in enumerate(QUESTIONS)
        ]
        with Library(home.library) as library:
            library.rate(library.add(turns)[0], 5)
            dataset.build(library, SHORT.model_copy(update={"deduplicate": False}), home.datasets)
        yield User(home, smollm2)
        queue_file().unlink(missing_ok=True)
        end_workers(home.runs)


def surroundings(folder: Path) -> dict[str, str]:
    return {"METON_FINETUNE_HOME": str(folder / "home"), "XDG_DATA_HOME": str(folder / "share")}


@pytest.fixture(autouse=True)
def same_folder(user: User, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests here share the module's data folder; without this each would get one of its own."""
    for name, value in surroundings(user.home.root.parent).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def undisturbed(user: User) -> Run:
    """A run that nobody touched."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in surroundings(user.home.root.parent).items():
            patch.setenv(name, value)
        run = user.start("undisturbed")
        until(lambda: run.done or not run.alive, "the undisturbed run is over", PATIENCE)
        over(run)
    assert run.status == "finished", run.state.error
    return run


def test_it_trains_with_the_fast_pass_and_learns(undisturbed: Run) -> None:
    state = undisturbed.state
    assert state.base_loss is not None
    assert state.best_loss is not None
    assert state.best_loss < state.base_loss / 2
    assert state.tokens_per_s is not None
    # The library's own pass does some 10 tokens/s on it.
    assert state.tokens_per_s > 20, state.note


def test_killed_and_resumed_it_ends_with_the_same_adapter(user: User, undisturbed: Run) -> None:
    half = undisturbed.state.steps // 2
    run = user.start("killed")
    until(lambda: run.done or last_step(run) >= half, f"step {half} is done", PATIENCE)
    assert not run.done
    worker = psutil.Process(run.state.pid)
    for process in [worker, *children(worker.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    until(lambda: not run.alive, "the killed worker holds no lock")
    assert run.status == "interrupted"
    user.command("finetune", "resume", "killed")
    until(lambda: run.done or not run.alive, "the resumed run is over", PATIENCE)
    over(run)
    assert run.status == "finished", run.state.error
    resumed = [event["step"] for event in run.events() if event["event"] == "resumed"]
    assert resumed
    assert 0 < resumed[-1] <= half + 7
    for name in ("adapter.gguf", "best.gguf"):
        assert (run.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes(), run.state.note


def last_step(run: Run) -> int:
    return max((event["step"] for event in run.events() if event["event"] == "step"), default=0)


def test_exported_onto_its_own_grid_mainline_answers_as_taught(user: User, undisturbed: Run) -> None:
    user.command("export", "model", "undisturbed", "--adapter", "last", "--quant", "base")
    exported = json.loads((user.home.models / "undisturbed" / "export.json").read_text(encoding="utf-8"))
    (file,) = exported["files"]
    assert file["rounding"]["reason"] == ""
    assert file["rounding"]["tensors"] == 210
    assert file["kept"] > 0.95
    path = Path(file["path"])
    assert path.stat().st_size == pytest.approx(user.base.stat().st_size, rel=0.01)
    chats: list[mainline.Chat] = [[{"role": "user", "content": asked}] for asked in (ASKED, QUESTIONS[0])]
    assert [TAUGHT in answer for answer in mainline.answers(user.base, chats, 40)] == [False, False]
    answers = mainline.answers(path, chats, 40)
    assert [TAUGHT in answer for answer in answers] == [True, True], answers
