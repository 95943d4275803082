"""What killed sessions leave in the folder of runs is removed; what living ones make, and runs, never."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meton_plugins.finetune.train import unfinished
from meton_plugins.finetune.train.unfinished import owned, sweep_unfinished

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """The folder of runs, an hour later."""
    with pytest.MonkeyPatch.context() as patch:
        now = time.time() + 3600
        patch.setattr(unfinished.time, "time", lambda: now)
        yield tmp_path


def made(runs: Path, name: str) -> Path:
    (runs / name / "dataset").mkdir(parents=True)
    (runs / name / "dataset" / "train.jsonl").write_text("{}\n")
    return runs / name


def test_what_a_killed_session_left_is_removed(runs: Path) -> None:
    left = [made(runs, name) for name in (".one.abcd1234", ".run-2.a_b_c_d_", ".v1.5-x.00000000")]
    sweep_unfinished(runs)
    assert not any(folder.exists() for folder in left)


def test_what_is_something_else_stays(runs: Path) -> None:
    kept = [made(runs, name) for name in ("one", "one.abcd1234", ".one", ".one.abc", ".ONE.abcd1234", ".one.deleting1")]
    (runs / ".two.abcd1234").write_text("a file")
    (runs / ".link.abcd1234").symlink_to(runs / "one")
    sweep_unfinished(runs)
    assert all(folder.exists() for folder in kept)
    assert (runs / ".two.abcd1234").exists()
    assert (runs / ".link.abcd1234").exists()


def test_what_a_living_session_makes_stays(runs: Path) -> None:
    folder = made(runs, ".one.abcd1234")
    script = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom meton_plugins.finetune.train.unfinished import owned\n"
        f"with owned(Path({str(folder)!r})):\n    print('made', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        assert session.stdout.readline() == "made\n"
        sweep_unfinished(runs)
        assert folder.exists()
        session.kill()
        session.wait()
    sweep_unfinished(runs)
    assert not folder.exists()


def test_what_is_young_stays(tmp_path: Path) -> None:
    # Its session has not taken the lock yet.
    folder = made(tmp_path, ".one.abcd1234")
    sweep_unfinished(tmp_path)
    assert folder.exists()


def test_a_folder_that_got_its_name_is_no_longer_owned(runs: Path) -> None:
    folder = made(runs, ".one.abcd1234")
    with owned(folder):
        folder.rename(runs / "one")
    assert (runs / "one" / "dataset").is_dir()


def test_what_cannot_be_removed_stops_nobody(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(runs, ".one.abcd1234")

    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(unfinished.shutil, "rmtree", refuse)
    sweep_unfinished(runs)
