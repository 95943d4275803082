"""Secrets and personal data in texts, replaced by typed placeholders. Best effort: patterns, no proof.

Each pattern stands behind a literal, and is tried only where that literal stands, so clean text costs some substring
searches. Values are never logged and never leave this module.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from .secret_forms import FORMS, HARMLESS, Form
from .secret_names import find_named, made_by_machine
from .spans import Hit, Taken, begins, unescaped

__all__ = ["KINDS", "placeholder_share", "scrub"]

KINDS: Final = tuple(dict.fromkeys([*(form.kind for form in FORMS), "SECRET", "PASSWORD"]))

_PLACEHOLDER: Final = re.compile(rf"<({'|'.join(KINDS)})_(\d+)>")
_FOLD: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

#: Most secrets are words at least so long, with a run of letters and digits in them, and hardly a word of clean text
#: is: one pass over the words spares a search for each of the literals.
SHORTEST: Final = 18
_RUN: Final = re.compile(r"[A-Za-z0-9_-]{16}")
_MADE: Final = re.compile(r"\d|[A-Za-z]{30}")
_IN_WORDS: Final = tuple(form for form in FORMS if not form.open)
_OPEN: Final = tuple(form for form in FORMS if form.open)

#: A chat about a dump of thousands of keys would be searched for each of them.
MOST_SPREAD: Final = 500

#: These are found wherever they stand; a value of another kind is sought again where nothing names it.
_SELF_EVIDENT: Final = ("EMAIL", "HOME")
#: Kinds whose values documentation invents.
_INVENTED: Final = ("CREDENTIALS", "BEARER", "AWS_KEY", "STRIPE_KEY")
_INVENTED_LOGIN: Final = re.compile(
    r"(?i)(?:[^:]*:(?:(?:my|some|the)?(?:pass(?:word|wd)?|pw|pwd|secret|token)|port|[a-z]|\*+|xxx+|tiger|%[sdr])\d?"
    r"|(\w+):\1|[^:]*:|\d+:\d+)$"
)


def scrub(texts: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The texts of one conversation with each secret replaced, and how many distinct ones there were of each kind.

    The same secret gets the same number in all of `texts`, also where only one of them says what it is; placeholders
    that are in the texts already keep theirs. A text that is JSON stays JSON.
    """
    hits = [_hits(text) for text in texts]
    if not any(hits):
        return list(texts), {}
    numbers: dict[str, int] = {}
    for text in texts:
        for match in _PLACEHOLDER.finditer(text):
            kind, number = match.group(1), int(match.group(2))
            numbers[kind] = max(numbers.get(kind, 0), number)
    _spread(texts, hits)
    seen: dict[tuple[str, str], str] = {}
    counts: Counter[str] = Counter()
    cleaned = []
    for text, found in zip(texts, hits, strict=True):
        parts, done = [], 0
        for start, end, kind in found:
            value = text[start:end]
            known = seen.get((kind, value))
            if known is None:
                numbers[kind] = numbers.get(kind, 0) + 1
                counts[kind] += 1
                known = seen[(kind, value)] = f"<{kind}_{numbers[kind]}>"
            parts += [text[done:start], known]
            done = end
        cleaned.append(_still_json(text, "".join([*parts, text[done:]]), seen) if found else text)
    return cleaned, dict(counts)


def placeholder_share(text: str) -> float:
    """The part of `text`, by characters, that is placeholders: 0 to 1."""
    length = sum(match.end() - match.start() for match in _PLACEHOLDER.finditer(text))
    return length / max(1, len(text.strip()))


def _hits(text: str) -> list[Hit]:
    """Every secret of a text, in order, none in another."""
    folded = text.lower()
    if len(folded) != len(text):  # a letter of Turkish grows: places would no longer be the same
        folded = text.translate(_FOLD)
    suspects = " ".join(
        [word for word in text.split() if len(word) >= SHORTEST and _RUN.search(word) and _MADE.search(word)]
    )
    forms = [form for form in _OPEN if form.literal in (folded if form.folded else text)]
    if suspects:
        forms = [form for form in _IN_WORDS if form.literal in suspects] + forms
    taken = Taken()
    for form in forms:
        for start, end in _found(form, text, folded if form.folded else text):
            taken.add(*unescaped(text, start, end), form.kind)
    for start, end, kind in find_named(text, folded):
        taken.add(*unescaped(text, start, end), kind)
    return taken.hits


def _found(form: Form, text: str, where: str) -> Iterator[tuple[int, int]]:
    literal, regex = form.literal, form.regex
    group = "value" if "value" in regex.groupindex else 0
    done = 0
    at = where.find(literal)
    while at >= 0:
        after = at + len(literal)
        match = None
        if form.back:
            # In clean text most of these literals stand alone: an operator, a decorator.
            if at > done and where[at - 1].isalnum() and form.follows.match(text, at):
                match = regex.search(text, max(done, at - form.back), after + 400)
        elif form.bare or begins(where, at):
            match = regex.match(text, at)
        if match and not _harmless(form.kind, match[group]):
            yield match.span(group)
            done = after = max(after, match.end())
        at = where.find(literal, after)


def _harmless(kind: str, value: str) -> bool:
    if kind not in _INVENTED:
        return False
    return bool(HARMLESS.search(value)) or (kind == "CREDENTIALS" and bool(_INVENTED_LOGIN.match(value)))


def _spread(texts: Sequence[str], hits: list[list[Hit]]) -> None:
    """Add what is the same as a found value, where nothing beside it says so."""
    values: dict[str, str] = {}
    for text, found in zip(texts, hits, strict=True):
        for start, end, kind in found:
            if kind not in _SELF_EVIDENT and made_by_machine(text[start:end]):
                values.setdefault(text[start:end], kind)
    for value, kind in islice(values.items(), MOST_SPREAD):
        for number, text in enumerate(texts):
            at = text.find(value)
            while at >= 0:
                end = at + len(value)
                if begins(text, at) and not text[end : end + 1].isalnum():
                    taken = Taken(hits[number])
                    taken.add(at, end, kind)
                    hits[number] = taken.hits
                at = text.find(value, end)


def _still_json(before: str, after: str, seen: dict[tuple[str, str], str]) -> str:
    """`after`, or where `before` was JSON and it is none, the same document with the strings replaced one by one."""
    if before.lstrip()[:1] not in ("{", "["):
        return after
    try:
        value = json.loads(before)
    except (ValueError, RecursionError):
        return after
    try:
        json.loads(after)
        return after
    except ValueError:
        known = {secret: placeholder for (_, secret), placeholder in seen.items()}
        return json.dumps(_in_strings(value, known), ensure_ascii=False)


def _in_strings(value: Any, known: dict[str, str]) -> Any:
    if isinstance(value, str):
        for secret, placeholder in known.items():
            value = value.replace(secret, placeholder)
        return value
    if isinstance(value, list):
        return [_in_strings(each, known) for each in value]
    if isinstance(value, dict):
        return {_in_strings(key, known): _in_strings(each, known) for key, each in value.items()}
    return known.get(json.dumps(value), value)
