"""An example as the rows that are trained on: one, or one for each call of the model that made its answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .. import form
from ..library import Example
from ..settings import BuildSettings
from ..turn import Message, ToolUse
from .manifest import Row

__all__ = ["PLAIN", "example_of", "plain_rows", "prompt", "question_of", "rows", "said"]


#: Ends the id of a row that says an answer once more as a plain chat.
PLAIN: Final = "#plain"

#: Before what tools gave, in a plain chat's question.
_RESULTS: Final = "\n\nTool results:\n"


@dataclass(frozen=True)
class _Said:
    """What the model said after it had seen the results of so many tools."""

    tools: int
    text: str


def rows(example: Example, settings: BuildSettings) -> list[Row]:
    """The chats of an example. Where its model calls are known, each that Meton could read is one, `<id>#<n>`.

    The last always says the example's target: the answer that the user saw and rated, or his own words for it.
    """
    steps = _steps(example) if settings.form == "meton" and example.steps else []
    if not steps:
        return [_row(example.id, example, prompt(example, settings), said(example.target, settings))]
    return [
        _row(f"{example.id}#{number}", example, prompt(example, settings, example.tools[: step.tools]), step.text)
        for number, step in enumerate(steps, 1)
    ]


def example_of(row: str) -> str:
    """The id of the example that the row called `row` comes from: `<id>`, `<id>#<n>`, `<id>#plain`."""
    return row.partition("#")[0]


def plain_rows(examples: Sequence[Example], settings: BuildSettings) -> list[Row]:
    """Some of `examples` once more as plain chats, `plain_share` of them: a model that has only ever seen the agent's
    form cannot talk without it. Which ones is decided by hash, so that the same library gives the same rows.
    """
    number = round(settings.plain_share * len(examples)) if settings.form == "meton" else 0
    chosen = sorted(examples, key=lambda example: hashlib.sha256(f"plain:{example.id}".encode()).digest())[:number]
    plain = settings.model_copy(update={"form": "plain"})
    wanted = sorted(chosen, key=lambda example: (example.at, example.id))
    return [_row(f"{e.id}{PLAIN}", e, prompt(e, plain), said(form.answer_of(e.target), plain)) for e in wanted]


def prompt(example: Example, settings: BuildSettings, tools: Sequence[ToolUse] | None = None) -> list[Message]:
    """What the model is asked, after it has seen the results of `tools`, by default all of the example's."""
    spoken = [message for message in example.context if message.role != "system"]
    context = spoken[-2 * settings.context_turns :] if settings.context_turns else []
    system = _system(example, settings)
    seen = example.tools if tools is None else tools
    if settings.form == "meton":
        return [*system, Message(role="user", content=form.prompt(example.question, context, seen, example.offered))]
    question = example.question
    if seen:
        results = "\n".join(f"- {tool.name}: {tool.output[: form.TOOL_LIMIT]}" for tool in seen)
        question = f"{question}{_RESULTS}{results}"
    return [*system, *context, Message(role="user", content=question)]


def question_of(text: str) -> str:
    """The question alone, in what `prompt` asks last."""
    return form.asked(text).partition(f"{_RESULTS}- ")[0]


def said(answer: str, settings: BuildSettings) -> str:
    """An answer as the model should say it."""
    return form.wrap(answer) if settings.form == "meton" else answer


def _system(example: Example, settings: BuildSettings) -> list[Message]:
    """The system messages of an imported chat as one: most templates take no second."""
    texts = [message.content for message in example.context if message.role == "system"]
    return [Message(role="system", content="\n\n".join(texts))] if texts and not settings.exclude_system else []


def _row(name: str, example: Example, asked: list[Message], answer: str) -> Row:
    return Row(id=name, session=example.session, messages=[*asked, Message(role="assistant", content=answer)])


def _steps(example: Example) -> list[_Said]:
    """The readable calls in order; the last answer among them, or one after them, is the target."""
    wanted: list[_Said] = []
    final = _Said(len(example.tools), form.wrap(example.target))
    for tools, step in _read(example):
        if step.action is not None:
            wanted.append(_Said(tools, form.render(step)))
        else:
            # Meton may turn an answer down and ask again: only the one that the user saw is right.
            final = _Said(tools, form.wrap(example.target, step.thought))
    return [*wanted, final]


def _read(example: Example) -> Iterator[tuple[int, form.Step]]:
    """Each readable call, with how many tools had run before it."""
    ran = 0
    seen: set[tuple[str, str]] = set()
    for text in example.steps:
        step = form.parse(text)
        if step is None:
            continue
        if step.action is not None:
            if (step.action, step.action_input) in seen:
                continue  # Meton breaks this loop off; nobody should learn it
            seen.add((step.action, step.action_input))
        yield ran, step
        if step.action is not None and ran < len(example.tools) and example.tools[ran].name == step.action:
            ran += 1
