"""A text opened in the user's editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from ..errors import FinetuneError, UsageError
from ..paths import private_dir

__all__ = ["edit"]


def edit(text: str, folder: Path) -> str:
    """`text` as the user left it in $VISUAL or $EDITOR, in a file that only he can read.

    No shell runs the editor. UsageError without a terminal or an editor.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("Without a terminal no editor can be opened: put the text after the command.")
    words = _words(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not words:
        raise UsageError("Set EDITOR to an editor's name, or put the text after the command.")
    handle, name = tempfile.mkstemp(prefix="fix-", suffix=".md", dir=private_dir(folder))
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        try:
            code = subprocess.run([*words, name], check=False).returncode
        except OSError as error:
            raise UsageError(f"The editor {words[0]} cannot be started ({error.strerror}): set EDITOR.") from error
        if code != 0:
            raise FinetuneError(f"The editor {words[0]} ended with {code}, so nothing was changed.")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FinetuneError(f"The editor left no text that can be read ({error}); nothing was changed.") from error
    finally:
        path.unlink(missing_ok=True)


def _words(editor: str) -> list[str]:
    try:
        return shlex.split(editor)
    except ValueError as error:
        raise UsageError(f"EDITOR cannot be understood ({error}): {editor[:80]}") from error
