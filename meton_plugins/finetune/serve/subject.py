"""What is examined when a tuned model is: its base and itself, both as files that the engine can load."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import NotFound, UsageError
from ..paths import Home
from ..train.runs import CHAT_TEMPLATE, Run, find_run
from ..train.worker import check_base
from .export_record import read_export
from .register import find_registered

__all__ = ["Subject", "find_subject", "template_of"]


class Subject(NamedTuple):
    """`file` with `adapter` is the tuned model: an exported GGUF alone, or the base with the run's best adapter."""

    run: Run
    base: Path
    file: Path
    adapter: Path | None
    chat_template: str | None
    system: str
    #: Of `file`, where it is known.
    sha256: str | None = None


def find_subject(home: Home, text: str | None) -> Subject:
    """The run `text`, the run of the registered model `text`, or the newest run; NotFound where its files are gone."""
    name, file, sha256 = text, None, None
    if text is not None and ":" in text:
        made = find_registered(home, text)
        if made is None:
            raise NotFound(f"There is no registered model {text}: see `/model-register list`.")
        name, file, sha256 = made.notes.get("run"), Path(made.gguf), made.sha256
        if not name:
            raise UsageError(
                f"{text} was made of a file of which no run is known, so there is no base to compare with."
            )
    run = find_run(home.runs, name)
    record = run.record
    check_base(record)
    if file is None:
        export = read_export(home.models / run.name)
        newest = export.files[-1] if export and export.files else None
        file, sha256 = (Path(newest.path), newest.sha256) if newest else (None, None)
    base = Path(record.base.path)
    template = template_of(run)
    if file is not None and file.is_file():
        return Subject(run, base, file, None, template, record.system, sha256)
    return Subject(run, base, base, run.adapter(), template, record.system)


def template_of(run: Run) -> str | None:
    """The chat template that `run` was trained with, where it is not the base's own."""
    own = run.folder / CHAT_TEMPLATE
    return str(own) if own.is_file() else run.record.settings.chat_template
