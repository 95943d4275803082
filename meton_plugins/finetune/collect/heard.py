"""A turn as the host heard it, made into one of the library's."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, cast

from .. import form
from ..turn import Call, Message, ToolUse, Turn
from .conversations import CONTEXT_TURNS
from .failures import failure

if TYPE_CHECKING:
    from ...host.api import FinishedTurn

__all__ = ["as_turn"]

FAILED: Final = "the agent failed"

#: Longest earlier message kept with a turn, in characters: ten times what Meton shows its agent. Each was kept whole as
#: a turn of its own; to search eight of any length for secrets anew would make every turn of a session slower.
CONTEXT_LIMIT: Final = 2000


def as_turn(heard: FinishedTurn) -> Turn:
    """`heard` with its calls' instructions told apart, its time as Meton's files have it, and failures labelled."""
    reason = failure(heard.answer, [tool.output for tool in heard.tools])
    if reason is None and not heard.success:
        reason = FAILED
    context = [
        Message(role=cast(Literal["user", "assistant"], role), content=_beginning(content))
        for role, content in [said for said in heard.context if said[0] in ("user", "assistant")][-2 * CONTEXT_TURNS :]
    ]
    return Turn(
        session=heard.session,
        at=_local(heard.at),
        question=heard.question,
        answer=heard.answer,
        context=tuple(context),
        tools=tuple(ToolUse(name=tool.name, input=tool.input, output=tool.output) for tool in heard.tools),
        calls=tuple(_call(call.prompt, call.completion, call.model, call.origin) for call in heard.calls),
        model=heard.model or None,
        origin=heard.origin,
        failure=reason,
    )


def _beginning(text: str) -> str:
    """As much of `text` as is kept, ending between two words: half a secret would not be known for one."""
    if len(text) <= CONTEXT_LIMIT:
        return text
    head = text[: CONTEXT_LIMIT + 1]
    return f"{head[: max(head.rfind(' '), head.rfind(chr(10)), 0)].rstrip()} …".lstrip()


def _call(prompt: str, completion: str, model: str, origin: str) -> Call:
    instructions, own = form.divide(prompt)
    return Call(instructions=instructions, prompt=own, completion=completion, model=model or None, origin=origin)


def _local(at: str) -> str:
    """The naive local time that Meton's files have: one library sorts both by text."""
    try:
        # Python 3.10 knows no Z.
        when = datetime.fromisoformat(at[:-1] + "+00:00" if at.endswith("Z") else at)
    except ValueError:
        when = datetime.now()
    return when.astimezone().replace(tzinfo=None).isoformat(timespec="microseconds")
