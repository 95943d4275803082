"""Side by side: what was expected, what the base says, what the tuned model says; kept in the run's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from .. import form
from ..curate.manifest import FILES, Row
from ..errors import ModelError
from ..gguf.inspect import fingerprint
from ..paths import write_json
from ..train.runs import ANSWERS, CHAT_TEMPLATE, Run

__all__ = ["Answer", "answers", "kept_answers"]

#: Longest answer in tokens: enough to see how a model answers, and minutes for a large one on a CPU.
LIMIT: Final = 200
#: Letters a token, to leave out rows that are longer than what was trained.
LETTERS: Final = 4

#: (what is done, tokens done, tokens in all)
Progress = Callable[[str, int, int], None]


class Answer(BaseModel):
    """A chat of the validation side that no training saw, and how it goes on."""

    id: str
    question: str
    expected: str
    base: str
    tuned: str


class _Kept(BaseModel):
    """answers.json. Another adapter answers otherwise."""

    adapter: str
    answers: list[Answer]


def kept_answers(run: Run, number: int) -> tuple[list[Answer], bool]:
    """What `answers` would give, as far as it was generated before with the adapter that the run has now.

    And whether that is all.
    """
    found = {answer.id: answer for answer in _read(run, fingerprint(run.adapter()))}
    rows = _rows(run, number)
    return [found[row.id] for row in rows if row.id in found], all(row.id in found for row in rows)


def answers(run: Run, number: int, progress: Progress) -> list[Answer]:
    """The answers to `number` chats of the validation side; only those that are missing are generated.

    ModelError where the base is gone, NotFound where the run has no adapter yet.
    """
    adapter = run.adapter()
    mark = fingerprint(adapter)
    rows = _rows(run, number)
    known = {answer.id: answer for answer in _read(run, mark)}
    missing = [row for row in rows if row.id not in known]
    if missing:
        known |= {answer.id: answer for answer in _ask(run, adapter, missing, progress)}
        there = {row.id for row in _rows(run, 2**31)}
        kept = _Kept(adapter=mark, answers=[answer for name, answer in known.items() if name in there])
        write_json(run.folder / ANSWERS, kept.model_dump())
    return [known[row.id] for row in rows]


def _read(run: Run, mark: str) -> list[Answer]:
    try:
        kept = _Kept.model_validate_json((run.folder / ANSWERS).read_bytes())
    except (OSError, ValidationError):
        return []
    return kept.answers if kept.adapter == mark else []


def _rows(run: Run, number: int) -> list[Row]:
    """The same ones each time, in no order that the dataset gave them."""
    path = run.folder / "dataset" / FILES["validation"]
    try:
        # By its bytes: an answer may hold a character that Python takes for the end of a line.
        rows = [Row.model_validate_json(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValidationError):
        return []
    longest = run.record.settings.ctx_size * LETTERS
    fitting = [row for row in rows if sum(len(message.content) for message in row.messages) <= longest]
    return sorted(fitting or rows, key=lambda row: hashlib.sha256(row.id.encode()).digest())[:number]


def _ask(run: Run, adapter: Path, rows: Sequence[Row], progress: Progress) -> list[Answer]:
    from ..engine.jobs import generate

    record = run.record
    base = Path(record.base.path)
    if not base.is_file() or base.stat().st_size != record.base.size:
        raise ModelError(f"The base {base} is gone or has changed, so no answers can be made for the report.")
    own = run.folder / CHAT_TEMPLATE
    template = str(own) if own.is_file() else record.settings.chat_template
    chats = [_prompt(row, record.system) for row in rows]
    said: list[list[str]] = []
    for who, file in (("the base answers", None), ("the tuned model answers", adapter)):

        def tell(done: int, total: int, who: str = who) -> None:
            progress(who, done, total)

        said.append(
            generate(
                base, chats, limit=LIMIT, adapter=file, chat_template=template, workers=record.threads, progress=tell
            )
        )
    return [
        Answer(id=row.id, question=_question(row), expected=row.messages[-1].content, base=before, tuned=after)
        for row, before, after in zip(rows, *said, strict=True)
    ]


def _prompt(row: Row, system: str) -> list[dict[str, Any]]:
    """What was trained on, up to the answer."""
    chat = [{"role": message.role, "content": message.content} for message in row.messages[:-1]]
    return [{"role": "system", "content": system}, *chat] if system and chat[0]["role"] != "system" else chat


def _question(row: Row) -> str:
    """The user's last words, without the form in which Meton asks them."""
    return next((form.asked(message.content) for message in reversed(row.messages[:-1]) if message.role == "user"), "")
