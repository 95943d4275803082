"""The base model that a user named: a GGUF file, or a model that the local Ollama server already has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import ModelError, NotFound, ServerError
from .names import full_name

if TYPE_CHECKING:
    from .ollama import Server, Show

__all__ = ["Base", "find_base", "resolve_base"]

_UNREADABLE: Final = "You may not read {what} ({path}): ask for the right, or name a copy that is yours."


class Base(NamedTuple):
    """A readable GGUF, and what the server says about it where it comes from there."""

    path: Path
    name: str | None = None
    show: Show | None = None


def find_base(text: str, ollama_host: str | None) -> Base:
    """As `resolve_base`, with the server at `ollama_host`, by default where OLLAMA_HOST says."""
    from .ollama import Server

    with Server(ollama_host) as server:
        return resolve_base(text, server)


def resolve_base(text: str, server: Server | None) -> Base:
    """A path that exists, else a model that `server` lists. The blob is only ever read, in its place."""
    path = Path(text).expanduser()
    if _there(path, str(path)):
        if path.is_dir():
            raise ModelError(f"{path} is a folder: name the GGUF file in it.")
        return Base(_readable(path.resolve(), str(path)))
    if text.endswith(".gguf") or text.startswith((".", "/", "~")) or text.count("/") > 2:
        raise NotFound(f"There is no file {path}.")
    if server is None:
        raise NotFound(f"There is no file {path}, and no Ollama server was asked for a model of that name.")
    name = full_name(text)
    try:
        listed = server.exists(name)
    except ServerError as error:
        raise ServerError(f"There is no file {text}, and a model of that name needs the server: {error}") from error
    if not listed:
        raise NotFound(f"There is no file {text}, and Ollama has no model {name}: type `ollama pull {name}`.")
    show = server.show(name)
    if show.remote:
        raise ModelError(f"{name} runs on somebody else's machine, so its weights are not here: pull a local model.")
    if show.format and show.format != "gguf":
        raise ModelError(f"{name} is kept as {show.format}, and only a GGUF can be tuned: pull another build of it.")
    blob = show.blob
    if blob is None:
        raise ModelError(f"The Ollama server does not say where the GGUF of {name} is: name the file itself.")
    if not _there(blob, name):
        where = "on another machine or in a container" if server.warning else "in a place this user cannot see"
        raise NotFound(f"The server keeps {name} {where} ({blob}): copy the GGUF to this machine and name the copy.")
    return Base(_readable(blob, name), name, show)


def _there(path: Path, what: str) -> bool:
    """Whether `path` exists; ModelError where that may not even be known, in a folder of another user's."""
    try:
        return path.exists()
    except OSError as error:
        raise ModelError(_UNREADABLE.format(what=what, path=path)) from error


def _readable(path: Path, what: str) -> Path:
    if not os.access(path, os.R_OK):
        raise ModelError(_UNREADABLE.format(what=what, path=path))
    return path
