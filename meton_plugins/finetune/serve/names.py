"""Names of Ollama models: `model:tag`, always with a tag."""

from __future__ import annotations

import re
from typing import Final

from ..errors import UsageError

__all__ = ["check_model_name", "full_name"]

#: What Ollama takes for the parts of a name, in lowercase: the server folds case on some file systems, Meton never.
_MODEL: Final = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")
_NAMESPACE: Final = re.compile(r"[a-z0-9_][a-z0-9_-]{0,79}")


def check_model_name(name: str) -> str:
    """`name` itself where it is a `model:tag` that may be registered; UsageError otherwise."""
    model, colon, tag = name.rpartition(":")
    *namespaces, model = model.split("/")
    good = colon and _MODEL.fullmatch(model) and _MODEL.fullmatch(tag)
    if not good or len(namespaces) > 1 or not all(_NAMESPACE.fullmatch(part) for part in namespaces):
        raise UsageError(
            f"{name[:100]!r} is no whole name of a model: write name:tag, each of up to 80 lowercase letters, digits, "
            "'_', '-' or '.', and begin with a letter, a digit or '_'; /model-register list has those made here."
        )
    return name


def full_name(name: str) -> str:
    """`name` with `:latest` where it has no tag."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
