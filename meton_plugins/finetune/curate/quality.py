"""How good an example is to learn from, as a score whose parts can be shown."""

from __future__ import annotations

import ast
import json
import re
import warnings
from dataclasses import dataclass
from typing import Final

from ..library import Example

__all__ = ["Quality", "judge", "least"]

#: The part of the score that the user's own rating decides where there is one: with it, a 4 or 5 always ends above
#: the default threshold of 0.5 and a 1 or 2 below, whatever the heuristics say.
RATING_WEIGHT: Final = 0.7

RATING: Final = {1: 0.0, 2: 0.15, 3: 0.5, 4: 0.8, 5: 1.0}

_FENCE: Final = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_REFUSAL: Final = re.compile(
    r"(?i)\A\W{0,3}(?:i(?:'m| am) (?:sorry|unable|afraid)|(?:sorry|unfortunately),? (?:but )?i (?:can|could)(?:no|')t"
    r"|i (?:can(?:no|')t|am not able to) (?:help|assist|access|answer)|as an ai\b|error:|traceback \(most recent)"
)


@dataclass(frozen=True)
class Quality:
    """`score` is 0 to 1; `parts` are its factors, each 0 to 1 with the reason where it is not 1."""

    score: float
    parts: dict[str, float]
    reasons: dict[str, str]


def judge(example: Example) -> Quality:
    """The quality of an example's target. Code is parsed, never run."""
    text = example.target
    found = {
        "length": _length(text),
        "code": _code(text),
        "refusal": (0.2, "reads like a refusal or an error") if _REFUSAL.match(text) else (1.0, ""),
        "repetition": _repetition(text),
        "truncation": _truncation(text),
        "tools": _tools(example),
    }
    heuristics = 1.0
    for value, _ in found.values():
        heuristics *= value
    parts = {name: round(value, 4) for name, (value, _) in found.items()}
    reasons = {name: reason for name, (_, reason) in found.items() if reason}
    score = heuristics
    if example.score is not None:
        rating = RATING[example.score]
        parts = {"rating": rating, **parts}
        reasons["rating"] = f"rated {example.score} of 5" + (", corrected" if example.correction is not None else "")
        score = RATING_WEIGHT * rating + (1 - RATING_WEIGHT) * heuristics
    return Quality(round(score, 4), parts, reasons)


def least(example: Example) -> float:
    """The score that the user's own rating makes sure of, whatever `judge` would find."""
    return 0.0 if example.score is None else RATING_WEIGHT * RATING[example.score]


def _length(text: str) -> tuple[float, str]:
    length = len(text.strip())
    if length < 15:
        return 0.6, f"only {length} characters"
    if length > 12000:
        return 0.7, f"{length:,} characters"
    return 1.0, ""


def _code(text: str) -> tuple[float, str]:
    for language, code in _FENCE.findall(text):
        if language.lower() in ("python", "py", "python3") and not _parses(code):
            return 0.4, "its Python does not parse"
        if language.lower() == "json":
            try:
                json.loads(code)
            except (ValueError, RecursionError):
                return 0.6, "its JSON does not parse"
    return 1.0, ""


def _parses(code: str) -> bool:
    # Sessions with a prompt are shown as Python, but are none.
    if ">>>" in code:
        return True
    lines = code.split("\n")
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse("\n".join(line[indent:] for line in lines))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _repetition(text: str) -> tuple[float, str]:
    words = text.split()
    if len(words) < 24:
        return 1.0, ""
    grams = [tuple(words[index : index + 4]) for index in range(len(words) - 3)]
    distinct = len(set(grams)) / len(grams)
    if distinct >= 0.6:
        return 1.0, ""
    return max(0.1, distinct), f"{1 - distinct:.0%} of it repeats itself"


def _truncation(text: str) -> tuple[float, str]:
    if len(re.findall(r"^[ \t]*```", text, re.MULTILINE)) % 2:
        return 0.5, "a code block is not closed"
    if len(text) > 200 and text.rstrip()[-1:] in (",", "(", "[", "{", "="):
        return 0.6, "ends in the middle"
    return 1.0, ""


def _tools(example: Example) -> tuple[float, str]:
    if example.tools and example.tools[-1].output.lstrip().startswith("✗"):
        return 0.7, "its last tool failed"
    return 1.0, ""
