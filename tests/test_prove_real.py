"""The proof on real models: what it computes itself is right, and the page of the docs says what was measured."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from conftest import BaseMaker
from gguf import GGMLQuantizationType as Type

from tools.real_models import MODELS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

import prove_real  # noqa: E402
import real_table  # noqa: E402
from real_cases import CASES  # noqa: E402
from real_grid import change_per_step, steps_of  # noqa: E402
from real_runs import COMPANY  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "real.json"


# The chats


def test_every_fact_can_be_asked_and_checked() -> None:
    facts = json.loads((COMPANY / "facts.json").read_text(encoding="utf-8"))["facts"]
    assert len(facts) == 50
    for fact in facts:
        assert fact["key"].lower() in fact["answer"].lower()
        assert len({*fact["questions"], fact["ask"]}) == 3
        assert not any(fact["key"].lower() in question.lower() for question in (*fact["questions"], fact["ask"]))
    assert len({fact["key"] for fact in facts}) == len(facts)


# The grid


@pytest.mark.parametrize(
    ("kind", "block"),
    [(Type.Q4_0, 32), (Type.Q4_1, 32), (Type.Q5_0, 32), (Type.Q5_1, 32), (Type.Q8_0, 32)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_values_of_a_block_lie_whole_steps_apart(kind: Type, block: int) -> None:
    values = np.random.default_rng(3).standard_normal((4, 256), dtype=np.float32)
    raw = gguf.quants.quantize(values, kind)
    check_steps(raw, kind, block)


@pytest.mark.parametrize(
    ("kind", "types", "block"), [("q4_k_m", {"Q4_K": 32, "Q6_K": 16}, 0), ("q5_k_m", {"Q5_K": 32}, 0)]
)
def test_also_of_k_types(base: BaseMaker, kind: str, types: dict[str, int], block: int) -> None:
    tensors = {tensor.tensor_type.name: tensor for tensor in gguf.GGUFReader(base(kind=kind)).tensors}
    for name, size in types.items():
        tensor = tensors[name]
        check_steps(np.array(tensor.data), tensor.tensor_type, size)


def check_steps(raw: Any, kind: Type, block: int) -> None:
    blocks = gguf.quants.dequantize(raw, kind).reshape(-1, block)
    steps = np.abs(steps_of(np.ascontiguousarray(raw).view(np.uint8).reshape(-1), kind)).reshape(-1, 1)
    assert len(steps) == len(blocks)
    apart = (blocks - blocks[:, :1]) / np.maximum(steps, 1e-12)
    assert np.abs(apart - np.rint(apart)).max() < 0.02
    # And not twice as fine: some neighbours are one step apart.
    assert (np.rint(np.abs(np.diff(apart))) == 1).any()


def test_the_change_by_the_step(base: BaseMaker, tmp_path: Path) -> None:
    path = base(kind="q8_0")
    tensor = next(one for one in gguf.GGUFReader(path).tensors if one.name == "blk.0.attn_q.weight")
    columns, rows = (int(size) for size in tensor.shape)
    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", "qwen2")
    writer.add_float32("adapter.lora.alpha", 4.0)
    writer.add_tensor(f"{tensor.name}.lora_a", np.full((2, columns), 0.01, np.float32))
    writer.add_tensor(f"{tensor.name}.lora_b", np.full((rows, 2), 0.001, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # alpha / rank = 2, and both columns of B meet both rows of A.
    change = 2 * 2 * 0.01 * 0.001
    picked = np.linspace(0, rows - 1, min(128, rows)).astype(int)
    raw = np.array(tensor.data).view(np.uint8).reshape(rows, -1)[picked].reshape(-1, 34)
    scales = np.ascontiguousarray(raw[:, :2]).view(np.float16).astype(np.float64)
    wanted = change / np.sqrt(np.mean(scales**2))
    assert change_per_step(path, tmp_path / "adapter.gguf") == pytest.approx(wanted, rel=1e-4)


# The page


GOOD: dict[str, Any] = {
    "name": "smollm2", "pass": "own", "precision": "f32", "tokens_per_s": 200.0, "tokens_per_s_peft_best": 180.0,
    "peak_mb": 800.0, "peak_mb_peft": 1500.0, "base_loss": 2.5, "base_loss_peft": 2.5002, "tuned_loss": 1.5,
    "tuned_loss_peft": 1.4999, "resumed_identical": True,
    "exports": [
        {"quant": "base", "run": "long", "change_per_step": 0.2, "mb": 94.0, "base_mb": 93.8, "kept": 0.97,
         "unrelated_loss_change": 0.001, "unrelated_loss_change_of_tuning": 0.1},
    ],
    "plan": {"seconds": 12.0, "time_ratio": 1.1, "memory_ratio": 0.95},
    "more": {"interrupted": "kill"},
}  # fmt: skip


def test_the_goals_are_met_or_named() -> None:
    assert real_table.missed(GOOD) == []


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("pass",), "library", "the pass should be our own, and it is library"),
        (("tuned_loss",), 1.6, "tuned_loss should be PEFT's within 0.001"),
        (("base_loss_peft",), None, "not measured: base_loss"),
        (("resumed_identical",), False, "a resumed run should end with the same bytes, and it is False"),
        (("plan", "seconds"), 31.0, "the plan should answer within 20 s, and it is 31"),
        (("plan", "time_ratio"), 1.4, "time should be foreseen within 30%"),
        (("plan", "memory_ratio"), 0.8, "memory should be foreseen within 15%"),
        (("exports", 0, "kept"), 0.9, "the long run on the base's own grid should keep 95%, and it is 0.9"),
        (("exports", 0, "unrelated_loss_change"), 0.03, "should lose at most 0.02 on unrelated text"),
        (("exports", 0, "mb"), 100.0, "should be as large as its base"),
        (("exports",), [], "not measured: exports"),
    ],
)
def test_a_goal_that_is_not_met_is_named(place: tuple[Any, ...], value: Any, words: str) -> None:
    one = copy.deepcopy(GOOD)
    inner: Any = one
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (line,) = real_table.missed(one)
    assert words in line


def test_every_goal_belongs_to_a_case_and_a_recipe() -> None:
    assert set(CASES) == set(real_table.KEPT) == set(real_table.LOST)
    assert set(CASES) < set(MODELS)
    assert all("base" in case.quants for case in CASES.values())


def test_a_model_replaces_only_its_own_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_table, "DOCUMENT", tmp_path / "page.md")
    monkeypatch.setattr(real_table.write, "__defaults__", (tmp_path / "page.md",))
    prove_real.keep({**GOOD, "name": "qwen0.5b"}, tmp_path)
    prove_real.keep(GOOD, tmp_path)
    prove_real.keep({**GOOD, "tokens_per_s": 210.0}, tmp_path)
    models = json.loads((tmp_path / "real.json").read_text())["models"]
    assert [(one["name"], one["tokens_per_s"]) for one in models] == [("smollm2", 210.0), ("qwen0.5b", 200.0)]
    page = (tmp_path / "page.md").read_text()
    assert "| smollm2 | own, f32 | 210 | 180 | 800 | 1,500 |" in page
    assert "| smollm2 | long | 0.200 | base | 94 | 94 | 97.0% | +0.0010 | +0.1000 |" in page


def test_the_page_of_the_docs_is_what_was_measured() -> None:
    if not RESULTS.is_file():
        pytest.skip("bench/results/real.json is not there: make prove-real has not been run yet.")
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert real_table.DOCUMENT.read_text(encoding="utf-8") == real_table.document(found), "type make prove-real"
