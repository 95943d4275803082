"""How alike texts are, and which of many are worth comparing at all.

Likeness is RapidFuzz's `fuzz.ratio` of the folded texts, 0 to 100. Nobody can compare all with all: those are compared
whose sketches share something, and short texts, whose sketches say little, with those of about their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz, process
from rapidfuzz.distance import Indel

from .sketch import EMPTY, SIZE, Letters, Numbers, fold, letters, sketches

__all__ = ["FLOOR", "LONG", "Mask", "Pairs", "candidates", "near_pairs", "ratio", "short_candidates"]

#: Rows of two positions, the smaller first.
Pairs = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Less alike than this is not looked for: below it, the sketches of edited copies may share nothing.
FLOOR: Final = 80

#: Characters from which a text has a sketch that tells; the ones up to SHORT are compared with all of their length.
LONG: Final = 48
SHORT: Final = 80  # LONG, and as much longer as a copy that is alike by FLOOR may be

#: A run that stands in more texts than this is everybody's phrase: each of them then meets only its neighbours in the
#: order of the sketches, so that boilerplate costs linear time and a large cluster still holds together.
CROWD: Final = 100
NEIGHBOURS: Final = 6

#: Shared hashes that make two texts candidates; one is enough where both are about a screen's line.
SHARED: Final = 2
LITTLE: Final = 240

#: Pairs that are counted at once, so that memory stays bounded whatever the texts share: 8 bytes each, a few times.
AT_ONCE: Final = 4_000_000

#: Short texts up to this many are compared with all of their length, exactly; more of them by sketches of short runs.
BRUTE: Final = 10_000
SHORT_RUN: Final = 4

#: Characters up to which `fuzz.ratio` is quick (1 ms); beyond, words are aligned first and letters only where these
#: differ. Beyond ENDLESS, texts are the same or are not: the alignment takes a bit for each two words, 100 MB then.
QUICK: Final = 8_000
ENDLESS: Final = 200_000
ENDLESS_WORDS: Final = 30_000


def ratio(one: str, other: str, floor: float = FLOOR) -> float:
    """How alike two folded texts are, 0 to 100; 0 for less than `floor`. At most about 0.2 s, 1 ms for usual texts."""
    longest = max(len(one), len(other))
    if longest <= QUICK:
        return float(fuzz.ratio(one, other, score_cutoff=floor))
    if one == other:
        return 100.0
    if longest > ENDLESS or min(len(one), len(other)) < _length_ratio(floor) * longest:
        return 0.0
    return _long_ratio(one, other, floor)


def candidates(
    rows: Numbers, counts: Letters, lengths: npt.NDArray[np.uint32], fresh: Mask, floor: float = FLOOR
) -> Iterator[Pairs]:
    """Pairs of texts that may be alike, at least one of them `fresh`, in several arrays without repeats.

    `rows` are their sketches, `counts` their letters, `lengths` are in characters.
    """
    values, where = _buckets(rows, fresh)
    ahead = _ahead(values)
    rounds = 1 + int(ahead.sum(dtype=np.int64)) // AT_ONCE
    for turn in range(rounds):
        met = _met(where, ahead, fresh, lengths, _length_ratio(floor), (turn, rounds))
        found, shared = np.unique(met, return_counts=True)
        pairs = np.stack(np.divmod(found, len(rows)), axis=1)
        pairs = pairs[(shared >= SHARED) | (lengths[pairs].max(axis=1) <= LITTLE)]
        yield pairs[_may_be_alike(pairs, counts, lengths, floor)]


def short_candidates(texts: Sequence[str], fresh: Mask, floor: float = FLOOR) -> Iterator[Pairs]:
    """The same for short folded texts, without sketches: all pairs that are alike by at least `floor`."""
    if len(texts) > BRUTE:
        lengths = np.array([len(text) for text in texts], dtype=np.uint32)
        padded = [f"\0\0\0{text}\0\0\0" for text in texts]
        yield from candidates(sketches(padded, SHORT_RUN), letters(texts), lengths, fresh, floor)
        return
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    ordered = [texts[index] for index in order]
    sizes = np.array([len(text) for text in ordered])
    back = np.array(order, dtype=np.int64)
    isnew = fresh[back] if len(texts) else fresh
    for start in range(0, len(texts), 256):
        rows = ordered[start : start + 256]
        end = int(np.searchsorted(sizes, sizes[start + len(rows) - 1] / _length_ratio(floor), side="right"))
        new = isnew[start : start + len(rows)]
        # An old text is compared with new ones only: few, most of the time.
        for own, others in ((new, np.arange(start, end)), (~new, start + np.flatnonzero(isnew[start:end]))):
            if own.any() and len(others):
                yield _compared(rows, np.flatnonzero(own), start, ordered, others, back, floor)


def near_pairs(
    texts: Sequence[str], floor: float = FLOOR, tell: Callable[[int, int], None] | None = None
) -> list[tuple[int, int, float]]:
    """Which of `texts` are alike by at least `floor`, as positions and ratio.

    Of texts that are equal when folded, all but the first appear only beside the first, with 100.
    """
    folded = [fold(text) for text in texts]
    first: dict[str, int] = {}
    found = [
        (head, index, 100.0) for index, text in enumerate(folded) if (head := first.setdefault(text, index)) != index
    ]
    heads = list(first.values())
    lengths = np.array([len(folded[head]) for head in heads], dtype=np.uint32)
    everything = np.ones(len(heads), dtype=np.bool_)
    long, short = np.flatnonzero(lengths >= LONG), np.flatnonzero(lengths < SHORT)
    told, brief = [folded[heads[index]] for index in long], [folded[heads[index]] for index in short]
    ways = (
        (long, candidates(sketches(told), letters(told), lengths[long], everything[long], floor)),
        (short, short_candidates(brief, everything[short], floor)),
    )
    for members, pairs in ways:
        for some in pairs:
            for one, other in members[some].tolist():
                if members is short and lengths[one] >= LONG and lengths[other] >= LONG:
                    continue  # found by their sketches
                likeness = ratio(folded[heads[one]], folded[heads[other]], floor)
                if likeness:
                    found.append((heads[one], heads[other], likeness))
    return found


def _buckets(rows: Numbers, fresh: Mask) -> tuple[Numbers, Pairs]:
    """All hashes in order, with the row of each; where hashes are equal, rows with like sketches stand together."""
    rank = np.empty(len(rows), dtype=np.int64)
    rank[np.lexsort(rows.T[::-1])] = np.arange(len(rows))
    values = rows.ravel()
    where = np.repeat(np.arange(len(rows), dtype=np.int64), SIZE)
    keep = values != EMPTY
    if not fresh.all():
        keep &= np.isin(values, np.unique(rows[fresh]))
    values, where = values[keep], where[keep]
    order = np.lexsort((rank[where], values))
    return values[order], where[order]


def _ahead(values: Numbers) -> npt.NDArray[np.int64]:
    """With how many of those behind it each hash is compared."""
    edges = np.flatnonzero(np.diff(values)) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(values)]])
    sizes = ends - starts
    behind = np.repeat(ends, sizes) - 1 - np.arange(len(values))
    return np.where(np.repeat(sizes, sizes) > CROWD, np.minimum(behind, NEIGHBOURS), behind)


def _met(
    where: Pairs,
    ahead: npt.NDArray[np.int64],
    fresh: Mask,
    lengths: npt.NDArray[np.uint32],
    shortest: float,
    part: tuple[int, int],
) -> npt.NDArray[np.int64]:
    """Every meeting of two rows of about one length, as one number; of all meetings, one `part` of so many."""
    met = [np.empty(0, dtype=np.int64)]
    here = np.flatnonzero(ahead >= 1)
    step = 1
    while len(here):
        one, other = where[here], where[here + step]
        keep = np.minimum(lengths[one], lengths[other]) >= shortest * np.maximum(lengths[one], lengths[other])
        if not fresh.all():
            keep &= fresh[one] | fresh[other]
        if part[1] > 1:
            keep &= (one + other) % part[1] == part[0]
        one, other = one[keep], other[keep]
        met.append(np.minimum(one, other) * len(fresh) + np.maximum(one, other))
        step += 1
        here = here[ahead[here] >= step]
    return np.concatenate(met)


def _may_be_alike(pairs: Pairs, counts: Letters, lengths: npt.NDArray[np.uint32], floor: float) -> Mask:
    """Where not even the letters, in whatever order, are too different."""
    keep = np.zeros(len(pairs), dtype=np.bool_)
    for start in range(0, len(pairs), 100_000):
        one, other = pairs[start : start + 100_000].T
        apart = np.abs(counts[one].astype(np.int16) - counts[other]).sum(axis=1)
        keep[start : start + len(one)] = apart <= (1 - floor / 100) * (lengths[one] + lengths[other])
    return keep


def _compared(
    rows: Sequence[str], own: Pairs, start: int, ordered: Sequence[str], others: Pairs, back: Pairs, floor: float
) -> Pairs:
    scores = process.cdist(
        [rows[index] for index in own],
        [ordered[index] for index in others],
        scorer=fuzz.ratio,
        score_cutoff=floor,
        dtype=np.uint8,
    )
    # Ten thousand that differ in a word would be fifty million pairs: of a crowd, each meets those most like it.
    for row in np.flatnonzero((scores > 0).sum(axis=1) > CROWD):
        scores[row, np.argsort(scores[row], kind="stable")[:-CROWD]] = 0
    one, other = np.nonzero(scores)
    one, other = own[one] + start, others[other]
    keep = one < other
    pairs = np.stack([back[one[keep]], back[other[keep]]], axis=1)
    pairs.sort(axis=1)
    return pairs


def _length_ratio(floor: float) -> float:
    """How long the shorter of two texts is at least, as a part of the longer, where they are alike by `floor`."""
    return floor / (200 - floor)


def _long_ratio(one: str, other: str, floor: float) -> float:
    """Words in common are found first; letters are compared only between them. Never more than `fuzz.ratio` says."""
    words, others = [f"{word} " for word in one.split(" ")], [f"{word} " for word in other.split(" ")]
    if max(len(words), len(others)) > ENDLESS_WORDS:
        return 0.0
    total = len(one) + len(other)
    allowed = (1 - floor / 100) * total
    distance = 0
    gap: tuple[list[str], list[str]] = ([], [])
    for step in [*Indel.opcodes(words, others), None]:
        if step is not None and step.tag != "equal":
            gap[0].extend(words[step.src_start : step.src_end])
            gap[1].extend(others[step.dest_start : step.dest_end])
        elif any(gap):
            distance += Indel.distance("".join(gap[0]), "".join(gap[1]))
            if distance > allowed:
                return 0.0
            gap = ([], [])
    return 100 * (1 - distance / total)
