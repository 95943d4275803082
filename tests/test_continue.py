"""`/finetune start --from`: a run that goes on from another's adapter, with what is new and some of what is old."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.finetuning import Typed
from support.models import make_base
from support.runs import SHORT, Bench, end_workers, frozen, over, rated, reached
from support.typed import Typed as Dataset

from meton_plugins.finetune.curate.dataset import Dataset as Frozen
from meton_plugins.finetune.curate.dataset import Row, load
from meton_plugins.finetune.curate.manifest import FILES, MANIFEST, FileEntry, Manifest
from meton_plugins.finetune.errors import BusyError, DataError
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.paths import write_json
from meton_plugins.finetune.train.launch import start
from meton_plugins.finetune.train.lineage import (
    LEARNED,
    Learned,
    Link,
    adapter_of,
    learned,
    lineage,
    mark,
    session_mark,
)
from meton_plugins.finetune.train.lock import run_lock
from meton_plugins.finetune.train.planner import create
from meton_plugins.finetune.train.record import Redacted
from meton_plugins.finetune.train.replay import REPLAY, choose
from meton_plugins.finetune.train.runs import START, Run
from meton_plugins.finetune.turn import Message

pytest_plugins = ["support.run_fixtures"]


# Which rows are learned


def row(name: str, answer: str = "", session: str = "") -> Row:
    """A row of the example that `name` begins with."""
    example = name.partition("#")[0]
    said = [Message(role="user", content=f"q {name}"), Message(role="assistant", content=answer or f"a {example}")]
    return Row(id=name, session=session or f"s-{example}", messages=said)


def data(folder: Path, train: Sequence[Row], validation: Sequence[Row] = (), heldout: Sequence[Row] = ()) -> Frozen:
    """A dataset of these rows, as a build freezes it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    sides = {"train": train, "validation": validation, "heldout": heldout}
    for side, name in FILES.items():
        raw = b"".join(json.dumps(one.model_dump()).encode() + b"\n" for one in sides[side])
        (folder / name).write_bytes(raw)
        files[name] = FileEntry(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw), lines=len(sides[side]))
    counts = {side: len(rows) for side, rows in sides.items()}
    manifest = Manifest(
        id="d" * 12, settings=SHORT, funnel=[], counts=counts, examples=counts, sessions=counts, secrets={}, files=files
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return load(folder)


def knows(*rows: Row) -> Learned:
    """What a child of a run knows that was trained on examples of one row each."""
    return Learned(
        runs=[Link(name="before", adapter=None)],
        examples=[mark([one]) for one in rows],
        sessions=[session_mark(one.session) for one in rows],
    )


OLD = [row(f"old{number}") for number in range(10)]
NEW = [row(f"new{number}") for number in range(4)]


@pytest.mark.parametrize(("ratio", "again"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4), (2.0, 8), (100.0, 10)], ids=str)
def test_so_many_old_ones_come_again_for_each_new_one(tmp_path: Path, ratio: float, again: int) -> None:
    made = choose(data(tmp_path, [*OLD, *NEW]), knows(*OLD), ratio, 42)
    assert made.replay is not None
    assert (made.replay.new, made.replay.old, made.replay.again) == (4, 10, again)
    kept = [one.id for one in made.dataset.train]
    assert [name for name in kept if name.startswith("new")] == [one.id for one in NEW]
    assert sum(name.startswith("old") for name in kept) == again
    assert kept == [one.id for one in [*OLD, *NEW] if one.id in kept], "in the order of the dataset"


def test_the_seed_decides_which_old_ones_and_nothing_else(tmp_path: Path) -> None:
    whole = data(tmp_path, [*OLD, *NEW])
    picked = {seed: [one.id for one in choose(whole, knows(*OLD), 1, seed).dataset.train] for seed in range(8)}
    assert picked[3] == [one.id for one in choose(whole, knows(*OLD), 1, 3).dataset.train]
    assert len({tuple(ids) for ids in picked.values()}) > 1


def test_without_a_ratio_the_whole_dataset_is_learned(tmp_path: Path) -> None:
    whole = data(tmp_path, [*OLD, *NEW])
    made = choose(whole, knows(*OLD), None, 42)
    assert made.dataset == whole
    assert made.files == {}
    assert made.replay is not None
    assert (made.replay.new, made.replay.old, made.replay.again) == (4, 10, 10)


def test_a_fixed_answer_is_new(tmp_path: Path) -> None:
    fixed = row("old3", answer="another answer")
    made = choose(data(tmp_path, [fixed if one.id == "old3" else one for one in OLD]), knows(*OLD), 0, 42)
    assert made.dataset.train == [fixed]


def test_all_calls_of_an_answer_and_its_plain_row_go_together(tmp_path: Path) -> None:
    calls, plain = [row("old0#1"), row("old0#2")], row("old0#plain")
    known = Learned(runs=[Link(name="before", adapter=None)], examples=[mark(calls)], sessions=[session_mark("s-old0")])
    fresh = [row("new0#1"), row("new0#1"), row("new0#2"), row("new0#plain")]
    made = choose(data(tmp_path, [*calls, *fresh, plain]), known, 0, 42)
    assert made.dataset.train == fresh, "the plain row of a known example is not new, though it was not there before"
    assert choose(data(tmp_path, [*calls, *fresh, plain]), known, 1, 42).dataset.train == [*calls, *fresh, plain]
    one_call_more = [*calls, row("old0#3")]
    assert choose(data(tmp_path, [*one_call_more, plain]), known, 0, 42).dataset.train == [*one_call_more, plain]


def test_nothing_new_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"All 10 examples to train on .* are known to before: rate more"):
        choose(data(tmp_path, OLD), knows(*OLD), 0.5, 42)


@pytest.mark.parametrize("ratio", [None, 0.0], ids=["whole", "new"])
def test_what_was_learned_judges_no_more(tmp_path: Path, ratio: float | None) -> None:
    moved, fresh = row("old1", session="s-old1"), row("judge")
    sibling = row("sibling", session="s-old2")
    made = choose(data(tmp_path, NEW, [moved, fresh], [sibling]), knows(*OLD), ratio, 42)
    assert made.dataset.validation == [fresh]
    assert made.dataset.heldout == [], "of a conversation that was learned from"
    assert made.replay is not None
    assert made.replay.unfit == 2


def test_the_filtered_copy_describes_itself(tmp_path: Path) -> None:
    whole = data(tmp_path / "whole", [*OLD, *NEW], [row("old1"), row("judge")])
    made = choose(whole, knows(*OLD), 0.5, 42)
    copy = Path(shutil.copytree(whole.path, tmp_path / "copy"))
    for name, raw in made.files.items():
        (copy / name).write_bytes(raw)
    write_json(copy / MANIFEST, made.dataset.manifest.model_dump(mode="json"))
    again = load(copy)
    assert again.train == made.dataset.train
    assert again.validation == [row("judge")]
    assert again.manifest.counts == {"train": 6, "validation": 1, "heldout": 0}
    assert again.manifest.sessions == {"train": 6, "validation": 1, "heldout": 0}
    assert again.manifest.examples == {"train": 6, "validation": 1, "heldout": 0}
    last = again.manifest.funnel[-1]
    assert (last.name, last.kept) == ("new or again", 7)
    assert last.reason == "8 known to before, 1 known to it that judged"
    assert set(made.files["train.jsonl"].splitlines()) <= set((whole.path / "train.jsonl").read_bytes().splitlines())


# The folder of a run that goes on


@pytest.fixture
def grown(bench: Bench, trained: Run) -> Bench:
    """The trained run `one`, and a library that holds what it learned and eight examples more."""
    rated(bench.home, 0, 12)
    assert frozen(bench.home).name == trained.record.dataset
    rated(bench.home, 12, 20)
    bench.dataset = frozen(bench.home)
    return bench


@pytest.fixture
def typed(grown: Bench) -> Typed:
    return Typed(grown.home.root)


def child(typed: Typed, words: str = "", name: str = "two") -> Run:
    """A run that goes on, not yet trained."""
    return create(typed.home, typed.ingredients(f"--from one {words}"), name)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_begins_with_a_copy_of_its_parents_best_adapter(typed: Typed, trained: Run) -> None:
    (trained.folder / "adapter.gguf").write_bytes(b"the last is another")
    made = child(typed)
    assert (made.folder / START).read_bytes() == (trained.folder / "best.gguf").read_bytes()
    assert (made.folder / START).stat().st_mode & 0o777 == 0o600
    assert made.record.parent == "one"
    assert made.record.parent_adapter == sha(trained.folder / "best.gguf")
    assert made.record.replay is None
    assert made.record.base == trained.record.base


def test_its_dataset_is_a_copy_of_what_it_learns(typed: Typed, trained: Run, grown: Bench) -> None:
    before = {one.id for one in load(trained.folder / "dataset").train}
    made = child(typed, "--replay 0.5")
    own = load(made.folder / "dataset")
    names = {one.id.partition("#")[0] for one in own.train}
    whole = load(grown.dataset)
    new = {one.id for one in whole.train} - before
    assert new
    assert names >= new
    assert len(names - new) == int(0.5 * len(new) + 0.5)
    assert own.validation == whole.validation
    assert made.record.examples == {"train": len(own.train), "validation": len(own.validation)}
    assert made.record.replay == 0.5
    note = json.loads((made.folder / "dataset" / REPLAY).read_text())
    assert note == {
        "parent": "one", "ratio": 0.5, "new": len(new), "old": len(before), "again": len(names - new), "unfit": 0,
    }  # fmt: skip


def test_a_run_that_begins_anew_has_nothing_of_that(grown: Bench) -> None:
    made = grown.create("fresh")
    assert not (made.folder / START).exists()
    assert not (made.folder / LEARNED).exists()
    assert not (made.folder / "dataset" / REPLAY).exists()
    assert (made.record.parent, made.record.parent_adapter) == (None, None)
    assert lineage(made) == []
    frozen_files = {path.name: path.read_bytes() for path in grown.dataset.iterdir()}
    assert {path.name: path.read_bytes() for path in (made.folder / "dataset").iterdir()} == frozen_files


def test_what_a_grandparent_learned_is_old_also_when_it_is_deleted(typed: Typed, trained: Run, grown: Bench) -> None:
    two = child(typed, "--replay 0")
    learned_by_two = {one.id for one in load(two.folder / "dataset").train}
    shutil.copy(two.folder / START, two.folder / "best.gguf")
    rated(typed.home, 20, 28)
    frozen(typed.home)
    shutil.rmtree(trained.folder)
    three = create(typed.home, typed.ingredients("--from two --replay 0"), "three")
    own = {one.id for one in load(three.folder / "dataset").train}
    assert own
    assert not own & learned_by_two
    with Library(typed.home.library) as library:
        questions = {example.id: example.question for example in library.find()}
    numbers = {int(questions[name].removeprefix("What is number ").rstrip("?")) for name in own}
    assert min(numbers) >= 20, "what the deleted run learned is known still"
    assert [(one.name, one.run is None) for one in lineage(three)] == [("two", False), ("one", True)]
    assert [link.name for link in learned(three).runs] == ["three", "two", "one"]


# Lineage


def test_lineage_names_the_nearest_first(typed: Typed, trained: Run) -> None:
    two = child(typed)
    shutil.copy(two.folder / START, two.folder / "best.gguf")
    three = create(typed.home, typed.ingredients("--from two"), "three")
    assert [(one.name, one.run and one.run.folder) for one in lineage(three)] == [
        ("two", two.folder), ("one", trained.folder),
    ]  # fmt: skip
    assert lineage(trained) == []


def test_a_name_that_is_another_runs_now_is_gone(typed: Typed, trained: Run) -> None:
    two = child(typed)
    (trained.folder / "best.gguf").write_bytes(b"of another run")
    assert [(one.name, one.run) for one in lineage(two)] == [("one", None)]


def test_a_run_that_was_made_after_its_child_is_another(typed: Typed, trained: Run) -> None:
    two = child(typed)
    record = json.loads((trained.folder / "run.json").read_text())
    write_json(trained.folder / "run.json", {**record, "created": "2999-01-01T00:00:00+00:00"})
    assert [one.run for one in lineage(two)] == [None]


def test_a_run_that_was_carried_elsewhere_alone_knows_its_parents_by_name(typed: Typed, tmp_path: Path) -> None:
    two = child(typed)
    alone = Run(Path(shutil.copytree(two.folder, tmp_path / "elsewhere" / "two")))
    assert [(one.name, one.run) for one in lineage(alone)] == [("one", None)]
    (alone.folder / LEARNED).unlink()
    assert [(one.name, one.run) for one in lineage(alone)] == [("one", None)]


def test_a_damaged_note_of_what_was_learned_is_named(typed: Typed) -> None:
    two = child(typed)
    (two.folder / LEARNED).write_text("{")
    with pytest.raises(DataError, match=f"{LEARNED} cannot be read, so what two was trained on is not known"):
        learned(two)


# What may be gone on from


def test_a_run_that_trains_may_have_its_best_yet_to_come(trained: Run) -> None:
    before = trained.state.model_dump()
    with run_lock(trained.folder):
        assert adapter_of(trained) == trained.folder / "best.gguf", "its worker, having ended, is still going"
        write_json(trained.folder / "state.json", {**before, "status": "running"})
        with pytest.raises(BusyError, match=r"one is training.*wait for it, or end it"):
            adapter_of(trained)
    assert adapter_of(trained), "killed, it has what was best so far"


def test_an_adapter_that_was_removed_is_named(typed: Typed, trained: Run) -> None:
    for name in ("best.gguf", "adapter.gguf"):
        (trained.folder / name).unlink()
    said = typed.refused("start --from one")
    assert said.startswith("✗ The adapter of one is gone from ")
    assert "put its best.gguf back, or start a new run" in said


def test_a_run_without_an_adapter_yet(typed: Typed, grown: Bench) -> None:
    grown.create("young")
    assert "has no adapter yet: /finetune resume young" in typed.refused("start --from young")


def test_a_run_that_is_not_there(typed: Typed) -> None:
    assert "There is no run 'six': there are one." in typed.refused("start --from six")


def test_nothing_new_to_learn_is_refused_before_anything_is_made(typed: Typed, trained: Run, grown: Bench) -> None:
    old = next(path for path in typed.home.datasets.iterdir() if path.name == trained.record.dataset)
    said = typed.refused(f"start --from one --replay 0 --dataset {old.name}")
    assert "examples to train on in the dataset" in said
    assert "are known to one: rate more answers" in said
    assert [path.name for path in typed.home.runs.iterdir()] == ["one"]


# The base


def test_the_base_is_the_parents_by_default(typed: Typed, trained: Run, tmp_path: Path) -> None:
    typed.home.settings.write_text('base = "/another/base.gguf"\n')
    assert typed.ingredients("--from one").base == trained.record.base


def test_the_same_base_elsewhere_will_do(typed: Typed, trained: Run, grown: Bench, tmp_path: Path) -> None:
    copy = Path(shutil.copy(grown.base, tmp_path / "copy.gguf"))
    base = typed.ingredients(f"--from one --base {copy}").base
    assert base.path == str(copy)
    assert base.sha256 == trained.record.base.sha256


def test_another_base_is_refused(typed: Typed, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other.gguf")
    said = typed.refused(f"start --from one --base {other}")
    assert said.startswith("✗ The adapter of one belongs to ")
    assert "other.gguf is another file" in said
    assert said.endswith("name that base, or leave out --base.")


def test_a_base_that_was_changed_in_its_place_is_refused(typed: Typed, trained: Run, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other.gguf")
    record = json.loads((trained.folder / "run.json").read_text())
    write_json(trained.folder / "run.json", {**record, "base": {**record["base"], "path": str(other)}})
    assert "is another file" in typed.refused("start --from one")


def test_a_base_that_is_gone_is_named(typed: Typed, trained: Run) -> None:
    record = json.loads((trained.folder / "run.json").read_text())
    write_json(trained.folder / "run.json", {**record, "base": {**record["base"], "path": "/gone/base.gguf"}})
    said = typed.refused("start --from one")
    assert said == ("✗ The base of one is gone from /gone/base.gguf: put it back, or name the same file with --base.")


# Settings


def test_the_parents_settings_take_the_place_of_the_defaults(typed: Typed, trained: Run) -> None:
    before, now = trained.record.settings, typed.ingredients("--from one").settings
    assert now == before.model_copy(update={"learning_rate": before.learning_rate / 2})


def test_settings_toml_the_recipe_and_flags_win_in_this_order(typed: Typed, trained: Run) -> None:
    (typed.home.root / "recipes").mkdir()
    (typed.home.root / "recipes" / "mine.toml").write_text(
        'title = "M"\nsummary = "m"\n[train]\nepochs = 8\nbatch_size = 2\nlora_rank = 64\n'
    )
    typed.home.settings.write_text("[train]\nepochs = 7\nbatch_size = 3\nwarmup = 0.2\nlora_alpha = 1\n")
    now = typed.ingredients("--from one --recipe mine --batch-size 5").settings
    assert (now.epochs, now.batch_size, now.warmup) == (8, 5, 0.2)
    own = trained.record.settings
    assert (now.lora_rank, now.lora_alpha) == (own.lora_rank, own.lora_alpha), "the adapter's own, whatever is written"
    assert now.save_steps == own.save_steps == 5


@pytest.mark.parametrize(
    ("flag", "there"), [("lora-rank=8", "4"), ("lora-alpha=3", "32"), ("lora-targets=attn_q", "attn_q,attn_k")], ids=str
)
def test_what_is_the_adapters_own_is_refused_by_name(typed: Typed, flag: str, there: str) -> None:
    said = typed.refused(f"start --from one --{flag}", code=2)
    assert said.startswith(f"✗ --{flag.partition('=')[0]} is the adapter's own, and that of one has {there}")
    assert said.endswith("leave it out, or start a new run without --from.")


@pytest.mark.parametrize("flag", ["--lora-rank=4", "--lora-alpha=32"])
def test_what_is_the_adapters_own_may_be_said_as_it_is(typed: Typed, flag: str) -> None:
    typed.ingredients(f"--from one {flag}")


@pytest.mark.parametrize(
    ("toml", "recipe", "flag", "rate", "said"),
    [
        ("", "", "", 5e-4, "Learning rate 0.0005 (half of one's)."),
        ("learning_rate = 2e-4", "", "", 2e-4, "settings.toml says so; without it, it were 0.0005, half of one's"),
        ("learning_rate = 2e-4", "learning_rate = 3e-4", "", 3e-4, "Learning rate 0.0003 (the recipe mine says so)."),
        ("learning_rate = 2e-4", "learning_rate = 3e-4", "4e-4", 4e-4, "Learning rate 0.0004."),
        ("", "", "1e-3", 1e-3, "Learning rate 0.001."),
    ],
    ids=["half", "settings", "recipe", "flag", "flag alone"],
)
def test_the_learning_rate_and_why(typed: Typed, toml: str, recipe: str, flag: str, rate: float, said: str) -> None:
    typed.home.settings.write_text(f"[train]\n{toml}\n")
    (typed.home.root / "recipes").mkdir()
    (typed.home.root / "recipes" / "mine.toml").write_text(f'title = "M"\nsummary = "m"\n[train]\n{recipe}\n')
    words = "--from one" + (" --recipe mine" if recipe else "") + (f" --learning-rate {flag}" if flag else "")
    assert typed.ingredients(words).settings.learning_rate == pytest.approx(rate)
    assert said in typed.host.output


def test_the_learning_rate_is_halved_once_not_at_each_link(typed: Typed) -> None:
    two = child(typed)
    shutil.copy(two.folder / START, two.folder / "best.gguf")
    assert typed.ingredients("--from two").settings.learning_rate == two.record.settings.learning_rate == 5e-4
    assert "as two's, which went on from another run itself" in typed.host.output


def test_the_system_prompt_is_the_parents_though_the_template_was_changed(typed: Typed, trained: Run) -> None:
    template = typed.home.root / "templates" / "modelfiles" / "bare.Modelfile"
    template.write_text('FROM .\nSYSTEM "You are new."\n')
    assert typed.ingredients("--from one").system == trained.record.system == ""
    assert typed.ingredients("--from one --template bare").system == "You are new."


def test_a_chat_template_of_the_users_comes_from_the_parents_folder(typed: Typed, grown: Bench, tmp_path: Path) -> None:
    jinja = tmp_path / "own.jinja"
    jinja.write_text("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    parent = create(
        typed.home, typed.ingredients(f"--base {grown.base} --template bare --chat-template {jinja}"), "own"
    )
    (parent.folder / "best.gguf").write_bytes(b"GGUF")
    written = jinja.read_text()
    jinja.unlink()
    made = create(typed.home, typed.ingredients("--from own"), "two")
    assert (made.folder / "chat_template.jinja").read_text() == written


@pytest.mark.parametrize("ratio", ["-1", "x", "nan", "inf", "101", "0x1"])
def test_a_ratio_that_is_none_is_refused(typed: Typed, ratio: str) -> None:
    assert "--replay takes a number from 0 to 100" in typed.refused(f"start --from one --replay={ratio}", code=2)


def test_a_replay_without_a_run_to_go_on_from(typed: Typed) -> None:
    assert "--replay is about what an earlier run has learned" in typed.refused("start --replay 1", code=2)


# What is said


def test_what_it_goes_on_from_is_said(typed: Typed, trained: Run, grown: Bench) -> None:
    made = typed.ingredients("--from one --replay 0.5")
    assert made.parent is not None
    loss = trained.state.best_loss
    assert loss is not None
    said = typed.host.output
    assert f"It goes on from the best adapter of one (rank 4, alpha 32, validation loss {loss:.3f})." in said
    old = len(load(trained.folder / "dataset").train)
    new = len(load(grown.dataset).train) - old
    again = int(new / 2 + 0.5)
    text = f"Of its examples {new} are new; {again} that were learned before come again, {old - again} left out."
    assert text in said


@pytest.mark.parametrize("note", [{"trained": 2}, {"through": "before"}], ids=str)
def test_words_that_were_forgotten_since_are_passed_on_and_that_is_said(
    typed: Typed, trained: Run, note: dict[str, Any]
) -> None:
    trained.redact(Redacted.model_validate({"at": "2026-01-01", "forgotten": "x", "trained": 0, "judged": 1, **note}))
    made = typed.ingredients("--from one")
    assert "one learned words that you had forgotten since: its weights pass them on." in typed.host.output
    [line] = create(typed.home, made, "two").redacted
    assert (line.forgotten, line.trained, line.judged) == ("x", 0, 0)
    assert line.through == note.get("through", "one")


def test_only_judging_words_that_were_forgotten_passes_nothing_on(typed: Typed, trained: Run) -> None:
    trained.redact(Redacted(at="2026-01-01", forgotten="x", trained=0, judged=1))
    made = typed.ingredients("--from one")
    assert "forgotten" not in typed.host.output
    assert create(typed.home, made, "two").redacted == []


def test_forgetting_names_the_runs_that_go_on_from_one_that_learned_it(typed: Typed, trained: Run) -> None:
    name = load(trained.folder / "dataset").train[0].id
    two = child(typed, "--replay 0")
    assert name not in {one.id for one in load(two.folder / "dataset").train}
    shutil.copy(two.folder / START, two.folder / "best.gguf")
    three = create(typed.home, typed.ingredients("--from two"), "three")
    assert name in {one.id for one in load(three.folder / "dataset").train}
    receipt = Dataset(typed.home.root).json(f"forget {name} --yes")
    seen = {run["run"]: run for run in receipt["runs"]}
    assert {run: (one["trained"], one["through"]) for run, one in seen.items()} == {
        "one": (1, None), "two": (0, "one"), "three": (1, None),
    }  # fmt: skip
    assert [Path(path).name for path in seen["two"]["adapters"]] == ["best.gguf", START]
    assert [Path(path).name for path in seen["three"]["adapters"]] == [START]
    assert [line.through for line in two.redacted] == ["one"]
    assert "forgotten  rows of one on " in typed("show two")


def test_a_forgetting_that_names_heirs_is_said_before_and_after(typed: Typed, trained: Run) -> None:
    name = load(trained.folder / "dataset").train[0].id
    child(typed, "--replay 0")
    asked = Dataset(typed.home.root, False)
    assert "the run two goes on from one, which was trained on it" in asked(f"forget {name}", code=1)
    said = Dataset(typed.home.root)(f"forget {name} --yes")
    assert "the run one was trained on 1 row of it:" in said
    assert "the run two goes on from one, which was trained on it:" in said


# Trained


def test_a_run_that_goes_on_begins_where_its_parent_was_best(typed: Typed, trained: Run, grown: Bench) -> None:
    made = child(typed, f"--epochs 1 --dataset {trained.record.dataset}")
    assert load(made.folder / "dataset").validation == load(trained.folder / "dataset").validation
    start(made)
    over(made)
    assert made.status == "finished", made.state.error
    assert made.state.start_loss == pytest.approx(trained.state.best_loss, rel=1e-6)
    assert made.state.base_loss == pytest.approx(trained.state.base_loss, rel=1e-6)
    assert (made.folder / "adapter.gguf").read_bytes() != (made.folder / START).read_bytes(), "and went on from there"


def test_interrupted_it_ends_with_the_same_adapter(typed: Typed, trained: Run) -> None:
    whole, halted = (child(typed, "--replay 1 --epochs 10 --save-steps 20", name) for name in ("two", "three"))
    start(whole)
    over(whole)
    assert whole.status == "finished", whole.state.error
    start(halted)
    reached(halted, 3)
    end_workers(typed.home.runs)
    assert halted.status == "interrupted"
    start(halted)
    over(halted)
    assert halted.status == "finished", halted.state.error
    assert halted.state.attempt == 2
    assert (halted.folder / "adapter.gguf").read_bytes() == (whole.folder / "adapter.gguf").read_bytes()


def test_a_run_whose_first_adapter_is_gone_does_not_begin_from_nothing(typed: Typed, trained: Run) -> None:
    made = child(typed)
    kept = (made.folder / START).rename(made.folder / "kept.gguf")
    start(made)
    over(made)
    assert made.status == "failed"
    assert made.state.error == (
        f"The adapter of one, with which two was to begin, is gone from {made.folder / START}: put it back, "
        "or start a new run."
    )
    assert not (made.folder / "adapter.gguf").exists()
    kept.rename(made.folder / START)
    start(made)
    over(made)
    assert made.status == "finished", made.state.error


def test_start_from_trains_in_one_command(typed: Typed, trained: Run) -> None:
    said = typed("start --from one --replay 0 --name two --epochs 1 --wait")
    assert "It goes on from the best adapter of one" in said
    run = Run(typed.home.runs / "two")
    assert run.status == "finished"
    assert run.record.parent == "one"
    assert run.adapter("best").is_file()
