"""Examples in a line."""

from __future__ import annotations

from typing import Any

from meton_plugins.finetune.library import Example

__all__ = ["example", "sessions"]


def example(name: str = "e1", session: str = "s1", **more: Any) -> Example:
    """An example whose words hold its name, unless `more` says otherwise."""
    values = {"question": f"Question {name}?", "answer": f"A long enough answer {name}.", "at": "2026-03-02T09:00:00"}
    return Example.model_validate({"id": name, "session": session, "source": "meton", **values, **more})


def sessions(count: int, each: int = 1, **more: Any) -> list[Example]:
    """`count` conversations of `each` examples."""
    return [example(f"e{s}x{n}", f"s{s}", **more) for s in range(count) for n in range(each)]
