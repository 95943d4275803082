"""Turns without their secrets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ..turn import Turn

__all__ = ["Scrub", "scrubbed"]

#: Takes the texts of one conversation, gives them back without secrets, and counts what it found by kind.
Scrub = Callable[[Sequence[str]], tuple[list[str], dict[str, int]]]


def scrubbed(turns: list[Turn], scrub: Scrub, secrets: Counter[str]) -> list[Turn]:
    """The turns of one conversation without secrets; the same secret has one placeholder in all of them."""
    # Each text once: context repeats the turns before it, and counts must not grow with it.
    texts = list(dict.fromkeys(text for turn in turns for text in turn.texts()))
    cleaned, counts = scrub(texts)
    secrets.update(counts)
    replaced = dict(zip(texts, cleaned, strict=True))
    return [turn.with_texts([replaced[text] for text in turn.texts()]) for turn in turns]
