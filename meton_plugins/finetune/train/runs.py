"""The folder of a run, and the runs of a home."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from ..engine.compute import ComputeConfig
from ..errors import DataError, ModelError, NotFound
from ..gguf.inspect import sha256_of
from ..paths import check_name, read_json_lines, write_json
from .lock import held, run_lock
from .queue import place
from .record import BaseRecord, Redacted, RunRecord, State

__all__ = ["ANSWERS", "CHAT_TEMPLATE", "REPORT", "START", "Run", "all_runs", "find_run"]

#: The Jinja file that was named with --chat-template, in the run's folder: a run is whole without its user's files.
CHAT_TEMPLATE: Final = "chat_template.jinja"

#: The adapter that training began with, of a run that continues another.
START: Final = "start.gguf"

#: Made for people to read, of words in the run's dataset: where these are forgotten, the files go too.
ANSWERS: Final = "answers.json"
REPORT: Final = "report.html"
#: Where the base of a run lies that was copied to another machine, or whose base was moved.
MOVED: Final = "base.json"

REDACTED: Final = "redacted.json"

#: What state.json says while a worker lives.
AT_WORK: Final = ("starting", "running")


class Run:
    """A run's folder. Everything is read anew at each call: its worker writes at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def record(self) -> RunRecord:
        """run.json, with the base where it lies now; DataError where it cannot be read."""
        try:
            record = RunRecord.model_validate_json((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise DataError(f"The run {self.name} has no readable run.json: delete {self.folder}.") from error
        try:
            moved = BaseRecord.model_validate_json((self.folder / MOVED).read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return record
        return record.model_copy(update={"base": moved}) if moved.sha256 == record.base.sha256 else record

    def move_base(self, path: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Note that the base now lies at `path`; ModelError where that is another file. Reads it whole."""
        base = self.record.base
        if sha256_of(path, progress) != base.sha256:
            raise ModelError(f"{path} is not the base that the run {self.name} began with: name a copy of that file.")
        facts = path.stat()
        now = {"path": str(path.resolve()), "size": facts.st_size, "mtime_ns": facts.st_mtime_ns}
        write_json(self.folder / MOVED, base.model_copy(update=now).model_dump())

    def record_compute(self, compute: ComputeConfig) -> None:
        """Record in run.json how the run computes, where that was decided by its worker."""
        file = self.folder / "run.json"
        before, values = file.stat(), json.loads(file.read_text(encoding="utf-8"))
        write_json(file, {**values, "threads": compute.threads, "compute": compute.model_dump(mode="json")})
        # Runs are listed by the time at which they were made.
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    @property
    def state(self) -> State:
        """state.json, or the state of a run whose worker has not come up yet."""
        try:
            return State.model_validate_json((self.folder / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return State()

    @property
    def alive(self) -> bool:
        """Whether a worker is at work on it."""
        return held(run_lock(self.folder))

    @property
    def done(self) -> bool:
        """Whether it came to its end (or was stopped for good)."""
        return (self.folder / "done").exists()

    @property
    def place(self) -> int | None:
        """Its place in the queue, from 1; None where it does not wait."""
        return place(self.folder)

    @property
    def status(self) -> str:
        """The status in one word: of state.json, or what its worker could not write there.

        `queued`: it waits for the machine; `interrupted`: its worker is no more; `new`: it never had one.
        """
        before = self.state
        if before.status in AT_WORK and self.alive:
            return before.status
        if self.place is not None:
            return "queued"
        # Read again: its worker may have come, or have ended, between the looks.
        state = self.state
        if state.status not in AT_WORK or state.attempt > before.attempt:
            return state.status
        return "interrupted" if (self.folder / "state.json").exists() else "new"

    def events(self) -> list[dict[str, Any]]:
        """What happened, in order. A step that was repeated after a kill appears once, as it was done last."""
        lines = read_json_lines(self.folder / "events.jsonl")
        events = [line for line in lines if isinstance(line, dict) and "event" in line]
        last: dict[tuple[str, int], int] = {}
        for index, event in enumerate(events):
            if event["event"] in ("step", "validation"):
                last[event["event"], event["step"]] = index
        keep = set(last.values())
        return [e for i, e in enumerate(events) if e["event"] not in ("step", "validation") or i in keep]

    def adapter(self, which: Literal["best", "last"] = "best") -> Path:
        """The adapter that was best on the validation side (the last where nothing was validated), or the last one.

        NotFound before there is one, and where it was removed since.
        """
        removed = self.state.removed
        if removed:  # before any file is looked for: whoever removes them may have been killed between two
            raise NotFound(f"The adapters of the run {self.name} were removed: {removed}.")
        for name in ("best.gguf", "adapter.gguf") if which == "best" else ("adapter.gguf",):
            if (self.folder / name).is_file():
                return self.folder / name
        raise NotFound(f"The run {self.name} has no adapter yet: wait for its first epoch, or see /finetune status.")

    @property
    def redacted(self) -> list[Redacted]:
        """What the run saw of words that were forgotten since, the oldest first."""
        try:
            lines = json.loads((self.folder / REDACTED).read_text(encoding="utf-8"))
            return [Redacted.model_validate(line) for line in lines]
        except (OSError, ValueError, TypeError):
            return []

    def redact(self, note: Redacted) -> None:
        """Note that words which the run saw were forgotten; once, however often a killed forgetting begins again."""
        before = self.redacted
        for old in before:
            if old.forgotten == note.forgotten:
                # It counts what is left; some rows may have gone before it was killed.
                most = {"trained": max(old.trained, note.trained), "judged": max(old.judged, note.judged)}
                note = old.model_copy(update={**most, "through": old.through or note.through})
        kept = [old for old in before if old.forgotten != note.forgotten]
        write_json(self.folder / REDACTED, [line.model_dump() for line in (*kept, note)])

    def control(self, want: str) -> None:
        """Ask the worker of this attempt to `stop` or `pause`."""
        write_json(self.folder / "control.json", {"want": want, "attempt": self.state.attempt})

    def wanted(self, attempt: int) -> str | None:
        """What was asked of the worker of `attempt`."""
        try:
            value = json.loads((self.folder / "control.json").read_text(encoding="utf-8"))
            return str(value["want"]) if value["attempt"] == attempt else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def all_runs(runs: Path) -> list[Run]:
    """Every run in the folder `runs`, oldest first."""

    def made() -> Iterator[tuple[float, Path]]:
        for folder in runs.iterdir():
            if not folder.name.startswith(".") and (folder / "run.json").is_file():
                yield (folder / "run.json").stat().st_mtime, folder

    return [Run(folder) for _, folder in sorted(made())] if runs.is_dir() else []


def find_run(runs: Path, name: str | None) -> Run:
    """The run called `name`, or the newest for None or `latest`; NotFound names those there are."""
    found = all_runs(runs)
    if not found:
        raise NotFound("There is no run yet: start one with /finetune start.")
    if name in (None, "latest"):
        return found[-1]
    assert name is not None
    check_name(name, "run")
    for run in found:
        if run.name == name:
            return run
    raise NotFound(f"There is no run {name!r}: there are {', '.join(r.name for r in found[-8:])}.")
