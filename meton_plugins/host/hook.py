"""Loads plugins when a Meton checkout's `cli` is imported.

`install` copies this file into Meton's environment, where a .pth file imports it at every start of Python: standard
library only, and nothing is imported before it is needed. It does nothing outside of a checkout with a marker file.
"""

from __future__ import annotations

import os
import sys
from typing import Any

#: The name that this file has in Meton's environment.
INSTALLED = "_meton_plugins_hook"
#: `<checkout>/feedback_data/<plugin>/attach.json` says what to load; Meton ignores that folder in git.
FOLDER, MARKER = "feedback_data", "attach.json"


class Watch:
    """A finder of `cli` alone. `given` are plugins to load whether or not there is a marker."""

    def __init__(self, given: tuple[dict[str, Any], ...] = (), checkout: str = "") -> None:
        self.given = given
        self.checkout = checkout

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of Meton's `cli` with a loader that attaches the plugins; None for everything else."""
        if name != "cli" or path is not None:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name)
        if spec is None or spec.loader is None or not spec.origin:
            return None
        checkout = os.path.dirname(os.path.realpath(spec.origin))  # noqa: PTH120
        if self.checkout and checkout != self.checkout:
            return None
        plugins = {plugin["id"]: plugin for plugin in (*marked(checkout), *self.given)}
        if not plugins:
            return None
        load = spec.loader.exec_module

        def load_and_attach(module: Any) -> None:
            load(module)
            for plugin in plugins.values():
                attach(module, checkout, plugin)

        spec.loader.exec_module = load_and_attach  # type: ignore[method-assign]
        return spec


def marked(checkout: str) -> list[dict[str, Any]]:
    """What the markers of a checkout say; one that cannot be read is named and left out."""
    folder, found = os.path.join(checkout, FOLDER), []  # noqa: PTH118
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():  # noqa: PTH112, PTH208
        marker = os.path.join(folder, name, MARKER)  # noqa: PTH118
        if not os.path.isfile(marker):  # noqa: PTH113
            continue
        import json

        try:
            with open(marker, encoding="utf-8") as file:  # noqa: PTH123
                said = json.load(file)
            found.append({"id": str(said["id"]), "root": str(said["root"]), **said})
        except (OSError, ValueError, TypeError, KeyError) as error:
            _complain(marker, error)
    return found


def attach(module: Any, checkout: str, plugin: dict[str, Any]) -> None:
    """Attach one plugin to an imported `cli`. Whatever goes wrong is one line: Meton starts without it."""
    try:
        _make_importable(plugin["root"])
        from meton_plugins.host.attach import attach as attached

        attached(module, checkout, plugin)
    except Exception as error:
        _complain(plugin.get("id", "plugin"), error)


def _make_importable(root: str) -> None:
    """`meton_plugins` from `root`, whose other folders (tests, tools, templates) would shadow Meton's."""
    folder = os.path.join(root, "meton_plugins")  # noqa: PTH118
    if not os.path.isdir(folder):  # noqa: PTH112
        raise RuntimeError(f"{folder} is no longer there: run `meton-finetune install` again")
    package = sys.modules.get("meton_plugins")
    if package is None:
        import types

        package = types.ModuleType("meton_plugins")
        package.__path__ = []
        sys.modules["meton_plugins"] = package
    if folder not in package.__path__:
        package.__path__ = [folder, *package.__path__]


def _complain(what: str, error: Exception) -> None:
    text = f"! {what} was not loaded ({error}). Meton starts without it."
    sys.stderr.write(" ".join(text.split()) + "\n")


def watch(given: tuple[dict[str, Any], ...] = (), checkout: str = "") -> None:
    """Look out for `cli`, once."""
    sys.meta_path[:] = [Watch(given, checkout), *(one for one in sys.meta_path if type(one).__name__ != "Watch")]


if __name__ == INSTALLED:
    watch()
