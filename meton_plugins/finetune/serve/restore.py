"""A backup becomes the data folder again: everything is checked first, then one rename puts it in place."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import stat
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import ValidationError

from ..errors import BusyError, DataError, FinetuneError, NotFound, UsageError
from ..library import Library
from ..library.schema import VERSION
from ..paths import Home, private_dir, sync_dir
from ..told import BACKUPS, HARVESTED, Told
from ..train.runs import all_runs
from .backup import CHUNK, INSIDE, LIBRARY, RECORD, Entry, Record, wanted
from .forget import finish, forget

__all__ = ["Restored", "restore"]

#: A longer list of files is no list of ours.
LARGEST_RECORD: Final = 256 * 2**20

#: What a data folder may hold and still have nothing to lose.
NOTHING: Final = ("told.json", "errors.log", "split.lock", "start.lock")

#: An unpacked folder that is older belongs to no living restore.
STALE_SECONDS: Final = 3600

Progress = Callable[[str, int, int], None]


@dataclass
class Restored:
    """A data folder that was restored. `kept` is where the one before lies now; `forgotten` counts examples that the
    backup still held and that were forgotten there since."""

    record: Record
    kept: Path | None
    forgotten: int


def restore(home: Home, source: Path, *, force: bool = False, progress: Progress | None = None) -> Restored:
    """Put the backup `source` in the place of the data folder; with `force` also of one that holds something.

    DataError, and nothing changed, where the archive is damaged or not what a backup is.
    """
    root = home.root.resolve()
    occupied = _occupied(root)
    with _opened(source) as archive:
        # Before --force is asked for: with no backup to put there it would not help.
        record = _checked(archive, source)
        if occupied and not force:
            raise UsageError(
                f"{root} holds data already: add --force to put the backup in its place and keep it beside."
            )
        busy = next((run for run in all_runs(home.runs) if run.alive), None)
        if busy is not None:
            raise BusyError(f"The run {busy.name} is at work in {root}: stop it first with /finetune stop {busy.name}.")
        root.parent.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(root.parent).free
        size = sum(entry.bytes for entry in record.files)
        if size > room:
            raise DataError(f"{source} unpacks to {size / 2**20:.0f} MB, and only {room / 2**20:.0f} MB are free.")
        _sweep(root)
        staged = private_dir(Path(tempfile.mkdtemp(prefix=f".{root.name}.restore-", dir=root.parent)))
        try:
            _unpack(archive, record, staged, source, progress or (lambda stage, done, total: None))
            _check_library(staged / LIBRARY, source)
            forgotten = _obey(root, staged) if occupied else 0
            _remember(root, staged, source)
            kept = _swap(root, staged)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    if kept is not None and not occupied:
        shutil.rmtree(kept, ignore_errors=True)
        kept = None
    return Restored(record, kept, forgotten)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    if not source.is_file():
        raise NotFound(f"There is no file {source}.")
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise DataError(f"{source} is damaged or no backup ({error}): nothing was changed.") from error


def _checked(archive: zipfile.ZipFile, source: Path) -> Record:
    """What the archive says it holds, where that is what it holds and what a backup may hold."""
    members = archive.infolist()
    try:
        own = archive.getinfo(RECORD)
        if own.file_size > LARGEST_RECORD:
            raise DataError(f"{source} is no backup: its list of files is larger than any.")
        record = Record.model_validate_json(archive.read(own))
    except KeyError as error:
        raise DataError(f"{source} is no backup: it holds no {RECORD}.") from error
    except ValidationError as error:
        raise DataError(f"{source} is no backup, or a newer version of meton-finetune made it.") from error
    listed = {INSIDE + entry.path: entry for entry in record.files}
    names = [member.filename for member in members]
    if len(set(names)) != len(names) or len(listed) != len(record.files) or {*names} != {*listed, RECORD}:
        raise DataError(f"{source} is damaged: it holds other files than it says.")
    for member in members:
        mode = member.external_attr >> 16
        plain = stat.S_IFMT(mode) in (0, stat.S_IFREG) and not member.flag_bits & 1
        if not plain or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{source} holds {member.filename[:80]!r}, which is no plain file: no backup of ours does.")
        if member.filename != RECORD and member.file_size != listed[member.filename].bytes:
            raise DataError(f"{source} is damaged: {member.filename[:80]!r} has another size than it says.")
    for entry in record.files:
        if not _safe(entry.path) or not wanted(entry.path):
            raise DataError(f"{source} holds {entry.path[:80]!r}, which no backup of ours does: it was not restored.")
    if record.library is not None and record.library > VERSION:
        raise DataError(f"A newer version of meton-finetune made {source}: update this one.")
    return record


def _safe(path: str) -> bool:
    """Whether `path` stays in the folder that it is put in."""
    parts = path.split("/")
    strange = any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
    return not strange and not any(ord(sign) < 32 or sign in "\\:\x7f" for sign in path) and len(parts) <= 16


def _unpack(archive: zipfile.ZipFile, record: Record, staged: Path, source: Path, progress: Progress) -> None:
    total, done = sum(entry.bytes for entry in record.files), 0
    for entry in record.files:
        target = staged / PurePosixPath(entry.path)
        try:
            for folder in reversed(target.relative_to(staged).parents[:-1]):
                (staged / folder).mkdir(mode=0o700, exist_ok=True)
            handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except (FileExistsError, NotADirectoryError) as error:
            raise DataError(f"{source} is damaged: {entry.path[:80]!r} is a file and a folder.") from error
        with os.fdopen(handle, "wb") as file:
            for chunk in _content(archive, entry, source):
                file.write(chunk)
                done += len(chunk)
                progress("unpacking", done, total)
            file.flush()
            os.fsync(file.fileno())
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))


def _content(archive: zipfile.ZipFile, entry: Entry, source: Path) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    with archive.open(INSIDE + entry.path) as member:
        while chunk := member.read(CHUNK):
            size += len(chunk)
            if size > entry.bytes:  # it says less than it holds: what comes may never end
                break
            digest.update(chunk)
            yield chunk
    if size != entry.bytes or digest.hexdigest() != entry.sha256:
        raise DataError(f"{source} is damaged: {entry.path[:80]!r} is not what was backed up; nothing was changed.")


def _check_library(path: Path, source: Path) -> None:
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path)) as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise DataError(f"The library in {source} is damaged ({error}): nothing was changed.") from error
    if version > VERSION:
        raise DataError(f"A newer version of meton-finetune made the library in {source}: update this one.")
    if verdict != "ok":
        raise DataError(f"The library in {source} is damaged ({verdict[:80]}): nothing was changed.")


def _obey(root: Path, staged: Path) -> int:
    """What was forgotten here since the backup was made stays forgotten: how many examples that was."""
    here, there = Home(root), Home(staged)
    if not here.library.exists():
        return 0
    with Library(there.library) as library, Library(here.library) as before:
        try:
            marks, sessions = before.tombstones(), before.private_sessions()
        except FinetuneError:  # it is damaged: perhaps the reason for restoring
            return 0
        ids = library.obey(marks, sessions)
        finish(there, library)
        if ids:
            forget(there, library, library.seek(ids))
    return len(ids)


def _remember(root: Path, staged: Path, source: Path) -> None:
    """Where else the words are stays known: the next forgetting names those places."""
    here, there = Told(Home(root).told), Told(Home(staged).told)
    for name in (BACKUPS, HARVESTED):
        for value in here.all(name):
            there.add(name, value)
    there.add(BACKUPS, str(source.resolve()))


def _sweep(root: Path) -> None:
    """Remove what a killed restore unpacked."""
    for path in root.parent.glob(f".{root.name}.restore-*"):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _swap(root: Path, staged: Path) -> Path | None:
    """Put `staged` in the place of `root`: where the folder before is kept now, if there was one."""
    kept = None
    if root.exists():
        kept = root.with_name(f"{root.name}.before-restore-{datetime.now():%Y%m%d-%H%M%S-%f}")
        root.rename(kept)
    try:
        staged.rename(root)
    except OSError:
        if kept is not None:
            kept.rename(root)
        raise
    sync_dir(root.parent)
    return kept


def _occupied(root: Path) -> bool:
    """Whether there is anything to lose in the folder."""
    if not root.is_dir():
        return root.exists()
    for path in root.iterdir():
        if path.name in NOTHING or path.name.startswith("library.db-") or (path.is_dir() and not any(path.iterdir())):
            continue
        if path.name != LIBRARY or not _blank(path):
            return True
    return False


def _blank(path: Path) -> bool:
    """Whether a library remembers nothing."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            tables = ("examples", "tombstones", "private_sessions")
            return not any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in tables)
    except sqlite3.DatabaseError:
        return path.stat().st_size == 0
