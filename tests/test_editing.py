"""`/dataset edit`, `tag` and `search`, as a user types them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.typed import Typed

from meton_plugins.finetune.library import Library
from meton_plugins.finetune.turn import Message, Turn

SECRET = "sk" + "-ant-api03-" + "aB3dE5" * 7


def turn(n: int) -> Turn:
    question, answer = f"What is [/INST] {n}?", f"It's {n} [bold]."
    return Turn(session=f"s{n // 2}", at=f"2026-03-0{n + 1}", question=question, answer=answer)


@pytest.fixture
def typed(home: Path) -> Typed:
    typed = Typed(home)
    with Library(typed.home.make().library) as library:
        library.add(turn(number) for number in range(4))
    return typed


def newest(typed: Typed) -> str:
    return str(typed.json("list --limit 1")[0]["id"])


def test_an_edited_answer_is_a_correction(typed: Typed) -> None:
    name = newest(typed)
    typed(f"rate 2 {name}")
    said = typed.json(f"edit {name} --answer 'It is four.'")
    assert said["changed"] == ["answer"]
    with Library(typed.home.library) as library:
        example = library.get(name)
    assert (example.target, example.rejected, example.score) == ("It is four.", "It's 3 [bold].", 5)


def test_an_edited_question_is_asked_instead(typed: Typed) -> None:
    name = newest(typed)
    typed(f"rate 4 {name}")
    assert "Changed the question" in typed(f"edit {name} --question 'How many [/INST]?'")
    said = typed.json(f"show {name}")
    assert (said["question"], said["answer"], said["correction"], said["score"]) == (
        "How many [/INST]?", "It's 3 [bold].", None, 4,
    )  # fmt: skip


def test_both_at_once_without_their_secrets(typed: Typed) -> None:
    name = newest(typed)
    said = typed.json(f"edit {name} --question 'Is it {SECRET}?' --answer 'It is {SECRET}.'")
    assert said["changed"] == ["question", "answer"]
    assert said["secrets"]
    assert SECRET not in str(typed.json(f"show {name}"))
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in typed.home.root.iterdir())


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("", 2, "ID"),
        ("NAME --answer ' '", 1, "need some text"),
        ("NAME --question ''", 1, "need some text"),
        ('NAME --answer "It\'s 3 [bold]."', 0, "Nothing was changed"),
        ("0000000000 --answer x", 1, "no example"),
        ("NAME", 2, "terminal"),
    ],
)
def test_what_changes_nothing(typed: Typed, words: str, code: int, says: str) -> None:
    before = typed.json("list")
    assert says in typed(f"edit {words.replace('NAME', newest(typed))}", code=code)
    assert typed.json("list") == before


@pytest.mark.parametrize(
    ("does", "code", "question", "answer"),
    [
        ("text.replace('What', 'Who').replace('3 [bold]', '33')", 0, "Who is [/INST] 3?", "It's 33."),
        ("text", 0, "What is [/INST] 3?", "It's 3 [bold]."),
        ("'all of it gone'", 1, "What is [/INST] 3?", "It's 3 [bold]."),
        ("text + text", 1, "What is [/INST] 3?", "It's 3 [bold]."),
    ],
)
def test_the_editor(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, code: int, question: str, answer: str
) -> None:
    script = tmp_path / "editor.py"
    script.write_text(
        "import pathlib, sys\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "assert path.stat().st_mode & 0o777 == 0o600\n"
        f"text = path.read_text()\npath.write_text({does})\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    name = newest(typed)
    typed(f"edit {name}", code=code)
    with Library(typed.home.library) as library:
        example = library.get(name)
    assert (example.question, example.target) == (question, answer)
    assert list(typed.home.root.glob("fix-*")) == []


def test_tags_are_put_on_and_taken_off_and_shown(typed: Typed) -> None:
    name = newest(typed)
    assert typed(f"tag {name} +Python +web").strip() == f"{name}: python, web"
    assert "2 examples" in typed("tag session:s1 +draft -web")
    assert typed.json("tag list") == {"draft": 2, "python": 1}
    assert "2  draft" in typed("tag list")
    assert [one["id"] for one in typed.json("list --tag python")] == [name]
    assert typed.json("list --tag nothing") == []
    for line in ("list", f"show {name}", "search 'is 3'"):
        assert "draft, python" in typed(line)
    assert typed(f"tag {name} -draft -python").strip() == f"{name}: no tags"
    assert typed.json("search '3 [bold]'")[0]["tags"] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("NAME", "+WORD"),
        ("+python", "Say which"),
        ("NAME +", "cannot be a tag"),
        ("NAME +a+b", "cannot be a tag"),
        ("NAME '+two words'", "cannot be a tag"),
        ("NAME +x -x", "at once"),
        ("NAME --help", "cannot be a tag"),
    ],
)
def test_no_tags(typed: Typed, words: str, says: str) -> None:
    assert says in typed(f"tag {words.replace('NAME', newest(typed))}", code=2)
    assert typed.json("tag list") == {}
    assert "No example has a tag" in typed("tag list")


def test_an_unknown_example_gets_no_tag(typed: Typed) -> None:
    typed(f"tag {newest(typed)} 0000000000 +x", code=1)
    assert typed.json("tag list") == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It's", 4), ('"', 0), ("[/INST] 2", 1), ("--limit 2 It's", 2), ("--limit=1 what", 1), ("'what is'", 4),
        ("[bold].", 4), ("nothing like it", 0), ("-- what", 0), ("*", 0),
    ],
)  # fmt: skip
def test_a_search_takes_what_was_typed(typed: Typed, text: str, found: int) -> None:
    hits = typed.json(f"search {text}")
    assert len(hits) == found
    for hit in hits:
        assert {"id", "status", "field", "text", "marks"} <= set(hit)
    said = typed(f"search {text}")
    assert said.count("What is [/INST]") >= found
    assert ("No example" in said) == (not found)


@pytest.mark.parametrize("text", ["--limit 0 what", "--limit 3"])
def test_a_search_typed_wrongly(typed: Typed, text: str) -> None:
    typed(f"search {text}", code=2)


def test_what_a_terminal_would_obey_is_not_printed(typed: Typed) -> None:
    with Library(typed.home.library) as library:
        library.add([Turn(session="x", at="2026-04-01", question="Is it \x1b[2J?", answer="A \x1b]0;title\x07 here.")])
    said = typed("search title")
    assert "\x1b" not in said
    assert "title" in said


def test_the_context_is_read_for_secrets_too(typed: Typed) -> None:
    """The same secret has one placeholder in all of an example."""
    with Library(typed.home.library) as library:
        asked = Message(role="user", content="The key is <API_KEY_1>.")
        name = library.take(Turn(session="k", at="2026-04-02", question="Key?", answer="Yes.", context=(asked,)))
    assert "<API_KEY_2>" in typed.json(f"edit {name} --answer 'Another: {SECRET}'")["correction"]
