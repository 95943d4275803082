"""Duplicates, exact and near: examples whose questions are alike and whose answers are alike.

Question and answer are compared apart: the same question with another answer is a choice between answers, no duplicate,
and a long question that many chats share makes none either. In a short text the numbers must be the same: `2 + 2` and
`2 + 3` are alike by every measure of letters.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..library import Example, Library
from ..library.alike import Change, Compared, Pair
from .alike import FLOOR, LONG, SHORT, Mask, Pairs, candidates, ratio, short_candidates
from .sketch import LETTERS, NUMBERS, SIZE, digest, fold, letters, sketches

__all__ = ["Alike", "Dropped", "Said", "choices", "compare", "said", "unique"]

#: What is kept of an example that was compared, 280 bytes.
PRINT: Final = np.dtype(
    [
        ("question", "<u8"), ("answer", "<u8"), ("asked", "<u4"), ("answered", "<u4"),
        ("question_sketch", "<u4", SIZE), ("answer_sketch", "<u4", SIZE),
        ("question_letters", "u1", LETTERS), ("answer_letters", "u1", LETTERS),
    ]
)  # fmt: skip

#: Bytes of the two digests that a print begins with.
DIGESTS: Final = 16

#: Goes into every mark: another way of comparing makes all that was compared stale.
WAY: Final = b"1"

#: Characters up to which a text is short: its numbers are much of what it says.
FEW: Final = 200

_NUMBER: Final = re.compile(r"\d+")


class Said(NamedTuple):
    """What is compared of an example."""

    id: str
    question: str
    answer: str


class Dropped(NamedTuple):
    """A duplicate, the example that was kept in its place, and how alike they are, 0 to 100."""

    id: str
    kept: str
    question: float
    answer: float


@dataclass(frozen=True)
class Alike:
    """What is alike among some examples: by id, the head that says the same; and the pairs of heads, from FLOOR up."""

    heads: dict[str, str]
    pairs: list[Pair]

    def near(self, threshold: float) -> dict[str, list[Pair]]:
        """For each head that has some, the pairs that are alike by at least `threshold`, this head first."""
        found: dict[str, list[Pair]] = defaultdict(list)
        for pair in self.pairs:
            if min(pair.question, pair.answer) >= threshold:
                found[pair.one].append(pair)
                found[pair.other].append(Pair(pair.other, pair.one, pair.question, pair.answer))
        return found


def said(example: Example) -> Said:
    """What is compared of an example: its question and its target."""
    return Said(example.id, example.question, example.target)


def compare(texts: Sequence[Said], library: Library | None = None) -> Alike:
    """All that is alike in `texts`. With their `library`, only what is new there is compared, and remembered.

    Texts that are not the library's, beside all of its own, are compared and not remembered.
    """
    known, pairs = library.compared() if library is not None else ([], [])
    marks = [_mark(text) for text in texts]
    at = {text.id: index for index, text in enumerate(texts)}
    stale = {row.example for row in known if row.example in at and marks[at[row.example]] != row.mark}
    valid = [row for row in known if row.example in at and row.example not in stale]
    # A print begins with the digests of question and answer: what stood for them before stands for new copies too.
    prints = {row.example: row.print for row in valid if row.example == row.head}
    heads = {row.example: row.head for row in valid if prints.get(row.head, b"")[:DIGESTS] == row.print[:DIGESTS]}
    first = {whole[:DIGESTS]: name for name, whole in prints.items()}
    new = [index for index, text in enumerate(texts) if text.id not in heads]
    rows: list[Compared] = []
    for index, made in zip(new, _prints([texts[index] for index in new]), strict=True):
        name, whole = texts[index].id, made.tobytes()
        heads[name] = first.setdefault(whole[:DIGESTS], name)
        rows.append(Compared(name, heads[name], marks[index], whole))
    before = prints.keys() - {row.example for row in rows}
    added = {row.example: row.print for row in rows if row.example == row.head}
    prints.update(added)
    order = list(prints)
    found = _search(
        np.frombuffer(b"".join(prints.values()), PRINT),
        np.array([name in added for name in order], dtype=np.bool_),
        [texts[at[name]] for name in order],
    )
    # Compared with some of the library only, nothing would ever be compared with the rest.
    if library is not None and (rows or stale) and all(row.example in at for row in known):
        library.keep_compared(Change(stale, rows, found))
    return Alike(heads, [pair for pair in pairs if {pair.one, pair.other} <= before] + found)


def unique(
    examples: Sequence[Example], alike: Alike, threshold: float, dropped: Callable[[Dropped], None] | None = None
) -> list[Example]:
    """One of each set of duplicates, in the order given: the best rated, then the longest, then the newest.

    Nothing is left out that is not itself a duplicate of something kept; `dropped` hears of each.
    """
    near = alike.near(threshold)
    taken: dict[str, Dropped] = {}
    kept: set[str] = set()
    present: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        present[alike.heads[example.id]].append(example.id)
    for example in sorted(examples, key=_rank, reverse=True):
        if example.id in taken:
            continue
        kept.add(example.id)
        head = alike.heads[example.id]
        for pair in (Pair(head, head, 100.0, 100.0), *near.get(head, ())):
            for name in present.get(pair.other, ()):
                if name not in kept:
                    taken.setdefault(name, Dropped(name, example.id, pair.question, pair.answer))
    if dropped is not None:
        for one in taken.values():
            dropped(one)
    return [example for example in examples if example.id in kept]


def choices(examples: Iterable[Example], alike: Alike) -> list[list[str]]:
    """Ids of the examples that ask the very same and are answered in different ways: a choice, and no duplicates."""
    asked: dict[str, dict[str, str]] = defaultdict(dict)
    for example in examples:
        asked[fold(example.question)].setdefault(alike.heads[example.id], example.id)
    return [list(found.values()) for found in asked.values() if len(found) > 1]


def _rank(example: Example) -> tuple[int, int, str, str]:
    return example.score or 0, len(example.question) + len(example.target), example.at, example.id


def _mark(text: Said) -> bytes:
    hashed = hashlib.blake2b(WAY, digest_size=12)
    for part in text[1:]:
        raw = part.encode("utf-8", "surrogatepass")
        hashed.update(b"%d:" % len(raw))
        hashed.update(raw)
    return hashed.digest()


def _prints(texts: Sequence[Said]) -> npt.NDArray[Any]:
    """PRINT of each, made in parts: folded texts are as large as the texts themselves."""
    made = np.zeros(len(texts), PRINT)
    for start in range(0, len(texts), 2000):
        part = slice(start, start + 2000)
        for field, size, column in (("question", "asked", 1), ("answer", "answered", 2)):
            folded = [fold(text[column]) for text in texts[part]]
            made[field][part] = [digest(text) for text in folded]
            made[size][part] = [len(text) for text in folded]
            made[f"{field}_sketch"][part] = sketches(folded)
            made[f"{field}_letters"][part] = letters(folded)
    return made


def _search(prints: npt.NDArray[Any], fresh: Mask, texts: Sequence[Said]) -> list[Pair]:
    """The pairs, one of them `fresh`, whose question and answer are both alike."""
    if not fresh.any():
        return []

    @lru_cache(maxsize=4096)
    def folded(index: int) -> tuple[str, str]:
        return fold(texts[index].question), fold(texts[index].answer)

    found: dict[tuple[int, int], Pair] = {}
    for some in _candidates(prints, fresh, folded):
        for one, other in some.tolist():
            if (one, other) in found:
                continue
            (asked, said), (asked_too, said_too) = folded(one), folded(other)
            answer = _likeness(said, said_too)
            question = _likeness(asked, asked_too) if answer else 0.0
            if question:
                first, second = sorted((texts[one].id, texts[other].id))
                found[one, other] = Pair(first, second, round(question, 2), round(answer, 2))
    return list(found.values())


def _candidates(prints: npt.NDArray[Any], fresh: Mask, folded: Callable[[int], tuple[str, str]]) -> Iterator[Pairs]:
    """Alike answers are looked for; among short answers, alike questions; among short both, both together.

    The classes overlap, so that a pair of which one is a little longer is in one of them together.
    """
    asked, answered = prints["asked"], prints["answered"]
    brief = answered < SHORT
    for members, field, size in (
        (np.flatnonzero(answered >= LONG), "answer", answered),
        (np.flatnonzero(brief & (asked >= LONG)), "question", asked),
    ):
        rows = np.ascontiguousarray(prints[f"{field}_sketch"][members], dtype=NUMBERS)
        counts = prints[f"{field}_letters"][members]
        for some in candidates(rows, counts, size[members], fresh[members]):
            yield members[some]
    # Texts with other numbers are not alike, so those with the same numbers are looked at by themselves: a thousand
    # sums would else be half a million pairs.
    sums: dict[str, list[int]] = defaultdict(list)
    for index in np.flatnonzero(brief & (asked < SHORT)).tolist():
        sums[" ".join(_NUMBER.findall("\n".join(folded(index))))].append(index)
    for group in sums.values():
        members = np.array(group, dtype=np.int64)
        for some in short_candidates(["\n".join(folded(index)) for index in group], fresh[members]):
            yield members[some]


def _likeness(one: str, other: str) -> float:
    if one == other:
        return 100.0
    if min(len(one), len(other)) < FEW and _NUMBER.findall(one) != _NUMBER.findall(other):
        return 0.0
    return ratio(one, other, FLOOR)
