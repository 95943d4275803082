"""Strategy recipes: settings for a dataset and a training, with the reason of each; those that ship, and the user's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from .errors import ConfigError, NotFound, UsageError
from .paths import Home, check_name, package_data, private_dir, replacing
from .settings import BuildSettings, TrainSettings, validated

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Chosen",
    "Recipe",
    "RecipeFile",
    "copy_recipe",
    "find_recipe",
    "laid_over",
    "list_recipes",
    "load_recipe",
    "read_recipe",
]

M = TypeVar("M", bound=BaseModel)

_SUFFIX: Final = ".toml"


class Recipe(BaseModel):
    """A recipe's file. `build` and `train` hold only what the recipe sets; `why` has the reason by a setting's name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(min_length=1, max_length=80)
    #: One line, for the list.
    summary: str = Field(min_length=1, max_length=160)
    when: str = ""
    #: What to train on.
    data: tuple[str, ...] = ()
    build: BuildSettings = BuildSettings()
    train: TrainSettings = TrainSettings()
    why: dict[str, str] = Field(default_factory=dict)

    def model_post_init(self, _context: object) -> None:
        unknown = set(self.why) - {*BuildSettings.model_fields, *TrainSettings.model_fields}
        if unknown:
            raise ValueError(f"why gives a reason for {min(unknown)!r}, and no setting has that name")

    def chosen(self) -> list[Chosen]:
        """Each setting that the recipe makes, in the order of its file."""
        return [
            Chosen(table, name, getattr(settings, name), self.why.get(name, ""))
            for table, settings in (("build", self.build), ("train", self.train))
            for name in settings.model_dump(exclude_unset=True)
        ]


class Chosen(NamedTuple):
    """One setting of a recipe, and why it is so."""

    table: str
    name: str
    value: Any
    why: str


class RecipeFile(NamedTuple):
    """Where a recipe is; `own` where it is the user's."""

    name: str
    path: Path
    own: bool


def list_recipes(home: Home) -> list[RecipeFile]:
    """The user's own recipes, then the shipped ones; an own one hides a shipped one of its name."""
    found: dict[str, RecipeFile] = {}
    for folder, own in ((_own(home), True), (package_data("templates", "recipes"), False)):
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            found.setdefault(path.stem, RecipeFile(path.stem, path, own))
    return list(found.values())


def find_recipe(home: Home, name_or_path: str) -> RecipeFile:
    """The recipe of that name, or in that file (a path has a `/` in it, or ends in `.toml`)."""
    if "/" in name_or_path or name_or_path.endswith(_SUFFIX):
        path = Path(name_or_path).expanduser().resolve()
        return RecipeFile(path.stem, path, True)
    files = {recipe.name: recipe for recipe in list_recipes(home)}
    if name_or_path not in files:
        raise NotFound(f"There is no recipe {name_or_path[:80]!r}: there are {', '.join(files)}.")
    return files[name_or_path]


def load_recipe(home: Home, name_or_path: str) -> Recipe:
    """The recipe of that name, or in that file; ConfigError names the file and what is wrong in it."""
    return read_recipe(find_recipe(home, name_or_path).path)


def read_recipe(path: Path) -> Recipe:
    """The recipe in the file `path`; ConfigError as above."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise NotFound(f"There is no recipe file {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The recipe {path} cannot be read as UTF-8 text ({error}).") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The recipe {path} is not TOML: {error}.") from error
    return validated(Recipe, values, f"The recipe {path}")


def copy_recipe(home: Home, name_or_path: str, new: str | None = None) -> Path:
    """Copy a recipe into the user's own, for editing, as `new` or under its name; UsageError where one is there."""
    source = find_recipe(home, name_or_path)
    load_recipe(home, name_or_path)
    target = _own(home) / f"{check_name(new or source.name, 'recipe')}{_SUFFIX}"
    if target.exists():
        raise UsageError(f"There is a recipe {target} already: give the copy another name.")
    raw = source.path.read_bytes()
    private_dir(target.parent)
    with replacing(target) as file:
        file.write(raw)
    return target


def laid_over(settings: M, recipe: M) -> M:
    """`settings` with what `recipe` sets in their place."""
    changes = recipe.model_dump(exclude_unset=True)
    return validated(type(settings), {**settings.model_dump(), **changes}, "recipe") if changes else settings


def _own(home: Home) -> Path:
    return home.root / "recipes"
