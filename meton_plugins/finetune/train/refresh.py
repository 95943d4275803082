"""What has come into the library since a run, and a dataset of it built as the run's was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..curate.build import Plan, build, plan, rows_of
from ..curate.manifest import Manifest, read_manifest
from ..curate.sources import Source
from ..library import Library
from ..settings import BuildSettings
from .fresh import WORTH, to_refresh
from .lineage import learned, mark, of_examples
from .runs import Run

__all__ = ["WORTH", "Since", "freeze", "since", "to_refresh"]


@dataclass(frozen=True)
class Since:
    """What a build would hold now that is made as the dataset of `run` was.

    Of its examples to train on, `new` are known neither to `run` nor to those before it; an answer that was fixed since
    is new.
    """

    run: Run
    settings: BuildSettings
    sources: tuple[Source, ...]
    plan: Plan
    new: int
    old: int

    @property
    def worth(self) -> bool:
        """Whether the new ones are enough to go on with the run."""
        return self.new >= WORTH


def since(library: Library, run: Run) -> Since:
    """What `library` holds now for `run`; nothing is written. DataError where a build would hold nothing."""
    manifest = read_manifest(run.folder / "dataset")
    sources = tuple(Source(source.label, source.weight) for source in manifest.sources)
    made = plan(library, manifest.settings, sources)
    known = set(learned(run).examples)
    examples = of_examples(rows_of(made, "train", manifest.settings))
    new = sum(mark(rows) not in known for rows in examples.values())
    return Since(run, manifest.settings, sources, made, new, len(examples) - new)


def freeze(library: Library, datasets: Path, found: Since) -> Manifest:
    """Build that dataset in the folder `datasets`."""
    return build(library, found.settings, datasets, sources=found.sources)
