"""Secrets and personal data in texts, replaced by typed placeholders. Best effort: patterns, no proof.

Each pattern stands behind a literal that must be in the text first, so that clean text costs a few substring searches.
Values are never logged and never leave this module.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["KINDS", "placeholder_share", "scrub"]


@dataclass(frozen=True)
class _Pattern:
    """`literals`: one of them is in any text that matches. The group `value`, else the whole match, is the secret."""

    kind: str
    literals: tuple[str, ...]
    regex: re.Pattern[str]
    folded: bool = False


def _pattern(kind: str, literals: str, regex: str, *, folded: bool = False) -> _Pattern:
    return _Pattern(kind, tuple(literals.split()), re.compile(regex, re.IGNORECASE if folded else 0), folded)


#: A word of key = value whose value is a secret.
_SECRET_WORDS: Final = (
    r"api[_-]?key|apikey|secret[_-]?key|client[_-]?secret|access[_-]?token|auth[_-]?token|private[_-]?key|passwd|"
    r"password|secret|token"
)

#: In order: the first that matches a stretch of text has it, so the typed ones come before the general ones.
PATTERNS: Final = (
    _pattern(
        "PRIVATE_KEY",
        "-----BEGIN",
        r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----[\s\S]{0,20000}?"
        r"(?:-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    ),
    _pattern("AWS_KEY", "AKIA ASIA ABIA ACCA", r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b"),
    _pattern(
        "AWS_SECRET",
        "aws",
        r"aws[\w-]{0,20}(?:secret|key)[\w-]{0,20}[\"']?\s{0,3}[:=]{1,2}\s{0,3}[\"']?(?P<value>[A-Za-z0-9/+]{40})(?![\w/+])",
        folded=True,
    ),
    _pattern("GITHUB_TOKEN", "ghp_ gho_ ghu_ ghs_ ghr_", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b"),
    _pattern("GITHUB_TOKEN", "github_pat_", r"\bgithub_pat_\w{22,255}\b"),
    _pattern("GITLAB_TOKEN", "glpat-", r"\bglpat-[\w-]{20,64}"),
    _pattern("API_KEY", "sk-ant-", r"\bsk-ant-[\w-]{20,200}"),
    _pattern("API_KEY", "sk-", r"\bsk-(?:proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_-]{20,200}"),
    _pattern("API_KEY", "hf_", r"\bhf_[A-Za-z0-9]{30,60}\b"),
    _pattern("API_KEY", "AIza", r"\bAIza[\w-]{35}(?![\w-])"),
    _pattern("API_KEY", "GOCSPX-", r"\bGOCSPX-[\w-]{28}(?![\w-])"),
    _pattern("SLACK_TOKEN", "xoxb- xoxp- xoxa- xoxr- xoxs- xoxe- xapp-", r"\bx(?:ox[abeprs]|app)-[A-Za-z0-9-]{10,250}"),
    _pattern(
        "WEBHOOK",
        "hooks.slack.com/",
        r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/_-]{20,200}",
    ),
    _pattern(
        "STRIPE_KEY",
        "sk_live_ sk_test_ rk_live_ rk_test_ whsec_",
        r"\b(?:[sr]k_(?:live|test)|whsec)_[A-Za-z0-9]{10,200}",
    ),
    _pattern("PACKAGE_TOKEN", "npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
    _pattern("PACKAGE_TOKEN", "pypi-", r"\bpypi-AgE[\w-]{50,1000}"),
    _pattern("MAIL_KEY", "SG.", r"\bSG\.[\w-]{16,32}\.[\w-]{32,64}"),
    _pattern("BOT_TOKEN", ":AA", r"(?<!\d)\d{8,10}:AA[\w-]{33}(?![\w-])"),
    _pattern("JWT", "eyJ", r"\beyJ[\w-]{8,2000}\.eyJ[\w-]{8,8000}\.[\w-]{8,2000}"),
    _pattern("CREDENTIALS", "://", r"(?<=://)(?P<value>[^\s:/@\"'<>{}$]{1,100}:[^\s:/@\"'<>{}$]{1,200})(?=@[\w\[])"),
    _pattern("BEARER", "bearer", r"\bbearer\s+(?P<value>(?=[\w.~+/-]*\d)[\w.~+/-]{20,2000}=*)", folded=True),
    _pattern(
        "PASSWORD",
        "key secret token passw",
        rf"(?:{_SECRET_WORDS})\d{{0,2}}[\"']?\s{{0,5}}(?::=|=>|[:=])\s{{0,5}}[\"'`](?P<value>[^\s\"'`<>{{}}$%]{{8,200}})[\"'`]",
        folded=True,
    ),
    _pattern(
        "PASSWORD",
        "KEY= SECRET= TOKEN= PASSWORD= PASSWD= PWD=",
        r"(?m)^(?:export )?[A-Z0-9_]*(?:KEY|SECRET|TOKEN|PASSWORD|PASSWD|PWD)="
        r"(?P<value>(?=\S*[\dA-Z])[^\s\"'`<>(){}$%]{8,200})$",
    ),
    _pattern(
        "EMAIL",
        "@",
        r"(?<![\w.+/-])(?!git@|noreply@)[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b",
    ),
    _pattern("HOME", "/home/ /Users/", r"(?<![\w.~])/(?:home|Users)/[A-Za-z0-9][\w.-]{0,63}"),
    _pattern("HOME", "\\Users\\", r"\b[A-Za-z]:\\{1,2}Users\\{1,2}[A-Za-z0-9][\w.-]{0,63}"),
)

KINDS: Final = tuple(dict.fromkeys(pattern.kind for pattern in PATTERNS))

_PLACEHOLDER: Final = re.compile(rf"<({'|'.join(KINDS)})_(\d+)>")

#: Values that only look like a secret: every document has them, and replacing them would teach nothing but holes.
_HARMLESS: Final = re.compile(
    r"(?i)(?:x{4,}|\*{4,}|\.{3,}|your[-_ ]|my[-_ ]?(?:secret|token|key|password)|changeme|placeholder|example|dummy"
    r"|(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*\b|[A-Za-z]+(?:[_-][A-Za-z]+)*$)"
)


def scrub(texts: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The texts of one conversation with each secret replaced, and how many distinct ones there were of each kind.

    The same secret gets the same number in all of `texts`; placeholders that are in the texts already keep theirs.
    """
    numbers: dict[str, int] = {}
    for text in texts:
        if "<" in text:
            for match in _PLACEHOLDER.finditer(text):
                kind, number = match.group(1), int(match.group(2))
                numbers[kind] = max(numbers.get(kind, 0), number)
    seen: dict[tuple[str, str], str] = {}
    counts: Counter[str] = Counter()

    def placeholder(kind: str, value: str) -> str:
        known = seen.get((kind, value))
        if known is None:
            numbers[kind] = numbers.get(kind, 0) + 1
            counts[kind] += 1
            known = seen[(kind, value)] = f"<{kind}_{numbers[kind]}>"
        return known

    cleaned = []
    for text in texts:
        folded = text.lower()
        for pattern in PATTERNS:
            where = folded if pattern.folded else text
            if any(literal in where for literal in pattern.literals):
                text = _replace(pattern, text, placeholder)
        cleaned.append(text)
    return cleaned, dict(counts)


def placeholder_share(text: str) -> float:
    """The part of `text`, by characters, that is placeholders: 0 to 1."""
    length = sum(match.end() - match.start() for match in _PLACEHOLDER.finditer(text))
    return length / max(1, len(text.strip()))


def _replace(pattern: _Pattern, text: str, placeholder: Callable[[str, str], str]) -> str:
    def one(match: re.Match[str]) -> str:
        whole = match.group(0)
        group = "value" if "value" in pattern.regex.groupindex else 0
        value = match.group(group)
        if pattern.kind == "PASSWORD" and _HARMLESS.match(value):
            return whole
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        return whole[:start] + placeholder(pattern.kind, value) + whole[end:]

    return pattern.regex.sub(one, text)
