"""Tools for Meton's agent, in the one form that it calls: a BaseTool whose `_run` takes and gives text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

from .api import ToolSpec

__all__ = ["agent_tool"]

#: `/tools` shows so much of a description's first line.
SHOWN: Final = 50


class PluginTool(BaseTool):
    """One tool of a plugin. `StructuredTool` and `@tool` are called in another way and fail in Meton."""

    _work: Callable[[str], str] = PrivateAttr()

    def _run(self, tool_input: str = "", **_ignored: Any) -> str:
        return self._work(tool_input if isinstance(tool_input, str) else str(tool_input))


def agent_tool(spec: ToolSpec, guarded: Callable[[ToolSpec, str], str]) -> BaseTool:
    """`spec` as the agent wants it; `guarded(spec, text)` runs it and never raises."""
    tool = PluginTool(name=spec.name, description=_described(spec.description))
    tool._work = lambda text: guarded(spec, text)
    return tool


def _described(text: str) -> str:
    """The same text with a first line that `/tools` shows whole, where a sentence ends in time."""
    first, _, rest = text.partition("\n")
    end = first.rfind(". ", 0, SHOWN + 1) + 1
    if len(first) <= SHOWN or not end:
        return text
    return "\n".join(part for part in (first[:end], first[end:].strip(), rest) if part)
