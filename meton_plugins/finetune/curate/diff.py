"""What differs between two frozen datasets: recipe, rows of each side, tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel

from ..library.records import Split
from ..turn import Message
from .frozen import Dataset
from .manifest import FILES, Manifest, Row
from .rows import example_of, question_of

__all__ = ["Change", "DatasetDiff", "Item", "Side", "compare"]

#: What a manifest says of the result; all else in it is recipe.
RESULT: Final = frozenset(
    (
        "id",
        "version",
        "funnel",
        "examples",
        "counts",
        "plain",
        "sessions",
        "secrets",
        "files",
        "tokens",
        "settings",
        "recipe",
        "redacted",
    )
)


class Change(BaseModel):
    """A setting of the recipe, before and after; None where one of the two does not have it."""

    name: str
    before: Any
    after: Any


class Item(BaseModel):
    """An example that differs. `elsewhere`: the side that it is on in the other dataset, where that is another one."""

    id: str
    question: str
    elsewhere: Split | None = None


class Side(BaseModel):
    """What differs on one side of the split: examples only in the second, only in the first, said otherwise."""

    added: list[Item]
    removed: list[Item]
    changed: list[Item]
    same: int
    rows: tuple[int, int]


class Total(BaseModel):
    """Tokens of a dataset, as its base reads them."""

    base: str | None
    total: int


class DatasetDiff(BaseModel):
    """From dataset `a` to dataset `b`. Tokens are None where they were not counted."""

    a: str
    b: str
    recipe: list[Change]
    sides: dict[Split, Side]
    tokens: tuple[Total | None, Total | None]

    @property
    def same(self) -> bool:
        """Whether both hold the same rows on the same sides."""
        return not any(side.added or side.removed or side.changed for side in self.sides.values())


def compare(a: Dataset, b: Dataset) -> DatasetDiff:
    """What leads from `a` to `b`."""
    before, after = _sides(a), _sides(b)
    return DatasetDiff(
        a=a.id,
        b=b.id,
        recipe=_recipe(a.manifest, b.manifest),
        sides={split: _side(split, before, after) for split in FILES},
        tokens=(_tokens(a.manifest), _tokens(b.manifest)),
    )


#: The rows of each example, by its id, on each side.
_Sides = dict[Split, dict[str, list[Row]]]


def _sides(dataset: Dataset) -> _Sides:
    found: _Sides = {}
    for split in FILES:
        rows: list[Row] = getattr(dataset, split)
        side = found.setdefault(split, {})
        for row in rows:
            side.setdefault(example_of(row.id), []).append(row)
    return found


def _side(split: Split, before: _Sides, after: _Sides) -> Side:
    old, new = before[split], after[split]
    both = [name for name in new if name in old]
    changed = [name for name in both if [row.messages for row in old[name]] != [row.messages for row in new[name]]]
    return Side(
        added=[_item(name, new[name], before) for name in new if name not in old],
        removed=[_item(name, old[name], after) for name in old if name not in new],
        changed=[_item(name, new[name]) for name in changed],
        same=len(both) - len(changed),
        rows=(_number(old.values()), _number(new.values())),
    )


def _item(name: str, rows: list[Row], other: Mapping[Split, Mapping[str, object]] | None = None) -> Item:
    elsewhere = next((split for split, side in (other or {}).items() if name in side), None)
    return Item(id=name, question=_question(rows[-1].messages), elsewhere=elsewhere)


def _number(rows: Iterable[list[Row]]) -> int:
    return sum(map(len, rows))


def _question(messages: list[Message]) -> str:
    text = next((message.content for message in reversed(messages) if message.role == "user"), "")
    return " ".join(question_of(text).split())


def _recipe(a: Manifest, b: Manifest) -> list[Change]:
    old, new = _settings(a), _settings(b)
    names = list(dict.fromkeys([*old, *new]))
    return [
        Change(name=name, before=old.get(name), after=new.get(name)) for name in names if old.get(name) != new.get(name)
    ]


def _settings(manifest: Manifest) -> dict[str, Any]:
    whole = manifest.model_dump(mode="json")
    recipe = {**whole["settings"], **{name: value for name, value in whole.items() if name not in RESULT}}
    if sources := recipe.get("sources"):
        # What each source brought is a result; that it was asked, and with which weight, is recipe.
        recipe["sources"] = [f"{source['label']} × {source['weight']:g}" for source in sources]
    return recipe


def _tokens(manifest: Manifest) -> Total | None:
    if manifest.tokens is None:
        return None
    return Total(base=manifest.tokens.base.get("name"), total=manifest.tokens.total)
