"""Text of the user on his terminal: nothing that it would obey, and no letter that it cannot write."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

from rich.text import Text

from .edge import say

if TYPE_CHECKING:
    from ...host.api import Host

__all__ = ["ascii_only", "cell", "line", "visible"]

#: Our own signs where a terminal knows ASCII alone.
_PLAIN: Final = str.maketrans(
    {"·": ".", "−": "-", "–": "-", "→": "->", "×": "x", "…": "...", "✂": "8<", "⏎": "\\n", "⟦": "[[", "⟧": "]]"}
)
#: Joins the parts of an emoji: the only sign without a shape that texts need.
_JOINER: Final = "\u200d"


def ascii_only(host: Host) -> bool:
    """Whether the terminal, or the file, can hold nothing but ASCII."""
    return bool(host.console.options.ascii_only)


def cell(host: Host, text: str, style: str = "") -> Text:
    """`text` for a table: harmless, on one line."""
    return Text(_fitting(host, visible(" ".join(text.split()))), style)


def line(host: Host, text: str, style: str = "") -> None:
    """Print a line of our own, in signs that the terminal has."""
    say(host, _fitting(host, text), style)


def visible(text: str) -> str:
    """`text` with everything that has no shape spelled out; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter in "\n\t" or letter == _JOINER or not _shapeless(letter) else f"<U+{ord(letter):04X}>"
        for letter in text
    )


def _shapeless(letter: str) -> bool:
    # Controls, halves of letters, and what turns the direction of all that follows.
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _fitting(host: Host, text: str) -> str:
    if not ascii_only(host):
        return text
    return text.translate(_PLAIN).encode("ascii", "backslashreplace").decode()
