"""config.yaml: one slot changes, everything else stays byte for byte, and bad files get one sentence."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from meton_plugins.host.api import SlotStore
from meton_plugins.host.config_file import ConfigFile
from meton_plugins.host.errors import HostError

METON = """\
# Meton's own file, with what users write into it
project:
  name: Meton   # kept
models:
  primary: qwen2.5:32b-instruct-q5_K_M   # the big one
  fallback:   "llama3.1:8b"
  quick: 'mistral:latest'

  settings: {temperature: 0.0, num_ctx: 4096}
unknown_key:
  - [1, 2,   3]
primary: decoy:1b
nested: {models: {primary: decoy:2b}}
"""

NEW = "meton-house:v1-2026-11-22-0123abcd"


def made(tmp_path: Path, text: str | bytes) -> ConfigFile:
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ConfigFile(path)


def test_is_a_slot_store(tmp_path: Path) -> None:
    store = made(tmp_path, METON)
    assert isinstance(store, SlotStore)
    assert store.read() == {
        "primary": "qwen2.5:32b-instruct-q5_K_M",
        "fallback": "llama3.1:8b",
        "quick": "mistral:latest",
    }


@pytest.mark.parametrize(
    ("slot", "old", "line"),
    [
        pytest.param("primary", "qwen2.5:32b-instruct-q5_K_M", f"  primary: {NEW}   # the big one", id="plain"),
        pytest.param("fallback", "llama3.1:8b", f'  fallback:   "{NEW}"', id="double-quoted"),
        pytest.param("quick", "mistral:latest", f"  quick: '{NEW}'", id="single-quoted"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("bom", ["", "\ufeff"], ids=["", "bom"])
def test_only_that_value_changes(tmp_path: Path, slot: str, old: str, line: str, newline: str, bom: str) -> None:
    text = bom + METON.replace("\n", newline)
    store = made(tmp_path, text)
    store.write(slot, NEW, expected=old)
    now = store.path.read_bytes().decode()
    before, after = text.split(newline), now.split(newline)
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [(METON_LINES[slot], line)]
    store.write(slot, old, expected=NEW)
    assert store.path.read_bytes().decode() == text


METON_LINES = {
    "primary": "  primary: qwen2.5:32b-instruct-q5_K_M   # the big one",
    "fallback": '  fallback:   "llama3.1:8b"',
    "quick": "  quick: 'mistral:latest'",
}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("models: {primary: a:b, fallback: c:d} # x\n", id="flow"),
        pytest.param("models: {primary: a:b}", id="flow-without-newline"),
        pytest.param("{models: {primary: a:b}, other: [a:b]}\n", id="all-flow"),
        pytest.param('{"models": {"primary": "a:b", "n": 1}}\n', id="json"),
        pytest.param("other: &x a:b\nmodels:\n  primary: *x # y\n", id="alias"),
        pytest.param("models:\n  primary: &x a:b\n  fallback: *x\n", id="anchor"),
        pytest.param("models:\n  primary: >-\n    a:b\n  n: 1\n", id="folded"),
        pytest.param("models:\n  primary:\n    a:b\n  n: 1\n", id="next-line"),
        pytest.param("models:\n  primary: !!str a:b\n", id="tag"),
        pytest.param("models:\n  ? primary\n  : a:b\n", id="complex-key"),
        pytest.param("---\nmodels:\n  primary: a:b\n...\n", id="document-marks"),
        pytest.param("models:\n  primary: a:b\nemoji: '🎉 \u2028 ü'\n", id="unicode"),
    ],
)
def test_odd_yaml(tmp_path: Path, text: str) -> None:
    store = made(tmp_path, text)
    before = yaml.safe_load(text)
    store.write("primary", NEW, expected="a:b")
    before["models"]["primary"] = NEW
    assert yaml.safe_load(store.path.read_text(encoding="utf-8")) == before


@pytest.mark.parametrize("model", ["12:30", "0x1:2", "1e3:latest"])
def test_a_name_that_yaml_1_1_would_read_as_a_number_is_quoted(tmp_path: Path, model: str) -> None:
    store = made(tmp_path, METON)
    store.write("primary", model, expected="qwen2.5:32b-instruct-q5_K_M")
    assert yaml.safe_load(store.path.read_text())["models"]["primary"] == model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param("# only a comment\n", "is empty", id="comment"),
        pytest.param("models: [", "is not YAML", id="not-yaml"),
        pytest.param("\tmodels: 1", "is not YAML", id="tab"),
        pytest.param("models: 1\nmodels: 2\n", "is not YAML", id="twice"),
        pytest.param("just words", "holds no settings", id="scalar"),
        pytest.param("- a\n", "holds no settings", id="list"),
        pytest.param("a: 1\n", "has no `models:`", id="no-models"),
        pytest.param("models:\n", "has no `models:`", id="models-empty"),
        pytest.param("models: [a]\n", "has no `models:`", id="models-list"),
        pytest.param("models:\n  quick: a:b\n", "has no models.primary", id="no-slot"),
        pytest.param("models:\n  primary: other:1b\n", "holds 'other:1b' in models.primary and not 'a:b'", id="other"),
        pytest.param("models:\n  primary: 5\n", "holds '5'", id="number"),
        pytest.param(b"\xff\xfem\x00", "not UTF-8", id="utf-16"),
    ],
)
def test_bad_files_get_one_sentence_and_stay(tmp_path: Path, text: str | bytes, words: str) -> None:
    store = made(tmp_path, text)
    before = store.path.read_bytes()
    with pytest.raises(HostError) as caught:
        store.write("primary", NEW, expected="a:b")
    assert words in caught.value.sentence
    assert "\n" not in caught.value.sentence
    assert store.path.read_bytes() == before
    assert not list(tmp_path.glob(".config*"))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="There is no"):
        ConfigFile(tmp_path / "config.yaml").read()


def test_read_only(tmp_path: Path) -> None:
    store = made(tmp_path, "models:\n  primary: a:b\n")
    store.path.chmod(0o444)
    with pytest.raises(HostError, match="read-only"):
        store.write("primary", NEW, expected="a:b")
    assert store.read() == {"primary": "a:b"}


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(tmp_path, METON)

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HostError, match="No space left"):
        store.write("primary", NEW, expected="qwen2.5:32b-instruct-q5_K_M")
    assert store.path.read_text() == METON
    assert not list(tmp_path.glob(".config*"))


def test_mode_and_link_stay_and_a_stale_temporary_goes(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    store = made(tmp_path / "real", METON)
    store.path.chmod(0o640)
    (tmp_path / "real" / ".config.yaml.1.meton-tmp").write_text("half")
    link = tmp_path / "config.yaml"
    link.symlink_to(store.path)
    ConfigFile(link).write("primary", NEW, expected="qwen2.5:32b-instruct-q5_K_M")
    assert link.is_symlink()
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o640
    assert list((tmp_path / "real").iterdir()) == [store.path]


def test_the_same_value_writes_nothing(tmp_path: Path) -> None:
    store = made(tmp_path, METON)
    store.path.chmod(0o444)
    store.write("quick", "mistral:latest", expected="mistral:latest")


def test_of_many_writers_one_wins(tmp_path: Path) -> None:
    store = made(tmp_path, "models:\n  primary: a:b\n")
    failed = []

    def swap(number: int) -> None:
        try:
            ConfigFile(store.path).write("primary", f"m:{number}", expected="a:b")
        except HostError:
            failed.append(number)

    threads = [threading.Thread(target=swap, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 7
    assert store.read()["primary"] not in {f"m:{n}" for n in failed}


def test_host_needs_nothing_of_finetune() -> None:
    code = (
        "import sys, meton_plugins.host.config_file; "
        "print([m for m in sys.modules if 'finetune' in m or 'ruamel' in m])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", ["qwen2.5-instruct-q5_K_M", "plain", "true", "No", "null", "y"])
def test_a_name_without_a_tag_comes_back_byte_for_byte(tmp_path: Path, name: str) -> None:
    words = name if name in ("qwen2.5-instruct-q5_K_M", "plain") else f'"{name}"'
    text = f"models:\n  primary: a:1\n  fallback: {words}  # mine\n"
    store = made(tmp_path, text)
    store.write("fallback", NEW, expected=name)
    store.write("fallback", name, expected=NEW)
    assert store.path.read_text() == text
    assert store.read()["fallback"] == name
