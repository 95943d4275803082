"""Meton's conversation files: the whole session from many files, and nothing that is not an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meton_plugins.finetune.collect.conversations import read
from meton_plugins.finetune.collect.harvest import harvest
from meton_plugins.finetune.curate.secrets import scrub
from meton_plugins.finetune.errors import DataError
from meton_plugins.finetune.library import Library

EXAMPLES = Path(__file__).parent.parent / "examples" / "conversations"
GOOD = {"thoughts": 1, "tool_calls": 0, "iterations": 1, "model": "m:7b"}


def message(role: str, content: str, minute: int, **metadata: Any) -> dict[str, Any]:
    stamp = f"2026-03-02T09:{minute:02}:00.000001"
    return {"role": role, "content": content, "timestamp": stamp, "metadata": metadata}


def asked(minute: int, question: str = "q", answer: str = "a long answer", **metadata: Any) -> list[dict[str, Any]]:
    return [
        message("user", f"{question}{minute}", minute),
        message("assistant", answer, minute + 1, **{**GOOD, **metadata}),
    ]


def save(folder: Path, name: str, messages: list[Any], session: str = "5e551011-0000-4000-8000-000000000000") -> Path:
    folder.mkdir(exist_ok=True)
    value = {"session_id": session, "start_time": "2026-03-02T08:59:00", "messages": messages, "max_history": 20}
    (folder / name).write_text(json.dumps(value, indent=2), encoding="utf-8")
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "conversations"


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library(tmp_path / "library.db") as library:
        yield library


def test_cumulative_files_are_one_session(folder: Path) -> None:
    save(folder, "session_20260302_090100_5e551011.json", asked(1))
    save(folder, "session_20260302_090400_5e551011.json", asked(1) + asked(3))
    save(folder, "5e551011-0000-4000-8000-000000000000.json", asked(1) + asked(3))
    found = read(folder)
    assert [turn.question for turn in found.turns] == ["q1", "q3"]
    assert (found.files, found.sessions) == (3, 1)
    assert [m.content for m in found.turns[1].context] == ["q1", "a long answer"]
    assert found.turns[0].model == "m:7b"


def test_after_clear_the_session_goes_on_without_its_past(folder: Path) -> None:
    save(folder, "session_1.json", asked(1) + asked(3) + asked(5))
    save(folder, "session_2.json", asked(7) + asked(9))
    found = read(folder)
    assert [turn.question for turn in found.turns] == ["q1", "q3", "q5", "q7", "q9"]
    assert found.turns[3].context == ()
    assert len(found.turns[4].context) == 2


@pytest.mark.parametrize(
    "answer",
    [
        "I encountered an error while reasoning: no such model",
        "I encountered an error: Agent execution failed: boom",
        "I attempted to gather information but encountered issues with the tools. Could you rephrase?",
        "I retrieved the file contents but didn't properly analyze them to answer your question.",
        "I gathered information from 3 tools but encountered an error synthesizing the answer.",
        "I read the file but encountered an error during extraction: x",
        "Task completed.",
        " \n",
    ],
    ids=["reasoning", "agent", "gather", "retrieved", "gathered", "read", "task", "blank"],
)
def test_failures_are_no_answers(folder: Path, answer: str) -> None:
    save(folder, "session_1.json", asked(1, answer=answer) + asked(3))
    found = read(folder)
    assert [turn.question for turn in found.turns] == ["q3"]
    assert found.turns[0].context == ()
    assert sum(found.rejected.values()) == 1


def test_an_answer_about_completed_tasks_is_one(folder: Path) -> None:
    save(folder, "session_1.json", asked(1, answer="Task completed. The report is in out.txt."))
    assert len(read(folder).turns) == 1


def test_tools(folder: Path) -> None:
    with_tool = [
        message("user", "run it", 1),
        message("tool", '{"output": "42"}', 2, tool_name="code_executor", action="execute"),
        message("assistant", "The program prints 42.", 3, tool_calls=1),
    ]
    without = asked(5, tool_calls=1)
    dumped = [message("user", "read", 7), message("tool", "✓ Read x", 8, tool_name="f")]
    dumped.append(message("assistant", "Task completed. ✓ Read x", 9, tool_calls=1))
    save(folder, "session_1.json", with_tool + without + dumped)
    found = read(folder)
    assert [(t.question, [(u.name, u.output) for u in t.tools]) for t in found.turns] == [
        ("run it", [("code_executor", '{"output": "42"}')])
    ]
    assert found.rejected == {
        "incomplete: a tool ran but its output was not saved": 1,
        "the answer did not keep the form": 1,
    }


def test_questions_without_answers_and_the_reverse(folder: Path) -> None:
    messages = [message("assistant", "stray", 1), message("user", "one", 2), *asked(3), message("user", "last", 9)]
    save(folder, "session_1.json", messages)
    found = read(folder)
    assert [turn.question for turn in found.turns] == ["q3"]
    assert found.rejected == {"no answer": 2, "an answer without a question": 1}


WHOLE = json.dumps({"session_id": "s", "messages": asked(1, answer="Grüße an alle")}, ensure_ascii=False)

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "cut in a string": (WHOLE[: WHOLE.index("an alle")].encode(), "cut off"),
    "cut before a message": (WHOLE[: WHOLE.index('"role"')].encode(), "cut off"),
    "damaged": ("é".encode() * 9 + WHOLE.encode("latin-1"), "not UTF-8"),
    "not json": (b"hello", "not JSON"),
    "list": (b"[1, 2]", "no list of messages"),
    "no messages": (b'{"session_id": "x"}', "no list of messages"),
    "deep": (b"[" * 200000, ""),
    "binary": (bytes(range(256)), "not a text file"),
}


@pytest.mark.parametrize(("raw", "reason"), BAD.values(), ids=BAD)
def test_a_bad_file_is_named_and_the_rest_is_read(folder: Path, library: Library, raw: bytes, reason: str) -> None:
    save(folder, "good.json", asked(1))
    (folder / "bad.json").write_bytes(raw)
    report = harvest(library, folder, scrub)
    assert report.new == 1
    [problem] = report.problems
    assert Path(problem.file).name == "bad.json"
    assert reason in problem.reason


@pytest.mark.parametrize("cut", [2, 4, 60])
@pytest.mark.parametrize("indent", [None, 2])
def test_of_a_cut_file_the_whole_messages_are_read(folder: Path, cut: int, indent: int | None) -> None:
    """Meton was killed as it wrote; the last answer may be in no other file."""
    folder.mkdir()
    value = {"session_id": "s", "messages": [*asked(1), *asked(3), message("user", "q5", 5)]}
    (folder / "x.json").write_text(json.dumps(value, indent=indent)[:-cut])
    found = read(folder)
    assert [turn.question for turn in found.turns] == ["q1", "q3"]
    assert found.problems[0].reason.startswith("cut off: the first ")
    assert found.unreadable == 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])
def test_marked_encodings_are_read(folder: Path, encoding: str) -> None:
    folder.mkdir()
    (folder / "x.json").write_bytes(WHOLE.encode(encoding))
    assert read(folder).turns[0].answer == "Grüße an alle"


def test_malformed_messages_are_named_and_left_out(folder: Path) -> None:
    broken = [None, 5, {"role": "robot", "content": "x"}, {"role": "user"}, {"role": "user", "content": ["x"]}]
    save(folder, "session_1.json", [*broken, *asked(1)])
    found = read(folder)
    assert len(found.turns) == 1
    assert [problem.reason.split()[:2] for problem in found.problems] == [["message", str(n)] for n in range(1, 6)]


def test_odd_metadata_and_no_times(folder: Path) -> None:
    messages = [{"role": "user", "content": "q\ud83d"}, {"role": "assistant", "content": "a", "metadata": "none"}]
    save(folder, "session_1.json", messages)
    [turn] = read(folder).turns
    assert turn.at == "2026-03-02T08:59:00"
    turn.question.encode()


@pytest.mark.parametrize("content", [None, [], ["notes.txt"], ["bad.json"]], ids=["missing", "empty", "other", "bad"])
def test_nothing_to_harvest_is_one_sentence(folder: Path, library: Library, content: list[str] | None) -> None:
    if content is not None:
        folder.mkdir()
        for name in content:
            (folder / name).write_text("{")
    with pytest.raises(DataError) as caught:
        harvest(library, folder, scrub)
    assert str(folder) in str(caught.value)


def test_secrets_stay_outside(folder: Path, library: Library) -> None:
    key = "sk-ant-api03-" + "Zz9" * 12
    save(folder, "session_1.json", asked(1, question=f"use {key} ", answer=f"I use {key} now") + asked(3))
    report = harvest(library, folder, scrub)
    assert report.secrets == {"API_KEY": 1}
    library.close()
    for path in library.path.parent.glob("library.db*"):
        assert key.encode() not in path.read_bytes()
    with library:
        assert [e.answer for e in library.find()][-1] == "I use <API_KEY_1> now"


def test_the_samples_are_harvested_once(library: Library) -> None:
    report = harvest(library, EXAMPLES, scrub)
    assert (report.files, report.sessions, report.found, report.new) == (16, 15, 45, 44)
    assert report.rejected == {"the model call failed": 1}
    assert report.problems == []
    assert report.secrets == {}
    again = harvest(library, EXAMPLES, scrub)
    assert (again.new, again.known) == (0, 44)
    assert sum(bool(example.tools) for example in library.find()) == 1
