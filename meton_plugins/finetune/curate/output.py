"""A frozen dataset written out as one file for another trainer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ..errors import DataError, NotFound, UsageError
from ..formats.chat import Chat, Said, plain
from ..formats.writing import write
from ..gguf.inspect import sha256_of
from ..library.records import Split
from ..paths import private_dir, replacing, write_json
from ..turn import Message
from .manifest import FILES, PAIRS, Row

__all__ = ["FORMATS", "Side", "Written", "check_output", "outputs", "remember", "write_output"]

Side = Literal["all", "train", "validation", "heldout"]

#: What a dataset can be written as: all but ratings, because what is in it is good.
FORMATS: Final = ("llama", "alpaca", "chat", "messages", "sharegpt", "completion", "preference")

#: Beside the datasets: the hash of each file that was written out, so that our own may be replaced.
OUTPUTS: Final = "outputs.json"


@dataclass
class Written:
    """A file that was written out. `left` counts what its format could not hold, by reason."""

    path: str
    format: str
    rows: int
    left: dict[str, int]


def check_output(datasets: Path, output: Path, force: bool = False) -> Path:
    """The whole path of `output`, where it may be written: it is new, as we wrote it before, or `force` is said."""
    path = output.expanduser().resolve()
    if not path.parent.is_dir():
        raise NotFound(f"There is no folder {path.parent} for --output: make it first.")
    if not path.exists():
        return path
    if not path.is_file():
        raise UsageError(f"{path} is no ordinary file: name another for --output.")
    if not force and _known(datasets).get(str(path)) != sha256_of(path):
        raise UsageError(f"{path} is there already, and was not written from a dataset: say --force to replace it.")
    return path


def write_output(
    dataset: Path,
    output: Path,
    format: str,
    side: Side = "all",
    *,
    render: Callable[[list[Message]], str] | None = None,
) -> Written:
    """Write one side, or all, of the frozen `dataset` (its folder) to `output`, which `check_output` gave, atomically.

    Rows come as they are trained on. With `render`, each is the text that it gives. A path that ends in .json gets one
    list, others one record a line. DataError, and the old file left, where the format can hold none of the rows.
    """
    sides: Sequence[Split] = tuple(FILES) if side == "all" else (side,)
    with replacing(output) as file:
        if render is not None:
            texts = (render(row.messages) for row in _rows(dataset, sides))
            written, left = _texts(file.write, texts), Counter[str]()
        else:
            chats = _pairs(dataset, sides) if format == "preference" else _chats(dataset, sides)
            written, left = write(file, chats, format, as_list=output.suffix == ".json")
        if not written:
            why = f" ({next(iter(left))})" if left else ""
            raise DataError(
                f"Dataset {dataset.name} is frozen, but nothing of it can be written as {format}{why}: "
                f"{output} was left as it is."
            )
    remember(dataset.parent, output)
    return Written(str(output), format, written, dict(left))


def remember(datasets: Path, output: Path) -> None:
    """Note that `output` was written for the user: it is not ours to change, and what it says is out of our reach."""
    write_json(private_dir(datasets) / OUTPUTS, {**_known(datasets), str(output.resolve()): sha256_of(output)})


def outputs(datasets: Path) -> list[Path]:
    """The files that were written for the user and are still there."""
    return [path for path in map(Path, sorted(_known(datasets))) if path.is_file()]


def _texts(put: Callable[[bytes], Any], texts: Iterable[str]) -> int:
    number = 0
    for text in texts:
        put((text if text.endswith("\n") else text + "\n").encode("utf-8"))
        number += 1
    return number


def _chats(dataset: Path, sides: Sequence[Split]) -> Iterator[Chat]:
    return (plain(row.messages) for row in _rows(dataset, sides))


def _rows(dataset: Path, sides: Sequence[Split]) -> Iterator[Row]:
    for side in sides:
        with (dataset / FILES[side]).open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                yield Row.model_validate_json(line)


def _pairs(dataset: Path, sides: Sequence[Split]) -> Iterator[Chat]:
    with (dataset / PAIRS).open(encoding="utf-8", newline="\n") as lines:
        for pair in map(json.loads, lines):
            if pair["split"] in sides:
                asked = tuple(Said(message["role"], message["content"]) for message in pair["prompt"])
                yield Chat((*asked, Said("assistant", pair["chosen"])), rejected=pair["rejected"])


def _known(datasets: Path) -> dict[str, str]:
    try:
        known = json.loads((datasets / OUTPUTS).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
