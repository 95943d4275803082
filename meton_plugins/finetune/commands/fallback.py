"""After a swap: the fallback slot, where it names a model that the server does not have."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..errors import ServerError
from .edge import note
from .places import history_of

if TYPE_CHECKING:
    from ...host.api import Host
    from ..serve.slots import Swapped

__all__ = ["mend_fallback"]


def mend_fallback(host: Host, swapped: Swapped, *, asking: bool) -> None:
    """Offer to put the base of the new model there; where nobody is to be asked, say how."""
    with contextlib.suppress(ServerError):  # the swap itself is done and told
        _mend(host, swapped, asking)


def _mend(host: Host, swapped: Swapped, asking: bool) -> None:
    from ..paths import Home
    from ..serve.names import full_name
    from ..serve.ollama import Server
    from ..serve.register import list_registered
    from ..serve.slots import FALLBACK, missing_fallback, promote
    from ..settings import load

    home, store = Home(host.data_dir), host.slots
    if store is None or swapped.slot == FALLBACK:
        return
    with Server(load(home.settings).serve.ollama_host) as server:
        missing = missing_fallback(store, server)
        if missing is None:
            return
        lacks = f"The server lacks {missing}, which {FALLBACK} holds"
        base = next((made.notes.get("base") for made in list_registered(home) if made.tag == swapped.new), None)
        name = full_name(base["name"]) if isinstance(base, dict) and base.get("name") else swapped.old
        if name == swapped.new or not server.exists(name):
            note(host, f"{lacks}: `ollama pull {missing}`, or promote another.")
        elif asking and host.ask(f"{lacks}. Put {name} there?"):
            mended = promote(store, server, history_of(host), name, FALLBACK, f"{missing} was missing")
            note(host, f"{FALLBACK}: {mended.old} → {mended.new}")
        else:
            note(host, f"{lacks}: /model-register promote {name} --slot {FALLBACK}")
