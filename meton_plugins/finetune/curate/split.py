"""The split for life: which conversations train, which validate, which are held out to judge.

Conversations that share a duplicate, exact or near, are one group, and a group lies on one side. A side once given is
kept; where groups on different sides turn out to be one, all of it takes the stricter side. What was on another side
before is then set aside: it trains no more, and what was trained on judges nothing.

Small talk ties nothing: `thanks` would make one group of years of chats. Its copies are used on one side only.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from ..errors import DataError
from ..library import Example, Library
from ..library.records import Split
from .duplicates import Alike, compare, said

__all__ = ["SIDES", "TIE", "assign", "named", "target"]

#: From the strictest on.
SIDES: Final[tuple[Split, ...]] = ("heldout", "validation", "train")

#: From so many examples on, eight on each judging side still leave most of them to train.
ENOUGH: Final = 40

#: How alike questions and answers are that tie. Fixed, so that no setting of a build moves a side; below the 85 of
#: `leaks`, so that texts whose secrets were replaced in between are still seen as the copies that they are.
TIE: Final = 80

#: Characters of a question, and of question and answer together, from which a duplicate ties its conversations.
ASKED: Final = 16
TOLD: Final = 64


def target(total: int, groups: int) -> int:
    """How many examples validation and held-out want each, of `total` in `groups` groups."""
    if groups < 3:
        return 0
    tenth = round(total / 10)
    return max(8, tenth) if total >= ENOUGH else max(1, tenth)


def named(library: Library, tag: str | None) -> set[str]:
    """Ids of the user's own held-out set, those with `tag`; DataError where nothing has it."""
    found = library.tagged(tag) if tag is not None else set()
    if tag is not None and not found:
        raise DataError(
            f"No example has the tag {tag[:40]!r}, so none would be held out: tag some, or leave --heldout out."
        )
    return found


def assign(
    examples: Sequence[Example], chosen: Collection[str], alike: Alike | None = None, named: Collection[str] = ()
) -> dict[str, Split]:
    """The side of the examples in `chosen` (ids) and of all that are in a group with one of them.

    `examples` is the whole library: what is not chosen still ties groups together and brings its side along. The
    groups of those in `named` are held out, whatever they were. An example that no side may use, because the same is
    or was on another, has none.
    """
    alike = compare([said(example) for example in examples]) if alike is None else alike
    wanted = set(chosen) | set(named)
    groups = [group for group in _groups(examples, alike) if any(example.id in wanted for example in group)]
    sizes = [sum(example.id in chosen for example in group) for group in groups]
    total = sum(sizes)
    missing = target(total, len(groups))
    own = [any(example.id in named for example in group) for group in groups]
    sides: list[Split | None] = ["heldout" if mine else _known(group) for mine, group in zip(own, groups, strict=True)]
    order = sorted(range(len(groups)), key=lambda index: _mark(groups[index]))
    have: Counter[Split] = Counter()
    for known, size in zip(sides, sizes, strict=True):
        if known is not None:
            have[known] += size
    judging: tuple[Split, ...] = ("heldout", "validation")
    for side in judging:
        free = [index for index in order if sides[index] is None]
        # What comes after must find a group too: a few short conversations beside a long one are not all held out.
        later = SIDES[SIDES.index(side) + 1 :]
        spare = len(free) - sum(not have[other] for other in later)
        for index in _taken(free, sizes, missing - have[side], spare):
            sides[index] = side
            have[side] += sizes[index]
    placed = {example.id: side or "train" for group, side in zip(groups, sides, strict=True) for example in group}
    settled = {example.id for group, mine in zip(groups, own, strict=True) if mine for example in group}
    return _usable(examples, alike, placed, settled)


def _taken(free: list[int], sizes: list[int], missing: int, spare: int) -> list[int]:
    """At most `spare` of the `free` groups that bring `missing` examples: by hash while they fit, then the smallest."""
    taken: list[int] = []
    for index in free:
        if sizes[index] <= missing and len(taken) < spare:
            taken.append(index)
            missing -= sizes[index]
    rest = set(free) - set(taken)
    if missing > 0 and len(taken) < spare:
        taken.append(min((index for index in free if index in rest), key=lambda index: sizes[index]))
    return taken


def _groups(examples: Sequence[Example], alike: Alike) -> list[list[Example]]:
    """Examples tied by conversation or by a duplicate that is more than small talk."""
    parent = {example.id: example.id for example in examples}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    sessions: dict[str, str] = {}
    weighty: dict[str, str] = {}
    for example in examples:
        parent[root(example.id)] = root(sessions.setdefault(example.session, example.id))
        if _weighty(example):
            parent[root(example.id)] = root(weighty.setdefault(alike.heads[example.id], example.id))
    for pair in alike.pairs:
        if min(pair.question, pair.answer) >= TIE and pair.one in weighty and pair.other in weighty:
            parent[root(weighty[pair.one])] = root(weighty[pair.other])
    found: dict[str, list[Example]] = {}
    for example in examples:
        found.setdefault(root(example.id), []).append(example)
    return list(found.values())


def _weighty(example: Example) -> bool:
    asked = len(example.question.strip())
    return asked >= ASKED and asked + len(example.target.strip()) >= TOLD


def _usable(examples: Sequence[Example], alike: Alike, placed: dict[str, Split], settled: set[str]) -> dict[str, Split]:
    """`placed` without those whose like is or was on another side; what is `settled` stays in any case."""
    near = alike.near(TIE)
    seen: dict[tuple[str, str], set[Split]] = defaultdict(set)

    def places(example: Example) -> Iterator[tuple[str, str]]:
        yield "session", example.session
        head = alike.heads[example.id]
        yield "head", head
        for pair in near.get(head, ()):
            yield "head", pair.other

    def note(example: Example, side: Split) -> None:
        seen["session", example.session].add(side)
        seen["head", alike.heads[example.id]].add(side)

    for example in examples:
        before: Split | None = "heldout" if example.id in settled else example.split
        if before is not None:
            note(example, before)
    usable: dict[str, Split] = {}

    def turn(example: Example) -> tuple[bool, bool, int, str, str]:
        # Those with a side come first, then those to train: small talk that is new judges nothing.
        known = example.split is not None
        return example.id not in settled, not known, -SIDES.index(placed[example.id]), example.at, example.id

    for example in sorted((example for example in examples if example.id in placed), key=turn):
        side = placed[example.id]
        if example.id in settled or all(seen[place] <= {side} for place in places(example)):
            usable[example.id] = side
            note(example, side)
    return usable


def _known(group: list[Example]) -> Split | None:
    sides = {example.split for example in group}
    return next((side for side in SIDES if side in sides), None)


def _mark(group: list[Example]) -> bytes:
    """Decides by hash, and by the sessions alone: neither ratings nor the order of harvests move a group."""
    first = min(example.session for example in group)
    return hashlib.sha256(f"split:{first}".encode()).digest()
