"""The split for life: which conversations train, which validate, which are held out to judge.

Conversations that share an exact duplicate are one group, and a group lies on one side. A side once given is kept;
where groups on different sides turn out to be one, all of it takes the stricter side.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from ..library import Example
from ..library.records import Split
from .duplicates import clusters

__all__ = ["SIDES", "assign", "target"]

#: From the strictest on.
SIDES: Final[tuple[Split, ...]] = ("heldout", "validation", "train")

#: From so many examples on, eight on each judging side still leave most of them to train.
ENOUGH: Final = 40


def target(total: int, groups: int) -> int:
    """How many examples validation and held-out want each, of `total` in `groups` groups."""
    if groups < 3:
        return 0
    tenth = round(total / 10)
    return max(8, tenth) if total >= ENOUGH else max(1, tenth)


def assign(examples: Sequence[Example], chosen: Collection[str]) -> dict[str, Split]:
    """The side of every example in `chosen` (ids) and of all that are in a group with one of them.

    `examples` is the whole library: what is not chosen still ties groups together and brings its side along.
    """
    groups = [group for group in _groups(examples) if any(example.id in chosen for example in group)]
    sizes = [sum(example.id in chosen for example in group) for group in groups]
    total = sum(sizes)
    wanted = target(total, len(groups))
    sides: list[Split | None] = [_known(group) for group in groups]
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
        for index in _taken(free, sizes, wanted - have[side], spare):
            sides[index] = side
            have[side] += sizes[index]
    return {example.id: final or "train" for group, final in zip(groups, sides, strict=True) for example in group}


def _taken(free: list[int], sizes: list[int], missing: int, spare: int) -> list[int]:
    """At most `spare` of the `free` groups that bring `missing` examples: by hash while they fit, then the smallest."""
    taken: list[int] = []
    for index in free:
        if sizes[index] <= missing and len(taken) < spare:
            taken.append(index)
            missing -= sizes[index]
    rest = [index for index in free if index not in taken]
    if missing > 0 and len(taken) < spare:
        taken.append(min(rest, key=lambda index: sizes[index]))
    return taken


def _groups(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples tied by conversation or by an exact duplicate."""
    parent = {example.id: example.id for example in examples}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    sessions: dict[str, str] = {}
    for example in examples:
        parent[root(example.id)] = root(sessions.setdefault(example.session, example.id))
    for names in clusters(examples).values():
        for name in names[1:]:
            parent[root(name)] = root(names[0])
    found: dict[str, list[Example]] = {}
    for example in examples:
        found.setdefault(root(example.id), []).append(example)
    return list(found.values())


def _known(group: list[Example]) -> Split | None:
    sides = {example.split for example in group}
    return next((side for side in SIDES if side in sides), None)


def _mark(group: list[Example]) -> bytes:
    """Decides by hash, and by the sessions alone: neither ratings nor the order of harvests move a group."""
    first = min(example.session for example in group)
    return hashlib.sha256(f"split:{first}".encode()).digest()
