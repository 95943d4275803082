"""The library: examples in SQLite, written by several sessions at once, never losing an acknowledged rating."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..errors import BusyError, DataError
from ..turn import Turn, storable
from . import alike, forgetting
from .forgetting import Forgotten
from .index import tidy
from .intake import digest, now, take
from .reading import Reading, one
from .records import IMPORTED, Example, Split, content_mark
from .schema import copies

__all__ = ["Library"]


class Library(Reading):
    """The examples at `path`. The file is opened, made or upgraded when it is first needed."""

    def add(self, turns: Iterable[Turn]) -> tuple[list[str], int]:
        """Take in turns, each once however often it is given: ids of the new ones, number of those known already.

        A known one that was read from a file gains the model calls of a turn that was heard as it happened. What the
        user had forgotten is neither new nor known.
        """
        with self._writing() as connection:
            found = [take(connection, turn) for turn in turns]
        kept = [(name, fresh) for name, fresh in found if name is not None]
        new = [name for name, fresh in kept if fresh]
        return new, len(kept) - len(new)

    def take(self, turn: Turn) -> str | None:
        """Like `add` for one turn: its id, whether it is new or was known; None where it is to stay forgotten."""
        with self._writing() as connection:
            return take(connection, turn)[0]

    def keep_out(self, session: str) -> None:
        """Never take in what a later harvest finds of `session`."""
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO private_sessions VALUES (?)", (digest(session),))

    def take_feedback(self, name: str) -> None:
        """Note that a foreign rating was taken in."""
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO taken_feedback VALUES (?)", (name,))

    def rate(self, ids: Sequence[str], score: int | None) -> list[Example]:
        """Give examples a score from 1 to 5, or take theirs back (None); NotFound, and nothing rated, where one of
        them is unknown.
        """
        with self._writing() as connection:
            found = [one(connection, name).id for name in ids]
            connection.executemany(
                "UPDATE examples SET score = ?, rated_at = ? WHERE id = ?",
                [(score, None if score is None else now(), name) for name in found],
            )
            return [one(connection, name) for name in found]

    def fix(self, name: str, text: str) -> Example:
        """Make `text` the target of an example; the answer stays as the rejected one.

        The score becomes 5, because it is the target that is scored and the words are now the user's own.
        """
        text = storable(text).strip()
        if not text:
            raise DataError("A correction needs some text.")
        with self._writing() as connection:
            example = one(connection, name)
            if text == example.target.strip():
                raise DataError("The correction says what the answer says already, so nothing was changed.")
            correction = None if text == example.answer.strip() else text
            connection.execute(
                "UPDATE examples SET correction = ?, score = 5, rated_at = ? WHERE id = ?",
                (correction, now(), example.id),
            )
            return one(connection, example.id)

    def unfix(self, name: str) -> Example:
        """Take the correction of an example back. It is unrated then: its score was that of the correction.

        DataError where there is none, or where the example was imported: a pair's other answer is known to be worse.
        """
        with self._writing() as connection:
            example = one(connection, name)
            if example.correction is None:
                raise DataError(f"The example {example.id} has no correction to take back.")
            if example.session.startswith(IMPORTED):
                raise DataError(
                    f"The example {example.id} was imported, and its own answer may be the worse one of a pair: "
                    "rate it bad, or fix it with other words."
                )
            connection.execute(
                "UPDATE examples SET correction = NULL, score = NULL, rated_at = NULL WHERE id = ?", (example.id,)
            )
            return one(connection, example.id)

    def ask_instead(self, name: str, question: str) -> Example:
        """Make `question` what an example asks. A later harvest still knows it by the words that were asked then."""
        question = storable(question).strip()
        if not question:
            raise DataError("A question needs some text.")
        with self._writing() as connection:
            example = one(connection, name)
            if question == example.question.strip():
                return example
            marks = {content_mark(example.question, text) for text in (example.answer, example.target)}
            connection.executemany(
                "INSERT OR IGNORE INTO former VALUES (?, ?)", [(example.id, mark) for mark in sorted(marks)]
            )
            connection.execute("UPDATE examples SET question = ? WHERE id = ?", (question, example.id))
            return one(connection, example.id)

    def tag(self, ids: Sequence[str], add: Collection[str] = (), drop: Collection[str] = ()) -> list[Example]:
        """Put the tags `add` on examples and take `drop` off; NotFound, and nothing done, where one is unknown."""
        with self._writing() as connection:
            found = [one(connection, name).id for name in ids]
            for name in found:
                connection.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(name, tag) for tag in add])
                connection.executemany("DELETE FROM tags WHERE example = ? AND tag = ?", [(name, tag) for tag in drop])
            return [one(connection, name) for name in found]

    def assign(self, splits: Mapping[str, Split]) -> None:
        """Record the side of the split for each id."""
        with self._writing() as connection:
            connection.executemany(
                "UPDATE examples SET split = ? WHERE id = ?", [(split, name) for name, split in splits.items()]
            )

    def keep_compared(self, change: alike.Change) -> None:
        """Remember new comparisons, and forget those of words that are no more."""
        with self._writing() as connection:
            alike.keep(connection, change)

    def seek(self, ids: Iterable[str]) -> Forgotten:
        """What it would mean to forget the examples `ids`: nothing is changed."""
        with self._reading() as connection:
            return forgetting.seek(connection, ids)

    def tombstones(self) -> dict[str, str]:
        """The marks of all that is to stay forgotten, and since when."""
        with self._reading() as connection:
            return dict(connection.execute("SELECT sha256, at FROM tombstones"))

    def private_sessions(self) -> set[str]:
        """The hashes of the sessions that are to be kept out."""
        with self._reading() as connection:
            return {row[0] for row in connection.execute("SELECT sha256 FROM private_sessions")}

    def obey(self, tombstones: Mapping[str, str], private: Iterable[str] = ()) -> list[str]:
        """Take over what another library has to keep out: ids of the examples here that are to be forgotten by it."""
        with self._writing() as connection:
            connection.executemany("INSERT OR IGNORE INTO tombstones VALUES (?, ?)", list(tombstones.items()))
            connection.executemany("INSERT OR IGNORE INTO private_sessions VALUES (?)", [(one,) for one in private])
            return forgetting.dead(connection)

    def bury(self, what: Forgotten) -> None:
        """From now on no harvest, turn or import brings `what` back; until `compact` it counts as unfinished."""
        with self._writing() as connection:
            forgetting.bury(connection, what, now())

    def unfinished(self) -> tuple[str, ...]:
        """Ids whose forgetting was begun and not finished."""
        with self._reading() as connection:
            return tuple(row[0] for row in connection.execute("SELECT example FROM forgetting ORDER BY example"))

    def purge(self, what: Forgotten) -> tuple[list[str], list[str]]:
        """Delete what was buried: ids of others that surrounded it and are cleaned, and of others that quote it."""
        with self._writing() as connection:
            return forgetting.purge(connection, what)

    def compact(self) -> list[str]:
        """Leave no byte of what was deleted in the library's files: names of the older copies that were removed.

        BusyError where another program is reading: what was deleted may then still be in the write-ahead log.
        """
        removed = copies(self.path)
        for path in removed:
            path.unlink(missing_ok=True)
        with self._writing() as connection:
            tidy(connection)
        with self._reading() as connection:
            connection.execute("VACUUM")
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise BusyError(f"Another program is reading {self.path}: close it and forget again, to finish.")
        with self._writing() as connection:
            connection.execute("DELETE FROM forgetting")
        return [path.name for path in removed]
