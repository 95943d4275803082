"""An example: a turn in the library, with the user's rating, correction and its side of the split."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from ..errors import UsageError
from ..turn import AGENT, Message, ToolUse, Turn

__all__ = [
    "CANDIDATE",
    "GOOD",
    "IMPORTED",
    "SCORES",
    "Counts",
    "Example",
    "Split",
    "Status",
    "alone",
    "content_mark",
    "identity",
    "score_of",
    "settled",
    "tag_of",
]

Split = Literal["train", "validation", "heldout"]
Status = Literal["usable", "candidate", "rejected"]

#: What `good` and `bad` stand for; 4 and 5 train, 3 stays a candidate, 1 and 2 never train.
SCORES: Final = {"good": 5, "bad": 1}
GOOD: Final = 4
CANDIDATE: Final = 3

#: How the session of an imported chat begins: nobody held it here.
IMPORTED: Final = "import-"

#: A tag is one word: it is typed after a plus or a minus, and joined to others in one line.
_TAG: Final = re.compile(r"[^\W_][\w.:/-]{0,39}")

_PLACEHOLDER_NUMBER: Final = re.compile(r"(<[A-Z_]+_)\d+>")


class Example(BaseModel):
    """One question and answer of the library.

    `steps` are the completions of its agent's own model calls, in order, and `offered` the tools that it was told of;
    they are read only where somebody asks.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    session: str
    at: str
    source: str
    model: str | None = None
    question: str
    answer: str
    context: tuple[Message, ...] = ()
    tools: tuple[ToolUse, ...] = ()
    score: int | None = None
    correction: str | None = None
    rated_at: str | None = None
    split: Split | None = None
    origin: str = AGENT
    failure: str | None = None
    steps: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """What a model should say: the user's correction where there is one."""
        return self.answer if self.correction is None else self.correction

    @property
    def rejected(self) -> str | None:
        """The answer that the user replaced."""
        return None if self.correction is None else self.answer

    @property
    def status(self) -> Status:
        """`usable` trains; a `candidate` only when asked for; `rejected` never, and so no failure that nobody fixed."""
        if self.failure is not None and self.correction is None:
            return "rejected"
        if self.score is None or self.score == CANDIDATE:
            return "candidate"
        return "usable" if self.score >= GOOD else "rejected"


class Counts(BaseModel):
    """How the library stands."""

    examples: int
    sessions: int
    usable: int
    candidates: int
    rejected: int
    unrated: int
    corrected: int
    scores: dict[int, int]
    splits: dict[str, int]
    models: dict[str, int]


def identity(turn: Turn) -> str:
    """What makes a turn the same turn, wherever it was read: session, question and answer.

    Secrets count by kind only: their numbers may change when more of the conversation is read, and a turn must not
    enter twice for that.
    """
    parts = (turn.session, _settled(turn.question), _settled(turn.answer))
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()


def settled(text: str) -> str:
    """`text` as it is compared where any form of it counts: case, width, white space, numbers of placeholders aside."""
    text = _settled(text) if "<" in text else text
    # Most texts are ASCII, which has one form only.
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold().split())


def content_mark(question: str, answer: str) -> str:
    """Equal for the same words, whatever session or format they are in."""
    return hashlib.sha256("\0".join((settled(question), settled(answer))).encode("utf-8")).hexdigest()


def alone(answer: str) -> str:
    """Equal for the same answer, where the question before it is not to be seen."""
    return content_mark("", answer)


def score_of(word: str) -> int:
    """`good`, `bad` or 1 to 5 as a score; UsageError otherwise."""
    known = SCORES.get(word.lower())
    if known is not None:
        return known
    if len(word) == 1 and word in "12345":
        return int(word)
    raise UsageError(f"A rating is good, bad or a number from 1 to 5, not {word[:40]!r}.")


def tag_of(word: str) -> str:
    """`word` as a tag, in small letters; UsageError where it cannot be one."""
    word = word.lower()
    if not _TAG.fullmatch(word):
        raise UsageError(
            f"{word[:40]!r} cannot be a tag: use up to 40 letters, digits, '_', '.', ':', '/' or '-', beginning with a "
            "letter or digit."
        )
    return word


def _settled(text: str) -> str:
    return _PLACEHOLDER_NUMBER.sub(r"\1>", text.strip())
