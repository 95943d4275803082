"""What every test gets: data folders of its own; and the installed engine, for those that ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before NumPy is loaded: two threads are slower than one on the small matrices of tests.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "tests"):  # `tools` and `support`, however pytest was started
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import pytest  # noqa: E402
from support.engine import installed_or_skip  # noqa: E402
from support.models import Tokenizer, make_base  # noqa: E402
from support.typed import EXAMPLES, Typed  # noqa: E402

from meton_plugins.finetune.engine.library import Library  # noqa: E402
from meton_plugins.finetune.engine.package import Engine, find  # noqa: E402
from meton_plugins.finetune.paths import engine_dir  # noqa: E402

# Where pytest runs in the background of a shell, Ctrl-C is ignored, and so it would be in all that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Makes a base, or finds the one that another test made: architecture, tokenizer, kind, shape as in `make_base`.
BaseMaker = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """METON_FINETUNE_HOME and the platform's user data folder, both fresh."""
    folder = tmp_path / "home"
    monkeypatch.setenv("METON_FINETUNE_HOME", str(folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    return folder


@pytest.fixture
def typed(home: Path) -> Typed:
    """A user who types /dataset, with the sample conversations at hand."""
    return Typed(home, conversations=EXAMPLES)


@pytest.fixture
def full(typed: Typed) -> Typed:
    """The same, who has harvested them."""
    typed("harvest")
    return typed


@pytest.fixture
def engine(home: Path) -> Engine:
    """The installed engine, linked into this test's user data folder. Skips without one; fails if REQUIRE_ENGINE=1."""
    found = installed_or_skip()
    link = engine_dir()
    link.parent.mkdir(parents=True)
    link.symlink_to(found.folder, target_is_directory=True)
    linked = find()
    assert linked is not None
    return linked


@pytest.fixture(scope="session")
def library() -> Library:
    """The engine's library in this process: an assert in it would end pytest."""
    return Library(installed_or_skip())


@pytest.fixture(scope="session")
def _bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@pytest.fixture
def base(engine: Engine, _bases: Path) -> BaseMaker:
    """Tiny bases, each made once in a session: read them, never write to them."""

    def make(architecture: str = "qwen2", tokenizer: Tokenizer = "bpe", kind: str = "f32", **shape: Any) -> Path:
        traits = [architecture, tokenizer, kind, *(f"{name}{value}" for name, value in sorted(shape.items()))]
        path = _bases / f"{'-'.join(traits)}.gguf"
        return path if path.exists() else make_base(path, architecture, tokenizer, kind, **shape)

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("There is no mount command, so no small disk can be made.")
    if done.returncode:
        pytest.skip("This user may not mount a small disk (root may).")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
