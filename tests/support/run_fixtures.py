"""Fixtures for tests that train: `pytest_plugins = ["support.run_fixtures"]`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from meton_plugins.finetune.gguf.tiny import make_tiny
from meton_plugins.finetune.paths import Home, engine_dir, private_dir, queue_file
from meton_plugins.finetune.train.runs import Run

from .engine import installed_or_skip
from .runs import Bench, Ingredients, end_workers, small_dataset


@pytest.fixture(scope="session")
def ingredients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingredients]:
    """Made once. The base must be left as it is."""
    installed = installed_or_skip()
    folder = tmp_path_factory.mktemp("ingredients")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder / "share"))
        engine_dir().parent.mkdir(parents=True)
        engine_dir().symlink_to(installed.folder)
        base = make_tiny(folder / "base.gguf")
        bench = Bench(Home(folder / "home"), base, small_dataset(folder / "home"))
        run = bench.train()
        assert run.status == "finished", run.state.error
        yield Ingredients(base, bench.dataset, run.folder / "adapter.gguf", run.folder)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine does for this process it does with one thread, unless a test says how many: see SETTINGS."""
    for module in ("jobs", "costs"):
        monkeypatch.setattr(f"meton_plugins.finetune.engine.{module}.threads", lambda wanted=0: wanted or 1)


@pytest.fixture
def bench(home: Path, engine: object, one_thread: None, ingredients: Ingredients) -> Iterator[Bench]:
    """A fresh data folder; nothing goes on when the test is over."""
    templates = home / "templates" / "modelfiles"
    templates.mkdir(parents=True)
    (templates / "bare.Modelfile").write_text("FROM .\n", encoding="utf-8")
    yield Bench(Home(home), ingredients.base, ingredients.dataset)
    queue_file().unlink(missing_ok=True)  # first: who ends starts the next
    end_workers(home / "runs")


@pytest.fixture
def own_base(bench: Bench, tmp_path: Path) -> Bench:
    """The bench with a copy of the base that may be spoilt."""
    bench.base = Path(shutil.copy(bench.base, tmp_path / "own.gguf"))
    return bench


@pytest.fixture
def trained(bench: Bench, ingredients: Ingredients) -> Run:
    """The run `one`, trained to its end."""
    private_dir(bench.home.runs)
    return Run(Path(shutil.copytree(ingredients.run, bench.home.runs / "one")))
