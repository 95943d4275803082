"""The quality score: every part has a value and a reason, and the user's rating outweighs them all."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.host import RecordingHost

from meton_plugins.finetune.commands.dataset import make
from meton_plugins.finetune.curate.quality import BANDS, judge
from meton_plugins.finetune.library import Example, Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.turn import ToolUse, Turn

CHECKS = ("length", "code", "refusal", "repetition", "truncation", "tools")
FAILED = (ToolUse(name="code_executor", output="✗ no such file"),)


def example(**more: Any) -> Example:
    values = {"question": "What is it?", "answer": "A long enough answer to it.", "at": "2026-03-02T09:00:00"}
    return Example.model_validate({"id": "e1", "session": "s1", "source": "meton", **values, **more})


BAD = {
    "code": {"answer": "Here it is:\n```python\ndef f(:\n    pass\n```"},
    "code in json": {"answer": 'Here it is, as you wanted:\n```json\n{"a": }\n```'},
    "refusal": {"answer": "I'm sorry, but I cannot help with that request."},
    "refusal by failure": {"answer": "Task completed.", "failure": "the answer did not keep the form"},
    "repetition": {"answer": "the same words again and " * 20},
    "truncation": {"answer": "Here is the code that you want:\n```text\nhello"},
    "truncation in words": {"answer": "and then it goes on " + " ".join(map(str, range(99))) + ","},
    "length": {"answer": "Yes."},
    "length of a book": {"answer": " ".join(map(str, range(4000)))},
    "tools": {"tools": FAILED},
}


@pytest.mark.parametrize(("name", "values"), BAD.items(), ids=BAD)
def test_it_says_what_is_wrong(name: str, values: dict[str, Any]) -> None:
    quality = judge(example(**values))
    low = {part for part, value in quality.parts.items() if value < 1}
    assert low == {name.split()[0]}
    assert quality.score < judge(example()).score == 1.0


@pytest.mark.parametrize("more", [{}, {"score": 4}, {"score": 5, "correction": "My own words."}])
def test_every_part_has_a_reason(more: dict[str, Any]) -> None:
    quality = judge(example(tools=FAILED, **more))
    expected = [*(["rating"] if "score" in more else []), *(["correction"] if "correction" in more else []), *CHECKS]
    assert list(quality.parts) == expected
    assert all(quality.reasons[part] for part in expected)
    assert all(0 <= value <= 1 for value in quality.parts.values())


def combined(faults: tuple[bool, ...]) -> dict[str, Any]:
    """An example with the chosen faults, all at once."""
    length, code, refusal, repetition, truncation, tools = faults
    answer = "I'm sorry, but I cannot help. " if refusal else "Here it is for you to use. "
    answer += "the same words again and " * (800 if length else 60) if repetition else ""
    answer += "\n```python\ndef f(:\n```\n" if code else ""
    answer += " ".join(map(str, range(4000))) if length and not repetition else ""
    answer += "\n```text\nx" if truncation else ""
    return {"answer": answer, "tools": FAILED if tools else ()}


def test_the_users_rating_outweighs_every_combination() -> None:
    threshold = BuildSettings().quality_threshold
    scores: dict[int, list[float]] = {rating: [] for rating in BANDS}
    for faults in itertools.product((False, True), repeat=6):
        values = combined(faults)
        plain = judge(example(**values))
        assert {part for part, value in plain.parts.items() if value < 1} == {
            part for part, wrong in zip(CHECKS, faults, strict=True) if wrong
        }
        for rating in BANDS:
            for more in ({}, {"correction": values["answer"], "answer": "old"}, {"failure": "the agent failed"}):
                quality = judge(example(**{**values, "score": rating, **more}))
                scores[rating].append(quality.score)
                assert (quality.score >= threshold) == (rating >= 4) or rating == 3
    for worse, better in itertools.pairwise(BANDS):
        assert max(scores[worse]) < min(scores[better])
    assert all(len(set(found)) > 10 for found in scores.values()), "the checks still order what was rated alike"


@pytest.mark.parametrize("score", [1, 3, 5])
def test_a_correction_counts_for_itself(score: int) -> None:
    bad = combined((True, False, True, True, False, False))
    alone = judge(example(**bad, score=score))
    own = judge(example(**{**bad, "answer": "old", "correction": bad["answer"]}, score=score))
    assert own.parts["correction"] == 1.0
    assert own.score > alone.score
    tools = judge(example(correction="My own words.", tools=FAILED, score=score))
    assert tools.parts["tools"] == 1.0, "what a tool said is no part of the user's words"


def test_good_code_is_not_blamed() -> None:
    answer = (
        "```python\n    if x:\n        return 1\n```\n\n```py\n>>> f(1)\n2\n```\n\n```json\n[1]\n```\n"
        "```python\n%matplotlib inline\n!pip list\nx = 1\n```\n```json\n" + "9" * 9000 + "\n```\n```rust\nfn {\n```"
    )
    quality = judge(example(answer=answer))
    assert quality.parts["code"] == 1.0
    assert quality.reasons["code"] == "5 blocks of Python or JSON, parsed"


PATHOLOGICAL = {
    "brackets": "(" * 100_000,
    "closed brackets": "(" * 90_000 + ")" * 90_000,
    "signs": "-" * 150_000 + "1",
    "attributes": "a" + ".b" * 60_000,
    "sums": "+".join(["a"] * 60_000),
    "powers": "**".join(["a"] * 40_000),
    "lambdas": "lambda: " * 20_000 + "1",
    "conditions": "a if b else " * 15_000 + "c",
    "not": "not " * 40_000 + "a",
    "indentation": "\n".join(" " * n + "if x:" for n in range(400)),
    "null bytes": "x = 1\0\n" * 1000,
    "surrogates": "x = '\ud800'",
    "huge": "x = 1\n" * 500_000,
    "one line": "x = '" + "a" * 3_000_000 + "'",
    "a number": "x = " + "9" * 190_000,
    "f-strings": "f'{" * 5_000 + "1" + "}'" * 5_000,
    "fences": "```\n" * 100_000,
    "blanks": " " * 1_000_000,
    "backticks": "`" * 1_000_000,
}


@pytest.mark.parametrize("language", ["python", "json"])
@pytest.mark.parametrize("code", PATHOLOGICAL.values(), ids=PATHOLOGICAL)
def test_pathological_code_neither_crashes_nor_hangs(code: str, language: str) -> None:
    found = []
    began = time.process_time()
    # In a thread, as the library's writer has one: its stack may be smaller.
    thread = threading.Thread(target=lambda: found.append(judge(example(answer=f"So:\n```{language}\n{code}\n```"))))
    thread.start()
    thread.join(60)
    assert found
    assert time.process_time() - began < 10
    assert 0 <= found[0].score <= 1


def test_nothing_is_executed(tmp_path: Path) -> None:
    target = tmp_path / "made"
    code = f"import pathlib\npathlib.Path({str(target)!r}).touch()\n__import__('os').system('touch {target}')"
    assert judge(example(answer=f"Run this:\n```python\n{code}\n```")).parts["code"] == 1.0
    assert not target.exists()


@pytest.mark.parametrize("as_json", [False, True], ids=["words", "json"])
def test_show_lists_the_parts(home: Path, as_json: bool) -> None:
    with Library(home / "library.db") as library:
        turn = Turn(session="s", at="2026", question="How?", answer="I'm sorry, but I cannot help.", tools=FAILED)
        [name], _ = library.add([turn])
        library.rate([name], 2)
        library.fix(name, "Like this, in my own words.")
    host = RecordingHost(home, json=as_json)
    assert make(host, Home(home)).run(f"show {name}") == 0
    if as_json:
        quality = host.last_json()["quality"]
        assert list(quality["parts"]) == list(quality["reasons"]) == ["rating", "correction", *CHECKS]
        assert quality["score"] == 1.0
    else:
        for word in ("quality 1.00", "rated 5 of 5", "your own words", "none to parse", *CHECKS):
            assert word in host.output
