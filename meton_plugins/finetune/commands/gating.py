"""The gate as `/model-register gate` shows it, and as `promote` asks for it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import FinetuneError, GateError, UsageError
from .edge import note, say, show_json
from .places import home_of, server_of
from .progress import bar

if TYPE_CHECKING:
    from ...host.api import Host, SlotStore
    from ..serve.gate import Gate
    from ..serve.ollama import Server
    from ..serve.subject import Subject

__all__ = ["Passage", "gate", "pass_gate"]

MARKS: Final = {"pass": ("✓", "green"), "fail": ("✗", "red")}
#: Neither: it was not measured, or there is too little to measure.
UNDECIDED: Final = ("?", "yellow")


def gate(host: Host, given: argparse.Namespace) -> int:
    """Put a model through the gate, without promoting it; 0 where it passes."""
    from ..serve.subject import find_subject

    subject = find_subject(home_of(host), given.model)
    with server_of(host) as server:
        found = _measured(host, server, subject, given.model or subject.run.name, given.slot)
    if host.json:
        show_json(host, {**found.model_dump(), "verdict": found.verdict})
    else:
        _show(host, found)
    return 0 if found.passed else 1


class Passage(NamedTuple):
    """How a model came through the gate, for the history; `agreed`: the user has been asked already."""

    how: str = ""
    agreed: bool = False


def pass_gate(
    host: Host, server: Server, store: SlotStore, model: str, slot: str, *, force: bool, yes: bool
) -> Passage:
    """Let `model` through to `slot`, or raise GateError.

    A model that is none of ours was chosen by the user, and no gate is asked.
    """
    from ..serve.register import find_registered
    from ..serve.subject import find_subject

    if find_registered(home_of(host), model) is None:
        return Passage()
    try:
        subject = find_subject(home_of(host), model)
    except FinetuneError as error:
        return _forced(host, model, slot, "not measurable", error.sentence, force=force, yes=yes)
    found = _measured(host, server, subject, model, slot if slot in store.read() else None, whole=False)
    if not host.json:
        _show(host, found)
    if found.passed:
        return Passage("passed the gate")
    missed = ", ".join(line.name for line in found.lines if line.verdict != "pass")
    return _forced(host, model, slot, found.verdict, f"not shown: {missed}.", force=force, yes=yes)


def _forced(host: Host, model: str, slot: str, verdict: str, reason: str, *, force: bool, yes: bool) -> Passage:
    if not force:
        raise GateError(
            f"{model} does not pass the gate ({verdict}), so {slot} stays as it is; {reason} "
            "--force promotes it all the same."
        )
    questions = (
        f"{model} does not pass the gate ({verdict}). Put it into {slot} all the same?",
        f"Really? {reason} Nothing shows that it is better than what {slot} holds.",
    )
    for question in () if yes else questions:
        answer = host.ask(question)
        if answer is None:
            raise UsageError(f"Nobody can be asked here whether {slot} may change: add --yes to do it.")
        if not answer:
            raise GateError(f"{model} does not pass the gate, so {slot} stays as it is.")
    return Passage(f"forced: {verdict}", agreed=True)


def _measured(
    host: Host, server: Server, subject: Subject, model: str, slot: str | None, *, whole: bool = True
) -> Gate:
    from ..serve.trial import find_holder, run_trial
    from ..settings import load

    home = home_of(host)
    holder = None
    if slot is not None and host.slots is not None:
        name = host.slots.read().get(slot)
        if name is not None and name != model:
            holder = find_holder(home, server, name, subject)
    with bar(host) as tell:
        return run_trial(home, subject, model, holder, load(home.settings).gate, tell, whole=whole)


def _show(host: Host, found: Gate) -> None:
    width = max(len(line.name) for line in found.lines)
    say(host, f"The gate for {found.model}, on {found.heldout} held-out examples", "bold")
    for line in found.lines:
        mark, color = MARKS.get(line.verdict, UNDECIDED)
        said = line.found if line.verdict in MARKS else f"{line.verdict}: {line.found}"
        say(host, f"{mark} {line.name:{width}}  {said}", color)
        note(host, f"  {'':{width}}  {line.threshold}")
