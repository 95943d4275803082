"""The same said many times in the rows of a run: exact and near duplicates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .. import form
from ..curate.duplicates import Said, compare
from ..curate.manifest import FILES
from ..curate.rows import PLAIN, example_of
from ..settings import BuildSettings
from ..units import many
from .finding import Finding
from .runs import Run

__all__ = ["repeated"]

#: Part of the examples that may say what others say, and times that one thing may be said, before it is worth a word.
PART: Final = 0.1
TIMES: Final = 4
#: As the build takes it.
ALIKE: Final[float] = BuildSettings().duplicate_threshold
#: Characters of a question that are shown.
SHOWN: Final = 60


def repeated(run: Run) -> Finding | None:
    """Whether many training examples of `run` are duplicates of others. Reads and compares all: seconds for 10,000."""
    texts = _texts(run.folder / "dataset" / FILES["train"])
    alike = compare(texts)
    exact = sum(alike.heads[text.id] != text.id for text in texts)
    sets = _sets(texts, alike.heads, [(pair.one, pair.other) for pair in alike.pairs
                                      if min(pair.question, pair.answer) >= ALIKE])  # fmt: skip
    sizes = Counter(sets.values())
    double = len(texts) - len(sizes)
    if not texts or not double:
        return None
    worst, most = sizes.most_common(1)[0]
    if double < PART * len(texts) and most < TIMES:
        return None
    question = next(text.question for text in texts if text.id == worst)
    question = " ".join(question.split())
    shown = question if len(question) <= SHOWN else f"{question[: SHOWN - 2]} …"
    return Finding(
        "duplicates", "note", "Duplicates",
        f"{double} of {many(len(texts), 'example')} say what others say ({exact} word for word, {double - exact} "
        f"nearly); {shown!r} is there {most} times.",
        "/dataset duplicates shows them; /dataset build --deduplicate keeps one of each.",
        "many of its examples are duplicates",
    )  # fmt: skip


def _texts(path: Path) -> list[Said]:
    """Question and answer of each example: of one that gave several rows the last, and never its plain copy.

    An example that the user weighted is there several times under one id, as he wanted it.
    """
    found: dict[str, Said] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        row: dict[str, Any] = json.loads(line)
        name = str(row["id"])
        if name.endswith(PLAIN):
            continue
        said = {message["role"]: message["content"] for message in row["messages"]}  # the last of each
        whole = example_of(name)
        found[whole] = Said(whole, form.asked(said.get("user", "")), form.answer_of(said.get("assistant", "")))
    return list(found.values())


def _sets(texts: Sequence[Said], heads: dict[str, str], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """For each example the first of those that say the same, directly or by way of others."""
    parent = {text.id: text.id for text in texts}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for one, other in (*heads.items(), *pairs):
        a, b = sorted((root(one), root(other)))
        parent[b] = a
    return {text.id: root(text.id) for text in texts}
