"""`/finetune delete`: what is asked, what is refused, what goes and what stays."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from support.finetuning import Typed
from support.host import RecordingHost
from support.runs import Bench, over, reached
from support.typed import plain_run

from meton_plugins.finetune.errors import BusyError
from meton_plugins.finetune.paths import Home, private_dir, write_json
from meton_plugins.finetune.plugin import register
from meton_plugins.finetune.train import deletion, lock
from meton_plugins.finetune.train.deletion import delete
from meton_plugins.finetune.train.launch import ask, start
from meton_plugins.finetune.train.runs import Run, all_runs

pytest_plugins = ["support.run_fixtures"]


@pytest.fixture
def runs(home: Path, tmp_path: Path) -> dict[str, Run]:
    """Three finished runs; `two` went on from `one`."""
    rows = private_dir(tmp_path / "rows")
    (rows / "train.jsonl").write_text("x" * 5000, encoding="utf-8")
    made = {name: plain_run(Home(home), name, rows) for name in ("one", "two", "three")}
    change(made["two"], parent="one")
    return made


def change(run: Run, **values: Any) -> None:
    """Say something else in run.json."""
    record = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    write_json(run.folder / "run.json", {**record, **values})


def names(home: Path) -> set[str]:
    return {run.name for run in all_runs(home / "runs")}


def test_a_run_goes_after_asking(home: Path, runs: dict[str, Run]) -> None:
    typed = Typed(home, True)
    said = typed("delete three")
    assert typed.host.asked == ["Delete three, adapters and record, for good?"]
    lines = said.splitlines()
    assert lines[0].startswith("three  finished")
    assert lines[1].split() == ["6", "KB", str(runs["three"].folder)]
    assert lines[2] == "Deleted three: 6 KB."
    assert names(home) == {"one", "two"}
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["one", "two"]


def test_nothing_goes_where_the_user_says_no(home: Path, runs: dict[str, Run]) -> None:
    assert "Nothing was deleted." in Typed(home, False)("delete three", 1)
    assert Typed(home, False).json("delete three", 1) == {"deleted": [], "freed": 0}
    assert names(home) == set(runs)


def test_nobody_to_ask(home: Path, runs: dict[str, Run]) -> None:
    assert "add --yes" in Typed(home)("delete three", 2)
    assert names(home) == set(runs)
    typed = Typed(home)
    value = typed.json("delete three --yes")
    assert typed.host.asked == []
    assert value["deleted"] == ["three"]
    assert value["freed"] > 5000


def test_several_at_once_or_none(home: Path, runs: dict[str, Run]) -> None:
    """A run that others go on from may go together with them, in any order."""
    typed = Typed(home, True)
    assert "no run 'nope'" in typed("delete three nope", 1)
    assert names(home) == set(runs)
    said = typed("delete one two three one latest")
    assert typed.host.asked == ["Delete these 3 runs, adapters and record, for good?"]
    assert "Deleted one, two, three: " in said
    assert names(home) == set()


def test_a_run_that_others_go_on_from(home: Path, runs: dict[str, Run]) -> None:
    said = Typed(home)("delete three one --yes", 2)
    assert said.startswith("✗ two went on from one: delete these too, or add --force")
    assert names(home) == set(runs)
    Typed(home)("delete one --yes --force")
    assert names(home) == {"two", "three"}


def test_a_damaged_run_can_go_and_hinders_no_other(home: Path, runs: dict[str, Run]) -> None:
    (runs["two"].folder / "run.json").write_text("{", encoding="utf-8")
    Typed(home)("delete one --yes")
    Typed(home)("delete two --yes")
    assert names(home) == {"three"}


def test_checkpoints_alone(home: Path, runs: dict[str, Run]) -> None:
    typed = Typed(home, True)
    said = typed("delete one three --checkpoints")
    assert typed.host.asked == ["Delete the checkpoints of these 2 runs for good?"]
    assert said.splitlines()[-1] == "Freed the checkpoints of one, three: 1 KB."
    for name, there in (("one", False), ("two", True), ("three", False)):
        assert (runs[name].folder / "checkpoints").exists() is there
        assert (runs[name].folder / "best.gguf").read_bytes() == b"GGUF" + name.encode()
        assert not [path for path in runs[name].folder.iterdir() if path.name.startswith(".")]
    assert names(home) == set(runs)
    assert Typed(home).json("delete one --checkpoints --yes") == {
        "checkpoints_of": ["one"], "freed": 0, "models_kept": [],
    }  # fmt: skip


def test_checkpoints_of_a_run_that_could_go_on(home: Path, runs: dict[str, Run]) -> None:
    run = runs["three"]
    (run.folder / "done").unlink()
    write_json(run.folder / "state.json", {"status": "paused", "attempt": 1})
    said = Typed(home)("delete three --checkpoints --yes", 2)
    assert "The run three is paused, and without its checkpoints it could only begin anew" in said
    assert (run.folder / "checkpoints").exists()
    Typed(home)("delete three --checkpoints --yes --force")
    assert not (run.folder / "checkpoints").exists()


def test_the_model_that_was_made_of_a_run_stays(home: Path, runs: dict[str, Run]) -> None:
    model = private_dir(home / "models" / "three") / "three-q8_0.gguf"
    model.write_bytes(b"GGUF")
    said = Typed(home)("delete three --yes")
    assert f"the model that was made of it stays, also in its slot: {model.parent}" in said
    assert model.exists()


def test_a_run_that_waits_for_the_machine(home: Path, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "status", property(lambda run: "queued" if run.name == "three" else "finished"))
    said = Typed(home)("delete three --yes --force", 1)
    assert said == "✗ The run three is queued: type /finetune stop three, then delete it.\n"
    assert names(home) == set(runs)


def test_a_run_that_is_at_work(bench: Bench) -> None:
    run = bench.create(epochs=5000)
    start(run)
    reached(run, 2)
    for flags in ("", "--force", "--checkpoints"):
        said = Typed(bench.home.root)(f"delete one --yes {flags}", 1)
        assert said == "✗ The run one is running: type /finetune stop one, then delete it.\n"
    ask(run, "stop")
    over(run)
    assert run.status == "stopped"
    Typed(bench.home.root)("delete one --yes")
    assert names(bench.home.root) == set()


def test_no_run_is_started_meanwhile(home: Path, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "WAIT", 0.05)
    with FileLock(lock.start_lock().lock_file), pytest.raises(BusyError, match="starting a run just now"):
        delete([runs["three"]])
    assert names(home) == set(runs)


def test_a_run_that_begins_while_the_user_thinks(home: Path, runs: dict[str, Run]) -> None:
    typed = Typed(home)
    begun, let_go = threading.Event(), threading.Event()

    def work() -> None:
        with lock.run_lock(runs["three"].folder):
            begun.set()
            let_go.wait(30)

    worker = threading.Thread(target=work)

    def answer(question: str) -> bool:
        worker.start()
        assert begun.wait(30)
        return True

    typed.host.ask = answer  # type: ignore[method-assign]
    try:
        assert "✗ The worker of three is just beginning or ending: " in typed("delete three", 1)
    finally:
        let_go.set()
        worker.join()
    assert names(home) == set(runs)


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from meton_plugins.finetune.train import deletion
from meton_plugins.finetune.train.runs import Run
def killed(path, **_):
    next(Path(path).rglob("*.gguf")).unlink()
    os.kill(os.getpid(), signal.SIGKILL)
deletion.shutil.rmtree = killed
deletion.delete([Run(Path(sys.argv[1]))], checkpoints=sys.argv[2] == "checkpoints")
"""


@pytest.mark.parametrize("what", ["all", "checkpoints"])
def test_a_deletion_that_is_killed_is_finished_by_the_next(home: Path, runs: dict[str, Run], what: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(runs["three"].folder), what], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(home) == ({"one", "two"} if what == "all" else set(runs))
    assert not (runs["three"].folder / "checkpoints").exists()
    left = [path for path in (home / "runs").rglob(".*") if path.is_dir()]
    assert len(left) == 1
    assert left[0].name.endswith(".deleted")
    Typed(home)("delete two --yes")
    assert not [path for path in (home / "runs").rglob(".*") if path.is_dir()]


def test_a_link_leads_nowhere(home: Path, runs: dict[str, Run], tmp_path: Path) -> None:
    """What a link in a run's folder names is somebody else's."""
    outside = private_dir(tmp_path / "outside")
    (outside / "kept").write_text("x", encoding="utf-8")
    (runs["three"].folder / "link").symlink_to(outside)
    Typed(home)("delete three --yes")
    assert (outside / "kept").exists()


@pytest.mark.parametrize("line", ["delete", "delete --yes"])
def test_a_run_must_be_named(home: Path, runs: dict[str, Run], line: str) -> None:
    assert "required: RUN" in Typed(home)(line, 2)
    assert names(home) == set(runs)


def test_the_assistant_asks_before_it_deletes(home: Path, runs: dict[str, Run]) -> None:
    host = RecordingHost(home, answers=[False, True])
    register(host)
    tool = host.tools["training_delete"]
    assert tool.run('{"run": "three"}') == "Not done: the user said no."
    assert names(home) == set(runs)
    assert tool.run('{"run": "three"}').startswith("Deleted three: ")
    question = "delete a training run and its adapters for good (/finetune delete three --yes)"
    assert host.asked == [f"The assistant wants to {question}. Do it?"] * 2
    assert names(home) == {"one", "two"}


def test_the_assistant_diagnoses_without_asking(home: Path, runs: dict[str, Run]) -> None:
    host = RecordingHost(home)
    register(host)
    for name in ("one", "two", "three"):
        shutil.rmtree(runs[name].folder / "dataset")
    said = host.tools["training_diagnose"].run('{"run": "one"}')
    assert said.startswith("one  1 finding"), said
    assert "Nothing judges it" in said
    assert host.asked == []
