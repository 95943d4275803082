"""Probation: Fisher's exact test, and when the user is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.host import RecordingHost, Slots

from meton_plugins.finetune.library import Library
from meton_plugins.finetune.library.summary import Judged, judged
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.plugin import listener_for
from meton_plugins.finetune.serve.history import History
from meton_plugins.finetune.serve.probation import doubts, new_doubts, worse
from meton_plugins.finetune.turn import Turn

OLD, NEW = "qwen:7b", "meton-x:v1"


@pytest.mark.parametrize(
    ("new", "old", "chance"),
    [
        # R: fisher.test(matrix(c(3, 7, 9, 1), 2), alternative = "less")$p.value, and so on
        (Judged(3, 7), Judged(9, 1), 0.00988),
        (Judged(4, 4), Judged(8, 0), 0.03846),
        (Judged(6, 2), Judged(7, 1), 0.5),
        (Judged(8, 0), Judged(8, 0), 1.0),
        (Judged(10, 0), Judged(1, 9), 1.0),
        (Judged(0, 8), Judged(8, 0), 1 / 12870),
        (Judged(0, 0), Judged(0, 0), 1.0),
    ],
    ids=str,
)
def test_fishers_exact_test(new: Judged, old: Judged, chance: float) -> None:
    assert worse(new, old) == pytest.approx(chance, rel=2e-3)


def rate(library: Library, model: str, good: int, bad: int, fixed: int = 0, so_so: int = 0) -> None:
    """Answers of `model` with these ratings."""
    scores = [5] * good + [1] * bad + [5] * fixed + [3] * so_so
    turns = [
        Turn(
            session=f"{model}-{n}-{good}-{bad}", at="2026-01-01", question=f"Q{n}?", answer=f"{model} {n}", model=model
        )
        for n in range(len(scores))
    ]
    names, _ = library.add(turns)
    for name, score in zip(names, scores, strict=True):
        library.rate([name], score)
    for name in names[good + bad : good + bad + fixed]:
        library.fix(name, "My own words.")


@pytest.fixture
def swapped(home: Path) -> tuple[Home, Slots, History]:
    """A home in which NEW took the place of OLD."""
    made = Home(home).make()
    slots = Slots({"primary": OLD, "fallback": OLD})
    history = History(made.history)
    swap = history.begin("primary", OLD, NEW, "promoted", slots.path)
    slots.write("primary", NEW, expected=OLD)
    history.mark(swap, "done")
    return made, slots, history


def test_ratings_of_a_model(home: Path) -> None:
    with Library(Home(home).make().library) as library:
        rate(library, NEW, 3, 2, fixed=1, so_so=4)
        assert judged(library, NEW) == Judged(3, 3), "what the user corrected was bad, so-so says nothing"
        assert judged(library, "nobody") == Judged(0, 0)


def test_a_worse_model_is_told_of_once(swapped: tuple[Home, Slots, History]) -> None:
    home, slots, history = swapped
    with Library(home.library) as library:
        rate(library, OLD, 9, 1)
        rate(library, NEW, 3, 5)
        [doubt] = doubts(slots.path, slots.read(), history, library)
        assert (doubt.new, doubt.old) == (Judged(3, 5), Judged(9, 1))
    listener = listener_for(RecordingHost(home.root, slots=slots))
    said = [line for line in listener.notices() if "rate" in line and NEW in line]
    assert said == [
        f"You rate {NEW} worse than {OLD} before it: 3 of 8 good, against 9 of 10 (p = 0.03). "
        "/model-register rollback --slot primary gives it back."
    ]
    assert not [line for line in listener.notices() if NEW in line]
    assert new_doubts(home, slots.path, slots.read()) == []


@pytest.mark.parametrize(
    ("new", "old"),
    [((3, 4), (9, 1)), ((3, 5), (6, 1)), ((6, 2), (7, 1)), ((8, 0), (1, 9))],
    ids=["few-new", "few-old", "chance", "better"],
)
def test_no_doubt(swapped: tuple[Home, Slots, History], new: tuple[int, int], old: tuple[int, int]) -> None:
    home, slots, history = swapped
    with Library(home.library) as library:
        rate(library, OLD, *old)
        rate(library, NEW, *new)
        assert doubts(slots.path, slots.read(), history, library) == []


def test_a_slot_that_was_rolled_back_or_changed_elsewhere_is_left_alone(swapped: tuple[Home, Slots, History]) -> None:
    home, slots, history = swapped
    with Library(home.library) as library:
        rate(library, OLD, 9, 1)
        rate(library, NEW, 0, 9)
        slots.write("primary", "other:1b", expected=NEW)
        assert doubts(slots.path, slots.read(), history, library) == []
        slots.write("primary", NEW, expected="other:1b")
        assert len(doubts(slots.path, slots.read(), history, library)) == 1
        [swap] = history.standing("primary", slots.path)
        back = history.begin("primary", NEW, OLD, "rollback", slots.path, (swap.id,))
        slots.write("primary", OLD, expected=NEW)
        history.mark(back, "done")
        assert doubts(slots.path, slots.read(), history, library) == []


def test_a_broken_library_is_no_news(swapped: tuple[Home, Slots, History]) -> None:
    home, slots, _ = swapped
    home.library.write_bytes(b"no library")
    assert new_doubts(home, slots.path, slots.read()) == []
