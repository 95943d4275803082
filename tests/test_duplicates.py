"""Duplicates, exact and near: what is found, what is kept, and what is remembered."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rapidfuzz import fuzz, process
from support.edited import Corpus, edited, make_corpus
from support.host import RecordingHost
from support.saying import example

from meton_plugins.finetune.commands.dataset import make
from meton_plugins.finetune.curate import alike as near_texts
from meton_plugins.finetune.curate import dataset, duplicates, sketch
from meton_plugins.finetune.curate.alike import SHORT, near_pairs, ratio, short_candidates
from meton_plugins.finetune.curate.duplicates import Dropped, Said, choices, compare, said, unique
from meton_plugins.finetune.curate.sketch import EMPTY, SIZE, fold, sketches
from meton_plugins.finetune.errors import FinetuneError
from meton_plugins.finetune.library import Example, Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.turn import Turn

#: A long text without a number.
LONG = " ".join(
    ["Read the file line by line and keep a counter for each word that is not in the list of stop words."] * 3
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus(1500, seed=7, long=1)


def kept(*examples: Example, threshold: float = 85) -> list[str]:
    return [e.id for e in unique(examples, compare([said(e) for e in examples]), threshold)]


def test_folding() -> None:
    assert fold(" ﬁne\tTEXT ") == "fine text"
    assert fold("ＡＢＣ  ｶ") == "abc カ"
    assert fold(" \n") == ""


def test_recall_against_brute_force(corpus: Corpus) -> None:
    """Every pair of edited code, prose, other scripts, one word and 100 kB, compared with each other one by one."""
    texts = sorted({fold(text) for text in corpus.texts}, key=len)
    assert sum(len(text.split()) == 1 for text in texts) > 10
    assert len(texts[-1]) > 70_000
    sizes = np.array([len(text) for text in texts])
    wanted = set()
    for start in range(0, len(texts), 100):
        rows = texts[start : start + 100]
        end = int(np.searchsorted(sizes, sizes[start + len(rows) - 1] * 115 / 85, side="right"))
        scores = process.cdist(rows, texts[start:end], scorer=fuzz.ratio, score_cutoff=85, dtype=np.uint8)
        wanted |= {(start + int(a), start + int(b)) for a, b in zip(*np.nonzero(scores), strict=True) if a < b}
    assert len(wanted) >= 120
    found = {tuple(sorted(pair[:2])) for pair in near_pairs(texts, 85)}
    assert len(wanted & found) >= 0.99 * len(wanted)
    assert len(found - wanted) <= 0.01 * len(wanted), "what is found is alike by RapidFuzz's own count"


def test_a_lower_floor_finds_more_of_the_same(corpus: Corpus) -> None:
    texts = corpus.texts[:600]
    at_85 = {pair[:2] for pair in near_pairs(texts, 85)}
    low = near_pairs(texts)
    assert at_85 == {(one, other) for one, other, likeness in low if likeness >= 85} < {pair[:2] for pair in low}


def test_all_candidates_at_once_or_in_rounds(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is counted at a time bounds memory, and changes nothing else."""
    wanted = sorted(near_pairs(corpus.texts[:500]))
    monkeypatch.setattr(near_texts, "AT_ONCE", 500)
    assert sorted(near_pairs(corpus.texts[:500])) == wanted


def test_many_short_texts_go_by_their_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(3)
    words = [chance.choice("bcdfgklmnprst") + chance.choice("aeiou") + str(n)[::-1] for n in range(400)]
    texts = [" ".join(chance.sample(words, 4)) for _ in range(300)]
    texts += [f"{text} now" for text in texts[:50]]
    fresh = np.ones(len(texts), dtype=np.bool_)

    def alike() -> set[tuple[int, int]]:
        pairs = [pair for some in short_candidates(texts, fresh) for pair in some.tolist()]
        return {(a, b) for a, b in pairs if ratio(texts[a], texts[b], 85)}

    wanted = alike()
    monkeypatch.setattr(near_texts, "BRUTE", 10)
    assert {(n, 300 + n) for n in range(50)} <= wanted
    assert len(alike() & wanted) >= 0.99 * len(wanted)


ODD = {
    "emoji": (
        "🎉🚀 It works! 🙌 The deploy went through ✅ and all is 🟢",
        "🎉🚀 It works! 🙌 The deploy went through ✅ all is 🟢",
    ),
    "chinese": (
        "请写一个函数,把列表里的数字从小到大排序,并且去掉重复的元素",
        "请写一个函数,把列表里的数字从大到小排序,并且去掉重复的元素",
    ),
    "one word": ("refactoring", "refactorings"),
    "combining": ("Cafe\u0301 " * 20, "Café " * 20),
    "half a character": ("\ud800 broken " * 10, "\ud800 broken " * 10 + "so"),
    "no runs": ("ab", "ab"),
    "empty": ("", " \n"),
}


@pytest.mark.parametrize(("one", "other"), ODD.values(), ids=ODD)
def test_odd_texts_are_found(one: str, other: str) -> None:
    assert [pair[:2] for pair in near_pairs([one, "something else, quite another thing", other])] == [(0, 2)]


def test_texts_of_100_kb_take_milliseconds(corpus: Corpus) -> None:
    text = fold(max(corpus.texts, key=len))
    chance = random.Random(1)
    for strength in (0.02, 0.1):
        for _ in range(4):
            other = fold(edited(text, chance, strength))
            began = time.process_time()
            found = ratio(text, other, 75)
            assert time.process_time() - began < 0.5
            exact = fuzz.ratio(text, other)
            assert exact - 3 <= found <= exact + 0.01 or exact < 78
    began = time.process_time()
    assert ratio(text, text[::-1], 75) == 0
    assert ratio(text * 3, text * 3 + "x", 75) == 0, "beyond the bound, texts are the same or are not"
    assert ratio(text * 3, text * 3, 75) == 100
    assert time.process_time() - began < 0.5


def test_a_sketch_is_of_what_is_there() -> None:
    rows = sketches([LONG, "", "123456789", "1234567890", LONG.upper()])
    assert (rows[1:3] == EMPTY).all()
    assert (rows[3] != EMPTY).sum() == 1
    assert len(set(rows[0].tolist())) == SIZE
    assert (np.diff(rows[0].astype(np.int64)) > 0).all()
    alone = sketches([LONG])[0]
    assert (alone == rows[0]).all(), "neighbours in a chunk are not part of it"


def test_a_sketch_holds_the_smallest_whatever_stands_around(corpus: Corpus) -> None:
    """All at once is as one by one, also where a text repeats itself, is short, or ends a chunk."""
    texts = [*map(fold, corpus.texts[:300]), "ab" * 3000, "x" * 40, "", "1234567890", "é" * 900 + "the end of it all"]
    random.Random(2).shuffle(texts)
    rows = sketches(texts)
    for text, row in zip(texts, rows, strict=True):
        raw = text.encode()
        hashes = sketch._hashes(np.frombuffer(raw, dtype=np.uint8), 10)[: max(0, len(raw) - 9)]
        smallest = np.unique(hashes)[:SIZE].tolist()
        assert row.tolist() == smallest + [EMPTY] * (SIZE - len(smallest))
        assert len(set(hashes.tolist())) >= 0.999 * len({raw[at : at + 10] for at in range(len(raw) - 9)})


def test_question_and_answer_are_compared_apart() -> None:
    asked = f"{LONG} Then tell me which word is the most common."
    one = example("a", question=asked, answer="You can use a Counter and its method most_common for that.")
    other = example("b", question=asked, answer="Sort the dictionary by its values, and take the last of them.")
    near = example("c", question=asked.replace("Then", "And then"), answer=one.answer.replace("for that", "for it"))
    assert kept(one, other, near) == ["b", "c"], "the newer of two alike; another answer is a choice"
    alike = compare([said(e) for e in (one, other, near)])
    assert choices([one, other, near], alike) == [["a", "b"]]


@pytest.mark.parametrize("boilerplate", ["question", "answer"])
def test_a_shared_beginning_makes_no_duplicates(boilerplate: str, corpus: Corpus) -> None:
    """The instructions that somebody puts before every request, or the words with which a model begins."""
    some = [text for text in corpus.texts if 200 < len(text) < 600]
    copies = {number for pair in near_pairs(some) for number in pair[:2]}
    texts = [text for number, text in enumerate(some) if number not in copies][:40]
    examples = []
    for number, text in enumerate(texts):
        values = {"question": f"What of {text[:80]}", "answer": text}
        values[boilerplate] = f"{LONG * 4} {values[boilerplate]}"
        examples.append(example(f"e{number}", **values))
    assert len(kept(*examples)) == 40
    copy = examples[3].model_copy(update={"id": "copy", "answer": examples[3].answer + " Good luck."})
    assert len(kept(*examples, copy)) == 40


@pytest.mark.parametrize(
    ("question", "answer", "same"),
    [
        ("What is 2 + 2?", "It is 4, of course.", False),
        ("What is 7 - 5?", "It is 2, of course.", False),
        ("What is 5 - 7?", "It is 2, of course.", True),
        ("What's 5 - 7?", "It is 2, of course!", True),
    ],
)
def test_numbers_decide_in_short_texts(question: str, answer: str, same: bool) -> None:
    one = example("a", question="What is 5 - 7?", answer="It is 2, of course.")
    assert len(kept(one, example("b", question=question, answer=answer))) == (1 if same else 2)


def test_numbers_in_long_texts_are_words_like_others() -> None:
    assert (
        len(kept(example("a", question=LONG + " 1", answer=LONG), example("b", question=LONG + " 2", answer=LONG))) == 1
    )


def test_the_best_rated_stays_then_the_longest_then_the_newest() -> None:
    one = example("a", question=LONG, answer=LONG)
    assert kept(one, example("b", question=LONG, answer=LONG, score=4)) == ["b"]
    assert kept(example("b", question=LONG, answer=f"{LONG} More."), one) == ["b"]
    assert kept(one, example("b", question=LONG, answer=LONG, at="2027-01-01")) == ["b"]
    assert kept(example("b", question=LONG.upper(), answer=LONG, score=3), one) == ["b"], "exact ones too"


def test_nothing_is_left_out_that_is_not_like_what_was_kept() -> None:
    """A chain of small steps leads from one text to quite another; only direct neighbours are duplicates."""
    words = LONG.split()
    chain = [" ".join(["changed"] * n + words[n:]) for n in range(0, 60, 5)]
    examples = [
        example(f"e{n}", question="Tell me, please, how that is done.", answer=text) for n, text in enumerate(chain)
    ]
    alike = compare([said(e) for e in examples])
    dropped: list[Dropped] = []
    left = unique(examples, alike, 85, dropped.append)
    assert 1 < len(left) < len(chain)
    assert {one.id for one in dropped} | {e.id for e in left} == {e.id for e in examples}
    answers = {e.id: fold(e.answer) for e in examples}
    for one in dropped:
        assert one.kept in {e.id for e in left}
        assert fuzz.ratio(answers[one.id], answers[one.kept]) == pytest.approx(one.answer, abs=0.01)
        assert min(one.question, one.answer) >= 85


@pytest.fixture
def library(home: Path) -> Iterator[Library]:
    with Library(Home(home).library) as library:
        yield library


def fill(library: Library, texts: list[str], session: str = "s") -> list[str]:
    turns = [
        Turn(
            session=f"{session}{n}",
            at=f"2026-03-01T09:00:{n % 60:02}",
            question=f"What does it do? {text[:90]}",
            answer=text,
        )
        for n, text in enumerate(texts)
    ]
    ids, _ = library.add(turns)
    library.rate(ids, 5)
    return ids


def everything(library: Library) -> list[Said]:
    return [said(e) for e in library.find()]


def test_only_what_is_new_is_compared(library: Library, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text in corpus.texts if len(text) < 3000][:400]
    fill(library, texts[:380])
    compare(everything(library), library)
    fill(library, texts[380:], "later")
    printed: list[int] = []
    prints = duplicates._prints

    def counted(some: list[Said]) -> object:
        printed.append(len(some))
        return prints(some)

    monkeypatch.setattr(duplicates, "_prints", counted)
    grown = compare(everything(library), library)
    again = compare(everything(library), library)
    assert printed == [20, 0]
    fresh = compare(everything(library))
    for alike in (grown, again):
        assert _by_words(alike, library) == _by_words(fresh, library)
    assert fresh.pairs


def _by_words(alike: duplicates.Alike, library: Library) -> set[tuple[frozenset[str], float, float]]:
    """Pairs as what is said in them: which example stands for its copies may differ."""
    words = {e.id: fold(e.target) for e in library.find()}
    return {(frozenset((words[p.one], words[p.other])), p.question, p.answer) for p in alike.pairs}


def test_the_threshold_changes_without_comparing_again(
    library: Library, home: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(library, [text for text in corpus.texts if 300 < len(text) < 3000][:500])
    kept = [dataset.plan(library, BuildSettings(duplicate_threshold=85)).funnel.stages[-1].kept]

    def never(*_: object) -> float:
        raise AssertionError("compared again")

    monkeypatch.setattr(duplicates, "ratio", never)
    kept += [dataset.plan(library, BuildSettings(duplicate_threshold=n)).funnel.stages[-1].kept for n in (80, 98)]
    kept.append(dataset.plan(library, BuildSettings(deduplicate=False)).funnel.stages[-1].kept)
    assert kept[1] < kept[0] < kept[2] < kept[3]
    assert sorted(home.iterdir()) == sorted(
        Path(home) / name for name in ("library.db", "library.db-shm", "library.db-wal")
    )


def test_a_correction_is_compared_anew(library: Library) -> None:
    [one, other] = fill(library, [LONG, f"{LONG} Really."])
    assert compare(everything(library), library).pairs
    library.fix(one, "Something quite different is true here: the program never reads any file, it only writes.")
    assert not compare(everything(library), library).pairs
    library.fix(one, LONG)
    [pair] = compare(everything(library), library).pairs
    assert {pair.one, pair.other} == {one, other}


def test_copies_outlive_the_one_that_stood_for_them(library: Library) -> None:
    ids, _ = library.add(
        Turn(session=f"s{n}", at=f"2026-01-0{n + 1}", question=LONG, answer=text)
        for n, text in enumerate([LONG, LONG.upper(), f"{LONG} Really."])
    )
    before = compare(everything(library), library)
    [head] = {before.heads[ids[0]], before.heads[ids[1]]}
    with sqlite3.connect(library.path) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM examples WHERE id = ?", (head,))
    connection.close()
    after = compare(everything(library), library)
    [pair] = after.pairs
    assert {pair.one, pair.other} == set(ids) - {head}


def test_a_part_of_the_library_is_compared_and_not_remembered(library: Library) -> None:
    ids = fill(library, [LONG, f"{LONG} Really.", f"{LONG} Indeed."])
    texts = everything(library)
    compare(texts, library)
    library.fix(ids[0], f"{LONG} At last.")
    part = [text for text in everything(library) if text.id != ids[2]]
    assert len(compare([*part, Said("file", LONG, LONG)], library).pairs) == 1
    assert len(compare(everything(library), library).pairs) == 3
    assert "file" not in {row.example for row in library.compared()[0]}


def test_what_was_forgotten_meanwhile_is_not_remembered(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = fill(library, [LONG, f"{LONG} Really.", f"{LONG} Indeed."])
    search = duplicates._search

    def slow(*args: object) -> object:
        with sqlite3.connect(library.path) as other:
            other.execute("PRAGMA foreign_keys = ON")
            other.execute("DELETE FROM examples WHERE id = ?", (ids[0],))
        other.close()
        return search(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(duplicates, "_search", slow)
    compare(everything(library), library)
    monkeypatch.undo()
    rows, pairs = library.compared()
    assert {row.example for row in rows} == set(ids[1:])
    assert [{pair.one, pair.other} for pair in pairs] == [set(ids[1:])]
    assert len(compare(everything(library), library).pairs) == 1


def test_a_small_library_is_compared_in_no_time(library: Library, corpus: Corpus) -> None:
    fill(library, [text for text in corpus.texts if len(text) < 5000][:1000])
    texts = everything(library)
    began = time.process_time()
    compare(texts, library)
    assert time.process_time() - began < 1
    began = time.process_time()
    compare(texts, library)
    assert time.process_time() - began < 0.2


def test_short_and_long_meet_at_the_edge() -> None:
    """Texts about as long as the border between the two ways of looking are found by one of them."""
    chance = random.Random(5)
    for size in range(SHORT // 2, 2 * SHORT, 3):
        letters = "".join(chance.choice("abcdefgh ijklmnop qrstu vwxyz") for _ in range(size))
        one = f"a{letters}z"
        other = one[: size // 3] + "xy" + one[size // 3 :] + "qq"
        assert near_pairs([one, other], 85)
        assert kept(example("a", question=one, answer=other), example("b", question=other, answer=one)) in (
            ["a"],
            ["b"],
        )


@pytest.fixture
def typed(home: Path) -> RecordingHost:
    return RecordingHost(home)


def test_the_command_shows_sets_and_reasons(library: Library, home: Path, typed: RecordingHost) -> None:
    [one, two, other, _] = fill(
        library, [LONG, f"{LONG} Really.", f"{LONG} And more [bold]words[/bold].", "Another thing."]
    )
    run = make(typed, Home(home)).run
    assert run("duplicates") == 0
    assert "2 of 4 examples are duplicates of 1 other," in typed.output
    assert f"{other}  rated 5" in typed.output
    assert f"  {one}  question " in typed.output
    typed.clear()
    assert run("duplicates --threshold 99") == 0
    assert "No two of 4 examples are alike by 99 or more." in typed.output
    typed.clear()
    typed.json = True
    assert run("duplicates") == 0
    assert {one, two} == {each["id"] for each in json.loads(typed.output)["sets"][0]["left_out"]}


@pytest.mark.parametrize("line", ["--threshold 20", "--threshold 101", "--threshold x", "--limit -1"])
def test_the_command_refuses(line: str, home: Path, typed: RecordingHost) -> None:
    assert make(typed, Home(home)).run(f"duplicates {line}") == FinetuneError.exit_code + 1
