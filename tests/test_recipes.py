"""Strategy recipes: what ships is whole and true, what the user writes is checked, and flags have the last word."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tomllib
from support.finetuning import Typed
from support.runs import SHORT, Bench, frozen, rated
from support.typed import Typed as Dataset

from meton_plugins.finetune.commands.finetune import VERBS
from meton_plugins.finetune.commands.options import Parser, settings_from
from meton_plugins.finetune.curate.dataset import read_manifest
from meton_plugins.finetune.errors import UsageError
from meton_plugins.finetune.paths import Home, package_data
from meton_plugins.finetune.recipes import Recipe, laid_over, list_recipes, load_recipe
from meton_plugins.finetune.settings import BuildSettings, TrainSettings
from meton_plugins.finetune.train.planner import create

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytest_plugins = ["support.run_fixtures"]

SHIPPED = ("behaviour-tuning", "domain-specialisation", "multi-task", "quick-trial", "style-transfer")
DOCS = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"


@pytest.fixture
def typed(home: Path) -> Typed:
    return Typed(home)


def write(home: Home, name: str, text: str) -> Path:
    """A recipe of the user's own."""
    path = home.root / "recipes" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


HEAD = 'title = "Mine"\nsummary = "my own"\n'


# What ships


def test_the_guides_strategies_ship(home: Path) -> None:
    assert tuple(recipe.name for recipe in list_recipes(Home(home))) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_each_shipped_setting_is_real_and_has_its_reason(home: Path, name: str) -> None:
    recipe = load_recipe(Home(home), name)
    chosen = recipe.chosen()
    assert {one.table for one in chosen} == {"build", "train"}
    assert all(one.why for one in chosen)
    assert recipe.when
    assert recipe.data
    assert not recipe.summary.endswith(".")
    assert recipe.train.lora_alpha == 2 * recipe.train.lora_rank, "as its reason says"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_reason_stands_for_a_setting_that_is_made_or_offered(name: str) -> None:
    text = package_data("templates", "recipes", f"{name}.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    offered = set(re.findall(r"(?m)^# (\w+) =", text))
    assert set(values["why"]) == {*values["build"], *values["train"], *offered}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_changes_something(home: Path, name: str) -> None:
    recipe = load_recipe(Home(home), name)
    assert laid_over(BuildSettings(), recipe.build) != BuildSettings()
    assert laid_over(TrainSettings(), recipe.train) != TrainSettings()


def test_a_quick_trial_is_quicker_than_the_defaults(home: Path) -> None:
    trial, usual = load_recipe(Home(home), "quick-trial").train, TrainSettings()
    assert trial.epochs < usual.epochs
    assert trial.ctx_size < usual.ctx_size
    assert trial.lora_rank < usual.lora_rank


# The words


def test_the_list_shows_name_title_and_a_line(typed: Typed) -> None:
    said = typed("recipes")
    assert said == typed("recipes list")
    for name in SHIPPED:
        recipe = load_recipe(typed.home, name)
        assert any(name in line and f"{recipe.title}: {recipe.summary}" in line for line in said.splitlines()), said
    found = typed.json("recipes")
    assert [row["recipe"] for row in found] == list(SHIPPED)
    assert not any(row["own"] for row in found)


@pytest.mark.parametrize("name", SHIPPED)
def test_show_prints_each_setting_as_a_flag_with_its_reason(typed: Typed, name: str) -> None:
    said = " ".join(typed(f"recipes show {name}").split())
    recipe = load_recipe(typed.home, name)
    for one in recipe.chosen():
        value = f"{one.value:g}" if isinstance(one.value, float) else str(one.value)
        assert f"--{one.name.replace('_', '-')} {value} {' '.join(one.why.split())}" in said
    assert all(line in said for line in recipe.data)
    assert f"/dataset build --recipe {name}" in said
    assert f"/finetune start --recipe {name}" in said
    value = typed.json(f"recipes show {name}")
    assert value["title"] == recipe.title
    assert len(value["settings"]) == len(recipe.chosen())


def test_a_copy_is_the_users_to_edit_and_comes_first(typed: Typed) -> None:
    said = typed("recipes copy quick-trial")
    path = typed.home.root / "recipes" / "quick-trial.toml"
    assert str(path) in said
    assert path.read_bytes() == package_data("templates", "recipes", "quick-trial.toml").read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.write_text(path.read_text().replace("epochs = 1", "epochs = 6"))
    assert load_recipe(typed.home, "quick-trial").train.epochs == 6
    found = typed.json("recipes")
    assert (found[0]["recipe"], found[0]["own"]) == ("quick-trial", True)
    assert [row["recipe"] for row in found].count("quick-trial") == 1


def test_a_copy_may_have_another_name_and_never_overwrites(typed: Typed) -> None:
    path = Path(typed.json("recipes copy multi-task all-of-it")["path"])
    assert path.name == "all-of-it.toml"
    path.write_text(HEAD)
    assert "There is a recipe" in typed.refused("recipes copy multi-task all-of-it", code=2)
    assert path.read_text() == HEAD


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("recipes show", "Name the recipe to show"),
        ("recipes copy", "Name the recipe to copy"),
        ("recipes list x", "/finetune recipes list does not take x"),
        ("recipes show a b", "/finetune recipes show does not take b"),
        ("recipes drop", "takes list, show, copy, not 'drop'"),
        ("recipes copy quick-trial ../up", "'../up' cannot name a recipe"),
    ],
    ids=lambda text: text,
)
def test_wrong_words_are_named(typed: Typed, line: str, words: str) -> None:
    assert words in typed.refused(line, code=2)


@pytest.mark.parametrize("line", ["recipes show none", "recipes copy none", "start --recipe none"])
def test_a_recipe_that_is_not_there(typed: Typed, line: str) -> None:
    assert f"There is no recipe 'none': there are {', '.join(SHIPPED)}." in typed.refused(line)


# What the user writes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = ", "is not TOML: "),
        ('summary = "x"', "title is missing"),
        (f"{HEAD}[train]\nepochz = 3", "there is no setting 'train.epochz'"),
        (f"{HEAD}[train]\nepochs = 0", "train.epochs takes a whole number from 1 to 10000, not 0"),
        (f"{HEAD}[train]\nlora_targets = ['head']", "lora_targets takes attn_q"),
        (f"{HEAD}[build]\nepochs = 3", "there is no setting 'build.epochs'"),
        (f"{HEAD}[serve]\nconfig = 'x'", "there is no setting 'serve'"),
        (f"{HEAD}[why]\nepoch = 'x'", "why gives a reason for 'epoch', and no setting has that name"),
        (f"{HEAD}data = 'x'", "data takes a list of texts, not 'x'"),
    ],
    ids=lambda text: text[-24:],
)
@pytest.mark.parametrize("line", ["recipes show mine", "start --recipe mine", "recipes copy mine other"])
def test_a_broken_recipe_is_named_by_file_and_field(typed: Typed, text: str, words: str, line: str) -> None:
    path = write(typed.home, "mine", text)
    said = typed.refused(line)
    assert said.startswith(f"✗ The recipe {path}")
    assert words in said
    assert not (typed.home.root / "recipes" / "other.toml").exists()


def test_text_that_is_none(typed: Typed) -> None:
    path = typed.home.root / "recipes" / "mine.toml"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as UTF-8 text" in typed.refused("recipes show mine")


def test_a_broken_one_does_not_hide_the_others(typed: Typed) -> None:
    write(typed.home, "bad", "x = 1")
    found = typed.json("recipes")
    assert [row["recipe"] for row in found] == ["bad", *SHIPPED]
    assert found[0]["summary"].startswith("broken: The recipe ")


def test_markup_in_a_recipe_is_text(typed: Typed) -> None:
    write(typed.home, "mine", 'title = "[bold]T[/bold]"\nsummary = "[/x] :smile:"\ndata = ["\\u001b[31mred"]\n')
    assert "[bold]T[/bold]: [/x] :smile: (yours)" in typed("recipes")
    said = typed("recipes show mine")
    assert "[bold]T[/bold]: [/x] :smile:" in said
    assert "\x1b" not in said


def test_a_recipe_may_be_a_file_anywhere(typed: Typed, tmp_path: Path) -> None:
    path = tmp_path / "away.toml"
    path.write_text(HEAD + "[train]\nepochs = 9\n")
    assert load_recipe(typed.home, str(path)).train.epochs == 9
    assert "There is no recipe file" in typed.refused(f"recipes show {tmp_path / 'none.toml'}")


def test_only_what_a_recipe_says_is_laid_over() -> None:
    recipe = Recipe.model_validate({"title": "t", "summary": "s", "train": {"epochs": TrainSettings().epochs}})
    mine = TrainSettings(epochs=9, batch_size=7)
    assert laid_over(mine, recipe.train) == mine.model_copy(update={"epochs": TrainSettings().epochs})
    assert laid_over(BuildSettings(min_length=5), recipe.build) == BuildSettings(min_length=5)


# The order: defaults, settings.toml, the recipe, flags


def test_start_takes_the_recipe_over_the_settings_and_flags_over_both(bench: Bench) -> None:
    typed = Typed(bench.home.root)
    typed.home.settings.write_text("[train]\nepochs = 7\nwarmup = 0.3\npatience = 9\n")
    given = f"--base {bench.base} --dataset {bench.dataset} --template bare --recipe quick-trial"
    made = typed.ingredients(f"{given} --lora-rank 2")
    recipe = load_recipe(typed.home, "quick-trial").train
    assert (made.settings.epochs, made.settings.patience) == (recipe.epochs, recipe.patience)
    assert (made.settings.warmup, made.settings.lora_rank) == (0.3, 2)
    assert made.settings.weight_decay == TrainSettings().weight_decay
    assert create(typed.home, made, "tried").record.recipe == "quick-trial"


def test_a_dataset_that_was_built_otherwise_is_told(bench: Bench) -> None:
    typed = Typed(bench.home.root)
    given = f"--base {bench.base} --template bare --recipe mine"
    write(typed.home, "mine", f"{HEAD}[build]\nmin_length = 3\nform = 'plain'\n")
    typed.ingredients(f"{given} --dataset {bench.dataset}")
    assert "The recipe wants a dataset with another min_length: /dataset build --recipe mine" in typed.host.output
    rated(typed.home, 0, 12)
    path = frozen(typed.home, SHORT.model_copy(update={"min_length": 3}))
    typed.ingredients(f"{given} --dataset {path.name}")
    assert typed.host.output == ""


def test_build_takes_the_recipe_and_the_manifest_names_it(home: Path) -> None:
    rated(Home(home), 0, 12)
    typed = Dataset(home)
    typed.home.settings.write_text('[build]\nform = "plain"\ncontext_turns = 4\nmin_length = 2\n')
    built = typed.json("build --recipe quick-trial --min-length 3")
    manifest = read_manifest(typed.home.datasets / built["id"])
    recipe = load_recipe(typed.home, "quick-trial").build
    assert manifest.recipe == "quick-trial"
    assert (manifest.settings.max_length, manifest.settings.context_turns) == (recipe.max_length, 0)
    assert (manifest.settings.form, manifest.settings.min_length) == ("plain", 3)
    plain = typed.json("build --form plain --context-turns 0 --max-length 2000 --min-length 3")
    assert plain["id"] == built["id"], "the name of the recipe makes no other dataset"


def test_build_refuses_a_broken_recipe(home: Path) -> None:
    typed = Dataset(home)
    path = write(typed.home, "mine", f"{HEAD}[build]\nmin_lenght = 3\n")
    assert f"The recipe {path}: there is no setting 'build.min_lenght'." in typed("build --recipe mine", code=1)


# Flags with the guide's names


STARTING = [verb for verb in ("start", "plan", "refresh") if verb in VERBS]


def parsed(verb: str, *words: str) -> Any:
    parser = Parser(prog=f"/finetune {verb}")
    VERBS[verb].flags(parser)
    return parser.parse_args(list(words))


@pytest.mark.parametrize("verb", STARTING)
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("threads", 4), ("ctx-size", 512), ("batch-size", 8), ("epochs", 5), ("learning-rate", 5e-5),
        ("lora-rank", 32), ("lora-alpha", 64.0),
    ],
)  # fmt: skip
def test_the_guides_flags_are_taken(verb: str, flag: str, value: float) -> None:
    settings = settings_from(parsed(verb, f"--{flag}", str(value)), TrainSettings())
    assert getattr(settings, flag.replace("-", "_")) == value


@pytest.mark.parametrize("verb", STARTING)
@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--sample-start", "the chat template marks where a sample starts"),
        ("--model-base", "--base takes its place"),
        ("--lora-out", "--name takes its place"),
        ("--train-data", "--dataset takes its place"),
    ],
)
@pytest.mark.parametrize("value", [(), ("<s>",)], ids=["bare", "with a value"])
def test_the_guides_old_flags_are_refused_by_name(verb: str, flag: str, words: str, value: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=f"/finetune {verb} does not take {flag}: {words}"):
        parsed(verb, flag, *value)


# The docs


@pytest.mark.parametrize("name", SHIPPED)
def test_the_docs_show_each_recipe(name: str) -> None:
    assert f"`{name}`" in DOCS.read_text(encoding="utf-8")
