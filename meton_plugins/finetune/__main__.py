"""`meton-finetune`: the commands without Meton, in a REPL or one at a time."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..host.console import ConsoleHost
from ..host.errors import HostError
from . import __version__
from .commands.edge import guarded, say, show_json
from .commands.options import Parser
from .errors import ConfigError
from .paths import Home, default_home, package_data
from .plugin import register
from .settings import Settings, load
from .shell import WORDS, shell

__all__ = ["main"]

EPILOG: Final = (
    "Without a COMMAND: a prompt that takes them. `meton-finetune help` lists them. With a Meton checkout: "
    "`meton-finetune run|install|uninstall --meton PATH`, and `meton-finetune doctor --meton PATH`."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] and words[0] in WORDS:
        # Meton's files, and its environment's, keep the user's umask.
        return shell(ConsoleHost(default_home()), words)
    os.umask(0o077)  # everything of the plugin's is the user's alone
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a question mark; a script that is not text is refused by line.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    host = ConsoleHost(default_home())
    code = guarded(host, lambda: _main(host, words))
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:  # said already; what still waits there would be a traceback at Python's end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _main(host: ConsoleHost, arguments: list[str]) -> int:
    parser = Parser(
        prog="meton-finetune", usage="meton-finetune [OPTIONS] [COMMAND ...]", epilog=EPILOG,
        description="Turn daily chats with a local assistant into a better model.",
    )  # fmt: skip
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--json", action="store_true", help="print results as JSON, for machines")
    parser.add_argument("--config", type=Path, metavar="PATH", help="config.yaml whose model slots are swapped")
    parser.add_argument("--home", type=Path, metavar="PATH", help="data folder (default: METON_FINETUNE_HOME)")
    count = next((i for i, word in enumerate(arguments) if not word.startswith("-") and _is_word(arguments, i)), None)
    options = parser.parse_args(arguments[:count])
    words = [] if count is None else arguments[count:]
    if words and words[-1] == "--json":
        options.json, words = True, words[:-1]
    if options.version:
        show_json(host, {"version": __version__}) if options.json else say(host, f"meton-finetune {__version__}")
        return 0
    # Absolute, for a worker does not stand where its session stood.
    home = Home((options.home or default_home()).expanduser().resolve()).make()
    settings = _settings(host, home)
    real = ConsoleHost(
        home.root, conversations_dir=settings.harvest.conversations_dir, config=options.config or settings.serve.config,
        json=options.json,
    )  # fmt: skip
    register(real)
    if words and words[0] == "doctor":
        words = ["finetune", *words]
    if words and words[0] == "validate":
        return guarded(real, lambda: _validate(real, words[1:]))
    return guarded(real, lambda: real.once(words) if words else real.repl(home.root / "history"))


def _is_word(arguments: list[str], index: int) -> bool:
    return index == 0 or arguments[index - 1] not in ("--config", "--home")


def _settings(host: ConsoleHost, home: Home) -> Settings:
    try:
        return load(home.settings)
    except ConfigError:  # each command says it; the console must still start
        return Settings()


def _validate(host: ConsoleHost, words: Sequence[str]) -> int:
    from ..host import manifest

    Parser(prog="meton-finetune validate", description="Check plugin.toml against what is really there.").parse_args(
        words
    )
    path = package_data("plugin.toml")
    said = manifest.load(path)
    made = ConsoleHost(host.data_dir)
    manifest.resolve(said.plugin.entry_point)(made)
    found = manifest.differences(said, made.commands, made.tools, __version__)
    templates = sorted(path.stem for path in package_data("templates", "modelfiles").glob("*.Modelfile"))
    if not templates:
        found.append("no Modelfile template is shipped")
    recipes = _recipes(found)
    if host.json:
        show_json(host, {"manifest": str(path), "problems": found, "templates": templates, "recipes": recipes})
        return 1 if found else 0
    if found:
        raise HostError(f"plugin.toml is not what registration makes: {'; '.join(found)}.")
    say(host, f"✓ plugin.toml says what registration makes: {len(said.commands)} commands, {len(said.tools)} tools, "
        f"{len(said.settings)} settings, {len(templates)} templates, {len(recipes)} recipes.", "green")  # fmt: skip
    return 0


def _recipes(found: list[str]) -> list[str]:
    """The recipes that ship; what is wrong with one is added to `found`."""
    from .recipes import read_recipe

    paths = sorted(package_data("templates", "recipes").glob("*.toml"))
    if not paths:
        found.append("no recipe is shipped")
    for path in paths:
        try:
            read_recipe(path)
        except ConfigError as error:
            found.append(error.sentence.rstrip("."))
    return [path.stem for path in paths]


if __name__ == "__main__":
    sys.exit(main())
