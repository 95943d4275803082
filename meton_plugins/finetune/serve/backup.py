"""The data folder as one archive: what cannot be made again, whole, with the hash of every file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal

from pydantic import BaseModel

from ..curate.build import deciding
from ..errors import NotFound, UsageError
from ..library import Library
from ..library.schema import VERSION
from ..paths import Home, replacing_path
from ..told import BACKUPS, Told

__all__ = ["CHUNK", "INSIDE", "LIBRARY", "RECORD", "Entry", "Made", "Record", "backup", "default_name", "wanted"]

#: The archive's last file: where it is, the archive is whole.
RECORD: Final = "backup.json"
#: Before the path of each file of the data folder.
INSIDE: Final = "home/"
LIBRARY: Final = "library.db"
ADAPTERS: Final = ("best.gguf", "adapter.gguf", "start.gguf")
CHUNK: Final = 1 << 20

#: (what is done, bytes done, bytes in all)
Progress = Callable[[str, int, int], None]


class Entry(BaseModel):
    """A file of the data folder. `mtime_ns` decides which dataset and which run is the newest."""

    path: str
    bytes: int
    sha256: str
    mtime_ns: int


class Record(BaseModel):
    """backup.json."""

    version: Literal[1] = 1
    product: Literal["meton-finetune"] = "meton-finetune"
    made: str
    #: The library's schema: an older plugin must not open a newer one.
    library: int | None
    files: list[Entry]


@dataclass
class Made:
    """A backup that was made. `links` were not followed, so what they lead to is not in it."""

    path: Path
    bytes: int
    files: int
    runs: int
    datasets: int
    links: list[str] = field(default_factory=list)


def default_name() -> str:
    """A name for a backup made now."""
    return f"meton-finetune-{datetime.now():%Y-%m-%d-%H%M%S}.zip"


def wanted(path: str) -> bool:
    """Whether a backup holds the file at `path` (relative, with slashes).

    Not in it: checkpoints and merged models, which are large and can be made again; logs, locks and half-written files;
    copies of the library.
    """
    parts = PurePosixPath(path).parts
    name = parts[-1] if parts else ""
    if any(part.startswith(".") for part in parts) or name.endswith((".lock", ".log", ".tmp")):
        return False
    if name.endswith(".gguf"):
        return len(parts) == 3 and parts[0] == "runs" and name in ADAPTERS
    if len(parts) == 1 and name.startswith("library."):
        return name == LIBRARY
    return not (parts[:1] == ("runs",) and "checkpoints" in parts[2:3])


def backup(home: Home, target: Path, progress: Progress | None = None) -> Made:
    """Write the archive `target` (0600), whole or not at all.

    UsageError where the file is there already or lies in the data folder; NotFound where there is nothing to keep.
    """
    target = target.expanduser().resolve()
    root = home.root.resolve()
    if target.exists():
        raise UsageError(f"There is a file {target} already: give another name.")
    if root == target.parent or root in target.parents:
        raise UsageError(f"{target} lies in the data folder: whoever loses that loses the backup; name another place.")
    if not target.parent.is_dir():
        raise NotFound(f"There is no folder {target.parent} to put the backup in.")
    links: list[str] = []
    with contextlib.ExitStack() as stack:
        if home.library.exists():
            # A dataset that is being built, or an example that is being forgotten, would be half in it.
            stack.enter_context(deciding(Library(home.library)))
        paths = sorted(_files(root, links))
        if not paths:
            raise NotFound(f"There is nothing in {root} to back up.")
        with replacing_path(target) as temporary:
            # Made before anything is in it: a backup is as private as what it holds.
            os.close(os.open(temporary, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600))
            record = _write(root, paths, temporary, progress or (lambda stage, done, total: None))
    Told(home.told).add(BACKUPS, str(target))
    names = [PurePosixPath(entry.path).parts for entry in record.files]
    return Made(
        target, target.stat().st_size, len(names),
        runs=sum(parts[0] == "runs" and parts[2:] == ("run.json",) for parts in names),
        datasets=sum(parts[0] == "datasets" and parts[2:] == ("manifest.json",) for parts in names), links=links,
    )  # fmt: skip


def _write(root: Path, paths: list[str], target: Path, progress: Progress) -> Record:
    total = sum((root / path).stat().st_size for path in paths)
    done = 0
    entries: list[Entry] = []
    version: int | None = None
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            with contextlib.ExitStack() as stack:
                try:
                    if path == LIBRARY:
                        source = stack.enter_context(_copy(root / LIBRARY))
                        version = VERSION
                    else:
                        source = stack.enter_context((root / path).open("rb"))
                except FileNotFoundError:  # a run that goes on removes what it no longer needs
                    continue
                facts = os.fstat(source.fileno())
                mtime = (root / path).stat().st_mtime_ns if path == LIBRARY else facts.st_mtime_ns
                info = zipfile.ZipInfo(INSIDE + path, _zip_time(mtime))
                info.external_attr = (stat.S_IFREG | 0o600) << 16
                # Weights do not get smaller.
                info.compress_type = zipfile.ZIP_STORED if path.endswith(".gguf") else zipfile.ZIP_DEFLATED
                digest, size = hashlib.sha256(), 0
                with archive.open(info, "w", force_zip64=True) as member:
                    # A log that grows meanwhile is taken as long as it was.
                    while size < facts.st_size and (chunk := source.read(min(CHUNK, facts.st_size - size))):
                        member.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
                        progress("packing", done + size, total)
                done += size
            entries.append(Entry(path=path, bytes=size, sha256=digest.hexdigest(), mtime_ns=mtime))
        made = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = Record(made=made, library=version, files=entries)
        archive.writestr(RECORD, record.model_dump_json(indent=1))
    return record


def _zip_time(mtime_ns: int) -> tuple[int, int, int, int, int, int]:
    """As near as a zip can say it; the true time is in the record."""
    when = time.localtime(mtime_ns / 1e9)
    return max((1980, 1, 1, 0, 0, 0), min((2107, 12, 31, 23, 59, 58), when[:6]))


@contextlib.contextmanager
def _copy(library: Path) -> Iterator[IO[bytes]]:
    """The library as it is at one moment, whoever writes to it meanwhile, as a file that is gone afterwards."""
    with Library(library) as opened:
        opened.counts()  # an older version is brought to this one first: it could not be restored otherwise
    handle, name = tempfile.mkstemp(prefix=".library.", suffix=".tmp", dir=library.parent)
    os.close(handle)
    copy = Path(name)
    try:
        with closing(sqlite3.connect(library)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            # One file, with nothing beside it that would have to come along.
            target.execute("PRAGMA journal_mode = DELETE")
        with copy.open("rb") as file:
            yield file
    finally:
        for path in copy.parent.glob(f"{copy.name}*"):
            path.unlink()


def _files(root: Path, links: list[str]) -> Iterator[str]:
    """Paths of what a backup holds, relative to `root`; `links` gains those that are links."""
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        for name in [*folders, *names]:
            path = (here / name).relative_to(root).as_posix()
            if (here / name).is_symlink():
                links.append(path)
            elif name in names and wanted(path) and (here / name).is_file():
                yield path
        folders[:] = [name for name in folders if not name.startswith(".") and not (here / name).is_symlink()]
