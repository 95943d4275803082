"""`/model-register explain`: what is wrong with a tuned model or its server, and what to change."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..errors import UsageError
from .diagnosing import explained
from .edge import note, say, show_json
from .places import home_of, server_of
from .progress import bar

if TYPE_CHECKING:
    from ...host.api import Host

__all__ = ["explain"]


def explain(host: Host, given: argparse.Namespace) -> int:
    """Ask a few questions and explain the answers; 1 where something spoils the model."""
    from ..serve import explain as service
    from ..settings import load

    if not 3 <= given.questions <= 100:
        raise UsageError("--questions takes 3 to 100: fewer say too little.")
    if not 0 <= given.threads <= 512:
        raise UsageError("--threads takes 1 to 512, or 0 for what is faster here.")
    home = home_of(host)
    with server_of(host) as server, bar(host) as tell:
        found = service.explain(
            home, server, given.model, load(home.settings).gate, tell, questions=given.questions, workers=given.threads
        )
    bad = any(one.severity == "bad" for one in found.findings)
    if host.json:
        show_json(host, {**asdict(found), "healthy": not found.findings and not found.silent})
        return 1 if bad else 0
    if found.findings:
        say(host, f"{found.model}  {len(found.findings)} finding{'s' if len(found.findings) > 1 else ''}", "bold")
        explained(host, found.findings)
    elif found.silent:
        say(host, f"{found.model}  It could not be asked anything, so nothing is known of its answers.", "bold")
    else:
        say(host, f"{found.model}  Nothing stands out.", "bold")
    for line in found.good:
        say(host, f"✓ {line}", "green")
    for line in found.unseen:
        note(host, line)
    return 1 if bad else 0
