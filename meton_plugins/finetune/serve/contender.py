"""A model in a comparison: the files that the engine loads, and what it says and loses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..engine import jobs
from ..engine.jobs import Loss
from ..gguf.inspect import fingerprint
from ..paths import Home, private_dir, write_json
from .form_check import Speaker
from .reply import Reply, reduced, scripts
from .subject import Subject

__all__ = ["Chat", "Contender", "base_of", "tuned_of"]

#: An id and messages; the last one, the assistant's, is the answer.
Chat = tuple[str, list[dict[str, Any]]]
Progress = Callable[[int, int], None]
#: In the names of files with losses. Those of older versions lack it: they counted all learned tokens.
COUNTED: Final = "-answer"


class Contender(NamedTuple):
    """`file` with `adapter`, read with `chat_template` and `system` before each chat.

    `sha256` stands for all of its files; `workers` is a number of threads, one a core by default.
    """

    name: str
    file: Path
    sha256: str
    adapter: Path | None = None
    chat_template: str | None = None
    system: str = ""
    workers: int = 0

    def paced(self, messages: list[dict[str, Any]]) -> Contender:
        """It with as many threads as are faster here with `messages`: where others work too, one may beat all."""
        return self._replace(workers=jobs.pace(self.file, [messages], self.chat_template).threads)

    def losses(
        self, home: Home, chats: Sequence[Chat], ctx_size: int, progress: Progress | None = None
    ) -> dict[str, Loss]:
        """What it loses on each answer, by id; measured once and kept in `<home>/judged/`."""
        path = self._place(home, chats, ctx_size, COUNTED)
        kept = _kept(path)
        if kept is None:
            kept = jobs.losses(
                self.file, chats, system=self.system, adapter=self.adapter, ctx_size=ctx_size,
                chat_template=self.chat_template, workers=self.workers, progress=progress,
            )  # fmt: skip
            write_json(path, kept)
        return kept

    def known(self, home: Home, chats: Sequence[Chat], ctx_size: int) -> dict[str, Loss] | None:
        """What `losses` has measured before; None where it has not."""
        return _kept(self._place(home, chats, ctx_size, COUNTED))

    def _place(self, home: Home, chats: Sequence[Chat], tokens: int, kind: str = "") -> Path:
        said = json.dumps([self.sha256, self.chat_template, self.system, tokens, chats], sort_keys=True)
        return private_dir(home.root / "judged") / f"{hashlib.sha256(said.encode()).hexdigest()[:32]}{kind}.json"

    def replies(self, home: Home, chats: Sequence[Chat], limit: int, progress: Progress | None = None) -> list[Reply]:
        """What it answers to each chat, its last message left out, as numbers; asked once and kept like `losses`."""
        path = self._place(home, chats, limit, "-said")
        try:
            return [Reply.model_validate(one) for one in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            pass
        system = [{"role": "system", "content": self.system}] if self.system else []
        spoken = jobs.speak(
            self.file, [[*system, *messages[:-1]] for _, messages in chats], limit=limit, adapter=self.adapter,
            chat_template=self.chat_template, workers=self.workers, progress=progress,
        )  # fmt: skip
        found = [
            reduced(one, scripts(" ".join(str(message["content"]) for message in messages)))
            for one, (_, messages) in zip(spoken, chats, strict=True)
        ]
        write_json(path, [one.model_dump() for one in found])
        return found

    def speaker(self, limit: int, *, until: str | None = None, progress: Progress | None = None) -> Speaker:
        """A function that has it answer prompts, each with at most `limit` tokens."""

        def speak(texts: Sequence[str]) -> list[str]:
            system = [{"role": "system", "content": self.system}] if self.system else []
            chats = [[*system, {"role": "user", "content": text}] for text in texts]
            return jobs.generate(
                self.file, chats, limit=limit, adapter=self.adapter, chat_template=self.chat_template, until=until,
                workers=self.workers, progress=progress,
            )  # fmt: skip

        return speak


def base_of(subject: Subject) -> Contender:
    """The base that `subject` was tuned from, asked as `subject` is."""
    base = subject.run.record.base
    return Contender(
        base.name or subject.base.name, subject.base, base.sha256, None, subject.chat_template, subject.system
    )


def tuned_of(subject: Subject, name: str) -> Contender:
    """The tuned model itself."""
    if subject.adapter is None:
        sha256 = subject.sha256 or fingerprint(subject.file)
    else:
        both = f"{subject.run.record.base.sha256} {fingerprint(subject.adapter)}"
        sha256 = hashlib.sha256(both.encode()).hexdigest()
    return Contender(name, subject.file, sha256, subject.adapter, subject.chat_template, subject.system)


def _kept(path: Path) -> dict[str, Loss] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): Loss(float(n), int(t), float(fn), int(ft)) for name, (n, t, fn, ft) in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None
