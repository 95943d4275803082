"""Take what the user had forgotten out of a frozen dataset. Its id stays; its manifest says that it was redacted."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from .. import form
from ..errors import DataError, NotFound
from ..library import Forgotten
from ..library.records import content_mark, settled
from ..paths import replacing, replacing_path, write_json
from .manifest import FILES, MANIFEST, PAIRS, FileEntry, Manifest, Redaction, read_manifest
from .rows import PLAIN, example_of, question_of

__all__ = ["held", "redact"]

#: The manifest to be, written before the files are: a killed redaction is finished by it.
JOURNAL: Final = ".redaction.json"

#: What of an earlier message surely is in a row, which shows `form.CONTEXT_LIMIT` characters of it.
SHOWN: Final = form.CONTEXT_LIMIT - 40

#: An answer of so many characters is known without its question, which may have been cut off before it.
TELLING: Final = 40

_HALF_PLACEHOLDER: Final = re.compile(r"<[A-Z_]*\d*\Z")
#: A line as a build writes it; in other lines the id and the session may be anywhere.
_HEAD: Final = re.compile(rb'\{"id": "([^"\\]*)", "session": "([^"\\]*)"')


def held(folder: Path, what: Forgotten) -> dict[str, int]:
    """Lines of the dataset in `folder` that hold `what`, also as context only, by file; nothing is changed."""
    finder = _Finder(what)
    found = {path.name: sum(map(finder.holds, path.read_bytes().splitlines())) for path in _files(folder)}
    return {name: number for name, number in found.items() if number}


def redact(folder: Path, what: Forgotten, at: str) -> Redaction | None:
    """Take out of the dataset in `folder` every line that holds `what`; None where none does.

    Killed at any moment and called again, it finishes what it had begun.
    """
    finder = _Finder(what)
    raws = {path.name: path.read_bytes() for path in _files(folder)}
    left = {name: finder.left(raw) for name, raw in raws.items()}
    manifest = _begun(folder, what, left)
    if manifest is None:
        if left == raws:
            return None
        manifest = _planned(folder, what, raws, left, at)
        write_json(folder / JOURNAL, manifest.model_dump(mode="json"))
    redaction = manifest.redacted[-1]
    for name, raw in raws.items():
        if left[name] != raw:
            with replacing(folder / name) as file:
                file.write(left[name])
    times = (folder / MANIFEST).stat()
    with replacing_path(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n", "utf-8")
        # `latest` is the one built last, not the one redacted last.
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (folder / JOURNAL).unlink()
    for half in folder.glob(".*.tmp"):  # of a redaction that was killed
        half.unlink()
    return redaction


def _begun(folder: Path, what: Forgotten, left: dict[str, bytes]) -> Manifest | None:
    """The manifest to be of a redaction that was killed, where it fits the files as they are."""
    try:
        manifest = Manifest.model_validate_json((folder / JOURNAL).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    last = manifest.redacted[-1]
    if last.forgotten != what.name:
        return None
    fits = all(_sha(left.get(name, b"")) == after for name, (_, after) in last.files.items())
    return manifest if fits else None


def _planned(folder: Path, what: Forgotten, raws: dict[str, bytes], left: dict[str, bytes], at: str) -> Manifest:
    """The manifest as it will be, when of the files `raws` only `left` is there."""
    try:
        manifest = read_manifest(folder)
    except (NotFound, DataError) as error:
        raise DataError(f"{error.sentence} Remove {folder}, because it holds what is to be forgotten.") from error
    changes: dict[str, tuple[str, str]] = {}
    files, counts = dict(manifest.files), dict(manifest.counts)
    examples, sessions, plain = dict(manifest.examples), dict(manifest.sessions), manifest.plain
    lines = {name: raw.count(b"\n") - left[name].count(b"\n") for name, raw in raws.items() if left[name] != raw}
    for name in lines:
        before, after = raws[name], left[name]
        # A file that was changed by others stays marked as changed: its old hash fits nothing.
        if name in files and files[name].sha256 == _sha(before):
            files[name] = FileEntry(sha256=_sha(after), bytes=len(after), lines=after.count(b"\n"))
            changes[name] = (_sha(before), _sha(after))
        side = next((split for split, file in FILES.items() if file == name), None)
        if name == PAIRS:
            counts["pairs"] = after.count(b"\n")
        elif side is not None:
            values = [json.loads(line) for line in after.split(b"\n") if line]
            counts[side] = len(values)
            plain = sum(str(value.get("id")).endswith(PLAIN) for value in values) if side == "train" else plain
            examples |= {side: len({example_of(str(value.get("id", ""))) for value in values})} if examples else {}
            sessions[side] = len({value.get("session") for value in values})
    redaction = Redaction(at=at, forgotten=what.name, lines=lines, files=changes)
    return manifest.model_copy(
        update={
            # Tokens were counted over rows that are no more.
            "files": files, "counts": counts, "examples": examples, "sessions": sessions, "tokens": None,
            "plain": plain,
            "redacted": [*manifest.redacted, redaction],
        }
    )  # fmt: skip


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if path.is_file() and not path.name.startswith("."))


class _Finder:
    """Knows the lines that hold `what`. Most lines are passed over without being read as JSON."""

    def __init__(self, what: Forgotten) -> None:
        self._what = what
        self._ids = frozenset(what.ids)
        self._pieces = {
            session: [(_shown(question), _shown(answer)) for question, answer in turns]
            for session, turns in what.said.items()
        }
        anchors = {_anchor(answer) for turns in what.said.values() for _, answer in turns}
        #: In each line that holds one of the answers there is one of these words; None where that cannot be said.
        self._anchors = None if None in anchors else frozenset(word for word in anchors if word)

    def left(self, raw: bytes) -> bytes:
        """What of a file may stay."""
        return b"".join(line for line in raw.splitlines(keepends=True) if not self.holds(line))

    def holds(self, line: bytes) -> bool:
        """Whether a line is of what is forgotten, or shows it."""
        head = _HEAD.match(line)
        known = head is not None and (example_of(head[1].decode()) in self._ids or head[2].decode() in self._pieces)
        told_apart = head is not None and not known
        if told_apart and self._anchors is not None and self._anchors.isdisjoint(line.lower().split()):
            return False
        try:
            value = json.loads(line)
        except ValueError:
            return False
        return isinstance(value, dict) and self._is(value)

    def _is(self, value: dict[str, Any]) -> bool:
        if example_of(str(value.get("id", ""))) in self._ids:
            return True
        messages = value.get("messages") or value.get("prompt")
        if not isinstance(messages, list):
            return False
        texts = [str(message.get("content", "")) for message in messages if isinstance(message, dict)]
        asked = "messages" in value and len(texts) > 1
        if asked and content_mark(question_of(texts[-2]), _answer(texts[-1])) in self._what.marks:
            return True
        turns = self._pieces.get(str(value.get("session")))
        if not turns:
            return False
        whole = settled("\n".join([*texts, str(value.get("chosen", "")), str(value.get("rejected", ""))]))
        return any(answer in whole and (len(answer) >= TELLING or question in whole) for question, answer in turns)


def _anchor(answer: str) -> bytes | None:
    """A word that stands alone in each line of a file that holds the answer, however it is escaped there."""
    inner = (word for row in answer.splitlines() for word in row.split(" ")[1:-1])
    words = [word for word in inner if word.isascii() and word.isalnum()]
    return max(words, key=len).lower().encode() if words else None


def _answer(text: str) -> str:
    step = form.parse(text)
    return step.answer if step and step.answer else text


def _shown(text: str) -> str:
    return settled(_HALF_PLACEHOLDER.sub("", text[:SHOWN]))


def _sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
