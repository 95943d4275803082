"""`/dataset build`: what is frozen, what is written out, and what the old utility's words do."""

from __future__ import annotations

import json
import shlex
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.models import make_base
from support.typed import EXAMPLES, Typed

from meton_plugins.finetune import form
from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.curate.balance import balanced
from meton_plugins.finetune.curate.sources import times
from meton_plugins.finetune.errors import EngineError, FinetuneError, ModelError
from meton_plugins.finetune.formats.chat import BadRecord
from meton_plugins.finetune.formats.reading import read
from meton_plugins.finetune.library import Example
from meton_plugins.finetune.turn import ToolUse


def test_a_dry_run_writes_nothing(full: Typed) -> None:
    full("rate good")
    planned = full.json("build --dry-run")
    assert planned["counts"] == {"train": 1, "validation": 0, "heldout": 0}
    assert "nothing was frozen" in full("build --dry-run")
    assert not full.home.datasets.exists()
    assert full.json("stats")["splits"] == {}


def test_build_can_harvest_first(typed: Typed) -> None:
    built = typed.json(f"build --unrated --conversations-dir {shlex.quote(str(EXAMPLES))}")
    assert built["harvest"]["new"] == 44
    assert built["tokens"] is None
    assert Path(built["path"]).is_dir()


def test_a_base_from_the_settings_may_be_away(full: Typed) -> None:
    full.home.settings.write_text('base = "/no/such.gguf"\n')
    assert "tokens were not counted" in full("build --unrated")


@pytest.mark.parametrize("error", [EngineError("no engine yet"), ModelError("not a GGUF")], ids=["engine", "model"])
def test_tokens_that_cannot_be_counted(
    full: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: FinetuneError
) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF")

    def refuse(*_: object) -> list[int]:
        raise error

    monkeypatch.setattr("meton_plugins.finetune.engine.jobs.count_tokens", refuse)
    named = full(f"build --unrated --base {base}", 1 if isinstance(error, ModelError) else 0)
    assert str(error) in named
    full.home.settings.write_text(f'base = "{base}"\n')
    assert f"tokens were not counted: {error}" in full("build --unrated")


def test_tokens_by_the_base(full: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF")
    asked = []

    def count(path: Path, chats: list[Any], template: str | None, system: str) -> list[int]:
        asked.append((path, template, system[:18]))
        return [1100] * len(chats)

    monkeypatch.setattr("meton_plugins.finetune.engine.jobs.count_tokens", count)
    out = full(f"build --unrated --base {base} --chat-template chatml")
    assert "47 chats longer than 1024 tokens" in out
    # What the Modelfile template says stands before every row that is trained on: it counts.
    assert asked == [(base, "chatml", "You are a careful ")]
    assert full.json("build --unrated")["tokens"]["base"] == {"name": str(base), "file": "base.gguf", "bytes": 4}


def test_settings_rule_the_build(full: Typed) -> None:
    full.home.settings.write_text('[build]\nform = "plain"\nunrated = true\n')
    assert full.json("build")["settings"]["form"] == "plain"
    assert full.json("build --form meton")["settings"]["form"] == "meton"


def save(path: Path, count: int, topic: str, system: str | None = None) -> Path:
    """So many chats, each of its own, as messages."""
    first = [{"role": "system", "content": system}] if system else []
    records = [
        {
            "messages": [
                *first,
                {"role": "user", "content": f"What of {topic} number {n}, of {topic * 6}?"},
                {
                    "role": "assistant",
                    "content": f"def {topic}_{n}(x):\n    return x + {n}\n\n# and that is {topic * 9} {n}",
                },
            ]
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def rows(typed: Typed, name: str) -> dict[str, list[Any]]:
    found = dataset.load(dataset.resolve(typed.home, name))
    return {"train": found.train, "validation": found.validation, "heldout": found.heldout}


def test_the_old_utilitys_words(typed: Typed, tmp_path: Path) -> None:
    """The guide's own lines: one builds and writes, the others filter."""
    out = tmp_path / "training_data.txt"
    line = (
        f"build --conversations-dir {EXAMPLES} --output {out} --min-quality 0.4 --format llama --unrated --form plain"
    )
    said = typed(line)
    assert "Dataset " in said
    assert f"Wrote 44 rows as llama: {out}" in said
    chats = [record.found for record in read(out)]
    assert len(chats) == 44
    assert not any(isinstance(chat, BadRecord) for chat in chats)
    assert out.read_text().startswith("<s>[INST] ")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    filtered = typed.json(
        f"build --conversations-dir {EXAMPLES} --output {out} --min-length 50 --max-length 2000 --unrated --dry-run "
        "--filter-keyword FastAPI --exclude-system --deduplicate --quality-threshold 0.5".replace(
            f"--output {out} ", ""
        )
    )
    assert 0 < filtered["counts"]["train"] < 27


def test_unrated_conversations_are_nothing_to_train_on_and_the_error_says_what_to_do(typed: Typed) -> None:
    out = typed(f"build --conversations-dir {EXAMPLES}", 1)
    assert "--unrated" in out
    assert "rate" in out


@pytest.mark.parametrize("name", ["llama", "alpaca", "chat", "messages", "sharegpt", "completion"])
@pytest.mark.parametrize("wanted", ["plain", "meton"])
def test_what_is_written_out_is_what_was_frozen(full: Typed, tmp_path: Path, name: str, wanted: str) -> None:
    out = tmp_path / "data.x"
    built = full.json(f"build --unrated --form {wanted} --output {out} --format {name}")
    frozen = [row.messages for side in rows(full, built["id"]).values() for row in side]
    assert built["output"] == {"path": str(out), "format": name, "rows": len(frozen), "left": {}}
    written = [record.found for record in read(out, name)]
    assert [[(m.role, m.content) for m in messages] for messages in frozen] == [
        [(said.role, said.content) for said in chat.messages] for chat in written if not isinstance(chat, BadRecord)
    ]


def test_code_is_written_byte_for_byte(typed: Typed, tmp_path: Path) -> None:
    code = "```python\ndef f(x):\n\tif x:\n\t    return x[0]\n\n\n    # odd  spaces \n```"
    (tmp_path / "d").write_text(json.dumps({"instruction": "Write it", "output": code}))
    typed(f"import {tmp_path / 'd'}")
    for name in ("llama", "chat", "alpaca"):
        typed(f"build --form plain --output {tmp_path / name} --format {name}")
        [record] = read(tmp_path / name)
        assert not isinstance(record.found, BadRecord)
        assert record.found.messages[-1].content == code
    assert code in (tmp_path / "llama").read_text()


@pytest.mark.parametrize(("side", "count"), [("train", 27), ("validation", 9), ("heldout", 8), ("all", 44)])
def test_sides(full: Typed, tmp_path: Path, side: str, count: int) -> None:
    out = tmp_path / "o.json"
    full(f"build --unrated --form plain --output {out} --format messages --side {side}")
    assert len(json.loads(out.read_text())) == count, "a name that ends in .json gets one list"


def test_corrections_are_written_as_pairs(full: Typed, tmp_path: Path) -> None:
    full("/fix A far better answer, in my own words.")
    out = tmp_path / "o"
    assert full.json(f"build --output {out} --format preference --form plain")["output"]["rows"] == 1
    [record] = read(out)
    assert not isinstance(record.found, BadRecord)
    assert record.found.messages[-1].content == "A far better answer, in my own words."
    assert record.found.rejected


def test_llama_with_a_base_is_the_bases_own_template(full: Typed, tmp_path: Path) -> None:
    out = tmp_path / "o.txt"
    line = f"build --unrated --form plain --force --output {out}"
    own = make_base(
        tmp_path / "base.gguf", chat_template="{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    full(f"{line} --base {own}")
    rendered = out.read_text()
    assert rendered.startswith("<user>")
    assert rendered.count("<assistant>") >= 44
    without = make_base(tmp_path / "none.gguf", chat_template=None)
    assert "--chat-template" in full(f"{line} --base {without}", 1)
    assert out.read_text() == rendered
    full(f"{line} --base {without} --chat-template llama-3")
    assert out.read_text().count("<|start_header_id|>assistant<|end_header_id|>") >= 44
    full(f"{line} --base {own} --format chat")
    assert out.read_text().startswith("<|im_start|>user\n"), "the template is for llama alone"


def test_a_file_of_others_is_not_replaced(full: Typed, tmp_path: Path) -> None:
    out = tmp_path / "mine.txt"
    out.write_text("My own words.")
    said = full(f"build --unrated --output {out}", 2)
    assert "--force" in said
    assert out.read_text() == "My own words."
    assert not full.home.datasets.exists(), "nothing is frozen either"
    full(f"build --unrated --output {out} --force")
    full(f"build --unrated --output {out} --form plain")
    assert "THOUGHT" not in out.read_text(), "what was written from a dataset may be written again"
    out.write_text(out.read_text() + "A note of mine.")
    full(f"build --unrated --output {out}", 2)


def test_a_link_stays_one(full: Typed, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    full(f"build --unrated --output {tmp_path / 'link'}")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text().startswith("<s>[INST] ")


def test_a_full_disk_leaves_the_old_file(full: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "o"
    full(f"build --unrated --output {out}")
    before = out.read_bytes()

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("meton_plugins.finetune.curate.output.write", refuse)
    assert "No space left" in full(f"build --unrated --form plain --output {out}", 1)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".o")] == []


BAD_OUTPUT = {
    "no folder": ("build --unrated --output /no/such/folder/f", 1),
    "a folder": ("build --unrated --output {tmp}", 2),
    "a device": ("build --unrated --output /dev/null --force", 2),
    "format alone": ("build --unrated --format alpaca", 2),
    "side alone": ("build --unrated --side train", 2),
    "no such format": ("build --unrated --output {tmp}/x --format csv", 2),
    "dry": ("build --unrated --dry-run --output {tmp}/x", 2),
    "no pairs": ("build --unrated --output {tmp}/x --format preference", 1),
    "no source": ("build --unrated --source nowhere", 1),
    "no weight": ("build --unrated --source library:0", 2),
    "heavy": ("build --unrated --source library:1000", 2),
    "share": ("build --unrated --max-tag-share 0", 2),
}


@pytest.mark.parametrize(("line", "code"), BAD_OUTPUT.values(), ids=BAD_OUTPUT)
def test_bad_input_is_one_sentence(full: Typed, tmp_path: Path, line: str, code: int) -> None:
    out = full(line.format(tmp=tmp_path), code)
    assert out.startswith("✗ ")
    assert len(out.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_system_messages(typed: Typed, tmp_path: Path) -> None:
    typed(f"import {save(tmp_path / 'd', 12, 'sums', system='Be brief.')}")
    for wanted in ("plain", "meton"):
        built = typed.json(f"build --form {wanted}")
        kept = [row.messages for side in rows(typed, built["id"]).values() for row in side]
        assert {m[0].role for m in kept} == {"system"}
        assert {m[0].content for m in kept} == {"Be brief."}
        built = typed.json(f"build --form {wanted} --exclude-system")
        assert {row.messages[0].role for row in rows(typed, built["id"])["train"]} == {"user"}
    assert all(len(m) == 3 for m in kept)


def test_context_of_an_imported_chat_keeps_its_system_message_first(typed: Typed, tmp_path: Path) -> None:
    said = [{"role": "system", "content": "S"}]
    for n in range(4):
        said += [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a longer answer {n}"}]
    (tmp_path / "d").write_text(json.dumps({"messages": said}))
    typed(f"import {tmp_path / 'd'}")
    built = typed.json("build --form plain --context-turns 1")
    longest = max((row.messages for row in rows(typed, built["id"])["train"]), key=len)
    assert [m.role for m in longest] == ["system", "user", "assistant", "user", "assistant"]


def test_sources_with_weights(typed: Typed, tmp_path: Path) -> None:
    save(tmp_path / "python.jsonl", 40, "python")
    typed(f"import {save(tmp_path / 'rust.jsonl', 40, 'rust')}")
    typed(f"import {save(tmp_path / 'other.jsonl', 40, 'other')}")
    built = typed.json(f"build --form plain --name mix --source {tmp_path / 'python.jsonl'}:2 --source rust:0.5")
    found = rows(typed, "mix")
    topics = {
        side: Counter(row.messages[-1].content.split("def ")[1].split("_")[0] for row in found[side]) for side in found
    }
    copies = Counter(row.id for row in found["train"] if "python_" in row.messages[-1].content)
    assert set(copies.values()) == {2}
    assert set(Counter(row.id for row in found["validation"] + found["heldout"]).values()) == {1}
    assert topics["train"]["other"] == topics["validation"]["other"] == 0
    assert 5 < topics["train"]["rust"] < 28
    assert built["counts"]["train"] == len(found["train"])
    assert [(s["label"], s["weight"], s["rows"]) for s in built["sources"]] == [
        ("python", 2, topics["train"]["python"]), ("rust", 0.5, topics["train"]["rust"]),
    ]  # fmt: skip
    assert built["imports"][0]["new"] == 40
    again = typed.json(f"build --form plain --source {tmp_path / 'python.jsonl'}:2 --source rust:0.5")
    assert (again["id"], again["files"]) == (built["id"], built["files"]), "the same recipe gives the same bytes"
    assert typed.json("build --form plain --source python:3 --source rust:0.5")["id"] != built["id"]
    out = typed("build --source python:2 --source library")
    assert "in the sources" in out
    assert "source python × 2: " in out
    assert "source library × 1: " in out


def test_an_example_belongs_to_the_first_source_that_has_it(typed: Typed, tmp_path: Path) -> None:
    path = save(tmp_path / "python", 30, "python")
    typed(f"import {path} --as mine")
    save(tmp_path / "other", 30, "other")
    typed(f"import {tmp_path / 'other'}")
    built = typed.json(f"build --form plain --source {path}:3 --source library")
    assert [s["examples"] > 0 for s in built["sources"]] == [True, True]
    copies = Counter(row.id for row in rows(typed, built["id"])["train"])
    assert set(copies.values()) == {1, 3}


def example(name: str, *tags: str, score: int = 5) -> Example:
    return Example(
        id=name, session=name, at="2026", source="meton", question="q", answer="a", score=score, tags=tags
    )  # fmt: skip


def test_a_fraction_of_a_weight_is_decided_by_hash() -> None:
    many = [example(f"e{n}") for n in range(4000)]
    counts = Counter(times(one, 2.3) for one in many)
    assert set(counts) == {2, 3}
    assert 0.27 < counts[3] / 4000 < 0.33
    assert [times(one, 2.3) for one in many] == [times(one, 2.3) for one in many]
    assert {times(one, 3.0) for one in many} == {3}


def shares(kept: list[Example]) -> dict[str, float]:
    return {tag: n / len(kept) for tag, n in Counter(tag for one in kept for tag in one.tags).items()}


def many(tag: str | None, count: int, **more: Any) -> list[Example]:
    return [example(f"{tag}{n}{more}", *([tag] if tag else []), **more) for n in range(count)]


@pytest.mark.parametrize(
    ("examples", "share", "expected"),
    [
        (many("a", 90) + many("b", 10), 0.5, {"a": 10, "b": 10}),
        (many("a", 90) + many("b", 10) + many(None, 100), 0.4, {"a": 73, "b": 10, None: 100}),
        (many("a", 50) + many("b", 50), 0.3, {"a": 50, "b": 50}),
        (many("a", 90) + many("b", 10), 0.2, {"a": 10, "b": 10}),
        (many("a", 40), 0.1, {"a": 40}),
        (many(None, 40), 0.1, {None: 40}),
        (many("a", 60) + many("b", 30) + many("c", 30), 0.4, {"a": 40, "b": 30, "c": 30}),
    ],
    ids=["two", "untagged", "even", "out-of-reach", "all-alike", "no-tags", "three"],
)
def test_no_tag_has_more_than_its_share(examples: list[Example], share: float, expected: dict[str | None, int]) -> None:
    kept, left = balanced(examples, share)
    assert dict(Counter(one.tags[0] if one.tags else None for one in kept)) == expected
    assert sum(left.values()) == len(examples) - len(kept)
    assert balanced(list(reversed(examples)), share)[0] == list(reversed(kept)), "whatever the order"


def test_the_best_rated_of_a_tag_stay() -> None:
    kept, left = balanced(many("a", 60, score=4) + many("a", 30) + many("b", 40), 0.5)
    assert Counter((one.tags[0], one.score) for one in kept) == {("a", 5): 30, ("a", 4): 10, ("b", 5): 40}
    assert left == {"more of the tag a": 50}


def test_an_example_of_several_tags_counts_for_each() -> None:
    kept, _ = balanced([example(f"x{n}", "a", "b") for n in range(30)] + many("b", 30) + many(None, 60), 0.4)
    assert max(shares(kept).values()) <= 0.4


def test_balance_is_a_stage_of_the_funnel(typed: Typed, tmp_path: Path) -> None:
    typed(f"import {save(tmp_path / 'a', 60, 'alpha')} --tag alpha")
    typed(f"import {save(tmp_path / 'b', 20, 'beta')} --tag beta")
    planned = typed.json("build --dry-run --max-tag-share 0.5")
    assert planned["funnel"][-1] == {"name": "balanced", "kept": 40, "reason": "40 more of the tag alpha"}
    built = typed.json("build --form plain --max-tag-share 0.5")
    assert built["id"] == typed.json("build --form plain --max-tag-share 0.5")["id"]
    assert sum(built["counts"][side] for side in ("train", "validation", "heldout")) == 40


def test_stages_say_why_they_left_something_out(full: Typed) -> None:
    full("/+")
    full("/- 2 --turn -2")
    stages = {stage["name"]: stage["reason"] for stage in full.json("build --dry-run")["funnel"]}
    assert stages["rated usable"] == "42 not rated, 1 rated 2"
    stages = {s["name"]: s["reason"] for s in full.json("build --dry-run --unrated --filter-keyword FastAPI")["funnel"]}
    assert stages["keyword"].endswith(" without the word")
    assert stages["rated usable"] == "1 rated 2"


def test_rows_keep_the_form_after_an_import(typed: Typed, tmp_path: Path) -> None:
    typed(f"import {save(tmp_path / 'd', 3, 'x')}")
    built = typed.json("build")
    [row, *_] = rows(typed, built["id"])["train"]
    assert form.score(row.messages[-1].content) == 1.0


def test_duplicates_may_be_kept(typed: Typed, tmp_path: Path) -> None:
    records = [
        {"messages": [{"role": "system", "content": f"s{n}"}, {"role": "user", "content": "How do you say it?"},
                      {"role": "assistant", "content": "In the same words each time, however long they may be."}]}
        for n in range(5)
    ]  # fmt: skip
    (tmp_path / "d").write_text("".join(json.dumps(record) + "\n" for record in records))
    typed(f"import {tmp_path / 'd'}")
    for flag, kept in (("", 1), ("--deduplicate", 1), ("--no-deduplicate", 5)):
        assert typed.json(f"build --dry-run {flag}")["counts"]["train"] == kept


@pytest.mark.parametrize("name", ["messages", "llama"])
def test_what_was_written_out_in_the_form_comes_back_out_of_it(
    full: Typed, home: Path, tmp_path: Path, name: str
) -> None:
    """So that held-out examples are known again as what they are, and nothing is put into the form twice."""
    full("/fix My own words for it.")
    full(f"build --unrated --plain-share 0 --output {tmp_path / 'o'} --format {name}")
    full(f"build --unrated --output {tmp_path / 'p'} --format preference")
    other = Typed(home / "other")
    other(f"import {tmp_path / 'o'} {tmp_path / 'p'}")
    ours = {(e["question"], e["correction"] or e["answer"]) for e in full.json("list --limit 0")}
    theirs = other.json("list --limit 0")
    assert {(e["question"], e["correction"] or e["answer"]) for e in theirs} == ours
    assert [e["answer"] for e in theirs if e["correction"]] == [
        e["answer"] for e in full.json("list --limit 0") if e["correction"]
    ]


def test_steps_of_the_agent_are_no_answers(typed: Typed, tmp_path: Path) -> None:
    asked = form.prompt("How long is a.py?", (), ())
    step = form.render(form.Step(thought="look", action="read_file", action_input='{"path": "a.py"}'))
    seen = form.prompt("How long is a.py?", (), (ToolUse(name="read_file", output="x = 1\n- y: 2"), ToolUse(name="ls")))
    records = [(asked, step), (seen, form.wrap("It has two lines."))]
    (tmp_path / "d").write_text("".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in records))
    report = typed.json(f"import {tmp_path / 'd'}")
    assert report["rejected"] == {"no answer that is to be learned": 1}
    [found] = typed.json("list --limit 0")
    assert (found["question"], found["answer"]) == ("How long is a.py?", "It has two lines.")
    assert found["tools"][0]["name"] == "read_file"
