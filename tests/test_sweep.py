"""Sweeps: a run for each combination, one after the other; the table; and only the best keeps its adapters."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support.finetuning import Typed
from support.runs import Bench, over, reached, until

from meton_plugins.finetune.errors import NotFound
from meton_plugins.finetune.paths import write_json
from meton_plugins.finetune.train import sweep as service
from meton_plugins.finetune.train.launch import ask, kick, start
from meton_plugins.finetune.train.queue import waiting
from meton_plugins.finetune.train.record import State
from meton_plugins.finetune.train.runs import Run, all_runs
from meton_plugins.finetune.train.sweep import free_sweep, members, settle, standings, sweeps, unsettled

pytest_plugins = ["support.run_fixtures"]


@pytest.fixture
def typed(bench: Bench) -> Typed:
    return Typed(bench.home.root)


def line(bench: Bench, *words: str, **flags: Any) -> str:
    """A line that sweeps with the settings of the tests, in little time."""
    given = bench.words(*words, **{"name": "s", "epochs": 1, **flags})
    return " ".join(["sweep", *given[2:]])


def rates(bench: Bench, values: str, *words: str, **flags: Any) -> str:
    """Over learning rates."""
    return line(bench, *words, **flags).replace("--learning-rate=0.001", f"--learning-rate={values}")


def finished(bench: Bench, *names: str) -> list[Run]:
    """Wait until these runs are over, and until the last worker has done what it does last."""
    runs = [bench.run(name) for name in names]
    for run in runs:
        until(lambda run=run: run.done, f"{run.name} is over")  # type: ignore[misc]
        over(run)
    return runs


# From the line to the runs


def test_every_combination_is_a_run(bench: Bench, typed: Typed) -> None:
    said = typed(rates(bench, "1e-4,3e-3", "--yes", lora_rank="2, 4").replace("2, 4", "'2, 4'"))
    assert re.fullmatch(
        r"The sweep s: 4 runs, \d+ (s|min) in all\.\n"
        r"They train in the background, one after the other\. See them with /finetune sweep show s\.\n",
        said,
    )
    assert typed.host.asked == []
    runs = finished(bench, "s-1", "s-2", "s-3", "s-4")
    points = [(run.record.settings.learning_rate, run.record.settings.lora_rank) for run in runs]
    assert points == [(1e-4, 2), (1e-4, 4), (3e-3, 2), (3e-3, 4)]
    assert {(run.record.sweep, run.record.keep_all, run.record.settings.epochs) for run in runs} == {("s", False, 1)}
    assert {(run.status, run.state.attempt) for run in runs} == {("finished", 1)}
    # What is left is the winner's.
    until(lambda: not unsettled(bench.home.runs), "the sweep is tidied up")
    losses = {run.name: run.state.best_loss or 9.0 for run in runs}
    best = min(losses, key=lambda name: losses[name])
    for run in runs:
        assert (run.folder / "best.gguf").exists() is (run.name == best)
        assert (run.folder / "checkpoints").exists() is (run.name == best)
        for kept in ("run.json", "events.jsonl", "state.json", "worker.log", "engine.log", "done", "dataset"):
            assert (run.folder / kept).exists()
    assert bench.run(best).adapter().is_file()
    beaten = next(run for run in runs if run.name != best)
    with pytest.raises(NotFound) as error:
        beaten.adapter("last")
    assert error.value.sentence == (f"The adapters of the run {beaten.name} were removed: not the winner of sweep s.")
    assert "(adapters removed: not the winner of sweep s)" in typed(f"status {beaten.name}")
    assert "were removed: not the winner of sweep s." in typed_export(bench, beaten.name)
    # The table of it.
    told = typed("sweep").splitlines()
    assert told[0] == "The sweep s"
    assert told[1].split() == ["run", "learning", "rate", "lora", "rank", "status", "validation", "loss", "time"]
    assert [row.split()[1] for row in told[2:6]] == sorted(losses, key=lambda name: losses[name])
    assert told[2].startswith(f"★  {best} ")
    assert f"{runs[0].state.base_loss:.4f} → {losses[best]:.4f}" in told[2]
    assert told[6:] == [
        f"{best} is the best: /export model {best} makes a model of it.",
        "The adapters and checkpoints of the others were removed; their records and logs are kept.",
    ]


def typed_export(bench: Bench, run: str) -> str:
    return bench.command("export", "model", run, code=1)


def test_the_first_trains_and_the_others_wait(bench: Bench, typed: Typed) -> None:
    typed(rates(bench, "1e-4,1e-3,1e-2", "--yes", epochs=400))
    first = bench.run("s-1")
    reached(first, 1)
    assert [run.status for run in all_runs(bench.home.runs)] == ["running", "queued", "queued"]
    assert [(entry.folder.name, entry.by) for entry in waiting()] == [("s-2", "sweep s"), ("s-3", "sweep s")]
    told = typed("sweep show s")
    assert "0 of 3 runs are over; the best so far is on top." in told
    assert "★" not in told
    typed("queue drop s-2 s-3")
    typed("stop")
    over(first)
    # It was beaten by nobody yet: those that were taken out may still train.
    assert first.adapter().is_file()
    assert unsettled(bench.home.runs) == []


def test_a_sweep_behind_another_run(bench: Bench, typed: Typed) -> None:
    busy = bench.create("busy", epochs=10000)
    start(busy)
    reached(busy, 1)
    typed(rates(bench, "1e-4,1e-3", "--yes"))
    assert [bench.run(name).place for name in ("s-1", "s-2")] == [1, 2]
    ask(busy, "stop")
    finished(bench, "s-1", "s-2")


def test_it_asks_once_with_count_and_time(bench: Bench, typed: Typed, home: Path) -> None:
    asking = Typed(home, False)
    said = asking(rates(bench, "1e-4,1e-3", epochs=3), 1)
    [question] = asking.host.asked
    assert re.fullmatch(r"Train 2 runs, s-1 to s-2, one after the other, \d+ (s|min) in all\?", question)
    assert said == "Nothing was started.\n"
    said = typed(rates(bench, "1e-4,1e-3"), 2)
    assert said.startswith("✗ Nobody can be asked here (Train 2 runs, s-1 to s-2")
    assert said.endswith("): add --yes.\n")
    assert all_runs(bench.home.runs) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lora-rank 8", "A sweep needs a setting with several values, as in /finetune sweep --learning-rate 1e-5,"),
        ("", "A sweep needs a setting with several values"),
        ("--lora-rank 8,8", "A sweep needs a setting with several values"),
        ("--lora-rank 8,,16", "--lora-rank takes numbers separated by commas, as in --lora-rank 1,2, not '8,,16'."),
        ("--lora-rank 8,", "--lora-rank takes numbers separated by commas"),
        ("--lora-rank 8,x", "--lora-rank takes a whole number from 1 to 1024, not 'x'"),
        ("--rank 8,x", "--lora-rank takes a whole number from 1 to 1024, not 'x'"),
        ("--learning-rate 0,1", "--learning-rate takes a number above 0 and up to 1, not '0'"),
        ("--learning-rate nan,1", "--learning-rate takes a number above 0 and up to 1, not 'nan'"),
        (f"--seed {','.join(map(str, range(65)))}", "That makes 65 runs, and a sweep has 64 at most"),
        ("--seed 1,2,3,4,5,6,7,8,9 --epochs 1,2,3,4,5,6,7,8", "That makes 72 runs, and a sweep has 64 at most"),
        ("--seed 1,2 --name a/b", "'a/b' cannot name a sweep"),
        ("--seed 1,2 --name start", "'start' is a command's word: give the sweep another --name."),
        ("--seed 1,2 --name " + "x" * 63, "cannot name a run"),
        ("frob", "takes show, not 'frob'"),
        ("show --lora-rank 8", "A sweep needs a setting with several values"),
    ],
)
def test_lines_that_cannot_be(bench: Bench, typed: Typed, words: str, said: str) -> None:
    told = typed(f"sweep {words} --yes --base {bench.base} --dataset {bench.dataset}", code=2)
    assert told.startswith("✗ ")
    assert said in told
    assert all_runs(bench.home.runs) == []


def test_what_start_refuses_is_refused_before_anything_is_made(bench: Bench, typed: Typed) -> None:
    bench.create("s-2")
    assert "There is a run 's-2' already" in typed(rates(bench, "1e-4,1e-3", "--yes"), code=2)
    named = rates(bench, "1e-4,1e-3", "--yes", name="t")
    assert "There is no chat template" in typed(f"{named} --chat-template nowhere.jinja", code=2)
    bench.base = Path("nowhere.gguf")
    assert "There is no file nowhere.gguf." in typed(rates(bench, "1e-4,1e-3", "--yes", name="t"), code=1)
    assert [run.name for run in all_runs(bench.home.runs)] == ["s-2"]


def test_a_dataset_without_a_validation_side(bench: Bench, typed: Typed, tmp_path: Path) -> None:
    bench.dataset = Path(shutil.copytree(bench.dataset, tmp_path / "bare"))
    manifest = json.loads((bench.dataset / "manifest.json").read_text())
    del manifest["files"]["validation.jsonl"]
    (bench.dataset / "manifest.json").write_text(json.dumps(manifest))
    (bench.dataset / "validation.jsonl").unlink()
    told = typed(rates(bench, "1e-4,1e-3", "--yes"), code=1)
    assert "has no validation examples, by which the runs of a sweep are compared" in told


def test_a_full_disk_makes_no_run_at_all(bench: Bench, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    from meton_plugins.finetune.train import planner

    made = planner.create

    def full(*args: Any, **more: Any) -> Run:
        if args[2] == "s-2":
            raise OSError(28, "No space left on device")
        return made(*args, **more)

    monkeypatch.setattr(planner, "create", full)
    assert "No space left" in typed(rates(bench, "1e-4,1e-3,1e-2", "--yes"), code=1)
    assert (all_runs(bench.home.runs), waiting()) == ([], [])


def test_names(bench: Bench, typed: Typed) -> None:
    assert free_sweep(bench.home.runs) == "sweep-1"
    bench.create("sweep-1-7")
    assert free_sweep(bench.home.runs) == "sweep-2"
    over_by_hand(bench, "s-1", 1.0)
    assert "'s' is a sweep already: give the sweep another --name." in typed(rates(bench, "1e-4,1e-3", "--yes"), code=2)


def test_wait_as_json(bench: Bench) -> None:
    said = bench.json(*["finetune"], *rates(bench, "1e-4,3e-3", "--yes", "--wait").split())
    assert (said["sweep"], len(said["runs"])) == ("s", 2)
    first, second = said["runs"]
    assert (first["rank"], first["winner"], first["removed"], first["status"]) == (1, True, False, "finished")
    assert (second["rank"], second["winner"], second["removed"]) == (2, False, True)
    assert sorted(each["settings"]["learning_rate"] for each in said["runs"]) == [1e-4, 3e-3]
    assert list(first["settings"]) == ["learning_rate"]
    assert bench.json("finetune", "sweep", "--name", "s") == said
    assert bench.json("finetune", "sweep", "show", "s") == said


# Who wins, and what becomes of the others


def over_by_hand(bench: Bench, name: str, loss: float | None, status: str = "finished", **changes: Any) -> Run:
    """A run of the sweep `s` that is over, as if it had been trained."""
    run = bench.create(name, **changes)
    write_json(run.folder / "run.json", {**run.record.model_dump(mode="json"), "sweep": "s"})
    error = "The engine was killed." if status == "failed" else None
    state = State(status=status, attempt=1, base_loss=3.0, best_loss=loss, error=error, trained_seconds=90)  # type: ignore[arg-type]
    write_json(run.folder / "state.json", state.model_dump(mode="json"))
    for file in ("best.gguf", "adapter.gguf", "start.gguf"):
        (run.folder / file).write_bytes(b"weights")
    (run.folder / "checkpoints" / "000010").mkdir(parents=True)
    if status in ("finished", "stopped"):
        (run.folder / "done").touch()
    return run


def heavy(run: Run) -> bool:
    files = [(run.folder / name).exists() for name in ("best.gguf", "adapter.gguf", "start.gguf", "checkpoints")]
    assert len(set(files)) == 1
    return files[0]


def test_ranks(bench: Bench, typed: Typed) -> None:
    over_by_hand(bench, "s-1", 2.0, seed=1)
    over_by_hand(bench, "s-2", 1.5, "failed", seed=2)
    over_by_hand(bench, "s-3", 1.0, seed=3)
    over_by_hand(bench, "s-4", None, "stopped", seed=4)
    over_by_hand(bench, "s-5", 1.0, "stopped", seed=5)
    over_by_hand(bench, "s-10", 1.0, seed=6)
    bench.create("alone")
    assert {name: [run.name for run in runs] for name, runs in sweeps(bench.home.runs).items()} == {
        "s": ["s-1", "s-2", "s-3", "s-4", "s-5", "s-10"]
    }
    found = standings(members(bench.home.runs, None)[1])
    assert [(each.run, each.rank, each.winner) for each in found] == [
        ("s-3", 1, True), ("s-5", 2, False), ("s-10", 3, False), ("s-1", 4, False), ("s-4", None, False),
        ("s-2", None, False),
    ]  # fmt: skip
    assert [each.settings for each in found[:2]] == [{"seed": 3}, {"seed": 5}]
    told = typed("sweep show")
    assert "s-2 failed: The engine was killed." in told
    assert "s-3 is the best" in told
    rows = [row.split() for row in told.splitlines() if " s-" in row]
    assert [row[0] for row in rows[:4]] == ["★", "2", "3", "4"]
    # By then a look has tidied up. What failed may be resumed, and keeps what it needs for that.
    kept = [run.name for run in members(bench.home.runs, "s")[1] if heavy(run)]
    assert kept == ["s-2", "s-3"]


def test_a_failed_run_that_is_resumed_may_win_later(bench: Bench) -> None:
    one, two = over_by_hand(bench, "s-1", 2.0), over_by_hand(bench, "s-2", 1.9, "failed")
    settle(bench.home.runs, "s")
    assert (heavy(one), heavy(two)) == (True, True)
    write_json(two.folder / "state.json", {**two.state.model_dump(), "status": "finished", "best_loss": 1.0})
    (two.folder / "done").touch()
    settle(bench.home.runs, "s")
    assert (heavy(one), heavy(two)) == (False, True)
    assert one.state.best_loss == 2.0


@pytest.mark.parametrize("status", ["paused", "running", "new", "queued"])
def test_nothing_goes_before_all_are_over(bench: Bench, status: str) -> None:
    one = over_by_hand(bench, "s-1", 2.0)
    two = over_by_hand(bench, "s-2", 1.0, "paused")
    if status in ("new", "queued"):
        (two.folder / "state.json").unlink()
    elif status == "running":
        write_json(two.folder / "state.json", {"status": "running", "attempt": 1})
    if status == "queued":
        from meton_plugins.finetune.train.queue import put

        put([two.folder], "start")
    settle(bench.home.runs, "s")
    assert (heavy(one), heavy(two)) == (True, True)


def test_keep_all(bench: Bench) -> None:
    runs = [over_by_hand(bench, f"s-{number}", float(number)) for number in (1, 2)]
    for run in runs:
        write_json(run.folder / "run.json", {**run.record.model_dump(mode="json"), "keep_all": True})
    assert unsettled(bench.home.runs) == []
    settle(bench.home.runs, "s")
    assert all(heavy(run) for run in runs)
    assert standings(runs)[0].winner


def test_without_any_loss_nothing_goes(bench: Bench, typed: Typed) -> None:
    runs = [over_by_hand(bench, f"s-{number}", None, "stopped") for number in (1, 2)]
    assert "No run came as far as a validation: none can be called the best." in typed("sweep show s")
    assert all(heavy(run) for run in runs)


def test_a_winner_that_is_worse_than_the_base(bench: Bench, typed: Typed) -> None:
    over_by_hand(bench, "s-1", 3.5)
    over_by_hand(bench, "s-2", 3.1)
    told = typed("sweep show s")
    assert "No run is better than the base on the validation side." in told


def test_a_kill_while_it_is_tidied_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [over_by_hand(bench, f"s-{number}", float(number)) for number in (1, 2, 3)]

    class Killed(BaseException):
        """As a kill would."""

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(service.shutil, "rmtree", killed)
        with pytest.raises(Killed):
            settle(bench.home.runs, "s")
    # One was announced and is whole still: nobody may take it.
    announced = [run for run in runs if run.state.removed]
    assert len(announced) == 1
    assert heavy(announced[0])
    with pytest.raises(NotFound, match="were removed: not the winner"):
        announced[0].adapter()
    kick(bench.home.runs)
    until(lambda: not unsettled(bench.home.runs), "it is finished later", seconds=10)
    assert [heavy(run) for run in runs] == [True, False, False]
    assert all(run.state.removed for run in runs[1:])
    assert runs[1].state.best_loss == 2.0


def test_the_last_of_a_sweep_is_killed_as_it_hands_over(bench: Bench, typed: Typed) -> None:
    from meton_plugins.finetune.train.lock import start_lock

    typed(rates(bench, "1e-4,3e-3", "--yes"))
    finished(bench, "s-1")
    last = bench.run("s-2")
    until(lambda: last.state.attempt == 1, "the second is at work")
    with start_lock().acquire(timeout=20):
        finished(bench, "s-2")
        os.kill(last.state.pid, signal.SIGKILL)
    assert unsettled(bench.home.runs) == ["s"]
    typed("status")
    until(lambda: not unsettled(bench.home.runs), "a look tidies up", seconds=10)
    assert sum((bench.run(name).folder / "best.gguf").exists() for name in ("s-1", "s-2")) == 1


def test_sweeps_that_are_none(bench: Bench, typed: Typed) -> None:
    assert typed("sweep", code=1) == (
        "✗ There is no sweep yet: start one, as with /finetune sweep --learning-rate 1e-5,1e-4.\n"
    )
    over_by_hand(bench, "s-1", 1.0)
    assert typed("sweep show t", code=1) == "✗ There is no sweep 't': there are s.\n"
    (bench.create("broken").folder / "run.json").write_text("[]")
    assert "s-1" in typed("sweep show s")
