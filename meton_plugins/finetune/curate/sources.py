"""Where the examples of a dataset come from, and how often each is to be seen in training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import NotFound
from ..library import Example

__all__ = ["LIBRARY", "Source", "check_sources", "source_of", "times"]

#: The source that every example belongs to.
LIBRARY: Final = "library"


@dataclass(frozen=True)
class Source:
    """A part of the library: what was imported under `label`, or the examples `ids`; `weight` is rows an example."""

    label: str
    weight: float = 1.0
    ids: frozenset[str] | None = None

    def holds(self, example: Example) -> bool:
        """Whether `example` comes from here."""
        if self.ids is not None:
            return example.id in self.ids
        return self.label in (LIBRARY, example.source)


def check_sources(sources: Sequence[Source], examples: Sequence[Example]) -> None:
    """NotFound where one of `sources` names what was never imported."""
    known = {example.source for example in examples}
    for source in sources:
        if source.ids is None and source.label != LIBRARY and source.label not in known:
            there = ", ".join(sorted(known | {LIBRARY}))
            raise NotFound(
                f"There is no source {source.label[:80]!r}: it is no file, and the library has only {there}."
            )


def source_of(example: Example, sources: Sequence[Source]) -> Source | None:
    """The first of `sources` that `example` comes from."""
    return next((source for source in sources if source.holds(example)), None)


def times(example: Example, weight: float) -> int:
    """How many rows an example gives at `weight`; what is left of a fraction is decided by hash, always alike."""
    whole = int(weight)
    number = int.from_bytes(hashlib.sha256(f"weight:{example.id}".encode()).digest()[:8], "big")
    return whole + (number < (weight - whole) * 2**64)
