"""`make ollama`: does nothing twice, and says in one sentence what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import install_ollama


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(install_ollama, "EXECUTABLE", tmp_path / "bin" / "ollama")
    monkeypatch.setattr(install_ollama, "SHIM", tmp_path / "lib" / "ollama" / "llama-server")
    return tmp_path


@pytest.mark.parametrize(("require", "code"), [(False, 0), (True, 1)])
def test_without_go(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], require: bool, code: int
) -> None:
    monkeypatch.setattr(install_ollama, "go", lambda: None)
    assert install_ollama.install(require=require) == code
    assert capsys.readouterr().out.startswith("No Ollama installed: that needs Go 1.26 or newer")
    assert not (cache / "lib").exists()


def test_a_second_call_only_looks_at_the_shim(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "bin").mkdir()
    (cache / "bin" / "ollama").write_text("")
    monkeypatch.setattr(install_ollama, "go", lambda: pytest.fail("looked for Go"))
    assert install_ollama.install() == 0
    shim = cache / "lib" / "ollama" / "llama-server"
    first = shim.stat()
    assert first.st_mode & 0o777 == 0o755
    assert shim.read_text().startswith(f"#!{sys.executable} -I\n")
    assert install_ollama.install() == 0
    assert shim.stat().st_ino == first.st_ino


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "1", "--verbose"], "system_info:"),
        (["--list-devices"], "Available devices"),
        (["--version"], "version: 0"),
        (["--model", "/nowhere.gguf"], "error: error loading model"),
        (["--new-flag", "--list-devices"], "flags ignored: --new-flag"),
    ],
)
def test_the_shim_answers_probes(flags: list[str], words: str) -> None:
    shim = Path(install_ollama.__file__).with_name("llama_server.py")
    ended = subprocess.run([sys.executable, shim, *flags], capture_output=True, text=True, timeout=60, check=False)
    assert words in ended.stdout + ended.stderr
    assert ended.returncode == (1 if "--model" in flags else 0)


def test_an_old_go_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin:/bin")
    found = install_ollama.go()
    assert found != str(old)
