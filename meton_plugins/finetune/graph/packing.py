"""Which rows go through in one pass: short ones together, so that a weight is unpacked once for all of them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["packed"]


def packed(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Groups of the rows of these lengths, by their places, each of at most `most` tokens: first fit, longest first."""
    groups: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        length = lengths[place]
        found = next((number for number, left in enumerate(room) if left >= length), None)
        if found is None:
            groups.append([place])
            room.append(most - length)
        else:
            groups[found].append(place)
            room[found] -= length
    return groups
