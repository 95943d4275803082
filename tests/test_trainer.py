"""The training job: from a run's frozen dataset to its adapters, with what it says on the way."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BaseMaker
from filelock import FileLock, Timeout
from support.teaching import CHAT, TAUGHT

from meton_plugins.finetune.engine import trainer
from meton_plugins.finetune.engine.compute import ComputeConfig
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Decoder, Model
from meton_plugins.finetune.engine.schedule import learning_rate, order
from meton_plugins.finetune.errors import DataError, ModelError
from meton_plugins.finetune.gguf.chat_template import template_for
from meton_plugins.finetune.gguf.inspect import inspect
from meton_plugins.finetune.gguf.rows import Row, build_rows
from meton_plugins.finetune.settings import TrainSettings

Chat = list[dict[str, str]]
Events = list[dict[str, Any]]

CHATS: list[Chat] = [
    [{"role": "user", "content": f"the question {n}?"}, {"role": "assistant", "content": "the answer " * n}]
    for n in range(1, 6)
]


class Run:
    """A run's folder and the job that trains it."""

    def __init__(self, library: Library, folder: Path, base: Path, train: list[Chat], validation: list[Chat]) -> None:
        self.library, self.folder = library, folder
        (folder / "dataset").mkdir(parents=True)
        for side, chats in (("train", train), ("validation", validation)):
            lines = [json.dumps({"id": f"{side}{i}", "messages": chat}) for i, chat in enumerate(chats)]
            (folder / "dataset" / f"{side}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self.job: dict[str, Any] = {
            "folder": str(folder), "base": str(base), "system": "", "learned": "last", "settings": {},
            "cores": 1, "threads": 1, "room_mb": 1e4, "compute": ComputeConfig().model_dump(),
        }  # fmt: skip
        self.settings(epochs=2, lora_rank=4, lora_alpha=8, learning_rate=1e-2, ctx_size=128, save_steps=2)

    def settings(self, **values: Any) -> None:
        """Change settings."""
        self.job["settings"] = TrainSettings.model_validate({**self.job["settings"], **values}).model_dump(mode="json")

    def train(self, want: str | None = None, at: int = 0) -> Events:
        """One attempt, in which `want` is asked for at step `at`."""
        events: Events = []
        trainer.train(
            self.library, self.job, lambda event, **values: events.append({"event": event, **values}),
            lambda: want if want and sum(e["event"] == "step" for e in events) >= at else None,
        )  # fmt: skip
        return events

    def rows(self, base: Path, side: str = "train") -> list[Row]:
        """The rows that the job makes."""
        chats = trainer.read_chats(self.folder / "dataset" / f"{side}.jsonl", self.job["system"])
        with Model(self.library, base, vocab_only=True) as model:
            return build_rows(chats, template_for(inspect(base), None), model, 128, self.job["learned"])[0]


@pytest.fixture
def run(library: Library, base: BaseMaker, tmp_path: Path) -> Callable[..., Run]:
    def make(name: str = "run", train: list[Chat] = CHATS, validation: list[Chat] = CHATS[:2]) -> Run:
        return Run(library, tmp_path / name, base(), train, validation)

    return make


def kinds(events: Events) -> list[str]:
    """Names of events, repeated ones once."""
    names = [event["event"] for event in events]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def test_paused_job_goes_on_where_it_was(run: Callable[..., Run]) -> None:
    whole, parts = run("whole"), run("parts")
    straight = whole.train()
    first = parts.train("pause", 3)
    second = parts.train()
    assert kinds(straight)[:4] == ["rows", "begin", "validation", "step"]
    assert straight[-1]["event"] == "finished"
    assert (first[-1]["event"], second[2]["event"]) == ("paused", "resumed")
    for name in ("adapter.gguf", "best.gguf"):
        assert (parts.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_it_learns(run: Callable[..., Run], library: Library, base: BaseMaker) -> None:
    mine = run(train=[TAUGHT] * 10, validation=[TAUGHT])
    mine.settings(epochs=4, save_steps=100)
    last = mine.train()[-1]
    assert last["best_loss"] < 0.5 < 2 < last["base_loss"]
    with Model(library, base()) as model, Decoder(model, 128, 1, mine.folder / "adapter.gguf") as decoder:
        prompt = model.encode(template_for(inspect(base()), None).render(CHAT, generate=True), start=True)
        assert model.text(list(decoder.speak(prompt, 20))) == TAUGHT[-1]["content"]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_steps_say_what_they_did(run: Callable[..., Run], base: BaseMaker, batch_size: int) -> None:
    mine = run()
    mine.settings(batch_size=batch_size)
    rows = mine.rows(base())
    events = mine.train()
    steps = [event for event in events if event["event"] == "step"]
    batches = -(-len(rows) // batch_size)
    assert [step["step"] for step in steps] == list(range(1, 2 * batches + 1))
    assert [step["epoch"] for step in steps] == [1] * batches + [2] * batches
    for step in steps:
        at = (step["step"] - 1) % batches
        picked = [rows[i] for i in order(len(rows), 42, step["epoch"] - 1)[at * batch_size :][:batch_size]]
        assert step["tokens"] == sum(row.length for row in picked)
        assert step["learned"] == sum(row.learned for row in picked)
        assert step["learning_rate"] == learning_rate(step["step"] - 1, 2 * batches, 1e-2, 0.05)
        assert step["tokens_per_s"] > 0
        assert step["seconds_left"] >= 0
    assert steps[-1]["seconds_left"] < steps[0]["seconds_left"] + 1


def test_loss_is_the_mean_over_learned_tokens(run: Callable[..., Run], library: Library, base: BaseMaker) -> None:
    mine = run()
    mine.settings(batch_size=5)
    rows = mine.rows(base())
    events = mine.train()
    with Model(library, base()) as model, Decoder(model, 128, 1) as decoder:
        parts = [decoder.losses(row.tokens)[row.trained[1:]] for row in rows]
        checks = [decoder.losses(row.tokens)[row.trained[1:]] for row in mine.rows(base(), "validation")]
    assert len({len(part) for part in parts}) > 1
    first = next(event for event in events if event["event"] == "step")
    assert first["loss"] == pytest.approx(np.concatenate(parts).mean(), abs=1e-5)
    assert events[-1]["base_loss"] == pytest.approx(np.concatenate(checks).mean(), abs=1e-5)


def test_rows_are_counted_and_those_left_out_are_named(run: Callable[..., Run]) -> None:
    bad = [[CHAT[0]], [CHAT[0], {"role": "assistant", "content": "blue " * 200}]]
    events = run(train=[TAUGHT, *bad, TAUGHT]).train()
    train, validation = (event for event in events if event["event"] == "rows")
    assert (train["side"], train["rows"], validation["side"], validation["rows"]) == ("train", 2, "validation", 2)
    assert [each["id"] for each in train["skipped"]] == ["train1", "train2"]
    reasons = [each["reason"] for each in train["skipped"]]
    assert reasons[0].startswith("nothing to train on")
    assert reasons[1].endswith(" tokens, longer than --ctx-size 128")
    assert train["learned"] < train["tokens"]
    assert validation["skipped"] == []


def test_system_message_and_all_answers(run: Callable[..., Run]) -> None:
    long = [*TAUGHT, {"role": "user", "content": "the question?"}, {"role": "assistant", "content": "the answer"}]
    plain, system, every = run("plain", [long]), run("system", [long]), run("every", [long])
    system.job["system"] = "the user is the question"
    every.job["learned"] = "all"
    facts = {name: mine.train()[0] for name, mine in (("plain", plain), ("system", system), ("every", every))}
    assert facts["system"]["tokens"] > facts["plain"]["tokens"] == facts["every"]["tokens"]
    assert facts["system"]["learned"] == facts["plain"]["learned"] < facts["every"]["learned"]


def test_own_system_message_stays(tmp_path: Path) -> None:
    chats: list[Chat] = [TAUGHT, [{"role": "system", "content": "mine"}, *TAUGHT]]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"id": str(i), "messages": chat}) + "\n" for i, chat in enumerate(chats)))
    read = trainer.read_chats(path, "yours")
    assert [(name, chat[0]["content"]) for name, chat in read] == [("0", "yours"), ("1", "mine")]
    assert [chat for _, chat in trainer.read_chats(path, "")] == chats


def test_what_python_takes_for_the_end_of_a_line_stays_in_its_chat(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a\u2028b\x85c\x0bd\re"}, {"role": "assistant", "content": "the answer\u2029."}]
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps({"id": "x", "messages": chat}, ensure_ascii=False).encode() + b"\n")
    assert trainer.read_chats(path, "") == [("x", chat)]


def test_nothing_to_validate_on(run: Callable[..., Run]) -> None:
    mine = run(validation=[])
    events = mine.train()
    assert "validation" not in kinds(events)
    assert events[-1]["event"] == "finished"
    assert events[-1]["best_loss"] is None
    assert (mine.folder / "adapter.gguf").exists()
    assert not (mine.folder / "best.gguf").exists()


def test_nothing_to_train_on_is_a_sentence(run: Callable[..., Run]) -> None:
    with pytest.raises(DataError, match=r"^No example is left to train on: .*raise --ctx-size\.$"):
        run(train=[[CHAT[0]]]).train()


def test_base_is_checked_before_it_is_loaded(run: Callable[..., Run], tmp_path: Path) -> None:
    mine = run()
    (tmp_path / "text.gguf").write_text("no model")
    mine.job["base"] = str(tmp_path / "text.gguf")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        mine.train()


def test_template_writes_the_day_on_which_the_run_began(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else a run that is resumed on another day goes on with other rows.
    written: list[str] = []

    def spy(*arguments: Any) -> Any:
        template = template_for(*arguments)
        template.source = "{{ strftime_now('%Y-%m-%d') }}" + template.source
        written.append(template.render(CHAT, generate=True)[:10])
        return template

    monkeypatch.setattr(trainer, "template_for", spy)
    mine = run(train=[TAUGHT])
    mine.job["created"] = "2026-03-02T10:00:00+00:00"
    mine.train()
    assert written == ["2026-03-02"]
    del mine.job["created"]
    mine.train()
    assert written[1] == datetime.date.today().isoformat()


def test_old_child_is_waited_for(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "OLD_CHILD_SECONDS", 0.1)
    mine = run()
    with FileLock(mine.folder / "engine.lock"), pytest.raises(Timeout):
        mine.train()
    assert mine.train()[-1]["event"] == "finished"


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(run: Callable[..., Run]) -> None:
    whole, parts = run("whole"), run("parts")
    whole.train()
    parts.train("pause", 7)
    os.truncate(parts.folder / "checkpoints" / "step_00000007" / "adapter.gguf", 500)  # the library would abort
    events = parts.train()
    [note] = [event["message"] for event in events if event["event"] == "note"]
    assert note == "the checkpoint step_00000007 was damaged: training went on from the one before it"
    assert [event["step"] for event in events if event["event"] == "resumed"] == [6]
    for name in ("adapter.gguf", "best.gguf"):
        assert (parts.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_damaged_checkpoints_alone_begin_again(run: Callable[..., Run]) -> None:
    whole, parts = run("whole"), run("parts")
    whole.train()
    parts.train("pause", 7)
    for folder in (parts.folder / "checkpoints").iterdir():
        os.truncate(folder / "optimizer.npz", 5)
    events = parts.train()
    [note] = [event["message"] for event in events if event["event"] == "note"]
    assert note == ("the checkpoints step_00000007 and step_00000006 were damaged: training went on from the beginning")
    assert (parts.folder / "adapter.gguf").read_bytes() == (whole.folder / "adapter.gguf").read_bytes()


def test_a_run_that_continues_another(run: Callable[..., Run], library: Library, base: BaseMaker) -> None:
    parent, child, fresh = run("parent"), run("child"), run("fresh")
    first = parent.train()[-1]
    shutil.copy(parent.folder / "best.gguf", child.folder / "start.gguf")
    child.job["start"] = str(child.folder / "start.gguf")
    events, last = child.train(), fresh.train()[-1]
    begun = next(event for event in events if event["event"] == "validation")
    # The base's own loss, bit for bit what a run from scratch measures; and where the parent left off.
    assert begun["loss"] == begun["base_loss"] == events[-1]["base_loss"] == last["base_loss"] == first["base_loss"]
    assert events[-1]["start_loss"] == begun["start_loss"] == pytest.approx(first["best_loss"], abs=1e-6)
    assert events[-1]["best_loss"] < begun["start_loss"] < begun["base_loss"]


@pytest.mark.parametrize("at", [0, 3])
def test_a_continued_run_is_paused_and_resumed(run: Callable[..., Run], at: int) -> None:
    parent, whole, parts = run("parent"), run("whole"), run("parts")
    parent.train()
    for mine in (whole, parts):
        shutil.copy(parent.folder / "best.gguf", mine.folder / "start.gguf")
        mine.job["start"] = str(mine.folder / "start.gguf")
    whole.train()
    assert parts.train("pause", at)[-1] == {"event": "paused", "step": at}
    assert parts.train()[-1]["event"] == "finished"
    for name in ("adapter.gguf", "best.gguf"):
        assert (parts.folder / name).read_bytes() == (whole.folder / name).read_bytes()
