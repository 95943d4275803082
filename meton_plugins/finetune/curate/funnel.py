"""From all examples to those of a dataset, stage by stage, so that each loss has a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..errors import DataError
from ..library import Example
from ..settings import BuildSettings
from ..turn import AGENT, Message, ToolUse
from .duplicates import Alike, unique
from .manifest import Stage
from .quality import judge
from .secrets import placeholder_share, scrub

__all__ = ["Funnel", "sift"]

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


def sift(examples: Sequence[Example], settings: BuildSettings, alike: Alike) -> Funnel:
    """Take `examples` through every stage of `settings`; `alike` says which are duplicates."""
    funnel = Funnel(list(examples))
    funnel.stages.append(Stage(name="found", kept=len(funnel.kept)))

    def stage(name: str, advice: str, keep: Callable[[Example], bool]) -> None:
        funnel.kept = [example for example in funnel.kept if keep(example)]
        funnel.stages.append(Stage(name=name, kept=len(funnel.kept)))
        funnel.advice[name] = advice

    statuses = ("usable", "candidate") if settings.unrated else ("usable",)
    stage(
        "rated usable",
        "rate answers with /+, or build with --unrated",
        # What sub-agents and a web UI were told is not the user's chat: it trains only where he rated it.
        lambda e: e.status in statuses and (e.origin == AGENT or e.status == "usable"),
    )
    stage(
        "long enough",
        f"answers have at least {settings.min_length} characters, questions and answers at most {settings.max_length}",
        lambda e: len(e.target) >= settings.min_length and len(e.question) + len(e.target) <= settings.max_length,
    )
    if settings.filter_keyword:
        word = settings.filter_keyword.casefold()
        stage(
            "keyword",
            f"none mentions {settings.filter_keyword!r}",
            lambda e: word in e.question.casefold() or word in e.target.casefold(),
        )
    stage(
        "quality",
        f"lower --quality-threshold from {settings.quality_threshold:g}",
        lambda e: judge(e).score >= settings.quality_threshold,
    )
    funnel.kept = [_without_secrets(example, funnel.secrets) for example in funnel.kept]
    stage("clean of secrets", "their answers were mostly secrets", lambda e: placeholder_share(e.target) <= MOSTLY)
    if settings.deduplicate:
        funnel.kept = unique(funnel.kept, alike, settings.duplicate_threshold)
        funnel.stages.append(Stage(name="unique", kept=len(funnel.kept)))
    return funnel


def _without_secrets(example: Example, counts: Counter[str]) -> Example:
    texts = [example.question, example.answer, example.correction or ""]
    texts += [message.content for message in example.context] + [tool.output for tool in example.tools]
    texts += example.steps
    cleaned, found = scrub(texts)
    if not found:
        return example
    counts.update(found)
    rest = iter(cleaned[3:])
    return example.model_copy(
        update={
            "question": cleaned[0],
            "answer": cleaned[1],
            "correction": None if example.correction is None else cleaned[2],
            "context": tuple(Message(role=message.role, content=next(rest)) for message in example.context),
            "tools": tuple(ToolUse(name=tool.name, input=tool.input, output=next(rest)) for tool in example.tools),
            "steps": tuple(next(rest) for _ in example.steps),
        }
    )
