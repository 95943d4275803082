"""Runs that were made to go wrong, each in one or several ways, and what is said of them; and runs that went well."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from gguf import GGUFReader
from support.host import RecordingHost
from support.runs import Bench, children, over, reached

from meton_plugins.finetune.commands import finetune
from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.engine.compute import ComputeConfig
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home, private_dir, write_json
from meton_plugins.finetune.settings import BuildSettings, TrainSettings
from meton_plugins.finetune.train import circumstances, finding
from meton_plugins.finetune.train.diagnosis import diagnose, examine, hint
from meton_plugins.finetune.train.finding import Finding
from meton_plugins.finetune.train.launch import start
from meton_plugins.finetune.train.news import news
from meton_plugins.finetune.train.record import BaseRecord, RunRecord
from meton_plugins.finetune.train.runs import Run
from meton_plugins.finetune.train.signals import read
from meton_plugins.finetune.train.spikes import spikes
from meton_plugins.finetune.turn import Turn

pytest_plugins = ["support.run_fixtures"]

#: What the small dataset of the tests is: too little for a person, enough to train on within seconds.
SMALL = {"few examples", "no validation"}


def kinds(findings: Iterable[Finding]) -> set[str]:
    return {one.kind for one in findings}


def only(findings: Iterable[Finding], kind: str) -> Finding:
    return next(one for one in findings if one.kind == kind)


def frozen(bench: Bench, chats: Sequence[tuple[str, str]]) -> Path:
    """A dataset of these questions and answers, each a conversation of its own."""
    turns = [
        Turn(session=f"t{n}", at=f"2026-02-01T10:{n // 60:02d}:{n % 60:02d}", question=question, answer=answer)
        for n, (question, answer) in enumerate(chats)
    ]
    with Library(bench.home.make().library) as library:
        new, _ = library.add(turns)
        library.rate(new, 5)
        build = BuildSettings(form="plain", context_turns=0)
        return bench.home.datasets / dataset.build(library, build, bench.home.datasets).id


# Real runs that go wrong


def test_a_rate_that_is_much_too_low(bench: Bench) -> None:
    """And gradients that are always cut, and a warm-up for most of the steps."""
    run = bench.train(learning_rate=1e-9, epochs=5, max_grad_norm=0.02, warmup=0.6)
    found = diagnose(run)
    assert kinds(found) == {"not falling", "clipped", "long warm-up", *SMALL}
    worst = found[0]
    assert (worst.kind, worst.severity) == ("not falling", "bad"), "the worst comes first"
    assert worst.advice == "The learning rate is too low: --learning-rate 1e-4, now 1e-9."
    assert re.fullmatch(
        r"The training loss was 6\.\d\d and is 6\.\d\d after 50 steps; on the validation side 6\.\d\d before and "
        r"6\.\d\d at best\.",
        worst.evidence,
    )
    assert "--max-grad-norm" in only(found, "clipped").advice
    assert only(found, "clipped").evidence.startswith("In 100% of the steps the gradient was longer than 0.02; it is ")
    assert only(found, "long warm-up").evidence == "The learning rate rises for 30 of 50 steps."
    assert only(found, "long warm-up").advice == "--warmup 0.05, now 0.6; or more --epochs."
    assert hint(run) == "its loss did not fall"
    said = news(bench.home)
    assert len(said) == 1
    assert said[0].endswith(", but its loss did not fall: see /finetune diagnose one."), said


def test_a_rate_that_is_much_too_high(bench: Bench) -> None:
    found = diagnose(bench.train(learning_rate=0.5, epochs=6))
    assert kinds(found) == {"stuck", *SMALL}, found
    assert found[0].severity == "bad"
    assert found[0].advice == "The learning rate is too high: --learning-rate 0.05, now 0.5."
    assert re.match(r"The training loss stays at \d\.\d\d, and the gradient shrank from ", found[0].evidence)


def test_a_rate_that_becomes_too_high(bench: Bench) -> None:
    """It learns while the rate is small, and loses all when it has risen."""
    run = bench.train(learning_rate=0.3, epochs=12, warmup=1.0)
    found = diagnose(run)
    assert {"spikes", "long warm-up"} <= kinds(found), found
    spike = only(found, "spikes")
    assert spike.severity == "bad"
    assert re.search(r"the training loss (jumped from|rose to) \d\.\d+", spike.evidence), spike.evidence
    assert spike.advice.startswith("--learning-rate 0.15, now 0.3, or --batch-size 4, now 1;")
    assert not any("No sudden spikes" in line for line in examine(run).good)


def test_many_epochs_over_few_rows(bench: Bench) -> None:
    run = bench.train(epochs=20, learning_rate=1e-2)
    found = diagnose(run)
    assert kinds(found) == {"overfitting", *SMALL}, found
    worst = found[0]
    best = min((event for event in run.events() if event["event"] == "validation"), key=lambda event: event["loss"])
    assert re.match(r"Training loss 0\.\d+, validation \d\.\d\d after epoch 20; best ", worst.evidence), worst.evidence
    assert f"best {best['loss']:.2f} after epoch {best['epoch']}." in worst.evidence
    assert f"that of step {best['step']}, is the one that is kept" in worst.advice
    assert f"--epochs {best['epoch']}, now 20;" in worst.advice
    assert "--patience 2, now 0;" in worst.advice
    assert "--learning-rate 0.005, now 0.01" in worst.advice
    assert hint(run) == "it overfits"


def test_repeated_short_and_long_examples_and_nothing_that_judges(bench: Bench) -> None:
    """And so large a batch that there are hardly any steps."""
    same = [("the sky?", "blue")] * 8 + [("the sky ?", "blue")] * 2
    long = [(f"Is {n} the answer, " + "and so on, " * 12 + "or not?", "yes") for n in (31, 45, 77)]
    run = bench.create(ctx_size=64, batch_size=8, epochs=1)
    rows = [_row(f"e{n}", *chat) for n, chat in enumerate([*same, *long])]
    (run.folder / "dataset" / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (run.folder / "dataset" / "validation.jsonl").write_text("", encoding="utf-8")
    start(run)
    over(run)
    assert run.status == "finished", run.state.error
    found = diagnose(run)
    assert kinds(found) == {
        "left out", "few examples", "no validation", "short answers", "duplicates", "too short",
    }, found  # fmt: skip
    assert {one.severity for one in found} == {"note"}
    assert hint(run) is None
    assert only(found, "duplicates").evidence.startswith(
        "9 of 13 examples say what others say (8 word for word, 1 nearly); 'the sky?' is there 10 times."
    ), only(found, "duplicates").evidence
    left = only(found, "left out")
    assert re.match(
        r"3 of 13 training rows are longer than --ctx-size 64; they have \d+ to \d+ tokens\.", left.evidence
    )
    assert re.match(r"--ctx-size \d+, now 64;", left.advice)
    assert only(found, "no validation").problem == "Nothing judges it"
    assert only(found, "short answers").evidence.endswith(" in 10 rows.")
    assert only(found, "too short").evidence == "2 steps in all; under 50 an adapter hardly moves."
    assert only(found, "too short").advice == "--epochs 25, now 1, or more examples."


def test_a_context_too_small_for_everything(bench: Bench) -> None:
    run = bench.train(ctx_size=8)
    assert run.status == "failed"
    found = diagnose(run)
    assert (found[0].kind, found[0].severity) == ("left out", "bad")
    assert found[0].evidence.startswith("10 of 10 training rows are longer than --ctx-size 8; they have ")
    assert found[0].advice.startswith("--ctx-size 64, now 8;")
    assert hint(run) == "it saw few of its examples"


def test_a_loss_that_is_no_number(own_base: Bench) -> None:
    reader = GGUFReader(own_base.base, "r+")
    tensor = next(one for one in reader.tensors if one.name == "output_norm.weight")
    tensor.data[:] = np.float32(1e30)
    reader.data.flush()
    run = own_base.train()
    assert run.status == "failed"
    found = diagnose(run)
    assert (found[0].kind, found[0].severity) == ("divergence", "bad"), found
    assert "the loss was no number any more" in found[0].evidence.lower()
    assert "--learning-rate 1e-4, now 0.001" in found[0].advice
    assert "stuck" not in kinds(found)
    assert examine(run).good == []


def test_an_engine_that_is_killed_and_a_worker_that_is_killed_again_and_again(bench: Bench) -> None:
    run = bench.create(epochs=5000, save_steps=40)
    worker = start(run)
    reached(run, 30)
    assert kinds(diagnose(run)) == SMALL, "of a run that is at work, too"
    while run.alive:  # it may be begun again a few times
        for engine in children(worker.pid):
            engine.kill()
        time.sleep(0.05)
    assert run.status == "failed"
    found = diagnose(run)
    assert (found[0].kind, found[0].severity) == ("memory", "bad"), found
    assert "most likely because memory ran out" in found[0].evidence
    assert re.search(r"It had used \d+ MB at most\.", found[0].evidence)
    assert "--ctx-size 64, now 1024 (the longest row has 59 tokens)" in found[0].advice
    assert hint(run) == "its memory ran out"
    for _ in range(3):
        before = len(run.events())
        pid = start(run).pid
        reached(run, 40 + before % 2)
        psutil.Process(pid).kill()
        over(run)
    assert run.status == "interrupted"
    found = diagnose(run)
    assert only(found, "memory").severity == "note", "it went on since"
    assert re.match(r"3 of 4 attempts ended without a word", only(found, "interrupted").evidence)
    assert "--save-minutes 5, now 10." in only(found, "interrupted").advice


# Real runs that go well


def test_nothing_stands_out_in_a_good_run(bench: Bench) -> None:
    bench.dataset = frozen(bench, [(f"What is number {n}?", "It is the answer, as all know.") for n in range(70)])
    run = bench.train(epochs=4, learning_rate=3e-3, patience=2)
    assert run.status == "finished", run.state.error
    seen = examine(run)
    assert seen.healthy, seen.findings
    assert hint(run) is None
    host = RecordingHost(bench.home.root)
    assert finetune.make(host, bench.home).run("diagnose one") == 0
    lines = host.output.splitlines()
    assert lines[0] == "one  Nothing stands out."
    assert re.match(r"✓ The loss fell( with every epoch)?: \d\.\d+ → 0\.\d+\.", lines[1])
    assert re.match(r"✓ No sudden spikes in \d+ steps\.", lines[2])
    assert re.match(r"✓ On validation rows, which it never learned: 6\.\d+ before, 0\.\d+ at best\.", lines[3])
    assert lines[4].startswith("✓ Final loss 0.")
    assert "under the guide's 1.0, a rule of thumb" in lines[4]
    said = news(bench.home)
    assert len(said) == 1
    assert said[0].endswith(": /export model one makes a model of it.")


# What is shown


def test_the_findings_are_shown_with_evidence_and_advice(bench: Bench) -> None:
    run = bench.train(learning_rate=1e-9)
    host = RecordingHost(bench.home.root, width=80)
    command = finetune.make(host, bench.home)
    assert command.run("diagnose") == 0
    said = "\n".join(line.rstrip() for line in host.output.splitlines())
    assert said.startswith("one  3 findings\n✗  The loss does not fall\n")
    assert "→ The learning rate is too low: --learning-rate 1e-4, now 1e-9." in said
    assert all(len(line) <= 80 for line in said.splitlines())
    host.clear()
    host.json = True
    assert command.run(f"diagnose {run.name}") == 0
    value = json.loads(host.output)
    assert value["healthy"] is False
    assert [one["kind"] for one in value["findings"]] == ["not falling", "few examples", "no validation"]
    assert set(value["findings"][0]) == {"kind", "severity", "problem", "evidence", "advice", "short"}


def test_a_run_that_is_not_there(home: Path) -> None:
    host = RecordingHost(home)
    assert finetune.make(host, Home(home)).run("diagnose nope") == 1
    assert "There is no run yet" in host.output


# Made-up series


@pytest.fixture
def made(home: Path) -> Callable[..., Run]:
    """A run of these numbers, with enough rows on each side."""

    def make(
        losses: Sequence[float] = (), checks: Sequence[tuple[int, float]] = (), *, name: str = "one",
        status: str = "finished", batches: int = 0, total: int = 0, events: Sequence[dict[str, Any]] = (),
        settings: dict[str, Any] | None = None, state: dict[str, Any] | None = None, rows: int = 500,
        judges: int = 50, plan: dict[str, Any] | None = None, compute: dict[str, Any] | None = None, **step: Any,
    ) -> Run:  # fmt: skip
        folder = private_dir(private_dir(home / "runs") / name)
        base = BaseRecord(path="/base.gguf", sha256="0" * 64, architecture="qwen2", parameters=1, size=1, mtime_ns=1)
        record = RunRecord(
            name=name, created="2026-03-01T10:00:00+00:00", base=base, dataset="d", learned="last", plan=plan,
            examples={"train": rows, "validation": judges}, settings=TrainSettings(**(settings or {})),
            template="basic", system="", threads=64,
            compute=ComputeConfig.model_validate(compute) if compute else None,
        )  # fmt: skip
        write_json(folder / "run.json", record.model_dump(mode="json"))
        write_json(folder / "state.json", {"status": status, "attempt": 1, "step": len(losses), **(state or {})})
        batches = batches or max(1, len(losses))
        lines: list[dict[str, Any]] = [
            {"event": "rows", "side": "train", "rows": rows, "learned": 50 * rows, "longest": 400, "skipped": []},
            {"event": "rows", "side": "validation", "rows": judges, "learned": 2500, "longest": 400, "skipped": []},
            {"event": "begin", "steps": total or len(losses), "batches": batches, "epochs": 3},
        ]
        rest = {"gradient_norm": 0.5, "tokens_per_s": 100.0, "learning_rate": 1e-4, **step}
        ahead = sorted(checks)
        for number, one in enumerate(losses, 1):
            while ahead and ahead[0][0] < number:
                at, loss = ahead.pop(0)
                lines.append({"event": "validation", "step": at, "epoch": at // batches, "loss": loss})
            values = {key: value[number - 1] if isinstance(value, list) else value for key, value in rest.items()}
            lines.append({"event": "step", "step": number, "epoch": 1, "loss": one, **values})
        lines += [{"event": "validation", "step": at, "epoch": at // batches, "loss": loss} for at, loss in ahead]
        lines += list(events)
        if status in ("finished", "failed", "paused"):
            lines.append({"event": status, "message": (state or {}).get("error", "")})
        with (folder / "events.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"attempt": 1, **line}) + "\n" for line in lines)
        return Run(folder)

    return make


def falling(steps: int, start: float = 2.0, end: float = 0.8, noise: float = 0.2, seed: int = 1) -> list[float]:
    """A loss that falls as losses do, with rows that are harder than others."""
    some = random.Random(seed)
    part = [math.exp(-4 * step / steps) for step in range(steps)]
    return [end + (start - end) * one + some.uniform(-noise, noise) for one in part]


Made = Callable[..., Run]


def test_a_run_that_has_not_begun(made: Made) -> None:
    run = made(status="starting")
    (run.folder / "events.jsonl").unlink()
    assert diagnose(run) == []
    assert examine(run).good == []


def test_one_step(made: Made) -> None:
    assert diagnose(made([2.0], total=1000, status="paused")) == []


def test_half_a_line_at_the_end(made: Made) -> None:
    run = made(falling(300), total=600, status="paused")
    with (run.folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "step", "step": 301, "loss": 1')
    assert diagnose(run) == []
    assert len(read(run).losses) == 300


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("batches", [40, 100, 300])
def test_noise_is_no_spike(seed: int, batches: int) -> None:
    some = random.Random(seed)
    # A tenth of the rows is of another kind, five times as hard, and some are harder still.
    hard = [some.choice((5.0, 8.0)) if some.random() < 0.1 else 1.0 for _ in range(batches)]
    losses = []
    for epoch in range(5):
        rows = hard[:]
        some.shuffle(rows)
        losses += [row * (0.2 + 0.8 * 0.6**epoch) * some.uniform(0.7, 1.3) for row in rows]
    assert spikes(losses, batches) == []


def test_a_jump_is_a_spike_and_says_how_long_it_lasts() -> None:
    losses = falling(400)
    losses[200:215] = [4.0] * 15
    (spike,) = spikes(losses)
    assert spike.start == 200
    assert spike.peak == 4.0
    assert 0.7 < spike.before < 1.5
    assert 11 <= spike.lasts <= 16


def test_a_jump_that_stays() -> None:
    losses = [*falling(200), *([3.5] * 100)]
    (spike,) = spikes(losses)
    assert (spike.start, spike.lasts) == (200, 0)


def test_two_jumps_are_counted(made: Made) -> None:
    losses = falling(600)
    losses[300:308] = [3.0] * 8
    losses[450:458] = [5.0] * 8
    found = diagnose(made(losses, batches=200))
    assert kinds(found) == {"spikes"}
    assert found[0].evidence.startswith("At step 451 the training loss jumped from ")
    assert found[0].evidence.endswith(" to 5.00, one of 2 such jumps.")


def test_one_step_far_above_all_is_a_spike_by_itself() -> None:
    losses = falling(400)
    losses[300] = 9.0
    assert [spike.start for spike in spikes(losses, 100)] == [300]
    losses[300] = 3.0
    assert spikes(losses, 100) == []


def test_a_single_epoch_that_is_all_learned_early_is_no_flat_one(made: Made) -> None:
    losses = [*falling(100, 3.0, 1.0), *([1.0] * 2900)]
    assert diagnose(made(losses, batches=1000)) == []


def test_a_flat_loss_while_it_trains(made: Made) -> None:
    flat = [2 + random.Random(n).uniform(-0.2, 0.2) for n in range(300)]
    found = diagnose(made(flat, status="paused", batches=1000, total=3000))
    assert kinds(found) == {"not falling"}
    assert "--lora-rank 32, now 16" in found[0].advice


def test_within_the_warm_up_nothing_need_fall(made: Made) -> None:
    flat = [2 + random.Random(n).uniform(-0.1, 0.1) for n in range(100)]
    assert diagnose(made(flat, status="paused", batches=1000, total=3000)) == []


def test_what_was_known_before_need_not_fall(made: Made) -> None:
    assert diagnose(made([0.05] * 300, batches=100)) == []


@pytest.mark.parametrize(
    ("now", "advice"),
    [(1e-7, "too low: --learning-rate 1e-4, now 1e-7"), (5e-3, "too high: --learning-rate 5e-4, now 0.005")],
    ids=["low", "high"],
)
def test_a_flat_loss_and_the_rate(made: Made, now: float, advice: str) -> None:
    found = diagnose(made([2.0, 2.1] * 150, batches=100, settings={"learning_rate": now}))
    assert advice in only(found, "not falling").advice


def test_a_loss_that_rises_far_above_its_beginning(made: Made) -> None:
    found = diagnose(made([1.0 + step / 50 for step in range(300)], batches=100))
    assert kinds(found) == {"divergence"}
    assert found[0].evidence == "The training loss rose from 1.99 to 5.99."


def test_a_number_that_is_none(made: Made) -> None:
    run = made([*falling(40), math.nan], status="failed", state={"error": "The engine crashed."}, total=900)
    found = diagnose(run)
    assert found[0].kind == "divergence"
    assert "at step 41 the loss was no number any more" in found[0].evidence


def test_a_validation_that_is_none(made: Made) -> None:
    assert kinds(diagnose(made(falling(100), [(0, 2.0), (100, math.nan)]))) == {"divergence"}


def test_a_validation_that_rises_little_is_unrest(made: Made) -> None:
    losses = falling(600)
    assert diagnose(made(losses, [(0, 2.0), (200, 1.0), (400, 1.02), (600, 1.01)], batches=200)) == []


def test_a_validation_that_rises_once_is_no_proof(made: Made) -> None:
    losses = falling(600)
    assert diagnose(made(losses, [(0, 2.0), (200, 1.2), (400, 1.0), (600, 1.08)], batches=200)) == []
    found = diagnose(made(losses, [(0, 2.0), (200, 1.2), (400, 1.0), (600, 1.4)], batches=200))
    assert kinds(found) == {"overfitting"}
    assert "--epochs 2, now 3;" in found[0].advice
    assert "--patience" not in found[0].advice, "it is on already"


def test_overfitting_that_was_seen_in_time_is_no_fault(made: Made) -> None:
    run = made(falling(600), [(0, 2.0), (200, 1.0), (400, 1.2), (600, 1.4)], batches=200, total=900)
    found = diagnose(run)
    assert [(one.kind, one.severity, one.problem) for one in found] == [
        ("overfitting", "note", "It overfits, and stopped by itself")
    ]
    assert hint(run) is None


def test_an_engine_that_was_killed_and_began_again(made: Made) -> None:
    said = "the engine was killed, most likely because memory ran out: it begins again at step 40 (try 1 of 3)"
    events = [{"event": "restarted", "step": 40, "message": said}] * 2
    found = diagnose(made(falling(300), events=events))
    assert [(one.kind, one.severity) for one in found] == [("memory", "note")]
    assert found[0].evidence.endswith("(try 1 of 3) (2 times).")
    assert found[0].evidence.startswith("The engine was killed, most likely because memory ran out")


def test_a_gap_that_does_not_rise(made: Made) -> None:
    losses = falling(600, 2.0, 0.1, noise=0.02)
    found = diagnose(made(losses, [(0, 2.0), (200, 1.7), (400, 1.66), (600, 1.65)], batches=200))
    assert [(one.kind, one.severity) for one in found] == [("gap", "note")]
    assert "--lora-rank 8, now 16" in found[0].advice


def test_the_last_epoch_was_still_worth_it(made: Made) -> None:
    checks = [(0, 2.0), (200, 1.6), (400, 1.4), (600, 1.2)]
    found = diagnose(made(falling(600), checks, batches=200))
    assert [(one.kind, one.severity) for one in found] == [("too short", "note")]
    assert found[0].evidence == "The last epoch still brought the validation loss from 1.40 to 1.20."
    assert found[0].advice.startswith("--epochs 6, now 3;")
    assert diagnose(made(falling(600), checks, batches=200, total=900)) == [], "it stopped early by itself"
    assert diagnose(made(falling(600), checks, batches=200, status="paused")) == [], "it may go on"


def test_a_large_batch_makes_few_steps(made: Made) -> None:
    found = diagnose(made(falling(30), rows=80, batches=10, settings={"batch_size": 8}))
    assert only(found, "too short").advice == "--batch-size 1, now 8."


FORESEEN = {"time": {"tokens_per_s": 240}}
SPEED = {"trained_seconds": circumstances.WORTH}


@pytest.mark.parametrize(
    ("speeds", "plan", "evidence", "advice"),
    [
        ([100.0] * 300, FORESEEN, "100 tokens/s, where the plan foresaw 240.", "Something else was at"),
        ([240.0] * 150 + [80.0] * 150, None, "It fell from 240 to 80 tokens/s.", "Something else began"),
    ],
    ids=["than foreseen", "than at first"],
)
def test_slower(made: Made, speeds: list[float], plan: Any, evidence: str, advice: str) -> None:
    found = diagnose(made(falling(300), plan=plan, state=SPEED, tokens_per_s=speeds))
    assert kinds(found) == {"slow"}
    assert found[0].evidence == evidence
    assert found[0].advice.startswith(advice)
    # Its rows are far shorter than its --ctx-size, so that a smaller one would change nothing.
    assert "--ctx-size" not in found[0].advice
    assert "shorter rows make it faster too" in found[0].advice


def test_a_smaller_ctx_size_is_advised_where_it_leaves_out_rows(made: Made) -> None:
    run = made(falling(300), plan=FORESEEN, state=SPEED, tokens_per_s=[100.0] * 300, settings={"ctx_size": 512})
    assert "--ctx-size 256, now 512, leaves out the longest rows" in diagnose(run)[0].advice


def test_the_slower_pass_is_named_with_its_reason(made: Made) -> None:
    compute = {"trainer": "library", "threads": 2, "reason": "the architecture is odd", "slowdown": 12.4}
    found = only(diagnose(made(falling(300), compute=compute)), "slow pass")
    assert "takes about 12 times as long, because the architecture is odd" in found.evidence


def test_slow_for_its_threads(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circumstances, "threads", lambda: 128)
    found = diagnose(made(falling(300), state=SPEED))
    assert found[0].evidence == "100 tokens/s with 64 threads; this machine has 128 cores."
    assert found[0].advice.startswith("--threads 128, now 64;")


@pytest.mark.parametrize("plan", [None, {}, {"time": {"tokens_per_s": None}}, {"time": {"tokens_per_s": 120}}])
def test_as_fast_as_foreseen(made: Made, plan: Any) -> None:
    assert diagnose(made(falling(300), plan=plan, state=SPEED)) == []


def test_slowness_of_minutes_is_not_worth_a_word(made: Made) -> None:
    assert diagnose(made(falling(300), plan={"time": {"tokens_per_s": 900}}, state={"trained_seconds": 60})) == []


def test_a_warm_up_that_never_ended(made: Made) -> None:
    run = made(falling(60), total=1000, settings={"warmup": 0.2})
    assert only(diagnose(run), "long warm-up").evidence.startswith("It ended after 60 steps, while the learning rate ")


@pytest.mark.parametrize(
    "error",
    [
        "The memory of this machine is full: use a smaller --ctx-size or base.",
        "The engine stopped itself (abort): its input or the memory was not what it expects. Its last words: ggml: "
        "failed to allocate buffer of size 123",
    ],
    ids=["Python's", "the library's"],
)
def test_words_that_mean_memory(made: Made, error: str) -> None:
    found = diagnose(made(falling(60), total=900, status="failed", state={"error": error}))
    assert kinds(found) == {"memory"}
    assert "--ctx-size 256, now 1024 (the longest row has 400 tokens)" in found[0].advice


def test_another_failure_is_named(made: Made) -> None:
    error = "The disk is full (/runs/one): make room and resume."
    found = diagnose(made(falling(60), total=900, status="failed", state={"error": error}))
    assert [(one.kind, one.severity, one.evidence) for one in found] == [("failed", "bad", error)]


def test_an_abort_is_no_lack_of_memory(made: Made) -> None:
    error = "The engine stopped itself (abort): its input or the memory was not what it expects."
    assert kinds(diagnose(made(falling(60), total=900, status="failed", state={"error": error}))) == {"failed"}


def test_examples_that_a_template_refuses(made: Made) -> None:
    skipped = [{"id": str(n), "reason": "nothing to train on: it has no answer"} for n in range(300)]
    rows = {"event": "rows", "side": "train", "rows": 200, "learned": 9000, "longest": 400, "skipped": skipped}
    found = diagnose(made(falling(300), events=[rows]))
    assert (found[0].kind, found[0].severity) == ("left out", "bad")
    assert "300 of 500 training rows could not be used: 300 times nothing to train on" in found[0].evidence


def test_steps_that_were_repeated_count_once(made: Made) -> None:
    run = made(falling(300), total=900, status="paused")
    again = [{"event": "step", "step": 300, "loss": 0.123, "attempt": 2}]
    with (run.folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in again)
    signals = read(run)
    assert (len(signals.losses), signals.losses[-1], signals.repeated) == (300, 0.123, 1)


def test_copies_that_the_user_wanted_are_no_duplicates(made: Made) -> None:
    """Weighted rows have one id, and a plain copy of an answer says which it is."""
    run = made(falling(300))
    rows = [_row(f"e{n}", f"Tell me of topic {n}.", f"Topic {n} is about {n * n} things.") for n in range(40)]
    rows += [_row("e1", "Tell me of topic 1.", "Topic 1 is about 1 things.")] * 9
    rows += [_row(f"e{n}#plain", f"Tell me of topic {n}.", f"Topic {n} is about {n * n} things.") for n in range(10)]
    private_dir(run.folder / "dataset")
    (run.folder / "dataset" / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert diagnose(run) == []
    rows += [_row(f"f{n}", "Tell me of topic 7.", "Topic 7 is about 49 things.") for n in range(4)]
    (run.folder / "dataset" / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (found,) = diagnose(run)
    assert found.evidence == (
        "4 of 44 examples say what others say (4 word for word, 0 nearly); 'Tell me of topic 7.' is there 5 times."
    )
    assert diagnose(run, rows=False) == []


def _row(name: str, question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"id": name, "session": name, "messages": messages})


@pytest.mark.parametrize(
    ("value", "said"),
    [(1e-4, "1e-4"), (5e-5, "5e-5"), (1.5e-5, "1.5e-5"), (0.001, "0.001"), (0.02, "0.02"), (1.0, "1"), (1e-9, "1e-9")],
)
def test_rates_are_said_as_people_type_them(value: float, said: str) -> None:
    assert finding.rate(value) == said
    assert float(said) == value


def test_every_setting_that_is_advised_is_there(made: Made) -> None:
    """The texts name flags by hand."""
    modules = Path(finding.__file__).parent
    texts = "".join((modules / f"{name}.py").read_text() for name in ("learning", "circumstances", "repeated"))
    known = {f"--{name.replace('_', '-')}" for name in (*TrainSettings.model_fields, *BuildSettings.model_fields)}
    named = set(re.findall(r"--[a-z][a-z-]+", texts)) - {"--remeasure"}  # of `plan` and `start`, and no setting
    assert len(named) > 12
    assert named <= known


# Notices


def test_a_notice_of_a_long_run_is_not_felt(made: Made) -> None:
    run = made(falling(5000), [(0, 2.0), (5000, 0.9)], batches=1000)
    assert hint(run) is None
    took = []
    for _ in range(5):
        begun = time.process_time()
        hint(run)
        took.append(time.process_time() - begun)
    # About 15 ms on the machine where it was written; twice that where others are at work on it.
    assert min(took) < 0.05, took


def test_a_damaged_run_keeps_no_chat_from_starting(made: Made, home: Path) -> None:
    made(falling(300), events=[{"event": "rows", "side": "train"}])
    (line,) = news(Home(home))
    assert line.startswith("The run one has finished")


def test_only_the_last_runs_are_looked_into(made: Made, home: Path) -> None:
    run = made([2.0] * 300, batches=100, name="r0")
    for number in range(1, 5):
        shutil.copytree(run.folder, run.folder.with_name(f"r{number}"))
    lines = news(Home(home))
    assert lines[0] == "2 more runs have ended: see /finetune runs."
    assert all(line.endswith(f", but its loss did not fall: see /finetune diagnose r{n}.")
               for n, line in enumerate(sorted(lines[1:]), 2))  # fmt: skip
