"""Chats that look real, made from the installed packages' code and words, some of them edited copies of others."""

from __future__ import annotations

import itertools
import random
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Corpus", "edited", "make_corpus", "pieces"]

#: Where a piece of a source file begins: a function, a class, with its decorators left to the one before.
_PIECE: Final = re.compile(r"^(?=[ ]{0,4}(?:async def|def|class) )", re.MULTILINE)
#: What a function is for, in one line.
_SUMMARY: Final = re.compile(r'"""([A-Z][^\n"]{10,90})\.?(?:"""|\n)')
_OPENINGS: Final = (
    "Here is how I would write it:\n\n{}\n\nTell me if you want tests for it.",
    "{}\n\nThis keeps the old behaviour and is easier to read.",
    "You can do it like this.\n\n```python\n{}\n```",
    "{}",
)
_SHORT: Final = ("{}?", "how do I {}", "write code: {}", "{}, in one line please", "{}", "{}.", "why? {}")
_STRANGE: Final = (
    "Wie heißt die Straße, in der das Café liegt? Ich möchte eine Funktion, die Umlaute in Dateinamen ersetzt.",
    "请写一个函数,把列表里的数字从小到大排序,并且去掉重复的元素,最后返回一个新的列表。谢谢你的帮助",
    "Напиши функцию, которая читает файл построчно и возвращает словарь с количеством слов в каждой строке.",
    "🎉🚀 It works! 🙌 The deploy went through ✅ and the tests are green 🟢🟢🟢 thanks a lot 🙏🙏 see you 👋",
    "この関数の使い方を教えてください。引数は二つで、戻り値は文字列です。例も書いてください。",
)


@dataclass
class Corpus:
    """`texts`, and the pairs of indices that were planted: the same text, edited."""

    texts: list[str] = field(default_factory=list)
    planted: list[tuple[int, int]] = field(default_factory=list)


def pieces(shortest: int = 300, longest: int = 2000) -> Iterator[str]:
    """Functions and classes of the standard library and the installed packages, so long in characters."""
    seen: set[str] = set()
    for root in dict.fromkeys([sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")]):
        for path in sorted(Path(root).rglob("*.py")):
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            for piece in _PIECE.split(text)[1:]:  # what is before the first is mostly a licence
                piece = piece.strip("\n")
                if shortest <= len(piece) <= longest and piece not in seen:
                    seen.add(piece)
                    yield piece


def make_corpus(count: int, seed: int = 1, *, share: float = 0.1, long: int = 2) -> Corpus:
    """`count` texts; `share` of them are edited copies of others, `long` are of 100,000 characters (and copies).

    One text in ten is short, down to one word; one in fifty is in another script or full of emoji.
    """
    chance = random.Random(seed)
    stock = list(itertools.islice(pieces(), max(3000, count)))
    chance.shuffle(stock)
    names = sorted({name for piece in stock[:4000] for name in re.findall(r"\b[a-z_]{4,}\b", piece)})
    summaries = sorted({found for piece in stock for found in _SUMMARY.findall(piece)})
    corpus = Corpus()
    originals: list[int] = []
    while len(corpus.texts) < count:
        number = len(corpus.texts)
        if originals and chance.random() < share:
            source = chance.choice(originals)
            corpus.planted.append((source, number))
            corpus.texts.append(edited(corpus.texts[source], chance, chance.uniform(0.01, 0.3)))
            continue
        originals.append(number)
        if long and number % max(1, count // (2 * long)) == 7:
            corpus.texts.append("\n\n".join(chance.choice(stock) for _ in range(400))[:100_000])
            source = number
            corpus.planted.append((source, number + 1))
            corpus.texts.append(edited(corpus.texts[source], chance, 0.03))
        elif number % 50 == 3:
            corpus.texts.append(f"{chance.choice(_STRANGE)} {' '.join(chance.sample(names, 4))}")
        elif number % 10 == 1:
            asked = chance.choice(names)
            corpus.texts.append(asked if number % 30 == 1 else chance.choice(_SHORT).format(chance.choice(summaries)))
        else:
            piece = stock[number % len(stock)]
            if number >= len(stock):
                # Once round: two pieces that never stood together make a text of its own.
                piece = f"{piece[: len(piece) // 2]}\n{chance.choice(stock)}"
            corpus.texts.append(chance.choice(_OPENINGS).format(piece))
    del corpus.texts[count:]
    corpus.planted = [(a, b) for a, b in corpus.planted if b < count]
    return corpus


def edited(text: str, chance: random.Random, strength: float) -> str:
    """`text` as somebody might have changed it; `strength` is about the part of its words that changes."""
    way = chance.choice((_words, _words, _typos, _renamed, _reindented, _cut))
    return way(text, chance, strength)


def _words(text: str, chance: random.Random, strength: float) -> str:
    """Words replaced, dropped and added."""
    parts = re.split(r"(\s+)", text)
    words = [part for part in parts if part.strip()] or ["word"]
    made = []
    for part in parts:
        if part.strip() and chance.random() < strength:
            made.append(chance.choice(("", chance.choice(words), f"{part} {chance.choice(words)}", part.upper())))
        else:
            made.append(part)
    return "".join(made)


def _typos(text: str, chance: random.Random, strength: float) -> str:
    letters = list(text)
    for _ in range(int(len(letters) * strength / 3)):
        where = chance.randrange(len(letters))
        letters[where] = chance.choice(("", letters[where] * 2, chance.choice("aeioustrn_ .")))
    return "".join(letters)


def _renamed(text: str, chance: random.Random, strength: float) -> str:
    """Some names, everywhere they stand."""
    names = sorted(set(re.findall(r"\b[A-Za-z_]{3,}\b", text)))
    for name in chance.sample(names, min(len(names), 1 + int(len(names) * strength / 3))):
        text = re.sub(rf"\b{name}\b", name + chance.choice(("_", "2", "_new", "s")), text)
    return text


def _reindented(text: str, chance: random.Random, strength: float) -> str:
    text = text.replace("    ", "\t").replace("'", '"')
    return _typos(text, chance, strength / 2)


def _cut(text: str, chance: random.Random, strength: float) -> str:
    """The end is another: lines left out, a remark put behind."""
    keep = max(1, int(len(text) * (1 - strength)))
    return text[:keep] + chance.choice(("", "\n\nDone.", "\nLet me know if that helps!"))
