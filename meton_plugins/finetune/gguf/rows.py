"""Training rows: the tokens of a conversation and which of them are learned. The one place where masks are made."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from .chat_template import ChatTemplate
from .tokenizer import Tokenizer

__all__ = ["Learn", "Row", "Skipped", "build_rows"]

Learn = Literal["last", "all"]
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Row:
    """One conversation as the engine sees it.

    `tokens` int32 [n + 1]; `trained` bool [n + 1]: whether the model learns to say token i after those before it.
    The engine reads tokens[:-1], and predicts tokens[1:] where trained[1:].
    """

    id: str
    tokens: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]

    @property
    def length(self) -> int:
        """Tokens that the engine reads."""
        return len(self.tokens) - 1

    @property
    def learned(self) -> int:
        """Tokens that are learned."""
        return int(self.trained[1:].sum())


@dataclass(frozen=True)
class Skipped:
    """An example that gives no row, and why."""

    id: str
    reason: str


def build_rows(
    chats: Sequence[tuple[str, Messages]],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    ctx_size: int,
    learn: Learn = "last",
) -> tuple[list[Row], list[Skipped]]:
    """Rows of `chats` (id and messages), in order, and those that give none. No row is longer than `ctx_size`.

    `learn`: the last answer of each chat (those before it are context, and may be bad ones), or all.
    """
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for identity, messages in chats:
        try:
            made = [_row(identity, text, spans, tokenizer) for text, spans in _spans(messages, template, learn)]
        except ModelError as error:
            skipped.append(Skipped(identity, error.sentence))
            continue
        if not made or not any(row.learned for row in made):
            skipped.append(Skipped(identity, "nothing to train on: it has no answer"))
            continue
        for row in made:
            if row.length > ctx_size:
                skipped.append(Skipped(identity, f"{row.length} tokens, longer than --ctx-size {ctx_size}"))
            elif row.learned:
                rows.append(row)
    return rows, skipped


def _spans(messages: Messages, template: ChatTemplate, learn: Learn) -> list[tuple[str, list[tuple[int, int]]]]:
    """Texts with the character spans of their answers: one text, or one an answer.

    Some templates change earlier answers when later ones are there (Qwen 3 drops old thoughts). Then each answer gets
    a text of its own, which is what the model would read when it gives that answer.
    """
    parts: list[tuple[str, tuple[int, int]]] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = template.render(messages[:index], generate=True)
        upto = template.render(messages[: index + 1], generate=False)
        if not upto.startswith(before):
            raise ModelError("its chat template does not continue its own prompt: name another with --chat-template")
        parts.append((upto, (len(before), len(upto))))
    if not parts:
        return []
    if learn == "last":
        parts = parts[-1:]
    whole = parts[-1][0]
    if all(whole.startswith(text) for text, _ in parts):
        return [(whole, [span for _, span in parts])]
    return [(text, [span]) for text, span in parts]


def _row(identity: str, text: str, spans: list[tuple[int, int]], tokenizer: Tokenizer) -> Row:
    tokens, ends = _encode(text, spans, tokenizer)
    trained = np.zeros(len(tokens), dtype=np.bool_)
    for start, end in spans:
        first, last = len(text[:start].encode()), len(text[:end].encode())
        for i in range(int(np.searchsorted(ends, first, side="right")), len(tokens)):
            if ends[i] > last:
                break
            if tokenizer.is_special(tokens[i]) and not tokenizer.is_end(tokens[i]):
                raise ModelError(f"its answer contains the control token {tokenizer.piece(tokens[i]).decode()!r}")
            trained[i] = True
            if tokenizer.is_end(tokens[i]):  # what a template puts after the end is never generated
                break
    return Row(identity, np.asarray(tokens, dtype=np.int32), trained)


def _encode(text: str, spans: list[tuple[int, int]], tokenizer: Tokenizer) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Token ids of `text` and the byte of `text` at which each ends; a token never crosses the start of an answer.

    The tokens before each answer are those of the prompt alone, as the server would make them.
    """
    named = tokenizer.bos is not None and text.encode().startswith(tokenizer.piece(tokenizer.bos))
    tokens = tokenizer.encode(text, start=not named)
    if not _prompts_agree(text, spans, tokens, tokenizer, start=not named):
        tokens = []
        cuts = [0, *(start for start, _ in spans), len(text)]
        for here, there in itertools.pairwise(cuts):
            tokens += tokenizer.encode(text[here:there], start=here == 0 and not named)
    return tokens, _ends(text, tokens, tokenizer, named=named)


def _prompts_agree(
    text: str, spans: list[tuple[int, int]], tokens: list[int], tokenizer: Tokenizer, *, start: bool
) -> bool:
    for first, _ in spans:
        prompt = tokenizer.encode(text[:first], start=start)
        if tokens[: len(prompt)] != prompt:
            return False
    return True


def _ends(text: str, tokens: list[int], tokenizer: Tokenizer, *, named: bool) -> npt.NDArray[np.int64]:
    pieces = [tokenizer.piece(token) for token in tokens]
    if tokens and not named and tokens[0] == tokenizer.bos:
        pieces[0] = b""  # put there by the tokenizer, not by the text
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    joined, wanted = b"".join(pieces), text.encode()
    if joined == wanted:
        return ends
    if joined == b" " + wanted:  # SentencePiece puts a space before the first word
        return ends - 1
    raise ModelError("the base's tokenizer does not give its text back, so its answers cannot be found")
