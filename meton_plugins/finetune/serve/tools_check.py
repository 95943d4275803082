"""The tools smoke test: requests that want a tool, and whether a model names the right one with JSON that parses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from pydantic import BaseModel

from .. import form
from .form_check import Speaker

__all__ = ["REQUESTS", "UNTIL", "Request", "ToolsCheck", "check", "prompts"]

#: A tool is asked for once its input is there; what is said after it is not looked at.
UNTIL: Final = r"(?m)^(ANSWER:|ACTION_INPUT:[^\n]*\n)"


class Request(NamedTuple):
    """What a user might ask, and the tool of Meton's that answers it."""

    question: str
    tool: str


#: Plain requests to the tools that every Meton offers, one that any model that can use tools gets right.
REQUESTS: Final = (
    Request("Read the file README.md and tell me its first heading.", "file_operations"),
    Request("List the files in the folder src.", "file_operations"),
    Request("Run this Python code and show me what it prints: print(2 + 2)", "code_executor"),
    Request("Find where the function parse_config is defined in this codebase.", "codebase_search"),
    Request("Search the web for the newest release of FastAPI.", "web_search"),
)


class ToolsCheck(BaseModel):
    """Of so many requests, how many each model answered with the right tool and JSON that parses."""

    requests: int
    base: int
    tuned: int


def prompts(instructions: str | None, requests: Sequence[Request] = REQUESTS) -> list[str]:
    """The requests as Meton would send them; in the short form of training where its instructions were never heard."""
    if instructions is not None:
        return [form.full_prompt(instructions, request.question) for request in requests]
    tools = sorted({request.tool for request in requests})
    return [form.prompt(request.question, offered=tools) for request in requests]


def check(
    base: Speaker, tuned: Speaker, instructions: str | None = None, requests: Sequence[Request] = REQUESTS
) -> ToolsCheck:
    """Put the requests to both models."""
    texts = prompts(instructions, requests)
    before, after = (
        sum(_right(answer, request) for answer, request in zip(speak(texts), requests, strict=True))
        for speak in (base, tuned)
    )
    return ToolsCheck(requests=len(requests), base=before, tuned=after)


def _right(answer: str, request: Request) -> bool:
    step = form.parse(answer)
    if step is None or step.action != request.tool:
        return False
    try:
        return isinstance(json.loads(step.action_input), dict)
    except ValueError:
        return False
