"""The form check: whether a tuned model answers in the form that Meton's agent reads, as often as its base does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel

from .. import form
from ..library import Example, Library
from ..turn import AGENT, Message

__all__ = ["FEWEST", "UNTIL", "Asked", "FormCheck", "Speaker", "check", "prompts"]

#: Fewer prompts than this say too little.
FEWEST: Final = 20
#: From here on the form is kept, whatever else is said.
UNTIL: Final = r"(?m)^ANSWER:\s*\S"
#: Answers that are kept of what was lost, to look at, and their length in characters.
SHOWN, LONGEST = 3, 300

Verdict = Literal["pass", "fail", "not measurable", "too little data"]
#: Answers to prompts, one each.
Speaker = Callable[[Sequence[str]], list[str]]


class Asked(NamedTuple):
    """A prompt as Meton would send it, and the question in it."""

    example: str
    question: str
    prompt: str


class Lost(BaseModel):
    """A prompt that the base answered in the form and the tuned model did not."""

    question: str
    said: str


class FormCheck(BaseModel):
    """How many of so many prompts each model answered in the form, and what follows from it."""

    prompts: int
    base: int = 0
    tuned: int = 0
    verdict: Verdict
    reason: str
    lost: list[Lost] = []


def prompts(library: Library, number: int) -> list[Asked]:
    """At most `number` prompts in Meton's own full form, of answers that no run was ever trained on.

    Held-out ones come first, then candidates that were never in a dataset. A turn that was heard gives what Meton
    really sent; for others the newest instructions are put before the question. Empty where none were ever heard.
    """
    instructions = library.newest_instructions()
    if instructions is None:
        return []
    unseen = [e for e in library.find() if e.origin == AGENT and e.split in ("heldout", None)]
    unseen.sort(key=lambda e: (e.split is None, hashlib.sha256(f"form:{e.id}".encode()).digest()))
    found: dict[str, Asked] = {}
    for example in unseen:
        if len(found) == number:
            break
        asked = Asked(example.id, example.question, _heard(library, example) or _composed(instructions, example))
        found.setdefault(asked.prompt, asked)
    return list(found.values())


def check(asked: Sequence[Asked], base: Speaker, tuned: Speaker, may_fall: float) -> FormCheck:
    """Ask both models all of `asked`, the base first: where it never keeps the form, nothing can be lost.

    The share may fall by `may_fall` points of a hundred from base to tuned.
    """
    count = len(asked)
    if count < FEWEST:
        return FormCheck(
            prompts=count,
            verdict="too little data",
            reason=f"{'1 prompt is' if count == 1 else f'{count} prompts are'} fewer than {FEWEST}: chat on in Meton",
        )
    texts = [one.prompt for one in asked]
    before = [form.keeps(answer) for answer in base(texts)]
    if not any(before):
        return FormCheck(
            prompts=count, verdict="not measurable", reason="the base itself never answers in Meton's form here"
        )
    answers = tuned(texts)
    after = [form.keeps(answer) for answer in answers]
    lost = [
        Lost(question=one.question[:LONGEST], said=answer[:LONGEST])
        for one, was, kept, answer in zip(asked, before, after, answers, strict=True)
        if was and not kept
    ]
    fall = 100 * (sum(before) - sum(after)) / count
    passed = fall <= may_fall
    change = (
        f"falls by {fall:.1f} points" if fall > 0 else f"rises by {-fall:.1f} points" if fall < 0 else "is the same"
    )
    return FormCheck(
        prompts=count,
        base=sum(before),
        tuned=sum(after),
        verdict="pass" if passed else "fail",
        reason=f"the share {change}, {may_fall:g} are allowed",
        lost=lost[:SHOWN],
    )


def _heard(library: Library, example: Example) -> str | None:
    """What Meton sent when the model gave the answer of `example`: the last of its agent's calls that had one."""
    calls = [call for call in library.calls(example.id) if call.origin == AGENT and call.instructions]
    answered = [call for call in calls if (step := form.parse(call.completion)) is not None and step.answer]
    return answered[-1].whole if answered else None


def _composed(instructions: str, example: Example) -> str:
    said = Message(role="user", content=example.question)
    # Meton has put the question into the conversation when it asks, and shows its last five messages.
    return form.full_prompt(instructions, example.question, [*example.context, said][-5:])
