"""When a training has had its best: the best of all, and patience that counts from the last that was really better."""

from __future__ import annotations

import pytest

from meton_plugins.finetune.engine.stopping import Standing

NAN = float("nan")


def told(losses: list[float], min_delta: float = 0.0) -> Standing:
    """The standing after validations at steps 1, 2, ..."""
    standing = Standing()
    for step, loss in enumerate(losses, 1):
        standing = standing.after(step, loss, min_delta)
    return standing


@pytest.mark.parametrize(
    ("losses", "min_delta", "best", "mark", "since"),
    [
        ([], 0.0, None, None, 0),
        ([2.0], 0.0, 1, 1, 0),
        ([2.0, 1.0, 1.5], 0.0, 2, 2, 1),
        ([2.0, 2.0, 2.0], 0.0, 1, 1, 2),
        ([2.0, 1.95, 1.93], 0.1, 3, 1, 2),  # lower is best, though too little to count
        ([2.0, 1.95, 1.89], 0.1, 3, 3, 0),  # together the small steps are enough
        ([2.0, 1.9], 0.125, 2, 1, 1),
        ([1.0, 0.875], 0.125, 2, 1, 1),  # more than min_delta, not as much
        ([2.0, NAN, 1.9, NAN], 0.0, 3, 3, 1),
        ([NAN, NAN], 0.0, None, None, 2),
        ([float("inf"), 3.0], 0.0, 2, 2, 0),
    ],
)
def test_the_best_and_the_mark(
    losses: list[float], min_delta: float, best: int | None, mark: int | None, since: int
) -> None:
    standing = told(losses, min_delta)
    assert (standing.best_step, standing.mark_step, standing.since) == (best, mark, since)
    assert standing.best_loss == (None if best is None else losses[best - 1])
    assert standing.mark_loss == (None if mark is None else losses[mark - 1])


@pytest.mark.parametrize(("patience", "tired"), [(0, False), (1, True), (2, True), (3, False)])
def test_patience(patience: int, tired: bool) -> None:
    assert told([2.0, 2.5, 2.5]).tired(patience) is tired
    assert not Standing().tired(patience)
