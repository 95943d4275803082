"""What only a shell can ask: `meton-finetune run`, `install` and `uninstall`, and the doctor's look at a checkout."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..host.errors import HostError
from .commands.edge import guarded, note, say, show_json
from .commands.options import Parser
from .errors import NotFound
from .paths import HOME_ENV, default_home, machine_dir, package_data

if TYPE_CHECKING:
    import argparse

    from ..host.console import ConsoleHost

__all__ = ["WORDS", "shell"]

WORDS: Final = {
    "run": "start Meton with the plugin, without installing anything",
    "install": "make ./meton and `python meton.py` of a checkout load the plugin",
    "uninstall": "take that back, and list what remains where",
}


def shell(host: ConsoleHost, words: Sequence[str]) -> int:
    """Run one of WORDS; the exit code. `run` ends as Meton ends."""
    if words[0] == "run":
        start: list[Callable[[], int]] = []
        code = guarded(host, lambda: _prepare(words[1:], start))
        # Not inside of `guarded`: how Meton ends is Meton's matter.
        return start[0]() if start else code
    return guarded(host, lambda: (_install if words[0] == "install" else _uninstall)(host, words[1:]))


def _parser(word: str) -> Parser:
    parser = Parser(prog=f"meton-finetune {word}", description=f"{WORDS[word][:1].upper()}{WORDS[word][1:]}.")
    parser.add_argument("--meton", type=Path, required=True, metavar="PATH", help="the Meton checkout")
    parser.add_argument(
        "--python", type=Path, metavar="PATH", help="Python of Meton's environment (default: that of ./meton)"
    )
    return parser


def _prepare(words: Sequence[str], start: list[Callable[[], int]]) -> None:
    from ..host import environment, launch

    parser = _parser("run")
    parser.add_argument("--private", action="store_true", help="keep this session out of the library")
    parser.usage = "meton-finetune run --meton PATH [--python PATH] [--private] [ARGUMENTS OF METON ...]"
    options, rest = parser.parse_known_args(list(words))
    checkout = launch.checked(options.meton)
    python = launch.python_of(checkout, options.python)
    if python != Path(sys.executable):
        has = environment.look(python).packages
        wanted = [environment.normal(_name(text)) for text in requirements() if ";" not in text]
        lacks = ", ".join(name for name in wanted if name not in has)
        if lacks:
            raise HostError(f"{python} lacks {lacks}: run `meton-finetune install --meton {checkout}` first.")
    plugin = {**_plugin(), "private": options.private, "root": str(launch.root())}
    start.append(lambda: launch.run(checkout, python, plugin, [word for word in rest if word != "--"]))


def _install(host: ConsoleHost, words: Sequence[str]) -> int:
    from ..host import install, launch

    options = _parser("install").parse_args(list(words))
    checkout = launch.checked(options.meton)
    python = _environment(checkout, options)
    done = install.install(checkout, python, _plugin(), requirements())
    if host.json:
        show_json(host, {"meton": str(checkout), "python": str(python), "touched": done})
        return 0
    say(host, f"✓ {checkout} loads the plugin at its next start.", "green")
    for line in done:
        note(host, f"  {line}")
    note(
        host,
        f"Everything of the plugin's lies in {_data(checkout)}: `git clean -fdx` would delete it, so copy it first.",
    )
    return 0


def _uninstall(host: ConsoleHost, words: Sequence[str]) -> int:
    from ..host import install, launch

    parser = _parser("uninstall")
    parser.add_argument("--purge", action="store_true", help="also delete library, datasets, runs and models")
    options = parser.parse_args(list(words))
    checkout = launch.checked(options.meton)
    own = checkout / "venv" / "bin" / "python"
    # No refusal where it is gone: the checkout is to be cleaned, and `install` noted what it used.
    python = options.python.expanduser().absolute() if options.python else own if own.is_file() else None
    done = install.uninstall(checkout, python, _plugin(), _data(checkout), purge=options.purge)
    left = list(done.left)
    if machine_dir().exists():
        left.append(f"{machine_dir()} (the engine, shared by all checkouts: delete it when no other uses it)")
    left.append("models registered with Ollama: `ollama list` shows them, `ollama rm NAME` deletes one")
    if host.json:
        show_json(host, {"meton": str(checkout), "gone": done.gone, "left": left})
        return 0
    say(host, f"✓ {checkout} no longer loads the plugin." if done.gone else f"{checkout} did not load the plugin.")
    for title, lines in (("gone", done.gone), ("left", left)):
        for line in lines:
            note(host, f"  {title}: {line}")
    return 0


def _environment(checkout: Path, options: argparse.Namespace) -> Path:
    """As `launch.python_of`, but never a guess: packages are put there."""
    from ..host import launch

    if options.python is None and not (checkout / "venv" / "bin" / "python").is_file():
        raise HostError(f"{checkout} has no venv/: name the Python that runs Meton with --python.")
    return launch.python_of(checkout, options.python)


def _data(checkout: Path) -> Path:
    return default_home() if os.environ.get(HOME_ENV) else checkout / str(_plugin()["data_folder"])


def _plugin() -> Mapping[str, Any]:
    from ..host import manifest

    said = manifest.load(package_data("plugin.toml")).plugin
    return {"id": said.id, "entry_point": said.entry_point, "data_folder": said.data_folder}


def requirements() -> list[str]:
    """What this package needs, as pip reads it."""
    try:
        lines = importlib.metadata.requires("meton-finetune") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        text = package_data("pyproject.toml").read_text(encoding="utf-8")
        lines = re.findall(r'^  "(.+)",$', text.partition("\ndependencies = [")[2].partition("\n]")[0], re.MULTILINE)
    found = [line for line in lines if "extra ==" not in line]
    if not found:
        raise NotFound("The package does not say what it needs: install meton-finetune again.")
    return found


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
