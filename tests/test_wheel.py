"""The wheel, installed into a bare environment, finds its templates and its plugin.toml from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"meton_plugins", "meton_finetune-0.1.0.dist-info"}
    assert "meton_plugins/__init__.py" not in names  # a namespace: other plugins live beside
    assert "meton_plugins/finetune/_data/plugin.toml" in names
    assert "meton_plugins/finetune/_data/templates/modelfiles/basic.Modelfile" in names
    assert "meton_plugins/finetune/_data/templates/recipes/quick-trial.toml" in names
    report = {"meton_plugins/finetune/report/page.html.j2", "meton_plugins/finetune/report/page.css"}
    assert report | {"meton_plugins/finetune/report/page.js"} <= set(names)
    assert any(name.endswith("licenses/NOTICE") for name in names)


def test_validate_in_a_bare_environment_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "bare"
    venv.create(environment, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "-q"]
    lock = ROOT / "requirements" / "dev.lock"
    done = subprocess.run([*pip, "-c", str(lock), str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(environment / "bin" / "meton-finetune"), "--json", "validate"],
        cwd=empty, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["problems"] == []
    assert said["templates"] == ["basic", "explainer", "fastapi-expert", "langchain-expert", "python-specialist"]
    assert said["recipes"] == [
        "behaviour-tuning",
        "domain-specialisation",
        "multi-task",
        "quick-trial",
        "style-transfer",
    ]
    assert said["manifest"].startswith(str(environment))
    assert list(empty.iterdir()) == []
