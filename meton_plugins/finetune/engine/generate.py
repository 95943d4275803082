"""Greedy answers to chats, what they have in common read once; and how fast this machine does that."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import EngineError
from ..gguf.chat_template import template_for
from ..gguf.inspect import inspect, open_gguf
from ..gguf.rows import prompt_tokens
from .library import Library
from .model import Decoder, Model

__all__ = ["adapter_of", "common_tokens", "generate", "pace"]

Emit = Callable[..., None]
Wanted = Callable[[], "str | None"]

#: Tokens read at a time: the attention over a prompt of 15,000 tokens needs gigabytes where all are read at once.
BATCH: Final = 256
#: What a measurement reads and says: long enough to be steady, a second or two on a slow machine.
READ, SAY = 256, 8


def generate(library: Library, job: dict[str, Any], emit: Emit, wanted: Wanted) -> None:
    """Greedy answers to chats, with an adapter where one is given.

    `until`, a regular expression, ends an answer early. Progress is counted in tokens read and said.
    """
    base = Path(job["base"])
    template = template_for(inspect(base), job.get("chat_template"))
    enough = re.compile(job["until"]) if job.get("until") else None
    limit: int = job["limit"]
    answers: list[str] = []
    spoken: list[tuple[list[int], bool]] = []
    with Model(library, base) as model:
        prompts = [prompt_tokens(template.render(chat, generate=True), model) for chat in job["chats"]]
        common = common_tokens(prompts)
        room = max(len(prompt) for prompt in prompts) + limit
        total = common + sum(len(prompt) - common + limit for prompt in prompts)
        done = 0
        with Decoder(model, room, job["threads"], adapter_of(job), batch=BATCH) as decoder:
            if common:
                decoder.read(prompts[0][:common], lambda read: emit("progress", done=read, total=total))
                done = common
            for prompt in prompts:
                decoder.back_to(common)
                said, ended = _answer(decoder, prompt[common:], limit, enough)
                answers.append(model.text(said))
                spoken.append((said, ended))
                done += len(prompt) - common + limit
                emit("progress", done=done, total=total)
    emit("result", answers=answers, spoken=spoken)


def pace(library: Library, job: dict[str, Any], emit: Emit, wanted: Wanted) -> None:
    """What `generate` would have to read for these chats, and how fast it reads and says, in tokens/s.

    With the number of threads that says faster: where others work too, ggml's threads wait for each other.
    """
    base = Path(job["base"])
    template = template_for(inspect(base), job.get("chat_template"))
    with Model(library, base) as model:
        prompts = [prompt_tokens(template.render(chat, generate=True), model) for chat in job["chats"]]
        common = common_tokens(prompts)
        attention = _attention(model, base)
        sample = (prompts[0] * READ)[:READ]
        speeds = {threads: _speed(model, sample, threads) for threads in {1, job["threads"]}}
    threads = max(speeds, key=lambda number: speeds[number][1])
    read_per_s, say_per_s = speeds[threads]
    emit(
        "result",
        common=common,
        rest=sum(len(prompt) - common for prompt in prompts),
        longest=max(len(prompt) for prompt in prompts),
        attention=attention,
        threads=threads,
        read_per_s=read_per_s,
        say_per_s=say_per_s,
    )


def _attention(model: Model, base: Path) -> float:
    """What a token costs more for each token before it, as a part of what the weights cost (multiplications)."""
    library, handle = model.library, model.handle
    width, layers = library.llama_model_n_embd(handle), library.llama_model_n_layer(handle)
    # Embeddings are looked up, and the head is needed for the last token alone.
    names = {tensor.name for tensor in open_gguf(base).tensors}
    tables = len(names & {"token_embd.weight", "output.weight"})
    weights = max(1, library.llama_model_n_params(handle) - tables * width * model.size)
    return float(2 * width * layers / weights)


def _speed(model: Model, sample: Sequence[int], threads: int) -> tuple[float, float]:
    """Tokens a second, read and said."""
    with Decoder(model, READ + SAY + 1, threads, batch=BATCH) as decoder:
        decoder.read(sample[:1])
        start = time.monotonic()
        decoder.read(sample[1:])
        middle = time.monotonic()
        for token in sample[:SAY]:
            decoder.read([token])
        end = time.monotonic()
    return (READ - 1) / max(middle - start, 1e-9), SAY / max(end - middle, 1e-9)


def _answer(
    decoder: Decoder, prompt: Sequence[int], limit: int, enough: re.Pattern[str] | None
) -> tuple[list[int], bool]:
    """The tokens of an answer, and whether the model ended it."""
    said: list[int] = []
    for token in decoder.speak(prompt, limit):
        said.append(token)
        if enough is not None and enough.search(decoder.model.text(said)):
            return said, False
    return said, len(said) < limit


def common_tokens(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all of `prompts` begin with; each keeps at least one of its own, which is read for its answer."""
    if not prompts:
        raise EngineError("There is no prompt to answer.")
    shared = 0
    for column in zip(*(prompt[:-1] for prompt in prompts), strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return shared if len(prompts) > 1 else 0


def adapter_of(job: dict[str, Any]) -> Path | None:
    """The adapter that a job names."""
    return Path(job["adapter"]) if job.get("adapter") else None
