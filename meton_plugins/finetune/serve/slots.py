"""Which model holds which slot: decides and records a swap; the host's SlotStore carries it out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import ConfigError, NotFound, UsageError
from .names import check_model_name, full_name

if TYPE_CHECKING:
    from ...host.api import SlotStore
    from .history import History, Swap
    from .ollama import Server

__all__ = ["FALLBACK", "SLOTS", "Swapped", "holder", "missing_fallback", "promote", "rollback", "settle"]

#: The slots that a tuned model may take; the host's config.yaml may know fewer.
SLOTS: Final = ("primary", "fallback", "quick")
#: What the host turns to where the primary fails; a fresh config.yaml names a model that few have.
FALLBACK: Final = "fallback"


class Swapped(NamedTuple):
    """A slot as it was and as it is. `note` says what could not be checked."""

    slot: str
    old: str
    new: str
    changed: bool
    note: str | None = None


def promote(store: SlotStore, server: Server, history: History, model: str, slot: str, why: str) -> Swapped:
    """Put `model` into `slot`: only a model that `server` lists by exactly that name, and that answers."""
    if slot not in SLOTS:
        raise UsageError(f"There is no slot {slot[:40]!r} for a tuned model: choose one of {', '.join(SLOTS)}.")
    check_model_name(model)
    settle(store, history)
    old = holder(store, slot)
    if not server.exists(model):
        raise NotFound(f"The Ollama server does not list {model}, so {slot} keeps {old}: see `/model-register list`.")
    note = server.try_out(model)
    if old != model:
        _swap(store, history, slot, old, model, why, ())
        _unload(store, server, old)
    return Swapped(slot, old, model, old != model, note)


def rollback(
    store: SlotStore,
    history: History,
    slot: str,
    steps: int = 1,
    server: Server | None = None,
    retired: Mapping[str, str] | None = None,
) -> Swapped:
    """Give `slot` back what it held `steps` swaps ago; refuses where the file no longer holds what history says.

    The earlier model was the user's own choice: that `server` lacks it is a note, no refusal. `retired`: models that
    were removed for good, each with when.
    """
    if steps < 1:
        raise UsageError("Rolling back takes at least one step.")
    settle(store, history)
    holds = holder(store, slot)
    stack = history.standing(slot, store.path)
    if not stack:
        raise NotFound(
            f"Nothing to roll back: no swap of {slot} in {store.path} stands, so it holds what it held first."
        )
    if steps > len(stack):
        raise UsageError(f"{slot} can be rolled back by {len(stack)} at most, not by {steps}.")
    if stack[-1].new != holds:
        raise ConfigError(
            f"{store.path} holds {holds} in {slot}, and the last recorded swap put {stack[-1].new} there: "
            f"somebody changed it since, so it stays as it is."
        )
    undone = stack[-steps:]
    target = undone[0].old
    if retired and target in retired:
        raise NotFound(
            f"{steps} {'step' if steps == 1 else 'steps'} back {slot} held {target}, which was retired on "
            f"{retired[target][:10]} and is gone: choose another number of --steps, or promote another model."
        )
    note = None
    if server is not None and not server.exists(target):
        note = f"The Ollama server does not list {target}: type `ollama pull {target}`, or promote another model."
    _swap(store, history, slot, holds, target, "rollback", tuple(swap.id for swap in undone))
    if server is not None:
        _unload(store, server, holds)
    return Swapped(slot, holds, target, holds != target, note)


def missing_fallback(store: SlotStore, server: Server) -> str | None:
    """The model that the fallback slot holds, where `server` does not list it, under that name or as its `latest`."""
    name = store.read().get(FALLBACK)
    return name if name is not None and not server.exists(full_name(name)) else None


def settle(store: SlotStore, history: History) -> list[Swap]:
    """Decide the swaps that a crash left open: done where the file holds the new name, else dropped."""
    open_swaps = [swap for swap in history.swaps(store.path) if swap.state == "begun"]
    if open_swaps:
        now = store.read()
        for swap in open_swaps:
            history.mark(swap, "done" if now.get(swap.slot) == swap.new else "dropped")
    return open_swaps


def holder(store: SlotStore, slot: str) -> str:
    """The model in `slot`; ConfigError where the file has no such slot."""
    slots = store.read()
    if slot not in slots:
        raise ConfigError(f"{store.path} names no model for {slot}: add models.{slot} there, or choose another slot.")
    return slots[slot]


def _unload(store: SlotStore, server: Server, model: str) -> None:
    """Take `model` out of the server's memory where no slot holds it any more: two may not fit."""
    with contextlib.suppress(Exception):  # the swap is done and recorded: nothing that fails here undoes it
        if model not in store.read().values():
            server.unload(model)


def _swap(store: SlotStore, history: History, slot: str, old: str, new: str, why: str, undoes: tuple[str, ...]) -> None:
    # Announced first: a crash after the write would otherwise leave a swap that nothing can roll back.
    swap = history.begin(slot, old, new, why, store.path, undoes)
    try:
        store.write(slot, new, expected=old)
    except Exception:
        # The file may have been written before the error: history says what it holds now.
        with contextlib.suppress(Exception):
            settle(store, history)
        raise
    history.mark(swap, "done")
