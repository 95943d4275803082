"""How good an example is to learn from, as a score whose parts can be shown."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..library import Example

__all__ = ["BANDS", "Quality", "judge", "least"]

#: Lowest and highest score of a rating. They do not touch, so what was rated better always scores better, and the
#: checks only order what was rated alike; with the default threshold of 0.5 a 4 or 5 always passes, a 1 or 2 never.
BANDS: Final = {1: (0.0, 0.15), 2: (0.2, 0.35), 3: (0.4, 0.6), 4: (0.65, 0.8), 5: (0.85, 1.0)}

#: Longer code is not parsed: it would take seconds, and no answer has it.
LONGEST_CODE: Final = 200_000
#: So many words are enough to see that a text repeats itself.
MOST_WORDS: Final = 20_000

_FENCE: Final = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_OPEN: Final = re.compile(r"^[ \t]*```", re.MULTILINE)
#: Lines of a notebook that its own shell takes.
_MAGIC: Final = re.compile(r"^[ \t]*[%!].*$", re.MULTILINE)
_REFUSAL: Final = re.compile(
    r"(?i)\A\W{0,3}(?:i(?:'m| am) (?:sorry|unable|afraid)|(?:sorry|unfortunately),? (?:but )?i (?:can|could)(?:no|')t"
    r"|i (?:can(?:no|')t|am not able to) (?:help|assist|access|answer)|as an ai\b|error:|traceback \(most recent)"
)

#: What one check found: 0 to 1, and why.
_Part = tuple[float, str]


@dataclass(frozen=True)
class Quality:
    """`score` is 0 to 1; `parts` are what it is made of, each 0 to 1, and `reasons` says of each why."""

    score: float
    parts: dict[str, float]
    reasons: dict[str, str]


def judge(example: Example) -> Quality:
    """The quality of an example's target. Code is parsed, never run."""
    text = example.target
    checks = {
        "length": _length(text),
        "code": _code(text),
        "refusal": _refusal(example),
        "repetition": _repetition(text),
        "truncation": _truncation(text),
        "tools": _tools(example),
    }
    found: dict[str, _Part] = {}
    product = 1.0
    for value, _ in checks.values():
        product *= value
    if example.correction is not None:
        # A person chose these words: what looks odd in them may be meant.
        product = (1 + product) / 2
        found["correction"] = (1.0, "your own words: they halve what the checks below take off")
    score = product
    if example.score is not None:
        low, high = BANDS[example.score]
        score = low + (high - low) * product
        found = {
            "rating": (high, f"rated {example.score} of 5: from {low:g} to {high:g}, whatever the rest says"),
            **found,
        }
    found |= checks
    return Quality(
        round(score, 4),
        {name: round(value, 4) for name, (value, _) in found.items()},
        {name: reason for name, (_, reason) in found.items()},
    )


def least(example: Example) -> float:
    """The score that the user's own rating makes sure of, whatever `judge` would find."""
    return 0.0 if example.score is None else BANDS[example.score][0]


def _length(text: str) -> _Part:
    length = len(text.strip())
    if length < 15:
        return 0.6, f"only {length} characters"
    return (0.7 if length > 12000 else 1.0), f"{length:,} characters"


def _code(text: str) -> _Part:
    parsed = 0
    for language, code in _blocks(text):
        if len(code) > LONGEST_CODE:
            continue
        if language == "python" and not _parses(code):
            return 0.4, "its Python does not parse"
        if language == "json" and not _is_json(code):
            return 0.6, "its JSON does not parse"
        parsed += 1
    return 1.0, f"{parsed} block{'' if parsed == 1 else 's'} of Python or JSON, parsed" if parsed else "none to parse"


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each code block that can be parsed."""
    for language, code in _FENCE.findall(text):
        if language.lower() in ("python", "py", "python3"):
            yield "python", code
        elif language.lower() == "json":
            yield "json", code


def _parses(code: str) -> bool:
    # Sessions with a prompt are shown as Python, but are none.
    if ">>>" in code:
        return True
    lines = _MAGIC.sub("pass", code).split("\n")
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse("\n".join(line[indent:] for line in lines))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _is_json(code: str) -> bool:
    try:
        # Numbers stay text: a very long one is JSON, but no int that Python would make.
        json.loads(code, parse_int=str)
    except (ValueError, RecursionError):
        return False
    return True


def _refusal(example: Example) -> _Part:
    if example.failure is not None and example.correction is None:
        return 0.1, f"no answer: {example.failure}"
    if _REFUSAL.match(example.target):
        return 0.2, "reads like a refusal or an error"
    return 1.0, "no refusal, no error"


def _repetition(text: str) -> _Part:
    words = text.split(maxsplit=MOST_WORDS)[:MOST_WORDS]
    if len(words) < 24:
        return 1.0, "too short to repeat itself"
    grams = [tuple(words[index : index + 4]) for index in range(len(words) - 3)]
    distinct = len(set(grams)) / len(grams)
    return (1.0 if distinct >= 0.6 else max(0.1, distinct)), f"{1 - distinct:.0%} of it repeats itself"


def _truncation(text: str) -> _Part:
    if len(_OPEN.findall(text)) % 2:
        return 0.5, "a code block is not closed"
    if len(text) > 200 and text.rstrip()[-1:] in (",", "(", "[", "{", "="):
        return 0.6, "ends in the middle"
    return 1.0, "ends as it should"


def _tools(example: Example) -> _Part:
    if not example.tools:
        return 1.0, "none used"
    if example.correction is not None:
        return 1.0, "your own words do not rest on them"
    if example.tools[-1].output.lstrip().startswith("✗"):
        return 0.7, "its last tool failed"
    return 1.0, "its last tool did not fail"
