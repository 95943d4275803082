"""`/dataset import`: every format and a project's code into the library, each example once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.typed import EXAMPLES, Typed

from meton_plugins.finetune.formats.chat import Chat, Said
from meton_plugins.finetune.formats.writing import write
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.library.records import IMPORTED

TRAINING = EXAMPLES.parent / "training_data"
CODE = "```python\ndef first(xs):\n\treturn xs[0]\n\n\n    # indented\n```"
SECRET = "sk" + "-ant-" + "aB3" * 12


def chat(*texts: str, **more: Any) -> Chat:
    return Chat(tuple(Said("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(texts)), **more)


def save(path: Path, name: str, *chats: Chat) -> Path:
    with path.open("wb") as file:
        assert write(file, chats, name)[0] == len(chats)
    return path


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def examples(typed: Typed) -> dict[str, dict[str, Any]]:
    """By question."""
    return {example["question"]: example for example in typed.json("list --limit 0")}


@pytest.mark.parametrize("name", ["messages", "sharegpt", "alpaca", "completion", "chat", "llama"])
def test_each_format(typed: Typed, tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "data.x", name, chat("How?", CODE), chat("And?", "So it is."))
    report = typed.json(f"import {path}")
    assert (report["new"], report["known"], report["formats"]) == (2, 0, {name: 2})
    found = examples(typed)
    assert found["How?"]["answer"] == CODE
    assert {(e["score"], e["status"], e["source"]) for e in found.values()} == {(4, "usable", "data")}
    assert typed.json(f"import {path}")["known"] == 2
    assert len(examples(typed)) == 2


def test_the_same_chat_in_another_format_is_known(typed: Typed, tmp_path: Path) -> None:
    for name in ("messages", "sharegpt", "alpaca", "chat", "llama"):
        report = typed.json(f"import {save(tmp_path / name, name, chat('How?', 'So.', 'Why?', CODE))}")
    assert report["known"] == 2
    assert len(examples(typed)) == 2


def test_each_answer_of_a_chat_is_an_example_with_what_was_before(typed: Typed, tmp_path: Path) -> None:
    said = [Said("system", "Be brief.")]
    for n in range(7):
        said += [Said("user", f"q{n}"), Said("assistant", f"answer {n}")]
    said += [Said("user", "look"), Said("tool", "a.py", "ls", "{}"), Said("assistant", "There is a.py.")]
    typed(f"import {save(tmp_path / 'd', 'messages', Chat(tuple(said)))}")
    found = examples(typed)
    assert len(found) == 8
    assert len({e["session"] for e in found.values()}) == 1
    assert [m["content"] for m in found["q1"]["context"]] == ["Be brief.", "q0", "answer 0"]
    assert [m["content"] for m in found["q6"]["context"]][:2] == ["Be brief.", "q2"]
    assert found["look"]["tools"] == [{"name": "ls", "input": "{}", "output": "a.py"}]


def test_a_chat_that_has_grown_brings_its_new_turns(typed: Typed, tmp_path: Path) -> None:
    typed(f"import {save(tmp_path / 'd', 'messages', chat('a', 'first answer'))}")
    report = typed.json(f"import {save(tmp_path / 'd', 'messages', chat('a', 'first answer', 'b', 'second answer'))}")
    assert (report["new"], report["known"]) == (1, 1)


def test_pairs_and_verdicts_bring_their_own_ratings(typed: Typed, tmp_path: Path) -> None:
    path = lines(
        tmp_path / "p",
        {"prompt": "q", "chosen": "the better", "rejected": "the worse"},
        {"prompt": "g", "completion": "right", "label": True},
        {"prompt": "b", "completion": "wrong", "label": 0},
        {"prompt": "s", "chosen": "same ", "rejected": "same"},
        {"prompt": "u", "completion": "mine"},
    )
    typed(f"import {path} --rating none")
    found = examples(typed)
    assert {q: e["score"] for q, e in found.items()} == {"q": 5, "g": 5, "b": 1, "u": None}
    assert (found["q"]["answer"], found["q"]["correction"]) == ("the worse", "the better")


@pytest.mark.parametrize(("flag", "score"), [("", 4), ("--rating 3", 3), ("--rating good", 5), ("--rating none", None)])
def test_rating(typed: Typed, tmp_path: Path, flag: str, score: int | None) -> None:
    typed(f"import {save(tmp_path / 'd', 'messages', chat('a', 'b'))} {flag}")
    assert examples(typed)["a"]["score"] == score


def test_a_rating_of_ones_own_outlives_an_import(typed: Typed, tmp_path: Path) -> None:
    path = save(tmp_path / "d", "messages", chat("a", "b"))
    typed(f"import {path} --rating none")
    typed(f"import {path} --rating 4")
    assert examples(typed)["a"]["score"] == 4, "what was not rated gets the rating"
    typed(f"rate 2 {examples(typed)['a']['id']}")
    typed(f"import {path} --rating 5")
    assert examples(typed)["a"]["score"] == 2


def test_tags_and_names(typed: Typed, tmp_path: Path) -> None:
    path = save(tmp_path / "My Data (v2).jsonl", "messages", chat("a", "b"))
    assert typed.json(f"import '{path}' --tag one --tag two")["labels"] == ["my-data-v2"]
    assert examples(typed)["a"]["tags"] == ["one", "two"]
    typed(f"import {save(tmp_path / 'e', 'messages', chat('c', 'd'))} --as mine")
    assert examples(typed)["c"]["source"] == "mine"


def test_the_chats_last_answer_is_never_an_imported_one(typed: Typed, tmp_path: Path) -> None:
    save(tmp_path / "d", "messages", chat("a", "b"))
    typed(f"import {tmp_path / 'd'}")
    assert "no answer to rate" in typed("/+", 1)
    typed("harvest")
    assert typed.json("/+")["rated"][0]["id"] != examples(typed)["a"]["id"]


def test_secrets_are_replaced_before_anything_is_stored(typed: Typed, tmp_path: Path) -> None:
    path = save(
        tmp_path / "d", "preference", chat("Use " + SECRET, "Not " + SECRET, rejected="Yes " + SECRET, only_last=True)
    )
    assert typed.json(f"import {path}")["secrets"] == {"API_KEY": 1}
    [found] = examples(typed).values()
    assert found["question"] == "Use <API_KEY_1>"
    assert (found["answer"], found["correction"]) == ("Yes <API_KEY_1>", "Not <API_KEY_1>")
    assert all(SECRET.encode() not in file.read_bytes() for file in typed.home.root.rglob("*") if file.is_file())


def test_a_bad_record_is_named_and_the_rest_is_taken(typed: Typed, tmp_path: Path) -> None:
    good = json.dumps({"prompt": "q", "completion": "a"})
    path = tmp_path / "d.jsonl"
    path.write_text(f'{good}\n{{"prompt": "x", "comp\n\n{{"prompt": "only"}}\n{good.replace("q", "p")}\n{good[:-5]}')
    report = typed.json(f"import {path}")
    assert report["new"] == 2
    assert [(p["file"], p["line"]) for p in report["problems"]] == [(str(path), 2), (str(path), 4), (str(path), 6)]
    assert sum(report["rejected"].values()) == 3
    out = typed(f"import {path}")
    assert "0 new, 2 known, 3 left out" in out
    assert "d.jsonl, line 4: a record of no known format" in out


def test_a_folder_of_everything(typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("messages", "sharegpt", "alpaca", "completion", "chat", "llama"):
        save(folder / "deep" / "er" / f"{name}.dat", name, chat(f"{name}?", "An answer."))
    save(folder / ".hidden" / "x", "messages", chat("hidden", "b"))
    for path in sorted(EXAMPLES.glob("*_3936bdf5.json")):
        (folder / path.name).write_bytes(path.read_bytes())
    feedback = [
        {"id": "f1", "feedback_type": "positive", "query": "fq", "response": "A fine answer.", "timestamp": "2026"}
    ]
    (folder / "some.json").write_text(json.dumps(feedback))
    (folder / "notes.md").write_text("# Notes\n\nNothing to learn.")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40)
    report = typed.json(f"import {folder} {folder / 'deep'} --tag t")
    assert (report["files"], report["passed_by"], report["ratings"]) == (9, 2, 1)
    assert report["new"] == 6 + 3
    assert report["problems"] == []
    found = examples(typed)
    assert {e["score"] for e in found.values() if e["source"] == "meton"} == {None}, "conversations stay unrated"
    assert {tuple(e["tags"]) for e in found.values() if e["source"] != "feedback"} == {("t",)}
    assert found["fq"]["score"] == 5
    assert "hidden" not in found


def test_conversations_are_what_a_harvest_makes_of_them(typed: Typed, home: Path) -> None:
    typed("harvest")
    harvested = typed.json("list --limit 0")
    other = Typed(home / "other", conversations=EXAMPLES)
    other(f"import {EXAMPLES}")
    imported = other.json("list --limit 0")
    assert [e["id"] for e in imported] == [e["id"] for e in harvested]
    assert typed.json(f"import {EXAMPLES}")["known"] == 44


def test_a_private_session_stays_out(typed: Typed) -> None:
    path = next(EXAMPLES.glob("*_3936bdf5.json"))
    with Library(typed.home.library) as library:
        library.keep_out(json.loads(path.read_text())["session_id"])
    report = typed.json(f"import {path}")
    assert report["new"] == 0
    assert set(report["rejected"]) == {"the session was private"}


def test_what_was_forgotten_stays_forgotten(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library leaves out what it has a tombstone for; the import counts it and rates nothing in its place."""
    add = Library.add

    def forgetful(self: Library, turns: Any) -> tuple[list[str], int]:
        return add(self, [turn for turn in turns if turn.question != "gone"])

    monkeypatch.setattr(Library, "add", forgetful)
    report = typed.json(f"import {save(tmp_path / 'd', 'messages', chat('gone', 'b'), chat('a', 'b'))}")
    assert (report["new"], report["rejected"], report["examples"]) == (1, {"forgotten by you": 1}, 1)


def test_what_is_buried_is_read_for_corrections_alone(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, at each batch: an import of a million plain chats would read it two thousand times."""
    read: list[int] = []
    tombstones = Library.tombstones
    monkeypatch.setattr(Library, "tombstones", lambda self: (read.append(1), tombstones(self))[1])
    typed(f"import {save(tmp_path / 'd', 'messages', chat('a', 'b'))}")
    assert read == []
    pair = {"prompt": "Which?", "chosen": "This one.", "rejected": "That one."}
    typed(f"import {lines(tmp_path / 'pairs.jsonl', pair)}")
    assert read == [1]
    [name] = [example["id"] for example in typed.json("list") if example["correction"]]
    typed(f"forget {name} --yes")
    assert typed.json(f"import {tmp_path / 'pairs.jsonl'}")["rejected"] == {"forgotten by you": 1}


def test_the_shipped_examples(typed: Typed) -> None:
    report = typed.json(f"import {TRAINING}")
    assert report["problems"] == []
    assert set(report["formats"]) == {"messages", "alpaca", "llama", "sharegpt", "preference", "rating"}
    assert report["new"] >= 20
    found = list(examples(typed).values())
    for example in found:
        if example["score"] >= 4:
            shown = typed.json(f"show {example['id']}")
            assert shown["quality"]["parts"]["code"] == 1.0, "what teaches code parses"
            assert shown["quality"]["score"] >= 0.8
    assert typed.json(f"import {TRAINING}")["new"] == 0


@pytest.mark.parametrize("tag", ["ns:python/3.11", "Größe", "x" * 40])
def test_what_an_import_puts_on_comes_off(typed: Typed, tmp_path: Path, tag: str) -> None:
    typed(f"import {save(tmp_path / 'd', 'messages', chat('a', 'b'))} --tag {tag}")
    [example] = typed.json("list")
    assert example["tags"] == [tag.lower()]
    typed(f"tag {example['id']} -{tag}")
    assert typed.json("list")[0]["tags"] == []


def test_a_format_that_the_content_does_not_tell(typed: Typed, tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("My notes.\n<s>[INST] q [/INST] a </s>\n")
    assert "--format" in typed(f"import {path}", 1)
    assert typed.json(f"import {path} --format llama")["new"] == 1


BAD = {
    "nothing": ("import", 2),
    "no such": ("import /no/such/file", 1),
    "rating": ("import {d} --rating 9", 2),
    "tag": ("import {d} --tag 'Not a Tag'", 2),
    "tag that begins like a flag": ("import {d} --tag=-draft", 2),
    "tag that begins like an order": ("import {d} --tag +draft", 2),
    "tag that is long": (f"import {{d}} --tag {'x' * 41}", 2),
    "name": ("import {d} --as ../x", 2),
    "taken name": ("import {d} --as library", 2),
    "format": ("import {d} --format csv", 2),
    "code tag": ("import {d} --code --tag 'Not a Tag'", 2),
    "code name": ("import {d} --code --as ..", 2),
    "code format": ("import {d} --code --format llama", 2),
    "wrong format": ("import {d} --format alpaca", 1),
    "no data": ("import {notes}", 1),
    "no code": ("import {notes} --code", 1),
    "flag": ("import {d} --nope", 2),
}


@pytest.mark.parametrize(("line", "code"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_changes_nothing(typed: Typed, tmp_path: Path, line: str, code: int) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "n.md").write_text("Words.")
    line = line.format(d=save(tmp_path / "d", "messages", chat("a", "b")), notes=tmp_path / "notes")
    out = typed(line, code)
    assert out.startswith("✗ ")
    assert len(out.strip().splitlines()) == 1
    assert set(typed.json(line, code)) == {"error"}
    assert typed.json("stats")["examples"] == 0


def test_an_unreadable_file_is_named(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "good", "messages", chat("a", "b"))
    bad = save(tmp_path / "bad", "messages", chat("c", "d"))
    opened = Path.open

    def refuse(self: Path, *args: Any, **more: Any) -> Any:
        if self == bad:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **more)

    monkeypatch.setattr(Path, "open", refuse)
    report = typed.json(f"import {tmp_path / 'good'} {bad}")
    assert report["new"] == 1
    assert [p["reason"] for p in report["problems"]] == ["cannot be read (Permission denied)"]


def test_a_progress_bar_is_drawn_on_a_terminal_alone(typed: Typed, tmp_path: Path) -> None:
    path = save(tmp_path / "d", "messages", *(chat(f"q{n}", "a") for n in range(40)))
    stream = StringIO()
    typed.host.console = Console(file=stream, width=100, force_terminal=True)
    typed.command.run(f"import {path}")
    assert "import" in stream.getvalue()
    assert "100%" in stream.getvalue()
    for json_ in (True, False):
        stream = StringIO()
        typed.host.json = json_
        typed.host.console = Console(file=stream, width=100, force_terminal=json_)
        typed.command.run(f"import {path}")
        assert "\r" not in stream.getvalue()
        assert "%" not in stream.getvalue()


def test_markup_in_reasons_and_names_is_only_text(typed: Typed, tmp_path: Path) -> None:
    path = tmp_path / "[bold] [INST].jsonl"
    path.write_text('{"prompt": "[/x]", "completion": "[bold]a"}\n{"bad": 1}\n')
    assert "[bold] [INST].jsonl, line 2" in typed(f"import '{path}'")


MODULE = '''\
"""A module."""

import functools


def total(prices: list[float], *, rate: float = 0.2) -> float:
    """The sum of `prices` with tax.

    Raises ValueError for a negative rate.
    """
    if rate < 0:
        raise ValueError("negative")

    return sum(prices) * (1 + rate)


@functools.cache
async def cached(n: int) -> str:
    """Decorated, with text over lines."""
    text = """
left
    right"""
    return text * n


class Basket:
    def add(self, item: str) -> None:
        """Add one."""
        self.items.append(item)

        self.count += 1

    def __init__(self) -> None:
        """Special."""
        self.items = []
        self.count = 0


def undocumented(a):
    b = a
    return b


def short():
    """Too short."""
    return 1


def abstract():
    """Only a docstring."""


def outer():
    """Holds another."""
    def inner():
        """Inside."""
        x = 1
        return x
    return inner
'''


def test_code_becomes_examples(typed: Typed, tmp_path: Path) -> None:
    project = tmp_path / "shop"
    for place in ("pkg/a.py", "tests/test_a.py", "pkg/test_b.py", "pkg/b_test.py", "vendor/v.py", ".venv/lib/x.py",
                  "pkg/node_modules/y.py", "pkg/conftest.py", "build/lib/a.py"):  # fmt: skip
        (project / place).parent.mkdir(parents=True, exist_ok=True)
        (project / place).write_text(MODULE)
    (project / "pkg" / "made_pb2.py").write_text("# Generated by the compiler. DO NOT EDIT.\n" + MODULE)
    (project / "pkg" / "broken.py").write_text("def f(:\n")
    (project / "pkg" / "long.py").write_text('def long():\n    """Long."""\n' + "    x = 1\n" * 130)
    latin = '# -*- coding: latin-1 -*-\ndef f(x):\n    """Größe."""\n    y = x\n    return y\n'
    (project / "pkg" / "latin.py").write_bytes(latin.encode("latin-1"))
    (project / "pkg" / "windows.py").write_bytes(b'def g(x):\r\n    """Doc."""\r\n    y = x\r\n    return y\r\n')
    report = typed.json(f"import --code {project} --tag shop")
    found = {e["question"].split("\n")[0]: e for e in examples(typed).values()}
    assert sorted(found) == [
        "Write the Python function cached:", "Write the Python function f:", "Write the Python function g:",
        "Write the Python function outer:", "Write the Python function total:",
        "Write the method add of the class Basket:",
    ]  # fmt: skip
    start, end = MODULE.index("def total"), MODULE.index("\n\n\n@functools")
    assert found["Write the Python function total:"]["answer"] == f"```python\n{MODULE[start:end]}\n```"
    assert found["Write the Python function total:"]["question"].endswith('negative rate.\n    """\n```')
    cached = found["Write the Python function cached:"]["answer"]
    assert cached.startswith("```python\n@functools.cache\nasync def cached(n: int)")
    assert '"""\nleft\n    right"""' in cached
    assert found["Write the method add of the class Basket:"]["answer"] == (
        '```python\ndef add(self, item: str) -> None:\n    """Add one."""\n    self.items.append(item)\n\n'
        "    self.count += 1\n```"
    )
    assert "\r\n    y = x\r\n" in found["Write the Python function g:"]["answer"]
    assert {tuple(e["tags"]) for e in found.values()} == {("code", "shop")}
    assert {(e["score"], e["source"]) for e in found.values()} == {(4, "shop")}
    assert report["rejected"] == {
        "a test or a special method": 1, "without a docstring": 1, "too short": 2, "too long": 1,
        "in a generated file": 1, "not Python that can be parsed": 1,
    }  # fmt: skip
    assert [(Path(p["file"]).name, p["line"]) for p in report["problems"]] == [("broken.py", 1)]
    assert typed.json(f"import --code {project}")["new"] == 0


def test_code_is_never_run(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + MODULE)
    assert typed.json(f"import --code {tmp_path / 'evil.py'}")["new"] == 4
    assert not (tmp_path / "ran").exists()


WORKER = """
import sys
from pathlib import Path
from support.typed import Typed
print("begun", flush=True)
Typed(Path(sys.argv[1]))(f"import {sys.argv[2]}")
"""


def test_an_import_that_is_killed_is_completed_by_the_next(typed: Typed, home: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "d", "messages", *(chat(f"q{n}", f"answer {n}") for n in range(4000)))
    root = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root.parent), str(root)])}
    counts = []
    for delay in (0.05, 0.15, 0.3):
        command = [sys.executable, "-c", WORKER, str(home), str(path)]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()
            while worker.poll() is None and not home.exists():
                time.sleep(0.005)
            time.sleep(delay)
            worker.send_signal(signal.SIGKILL)
        counts.append(typed.json("stats")["examples"])
    assert counts == sorted(counts)
    report = typed.json(f"import {path}")
    assert report["new"] + report["known"] == 4000
    stats = typed.json("stats")
    assert (stats["examples"], stats["usable"], stats["unrated"]) == (4000, 4000, 0)


def test_imported_sessions_have_names_of_their_own(typed: Typed, tmp_path: Path) -> None:
    typed(f"import {save(tmp_path / 'd', 'messages', chat('a', 'b'), chat('a', 'c'), chat('x', 'y'))}")
    found = typed.json("list --limit 0")
    assert all(e["session"].startswith(IMPORTED) for e in found)
    assert len({e["session"] for e in found}) == 2, "answers to one question lie on one side of the split"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_feedback_file_that_was_cut_off_or_edited(typed: Typed, tmp_path: Path, encoding: str) -> None:
    entries = [
        {"feedback_type": kind, "query": f"Größe {kind}?", "response": "An answer.", "correction": "Mine.", "id": kind}
        for kind in ("positive", "negative", "correction")
    ]
    text = json.dumps(entries, ensure_ascii=False, indent=2)
    (tmp_path / "f").write_bytes(text[: text.rindex('"id"')].encode(encoding))
    report = typed.json(f"import {tmp_path / 'f'}")
    assert (report["ratings"], report["formats"]) == (2, {"feedback": 1})
    assert [p["reason"] for p in report["problems"]] == ["1 entry is malformed and was left out"]
    assert {q: e["score"] for q, e in examples(typed).items()} == {"Größe positive?": 5, "Größe negative?": 1}


def test_records_that_one_object_holds_are_numbered(typed: Typed, tmp_path: Path) -> None:
    good = [{"prompt": f"q{n}", "completion": "a"} for n in range(3)]
    (tmp_path / "d").write_text(json.dumps({"data": [*good, {"x": 1}, {"y": 2}]}))
    report = typed.json(f"import {tmp_path / 'd'}")
    assert report["new"] == 3
    assert report["rejected"] == {"a record of no known format": 2}
    assert [p["reason"][-10:] for p in report["problems"]] == ["(record 4)", "(record 5)"]


def test_ratings_that_were_taken_already_are_no_error(typed: Typed, tmp_path: Path) -> None:
    entry = {"feedback_type": "positive", "query": "q", "response": "An answer."}
    (tmp_path / "f").write_text(json.dumps([entry, {"feedback_type": "odd"}]))
    assert typed.json(f"import {tmp_path / 'f'}")["ratings"] == 1
    assert typed.json(f"import {tmp_path / 'f'}")["ratings"] == 0
