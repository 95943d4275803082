"""The plan of a run: measured, true to what the run then takes, and a refusal where it cannot be."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.host import RecordingHost
from support.models import rewrite
from support.ollama_server import private_server
from support.runs import SETTINGS, Bench, over, until

from meton_plugins.finetune.commands import finetune, planning
from meton_plugins.finetune.commands.plan_view import planned_in_short
from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.engine import costs
from meton_plugins.finetune.engine.compute import ComputeConfig
from meton_plugins.finetune.engine.gradient import Adapter, RowTrainer
from meton_plugins.finetune.engine.library import Library as EngineLibrary
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.errors import EngineError
from meton_plugins.finetune.gguf.chat_template import BUILT_IN, ChatTemplate, template_for
from meton_plugins.finetune.gguf.inspect import inspect
from meton_plugins.finetune.gguf.tiny import make_tiny
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.serve.modelfile import Modelfile, to_create_request
from meton_plugins.finetune.serve.ollama import Server
from meton_plugins.finetune.serve.parity import base_parity, difference, file_parity, modelfile_parity
from meton_plugins.finetune.settings import PROJECTIONS, BuildSettings, TrainSettings
from meton_plugins.finetune.train import measure, memory
from meton_plugins.finetune.train.advice import warnings_for
from meton_plugins.finetune.train.families import family_of, proof_of
from meton_plugins.finetune.train.fit import fit
from meton_plugins.finetune.train.launch import start
from meton_plugins.finetune.train.memory import RESERVE_MB
from meton_plugins.finetune.train.plan import Plan
from meton_plugins.finetune.train.planner import Ingredients, base_record, create
from meton_plugins.finetune.train.runs import Run
from meton_plugins.finetune.turn import Turn

pytest_plugins = ["support.run_fixtures"]

#: About five million weights.
FIVE = {"width": 256, "layers": 6, "heads": 4, "kv_heads": 2, "inner": 768}
#: Nobody listens there.
AWAY = "http://127.0.0.1:9"
BaseMaker = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", AWAY)


def long_dataset(folder: Path, *words: int) -> Path:
    """A dataset with an answer of so many words for each number."""
    home = Home(folder).make()
    turns = [
        Turn(
            session=f"l{number}", at=f"2026-02-{number + 1:02d}T10:00:00",
            question=f"Say {number} things of {chr(97 + number)}.",
            answer=" ".join(f"{chr(97 + (number + i) % 26)}{number * i}" for i in range(count)),
        )
        for number, count in enumerate(words)
    ]  # fmt: skip
    with Library(home.library) as library:
        new, _ = library.add(turns)
        library.rate(new, 5)
        manifest = dataset.build(
            library, BuildSettings(form="plain", context_turns=0, deduplicate=False), home.datasets
        )
    return home.datasets / manifest.id


def made_of(bench: Bench, base: Path | None = None, data: Path | None = None, **changes: Any) -> Ingredients:
    record = base_record(base or bench.base, None)
    return Ingredients(record, data or bench.dataset, SETTINGS.model_copy(update=changes), "")


def foresee(bench: Bench, ingredients: Ingredients, **options: Any) -> Plan:
    return planning.foresee(RecordingHost(bench.home.root), bench.home, ingredients, **options)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing may be measured."""
    monkeypatch.setattr(costs, "probe", lambda *_args, **_options: pytest.fail("it was measured"))


# The curve.


def test_a_curve_is_found_again() -> None:
    curve = fit([(n, 100 + 0.5 * n + 0.01 * n * n) for n in (16, 32, 64, 128)])
    assert (curve.constant, curve.each, curve.square) == pytest.approx((100, 0.5, 0.01), rel=1e-6)
    assert curve(1000) == pytest.approx(10600)
    assert curve.total([10, 20]) == pytest.approx(curve(10) + curve(20))
    longest = curve.longest(10600.1, 4096)
    assert longest == 1000
    assert curve(longest) <= 10600.1 < curve(longest + 1)
    assert curve.longest(50, 4096) == 0


def test_noise_makes_no_part_negative() -> None:
    for points in ([(16, 10.0), (32, 9.0), (64, 18.0), (128, 35.0)], [(16, 40.0), (32, 30.0), (64, 20.0)], [(4, 1.0)]):
        curve = fit(points)
        assert min(curve.constant, curve.each, curve.square) >= 0
    concave = fit([(16, 10.0), (32, 18.0), (64, 32.0), (128, 58.0)])
    assert concave.square == pytest.approx(0, abs=1e-9)
    assert concave(512) == pytest.approx(4 * 58, rel=0.15)


def test_short_rows_of_another_kernel_do_not_bend_the_curve() -> None:
    points = [(4, 900.0), (8, 900.0), *((n, 100 + n) for n in (16, 32, 64, 128))]
    assert fit([(float(n), float(cost)) for n, cost in points])(1024) == pytest.approx(1124)


# What is measured.


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("targets", [PROJECTIONS, ("attn_q", "ffn_down")], ids=["all", "two"])
def test_trainable_counts_what_the_engine_trains(
    library: EngineLibrary, base: BaseMaker, architecture: str, targets: tuple[str, ...]
) -> None:
    path = base(architecture)
    with Model(library, path) as model, RowTrainer(model, 8, 1, Adapter(rank=4, targets=targets)) as trainer:
        _, gradients = trainer.gradients(np.arange(9, dtype=np.int32), np.ones(9, dtype=np.bool_))
    assert measure.trainable(path, 4, targets) == sum(one.size for one in gradients.values())


def probe(base_path: Path, folder: Path, *words: int, **options: Any) -> tuple[ComputeConfig | None, costs.Cost]:
    """What a run costs on answers of so many words."""
    data = long_dataset(folder / "probed", *words)
    rows = [row for side in costs.lengths(base_path, data).values() for row in side.rows]
    values: dict[str, Any] = {
        "rank": 16, "room_mb": 1e6, "workers": 1, "seconds": 60, "learned": "last", "ctx_size": 4096, "system": "",
        "longest": max(row[1] for row in rows), **options,
    }  # fmt: skip
    adapter = measure.trainable(base_path, values["rank"], PROJECTIONS)
    ids = [row[0] for row in sorted(rows, key=lambda row: row[1])]
    return costs.probe(base_path, data, ids, folder, targets=PROJECTIONS, adapter=adapter, **values)


def test_what_is_measured_is_of_the_runs_own_rows(base: BaseMaker, tmp_path: Path) -> None:
    compute, cost = probe(base("qwen3", **FIVE), tmp_path, *[4, 8, 16, 24, 40] * 4)
    assert compute is not None
    assert (compute.trainer, compute.threads) == ("own", 1)
    lengths = [point.length for point in cost.points]
    assert lengths == sorted(set(lengths))
    assert len(lengths) > 1
    assert cost.token_mb
    assert cost.points[-1].peak_mb - cost.points[0].peak_mb == pytest.approx(cost.token_mb * (lengths[-1] - lengths[0]))
    assert cost.save_seconds > 0
    assert not list(tmp_path.glob(".probe-*"))


def test_the_librarys_pass_is_measured_on_short_rows_first(base: BaseMaker, tmp_path: Path) -> None:
    compute, cost = probe(base("qwen3", **FIVE), tmp_path, *[60] * 20, accelerate=False, seconds=0)
    assert compute is not None
    assert (compute.trainer, compute.reason) == ("library", None)
    # Time was over from the beginning: a line needs two points, and no more are measured.
    assert [point.length for point in cost.points] == [4, 8]
    assert cost.token_mb is None


def test_the_measurement_keeps_within_the_room(base: BaseMaker, tmp_path: Path) -> None:
    compute, cost = probe(base("qwen3", **FIVE), tmp_path, *[40] * 12, room_mb=40)
    assert compute is None
    assert cost.points == []


def test_the_plan_is_true_to_the_run(bench: Bench, base: BaseMaker) -> None:
    path = base("qwen3", **FIVE)
    data = long_dataset(bench.home.root, *[20, 12, 30, 5] * 4)
    ingredients = made_of(bench, path, data, ctx_size=150, epochs=1, batch_size=2, lora_rank=16)
    plan = foresee(bench, ingredients)
    assert plan.left_out
    run = create(bench.home, ingredients, "one", compute=plan.compute, plan=plan.model_dump(mode="json"))
    start(run)
    over(run)
    state = run.state
    assert state.status == "finished", state.error
    assert state.peak_rss_mb is not None
    assert plan.memory.peak == pytest.approx(state.peak_rss_mb, rel=0.15)
    assert plan.steps == state.steps
    assert sum(one.count for one in plan.left_out) == state.skipped
    told = {event["side"]: event for event in run.events() if event["event"] == "rows"}
    assert plan.tokens_per_epoch == told["train"]["tokens"]
    assert plan.learned_per_epoch == told["train"]["learned"]
    assert plan.longest == max(event["longest"] for event in told.values())
    assert plan.rows == {side: event["rows"] for side, event in told.items()}
    assert Plan.model_validate(run.record.plan) == plan


def test_a_measurement_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = foresee(bench, made_of(bench))
    probes: list[dict[str, Any]] = []
    real = costs.probe

    def counted(*args: Any, **options: Any) -> Any:
        probes.append(options)
        return real(*args, **options)

    monkeypatch.setattr(costs, "probe", counted)
    monkeypatch.setattr(costs, "lengths", lambda *_args, **_options: pytest.fail("the rows were counted again"))
    second = foresee(bench, made_of(bench, learning_rate=1e-2, epochs=2))
    assert second.time.measured == first.time.measured
    assert second.memory.peak == first.memory.peak
    assert not probes
    foresee(bench, made_of(bench, lora_rank=8))
    assert [one["rank"] for one in probes] == [8]
    foresee(bench, made_of(bench), again=True)
    assert len(probes) == 2


def test_a_longer_row_is_measured_anew(bench: Bench) -> None:
    ingredients = made_of(bench, ctx_size=100_000)
    rows = [row for side in measure.lengths_of(bench.home, ingredients).values() for row in side.rows]
    longest = max(row[1] for row in rows)
    measure.cost_of(bench.home, ingredients, rows, 1e6)
    assert measure.known_cost(bench.home, ingredients, [*rows, ("x", 2 * longest, 1)]) is not None
    assert measure.known_cost(bench.home, ingredients, [*rows, ("x", 40 * longest, 1)]) is None


def test_other_rows_are_measured_anew_and_computed_alike(bench: Bench) -> None:
    ingredients = made_of(bench)
    rows = [row for side in measure.lengths_of(bench.home, ingredients).values() for row in side.rows]
    first = measure.cost_of(bench.home, ingredients, rows, 1e6)
    little = [(name, length, max(1, learned // 4)) for name, length, learned in rows]
    assert measure.known_cost(bench.home, ingredients, little) is None
    assert measure.known_compute(bench.home, ingredients, little) == first.compute


def test_forgotten_rows_are_counted_anew(bench: Bench, tmp_path: Path) -> None:
    data = long_dataset(tmp_path / "other", *[3] * 12)
    ingredients = made_of(bench, data=data)
    before = measure.lengths_of(bench.home, ingredients)["train"]
    lines = (data / "train.jsonl").read_bytes().splitlines(keepends=True)
    (data / "train.jsonl").write_bytes(b"".join(lines[1:]))
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["files"]["train.jsonl"]["sha256"] = hashlib.sha256(b"".join(lines[1:])).hexdigest()
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert len(measure.lengths_of(bench.home, ingredients)["train"].rows) == len(before.rows) - 1


def test_the_number_of_threads_is_measured_and_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "threads", lambda: 2)
    ingredients = made_of(bench, threads=0)
    plan = foresee(bench, ingredients)
    assert plan.compute is not None
    tried = plan.compute.tokens_per_s
    assert "f32 packed x2" in tried
    assert plan.time.threads == plan.compute.threads
    run = create(bench.home, ingredients, compute=plan.compute.model_copy(update={"threads": 3}))
    assert run.record.threads == 3
    asked = foresee(bench, made_of(bench, threads=2))
    assert asked.compute is not None
    assert asked.time.threads == 2
    assert all(name.endswith("x2") for name in asked.compute.tokens_per_s)


# What does not fit.


@pytest.fixture
def large(bench: Bench, base: BaseMaker) -> Ingredients:
    """A run with rows of many lengths, up to some 250 tokens."""
    data = long_dataset(bench.home.root, *[4, 8, 16, 24, 32, 40, 48] * 3)
    return made_of(bench, base("qwen3", **FIVE), data, ctx_size=250)


def test_a_run_that_does_not_fit_is_refused_with_the_largest_ctx_size(bench: Bench, large: Ingredients) -> None:
    plan = foresee(bench, large)
    assert plan.refusal is None
    assert plan.memory.peak is not None
    free = plan.memory.peak - 15 + RESERVE_MB
    refused = foresee(bench, large, free_mb=free)
    most = refused.memory.largest_ctx_size
    assert refused.memory.fits is False
    assert most is not None
    assert 8 <= most < plan.longest
    assert refused.refusal is not None
    assert f"--ctx-size {most} fits and leaves out" in refused.refusal
    sides = measure.lengths_of(bench.home, large)
    out = sum(most < row[1] <= 250 for side in sides.values() for row in side.rows)
    assert f"leaves out {out} more of {sum(plan.rows.values())} examples" in refused.refusal

    def at(ctx_size: int) -> Plan:
        settings = large.settings.model_copy(update={"ctx_size": ctx_size})
        return foresee(bench, Ingredients(large.base, large.dataset, settings, ""), free_mb=free)

    assert at(most).refusal is None
    longer = min(row[1] for side in sides.values() for row in side.rows if row[1] > most)
    assert at(longer).refusal is not None, "it is the largest that fits"


def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does(bench: Bench, large: Ingredients) -> None:
    one = foresee(bench, large)
    assert one.memory.peak is not None

    def at(batch_size: int) -> Plan:
        settings = large.settings.model_copy(update={"batch_size": batch_size})
        free = one.memory.peak + 4.5 * one.trainable * 4 / 2**20 + RESERVE_MB  # type: ignore[operator]
        return foresee(bench, Ingredients(large.base, large.dataset, settings, ""), free_mb=free)

    assert at(5).refusal is None
    refused = at(6)
    assert refused.memory.largest_batch_size == 5
    assert "--batch-size 5 fits" in str(refused.refusal)
    assert at(1000).memory.peak == at(one.rows["train"]).memory.peak, "a step has no more rows than there are"


def test_what_no_ctx_size_mends_asks_for_another_base(bench: Bench, large: Ingredients, unmeasured: None) -> None:
    refused = foresee(bench, large, free_mb=RESERVE_MB + 10)
    assert refused.refusal is not None
    assert "more than" in refused.refusal
    assert "smaller quantization" in refused.refusal


def test_start_refuses_what_does_not_fit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_mb", lambda: RESERVE_MB + 70.0)
    host = RecordingHost(bench.home.root)
    line = " ".join(bench.words()[1:])
    assert finetune.make(host, bench.home).run(line) == 1
    assert host.output.startswith("✗ The run needs")
    assert not list(bench.home.runs.glob("*"))
    host.clear()
    assert finetune.make(host, bench.home).run(line.replace("start", "plan", 1)) == 1
    assert "it does not fit" in host.output


def test_a_full_disk_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(bench.home.root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert "make room" in str(foresee(bench, made_of(bench)).refusal)


@contextlib.contextmanager
def double(answers: dict[str, Any]) -> Iterator[str]:
    """A server that gives `answers` by path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            known = self.path in answers
            body = json.dumps(answers.get(self.path, {"error": "no"})).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_what_ollama_holds_is_said(bench: Bench, large: Ingredients, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [
        {"name": "qwen2.5-coder:7b", "size": 5 << 30, "size_vram": 1 << 30},
        {"name": "on-gpu:1b", "size": 1 << 30, "size_vram": 1 << 30},
    ]
    with double({"/api/ps": {"models": held}}) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        plan = foresee(bench, large, free_mb=RESERVE_MB + 10)
    assert plan.memory.ollama == {"qwen2.5-coder:7b": 4096.0}
    assert "Ollama holds 4.0 GB for qwen2.5-coder:7b, and `ollama stop qwen2.5-coder:7b` frees it" in str(plan.refusal)


def test_while_another_run_trains_nothing_is_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, unmeasured: None
) -> None:
    from meton_plugins.finetune.train import lock

    monkeypatch.setattr(lock, "who_trains", lambda: bench.home.runs / "other")
    plan = foresee(bench, made_of(bench), free_mb=RESERVE_MB)
    assert (plan.memory.peak, plan.memory.fits, plan.time.seconds, plan.refusal) == (None, None, None, None)


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    assert memory._left_to_container(tmp_path) == float("inf")
    for name, text in (
        ("memory.max", f"{1000 << 20}\n"), ("memory.current", f"{700 << 20}\n"),
        ("memory.stat", f"anon 5\ninactive_file {200 << 20}\n"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
    assert memory._left_to_container(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._left_to_container(tmp_path) == float("inf")


# What is left out, and warned of.


def test_what_is_left_out_is_counted_by_reason(bench: Bench, tmp_path: Path) -> None:
    picky = tmp_path / "picky.jinja"
    picky.write_text(
        "{% for m in messages if m.content[:5] in ('Say 3', 'Say 5') %}{{ raise_exception('no ones') }}{% endfor %}"
        + BUILT_IN["chatml"]
    )
    data = long_dataset(bench.home.root, *[3] * 10, *[60] * 4)
    plan = foresee(bench, made_of(bench, data=data, ctx_size=100, chat_template=str(picky)))
    seen = {one.reason: one for one in plan.left_out}
    rows = [json.loads(line) for side in ("train", "validation") for line in _lines(data / f"{side}.jsonl")]
    refused = {row["id"] for row in rows if row["messages"][0]["content"][:5] in ("Say 3", "Say 5")}
    long = {row["id"] for row in rows if len(row["messages"][-1]["content"]) > 150} - refused
    assert refused
    assert long
    assert seen["longer than --ctx-size 100"].count == len(long)
    assert set(seen["longer than --ctx-size 100"].ids) <= long
    other = next(one for reason, one in seen.items() if "no ones" in reason)
    assert set(other.ids) == refused
    assert sum(plan.rows.values()) == len(rows) - len(long) - len(refused)
    assert sum(plan.examples.values()) == len(rows)


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_nothing_left_is_refused(bench: Bench) -> None:
    plan = foresee(bench, made_of(bench, ctx_size=8))
    assert "raise --ctx-size" in str(plan.refusal)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"learning_rate": 5e-3}, "learning rate of 0.005"),
        ({"lora_rank": 16, "lora_alpha": 1}, "--lora-alpha 32"),
        ({"lora_rank": 8, "lora_alpha": 128}, "alpha / rank is 16"),
        ({"lora_rank": 256, "lora_alpha": 512}, "Rank 256"),
        ({"batch_size": 64}, "an epoch is one step"),
    ],
)
def test_odd_settings_are_warned_of(bench: Bench, changes: dict[str, Any], word: str) -> None:
    plan = foresee(bench, made_of(bench))
    usual = TrainSettings()
    assert not [text for text in warnings_for(plan, usual) if word in text]
    assert [text for text in warnings_for(plan, usual.model_copy(update=changes)) if word in text]


def test_few_examples_and_no_validation_are_warned_of(bench: Bench) -> None:
    plan = foresee(bench, made_of(bench))
    assert "below 50" in plan.warnings[0]
    many = plan.model_copy(update={"rows": {"train": 50, "validation": 0}})
    assert not [text for text in warnings_for(many, SETTINGS) if "below 50" in text]
    assert [text for text in warnings_for(many, SETTINGS) if "no validation rows" in text]


@pytest.mark.parametrize(
    ("architecture", "name", "family"),
    [
        ("llama", "codellama:7b-instruct", "CodeLlama"),
        ("llama", "CodeLlama-13B-hf", "CodeLlama"),
        ("llama", "deepseek-coder:6.7b", "DeepSeek Coder"),
        ("llama", "deepseek-coder-v2:16b", None),
        ("deepseek2", "deepseek-coder:6.7b", None),
        ("qwen2", "Qwen2.5 Coder 7B Instruct", "Qwen2.5-Coder"),
        ("qwen2", "qwen2.5-coder:1.5b", "Qwen2.5-Coder"),
        ("qwen2", "qwen2.5:7b", None),
        ("llama", "Meta-Llama-3.1-8B-Instruct", "Llama 3.1"),
        ("llama", "llama3.1:8b", "Llama 3.1"),
        ("llama", "llama3.2:3b", None),
    ],
)
def test_families_of_the_guide(architecture: str, name: str, family: str | None) -> None:
    found = family_of(architecture, "", name)
    assert (found.name if found else None) == family
    words = proof_of(architecture, found)
    assert ("unproven" in words) is (family != "Qwen2.5-Coder")
    assert ("proven on small random models" in words) is (architecture != "deepseek2")


# Templates.


def test_a_difference_is_shown_where_it_is() -> None:
    assert difference("<s>[INST] a", "[INST] a", "<s>") is None
    assert difference("same", "same") is None
    said = difference("<|im_start|>user\nHi<|im_end|>", "<|im_start|>user\nHi", "")
    assert said is not None
    assert "character 20" in said
    assert "<|im_end|>" in said


def test_a_named_chat_template_is_compared_with_the_one_inside(base: BaseMaker, tmp_path: Path) -> None:
    info = inspect(base())
    assert file_parity(info, template_for(info, "chatml")).verdict == "same"
    assert file_parity(info, template_for(info, "llama-2")).verdict == "differs"
    bare = inspect(make_tiny(tmp_path / "bare.gguf", chat_template=None))
    assert "there is none" in file_parity(bare, template_for(bare, "chatml")).detail


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server with `own:v1`, which writes by its GGUF's template, and `other:v1`, by a TEMPLATE of its own."""
    folder = tmp_path_factory.mktemp("served")
    tiny = make_tiny(folder / "tiny.gguf")
    digest = f"sha256:{hashlib.sha256(tiny.read_bytes()).hexdigest()}"
    with private_server(folder / "ollama") as running, Server(running.url) as server:
        server.upload(tiny, digest)
        for name, template in (("own:v1", None), ("other:v1", "[INST] {{ .System }} {{ .Prompt }} [/INST]")):
            server.create(to_create_request(Modelfile(template=template), name, {"tiny.gguf": digest}))
        yield running.url


CHATML = ChatTemplate(BUILT_IN["chatml"])


def test_a_real_server_says_how_it_writes_a_chat(served: str) -> None:
    with Server(served) as server:
        assert base_parity(server, "own:v1", CHATML).verdict == "same"
        other = base_parity(server, "other:v1", CHATML)
        assert other.verdict == "differs"
        assert "[INST]" in other.detail
        # The server answers before it has let go of the model.
        until(lambda: server.loaded() == {}, "the run gets the memory")
        go = (
            "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
            "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n"
        )
        same = Modelfile(template=go)
        good = modelfile_parity(server, "own:v1", CHATML, same, "house")
        assert good is not None
        assert good.verdict == "same"
        bad = modelfile_parity(server, "own:v1", CHATML, Modelfile(template="{{ .Prompt }}"), "house")
        assert bad is not None
        assert (bad.what, bad.verdict) == ("TEMPLATE of house", "differs")
        gone = base_parity(server, "gone:v1", CHATML)
        assert (gone.verdict, "gone:v1" in gone.detail) == ("unknown", True)


def test_what_cannot_be_compared_is_not_called_the_same(base: BaseMaker) -> None:
    old = {"/api/ps": {"models": []}, "/api/chat": {"message": {"content": "Hi"}, "done": True}}
    with double(old) as url, Server(url) as server:
        assert base_parity(server, "own:v1", CHATML).verdict == "unknown"
    away = modelfile_parity(None, None, CHATML, Modelfile(template="{{ .Prompt }}"), "house")
    assert away is not None
    assert away.verdict == "unknown"
    assert modelfile_parity(None, None, CHATML, Modelfile(), "house") is None
    renderer = modelfile_parity(None, None, CHATML, Modelfile(renderer="qwen3"), "house")
    assert renderer is not None
    assert renderer.verdict == "unknown"


def test_the_plan_names_a_served_template_that_differs(bench: Bench, served: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("OLLAMA_HOST", served)
    for name, verdict in (("own:v1", "same"), ("other:v1", "differs")):
        with Server(served) as server:
            blob = server.show(name).blob
        assert blob is not None
        ingredients = Ingredients(base_record(blob, name), bench.dataset, SETTINGS, "")
        plan = foresee(bench, ingredients)
        assert [one["verdict"] for one in plan.parity] == [verdict]
        with monkeypatch.context() as patch:
            patch.setattr(Server, "render", lambda *_args: pytest.fail("it was asked again"))
            assert foresee(bench, ingredients).parity == plan.parity


# What the user types.


class Asked:
    def __init__(self, bench: Bench, *answers: bool | None, **traits: Any) -> None:
        self.host = RecordingHost(bench.home.root, answers=answers, **traits)
        self.line = " ".join(bench.words(epochs=1)[1:])
        self.bench = bench

    def __call__(self, *flags: str, verb: str = "start", code: int = 0) -> str:
        line = " ".join([self.line.replace("start", verb, 1), *flags])
        assert finetune.make(self.host, self.bench.home).run(line) == code, self.host.output
        return self.host.output

    @property
    def run(self) -> Run | None:
        run = self.bench.run()
        return run if run.folder.exists() else None


def test_no_starts_nothing(bench: Bench) -> None:
    typed = Asked(bench, False)
    said = typed()
    assert typed.host.asked == ["Start?"]
    assert "   memory  " in said
    assert said.endswith("Nothing was started.\n")
    assert typed.run is None


@pytest.mark.parametrize("answer", [True, None], ids=["yes", "nobody"])
def test_yes_or_nobody_starts(bench: Bench, answer: bool | None) -> None:
    typed = Asked(bench, answer)
    typed()
    assert typed.host.asked == ["Start?"]
    assert typed.run is not None
    over(typed.run)
    plan = Plan.model_validate(typed.run.record.plan)
    assert plan.steps == typed.run.state.step
    assert typed.run.record.threads == plan.time.threads == 1


@pytest.mark.parametrize("way", ["--yes", "json"])
def test_who_does_not_want_to_be_asked_is_not(bench: Bench, way: str) -> None:
    typed = Asked(bench, False, json=way == "json")
    typed(*[way] if way == "--yes" else [])
    assert typed.host.asked == []
    assert typed.run is not None
    over(typed.run)


def test_plan_shows_and_starts_nothing(bench: Bench) -> None:
    typed = Asked(bench)
    said = typed(verb="plan")
    labels = [line[:9].strip() for line in said.splitlines()]
    assert [label for label in labels if label] == [
        "base", "family", "proof", "adapter", "dataset", "rows", "tokens", "steps", "memory", "time", "computes",
        "disk",
        "left out", "note",
    ]  # fmt: skip
    assert "trainable parameters" in said
    assert typed.host.asked == []
    assert typed.run is None
    typed.host.json = True
    typed.host.clear()
    whole = json.loads(typed(verb="plan"))
    assert whole["trainable_percent"] == pytest.approx(100 * whole["trainable"] / whole["parameters"])
    assert whole["memory"]["fits"] is True
    assert whole["refusal"] is None


def test_the_slower_pass_is_said_and_asked_about(bench: Bench, tmp_path: Path) -> None:
    bench.base = rewrite(bench.base, tmp_path / "odd.gguf", add={"qwen2.final_logit_softcapping": 30.0})
    typed = Asked(bench, False)
    said = " ".join(typed().split())
    assert "computes with the library's pass, many times slower, because it says qwen2.final_logit_softcapping" in said
    assert typed.host.asked == ["Start all the same, with the slower pass?"]
    assert typed.run is None
    typed.host.json = True
    typed.host.clear()
    compute = json.loads(typed(verb="plan"))["compute"]
    assert (compute["trainer"], compute["slowdown"]) == ("library", None)


def test_the_factor_is_measured_where_our_pass_computes_wrongly(bench: Bench) -> None:
    wrong = ComputeConfig(trainer="library", threads=2, reason="its hidden states differ", slowdown=30.6)
    plan = foresee(bench, made_of(bench))
    host = RecordingHost(bench.home.root)
    planned_in_short(host, plan.model_copy(update={"compute": wrong}))
    assert "with the library's pass, about 31 times slower, because its hidden states differ" in host.output


def test_an_engine_that_dies_while_it_is_measured_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_args: Any, **_options: Any) -> costs.Cost:
        raise EngineError("The engine stopped itself.")

    monkeypatch.setattr(costs, "probe", dies)
    typed = Asked(bench)
    assert "✗ The engine stopped itself." in typed(code=1)
    assert typed.run is None
