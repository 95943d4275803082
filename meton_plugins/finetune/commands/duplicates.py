"""`/dataset duplicates` and `/dataset leaks`: what is there more than once, and what is on more than one side."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from ..errors import NotFound, UsageError
from ..settings import load
from ..units import many
from .edge import note, say, show_json
from .options import Parser, split

if TYPE_CHECKING:
    from ...host.api import Host
    from ..curate.duplicates import Dropped
    from ..curate.leaks import Leaks, Place
    from ..library import Example
    from ..paths import Home

__all__ = ["duplicates", "leaks"]

SIDES: Final = {"train": "to train", "validation": "validation", "heldout": "held out"}

#: Leaks that are written out; --json lists all.
SHOWN: Final = 10


def duplicates(host: Host, home: Home, rest: str) -> int:
    """Show the sets of duplicates, the one of each that a build keeps, and why the others are its duplicates."""
    parser = Parser(
        prog="/dataset duplicates",
        description="What the library holds more than once: the example that a build keeps, and those it leaves out.",
    )
    parser.add_argument("--threshold", type=float, metavar="X", help="how alike, 80 to 100; the build's by default")
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="at most so many sets; 0 for all (default: 20)"
    )
    words = parser.parse_args(split(rest))
    threshold = load(home.settings).build.duplicate_threshold if words.threshold is None else words.threshold
    from ..curate.alike import FLOOR

    if not FLOOR <= threshold <= 100:
        raise UsageError(f"--threshold takes a number from {FLOOR} to 100.")
    if words.limit < 0:
        raise UsageError("--limit takes a number from 0 up.")
    from ..curate.duplicates import choices, compare, said, unique
    from ..library import Library

    with Library(home.library) as library:
        examples = {example.id: example for example in library.find()}
        alike = compare([said(example) for example in examples.values()], library)
    dropped: list[Dropped] = []
    unique(list(examples.values()), alike, threshold, dropped.append)
    sets: dict[str, list[Dropped]] = {}
    for one in dropped:
        sets.setdefault(one.kept, []).append(one)
    asked = choices(examples.values(), alike)
    if host.json:
        found = [{"kept": kept, "left_out": [one._asdict() for one in group]} for kept, group in sets.items()]
        numbers = {"examples": len(examples), "threshold": threshold, "left_out": len(dropped)}
        show_json(host, {**numbers, "sets": found, "choices": asked})
        return 0
    if not sets:
        say(host, f"No two of {many(len(examples), 'example')} are alike by {threshold:g} or more.")
    else:
        verb = "is a duplicate" if len(dropped) == 1 else "are duplicates"
        of = f"{len(dropped):,} of {many(len(examples), 'example')} {verb} of {many(len(sets), 'other')}"
        say(host, f"{of}, from {threshold:g} on:")
    order = sorted(sets, key=lambda kept: (-len(sets[kept]), kept))
    for kept in order[: words.limit or None]:
        _set(host, examples[kept], sets[kept])
    if words.limit and len(order) > words.limit:
        note(host, f"and {many(len(order) - words.limit, 'more set')} (--limit 0 shows all)")
    if asked:
        these = "1 question has" if len(asked) == 1 else f"{len(asked)} questions have"
        note(host, f"{these} more than one answer: a choice between answers, not duplicates")
    return 0


def leaks(host: Host, home: Home, rest: str) -> int:
    """Look whether anything of one side is in another, in all that was frozen; 1 where it is."""
    Parser(
        prog="/dataset leaks",
        description="Prove that nothing of one side of the split is in another, the same or nearly so, in all datasets "
        "and in what all runs were trained on.",
    ).parse_args(split(rest))
    from ..curate.leaks import find

    places = _places(home)
    if not places:
        raise NotFound("There is no dataset yet: make one with /dataset build.")
    found = find(places)
    if host.json:
        show_json(host, {"clean": found.clean, **asdict(found)})
    elif found.clean:
        say(host, f"Nothing of one side is in another: {_looked(found)}.")
    else:
        _leaking(host, found)
    return 0 if found.clean else 1


def _places(home: Home) -> list[Place]:
    """Every dataset and every run, damaged ones too: what cannot be read proves nothing."""
    from ..curate.leaks import Place
    from ..curate.manifest import MANIFEST
    from ..train.lineage import lineage
    from ..train.runs import all_runs

    folders = sorted(home.datasets.iterdir()) if home.datasets.is_dir() else []
    found = [
        Place(f"dataset {path.name}", path) for path in folders if (path / MANIFEST).exists() and path.name[0] != "."
    ]
    for run in all_runs(home.runs):
        ancestors = tuple(f"run {before.name}" for before in lineage(run) if before.run)
        found.append(Place(f"run {run.name}", run.folder / "dataset", ancestors))
    return found


def _set(host: Host, kept: Example, left_out: list[Dropped]) -> None:
    score = "not rated" if kept.score is None else f"rated {kept.score}"
    say(host, f"{kept.id}  {score}, {kept.at[:10]}: {_brief(kept.question)}")
    for one in left_out[:SHOWN]:
        same = one.question == one.answer == 100
        why = "the same words" if same else f"question {one.question:.0f}, answer {one.answer:.0f}"
        note(host, f"  {one.id}  {why}")
    if len(left_out) > SHOWN:
        note(host, f"  and {len(left_out) - SHOWN} more")


def _leaking(host: Host, found: Leaks) -> None:
    if found.leaks:
        say(host, f"Some of one side is in another: {_looked(found)}.")
    for kind, number in Counter(leak.kind for leak in found.leaks).items():
        note(host, f"  {number} × {kind}")
    for leak in found.leaks[:SHOWN]:
        one, other = (f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}" for names in leak.places)
        ids = leak.ids[0] if leak.ids[0] == leak.ids[1] else f"{leak.ids[0]} and {leak.ids[1]}"
        why = leak.kind if leak.kind != "alike" else f"alike: question {leak.question:.0f}, answer {leak.answer:.0f}"
        say(host, f"  {ids}: {SIDES[leak.judging]} in {one}, {SIDES[leak.other]} in {other} ({why})")
    if len(found.leaks) > SHOWN:
        note(host, f"  and {len(found.leaks) - SHOWN} more (--json lists all)")
    for name, number in found.tainted.items():
        say(host, f"  {name} learned {number} of the examples that judge it: its results say too much.")
    for sentence in found.unread:
        say(host, f"  not looked at: {sentence}")
    if found.leaks:
        say(host, "Build a new dataset and train on it anew; delete the datasets and runs that you do not need.")


def _looked(found: Leaks) -> str:
    places = "1 dataset or run" if found.places == 1 else f"{found.places} datasets and runs"
    return f"{many(found.examples, 'different example')} in {places}, each compared with all others"


def _brief(text: str) -> str:
    line = " ".join(text[:300].split())
    return line if len(line) <= 80 else f"{line[:79]}…"
