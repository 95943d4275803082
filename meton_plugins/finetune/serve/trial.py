"""A tuned model is put through the gate: every measurement is made here, what follows from it is in `gate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ..curate.rows import example_of
from ..engine.jobs import Loss
from ..errors import FinetuneError
from ..gguf.inspect import fingerprint
from ..library import Library
from ..paths import Home, private_dir, write_json
from ..settings import GateSettings
from ..train.runs import Run
from . import form_check, tools_check
from .bases import resolve_base
from .canary import QUESTIONS, canary
from .contender import Chat, Contender, base_of, tuned_of
from .form_check import Asked
from .gate import (
    Gate,
    Line,
    against_base,
    against_holder,
    forgetting,
    keeps_form,
    nothing_to_compare,
    uses_tools,
)
from .heldout import by_example, heldout
from .names import full_name
from .register import find_registered
from .subject import Subject, template_of

if TYPE_CHECKING:
    from .ollama import Server

__all__ = ["Holder", "find_holder", "run_trial"]

#: Prompts of the form check; tokens of an answer in it, of a tool call, of an answer of the canary set.
PROMPTS: Final = 20
FORM_TOKENS, TOOL_TOKENS, CANARY_TOKENS = 256, 96, 64

#: Stage, done, total.
Tell = Callable[[str, int, int], None]


class Holder(NamedTuple):
    """The model that holds a slot: a contender, or the `reason` why it cannot be one; `gone`: nobody could load it."""

    name: str
    contender: Contender | None = None
    run: Run | None = None
    reason: str = ""
    gone: bool = False


class _Trial(NamedTuple):
    """The held-out chats, and what the tuned model and its base lose on them."""

    base: Contender
    chats: list[Chat]
    ctx_size: int
    new: dict[str, Loss]
    old: dict[str, Loss]


def find_holder(home: Home, server: Server | None, name: str, subject: Subject) -> Holder:
    """The files of the model `name`: of a registered one its GGUF, of any other what `server` keeps."""
    made = find_registered(home, name)
    if made is not None and Path(made.gguf).is_file():
        run = Run(home.runs / str(made.notes.get("run")))
        if (run.folder / "run.json").is_file():
            return Holder(
                name,
                Contender(name, Path(made.gguf), made.sha256, None, template_of(run), run.record.system),
                run,
            )
        return Holder(name, Contender(name, Path(made.gguf), made.sha256, None, None, subject.system))
    try:
        if server is not None and not server.exists(full_name(name)):
            return Holder(name, reason=f"the server does not have {name}: there is nothing to lose", gone=True)
        base = resolve_base(name, server)
    except FinetuneError as error:
        return Holder(name, reason=error.sentence)
    return Holder(name, Contender(name, base.path, fingerprint(base.path), None, None, subject.system))


def run_trial(
    home: Home, subject: Subject, name: str, holder: Holder | None, settings: GateSettings, tell: Tell,
    *, whole: bool = True,
) -> Gate:  # fmt: skip
    """All lines of the gate for the model `name`, which is `subject`; kept in `<home>/models/<run>/gate.json`.

    Without `whole`, nothing more is measured once there is too little data: that is no pass whatever the rest says.
    """
    ctx_size = subject.run.record.settings.ctx_size
    others = [holder.run] if holder and holder.run else []
    chats = heldout([subject.run, *others])
    judged = len({example_of(each) for each, _ in chats})
    base = base_of(subject)
    made = Gate(model=name, base=base.name, holder=holder.name if holder else None, heldout=judged, lines=[])
    few = judged < settings.fewest
    if few and not whole:
        return made.model_copy(update={"lines": [_too_few(judged, settings)]})
    base = base.paced([{"role": "user", "content": QUESTIONS[0]}])
    tuned = tuned_of(subject, name)._replace(workers=base.workers)
    lines: list[Line] = []
    if few:
        lines.append(_too_few(judged, settings))
    else:
        new = by_example(tuned.losses(home, chats, ctx_size, partial(tell, "held-out answers")))
        old = by_example(base.losses(home, chats, ctx_size, partial(tell, "held-out answers, base")))
        lines.append(against_base(new, old, settings))
        if holder is not None:
            lines.append(_against_holder(home, holder, _Trial(base, chats, ctx_size, new, old), settings, tell))
    lines += _manners(home, base, tuned, chats, settings, tell)
    said = canary(home, base.sha256, _plain(base, CANARY_TOKENS, partial(tell, "the base's own answers")))
    canaries = [contender._replace(system="") for contender in (tuned, base)]
    sung = [one.losses(home, said, ctx_size, partial(tell, "what it remembers")) if said else {} for one in canaries]
    lines.append(forgetting(sung[0], sung[1], settings))
    gate = made.model_copy(update={"lines": lines})
    write_json(private_dir(home.models / subject.run.name) / "gate.json", {**gate.model_dump(), "sha256": tuned.sha256})
    return gate


def _too_few(judged: int, settings: GateSettings) -> Line:
    many = "1 held-out example is" if judged == 1 else f"{judged} held-out examples are"
    found = f"{many} fewer than {settings.fewest}: rate more answers, build, train again"
    return against_base({}, {}, settings).model_copy(update={"found": found})


def _against_holder(home: Home, holder: Holder, trial: _Trial, settings: GateSettings, tell: Tell) -> Line:
    one = holder.contender
    if one is None:
        return nothing_to_compare(holder.reason, settings, gone=holder.gone)
    if one.sha256 == trial.base.sha256:
        return against_holder(trial.new, trial.old, settings)
    one = one._replace(workers=trial.base.workers)
    held = by_example(one.losses(home, trial.chats, trial.ctx_size, partial(tell, "held-out answers, slot")))
    return against_holder(trial.new, held, settings)


def _manners(
    home: Home, base: Contender, tuned: Contender, chats: Sequence[Chat], settings: GateSettings, tell: Tell
) -> list[Line]:
    """Form and tools, in Meton's own instructions; where they were never heard, in the short ones of training."""
    with Library(home.library) as library:
        instructions = library.newest_instructions()
        asked = form_check.prompts(library, PROMPTS)
    if instructions is None:
        asked = [Asked(name, said, said) for name, said in _last_said(chats)][:PROMPTS]

    def speaker(one: Contender, what: str, limit: int, until: str) -> form_check.Speaker:
        return one.speaker(limit, until=until, progress=partial(tell, f"{what}, {'base' if one is base else 'tuned'}"))

    was, is_ = (speaker(one, "form", FORM_TOKENS, form_check.UNTIL) for one in (base, tuned))
    form = form_check.check(asked, was, is_, settings.form_fall)
    before, after = (speaker(one, "tools", TOOL_TOKENS, tools_check.UNTIL) for one in (base, tuned))
    return [keeps_form(form, settings), uses_tools(tools_check.check(before, after, instructions))]


def _last_said(chats: Sequence[Chat]) -> Iterator[tuple[str, str]]:
    for name, messages in chats:
        yield name, next(str(m["content"]) for m in reversed(messages) if m["role"] == "user")


def _plain(one: Contender, limit: int, progress: Callable[[int, int], None]) -> form_check.Speaker:
    return one._replace(system="").speaker(limit, progress=progress)
