"""Where things live, and how a file is written so that nothing is lost."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import platformdirs

from .errors import NotFound, UsageError

#: Names the plugin's folder where the user wants another than the platform's.
HOME_ENV: Final = "METON_FINETUNE_HOME"

#: A name is one path component, safe in shells, URLs and Ollama tags; the user types it, or a model does.
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class Home:
    """The plugin's folder: library, datasets, runs, models, history, settings."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def settings(self) -> Path:
        return self.root / "settings.toml"

    @property
    def library(self) -> Path:
        return self.root / "library.db"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def history(self) -> Path:
        return self.root / "history.jsonl"

    @property
    def told(self) -> Path:
        return self.root / "told.json"

    def make(self) -> Home:
        """Make the folder, private to the user, and return self."""
        private_dir(self.root)
        return self


def default_home() -> Path:
    """The folder named by METON_FINETUNE_HOME, else `home` in the user data folder."""
    named = os.environ.get(HOME_ENV)
    return Path(named).expanduser().resolve() if named else machine_dir() / "home"


def machine_dir() -> Path:
    """The user data folder, shared by all checkouts: engine and machine-wide lock."""
    return platformdirs.user_data_path("meton-finetune", appauthor=False)


def engine_dir() -> Path:
    """Where `setup` puts the engine."""
    return machine_dir() / "engine"


def training_lock() -> Path:
    """Held by the one worker that trains on this machine."""
    return machine_dir() / "training.lock"


def queue_file() -> Path:
    """The runs of all checkouts that wait for this machine, one a line."""
    return machine_dir() / "queue.jsonl"


def package_data(*parts: str) -> Path:
    """A file that the product ships: beside the package in a checkout, inside it in an installed wheel."""
    here = Path(__file__).parent
    for root in (here / "_data", here.parent.parent):
        found = root.joinpath(*parts)
        if found.exists():
            return found
    raise NotFound(f"The shipped file {'/'.join(parts)} is missing: install meton-finetune again.")


def check_name(name: str, what: str) -> str:
    """`name` itself where it may become a folder's name; UsageError otherwise."""
    if not NAME.fullmatch(name) or ".." in name or name.endswith("."):
        raise UsageError(
            f"{name[:80]!r} cannot name a {what}: use up to 64 lowercase letters, digits, '-', '_' or '.', "
            "starting with a letter or digit."
        )
    return name


def private_dir(path: Path) -> Path:
    """Make `path` and its parents; the folder itself is the user's alone (0700)."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


@contextmanager
def replacing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A new file (0600) that takes the place of `path` when the block ends well, synced first.

    A crash or an error at any point leaves the old file whole and no half-written one under its name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    encoding = None if "b" in mode else "utf-8"
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600), mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_dir(path.parent)


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """Like `replacing`, for writers that want a path: the temporary one is given, synced and renamed at the end."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        handle = os.open(temporary, os.O_RDWR)
        try:
            os.fchmod(handle, 0o600)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_dir(path.parent)


def sync_dir(path: Path) -> None:
    """Make renames in `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON, atomically."""
    with replacing(path, "w") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")


def append_json(path: Path, value: Any) -> None:
    """Add one JSON line to `path` in a single write, so that readers never see half a line of a living writer.

    On a disk that becomes full meanwhile the line is there whole, or OSError is raised and it is not there.
    """
    line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        done = os.write(handle, line)
        while done < len(line):
            try:
                done += os.write(handle, line[done:])
            except OSError:
                end = os.lseek(handle, 0, os.SEEK_CUR)
                if os.fstat(handle).st_size == end:  # nobody else wrote behind it
                    os.ftruncate(handle, end - done)
                raise
    finally:
        os.close(handle)


def read_json_lines(path: Path) -> list[Any]:
    """All whole JSON lines of `path`; a line cut by a crash is left out. Empty where the file is missing."""
    if not path.exists():
        return []
    values = []
    for line in path.read_bytes().splitlines():
        try:
            values.append(json.loads(line))
        except ValueError:
            continue
    return values
