"""Every swap of a slot, in history.jsonl: announced before it happens, and marked when it is done."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ..paths import append_json, private_dir, read_json_lines, sync_dir

__all__ = ["History", "Swap"]

State = Literal["begun", "done", "dropped"]


class Swap(BaseModel):
    """One change of a slot: `file`'s `slot` went from `old` to `new`. A rollback names what it `undoes`.

    `who` did it, and through what; empty in lines of earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    when: str
    slot: str
    old: str
    new: str
    why: str
    who: str = ""
    file: str
    undoes: tuple[str, ...] = ()
    state: State = "begun"


class History:
    """Append-only; a swap is one line when it begins and one when it is done (or turned out not to have happened).

    `who`: whoever makes the swaps that are recorded through this object.
    """

    def __init__(self, path: Path, who: str = "") -> None:
        self.path = path
        self.who = who

    def swaps(self, file: Path | None = None) -> list[Swap]:
        """All swaps, oldest first, each with its last state; only those of `file` where one is given."""
        swaps: dict[str, Swap] = {}
        for line in read_json_lines(self.path):
            if not isinstance(line, dict) or not isinstance(line.get("id"), str):
                continue
            if "slot" in line:
                swaps[line["id"]] = Swap.model_validate(line)
            elif line["id"] in swaps and line.get("state") in ("done", "dropped"):
                swaps[line["id"]] = swaps[line["id"]].model_copy(update={"state": line["state"]})
        return [swap for swap in swaps.values() if file is None or swap.file == str(file)]

    def begin(self, slot: str, old: str, new: str, why: str, file: Path, undoes: tuple[str, ...] = ()) -> Swap:
        """Announce a swap, on disk before this returns."""
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        swap = Swap(
            id=secrets.token_hex(6), when=when, slot=slot, old=old, new=new, why=why, who=self.who, file=str(file),
            undoes=undoes,
        )  # fmt: skip
        self._append(swap.model_dump(mode="json"))
        return swap

    def mark(self, swap: Swap, state: State) -> None:
        """Say how an announced swap ended."""
        self._append({"id": swap.id, "state": state})

    def standing(self, slot: str, file: Path) -> list[Swap]:
        """The swaps of `slot` that hold: done, and not rolled back; the last is on top."""
        stack: list[Swap] = []
        for swap in self.swaps(file):
            if swap.slot != slot or swap.state != "done":
                continue
            if swap.undoes:
                stack = [kept for kept in stack if kept.id not in swap.undoes]
            else:
                stack.append(swap)
        return stack

    def in_use(self, file: Path | None = None, holds: Mapping[str, str] | None = None) -> dict[str, str]:
        """The models that the last swaps need, each with why: what they put into a slot, and the way back from it.

        Only of files that are still there. `holds`: what the slots of `file` hold now; one that somebody else changed
        since has no way back.
        """
        found: dict[str, str] = {}
        for slot, name in sorted({(swap.slot, swap.file) for swap in self.swaps()}):
            stack = self.standing(slot, Path(name)) if Path(name).is_file() else []
            if stack and (file is None or name != str(file) or (holds or {}).get(slot) == stack[-1].new):
                found.setdefault(stack[-1].new, f"{slot} of {name} was given it")
                found.setdefault(stack[-1].old, f"rollback gives it back to {slot} of {name}")
        return found

    def _append(self, line: dict[str, Any]) -> None:
        fresh = not self.path.exists()
        if fresh:
            private_dir(self.path.parent)
        elif not self.path.read_bytes().endswith(b"\n"):
            # A line cut by a crash must not swallow this one.
            with self.path.open("ab") as file:
                file.write(b"\n")
        append_json(self.path, line)
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if fresh:
            sync_dir(self.path.parent)
