"""Question and answer in fields of their own: Alpaca, prompt and completion, preference pairs, ratings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .chat import BadRecord, Chat, Said
from .messages import messages_of, write_messages

__all__ = [
    "read_alpaca",
    "read_completion",
    "read_preference",
    "read_rating",
    "write_alpaca",
    "write_completion",
    "write_preference",
    "write_rating",
]

LABELS: Final = {"true": True, "good": True, "1": True, "false": False, "bad": False, "0": False}


def read_alpaca(record: Mapping[str, Any]) -> Chat:
    """`instruction, input, output`, with `system` and `history` where there are such."""
    return Chat((*_asked(record), Said("assistant", _field(record, "output", "response"))))


def write_alpaca(chat: Chat) -> dict[str, str | list[list[str]]]:
    """One Alpaca record; earlier turns become its `history`."""
    system, turns = _turns(chat)
    record: dict[str, str | list[list[str]]] = {"instruction": turns[-1][0], "input": "", "output": turns[-1][1]}
    if system is not None:
        record["system"] = system
    if turns[:-1]:
        record["history"] = [list(turn) for turn in turns[:-1]]
    return record


def read_completion(record: Mapping[str, Any]) -> Chat:
    """`prompt, completion` (or `question, answer`), each text or messages; the completion alone is learned."""
    answer = _one(record.get("completion", record.get("answer")))
    return Chat((*_prompt(record), Said("assistant", answer)), only_last=True)


def write_completion(chat: Chat) -> dict[str, Any]:
    """One prompt and its completion: texts where the prompt is one question, messages otherwise."""
    prompt, answer = _divided(chat)
    if isinstance(prompt, str):
        return {"prompt": prompt, "completion": answer}
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}


def read_preference(record: Mapping[str, Any]) -> Chat:
    """`prompt, chosen, rejected`, the answers as text or messages; without a prompt, chats that begin alike."""
    chosen, rejected = record["chosen"], record["rejected"]
    if _has_prompt(record):
        return Chat((*_prompt(record), Said("assistant", _one(chosen))), rejected=_one(rejected), only_last=True)
    one, other = messages_of(chosen), messages_of(rejected)
    if len(one) < 2 or one[:-1] != other[:-1] or other[-1].role != "assistant":
        raise BadRecord("a pair whose chats do not differ in the last answer alone")
    return Chat(one, rejected=other[-1].content, only_last=True)


def write_preference(chat: Chat) -> dict[str, Any]:
    """One preference pair."""
    if chat.rejected is None:
        raise BadRecord("no rejected answer")
    prompt, answer = _divided(chat)
    if isinstance(prompt, str):
        return {"prompt": prompt, "chosen": answer, "rejected": chat.rejected}
    sides = {"chosen": answer, "rejected": chat.rejected}
    return {"prompt": prompt, **{side: [{"role": "assistant", "content": text}] for side, text in sides.items()}}


def read_rating(record: Mapping[str, Any]) -> Chat:
    """`prompt, completion, label`."""
    label = LABELS.get(str(record["label"]).strip().lower())
    if label is None:
        raise BadRecord("a label that is neither true nor false")
    completed = read_completion(record)
    return Chat(completed.messages, good=label, only_last=True)


def write_rating(chat: Chat) -> dict[str, Any]:
    """One completion with its label."""
    if chat.good is None:
        raise BadRecord("no verdict")
    return {**write_completion(chat), "label": chat.good}


def _has_prompt(record: Mapping[str, Any]) -> bool:
    return any(key in record for key in ("prompt", "question", "instruction", "messages", "conversations"))


def _prompt(record: Mapping[str, Any]) -> tuple[Said, ...]:
    """What was asked, wherever a record has it."""
    for key in ("messages", "conversations"):
        if key in record:
            return messages_of(record[key])
    if "instruction" in record:
        return _asked(record)
    prompt = record.get("prompt", record.get("question"))
    if isinstance(prompt, str):
        return (*_system(record), Said("user", prompt))
    return messages_of(prompt)


def _asked(record: Mapping[str, Any]) -> tuple[Said, ...]:
    """System, history and instruction of an Alpaca record, the input behind the instruction."""
    said = list(_system(record))
    history = record.get("history") or []
    if not isinstance(history, list):
        raise BadRecord("a history that is no list")
    for turn in history:
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise BadRecord("a history that is no list of questions and answers")
        said += [Said("user", turn[0]), Said("assistant", turn[1])]
    more = record.get("input", record.get("context"))
    question = _field(record, "instruction")
    if isinstance(more, str) and more.strip():
        question = f"{question}\n\n{more}"
    return (*said, Said("user", question))


def _system(record: Mapping[str, Any]) -> tuple[Said, ...]:
    system = record.get("system")
    return (Said("system", system),) if isinstance(system, str) and system.strip() else ()


def _one(answer: Any) -> str:
    """An answer: a text, one message, or the last of several."""
    if isinstance(answer, str):
        return answer
    last = messages_of([answer] if isinstance(answer, dict) else answer)[-1]
    if last.role != "assistant":
        raise BadRecord("an answer that is not the assistant's")
    return last.content


def _field(record: Mapping[str, Any], *names: str) -> str:
    for name in names:
        if isinstance(record.get(name), str):
            return str(record[name])
    raise BadRecord(f"no {names[0]}")


def _turns(chat: Chat) -> tuple[str | None, list[tuple[str, str]]]:
    """System text, and questions with answers; BadRecord for a chat of another shape."""
    messages = list(chat.messages)
    system = messages.pop(0).content if messages and messages[0].role == "system" else None
    roles = [said.role for said in messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2) or not all(said.learn for said in messages):
        raise BadRecord("not questions and answers in turn")
    return system, [(one.content, other.content) for one, other in zip(messages[::2], messages[1::2], strict=True)]


def _divided(chat: Chat) -> tuple[str | list[dict[str, Any]], str]:
    """Prompt and last answer."""
    *before, last = chat.messages
    if last.role != "assistant" or not before:
        raise BadRecord("no answer at its end")
    if len(before) == 1 and before[0].role == "user":
        return before[0].content, last.content
    return write_messages(Chat(tuple(before)))["messages"], last.content
