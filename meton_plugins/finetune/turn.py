"""A turn: one question of the user, what the assistant did for it, and the answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["AGENT", "Call", "Message", "Role", "ToolUse", "Turn", "storable"]

Role = Literal["system", "user", "assistant", "tool"]

#: The origin of the user's own chat; sub-agents and a web UI have other words, and do not train unless rated.
AGENT = "agent"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)


class Message(_Data):
    """One message of a conversation."""

    role: Role
    content: str


class ToolUse(_Data):
    """One tool that was run for an answer. Meton's files keep no input."""

    name: str
    input: str = ""
    output: str = ""


class Call(_Data):
    """One call of the model. What it was asked is `instructions` (the same in call after call), then `prompt`."""

    prompt: str
    completion: str
    instructions: str = ""
    model: str | None = None
    origin: str = AGENT

    @property
    def whole(self) -> str:
        """All that the model was sent."""
        return self.instructions + self.prompt


class Turn(_Data):
    """A question and its answer, with what came before. `at` is the question's ISO time, local and naive in Meton.

    `calls` are there where the turn was heard as it happened; `failure` says why the answer is none.
    """

    session: str
    at: str
    question: str
    answer: str
    context: tuple[Message, ...] = ()
    tools: tuple[ToolUse, ...] = ()
    calls: tuple[Call, ...] = ()
    model: str | None = None
    source: str = "meton"
    origin: str = AGENT
    failure: str | None = None

    def texts(self) -> list[str]:
        """Every text of the turn; `with_texts` puts them back.

        Instructions come first: their secrets get the same numbers whatever was asked, so they stay the same text.
        """
        texts = [call.instructions for call in self.calls]
        texts += [message.content for message in self.context]
        texts.append(self.question)
        for tool in self.tools:
            texts += [tool.input, tool.output]
        texts.append(self.answer)
        for call in self.calls:
            texts += [call.prompt, call.completion]
        return texts

    def with_texts(self, texts: list[str]) -> Turn:
        """The same turn with other texts, in the order of `texts`."""
        rest = iter(texts)
        instructions = [next(rest) for _ in self.calls]
        context = tuple(Message(role=message.role, content=next(rest)) for message in self.context)
        question = next(rest)
        tools = tuple(ToolUse(name=tool.name, input=next(rest), output=next(rest)) for tool in self.tools)
        answer = next(rest)
        calls = tuple(
            call.model_copy(update={"instructions": text, "prompt": next(rest), "completion": next(rest)})
            for call, text in zip(self.calls, instructions, strict=True)
        )
        changed = {"context": context, "question": question, "tools": tools, "answer": answer, "calls": calls}
        return self.model_copy(update=changed)


def storable(text: str) -> str:
    """`text` without what cannot be written as UTF-8: lone surrogates, which JSON files and terminals can bring."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text
