"""The training bench: its results say what they should, and it runs, ours on a tiny shape and PyTorch where it is."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

import record  # noqa: E402
import train  # noqa: E402
import train_results  # noqa: E402
import train_table  # noqa: E402
from train import Bench  # noqa: E402
from train_cases import CASES, TINY, Case, chosen, groups  # noqa: E402
from train_goals import GOALS, judged  # noqa: E402
from train_pace import Pace  # noqa: E402
from train_rows import make_rows  # noqa: E402
from train_shapes import SHAPES, merges  # noqa: E402
from train_venv import torch_python  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "train.json"


def run(folder: Path, *words: str, python: str | None = None) -> subprocess.CompletedProcess[str]:
    """The bench as it is typed, on one thread, its results in `folder`; `python`: where PyTorch is said to be."""
    command = [sys.executable, str(ROOT / "bench" / "train.py"), "--threads", "1", "--results", str(folder), *words]
    environment = {**os.environ, **({"BENCH_TORCH": python} if python else {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def written(folder: Path) -> dict[str, train_results.Result]:
    """The cases of the file in `folder`, by name."""
    found = train_results.Found.model_validate_json((folder / "train.json").read_text())
    return {case.name: case for case in found.cases}


def figures(speed: float, memory: float) -> dict[str, Any]:
    """A run as a child process tells it."""
    return {
        "tokens_per_s": speed, "useful_tokens_per_s": speed / 2, "cpu_s_per_step": 1.0, "cores": 1.9,
        "peak_rss_mb": memory, "libraries_mb": 50.0, "how": "a test",
    }  # fmt: skip


@pytest.fixture
def measured() -> dict[str, Any]:
    """What make bench-train wrote."""
    if not RESULTS.is_file():
        pytest.skip("bench/results/train.json is not there: make bench-train has not been run yet.")
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


def test_the_results_have_their_form(measured: dict[str, Any]) -> None:
    found = train_results.Found.model_validate(measured)
    assert {"cpu", "cores", "flags", "memory_gb"} <= set(found.machine)
    known = {case.name: case for case in CASES}
    names = [case.name for case in found.cases]
    assert len(names) == len(set(names))
    for case in found.cases:
        assert (case.params_m, case.steps) == (known[case.name].parameters_m, known[case.name].steps)
        assert case.steps >= 5
        assert case.commit
        assert case.torch_fp32
        assert len(case.ours.runs) == len(case.torch_fp32.runs) == case.rounds
        assert case.ratio_speed_fp32 == pytest.approx(case.ours.tokens_per_s / case.torch_fp32.tokens_per_s, abs=1e-3)
        assert case.ratio_memory_fp32 == pytest.approx(case.ours.peak_rss_mb / case.torch_fp32.peak_rss_mb, abs=1e-3)
        assert case.ours.libraries_mb < case.ours.peak_rss_mb


def test_the_table_says_what_the_results_say(measured: dict[str, Any]) -> None:
    page = ROOT / "bench" / "train.md"
    assert page.read_text(encoding="utf-8") == train_table.document(measured), "type python bench/train_table.py"
    for name in train_table.PLOTS:
        assert (RESULTS.parent / f"train-{name}.svg").is_file()


def test_the_cases_are_those_of_the_goals() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    assert {name for goal in GOALS for name in goal.cases} <= set(names)
    assert not set(chosen([])) & set(TINY)
    assert [case.base for case in chosen(["125m-512"])] == ["q4_k_m", "q8_0", "f16"]


def test_bases_of_one_case_share_what_pytorch_takes() -> None:
    together = [{case.base for case in group} for group in groups(chosen(["125m-512", "125m-1024"]))]
    assert together == [{"q4_k_m", "q8_0", "f16"}] * 2


@pytest.mark.parametrize(("shape", "vocabulary", "millions"), [("30m", 32_000, 29.6), ("125m", 32_000, 128.4),
                                                              ("500m", 151_936, 494.0)])  # fmt: skip
def test_the_shapes_are_as_large_as_they_are_called(shape: str, vocabulary: int, millions: float) -> None:
    assert SHAPES[shape].weights(vocabulary) / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_large_vocabulary_has_no_token_twice() -> None:
    spelled = [left + right for left, right in merges(151_677)]
    assert len(set(spelled)) == len(spelled) == 151_677


def test_chats_have_real_lengths_and_learn_their_second_half() -> None:
    rows = make_rows("chats", 511, 32_000, 20)
    lengths = [row.length for row in rows]
    assert (min(lengths), max(lengths)) == (43, 511)
    assert round(float(np.mean(lengths))) == 187
    for row in rows:
        assert row.learned == row.length - row.length // 2
        assert row.trained[-1]
        assert not row.trained[1]
        assert row.cut(8).length == row.cut(8).learned == 8
    again = make_rows("chats", 511, 32_000, 20)
    assert all(np.array_equal(one.tokens, two.tokens) for one, two in zip(rows, again, strict=True))


def test_full_rows_learn_every_token() -> None:
    assert {(row.length, row.learned) for row in make_rows("full", 64, 1000, 3)} == {(64, 64)}


def test_ratios_and_spread_are_of_the_medians() -> None:
    case = Case("125m", rows="chats", ctx=511)
    gpu = {**figures(80, 2300), "libraries_mb": 700.0, "gpu_libraries_mb": 300.0}
    sides = {
        "ours": [figures(120, 900), figures(130, 1000)], "ours_low": [figures(90, 700)] * 2,
        "torch_fp32": [gpu, {**gpu, "tokens_per_s": 120}], "torch_bf16": [], "ours_bf16": [figures(200, 800)],
    }  # fmt: skip
    found = train_results.result(case, 2, "abc", sides)
    assert (found.ours.tokens_per_s, found.ours.peak_rss_mb, found.ours.spread) == (125, 1000, 0.08)
    assert found.torch_fp32
    # Torch's libraries for a GPU are left out.
    assert (found.torch_fp32.peak_rss_mb, found.torch_fp32.libraries_mb) == (2000, 400)
    assert (found.ratio_speed_fp32, found.ratio_memory_fp32) == (1.25, 0.5)
    assert (found.ratio_speed_fp32_low, found.ratio_memory_fp32_low) == (0.9, 0.35)
    assert (found.torch_bf16, found.ratio_speed_bf16) == (None, None)
    # The same numbers on both sides: ours in bf16 is held against PyTorch in bf16.
    both = train_results.result(case, 2, "abc", {**sides, "torch_bf16": [figures(160, 1000)]})
    assert (both.ratio_speed_bf16, both.ratio_memory_bf16) == (1.25, 0.8)
    assert both.ratio_speed_fp32 == 1.25


@pytest.mark.parametrize(
    ("speed", "memory", "verdict"),
    [(1.2, 0.5, "met"), (1.19, 0.5, "not met: speed"), (0.9, 0.6, "not met: speed, memory"),
     (None, None, "not measured")],
    ids=["met", "slow", "slow and large", "unknown"],
)  # fmt: skip
def test_a_goal_is_judged(speed: float | None, memory: float | None, verdict: str) -> None:
    case = {"name": "125m-512-f16", "ratio_speed_fp32": speed, "ratio_memory_fp32": memory}
    assert next(row.verdict for row in judged([case]) if row.case == case["name"]) == verdict


@pytest.mark.parametrize(
    ("planned", "verdict"), [(1150, "met"), (1200, "not met: plan off by +20%"), (None, "not met: no plan")]
)
def test_the_goal_of_the_large_vocabulary_asks_for_the_plan(planned: float | None, verdict: str) -> None:
    case = {
        "name": "500m-1024-152k-q4_k_m", "ratio_speed_fp32": 1.0, "ratio_memory_fp32": 0.4, "planned_mb": planned,
        "ours": {"peak_rss_mb": 1000},
    }  # fmt: skip
    assert [row.verdict for row in judged([case]) if row.case == case["name"]] == [verdict]


def test_the_time_left_follows_what_runs_took() -> None:
    pace = Pace([[("ours", 1e6), ("torch_fp32", 1e6)], [("ours", 1e6)], [("ours", 1e6)]])
    assert pace.position == "1/4"
    guessed = pace.seconds_left
    pace.done(110.0)  # twice what was guessed
    assert pace.seconds_left == pytest.approx(2 * guessed - 110)
    pace.skip_group()
    assert pace.position == "3/4"
    assert pace.left == "about 4 min left"
    pace.done(110.0)
    pace.done(110.0)
    assert pace.left == "about 0 s left"


@pytest.mark.parametrize(
    ("options", "changed", "left"),
    [({}, {}, 0), ({"again": True}, {}, 1), ({"threads": 1}, {}, 1), ({"quick": True}, {}, 1),
     ({}, {"commit": "older"}, 1), ({"ours_only": True}, {"torch_fp32": None}, 0), ({}, {"torch_fp32": None}, 1)],
    ids=["the same", "again", "other threads", "other steps", "other code", "without PyTorch", "PyTorch is missing"],
)  # fmt: skip
def test_only_what_was_measured_alike_is_kept(
    options: dict[str, Any], changed: dict[str, Any], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_TORCH", sys.executable)
    monkeypatch.setattr(train, "BF16_FLAGS", frozenset())  # wherever this runs, bf16 is not measured
    (case,) = chosen(["125m-512-f16"])
    commit = train_results.measured_code()
    if not commit:
        pytest.skip("This is no checkout of git: nothing says which code was measured, so nothing is kept.")
    one = train_results.result(case, 2, commit, dict.fromkeys(("ours", "torch_fp32"), [figures(100, 500)] * 2))
    train_results.keep(one.model_copy(update=changed), tmp_path)
    usual = {"threads": 2, "results": tmp_path, "ours_only": False, "quick": False, "again": False}
    bench = Bench(argparse.Namespace(**usual | {"only": [case.name]} | options))
    assert (len(bench.cases), bench.kept) == (left, 1 - left)


def test_nothing_is_gone_on_with_from_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = train_results.result(CASES[0], 2, "abc", {"ours": [figures(100, 500)]})
    train_results.keep(one, tmp_path)
    assert train_results.read(tmp_path).cases == [one]
    monkeypatch.setattr(record, "machine", lambda: {"cpu": "another", "cores": 64, "flags": ["avx512_bf16"]})
    assert train_results.read(tmp_path).cases == []
    train_results.keep(one.model_copy(update={"name": CASES[1].name}), tmp_path)
    assert [case.name for case in train_results.read(tmp_path).cases] == [CASES[1].name]


def test_a_python_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_TORCH", "/nowhere/python")
    with pytest.raises(SystemExit, match="BENCH_TORCH names no Python: /nowhere/python"):
        torch_python()


def test_ours_runs_on_a_tiny_shape_and_is_kept(engine: object, tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "tiny-64-q4", "tiny-chats", "--ours-only")
    assert done.returncode == 0, done.stderr
    half = bool(train.BF16_FLAGS & set(record.machine()["flags"]))
    assert f"[1/{5 if half else 3}] tiny-64-q4_k_m" in done.stdout
    cases = written(tmp_path)
    assert all((case.ours_bf16 is not None) is half for case in cases.values())
    assert set(cases) == {"tiny-64-q4_k_m", "tiny-chats2-q4_k_m"}
    full, chats = cases["tiny-64-q4_k_m"], cases["tiny-chats2-q4_k_m"]
    for case in cases.values():
        assert case.ours.tokens_per_s > 0
        assert case.ours.cpu_s_per_step > 0
        assert 0 < case.ours.libraries_mb < case.ours.peak_rss_mb < 500
        assert (case.torch_fp32, case.ratio_speed_fp32) == (None, None)
    assert full.ours.useful_tokens_per_s == full.ours.tokens_per_s
    assert chats.ours.useful_tokens_per_s == pytest.approx(chats.ours.tokens_per_s / 2, rel=0.05)
    assert f"{full.ours.tokens_per_s:.1f}" in (tmp_path / "train.md").read_text()

    if not full.commit:
        pytest.skip("This is no checkout of git: nothing says which code was measured, so nothing is kept.")
    again = run(tmp_path, "--only", "tiny-64-q4", "tiny-chats", "--ours-only")
    assert "cases kept, measured with the same code: 2" in again.stdout
    assert written(tmp_path) == cases


def test_a_run_that_fails_is_told_and_the_next_one_runs(engine: object, tmp_path: Path) -> None:
    """This Python has no PyTorch, so that the groups fail which would need it."""
    done = run(tmp_path, "--only", "tiny", python=sys.executable)
    assert done.returncode == 1
    assert "tiny-64 torch_fp32 ended with code 1" in done.stderr
    assert "tiny-chats2 torch_fp32 ended with code 1" in done.stderr
    assert "No module named 'torch'" in done.stderr
    assert "Traceback (most recent call last)" not in done.stderr.splitlines()[0]


def test_both_sides_run_on_a_tiny_shape(engine: object, tmp_path: Path) -> None:
    python = torch_python()
    if python is None:
        pytest.skip("PyTorch is not there: make bench-train fetches it, or BENCH_TORCH names a Python that has it.")
    done = run(tmp_path, "--only", "tiny-chats")
    assert done.returncode == 0, done.stderr
    (case,) = written(tmp_path).values()
    assert case.torch_fp32
    assert case.torch_fp32.tokens_per_s > 0
    assert case.torch_fp32.libraries_mb < case.torch_fp32.peak_rss_mb
    assert case.ratio_speed_fp32
    assert case.ratio_memory_fp32
    assert {path.name for path in tmp_path.glob("*.svg")} == {f"train-{name}.svg" for name in train_table.PLOTS}


def test_nothing_is_measured_where_pytorch_is_missing(tmp_path: Path) -> None:
    if torch_python():
        pytest.skip("PyTorch is there.")
    done = run(tmp_path, "--only", "tiny")
    assert done.returncode == 1
    assert "PyTorch is not there: type make bench-train" in done.stderr
