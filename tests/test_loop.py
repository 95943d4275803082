"""The loop of a training: when it validates, saves and has had enough; the same decisions whatever interrupts it."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import BaseMaker
from support.attempts import Attempts, Events, losses

from meton_plugins.finetune.engine import checkpoint, loop
from meton_plugins.finetune.engine.gradient import RowTrainer
from meton_plugins.finetune.engine.library import Library

Maker = Callable[..., Attempts]

#: Ten steps an epoch: validations within epochs, and a step (20, 40) that is due for both reasons. Best at step 16.
EARLY: dict[str, Any] = {
    "epochs": 6, "eval_steps": 4, "patience": 4, "min_delta": 0.001, "save_steps": 3,
    "curve": lambda step: 1 + abs(step - 16) / 100,
}  # fmt: skip


@pytest.fixture
def attempts(library: Library, base: BaseMaker, tmp_path: Path) -> Maker:
    counter = itertools.count()
    return lambda **settings: Attempts(library, base("qwen2"), tmp_path / f"run{next(counter)}", **settings)


def facts(run: Attempts, events: Events) -> tuple[Any, ...]:
    """How a run ended, in all that it tells and keeps."""
    last = {name: value for name, value in events[-1].items() if name != "peak_rss_mb"}
    newest = checkpoint.latest(run.folder / "checkpoints")
    assert newest is not None
    return last, run.results, (newest / "position.json").read_text(), newest.name


def at(events: Events, kind: str) -> list[int]:
    """The step, told or before it, of each event of a kind."""
    found, step = [], 0
    for event in events:
        step = event.get("step", step)
        if event["event"] == kind:
            found.append(step)
    return found


# Rows that are forgotten


@pytest.mark.parametrize(("pause_at", "left"), [(8, 6), (8, 8), (3, 6)])
def test_a_paused_run_goes_on_without_rows_that_were_forgotten(attempts: Maker, pause_at: int, left: int) -> None:
    run = attempts(epochs=3)
    assert run.attempt(pause_at=pause_at)[-1]["event"] == "paused"
    run.count = left
    events = run.attempt()
    assert events[-1]["event"] == "finished"
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == list(range(pause_at + 1, 3 * left + 1))
    # Where the epoch has no row left, the next one begins.
    assert steps[0]["epoch"] == (1 if pause_at < left else 2)


# Early stopping


def test_it_stops_when_no_better_validation_comes(attempts: Maker) -> None:
    run = attempts(**EARLY)
    events = run.attempt()
    assert at(events, "validation") == [0, 4, 8, 10, 12, 16, 20, 24, 28, 30]
    end = events[-1]
    assert (end["event"], end["step"], end["best_step"], end["since_best"]) == ("finished", 30, 16, 4)
    assert end["best_loss"] == losses(events, "validation")[16] == pytest.approx(1)
    [early] = [event for event in events if event["event"] == "early"]
    assert early == {"event": "early", "step": 30, "message": "stopped early: no better validation since step 16"}
    assert run.results["best.gguf"] != run.results["adapter.gguf"]


def test_each_validation_comes_once(attempts: Maker) -> None:
    events = attempts(**{**EARLY, "patience": 0, "epochs": 4}).attempt()
    assert at(events, "validation") == [0, 4, 8, 10, 12, 16, 20, 24, 28, 30, 32, 36, 40]
    epochs = [event["epoch"] for event in events if event["event"] == "validation"]
    assert epochs == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert at(events, "early") == []


def test_patience_that_ends_with_the_last_step_is_no_early_stop(attempts: Maker) -> None:
    events = attempts(**{**EARLY, "epochs": 3}).attempt()
    assert at(events, "early") == []
    assert (events[-1]["event"], events[-1]["step"], events[-1]["since_best"]) == ("finished", 30, 4)


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_it_decides_the_same(attempts: Maker, seed: int) -> None:
    whole, run = attempts(**EARLY), attempts(**EARLY)
    straight = whole.attempt()
    choose = random.Random(seed)
    step = 0
    for _ in range(8):
        step += choose.randint(0, 6)
        kind = choose.choice(["step", "validation", "sync", "checkpoint", "early"])
        events = run.attempt(kill_at=max(1, step), kill_in=kind)
        if events[-1]["event"] == "finished":
            break
    else:
        events = run.attempt()
    assert facts(run, events) == facts(whole, straight)


@pytest.mark.parametrize("kind", ["validation", "sync", "checkpoint", "early"])
def test_killed_between_best_and_checkpoint(attempts: Maker, kind: str) -> None:
    """At each such moment once, one after the other."""
    whole, run = attempts(**EARLY), attempts(**EARLY)
    straight = whole.attempt()
    seen: dict[int, float] = {}
    for step in at(straight, kind):
        events = run.attempt(kill_at=max(1, step), kill_in=kind)
        seen |= losses(events, "validation")
    assert events[-1]["event"] == "killed"
    events = run.attempt()
    assert facts(run, events) == facts(whole, straight)
    assert seen | losses(events, "validation") == losses(straight, "validation")


def test_a_better_one_of_a_killed_attempt_is_not_kept_by_who_stops_before(attempts: Maker) -> None:
    run, other = (attempts(**{**EARLY, "save_steps": 100}) for _ in range(2))
    for each in (run, other):
        each.attempt(pause_at=5)
    run.attempt(kill_at=8, kill_in="validation")  # better than at step 4, and not in any checkpoint
    ahead = (run.folder / "best.gguf").read_bytes()
    for each in (run, other):
        last = each.attempt(pause_at=6, want="stop")[-1]
        assert (last["event"], last["step"], last["best_step"]) == ("stopped", 6, 4)
    assert run.results == other.results
    assert run.results["best.gguf"] != ahead


def test_a_best_one_of_a_killed_first_attempt_is_gone(attempts: Maker) -> None:
    run = attempts(save_steps=100, eval_steps=4)
    run.attempt(kill_at=4, kill_in="validation")
    assert (run.folder / "best.gguf").exists()
    assert run.attempt(pause_at=2, want="stop")[-1]["best_step"] is None
    assert not (run.folder / "best.gguf").exists()


def test_a_wish_ends_a_validation(attempts: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many rows, it would take long."""
    whole, run = (attempts(eval_steps=4, accelerate=False) for _ in range(2))
    straight = whole.attempt()
    calls = 0
    real = RowTrainer.loss

    def loss(self: RowTrainer, *row: Any) -> float:
        nonlocal calls
        calls += 1
        return real(self, *row)

    monkeypatch.setattr(RowTrainer, "loss", loss)
    events = run.attempt(pause_at=4)  # once it is asked for, no row of the validation at step 4 is read
    assert events[-1] == {"event": "paused", "step": 4}
    assert calls == 3
    assert facts(run, run.attempt()) == facts(whole, straight)


# Going on from another run's adapter


@pytest.fixture
def parent(attempts: Maker) -> Path:
    run = attempts(epochs=1)
    run.attempt()
    return run.folder / "best.gguf"


def test_it_begins_with_the_parents_weights(attempts: Maker, parent: Path) -> None:
    run = attempts(start=parent, base_loss=9.0, patience=0)
    events = run.attempt()
    first = next(event for event in events if event["event"] == "validation")
    assert (first["step"], first["loss"], first["base_loss"], first["best_step"]) == (0, 9.0, 9.0, 0)
    assert first["start_loss"] == first["best_loss"] != 9.0
    assert events[-1]["start_loss"] == first["start_loss"]
    fresh = attempts(patience=0).attempt()
    assert losses(events)[1] != losses(fresh)[1]


def test_what_never_gets_better_keeps_the_parents_adapter(attempts: Maker, parent: Path) -> None:
    run = attempts(start=parent, base_loss=9.0, patience=2, epochs=5, curve=lambda step: 1 + step)
    end = run.attempt()[-1]
    assert (end["event"], end["best_step"], end["step"]) == ("finished", 0, 20)
    assert run.results["best.gguf"] == parent.read_bytes()


@pytest.mark.parametrize("kill_at", [1, 4, 11])
def test_a_continued_run_is_resumed_byte_for_byte(attempts: Maker, parent: Path, kill_at: int) -> None:
    whole, run = (attempts(start=parent, base_loss=9.0, eval_steps=4) for _ in range(2))
    straight = whole.attempt()
    run.attempt(kill_at=kill_at)
    assert facts(run, run.attempt()) == facts(whole, straight)


# Time


def test_checkpoints_by_time(attempts: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 10.0  # two looks a step, and one at the clock of saving
        return now

    run = attempts(save_steps=1000, save_minutes=2, epochs=1)
    whole = attempts(save_steps=1000, save_minutes=0, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", SimpleNamespace(monotonic=monotonic))
        saved = at(run.attempt(), "checkpoint")
        alone = at(whole.attempt(), "checkpoint")
    assert alone == [10]
    assert saved[0] > 1
    assert 3 <= len(saved) <= 5
    assert run.results == whole.results


def test_a_clock_that_jumps_spoils_no_figure(attempts: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = itertools.cycle([0.0, 4e9, 1e9, 3e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    events = attempts(save_steps=1000, save_minutes=10).attempt()
    steps = [event for event in events if event["event"] == "step"]
    assert all(0 <= step["seconds"] < 60 for step in steps)
    assert all(0 <= step["seconds_left"] < 600 for step in steps)
    assert at(events, "checkpoint") == [10, 20]


@pytest.mark.parametrize("eval_steps", [0, 4, 5])
def test_the_time_that_is_left(attempts: Maker, monkeypatch: pytest.MonkeyPatch, eval_steps: int) -> None:
    # A step takes one second and so does a validation: what is left can be counted.
    clock = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    events = attempts(eval_steps=eval_steps, save_minutes=0, patience=0).attempt()
    tokens = next(event for event in events if event["event"] == "step")["tokens"]
    assert tokens > 0
    left = {event["step"]: event["seconds_left"] for event in events if event["event"] == "step"}
    validations = at(events, "validation")
    assert left[20] == pytest.approx(1)  # the last validation alone
    for step in range(11, 20):
        still = sum(check >= step for check in validations)
        assert left[step] == pytest.approx(20 - step + still, rel=0.6)
    assert [left[step] for step in (10, 20)] == sorted((left[10], left[20]), reverse=True)
