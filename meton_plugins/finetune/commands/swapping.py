"""`/model-register promote`, `rollback` and `history`: which model holds which slot."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import ConfigError, ServerError, UsageError
from .edge import note, say, show_json
from .fallback import mend_fallback
from .gating import Passage, pass_gate
from .places import history_of, home_of, minute, server_of, store_of

if TYPE_CHECKING:
    from ...host.api import Host, SlotStore
    from ..serve.ollama import Server
    from ..serve.slots import Swapped

__all__ = ["history", "promote", "promote_asked", "rollback", "show_swap"]


def promote(host: Host, given: argparse.Namespace) -> int:
    """Put a listed model into a slot, after asking."""
    with server_of(host) as server:
        swapped = promote_asked(host, store_of(host), server, given.model, given)
    if swapped is None:
        return 1
    show_swap(host, swapped)
    mend_fallback(host, swapped, asking=not given.yes)
    return 0


def promote_asked(
    host: Host, store: SlotStore, server: Server, model: str, given: argparse.Namespace
) -> Swapped | None:
    """The swap of `given.slot`, once the model has passed the gate and the user agreed; None where he said no."""
    from ..serve import slots

    # First of all: nobody should wait for the gate, and then hear that there is no such slot.
    slot, why, old = given.slot, getattr(given, "why", "registered"), slots.holder(store, given.slot)
    passage = Passage()
    if old != model and server.exists(model):
        passage = pass_gate(host, server, store, model, slot, force=given.force, yes=given.yes)
        why = f"{why}, {passage.how}" if passage.how else why
    if not (given.yes or passage.agreed):
        answer = host.ask(f"Put {model} into {slot} of {store.path}, in place of {old}?")
        if answer is None:
            raise UsageError(f"Nobody can be asked here whether {slot} may change: add --yes to do it.")
        if not answer:
            say(host, f"{slot} keeps {old}.")
            return None
    return slots.promote(store, server, history_of(host), model, slot, why)


def rollback(host: Host, given: argparse.Namespace) -> int:
    """Give a slot back what it held before."""
    from ..serve import slots

    store, past = store_of(host), history_of(host)
    try:
        with server_of(host) as server:
            server.version()
            swapped = slots.rollback(store, past, given.slot, given.steps, server, _gone(host))
    except ServerError:
        # The way back must not depend on the server.
        swapped = slots.rollback(store, past, given.slot, given.steps, None, _gone(host))
    show_swap(host, swapped)
    return 0


def history(host: Host, _given: argparse.Namespace) -> int:
    """Every swap."""
    swaps, gone = history_of(host).swaps(), _gone(host)
    rows = [
        {
            **swap.model_dump(mode="json", exclude={"id", "undoes"}),
            "gone": [m for m in (swap.old, swap.new) if m in gone],
        }
        for swap in swaps
    ]
    if host.json:
        show_json(host, rows)
    elif not rows:
        say(host, "No slot was ever swapped.")
    for swap in () if host.json else swaps:
        # Lines, for two names of models side by side are wider than most terminals.
        state = "" if swap.state == "done" else f", {swap.state}"
        who = f", {swap.who}" if swap.who else ""
        old, new = (f"{model} (gone)" if model in gone else model for model in (swap.old, swap.new))
        say(host, f"{minute(swap.when)}  {swap.slot:8}  {old} → {new}  ({swap.why}{who}{state})")
    return 0


def _gone(host: Host) -> dict[str, str]:
    """The models that were retired. A manifest that cannot be read must not bar the way back."""
    from ..serve.retire import retired

    try:
        return retired(home_of(host))
    except ConfigError:
        return {}


def show_swap(host: Host, swapped: Swapped) -> None:
    """What became of a slot."""
    if host.json:
        show_json(host, swapped._asdict())
    elif swapped.changed:
        say(host, f"{swapped.slot}: {swapped.old} → {swapped.new}", "green")
    else:
        say(host, f"{swapped.slot} already holds {swapped.new}.")
    if swapped.note:
        note(host, swapped.note)
