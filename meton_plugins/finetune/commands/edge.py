"""Where a command meets the chat: whatever happens inside, one calm answer and an exit code come out."""

from __future__ import annotations

import datetime
import json
import os
import re
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ...host.errors import HostError
from ..errors import FinetuneError
from .options import HelpWanted

if TYPE_CHECKING:
    from rich.console import Console

    from ...host.api import Host

__all__ = ["guarded", "harmless", "note", "say", "show_json"]

#: Longest sentence of an error, in characters: a line of 100,000 may be typed, and must not be thrown back.
LONGEST: Final = 600
#: Half of a character: from a name on the command line that is not UTF-8. No terminal can print it.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
#: What a terminal would obey instead of showing: an answer or a file's name may hold it.
_CONTROLS: Final = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160), *range(0xD800, 0xE000)), "\ufffd")


def say(host: Host, text: str, style: str = "") -> None:
    """Print `text` exactly as it is: no markup, no emoji codes, no highlighting."""
    if not host.json:
        _print(host.console, harmless(text), style)


def note(host: Host, text: str) -> None:
    """A dim line beside the result."""
    say(host, text, "dim")


def show_json(host: Host, value: Any) -> None:
    """Print `value` as one JSON document."""
    text = json.dumps(value, ensure_ascii=False, indent=1, default=str)
    text = _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    host.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def guarded(host: Host, work: Callable[[], int | None]) -> int:
    """Run `work`; turn every way it can end into an exit code and at most one sentence. Never raises."""
    try:
        return _helped(host, work)
    except FinetuneError as error:
        return _fail(host, error.sentence, error.exit_code)
    except HostError as error:
        return _fail(host, error.sentence, 1)
    except KeyboardInterrupt:
        return _fail(host, "Interrupted.", 130)
    except SystemExit as error:
        if host.console.quiet:  # rich's way to end where the reader of a pipe has left: nobody listens
            return 1
        code = error.code if isinstance(error.code, int) and error.code else 1
        return _fail(host, "The command tried to end the program; please report this.", code)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _fail(host, f"The system refused: {error.strerror or error}{where}.", 1)
    except Exception as error:
        kept = _keep_traceback(host)
        return _fail(host, f"Unexpected {type(error).__name__}: {error}. Please report this{kept}.", 1)


def _helped(host: Host, work: Callable[[], int | None]) -> int:
    try:
        return work() or 0
    except HelpWanted as wanted:
        _print(host.console, str(wanted).rstrip())
        return 0


def _keep_traceback(host: Host) -> str:
    """Write it where a report can take it from; the screen stays calm."""
    path = host.data_dir / "errors.log"
    try:
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        with os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.datetime.now().isoformat(timespec='seconds')}\n{traceback.format_exc()}\n")
    except OSError:
        return ""
    return f", with what {path} says"


def _fail(host: Host, sentence: str, code: int) -> int:
    sentence = harmless(" ".join(sentence.split()))
    if len(sentence) > LONGEST:  # it quotes what was typed; its end says what to do
        sentence = f"{sentence[: 2 * LONGEST // 3]} … {sentence[-LONGEST // 3 :]}"
    if host.json:
        show_json(host, {"error": sentence})
    else:
        _print(host.complaints, f"✗ {sentence}", "red")
    return code


def _print(console: Console, text: str, style: str = "") -> None:
    # A terminal breaks lines within words; a file or a pipe wants them whole.
    whole = not console.is_terminal
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=whole)


def harmless(text: str) -> str:
    """`text` without what a terminal would obey."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)
