"""The model slots of a running Meton: the file and the living session are swapped together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config_file import SLOTS, ConfigFile

__all__ = ["LiveSlots"]


class LiveSlots:
    """A SlotStore over config.yaml and over the session that was started from it.

    Meton holds up to four copies of its configuration and writes them back whole: all of them take a swap, or the next
    `/web off` would undo it. The copies are looked up each time, for `/reload` replaces them.
    """

    def __init__(self, cli: Any, path: Path) -> None:
        self._cli = cli
        self._file = ConfigFile(path)
        self._seen = self._stamp()
        self._known = {slot: model for slot in SLOTS if (model := _get(cli.config.config, slot)) is not None}

    @property
    def path(self) -> Path:
        return self._file.path

    def read(self) -> dict[str, str]:
        """What the file says."""
        return self._file.read()

    def write(self, slot: str, model: str, *, expected: str) -> None:
        """Compare and swap in the file, then in the session."""
        self.refresh()
        self._file.write(slot, model, expected=expected)
        self.refresh()

    def refresh(self) -> list[tuple[str, str, str]]:
        """Apply to the session what the file says now: each (slot, old, new). A few µs where the file is the same.

        HostError where it cannot be understood; then the session stays as it is.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return []
        self._seen = stamp
        changed = []
        for slot, model in self._file.read().items():
            old = self._known.get(slot, "")
            if old != model:
                self._apply(slot, old, model)
                changed.append((slot, old, model))
        return changed

    def _stamp(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self._file.path)  # noqa: PTH116
        except OSError:
            return (0, 0, 0)
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def _apply(self, slot: str, old: str, model: str) -> None:
        manager = self._cli.model_manager
        # Two slots may hold one name; the session then uses the first.
        used = next((name for name in SLOTS if self._known.get(name) == manager.current_model), None)
        for config in self._configs():
            _set(config, slot, model)
        self._known[slot] = model
        if used == slot:
            manager.current_model = model
            manager._llm_cache.clear()

    def _configs(self) -> list[Any]:
        cli = self._cli
        holders = (cli, cli.model_manager, cli.agent, cli.subagent_manager.spawner)
        return list({id(holder.config.config): holder.config.config for holder in holders}.values())


def _get(config: Any, slot: str) -> str | None:
    models = config.models
    value = models.get(slot) if isinstance(models, Mapping) else getattr(models, slot, None)
    return value if isinstance(value, str) else None


def _set(config: Any, slot: str, model: str) -> None:
    """`/profile use` leaves a plain dict where Meton had an object."""
    models = config.models
    if isinstance(models, dict):
        models[slot] = model
    else:
        setattr(models, slot, model)
