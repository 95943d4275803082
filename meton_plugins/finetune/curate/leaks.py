"""Whether something of one side of the split is in another, across everything that was ever frozen.

Read from the frozen files alone: neither the library nor what it remembers of comparisons is believed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Final, Literal

from .. import form
from ..errors import FinetuneError
from ..library.records import Split
from ..turn import Message
from .duplicates import Said, compare
from .frozen import load
from .manifest import PAIRS, Row
from .rows import example_of, question_of
from .split import SIDES

__all__ = ["ALIKE", "Leak", "Leaks", "Place", "find"]

#: From here on, 0 to 100 for questions and for answers, two examples count as one.
ALIKE: Final = 85

Kind = Literal["the same words", "alike", "the same conversation"]


@dataclass(frozen=True)
class Place:
    """A folder with frozen files: a dataset, or what a run was trained on, with the runs that it goes on from."""

    name: str
    folder: Path
    ancestors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leak:
    """Something of the side `judging` that is also in the side `other`; `question` and `answer` are 0 to 100."""

    kind: Kind
    judging: Split
    other: Split
    ids: tuple[str, str]
    places: tuple[tuple[str, ...], tuple[str, ...]]
    question: float = 100.0
    answer: float = 100.0


@dataclass
class Leaks:
    """What was found. `unread` are sentences about folders that prove nothing; `tainted` counts, by run, the examples
    that judge it and that it, or a run that it goes on from, has learned."""

    places: int = 0
    examples: int = 0
    leaks: list[Leak] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    tainted: dict[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether it is proved that nothing of one side is in another."""
        return not self.leaks and not self.unread


@dataclass(frozen=True)
class _Seen:
    """An example where it was found."""

    place: int
    side: Split
    id: str
    session: str
    said: Said


def find(places: Sequence[Place]) -> Leaks:
    """Compare all that is frozen in `places` with all; a folder that cannot be read is named, not passed over."""
    report = Leaks()
    seen: list[_Seen] = []
    for number, place in enumerate(places):
        try:
            seen += _read(number, place)
            report.places += 1
        except FinetuneError as error:
            report.unread.append(f"{place.name}: {error.sentence}")
    words: dict[tuple[str, str], list[_Seen]] = defaultdict(list)
    sessions: dict[str, list[_Seen]] = defaultdict(list)
    for one in seen:
        words[one.said[1:]].append(one)
        sessions[one.session].append(one)
    groups = list(words.values())
    alike = compare([Said(str(index), *group[0].said[1:]) for index, group in enumerate(groups)])
    same: dict[str, list[_Seen]] = defaultdict(list)
    for index, group in enumerate(groups):
        same[alike.heads[str(index)]] += group
    report.examples = len(same)
    tainted: dict[str, set[str]] = defaultdict(set)

    def add(kind: Kind, some: Sequence[_Seen], others: Sequence[_Seen], question: float, answer: float) -> None:
        if len({one.side for one in some} | {other.side for other in others}) < 2:
            return
        report.leaks += _crossed(kind, some, others, places, (question, answer))
        if kind != "the same conversation":
            for name, example in _tainted(some, others, places):
                tainted[name].add(example)

    for found in same.values():
        add("the same words", found, found, 100.0, 100.0)
    for pair in alike.pairs:
        if min(pair.question, pair.answer) >= ALIKE:
            add("alike", same[pair.one], same[pair.other], pair.question, pair.answer)
    for found in sessions.values():
        add("the same conversation", found, found, 100.0, 100.0)
    report.tainted = {name: len(ids) for name, ids in sorted(tainted.items())}
    return report


def _read(number: int, place: Place) -> list[_Seen]:
    """Every example in the folder, once a side: of the rows of one example, the last holds its answer."""
    frozen = load(place.folder)
    sides: tuple[tuple[Split, list[Row]], ...] = (
        ("train", frozen.train), ("validation", frozen.validation), ("heldout", frozen.heldout),
    )  # fmt: skip
    found: dict[tuple[Split, str], _Seen] = {}
    for side, rows in sides:
        for row in rows:
            name = example_of(row.id)
            said = Said(name, _asked(row.messages[:-1]), _answered(row.messages[-1].content))
            found[side, name] = _Seen(number, side, name, row.session, said)
    if PAIRS in frozen.manifest.files:
        for line in (place.folder / PAIRS).read_bytes().splitlines():
            pair = json.loads(line)
            prompt = [Message.model_validate(message) for message in pair["prompt"]]
            said = Said(pair["id"], _asked(prompt), _answered(pair["chosen"]))
            side = pair["split"]
            found.setdefault((side, said.id), _Seen(number, side, said.id, pair["session"], said))
    return list(found.values())


def _asked(messages: Sequence[Message]) -> str:
    question = next((message.content for message in reversed(messages) if message.role == "user"), "")
    return question_of(question)


def _answered(text: str) -> str:
    step = form.parse(text)
    return step.answer if step is not None and step.action is None and form.score(text) == 1.0 else text


def _crossed(
    kind: Kind, some: Sequence[_Seen], others: Sequence[_Seen], places: Sequence[Place], ratios: tuple[float, float]
) -> Iterator[Leak]:
    """One leak for each two sides that `some` and `others` lie on."""
    by_side: tuple[dict[Split, list[_Seen]], dict[Split, list[_Seen]]] = (defaultdict(list), defaultdict(list))
    for sides, group in zip(by_side, (some, others), strict=True):
        for one in group:
            sides[one.side].append(one)
    done: set[tuple[Split, Split]] = set()
    for here, there in product(*by_side):
        first, second = (here, by_side[0][here]), (there, by_side[1][there])
        (side, ones), (another, them) = sorted((first, second), key=lambda each: SIDES.index(each[0]))
        if side == another or (side, another) in done:
            continue
        done.add((side, another))
        where, elsewhere = (tuple(dict.fromkeys(places[one.place].name for one in group)) for group in (ones, them))
        yield Leak(kind, side, another, (ones[0].id, them[0].id), (where, elsewhere), *ratios)


def _tainted(some: Sequence[_Seen], others: Sequence[_Seen], places: Sequence[Place]) -> Iterator[tuple[str, str]]:
    """Runs, each with an example that judges it and was learned by it or by one that it goes on from."""
    for one, other in product([*some, *others], repeat=2):
        if one.side != "train" and other.side == "train":
            judged, learned = places[one.place], places[other.place].name
            if judged.name == learned or learned in judged.ancestors:
                yield judged.name, one.id
