"""Courses and their charts: read as they come, drawn in any room, with round numbers beside them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from support.courses import add_event, drawn_run

from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.report.course import Course
from meton_plugins.finetune.report.curve import Series, chart
from meton_plugins.finetune.report.drawing import draw
from meton_plugins.finetune.report.scale import labels, pooled, smoothed, span, thinned, ticks
from meton_plugins.finetune.report.telling import told

FALLING = [(float(step), 3.0 * math.exp(-step / 100)) for step in range(1, 401)]


def text(lines: list[list[tuple[str, str]]]) -> list[str]:
    return ["".join(words for words, _ in line) for line in lines]


# What events say


def test_a_course_is_read_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = drawn_run(Home(home), steps=100, total=400, status="running")
    course = Course(run.folder)
    assert course.read()
    assert len(course.steps) == 100
    assert not course.read(), "nothing is new"
    taken: list[bytes] = []
    monkeypatch.setattr(course, "_take", taken.append)
    add_event(run.folder, event="paused", step=100)
    assert course.read()
    assert [json.loads(line)["event"] for line in taken] == ["paused"], "only what is new is read"


def test_half_a_line_waits_for_its_other_half(home: Path) -> None:
    run = drawn_run(Home(home), steps=3, total=9, status="running", validations=0)
    course = Course.of(run.folder)
    line = json.dumps({"event": "step", "step": 4, "loss": 0.5})
    with (run.folder / "events.jsonl").open("a") as file:
        file.write(line[:20])
        file.flush()
        assert not course.read()
        file.write(line[20:] + "\n")
    assert course.read()
    assert course.points()[-1] == (4, 0.5)
    assert course.points("norm")[-1][0] == 3, "what an event does not say is no point"


def test_a_step_that_was_repeated_counts_once(home: Path) -> None:
    run = drawn_run(Home(home), steps=10, total=20, status="running", validations=0)
    add_event(run.folder, event="resumed", step=8)
    for step in (9, 10):
        add_event(run.folder, event="step", step=step, loss=9.0)
    points = Course.of(run.folder).points()
    assert [step for step, _ in points] == list(range(1, 11))
    assert [loss for _, loss in points[-2:]] == [9.0, 9.0]


def test_damaged_lines_and_another_file_do_no_harm(home: Path) -> None:
    run = drawn_run(Home(home), steps=50, total=50)
    path = run.folder / "events.jsonl"
    course = Course.of(run.folder)
    before = course.points()
    with path.open("a") as file:
        file.write(
            '[1]\n{"event": "step"}\n{"event": "step", "step": 51, "loss": NaN}\nhalf\n{"event": "validation"}\n'
        )
    course.read()
    assert course.points() == before
    path.write_text('{"event": "step", "step": 1, "loss": 7.0}\n')
    assert course.read()
    assert course.points() == [(1, 7.0)], "a restored run begins anew"
    path.unlink()
    assert not course.read()


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"event": "begin", "steps": 1, "epochs": 3}, "1 step in 3 epochs"),
        ({"event": "validation", "step": 0, "epoch": 0, "loss": 3.2}, "loss 3.200 before training"),
        ({"event": "checkpoint", "step": 50, "path": "x"}, "saved at step 50"),
        ({"event": "resumed", "step": 50, "epoch": 1}, "goes on from step 50"),
        ({"event": "paused", "step": 50}, "at step 50, saved"),
        ({"event": "paused", "step": 50, "reason": "The disk is full."}, "at step 50, saved: The disk is full."),
        ({"event": "early", "step": 90, "message": "stopped early: none better"}, "stopped early: none better"),
        ({"event": "early", "step": 90}, "step 90"),
        ({"event": "restarted", "message": "The engine was\n killed."}, "The engine was killed."),
        ({"event": "note", "text": "Another machine: not bit by bit."}, "Another machine: not bit by bit."),
        ({"event": "finished", "step": 9, "best_loss": None, "best_step": None}, "at step 9"),
        ({"event": "new", "at": "x", "attempt": 2, "what": True, "much": 0.123456}, "what yes  much 0.1235"),
        ({"event": "validation", "step": None}, ""),
    ],
)
def test_events_in_plain_words(event: dict[str, object], words: str) -> None:
    assert told(event) == words


# Numbers


@pytest.mark.parametrize(
    ("low", "high", "most", "found"),
    [
        (0, 400, 6, ["0", "100", "200", "300", "400"]),
        (0, 400, 3, ["0", "200", "400"]),
        (0.42, 3.31, 4, ["1", "2", "3"]),
        (0.971, 1.032, 4, ["0.98", "1.00", "1.02"]),
        (0, 1e-4, 3, ["0", "5e-5", "1e-4"]),
        (0, 250_000, 4, ["0", "100k", "200k"]),
        (1, 1, 4, ["1"]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, found: list[str]) -> None:
    numbers = ticks(low, high, most)
    assert labels(numbers) == found
    assert len(numbers) <= most


@pytest.mark.parametrize("most", [4, 10, 999])
def test_a_thinned_course_keeps_its_extremes(most: int) -> None:
    points = [*FALLING[:200], (200.5, 99.0), *FALLING[200:300], (300.5, -99.0), *FALLING[300:]]
    kept = thinned(points, most)
    assert len(kept) <= most
    assert kept == sorted(kept)
    assert {points[0], points[-1]} <= set(kept)
    if most >= 10:
        assert {(200.5, 99.0), (300.5, -99.0)} <= set(kept)


def test_an_even_course_does_not_lag() -> None:
    noisy = [(x, y + (0.3 if x % 2 else -0.3)) for x, y in FALLING]
    even = smoothed(noisy)
    assert [x for x, _ in even] == [x for x, _ in FALLING]
    assert max(abs(a[1] - b[1]) for a, b in zip(even[20:], FALLING[20:], strict=True)) < 0.06
    assert smoothed([(1.0, 5.0)]) == [(1.0, 5.0)]
    assert smoothed([]) == []
    assert len(pooled(FALLING, 100)) == 100


def test_one_spike_flattens_nothing() -> None:
    low, high = span(smoothed(FALLING), [*FALLING, (401.0, 1e6)])
    assert high < 4
    assert low >= 0
    assert span([]) == (0.0, 1.0)
    low, high = span([(0, 2.0)])
    assert low < 2.0 < high


# Charts


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize(("width", "height"), [(16, 3), (40, 8), (80, 12), (110, 20)])
def test_a_chart_fits_its_room(width: int, height: int, ascii_only: bool) -> None:
    series = [Series(FALLING, "faint"), Series(FALLING, "line"), Series([(0, 3.0), (400, 0.1)], "mark")]
    lines = text(chart(series, width, height, 400, ascii_only=ascii_only))
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert all(line.isascii() for line in lines) == ascii_only
    assert "0" in lines[-1]


def test_a_falling_loss_falls() -> None:
    lines = text(chart([Series(FALLING, "line")], 60, 12, 400, ascii_only=True))
    drawn = [line.index("*") for line in lines[:-2] if "*" in line]
    assert drawn == sorted(drawn), "further down, further right"
    assert len(drawn) >= 9, "it uses all the room"
    assert lines[-1].split() == ["0", "100", "200", "300", "400"]


def test_marks_lie_on_top_and_have_their_place() -> None:
    lines = text(chart([Series(FALLING, "line"), Series([(0, 3.0), (200, 1.5), (400, 0.2)], "mark")], 60, 12, 400))
    assert sum(line.count("●") for line in lines) == 3
    assert "●" in lines[0]
    places = [line.index("●") for line in lines if "●" in line]
    assert places == sorted(places)


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)], [(5.0, 1e9), (400.0, -1e9)]])
def test_odd_courses_are_drawn_too(points: list[tuple[float, float]]) -> None:
    lines = chart([Series(points, "line")], 50, 10, 400)
    assert len(lines) == (10 if points else 0)
    drawing = draw("x", points, steps=400)
    assert (drawing is None) == (not points)


def test_no_room_no_chart() -> None:
    assert chart([Series(FALLING, "line")], 15, 10, 400) == []
    assert chart([Series(FALLING, "line")], 50, 2, 400) == []


def test_a_drawing_has_all_in_its_frame() -> None:
    drawing = draw("Loss", FALLING, [(0, 3.1), (400, 0.2)], 400, steps=400)
    assert drawing is not None
    pairs = [pair.split() for pair in drawing.line[1:].split("L")]
    assert len(pairs) == 400
    assert all(0 <= float(x) <= 1000 and 0 <= float(y) <= 400 for x, y in pairs)
    assert drawing.best == drawing.dots[drawing.dots.index("M", 1) :]
    assert [tick.label for tick in drawing.x] == ["0", "100", "200", "300", "400"]
    assert [tick.at for tick in drawing.x] == [0, 25, 50, 75, 100]
    heights = [tick.at for tick in drawing.y]
    assert heights == sorted(heights, reverse=True)
