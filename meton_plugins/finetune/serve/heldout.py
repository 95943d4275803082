"""What two models are judged by: held-out answers on which no ancestor of either was trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..curate.manifest import FILES
from ..engine.jobs import Loss
from ..train.runs import Run
from .contender import Chat

__all__ = ["by_example", "heldout"]

#: Parts an example's id from the number of one of its model calls.
PART: Final = "#"


def heldout(run: Run, ancestors: Iterable[Run]) -> list[Chat]:
    """The held-out side of the dataset of `run`, less all that one of `ancestors` (and `run`) was trained on.

    The split is for life, so nothing should have to go; a dataset that was made elsewhere may not have kept to it.
    """
    seen: set[str] = set()
    for each in (run, *ancestors):
        for row in _rows(each.folder / "dataset" / FILES["train"]):
            seen |= {_example(row["id"]), _said(row["messages"])}
    rows = _rows(run.folder / "dataset" / FILES["heldout"])
    return [
        (row["id"], row["messages"])
        for row in rows
        if _example(row["id"]) not in seen and _said(row["messages"]) not in seen
    ]


def by_example(losses: Mapping[str, Loss]) -> dict[str, Loss]:
    """The losses of an example's rows as one: they are not independent of each other."""
    found: dict[str, Loss] = {}
    for name, loss in losses.items():
        before = found.get(_example(name), Loss(0.0, 0))
        found[_example(name)] = Loss(before.nats + loss.nats, before.tokens + loss.tokens)
    return found


def _example(row: str) -> str:
    return row.partition(PART)[0]


def _said(messages: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps([(message["role"], message["content"]) for message in messages])


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines()]
