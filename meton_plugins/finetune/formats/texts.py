"""Chats as marked text: the guide's `<s>[INST] ... [/INST] ... </s>`, and ChatML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TextIO

from ..turn import Role
from .chat import BadRecord, Chat, Said
from .encodings import damaged
from .messages import ROLES

__all__ = ["CHATML", "LLAMA", "Marked"]

CHUNK: Final = 1 << 20
#: Longer than any white space between two chats, in characters.
OVERLAP: Final = 400

#: What may stand before the mark on the line that begins a chat.
_LLAMA_OPENED: Final = re.compile(r"(?m)^[ \t]*(?:<s>\s{0,20})?\Z")
_LLAMA_START: Final = re.compile(r"\s*(?:<s>\s{0,20})?\[INST\]")
#: Behind the first answer: the next question of the same chat.
_LLAMA_NEXT: Final = re.compile(r"</s>\s{0,200}(?:<s>\s{0,20})?\[INST\]")
_LLAMA_SYSTEM: Final = re.compile(r"\A\s*<<SYS>>\n?(.*?)\n?<</SYS>>(?:\r?\n){0,2}", re.DOTALL)
#: Lines that begin with # between two chats are somebody's notes.
_LLAMA_END: Final = re.compile(r"</s>\s*(?:\n[ \t]*#[^\n]*\s*)*\Z")

_CHATML_BEGIN: Final = re.compile(r"\s*<\|im_start\|>([A-Za-z_]+)[ \t]*\r?\n")
_CHATML_END: Final = "<|im_end|>"
#: An empty line, the end-of-text mark, or a system message: where the next chat begins.
_CHATML_START: Final = re.compile(
    r"<\|im_end\|>"
    r"(?:[ \t]*\r?\n[ \t]*\r?\n\s{0,200}|\s{0,200}<\|endoftext\|>\s{0,200}|\s{0,200}(?=<\|im_start\|>system\s))"
    r"(?=<\|im_start\|>)"
)


@dataclass(frozen=True)
class Marked:
    """A text format. `begins` is at the beginning of a file of it; `parse` takes one chat, `render` gives it."""

    begins: re.Pattern[str]
    split: Callable[[str], list[int]]
    parse: Callable[[str], Chat]
    render: Callable[[Chat], str]

    def read(self, file: TextIO) -> Iterator[tuple[int, Chat | BadRecord]]:
        """Each chat with the line it begins on; a `BadRecord` in the place of one that is damaged."""
        for line, text in _pieces(file, self.split):
            if damaged(text):
                yield line, BadRecord("holds bytes that are not UTF-8 text")
                continue
            try:
                yield line, self.parse(text)
            except BadRecord as error:
                yield line, error

    def write(self, chat: Chat) -> str:
        """`chat` as text; BadRecord where it could not be read back as it is, because it holds the format's marks."""
        text = self.render(chat)
        try:
            pieces = self.split(text)
            same = len(pieces) == 1 and self.parse(text).messages == chat.messages
        except BadRecord:
            same = False
        if not same:
            raise BadRecord("it holds the marks of the format, or what the format has no place for")
        return text


def _pieces(file: TextIO, split: Callable[[str], list[int]]) -> Iterator[tuple[int, str]]:
    """The text of each chat, and its line. `split` says where in a text chats begin."""
    text, line = "", 1
    while True:
        new = file.read(max(CHUNK, len(text)))
        text += new
        starts = split(text)
        if new:
            # The last one may go on, and what is near the end may be half a mark.
            starts = [start for start in starts if start < len(text) - OVERLAP]
        ends = [*starts[1:], *([] if new else [len(text)])]
        counted = 0
        for start, end in zip(starts, ends, strict=False):
            line += text.count("\n", counted, start)
            counted = start
            yield line, text[start:end]
        if not new:
            return
        if len(starts) > 1:
            line += text.count("\n", counted, starts[-1])
            text = text[starts[-1] :]


def _split_llama(text: str) -> list[int]:
    """Lines that begin with the mark; one without `<s>` only where the chat before it has ended."""
    ends = "</s>" in text
    found: list[int] = []
    place = text.find("[INST]")
    while place >= 0:
        before = text[max(0, place - OVERLAP) : place]
        opened = _LLAMA_OPENED.search(before)
        if opened and ("<s>" in opened.group() or not ends or not found or before.rstrip().endswith("</s>")):
            found.append(place - len(before) + opened.start())
        place = text.find("[INST]", place + 1)
    return _first(text, found)


def _split_chatml(text: str) -> list[int]:
    return _first(text, [match.end() for match in _CHATML_START.finditer(text)])


def _first(text: str, found: list[int]) -> list[int]:
    """The first chat begins where the text does, so that damage before the first mark is seen."""
    start = len(text) - len(text.lstrip())
    if start == len(text):
        return []
    if found and not [line for line in text[start : found[0]].splitlines() if line.strip() and line[0] != "#"]:
        return found
    return [start, *(place for place in found if place > start)]


def _parse_llama(text: str) -> Chat:
    begin = _LLAMA_START.match(text)
    if begin is None:
        raise BadRecord("text outside of [INST] ... </s>")
    messages: list[Said] = []
    place = begin.end()
    while True:
        close = text.find("[/INST]", place)
        if close < 0:
            raise BadRecord("cut off: no [/INST]")
        following = _LLAMA_NEXT.search(text, close)
        question, answer = text[place:close], text[close + len("[/INST]") : following.start() if following else None]
        if not messages and (system := _LLAMA_SYSTEM.match(question)):
            messages.append(Said("system", system.group(1)))
            question = question[system.end() :]
            question = question[:-1] if question.endswith(" ") else question
        else:
            question = _inner(question)
        messages.append(Said("user", question))
        if following is None:
            messages.append(Said("assistant", _inner(_ended(answer, begin.group()))))
            return Chat(tuple(messages))
        messages.append(Said("assistant", _inner(answer)))
        place = following.end()


def _ended(text: str, begin: str) -> str:
    """The last answer without its end mark, which files that write no `<s>` may leave out, too."""
    end = _LLAMA_END.search(text)
    if end:
        return text[: end.start()]
    if "<s>" not in begin and "</s>" not in text:
        return text.rstrip("\r\n")
    if "</s>" in text:
        raise BadRecord("text outside of [INST] ... </s>")
    raise BadRecord("cut off: no </s>")


def _inner(text: str) -> str:
    """Without the one space or line end that sets a text apart from its marks."""
    for gap in (" ", "\r\n", "\n"):
        if text.startswith(gap):
            text = text[len(gap) :]
            break
    for gap in (" ", "\r\n", "\n"):
        if text.endswith(gap):
            return text[: -len(gap)]
    return text


def _render_llama(chat: Chat) -> str:
    messages = list(chat.messages)
    system = f"<<SYS>>\n{messages.pop(0).content}\n<</SYS>>\n\n" if messages and messages[0].role == "system" else ""
    parts = []
    for asked, answered in zip(messages[::2], messages[1::2], strict=False):
        parts.append(f"<s>[INST] {system}{asked.content} [/INST] {answered.content} </s>")
        system = ""
    return "".join(parts) + "\n"


def _parse_chatml(text: str) -> Chat:
    messages: list[Said] = []
    place = 0
    while begin := _CHATML_BEGIN.match(text, place):
        role: Role | None = ROLES.get(begin.group(1).lower())
        if role is None:
            raise BadRecord("a message of an unknown role")
        end = text.find(_CHATML_END, begin.end())
        if end < 0:
            break
        messages.append(Said(role, text[begin.end() : end], name="tool" if role == "tool" else ""))
        place = end + len(_CHATML_END)
    rest = text[place:].replace("<|endoftext|>", "").strip()
    if rest:
        raise BadRecord("cut off: no <|im_end|>" if rest.startswith("<|im_start|>") else "text outside of the marks")
    return Chat(tuple(messages))


def _render_chatml(chat: Chat) -> str:
    return "".join(f"<|im_start|>{said.role}\n{said.content}<|im_end|>\n" for said in chat.messages) + "\n"


LLAMA: Final = Marked(re.compile(r"(?:#[^\n]*\n|\s)*(?:<s>\s*)?\[INST\]"), _split_llama, _parse_llama, _render_llama)
CHATML: Final = Marked(re.compile(r"(?:<s>|\s)*<\|im_start\|>[a-z_]+\s"), _split_chatml, _parse_chatml, _render_chatml)
