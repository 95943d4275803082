"""Ratings that were given outside this plugin: Meton's feedback_db.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from ..errors import FinetuneError
from ..formats.encodings import open_text
from ..formats.values import values
from ..library import Library
from ..library.records import SCORES
from ..turn import Turn, storable
from .clean import Scrub
from .conversations import Problem
from .failures import failure

__all__ = ["take_feedback"]

TYPES: Final = ("positive", "negative", "correction")


def take_feedback(library: Library, path: Path, scrub: Scrub) -> tuple[int, Problem | None]:
    """Take each rating of the file at `path` once, however often it is called: how many were new, and what was wrong.

    The answer is found in the library, whatever its session; one that is not there is taken in. A rating that the user
    gave here meanwhile stands.
    """
    if not path.is_file():
        return 0, None
    try:
        with open_text(path) as file:
            entries = [entry for _, entry in values(file)]
    except (OSError, ValueError) as error:
        return 0, Problem(str(path), f"cannot be read ({type(error).__name__})")
    usable = [entry for entry in entries if _usable(entry)]
    names = {_name(entry): entry for entry in usable}
    taken = library.taken_feedback()
    new = [(name, entry) for name, entry in names.items() if name not in taken]
    kept = sum(_take(library, name, entry, scrub) for name, entry in new)
    left = len(entries) - len(usable)
    if left and not usable:
        return 0, Problem(str(path), "is no list of ratings")
    many = "1 entry is malformed and was" if left == 1 else f"{left} entries are malformed and were"
    return kept, Problem(str(path), f"{many} left out") if left else None


def _take(library: Library, name: str, entry: dict[str, Any], scrub: Scrub) -> bool:
    """Take one rating; False where the user had its words forgotten."""
    correction = entry.get("correction") if entry["feedback_type"] == "correction" else None
    texts = [entry["query"], entry["response"], correction if isinstance(correction, str) else ""]
    (question, answer, better), _ = scrub([storable(text) for text in texts])
    example = library.same(question, answer)
    if example is None:
        at = entry.get("timestamp")
        # A session of its own: answers that have nothing to do with each other may lie on different sides of the split.
        turn = Turn(
            session=f"feedback-{name}", at=at if isinstance(at, str) else "", question=question, answer=answer,
            source="feedback", failure=failure(answer, []),
        )  # fmt: skip
        taken = library.take(turn)
        if taken is None:  # the user had it forgotten
            library.take_feedback(name)
            return False
        example = library.get(taken)
    if example.score is None:
        try:
            if better.strip():
                library.fix(example.id, better)
            else:
                library.rate([example.id], SCORES["good" if entry["feedback_type"] == "positive" else "bad"])
        except FinetuneError:
            pass  # the correction says what the answer says
    library.take_feedback(name)
    return True


def _usable(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.get("feedback_type") in TYPES
        and all(isinstance(entry.get(key), str) and entry[key].strip() for key in ("query", "response"))
    )


def _name(entry: dict[str, Any]) -> str:
    """Its id; a hash of its words where it has none."""
    known = entry.get("id")
    if isinstance(known, str) and known.strip():
        return storable(known)
    words = json.dumps([entry.get(key) for key in ("timestamp", "query", "response", "feedback_type", "correction")])
    return hashlib.sha256(words.encode()).hexdigest()[:32]
