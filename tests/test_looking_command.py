"""`/dataset stats`, `preview`, `versions`, `diff` and the funnel of a build: what a user sees before he trains."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import BaseMaker
from rich.cells import cell_len
from support.host import RecordingHost
from support.typed import Typed

from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.curate.diff import compare
from meton_plugins.finetune.curate.manifest import FILES, Manifest, Row, Stage
from meton_plugins.finetune.curate.statistics import readiness
from meton_plugins.finetune.engine.library import Library as Engine
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.engine.trainer import read_chats
from meton_plugins.finetune.gguf.chat_template import template_for
from meton_plugins.finetune.gguf.inspect import inspect
from meton_plugins.finetune.gguf.rows import build_rows
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.library.records import Counts
from meton_plugins.finetune.library.summary import summarize
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.serve.templates import load_template
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.turn import Call, ToolUse, Turn

ROOT = Path(__file__).parent.parent


@pytest.fixture
def full(typed: Typed) -> Typed:
    """The samples, all but three of them rated good."""
    typed("harvest")
    names = typed.ids
    typed(f"rate 5 {' '.join(names[3:])}")
    typed(f"rate 1 {names[0]}")
    return typed


def turn(number: int, **more: Any) -> Turn:
    at = f"2026-03-{2 + number:02}T09:00:00"
    whole = {
        "session": f"s{number}",
        "at": at,
        "question": f"Question {number}?",
        "answer": f"Answer {number}.",
        **more,
    }
    return Turn.model_validate(whole)


def fill(home: Home, *turns: Turn, score: int | None = 5) -> list[str]:
    with Library(home.library) as library:
        names, _ = library.add(turns)
        if score is not None:
            library.rate(names, score)
    return names


# --- stats


def test_stats_say_all_there_is(full: Typed) -> None:
    with Library(full.home.library) as library:
        library._connection().executemany("INSERT INTO tags VALUES (?, ?)", [(name, "[python]") for name in full.ids])
    out = full("stats")
    for words in (
        "44 in 15 sessions", "41 (rated 4 or 5)", "41 of 50: too few", "nothing held out yet",
        "rate 9 more answers good; 2 wait in /dataset list --unrated", "\nratings\n", "not rated   2  █",
        "\nratings by model and week\n", "\ntags\n[python]  44  █", "\nanswers to learn, by characters\n",
    ):  # fmt: skip
        assert words in out, words
    found = full.json("stats")
    assert found["tags"] == {"[python]": {"examples": 44, "usable": 41}}
    assert sum(each["count"] for each in found["lengths"]) == found["usable"] == 41
    assert found["readiness"]["level"] == "few"
    assert found["tokens"] is None


def test_stats_of_an_empty_library(typed: Typed) -> None:
    out = typed("stats")
    assert "0 in 0 sessions" in out
    assert "next: harvest conversations: /dataset harvest" in out
    assert "ratings" not in out


@pytest.mark.parametrize(
    ("usable", "unrated", "level", "first"),
    [
        (0, 3, "few", "rate 50 more answers good; 3 wait in /dataset list --unrated"),
        (49, 0, "few", "rate 1 more answers good; harvest more first"),
        (50, 1200, "enough", "rate 150 more answers good; 1,200 wait in /dataset list --unrated"),
        (200, 0, "good", "see what would be trained with /dataset preview library"),
    ],
)
def test_readiness(usable: int, unrated: int, level: str, first: str) -> None:
    numbers = {
        "candidates": unrated,
        "rejected": 0,
        "corrected": 0,
        "scores": {},
        "splits": {"heldout": 4},
        "models": {},
    }
    counts = Counts(examples=usable + unrated, sessions=9, usable=usable, unrated=unrated, **numbers)
    found = readiness(counts)
    assert (found.level, found.next[0], found.heldout) == (level, first, 4)
    few = readiness(counts.model_copy(update={"sessions": 2}))
    assert any("three conversations" in advice for advice in few.next)


def test_weeks_count_what_the_model_itself_said(typed: Typed) -> None:
    names = fill(
        typed.home, *(turn(number, at=at, model=model) for number, (at, model) in enumerate([
            ("2026-03-01T23:59:59", "a"), ("2026-03-02T00:00:00", "a"), ("2026-03-08T23:59:59.5", "a"),
            ("2026-03-05T12:00:00+00:00", None), ("2026-03-05T12:00:00", "b"), ("not a date", "b"),
            ("2026-03-05T12:00:00", "c"),
        ])),
    )  # fmt: skip
    with Library(typed.home.library) as library:
        library.fix(names[2], "The user's own words.")
        library.rate(names[3:4], 2)
        library.rate(names[4:5], 3)
        library._connection().execute("UPDATE examples SET score = NULL WHERE id = ?", (names[6],))
    weeks = [tuple(week.values()) for week in typed.json("stats")["weeks"]]
    assert weeks == [
        ("unknown", "b", 1, 0), ("2026-03-02", "a", 1, 1), ("2026-03-02", "b", 0, 0), ("2026-03-02", "unknown", 0, 1),
        ("2026-02-23", "a", 1, 0),
    ]  # fmt: skip
    lines = [line.split() for line in typed("stats").splitlines()]
    assert ["2026-03-02", "a", "1", "1", "50%"] in lines
    assert ["2026-03-02", "b", "0", "0", "·"] in lines


def test_the_summary_counts_as_the_library_does(home: Path) -> None:
    dice = random.Random(3)
    with Library(Home(home).library) as library:
        names, _ = library.add(
            turn(
                number % 20, session=f"s{number % 7}", question=f"{number}?", model=dice.choice(["a", "b", None]),
                failure=dice.choice([None, None, "it failed"]),
            )
            for number in range(120)
        )  # fmt: skip
        for name in names:
            if dice.random() < 0.7:
                library.rate([name], dice.randint(1, 5))
            if dice.random() < 0.2:
                library.fix(name, "My own words.")
        library.assign({name: dice.choice(["train", "validation", "heldout"]) for name in names[::2]})
        summary, counts = summarize(library), library.counts()
        assert summary.counts == counts
        usable = [example for example in library.find() if example.status == "usable"]
        assert sum(summary.lengths.values()) == len(usable) == counts.usable > 20
        assert summary.lengths[len("My own words.")] == sum(e.target == "My own words." for e in usable)


def test_tokens_are_counted_as_they_are_trained(full: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF")
    asked: list[Any] = []

    def count(path: Path, chats: list[Any], template: str | None, system: str) -> list[int]:
        asked.append((path, len(chats), template, system))
        return [100 + number for number in range(len(chats))]

    monkeypatch.setattr("meton_plugins.finetune.engine.jobs.count_tokens", count)
    line = f"stats --base {base} --ctx-size 110 --chat-template chatml"
    tokens = full.json(line)["tokens"]
    system = load_template("basic").system
    assert asked == [(base, 41, "chatml", system)]
    assert (tokens["rows"], tokens["total"], tokens["over"]) == (41, sum(range(100, 141)), 29)
    out = full(line)
    assert "rows of a build, by tokens of base.gguf" in out
    assert "29 longer than --ctx-size 110 would be left out" in out


@pytest.mark.parametrize("flag", ["--ctx-size 9", "--template basic", "--chat-template chatml"])
def test_a_flag_that_would_do_nothing_is_refused(full: Typed, flag: str) -> None:
    assert f"{flag.split()[0]} matters for tokens only" in full(f"stats {flag}", 2)


# --- preview


def test_preview_without_a_base_shows_messages(full: Typed) -> None:
    out = full("preview")
    assert "user\nYou are Meton" in out
    assert "assistant\n⟦THOUGHT: " in out
    assert "tokens need a base model" in out
    found = full.json("preview --number 2")
    assert found["from"] == {"library": "library"}
    assert found["base"] is None
    assert [row["messages"][-1]["role"] for row in found["rows"]] == ["assistant"] * 2


def test_preview_of_a_dataset_and_of_the_library(full: Typed) -> None:
    built = full.json("build --name demo --context-turns 0")
    assert full.json("preview")["from"] == {"dataset": built["id"]}
    for name in ("demo", "latest", built["id"], built["id"][:5]):
        assert full.json(f"preview {name}")["from"] == {"dataset": built["id"]}
    everything = full.json("preview demo --number 99")
    lines = (Path(built["path"]) / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert everything["rows"] == [json.loads(line) for line in lines]
    assert everything["total"] == built["counts"]["train"] == len(lines)
    assert full.json("preview library --number 99")["total"] == len(lines)


def test_a_beginning_that_two_share(full: Typed) -> None:
    first, second = (full.json(f"build --context-turns {turns}") for turns in (0, 1))
    for built, other in ((first, "ab11"), (second, "ab22")):
        path = Path(built["path"])
        path.rename(path.with_name(f"{other}00000000"))
    assert "More than one dataset begins with 'ab'" in full("preview ab", 1)
    assert full.json("preview ab11")["total"] == first["counts"]["train"]
    with Library(full.home.library) as library:
        library._connection().execute("PRAGMA foreign_keys = OFF")  # a build has compared them
        for name, new in zip(full.ids, ("cdcd1", "cdcd2"), strict=False):
            library._connection().execute("UPDATE examples SET id = ? WHERE id = ?", (f"{new}00000", name))
    assert "More than one example begins with 'cdcd'" in full("preview cdcd", 1)


def test_drawn_rows_can_be_drawn_again(full: Typed) -> None:
    every = [row["id"] for row in full.json("preview --number 99")["rows"]]
    drawn = full.json("preview --random --number 6")
    again = full.json(f"preview --number 6 --seed {drawn['seed']}")
    assert again["rows"] == drawn["rows"]
    ids = [row["id"] for row in drawn["rows"]]
    assert len(set(ids)) == 6
    assert set(ids) <= set(every)
    assert {full.json("preview --random")["rows"][0]["id"] for _ in range(12)} != {every[0]}
    assert f"--seed {drawn['seed']}" in full(f"preview --seed {drawn['seed']}")


def test_each_row_of_an_example(typed: Typed) -> None:
    calls = (
        Call(prompt="p", completion='THOUGHT: look\nACTION: reader\nACTION_INPUT: {"a": 1}\nANSWER:'),
        Call(prompt="p", completion="THOUGHT: done\nACTION: NONE\nACTION_INPUT:\nANSWER: Answer 1."),
    )
    [name] = fill(typed.home, turn(1, tools=(ToolUse(name="reader", output="out"),), calls=calls))
    assert [row["id"] for row in typed.json(f"preview {name}")["rows"]] == [f"{name}#1", f"{name}#2"]
    [row] = typed.json(f"preview {name[:6]}#2")["rows"]
    assert row["messages"][-1]["content"].startswith("THOUGHT: done")
    assert f"The example {name} has no row '3': it has 2." in typed(f"preview {name}#3", 1)


@pytest.mark.parametrize(
    ("score", "split", "words"),
    [
        (1, None, "no build takes it, because it is not rated 4 or 5"),
        (None, None, "no build takes it, because it is not rated 4 or 5"),
        (5, "heldout", "its conversation is on the held-out side, which judges and never trains"),
        (5, "validation", "its conversation is on validation, which judges and never trains"),
        (5, "train", None),
    ],
)
def test_what_will_not_train_is_marked(typed: Typed, score: int | None, split: Any, words: str | None) -> None:
    [name] = fill(typed.home, turn(1), score=score)
    if split:
        with Library(typed.home.library) as library:
            library.assign({name: split})
    found = typed.json(f"preview {name}")
    assert found["remarks"] == ([words] if words else [])
    assert ("Not trained: " in typed(f"preview {name}")) is bool(words)


def test_a_secret_in_an_example_is_not_shown(typed: Typed) -> None:
    secret = "sk" + "-ant-" + "aB3" * 12
    [name] = fill(typed.home, turn(1, answer=f"The key is {secret}, keep it well and never tell anybody."))
    assert secret not in typed(f"preview {name}")


BAD = {
    "nothing there": ("preview", "The library is empty"),
    "unknown": ("preview abcd1234", "neither a dataset nor an example 'abcd1234'"),
    "short": ("preview ab", "neither a dataset nor an example 'ab'"),
    "row of nothing": ("preview abcd1234#1", "neither a dataset nor an example"),
    "long": ("preview " + "x" * 5000, "neither a dataset nor an example"),
    "path": ("preview /no/such/folder", "There is no dataset"),
    "number": ("preview --number 0", "--number takes a number from 1 up"),
    "context": ("preview --ctx-size 1", "--ctx-size"),
    "diff": ("diff one two", "There is no dataset yet"),
    "diff of nothing": ("diff", "The following arguments are required: A"),
    "base": ("stats --base /no/such.gguf", "There is no file /no/such.gguf"),
}


@pytest.mark.parametrize(("line", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence(typed: Typed, line: str, words: str) -> None:
    code = 2 if "--number" in line or "--ctx" in line or line == "diff" else 1
    out = typed(line, code)
    assert out.startswith("✗ ")
    assert words in out
    assert len(out.strip().splitlines()) == 1
    assert set(typed.json(line, code)) == {"error"}


def test_a_base_from_the_settings_may_be_away(full: Typed) -> None:
    full.home.settings.write_text('base = "/no/such.gguf"\n')
    assert "without tokens: There is no file /no/such.gguf." in full("preview")
    assert "There is no file /no/other.gguf." in full("preview --base /no/other.gguf", 1)


@pytest.mark.parametrize(("architecture", "tokenizer"), [("qwen2", "bpe"), ("llama", "spm")])
def test_the_rows_are_those_of_the_trainer(
    full: Typed, engine: object, library: Engine, base: BaseMaker, architecture: str, tokenizer: str
) -> None:
    path = base(architecture, tokenizer)
    [first, *_] = full.ids
    full(f"fix {first} Zwei Züge: 🙂 and\n\tcode  here")
    built = full.json(f"build --context-turns 1 --plain-share 0 --base {path}")
    size = sorted(count for _, count in built["tokens"]["longest"])[0]
    found = full.json(f"preview --number 99 --base {path} --ctx-size {size}")
    with Model(library, path, vocab_only=True) as model:
        chats = read_chats(Path(built["path"]) / "train.jsonl", load_template("basic").system or "")
        rows, skipped = build_rows(chats, template_for(inspect(path), None), model, size)
        assert skipped, "some are too long"
        reasons = {each.id: each.reason for each in skipped}
        assert {row["id"]: row["reason"] for row in found["rows"] if row["reason"]} == reasons
        shown = {row["id"]: row for row in found["rows"] if not row["reason"]}
        assert list(shown) == [row.id for row in rows]
        for row in rows:
            seen = shown[row.id]
            assert (seen["length"], seen["learned"]) == (row.length, row.learned)
            assert [piece["trained"] for piece in seen["pieces"]] == row.trained.tolist()
            assert "".join(piece["text"] for piece in seen["pieces"]) == model.text(row.tokens.tolist())
            special = [piece["text"] for piece in seen["pieces"] if piece["special"]]
            assert special.count("<|im_end|>") == 3
    assert all(row["pieces"] for row in found["rows"]), "those left out are shown too"


def test_tokens_on_a_terminal(typed: Typed, engine: object, base: BaseMaker) -> None:
    typed.home.make()
    typed.home.settings.write_text(f'base = "{base()}"\n[build]\nform = "plain"\n')
    answer = "the answer [/INST]\n\tif x:\n        return  1 "
    [name] = fill(typed.home, turn(1, question="the question [bold]?\x1b[31m\u202e", answer=answer))
    out = typed.terminal(f"preview {name}", width=100)
    assert "\x1b[1;32mthe answer [/INST]⏎" in out, "learned: bold and green"
    assert "\x1b[1;32m→   if x:⏎" in out
    assert "\x1b[1;32m········return··1" in out
    assert "\x1b[2mthe question [bold]?<U+001B>[31m<U+202E>" in out, "only read: dim, and harmless"
    assert "\x1b[2;36m<|im_start|>" in out
    assert "\x1b[1;4;32m<|im_end|>" in out, "the end is learned, and special"
    plain = typed(f"preview {name}")
    assert "⟦the answer [/INST]⏎" in plain
    assert "<|im_end|>⟧" in plain
    assert "\x1b" not in plain


@pytest.mark.parametrize("room", [-1, 0], ids=["too long", "fits"])
def test_where_a_row_is_cut(typed: Typed, engine: object, base: BaseMaker, room: int) -> None:
    [name] = fill(typed.home, turn(1))
    line = f"preview {name} --base {base()}"
    [whole] = typed.json(line)["rows"]
    size = whole["length"] + room
    out = typed(f"{line} --ctx-size {size}")
    sentence = f"left out: {whole['length']} tokens, longer than --ctx-size {size}"
    assert (sentence in out) is (room < 0)
    assert (f"✂ --ctx-size {size} ends here; past it: 1 token, 1 learned" in out) is (room < 0)
    assert typed.json(f"{line} --ctx-size {size}")["rows"][0]["pieces"] == whole["pieces"]


def test_a_chat_that_gives_no_row(typed: Typed, engine: object, base: BaseMaker) -> None:
    [name] = fill(typed.home, turn(1, answer="Write <|im_end|> and stop."))
    out = typed(f"preview {name} --base {base()}")
    assert "left out: its answer contains the control token '<|im_end|>'" in out
    assert typed.json(f"preview {name} --base {base()}")["rows"][0]["pieces"] == []


# --- datasets


@pytest.fixture
def two(full: Typed) -> Callable[[str], Any]:
    """Two datasets: one example was fixed and one rated bad between them."""
    full("build --name one --plain-share 0")
    trained = [example["id"] for example in full.json("list --limit 0") if example["split"] == "train"]
    usable = [name for name in trained if full.json(f"show {name}")["status"] == "usable"]
    full(f"fix {usable[0]} Other words.")
    full(f"rate 1 {usable[1]}")
    full("build --name two --plain-share 0 --min-length 2")
    return lambda kind: {"fixed": usable[0], "gone": usable[1], "typed": full}[kind]


def test_diff(two: Callable[[str], Any]) -> None:
    typed = two("typed")
    found = typed.json("diff one two")
    assert found["recipe"] == [{"name": "min_length", "before": 1, "after": 2}]
    train = found["sides"]["train"]
    assert [item["id"] for item in train["removed"]] == [two("gone")]
    assert two("fixed") in [item["id"] for item in train["changed"]]
    assert train["added"] == []
    assert train["same"] == train["rows"][1] - len(train["changed"])
    assert found["same"] is False
    fixed = typed.json(f"show {two('fixed')}")["question"]
    out = typed("diff one")
    assert "min_length  1 → 2" in out
    assert f"- {two('gone')}  " in out
    assert f"~ {two('fixed')}  {fixed[:40]}" in out
    back = typed.json("diff two one")["sides"]["train"]
    assert [item["id"] for item in back["added"]] == [two("gone")]


def test_diff_of_a_dataset_with_itself(two: Callable[[str], Any]) -> None:
    assert "The same rows by the same recipe." in two("typed")("diff two two")
    assert two("typed").json("diff two two")["same"] is True


def test_a_changed_dataset_cannot_be_compared(two: Callable[[str], Any]) -> None:
    typed = two("typed")
    file = dataset.resolve(typed.home, "one") / "train.jsonl"
    file.write_bytes(file.read_bytes() + b"\n")
    assert "was changed after it was frozen" in typed("diff one two", 1)


def frozen(tokens: dict[str, Any] | None = None, **sides: dict[str, str]) -> dataset.Dataset:
    """A dataset in memory: on each side, id to answer."""
    rows: dict[str, list[Row]] = {
        split: [
            Row.model_validate({"id": name, "session": "s", "messages": [
                {"role": "user", "content": f"Q {name}"}, {"role": "assistant", "content": text}
            ]})
            for name, text in sides.get(split, {}).items()
        ]
        for split in FILES
    }  # fmt: skip
    manifest = Manifest(
        id="0", settings=BuildSettings(), funnel=[], counts={}, sessions={}, secrets={}, files={},
        tokens=tokens and {"min": 1, "median": 1, "mean": 1, "max": 1, "over": {}, "longest": [], **tokens},
    )  # fmt: skip
    return dataset.Dataset(Path(), manifest, rows["train"], rows["validation"], rows["heldout"])


def test_what_moved_to_another_side() -> None:
    a = frozen(train={"a": "1", "b#1": "1", "b#2": "2", "c": "1"}, validation={"v": "1"})
    b = frozen(train={"a": "1", "b#1": "1"}, heldout={"c": "1", "v": "1"})
    found = compare(a, b)
    assert [(item.id, item.elsewhere) for item in found.sides["train"].removed] == [("c", "heldout")]
    assert [item.id for item in found.sides["train"].changed] == ["b"], "it lost a row"
    added = found.sides["heldout"].added
    assert [(item.id, item.elsewhere, item.question) for item in added] == [
        ("c", "train", "Q c"),
        ("v", "validation", "Q v"),
    ]
    assert found.sides["train"].rows == (4, 2)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (None, None, None),
        ({"base": {"name": "m"}, "total": 1500}, {"base": {"name": "m"}, "total": 1000}, "1,500 → 1,000 (-500)"),
        ({"base": {"name": "m"}, "total": 1}, {"base": {"name": "n"}, "total": 2}, "1 → 2, by two bases: m and n"),
        (None, {"base": {"name": "m"}, "total": 2}, "tokens were counted for one of the two only"),
    ],
    ids=["none", "same base", "two bases", "one"],
)  # fmt: skip
def test_diff_of_tokens(home: Path, before: Any, after: Any, words: str | None) -> None:
    from meton_plugins.finetune.commands.diff_view import differed

    host = RecordingHost(home)
    differed(host, compare(frozen(before), frozen(after)))
    assert (words in host.output) if words else ("tokens" not in host.output)


def test_versions_tell_when_and_for_which_base(full: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small-base.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr("meton_plugins.finetune.engine.jobs.count_tokens", lambda _, chats, *__: [10] * len(chats))
    built = full.json(f"build --name demo --base {path}")
    manifest = Path(built["path"]) / "manifest.json"
    when = time.mktime((2026, 3, 2, 9, 5, 0, 0, 0, -1))
    os.utime(manifest, (when, when))
    out = full("versions")
    counts = " / ".join(str(built["counts"][side]) for side in ("train", "validation", "heldout"))
    assert out.splitlines()[1].split("  ")[:2] == [built["id"], "2026-03-02 09:05"]
    for word in ("demo", counts, f"{built['tokens']['total']:,}", "small-base.gguf"):
        assert word in out.splitlines()[1]
    [version] = full.json("versions")
    assert (version["names"], version["base"], version["built"]) == (["demo"], str(path), when)


def test_the_funnel_gives_a_reason_for_each_loss(full: Typed) -> None:
    line = "build --dry-run --min-length 80 --filter-keyword the"
    lines = {words[0]: words[1:] for each in full(line).splitlines() if (words := re.split(r" {2,}", each.strip()))}
    stages = full.json(line)["funnel"]
    kept = [stage["kept"] for stage in stages]
    assert kept[1] > kept[2] > kept[3] == kept[-1]
    for before, stage in itertools.pairwise(stages):
        lost = before["kept"] - stage["kept"]
        number, *rest = lines[stage["name"]]
        assert number == str(stage["kept"])
        assert bool(rest) is bool(lost), "no loss, no reason"
        if lost:
            assert rest[0] == f"−{lost}"
            assert len(rest[1]) > 5
    assert lines["in dataset"] == [str(kept[-1])]


@pytest.mark.parametrize(("reason", "shown"), [("", "said twice"), ("2 as the one before", "2 as the one before")])
def test_a_stage_may_say_itself_why(home: Path, reason: str, shown: str) -> None:
    from meton_plugins.finetune.commands.build_views import funnel

    host = RecordingHost(home)
    funnel(host, [Stage(name="found", kept=1234), Stage(name="unique", kept=1232, reason=reason)], {"train": 1232})
    assert re.search(rf"unique +1,232  −2  {shown}", host.output)


# --- any terminal


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("line", ["stats", "versions", "diff one two", "build --dry-run", "list", "preview"])
def test_nothing_is_wider_than_the_terminal(two: Callable[[str], Any], line: str, width: int) -> None:
    shown = re.sub(r"\x1b\[[\d;]*m", "", two("typed").terminal(line, width))
    assert max(cell_len(each) for each in shown.splitlines()) <= width
    if line in ("versions", "diff one two", "list"):
        ids = re.findall(r"[0-9a-f]{10}", shown)
        assert len(ids) >= 2, "an id is never cut"


@pytest.mark.parametrize("line", ["stats", "versions", "diff one two", "build --dry-run", "preview", "list"])
def test_a_terminal_that_knows_ascii_alone(two: Callable[[str], Any], home: Path, line: str) -> None:
    two("typed")(f"fix {two('fixed')} Grüße… – 🙂")
    done = subprocess.run(
        [sys.executable, "-m", "meton_plugins.finetune", "--home", str(home), "dataset", *line.split()],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode("ascii").strip()


@pytest.mark.parametrize("line", ["stats", "preview", "preview library --random", "versions", "diff one two", "list"])
def test_looking_is_quick(two: Callable[[str], Any], line: str) -> None:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        two("typed")(line)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


def test_a_list_says_what_it_leaves_out(full: Typed) -> None:
    assert "20 of 44 (--limit 0 lists all)" in full("list")
    assert "1 of 2 (--limit 0 lists all)" in full("list --limit 1 --unrated")
    for whole in ("list --limit 0", "list --limit 44", "list --limit 50", "list --limit 2 --unrated"):
        assert " of " not in full(whole).splitlines()[-1]


def test_an_empty_library_says_how_to_fill_it(typed: Typed) -> None:
    assert "The library is empty: take your chats in with /dataset harvest" in typed("list")
    assert typed.json("list") == []
    typed("harvest")
    assert "No example matches." in typed("list --search nowhere-to-be-found")


@pytest.mark.parametrize("line", ["list", "versions", "diff one two", "tag list", "search way"])
def test_looking_needs_no_numpy(two: Callable[[str], Any], home: Path, line: str) -> None:
    """It takes longer to load than all the rest; only what compares words or counts tokens pays for it."""
    two("typed")
    code = "import sys\nfrom meton_plugins.finetune.__main__ import main\nsys.exit(main() or 'numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--home", str(home), "dataset", *line.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
