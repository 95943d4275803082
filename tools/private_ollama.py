"""A real Ollama server of our own on a free loopback port: its models, its home, and no word to the outside.

As a program (`python tools/private_ollama.py FOLDER`) it prints the address and runs until it is interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_EXECUTABLE: Final = Path(__file__).resolve().parent.parent / ".cache" / "ollama" / "bin" / "ollama"

#: A cold start reads the executable from disk and asks llama-server for devices.
_PATIENCE: Final = 60.0


class Unavailable(Exception):
    """No server can be started; says why and what to do."""


@dataclass(frozen=True)
class PrivateServer:
    """A running server."""

    url: str
    models: Path
    log: Path
    pid: int


def executable() -> Path:
    """The server's program that `make ollama` installed, or the one that OLLAMA_EXECUTABLE names."""
    path = Path(os.environ.get("OLLAMA_EXECUTABLE") or _EXECUTABLE)
    if not path.exists():
        raise Unavailable("No Ollama is installed for tests: type `make ollama` (it needs Go 1.26).")
    return path


@contextlib.contextmanager
def private_server(folder: Path, *, context_length: int = 512, program: Path | None = None) -> Iterator[PrivateServer]:
    """Start a server that keeps everything in `folder`; at the end the server and all its children are killed."""
    program = program or executable()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "ollama.log"
    for _attempt in range(3):  # the free port may be taken between looking and starting
        url = f"http://127.0.0.1:{_free_port()}"
        process = _start(program, folder, url, context_length, log)
        try:
            if _answers(process, url):
                yield PrivateServer(url, folder / "models", log, process.pid)
                return
        finally:
            _kill(process)
    tail = log.read_text(errors="replace")[-500:]
    raise Unavailable(f"The Ollama server in {program} does not start; its last words: {tail}")


def _start(program: Path, folder: Path, url: str, context_length: int, log: Path) -> subprocess.Popen[bytes]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    own = {
        "HOME": str(home),
        "OLLAMA_HOST": url.removeprefix("http://"),
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_CONTEXT_LENGTH": str(context_length),
        "OLLAMA_NO_CLOUD": "1",  # else it asks ollama.com for its catalogue at each start
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
    with log.open("ab") as output:
        return subprocess.Popen(
            [program, "serve"],
            env={**kept, **own},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Whether the server is up; False where it ended instead."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), opener.open(f"{url}/api/version", timeout=5):
            return True
        time.sleep(0.05)
    return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The server, its group and its children: Ollama gives a runner a group of its own on some systems."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    with private_server(Path(sys.argv[1])) as running, contextlib.suppress(KeyboardInterrupt):
        print(running.url, flush=True)
        signal.pause()
