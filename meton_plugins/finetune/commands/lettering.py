"""Text of the user on his terminal: nothing that it would obey, and no letter that it cannot write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..visible import visible
from .edge import say

if TYPE_CHECKING:
    from rich.text import Text

    from ...host.api import Host

__all__ = ["ascii_only", "cell", "fitting", "line", "visible"]

#: Our own signs where a terminal knows ASCII alone.
_PLAIN: Final = str.maketrans(
    {
        "·": ".",
        "−": "-",
        "–": "-",
        "→": "->",
        "×": "x",
        "…": "...",
        "✂": "8<",
        "⏎": "\\n",
        "⟦": "[[",
        "⟧": "]]",
        "↓": "v",
        "↑": "^",
        "●": "o",
        "◆": "x",
        "━": "*",
        "└": "`",
    }
)


def ascii_only(host: Host) -> bool:
    """Whether the terminal, or the file, can hold nothing but ASCII."""
    return bool(host.console.options.ascii_only)


def cell(host: Host, text: str, style: str = "") -> Text:
    """`text` for a table: harmless, on one line."""
    from rich.text import Text

    return Text(fitting(host, visible(" ".join(text.split()))), style)


def line(host: Host, text: str, style: str = "") -> None:
    """Print a line of our own, in signs that the terminal has."""
    say(host, fitting(host, text), style)


def fitting(host: Host, text: str) -> str:
    """`text` of our own, in signs that the terminal has."""
    if not ascii_only(host):
        return text
    return text.translate(_PLAIN).encode("ascii", "backslashreplace").decode()
