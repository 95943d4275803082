"""`/export report`: a run as one page for the browser, with answers side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import FinetuneError, UsageError
from .edge import note, say, show_json
from .progress import bar

if TYPE_CHECKING:
    import argparse

    from ...host.api import Host
    from ..paths import Home
    from ..report.answers import Answer
    from ..train.runs import Run
    from .options import Parser

__all__ = ["report", "report_flags"]

#: Chats that are answered twice, by base and tuned model: a few minutes for a large base on a CPU.
ANSWERS: Final = 3


BUSY: Final = "A run trains on this machine now, so no new answers were made: type it again when it is over."


def report_flags(parser: Parser) -> None:
    """Of `report`."""
    parser.add_argument("run", nargs="?", help="the run (default: the newest)")
    parser.add_argument("--output", metavar="FILE", help="where to write it (default: report.html in the run's folder)")
    parser.add_argument(
        "--answers", type=int, default=ANSWERS, metavar="N",
        help=f"chats of the validation side to show side by side; 0 for none (default: {ANSWERS})",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace a FILE that is something else")


def report(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Write the page of a run."""
    from ..curate.output import check_output, remember
    from ..paths import replacing
    from ..report.page import build
    from ..train.diagnosis import diagnose
    from ..train.runs import REPORT, find_run

    if options.answers < 0:
        raise UsageError("--answers takes a number from 0 up.")
    run = find_run(home.runs, options.run)
    path = run.folder / REPORT
    if options.output:
        named = Path(options.output).expanduser()
        path = check_output(home.datasets, named / f"{run.name}.html" if named.is_dir() else named, options.force)
    answers, missing = _answers(host, run, options.answers)
    text = build(run, findings=diagnose(run), answers=answers)
    with replacing(path, "w") as file:
        file.write(text)
    if options.output:
        remember(home.datasets, path)
    if host.json:
        made = {"run": run.name, "path": str(path), "bytes": path.stat().st_size, "answers": len(answers)}
        show_json(host, {**made, "missing": missing})
        return 0
    say(host, f"  report  {path.stat().st_size / 1024:10.0f} kB  {path}")
    if missing:
        note(host, missing)
    note(host, "Open it in a browser. It needs no network, and quotes your chats.")
    return 0


def _answers(host: Host, run: Run, number: int) -> tuple[list[Answer], str | None]:
    """Side by side, and why some of them are missing, where they are: a page without them is better than none."""
    from ..report.answers import answers, kept_answers
    from ..train.lock import who_trains

    if not number:
        return [], None
    try:
        known, all_there = kept_answers(run, number)
        if all_there:
            return known, None
        # A second model beside the one that trains may be more than the machine's memory holds.
        if who_trains() is not None:
            return known, BUSY
        with bar(host) as progress:
            return answers(run, number, progress), None
    except FinetuneError as error:
        return [], f"Without answers side by side: {error.sentence}"
