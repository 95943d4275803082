"""From the library to a dataset: secrets, quality, frozen files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.saying import example

from meton_plugins.finetune import form
from meton_plugins.finetune.curate import build, dataset
from meton_plugins.finetune.curate.quality import judge, least
from meton_plugins.finetune.curate.rows import question_of
from meton_plugins.finetune.curate.sources import Source
from meton_plugins.finetune.errors import DataError, NotFound, UsageError
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.turn import Message, ToolUse, Turn


@pytest.fixture
def place(home: Path) -> Home:
    return Home(home)


@pytest.fixture
def library(place: Home) -> Iterator[Library]:
    with Library(place.library) as library:
        yield library


def fill(library: Library, count: int = 12, each: int = 3, score: int | None = 5) -> list[str]:
    turns = []
    for s in range(count):
        context: tuple[Message, ...] = ()
        for n in range(each):
            question, answer = f"What of {s} and {n}?", f"The answer is {s} times {n}."
            at = f"2026-03-{s % 28 + 1:02}T09:{n:02}:00"
            turns.append(Turn(session=f"s{s}", at=at, question=question, answer=answer, context=context))
            context += (Message(role="user", content=question), Message(role="assistant", content=answer))
    ids, _ = library.add(turns)
    if score is not None:
        library.rate(ids, score)
    return ids


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_dataset_is_frozen_and_reproducible(library: Library, place: Home, tmp_path: Path) -> None:
    ids = fill(library)
    library.fix(ids[0], "A corrected answer.")
    manifest = dataset.build(library, BuildSettings(), place.datasets)
    folder = place.datasets / manifest.id
    before = files(folder)
    assert set(before) == {"train.jsonl", "validation.jsonl", "heldout.jsonl", "pairs.jsonl", "manifest.json"}
    assert [path.name for path in place.datasets.iterdir()] == [manifest.id]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    assert dataset.build(library, BuildSettings(), place.datasets) == manifest
    assert files(folder) == before
    assert dataset.build(library, BuildSettings(), tmp_path / "elsewhere").id == manifest.id
    assert files(tmp_path / "elsewhere" / manifest.id) == before
    assert dataset.build(library, BuildSettings(form="plain"), place.datasets).id != manifest.id


def test_the_order_of_harvests_does_not_matter(library: Library, place: Home, tmp_path: Path) -> None:
    fill(library)
    first = dataset.build(library, BuildSettings(), place.datasets)
    with Library(tmp_path / "other.db") as other:
        for e in library.find():
            values = e.model_dump(include={"session", "at", "question", "answer", "context"})
            other.rate(other.add([Turn.model_validate(values)])[0], 5)
        assert dataset.build(other, BuildSettings(), tmp_path / "out").id == first.id


def test_rows_hold_the_form_and_the_context(library: Library, place: Home) -> None:
    fill(library)
    built = dataset.load(place.datasets / dataset.build(library, BuildSettings(context_turns=1), place.datasets).id)
    rows = {row.id: row for row in built.train + built.validation + built.heldout}
    assert len(rows) == 36 + 2
    last = next(e for e in library.find() if e.question == "What of 4 and 2?")
    [user, assistant] = rows[last.id].messages
    assert user.content == form.prompt(last.question, last.context[-2:])
    assert assistant.content == form.wrap(last.answer)
    assert {row.session for row in built.train} & {row.session for row in built.validation + built.heldout} == set()
    plain = dataset.load(place.datasets / dataset.build(library, BuildSettings(form="plain"), place.datasets).id)
    row = next(row for row in plain.train + plain.validation + plain.heldout if row.id == last.id)
    assert [m.role for m in row.messages] == ["user", "assistant"] * 3
    assert row.messages[-1].content == last.answer


def test_some_training_answers_are_there_as_plain_chats_too(library: Library, place: Home) -> None:
    fill(library)

    def built(**changes: Any) -> dataset.Dataset:
        manifest = dataset.build(library, BuildSettings(**changes), place.datasets)
        return dataset.load(place.datasets / manifest.id)

    none, half = built(plain_share=0.0), built(plain_share=0.5)
    assert not any(row.id.endswith("#plain") for row in none.train)
    plain = [row for row in half.train if row.id.endswith("#plain")]
    assert [row for row in half.train if row not in plain] == none.train
    assert len(plain) == half.manifest.plain == round(len(none.train) / 2)
    assert half.validation == none.validation
    assert half.heldout == none.heldout
    answers = {example.id: example.answer for example in library.find()}
    for row in plain:
        assert row.messages[-1].content == answers[row.id.removesuffix("#plain")]
        assert "THOUGHT" not in repr(row)
    assert not built(plain_share=0.5, form="plain").manifest.plain
    assert built(plain_share=0.5).id == half.id


def test_a_correction_in_the_form_is_plain_in_a_plain_chat(library: Library, place: Home) -> None:
    ids = fill(library, 1)
    for name in ids:
        library.fix(name, form.wrap(f"Better {name}."))
    built = dataset.build(library, BuildSettings(plain_share=1.0), place.datasets)
    rows = [row for row in dataset.load(place.datasets / built.id).train if row.id.endswith("#plain")]
    assert rows
    assert {row.messages[-1].content for row in rows} <= {f"Better {name}." for name in ids}


def test_tools_are_part_of_what_is_asked(library: Library, place: Home) -> None:
    use = ToolUse(name="code_executor", output="42")
    turn = Turn(session="s", at="2026", question="Run it", answer="The program prints 42.", tools=(use,))
    library.rate(library.add([turn])[0], 5)
    for wanted in ("meton", "plain"):
        settings = BuildSettings.model_validate({"form": wanted})
        built = dataset.load(place.datasets / dataset.build(library, settings, place.datasets).id)
        asked = built.train[0].messages[-2].content
        assert "- code_executor: 42" in asked
        assert question_of(asked) == "Run it"


def test_corrections_become_pairs(library: Library, place: Home) -> None:
    ids = fill(library, 1)
    library.rate(ids, 1)
    library.fix(ids[1], "The better answer.")
    manifest = dataset.build(library, BuildSettings(form="plain"), place.datasets)
    assert manifest.counts == {"train": 1, "validation": 0, "heldout": 0, "pairs": 1}
    [pair] = [json.loads(line) for line in (place.datasets / manifest.id / "pairs.jsonl").read_text().splitlines()]
    assert (pair["chosen"], pair["rejected"]) == ("The better answer.", "The answer is 0 times 1.")
    assert pair["prompt"][-1] == {"role": "user", "content": "What of 0 and 1?"}


def test_the_funnel_counts_each_loss(library: Library, place: Home) -> None:
    ids = fill(library, 6, 3)
    library.rate(ids[:3], 1)
    library.rate(ids[3:5], 3)
    twin = Turn(session="twin", at="2027", question="what of 5 AND 2?", answer="the answer is 5 times 2.")
    library.rate(library.add([twin])[0], 5)
    made = dataset.plan(library, BuildSettings(filter_keyword="5"))
    kept = [stage.kept for stage in made.funnel.stages]
    names = [stage.name for stage in made.funnel.stages]
    assert names == ["found", "rated usable", "long enough", "keyword", "quality", "clean of secrets", "unique"]
    assert kept == [19, 14, 14, 4, 4, 4, 3]
    unrated = dataset.plan(library, BuildSettings(unrated=True)).funnel.stages[1]
    assert unrated.kept == 16


@pytest.mark.parametrize(
    ("settings", "score", "stage"),
    [
        ({}, None, "rated usable"),
        ({}, 2, "rated usable"),
        ({"min_length": 500}, 5, "long enough"),
        ({"max_length": 5}, 5, "long enough"),
        ({"filter_keyword": "zebra"}, 5, "keyword"),
        ({"quality_threshold": 1.0}, 4, "quality"),
    ],
    ids=["unrated", "bad", "short", "long", "keyword", "quality"],
)
def test_nothing_left_names_the_stage(
    library: Library, place: Home, settings: dict[str, Any], score: int | None, stage: str
) -> None:
    fill(library, 3, score=score)
    with pytest.raises(DataError, match=f"'{stage}'"):
        dataset.build(library, BuildSettings.model_validate(settings), place.datasets)
    assert not place.datasets.exists()
    assert all(e.split is None for e in library.find())


def test_an_empty_library_is_one_sentence(library: Library, place: Home) -> None:
    with pytest.raises(DataError, match="library is empty"):
        dataset.build(library, BuildSettings(), place.datasets)


def test_secrets_that_came_later_are_taken_out_again(library: Library, place: Home) -> None:
    ids = fill(library, 3, 1)
    key_text = "sk" + "-ant-" + "aB3" * 12
    library.fix(ids[0], f"Use the key {key_text} for it.")
    library.fix(ids[1], key_text)
    manifest = dataset.build(library, BuildSettings(), place.datasets)
    assert manifest.secrets == {"API_KEY": 2}
    assert {stage.name: stage.kept for stage in manifest.funnel}["clean of secrets"] == 2
    assert all(key_text.encode() not in raw for raw in files(place.datasets / manifest.id).values())


def test_tokens_are_counted_where_somebody_counts(library: Library, place: Home) -> None:
    fill(library)
    assert dataset.build(library, BuildSettings(), place.datasets).tokens is None

    def count(chats: list[list[Message]]) -> list[int]:
        return [600 if number == 0 else 10 * (number + 1) for number in range(len(chats))]

    base = {"name": "tiny.gguf"}
    tokens = dataset.build(library, BuildSettings(), place.datasets, base=base, count_tokens=count).tokens
    assert tokens is not None
    assert (tokens.min, tokens.max, tokens.total) == (20, 600, 600 + 10 * sum(range(2, 39)))
    assert tokens.over == {512: 1, 1024: 0, 2048: 0, 4096: 0}
    assert tokens.base == base
    assert dataset.build(library, BuildSettings(), place.datasets).tokens == tokens


def test_finding_a_dataset(library: Library, place: Home) -> None:
    with pytest.raises(NotFound, match="no dataset yet"):
        dataset.resolve(place)
    fill(library)
    first = dataset.build(library, BuildSettings(), place.datasets, name="first")
    second = dataset.build(library, BuildSettings(form="plain"), place.datasets)
    where = {m.id: place.datasets / m.id for m in (first, second)}
    assert dataset.resolve(place, "latest") == where[second.id]
    assert dataset.resolve(place, "first") == where[first.id]
    assert dataset.resolve(place, first.id[:8]) == where[first.id]
    assert dataset.resolve(place, str(where[first.id])) == where[first.id]
    dataset.build(library, BuildSettings(), place.datasets)
    assert dataset.resolve(place) == where[first.id]
    assert [m.id for m in dataset.versions(place)] == [first.id, second.id]
    assert dataset.names(place) == {"first": first.id}
    for wrong in ("", "nope", "../x"):
        with pytest.raises(NotFound):
            dataset.resolve(place, wrong)
    with pytest.raises(UsageError):
        dataset.build(library, BuildSettings(), place.datasets, name="../up")


@pytest.mark.parametrize("file", ["train.jsonl", "heldout.jsonl", "pairs.jsonl", "manifest.json"])
def test_a_changed_dataset_is_refused(library: Library, place: Home, file: str) -> None:
    fill(library)
    path = place.datasets / dataset.build(library, BuildSettings(), place.datasets).id
    (path / file).write_bytes((path / file).read_bytes()[:-3] + b"x")
    with pytest.raises(DataError):
        dataset.load(path)
    (path / file).unlink()
    with pytest.raises((DataError, NotFound)):
        dataset.load(path)


def test_a_full_disk_leaves_nothing_half(library: Library, place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(library)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("meton_plugins.finetune.curate.build.write_json", full)
    with pytest.raises(OSError, match="No space"):
        dataset.build(library, BuildSettings(), place.datasets)
    assert list(place.datasets.iterdir()) == []
    monkeypatch.undo()
    assert dataset.load(place.datasets / dataset.build(library, BuildSettings(), place.datasets).id).train


def test_two_builds_at_once_agree_on_the_sides(library: Library, place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(library, 60, 1)
    plan = build.plan

    def slow(library: Library, settings: BuildSettings, sources: Sequence[Source] = ()) -> dataset.Plan:
        made = plan(library, settings, sources)
        time.sleep(0.2)
        return made

    monkeypatch.setattr(build, "plan", slow)

    def run(keyword: str | None) -> dataset.Dataset:
        with Library(place.library) as own:
            manifest = dataset.build(own, BuildSettings(filter_keyword=keyword), place.datasets)
        return dataset.load(place.datasets / manifest.id)

    with ThreadPoolExecutor(2) as pool:
        all_of_them, some = pool.map(run, [None, "1"])
    sides = {row.id: side for side in ("train", "validation", "heldout") for row in getattr(all_of_them, side)}
    for side in ("train", "validation", "heldout"):
        assert {sides[row.id] for row in getattr(some, side)} <= {side}


@pytest.mark.parametrize("score", [None, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "answer", ["I'm sorry, but I cannot help.", "```python\ndef (\n", "x", "word " * 900, "Fine, and long."]
)
def test_what_a_rating_makes_sure_of(score: int | None, answer: str) -> None:
    rated = example(answer=answer, score=score, tools=[{"name": "t", "output": "✗ no"}])
    assert least(rated) <= judge(rated).score
