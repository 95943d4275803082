"""`/dataset import`: training data of others, and a project's own code, into the library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..paths import Home
from ..told import IMPORTED, Told
from ..units import many
from .edge import note, say, show_json
from .options import Parser, split
from .progress import bar

if TYPE_CHECKING:
    from ...host.api import Host
    from ..collect.imports import ImportReport
    from ..library import Library

__all__ = ["as_json", "bring", "imported", "take"]


def bring(host: Host, home: Home, rest: str) -> int:
    """Take files, or folders of them, into the library; their format is told by what is in them."""
    from ..formats.reading import FORMATS

    parser = Parser(
        prog="/dataset import",
        description="Take training data into the library, each example once and without its secrets. The format is "
        "told by what is in a file; a record that cannot be used is named and left out.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file, or a folder with files")
    parser.add_argument(
        "--rating", default="4", metavar="1..5|none", help="of examples that bring no verdict of their own (default: 4)"
    )
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="a tag for each; more than once")
    parser.add_argument("--as", dest="label", metavar="NAME", help="name of the source; the file's by default")
    parser.add_argument("--format", choices=FORMATS, help="where the content does not tell it")
    parser.add_argument("--code", action="store_true", help="Python files: their documented functions become examples")
    words = parser.parse_args(split(rest))
    if words.code and words.format:
        raise UsageError("--code reads Python files and nothing else: leave --format out.")
    from ..library import Library

    with Library(home.library) as library:
        report = take(
            host, library, [Path(path).expanduser() for path in words.paths], rating=words.rating,
            tags=tuple(words.tag), label=words.label, wanted=words.format, code=words.code,
        )  # fmt: skip
    if host.json:
        show_json(host, as_json(report))
    else:
        imported(host, report)
    return 0


def take(
    host: Host, library: Library, paths: Sequence[Path], *, rating: str = "4", tags: tuple[str, ...] = (),
    label: str | None = None, wanted: str | None = None, code: bool = False,
) -> ImportReport:  # fmt: skip
    """Import `paths` behind a progress bar."""
    from ..collect.imports import Import, take_files
    from ..curate.secrets import scrub
    from ..library.records import score_of

    score = None if rating.lower() == "none" else score_of(rating)
    how = Import(scrub, score, tags, label, wanted)
    with bar(host) as tell:

        def told(done: int, total: int) -> None:
            tell("import", done, max(1, total))

        if code:
            from ..collect.code import take_code

            return take_code(library, paths, how, told)
        report = take_files(library, paths, how, told)
    # Whoever has something forgotten is told where else it is.
    known = Told(Home(library.path.parent).told)
    for path in paths:
        known.add(IMPORTED, str(path.resolve()))
    return report


def as_json(report: ImportReport) -> dict[str, Any]:
    """What `--json` shows of an import."""
    # Not `asdict` of the whole: before Python 3.12 it cannot copy a Counter.
    shown = {name: value for name, value in vars(report).items() if name not in ("ids", "problems")}
    return {**shown, "problems": [asdict(problem) for problem in report.problems], "examples": len(report.ids)}


def imported(host: Host, report: ImportReport) -> None:
    """What an import took, and what it left."""
    left = sum(report.rejected.values())
    parts = [f"{report.new} new", f"{report.known} known"] + ([f"{left} left out"] if left else [])
    formats = ", ".join(f"{number} {name}" for name, number in sorted(report.formats.items()))
    say(host, f"Imported {many(report.files, 'file')}{f' ({formats})' if formats else ''}: {', '.join(parts)}.")
    if report.ratings:
        say(host, f"Took {many(report.ratings, 'rating')} given elsewhere.")
    for reason, number in sorted(report.rejected.items()):
        note(host, f"  {number} × {reason}")
    for problem in report.problems[:10]:
        line = f", line {problem.line}" if problem.line else ""
        note(host, f"  {Path(problem.file).name}{line}: {problem.reason}")
    if len(report.problems) > 10:
        note(host, f"  and {len(report.problems) - 10} more (--json names them)")
    if report.passed_by:
        others = "1 other file was" if report.passed_by == 1 else f"{report.passed_by} other files were"
        note(host, f"  {others} passed by")
    if report.secrets:
        kinds = ", ".join(f"{number} {kind.lower()}" for kind, number in sorted(report.secrets.items()))
        note(host, f"  secrets replaced, as far as they could be found: {kinds}")
    if report.labels and report.new:
        note(host, f"source: {', '.join(report.labels)}; build from it with --source {report.labels[0]}")
    if report.formats.get("meton"):
        note(host, "conversations come unrated: /dataset rate good session:ID rates a whole one")
