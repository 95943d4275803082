"""How `/dataset` shows its results to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ..settings import Settings
from ..turn import AGENT
from .edge import note, say

if TYPE_CHECKING:
    from ...host.api import Host
    from ..collect.harvest import HarvestReport
    from ..curate.manifest import Manifest, Stage
    from ..curate.quality import Quality
    from ..library import Example
    from ..library.records import Counts

__all__ = ["built", "counted", "funnel", "harvested", "listed", "shown", "versioned"]

SIDES = (("train", "to train"), ("validation", "validation"), ("heldout", "held out"))


def harvested(host: Host, report: HarvestReport) -> None:
    """What a harvest took, and what it left."""
    left = sum(report.rejected.values())
    parts = [f"{report.new} new", f"{report.known} known"] + ([f"{left} left out"] if left else [])
    say(host, f"Harvested {_many(report.files, 'file')}, {_many(report.sessions, 'session')}: {', '.join(parts)}.")
    if report.ratings:
        say(host, f"Took {_many(report.ratings, 'rating')} given elsewhere.")
    for reason, number in sorted(report.rejected.items()):
        note(host, f"  {number} × {reason}")
    for problem in report.problems[:10]:
        note(host, f"  {Path(problem.file).name}: {problem.reason}")
    if len(report.problems) > 10:
        note(host, f"  and {len(report.problems) - 10} more problems (--json lists all)")
    if report.secrets:
        kinds = ", ".join(f"{number} {kind.lower()}" for kind, number in sorted(report.secrets.items()))
        note(host, f"  secrets replaced, as far as they could be found: {kinds}")


def listed(host: Host, examples: Sequence[Example]) -> None:
    """One line an example."""
    if not examples:
        say(host, "No example matches.")
        return
    tagged = any(example.tags for example in examples)
    table = _table("id", "when", "score", "question", "answer", *(["tags"] if tagged else []))
    for example in examples:
        score = "·" if example.score is None else f"{example.score}{'*' if example.correction is not None else ''}"
        when = example.at[:16].replace("T", " ")
        tags = [Text(", ".join(example.tags))] if tagged else []
        table.add_row(example.id, when, score, _cell(example.question), _cell(example.target), *tags)
    host.console.print(table)
    if any(example.correction is not None for example in examples):
        note(host, "* corrected by you")


def shown(host: Host, example: Example, quality: Quality, calls: int = 0) -> None:
    """One example whole; `calls`: how many calls of the model its answer took, where they are known."""
    facts = _grid()
    rating = "not rated" if example.score is None else f"{example.score} of 5"
    rows = {
        "example": example.id,
        "session": example.session,
        "when": example.at,
        "model": example.model or "unknown",
        "rating": f"{rating}, {example.status}",
        "split": dict(SIDES)[example.split] if example.split else "not assigned",
    }
    if example.origin != AGENT:
        rows["origin"] = example.origin
    if example.failure:
        rows["failure"] = example.failure
    if example.tags:
        rows["tags"] = ", ".join(example.tags)
    if calls:
        rows["model calls"] = str(calls)
    if example.tools:
        rows["tools"] = ", ".join(tool.name for tool in example.tools)
    for name, value in rows.items():
        facts.add_row(name, Text(value))
    host.console.print(facts)
    for title, text in (("question", example.question), ("answer", example.answer), ("correction", example.correction)):
        if text is not None:
            note(host, f"\n{title}")
            say(host, text)
    note(host, f"\nquality {quality.score:.2f}")
    parts = _grid()
    for name, part in quality.parts.items():
        parts.add_row(name, Text(f"{part:.2f}  {quality.reasons.get(name, '')}".rstrip()))
    host.console.print(parts)


def counted(host: Host, counts: Counts) -> None:
    """The library in numbers."""
    grid = _grid()
    rows = {
        "examples": f"{counts.examples} in {_many(counts.sessions, 'session')}",
        "usable": f"{counts.usable} (rated 4 or 5), {counts.corrected} corrected",
        "candidates": f"{counts.candidates}, {counts.unrated} of them not rated",
        "rejected": f"{counts.rejected} (rated 1 or 2)",
    }
    if counts.splits:
        rows["split"] = ", ".join(f"{counts.splits.get(side, 0)} {label}" for side, label in SIDES)
    for name, value in rows.items():
        grid.add_row(name, Text(value))
    for model, number in counts.models.items():
        grid.add_row("model", Text(f"{model}: {number}"))
    host.console.print(grid)


def funnel(host: Host, stages: Sequence[Stage], sides: Mapping[str, int]) -> None:
    """What each stage of a build kept."""
    grid = _grid()
    grid.add_column(justify="right")
    grid.add_column(style="dim")
    before: int | None = None
    for stage in stages:
        lost = "" if before is None or before == stage.kept else f"−{before - stage.kept}"
        grid.add_row(stage.name, "", str(stage.kept), lost)
        before = stage.kept
    for side, label in SIDES:
        grid.add_row(label, "", str(sides.get(side, 0)), "")
    host.console.print(grid)


def built(host: Host, manifest: Manifest, path: Path, name: str | None) -> None:
    """A dataset that was frozen."""
    funnel(host, manifest.funnel, manifest.counts)
    say(host, f"Dataset {manifest.id}{f' ({name})' if name else ''}: {path}", "bold")
    answers, chats = sum(manifest.examples.values()), sum(manifest.counts.get(side, 0) for side, _ in SIDES)
    if manifest.examples and answers != chats:
        note(host, f"{_many(answers, 'answer')} gave {_many(chats, 'chat')}: one for each call of the model")
    if manifest.counts.get("pairs"):
        note(host, f"{_many(manifest.counts['pairs'], 'correction')} kept as preference pairs")
    tokens = manifest.tokens
    if tokens is not None:
        note(
            host, f"tokens a chat: {tokens.min} to {tokens.max}, {tokens.median:g} in the middle, {tokens.total} in all"
        )
        size = Settings().train.ctx_size
        over = tokens.over.get(size, 0)
        if over:
            note(host, f"{_many(over, 'chat')} longer than {size} tokens: train with a larger --ctx-size to keep them")
    if not manifest.counts.get("validation"):
        note(host, "too few conversations to hold some out: rate answers of at least three")
    elif manifest.counts["train"] < 50:
        note(host, f"{manifest.counts['train']} examples are few: 50 and more teach better")


def versioned(host: Host, manifests: Sequence[Manifest], names: Mapping[str, str]) -> None:
    """The datasets, newest first."""
    if not manifests:
        say(host, "No dataset yet: make one with /dataset build.")
        return
    table = _table("id", "name", "train", "validation", "held out", "form", "tokens")
    for manifest in manifests:
        given = ", ".join(name for name, known in names.items() if known == manifest.id)
        numbers = [str(manifest.counts.get(side, 0)) for side, _ in SIDES]
        tokens = str(manifest.tokens.total) if manifest.tokens else "·"
        table.add_row(manifest.id, given or "·", *numbers, manifest.settings.form, tokens)
    host.console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        wide = column in ("question", "answer")
        right = column in ("score", "train", "validation", "held out", "tokens")
        table.add_column(
            column, no_wrap=True, overflow="ellipsis", ratio=1 if wide else None, justify="right" if right else "left"
        )
    table.expand = "question" in columns
    return table


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_column()
    return grid


def _cell(text: str) -> Text:
    return Text(" ".join(text[:300].split()))


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
