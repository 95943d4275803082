"""NumPy's way of saying that the disk is full, as everybody else says it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["plain_errors"]


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """While arrays are written to `path`: "11360 requested and 3888 written", without a number, becomes ENOSPC."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
