"""A run explained from its numbers, in the words of the guide's troubleshooting list."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from ..units import many
from . import circumstances, learning
from .finding import Finding, loss
from .runs import Run
from .signals import Signals, read

__all__ = ["Diagnosis", "Finding", "diagnose", "examine", "hint"]

#: The guide's word for a good final loss. It depends on base, tokenizer and texts, so it is told and never judged by.
GOOD_LOSS = 1.0
#: What is not worth a word of its own beside what explains it better.
EXPLAINED = {
    "divergence": {"stuck", "not falling", "spikes", "form alone", "overfitting", "gap", "too short", "clipped"},
    "stuck": {"not falling", "too short", "gap", "overfitting"},
    "not falling": {"too short", "gap", "overfitting"},
    "overfitting": {"too short"},
    "memory": {"too short"},
}


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a run, the worst first, and what is right with it."""

    findings: list[Finding] = field(default_factory=list)
    good: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        return not self.findings


def diagnose(run: Run, *, rows: bool = True) -> list[Finding]:
    """What is wrong with `run`, the worst first; also of one that is at work. DataError where it cannot be read.

    Without `rows`, its dataset is not searched for duplicates, and it takes milliseconds.
    """
    return _findings(run, read(run), rows)


def examine(run: Run) -> Diagnosis:
    """The same, with what is right."""
    signals = read(run)
    findings = _findings(run, signals, rows=True)
    return Diagnosis(findings, _good(signals, {found.kind for found in findings}))


def hint(run: Run) -> str | None:
    """What most spoils `run`, in a few words; None for a run that ended well. Takes milliseconds."""
    found = next((finding for finding in diagnose(run, rows=False) if finding.severity == "bad"), None)
    return found.short if found else None


def _findings(run: Run, signals: Signals, rows: bool) -> list[Finding]:
    findings = [found for rule in (*learning.RULES, *circumstances.RULES) if (found := rule(signals)) is not None]
    if rows:
        from .repeated import repeated

        double = repeated(run)
        findings += [double] if double else []
    hidden = set().union(*(EXPLAINED.get(found.kind, set()) for found in findings))
    findings = [found for found in findings if found.kind not in hidden]
    if signals.failed and not any(found.severity == "bad" for found in findings):
        findings.append(_failed(signals))
    # Sorting keeps the order of the rules within the bad ones and within the notes.
    return sorted(findings, key=lambda found: found.severity != "bad")


def _failed(signals: Signals) -> Finding:
    error = signals.state.error or "The run failed without a word."
    return Finding(
        "failed", "bad", "It failed", error,
        f"Do what that sentence says, then /finetune resume {signals.name}; /finetune logs {signals.name} tells more.",
        "it failed",
    )  # fmt: skip


def _good(signals: Signals, wrong: set[str]) -> list[str]:
    """The guide's good indicators that are there, with their numbers. `wrong`: kinds of what was found."""
    if wrong & {"divergence", "stuck"}:
        return []  # a loss that fell before it was spoilt is no good sign
    good = []
    first, last = signals.level(last=False), signals.level()
    fell = first is not None and last is not None and last < first * (1 - learning.FLAT)
    if fell and all(later < one for one, later in itertools.pairwise(signals.epochs)) and len(signals.epochs) > 1:
        good.append(f"The loss fell with every epoch: {loss(signals.epochs[0])} → {loss(signals.epochs[-1])}.")
    elif fell and first is not None and last is not None:
        good.append(f"The loss fell: {loss(first)} → {loss(last)}.")
    if len(signals.losses) >= 20 and "spikes" not in wrong:
        good.append(f"No sudden spikes in {many(len(signals.losses), 'step')}.")
    base, judged = signals.base_loss, signals.judged
    if base and judged and (best := min(check.loss for check in judged)) < base * (1 - learning.FLAT):
        good.append(f"On validation rows, which it never learned: {loss(base)} before, {loss(best)} at best.")
    if fell and last is not None and signals.over:
        side = "under" if last < GOOD_LOSS else "not under"
        good.append(
            f"Final loss {loss(last)}: {side} the guide's 1.0, a rule of thumb; base and texts decide what is good, so "
            "look at how far it fell."
        )
    return good
