"""The library as commands open it, and the examples in it that a user's words mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import NotFound

if TYPE_CHECKING:
    from ..library import Library
    from ..paths import Home
    from ..settings import TrainSettings

__all__ = ["library_of", "named", "system_of"]


def library_of(home: Home) -> Library:
    """The library of `home`, to be closed by `with`; nothing heavy is imported before."""
    from ..library import Library

    return Library(home.library)


def named(library: Library, word: str) -> list[str]:
    """The ids that `word` means: an id or the beginning of one, or `session:ID` for all of a session."""
    session = word.removeprefix("session:")
    if session == word:
        return [library.get(word).id]
    found = library.find(session=session) if session else []
    if not found:
        raise NotFound(f"There is no session {session[:40]!r} in the library: see /dataset list.")
    if len({example.session for example in found}) > 1:
        raise NotFound(f"More than one session begins with {session[:40]!r}: type more of its id.")
    return [example.id for example in found]


def system_of(home: Home, train: TrainSettings) -> str:
    """What a training puts before every row."""
    from ..serve.templates import load_template

    return load_template(train.template, home).system or ""
