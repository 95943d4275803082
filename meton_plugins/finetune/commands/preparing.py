"""`/finetune setup` and `doctor`: what training needs, before the first run."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from ...host.errors import HostError
from ..settings import load
from .edge import note, say, show_json
from .options import Parser
from .run_views import examined

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home

__all__ = ["doctor", "doctor_flags", "setup", "setup_flags"]


def setup_flags(parser: Parser) -> None:
    """Of `setup`."""
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="install from this tarball, and oneDNN from its wheel beside it",
    )
    parser.add_argument("--again", action="store_true", help="install even where it is in place")
    parser.add_argument("--gpu", action="store_true", help="with the Vulkan backend (100 MB), also where no loader is")


def doctor_flags(parser: Parser) -> None:
    """Of `doctor`."""
    parser.add_argument("--meton", type=Path, metavar="PATH", help="only look at what this Meton checkout has")


def setup(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Install the engine."""
    from ..engine import setup as service

    engine, done = service.setup(
        lambda text: say(host, f"… {text}", "dim"), source=options.source, again=options.again, gpu=options.gpu
    )
    if host.json:
        facts = {
            "version": engine.version, "backend": engine.backend, "gpu": engine.gpu or None,
            "products": engine.products_name,
        }  # fmt: skip
        show_json(host, {**facts, "installed": done, **engine.proof})
        return 0
    parts = f"{engine.backend}, products by {engine.products_name}"
    say(host, f"✓ Engine {engine.version} {'installed' if done else 'is in place'} ({parts}).", "green")
    proof = engine.proof
    note(host, f"Its own proof: loss {proof['first_loss']:.3f} → {proof['last_loss']:.3f} in two steps.")
    if engine.gpu:
        note(host, "Its GPU part (Vulkan) is here too: /finetune doctor says which device it finds.")
    return 0


def doctor(host: Host, home: Home, options: argparse.Namespace) -> int:
    """Look at engine, machine, server and host."""
    from ..report.health import examine, surface

    if options.meton:
        rows = surface(options.meton)
    else:
        store = host.slots
        held: dict[str, str] = {}
        if store is not None:
            with contextlib.suppress(HostError):  # the doctor's line about the host names the file
                held = store.read()
        rows = examine(home, load(home.settings), host.name, store.path if store else None, held)
    if host.json:
        show_json(host, [row._asdict() for row in rows])
    else:
        examined(host, rows)
    return 1 if any(row.verdict == "bad" for row in rows) else 0
