"""Starts a Meton checkout with a plugin, in the interpreter that has Meton's packages."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from . import surface
from .errors import HostError
from .hook import watch

__all__ = ["checked", "python_of", "root", "run"]

#: What makes a folder a Meton checkout.
FILES: Final = ("meton.py", "cli.py", "config.yaml", "core/agent.py")
#: For another interpreter: the package by its folder alone, for its neighbours would shadow Meton's.
START: Final = (
    "import json, sys, types; package = types.ModuleType('meton_plugins'); "
    "package.__path__ = [{folder!r}]; sys.modules['meton_plugins'] = package; "
    "from meton_plugins.host.launch import start; start(*json.loads({given!r}))"
)


def root() -> Path:
    """The folder that holds `meton_plugins`."""
    return Path(__file__).resolve().parent.parent.parent


def checked(meton: Path) -> Path:
    """`meton` as an absolute path, provided that it is a Meton checkout; HostError otherwise."""
    checkout = meton.expanduser().resolve()
    lacks = [name for name in FILES if not (checkout / name).is_file()]
    if lacks:
        raise HostError(f"{checkout} is no Meton checkout: it has no {', '.join(lacks)}.")
    return checkout


def python_of(checkout: Path, named: Path | None) -> Path:
    """The interpreter of Meton's environment: the one named, else that of `./meton`, else this one."""
    python = named.expanduser() if named else checkout / "venv" / "bin" / "python"
    if python.is_file():
        return python.absolute()  # not resolved: the link in an environment is what makes it one
    if named:
        raise HostError(f"There is no {python}: name the Python that runs Meton with --python.")
    return Path(sys.executable)


def run(checkout: Path, python: Path, plugin: Mapping[str, Any], arguments: Sequence[str]) -> int:
    """Be Meton from here on: its exit code, or never back where another interpreter takes over."""
    given = (str(checkout), dict(plugin), list(arguments))
    if python.absolute() == Path(sys.executable).absolute():
        return start(*given)
    folder = str(root() / "meton_plugins")
    code = START.format(folder=folder, given=json.dumps(given))
    return os.execv(python, [str(python), "-c", code])


def start(checkout: str, plugin: dict[str, Any], arguments: list[str]) -> int:
    """Run the checkout's meton.py as `python meton.py` would, with `plugin` attached when it imports `cli`."""
    # Meton reads config.yaml in the working directory, and owns names such as tools, tests, config and export.
    os.chdir(checkout)
    sys.path[:] = [checkout, *(path for path in sys.path if path not in ("", checkout))]
    sys.argv[:] = [str(Path(checkout) / "meton.py"), *arguments]
    watch((plugin,), checkout)
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


def refusal(checkout: Path) -> str | None:
    """What a checkout's source lacks, as one sentence; None where all is there."""
    lacks = [need.label for need, there in surface.in_source(checkout).items() if not there]
    return f"This Meton lacks {', '.join(lacks)}: it can be used without the plugin only." if lacks else None
