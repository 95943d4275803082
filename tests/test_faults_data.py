"""The tool that kills: it finds nothing here, and it would find what it should."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.errors import DataError
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.library.index import TRIGGERS
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.settings import BuildSettings
from tools.faults_data import Book, Broken, Faults, old_library, upgrade

ROOT = Path(__file__).resolve().parent.parent
KILLS = 12


def test_kill_9_at_any_moment_loses_nothing() -> None:
    command = [sys.executable, str(ROOT / "tools" / "faults_data.py"), "--kills", str(KILLS), "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    assert done.stdout.splitlines()[-1:] == [f"{KILLS} kills, {KILLS} whole"], done.stdout + done.stderr
    assert done.returncode == 0


def lost_rating(faults: Faults) -> None:
    faults.book.hear(f"did {sorted(faults.book.turns)[0]} 1\n")


def lost_turn(faults: Faults) -> None:
    faults.book.hear("took 0123456789\n")


def stale_index(faults: Faults) -> None:
    with Library(faults.home.library) as library:
        library._connection().execute("DELETE FROM places WHERE number = 3")


def other_index(faults: Faults) -> None:
    with Library(faults.home.library) as library:
        library._connection().execute("DROP TRIGGER found_changed")
        library._connection().execute("UPDATE examples SET answer = 'another' WHERE rowid = 3")
        library._connection().execute(f"CREATE TRIGGER found_changed {TRIGGERS['found_changed']}")


def damaged_file(faults: Faults) -> None:
    raw = bytearray(faults.home.library.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4096] = b"\xff" * 4096
    faults.home.library.write_bytes(bytes(raw))


def half_dataset(faults: Faults) -> None:
    path = dataset.resolve(faults.home)
    (path / "train.jsonl").write_bytes((path / "train.jsonl").read_bytes()[:-40])


def name_without_dataset(faults: Faults) -> None:
    (faults.home.datasets / "names" / "lost").write_text("0123456789ab\n")


def left_word(faults: Faults) -> None:
    faults.book.gone["0123456789"] = "w77"
    (faults.home.root / "left.tmp").write_text("Its word is w77. It needs no care.")


@pytest.mark.parametrize(
    "spoil",
    [
        lost_rating, lost_turn, stale_index, other_index, damaged_file, half_dataset, name_without_dataset, left_word,
    ],
)  # fmt: skip
def test_it_would_find_it(tmp_path: Path, spoil: Callable[[Faults], None]) -> None:
    faults = Faults(tmp_path, 1)
    with Library(faults.home.library) as library:
        dataset.build(library, BuildSettings(form="plain"), faults.home.datasets, name="one")
    faults.check()
    spoil(faults)
    with pytest.raises((Broken, DataError, sqlite3.DatabaseError)):
        faults.check()


def test_a_rating_in_flight_may_be_there_or_not() -> None:
    book = Book()
    book.hear("did a 5\nwill a 2 4\n")
    assert book.ratings == {"a": {5, 2}}
    book.hear("did a 2\nwill b 3 0\nwill c 1 4\nwill d 4")
    assert book.ratings == {"a": {2}, "b": {None, 3}, "c": {4, 1}}, "half a line was not said"


def test_an_upgrade_of_its_library_keeps_all(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    old_library(home.library, rows=50)
    upgrade(home.root, "")
    with Library(home.library) as library:
        assert library.counts().examples == 50
        assert len(library.search("w7qold")) == 1
