"""plugin.toml says what registration really makes, and every way in which it could not is noticed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meton_plugins.finetune import __version__
from meton_plugins.finetune.plugin import register
from meton_plugins.finetune.settings import Settings
from meton_plugins.host.api import Effect
from meton_plugins.host.console import ConsoleHost
from meton_plugins.host.errors import HostError
from meton_plugins.host.manifest import Manifest, differences, flat_settings, load, resolve

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "plugin.toml"
TEXT = PLUGIN.read_text(encoding="utf-8")


@pytest.fixture
def host() -> ConsoleHost:
    made = ConsoleHost(Path("unused"))
    register(made)
    return made


def found(manifest: Manifest, host: ConsoleHost, version: str = __version__) -> list[str]:
    return differences(manifest, host.commands, host.tools, version)


def edited(folder: Path, old: str, new: str) -> Manifest:
    """plugin.toml with its first `old` replaced."""
    assert old in TEXT, f"plugin.toml does not say {old!r}"
    path = folder / "plugin.toml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return load(path)


# As it is


def test_it_says_what_registration_makes(host: ConsoleHost) -> None:
    assert found(load(PLUGIN), host) == []


def test_its_entry_point_and_settings_are_there() -> None:
    plugin = load(PLUGIN).plugin
    assert resolve(plugin.entry_point) is register
    assert resolve(plugin.settings) is Settings


def test_it_agrees_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plugin = load(PLUGIN).plugin
    assert (plugin.version, plugin.requires_python) == (project["version"], project["requires-python"])
    assert plugin.version == __version__


def test_its_lists_are_as_make_manifest_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools import write_manifest

    copy = tmp_path / "plugin.toml"
    copy.write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(write_manifest, "PLUGIN", copy)
    write_manifest.main()
    assert copy.read_text(encoding="utf-8") == TEXT, "type make manifest"


def test_it_gives_a_reason_for_each_permission() -> None:
    permissions = load(PLUGIN).permissions
    assert len(permissions) == len({permission.what for permission in permissions}) >= 5
    assert all(len(permission.reason) > 20 for permission in permissions)


def test_every_command_says_one_thing_in_one_line() -> None:
    for command in load(PLUGIN).commands:
        assert re.fullmatch(r"[a-z][^\n]{10,70}[^.\s]", command.summary), command.summary


def test_every_tool_that_changes_something_asks(host: ConsoleHost) -> None:
    for tool in load(PLUGIN).tools:
        assert tool.asks is (tool.effect != "read"), tool.name
    assert {tool.effect for tool in host.tools.values()} == set(Effect)


# With each kind of disagreement

WRONG = {
    "version": ('version = "0.1.0"', 'version = "0.0.9"', "the manifest is of version 0.0.9, the package of"),
    "command gone": ('name = "/export"', 'name = "/exports"', "the command /export is registered and not in the"),
    "command extra": ('name = "/export"', 'name = "/exports"', "the command /exports is in the manifest and not reg"),
    "summary": ('summary = "train a LoRA', 'summary = "tame a LoRA', "the command /finetune is ('tame a LoRA"),
    "verb": ('"setup", "doctor"', '"setup", "nurse"', "the command /finetune is "),
    "verb gone": ('"setup", "doctor"', '"setup"', "the command /finetune is "),
    "alias": ('"/+" = "rate good"', '"/+" = "rate bad"', "the command /dataset is "),
    "tool gone": ('name = "models_list"', 'name = "models"', "the tool models_list is registered and not in the"),
    "tool extra": ('name = "models_list"', 'name = "models"', "the tool models is in the manifest and not registered"),
    "effect": ('name = "rate_answer"\neffect = "write"', 'name = "rate_answer"\neffect = "read"', "the tool rate_"),
    "asks": (
        'name = "rate_answer"\neffect = "write"\nasks = true', 'name = "rate_answer"\neffect = "write"\nasks = false',
        "the tool rate_answer is ",
    ),
    "setting gone": ('name = "train.seed"', 'name = "train.seeds"', "the setting train.seed is registered and not in"),
    "setting extra": ('name = "train.seed"', 'name = "train.seeds"', "the setting train.seeds is in the manifest"),
    "default": ("default = 1024", "default = 512", "the setting train.ctx_size is "),
    "type": ('name = "train.seed"\ntype = "integer"', 'name = "train.seed"\ntype = "number"', "the setting train.seed"),
    "description": ('description = "AdamW', 'description = "Adam', "the setting train.weight_decay is "),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), WRONG.values(), ids=WRONG)
def test_a_disagreement_is_found(tmp_path: Path, host: ConsoleHost, old: str, new: str, words: str) -> None:
    problems = found(edited(tmp_path, old, new), host)
    assert [problem for problem in problems if problem.startswith(words)], problems


def test_a_command_that_nobody_wrote_down_is_found(host: ConsoleHost) -> None:
    del host.commands["/export"]
    del host.tools["models_list"]
    assert found(load(PLUGIN), host) == [
        "the command /export is in the manifest and not registered",
        "the tool models_list is in the manifest and not registered",
    ]


# Files that cannot be read

BROKEN = {
    "toml": ("[plugin]", "[plugin", "cannot be read as TOML"),
    "schema": ("schema_version = 1", "schema_version = 2", "schema_version: "),
    "unknown": ("schema_version = 1", "schema_version = 1\nmood = 3", "mood: Extra inputs are not permitted"),
    "unknown inside": ('id = "finetune"', 'id = "finetune"\nmood = 3', "plugin.mood: Extra inputs"),
    "missing": ('id = "finetune"\n', "", "plugin.id: Field required"),
    "id": ('id = "finetune"', 'id = "../finetune"', "plugin.id: "),
    "entry point": (":register", " register", "plugin.entry_point: "),
    "effect": ('effect = "read"', 'effect = "reed"', "tools.0.effect: "),
    "type": ("asks = false", 'asks = "perhaps"', "tools.0.asks: "),
}


@pytest.mark.parametrize(("old", "new", "words"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_manifest(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(HostError) as caught:
        edited(tmp_path, old, new)
    sentence = caught.value.sentence
    assert sentence.startswith(str(tmp_path / "plugin.toml"))
    assert words in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "spoil", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff\xfe")],
    ids=["missing", "folder", "encoding"],
)  # fmt: skip
def test_a_file_that_cannot_be_read(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "plugin.toml"
    spoil(path)
    with pytest.raises(HostError, match=re.escape(f"{path} cannot be read as TOML")):
        load(path)


@pytest.mark.parametrize("name", ["meton_plugins.nowhere:register", "meton_plugins.finetune.plugin:nothing"])
def test_an_entry_point_that_is_not_there(name: str) -> None:
    with pytest.raises(HostError, match="cannot be imported"):
        resolve(name)


def test_flat_settings_say_names_types_and_defaults() -> None:
    flat = {part.name: part for part in flat_settings(Settings)}
    assert flat["train.ctx_size"].model_dump() == {
        "name": "train.ctx_size", "type": "integer", "default": 1024,
        "description": "longest row in tokens; longer examples are left out",
    }  # fmt: skip
    assert (flat["base"].type, flat["base"].default) == ("string", None)
    assert (flat["train.lora_targets"].type, flat["build.form"].type) == ("array", "string")
    assert flat["train.lora_targets"].default[0] == "attn_q"
