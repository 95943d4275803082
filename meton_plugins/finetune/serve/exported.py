"""What is to be registered: an exported run, or a GGUF file of whatever origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..errors import NotFound, UsageError
from ..paths import Home, check_name
from ..train.runs import Run
from .export_record import read_export

__all__ = ["Source", "find_source"]


class Source(NamedTuple):
    """A GGUF, a name for the model, and, of a run: hash, base's name, Modelfile template with its SYSTEM, notes."""

    path: Path
    name: str
    notes: dict[str, Any]
    sha256: str | None = None
    base: str | None = None
    template: str | None = None
    system: str | None = None


def find_source(home: Home, text: str, quant: str | None = None) -> Source:
    """The file `text`, else the run `text`: its export as `quant`, the newest where none is named."""
    path = Path(text).expanduser()
    if path.is_file():
        if quant:
            raise UsageError("--quant chooses among a run's exports; a file is what it is.")
        return Source(path.resolve(), path.stem.lower(), {"file": str(path.resolve())})
    if path.suffix == ".gguf" or "/" in text:
        raise NotFound(f"There is no file {path}.")
    check_name(text, "run")
    export = read_export(home.models / text)
    if export is None or not export.files:
        if (home.runs / text).is_dir():
            raise NotFound(f"The run {text} is not exported yet: type `/export model {text}`.")
        raise NotFound(f"There is no file and no exported run {text}: see `/finetune runs`.")
    named = [file for file in export.files if quant is None or file.quant == quant.lower()]
    if not named:
        has = ", ".join(file.quant for file in export.files)
        raise UsageError(f"The run {text} is exported as {has}: type `/export model {text} --quant {quant}` first.")
    file = named[-1]
    if not Path(file.path).is_file():
        raise NotFound(f"The exported file {file.path} is gone: type `/export model {text} --quant {file.quant}`.")
    notes: dict[str, Any] = {"run": export.run, "quant": file.quant, "base": export.base}
    system = None
    run = Run(home.runs / text)
    if (run.folder / "run.json").is_file():
        record, state = run.record, run.state
        system = record.system
        notes |= {
            "dataset": record.dataset,
            "settings": record.settings.model_dump(mode="json"),
            "base_loss": state.base_loss,
            "best_loss": state.best_loss,
        }
    return Source(Path(file.path), export.run, notes, file.sha256, export.base.get("name"), export.template, system)
