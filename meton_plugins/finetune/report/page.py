"""A run as one HTML page that needs nothing else: no network, no other file, and no JavaScript to be read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..curate.manifest import Manifest, read_manifest
from ..errors import FinetuneError
from ..train.lineage import lineage
from ..train.notes import notes
from ..train.runs import Run
from ..units import duration, memory
from ..visible import visible
from .answers import Answer
from .course import Course
from .drawing import Drawing, draw
from .foreseen import foreseen
from .telling import clock, told

__all__ = ["Finding", "build"]

HERE: Final = Path(__file__).parent
#: More events than this are read by nobody; `/finetune logs` has all.
EVENTS: Final = 200
#: More left-out examples than this are read by nobody.
LEFT_OUT: Final = 100


class Finding(Protocol):
    """Something that stands out in the numbers of a run, in sentences."""

    @property
    def problem(self) -> str: ...
    @property
    def evidence(self) -> str: ...
    @property
    def advice(self) -> str: ...


def build(run: Run, findings: Sequence[Finding] = (), answers: Sequence[Answer] = ()) -> str:
    """The page of `run` as it stands now."""
    record, state, course = run.record, run.state, Course.of(run.folder)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    left_out = [one for event in course.others if event["event"] == "rows" for one in event.get("skipped", ())]
    return _environment().get_template("page.html.j2").render(
        run=run, record=record, state=state, status=run.status,
        base=record.base.name or Path(record.base.path).name,
        headline=_headline(run),
        charts=_charts(course, max([state.steps, *course.steps, *course.validations]), state.best_step),
        findings=findings, answers=answers,
        manifest=_manifest(run),
        left_out=left_out[:LEFT_OUT], more_left_out=max(0, len(left_out) - LEFT_OUT),
        settings=record.settings.model_dump(mode="json"),
        described={name: field.description for name, field in type(record.settings).model_fields.items()},
        foreseen=foreseen(record, state), ancestors=lineage(run), notes=notes(run),
        events=[(clock(event), event["event"], told(event)) for event in _events(course)],
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")), script=Markup(script), digest=digest,
    )  # fmt: skip


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters["duration"] = duration
    made.filters["memory"] = memory
    made.filters["setting"] = _setting
    return made


def _shown(value: Any) -> Any:
    """Every value on its way into the page: nothing in it may turn what follows, or end the file's encoding."""
    if isinstance(value, Markup):
        return value
    return visible(value.replace("\r\n", "\n")) if isinstance(value, str) else value


def _charts(course: Course, steps: int, best: int | None) -> dict[str, Drawing | None]:
    return {
        "loss": draw("Loss", course.points(), course.validated, best, steps=steps),
        "rate": draw("Learning rate", course.points("rate"), steps=steps, smooth=False, height=3),
        "norm": draw("Length of the gradient", course.points("norm"), steps=steps, height=3),
    }


def _headline(run: Run) -> str:
    """What came of it, in a sentence."""
    state, status = run.state, run.status
    if status == "failed":
        return f"The run failed: {state.error or 'see its log'}"
    if state.base_loss is None or state.best_loss is None:
        return "Nothing was validated, so no number says whether it answers better than its base."
    change = state.best_loss / state.base_loss - 1
    if change >= 0:
        return (
            f"On answers it was never trained on, its loss did not fall: {state.base_loss:.3f} before, "
            f"{state.best_loss:.3f} at best."
        )
    return (
        f"On answers it was never trained on, its loss fell from {state.base_loss:.3f} to {state.best_loss:.3f} "
        f"(−{-change:.0%}), at step {state.best_step}."
    )


def _manifest(run: Run) -> Manifest | None:
    try:
        return read_manifest(run.folder / "dataset")
    except FinetuneError:
        return None


def _events(course: Course) -> list[dict[str, Any]]:
    """Of the checkpoints the last alone."""
    saved = [event for event in course.others if event["event"] == "checkpoint"]
    return [event for event in course.others if event["event"] != "checkpoint" or event is saved[-1]][-EVENTS:]


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "·" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
