"""oneDNN beside the engine: fetched, checked, tried; without it training goes on, and a sentence says why."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from meton_plugins.finetune.engine import package, products, setup
from meton_plugins.finetune.engine.compute import multiplies_bf16
from meton_plugins.finetune.engine.package import INTEGRITY, VERSION, Engine, find
from meton_plugins.finetune.gguf.inspect import sha256_of
from meton_plugins.finetune.paths import engine_dir, machine_dir
from meton_plugins.finetune.report import health
from meton_plugins.finetune.settings import Settings


@pytest.fixture(autouse=True)
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a wheel for this machine."""
    monkeypatch.setattr(products, "offered", lambda: True)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """That of the engine, and one for what is in work."""
    made = tmp_path / "engine", tmp_path / "scratch"
    for folder in made:
        folder.mkdir()
    return made


def wheel(path: Path, library: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with this library, taken for the published one; its folder's engine package."""
    with zipfile.ZipFile(path / products.WHEEL, "w") as archive:
        for inside, name in products.KEPT.items():
            archive.writestr(inside, library if name == products.LIBRARY else b"Apache")
        archive.writestr("../evil.so", b"evil")
    monkeypatch.setattr(products, "SHA256", sha256_of(path / products.WHEEL))
    return path / "engine.tgz"


def refused(folders: tuple[Path, Path], beside: Path | None = None) -> str:
    """Why there is none; nothing is put into the engine's folder."""
    said: list[str] = []
    assert products.add(*folders, said.append, beside) == ""
    assert not list(folders[0].iterdir())
    start = "without oneDNN, training is somewhat slower: "
    assert said[-1].startswith(start)
    assert "\n" not in said[-1]
    return said[-1].removeprefix(start)


def test_no_wheel_for_this_platform(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "offered", lambda: False)
    said: list[str] = []
    assert products.add(*folders, said.append) == ""
    assert said == []


def test_no_pip_anywhere(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(products.importlib.util, "find_spec", lambda name: None)
    assert refused(folders) == "pip is not here to fetch it"


@pytest.mark.parametrize(
    ("errors", "code", "why"),
    [("noise\nERROR: No matching distribution found for onednn-cpu-gomp==2023.2.0\n", 1,
      "No matching distribution found for onednn-cpu-gomp==2023.2.0"),
     ("", 3, "pip ended with code 3"), ("", 0, "pip ended with code 0")],
    ids=["no network", "silent", "no file"],
)  # fmt: skip
def test_pip_that_fails(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, errors: str, code: int, why: str
) -> None:
    def pip(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[-1] == "onednn-cpu-gomp==2023.2.0"
        return subprocess.CompletedProcess(command, code, "", errors)

    monkeypatch.setattr(subprocess, "run", pip)
    assert refused(folders) == why


def test_the_wheel_is_looked_for_beside_the_package(folders: tuple[Path, Path], tmp_path: Path) -> None:
    assert refused(folders, tmp_path / "p.tgz") == f"{products.WHEEL} is not beside p.tgz"


def test_another_wheel(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / products.WHEEL).write_bytes(b"half of it")
    assert refused(folders, tmp_path / "p.tgz") == f"{products.WHEEL} is not as it was published"


def test_a_library_that_does_not_load(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = refused(folders, wheel(tmp_path, b"\x7fELF, but no more", monkeypatch))
    assert "libdnnl.so.3" in why


def test_a_library_that_works_is_kept_with_its_licence(
    engine: Engine, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.products_path is None:
        pytest.skip("oneDNN is not installed: setup could not fetch it.")
    package_ = wheel(tmp_path, engine.products_path.read_bytes(), monkeypatch)
    said: list[str] = []
    assert products.add(*folders, said.append, package_) == products.LIBRARY
    assert said == []
    assert sorted(path.name for path in folders[0].iterdir()) == ["LICENSE-oneDNN", "libdnnl.so.3"]
    assert not list(tmp_path.rglob("evil.so"))


def fake_engine(products_: str = "") -> Engine:
    """What `find` takes for an engine."""
    folder = engine_dir()
    folder.mkdir(parents=True)
    for name in filter(None, ("lib", "backend", products_)):
        (folder / name).write_bytes(b"x")
    made = Engine(folder, VERSION, INTEGRITY, "lib", "backend", {"first_loss": 2.0}, "", products_)
    package.record(made)
    return made


def test_setup_adds_it_to_an_engine_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake_engine()

    def add(folder: Path, scratch: Path, say: Any, beside: Path | None = None) -> str:
        assert scratch.parent == machine_dir()
        shutil.copy(old.library_path, folder / products.LIBRARY)
        return products.LIBRARY

    monkeypatch.setattr(products, "add", add)
    engine, done = setup.setup(lambda line: None)
    assert done
    assert engine.products_path == engine_dir() / products.LIBRARY
    assert find() == engine
    monkeypatch.setattr(products, "add", lambda *rest: pytest.fail("it is there"))
    assert setup.setup(lambda line: None) == (engine, False)


@pytest.mark.parametrize("had", ["", products.LIBRARY])
def test_setup_again_keeps_what_it_cannot_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, had: str) -> None:
    fake_engine(had)
    monkeypatch.setattr(products, "add", lambda *rest: "")
    monkeypatch.setattr(setup, "_check", lambda tarball: None)
    monkeypatch.setattr(setup, "run_job", lambda *rest, **more: dict.fromkeys(
        ("first_loss", "last_loss", "gradient_drift"), 1.0))  # fmt: skip

    def extract(tarball: Path, target: Path, key: str, *, gpu: bool) -> Path:
        target.mkdir()
        (target / "lib").write_bytes(b"new")
        return target

    monkeypatch.setattr(setup, "_extract", extract)
    monkeypatch.setattr(setup, "_choose", lambda folder, key: Engine(folder, VERSION, INTEGRITY, "lib", "lib", {}))
    engine, _ = setup.setup(lambda line: None, source=tmp_path / "p.tgz", again=True)
    assert engine.products == had
    assert find() == engine
    assert engine.library_path.read_bytes() == b"new"


def test_setup_without_it_leaves_the_engine_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake_engine()
    monkeypatch.setattr(products, "add", lambda *rest: "")
    assert setup.setup(lambda line: None) == (old, False)
    assert find() == old


def test_an_engine_of_a_setup_that_knew_no_onednn() -> None:
    fake_engine()
    record = engine_dir() / "engine.json"
    values = json.loads(record.read_text())
    del values["products"]
    record.write_text(json.dumps(values))
    found = find()
    assert found is not None
    assert found.products_path is None


def test_an_engine_whose_onednn_is_gone_trains_without_it() -> None:
    fake_engine(products.LIBRARY)
    (engine_dir() / products.LIBRARY).unlink()
    found = find()
    assert found is not None
    assert found.products_path is None


@pytest.mark.parametrize("precision", ["auto", "f32"])
def test_the_doctor_says_what_multiplies(precision: str) -> None:
    settings = Settings.model_validate({"train": {"precision": precision}})
    fake_engine()
    found = health._products(settings)
    assert (found.verdict, found.advice) == ("note", "/finetune setup fetches oneDNN, which is faster")
    shutil.rmtree(engine_dir())
    fake_engine(products.LIBRARY)
    found = health._products(settings)
    numbers = "bf16 for quantized bases" if multiplies_bf16() and precision == "auto" else "F32"
    assert found.found == f"our own pass, products by oneDNN 3.2.0 in {numbers}"
