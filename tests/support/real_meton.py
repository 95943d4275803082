"""A real Meton for a test: clones of it, its interpreters, and meton-finetune as a shell starts it.

METON_HOME names a Meton checkout, which is cloned and never written to; METON_PYTHON the interpreters that have its
packages, separated by ':'. Without them a test is skipped, with REQUIRE_METON=1 it fails. `make test-meton` sets both.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CLI = [sys.executable, "-m", "meton_plugins.finetune"]


def pythons() -> list[str]:
    """The interpreters to test in: those named, else the checkout's own."""
    home = os.environ.get("METON_HOME", "")
    own = Path(home, "venv", "bin", "python")
    named = os.environ.get("METON_PYTHON") or (str(own) if home and own.exists() else "")
    return [part for part in named.split(os.pathsep) if part]


def shell(*words: object, code: int = 0) -> str:
    """What meton-finetune says, started as a user's shell starts it."""
    kept = {name: value for name, value in os.environ.items() if name not in ("METON_FINETUNE_HOME", "OLLAMA_HOST")}
    done = subprocess.run(
        [*CLI, *map(str, words)], env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "150"}, capture_output=True,
        text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(checkout: Path, *words: str) -> str:
    """What git says in `checkout`."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, *words], cwd=checkout, capture_output=True, text=True, check=True)
    return done.stdout


def clone(to: Path, **changed: str) -> Path:
    """A clone whose file tool may read inside it; `changed` are model names of its config.yaml by slot."""
    subprocess.run(["git", "clone", "-q", os.environ["METON_HOME"], str(to)], check=True)
    config = to / "config.yaml"
    lines = config.read_text().replace("/media/development/projects/", str(to)).splitlines()
    for slot, model in changed.items():
        lines = [f"  {slot}: {model}" if line.startswith(f"  {slot}: ") else line for line in lines]
    config.write_text("\n".join(lines) + "\n")
    git(to, "commit", "-q", "-a", "-m", "the user's own settings")
    return to


def freeze(python: str) -> set[str]:
    """What `pip freeze` says in an environment that may lack pip."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "freeze"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines())
