"""Which rows of a dataset a run learns that goes on from another: what is new, and some of what is old."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from ..curate.dataset import Dataset
from ..curate.manifest import FILES, FileEntry, Manifest, Row, Stage
from ..curate.rows import PLAIN, example_of
from ..errors import DataError
from ..library.records import Split
from .lineage import Learned, mark, of_examples, session_mark

__all__ = ["REPLAY", "Chosen", "Replay", "choose"]

#: Beside the files of the run's own copy of its dataset.
REPLAY: Final = "replay.json"

#: The sides that judge a run.
JUDGING: Final[tuple[Split, ...]] = ("validation", "heldout")


class Replay(BaseModel):
    """How a dataset was made to fit a run that goes on from `parent`, in examples.

    `new`: neither it nor a run before it was trained on them. Of the `old` ones `again` come again; `ratio` is old for
    each new, or None for the whole dataset. `unfit`: examples that judged, and that one of those runs was trained on.
    """

    parent: str
    ratio: float | None
    new: int
    old: int
    again: int
    unfit: int = 0


@dataclass(frozen=True)
class Chosen:
    """A dataset as a run will have it. `files`: the content of those that differ from the frozen ones, by name.

    `replay` is None for a run that begins with a fresh adapter.
    """

    dataset: Dataset
    replay: Replay | None
    files: dict[str, bytes]


def choose(frozen: Dataset, known: Learned, ratio: float | None, seed: int) -> Chosen:
    """Of `frozen`, the new examples and `ratio` old ones for each, or all for None; which ones is decided by `seed`.

    What a run before this one was trained on never judges it, also where the split has put it on another side since.
    DataError where nothing is new, and a ratio was asked.
    """
    parent = known.runs[0].name
    marks = set(known.examples)
    examples = of_examples(frozen.train)
    old = [name for name, rows in examples.items() if mark(rows) in marks]
    new = len(examples) - len(old)
    again = set(old)
    if ratio is not None:
        if not new:
            raise DataError(
                f"All {len(old)} examples to train on in the dataset {frozen.id} are known to {parent}: rate more "
                "answers and build again, or leave out --replay to go through all of them once more."
            )
        ordered = sorted(old, key=lambda name: hashlib.sha256(f"replay:{seed}:{name}".encode()).digest())
        again = set(ordered[: math.floor(ratio * new + 0.5)])
    left_out = set(old) - again
    sides: dict[Split, list[Row]] = {"train": [row for row in frozen.train if example_of(row.id) not in left_out]}
    sessions = set(known.sessions)
    for side in JUDGING:
        rows: list[Row] = getattr(frozen, side)
        sides[side] = [row for row in rows if session_mark(row.session) not in sessions]
    unfit = sum(len(of_examples(getattr(frozen, side))) - len(of_examples(sides[side])) for side in JUDGING)
    replay = Replay(parent=parent, ratio=ratio, new=new, old=len(old), again=len(again), unfit=unfit)
    files = dict(_changed(frozen, sides))
    manifest = _manifest(frozen.manifest, sides, files, replay)
    left = Dataset(frozen.path, manifest, sides["train"], sides["validation"], sides["heldout"])
    return Chosen(left, replay, files)


def _changed(frozen: Dataset, sides: dict[Split, list[Row]]) -> Iterator[tuple[str, bytes]]:
    """The files of which something is left out; what stays is as it was frozen, byte by byte."""
    for side, rows in sides.items():
        if len(rows) < len(getattr(frozen, side)):
            keep = {example_of(row.id) for row in rows}
            lines = (frozen.path / FILES[side]).read_bytes().split(b"\n")
            yield FILES[side], b"".join(line + b"\n" for line in lines if line and _named(line) in keep)


def _manifest(before: Manifest, sides: dict[Split, list[Row]], files: dict[str, bytes], replay: Replay) -> Manifest:
    """The manifest of what is left. Its id stays: it says which dataset this was."""
    if not files:
        return before
    entries = {
        name: FileEntry(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw), lines=raw.count(b"\n"))
        for name, raw in files.items()
    }
    examples = {side: len(of_examples(rows)) for side, rows in sides.items()}
    why = [f"{replay.old - replay.again} known to {replay.parent}"] if replay.again < replay.old else []
    why += [f"{replay.unfit} known to it that judged"] if replay.unfit else []
    stage = Stage(name="new or again", kept=sum(examples.values()), reason=", ".join(why))
    return before.model_copy(
        update={
            "files": {**before.files, **entries},
            "counts": {**before.counts, **{side: len(rows) for side, rows in sides.items()}},
            "examples": examples if before.examples else {},
            "sessions": {side: len({row.session for row in rows}) for side, rows in sides.items()},
            "plain": _plain(sides["train"]),
            "funnel": [*before.funnel, stage],
            # Tokens were counted over rows that are not there.
            "tokens": None,
        }
    )


def _plain(rows: Iterable[Row]) -> int:
    return sum(row.id.endswith(PLAIN) for row in rows)


def _named(line: bytes) -> str:
    return example_of(str(json.loads(line)["id"]))
