"""What `/finetune watch` shows: the run's losses as a curve, its speed and memory, what happened last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .lettering import ascii_only, cell, fitting
from .progress import duration, memory, share_done, trend

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from ...host.api import Host
    from ..report.course import Course
    from ..report.curve import Span
    from ..train.record import State
    from ..train.runs import Run

__all__ = ["as_texts", "drawn", "legend", "view"]

#: A wider or higher curve tells no more, and is not calm.
WIDEST, HIGHEST = 110, 20
#: A lower curve tells nothing.
LOWEST: Final = 6
#: Lines that are always there, blank ones among them.
FIXED: Final = 8
#: Last events, where there is room for them.
EVENTS: Final = 4
#: More points of a course than this are not told apart in a terminal, and take long to draw.
MOST: Final = 2000
RAW, SMOOTH, MARKS = "bright_black", "cyan", "yellow"


def view(host: Host, run: Run, course: Course, hint: str) -> Group:
    """The run as it is now, in what room the terminal has."""
    from rich.console import Group

    width, height = min(host.console.width, WIDEST), host.console.height
    state, status = run.state, run.status
    events = EVENTS if height >= FIXED + EVENTS + LOWEST else 2
    lines: list[Text] = [_head(host, run, state, status, width), _bar(host, state, width)]
    curve = drawn(host, course, state.steps, width, min(HIGHEST, height - FIXED - events))
    if curve:
        lines += [_line(""), *curve]
    lines += [_line(""), legend(host, course, state)] if course.steps or course.validations else []
    lines += [_facts(host, run, state, status), _line("")]
    lines += _last(host, course, events)
    lines += [_line(fitting(host, hint), "dim")]
    for line in lines:
        line.truncate(width, overflow="crop" if ascii_only(host) else "ellipsis")
    return Group(*lines[: height - 1], lines[-1]) if len(lines) > height else Group(*lines)


def drawn(host: Host, course: Course, steps: int, width: int, height: int) -> list[Text]:
    """Raw losses, faint; their even course; validations as marks. Empty where there is no room."""
    from ..report.curve import Series, chart
    from ..report.scale import pooled, smoothed

    if height < LOWEST:
        return []
    points = course.points()
    last = max([steps, *course.steps, *course.validations])
    some = points[:: 1 + len(points) // MOST]
    series = (
        Series(some if len(points) > 1 else (), "faint", RAW),
        Series(smoothed(pooled(points, MOST)), "line", SMOOTH),
        Series(course.validated, "mark", MARKS),
    )
    return as_texts(chart(series, width, height, last, ascii_only=ascii_only(host)))


def as_texts(lines: list[list[Span]]) -> list[Text]:
    """Drawn lines for the terminal."""
    from rich.text import Text

    return [Text.assemble(*line, no_wrap=True) for line in lines]


def legend(host: Host, course: Course, state: State) -> Text:
    """What the marks are, and where each stands now."""
    from rich.text import Text

    parts: list[tuple[str, str]] = []
    if course.steps:
        loss = "" if state.loss is None else f" {state.loss:.3f} {trend(state)}".rstrip()
        parts += [(fitting(host, "━"), SMOOTH), (f" loss{fitting(host, loss)}   ", "")]
    validated = course.validated
    if validated:
        parts += [(fitting(host, "●"), MARKS), (f" validation {validated[-1][1]:.3f}", "")]
        first = next((loss for step, loss in validated if step == 0), None)
        if len(validated) > 1 and first is not None:
            parts.append((f"  before {first:.3f}", "dim"))
        if state.best_loss is not None:
            parts.append((f"  best {state.best_loss:.3f} at step {state.best_step}", "dim"))
    return Text.assemble(*parts, no_wrap=True)


def _head(host: Host, run: Run, state: State, status: str, width: int) -> Text:
    from rich.text import Text

    where = f"epoch {state.epoch}/{state.epochs}  step {state.step}/{state.steps}" if state.steps else ""
    name = cell(host, run.name, "bold")
    room = width - len(name) - len(status) - 2
    return Text.assemble(name, f"  {status}", where.rjust(room) if len(where) + 2 <= room else "", no_wrap=True)


def _bar(host: Host, state: State, width: int) -> Text:
    from rich.text import Text

    part = share_done(state)
    left = f"{duration(state.seconds_left)} left" if state.seconds_left is not None else ""
    said = f"  {part:4.0%}" + (f"  {left}" if left else "")
    room = width - len(said)
    if room < 10:
        return _line(said.strip())
    full = round(part * room)
    done, todo = ("=", ".") if ascii_only(host) else ("━", "─")
    return Text.assemble((done * full, SMOOTH), (todo * (room - full), RAW), said, no_wrap=True)


def _facts(host: Host, run: Run, state: State, status: str) -> Text:
    from ..report.foreseen import foreseen

    parts = [f"{state.tokens_per_s:,.0f} tokens/s"] if state.tokens_per_s else []
    if state.peak_rss_mb:
        planned = next((each.planned for each in foreseen(run.record, state) if each.what == "peak memory"), None)
        said = f"{memory(state.peak_rss_mb)} at most"
        parts.append(said if planned is None else f"{said} ({memory(planned)} foreseen)")
    parts += [f"trained {duration(state.trained_seconds)}"] if state.trained_seconds else []
    nothing = "waits for its turn" if status == "queued" else "the base is being loaded"
    return _line(fitting(host, "  ·  ".join(parts) or nothing))


def _last(host: Host, course: Course, number: int) -> list[Text]:
    """What happened last in plain words; of checkpoints the newest."""
    from rich.text import Text

    from ..report.telling import clock, told

    found: list[Text] = []
    saved = False
    for event in reversed(course.others):
        kind = str(event["event"])
        if len(found) == number or (kind == "checkpoint" and saved):
            continue
        saved = saved or kind == "checkpoint"
        found.append(Text.assemble((f"{clock(event)}  {kind:<10}  ", "dim"), cell(host, told(event)), no_wrap=True))
    return found[::-1]


def _line(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style, no_wrap=True)
