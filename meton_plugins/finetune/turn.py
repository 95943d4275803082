"""A turn: one question of the user, what the assistant did for it, and the answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Message", "ToolUse", "Turn", "storable"]

Role = Literal["system", "user", "assistant", "tool"]


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


class Turn(_Data):
    """A question and its answer, with what came before. `at` is the question's ISO time, local and naive in Meton."""

    session: str
    at: str
    question: str
    answer: str
    context: tuple[Message, ...] = ()
    tools: tuple[ToolUse, ...] = ()
    model: str | None = None
    source: str = "meton"

    def texts(self) -> list[str]:
        """Every text of the turn, in reading order; `with_texts` puts them back."""
        texts = [message.content for message in self.context]
        texts.append(self.question)
        for tool in self.tools:
            texts += [tool.input, tool.output]
        texts.append(self.answer)
        return texts

    def with_texts(self, texts: list[str]) -> Turn:
        """The same turn with other texts, in the order of `texts`."""
        rest = iter(texts)
        context = tuple(Message(role=message.role, content=next(rest)) for message in self.context)
        question = next(rest)
        tools = tuple(ToolUse(name=tool.name, input=next(rest), output=next(rest)) for tool in self.tools)
        return self.model_copy(update={"context": context, "question": question, "tools": tools, "answer": next(rest)})


def storable(text: str) -> str:
    """`text` without what cannot be written as UTF-8: lone surrogates, which JSON files and terminals can bring."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text
