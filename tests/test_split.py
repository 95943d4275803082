"""The split for life: who is on which side, and who never is."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from support.saying import example, sessions

from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.curate.duplicates import compare, said
from meton_plugins.finetune.curate.leaks import Place, find
from meton_plugins.finetune.curate.split import assign, target
from meton_plugins.finetune.errors import DataError
from meton_plugins.finetune.library import Example, Library
from meton_plugins.finetune.library.records import Split
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.turn import Turn

ASKED = "How do I read a large file line by line without keeping all of it in memory?"
SAID = "Open it and loop over the file object: it gives one line after the other, and only that line is in memory."

#: Nobody asks about the same thing twice.
THINGS = (
    "sorting", "sockets", "closures", "decorators", "threads", "regular expressions", "typing", "packaging", "dates",
    "encodings", "generators", "contexts", "recursion", "slicing", "formatting", "logging", "testing", "mocking",
)  # fmt: skip


@pytest.mark.parametrize(
    ("count", "each", "judging"),
    [(1, 30, 0), (2, 10, 0), (3, 1, 1), (12, 1, 1), (20, 1, 2), (40, 1, 8), (200, 1, 20), (100, 5, 50)],
)
def test_sizes_of_the_sides(count: int, each: int, judging: int) -> None:
    examples = sessions(count, each)
    sides = Counter(assign(examples, {e.id for e in examples}).values())
    assert target(len(examples), count) == judging
    assert sides["heldout"] == sides["validation"] == judging
    assert sides["train"] == len(examples) - 2 * judging


@pytest.mark.parametrize(
    "sizes", [(100, 1, 1), (10, 10, 4), (1, 1, 1), (1000, 30, 30, 1)], ids=lambda sizes: "-".join(map(str, sizes))
)
def test_every_side_has_somebody_from_three_conversations_on(sizes: tuple[int, ...]) -> None:
    examples = [example(f"e{s}x{n}", f"s{s}") for s, size in enumerate(sizes) for n in range(size)]
    sides = Counter(assign(examples, {e.id for e in examples}).values())
    assert set(sides) == {"train", "validation", "heldout"}
    assert sides["train"] >= max(sizes)


def test_a_conversation_and_its_duplicates_lie_on_one_side() -> None:
    examples = [e.model_copy(update={"answer": f"{e.answer} {ASKED}"}) for e in sessions(60, 3)]
    examples = [e.model_copy(update={"question": f"{e.question} Say it, please."}) for e in examples]
    copies = [
        example(f"c{n}", f"copy{n}", question=examples[n * 9].question, answer=examples[n * 9].answer) for n in range(9)
    ]
    sides = assign(examples + copies, {e.id for e in examples + copies})
    for session in {e.session for e in examples}:
        assert len({sides[e.id] for e in examples if e.session == session}) == 1
    for n, copy in enumerate(copies):
        assert sides[copy.id] == sides[examples[n * 9].id]


def with_sides(examples: list[Example], sides: dict[str, Split]) -> list[Example]:
    return [e.model_copy(update={"split": sides.get(e.id, e.split)}) for e in examples]


def test_a_side_is_for_life() -> None:
    first = sessions(30)
    sides = assign(first, {e.id for e in first})
    assert assign(list(reversed(first)), {e.id for e in first}) == sides
    grown = with_sides(first, sides) + [example(f"late{n}", f"new{n}") for n in range(70)]
    later = assign(grown, {e.id for e in grown})
    assert {name: later[name] for name in sides} == sides
    assert Counter(later.values()) == {"train": 80, "validation": 10, "heldout": 10}


def test_what_is_not_chosen_still_follows_its_conversation() -> None:
    examples = sessions(12, 2)
    sides = assign(examples, {e.id for e in examples if e.id.endswith("x0")})
    assert len(sides) == 24
    assert all(sides[e.id] == sides[e.id.replace("x1", "x0")] for e in examples)


def copied(name: str, session: str, **more: object) -> Example:
    return example(name, session, question=ASKED, answer=SAID, **more)


def nearly(name: str, session: str, **more: object) -> Example:
    return example(name, session, question=ASKED.replace("large", "huge"), answer=f"{SAID} Good luck!", **more)


def test_near_duplicates_lie_on_one_side() -> None:
    others = sessions(60)
    for number in range(20):
        copies = [copied("a", f"one{number}"), nearly("b", f"other{number}"), example("c", f"other{number}")]
        sides = assign([*others, *copies], {"a", "b", "c", *(e.id for e in others)})
        assert sides["a"] == sides["b"] == sides["c"]


def test_another_answer_to_the_same_question_does_not_tie() -> None:
    other = "Use the module mmap, which lets the system read only those pages that you really look at."
    found = {
        frozenset(
            Counter(
                assign(
                    [*sessions(20), copied("a", f"x{n}"), example("b", f"y{n}", question=ASKED, answer=other)],
                    {"a", "b", *(e.id for e in sessions(20))},
                )[name]
                for name in "ab"
            )
        )
        for n in range(60)
    }
    assert any(len(sides) == 2 for sides in found)


def test_small_talk_ties_nothing() -> None:
    """Every conversation ends in thanks; they are not all one, and the thanks are on one side only."""
    talks = [
        example(
            f"t{s}",
            f"s{s}",
            question="thanks a lot!",
            answer="You are welcome! Ask me whenever you like, I am here to help.",
        )
        for s in range(60)
    ]
    rest = sessions(60, 2)
    everyone = [*rest, *talks]
    sides = assign(everyone, {e.id for e in everyone})
    counts = Counter(sides[e.id] for e in rest)
    assert 12 <= counts["heldout"] <= 20
    assert 12 <= counts["validation"] <= 20
    assert {sides.get(e.id) for e in talks} == {"train", None}
    again = with_sides(everyone, sides)
    assert assign(again, {e.id for e in again}) == sides, "for life"


@pytest.mark.parametrize("near", [False, True], ids=["exact", "near"])
@pytest.mark.parametrize(
    ("one", "other", "stricter"),
    [("train", "heldout", "heldout"), ("train", "validation", "validation"), ("validation", "heldout", "heldout")],
)
def test_merged_groups_take_the_stricter_side(one: Split, other: Split, stricter: Split, near: bool) -> None:
    """What comes late shows that two conversations are one: all of it is judged by, and what was seen judges not."""
    first = [copied("a", "s1", split=one), example("x", "s1", split=one, question="What is a monad, in one word?")]
    second = [example("y", "s2", split=other, question="Who wrote the first compiler, and when?")]
    assert assign([*first, *second], {"a", "x", "y"}) == {"a": one, "x": one, "y": other}
    late = [(nearly if near else copied)("late", "s2"), example("new", "s3", question="And what is a linker for?")]
    sides = assign([*first, *second, *late], {"a", "x", "y", "late", "new"})
    assert sides == {"y": stricter, "new": sides["new"]}, "seen on the other side before, or like what was"


def test_a_later_part_of_a_conversation_follows_it_or_is_set_aside() -> None:
    early = [copied("a", "s1", split="train"), example("b", "s2", split="heldout")]
    late = example("c", "s1", question="And how do I write one?", answer="Open it with the mode w.")
    assert assign([*early, late], {"a", "b", "c"})["c"] == "train"
    tied = [
        copied("a", "s1", split="train"),
        copied("b", "s2", split="heldout"),
        example("c", "s1"),
        example("d", "s2"),
    ]
    assert assign(tied, {"a", "b", "c", "d"}) == {"d": "heldout"}, "like, or beside, what was on the other"


def test_the_users_own_held_out_set_is_held_out_whole() -> None:
    examples = [*sessions(40, 2), copied("a", "mine"), example("z", "mine"), nearly("n", "elsewhere")]
    everyone = {e.id for e in examples}
    sides = assign(examples, everyone, named={"a", "e3x0", "e4x1"})
    assert {sides[name] for name in ("a", "z", "n", "e3x0", "e3x1", "e4x0", "e4x1")} == {"heldout"}
    assert 8 <= Counter(sides.values())["heldout"] <= 9
    assert Counter(sides.values())["validation"] == 8
    later = with_sides(examples, sides)
    assert assign(later, everyone) == sides, "for life, also where nobody names it any more"
    trained = with_sides(examples, dict.fromkeys(everyone, "train"))
    assert assign(trained, everyone, named={"a"})["n"] == "heldout", "the user's word counts more than what was"


def test_a_named_set_is_held_out_by_its_tag(home: object) -> None:
    place = Home(home)  # type: ignore[arg-type]
    with Library(place.library) as library:
        ids, _ = library.add(
            Turn(
                session=f"s{n}",
                at=f"2026-01-{n + 1:02}",
                question=f"Tell me about {thing}.",
                answer=f"In Python, {thing} is easy.",
            )
            for n, thing in enumerate(THINGS)
        )
        library.rate(ids, 5)
        with pytest.raises(DataError, match="No example has the tag 'exam'"):
            dataset.build(library, BuildSettings(heldout="exam", deduplicate=False), place.datasets)
        with library._writing() as connection:
            connection.executemany("INSERT INTO tags VALUES (?, 'exam')", [(name,) for name in ids[:5]])
        built = dataset.build(library, BuildSettings(heldout="exam", deduplicate=False), place.datasets)
        assert {row.id for row in dataset.load(place.datasets / built.id).heldout} == set(ids[:5])
        later = dataset.build(library, BuildSettings(deduplicate=False), place.datasets)
        assert {row.id for row in dataset.load(place.datasets / later.id).heldout} == set(ids[:5])


def test_years_of_chats_never_leak(home: object) -> None:
    """Chats with copies, edited copies and small talk come in bit by bit; no build ever contradicts another."""
    place = Home(home)  # type: ignore[arg-type]
    chance = random.Random(4)
    words = [f"{a}{b}" for a in ("tor", "mel", "ban", "fru", "ski", "dol") for b in ("ab", "is", "one", "ut", "ern")]
    known: list[tuple[str, str]] = []
    with Library(place.library) as library:
        for year in range(6):
            turns = []
            for number in range(40):
                session = f"y{year}s{number}"
                for turn in range(chance.randint(1, 3)):
                    if known and chance.random() < 0.1:
                        asked, told = chance.choice(known)
                        if chance.random() < 0.6:
                            told = f"{told} {chance.choice(words)}"
                            asked = asked.replace(" a ", " one ", 1)
                    else:
                        asked = f"How do I make a {' '.join(chance.sample(words, 6))}?"
                        told = f"Take a {' and a '.join(chance.sample(words, 14))}."
                        known.append((asked, told))
                    turns.append(
                        Turn(
                            session=session, at=f"202{year}-01-01T00:{number:02}:{turn:02}", question=asked, answer=told
                        )
                    )
                if chance.random() < 0.5:
                    turns.append(
                        Turn(
                            session=session,
                            at=f"202{year}-01-01T00:{number:02}:59",
                            question="thanks",
                            answer="You are welcome!",
                        )
                    )
            ids, _ = library.add(turns)
            library.rate([name for name in ids if chance.random() < 0.8], 5)
            settings = BuildSettings(deduplicate=bool(year % 2), form="plain" if year % 3 else "meton")
            dataset.build(library, settings, place.datasets)
        sides = Counter(example.split for example in library.find())
        ties = compare([said(e) for e in library.find()]).pairs
    assert len(ties) > 15
    report = find([Place(path.name, path) for path in place.datasets.iterdir()])
    assert (report.places, report.leaks, report.unread) == (6, [], [])
    total = sum(sides.values())
    assert 0.06 < sides["heldout"] / total < 0.3
    assert sides["train"] / total > 0.5
    assert sides[None] / total < 0.3
