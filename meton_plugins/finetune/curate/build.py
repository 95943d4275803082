"""Building a dataset: sift, split, put into form, freeze."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from ..errors import DataError
from ..library import Example, Library
from ..library.records import Split
from ..paths import check_name, private_dir, replacing, sync_dir, write_json
from ..settings import BuildSettings
from ..turn import Message
from .duplicates import compare
from .duplicates import said as compared
from .frozen import NAMES
from .funnel import Funnel, sift
from .manifest import FILES, MANIFEST, PAIRS, FileEntry, Manifest, Row, SourceEntry, TokenStats, read_manifest
from .rows import PLAIN, example_of, plain_rows, prompt, rows, said
from .sources import Source, check_sources, source_of, times
from .split import assign, named

__all__ = ["CountTokens", "Plan", "build", "deciding", "plan", "rows_of"]

#: Tokens of each chat, as a base's tokenizer and chat template count them.
CountTokens = Callable[[list[list[Message]]], list[int]]

#: A build that was killed leaves its folder; one this old is no living build's.
STALE_SECONDS: Final = 3600


@dataclass
class Plan:
    """What a build would freeze: the sifted examples and the side of every example of their groups."""

    funnel: Funnel
    splits: dict[str, Split]
    sources: tuple[Source, ...] = ()

    def times(self, example: Example) -> int:
        """How often an example is to be seen in training, by the weight of its source."""
        source = source_of(example, self.sources)
        return 1 if source is None else times(example, source.weight)

    def side(self, split: Split) -> list[Example]:
        """The dataset's examples on one side, oldest first."""
        found = [example for example in self.funnel.kept if self.splits[example.id] == split]
        return found if split != "train" else [example for example in found if self.times(example)]


def plan(library: Library, settings: BuildSettings, sources: Sequence[Source] = ()) -> Plan:
    """What `build` would do, with nothing written; DataError where nothing would be left."""
    examples = sorted(library.find(steps=True), key=lambda example: (example.at, example.id))
    check_sources(sources, examples)
    alike = compare([compared(example) for example in examples], library)
    funnel = sift(examples, settings, alike, sources)
    funnel.check()
    splits = assign(examples, {e.id for e in funnel.kept}, alike, named(library, settings.heldout))
    made = Plan(funnel, splits, tuple(sources))
    left = len(funnel.kept)
    funnel.settle(made.splits)
    if not made.side("train"):
        raise DataError(
            f"All {left} examples that are left belong to conversations kept for validation or held out"
            f"{', or their source has too little weight' if sources else ''}: rate answers of other conversations."
        )
    return made


def build(
    library: Library,
    settings: BuildSettings,
    out: Path,
    *,
    name: str | None = None,
    sources: Sequence[Source] = (),
    base: dict[str, Any] | None = None,
    count_tokens: CountTokens | None = None,
    recipe: str | None = None,
) -> Manifest:
    """Freeze the examples that `settings` choose under `out`/<id>; the same content gives the same id and bytes.

    Of `sources`, where some are named, each example to train on is there as often as its weight says; those that judge
    are there once. The library remembers the side of the split for every conversation used. With `count_tokens`, the
    manifest holds token statistics for `base`; `recipe` names where `settings` come from. DataError where the
    filters leave nothing.
    """
    if name is not None:
        check_name(name, "dataset")
    with deciding(library):
        return _build(library, settings, out, sources, name, base, count_tokens, recipe)


@contextmanager
def deciding(library: Library) -> Iterator[None]:
    """Nobody else builds or forgets meanwhile.

    Two builds at once, each from a library without sides, could put one conversation on two of them; and a build that
    had read an example could freeze it after it was forgotten.
    """
    private_dir(library.path.parent)
    with FileLock(library.path.with_name("split.lock"), mode=0o600):
        yield


def _build(
    library: Library,
    settings: BuildSettings,
    out: Path,
    sources: Sequence[Source],
    name: str | None,
    base: dict[str, Any] | None,
    count_tokens: CountTokens | None,
    strategy: str | None,
) -> Manifest:
    made = plan(library, settings, sources)
    library.assign(made.splits)
    sides = {split: rows_of(made, split, settings) for split in FILES}
    content = {FILES[split]: _lines(row.model_dump() for row in side) for split, side in sides.items()}
    content[PAIRS] = _lines(_pairs(made, settings))
    files = {file: _entry(raw) for file, raw in content.items()}
    recipe = {"version": 1, "settings": settings.model_dump(), "files": {n: f.sha256 for n, f in files.items()}}
    if sources:
        recipe["sources"] = [[source.label, source.weight] for source in sources]
    every = [row for side in sides.values() for row in side]
    tokens = None
    if count_tokens is not None:
        tokens = TokenStats.of(base or {}, every, count_tokens([row.messages for row in every]))
    manifest = Manifest(
        id=hashlib.sha256(_canonical(recipe)).hexdigest()[:12],
        settings=settings,
        recipe=strategy,
        funnel=made.funnel.stages,
        examples={split: len(made.side(split)) for split in FILES},
        counts={**{split: len(side) for split, side in sides.items()}, "pairs": files[PAIRS].lines},
        plain=sum(row.id.endswith(PLAIN) for row in sides["train"]),
        sessions={split: len({row.session for row in side}) for split, side in sides.items()},
        sources=_entries(made, sides["train"]),
        secrets=dict(made.funnel.secrets),
        files=files,
        tokens=tokens,
    )
    manifest = _freeze(out, manifest, content)
    if name is not None:
        private_dir(out / NAMES)
        with replacing(out / NAMES / name, "w") as file:
            file.write(manifest.id + "\n")
    return manifest


def rows_of(made: Plan, split: Split, settings: BuildSettings) -> list[Row]:
    """The rows of one side; that of training repeats them by weight, and says some answers once more as plain chats."""
    side = made.side(split)
    if split != "train":
        return [row for example in side for row in rows(example, settings)]
    found = [row for example in side for row in rows(example, settings) * made.times(example)]
    return found + plain_rows([example for example in side if made.times(example)], settings)


def _entries(made: Plan, train: Sequence[Row]) -> list[SourceEntry]:
    """What each source brought."""
    if not made.sources:
        return []
    owners = {example.id: source_of(example, made.sources) for split in FILES for example in made.side(split)}
    examples = Counter(source.label for source in owners.values() if source)
    lines = Counter(source.label for row in train if (source := owners[example_of(row.id)]))
    return [
        SourceEntry(label=source.label, weight=source.weight, examples=examples[source.label], rows=lines[source.label])
        for source in made.sources
    ]


def _pairs(made: Plan, settings: BuildSettings) -> list[dict[str, Any]]:
    """Corrections beside what they replaced; `split` says which pairs may ever be trained on."""
    return [
        {
            "id": example.id,
            "session": example.session,
            "split": made.splits[example.id],
            "prompt": [message.model_dump() for message in prompt(example, settings)],
            "chosen": said(example.target, settings),
            "rejected": said(example.rejected, settings),
        }
        for example in made.funnel.kept
        if example.rejected is not None
    ]


def _freeze(out: Path, manifest: Manifest, content: dict[str, bytes]) -> Manifest:
    """Write the folder under a temporary name and rename it; one that is there already only gains token counts."""
    private_dir(out)
    final = out / manifest.id
    if (final / MANIFEST).exists():
        return _refresh(final, manifest)
    _sweep(out)
    temporary = private_dir(out / f".{manifest.id}.{os.getpid()}.tmp")
    try:
        for file, raw in content.items():
            with replacing(temporary / file) as handle:
                handle.write(raw)
        write_json(temporary / MANIFEST, manifest.model_dump(mode="json"))
        if final.exists():
            # A folder without a manifest is no dataset: somebody removed parts of it.
            shutil.rmtree(final)
        temporary.rename(final)
    except OSError:
        # Another session may have frozen the same content a moment ago.
        if not (final / MANIFEST).exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_dir(out)
    return manifest


def _refresh(final: Path, manifest: Manifest) -> Manifest:
    if manifest.tokens is None:
        manifest = read_manifest(final)
    else:
        write_json(final / MANIFEST, manifest.model_dump(mode="json"))
    # `latest` is the one built last, also where it was there before.
    os.utime(final / MANIFEST)
    return manifest


def _sweep(out: Path) -> None:
    for path in out.glob(".*.tmp"):
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _entry(raw: bytes) -> FileEntry:
    return FileEntry(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw), lines=raw.count(b"\n"))


def _lines(values: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values)


def _canonical(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
