"""`/model-register compare A B`: what is asked, how it looks, what the user's verdicts add up to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.host import RecordingHost, Slots
from support.runs import Bench

from meton_plugins.finetune import form
from meton_plugins.finetune.commands import model_register
from meton_plugins.finetune.errors import DataError, FinetuneError, NotFound, UsageError
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home, append_json
from meton_plugins.finetune.serve.contest import Question, keep, questions, read_pick, score
from meton_plugins.finetune.train.runs import Run
from meton_plugins.finetune.turn import Turn

pytest_plugins = ["support.run_fixtures"]

# What is asked


@pytest.fixture
def asked(home: Path) -> Home:
    """A library of 12 questions, of which three are held out."""
    made = Home(home).make()
    turns = [Turn(session=f"s{n}", at=f"2026-01-{n + 1:02}", question=f"Q{n}?", answer=f"A{n}.") for n in range(12)]
    with Library(made.library) as library:
        names, _ = library.add(turns)
        library.assign(dict.fromkeys(names[:3], "heldout"))
    return made


def texts(home: Home, wanted: str) -> list[str]:
    return [question.text for question in questions(home, wanted, in_form=False)]


def test_held_out_and_last(asked: Home) -> None:
    assert sorted(texts(asked, "held-out")) == ["Q0?", "Q1?", "Q2?"]
    assert texts(asked, "last 4") == ["Q11?", "Q10?", "Q9?", "Q8?"]
    assert len(texts(asked, "last")) == 10


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("One?\nTwo?\n\n", ["One?", "Two?"]),
        ("One\nin two lines?\n\nTwo?\n", ["One\nin two lines?", "Two?"]),
        ('{"prompt": "One?"}\n{"question": "Two?"}\n', ["One?", "Two?"]),
        ("One?\nOne?\n", ["One?"]),
        ("\ufeffOne?", ["One?"]),
    ],
    ids=["lines", "blocks", "json", "twice", "bom"],
)
def test_a_file(asked: Home, tmp_path: Path, content: str, found: list[str]) -> None:
    path = tmp_path / "q.txt"
    path.write_text(content, encoding="utf-8")
    assert texts(asked, str(path)) == found


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, NotFound, "takes a file of questions, held-out"),
        ("", DataError, "holds no question"),
        ('{"prompt": "One?"}\n{"text": 1}', DataError, "Line 2 of"),
        ("\xff", DataError, "cannot be read as UTF-8"),
    ],
    ids=["missing", "empty", "json", "encoding"],
)
def test_a_file_that_cannot_be_used(
    asked: Home, tmp_path: Path, content: str | None, error: type[FinetuneError], words: str
) -> None:
    path = tmp_path / "q.txt"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(error, match=words):
        questions(asked, str(path), in_form=False)


@pytest.mark.parametrize("wanted", ["last 0", "last x", "last 9999"])
def test_last_takes_a_number(asked: Home, wanted: str) -> None:
    with pytest.raises(UsageError, match="takes a number from 1 to 200"):
        questions(asked, wanted, in_form=False)


def test_an_empty_library_says_what_to_do(home: Path) -> None:
    with pytest.raises(NotFound, match="dataset build holds some back"):
        questions(Home(home).make(), "held-out", in_form=False)


def test_models_of_metons_form_are_asked_in_it(asked: Home) -> None:
    [first, *_] = questions(asked, "last 2", in_form=True)
    assert first.prompt == form.prompt(first.text)


# Verdicts


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("1", ("1", [])),
        ("2 c d", ("2", ["correctness", "documentation"])),
        ("2 cdc", ("2", ["correctness", "documentation"])),
        ("=", ("=", [])),
        ("1, s, l", ("1", ["style", "libraries"])),
        ("1 M", ("1", ["completeness"])),
        ("3", None),
        ("1 x", None),
        ("yes", None),
        ("", None),
    ],
)
def test_what_the_user_types(line: str, found: object) -> None:
    assert read_pick(line) == found


def test_the_score_counts_all_contests_whoever_came_first(home: Path) -> None:
    made, q = Home(home).make(), Question("Q?", "Q?")
    keep(made, "x:1", "y:1", q, "a", ["style"], blind=False)
    keep(made, "y:1", "x:1", q, "a", ["style", "correctness"], blind=True)
    keep(made, "y:1", "x:1", q, "b", [], blind=True)
    keep(made, "x:1", "y:1", q, "tie", [], blind=True)
    keep(made, "x:1", "z:1", q, "b", [], blind=True)
    append_json(made.root / "contests.jsonl", {"damaged": True})
    found = score(made, "x:1", "y:1")
    assert (found.wins_a, found.wins_b, found.ties) == (2, 1, 1)
    assert found.criteria == {"style": (1, 1), "correctness": (0, 1)}
    assert oct((made.root / "contests.jsonl").stat().st_mode)[-3:] == "600"


# As it is typed, through the engine: no server answers


@pytest.fixture
def host(bench: Bench, trained: Run) -> RecordingHost:
    bench.home.settings.write_text('[serve]\nollama_host = "127.0.0.1:1"\n')
    (bench.home.root / "q.txt").write_text("What is number 3?\nWhat is number 5?\n")
    return RecordingHost(bench.home.root, slots=Slots({"primary": "a:b"}))


def run(host: RecordingHost, line: str) -> int:
    host.clear()
    return model_register.make(host).run(line.replace("Q.TXT", str(host.data_dir / "q.txt")))


def test_side_by_side(host: RecordingHost) -> None:
    host._lines = iter(["1 c", "nonsense", "=", "q"])
    assert run(host, "compare one base --prompts Q.TXT --limit 6") == 0
    assert "The training engine answers instead" in host.output
    assert re.search(r"1 of 2  What is number 3\?", host.output)
    assert re.search(r"1  one +2  base\.gguf", host.output)
    assert "Type 1, 2 or =" in host.output
    assert re.search(r"one +1 better +correctness 1", host.output)
    assert "1 alike" in host.output
    picks = [json.loads(line) for line in (host.data_dir / "contests.jsonl").read_text().splitlines()]
    assert [(pick["winner"], pick["blind"]) for pick in picks] == [("a", False), ("tie", False)]


def test_blind(host: RecordingHost) -> None:
    host._lines = iter(["1", "2"])
    assert run(host, "compare one base --prompts Q.TXT --limit 6 --blind") == 0
    before, _, _ = host.output.partition("1 was ")
    assert "one  " not in before.partition("1 of 2")[2], "no name is shown before the verdict"
    told = re.findall(r"1 was (\S+), 2 was (\S+)\.", host.output)
    assert len(told) == 2
    picks = [json.loads(line) for line in (host.data_dir / "contests.jsonl").read_text().splitlines()]
    for pick, names, typed in zip(picks, told, (0, 1), strict=True):
        assert {"a": "one", "b": "base.gguf"}[pick["winner"]] == names[typed]


def test_where_nobody_answers_the_answers_are_shown(host: RecordingHost) -> None:
    assert run(host, "compare one base --prompts Q.TXT --limit 6") == 0
    assert "1 of 2" in host.output
    assert "2 of 2" in host.output
    assert not (host.data_dir / "contests.jsonl").exists()
    host.json = True
    assert run(host, "compare one base --prompts Q.TXT --limit 6") == 0
    found = host.last_json()
    assert (found["a"], found["b"], len(found["answers"])) == ("one", "base.gguf", 2)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("compare one one", 2, "two different models"),
        ("compare one nobody", 1, "No model nobody can be asked here"),
        ("compare one meton-x:v1", 1, "No model meton-x:v1 can be asked here"),
        ("compare one base --limit 0", 2, "--limit takes"),
        ("compare one", 2, "required"),
        ("compare one base --prompts nothing.txt", 1, "There is no file nothing.txt"),
    ],
)
def test_refusals(host: RecordingHost, line: str, code: int, words: str) -> None:
    assert run(host, line) == code
    assert words in host.output
