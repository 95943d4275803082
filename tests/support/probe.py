"""A small plugin for a real Meton: says what it hears. Loaded there by its file's folder; standard library only."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any


class Ear:
    """Writes each turn down, and has one line for every occasion."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "turns.jsonl"
        self.news = folder / "news"
        self.heard = 0

    def turn(self, turn: Any) -> str | None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(turn)) + "\n")
        self.heard += 1
        if turn.question == "break the ear":
            raise RuntimeError("the ear is broken")
        return f"hint [/INST] {self.heard}"

    def notices(self) -> list[str]:
        if not self.news.exists():
            return []
        text = self.news.read_text(encoding="utf-8")
        self.news.unlink()
        return text.splitlines()

    def end(self) -> str | None:
        return f"{self.heard} turns heard"


def register(host: Any) -> None:
    """Add one command of each kind that can go wrong."""
    from meton_plugins.host.api import Command, Effect, ToolSpec

    def probe(text: str) -> int:
        if text == "sleep":
            host.console.print("sleeping", markup=False)
            time.sleep(60)
        if text == "exit":
            raise SystemExit(3)
        if text == "raise":
            raise ValueError("[/INST]")
        if text == "ask":
            host.console.print(f"said {host.ask('Really?')}", markup=False)
        if text == "where":
            host.console.print(f"{host.data_dir}|{host.conversations_dir}|{host.private}", markup=False, soft_wrap=True)
        host.console.print(f"probe got {text!r}", markup=False)
        return 0

    host.add_command(Command("/probe", "a probe", probe, ("sleep", "exit"), {"/p+": "plus"}))
    host.add_tool(
        ToolSpec(
            "probe_tool", "Probe.", Effect.WRITE, True, lambda text: f"asked: {host.ask('May the probe?')} {text!r}"
        )
    )
    host.add_listener(Ear(host.data_dir))
