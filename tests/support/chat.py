"""A chat as a host would report it."""

from __future__ import annotations

from typing import Any

from meton_plugins.host.api import FinishedTurn, ModelCall, ToolCall

#: As long as Meton's own.
INSTRUCTIONS = "You are Meton. Use your tools; answer in four parts.\n" * 1050 + "\n"

LOOK = 'THOUGHT: I look.\nACTION: file_operations\nACTION_INPUT: {"action": "read"}\nANSWER:'


def call(own: str, completion: str, origin: str = "agent") -> ModelCall:
    return ModelCall(f"{INSTRUCTIONS}{own}", completion, "m:7b", origin)


def finished(number: int = 1, **more: Any) -> FinishedTurn:
    """A turn that read a file and answered: two calls of the model, one tool."""
    question, answer = f"What is in file {number}?", f"It holds the number {number}."
    values: dict[str, Any] = {
        "session": "5e551011-0000-4000-8000-000000000000",
        "at": f"2026-03-02T09:{number % 60:02}:00.000001+00:00",
        "question": question,
        "answer": answer,
        "success": True,
        "model": "m:7b",
        "calls": (
            call(f"User Query: {question}", LOOK),
            call(f"Previous Tool Calls:\n- x\n\nUser Query: {question}", f"THOUGHT: I know.\nACTION: NONE\n"
                 f"ACTION_INPUT:\nANSWER: {answer}"),
        ),
        "tools": (ToolCall("file_operations", '{"action": "read"}', f"✓ Read 1 lines\n{number}"),),
    }  # fmt: skip
    return FinishedTurn(**{**values, **more})
