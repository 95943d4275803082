"""How `/dataset preview` shows a row: what is learned stands out, and nothing of it is invisible."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from rich.text import Text

from ..units import many
from .edge import note
from .lettering import ascii_only, line, visible

if TYPE_CHECKING:
    from ...host.api import Host
    from ..curate.manifest import Row
    from ..curate.sample import Sample
    from ..engine.jobs import Piece, Seen

__all__ = ["previewed"]

LEARNED: Final = "bold green"
#: Of what is only read, and of a special token in it.
READ: Final = "dim"
SPECIAL: Final = "dim cyan"
#: Around what is learned, where there are no colours.
OPEN: Final = "⟦"
CLOSE: Final = "⟧"
#: Stands after the last letter: a space before it is easily missed.
END: Final = ("\n", "", False)


def previewed(
    host: Host, sample: Sample, seen: Sequence[Seen] | None, ctx_size: int, remark: str | None = None
) -> None:
    """The rows of `sample`: as tokens where a base has `seen` them, else as messages; `remark`: why not as tokens."""
    colours = host.console.color_system is not None and not host.console.no_color
    for text in sample.remarks:
        line(host, f"Not trained: {text}.", "yellow")
    if seen is None:
        for row in sample.rows:
            _messages(host, row, sample.learned, colours)
    else:
        for each in seen:
            _tokens(host, each, ctx_size, colours)
    learned = "green is learned" if colours else f"{OPEN} {CLOSE} hold what is learned"
    line(host, f"\n{learned}, the rest is only read; ⏎ ends a line, · is a space", "dim")
    if sample.kind != "example":
        place = f"the dataset {sample.name}" if sample.kind == "dataset" else "the library as it is now"
        note(host, f"{len(sample.rows):,} of {many(sample.total, 'row')} to train in {place}")
    if sample.seed is not None and sample.kind != "example":
        note(host, f"drawn; see the same ones again with --seed {sample.seed}")
    elif sample.kind != "example" and len(sample.rows) < sample.total:
        note(host, "see more with --number N, others with --random, one example with its ID")
    if remark:
        note(host, remark)


def _tokens(host: Host, row: Seen, ctx_size: int, colours: bool) -> None:
    line(host, f"\n{row.id}  {row.length:,} tokens, {row.learned:,} of them learned", "bold")
    if row.reason:
        line(host, f"left out: {row.reason}", "yellow")
    if not row.pieces:
        return
    # The last token is only ever predicted: so many and one more fit.
    fits = row.pieces[: ctx_size + 1]
    _print(host, [(piece.text, _style(piece), piece.trained) for piece in fits], colours)
    rest = row.pieces[ctx_size + 1 :]
    if rest:
        learned = sum(piece.trained for piece in rest)
        line(
            host,
            f"✂ --ctx-size {ctx_size:,} ends here; past it: {many(len(rest), 'token')}, {learned:,} learned",
            "yellow",
        )


def _style(piece: Piece) -> str:
    if piece.trained:
        return f"{LEARNED} underline" if piece.special else LEARNED
    return SPECIAL if piece.special else READ


def _messages(host: Host, row: Row, learned: str, colours: bool) -> None:
    line(host, f"\n{row.id}  {many(len(row.messages), 'message')}", "bold")
    last = len(row.messages) - 1
    for index, message in enumerate(row.messages):
        taught = message.role == "assistant" and (index == last or learned == "all")
        line(host, message.role, "cyan")
        _print(host, [(message.content, LEARNED if taught else READ, taught)], colours)


def _print(host: Host, parts: Iterable[tuple[str, str, bool]], colours: bool) -> None:
    """Texts, each with its style and whether it is learned, as one text."""
    letters = [(letter, style, learned) for text, style, learned in parts for letter in text]
    signs = [
        (_sign(letter, letters[place - 1][0] if place else "\n", after), style, learned)
        for place, ((letter, style, learned), (after, *_)) in enumerate(zip(letters, [*letters[1:], END], strict=True))
    ]
    shown = Text()
    inside = False
    for (style, learned), run in itertools.groupby(signs, key=lambda sign: sign[1:]):
        if learned != inside and not colours:
            shown.append(OPEN if learned else CLOSE)
        inside = learned
        shown.append("".join(sign for sign, *_ in run), style)
    if inside and not colours:
        shown.append(CLOSE)
    if shown.plain.endswith("\n"):
        shown.right_crop(1)
    if ascii_only(host):
        line(host, shown.plain)
    else:
        host.console.print(shown, soft_wrap=not host.console.is_terminal)


def _sign(letter: str, before: str, after: str) -> str:
    """`letter` as it is shown between its neighbours: indentation, runs and ends of lines are seen."""
    if letter == "\n":
        return "⏎\n"
    if letter == "\t":
        return "→   "
    if letter == " " and (before in " \n\t" or after in " \n\t"):
        return "·"
    return visible(letter)
