"""No tag over-represented: the best rated of each, and by hash among equals, so that the choice is always the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from ..library import Example

__all__ = ["balanced"]


def balanced(examples: Sequence[Example], share: float) -> tuple[list[Example], Counter[str]]:
    """As many of `examples` as leave no tag more than `share` of them, and how many were left out, by reason.

    Where that cannot be reached (two tags cannot both have less than half), the evenest that can. Tags that all have
    say nothing and do not count; neither do examples without one, but they make the whole larger.
    """
    counts = Counter(tag for example in examples for tag in example.tags)
    counted = {tag for tag, number in counts.items() if number < len(examples)}
    order = sorted(examples, key=_rank)
    best = (1.1, 0)
    limit = max((counts[tag] for tag in counted), default=0)
    while limit > 0:
        kept, most = _largest(order, counted, limit)
        part = most / kept if kept else 1.0
        if part <= share:
            best = (part, limit)
            break
        if part < best[0]:
            best = (part, limit)
        # No limit between this and the next can bring the share; the size of a tag may still be the evenest.
        smaller = max((counts[tag] for tag in counted if counts[tag] < limit), default=0)
        limit = max(min(limit - 1, int(share * kept)), min(limit - 1, smaller))
    if not best[1]:
        return list(examples), Counter()
    chosen, left = _chosen(order, counted, best[1])
    return [example for example in examples if example.id in chosen], left


def _largest(order: Sequence[Example], counted: set[str], limit: int) -> tuple[int, int]:
    """How many examples are left at `limit` of each tag, and how many the commonest tag has of them."""
    chosen, _ = _chosen(order, counted, limit)
    have = Counter(tag for example in order if example.id in chosen for tag in example.tags if tag in counted)
    return len(chosen), max(have.values(), default=0)


def _chosen(order: Sequence[Example], counted: set[str], limit: int) -> tuple[set[str], Counter[str]]:
    have: Counter[str] = Counter()
    left: Counter[str] = Counter()
    chosen: set[str] = set()
    for example in order:
        tags = counted.intersection(example.tags)
        full = [tag for tag in sorted(tags) if have[tag] >= limit]
        if full:
            left[f"more of the tag {full[0]}"] += 1
            continue
        have.update(tags)
        chosen.add(example.id)
    return chosen, left


def _rank(example: Example) -> tuple[int, bytes]:
    return -(example.score or 0), hashlib.sha256(f"balance:{example.id}".encode()).digest()
