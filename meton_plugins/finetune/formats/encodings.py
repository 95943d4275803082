"""Text files in whatever encoding they were written, read as a stream."""

from __future__ import annotations

import codecs
import io
import re
from pathlib import Path
from typing import Final

from .chat import BadRecord

__all__ = ["damaged", "encoding_of", "open_text"]

MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

HEAD: Final = 4096
CHUNK: Final = 1 << 20

#: Control characters that no text has, and the part of them that says that a file is none: an image, a model.
_CONTROLS: Final = bytes({*range(9), *range(14, 27), *range(28, 32), 127})
STRANGE: Final = 0.02

#: Bytes that Windows' code page leaves empty: a file that has one was not written in it.
NOT_CP1252: Final = frozenset(b"\x81\x8d\x8f\x90\x9d")

#: What decoding makes of a byte that is no UTF-8.
_STRANGE: Final = re.compile("[\udc80-\udcff]")
_BEYOND: Final = re.compile("[^\0-\x7f\udc80-\udcff]")


def open_text(path: Path) -> io.TextIOWrapper:
    """`path` as text with its line ends untouched; BadRecord where it is no text, OSError where it cannot be read."""
    encoding = encoding_of(path)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    return path.open("r", encoding=encoding, errors=errors, newline="\n")


def damaged(text: str) -> bool:
    """Whether `text`, as `open_text` gave it, holds bytes that are no UTF-8 in a file that otherwise is."""
    return not text.isascii() and _STRANGE.search(text) is not None


def encoding_of(path: Path) -> str:
    """How `path` is encoded: by its mark, else UTF-8 where most of what is not ASCII is that, else Western European."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        for mark, name in MARKS:
            if head.startswith(mark):
                return name
        unmarked = _unmarked(head) if b"\0" in head else None
        if unmarked is not None:
            return unmarked
        # A power cut leaves zeros at the end; a few strange bytes cost only the records that they are in.
        text = head.rstrip(b"\0")
        if head and len(text.translate(None, _CONTROLS)) <= len(text) * (1 - STRANGE):
            raise BadRecord("not a text file")
        file.seek(0)
        return _eight_bits(file)


def _unmarked(head: bytes) -> str | None:
    """UTF-16 without a mark has a zero in nearly every second byte of a Western text."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd > len(head) // 4 and even == 0:
        return "utf-16-le"
    return "utf-16-be" if even > len(head) // 4 and odd == 0 else None


def _eight_bits(file: io.BufferedReader) -> str:
    """Read all of it once, in pieces: a file whose first strange byte comes late must not be half misread."""
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    good = bad = 0
    outside = False
    while chunk := file.read(CHUNK):
        if (text := decode(chunk)).isascii():
            continue
        strange = _STRANGE.findall(text)
        bad += len(strange)
        good += len(_BEYOND.findall(text))
        outside = outside or not NOT_CP1252.isdisjoint(ord(character) - 0xDC00 for character in strange)
    if bad <= good:
        return "utf-8"
    return "latin-1" if outside else "cp1252"
