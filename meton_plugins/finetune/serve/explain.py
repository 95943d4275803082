"""What is wrong with a tuned model: measured with few questions, and explained by the rules of the guide's list."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..curate.manifest import FILES, read_manifest
from ..engine.jobs import Loss, Pace, pace
from ..errors import EngineError, FinetuneError, NotFound
from ..paths import Home
from ..settings import GateSettings
from ..train.diagnosis import diagnose
from ..train.finding import Finding, loss
from ..train.runs import Run, find_run
from ..units import many
from . import loading, served, symptoms
from .canary import QUESTIONS, canary
from .contender import Chat, Contender, base_of, tuned_of
from .gate import KEEPS_FORM
from .heldout import by_example, heldout
from .loading import Serving
from .register import Registered, find_registered, list_registered
from .reply import Reply, alike, digest
from .subject import Subject, find_subject
from .symptoms import Signs
from .trial import CANARY_TOKENS

if TYPE_CHECKING:
    from .ollama import Server

__all__ = ["Explained", "explain", "sifted"]

#: Answers whose loss is measured where nobody has measured more; rows that were learned; general questions.
JUDGED, LEARNED, GENERAL = 12, 6, 6
#: Most tokens of an answer, and how many more than the expected answer has.
LONGEST, ROOM = 192, 32
#: What the gate found of Meton's form.
COUNTED: Final = re.compile(r"(\d+) of (\d+) answers, the base (\d+)")
#: What is not worth a word of its own beside what explains it better.
EXPLAINED: Final = {
    "gibberish": {
        "repetitive", "one answer", "endless", "ignores", "by heart", "forgets", "short", "form", "quantization"
    },
    "repetitive": {"endless", "short"},
    "one answer": {"endless", "short"},
    "quantization": {"ignores"},
    "endless": {"stops"},
    "file": {"load"},
    "memory": {"load", "slow"},
}  # fmt: skip

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Explained:
    """What is wrong with a model, the worst first; what is right; and what could not be looked at."""

    model: str
    findings: list[Finding] = field(default_factory=list)
    good: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    #: Neither the engine nor a server could ask it anything.
    silent: bool = False


def explain(
    home: Home, server: Server | None, text: str | None, settings: GateSettings, tell: Tell, *, questions: int = 6,
    workers: int = 0,
) -> Explained:  # fmt: skip
    """Look at the run or registered model `text`, by default the newest run's; NotFound where there is none.

    Through the engine, and through `server` where there is one. `workers` is a number of the engine's threads, by
    default that which is faster here.
    """
    made, run = _target(home, text)
    name = made.tag if made else run.name if run else str(text)
    unseen: list[str] = []
    serving = served.look(home, server, made, run, unseen)
    signs: Signs | None = None
    questions_there: list[tuple[str, bool]] = []
    speed = None
    if run is not None:
        try:
            subject = _usable(find_subject(home, text if made and text and ":" in text else run.name), serving)
            try:
                speed = _pace(subject, workers)
            except EngineError as error:
                if subject.adapter is not None:
                    raise
                serving = replace(serving, trouble=error.sentence)
                subject = _usable(subject, serving)
                speed = _pace(subject, workers)
            signs, chats = _measured(home, subject, name, settings, tell, questions, speed.threads)
            serving = _formed(home, subject, signs, serving)
            questions_there = _single(chats, signs.replies)
        except FinetuneError as error:
            unseen.append(error.sentence)
    else:
        unseen.append(
            f"No run of {name} is here any more, so its loss, its form and what it forgets cannot be measured."
        )
    serving = served.ask(serving, server, questions_there, signs.limit if signs else 0, tell, unseen)
    if serving.speed is None and speed is not None:
        serving = replace(serving, speed=speed.say_per_s, through="the training engine")
    findings = [found for rule in symptoms.RULES if signs and (found := rule(signs))]
    findings += [found for rule in loading.RULES if (found := rule(serving))]
    findings = sifted(findings)
    good = _good(signs, serving, {found.kind for found in findings})
    return Explained(name, findings, good, unseen, silent=signs is None and not serving.spoke)


def sifted(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first, without what another of them explains."""
    hidden = set().union(*(EXPLAINED.get(found.kind, set()) for found in findings))
    return sorted((found for found in findings if found.kind not in hidden), key=lambda found: found.severity != "bad")


def _target(home: Home, text: str | None) -> tuple[Registered | None, Run | None]:
    """The registered model and the run that `text` names; of a run, the model that was made of it last."""
    if text is not None and ":" in text:
        made = find_registered(home, text)
        if made is None:
            raise NotFound(f"There is no registered model {text}: see `/model-register list`.")
        run = Run(home.runs / str(made.notes.get("run")))
        return made, run if (run.folder / "run.json").is_file() else None
    run = find_run(home.runs, text)
    registered = reversed(list_registered(home))
    return next((made for made in registered if made.notes.get("run") == run.name), None), run


def _usable(subject: Subject, serving: Serving) -> Subject:
    """The subject; by its adapter where its file is spoilt."""
    if serving.trouble is None or subject.adapter is not None:
        return subject
    return subject._replace(file=subject.base, adapter=subject.run.adapter(), sha256=None)


def _pace(subject: Subject, workers: int) -> Pace:
    found = pace(subject.file, [[{"role": "user", "content": QUESTIONS[0]}]], subject.chat_template, workers)
    return found._replace(threads=workers or found.threads)


def _measured(
    home: Home, subject: Subject, name: str, settings: GateSettings, tell: Tell, questions: int, workers: int
) -> tuple[Signs, list[Chat]]:
    """All that the engine can say, and the chats that were asked."""
    run, record = subject.run, subject.run.record
    base, tuned = (one._replace(workers=workers) for one in (base_of(subject), tuned_of(subject, name)))
    side, chats = _chats(home, run)
    known = tuned.known(home, chats, record.settings.ctx_size) if chats else None
    judged = chats if known is not None else chats[: max(JUDGED, questions)]
    ctx_size = record.settings.ctx_size
    rows = _side(run, "train")[:LEARNED]
    if known is None:  # at once: each time, gigabytes may have to be loaded
        names = {each for each, _ in judged}
        extra = [row for row in rows if row[0] not in names]
        lost = tuned.losses(home, [*judged, *extra], ctx_size, partial(tell, f"{side} answers"))
    else:
        lost = {**known, **tuned.losses(home, rows, ctx_size, partial(tell, "learned answers"))}
    base_lost = base.losses(home, judged, ctx_size, partial(tell, f"{side} answers, base")) if judged else {}
    asked = chats[:questions]
    wanted = [base_lost[each].said if each in base_lost else 0 for each, _ in asked]
    limit = min(LONGEST, 2 * max(wanted) + ROOM) if any(wanted) else LONGEST
    manifest = _manifest(run)
    whole_lost: dict[str, Loss] = {}
    if subject.adapter is None and judged:
        whole = tuned_of(subject._replace(file=subject.base, adapter=run.adapter(), sha256=None), name)
        progress = partial(tell, f"{side} answers, adapter")
        whole_lost = whole._replace(workers=workers).losses(home, judged, ctx_size, progress)
    signs = Signs(
        run=run.name, settings=record.settings, rows=record.examples.get("train", 0), limit=limit, side=side,
        replies=tuned.replies(home, asked, limit, partial(tell, "answers")) if asked else [],
        base_replies=base.replies(home, asked, limit, partial(tell, "answers, base")) if asked else [],
        wanted=wanted, wanted_alike=alike(digest(str(messages[-1]["content"])) for _, messages in asked),
        new=_mean(lost, judged), base=_mean(base_lost, judged), adapter=_mean(whole_lost, judged),
        learned=_mean(lost, rows), judged=len(by_example(base_lost)),
        quant=_quant(subject), canary=_canary(home, subject, base, tuned, ctx_size, tell),
        may_forget=settings.forgetting, plain_share=manifest[1], in_form=manifest[0],
        training=frozenset(found.kind for found in diagnose(run, rows=False)),
    )  # fmt: skip
    return signs, asked


def _chats(home: Home, run: Run) -> tuple[str, list[Chat]]:
    """What it may be judged by, and which side of the dataset that is."""
    found = heldout([run])
    if found:
        return "held-out", found
    found = _side(run, "validation")
    return ("validation", found) if found else ("training", _side(run, "train"))


def _side(run: Run, side: str) -> list[Chat]:
    path = run.folder / "dataset" / FILES[side]  # type: ignore[index]
    rows = [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []
    return [(str(row["id"]), row["messages"]) for row in rows]


def _mean(found: Mapping[str, Loss], of: Sequence[Chat]) -> float | None:
    """Nats a token over those chats `of` which were measured."""
    there = [found[each] for each, _ in of if each in found]
    tokens = sum(one.tokens for one in there)
    return sum(one.nats for one in there) / tokens if tokens else None


def _manifest(run: Run) -> tuple[bool, float]:
    """Whether it was trained in Meton's form, and the share of plain chats."""
    try:
        built = read_manifest(run.folder / "dataset").settings
    except FinetuneError:
        return False, 0.0
    return built.form == "meton", built.plain_share


def _quant(subject: Subject) -> str | None:
    """The type in the name of an exported file."""
    if subject.adapter is not None:
        return None
    stem = subject.file.stem.lower()
    return next((quant for quant in ("base", *symptoms.QUANTS) if stem.endswith(f"-{quant}")), None)


def _canary(
    home: Home, subject: Subject, base: Contender, tuned: Contender, ctx_size: int, tell: Tell
) -> tuple[float, float, int] | None:
    plain = base._replace(system="")
    speak = plain.speaker(CANARY_TOKENS, progress=partial(tell, "the base's own answers"))
    said = canary(home, base.sha256, speak, GENERAL)
    if not said:
        return None
    before, after = (
        _mean(one.losses(home, said, ctx_size, partial(tell, "what it remembers")), said)
        for one in (plain, tuned._replace(system=""))
    )
    return None if before is None or after is None else (before, after, len(said))


def _formed(home: Home, subject: Subject, signs: Signs, serving: Serving) -> Serving:
    """What is known of Meton's form: by a check that was made of this very model, else by its answers here."""
    kept = _json(home.models / subject.run.name / "form_check.json")
    if kept.get("model") == str(subject.adapter or subject.file) and kept.get("verdict") in ("pass", "fail"):
        values = (int(kept["tuned"]), int(kept["base"]), int(kept["prompts"]), "/model-register check")
        return replace(serving, form=values)
    gate = _json(home.models / subject.run.name / "gate.json")
    if gate.get("sha256") == tuned_of(subject, "").sha256:
        for line in gate.get("lines", ()):
            if line.get("name") == KEEPS_FORM and (seen := COUNTED.fullmatch(str(line.get("found")))):
                tuned, count, base = map(int, seen.groups())
                return replace(serving, form=(tuned, base, count, "/model-register gate"))
    if not signs.in_form:
        return serving
    fair = [
        one for one, wanted in zip(signs.replies, signs.wanted, strict=True) if one.ended or 0 < wanted < signs.limit
    ]
    good = sum(one.form for one in fair)
    return replace(serving, form=(good, len(fair), len(fair), "asked here")) if len(fair) >= 3 else serving


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _single(chats: Sequence[Chat], replies: Sequence[Reply]) -> list[tuple[str, bool]]:
    """The questions that a server can be asked as they were here, those with nothing before them."""
    return [
        (str(messages[0]["content"]), reply.ended)
        for (_, messages), reply in zip(chats, replies, strict=True)
        if len(messages) == 2 and messages[0]["role"] == "user"
    ]


def _good(signs: Signs | None, serving: Serving, wrong: set[str]) -> list[str]:
    """What is right, with its numbers."""
    good = []
    if signs is not None and "gibberish" not in wrong:
        if signs.new is not None and signs.base is not None and signs.new < signs.base * (1 - symptoms.HARDLY):
            what = many(signs.judged, f"{signs.side} answer")
            good.append(f"Its loss on {what} is {loss(signs.new)}, its base's {loss(signs.base)}.")
        if signs.replies and (ended := sum(reply.ended for reply in signs.replies)) == len(signs.replies):
            good.append(f"{'All' if ended > 1 else 'The'} {many(ended, 'answer')} came to an end.")
        if signs.canary is not None and "forgets" not in wrong:
            before, after, count = signs.canary
            good.append(f"On {many(count, 'general question')} it is near its base: {loss(before)} → {loss(after)}.")
    if serving.listed and serving.refused is None and serving.speed is not None and "slow" not in wrong:
        good.append(f"It says {serving.speed:.0f} tokens a second through {serving.through}.")
    return good
