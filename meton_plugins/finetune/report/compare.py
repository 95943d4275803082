"""Two runs side by side: the settings that differ, the results, and the courses of their losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .course import Course, Point
from .scale import thinned

if TYPE_CHECKING:
    from ..train.runs import Run

__all__ = ["Comparison", "compare"]

#: Points of each curve for machines: as many as anybody draws.
POINTS: Final = 500


@dataclass(frozen=True)
class Comparison:
    """`differ` and `results`: what, then the value of each run. `losses`: epoch, then validation loss of each run.

    `curves`: of each run the losses and the validation losses, over what `unit` counts: steps, or examples where a step
    of one run has more of them than one of the other. `warning` says why the losses cannot be compared, where they
    cannot.
    """

    names: tuple[str, str]
    differ: list[tuple[str, Any, Any]]
    results: list[tuple[str, Any, Any]]
    losses: list[tuple[int, float | None, float | None]]
    curves: tuple[tuple[list[Point], list[Point]], tuple[list[Point], list[Point]]]
    unit: str
    better: str | None
    warning: str | None

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        drawn = [
            {"run": name, "loss": thinned(losses, POINTS), "validation": validated}
            for name, (losses, validated) in zip(self.names, self.curves, strict=True)
        ]
        return {
            "runs": self.names,
            "differ": {what: [a, b] for what, a, b in self.differ},
            "results": {what: [a, b] for what, a, b in self.results},
            "losses": [{"epoch": epoch, "validation": [a, b]} for epoch, a, b in self.losses],
            "curves": {"over": self.unit, "runs": drawn},
            "better": self.better,
            "warning": self.warning,
        }


def compare(first: Run, second: Run) -> Comparison:
    """What differs between two runs; better is the one with the lower validation loss, on the same validation side."""
    a, b = _made_of(first), _made_of(second)
    one, two = first.state, second.state
    results = [
        ("status", first.status, second.status),
        ("steps", one.step, two.step),
        ("base's validation loss", one.base_loss, two.base_loss),
        ("best validation loss", one.best_loss, two.best_loss),
        ("base's loss of the form", one.base_form_loss, two.base_form_loss),
        ("best adapter's loss of the form", one.best_form_loss, two.best_form_loss),
        ("trained, s", round(one.trained_seconds, 1), round(two.trained_seconds, 1)),
        ("tokens/s", one.tokens_per_s, two.tokens_per_s),
        ("peak memory, MB", one.peak_rss_mb, two.peak_rss_mb),
    ]
    warning = None
    if a["base"] != b["base"] or a["dataset"] != b["dataset"]:
        other = "bases" if a["base"] != b["base"] else "datasets"
        warning = f"The losses are of different {other}, so they say nothing about which run is better."
    elif first.record.loss_counts != second.record.loss_counts:
        older = first.name if first.record.loss_counts == "all" else second.name
        warning = (
            f"The validation loss of {older}, which an older version began, counts Meton's form too, and the other's "
            "does not, so the losses say nothing about which run is better."
        )
    better = None
    if warning is None and one.best_loss is not None and two.best_loss is not None and one.best_loss != two.best_loss:
        better = first.name if one.best_loss < two.best_loss else second.name
    courses = Course.of(first.folder), Course.of(second.folder)
    losses_a, losses_b = (_by_epoch(course) for course in courses)
    epochs = sorted({*losses_a, *losses_b})
    sizes = a["batch_size"], b["batch_size"]
    even = sizes[0] == sizes[1]
    return Comparison(
        (first.name, second.name),
        [(what, a.get(what), b.get(what)) for what in dict.fromkeys([*a, *b]) if a.get(what) != b.get(what)],
        [row for row in results if row[1:] != (None, None)],
        [(epoch, losses_a.get(epoch), losses_b.get(epoch)) for epoch in epochs],
        (_curves(courses[0], 1 if even else sizes[0]), _curves(courses[1], 1 if even else sizes[1])),
        "steps" if even else "examples",
        better,
        warning,
    )


def _made_of(run: Run) -> dict[str, Any]:
    record = run.record
    base = f"{record.base.name or Path(record.base.path).name} {record.base.sha256[:8]}"
    settings = record.settings.model_dump(mode="json")
    return {"base": base, "dataset": record.dataset, "template": record.template, "parent": record.parent, **settings}


def _by_epoch(course: Course) -> dict[int, float]:
    """Validation loss after each epoch; 0 is the base."""
    return {each.epoch: each.loss for _, each in sorted(course.validations.items())}


def _curves(course: Course, size: int) -> tuple[list[Point], list[Point]]:
    losses, validated = (
        [(step * size, loss) for step, loss in points] for points in (course.points(), course.validated)
    )
    return losses, validated
