"""What other parts ask of the engine, each in a child process of its own: tokens, rows, losses, answers,
quantized files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import UsageError
from ..gguf.chat_template import BUILT_IN
from ..gguf.grid import FLOATS
from ..gguf.inspect import inspect
from ..gguf.merge import SEED, Chosen, Written
from ..paths import replacing_path
from .file_types import QUANTIZATIONS
from .process import run_job

__all__ = [
    "Loss",
    "Pace",
    "Piece",
    "Seen",
    "Spoken",
    "TrainingRows",
    "check_quantization",
    "count_tokens",
    "default_quantization",
    "evaluate",
    "generate",
    "losses",
    "named_template",
    "pace",
    "preview",
    "quantize",
    "speak",
    "threads",
    "whole_path",
]

Progress = Callable[[int, int], None]
Chat = Sequence[Any]


class Piece(NamedTuple):
    """A token as people read it; its text is empty where a letter goes on in the next."""

    text: str
    trained: bool
    special: bool


class Seen(NamedTuple):
    """A row as it is trained. `length` and `learned` in tokens; `reason`: why it is left out, where it is.

    Without pieces where the base's template or tokenizer refuses the chat.
    """

    id: str
    length: int
    learned: int
    reason: str | None
    pieces: list[Piece]


def threads(wanted: int = 0) -> int:
    """`wanted` threads, or one for each core that this process may use."""
    return wanted or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else wanted or os.cpu_count() or 1


def check_quantization(name: str) -> str:
    """`name` in lower case where the engine can write it."""
    lower = name.lower()
    if lower not in QUANTIZATIONS:
        raise UsageError(f"There is no quantization {name[:40]!r}: choose one of {', '.join(QUANTIZATIONS)}.")
    return lower


def default_quantization(base: Path) -> str:
    """What a model is exported as where nobody says: the types of `base`, or q4_k_m where these are all floats."""
    return "base" if set(inspect(base).types) - set(FLOATS) else "q4_k_m"


def _plain(chats: Sequence[Chat]) -> list[list[Mapping[str, str]]]:
    """Messages as dicts, whether they come as dicts or as `turn.Message`."""
    return [[m if isinstance(m, Mapping) else {"role": m.role, "content": m.content} for m in chat] for chat in chats]


def whole_path(path: Path | None) -> str | None:
    """Whole, because the child works in a folder of its own."""
    return str(path.absolute()) if path else None


def named_template(wanted: str | None) -> str | None:
    return wanted if wanted is None or wanted in BUILT_IN else whole_path(Path(wanted).expanduser())


def count_tokens(base: Path, chats: Sequence[Chat], chat_template: str | None = None, system: str = "") -> list[int]:
    """Tokens of each chat, `system` before it, as `base` would read it; 0 for one that its template refuses."""
    if not chats:
        return []
    result = run_job(
        "count", base=whole_path(base), chats=_plain(chats), chat_template=named_template(chat_template), system=system
    )
    return [int(n) for n in result["counts"]]


def preview(
    base: Path, chats: Sequence[tuple[str, Chat]], *, system: str = "", ctx_size: int,
    learned: Literal["last", "all"] = "last", chat_template: str | None = None,
) -> list[Seen]:  # fmt: skip
    """The rows that a training on `base` makes of `chats` (id and messages), in order."""
    if not chats:
        return []
    plain = list(zip((name for name, _ in chats), _plain([chat for _, chat in chats]), strict=True))
    result = run_job(
        "preview", base=whole_path(base), chats=plain, system=system, ctx_size=ctx_size, learned=learned,
        chat_template=named_template(chat_template),
    )  # fmt: skip
    return [Seen(**{**row, "pieces": [Piece(*piece) for piece in row["pieces"]]}) for row in result["rows"]]


def evaluate(
    base: Path, file: Path, *, system: str = "", adapter: Path | None = None, ctx_size: int,
    chat_template: str | None = None, progress: Progress | None = None,
) -> float:  # fmt: skip
    """Mean loss in nats a counted token of a dataset file, read by `base` with `adapter`: see `gguf.rows.Row`."""
    result = run_job(
        "evaluate", base=whole_path(base), file=whole_path(file), system=system, adapter=whole_path(adapter),
        ctx_size=ctx_size, chat_template=named_template(chat_template), threads=threads(), progress=progress,
    )  # fmt: skip
    return float(result["loss"])


class Loss(NamedTuple):
    """What a model loses on one answer: nats over the tokens that count, and how many these are; and the same of the
    tokens of Meton's form, which are alike in all answers.
    """

    nats: float
    tokens: int
    form_nats: float = 0.0
    form_tokens: int = 0

    @property
    def said(self) -> int:
        """Tokens of the whole answer."""
        return self.tokens + self.form_tokens

    def plus(self, other: Loss) -> Loss:
        """What it loses on both answers."""
        return Loss(
            self.nats + other.nats, self.tokens + other.tokens, self.form_nats + other.form_nats,
            self.form_tokens + other.form_tokens,
        )  # fmt: skip


def losses(
    base: Path, chats: Sequence[tuple[str, Chat]], *, system: str = "", adapter: Path | None = None, ctx_size: int,
    chat_template: str | None = None, workers: int = 0, progress: Progress | None = None,
) -> dict[str, Loss]:  # fmt: skip
    """The loss of `base` with `adapter` on the last answer of each chat (id and messages), by id.

    A chat that the template refuses, or that is longer than `ctx_size` tokens, is left out.
    """
    plain = list(zip((name for name, _ in chats), _plain([chat for _, chat in chats]), strict=True))
    result = run_job(
        "evaluate", base=whole_path(base), chats=plain, system=system, adapter=whole_path(adapter), ctx_size=ctx_size,
        chat_template=named_template(chat_template), threads=threads(workers), progress=progress,
    )  # fmt: skip
    return {name: Loss(float(n), int(t), float(fn), int(ft)) for name, (n, t, fn, ft) in result["each"].items()}


class Spoken(NamedTuple):
    """An answer: its text, its tokens, and whether the model ended it or was cut off."""

    text: str
    tokens: tuple[int, ...]
    ended: bool


def generate(
    base: Path, chats: Sequence[Chat], *, limit: int = 256, adapter: Path | None = None,
    chat_template: str | None = None, until: str | None = None, workers: int = 0, progress: Progress | None = None,
) -> list[str]:  # fmt: skip
    """The likeliest answer of `base` with `adapter` to each chat, at most `limit` tokens.

    What all chats begin with is read once. `until`, a regular expression, ends an answer early; `workers` is a number
    of threads, one a core by default.
    """
    said = speak(
        base, chats, limit=limit, adapter=adapter, chat_template=chat_template, until=until, workers=workers,
        progress=progress,
    )  # fmt: skip
    return [one.text for one in said]


def speak(
    base: Path, chats: Sequence[Chat], *, limit: int = 256, adapter: Path | None = None,
    chat_template: str | None = None, until: str | None = None, workers: int = 0, progress: Progress | None = None,
) -> list[Spoken]:  # fmt: skip
    """As `generate`, with what each answer was made of."""
    result = run_job(
        "generate", base=whole_path(base), chats=_plain(chats), limit=limit, adapter=whole_path(adapter), until=until,
        chat_template=named_template(chat_template), threads=threads(workers), progress=progress,
    )  # fmt: skip
    both = zip(result["answers"], result["spoken"], strict=True)
    return [Spoken(str(text), tuple(tokens), bool(ended)) for text, (tokens, ended) in both]


class Pace(NamedTuple):
    """What `generate` has to read: tokens that all prompts begin with, the rest, the longest prompt; and its speed.

    `attention` is what a token costs more for each one before it; `threads` is the number that was faster.
    """

    common: int
    rest: int
    longest: int
    attention: float
    threads: int
    read_per_s: float
    say_per_s: float

    def seconds(self, answers: int, limit: int) -> float:
        """About how long `answers` of at most `limit` tokens take; few answers need all of them."""
        first = self.common * (1 + self.attention * self.common / 2)
        others = self.rest * (1 + self.attention * self.common)
        said = answers * limit * (1 + self.attention * self.longest)
        return (first + others) / self.read_per_s + said / self.say_per_s


def pace(base: Path, chats: Sequence[Chat], chat_template: str | None = None, workers: int = 0) -> Pace:
    """Measured on this machine, within seconds; with at most `workers` threads, by default one a core."""
    result = run_job(
        "pace",
        base=whole_path(base),
        chats=_plain(chats),
        chat_template=named_template(chat_template),
        threads=threads(workers),
    )
    return Pace(**{name: result[name] for name in Pace._fields})


class TrainingRows(NamedTuple):
    """What makes the rows of a run's dataset `file`, as its training read them."""

    file: Path
    system: str
    ctx_size: int
    learned: Literal["last", "all"] = "last"
    chat_template: str | None = None


def quantize(
    source: Path, target: Path, kind: str, progress: Progress | None = None, *, adapter: Path | None = None,
    rows: TrainingRows | None = None, seed: int = SEED,
) -> Written:  # fmt: skip
    """Write `source`, with `adapter` merged in, as `target` of type `kind`, whole or not at all.

    What stays on the source's own grid is rounded by what the model reads on `rows`; without them, or where that cannot
    be seen, at random.
    """
    given = rows and {
        **rows._asdict(), "file": whole_path(rows.file), "chat_template": named_template(rows.chat_template)
    }  # fmt: skip
    with replacing_path(target) as temporary:
        result = run_job(
            "quantize", source=whole_path(source), target=whole_path(temporary), type=check_quantization(kind),
            adapter=whole_path(adapter), rows=given, seed=seed, threads=threads(), progress=progress,
        )  # fmt: skip
    found = result["written"]
    return Written(**{**found, "chosen": found["chosen"] and Chosen(*found["chosen"])})
