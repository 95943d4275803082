"""What a frozen dataset says of itself: recipe, counts at each stage, tokens, and the hash of every file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, Field, ValidationError

from ..errors import DataError, NotFound
from ..library.records import Split
from ..settings import BuildSettings
from ..turn import Message

__all__ = [
    "FILES",
    "MANIFEST",
    "PAIRS",
    "FileEntry",
    "Manifest",
    "Redaction",
    "Row",
    "SourceEntry",
    "Stage",
    "TokenStats",
    "read_manifest",
]

MANIFEST: Final = "manifest.json"
PAIRS: Final = "pairs.jsonl"

#: The file of each side of the split.
FILES: Final[dict[Split, str]] = {"train": "train.jsonl", "validation": "validation.jsonl", "heldout": "heldout.jsonl"}

#: Context sizes that people train with.
SIZES: Final = (512, 1024, 2048, 4096)


class Row(BaseModel):
    """One line of a dataset: a chat whose last message, the assistant's, is what is learned."""

    id: str
    session: str
    messages: list[Message]


class FileEntry(BaseModel):
    """A file of the dataset."""

    sha256: str
    bytes: int
    lines: int


class Stage(BaseModel):
    """How many examples a stage of the build kept, and why it left some out, where it did."""

    name: str
    kept: int
    reason: str = ""


class SourceEntry(BaseModel):
    """A source of a dataset that was built from several: its examples on all sides, its rows to train on."""

    label: str
    weight: float
    examples: int
    rows: int


class TokenStats(BaseModel):
    """Tokens a row as the base's own tokenizer and chat template count them."""

    base: dict[str, Any]
    total: int
    min: int
    median: float
    mean: float
    max: int
    over: dict[int, int]
    longest: list[tuple[str, int]]

    @classmethod
    def of(cls, base: dict[str, Any], rows: Sequence[Row], counts: Sequence[int]) -> TokenStats:
        """Statistics of `counts`, one a row; `over` counts the rows longer than each usual context size."""
        longest = sorted(zip((row.id for row in rows), counts, strict=True), key=lambda pair: (-pair[1], pair[0]))
        return cls(
            base=base,
            total=sum(counts),
            min=min(counts),
            median=statistics.median(counts),
            mean=round(statistics.fmean(counts), 2),
            max=max(counts),
            over={size: sum(count > size for count in counts) for size in SIZES},
            longest=longest[:5],
        )


class Redaction(BaseModel):
    """What was taken out of a frozen dataset because the user had it forgotten. `files`: hash before and after."""

    at: str
    #: Stands for what was forgotten, without naming it.
    forgotten: str
    #: Lines that went, by file.
    lines: dict[str, int]
    files: dict[str, tuple[str, str]]


class Manifest(BaseModel):
    """manifest.json, written last: where it exists, the dataset is whole."""

    version: Literal[1] = 1
    id: str
    settings: BuildSettings
    #: The recipe that the settings come from, as it was named. Another name makes no other dataset.
    recipe: str | None = None
    #: Which assistant messages are learned: earlier ones are context that nobody rated.
    learned: Literal["last"] = "last"
    funnel: list[Stage]
    #: Rows of each side, and pairs.
    counts: dict[str, int]
    #: Answers of each side; each gives a row, or one for each call of the model. Empty where an older version built.
    examples: dict[str, int] = Field(default_factory=dict)
    #: Rows of the training side that say an answer once more as a plain chat.
    plain: int = 0
    sessions: dict[str, int]
    #: Empty where the dataset was built from the whole library.
    sources: list[SourceEntry] = Field(default_factory=list)
    secrets: dict[str, int]
    files: dict[str, FileEntry]
    tokens: TokenStats | None = None
    #: The id stays what it was: runs name it.
    redacted: list[Redaction] = Field(default_factory=list)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the dataset in `path`, its files unread."""
    try:
        return Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{path} is no dataset: it holds no {MANIFEST}.") from error
    except ValidationError as error:
        raise DataError(
            f"{path / MANIFEST} is damaged, or a newer version wrote it: build the dataset again."
        ) from error
