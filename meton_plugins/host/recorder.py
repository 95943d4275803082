"""Hears every turn of Meton's agents, with the true prompt and completion of each model call.

Meton's hooks fire only around a query, can be switched off, and call a failed turn a success; so the two methods that
everything goes through are wrapped. A context variable ties a call to its turn: sub-agents share the model and nest.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from .api import FinishedTurn, ModelCall, ToolCall

__all__ = ["FAILED", "Recorder"]

#: Answers of Meton's that are no answers; it stores them without a flag.
FAILED: Final = (
    "I encountered an error while reasoning:",
    "I encountered an error: Agent execution failed",
    "I attempted to gather information but encountered issues",
    "I retrieved the file contents but didn't properly analyze",
    "I gathered information from",
    "I read the file but encountered an error",
)
#: Said where the model gave no answer at all.
EMPTY: Final = ("", "Task completed.", "Task completed successfully.", "No answer provided")
#: Put before a tool's raw output where the model gave no answer.
LOST: Final = "Task completed. "
#: Messages before a turn that are handed over with it: what Meton itself keeps.
CONTEXT: Final = 20


@dataclass
class _Open:
    """A turn that is being answered."""

    origin: str
    parent: _Open | None
    calls: list[ModelCall] = field(default_factory=list)
    nested: list[FinishedTurn] = field(default_factory=list)
    failed: bool = False

    def heard(self, prompt: str, completion: str, model: str) -> None:
        call = ModelCall(prompt, completion, model, self.origin)
        turn: _Open | None = self
        while turn is not None:
            turn.calls.append(call)
            turn = turn.parent


class Recorder:
    """Wraps Meton's classes. Each turn goes to `on_turn` when the outermost run has ended."""

    def __init__(self, on_turn: Callable[[FinishedTurn], None], on_error: Callable[[Exception], None]) -> None:
        self._on_turn = on_turn
        self._on_error = on_error
        #: The agent of the user's own chat.
        self.main: Any = None
        self._turn: contextvars.ContextVar[_Open | None] = contextvars.ContextVar("turn", default=None)
        self._undo: list[Callable[[], None]] = []

    def wrap(self, agent_class: Any, manager_class: Any) -> None:
        """Hear what instances of these classes do from now on."""
        run, get_llm = agent_class.run, manager_class.get_llm

        @functools.wraps(run)
        def heard_run(agent: Any, user_input: str, *given: Any, **named: Any) -> Any:
            return self._run(functools.partial(run, agent, user_input, *given, **named), agent, user_input)

        @functools.wraps(get_llm)
        def heard_llm(manager: Any, *given: Any, **named: Any) -> Any:
            llm, turn = get_llm(manager, *given, **named), self._turn.get()
            if turn is None:
                return llm
            model = (given[0] if given else named.get("model_name")) or manager.current_model
            return _Heard(llm, turn, str(model))

        agent_class.run, manager_class.get_llm = heard_run, heard_llm
        self._undo += [lambda: setattr(agent_class, "run", run), lambda: setattr(manager_class, "get_llm", get_llm)]

    def unwrap(self) -> None:
        """Leave the classes as they were."""
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _run(self, run: Callable[[], Any], agent: Any, user_input: str) -> Any:
        turn = _Open(self._origin(agent), self._turn.get())
        try:
            messages = len(agent.conversation.messages)
            before = agent.conversation.get_messages(limit=CONTEXT)
        except Exception as error:
            self._on_error(error)
            return run()
        token = self._turn.set(turn)
        try:
            result = run()
        finally:
            self._turn.reset(token)
        try:
            self._ended(_finished(agent, turn, str(user_input), result, messages, before), turn)
        except Exception as error:  # the answer is there, and worth more than its record
            self._on_error(error)
        return result

    def _origin(self, agent: Any) -> str:
        if agent is self.main:
            return "agent"
        ours = self.main is not None and agent.model_manager is self.main.model_manager
        return "sub-agent" if ours or self._turn.get() is not None else "web"

    def _ended(self, finished: FinishedTurn, turn: _Open) -> None:
        if turn.parent is not None:
            turn.parent.nested += [*turn.nested, finished]
            return
        for one in (*turn.nested, finished):
            self._on_turn(one)


class _Heard:
    """A model whose calls belong to a turn; in everything else the model itself."""

    def __init__(self, llm: Any, turn: _Open, model: str) -> None:
        self._llm, self._turn, self._model = llm, turn, model

    def invoke(self, prompt: Any, *given: Any, **named: Any) -> Any:
        try:
            completion = self._llm.invoke(prompt, *given, **named)
        except Exception:
            self._turn.failed = True
            raise
        if isinstance(prompt, str) and isinstance(completion, str):
            self._turn.heard(prompt, completion, self._model)
        return completion

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)


def _finished(
    agent: Any, turn: _Open, asked: str, result: Any, before: int, context: list[dict[str, Any]]
) -> FinishedTurn:
    conversation = agent.conversation
    added = len(conversation.messages) - before
    new = conversation.get_messages(limit=added) if added > 0 else []
    # A PRE_QUERY hook may have changed the question: what the conversation holds is what the model read.
    question = next((message for message in new if message["role"] == "user"), None)
    answer = str(result.get("output") or "")
    own = [call for call in turn.calls if call.origin == turn.origin]
    return FinishedTurn(
        session=str(conversation.session_id),
        at=_zoned(question["timestamp"] if question else ""),
        question=str(question["content"]) if question else asked,
        answer=answer,
        success=bool(result.get("success")) and bool(own) and not turn.failed and not _says_failed(answer, own),
        model=own[-1].model if own else str(agent.model_manager.current_model),
        calls=tuple(turn.calls),
        tools=tuple(
            ToolCall(str(call.get("tool_name")), str(call.get("input") or ""), str(call.get("output") or ""))
            for call in result.get("tool_calls") or ()
        ),
        context=tuple((str(message["role"]), str(message["content"])) for message in context if before),
        origin=turn.origin,
    )


def _says_failed(answer: str, calls: list[ModelCall]) -> bool:
    if answer.startswith(LOST):
        return not any(LOST in call.completion for call in calls)
    return answer.strip() in EMPTY or answer.lstrip().startswith(FAILED)


def _zoned(timestamp: str) -> str:
    """Meton's naive local time with its zone; now, where there is none."""
    try:
        return datetime.fromisoformat(timestamp).astimezone().isoformat()
    except ValueError:
        return datetime.now().astimezone().isoformat()
