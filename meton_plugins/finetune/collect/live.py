"""The turns of the chat that is going on, into the library as they happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from ..errors import BusyError, ConfigError, DataError, FinetuneError, NotFound
from ..paths import Home
from ..told import Told
from .writer import Writer

# The library and the settings are imported where they are used: a chat starts with this module, and waits for it.
if TYPE_CHECKING:
    from ...host.api import FinishedTurn, Host
    from ..library import Example, Library
    from ..settings import HarvestSettings
    from .clean import Scrub

__all__ = ["HINT", "LiveTurns"]

HINT: Final = "/+ good  /- bad  /fix correct it"
PRIVATE: Final = "This session is private: nothing of it is kept, so there is no answer of it to rate."
OFF: Final = "Harvesting is off, so this answer was not kept: /dataset harvest on keeps the next ones."
FORGOTTEN: Final = "You had an answer of these very words forgotten, so this one was not kept."

#: Longer than the library waits for another writer.
RATE_SECONDS: Final = 35.0
#: The chat ends now, perhaps in a signal handler.
END_SECONDS: Final = 2.0


@dataclass
class _Kept:
    """What became of a turn: its id in the library, or the sentence that says why it has none."""

    name: str | None = None
    reason: str | None = None


class LiveTurns:
    """A `Listener` that keeps each turn, and knows the turns of this session for rating.

    `news()` gives lines about runs, `minutes(library)` says how long training would take, in words, or None.
    """

    def __init__(
        self,
        host: Host,
        home: Home,
        scrub: Scrub,
        *,
        news: Callable[[], list[str]] = list,
        minutes: Callable[[Library], str | None] = lambda library: None,
    ) -> None:
        self._host = host
        self._home = home
        self._scrub = scrub
        self._news = news
        self._minutes = minutes
        self._writer = Writer()
        self._turns: list[_Kept] = []
        self._private: set[str] = set()
        self._problem: str | None = None
        self._explained = False

    def turn(self, turn: FinishedTurn) -> str | None:
        """Have the turn written in the background; the words for rating, where they are wanted."""
        from ..turn import AGENT

        kept = _Kept()
        own = turn.origin == AGENT
        if own:
            self._turns.append(kept)
        if self._host.private:
            kept.reason = PRIVATE
            if turn.session not in self._private:
                self._private.add(turn.session)
                self._writer.put(partial(self._keep_out, turn.session))
            return None
        try:
            harvest = self._settings()
        except ConfigError as error:
            # Perhaps the very line that turns harvesting off is the broken one.
            self._missed(kept, error.sentence)
            return None
        if not harvest.enabled:
            kept.reason = OFF
            return None
        self._writer.put(partial(self._write, turn, kept))
        return HINT if own and turn.success and harvest.hint else None

    def notices(self) -> list[str]:
        """What the user should know before he types on: each line once."""
        lines = self._first_use()
        if self._problem is not None:
            lines.append(self._problem)
            self._problem = None
        try:
            return lines + self._news()
        except (FinetuneError, OSError):  # a run that is being deleted; the next prompt tries again
            return lines

    def end(self) -> str | None:
        """What this session brought, in one line; None where it brought nothing."""
        self.flush(END_SECONDS)
        names = {kept.name for kept in self._turns if kept.name is not None}
        if not names:
            return None
        from ..library import Library

        try:
            with Library(self._home.library) as library:
                found = [example for name in sorted(names) for example in _still_there(library, name)]
                counts = library.counts()
                time = self._minutes(library)
        except FinetuneError:
            return None
        rated = sum(example.score is not None for example in found)
        usable = sum(example.status == "usable" for example in found)
        line = f"{rated} rated, {usable} usable; {counts.examples} in the library"
        return line + (f", {time} to train here" if time else "")

    def flush(self, seconds: float = RATE_SECONDS) -> bool:
        """Wait until every turn so far is in the library; False where that takes longer than `seconds`."""
        return self._writer.flush(seconds)

    def back(self, number: int) -> str | None:
        """The id of the answer `number` back in this session, 1 for the last; None where nothing was said yet.

        NotFound where the session is shorter; DataError, with the reason, where that answer was not kept.
        """
        if self._host.private:
            raise DataError(PRIVATE)
        if not self._turns:
            return None
        if number > len(self._turns):
            raise NotFound(f"This session has {len(self._turns)} answers, so there is no --turn -{number}.")
        kept = self._turns[-number]
        if not self.flush():
            raise BusyError("Another program keeps the library locked: try again.")
        if kept.name is None:
            raise DataError(kept.reason or "This answer was not kept.")
        return kept.name

    def _settings(self) -> HarvestSettings:
        from ..settings import load

        return load(self._home.settings).harvest

    def _write(self, turn: FinishedTurn, kept: _Kept) -> None:
        try:
            from collections import Counter

            from ..library import Library
            from .clean import scrubbed
            from .heard import as_turn

            [clean] = scrubbed([as_turn(turn)], self._scrub, Counter())
            # Opened for each turn: whoever deletes the folder finds nobody writing on in a file without a name.
            with Library(self._home.library) as library:
                kept.name = library.take(clean)
                kept.reason = FORGOTTEN if kept.name is None else None
        except FinetuneError as error:
            self._missed(kept, error.sentence)
        except Exception as error:
            self._missed(kept, f"{type(error).__name__}: {error}")

    def _keep_out(self, session: str) -> None:
        try:
            from ..library import Library

            with Library(self._home.library) as library:
                library.keep_out(session)
        except Exception as error:
            self._problem = f"A later /dataset harvest may find this private session: it was not noted ({error})."

    def _missed(self, kept: _Kept, reason: str) -> None:
        kept.reason = f"This answer was not kept: {reason}"
        self._problem = f"Answers are not kept: {reason}"

    def _first_use(self) -> list[str]:
        """Said once in the life of a data folder, before anything is kept."""
        if self._explained or self._host.private:
            return []
        told = Told(self._home.told)
        try:
            if told.get("harvest") or not self._settings().enabled:
                return []
            told.put("harvest", True)
        except (ConfigError, OSError):
            return []
        self._explained = True
        return [
            f"Answers of this chat are kept in {self._home.root}, rated or not, on this machine alone; what you do not "
            "rate never trains unless you ask. /dataset harvest off ends that."
        ]


def _still_there(library: Library, name: str) -> list[Example]:
    """The example, unless the user had it forgotten since."""
    try:
        return [library.get(name)]
    except NotFound:
        return []
