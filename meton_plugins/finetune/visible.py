"""Text of users and models with nothing in it that a reader cannot see."""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["visible"]

#: Joins the parts of an emoji: the only sign without a shape that texts need.
_JOINER: Final = "\u200d"


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
