"""The form check: scripted models that keep the form and lose it, and real ones that were taught to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import BaseMaker
from support import chat
from support.chat import finished
from support.host import RecordingHost, User
from support.runs import Bench
from support.teaching import taught_adapter

from meton_plugins.finetune import form
from meton_plugins.finetune.collect.heard import as_turn
from meton_plugins.finetune.commands import model_register
from meton_plugins.finetune.engine.library import Library as Engine
from meton_plugins.finetune.gguf.merge import merge
from meton_plugins.finetune.gguf.tiny import TinyShape, make_tiny
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.serve.form_check import Asked, FormCheck, check, prompts
from meton_plugins.finetune.settings import GateSettings
from meton_plugins.finetune.turn import Turn
from tools.tiny_base import merges_of

pytest_plugins = ["support.run_fixtures"]

INSTRUCTIONS = "You are Meton." + " question answer" * 70 + "\nEXACT TOOL NAMES:\nfile_operations\n\n"
MAY_FALL = GateSettings().form_fall
ASKED = [Asked(f"e{number}", f"What is {number}?", f"Prompt {number}") for number in range(50)]


def keeping(texts: Sequence[str]) -> list[str]:
    return [form.wrap(f"An answer to {text}.") for text in texts]


def losing(number: int) -> Callable[[Sequence[str]], list[str]]:
    """Keeps the form but for the first `number` prompts."""
    return lambda texts: [f"Just {text}." if n < number else keeping([text])[0] for n, text in enumerate(texts)]


def never(texts: Sequence[str]) -> list[str]:
    raise AssertionError("this model should not be asked")


# Scripted models


@pytest.mark.parametrize(
    ("base", "tuned", "verdict", "kept"),
    [
        (keeping, keeping, "pass", (50, 50)),
        (keeping, losing(1), "pass", (50, 49)),
        (keeping, losing(2), "fail", (50, 48)),
        (keeping, losing(50), "fail", (50, 0)),
        (losing(30), losing(10), "pass", (20, 40)),
        (losing(49), losing(50), "pass", (1, 0)),
        (losing(50), never, "not measurable", (0, 0)),
    ],
    ids=["keeps", "two-points", "four-points", "all-lost", "better", "hardly-there", "base-never"],
)
def test_verdicts(base: Any, tuned: Any, verdict: str, kept: tuple[int, int]) -> None:
    found = check(ASKED, base, tuned, MAY_FALL)
    assert (found.verdict, (found.base, found.tuned)) == (verdict, kept)
    assert found.prompts == 50


def test_how_far_it_may_fall_is_the_callers_word() -> None:
    assert check(ASKED, keeping, losing(2), 4.0).verdict == "pass"
    strict = check(ASKED, keeping, losing(1), 0.0)
    assert (strict.verdict, strict.reason) == ("fail", "the share falls by 2.0 points, 0 are allowed")


def test_too_little_data_is_no_pass_and_costs_nothing() -> None:
    found = check(ASKED[:19], never, never, MAY_FALL)
    assert found.verdict == "too little data"
    assert "19 prompts are fewer than 20" in found.reason
    assert check(ASKED[:20], keeping, keeping, MAY_FALL).verdict == "pass"


def test_what_was_lost_is_shown_in_part() -> None:
    found = check(ASKED, keeping, losing(9), MAY_FALL)
    assert [lost.question for lost in found.lost] == ["What is 0?", "What is 1?", "What is 2?"]
    assert found.lost[0].said == "Just Prompt 0."
    assert found.reason == "the share falls by 18.0 points, 2 are allowed"


# Prompts


def heard(number: int, **more: Any) -> Turn:
    """A turn whose calls were sent Meton's instructions."""
    turn = finished(number, **more)
    calls = tuple(replace(one, prompt=one.prompt.replace(chat.INSTRUCTIONS, INSTRUCTIONS)) for one in turn.calls)
    return as_turn(replace(turn, calls=calls))


@pytest.fixture
def filled(home: Path) -> Library:
    """Thirty turns that were heard, and five that come from files."""
    library = Library(home / "library.db")
    library.add([heard(number, session=f"s{number}") for number in range(30)])
    files = [Turn(session="f", at=f"2026-01-0{n + 1}", question=f"Q{n}?", answer="A.") for n in range(5)]
    library.add(files)
    return library


def test_prompts_are_what_meton_sent(filled: Library) -> None:
    found = {one.example: one for one in prompts(filled, 100)}
    assert len(found) == 35
    example = next(e for e in filled.find() if e.question == "What is in file 7?")
    assert found[example.id].prompt == filled.calls(example.id)[-1].whole
    assert found[example.id].prompt.startswith(INSTRUCTIONS)
    composed = next(one for one in found.values() if one.question == "Q3?")
    assert composed.prompt.startswith(INSTRUCTIONS + "Recent Conversation:\nUSER: Q3?\n")
    assert form.divide(composed.prompt)[0] == INSTRUCTIONS


def test_nothing_that_trained_is_asked_and_held_out_comes_first(filled: Library) -> None:
    examples = filled.find()
    filled.assign({e.id: "train" for e in examples[:10]} | {e.id: "validation" for e in examples[10:14]})
    filled.assign({e.id: "heldout" for e in examples[14:20]})
    found = [one.example for one in prompts(filled, 100)]
    assert not {e.id for e in examples[:14]} & set(found)
    assert {e.id for e in examples[14:20]} == set(found[:6])
    assert len(found) == 21
    assert [one.example for one in prompts(filled, 8)] == found[:8]


def test_without_instructions_there_is_nothing_to_ask(home: Path) -> None:
    library = Library(home / "library.db")
    library.add([Turn(session="f", at="2026", question="Q?", answer="A.")])
    assert prompts(library, 40) == []


# Real models


def rows(said: Callable[[str], str], each: int = 8) -> list[list[dict[str, Any]]]:
    questions = [f"What is in file {number}?" for number in range(100, 100 + each)]
    asked = [form.full_prompt(INSTRUCTIONS, question) for question in questions]
    return [[{"role": "user", "content": a}, {"role": "assistant", "content": said(q)}]
            for a, q in zip(asked, questions, strict=True)]  # fmt: skip


class Checked(User):
    """A base that keeps the form, runs on it, and the command."""

    def __init__(self, bench: Bench, engine: Engine, base: Path, folder: Path) -> None:
        self.bench, self.blank = bench, base
        learned = taught_adapter(engine, base, folder / "form.gguf", rows(lambda _q: form.wrap("Yes.")), 80)
        self.base = folder / "speaks.gguf"
        merge(base, learned, self.base)
        host = RecordingHost(bench.home.root)
        super().__init__(host, model_register.make(host))

    def run(self, engine: Engine, name: str, said: Callable[[str], str], steps: int) -> None:
        """A run of that name whose adapter has learned `said`."""
        self.bench.base = self.base
        run = self.bench.create(name)
        taught_adapter(engine, self.base, run.folder / "best.gguf", rows(said), steps)


@pytest.fixture
def checked(bench: Bench, library: Engine, tmp_path: Path, filled: Library) -> Checked:
    filled.close()
    # A vocabulary of the very words, so that a prompt is short in tokens and the form is soon learned.
    texts = [message["content"] for chat in rows(lambda _q: form.wrap("Yes. No. the blue sky.")) for message in chat]
    blank = make_tiny(tmp_path / "blank.gguf", TinyShape(context=4096), merges=merges_of(texts, 1000))
    return Checked(bench, library, blank, tmp_path)


def test_real_models(checked: Checked, library: Engine) -> None:
    checked.run(library, "good", lambda _q: form.wrap("Yes."), 16)
    checked.run(library, "bad", lambda _q: "the blue sky.", 24)
    said = checked("check good --prompts 20 --limit 60 --yes", 0)
    base, tuned = (int(kept) for kept in re.findall(r"(\d+) of 20 answers keep Meton's form", said))
    assert tuned >= base >= 15, said
    assert "form: pass" in said
    assert "tokens once" in said
    said = checked("check bad --prompts 20 --limit 60 --yes", 1)
    assert f"form: fail (the share falls by {5 * base}.0 points, 2 are allowed)" in said
    assert "the blue sky." in said
    kept = json.loads((checked.bench.home.models / "bad" / "form_check.json").read_text())
    assert FormCheck.model_validate(kept).verdict == "fail"
    assert checked.json("check good --prompts 20 --limit 60 --yes")["tuned"] == tuned
    # A random base keeps no form, and its run cannot lose one.
    checked.base = checked.blank
    checked.run(library, "blank", lambda _q: form.wrap("No."), 1)
    assert "form: not measurable (the base itself never answers" in checked(
        "check blank --prompts 20 --limit 20 --yes", 1
    )


def test_refusals(bench: Bench, base: BaseMaker, filled: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.close()
    host = RecordingHost(bench.home.root)

    def said(line: str, code: int = 1) -> str:
        host.clear()
        assert model_register.make(host).run(line) == code, host.output
        return host.output

    assert "There is no run yet" in said("check")
    bench.base = base("qwen2", context=512)
    run = bench.create("short")
    (run.folder / "best.gguf").write_bytes(b"")
    assert "and this base reads 512: it cannot serve Meton" in said("check short", 2)
    assert "--prompts takes 20 or more" in said("check short --prompts 19", 2)
    assert "--limit takes a number" in said("check short --limit 0", 2)
    assert "There is no registered model meton-x:v1" in said("check meton-x:v1")
    bench.base = base("qwen2", context=4096)
    run = bench.create("slow")
    (run.folder / "best.gguf").write_bytes(b"")
    monkeypatch.setattr("meton_plugins.finetune.commands.form_check.ASK_FROM", 0)
    assert "nobody can be asked here: add --yes" in said("check slow --prompts 20", 2)
    with Library(bench.home.library) as library:
        library.assign({e.id: "train" for e in library.find()[5:]})
    assert "form: too little data (5 prompts are fewer than 20" in said("check slow")
