"""What an Ollama server answers: models, texts, and its errors in plain words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import NotFound, ServerError

__all__ = ["Answer", "CannotGenerate", "Listed", "Show", "error_text", "plain_words", "version_of"]


class Listed(NamedTuple):
    """A model that the server has. `digest` is of its manifest."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True)
class Show:
    """What the server says about a model. `blob` is the path of its GGUF on the server's machine."""

    name: str
    modelfile: str
    template: str
    system: str
    parameters: str
    license: str
    capabilities: frozenset[str]
    family: str
    format: str
    quantization: str
    remote: bool

    @property
    def blob(self) -> Path | None:
        for line in self.modelfile.splitlines():
            if line.startswith("FROM "):
                path = Path(line[5:].strip().strip('"'))
                return path if path.is_absolute() else None
        return None


class Answer(NamedTuple):
    """A finished generation. `seconds` is what saying it took, without loading and reading; 0 where it is not known."""

    text: str
    tokens: int
    reason: str
    seconds: float = 0.0


class CannotGenerate(ServerError):
    """The server has no llama-server program, or it cannot start: list, create and copy work, asking does not."""


#: Part of the server's error, and what it means. The first that is found counts.
_MEANINGS: Final = (
    ("not in gguf format", "it does not take the file for a GGUF; export the run again"),
    ("invalid file magic", "it does not take the file for a GGUF; export the run again"),
    ("unknown type", "it does not know the file's type; export with another --quant, or update Ollama"),
    ("exceeds file size", "the GGUF is cut short; export the run again"),
    ("unexpected eof", "the GGUF is cut short; export the run again"),
    ("digest mismatch", "the file changed while it was sent; try again"),
    ("invalid digest format", "the file's digest is not one that it takes; please report this"),
    ("no space left on device", "its disk is full; free some space where OLLAMA_MODELS is and try again"),
    ("invalid model name", "it refuses the model's name; use lowercase letters, digits, '_', '-' and '.'"),
    ("neither 'from' or 'files'", "it is too old to take files in a create request; update Ollama"),
    ("adapters are no longer supported", "it takes no LoRA adapter; register the merged GGUF"),
    ("typical_p is no longer", "typical_p is no longer a PARAMETER; remove it from the template"),
    ("template error", "it cannot read the TEMPLATE; mend it in the template"),
    ("unknown model architecture", "its llama.cpp does not know the model's architecture; update Ollama"),
    ("requires more system memory", "the model needs more memory than is free; use a smaller --quant"),
    ("no such file or directory", "a file that it had is gone from its disk; register again"),
)  # fmt: skip

_NOT_THERE: Final = re.compile(r"model ['\"]?([^'\" ]+)['\"]?,? (?:not found|does not exist)")


def plain_words(doing: str, text: str, status: int, version: str) -> ServerError | NotFound:
    """The exception that says what the server's error `text` means."""
    low = text.lower()
    if missing := _NOT_THERE.search(text):
        name = missing[1]
        return NotFound(f"The Ollama server has no model {name}: `ollama pull {name}` fetches one by that name.")
    if "llama-server" in low and ("not found" in low or "starting llama-server" in low or "no such file" in low):
        return CannotGenerate("This Ollama server has no llama-server program, so it can keep models and not run them.")
    for part, meaning in _MEANINGS:
        if part in low:
            return ServerError(f"The Ollama server refused while {doing}: {meaning}.")
    said = " ".join(text.split())[:300].rstrip(". ") or "nothing"
    where = f"status {status}, " if status > 0 else ""
    return ServerError(f"The Ollama server refused while {doing} ({where}version {version}); it said: {said}.")


def version_of(text: str) -> tuple[int, int, int] | None:
    """`0.34.1-rc0` as numbers. None for a build without one: `go install` alone says 0.0.0."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    number = (int(found[1]), int(found[2]), int(found[3])) if found else None
    return number if number != (0, 0, 0) else None


def error_text(body: str) -> str:
    """What an answer of the server, JSON or not, gives as its error."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body
