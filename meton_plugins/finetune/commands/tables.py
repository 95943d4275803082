"""Tables and grids as all views of `/dataset` have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.table import Table

    from ..library.records import Split

__all__ = ["NARROW", "SIDES", "grid", "table"]

#: The sides of the split, as people read them.
SIDES: Final[tuple[tuple[Split, str], ...]] = (
    ("train", "to train"),
    ("validation", "validation"),
    ("heldout", "held out"),
)
#: Columns that take what room there is, and cut their text.
WIDE: Final = ("question", "answer")
RIGHT: Final = ("score", "rows", "tokens", "good", "bad", "share good")
#: Below this width, in cells, a table has only its most telling columns.
NARROW: Final = 60
#: What is never cut, by the cells that it needs; the long names beside it give way.
WHOLE: Final = {"id": 10, "when": 10, "week": 10}


def table(*columns: str) -> Table:
    """A table without lines; as wide as the terminal where it holds questions."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        made.add_column(
            column,
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if column in WIDE else None,
            justify="right" if column in RIGHT else "left",
            min_width=WHOLE.get(column, len(column) if column in RIGHT else None),
        )
    made.expand = "question" in columns
    return made


def grid() -> Table:
    """Names, dim, and what they stand for."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim")
    made.add_column()
    return made
