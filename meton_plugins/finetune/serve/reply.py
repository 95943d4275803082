"""An answer of a model reduced to numbers: how much of it repeats, how much nobody could read. No text is kept."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from .. import form
from ..engine.jobs import Spoken

__all__ = ["Reply", "alike", "digest", "reduced", "repeated", "scripts", "strange"]

#: Tokens in a row that make a repetition when they come again.
NGRAM = 4
#: Written in every language, and in code.
EVERYWHERE = frozenset({"LATIN"})
#: Categories of characters that no text shows: unassigned, surrogates, private use, controls.
UNSHOWN = ("Cn", "Cs", "Co", "Cc")


class Reply(BaseModel):
    """One answer. `repeated` and `strange` are parts of it from 0 to 1; `ended`: by the model, not by the limit."""

    model_config = ConfigDict(frozen=True)

    digest: str
    tokens: int
    repeated: float
    strange: float
    ended: bool
    form: bool


def reduced(said: Spoken, known: frozenset[str]) -> Reply:
    """`said` as numbers. `known`: scripts that question and expected answer are written in."""
    return Reply(
        digest=digest(said.text), tokens=len(said.tokens), repeated=repeated(said.tokens),
        strange=strange(said.text, known), ended=said.ended, form=form.keeps(said.text),
    )  # fmt: skip


def digest(text: str) -> str:
    """The same for answers that read the same."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "replace")).hexdigest()[:16]


def repeated(tokens: Sequence[int]) -> float:
    """The part of the runs of four tokens that were there before in the same answer."""
    runs = [tuple(tokens[at : at + NGRAM]) for at in range(len(tokens) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def scripts(text: str) -> frozenset[str]:
    """The scripts of its letters, by their Unicode names: LATIN, GREEK, CJK, ..."""
    return EVERYWHERE | {_script(letter) for letter in set(text) if letter.isalpha()}


def strange(text: str, known: frozenset[str]) -> float:
    """The part of the characters, spaces apart, that cannot be shown or are of a script that was not asked for."""
    shown = [letter for letter in text if not letter.isspace()]
    return sum(_odd(letter, known) for letter in shown) / len(shown) if shown else 0.0


def alike(digests: Iterable[str]) -> int:
    """How many are the same as the most frequent one; 0 of none."""
    return max(Counter(digests).values(), default=0)


def _odd(letter: str, known: frozenset[str]) -> bool:
    if letter == "\ufffd" or unicodedata.category(letter) in UNSHOWN:
        return True
    return letter.isalpha() and _script(letter) not in known


def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]
