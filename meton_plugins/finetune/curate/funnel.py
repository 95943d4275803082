"""From all examples to those of a dataset, stage by stage, so that each loss has a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..errors import DataError
from ..library import Example
from ..settings import BuildSettings
from ..turn import AGENT, Message, ToolUse
from .balance import balanced
from .duplicates import Alike, unique
from .manifest import Stage
from .quality import judge, least
from .secrets import placeholder_share, scrub
from .sources import Source, source_of

__all__ = ["Funnel", "sift", "told"]

#: An answer that is more placeholder than text teaches to write placeholders.
MOSTLY: Final = 0.5


@dataclass
class Funnel:
    """The examples that are left, without secrets; what each stage kept; secrets found at this late point by kind."""

    kept: list[Example]
    stages: list[Stage] = field(default_factory=list)
    advice: dict[str, str] = field(default_factory=dict)
    secrets: Counter[str] = field(default_factory=Counter)

    def settle(self, usable: Container[str]) -> None:
        """Leave out what no side of the split may use: the same is, or was, on another."""
        left = [example for example in self.kept if example.id in usable]
        if len(left) < len(self.kept):
            self.kept = left
            self.stages.append(Stage(name="on one side only", kept=len(left)))

    def check(self) -> None:
        """DataError, naming the stage that took the last ones, where nothing is left."""
        before = 0
        for stage in self.stages:
            if stage.kept == 0:
                if not before:
                    raise DataError("The library is empty: harvest conversations and rate some answers first.")
                raise DataError(
                    f"Nothing is left for a dataset: the stage {stage.name!r} left out the last {before} of "
                    f"{self.stages[0].kept} examples ({self.advice[stage.name]})."
                )
            before = stage.kept


def sift(examples: Sequence[Example], settings: BuildSettings, alike: Alike, sources: Sequence[Source] = ()) -> Funnel:
    """Take `examples`, all or those of `sources`, through every stage of `settings`; `alike` names the duplicates."""
    funnel = Funnel(list(examples))
    funnel.stages.append(Stage(name="found", kept=len(funnel.kept)))

    def stage(name: str, advice: str, unfit: Callable[[Example], str | None]) -> None:
        reasons = [unfit(example) for example in funnel.kept]
        funnel.kept = [example for example, reason in zip(funnel.kept, reasons, strict=True) if reason is None]
        left = Counter(reason for reason in reasons if reason is not None)
        funnel.stages.append(Stage(name=name, kept=len(funnel.kept), reason=told(left)))
        funnel.advice[name] = advice

    if sources:
        advice = f"none of them is from {', '.join(source.label for source in sources)}"
        stage("in the sources", advice, lambda e: None if source_of(e, sources) else "from another source")
    stage(
        "rated usable",
        "rate answers with /+, or build with --unrated",
        lambda e: _unusable(e, settings),
    )
    stage(
        "long enough",
        f"answers have at least {settings.min_length} characters, questions and answers at most {settings.max_length}",
        lambda e: _ill_sized(e, settings),
    )
    if settings.filter_keyword:
        word = settings.filter_keyword.casefold()
        stage(
            "keyword",
            f"none mentions {settings.filter_keyword!r}",
            lambda e: None if word in e.question.casefold() or word in e.target.casefold() else "without the word",
        )
    stage(
        "quality",
        f"lower --quality-threshold from {settings.quality_threshold:g}",
        lambda e: _weak(e, settings),
    )
    clean: set[str] = set()
    funnel.kept = [_without_secrets(example, funnel.secrets, clean) for example in funnel.kept]
    stage(
        "clean of secrets",
        "their answers were mostly secrets",
        lambda e: None if placeholder_share(e.target) <= MOSTLY else "mostly secrets",
    )
    if settings.deduplicate:
        funnel.kept = unique(funnel.kept, alike, settings.duplicate_threshold)
        funnel.stages.append(Stage(name="unique", kept=len(funnel.kept)))
    if settings.max_tag_share < 1:
        funnel.kept, left = balanced(funnel.kept, settings.max_tag_share)
        funnel.stages.append(Stage(name="balanced", kept=len(funnel.kept), reason=told(left)))
    return funnel


def told(reasons: Mapping[str, int]) -> str:
    """Reasons and how many examples each of them left out, the commonest first."""
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{number} {reason}" for reason, number in ordered)


def _unusable(example: Example, settings: BuildSettings) -> str | None:
    statuses = ("usable", "candidate") if settings.unrated else ("usable",)
    if example.status not in statuses:
        if example.failure is not None and example.correction is None:
            return "failed answers"
        return "not rated" if example.score is None else f"rated {example.score}"
    # What sub-agents and a web UI were told is not the user's chat: it trains only where he rated it.
    return None if example.origin == AGENT or example.status == "usable" else "unrated answers elsewhere"


def _ill_sized(example: Example, settings: BuildSettings) -> str | None:
    if len(example.target) < settings.min_length:
        return "too short"
    return "too long" if len(example.question) + len(example.target) > settings.max_length else None


def _weak(example: Example, settings: BuildSettings) -> str | None:
    if least(example) >= settings.quality_threshold:
        return None  # to parse the code of every answer takes long, and a good rating stands above it
    quality = judge(example)
    if quality.score >= settings.quality_threshold:
        return None
    return f"weak in {min(quality.parts, key=lambda name: quality.parts[name])}"


def _without_secrets(example: Example, counts: Counter[str], clean: set[str]) -> Example:
    """`example` without secrets; `clean` is filled with texts that hold none."""
    texts = [example.question, example.answer, example.correction or ""]
    texts += [message.content for message in example.context]
    texts += [text for tool in example.tools for text in (tool.input, tool.output)]
    texts += example.steps
    # What is said in one turn is context of the next ones: most texts come several times.
    new = [text for text in dict.fromkeys(texts) if text not in clean]
    if not new:
        return example
    if not scrub(new)[1]:
        clean.update(new)
        return example
    cleaned, found = scrub(texts)
    counts.update(found)
    rest = iter(cleaned[3:])
    return example.model_copy(
        update={
            "question": cleaned[0],
            "answer": cleaned[1],
            "correction": None if example.correction is None else cleaned[2],
            "context": tuple(Message(role=message.role, content=next(rest)) for message in example.context),
            "tools": tuple(ToolUse(name=tool.name, input=next(rest), output=next(rest)) for tool in example.tools),
            "steps": tuple(next(rest) for _ in example.steps),
        }
    )
