"""`/dataset leaks`: what is on two sides is found, wherever and however it was frozen."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.edited import make_corpus
from support.typed import Typed

from meton_plugins.finetune import form
from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.curate.manifest import FILES, MANIFEST, FileEntry, Manifest
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.library.records import Split
from meton_plugins.finetune.paths import Home, write_json
from meton_plugins.finetune.settings import BuildSettings, TrainSettings
from meton_plugins.finetune.train.record import BaseRecord, RunRecord
from meton_plugins.finetune.turn import Message, ToolUse, Turn

ASKED = "How do I read a large file line by line without keeping all of it in memory?"
SAID = "Open it and loop over the file object: it gives one line after the other, and only that line is in memory."
OTHER = ("What is the difference between a list and a tuple?", "A tuple cannot be changed once it is made; a list can.")

#: id, session, question, answer.
Row = tuple[str, str, str, str]
ONE: Row = ("aaaa111111", "s1", ASKED, SAID)
TWO: Row = ("bbbb222222", "s2", *OTHER)


def freeze(folder: Path, sides: dict[Split, list[Row]], *, meton: bool = False, pairs: list[Any] | None = None) -> Path:
    """A dataset with these rows, as a build freezes it."""
    folder.mkdir(parents=True)
    files = {}

    def write(name: str, values: list[Any]) -> None:
        raw = b"".join(json.dumps(value).encode() + b"\n" for value in values)
        (folder / name).write_bytes(raw)
        files[name] = FileEntry(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw), lines=len(values))

    for side, name in FILES.items():
        lines = []
        for row, session, question, answer in sides.get(side, []):
            asked, told = (form.prompt(question), form.wrap(answer)) if meton else (question, answer)
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
            lines.append({"id": row, "session": session, "messages": messages})
        write(name, lines)
    write("pairs.jsonl", pairs or [])
    manifest = Manifest(
        id=folder.name, settings=BuildSettings(), funnel=[], counts={}, sessions={}, secrets={}, files=files
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return folder


def run_of(home: Home, name: str, frozen: Path, parent: str | None = None) -> None:
    """A run that was trained on a copy of `frozen`."""
    folder = home.runs / name
    shutil.copytree(frozen, folder / "dataset")
    base = BaseRecord(path="b.gguf", sha256="0", architecture="qwen2", parameters=1, size=1, mtime_ns=1)
    record = RunRecord(
        name=name, created="2026", base=base, dataset=frozen.name, learned="last", examples={}, threads=1,
        settings=TrainSettings(), template="basic", system="", parent=parent,
    )  # fmt: skip
    write_json(folder / "run.json", record.model_dump(mode="json"))


def test_nothing_to_look_at_is_a_sentence(typed: Typed) -> None:
    assert "There is no dataset yet" in typed("leaks", 1)


def test_what_was_built_has_no_leaks(typed: Typed) -> None:
    """Code and chats, a tenth of them edited copies, in the form with tools, corrections and context, and without."""
    chats = [text for text in make_corpus(500, seed=11, long=0).texts if 30 < len(text) < 3000]
    with Library(typed.home.library) as library:
        turns = [
            Turn(
                session=f"s{number // 3}", at=f"2026-03-01T{number // 60:02}:{number % 60:02}:00",
                question=text[:120], answer=text,
                tools=(ToolUse(name="code", output="✓ 42"),) if number % 5 == 0 else (),
                context=(Message(role="user", content="User Query: x\n\nUser Query: y"),),
            )
            for number, text in enumerate(chats)
        ]  # fmt: skip
        ids, _ = library.add(turns[:300])
        library.rate(ids, 5)
        first = dataset.build(library, BuildSettings(), typed.home.datasets)
        more, _ = library.add(turns[300:])
        library.rate(more, 4)
        library.fix(ids[3], "A corrected answer that says it all.")
        dataset.build(library, BuildSettings(form="plain", deduplicate=False), typed.home.datasets)
        assert {example.split for example in library.find()} >= {"train", "validation", "heldout"}
    run_of(typed.home, "demo", typed.home.datasets / first.id)
    assert "Nothing of one side is in another" in typed("leaks", 0)
    found = typed.json("leaks", 0)
    assert (found["clean"], found["places"], found["leaks"], found["unread"], found["tainted"]) == (True, 3, [], [], {})
    assert found["examples"] > 350


LEAKS: dict[str, tuple[Row, str]] = {
    "the very example": (ONE, "the same words"),
    "the same words": (("cccc333333", "s9", f"  {ASKED.upper()}", SAID), "the same words"),
    "nearly the same": (("cccc333333", "s9", ASKED.replace("large", "huge"), f"{SAID} Good luck!"), "alike"),
    "the conversation": (("cccc333333", "s1", *OTHER), "the same conversation"),
}


@pytest.mark.parametrize(("row", "kind"), LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("where", ["one dataset", "two datasets", "two forms", "a run"])
@pytest.mark.parametrize("sides", [("train", "heldout"), ("validation", "heldout"), ("train", "validation")])
def test_a_leak_is_found(typed: Typed, row: Row, kind: str, where: str, sides: tuple[Split, Split]) -> None:
    loose, strict = sides
    folders = typed.home.datasets
    if where == "one dataset":
        freeze(folders / "d1", {loose: [ONE], strict: [row]})
    else:
        freeze(folders / "d1", {loose: [ONE]}, meton=where == "two forms")
        if where == "a run":
            run_of(typed.home, "r2", freeze(typed.home.root / "gone", {strict: [row]}))
        else:
            freeze(folders / "d2", {strict: [row]})
    found = typed.json("leaks", 1)
    assert not found["clean"]
    assert kind in {leak["kind"] for leak in found["leaks"]}
    [leak] = [leak for leak in found["leaks"] if leak["kind"] == kind]
    assert (leak["judging"], leak["other"]) == (strict, loose)
    assert leak["ids"] == [row[0], ONE[0]]
    assert leak["places"][1] == ["dataset d1"]
    assert leak["places"][0] == [{"one dataset": "dataset d1", "a run": "run r2"}.get(where, "dataset d2")]
    out = typed("leaks", 1)
    assert "Some of one side is in another" in out
    assert kind in out
    assert ONE[0] in out


CLEAN: dict[str, Row] = {
    "another answer": (
        "cccc333333",
        "s9",
        ASKED,
        "Use the module mmap: the system reads only the pages that you look at.",
    ),
    "another question": ("cccc333333", "s9", "Why did my loop over a file print only its first line?", SAID),
    "another number": ("cccc333333", "s9", "What is 2 + 3?", "It is 5, of course."),
}


@pytest.mark.parametrize("row", CLEAN.values(), ids=CLEAN)
def test_what_is_no_leak(typed: Typed, row: Row) -> None:
    sums: Row = ("dddd444444", "s5", "What is 2 + 5?", "It is 7, of course.")
    freeze(typed.home.datasets / "d1", {"train": [ONE, TWO, sums], "heldout": [row]})
    assert typed.json("leaks", 0)["leaks"] == []


def test_the_same_side_everywhere_is_no_leak(typed: Typed) -> None:
    for name in ("d1", "d2", "d3"):
        freeze(typed.home.datasets / name, {"train": [ONE], "heldout": [TWO]}, meton=name == "d2")
    assert typed.json("leaks", 0)["places"] == 3


def test_only_the_last_row_of_an_example_holds_its_answer(typed: Typed) -> None:
    step = "THOUGHT: look\nACTION: file_ops\nACTION_INPUT: {}\nANSWER:"
    freeze(
        typed.home.datasets / "d1",
        {"train": [("a#1", "s1", ASKED, step), ("a#2", "s1", ASKED, SAID)],
         "heldout": [("b#1", "s2", ASKED, step), ("b#2", "s2", *OTHER)]},
    )  # fmt: skip
    assert typed.json("leaks", 0)["examples"] == 2


def test_pairs_count_too(typed: Typed) -> None:
    pair = {"id": "p", "session": "s7", "split": "train", "chosen": SAID, "rejected": "No idea."}
    pair["prompt"] = [{"role": "user", "content": ASKED}]  # type: ignore[assignment]
    freeze(typed.home.datasets / "d1", {"train": [TWO], "heldout": [ONE]}, pairs=[pair])
    [leak] = typed.json("leaks", 1)["leaks"]
    assert leak["ids"] == [ONE[0], "p"]


def test_a_run_is_not_judged_by_what_its_ancestors_learned(typed: Typed) -> None:
    """grandparent → parent → child: only the child's line is tainted, not a run that began anew."""
    early = freeze(typed.home.datasets / "d1", {"train": [ONE, TWO]})
    late = freeze(
        typed.home.datasets / "d2", {"train": [("x", "s8", "And a third?", "Yes, a third.")], "heldout": [ONE]}
    )
    run_of(typed.home, "old", early)
    run_of(typed.home, "middle", freeze(typed.home.root / "gone", {"train": [TWO]}), parent="old")
    run_of(typed.home, "child", late, parent="middle")
    run_of(typed.home, "fresh", late)
    run_of(typed.home, "orphan", late, parent="deleted")
    assert typed.json("leaks", 1)["tainted"] == {"run child": 1}
    assert "run child learned 1 of the examples that judge it" in typed("leaks", 1)


def test_what_cannot_be_read_proves_nothing(typed: Typed) -> None:
    freeze(typed.home.datasets / "d1", {"train": [ONE]})
    broken = freeze(typed.home.datasets / "d2", {"train": [TWO]})
    run_of(typed.home, "r", broken)
    (typed.home.runs / "r" / "dataset" / MANIFEST).unlink()
    (broken / "train.jsonl").write_text("{}\n")
    found = typed.json("leaks", 1)
    assert found["leaks"] == []
    assert [sentence.split(":")[0] for sentence in found["unread"]] == ["dataset d2", "run r"]
    assert "not looked at: dataset d2" in typed("leaks", 1)


def test_many_leaks_are_shown_in_few_lines(typed: Typed) -> None:
    words = [f"{a}{b}" for a in ("tor", "mel", "ban", "fru", "ski") for b in ("ab", "is", "one", "ut", "ern", "ol")]

    def rows() -> Iterator[Row]:
        for number in range(25):
            yield (
                f"e{number}",
                f"s{number}",
                f"How do I make a {words[number]} [bold]?",
                f"Take {' '.join(words[number:])}.",
            )

    freeze(typed.home.datasets / "d1", {"train": list(rows())})
    freeze(typed.home.datasets / "d2", {"heldout": list(rows())})
    out = typed("leaks", 1)
    assert "25 × the same words" in out
    assert f"and {len(typed.json('leaks', 1)['leaks']) - 10} more" in out
    assert len(out.splitlines()) < 20
