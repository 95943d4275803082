"""`/finetune refresh`: what was rated since a run becomes a dataset built like its own, and a run that goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.finetuning import Typed
from support.runs import SHORT, Bench, frozen, over, rated

from meton_plugins.finetune.curate import dataset
from meton_plugins.finetune.curate.dataset import load, read_manifest
from meton_plugins.finetune.curate.sources import Source
from meton_plugins.finetune.library import Library
from meton_plugins.finetune.train.fresh import WORTH, to_refresh
from meton_plugins.finetune.train.launch import start
from meton_plugins.finetune.train.planner import create
from meton_plugins.finetune.train.refresh import since
from meton_plugins.finetune.train.runs import Run, all_runs

pytest_plugins = ["support.run_fixtures"]


@pytest.fixture
def typed(bench: Bench, trained: Run) -> Typed:
    """The trained run `one`, and a library that holds what it learned."""
    rated(bench.home, 0, 12)
    assert frozen(bench.home).name == trained.record.dataset
    return Typed(bench.home.root)


def learned_by(run: Run) -> set[str]:
    """The examples that a run is trained on."""
    return {row.id for row in load(run.folder / "dataset").train}


def fixed(typed: Typed, name: str) -> None:
    """The user corrects an answer."""
    with Library(typed.home.library) as library:
        library.fix(name, "No, it is another number altogether.")


def datasets(typed: Typed) -> set[str]:
    return {manifest.id for manifest in dataset.versions(typed.home)}


# What is new


def test_nothing_is_new_where_nothing_was_rated(typed: Typed, trained: Run) -> None:
    before = datasets(typed)
    number = len(learned_by(trained))
    said = typed.refused("refresh")
    assert said.startswith(f"✗ Nothing is new since one, which knows all {number} examples that")
    assert said.endswith("rate or fix more answers first.")
    assert datasets(typed) == before
    assert f"Nothing new since one, which knows all {number} examples that would train now." in typed("refresh --check")


def test_the_check_says_how_many_and_writes_nothing(typed: Typed, trained: Run) -> None:
    before = datasets(typed)
    rated(typed.home, 12, 20)
    found = typed.json("refresh --check")
    old = len(learned_by(trained))
    assert found == {"run": "one", "new": found["new"], "old": old, "worth": False, "worth_from": WORTH}
    assert 0 < found["new"] <= 8, "some are held out"
    said = typed("refresh --check one")
    assert f"{found['new']} examples new since one, {old} known to it." in said
    assert f"{WORTH} and more are worth a run: rate {WORTH - found['new']} more answers good" in said
    assert datasets(typed) == before
    assert [run.name for run in all_runs(typed.home.runs)] == ["one"]


def test_enough_is_worth_a_run(typed: Typed) -> None:
    rated(typed.home, 12, 60)
    found = typed.json("refresh --check")
    assert found["worth"]
    assert "Go on from it with /finetune refresh one" in typed("refresh --check")


def test_a_fixed_answer_is_new(typed: Typed, trained: Run) -> None:
    fixed(typed, min(learned_by(trained)))
    found = typed.json("refresh --check")
    assert (found["new"], found["old"]) == (1, len(learned_by(trained)) - 1)


def test_what_only_judges_is_not_counted(typed: Typed, trained: Run) -> None:
    judging = load(trained.folder / "dataset").validation[0].id
    fixed(typed, judging)
    assert typed.json("refresh --check")["new"] == 0


def test_the_settings_and_sources_are_those_of_the_runs_dataset(typed: Typed, bench: Bench) -> None:
    settings = SHORT.model_copy(update={"min_length": 5, "quality_threshold": 0.0})
    with Library(typed.home.library) as library:
        made = dataset.build(library, settings, typed.home.datasets, sources=[Source("library", 2.0)])
    bench.dataset = typed.home.datasets / made.id
    run = bench.create("weighed")
    rated(typed.home, 12, 16)
    with Library(typed.home.library) as library:
        found = since(library, run)
    assert found.settings == settings
    assert found.sources == (Source("library", 2.0),)
    assert found.old == made.examples["train"]


# Which run


def test_the_newest_run_with_an_adapter_is_gone_on_from(typed: Typed, bench: Bench, trained: Run) -> None:
    bench.create("young")
    assert to_refresh(typed.home.runs, None).name == "one"
    assert to_refresh(typed.home.runs, "young").name == "young"
    assert "has no adapter yet" in typed.refused("refresh young")
    shutil.rmtree(trained.folder)
    assert "There is no run with an adapter to go on from" in typed.refused("refresh")


@pytest.mark.parametrize("flag", ["--from one", "--dataset x"])
def test_what_refresh_decides_itself_is_not_taken(typed: Typed, flag: str) -> None:
    assert "leave out the flag" in typed.refused(f"refresh one {flag}", code=2)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--lora-rank 9", "--lora-rank is the adapter's own"),
        ("--replay -1", "--replay takes a number"),
        ("--epochs 0", "--epochs takes a whole number from 1 to 10000, not '0'"),
        ("--name show", "'show' is a command's word"),
    ],
)
def test_wrong_flags_are_said_before_anything_is_built(typed: Typed, flag: str, words: str) -> None:
    before = datasets(typed)
    rated(typed.home, 12, 20)
    assert words in typed.refused(f"refresh --yes {flag}".replace("--replay -1", "--replay=-1"), code=2)
    assert datasets(typed) == before


# Asked


def test_too_few_are_asked_about(typed: Typed, bench: Bench) -> None:
    before = datasets(typed)
    rated(typed.home, 12, 20)
    number = typed.json("refresh --check")["new"]
    said = typed.refused("refresh", code=2)
    question = f"Only {number} examples new since one, {WORTH} are worth a run. Go on?"
    assert said == f"✗ {question} Nobody is there to say so: add --yes."
    unwilling = Typed(bench.home.root, False)
    assert "Nothing was built." in unwilling("refresh", code=1)
    assert unwilling.host.asked == [question]
    assert datasets(typed) == before


# Trained


def test_a_refresh_builds_and_goes_on(typed: Typed, trained: Run) -> None:
    known = learned_by(trained)
    rated(typed.home, 12, 20)
    said = typed("refresh --yes --name two --epochs 1 --wait")
    run = Run(typed.home.runs / "two")
    assert run.status == "finished", run.state.error
    assert run.record.parent == "one"
    assert run.record.replay == 0.5
    own = learned_by(run)
    new = own - known
    assert new
    assert len(own & known) == int(0.5 * len(new) + 0.5)
    assert "20 found" in said
    assert f"Dataset {run.record.dataset}, built like that of one: " in said
    assert f"; {len(new)} new." in said
    assert f"Of its examples {len(new)} are new; {len(own & known)} that were learned before come again" in said
    manifest = read_manifest(typed.home.datasets / run.record.dataset)
    assert manifest.settings == read_manifest(trained.folder / "dataset").settings
    assert typed.json("refresh --check") == {
        "run": "two", "new": 0, "old": len(known | own), "worth": False, "worth_from": WORTH,
    }  # fmt: skip
    assert "Nothing is new since two" in typed.refused("refresh")


def test_a_chain_of_refreshes_learns_each_example_as_new_once(typed: Typed, trained: Run) -> None:
    seen = [learned_by(trained)]
    for number, name in ((20, "two"), (30, "three")):
        rated(typed.home, number - 8, number)
        made = typed.ingredients(
            f"--from {to_refresh(typed.home.runs, None).name} --replay 0 --dataset {_built(typed)}"
        )
        run = create(typed.home, made, name)
        (run.folder / "best.gguf").write_bytes((run.folder / "start.gguf").read_bytes())
        assert not any(learned_by(run) & before for before in seen)
        seen.append(learned_by(run))
    everything = load(typed.home.datasets / _built(typed)).train
    assert set().union(*seen) == {row.id for row in everything}


def _built(typed: Typed) -> str:
    return frozen(typed.home).name


def test_a_new_run_that_goes_on_is_no_worse_than_its_parent(typed: Typed, trained: Run) -> None:
    rated(typed.home, 12, 20)
    made = typed.ingredients(f"--from one --replay 1 --epochs 2 --dataset {_built(typed)}")
    run = create(typed.home, made, "two")
    start(run)
    over(run)
    assert run.status == "finished", run.state.error
    assert run.state.base_loss is not None
    assert run.state.best_loss is not None
    assert run.state.best_loss < run.state.base_loss


def test_help_names_the_ratio_and_the_check(typed: Typed) -> None:
    said = " ".join(typed("refresh --help").split())
    assert "--replay X" in said
    assert "--check say what is new since the run, and do nothing" in said


def test_a_folder_alone_is_enough(typed: Typed, trained: Run, tmp_path: Path) -> None:
    """What a run has learned is read from its own folder: the dataset that it was made of may be gone."""
    shutil.rmtree(typed.home.datasets)
    rated(typed.home, 12, 20)
    assert typed.json("refresh --check")["old"] == len(learned_by(trained))


# Whether it is worth it, said by the status


def test_the_status_says_when_enough_was_rated(typed: Typed, trained: Run) -> None:
    record = trained.record.model_copy(update={"created": "2030-01-01T00:00:00+00:00"})
    (trained.folder / "run.json").write_text(record.model_dump_json())
    assert "refresh" not in typed("status"), "all was rated before the run"
    record = record.model_copy(update={"created": "2020-01-01T00:00:00+00:00"})
    (trained.folder / "run.json").write_text(record.model_dump_json())
    assert "refresh" not in typed("status"), "twelve are too few"
    rated(typed.home, 12, 20)
    said = typed("status")
    assert "20 answers were rated good or fixed since one: /finetune refresh one goes on with them." in said
    assert "refresh" not in typed("status one"), "one run was asked for"
    typed.home.library.write_bytes(b"no library")
    assert "refresh" not in typed("status")
