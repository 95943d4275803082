"""What a server and the disk say about a tuned model, before and while it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ..engine.gpu import has_loader
from ..errors import FinetuneError, ModelError, ServerError
from ..gguf.inspect import inspect
from ..paths import Home
from ..train.runs import Run
from .answers import CannotGenerate
from .export_record import read_export
from .loading import Serving
from .names import full_name
from .register import Registered

if TYPE_CHECKING:
    from .ollama import Server

__all__ = ["ask", "look"]

#: Questions to the server: each may take minutes on a slow machine.
QUESTIONS = 3


def look(home: Home, server: Server | None, made: Registered | None, run: Run | None, unseen: list[str]) -> Serving:
    """The file and what the server lists and shows; what could not be looked at goes into `unseen`."""
    name = run.name if run else made.tag if made else ""
    serving = Serving(run=name, tag=made.tag if made else None, gpu=has_loader())
    path = Path(made.gguf) if made else _exported(home, name)
    if path is not None:
        try:
            serving = replace(serving, info=inspect(path))
        except ModelError as error:
            serving = replace(serving, trouble=error.sentence)
    else:
        unseen.append(f"It is not exported, so its adapter was looked at: /export model {name}.")
    if run is not None:
        record = run.record
        serving = replace(serving, system=record.system)
    if made is None:
        if path is not None:
            unseen.append(f"No server was asked: it is not registered, see /model-register add {name}.")
        return serving
    if server is None:
        unseen.append("No server was asked.")
        return serving
    try:
        return _on_server(serving, server, made, run)
    except ServerError as error:
        unseen.append(error.sentence)
        return serving


def _on_server(serving: Serving, server: Server, made: Registered, run: Run | None) -> Serving:
    version = server.version()
    serving = replace(serving, version=version, listed=server.exists(made.tag))
    if server.warning is None:
        serving = replace(serving, memory=psutil.virtual_memory().total)
    if not serving.listed:
        return serving
    serving = replace(serving, show=server.show(made.tag))
    base = run.record.base.name if run is not None else None
    if base and server.exists(full_name(base)):
        serving = replace(serving, base_show=server.show(full_name(base)))
    return serving


def ask(
    serving: Serving, server: Server | None, questions: Sequence[tuple[str, bool]], limit: int,
    tell: Callable[[str, int, int], None], unseen: list[str],
) -> Serving:  # fmt: skip
    """A few questions through the server: whether it loads the model, how fast it says, whether answers end.

    Each question comes with whether its answer ended in the engine.
    """
    if server is None or serving.tag is None or not serving.listed:
        return serving
    chosen = list(questions[:QUESTIONS])
    tokens, seconds, ended = 0, 0.0, 0
    try:
        for number, (question, _) in enumerate(chosen or [("Hello", False)]):
            tell("answers through the server", number, max(1, len(chosen)))
            options = {"num_predict": limit or 32, "temperature": 0, "seed": 1}
            answer = server.generate(serving.tag, question, options=options)
            tokens, seconds = tokens + answer.tokens, seconds + answer.seconds
            ended += answer.reason == "stop"
        server.unload(serving.tag)
    except CannotGenerate as error:
        unseen.append(error.sentence)
        return serving
    except FinetuneError as error:
        return replace(serving, refused=error.sentence)
    speed = tokens / seconds if tokens and seconds > 0 else None
    if not chosen:
        return replace(serving, speed=speed, spoke=True)
    here = sum(over for _, over in chosen)
    return replace(serving, speed=speed, spoke=True, asked=len(chosen), ended=ended, ended_here=here)


def _exported(home: Home, run: str) -> Path | None:
    export = read_export(home.models / run)
    return Path(export.files[-1].path) if export and export.files else None
