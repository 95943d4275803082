"""Whether the server writes a chat as training does: what a model is asked in another form, it has not learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from ..errors import FinetuneError, ModelError
from ..gguf.chat_template import ChatTemplate, template_for
from ..gguf.inspect import GgufInfo
from .modelfile import Modelfile
from .ollama import Server

__all__ = ["CHATS", "Parity", "base_parity", "difference", "file_parity", "modelfile_parity"]

Chat = Sequence[Mapping[str, str]]

#: With what a chat is made of: a system text, an earlier answer, blanks at the ends, letters that are not ASCII.
CHATS: Final[tuple[Chat, ...]] = (
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Write a loop."}),
    (
        {"role": "system", "content": "You help.\n\nIn two paragraphs."},
        {"role": "user", "content": "def f(x):\n    return x\n\nWhat is this?"},
    ),
    (
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Schön, or not?"},
        {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Why?"},
    ),
)  # fmt: skip
#: Characters shown of either text round the first difference.
SHOWN: Final = 32


class Parity(NamedTuple):
    """What was compared, what came of it, and where the first difference is or why it is unknown."""

    what: str
    verdict: Literal["same", "differs", "unknown"]
    detail: str = ""


def file_parity(info: GgufInfo, template: ChatTemplate) -> Parity:
    """The chat template inside the GGUF, by which a server writes, against that of training, which the user named."""
    what = f"chat template inside {info.path.name}"
    if info.chat_template is None:
        return Parity(what, "differs", "there is none, so the server guesses: give the Modelfile template a TEMPLATE")
    own = template_for(info, None)
    try:
        pairs = [(template.render(chat, generate=True), own.render(chat, generate=True)) for chat in CHATS]
    except ModelError as error:
        return Parity(what, "unknown", error.sentence)
    found = next(filter(None, (difference(ours, theirs, template.bos) for ours, theirs in pairs)), None)
    return Parity(what, "differs", found) if found else Parity(what, "same")


def base_parity(server: Server, name: str, template: ChatTemplate) -> Parity:
    """The served model `name` against the `template` of training, on all of CHATS. Leaves loaded what was loaded."""

    def ask(chat: Chat, last: Mapping[str, Any]) -> str | None:
        request = {"model": name, "messages": [dict(one) for one in chat], "truncate": False, "think": False, **last}
        return server.render("/api/chat", request)

    return _compared(f"served template of {name}", server, name, template, CHATS, ask)


def modelfile_parity(server: Server | None, name: str | None, template: ChatTemplate, modelfile: Modelfile,
                     title: str) -> Parity | None:  # fmt: skip
    """The TEMPLATE of the Modelfile template `title` against that of training; None where it has none of its own.

    The served model `name` renders it: one question at a time, for an earlier answer cannot be asked for.
    """
    if modelfile.template is None:
        if modelfile.renderer is None:
            return None
        return Parity(f"RENDERER of {title}", "unknown", "the server uses a RENDERER only with a model that has it")
    what, own = f"TEMPLATE of {title}", modelfile.template
    if server is None or name is None:
        return Parity(what, "unknown", "the base is no model of the Ollama server, which alone can render it")

    def ask(chat: Chat, last: Mapping[str, Any]) -> str | None:
        system, user = (one["content"] for one in chat)
        request = {"model": name, "system": system, "prompt": user, "template": own, "think": False, **last}
        return server.render("/api/generate", request)

    return _compared(what, server, name, template, [chat for chat in CHATS if len(chat) == 2], ask)


def _compared(
    what: str, server: Server, name: str, template: ChatTemplate, chats: Sequence[Chat],
    ask: Callable[[Chat, Mapping[str, Any]], str | None],
) -> Parity:  # fmt: skip
    try:
        before = server.loaded()
        # Rendering loads the model, and a run needs the memory.
        free = {} if name in before else {"keep_alive": 0}
        for number, chat in enumerate(chats, 1):
            theirs = ask(chat, free)
            if theirs is None:
                return Parity(what, "unknown", "this server does not tell how it writes a chat: update Ollama")
            found = difference(template.render(chat, generate=True), theirs, template.bos)
            if found:
                return Parity(what, "differs", f"chat {number} of {len(chats)}: {found}")
    except ModelError as error:
        return Parity(what, "unknown", error.sentence)
    except FinetuneError as error:
        return Parity(what, "unknown", f"the server could not say: {error.sentence}")
    return Parity(what, "same")


def difference(ours: str, theirs: str, bos: str = "") -> str | None:
    """Where two renderings of a chat part, in words; None where they are the same, but for who writes `bos`."""
    if bos:  # the tokenizer puts it where the text has none
        ours, theirs = ours.removeprefix(bos), theirs.removeprefix(bos)
    if ours == theirs:
        return None
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    start = max(0, at - SHOWN // 4)
    mine, other = (text[start : start + SHOWN] for text in (ours, theirs))
    return f"training writes {mine!r}, the server {other!r} (character {at + 1})"
