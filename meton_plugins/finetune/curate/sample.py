"""The rows that somebody wants to see before he trains: some of a dataset, of the library, or those of one example."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from ..errors import DataError, NotFound
from ..library import Example, Library
from ..paths import NAME, Home
from ..settings import BuildSettings
from ..turn import AGENT
from . import dataset
from .build import plan, rows_of
from .duplicates import compare, said
from .funnel import sift
from .manifest import MANIFEST, Row
from .rows import rows

__all__ = ["LIBRARY", "Sample", "take_sample"]

#: Stands for what a build would take now, also where there are datasets already.
LIBRARY: Final = "library"


@dataclass(frozen=True)
class Sample:
    """`rows` of `total`, from a dataset or the library (its `source` by kind and name).

    `remarks`: why they may not be trained on after all. `seed`: what they were drawn with, where they were drawn.
    """

    kind: Literal["dataset", "library", "example"]
    name: str
    rows: list[Row]
    total: int
    learned: Literal["last", "all"] = "last"
    seed: int | None = None
    remarks: list[str] = field(default_factory=list)


def take_sample(
    home: Home, library: Library, name: str | None, settings: BuildSettings, *, number: int, seed: int | None = None
) -> Sample:
    """`number` rows of what `name` means, the first ones or (with `seed`) drawn; of an example all its rows.

    `name`: a dataset, an example's or a row's id, `library`; by default the dataset built last, else the library.
    NotFound where it is nothing of that, DataError where there is nothing to train on.
    """
    if name is None:
        name = "latest" if dataset.versions(home) else LIBRARY
    if name == LIBRARY:
        return _drawn(_would_train(library, settings), number, seed)
    if not _is_dataset(home, name):
        try:
            return _of_example(library, name, settings)
        except NotFound as error:
            _check_begins_dataset(home, name, error)
    frozen = dataset.load(dataset.resolve(home, name))
    whole = Sample("dataset", frozen.id, frozen.train, len(frozen.train), frozen.manifest.learned)
    return _drawn(whole, number, seed)


def _drawn(whole: Sample, number: int, seed: int | None) -> Sample:
    rows = whole.rows[:number] if seed is None else _picked(whole.rows, number, seed)
    return Sample(whole.kind, whole.name, rows, whole.total, whole.learned, seed, whole.remarks)


def _picked(rows: Sequence[Row], number: int, seed: int) -> list[Row]:
    return random.Random(seed).sample(rows, min(number, len(rows)))


def _would_train(library: Library, settings: BuildSettings) -> Sample:
    found = rows_of(plan(library, settings), "train", settings)
    return Sample("library", LIBRARY, found, len(found))


def _of_example(library: Library, name: str, settings: BuildSettings) -> Sample:
    wanted, _, number = name.partition("#")
    example = library.get(wanted)
    steps = tuple(call.completion for call in library.calls(example.id) if call.origin == AGENT)
    example, remarks = _sifted(example.model_copy(update={"steps": steps}), settings)
    made = rows(example, settings)
    found = [row for place, row in enumerate(made, 1) if number in ("", str(place))]
    if not found:
        raise NotFound(f"The example {example.id} has no row {number[:8]!r}: it has {len(made)}.")
    if example.split in ("validation", "heldout"):
        side = "validation" if example.split == "validation" else "the held-out side"
        remarks.append(f"its conversation is on {side}, which judges and never trains")
    return Sample("example", example.id, found, len(found), remarks=remarks)


def _sifted(example: Example, settings: BuildSettings) -> tuple[Example, list[str]]:
    """The example as a build would take it, or itself with the reason why none would."""
    funnel = sift([example], settings, compare([said(example)]))
    try:
        funnel.check()
    except DataError:
        stage = next(stage for stage in funnel.stages if not stage.kept)
        why = f"the stage {stage.name!r} leaves it out ({stage.reason or funnel.advice[stage.name]})"
        if example.status != "usable" and not settings.unrated:
            why = "it is not rated 4 or 5"
        return example, [f"no build takes it, because {why}"]
    return funnel.kept[0], []


def _is_dataset(home: Home, name: str) -> bool:
    """Whether `name` is a dataset's whole id or name, or a path: what an id begins with may be an example's too."""
    if name == "latest" or name in dataset.names(home) or "/" in name:
        return True
    # A longer one is no name, and the system would refuse even to look for it.
    return NAME.fullmatch(name) is not None and (home.datasets / name / MANIFEST).exists()


def _check_begins_dataset(home: Home, name: str, no_example: NotFound) -> None:
    """NotFound where `name`, which is no example for the reason given, does not begin one dataset's id either."""
    try:
        dataset.resolve(home, name)
    except NotFound as no_dataset:
        # One of the two may know more than that there is nothing.
        for error in (no_example, no_dataset):
            if not str(error).startswith("There is no"):
                raise error from None
        raise NotFound(
            f"There is neither a dataset nor an example {name[:40]!r}: see /dataset versions and /dataset list."
        ) from no_example
