"""`/model-register check`: whether a tuned model still answers in the form that Meton's agent reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..errors import UsageError
from ..paths import Home, private_dir, write_json
from .edge import note, say, show_json
from .progress import bar, duration

if TYPE_CHECKING:
    import argparse

    from ...host.api import Host
    from ..engine.jobs import Pace
    from ..serve.form_check import FormCheck
    from ..serve.subject import Subject

__all__ = ["form_check"]

#: Work longer than this is not begun unasked, in seconds.
ASK_FROM: Final = 60

COLORS: Final = {"pass": "green", "fail": "red", "not measurable": "yellow", "too little data": "yellow"}


def form_check(host: Host, given: argparse.Namespace) -> int:
    """Ask base and tuned model the same held-out prompts and compare; 0 for a pass, 1 for anything else."""
    from ..library import Library
    from ..serve.contender import base_of, tuned_of
    from ..serve.form_check import FEWEST, UNTIL, check, prompts
    from ..serve.subject import find_subject
    from ..settings import load

    if given.prompts < FEWEST:
        raise UsageError(f"--prompts takes {FEWEST} or more: fewer say too little.")
    if given.limit < 1:
        raise UsageError("--limit takes a number of tokens from 1 up.")
    home = Home(host.data_dir)
    subject = find_subject(home, given.model)
    with Library(home.library) as library:
        asked = prompts(library, given.prompts)
        if not asked and library.newest_instructions() is None:
            raise UsageError(
                "Meton's instructions were never heard here: ask something in Meton with the plugin first."
            )
    cost = _cost(host, subject, [one.prompt for one in asked], given) if len(asked) >= FEWEST else None
    if cost is not None and not _agreed(host, 2 * cost.seconds(len(asked), given.limit), given.yes):
        say(host, "Nothing was checked.")
        return 1
    workers = cost.threads if cost is not None else 0
    with bar(host) as tell:
        base, tuned = (
            one._replace(workers=workers).speaker(given.limit, until=UNTIL, progress=partial(tell, name))
            for name, one in (("base", base_of(subject)), ("tuned", tuned_of(subject, subject.run.name)))
        )
        found = check(asked, base, tuned, load(home.settings).gate.form_fall)
    folder = private_dir(home.models / subject.run.name)
    write_json(folder / "form_check.json", {"model": str(subject.adapter or subject.file), **found.model_dump()})
    if host.json:
        show_json(host, {"run": subject.run.name, **found.model_dump()})
    else:
        _show(host, subject, found)
    return 0 if found.verdict == "pass" else 1


def _cost(host: Host, subject: Subject, texts: Sequence[str], given: argparse.Namespace) -> Pace:
    """What the check will cost, told to the user; UsageError where the base cannot read prompts of this length."""
    from ..engine.jobs import pace
    from ..gguf.inspect import inspect

    cost = pace(subject.base, [_chat(subject, text) for text in texts], subject.chat_template)
    room = inspect(subject.base).context_length
    if room and cost.longest + given.limit > room:
        raise UsageError(
            f"Meton's prompts are {cost.longest} tokens long here, and this base reads {room}: it cannot serve Meton."
        )
    read = f"{cost.common} tokens once, {cost.rest} more for {len(texts)} prompts"
    seconds = 2 * cost.seconds(len(texts), given.limit)
    note(host, f"Each model reads {read}; both together take at most about {duration(seconds)}.")
    return cost


def _agreed(host: Host, seconds: float, yes: bool) -> bool:
    if seconds < ASK_FROM or yes:
        return True
    answer = host.ask(f"Check the form now, for at most about {duration(seconds)}?")
    if answer is None:
        raise UsageError(f"This takes about {duration(seconds)}, and nobody can be asked here: add --yes to do it.")
    return answer


def _chat(subject: Subject, text: str) -> list[dict[str, Any]]:
    system = [{"role": "system", "content": subject.system}] if subject.system else []
    return [*system, {"role": "user", "content": text}]


def _show(host: Host, subject: Subject, found: FormCheck) -> None:
    if found.verdict in ("pass", "fail"):
        for name, kept in (("base", found.base), ("tuned", found.tuned)):
            filled = round(20 * kept / found.prompts)
            line = f"{name:5}  {'█' * filled}{'·' * (20 - filled)}  {kept} of {found.prompts} answers keep Meton's form"
            say(host, line)
    say(host, f"form: {found.verdict} ({found.reason})", COLORS[found.verdict])
    for lost in found.lost:
        note(host, f"lost: {' '.join(lost.question.split())[:70]}")
        note(host, f"      {' '.join(lost.said.split())[:70] or '(nothing was said)'}")
