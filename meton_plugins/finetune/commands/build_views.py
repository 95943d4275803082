"""How harvests, builds and their datasets are shown to people."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..settings import Settings
from ..units import many
from .edge import note, say
from .lettering import cell, line
from .tables import NARROW, SIDES, grid, table

if TYPE_CHECKING:
    from ...host.api import Host
    from ..collect.harvest import HarvestReport
    from ..curate.manifest import Manifest, Stage

__all__ = ["built", "funnel", "harvested", "versioned"]

#: What is true of the examples that a stage left out, where it does not say so itself: older manifests do not.
WHY: Final = {
    "rated usable": "not rated 4 or 5",
    "long enough": "too short or too long",
    "keyword": "without the word",
    "quality": "quality below the threshold",
    "clean of secrets": "the answer was mostly secrets",
    "unique": "said twice: the best rated one stays",
}


def harvested(host: Host, report: HarvestReport) -> None:
    """What a harvest took, and what it left."""
    left = sum(report.rejected.values())
    parts = [f"{report.new} new", f"{report.known} known"] + ([f"{left} left out"] if left else [])
    say(host, f"Harvested {many(report.files, 'file')}, {many(report.sessions, 'session')}: {', '.join(parts)}.")
    if report.ratings:
        say(host, f"Took {many(report.ratings, 'rating')} given elsewhere.")
    for reason, number in sorted(report.rejected.items()):
        line(host, f"  {number} × {reason}", "dim")
    for problem in report.problems[:10]:
        note(host, f"  {Path(problem.file).name}: {problem.reason}")
    if len(report.problems) > 10:
        note(host, f"  and {many(len(report.problems) - 10, 'more problem')} (--json lists all)")
    if report.secrets:
        kinds = ", ".join(f"{number} {kind.lower()}" for kind, number in sorted(report.secrets.items()))
        note(host, f"  secrets replaced, as far as they could be found: {kinds}")


def funnel(host: Host, stages: Sequence[Stage], sides: Mapping[str, int]) -> None:
    """What each stage of a build kept, what it left out and why, and the sides that the rest lies on."""
    rows = grid()
    rows.columns[1].justify = "right"
    rows.add_column(style="dim", justify="right")
    rows.add_column(style="dim")
    before: int | None = None
    for stage in stages:
        lost = 0 if before is None else before - stage.kept
        why = (stage.reason or WHY.get(stage.name, "")) if lost else ""
        rows.add_row(stage.name, f"{stage.kept:,}", cell(host, f"−{lost:,}" if lost else ""), cell(host, why))
        before = stage.kept
    if stages:
        rows.add_row("in dataset", f"{stages[-1].kept:,}", "", "")
    for side, label in SIDES:
        rows.add_row(f"  {label}", f"{sides.get(side, 0):,}", "", "")
    host.console.print(rows)


def built(host: Host, manifest: Manifest, path: Path, name: str | None) -> None:
    """A dataset that was frozen."""
    funnel(host, manifest.funnel, manifest.counts)
    say(host, f"Dataset {manifest.id}{f' ({name})' if name else ''}: {path}", "bold")
    answers = sum(manifest.examples.values())
    plain = manifest.plain
    chats = sum(manifest.counts.get(side, 0) for side, _ in SIDES) - plain
    if plain:
        note(host, f"{many(plain, 'answer')} to train once more as a plain chat (--plain-share)")
    if manifest.examples and answers != chats and not manifest.sources:
        note(host, f"{many(answers, 'answer')} gave {many(chats, 'chat')}: one for each call of the model")
    if manifest.counts.get("pairs"):
        note(host, f"{many(manifest.counts['pairs'], 'correction')} kept as preference pairs")
    tokens = manifest.tokens
    if tokens is not None:
        note(
            host, f"tokens a chat: {tokens.min} to {tokens.max}, {tokens.median:g} in the middle, {tokens.total} in all"
        )
        size = Settings().train.ctx_size
        over = tokens.over.get(size, 0)
        if over:
            note(host, f"{many(over, 'chat')} longer than {size} tokens: train with a larger --ctx-size to keep them")
    if not manifest.counts.get("validation"):
        note(host, "too few conversations to hold some out: rate answers of at least three")
    elif manifest.counts["train"] < 50:
        note(host, f"{manifest.counts['train']} examples are few: 50 and more teach better")


def versioned(
    host: Host, manifests: Sequence[Manifest], names: Mapping[str, str], times: Mapping[str, float] | None = None
) -> None:
    """The datasets, newest first; `times`: when each was built, in seconds since 1970, by id."""
    if not manifests:
        say(host, "No dataset yet: make one with /dataset build.")
        return
    narrow = host.console.width < NARROW
    columns = ("id", "when", "name", "rows") if narrow else ("id", "when", "name", "rows", "tokens", "base")
    rows = table(*columns)
    for manifest in manifests:
        when = (times or {}).get(manifest.id)
        tokens = manifest.tokens
        built = "" if when is None else datetime.datetime.fromtimestamp(when).isoformat(" ", "minutes")
        texts = {
            "id": manifest.id,
            "when": built[:10] if narrow else built,
            "name": ", ".join(name for name, known in names.items() if known == manifest.id),
            "rows": ("/" if narrow else " / ").join(f"{manifest.counts.get(side, 0):,}" for side, _ in SIDES),
            "tokens": f"{tokens.total:,}" if tokens else "",
            "base": str(tokens.base.get("name") or "").rsplit("/", 1)[-1] if tokens else "",
        }
        rows.add_row(*(cell(host, texts[column] or "·") for column in columns))
    host.console.print(rows)
    note(host, f"rows: {' / '.join(label for _, label in SIDES)}")
