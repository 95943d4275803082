"""`/finetune note`: the user's own words, kept with a run exactly as he typed them."""

from __future__ import annotations

import json
import shlex
import stat
from pathlib import Path

import pytest
from support.finetuning import Typed
from support.typed import plain_run

from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.errors import UsageError
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.serve import backup, restore
from meton_plugins.finetune.serve.forget import forget
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.train.notes import add, notes
from meton_plugins.finetune.train.runs import Run
from meton_plugins.finetune.turn import Turn

QUESTION = "Where did we bury the treasure of the old captain?"
ANSWER = "Under the third palm tree from the left, as every sailor here knows."


@pytest.fixture
def run(home: Path) -> Run:
    """A finished run, trained on what one turn said."""
    with Library(Home(home).make().library) as library:
        new, _ = library.add([Turn(session="s", at="2026-01-01T10:00:00", question=QUESTION, answer=ANSWER)])
        library.rate(new, 5)
        made = dataset.build(library, BuildSettings(form="plain"), home / "datasets")
    return plain_run(Home(home), "one", home / "datasets" / made.id)


@pytest.fixture
def typed(home: Path) -> Typed:
    return Typed(home)


TEXTS = {
    "plain": "rank 8 is enough",
    "apostrophe": "it doesn't know Python's walrus",
    "open quote": 'it says "yes to everything',
    "quoted word": "it was 'good' so far",
    "dashes": "--epochs 3 was better than -5",
    "a dash": "- one - two",
    "markup": "[bold]x[/bold] [/INST] :smile:",
    "letters": "größer 更好 🎉",
    "backslashes": r"C:\new\table",
    "spaces": "two  spaces   stay",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_is_kept_as_it_was_typed(typed: Typed, run: Run, text: str) -> None:
    assert typed(f"note one {text}") == "Noted with one.\n"
    (kept,) = notes(run)
    assert kept.text == text
    assert typed("note one") == f"{kept.at[:16].replace('T', ' ')}  {text}\n"


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_shell_s_words_are_kept_as_they_were(typed: Typed, run: Run, text: str) -> None:
    """The shell gives words, which are joined to a line with quotes."""
    typed(shlex.join(["note", "one", text]))
    assert notes(run)[0].text == text


def test_notes_are_shown_the_oldest_first(typed: Typed, run: Run) -> None:
    assert typed("note one") == "No notes yet: /finetune note one and what you learned.\n"
    for text in ("first", "second"):
        typed(f"note latest {text}")
    assert [line.split()[-1] for line in typed("note one").splitlines()] == ["first", "second"]
    value = typed.json("note one")
    assert (value["run"], [one["text"] for one in value["notes"]]) == ("one", ["first", "second"])
    assert typed.json("note one third")["text"] == "third"


def test_the_file_is_the_user_s_alone(typed: Typed, run: Run) -> None:
    typed("note one secret plans")
    path = run.folder / "notes.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(json.loads(path.read_text(encoding="utf-8"))) == {"at", "text"}
    with path.open("ab") as file:
        file.write(b'{"at": "2026", "te')
    assert [one.text for one in notes(run)] == ["secret plans"], "half a line is passed over"


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("note", 2, "required: run"),
        ("note nope", 1, "no run 'nope'"),
        ("note ../one x", 2, "cannot name a run"),
        ("note one ''", 1, "There is nothing to note"),
    ],
)
def test_what_is_refused(typed: Typed, run: Run, line: str, code: int, said: str) -> None:
    if line.endswith("''"):
        code = 2
    answer = typed(line, code)
    assert answer.startswith("✗ ")
    assert said in answer
    assert notes(run) == []


def test_an_empty_note_and_half_a_letter(run: Run) -> None:
    with pytest.raises(UsageError, match="nothing to note"):
        add(run, "  \n ")
    assert add(run, "broken \udcff name").text == "broken ? name"
    assert [one.text for one in notes(run)] == ["broken ? name"]


def test_help(typed: Typed) -> None:
    assert typed("note --help").startswith("usage: /finetune note")


def test_a_backup_holds_notes(typed: Typed, run: Run, home: Path, tmp_path: Path) -> None:
    typed("note one keep this")
    backup.backup(Home(home), tmp_path / "all.zip")
    there = tmp_path / "there"
    restore.restore(Home(there), tmp_path / "all.zip")
    assert [one.text for one in notes(Run(there / "runs" / "one"))] == ["keep this"]


def test_forgetting_names_notes_that_quote_what_is_forgotten(typed: Typed, run: Run, home: Path) -> None:
    """They are the user's own words, so they stay; the receipt tells him where they are."""
    typed(f"note one it learned to say: {ANSWER}")
    other = plain_run(Home(home), "two", run.folder / "dataset")
    add(other, "nothing of the kind")
    with Library(home / "library.db") as library:
        what = library.seek([example.id for example in library.find()])
        receipt = forget(Home(home), library, what)
    assert receipt.files == [str(run.folder / "notes.jsonl")]
    assert notes(run)[0].text.endswith(ANSWER)
    assert [one.text for one in notes(other)] == ["nothing of the kind"]
