"""The README names every command, verb and place, so that nothing exists which nobody can find."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.host import RecordingHost

from meton_plugins.finetune.plugin import register

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every command with every verb."""
    host = RecordingHost(Path("unused"))
    register(host)
    return [f"{command.name} {verb}" for command in host.commands.values() for verb in command.verbs]


@pytest.mark.parametrize("words", commands())
def test_the_readme_names_every_verb(words: str) -> None:
    command, verb = words.split()
    rows = [line for line in README.splitlines() if line.startswith(f"| `{command} {verb}")]
    assert len(rows) == 1, f"README.md's table of commands should have one row for {words}"


@pytest.mark.parametrize("short", ["/+", "/-", "/fix"])
def test_the_readme_names_the_short_forms(short: str) -> None:
    assert f"`{short}`" in README


def test_the_options_are_as_make_manifest_writes_them() -> None:
    from tools import write_options

    assert write_options.OPTIONS.read_text(encoding="utf-8") == write_options.document(), "type make manifest"


def test_the_options_name_flags_that_are_there() -> None:
    from tools import write_options

    host = RecordingHost(Path("unused"))
    register(host)
    flags = [(option.command, option.flag) for option in write_options.options() if option.flag]
    assert len(flags) > 20
    for command in {command for command, _ in flags}:
        word, verb = command.split()
        host.clear()
        assert host.commands[word].run(f"{verb} --help") == 0
        named = set(re.findall(r"--[a-z-]+", host.output))
        assert {flag for each, flag in flags if each == command} <= named, command


@pytest.mark.parametrize("word", ["make demo", "make test", "METON_FINETUNE_HOME", "settings.toml", "Windows"])
def test_the_readme_says(word: str) -> None:
    assert word in README
