"""`/export report`: one page that holds all of a run, needs nothing else, and looks as it should in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.browser import complaints, look, measure
from support.courses import add_event, drawn_run
from support.host import RecordingHost, User
from support.runs import Bench, small_dataset

from meton_plugins.finetune.commands import export
from meton_plugins.finetune.commands.dataset import make as dataset_command
from meton_plugins.finetune.curate.output import remember
from meton_plugins.finetune.paths import Home, append_json, write_json
from meton_plugins.finetune.report import answers as answers_module
from meton_plugins.finetune.report.answers import Answer
from meton_plugins.finetune.report.page import build
from meton_plugins.finetune.settings import TrainSettings
from meton_plugins.finetune.train import lock
from meton_plugins.finetune.train.runs import Run

pytest_plugins = ["support.run_fixtures"]

#: What a user, or a model, may say: markup, the end of a script, template language, text that runs backwards.
HOSTILE = "</script><script>window.hostile='ran'</script><img src=x onerror=\"window.hostile='ran'\">{{ 7*7 }}{% raw %}"
BACKWARDS = "safe\u202egnp.exe\u2066\x1b[31m\x00\x07"


@dataclass
class Finding:
    """As train.diagnosis makes them."""

    problem: str
    evidence: str
    advice: str


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_run(home: Home) -> tuple[Run, str]:
    """A run all of whose words are hostile, and its page."""
    run = drawn_run(
        home, "night-1", parent="night-0", recipe=HOSTILE, system=HOSTILE, dataset=f"mine-{BACKWARDS}",
        settings=TrainSettings(chat_template=f"/tmp/{HOSTILE}.jinja"), versions={HOSTILE: BACKWARDS},
        plan={"memory": {"peak": 9100}, "time": {"seconds": 900}},
        state={"note": HOSTILE},
    )  # fmt: skip
    append_json(run.folder / "notes.jsonl", {"at": "2026-11-22T08:00:00", "text": HOSTILE + BACKWARDS})
    add_event(run.folder, event="failed", message=HOSTILE)
    add_event(run.folder, event="rows", side="train", rows=1, skipped=[{"id": HOSTILE, "reason": BACKWARDS}])
    add_event(run.folder, event=HOSTILE, what=HOSTILE)
    dataset = run.folder / "dataset"
    dataset.mkdir()
    stages = [{"name": HOSTILE, "kept": 200, "reason": BACKWARDS}, {"name": "kept", "kept": 133, "reason": HOSTILE}]
    write_json(
        dataset / "manifest.json",
        {"id": "x", "settings": {}, "funnel": stages, "counts": {}, "sessions": {}, "secrets": {}, "files": {}},
    )
    answer = Answer(id=HOSTILE, question=HOSTILE, expected=BACKWARDS, base=f"{HOSTILE}\ud800", tuned="x" * 3000)
    return run, build(run, [Finding(HOSTILE, BACKWARDS, "Use fewer --epochs.")], [answer])


def test_whatever_words_say_they_are_only_shown(home: Path) -> None:
    _, text = hostile_run(Home(home))
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1, "ours"
    assert "img" not in [tag for tag, _ in page.tags]
    assert not [name for _, given in page.tags for name in given if name.startswith("on")]
    assert html.escape(HOSTILE, quote=False).replace('"', "&#34;").replace("'", "&#39;") in text.replace(
        "&#x27;", "&#39;"
    )
    assert "{{ 7*7 }}" in text, "not 49"
    assert not set(text) & {"\u202e", "\u2066", "\x1b", "\x00", "\x07"}
    assert "safe&lt;U+202E&gt;gnp.exe" in text
    text.encode("utf-8")


def test_the_page_needs_nothing_else(home: Path) -> None:
    _, text = hostile_run(Home(home))
    page = Page(text)
    assert not [(tag, given) for tag, given in page.tags if {"src", "href", "srcset", "action", "data"} & set(given)]
    assert not {"link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.tags}
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(given["content"] for tag, given in page.tags if given.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_the_page_says_all_that_matters(home: Path) -> None:
    run, text = hostile_run(Home(home))
    said = " ".join(Page(text).text.split())
    for words in (
        "its loss fell from 3.200 to 1.032 (−68%), at step 400.", "What stands out", "Use fewer --epochs.",
        "night-0 (gone)", "1,411 tokens are more than --ctx-size 1024", "peak memory, foreseen",
        "8.9 GB; really 8.6 GB (-3 %)",
        "--learning-rate", "peak learning rate", "What happened", "loss 3.200 before training", "expected", "tuned",
        "13 min", "133", run.record.base.sha256,
    ):  # fmt: skip
        assert words in said, words
    assert text.count('class="chart') == 3


def test_a_run_that_has_only_begun_has_a_page(home: Path) -> None:
    run = drawn_run(Home(home), steps=0, validations=0, status="failed", state={
        "status": "failed", "error": "The base x[/INST] is gone.", "base_loss": None, "loss": None,
    })  # fmt: skip
    (run.folder / "events.jsonl").unlink()
    text = build(run)
    assert "The run failed: The base x[/INST] is gone." in text
    assert "<figure" not in text
    assert "No example was left out." in text


def test_a_long_run_is_a_small_page(home: Path) -> None:
    run = drawn_run(Home(home), steps=30_000, total=30_000, validations=300)
    spike = json.dumps({"event": "step", "step": 17_000, "loss": 99.5, "learning_rate": 1e-4, "gradient_norm": 7e3})
    with (run.folder / "events.jsonl").open("a") as file:
        file.write(f"{spike}\n")
    text = build(run)
    assert len(text.encode()) < 400_000
    assert "Single steps reach up to 99.5." in text


# In a browser


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    _, text = hostile_run(Home(folder / "home").make())
    (folder / "page.html").write_text(text, encoding="utf-8")
    return folder / "page.html"


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_lays_it_out(hostile_page: Path, tmp_path: Path, width: int) -> None:
    seen = measure(hostile_page, width, tmp_path)
    found = seen.measured
    assert found["width"] == width
    assert found["scroll"] == width, f"wider than the window: {found['outside'][:5]}"
    assert len(found["boxes"]) == 4, "three lines, and the validations"
    assert all(wide > width / 8 and high > 10 for wide, high in found["boxes"]), found["boxes"]
    assert re.fullmatch(r"step \d+: [\d.]+", found["hover"]), "the values under the pointer"
    assert found["ran"] == "", "not even where any script might run, does one of the words"
    assert seen.complaints == []


def test_a_browser_has_nothing_to_complain_of(hostile_page: Path, tmp_path: Path) -> None:
    """The page itself, under its own policy: nothing is kept out, because it wants nothing else."""
    done = look(hostile_page, 1280, "--dump-dom", folder=tmp_path)
    assert complaints(done.stderr) == []
    spoilt = tmp_path / "spoilt.html"
    text = hostile_page.read_text(encoding="utf-8")
    spoilt.write_text(text.replace("</body>", "<script>window.x = 1</script></body>"), encoding="utf-8")
    assert complaints(look(spoilt, 1280, "--dump-dom", folder=tmp_path).stderr), "a script of another would be kept out"


def test_a_browser_shows_it_dark(hostile_page: Path, tmp_path: Path) -> None:
    dark = measure(hostile_page, 1280, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert dark.measured["paper"] == "rgb(22, 24, 27)"


def test_a_browser_paints_it(hostile_page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    look(hostile_page, 1280, f"--screenshot={picture}", folder=tmp_path)
    data = picture.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1280, 2400)
    assert len(data) > 60_000, "a page of one colour has a few thousand"


# As a user types it


class Typed(User):
    """A user of /export, and of /dataset."""

    def __init__(self, home: Home) -> None:
        host = RecordingHost(home.root)
        super().__init__(host, export.make(host, home))
        self.dataset = User(host, dataset_command(host, home))


@pytest.fixture
def typed(home: Path) -> Typed:
    return Typed(Home(home).make())


def test_a_report_stands_in_the_runs_folder(typed: Typed, home: Path) -> None:
    run = drawn_run(Home(home))
    said = typed("report --answers 0")
    path = run.folder / "report.html"
    assert str(path) in said
    assert path.stat().st_mode & 0o777 == 0o600
    assert "<h1>night-1" in path.read_text(encoding="utf-8")
    assert typed.json("report night-1 --answers 0") == {
        "run": "night-1", "path": str(path), "bytes": path.stat().st_size, "answers": 0, "missing": None,
    }  # fmt: skip


def test_a_report_goes_where_the_user_wants_it(typed: Typed, home: Path, tmp_path: Path) -> None:
    drawn_run(Home(home))
    for named, path in (("a.html", tmp_path / "a.html"), ("", tmp_path / "night-1.html")):
        typed(f"report --answers 0 --output {tmp_path / named}")
        assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
        typed(f"report --answers 0 --output {tmp_path / named}")
    (tmp_path / "letter.html").write_text("mine")
    assert "say --force" in typed(f"report --answers 0 --output {tmp_path / 'letter.html'}", code=2)
    assert (tmp_path / "letter.html").read_text() == "mine"
    typed(f"report --answers 0 --force --output {tmp_path / 'letter.html'}")
    assert "make it first" in typed(f"report --output {tmp_path / 'no' / 'a.html'}", code=1)
    assert "from 0 up" in typed("report --answers -1", code=2)
    assert "There is no run 'two'" in typed("report two", code=1)


def test_a_report_without_a_base_says_so(typed: Typed, home: Path) -> None:
    run = drawn_run(Home(home))
    assert "has no adapter yet" in typed("report")
    (run.folder / "best.gguf").write_bytes(b"GGUF")
    (run.folder / "dataset").mkdir()
    row = {
        "id": "a",
        "session": "s",
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    }
    (run.folder / "dataset" / "validation.jsonl").write_text(json.dumps(row) + "\n")
    assert "The base /models/qwen2.5-coder-7b-f16.gguf is gone" in typed("report")
    assert (run.folder / "report.html").exists()


def test_answers_side_by_side(bench: Bench, trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Typed(bench.home)
    assert typed.json("report one")["answers"] == 1, "the bench has one row to validate with"
    kept = json.loads((trained.folder / "answers.json").read_text(encoding="utf-8"))["answers"]
    assert [one["expected"] for one in kept] == [
        json.loads(line)["messages"][-1]["content"]
        for line in (trained.folder / "dataset" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert kept[0]["tuned"] != kept[0]["base"]
    page = (trained.folder / "report.html").read_text(encoding="utf-8")
    assert html.escape(kept[0]["question"], quote=False) in page

    def never(*_: object) -> list[Answer]:
        raise AssertionError("it was answered before")

    with monkeypatch.context() as patch:
        patch.setattr(answers_module, "_ask", never)
        assert typed.json("report one")["answers"] == 1
    (trained.folder / "best.gguf").write_bytes((trained.folder / "adapter.gguf").read_bytes()[:-4] + b"\0\0\0\1")
    asked: list[int] = []
    monkeypatch.setattr(answers_module, "_ask", lambda run, adapter, rows, progress: asked.append(len(rows)) or [])
    with pytest.raises(KeyError):
        answers_module.answers(trained, 3, lambda *_: None)
    assert asked == [1], "another adapter answers anew"


def test_no_answers_while_a_run_trains(bench: Bench, trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "who_trains", lambda: bench.home.runs / "other")
    made = Typed(bench.home).json("report one")
    assert made["answers"] == 0
    assert "type it again when it is over" in made["missing"]


def test_what_is_forgotten_leaves_the_report_too(typed: Typed, home: Path) -> None:
    dataset = small_dataset(home)
    run = drawn_run(Home(home), dataset=dataset.name)
    shutil.copytree(dataset, run.folder / "dataset")
    other = drawn_run(Home(home), "night-2")
    row = json.loads((dataset / "validation.jsonl").read_text(encoding="utf-8").splitlines()[0])
    said = Answer(id=row["id"], question=row["messages"][-2]["content"], expected="e", base="b", tuned="t")
    for one in (run, other):
        (one.folder / "answers.json").write_text("{}")
        (one.folder / "report.html").write_text(build(one, (), [said] if one is run else []))
    own = home.parent / "own.html"
    own.write_text(build(run, (), [said.model_copy(update={"question": f'{said.question} It\'s "so".'})]))
    remember(Home(home).datasets, own)
    typed.dataset(f"forget {row['id']} --yes")
    assert not (run.folder / "answers.json").exists()
    assert not (run.folder / "report.html").exists()
    assert str(own) in typed.host.output, "the user's own file is named"
    assert (other.folder / "report.html").exists(), "it never saw the words"
