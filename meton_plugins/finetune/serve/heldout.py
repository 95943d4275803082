"""What two models are judged by: held-out answers on which no ancestor of either was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..curate.manifest import FILES, Row
from ..curate.rows import example_of
from ..engine.jobs import Loss
from ..train.lineage import learned, mark, of_examples, session_mark
from ..train.runs import Run
from .contender import Chat

__all__ = ["by_example", "heldout"]


def heldout(runs: Sequence[Run]) -> list[Chat]:
    """The held-out side of the dataset of the first of `runs`, less all that one of them, or a run before it, learned.

    The split is for life, so nothing should have to go; a dataset that was made elsewhere may not have kept to it.
    """
    known = [learned(run) for run in runs]
    examples = {one for each in known for one in each.examples}
    sessions = {one for each in known for one in each.sessions}
    path = runs[0].folder / "dataset" / FILES["heldout"]
    lines = path.read_bytes().splitlines() if path.is_file() else []
    kept = [
        row
        for rows in of_examples([Row.model_validate_json(line) for line in lines]).values()
        for row in rows
        if mark(rows) not in examples and session_mark(row.session) not in sessions
    ]
    return [(row.id, [message.model_dump() for message in row.messages]) for row in kept]


def by_example(losses: Mapping[str, Loss]) -> dict[str, Loss]:
    """The losses of an example's rows as one: they are not independent of each other."""
    found: dict[str, Loss] = {}
    for name, loss in losses.items():
        before = found.get(example_of(name), Loss(0.0, 0))
        found[example_of(name)] = before.plus(loss)
    return found
