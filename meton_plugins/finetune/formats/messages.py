"""OpenAI's messages and ShareGPT's conversations: a list of who said what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from ..turn import Role
from .chat import BadRecord, Chat, Said

__all__ = ["messages_of", "read_messages", "read_sharegpt", "write_messages", "write_sharegpt"]

#: Everybody's names for those who speak, in small letters.
ROLES: Final[Mapping[str, Role]] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "question": "user", "instruction": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "ai": "assistant", "bing": "assistant", "bard": "assistant", "claude": "assistant", "answer": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "tool_response": "tool",
    "ipython": "tool",
}  # fmt: skip
#: Those who ask for a tool instead of speaking.
CALLS: Final = ("function_call", "tool_call")

SHAREGPT: Final[Mapping[Role, str]] = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def read_messages(record: Mapping[str, Any]) -> Chat:
    """`{"messages": [{"role", "content"}, ...]}`; tool calls and their results become the tools of the answer."""
    return Chat(messages_of(record["messages"]))


def read_sharegpt(record: Mapping[str, Any]) -> Chat:
    """`{"conversations": [{"from", "value"}, ...]}`, perhaps with a `system` beside it."""
    listed = record.get("conversations", record.get("conversation"))
    messages = messages_of(listed)
    system = record.get("system") or record.get("system_prompt")
    if isinstance(system, str) and system.strip() and not any(said.role == "system" for said in messages):
        messages = (Said("system", system), *messages)
    return Chat(messages)


def messages_of(listed: Any) -> tuple[Said, ...]:
    """A list of messages with the keys of either format; BadRecord where one of them is none."""
    if not isinstance(listed, list) or not listed:
        raise BadRecord("its list of messages is empty" if listed == [] else "its messages are no list")
    found: list[Said] = []
    calls: dict[str, tuple[str, str]] = {}
    last = ("", "")
    for message in listed:
        if not isinstance(message, dict):
            raise BadRecord("a message is no object")
        named = message.get("role", message.get("from"))
        if named in CALLS:
            last = _call(message.get("value", message.get("content")))
            continue
        role = ROLES.get(named.lower().strip()) if isinstance(named, str) else None
        if role is None:
            raise BadRecord("a message of an unknown role")
        content = _text(message.get("content", message.get("value")))
        asked = message.get("tool_calls") or []
        if not isinstance(asked, list):
            raise BadRecord("tool calls that are no list")
        for call in asked:
            last = _function(call)
            calls[str(call.get("id"))] = last
        if message.get("function_call"):
            last = _call(message["function_call"])
        if asked or message.get("function_call"):
            continue  # what is said with it comes before the tool, and is not the answer
        if content is None:
            raise BadRecord("a message without text")
        if role == "tool":
            name, given = calls.get(str(message.get("tool_call_id")), last)
            found.append(Said(role, content, name=str(message.get("name") or name or "tool"), input=given))
        else:
            found.append(Said(role, content, learn=message.get("weight") != 0))
    return tuple(found)


def write_messages(chat: Chat) -> dict[str, Any]:
    """One line of OpenAI's training files."""
    listed: list[dict[str, Any]] = []
    for number, said in enumerate(chat.messages):
        if said.role == "tool":
            call = {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": said.name, "arguments": said.input},
            }
            listed.append({"role": "assistant", "content": None, "tool_calls": [call]})
            listed.append({"role": "tool", "tool_call_id": f"call_{number}", "content": said.content})
        else:
            message: dict[str, Any] = {"role": said.role, "content": said.content}
            listed.append(message if said.learn else {**message, "weight": 0})
    return {"messages": listed}


def write_sharegpt(chat: Chat) -> dict[str, Any]:
    """One record of ShareGPT's form. It has no way to say that an answer is only context."""
    listed: list[dict[str, str]] = []
    for said in chat.messages:
        if not said.learn:
            raise BadRecord("an answer that is only context has no place in ShareGPT's form")
        if said.role == "tool":
            call = json.dumps({"name": said.name, "arguments": said.input}, ensure_ascii=False)
            listed.append({"from": "function_call", "value": call})
        listed.append({"from": SHAREGPT[said.role], "value": said.content})
    return {"conversations": listed}


def _text(content: Any) -> str | None:
    """The text of a content, which may come in parts; BadRecord for pictures and sound."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRecord("a message whose text is no text")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise BadRecord("a message that holds more than text")
        texts.append(text)
    return "".join(texts)


def _function(call: Any) -> tuple[str, str]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise BadRecord("a tool call without a function")
    return str(function.get("name") or "tool"), _given(function.get("arguments"))


def _call(value: Any) -> tuple[str, str]:
    """A ShareGPT call: JSON with a name and arguments, as its value or written in it."""
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return "tool", str(value)
    if not isinstance(value, dict):
        return "tool", _given(value)
    return str(value.get("name") or "tool"), _given(value.get("arguments", value.get("parameters")))


def _given(arguments: Any) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
