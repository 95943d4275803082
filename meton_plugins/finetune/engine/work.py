"""The jobs that the child process knows, beside training and generating: count, preview, prove, evaluate, quantize."""

from __future__ import annotations

import codecs
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import EngineError
from ..gguf.chat_template import template_for
from ..gguf.inspect import inspect
from ..gguf.rows import Row, build_rows
from ..gguf.tiny import make_tiny
from .adamw import AdamW
from .generate import adapter_of, generate, pace
from .gpu import look
from .gradient import Adapter, RowTrainer
from .library import Library
from .model import Decoder, Model
from .probe import lengths, probe
from .quantize import quantize
from .trainer import read_chats, train, with_system

__all__ = ["JOBS"]

Emit = Callable[..., None]
Wanted = Callable[[], "str | None"]


def count(library: Library, job: dict[str, Any], emit: Emit, wanted: Wanted) -> None:
    """Tokens of each chat, by the base's own template and tokenizer."""
    base = Path(job["base"])
    template = template_for(inspect(base), job.get("chat_template"))
    with Model(library, base, vocab_only=True) as model:
        chats = [(str(i), with_system(m, job.get("system", ""))) for i, m in enumerate(job["chats"])]
        rows, _ = build_rows(chats, template, model, 2**31)
        counts = [0] * len(job["chats"])
        for row in rows:
            counts[int(row.id)] += len(row.tokens)
    emit("result", counts=counts)


def preview(library: Library, job: dict[str, Any], emit: Emit, wanted: Wanted) -> None:
    """The rows of chats as they are trained, token by token, and of those that are left out the reason too."""
    base = Path(job["base"])
    template = template_for(inspect(base), job.get("chat_template"))
    seen: list[dict[str, Any]] = []
    with Model(library, base, vocab_only=True) as model:
        for name, messages in job["chats"]:
            chat = [(name, with_system(messages, job["system"]))]
            rows, skipped = build_rows(chat, template, model, job["ctx_size"], job["learned"])
            reason = skipped[0].reason if skipped else None
            if skipped:
                rows, _ = build_rows(chat, template, model, 2**31, job["learned"])
            if not rows:
                seen.append({"id": name, "length": 0, "learned": 0, "reason": reason, "pieces": []})
            for row in rows:
                facts = {"id": name, "length": row.length, "learned": row.learned, "reason": reason}
                seen.append({**facts, "pieces": _spell(row, model)})
    emit("result", rows=seen)


def _spell(row: Row, model: Model) -> list[tuple[str, bool, bool]]:
    """Each token's text, whether it is learned and whether it is special.

    A letter that several tokens make up is the last one's: JSON carries no half letters.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = []
    for token, trained in zip(row.tokens.tolist(), row.trained.tolist(), strict=True):
        special = model.is_special(token) or model.is_end(token)
        pieces.append((decoder.decode(model.piece(token), final=special), trained, special))
    return pieces


def evaluate(library: Library, job: dict[str, Any], emit: Emit, wanted: Wanted) -> None:
    """Loss in nats of each chat (of a dataset file, or as given), with an adapter where one is given.

    Of each chat: nats over the tokens that count, how many these are, and the same of Meton's form.
    """
    base = Path(job["base"])
    template = template_for(inspect(base), job.get("chat_template"))
    system = job["system"]
    if job.get("file"):
        chats = read_chats(Path(job["file"]), system)
    else:
        chats = [(name, with_system(messages, system)) for name, messages in job["chats"]]
    with Model(library, base) as model:
        rows, _ = build_rows(chats, template, model, job["ctx_size"])
        if not rows:
            where = job.get("file") or "What was given"
            raise EngineError(f"{where} holds no example that fits --ctx-size {job['ctx_size']}.")
        longest = max(row.length for row in rows)
        found: dict[str, tuple[float, int, float, int]] = {}
        with Decoder(model, longest, job["threads"], adapter_of(job)) as decoder:
            for done, row in enumerate(rows, 1):
                nats, tokens, form_nats, form_tokens = found.get(row.id, (0.0, 0, 0.0, 0))
                each, counts = decoder.losses(row.tokens)[row.trained[1:]], row.of_learned
                nats, form_nats = nats + float(each[counts].sum()), form_nats + float(each[~counts].sum())
                found[row.id] = (nats, tokens + row.counted, form_nats, form_tokens + row.learned - row.counted)
                emit("progress", done=done, total=len(rows))
    nats, tokens, form_nats, form_tokens = map(sum, zip(*found.values(), strict=True))
    form_loss = form_nats / form_tokens if form_tokens else None
    emit("result", loss=nats / tokens, form_loss=form_loss, rows=len(rows), each=found)


def prove(library: Library, job: dict[str, Any], emit: Emit, wanted: Wanted) -> None:
    """Train a tiny base for two steps; the second gradient must be what it is alone, and the loss must fall."""
    with tempfile.TemporaryDirectory() as folder:
        base = make_tiny(Path(folder) / "tiny.gguf")
        with Model(library, base, gpu_layers=job.get("gpu_layers", 0)) as model:
            tokens = np.asarray(model.encode("the quick brown fox jumps over the lazy dog", start=True), np.int32)
            trained = np.ones(len(tokens), np.bool_)
            other = np.ascontiguousarray(tokens[::-1])
            with RowTrainer(model, len(tokens), job["threads"], Adapter(rank=4, alpha=8)) as trainer:
                _, alone = trainer.gradients(other, trained)
                first, gradients = trainer.gradients(tokens, trained)
                _, second = trainer.gradients(other, trained)
                optimizer = AdamW()
                for _ in range(2):
                    _, gradients = trainer.gradients(tokens, trained)
                    optimizer.step(trainer.weights(), gradients, 1e-2)
                last = trainer.loss(tokens, trained)
    drift = max(float(np.abs(second[name] - alone[name]).max()) for name in alone)
    size = max(float(np.abs(gradient).max()) for gradient in alone.values())
    if not last < first or drift > 1e-5 * size:
        raise EngineError(
            f"The engine trains wrongly on this machine (loss {first:.4f} to {last:.4f}, drift {drift:.1e})."
        )
    emit("result", first_loss=first, last_loss=last, gradient_drift=drift)


JOBS: Final[dict[str, Callable[[Library, dict[str, Any], Emit, Wanted], None]]] = {
    "count": count, "evaluate": evaluate, "generate": generate, "gpu": look, "lengths": lengths, "pace": pace,
    "preview": preview, "probe": probe, "prove": prove, "quantize": quantize, "train": train,
}  # fmt: skip
