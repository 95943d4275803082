"""Contests: two models answer the same questions, and the user says which answer is better, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel

from .. import form
from ..errors import DataError, NotFound, UsageError
from ..library import Library
from ..paths import Home, append_json, private_dir, read_json_lines
from .form_check import Speaker

__all__ = ["CRITERIA", "Answers", "Pick", "Question", "Score", "answers", "keep", "questions", "read_pick", "score"]

#: What an answer can be better in, by the letter that the user types: the criteria of Meton's guide.
CRITERIA: Final = {
    "c": "correctness",
    "s": "style",
    "m": "completeness",
    "l": "libraries",
    "d": "documentation",
}
#: `last 10`, `last` alone.
LAST: Final = "last"
HELD_OUT: Final = "held-out"
#: Where nobody says how many.
FEW: Final = 10
#: More answers than anybody compares.
MOST: Final = 200

Winner = Literal["a", "b", "tie"]


class Question(NamedTuple):
    """What both models are asked: the `prompt` that they read, and the `text` that the user sees."""

    text: str
    prompt: str


class Answers(NamedTuple):
    """The answers of both models to a question, without Meton's form round them."""

    question: Question
    a: str
    b: str


class Pick(BaseModel):
    """The user's verdict on one question. `blind`: he did not know whose answer was whose."""

    at: str
    a: str
    b: str
    question: str
    winner: Winner
    criteria: list[str] = []
    blind: bool = False


class Score(BaseModel):
    """How two models stand against each other, over all contests: wins of `a` and `b`, ties, wins by criterion."""

    a: str
    b: str
    wins_a: int = 0
    wins_b: int = 0
    ties: int = 0
    criteria: dict[str, tuple[int, int]] = {}


def questions(home: Home, wanted: str, *, in_form: bool) -> list[Question]:
    """The questions that `wanted` means: `held-out`, `last N`, or a file.

    A file has a question a line, or JSON lines with `prompt` or `question`, or blank lines between longer ones.
    `in_form`: both models are asked in the short form in which one of them was trained.
    """
    first, _, rest = wanted.strip().partition(" ")
    if wanted == HELD_OUT:
        texts = _of_library(home, held_out=True, number=MOST)
    elif first == LAST:
        number = rest.strip() or str(FEW)
        if not number.isdecimal() or not 1 <= int(number) <= MOST:
            raise UsageError(f'--prompts "last N" takes a number from 1 to {MOST}, not {number[:20]!r}.')
        texts = _of_library(home, held_out=False, number=int(number))
    else:
        texts = _of_file(Path(wanted).expanduser())
    unique = list(dict.fromkeys(text.strip() for text in texts if text.strip()))[:MOST]
    return [Question(text, form.prompt(text) if in_form else text) for text in unique]


def _of_library(home: Home, *, held_out: bool, number: int) -> list[str]:
    with Library(home.library) as library:
        found = [e for e in library.find() if not held_out or e.split == "heldout"]
    if not found:
        what = "no held-out example: /dataset build holds some back" if held_out else "no question yet: chat on"
        raise NotFound(f"The library holds {what}, or name a file with --prompts FILE.")
    return [example.question for example in found[:number]]


def _of_file(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(
            f'There is no file {path}: --prompts takes a file of questions, {HELD_OUT}, or "{LAST} N".'
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}).") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and lines[0].lstrip().startswith("{"):
        return [_of_json(line, number, path) for number, line in enumerate(lines, 1)]
    blocks = [block for block in text.split("\n\n") if block.strip()]
    found = lines if len(blocks) < 2 else blocks
    if not found:
        raise DataError(f"{path} holds no question: write one a line.")
    return found


def _of_json(line: str, number: int, path: Path) -> str:
    try:
        value = json.loads(line)
        return str(value["prompt"] if "prompt" in value else value["question"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"Line {number} of {path} is no JSON object with a prompt or a question.") from error


def answers(asked: Sequence[Question], a: Speaker, b: Speaker) -> list[Answers]:
    """Both models' answers to all of `asked`; each model is loaded once."""
    prompts = [question.prompt for question in asked]
    both = zip(asked, a(prompts), b(prompts), strict=True)
    return [Answers(question, *(form.answer_of(text).strip() for text in texts)) for question, *texts in both]


def read_pick(line: str) -> tuple[Literal["1", "2", "="], list[str]] | None:
    """What the user typed: which answer is better, and the criteria by their letters; None for anything else."""
    words = line.lower().replace(",", " ").split()
    if not words or words[0] not in ("1", "2", "="):
        return None
    letters = "".join(words[1:])
    if any(letter not in CRITERIA for letter in letters):
        return None
    which: Literal["1", "2", "="] = "1" if words[0] == "1" else "2" if words[0] == "2" else "="
    return which, [CRITERIA[letter] for letter in dict.fromkeys(letters)]


def keep(
    home: Home, a: str, b: str, question: Question, winner: Winner, criteria: Sequence[str], *, blind: bool
) -> Pick:
    """Note a verdict in `contests.jsonl`."""
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    pick = Pick(at=at, a=a, b=b, question=question.text, winner=winner, criteria=list(criteria), blind=blind)
    private_dir(home.root)
    append_json(_file(home), pick.model_dump(mode="json"))
    return pick


def score(home: Home, a: str, b: str) -> Score:
    """All verdicts on these two models so far, whichever of them was named first."""
    wins: Counter[str] = Counter()
    by: dict[str, list[int]] = {name: [0, 0] for name in CRITERIA.values()}
    for value in read_json_lines(_file(home)):
        try:
            pick = Pick.model_validate(value)
        except ValueError:
            continue
        if {pick.a, pick.b} != {a, b}:
            continue
        winner = None if pick.winner == "tie" else pick.a if pick.winner == "a" else pick.b
        wins[winner or "tie"] += 1
        if winner is not None:
            for name in pick.criteria:
                by.setdefault(name, [0, 0])[0 if winner == a else 1] += 1
    counted = {name: (first, second) for name, (first, second) in by.items() if first or second}
    return Score(a=a, b=b, wins_a=wins[a], wins_b=wins[b], ties=wins["tie"], criteria=counted)


def _file(home: Home) -> Path:
    return home.root / "contests.jsonl"
