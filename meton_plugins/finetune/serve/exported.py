"""What `/export model` left for a run: its GGUF files, and what they were made from."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import ConfigError, NotFound, UsageError
from ..paths import Home, check_name

__all__ = ["Exported", "ExportedFile", "load_export"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class ExportedBase(_Part):
    """The model that the run was trained on."""

    path: str
    name: str | None = None
    sha256: str | None = None


class ExportedFile(_Part):
    """One quantization."""

    quant: str
    path: str
    sha256: str | None = None
    bytes: int = 0


class Exported(_Part):
    """`<home>/models/<run>/export.json`."""

    run: str
    base: ExportedBase
    files: tuple[ExportedFile, ...]
    template: str | None = None

    def pick(self, quant: str | None) -> ExportedFile:
        """The file of that quantization; the newest where none is named."""
        if quant is None and self.files:
            return self.files[-1]
        for file in self.files:
            if quant is not None and file.quant.lower() == quant.lower():
                return file
        has = ", ".join(file.quant for file in self.files) or "nothing"
        raise UsageError(
            f"The run {self.run} has no export {quant or ''}: it has {has}; see `/export model {self.run}`."
        )


def load_export(home: Home, run: str) -> Exported:
    """The export of `run`; paths in it are made absolute. NotFound says which command makes one."""
    check_name(run, "run")
    folder = home.models / run
    try:
        text = (folder / "export.json").read_bytes()
    except FileNotFoundError as error:
        if (home.runs / run).is_dir():
            raise NotFound(f"The run {run} is not exported yet: type `/export model {run}`.") from error
        raise NotFound(f"There is no file and no exported run {run}: see `/finetune runs`.") from error
    try:
        exported = Exported.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{folder / 'export.json'} cannot be read: type `/export model {run}` again.") from error
    files = tuple(file.model_copy(update={"path": str(folder / Path(file.path))}) for file in exported.files)
    return exported.model_copy(update={"files": files})
