"""Talks to a real Meton in a terminal of its own, line by line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType

import pexpect

#: What a terminal obeys instead of showing.
ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_])")
#: Meton's own question, its confirmations, and ours.
PROMPTS = [r"\nYou: \Z", r"\[y/n\][^\n]*: \Z", r"\(yes/no\): \Z", r"\[y/N\] \Z"]


class MetonSession:
    """`command` started in `checkout` with the model server at `address`. `said` is all that it has shown."""

    def __init__(
        self,
        checkout: Path,
        address: str,
        command: list[str],
        *,
        env: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> None:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "METON_", "OLLAMA"))
        }
        self.timeout, self.said = timeout, ""
        settings = {
            "OLLAMA_HOST": address, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "150", "LINES": "50",
            "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore", "LANGSMITH_TRACING": "false", "HF_HUB_OFFLINE": "1",
            "HOME": str(checkout.parent),
        }  # fmt: skip
        self.child = pexpect.spawn(
            command[0], command[1:], cwd=str(checkout), env={**kept, **settings, **(env or {})}, encoding="utf-8",
            codec_errors="replace", timeout=timeout, dimensions=(50, 150),
        )  # fmt: skip

    def __enter__(self) -> MetonSession:
        self.started = self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.close(force=True)

    def wait(self, pattern: str | None = None) -> str:
        """Everything up to the next prompt (or `pattern`, or the end)."""
        patterns = [pattern] if pattern else PROMPTS
        found = self.child.expect([*patterns, pexpect.EOF, pexpect.TIMEOUT], timeout=self.timeout)
        after = self.child.after if isinstance(self.child.after, str) else ""
        text = ANSI.sub("", (self.child.before or "") + after).replace("\r\n", "\n").replace("\r", "")
        self.said += text
        if found == len(patterns) + 1:
            raise AssertionError(f"no prompt within {self.timeout:.0f} s; it said:\n{text[-3000:]}")
        return text

    def send(self, line: str, pattern: str | None = None) -> str:
        """Type `line`; what Meton shows until its next prompt."""
        self.child.sendline(line)
        return self.wait(pattern)

    def interrupt(self, pattern: str | None = None) -> str:
        """Press Ctrl-C."""
        self.child.sendintr()
        return self.wait(pattern)

    def leave(self) -> tuple[str, int]:
        """/exit; the last words and the exit status."""
        text = self.send("/exit", pexpect.EOF)
        self.child.close()
        return text, self.child.exitstatus if self.child.exitstatus is not None else -(self.child.signalstatus or 0)
