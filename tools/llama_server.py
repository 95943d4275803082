"""llama.cpp's own HTTP server, out of the `xllamacpp` wheel, under the name and with the flags that Ollama expects.

Ollama (0.30 and later) runs models in a `llama-server` program that it looks for beside its own executable. Tests and
the demo put this file there, so that a server built by `go install` alone can generate. `tools/install_ollama.py`
writes it with a first line that names the Python which has xllamacpp. It is no part of the product.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, NoReturn

#: What Ollama 0.34 passes and this program acts on or may ignore (llm/llama_server.go, discover/llama_server.go).
_SWITCHES: Final = ("--no-webui", "--offline", "--verbose", "--version", "--list-devices", "--no-jinja", "--jinja",
                    "--no-log-prefix", "--no-log-timestamps", "--embedding", "--context-shift")  # fmt: skip
_NUMBERS: Final = ("--port", "--ctx-size", "--parallel", "--log-verbosity", "--batch-size", "--ubatch-size",
                   "--threads", "--main-gpu", "--keep")  # fmt: skip
_WORDS: Final = ("--model", "--host", "--chat-template", "--load-mode", "--cache-type-k", "--cache-type-v",
                 "--flash-attn", "--split-mode", "--n-gpu-layers")  # fmt: skip
_SHORT: Final = {"--model": "-m", "--ctx-size": "-c", "--parallel": "-np", "--batch-size": "-b", "--ubatch-size": "-ub",
                 "--threads": "-t", "--n-gpu-layers": "-ngl", "--flash-attn": "-fa", "--verbose": "-v"}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False, add_help=False)
    for flag in (*_SWITCHES, *_NUMBERS, *_WORDS):
        names = [_SHORT[flag], flag] if flag in _SHORT else [flag]
        if flag in _SWITCHES:
            parser.add_argument(*names, action="store_true")
        else:
            parser.add_argument(*names, type=int if flag in _NUMBERS else str)
    return parser


def _die(message: str) -> NoReturn:
    # Ollama shows its user the lines that start with "error:".
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def _params(x: Any, given: argparse.Namespace) -> Any:
    params = x.CommonParams()
    params.model.path = given.model
    params.port, params.hostnames = given.port or 8080, [given.host or "127.0.0.1"]
    params.offline, params.ui, params.kv_unified = True, False, False
    params.n_parallel = given.parallel or 1
    params.use_jinja = not given.no_jinja
    params.embedding = given.embedding
    params.ctx_shift = given.context_shift
    for name, value in (
        ("n_ctx", given.ctx_size),
        ("verbosity", given.log_verbosity),
        ("chat_template", given.chat_template),
        ("n_batch", given.batch_size),
        ("n_ubatch", given.ubatch_size),
        ("n_keep", given.keep),
    ):
        if value is not None:
            setattr(params, name, value)
    # The models of tests and demo are tiny: two threads that wait for each other are slower, a hundred times so where
    # something else is at work.
    params.cpuparams.n_threads = given.threads or 1
    if given.load_mode:
        mode = {"dio": "DIRECT_IO", "mmap+mlock": "MMAP_MLOCK"}.get(given.load_mode, given.load_mode.upper())
        params.load_mode = getattr(x.llama_load_mode, f"LLAMA_LOAD_MODE_{mode}")
    for name, value in (("cache_type_k", given.cache_type_k), ("cache_type_v", given.cache_type_v)):
        if value:
            setattr(params, name, getattr(x.ggml_type, f"GGML_TYPE_{value.upper()}"))
    attention = {"on": "ENABLED", "off": "DISABLED"}.get(given.flash_attn or "auto", "AUTO")
    params.flash_attn_type = getattr(x.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    return params


def main() -> None:
    """Answer Ollama's probes, or serve a model until the parent is gone."""
    given, unknown = _parser().parse_known_args()
    if unknown:
        print(f"warning: flags ignored: {' '.join(unknown)}", file=sys.stderr, flush=True)
    if given.version:
        print("version: 0 (xllamacpp)", file=sys.stderr)
    elif given.list_devices:  # nothing in the form "NAME: ... (N MiB, M MiB free)": CPU only
        print("Available devices:\n  (none)")
    elif not given.model:  # a probe: Ollama waits for this line, then kills us
        print("system_info: CPU |", file=sys.stderr)
    elif not Path(given.model).is_file():
        _die(f"error loading model: no such file: {given.model}")
    else:
        _serve(given)


def _serve(given: argparse.Namespace) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    keep: list[Any] = []

    def start() -> None:  # in a thread, for it holds its caller until the model is loaded
        try:
            import xllamacpp

            keep.append(xllamacpp.Server(_params(xllamacpp, given)))
        except BaseException as error:
            _die(f"error loading model: {error}")

    parent = os.getppid()
    threading.Thread(target=start, daemon=True).start()
    # A killed Ollama orphans its children. Not PR_SET_PDEATHSIG: that fires when Go ends the thread which forked us.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    main()
