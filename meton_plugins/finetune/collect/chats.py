"""An imported chat as turns of the library, each with what the file says of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from .. import form
from ..formats.chat import BadRecord, Chat, Said
from ..library.records import IMPORTED, SCORES
from ..turn import Message, ToolUse, Turn, storable
from .clean import Scrub
from .conversations import CONTEXT_TURNS

__all__ = ["Brought", "turns_of"]

#: Hexadecimal digits that tell imported sessions apart.
SESSION_DIGITS: Final = 20


@dataclass(frozen=True)
class Brought:
    """A turn, its score where there is one, and the better answer of a preference pair."""

    turn: Turn
    score: int | None = None
    correction: str | None = None


def turns_of(
    chat: Chat, scrub: Scrub, secrets: Counter[str], *, at: str, source: str, score: int | None
) -> list[Brought]:
    """One turn for each answer of `chat` that is to be learned, without secrets, with what was said before it.

    `score` is for chats that bring no verdict of their own. BadRecord where there is nothing to learn.
    """
    chat = _unformed(_cleaned(chat, scrub, secrets))
    session = _session(chat)
    last = len(chat.messages) - 1
    found: list[Brought] = []
    system: list[Message] = []
    context: list[Message] = []
    question: list[str] = []
    tools: list[ToolUse] = []
    for number, said in enumerate(chat.messages):
        if said.role == "system":
            system.append(Message(role="system", content=said.content))
        elif said.role == "user":
            question.append(said.content)
        elif said.role == "tool":
            tools.append(ToolUse(name=said.name or "tool", input=said.input, output=said.content))
        elif not said.content.strip():
            continue
        else:
            asked = "\n\n".join(question)
            if asked.strip() and said.learn and (number == last or not chat.only_last):
                turn = Turn(
                    session=session, at=at, question=asked, answer=said.content, tools=tuple(tools), source=source,
                    context=(*system, *context[-2 * CONTEXT_TURNS :]),
                )  # fmt: skip
                found.append(Brought(turn, score))
            if asked.strip():  # what follows an answer without a question would not alternate, as templates want it
                context += [Message(role="user", content=asked), Message(role="assistant", content=said.content)]
            question, tools = [], []
    if not found:
        raise BadRecord("no answer that is to be learned")
    if chat.only_last or chat.rejected or chat.good is not None:
        found[-1] = _judged(found[-1], chat)
    return found


def _judged(brought: Brought, chat: Chat) -> Brought:
    """The last answer with the file's own verdict: a pair's worse answer is what the better one corrects."""
    if chat.good is not None:
        return Brought(brought.turn, SCORES["good" if chat.good else "bad"])
    if chat.rejected is None or not chat.rejected.strip():
        return brought
    better = brought.turn.answer
    if better.strip() == chat.rejected.strip():
        raise BadRecord("a pair of the same answers")
    return Brought(brought.turn.model_copy(update={"answer": chat.rejected}), SCORES["good"], better)


def _cleaned(chat: Chat, scrub: Scrub, secrets: Counter[str]) -> Chat:
    texts = [storable(text) for said in chat.messages for text in (said.content, said.input)]
    texts.append(storable(chat.rejected or ""))
    cleaned, counts = scrub(texts)
    secrets.update(counts)
    rest = iter(cleaned)
    messages = tuple(Said(said.role, next(rest), storable(said.name), next(rest), said.learn) for said in chat.messages)
    return Chat(messages, None if chat.rejected is None else next(rest), chat.good, chat.only_last)


def _unformed(chat: Chat) -> Chat:
    """A chat out of Meton's form, as our own datasets have it: put into the form once more, it would teach nonsense."""
    if not any(said.content.startswith(form.COMPACT_INSTRUCTIONS) for said in chat.messages):
        return chat
    messages: list[Said] = []
    for said in chat.messages:
        asked = form.unprompted(said.content) if said.role == "user" else None
        if asked is not None:
            question, results = asked
            messages.append(Said("user", question))
            messages += [Said("tool", result.output, name=result.name) for result in results]
        elif said.role == "assistant" and (step := form.parse(said.content)):
            final = bool(step.answer) and step.action is None
            messages.append(replace(said, content=step.answer or said.content, learn=said.learn and final))
        else:
            messages.append(said)
    worse = form.parse(chat.rejected) if chat.rejected else None
    rejected = worse.answer if worse and worse.answer else chat.rejected
    return replace(chat, messages=tuple(messages), rejected=rejected)


def _session(chat: Chat) -> str:
    """Made from how the chat begins: importing again gives nothing new, and a chat that has grown its new turns.

    Answers to the same first question are one session, so that they lie on one side of the split.
    """
    first = next(number for number, said in enumerate(chat.messages) if said.role == "user")
    words = "\0".join(said.content.strip() for said in chat.messages[: first + 1])
    return IMPORTED + hashlib.sha256(words.encode("utf-8")).hexdigest()[:SESSION_DIGITS]
