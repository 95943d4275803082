"""Forgotten means gone: from every byte of the data folder, from all that comes later, and said where it is not."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout
from support.runs import Bench, over, reached, small_dataset
from support.typed import Typed, plain_run

from meton_plugins.finetune.collect.harvest import harvest
from meton_plugins.finetune.commands.run_views import shown
from meton_plugins.finetune.curate import dataset, redact
from meton_plugins.finetune.curate.build import deciding
from meton_plugins.finetune.curate.manifest import FILES, PAIRS, read_manifest
from meton_plugins.finetune.curate.secrets import scrub
from meton_plugins.finetune.errors import BusyError, DataError
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.library.schema import backup_of
from meton_plugins.finetune.paths import Home, private_dir, write_json
from meton_plugins.finetune.serve import forget as service
from meton_plugins.finetune.settings import BuildSettings
from meton_plugins.finetune.train.launch import ask, start
from meton_plugins.finetune.train.lock import run_lock, start_lock
from meton_plugins.finetune.train.runs import Run
from meton_plugins.finetune.turn import Call, Message, ToolUse, Turn

pytest_plugins = ["support.run_fixtures"]

#: Planted in everything that is to be forgotten.
MARK = "zebra-umbrella-7731"
QUESTION = f"Where did we put the {MARK} during the move to the new house?"
ANSWER = f"The {MARK} stands in the cellar, behind the second shelf on the left, wrapped in blue paper. " + "x " * 90
TURNS = 4


def turn(session: int, number: int, **more: Any) -> Turn:
    before = [] if number == 0 else [*said(session, number - 1)]
    question, answer = (message.content for message in said(session, number))
    values = {"question": question, "answer": answer, "context": before}
    return Turn.model_validate(
        {"session": f"session-{session}", "at": f"2026-03-{session + 1:02}T09:{number:02}:00", **values, **more}
    )


def said(session: int, number: int) -> list[Message]:
    if (session, number) == (2, 1):
        return [Message(role="user", content=QUESTION), Message(role="assistant", content=ANSWER)]
    return [
        Message(role="user", content=f"What about matter {session}-{number}, tell me?"),
        Message(role="assistant", content=f"Matter {session}-{number} is settled in paragraph {session * number + 3}."),
    ]


def planted() -> list[Turn]:
    """Twelve sessions; the third's second turn is the one to forget, and the third turn has it in all around it."""
    turns = [turn(session, number) for session in range(12) for number in range(TURNS)]
    whole = turn(
        2, 1,
        tools=(ToolUse(name="finder", input=f'{{"what": "{MARK}"}}', output=f"found {MARK}"),),
        calls=(
            Call(instructions=f"you know {MARK} " * 80, prompt=f"Query: {QUESTION}", completion=f"ANSWER: {ANSWER}"),
        ),
    )  # fmt: skip
    after = turn(
        2, 2,
        calls=(Call(prompt=f"Recent Conversation:\nASSISTANT: {ANSWER[:200]}...", completion="THOUGHT: so"),),
    )  # fmt: skip
    copy = turn(7, 3, question=f" {QUESTION.upper()}", answer=ANSWER.replace(" ", "  "))
    changed = {(2, 1): whole, (2, 2): after}
    found = [changed.get((int(one.session.split("-")[1]), int(one.at[14:16])), one) for one in turns]
    return [*found, copy]


def named(library: Library) -> str:
    return next(example.id for example in library.find(session="session-2") if MARK in example.question)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that is full of the mark: library, index, upgrade copies, datasets, a run. To be copied."""
    folder = Home(tmp_path_factory.mktemp("full") / "home").make()
    with Library(folder.library) as library:
        ids, _ = library.add(planted())
        library.rate(ids, 5)
        name = named(library)
        library.fix(name, f"{ANSWER} Corrected: the {MARK} was given away to the neighbours.")
        library.tag([name], [MARK])
        other = library.find()[0].id
        values = (name, name, MARK.encode(), MARK.encode())
        library._connection().execute("INSERT INTO compared (example, head, mark, print) VALUES (?, ?, ?, ?)", values)
        query = "INSERT INTO alike (a, b, question, answer) VALUES (?, ?, 99, 99)"
        library._connection().executemany(query, [(name, other), (other, name)])
        for changes in ({"form": "plain"}, {"form": "meton"}, {"context_turns": 0}):
            # The copy is to be frozen beside it.
            settings = BuildSettings.model_validate({"deduplicate": False, "plain_share": 0, **changes})
            dataset.build(library, settings, folder.datasets)
        plain = BuildSettings(form="plain", deduplicate=False, plain_share=0)
        frozen = dataset.build(library, plain, folder.datasets, name="mine")
    plain_run(folder, "one", folder.datasets / frozen.id)
    for version in (1, 2):
        with closing(sqlite3.connect(backup_of(folder.library, version))) as old:
            old.execute("CREATE TABLE examples (answer TEXT)")
            old.execute("INSERT INTO examples VALUES (?)", (ANSWER,))
            old.commit()
    (folder.root / ".library.v2.db.77.tmp").write_text(ANSWER)
    (private_dir(folder.datasets / ".abc.77.tmp") / "train.jsonl").write_text(ANSWER)
    assert len(holding(folder.root)) >= 9
    return folder.root


@pytest.fixture
def typed(full: Path, home: Path) -> Typed:
    """A user in front of a copy of it."""
    shutil.copytree(full, home)
    return Typed(home)


def holding(folder: Path) -> list[str]:
    """Files with the mark in any of their bytes, whatever the letters' case."""
    found = []
    for path in folder.rglob("*"):
        raw = path.read_bytes().lower() if path.is_file() else b""
        if MARK.encode() in raw or MARK.encode("utf-16-le") in raw or MARK.encode() in str(path).encode():
            found.append(str(path.relative_to(folder)))
    return found


def whole(home: Home) -> None:
    """Every dataset loads, holds only what may be there, and its manifest counts it."""
    paths = [*(home.datasets / one.id for one in dataset.versions(home)), home.runs / "one" / "dataset"]
    assert len(paths) == 4
    for path in paths:
        frozen = dataset.load(path)
        counts = frozen.manifest.counts
        assert [len(getattr(frozen, side)) for side in FILES] == [counts[side] for side in FILES]
        assert (path / PAIRS).read_bytes().count(b"\n") == counts["pairs"] == 0
        assert sum(counts.values()) > 40
        assert frozen.manifest.redacted
        assert not list(path.glob(".*"))


def test_no_byte_is_left(typed: Typed) -> None:
    before = {one.id: read_manifest(typed.home.datasets / one.id) for one in dataset.versions(typed.home)}
    latest = dataset.resolve(typed.home)
    with Library(typed.home.library) as reader:  # another session, whose log is in use
        name = named(reader)
        receipt = typed.json(f"forget {name} --yes")
        assert holding(typed.home.root) == []
        assert MARK not in json.dumps([one.model_dump() for one in reader.find()]).lower()
        assert reader.search(MARK) == reader.search("blue paper") == []
        assert [hit.example.session for hit in reader.search("2-2")] == ["session-2"]
        queries = [f"SELECT count(*) FROM {name}" for name in ("calls", "tags", "alike", "forgetting")]
        queries.append(f"SELECT count(*) FROM compared WHERE '{name}' IN (example, head)")
        assert [reader._connection().execute(query).fetchone()[0] for query in queries] == [1, 0, 0, 0, 0]
    assert name in receipt["examples"]
    assert [len(receipt["examples"]), len(receipt["copies"]), len(receipt["cleaned"])] == [2, 1, 1]
    assert set(receipt["datasets"]) == set(before)
    assert {"library.v1.db", "library.v2.db", ".library.v2.db.77.tmp", ".abc.77.tmp"} <= set(receipt["removed"])
    whole(typed.home)
    assert dataset.resolve(typed.home) == latest, "the newest is the one built last"
    assert dataset.resolve(typed.home, "mine") == latest
    for one in dataset.versions(typed.home):
        [redaction] = one.redacted
        assert one.id in before, "a run knows it by its id"
        assert redaction.lines
        for file, (old, new) in redaction.files.items():
            assert (old, new) == (before[one.id].files[file].sha256, one.files[file].sha256)
            assert old != new
    rest = {one.id: sum(one.counts.values()) for one in dataset.versions(typed.home)}
    # Itself, its copy, and where earlier turns are shown the turn after it.
    lost = {name: sum(old.counts.values()) - rest[name] - old.counts["pairs"] for name, old in before.items()}
    assert sorted(lost.values()) == [2, 3, 3]


def test_it_stays_forgotten(typed: Typed, tmp_path: Path) -> None:
    with Library(typed.home.library) as library:
        typed(f"forget {named(library)} --yes")
        count = library.counts().examples
        again = [*planted(), turn(30, 1, question=QUESTION, answer=ANSWER, source="alpaca")]
        assert library.add(again) == ([], len(planted()) - 2)
        assert library.take(again[-1]) is None
        later = turn(31, 0, context=[*said(2, 1), *said(3, 1)], calls=(Call(prompt=ANSWER, completion="c"),))
        taken = library.take(later)
        assert taken is not None
        assert [message.content for message in library.get(taken).context] == [m.content for m in said(3, 1)]
        assert library.calls(taken)[0].prompt == ""
        cut = turn(32, 0, context=said(2, 1)[1:])
        assert library.get(str(library.take(cut))).context == ()
        assert library.counts().examples == count + 2
    assert holding(typed.home.root) == []


def test_a_harvest_says_so(typed: Typed, tmp_path: Path) -> None:
    folder = conversations(tmp_path)
    rating = {"id": "f1", "query": QUESTION, "response": ANSWER, "feedback_type": "positive"}
    other = {"id": "f2", "query": "And this?", "response": "That.", "feedback_type": "positive"}
    write_json(private_dir(folder.parent / "feedback_data") / "feedback_db.json", [rating, other])
    with Library(typed.home.library) as library:
        typed(f"forget {named(library)} --yes")
        report = harvest(library, folder, scrub)
    assert report.rejected == {"forgotten by you": 1}
    assert (report.new, report.known, report.found, report.ratings) == (1, 0, 2, 1)
    assert holding(typed.home.root) == []


def conversations(tmp_path: Path) -> Path:
    """A folder as Meton leaves it, with a file that holds the mark and one that does not."""
    folder = private_dir(tmp_path / "meton" / "conversations")
    for number, (question, answer) in enumerate(((QUESTION, ANSWER), ("What is new?", "Nothing is new today."))):
        stamp = f"2026-04-0{number + 1}T10:00:00"
        messages = [
            {"role": "user", "content": question, "timestamp": stamp},
            {"role": "assistant", "content": answer, "timestamp": f"{stamp}.5", "metadata": {"model": "m:1"}},
        ]
        write_json(folder / f"session_{number}.json", {"session_id": f"meton-{number}", "messages": messages})
    return folder


def test_the_receipt_names_what_is_out_of_reach(typed: Typed, tmp_path: Path) -> None:
    home, folder = typed.home, conversations(tmp_path)
    typed.host.conversations_dir = folder
    exported = private_dir(private_dir(home.models) / "one") / "one-q4_k_m.gguf"
    exported.write_bytes(b"GGUF")
    file = {"quant": "q4_k_m", "path": str(exported), "sha256": "0", "bytes": 4}
    export = {"run": "one", "base": {}, "adapter_sha256": "0", "template": "basic", "created": "", "files": [file]}
    write_json(home.models / "one" / "export.json", export)
    for name, run, retired in (("one", "one", None), ("other", "two", None), ("old", "one", "2026-03-02")):
        tag = f"meton-{name}:v1-2026-03-01-{'0' * 8}"
        known = {
            "tag": tag, "alias": "a", "digest": "d", "gguf": "g", "sha256": "s", "bytes": 4, "request": "r",
            "when": "2026-03-01", "notes": {"run": run}, "retired": retired,
        }  # fmt: skip
        write_json(private_dir(home.models / name) / f"{tag.partition(':')[2]}.json", known)
    (home.root / "notes.txt").write_text(f"I looked: {ANSWER.upper()}")
    typed(f"backup {tmp_path}/kept.zip")
    with Library(home.library) as library:
        quoting = library.take(turn(20, 0, answer=f"As I said: {ANSWER}"))
        line = f"forget {named(library)} --yes"
    receipt = typed.json(line)
    [run] = receipt["runs"]
    assert (run["run"], run["trained"] + run["judged"] > 0) == ("one", True)
    side = "trained" if run["trained"] else "judged"
    if side == "trained":
        assert [Path(path).name for path in run["adapters"]] == ["best.gguf", "adapter.gguf", "step_00000001"]
        assert run["merged"] == [str(exported)]
        assert run["models"] == ["meton-one:v1-2026-03-01-00000000"]
    assert receipt["quoting"] == [quoting]
    assert receipt["files"] == [str(home.root / "notes.txt")]
    assert receipt["conversations"] == [str(folder / "session_0.json")]
    assert receipt["backups"] == [str(tmp_path / "kept.zip")]
    [note] = json.loads((home.runs / "one" / "redacted.json").read_text())
    assert (note["trained"], note["judged"]) == (run["trained"], run["judged"])
    typed.host.clear()
    shown(typed.host, Run(home.runs / "one"))
    assert f"forgotten  {note['trained'] + note['judged']} rows on {note['at'][:10]}" in typed.host.output
    text = typed(f"forget {quoting} --yes")
    assert "Out of reach" in text
    assert "kept.zip" in text


@pytest.mark.parametrize("side", ["train", "heldout"])
def test_a_run_that_was_only_judged_by_it_learned_nothing(home: Path, side: str) -> None:
    typed = Typed(home)
    folder = typed.home.make()
    with Library(folder.library) as library:
        ids, _ = library.add(planted())
        library.rate(ids, 5)
        frozen = dataset.build(library, BuildSettings(form="plain"), folder.datasets)
        plain_run(folder, "one", folder.datasets / frozen.id)
        row = getattr(dataset.load(folder.datasets / frozen.id), side)[0]
        [run] = typed.json(f"forget {row.id.partition('#')[0]} --yes")["runs"]
    assert (run["trained"] > 0, run["judged"] > 0) == (side == "train", side != "train")
    assert bool(run["adapters"]) == (side == "train")


class Killed(BaseException):
    """In place of a kill at this very point."""


def at(monkeypatch: pytest.MonkeyPatch, place: str, after: bool) -> Callable[[], int]:
    """Die at the next call of `place`, before or after it did its work; gives how often it was called."""
    calls = [0]
    owner: Any
    if place.startswith("replace:"):
        owner, name, wanted = os, "replace", int(place[8:])
    else:
        owner, name = {
            "bury": (Library, "bury"), "purge": (Library, "purge"), "compact": (Library, "compact"),
            "redact": (service, "redact"), "journal": (redact, "write_json"),
        }[place]  # fmt: skip
        wanted = 1
    real = getattr(owner, name)

    def dying(*args: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == wanted and not after:
            raise Killed
        value = real(*args, **more)
        if calls[0] == wanted:
            raise Killed
        return value

    monkeypatch.setattr(owner, name, dying)
    return lambda: calls[0]


@pytest.mark.parametrize(
    ("place", "after", "again"),
    [
        *(
            (place, after, again)
            for place in ("bury", "journal", "redact", "purge", "compact")
            for after in (False, True)
            for again in ("same", "other")
        ),
        *((f"replace:{number}", number % 2 == 0, "same") for number in range(1, 13)),
    ],
)
def test_a_killed_forgetting_is_finished_by_the_next(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, place: str, after: bool, again: str
) -> None:
    with Library(typed.home.library) as library:
        name = named(library)
        other = library.find(session="session-9")[0].id
    called = at(monkeypatch, place, after)
    with pytest.raises(Killed):
        typed.command.run(f"forget {name} --yes")
    assert called()
    monkeypatch.undo()
    if place == "bury" and not after:
        assert typed.json(f"show {name}")["id"] == name, "nothing had begun"
        return
    if place == "compact" and after:
        assert holding(typed.home.root) == []
        return
    said = typed.json(f"forget {name if again == 'same' else other} --yes")
    assert name in (said.get("earlier") or said)["examples"]
    assert holding(typed.home.root) == []
    whole(typed.home)
    with Library(typed.home.library) as library:
        assert library.unfinished() == ()
        assert bool([one for one in library.find() if one.id == other]) == (again == "same")


def test_a_run_that_trains_on_it_now_is_not_pulled_from_under(typed: Typed) -> None:
    with Library(typed.home.library) as library:
        name = named(library)
        before = holding(typed.home.root)
        with run_lock(typed.home.runs / "one"):
            assert "/finetune stop one" in typed(f"forget {name} --yes", code=1)
            assert library.get(name)
            assert library.tombstones() == {}
        assert set(holding(typed.home.root)) == set(before)
    typed(f"forget {name} --yes")


def test_a_reader_in_the_way_is_said_and_the_rest_done_later(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meton_plugins.finetune.library.file.BUSY_SECONDS", 0.2)
    with Library(typed.home.library) as library, closing(sqlite3.connect(typed.home.library)) as reader:
        name = named(library)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM examples").fetchone()
        assert "reading" in typed(f"forget {name} --yes", code=1)
        reader.rollback()
    typed("forget")
    assert holding(typed.home.root) == []


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 1), (None, 2)])
def test_it_shows_and_asks(typed: Typed, answer: bool | None, code: int) -> None:
    typed.host._answers = iter([answer])
    with Library(typed.home.library) as library:
        name = named(library)
        said = typed(f"forget {name}", code=code)
        assert "Where did we put" in said
        assert "datasets" in said
        assert "the run one" in said
        assert (library.counts().examples < len(planted())) == (answer is True)
    assert typed.host.asked == ["Forget these 2 examples for good?"]
    if answer is None:
        assert "--yes" in said


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("session:session-3", 45),
        ("before:2026-03-03", 41),
        ("before:2026-03-03T09:02", 38),
        ("session:session-3 session:session-4 before:2026-03-02", 37),
    ],
)
def test_what_can_be_named(typed: Typed, words: str, left: int) -> None:
    typed(f"forget {words} --yes")
    assert typed.json("stats")["examples"] == left
    assert dataset.load(dataset.resolve(typed.home)).manifest.redacted


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("", 2, "Say what to forget"),
        ("nonsense1", 1, "no example"),
        ("session:", 1, "no session"),
        ("session:session", 1, "More than one session"),
        ("before:yesterday", 2, "a date"),
        ("before:2020-01-01", 1, "so old"),
    ],
)
def test_what_cannot_be_named(typed: Typed, words: str, code: int, says: str) -> None:
    assert says in typed(f"forget {words} --yes", code=code)
    assert typed.json("stats")["examples"] == len(planted())


def test_an_example_without_a_time_is_never_before(typed: Typed) -> None:
    with Library(typed.home.library) as library:
        name = str(library.take(turn(40, 0, at="")))
        typed("forget before:2026-11-01 --yes")
        assert [one.id for one in library.find()] == [name]


def test_what_it_said_before_it_was_edited_is_forgotten_too(typed: Typed) -> None:
    with Library(typed.home.library) as library:
        name = named(library)
        copy = next(one.id for one in library.find(session="session-7") if MARK in one.question.lower())
        typed(f'edit {name} --question "Where is the thing?"')
        assert library.add(planted()) == ([], len(planted())), "a harvest still knows it"
        typed(f"forget {name} {copy} --yes")
        assert holding(typed.home.root) == []
        assert library.add(planted()) == ([], len(planted()) - 2)


def test_a_dataset_that_others_changed_stays_marked_so(typed: Typed) -> None:
    path = dataset.resolve(typed.home)
    with Library(typed.home.library) as library:
        name = named(library)
    for file in FILES.values():
        (path / file).write_bytes((path / file).read_bytes() + b'{"id": "strange", "messages": []}\n')
    typed(f"forget {name} --yes")
    assert holding(typed.home.root) == []
    with pytest.raises(DataError, match="changed"):
        dataset.load(path)


def test_a_build_waits_for_it(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    with Library(typed.home.library) as library:
        with deciding(library), pytest.raises(Timeout):
            FileLock(typed.home.library.with_name("split.lock"), timeout=0).acquire()
        monkeypatch.setattr(service, "PATIENCE", 0.1)
        with start_lock(), pytest.raises(BusyError):
            service.forget(typed.home, library, library.seek([named(library)]))
        assert library.tombstones() == {}


def test_a_paused_run_goes_on_with_what_is_left(bench: Bench) -> None:
    """Real training: paused, its data redacted, resumed to the end."""
    shutil.rmtree(bench.home.root / "datasets", ignore_errors=True)
    bench.dataset = small_dataset(bench.home.root)
    run = bench.create(epochs=40)
    start(run)
    reached(run, 8)
    ask(run, "pause")
    over(run)
    assert run.status == "paused"
    row = dataset.load(bench.dataset).train[0]
    with Library(bench.home.library) as library:
        receipt = service.forget(bench.home, library, library.seek([row.id]))
    assert [(seen.run, seen.trained) for seen in receipt.runs] == [("one", 1)]
    assert any("step_" in path for path in receipt.runs[0].adapters)
    start(run)
    over(run)
    assert run.status == "finished", run.state.error
    rows = [event["rows"] for event in run.events() if event["event"] == "rows" and event["side"] == "train"]
    assert rows[-1] == rows[0] - 1


@pytest.mark.parametrize("day", ["2026-13-45", "2026-02-30", "xyz", "2026-3-5", "9999-99-99", "2026-03-05T25:00"])
def test_a_day_that_is_none_forgets_nothing(typed: Typed, day: str) -> None:
    with Library(typed.home.library) as library:
        before = library.counts()
    assert "before: takes a date such as 2026-03-01" in typed(f"forget before:{day} --yes", code=2)
    assert "still to come" in typed("forget before:9999-01-01 --yes", code=2)
    with Library(typed.home.library) as library:
        assert library.counts() == before


def test_the_receipt_names_files_that_were_imported(typed: Typed, tmp_path: Path) -> None:
    asked, said = "Where does the quay lantern stand now?", "It stands at the far end of the quay, painted green."
    folder = tmp_path / "bring"
    folder.mkdir()
    (folder / "one.jsonl").write_text(json.dumps({"prompt": asked, "completion": said}) + "\n")
    typed(f"import {folder}")
    with Library(typed.home.library) as library:
        [example] = [e for e in library.find() if e.question == asked]
    receipt = typed.json(f"forget {example.id} --yes")
    assert str((folder / "one.jsonl").resolve()) in receipt["conversations"]
