"""Asking the user of a running Meton: below its spinner, on the main thread, with Ctrl-C for no."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ask", "interruptible", "private_files", "read_line"]


def ask(console: Console, question: str) -> bool | None:
    """A yes or no from the terminal; None where nobody can answer."""
    said = read_line(console, f"{question} [y/N]")
    return None if said is None else said.lower() in ("y", "yes")


def read_line(console: Console, question: str) -> str | None:
    """What is typed after `question`, stripped; empty for Ctrl-C and Ctrl-D. None where nobody can answer."""
    if threading.current_thread() is not threading.main_thread() or sys.stdin is None or not sys.stdin.isatty():
        return None
    try:
        with _still(console), interruptible():
            console.print(f"{question} ", end="", markup=False, emoji=False, highlight=False, soft_wrap=True)
            return input().strip()
    except (EOFError, KeyboardInterrupt):
        return ""


@contextmanager
def _still(console: Console) -> Iterator[None]:
    """Nothing moves on `console`: a living spinner would write over the question, and over what is typed."""
    inner: Any = console
    # Rich before 14.1 has one live display, later a stack of them.
    moving = list(getattr(inner, "_live_stack", None) or filter(None, [getattr(inner, "_live", None)]))
    for display in reversed(moving):
        display.stop()
    try:
        yield
    finally:
        for display in moving:
            display.start()


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt here; Meton's own handler would end the chat."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def private_files() -> Iterator[None]:
    """New files are the user's alone; Meton's keep the user's umask."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
