"""`/finetune recipes`: the strategies that ship, and the user's own."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import FinetuneError, UsageError
from .edge import note, say, show_json
from .options import Parser

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home
    from ..recipes import RecipeFile

__all__ = ["recipes", "recipes_flags"]


def recipes_flags(parser: Parser) -> None:
    """Of `recipes`."""
    parser.add_argument("what", nargs="?", choices=("list", "show", "copy"), default="list", help="default: list")
    parser.add_argument("name", nargs="?", help="the recipe, or its file")
    parser.add_argument("new", nargs="?", help="copy: the name of your own")


def recipes(host: Host, home: Home, options: argparse.Namespace) -> int:
    """List the recipes, show one with its reasons, or copy one for editing."""
    given = [word for word in (options.name, options.new) if word is not None]
    most = {"list": 0, "show": 1, "copy": 2}[options.what]
    if len(given) > most:
        raise UsageError(f"/finetune recipes {options.what} does not take {given[-1]}; see /finetune recipes --help.")
    if most and not given:
        raise UsageError(f"Name the recipe to {options.what}: /finetune recipes lists them.")
    if options.what == "list":
        return _list(host, home)
    if options.what == "show":
        return _show(host, home, options.name)
    return _copy(host, home, options.name, options.new)


def _list(host: Host, home: Home) -> int:
    from ..recipes import list_recipes

    rows = [_row(home, file) for file in list_recipes(home)]
    if host.json:
        show_json(host, rows)
        return 0
    from .lettering import cell
    from .tables import grid

    lines = grid()
    lines.columns[0].no_wrap = True
    for row in rows:
        about = f"{row['title']}: {row['summary']}" if row["title"] else row["summary"]
        lines.add_row(cell(host, row["recipe"]), cell(host, f"{about} (yours)" if row["own"] else about))
    host.console.print(lines)
    note(host, "/finetune recipes show NAME tells more; /finetune recipes copy NAME NEW makes one of your own.")
    return 0


def _row(home: Home, file: RecipeFile) -> dict[str, Any]:
    """A broken file of the user's must not hide the others."""
    from ..recipes import load_recipe

    found: dict[str, Any] = {"recipe": file.name, "own": file.own, "path": str(file.path)}
    try:
        recipe = load_recipe(home, str(file.path))
    except FinetuneError as error:
        return {**found, "title": "", "summary": f"broken: {error.sentence}"}
    return {**found, "title": recipe.title, "summary": recipe.summary}


def _show(host: Host, home: Home, name: str) -> int:
    from ..recipes import find_recipe, load_recipe

    recipe, path = load_recipe(home, name), find_recipe(home, name).path
    if host.json:
        show_json(host, {
            "recipe": path.stem, "path": str(path), "title": recipe.title, "summary": recipe.summary,
            "when": recipe.when, "data": recipe.data,
            "settings": [one._asdict() for one in recipe.chosen()],
        })  # fmt: skip
        return 0
    from .lettering import cell
    from .tables import grid

    say(host, f"{recipe.title}: {recipe.summary}", "bold")
    if recipe.when:
        say(host, recipe.when)
    if recipe.data:
        say(host, "\nTrain on:")
        for line in recipe.data:
            say(host, f"  · {line}")
    for table, use in (("build", "/dataset build"), ("train", "/finetune start")):
        chosen = [one for one in recipe.chosen() if one.table == table]
        if not chosen:
            continue
        say(host, f"\n{use} --recipe {name}")
        rows = grid()
        rows.add_column(style="dim", ratio=1)
        for one in chosen:
            flag = f"  --{one.name.replace('_', '-')}"
            rows.add_row(cell(host, flag), cell(host, _text(one.value)), cell(host, one.why))
        host.console.print(rows)
    note(host, f"\n{path}")
    return 0


def _copy(host: Host, home: Home, name: str, new: str | None) -> int:
    from ..recipes import copy_recipe

    path = copy_recipe(home, name, new)
    if host.json:
        show_json(host, {"recipe": path.stem, "path": str(path)})
        return 0
    say(host, f"Yours to edit: {path}")
    note(host, f"Then: /dataset build --recipe {path.stem}, /finetune start --recipe {path.stem}")
    return 0


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
