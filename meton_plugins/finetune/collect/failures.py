"""Answers that Meton stores as if they were good ones: never to be trained on."""

from __future__ import annotations

from typing import Final

__all__ = ["failure"]

#: How Meton begins what it says when it failed, and the reason under which we count it.
PREFIXES: Final = (
    ("I encountered an error while reasoning:", "the model call failed"),
    ("I encountered an error: Agent execution failed", "the agent failed"),
    ("I attempted to gather information but encountered issues", "the tools failed"),
    ("I retrieved the file contents but didn't properly analyze", "the answer was lost"),
    ("I gathered information from", "the answer was lost"),
    ("I read the file but encountered an error", "the answer was lost"),
)

#: What Meton says in place of an answer that did not keep the form.
EMPTY: Final = ("Task completed.", "Task completed successfully.")

LOST: Final = "the answer did not keep the form"


def failure(answer: str, outputs: list[str]) -> str | None:
    """Why `answer` is a failure of Meton, or None. `outputs` are the turn's tool results."""
    text = answer.strip()
    if not text:
        return "the answer is empty"
    for prefix, reason in PREFIXES:
        if text.startswith(prefix):
            return reason
    if text in EMPTY:
        return LOST
    # Without an ANSWER, Meton puts the last tool's raw output behind these words.
    if text.startswith(EMPTY[0]) and text.removeprefix(EMPTY[0]).strip() in (output.strip() for output in outputs):
        return LOST
    return None
