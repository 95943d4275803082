"""Folders of runs whose session was killed while it made them: `.name.xxxxxxxx` in the folder of runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..paths import NAME

__all__ = ["owned", "sweep_unfinished"]

#: A session takes the lock of its folder a moment after it has made it, in seconds.
YOUNG: Final = 60.0
#: As `tempfile.mkdtemp` ends a name.
_ENDING: Final = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}")


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """While the block runs, nobody takes `folder` for one that a killed session left behind."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: its age must do
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def sweep_unfinished(runs: Path) -> None:
    """Remove from `runs` what killed sessions left, as far as it can be removed; never what a living one makes."""
    for folder in runs.glob(".*.*"):
        match = _ENDING.fullmatch(folder.name)
        if match and NAME.fullmatch(match["name"]) and folder.is_dir() and not folder.is_symlink():
            with contextlib.suppress(OSError):
                _remove(folder)


def _remove(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError where its session lives
        if abs(time.time() - os.fstat(handle).st_ctime) > YOUNG:
            shutil.rmtree(folder)
    finally:
        os.close(handle)
