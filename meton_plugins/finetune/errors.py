"""Every error that a user can see. Each says in one sentence what is wrong and what to do."""

from __future__ import annotations

__all__ = [
    "BusyError",
    "ConfigError",
    "DataError",
    "DiskFull",
    "EngineError",
    "FinetuneError",
    "GateError",
    "ModelError",
    "NotFound",
    "ServerError",
    "UsageError",
]


class FinetuneError(Exception):
    """Base of all errors that are the user's to read. `str(error)` is one sentence, never a traceback."""

    exit_code = 1

    @property
    def sentence(self) -> str:
        """The message on one line, whatever it was made of."""
        return " ".join(str(self).split())


class UsageError(FinetuneError):
    """The command was typed wrongly."""

    exit_code = 2


class NotFound(FinetuneError):
    """Something that the user named does not exist."""


class ConfigError(FinetuneError):
    """A file that the user edits (settings.toml, config.yaml, a Modelfile) cannot be used as it is."""


class DataError(FinetuneError):
    """Conversations, examples or datasets that cannot be used as they are."""


class ModelError(FinetuneError):
    """A GGUF file that cannot be used as it is."""


class EngineError(FinetuneError):
    """llama.cpp is missing, or said no. `log` holds its own last words."""

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class DiskFull(EngineError):
    """There is no room for what a training writes; it can go on once there is."""


class ServerError(FinetuneError):
    """The Ollama server is away, refuses, or answers what nobody expected."""


class BusyError(FinetuneError):
    """Somebody else is at work on this."""


class GateError(FinetuneError):
    """A tuned model did not show that it is better."""
