"""Training rows: the tokens of a conversation and which of them are learned. The one place where masks are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..form import content_spans
from .chat_template import ChatTemplate
from .tokenizer import Tokenizer

__all__ = ["Learn", "Row", "Skipped", "build_rows", "prompt_tokens"]

Learn = Literal["last", "all"]
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Row:
    """One conversation as the engine sees it.

    `tokens` int32 [n + 1]; `trained` bool [n + 1]: whether the model learns to say token i after those before it.
    The engine reads tokens[:-1], and predicts tokens[1:] where trained[1:]. `answer` bool [n + 1]: which of the learned
    tokens a loss counts; the others are Meton's form, which is alike in all rows. None where all learned ones count.
    """

    id: str
    tokens: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]
    answer: npt.NDArray[np.bool_] | None = None

    @property
    def length(self) -> int:
        """Tokens that the engine reads."""
        return len(self.tokens) - 1

    @property
    def learned(self) -> int:
        """Tokens that are learned."""
        return int(self.trained[1:].sum())

    @property
    def counted(self) -> int:
        """Learned tokens that a loss counts."""
        return self.learned if self.answer is None else int(self.answer[1:].sum())

    @property
    def of_learned(self) -> npt.NDArray[np.bool_]:
        """For each learned token, in order, whether a loss counts it."""
        learned = self.trained[1:]
        return np.ones(self.learned, dtype=np.bool_) if self.answer is None else self.answer[1:][learned]


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
            made = _rows(identity, _answers(messages, template, tokenizer, learn))
        except ModelError as error:
            skipped.append(Skipped(identity, error.sentence))
            continue
        if not any(row.learned for row in made):
            skipped.append(Skipped(identity, "nothing to train on: it has no answer"))
            continue
        for row in made:
            if row.length > ctx_size:
                skipped.append(Skipped(identity, f"{row.length} tokens, longer than --ctx-size {ctx_size}"))
            elif row.learned:
                rows.append(row)
    return rows, skipped


def prompt_tokens(text: str, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a rendered chat as the server makes them: one beginning-of-text token, whoever puts it there."""
    named = tokenizer.bos is not None and text.encode().startswith(tokenizer.piece(tokenizer.bos))
    return tokenizer.encode(text, start=not named)


@dataclass(frozen=True)
class _Answer:
    """An answer's tokens, up to its end token and with it, and those of the prompt that it follows.

    `counted`: for each token whether a loss counts it.
    """

    prompt: list[int]
    tokens: list[int]
    counted: list[bool]


def _answers(messages: Messages, template: ChatTemplate, tokenizer: Tokenizer, learn: Learn) -> list[_Answer]:
    indices = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    made = []
    for index in indices[-1:] if learn == "last" else indices:
        content = messages[index].get("content") or ""
        if not content.strip():
            continue
        for token in tokenizer.encode(content, start=False):
            if tokenizer.is_special(token) or tokenizer.is_end(token):
                name = tokenizer.piece(token).decode("utf-8", "replace")
                raise ModelError(f"its answer contains the control token {name!r}")
        before = template.render(messages[:index], generate=True)
        upto = template.render(messages[: index + 1], generate=False)
        if not upto.startswith(before):
            raise ModelError("its chat template does not continue its own prompt: name another with --chat-template")
        made.append(_answer(before, upto, tokenizer))
    return made


def _answer(before: str, upto: str, tokenizer: Tokenizer) -> _Answer:
    prompt = prompt_tokens(before, tokenizer)
    said = upto[len(before) :]
    whole = prompt_tokens(upto, tokenizer)
    ways = [whole[len(prompt) :]] if whole[: len(prompt)] == prompt else []
    for tokens in (*ways, *_alone(said, tokenizer)):
        # What a template puts after the end is never generated.
        end = next((i + 1 for i, token in enumerate(tokens) if tokenizer.is_end(token)), None)
        spelled = b"".join(tokenizer.piece(token) for token in tokens[:end])
        if spelled == said.encode() or (end and said.encode().startswith(spelled)):
            return _Answer(
                prompt, tokens[:end], _counted([tokenizer.piece(token) for token in tokens[:end]], bool(end))
            )
    raise ModelError("the base's tokenizer does not give its text back, so its answers cannot be found")


def _counted(pieces: list[bytes], ended: bool) -> list[bool]:
    """Of an answer in Meton's form the tokens that reach into what only it says, and its end token; of another all."""
    said = pieces[:-1] if ended else pieces
    text = b"".join(said).decode("utf-8", "replace")
    spans = content_spans(text)
    if spans is None:
        return [True] * len(pieces)
    in_bytes = [(len(text[:start].encode()), len(text[:end].encode())) for start, end in spans]
    counted, place = [], 0
    for piece in said:
        counted.append(any(place < end and place + len(piece) > start for start, end in in_bytes))
        place += len(piece)
    return [*counted, True] if ended else counted


def _alone(said: str, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Ways to tokenize what follows a prompt apart from it, where a token would cross the seam.

    SentencePiece puts a space before a text of its own and after every control token. The model is not to learn one
    that is not in the answer, so a newline goes before it and is taken off again.
    """
    yield tokenizer.encode(said, start=False)
    tokens = tokenizer.encode("\n" + said, start=False)
    for cut in range(1, len(tokens)):
        if b"".join(tokenizer.piece(token) for token in tokens[:cut]).lstrip(b" ") == b"\n":
            yield tokens[cut:]
            return


def _rows(identity: str, answers: list[_Answer]) -> list[Row]:
    """One row where every answer lies in the last one's text as the model would read it then; else a row an answer.

    Some templates change earlier answers when later ones are there (Qwen 3 drops old thoughts), and some tokens cross
    the end of a prompt once the answer is known.
    """
    if not answers:
        return []
    whole = answers[-1].prompt + answers[-1].tokens
    if any(whole[: len(a.prompt) + len(a.tokens)] != a.prompt + a.tokens for a in answers):
        return [row for answer in answers for row in _rows(identity, [answer])]
    trained, counted = np.zeros((2, len(whole)), dtype=np.bool_)
    for answer in answers:
        trained[len(answer.prompt) :][: len(answer.tokens)] = True
        counted[len(answer.prompt) :][: len(answer.tokens)] = answer.counted
    all_count = bool((counted == trained).all())
    return [Row(identity, np.asarray(whole, dtype=np.int32), trained, None if all_count else counted)]
