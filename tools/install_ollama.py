"""`make ollama`: a real Ollama server for tests and the demo, in this project's cache. A second call does nothing.

Needs Go 1.26 or newer and its module proxy; without them it says so in one sentence (an error with --require).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

VERSION: Final = "0.34.4"
_GO: Final = (1, 26)
_ROOT: Final = Path(__file__).resolve().parent.parent
CACHE: Final = _ROOT / ".cache" / "ollama"
EXECUTABLE: Final = CACHE / "bin" / "ollama"
SHIM: Final = CACHE / "lib" / "ollama" / "llama-server"


def go() -> str | None:
    """A `go` program that is new enough, from PATH or the usual place."""
    for found in (shutil.which("go"), "/usr/local/go/bin/go"):
        if not found or not Path(found).exists():
            continue
        try:
            text = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
        except OSError:
            continue
        version = re.match(r"go(\d+)\.(\d+)", text)
        if version and (int(version[1]), int(version[2])) >= _GO:
            return found
    return None


def install(*, require: bool = False) -> int:
    """Put the server and its llama-server in the cache; the exit code."""
    if not EXECUTABLE.exists():
        found = go()
        if found is None:
            wanted = ".".join(map(str, _GO))
            print(
                f"No Ollama installed: that needs Go {wanted} or newer on PATH; tests that need a server are skipped."
            )
            return 1 if require else 0
        print(f"Building Ollama {VERSION} with {found} (minutes the first time) ...", flush=True)
        if not _build(found):
            print(f"Ollama {VERSION} was not built; what Go said is above.")
            return 1 if require else 0
    _write_shim()
    print(f"Ollama {VERSION}: {EXECUTABLE}")
    return 0


def _build(found: str) -> bool:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        # Built aside and renamed: a killed build leaves no half executable that a second call would trust.
        # Without the -X the server says that it is version 0.0.0.
        flags = f"-ldflags=-s -w -X=github.com/ollama/ollama/version.Version={VERSION}"
        command = [found, "install", "-trimpath", flags, f"github.com/ollama/ollama@v{VERSION}"]
        if subprocess.run(command, env={**os.environ, "GOBIN": folder}, check=False).returncode:
            return False
        EXECUTABLE.parent.mkdir(parents=True, exist_ok=True)
        Path(folder, "ollama").replace(EXECUTABLE)
    return True


def _write_shim() -> None:
    source = (_ROOT / "tools" / "llama_server.py").read_text(encoding="utf-8")
    text = f"#!{sys.executable} -I\n{source}"
    if SHIM.exists() and SHIM.read_text(encoding="utf-8") == text:
        return
    SHIM.parent.mkdir(parents=True, exist_ok=True)
    # Never written in place: a running server may be starting it.
    temporary = SHIM.with_name(f".llama-server.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(0o755)
    temporary.replace(SHIM)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--require", action="store_true", help="fail where it cannot be installed")
    sys.exit(install(require=arguments.parse_args().require))
