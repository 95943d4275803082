"""The gate: each line's number against its threshold, and real tiny models that pass and fail."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from support.host import RecordingHost, Slots
from support.runs import Bench, judged_dataset

from meton_plugins.finetune import form
from meton_plugins.finetune.commands import model_register
from meton_plugins.finetune.engine.jobs import Loss
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.serve import tools_check
from meton_plugins.finetune.serve.bootstrap import difference
from meton_plugins.finetune.serve.canary import QUESTIONS, canary
from meton_plugins.finetune.serve.form_check import FormCheck
from meton_plugins.finetune.serve.gate import (
    Gate,
    Line,
    Verdict,
    against_base,
    against_holder,
    forgetting,
    keeps_form,
    nothing_to_compare,
    uses_tools,
)
from meton_plugins.finetune.serve.heldout import by_example, heldout
from meton_plugins.finetune.serve.subject import find_subject
from meton_plugins.finetune.serve.tools_check import REQUESTS, ToolsCheck
from meton_plugins.finetune.serve.trial import Holder, find_holder, run_trial
from meton_plugins.finetune.settings import GateSettings
from meton_plugins.finetune.train.runs import Run

pytest_plugins = ["support.run_fixtures"]

SETTINGS = GateSettings()


def losses(values: Sequence[float], tokens: int = 10) -> dict[str, Loss]:
    """One example for each value, which is nats a token."""
    return {f"e{number}": Loss(value * tokens, tokens) for number, value in enumerate(values)}


# The paired bootstrap


def test_the_interval_is_that_of_the_textbook() -> None:
    random = np.random.default_rng(5)
    gains = random.normal(-0.2, 0.3, 200)
    seen = difference(losses(2 + gains), losses(np.full(200, 2.0).tolist()))
    assert seen.examples == 200
    assert seen.mean == pytest.approx(gains.mean())
    # For means of many examples the percentile interval is the normal one.
    half = 1.96 * gains.std() / np.sqrt(200)
    assert (seen.low, seen.high) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.006)


def test_examples_are_paired() -> None:
    """Answers differ in difficulty far more than two models do: only their pairs show the difference."""
    hard = np.random.default_rng(6).uniform(0.5, 8, 40)
    seen = difference(losses(hard - 0.05), losses(hard))
    assert seen.low == pytest.approx(-0.05)
    assert seen.high == pytest.approx(-0.05)


def test_long_answers_count_for_their_tokens() -> None:
    new = {"a": Loss(100.0, 100), "b": Loss(30.0, 10)}
    old = {"a": Loss(200.0, 100), "b": Loss(10.0, 10)}
    assert difference(new, old).mean == pytest.approx((100 + 30 - 210) / 110)


def test_only_what_both_were_asked_counts_and_the_other_tokenizer_does_not() -> None:
    new = {"a": Loss(10.0, 3), "c": Loss(999.0, 1)}
    old = {"a": Loss(20.0, 10), "b": Loss(0.0, 5)}
    assert difference(new, old).mean == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="no example"):
        difference(new, {"b": Loss(1.0, 1)})


def test_the_same_numbers_give_the_same_interval() -> None:
    new, old = losses([1.0, 2.0, 3.0]), losses([1.5, 1.9, 3.3])
    assert difference(new, old) == difference(new, old)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        gains = np.random.default_rng(seed).normal(-0.1, 0.5, 40)
        seen = difference(losses(3 + gains), losses([3.0] * 40), seed)
        covered += seen.low <= -0.1 <= seen.high
    assert 51 <= covered <= 60


# Lines


@pytest.mark.parametrize(
    ("gain", "noise", "count", "verdict"),
    [
        (0.5, 0.2, 30, "pass"),
        (0.02, 0.6, 30, "fail"),
        (0.0, 0.0, 30, "fail"),
        (-0.4, 0.2, 30, "fail"),
        (0.5, 0.2, 19, "too little data"),
        (0.5, 0.2, 20, "pass"),
    ],
    ids=["better", "chance", "same", "worse", "few", "just-enough"],
)
def test_against_the_base(gain: float, noise: float, count: int, verdict: Verdict) -> None:
    base = np.random.default_rng(1).uniform(1, 4, count)
    new = base - gain + np.random.default_rng(2).normal(0, noise, count)
    line = against_base(losses(new), losses(base), SETTINGS)
    assert line.verdict == verdict
    assert line.threshold == "95% interval below +0.00 nats a token"
    if verdict == "too little data":
        assert "19 held-out examples are fewer than 20" in line.found


def test_against_the_slots_model_the_same_is_enough() -> None:
    same = losses([2.0] * 25)
    assert against_holder(same, same, SETTINGS).verdict == "pass"
    assert against_base(same, same, SETTINGS).verdict == "fail"
    worse = losses([2.02] * 25)
    assert against_holder(worse, same, SETTINGS).verdict == "fail"
    assert against_holder(worse, same, GateSettings(against_holder=0.05)).verdict == "pass"


def test_a_model_that_is_gone_leaves_nothing_to_lose() -> None:
    assert nothing_to_compare("gone", SETTINGS, gone=True).verdict == "pass"
    assert nothing_to_compare("far away", SETTINGS, gone=False).verdict == "not measurable"


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (FormCheck(prompts=50, base=50, tuned=49, verdict="pass", reason=""), "pass"),
        (FormCheck(prompts=50, base=50, tuned=48, verdict="fail", reason=""), "fail"),
        (FormCheck(prompts=9, verdict="too little data", reason="9 prompts"), "too little data"),
        (FormCheck(prompts=50, verdict="not measurable", reason="the base never"), "pass"),
    ],
    ids=["kept", "lost", "few", "base-never"],
)
def test_the_form(check: FormCheck, verdict: Verdict) -> None:
    assert keeps_form(check, SETTINGS).verdict == verdict


def test_the_forms_threshold_is_a_setting() -> None:
    lost = FormCheck(prompts=50, base=50, tuned=46, verdict="fail", reason="")
    assert keeps_form(lost, GateSettings(form_fall=8)).verdict == "pass"


def test_tools() -> None:
    assert uses_tools(ToolsCheck(requests=5, base=4, tuned=4)).verdict == "pass"
    assert uses_tools(ToolsCheck(requests=5, base=4, tuned=3)).verdict == "fail"
    assert uses_tools(ToolsCheck(requests=5, base=0, tuned=0)).verdict == "pass"


def test_forgetting() -> None:
    base = losses([1.0] * 24)
    assert forgetting(losses([1.05] * 24), base, SETTINGS).verdict == "pass"
    worse = forgetting(losses([1.06] * 24), base, SETTINGS)
    assert (worse.verdict, worse.number) == ("fail", pytest.approx(0.06))
    assert "1.000 → 1.060 (+6.0%)" in worse.found
    assert forgetting({}, {}, SETTINGS).verdict == "not measurable"


def test_nothing_but_a_pass_is_one() -> None:
    def gate(*verdicts: Verdict) -> Gate:
        lines = [Line(name=str(n), verdict=verdict, found="", threshold="") for n, verdict in enumerate(verdicts)]
        return Gate(model="m", base="b", heldout=20, lines=lines)

    assert gate("pass", "pass").passed
    assert gate("pass", "too little data").verdict == "too little data"
    assert gate("too little data", "not measurable", "pass").verdict == "not measurable"
    assert gate("not measurable", "fail", "too little data").verdict == "fail"
    assert not gate("pass", "fail").passed


@pytest.mark.parametrize("values", [{"fewest": 0}, {"forgetting": -1}, {"against_base": float("nan")}], ids=str)
def test_thresholds_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GateSettings(**values)


# The tools smoke test


def calling(tool: str, given: str) -> str:
    return f"THOUGHT: I need a tool.\nACTION: {tool}\nACTION_INPUT: {given}\nANSWER:"


def test_the_right_tool_with_json_counts() -> None:
    def good(texts: Sequence[str]) -> list[str]:
        return [calling(request.tool, '{"path": "."}') for request in REQUESTS]

    def poor(texts: Sequence[str]) -> list[str]:
        return [
            calling("file_operations", '{"action": "read", "path": "README.md"}'),
            calling("file_operations", "{path: src}"),
            calling("run_python", '{"code": "print(2 + 2)"}'),
            form.wrap("It is in core/config.py."),
            calling("web_search", '"FastAPI"'),
        ]

    found = tools_check.check(good, poor)
    assert (found.requests, found.base, found.tuned) == (5, 5, 1)


def test_the_requests_are_in_metons_own_words_where_they_were_heard() -> None:
    assert all("Tools: code_executor, codebase_search, file_operations" in text for text in tools_check.prompts(None))
    full = tools_check.prompts("INSTRUCTIONS")
    assert all(text.startswith("INSTRUCTIONS") for text in full)
    assert REQUESTS[0].question in full[0]


# The canary set


def test_the_bases_own_answers_are_generated_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def speak(texts: Sequence[str]) -> list[str]:
        asked.append(len(texts))
        return ["" if number == 3 else f"answer {number}" for number in range(len(texts))]

    home = Home(tmp_path)
    first = canary(home, "ab" * 32, speak)
    assert canary(home, "ab" * 32, speak) == first
    assert asked == [len(QUESTIONS)]
    assert len(first) == len(QUESTIONS) - 1, "a question without an answer is left out"
    assert first[0][1][-1] == {"role": "assistant", "content": "answer 0"}
    canary(home, "cd" * 32, speak)
    assert len(asked) == 2, "another base has other answers"


def test_a_spoilt_canary_file_is_made_anew(tmp_path: Path) -> None:
    home = Home(tmp_path)
    canary(home, "ab" * 32, lambda texts: ["x"] * len(texts))
    kept = next((tmp_path / "bases").iterdir())
    for spoilt in ("", "{", "[]", '{"What?": "x"}'):
        kept.write_text(spoilt)
        assert len(canary(home, "ab" * 32, lambda texts: ["y"] * len(texts))) == len(QUESTIONS)
        assert json.loads(kept.read_text())[QUESTIONS[0]] == "y"


# Held-out examples


def dataset(folder: Path, train: Sequence[tuple[str, str]], held: Sequence[tuple[str, str]]) -> Run:
    """A run's folder with rows of (id, session)."""
    (folder / "dataset").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    for name, rows in (("train", train), ("heldout", held)):
        lines = [
            json.dumps({"id": i, "session": session, "messages": [{"role": "user", "content": f"What is {i}?"}]})
            for i, session in rows
        ]
        (folder / "dataset" / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "learned.json").write_text("{}")
    return Run(folder)


def test_nothing_that_an_ancestor_learned_judges(tmp_path: Path) -> None:
    held = [("h1#1", "s1"), ("h1#2", "s1"), ("h2", "s2"), ("h3", "s3")]
    run = dataset(tmp_path / "new", [("a", "s0")], held)
    holder = dataset(tmp_path / "holder", [("h2", "s9"), ("b", "s3")], [])
    assert [name for name, _ in heldout([run])] == ["h1#1", "h1#2", "h2", "h3"]
    # The holder was trained on the very example, and on another one of the same conversation.
    assert [name for name, _ in heldout([run, holder])] == ["h1#1", "h1#2"]


def test_the_rows_of_an_example_are_one() -> None:
    found = by_example({"a#1": Loss(2.0, 4), "a#2": Loss(3.0, 6), "b": Loss(1.0, 1)})
    assert found == {"a": Loss(5.0, 10), "b": Loss(1.0, 1)}


# Real models


@pytest.fixture
def judged(bench: Bench) -> Bench:
    """The bench with a dataset of which 26 examples are held out."""
    bench.dataset = judged_dataset(bench.home)
    return bench


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


def test_a_good_run_passes_and_a_bad_one_does_not(judged: Bench) -> None:
    home = judged.home
    good = judged.train("good", epochs=1, learning_rate=3e-4, lora_rank=8)
    found = run_trial(home, find_subject(home, "good"), "good", None, SETTINGS, silent)
    assert [(line.name, line.verdict) for line in found.lines] == [
        ("better than its base", "pass"),
        ("keeps Meton's form", "pass"),
        ("calls tools", "pass"),
        ("forgets little", "pass"),
    ], found
    assert found.passed
    assert found.heldout == 26
    kept = json.loads((home.models / "good" / "gate.json").read_text())
    assert Gate.model_validate(kept) == found

    # A slot whose model nobody could load any more has nothing to lose; one that cannot be measured is no pass.
    for gone, verdict in ((True, "pass"), (False, "not measurable")):
        held = run_trial(
            home, find_subject(home, "good"), "good", Holder("x:7b", reason="?", gone=gone), SETTINGS, silent
        )
        assert {line.name: line.verdict for line in held.lines}["not worse than the slot's"] == verdict

    # One that hardly learned is no better than chance, and worse than the good one in the slot.
    judged.train("weak", epochs=1, learning_rate=1e-9, lora_rank=8)
    holder = find_holder(home, None, str(judged.base), find_subject(home, "good"))
    assert holder.contender is not None
    holding = holder.contender._replace(adapter=good.adapter(), sha256="the good one")
    found = run_trial(
        home, find_subject(home, "weak"), "weak", holder._replace(contender=holding, run=good), SETTINGS, silent
    )
    assert {line.name: line.verdict for line in found.lines}["not worse than the slot's"] == "fail", found
    assert found.verdict == "fail"

    # One that learned far too fast has forgotten what its base said.
    judged.train("bad", epochs=1, learning_rate=0.1, lora_rank=8)
    found = run_trial(home, find_subject(home, "bad"), "bad", None, SETTINGS, silent)
    assert {line.name: line.verdict for line in found.lines}["forgets little"] == "fail", found


def test_what_was_measured_is_not_measured_again(judged: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    judged.train("one", epochs=1)
    home = judged.home
    first = run_trial(home, find_subject(home, "one"), "one", None, SETTINGS, silent)
    monkeypatch.setattr("meton_plugins.finetune.engine.jobs.losses", lambda *_a, **_k: pytest.fail("measured twice"))
    assert run_trial(home, find_subject(home, "one"), "one", None, SETTINGS, silent) == first


def test_few_held_out_examples_decide_nothing(bench: Bench, trained: Run) -> None:
    found = run_trial(bench.home, find_subject(bench.home, "one"), "one", None, SETTINGS, silent)
    assert found.verdict in ("fail", "too little data")
    assert found.lines[0].verdict == "too little data"
    assert re.match(r"\d held-out examples? (is|are) fewer than 20", found.lines[0].found)
    # promote needs no more than that, and does not spend an hour on the rest.
    quick = run_trial(bench.home, find_subject(bench.home, "one"), "one", None, SETTINGS, silent, whole=False)
    assert quick.lines == found.lines[:1]
    assert quick.verdict == "too little data"


def test_a_holder_that_the_server_does_not_have_leaves_nothing_to_lose(bench: Bench, trained: Run) -> None:
    class Empty:
        def exists(self, name: str) -> bool:
            return False

    subject = find_subject(bench.home, "one")
    holder = find_holder(bench.home, Empty(), "qwen:7b", subject)  # type: ignore[arg-type]
    assert (holder.contender, holder.gone) == (None, True)
    unknown = find_holder(bench.home, None, "qwen:7b", subject)
    assert (unknown.contender, unknown.gone) == (None, False)


def test_gate_as_it_is_typed(bench: Bench, trained: Run) -> None:
    host = RecordingHost(bench.home.root, slots=Slots({"primary": "a:b"}))
    assert model_register.make(host).run("gate one") == 1
    assert "The gate for one, on" in host.output
    assert "? better than its base" in host.output
    host.clear()
    host.json = True
    assert model_register.make(host).run("gate one") == 1
    assert host.last_json()["verdict"] in ("fail", "too little data")
    host.clear()
    assert model_register.make(host).run("gate nothing") == 1
    assert "There is no run 'nothing'" in host.last_json()["error"]
