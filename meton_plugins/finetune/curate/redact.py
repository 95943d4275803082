"""Take what the user had forgotten out of a frozen dataset. Its id stays; its manifest says that it was redacted."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from .. import form
from ..errors import DataError, NotFound
from ..library import Forgotten
from ..library.records import content_mark, settled
from ..paths import replacing, replacing_path, write_json
from .manifest import FILES, MANIFEST, PAIRS, FileEntry, Manifest, Redaction, read_manifest

__all__ = ["held", "redact"]

#: The manifest to be, written before the files are: a killed redaction is finished by it.
JOURNAL: Final = ".redaction.json"

#: What of an earlier message surely is in a row, which shows `form.CONTEXT_LIMIT` characters of it.
SHOWN: Final = form.CONTEXT_LIMIT - 40

#: An answer of so many characters is known without its question, which may have been cut off before it.
TELLING: Final = 40

_HALF_PLACEHOLDER: Final = re.compile(r"<[A-Z_]*\d*\Z")
_QUERY: Final = re.compile(rf"User Query: (.*?)(?:\n\nPrevious Tool Calls:|\n\n{re.escape(form.TAIL)}|\Z)", re.DOTALL)
_RESULTS: Final = "\n\nTool results:\n"


def held(folder: Path, what: Forgotten) -> dict[str, int]:
    """Lines of the dataset in `folder` that hold `what`, also as context only, by file; nothing is changed."""
    found = {path.name: sum(not keep for _, keep in _lines(path.read_bytes(), what)) for path in _files(folder)}
    return {name: number for name, number in found.items() if number}


def redact(folder: Path, what: Forgotten, at: str) -> Redaction | None:
    """Take out of the dataset in `folder` every line that holds `what`; None where none does.

    Killed at any moment and called again, it finishes what it had begun.
    """
    manifest = _begun(folder, what)
    if manifest is None:
        manifest = _planned(folder, what, at)
        if manifest is None:
            return None
        write_json(folder / JOURNAL, manifest.model_dump(mode="json"))
    redaction = manifest.redacted[-1]
    for name in redaction.lines:
        raw = (folder / name).read_bytes()
        left = _left(raw, what)
        if left != raw:
            with replacing(folder / name) as file:
                file.write(left)
    times = (folder / MANIFEST).stat()
    with replacing_path(folder / MANIFEST) as path:
        path.write_text(json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n", "utf-8")
        # `latest` is the one built last, not the one redacted last.
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (folder / JOURNAL).unlink()
    for half in folder.glob(".*.tmp"):  # of a redaction that was killed
        half.unlink()
    return redaction


def _begun(folder: Path, what: Forgotten) -> Manifest | None:
    """The manifest to be of a redaction that was killed, where it fits the files as they are."""
    try:
        manifest = Manifest.model_validate_json((folder / JOURNAL).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    last = manifest.redacted[-1]
    if last.forgotten != what.name:
        return None
    for name, (_, after) in last.files.items():
        if _sha(_left((folder / name).read_bytes(), what)) != after:
            return None
    return manifest


def _planned(folder: Path, what: Forgotten, at: str) -> Manifest | None:
    """The manifest as it will be, or None where the dataset holds nothing of `what`."""
    lines = held(folder, what)
    if not lines:
        return None
    try:
        manifest = read_manifest(folder)
    except (NotFound, DataError) as error:
        raise DataError(f"{error.sentence} Remove {folder}, because it holds what is to be forgotten.") from error
    changes: dict[str, tuple[str, str]] = {}
    files, counts = dict(manifest.files), dict(manifest.counts)
    examples, sessions = dict(manifest.examples), dict(manifest.sessions)
    for name in lines:
        raw = (folder / name).read_bytes()
        left = _left(raw, what)
        # A file that was changed by others stays marked as changed: its old hash fits nothing.
        if name in files and files[name].sha256 == _sha(raw):
            files[name] = FileEntry(sha256=_sha(left), bytes=len(left), lines=left.count(b"\n"))
            changes[name] = (_sha(raw), _sha(left))
        side = next((split for split, file in FILES.items() if file == name), None)
        if name == PAIRS:
            counts["pairs"] = left.count(b"\n")
        elif side is not None:
            values = [json.loads(line) for line in left.split(b"\n") if line]
            counts[side] = len(values)
            examples |= {side: len({_example(value) for value in values})} if examples else {}
            sessions[side] = len({value.get("session") for value in values})
    redaction = Redaction(at=at, forgotten=what.name, lines=lines, files=changes)
    return manifest.model_copy(
        update={
            # Tokens were counted over rows that are no more.
            "files": files, "counts": counts, "examples": examples, "sessions": sessions, "tokens": None,
            "redacted": [*manifest.redacted, redaction],
        }
    )  # fmt: skip


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if path.is_file() and not path.name.startswith("."))


def _left(raw: bytes, what: Forgotten) -> bytes:
    return b"".join(line for line, keep in _lines(raw, what) if keep)


def _lines(raw: bytes, what: Forgotten) -> Iterator[tuple[bytes, bool]]:
    """Each line, and whether it may stay."""
    pieces = {
        session: [(_shown(question), _shown(answer)) for question, answer in turns]
        for session, turns in what.said.items()
    }
    for line in raw.splitlines(keepends=True):
        try:
            value = json.loads(line)
        except ValueError:
            yield line, True
            continue
        yield line, not (isinstance(value, dict) and _holds(value, what, pieces))


def _holds(value: dict[str, Any], what: Forgotten, pieces: dict[str, list[tuple[str, str]]]) -> bool:
    if _example(value) in what.ids:
        return True
    messages = value.get("messages") or value.get("prompt")
    if not isinstance(messages, list):
        return False
    texts = [str(message.get("content", "")) for message in messages if isinstance(message, dict)]
    if "messages" in value and len(texts) > 1 and content_mark(_question(texts[-2]), _answer(texts[-1])) in what.marks:
        return True
    turns = pieces.get(str(value.get("session")))
    if not turns:
        return False
    whole = settled("\n".join([*texts, str(value.get("chosen", "")), str(value.get("rejected", ""))]))
    return any(answer in whole and (len(answer) >= TELLING or question in whole) for question, answer in turns)


def _example(value: dict[str, Any]) -> str:
    """The id of the example that a line is of; a row of one of its model calls is called `<id>#<number>`."""
    return str(value.get("id", "")).partition("#")[0]


def _question(text: str) -> str:
    """What was asked, of a row's last question."""
    match = _QUERY.search(text)
    return match[1] if match else text.partition(_RESULTS)[0]


def _answer(text: str) -> str:
    step = form.parse(text)
    return step.answer if step and step.answer else text


def _shown(text: str) -> str:
    return settled(_HALF_PLACEHOLDER.sub("", text[:SHOWN]))


def _sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
