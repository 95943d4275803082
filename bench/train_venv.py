"""The Python that has PyTorch, PEFT and matplotlib: one that is named, or that of .cache/bench/venv.

`python bench/train_venv.py` makes that venv where it is missing (some 3 GB are fetched); BENCH_TORCH=/path/to/python
names another, and nothing is made.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
VENV: Final = ROOT / ".cache" / "bench" / "venv"
WANTED: Final = ROOT / "requirements" / "bench-train.txt"
#: Written last: a venv without it, or with another list, is made anew.
MARK: Final = VENV / "made-of"
NAMED: Final = "BENCH_TORCH"


def torch_python() -> str | None:
    """The Python to use, or None where there is none."""
    named = os.environ.get(NAMED)
    if named:
        if not os.access(named, os.X_OK):
            raise SystemExit(f"{NAMED} names no Python: {named}")
        return named
    return str(VENV / "bin" / "python") if MARK.is_file() and MARK.read_text() == _list() else None


def _list() -> str:
    return hashlib.sha256(WANTED.read_bytes()).hexdigest()


def main() -> None:
    """Make the venv where it is needed."""
    if torch_python():
        return
    print(f"Installing PyTorch, PEFT and matplotlib into {VENV.relative_to(ROOT)} (some 3 GB, once) ...", flush=True)
    # Without pip: this Python may have come without ensurepip, and its own pip can install into another venv.
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(VENV / "bin" / "python")]
    subprocess.run([*pip, "install", "-q", "-r", str(WANTED)], check=True)
    MARK.write_text(_list())


if __name__ == "__main__":
    main()
