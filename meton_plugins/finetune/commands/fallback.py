"""After a swap: the fallback slot, where it names a model that the server does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..paths import Home
from ..serve.history import History
from ..serve.names import full_name
from ..serve.register import list_registered
from ..serve.slots import FALLBACK, missing_fallback, promote
from .edge import note

if TYPE_CHECKING:
    from ...host.api import Host, SlotStore
    from ..serve.ollama import Server
    from ..serve.slots import Swapped

__all__ = ["mend_fallback"]


def mend_fallback(host: Host, store: SlotStore, server: Server, swapped: Swapped, *, asking: bool) -> None:
    """Offer to put the base of the new model there; where nobody is to be asked, say how."""
    missing = missing_fallback(store, server)
    if missing is None or swapped.slot == FALLBACK:
        return
    home = Home(host.data_dir)
    base = next((made.notes.get("base") for made in list_registered(home) if made.tag == swapped.new), None)
    name = full_name(base["name"]) if isinstance(base, dict) and base.get("name") else swapped.old
    if name == swapped.new or not server.exists(name):
        note(host, f"The server lacks {missing}, which {FALLBACK} holds: `ollama pull {missing}`, or promote another.")
        return
    if asking and host.ask(f"The server lacks {missing}, which {FALLBACK} holds. Put {name} there?"):
        mended = promote(store, server, History(home.history), name, FALLBACK, f"{missing} was missing")
        note(host, f"{FALLBACK}: {mended.old} → {mended.new}")
        return
    note(host, f"The server lacks {missing}, which {FALLBACK} holds: /model-register promote {name} --slot {FALLBACK}")
