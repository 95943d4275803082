"""A chat as training data: what all formats are read into and written from."""

from __future__ import annotations

from dataclasses import dataclass

from ..turn import Message, Role

__all__ = ["BadRecord", "Chat", "Said", "checked", "plain"]


class BadRecord(ValueError):
    """One record that cannot be used; the text is the reason, in a few words, without what the record says."""


@dataclass(frozen=True)
class Said:
    """One message. A `tool` message is a tool's output; `name` and `input` say which tool it was and what it got.

    `learn` is False for an answer that its file marks as context only.
    """

    role: Role
    content: str
    name: str = ""
    input: str = ""
    learn: bool = True


@dataclass(frozen=True)
class Chat:
    """Messages whose answers are to be learned: all of them, or, where `only_last`, the last alone.

    `rejected` is an answer that is worse than the last message; `good` a verdict on the last message.
    """

    messages: tuple[Said, ...]
    rejected: str | None = None
    good: bool | None = None
    only_last: bool = False


def plain(messages: list[Message]) -> Chat:
    """A chat of the library's own messages."""
    return Chat(tuple(Said(message.role, message.content) for message in messages))


def checked(chat: Chat) -> Chat:
    """`chat` itself; BadRecord where it has no question or no answer."""
    if not any(said.role == "user" and said.content.strip() for said in chat.messages):
        raise BadRecord("no question")
    answers = [said for said in chat.messages if said.role == "assistant"]
    if not any(said.content.strip() for said in answers) or (chat.only_last and not answers[-1].content.strip()):
        raise BadRecord("no answer")
    if chat.only_last and chat.messages[-1].role != "assistant":
        raise BadRecord("no answer at its end")
    return chat
