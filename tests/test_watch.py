"""Runs as they are looked at: the live view in any terminal, one line each, a table, lineage, two in one chart."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from support.courses import add_event, drawn_run
from support.host import RecordingHost, User

from meton_plugins.finetune.commands import finetune, watch
from meton_plugins.finetune.commands.watch_view import view
from meton_plugins.finetune.paths import Home, append_json
from meton_plugins.finetune.report.course import Course
from meton_plugins.finetune.settings import TrainSettings
from meton_plugins.finetune.train.lock import run_lock
from meton_plugins.finetune.train.runs import Run


class Typed(User):
    """A user of /finetune, in a terminal of `width` cells or, for 0, into a pipe."""

    def __init__(self, home: Home, width: int = 0, encoding: str = "utf-8") -> None:
        self.home = home
        host = RecordingHost(home.root)
        self.bytes = io.BytesIO()
        if width:
            stream = io.TextIOWrapper(self.bytes, encoding=encoding, write_through=True)
            host.console = Console(file=stream, width=width, force_terminal=True, color_system=None, height=24)
        self.width = width
        super().__init__(host, finetune.make(host, home))

    def __call__(self, line: str, code: int = 0) -> str:
        self.bytes.seek(0)
        self.bytes.truncate()
        said = super().__call__(line, code)
        return self.bytes.getvalue().decode() if self.width else said


@pytest.fixture
def made(home: Path) -> Home:
    return Home(home).make()


@pytest.fixture
def alive(made: Home) -> Iterator[Run]:
    """A run whose worker lives: its lock is held."""
    run = drawn_run(made, "night-2", 230, 400, status="running", plan={"memory": {"peak": 9100}}, state={"epoch": 2})
    with run_lock(run.folder):
        yield run


def test_the_commands_come_up_without_what_only_pictures_need() -> None:
    """A command starts well under a tenth of a second: rich and jinja2 are loaded by those who show something."""
    code = "import sys\nfrom meton_plugins.finetune.commands import dataset, export, finetune\n"
    code += "print([name for name in sys.modules if name.split('.')[0] in ('rich', 'jinja2', 'numpy')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The live view


def seen(run: Run, width: int, height: int, encoding: str = "utf-8") -> list[str]:
    """The lines of the view in a terminal of that size."""
    stream = io.BytesIO()
    host = RecordingHost(run.folder)
    host.console = Console(
        file=io.TextIOWrapper(stream, encoding=encoding, write_through=True), width=width, height=height,
        force_terminal=True, color_system=None,
    )  # fmt: skip
    host.console.print(view(host, run, Course.of(run.folder), "any key leaves; the run goes on"))
    return stream.getvalue().decode(encoding).rstrip("\n").split("\n")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (40, 14), (60, 18), (80, 10), (200, 60), (132, 43)])
def test_the_view_fits_the_terminal(alive: Run, width: int, height: int, encoding: str) -> None:
    lines = seen(alive, width, height, encoding)
    assert len(lines) <= height
    assert max(map(len, lines)) <= min(width, 110)
    assert lines[0].startswith("night-2  running")
    assert lines[-1] == "any key leaves; the run goes on"


def test_the_view_shows_what_matters(alive: Run) -> None:
    lines = seen(alive, 80, 24)
    text = "\n".join(lines)
    assert lines[0].endswith("epoch 2/3  step 230/400")
    assert "57%  5 min left" in lines[1]
    assert "━ loss 0.800 ↓   ● validation 1.384  before 3.200  best 1.384 at step 200" in lines
    assert "152 tokens/s  ·  8.6 GB at most (8.9 GB foreseen)  ·  trained 7 min" in lines
    assert "22:05:07  validation  loss 1.384 after step 200 (epoch 2), the best so far" in lines
    assert sum(line.count("●") for line in lines) == 6, "the base, four validations, and the legend's"
    assert text.count("checkpoint  saved") == 1, "the newest alone"
    assert "0                100                200                300               400" in text
    assert any("⠀" < sign <= "⣿" for sign in text)


def test_the_view_of_a_run_that_loads(made: Home) -> None:
    run = drawn_run(made, steps=0, validations=0, status="starting", state={
        "steps": 0, "loss": None, "tokens_per_s": None, "peak_rss_mb": None, "base_loss": None, "seconds_left": None,
    })  # fmt: skip
    (run.folder / "events.jsonl").unlink()
    lines = seen(run, 80, 24)
    assert "the base is being loaded" in lines
    assert len(lines) < 8


def test_hostile_words_in_the_view_are_harmless(alive: Run) -> None:
    add_event(alive.folder, event="note", text="[bold]x[/INST] \x1b[31m\u202e" + "long " * 60)
    text = "\n".join(seen(alive, 80, 24))
    assert "[bold]x[/INST]" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def terminal(home: Path, *words: str, columns: int = 80, rows: int = 24) -> tuple[subprocess.Popen[bytes], int]:
    """`meton-finetune WORDS` in a terminal of its own; the process, and the terminal's other end."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    dropped = ("COLUMNS", "LINES", "CI", "NO_COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "meton_plugins.finetune", *words]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def read_until(handle: int, words: bytes, seconds: float = 60) -> bytes:
    """What the terminal shows, up to `words`; the test fails where they do not come."""
    said = b""
    deadline = time.monotonic() + seconds
    while words not in said:
        ready, _, _ = select.select([handle], [], [], 0.2)
        try:
            said += os.read(handle, 1 << 16) if ready else b""
        except OSError:
            break
        assert time.monotonic() < deadline, said
    assert words in said, said
    return said


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x1b[A", 0), (b"\x03", 130)])
def test_any_key_leaves_and_the_terminal_is_as_before(alive: Run, home: Path, key: bytes, code: int) -> None:
    process, handle = terminal(home, "finetune", "watch")
    try:
        drawn = read_until(handle, b"any key leaves")
        assert drawn.count(b"\x1b[?1049h") == 1, "on a screen of its own"
        add_event(alive.folder, event="note", text="Something new.")
        again = read_until(handle, b"Something new.")
        assert b"\x1b[2J" not in again, "drawn over, not wiped: it does not flicker"
        os.write(handle, key)
        left = read_until(handle, b"See it again with /finetune watch night-2.")
        assert b"\x1b[?1049l" in left
        assert process.wait(30) == code
    finally:
        process.kill()
        process.wait()
        os.close(handle)


def test_the_view_draws_no_more_than_the_machine_can_spare(alive: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that takes long is made seldom."""
    host = RecordingHost(alive.folder)
    host.console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    drawn: list[float] = []

    def slow(*_: object) -> str:
        drawn.append(time.monotonic())
        time.sleep(0.05)
        return "x"

    monkeypatch.setattr("meton_plugins.finetune.commands.watch_view.view", slow)
    monkeypatch.setattr(watch, "DRAW", 0.01)
    monkeypatch.setattr(watch, "LOOK", 0.01)
    looks = iter([*["running"] * 80, "finished"])
    monkeypatch.setattr(Run, "status", property(lambda run: next(looks, "finished")))
    assert watch._live(host, alive) is False
    gaps = [b - a for a, b in pairwise(drawn)]
    assert len(drawn) < 5
    assert all(gap > watch.CALM * 0.05 for gap in gaps)


# One line each, and the table


def test_status_tells_first_of_what_is_at_work(made: Home, alive: Run) -> None:
    for name, status in (("a", "finished"), ("b", "paused"), ("c", "finished"), ("d", "failed")):
        drawn_run(made, name, 4, 4, status=status, state={"error": "Too bad." if name == "d" else None})
    (made.runs / "night-2" / "run.json").touch()
    lines = Typed(made)("status").splitlines()
    assert [line.split()[0] for line in lines] == ["night-2", "b", "d", "c", "a"]
    assert len({line.index(status) for line, status in zip(lines, ("running", "paused", "failed"), strict=False)}) == 1


@pytest.mark.parametrize("width", [40, 80, 120])
def test_status_is_cut_calmly(made: Home, width: int) -> None:
    for number in range(30):
        drawn_run(
            made, f"run-{number}", 4, 4, status="failed" if number == 7 else "finished", state={"error": "x" * 300}
        )
    lines = Typed(made, width)("status").splitlines()
    assert len(lines) == 16
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("run-7   failed       xxx")
    assert lines[0].endswith("…")
    assert lines[1].startswith("run-29  finished")
    assert lines[-1] == "15 more: /finetune runs"
    assert len(Typed(made)("status").splitlines()) == 30, "into a pipe all of them, whole"
    assert len(Typed(made).json("status")) == 30


def test_runs_is_a_table_of_what_they_are(made: Home) -> None:
    drawn_run(made, "night-1")
    drawn_run(made, "night-2", parent="night-1", recipe="style", status="paused")
    append_json(made.runs / "night-1" / "notes.jsonl", {"at": "2026-11-22T08:00:00", "text": "first"})
    append_json(made.runs / "night-1" / "notes.jsonl", {"at": "2026-11-22T09:00:00", "text": "rank [16]\nis enough"})
    typed = Typed(made)
    head, second, first = typed("runs").splitlines()
    assert head.split() == [
        "name", "status", "when", "base", "dataset", "validation", "continues", "recipe", "note"
    ]  # fmt: skip
    assert second.index("night-1") == head.index("continues")
    assert first.index("rank [16] is enough") == head.index("note")
    assert "3.200 → 1.032" in first
    newest = typed.json("runs")[-1]
    assert (newest["name"], newest["continues"], newest["recipe"], newest["before"]) == (
        "night-2",
        "night-1",
        "style",
        3.2,
    )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [40, 64, 80, 120])
def test_the_table_fits_the_terminal(made: Home, width: int, encoding: str) -> None:
    drawn_run(made, "night-1")
    drawn_run(made, "night-2", parent="night-1")
    append_json(made.runs / "night-1" / "notes.jsonl", {"text": "日本 " * 60})
    for command in ("runs", "status", "show night-2", "logs night-1", "compare night-1 night-2"):
        said = Typed(made, width, encoding)(command)
        assert said.isascii() == (encoding == "ascii") or encoding == "utf-8"
    lines = Typed(made, width)("runs").splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("night-2  finished")


def test_many_runs_are_listed_quickly(made: Home) -> None:
    for number in range(200):
        drawn_run(made, f"run-{number}", 1, 1, validations=0)
    typed = Typed(made)
    typed("status")  # what is loaded once
    began = time.process_time()
    typed("status")
    typed("runs")
    assert time.process_time() - began < 0.6, "two tenths of a second on a machine with nothing else to do"


# One run, and two


def test_show_tells_where_a_run_comes_from(made: Home) -> None:
    for name, parent in (("one", "gone"), ("two", "one"), ("three", "two")):
        plan = {"memory": {"peak": 8000}, "time": {"seconds": 700}}
        drawn_run(made, name, parent=parent, replay=0.5 if name == "three" else None, plan=plan)
    append_json(made.runs / "three" / "notes.jsonl", {"at": "2026-11-22T08:00:00", "text": "kept [/INST]"})
    typed = Typed(made)
    said = typed("show three")
    assert "continues  two → one → gone (gone), with 0.5 old examples for each new one" in said
    assert "foreseen  peak memory 7.8 GB, really 8.6 GB (+11%)" in said
    assert "time 12 min, really 13 min (+9%)" in said
    assert "note  2026-11-22  kept [/INST]" in said
    found = typed.json("show three")
    assert found["lineage"] == ["two", "one", "gone"]
    assert found["notes"][0]["text"] == "kept [/INST]"
    assert found["foreseen"][0] == {"what": "peak memory", "unit": "MB", "planned": 8000.0, "real": 8843.0}


def test_a_circle_of_parents_ends(made: Home) -> None:
    for name, parent in (("one", "two"), ("two", "one")):
        drawn_run(made, name, parent=parent)
    assert Typed(made).json("show one")["lineage"] == ["two"]


def test_an_unfinished_run_has_no_real_time_yet(made: Home) -> None:
    drawn_run(made, "one", 100, 400, status="paused", plan={"time": {"seconds": 700}, "memory": True})
    assert "foreseen  time 12 min\n" in Typed(made)("show one")


def test_two_runs_in_one_chart(made: Home) -> None:
    drawn_run(made, "one")
    drawn_run(made, "two", 200, seed=2)
    typed = Typed(made)
    said = typed("compare one two")
    chart = said[: said.index("└")]
    assert chart.count("◆") == 5, "validations of the second, which was cut short"
    assert chart.count("●") >= 4
    assert "━● one   ━◆ two   loss and validation loss over steps" in said
    found = typed.json("compare one two")["curves"]
    assert found["over"] == "steps"
    assert [one["run"] for one in found["runs"]] == ["one", "two"]
    assert len(found["runs"][1]["loss"]) == 200
    assert found["runs"][0]["validation"][0] == [0, 3.2]


def test_runs_of_other_batches_meet_over_examples(made: Home) -> None:
    drawn_run(made, "one")
    drawn_run(made, "two", 100, 100, settings=TrainSettings(batch_size=4))
    typed = Typed(made)
    found = typed.json("compare one two")["curves"]
    assert found["over"] == "examples"
    assert [one["loss"][-1][0] for one in found["runs"]] == [400, 400]
    assert "over examples" in typed("compare one two")


def test_runs_without_a_course_are_compared_too(made: Home) -> None:
    for name in ("one", "two"):
        run = drawn_run(made, name)
        (run.folder / "events.jsonl").unlink()
    assert "└" not in Typed(made)("compare one two")
