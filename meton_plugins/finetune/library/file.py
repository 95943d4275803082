"""The library's file: opened when it is first needed, read and written in transactions, its errors in plain words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from ..errors import BusyError, DataError
from ..paths import private_dir
from .schema import prepare

__all__ = ["LibraryFile"]

#: Longer than any of our own transactions; a second writer waits this long before it gives up.
BUSY_SECONDS: Final = 30.0

Self = TypeVar("Self", bound="LibraryFile")


class LibraryFile:
    """SQLite at `path`. The file is opened, made or upgraded when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: sqlite3.Connection | None = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; the library opens it again when needed."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            private_dir(self.path.parent)
            # Made before SQLite opens it: the texts are never readable to others, and -wal and -shm take its mode.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                connection.create_function("holds", 2, _holds, deterministic=True)
                prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
            self._open = connection
        return self._open

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _explained(self.path):
            yield self._connection()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with _explained(self.path):
            connection = self._connection()
            # IMMEDIATE: a transaction that reads first and writes later would fail at once beside another writer.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite itself has rolled back already after a full disk.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise BusyError(f"Another program has kept {path} locked for too long: try again.") from error
        raise DataError(f"The library {path} cannot be used ({error}).") from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} is damaged or not a library ({error}).") from error


def _holds(text: str, folded: str) -> bool:
    return folded in text.casefold()
