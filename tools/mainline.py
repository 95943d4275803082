"""Answers of a GGUF in mainline llama.cpp (the xllamacpp wheel), by its own chat template: no part of our engine.

As a program: `mainline.py MODEL.gguf LIMIT < chats.json > answers.json`, so that each model has a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

Chat = list[dict[str, str]]


def answers(model: Path, chats: list[Chat], limit: int = 128) -> list[str]:
    """The likeliest answer of `model` to each chat, at most `limit` tokens."""
    command = [sys.executable, __file__, str(model), str(limit)]
    done = subprocess.run(command, input=json.dumps(chats), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"llama.cpp could not use {model}: {done.stderr[-2000:]}")
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Read chats from the input, write answers as one line of JSON."""
    import xllamacpp as x

    params = x.CommonParams()
    params.model.path = sys.argv[1]
    params.offline, params.ui, params.n_parallel, params.n_ctx = True, False, 1, 1024
    params.use_jinja = True
    params.cpuparams.n_threads = 2
    params.verbosity = 0
    server = x.Server(params)
    found = []
    for chat in json.load(sys.stdin):
        request: dict[str, Any] = {"messages": chat, "max_tokens": int(sys.argv[2]), "temperature": 0, "seed": 1}
        answer = server.handle_chat_completions(request)
        if "choices" not in answer:
            raise SystemExit(f"no answer: {answer}")
        found.append(answer["choices"][0]["message"]["content"] or "")
    print(json.dumps(found), flush=True)
    os._exit(0)  # the server's threads need seconds to end


if __name__ == "__main__":
    main()
