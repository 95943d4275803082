"""The gate: what a tuned model has to show before it takes a slot, each as a line with its number and threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel

from ..engine.jobs import Loss
from ..settings import GateSettings
from .bootstrap import Interval, difference
from .form_check import FormCheck
from .tools_check import ToolsCheck

__all__ = [
    "KEEPS_FORM",
    "Gate",
    "Line",
    "Verdict",
    "against_base",
    "against_holder",
    "forgetting",
    "keeps_form",
    "nothing_to_compare",
    "uses_tools",
]

Verdict = Literal["pass", "fail", "too little data", "not measurable"]

#: The worst first: what the whole gate says is the worst that one of its lines says.
ORDER: Final[tuple[Verdict, ...]] = ("fail", "not measurable", "too little data", "pass")


#: 1.05 / 1 - 1 is a little more than 0.05.
TINY: Final = 1e-9
KEEPS_FORM: Final = "keeps Meton's form"
AGAINST_HOLDER: Final = "not worse than the slot's"


class Line(BaseModel):
    """One measurement: its `number`, where there is one, what was `found` in words, and the `threshold`."""

    name: str
    verdict: Verdict
    number: float | None = None
    found: str
    threshold: str


class Gate(BaseModel):
    """All lines about one model. `base` and `holder` are what it was compared with."""

    model: str
    base: str
    holder: str | None = None
    heldout: int
    lines: list[Line]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all lines; nothing but `pass` is one."""
        return min((line.verdict for line in self.lines), key=ORDER.index)

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"


def against_base(new: Mapping[str, Loss], base: Mapping[str, Loss], settings: GateSettings) -> Line:
    """Better than its base on held-out answers, beyond chance; Meton's form, which is alike in all, counts nothing."""
    return _against("better than its base", new, base, settings.against_base, settings.fewest)


def against_holder(new: Mapping[str, Loss], holder: Mapping[str, Loss], settings: GateSettings) -> Line:
    """Not worse than the model that holds the slot, beyond chance."""
    return _against(AGAINST_HOLDER, new, holder, settings.against_holder, settings.fewest)


def nothing_to_compare(reason: str, settings: GateSettings, *, gone: bool) -> Line:
    """The line about a slot whose model cannot be measured; one that is `gone` leaves nothing to lose."""
    threshold = _below(settings.against_holder)
    return Line(name=AGAINST_HOLDER, verdict="pass" if gone else "not measurable", found=reason, threshold=threshold)


def _below(allowed: float) -> str:
    return f"95% interval below {allowed:+.2f} nats a token"


def _against(name: str, new: Mapping[str, Loss], old: Mapping[str, Loss], allowed: float, fewest: int) -> Line:
    threshold = _below(allowed)
    common = len(new.keys() & old.keys())
    if common < fewest:
        found = f"{common} held-out examples are fewer than {fewest}: rate more answers"
        return Line(name=name, verdict="too little data", found=found, threshold=threshold)
    seen = difference(new, old)
    return Line(
        name=name,
        verdict="pass" if seen.high < allowed else "fail",
        number=seen.high,
        found=_spoken(seen) + _form(new, old),
        threshold=threshold,
    )


def _spoken(seen: Interval) -> str:
    return f"{seen.mean:+.3f} nats a token, {seen.low:+.3f} to {seen.high:+.3f}, over {seen.examples} examples"


def _form(new: Mapping[str, Loss], old: Mapping[str, Loss]) -> str:
    """What Meton's form alone changed by, which the difference does not count; empty for answers without it."""
    names = new.keys() & old.keys()
    tokens = [sum(each[name].form_tokens for name in names) for each in (new, old)]
    if not all(tokens):
        return ""
    change = sum(new[name].form_nats - old[name].form_nats for name in names) / tokens[1]
    return f"; the form alone {change:+.3f}"


def keeps_form(check: FormCheck, settings: GateSettings) -> Line:
    """Meton can read its answers as often as the base's; a base that never keeps the form leaves nothing to lose."""
    name, threshold = KEEPS_FORM, f"falls by at most {settings.form_fall:g} points"
    if check.verdict == "too little data":
        return Line(name=name, verdict="too little data", found=check.reason, threshold=threshold)
    fall = 100 * (check.base - check.tuned) / check.prompts
    never = check.verdict == "not measurable"
    return Line(
        name=name,
        verdict="pass" if never or fall <= settings.form_fall else "fail",
        number=None if never else fall,
        found=check.reason if never else f"{check.tuned} of {check.prompts} answers, the base {check.base}",
        threshold=threshold,
    )


def uses_tools(check: ToolsCheck) -> Line:
    """Calls tools by their names, with JSON that parses, as often as the base."""
    return Line(
        name="calls tools",
        verdict="pass" if check.tuned >= check.base else "fail",
        number=check.tuned,
        found=f"{check.tuned} of {check.requests} requests, the base {check.base}",
        threshold="no fewer than the base",
    )


def forgetting(new: Mapping[str, Loss], base: Mapping[str, Loss], settings: GateSettings) -> Line:
    """Still says what the base says of its own accord: the loss on the base's own answers hardly rises."""
    names = new.keys() & base.keys()
    threshold = f"rises by at most {settings.forgetting:.0%}"
    before = _mean(base, names)
    if not names or before <= 0:
        found = "the base gave no answers to remember"
        return Line(name="forgets little", verdict="not measurable", found=found, threshold=threshold)
    rise = _mean(new, names) / before - 1
    return Line(
        name="forgets little",
        verdict="pass" if rise <= settings.forgetting + TINY else "fail",
        number=rise,
        found=f"loss on {len(names)} of the base's own answers {before:.3f} → {_mean(new, names):.3f} ({rise:+.1%})",
        threshold=threshold,
    )


def _mean(losses: Mapping[str, Loss], names: set[str]) -> float:
    tokens = sum(losses[name].tokens for name in names)
    return sum(losses[name].nats for name in names) / tokens if tokens else 0.0
