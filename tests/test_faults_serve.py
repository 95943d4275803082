"""The tool that breaks registering: it finds nothing here, and it would find what it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meton_plugins.finetune.paths import write_json
from meton_plugins.finetune.report.health import unfinished
from meton_plugins.finetune.serve.history import History
from meton_plugins.finetune.serve.register import Registered
from meton_plugins.host.config_file import ConfigFile
from tools.faults_serve import CONFIG, FAULTS, OLD, Broken, Round, spread
from tools.private_ollama import Unavailable, executable

ROOT = Path(__file__).resolve().parent.parent
POINTS = 10
TAG = "meton-m:v1-2026-11-22-0123abcd"
LISTED = {OLD: "old", TAG: "new", "meton-m:latest": "new"}


def test_no_fault_leaves_half_a_state() -> None:
    try:
        executable()
    except Unavailable as error:
        if os.environ.get("REQUIRE_OLLAMA") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    command = [sys.executable, str(ROOT / "tools" / "faults_serve.py"), "--points", str(POINTS), "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    last = f"{POINTS} kills, {POINTS} whole, {POINTS} finished on the second call"
    assert done.stdout.splitlines()[-1:] == [last], done.stdout + done.stderr
    assert done.returncode == 0


def test_the_points_are_spread() -> None:
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread(range(3), 9) == [0, 1, 2]
    assert len(set(FAULTS)) == 5


def registered(tried: Round) -> None:
    folder = tried.home.models / "m"
    folder.mkdir(parents=True)
    made = Registered(
        tag=TAG, alias="meton-m:latest", digest="new", gguf="m.gguf", sha256="0" * 64, bytes=1, request="r", when="w"
    )
    write_json(folder / "v1-2026-11-22-0123abcd.json", made.model_dump(mode="json", exclude={"fresh"}))


def swapped(tried: Round) -> None:
    registered(tried)
    past = History(tried.home.history)
    swap = past.begin("primary", OLD, TAG, "registered", tried.config)
    ConfigFile(tried.config).write("primary", TAG, expected=OLD)
    past.mark(swap, "done")


@pytest.fixture
def tried(tmp_path: Path) -> Round:
    return Round(tmp_path / "r", "m", "http://127.0.0.1:1")


def test_whole_states_are_whole(tried: Round) -> None:
    assert tried.check(LISTED) == "old"
    swapped(tried)
    assert tried.check(LISTED) == "new"
    tried.finished(LISTED)


def cut_config(tried: Round) -> None:
    tried.config.write_text(tried.config.read_text()[:-9])


def unknown_model(tried: Round) -> None:
    tried.config.write_text(CONFIG.replace(OLD, "gone:1b", 1))


def another_digest(tried: Round) -> None:
    registered(tried)
    path = next(tried.home.models.glob("m/v1*.json"))
    path.write_text(path.read_text().replace('"new"', '"other"'))


def half_a_manifest(tried: Round) -> None:
    registered(tried)
    path = next(tried.home.models.glob("m/v1*.json"))
    path.write_text(path.read_text()[:40])


def history_ahead(tried: Round) -> None:
    swapped(tried)
    tried.config.write_text(CONFIG)


def history_behind(tried: Round) -> None:
    registered(tried)
    ConfigFile(tried.config).write("primary", TAG, expected=OLD)


def no_manifest(tried: Round) -> None:
    swapped(tried)
    next(tried.home.models.glob("m/v1*.json")).unlink()


def left_open(tried: Round) -> None:
    swapped(tried)
    write_json(tried.home.models / "m" / "v1-2026-11-22-0123abcd.pending", {"tag": TAG, "request": "r"})


def two_swaps(tried: Round) -> None:
    swapped(tried)
    past = History(tried.home.history)
    past.mark(past.begin("primary", OLD, TAG, "again", tried.config), "done")


@pytest.mark.parametrize(
    "spoil",
    [
        cut_config, unknown_model, another_digest, half_a_manifest, history_ahead, history_behind, no_manifest,
        left_open, two_swaps,
    ],
)  # fmt: skip
def test_it_would_find_it(tried: Round, spoil: Callable[[Round], None]) -> None:
    spoil(tried)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        tried.finished(LISTED)
    assert isinstance(caught.value, Broken) or "manifest" in str(caught.value) or "YAML" in str(caught.value)


def test_two_versions_of_one_file_are_found(tried: Round) -> None:
    swapped(tried)
    with pytest.raises(Broken, match="2 versions"):
        tried.finished({**LISTED, TAG.replace("v1", "v2"): "new"})


def test_the_doctor_says_what_is_open_and_which_state_holds(tried: Round) -> None:
    assert unfinished(tried.home) == []
    folder = tried.home.models / "m"
    folder.mkdir(parents=True)
    write_json(folder / "v1-2026-11-22-0123abcd.pending", {"tag": TAG, "request": "r"})
    (folder / "v2-2026-11-22-0123abcd.pending").write_text("{")
    History(tried.home.history).begin("primary", OLD, TAG, "registered", tried.config)
    found = unfinished(tried.home, {"primary": OLD})
    assert [one.what for one in found] == ["registration", "registration", "swap"]
    assert found[0].found == f"{TAG} was begun and not finished"
    assert f"was to go from {OLD} to {TAG}; it holds {OLD} now" in found[2].found
    assert all(one.verdict == "note" and one.advice for one in found)


def test_the_doctor_as_it_is_typed(tried: Round, home: Path) -> None:
    History(tried.home.history).begin("primary", OLD, TAG, "registered", tried.config)
    command = [sys.executable, "-m", "meton_plugins.finetune", "--json", "--home", str(tried.home.root)]
    done = subprocess.run(
        [*command, "--config", str(tried.config), "finetune", "doctor"], capture_output=True, text=True, cwd=ROOT,
        check=False,
    )  # fmt: skip
    rows = {row["what"]: row["found"] for row in json.loads(done.stdout)}
    assert f"it holds {OLD} now" in rows["swap"]
