"""settings.toml and the flags over it: one model, one sentence for each mistake."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from meton_plugins.finetune.commands.options import HelpWanted, Parser, flags_of, settings_from, split
from meton_plugins.finetune.errors import ConfigError, UsageError
from meton_plugins.finetune.settings import (
    BuildSettings,
    GateSettings,
    HarvestSettings,
    ServeSettings,
    Settings,
    TrainSettings,
    load,
)

GROUPS = (TrainSettings, BuildSettings, HarvestSettings, ServeSettings, GateSettings)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def saying(file: Path, text: str) -> Settings:
    file.write_text(text, encoding="utf-8")
    return load(file)


# The file


def test_without_a_file_the_defaults_hold(file: Path) -> None:
    assert load(file) == Settings()


def test_a_file_that_says_everything(file: Path) -> None:
    settings = saying(
        file,
        """
        base = "qwen3:4b"
        [train]
        epochs = 5
        learning_rate = 2e-4
        lora_targets = ["attn_q", "attn_v"]
        chat_template = "chatml"
        [build]
        unrated = true
        form = "plain"
        [harvest]
        enabled = false
        conversations_dir = "/talk"
        [serve]
        ollama_host = "http://box:11434"
        config = "~/Meton/config.yaml"
        """,
    )
    assert settings.base == "qwen3:4b"
    assert (settings.train.epochs, settings.train.learning_rate) == (5, 2e-4)
    assert settings.train.lora_targets == ("attn_q", "attn_v")
    assert (settings.build.unrated, settings.build.form) == (True, "plain")
    assert (settings.harvest.enabled, settings.harvest.conversations_dir) == (False, Path("/talk"))
    assert settings.serve.config == Path("~/Meton/config.yaml")
    assert settings.train.batch_size == TrainSettings().batch_size, "what is left out keeps its default"


WRONG = {
    "not toml": ("[train", "is not TOML"),
    "twice": ("[train]\n[train]", "is not TOML"),
    "unknown group": ("[trains]\nepochs = 3", "there is no setting 'trains'"),
    "unknown key": ("[train]\nepoch = 3", "there is no setting 'train.epoch'"),
    "key outside its group": ("epochs = 3", "there is no setting 'epochs'"),
    "text for a number": (
        "[train]\nepochs = 'three'",
        "train.epochs takes a whole number from 1 to 10000, not 'three'",
    ),
    "fraction for a number": ("[train]\nepochs = 1.5", "train.epochs takes a whole number from 1 to 10000, not 1.5"),
    "truth for a text": ("base = true", "base takes a text, not true"),
    "number for a truth": ("[build]\nunrated = 7", "build.unrated takes true or false, not 7"),
    "value for a group": ("train = 3", "train takes settings of its own, below [train], not 3"),
    "too small": ("[train]\nctx_size = 1", "train.ctx_size takes a whole number from 8 to 131072, not 1"),
    "too large": ("[build]\nquality_threshold = 1.5", "build.quality_threshold takes a number from 0 to 1, not 1.5"),
    "not a number": ("[train]\nlearning_rate = nan", "train.learning_rate takes a number above 0 and up to 1, not nan"),
    "not a choice": ("[build]\nform = 'poem'", "build.form takes 'meton' or 'plain', not 'poem'"),
    "no list": ("[train]\nlora_targets = 3", "train.lora_targets takes a list of texts, not 3"),
    "no text in a list": ("[train]\nlora_targets = [3]", "lora_targets.0 takes a list of texts, not 3"),
    "only a lowest": ("[train]\npatience = -1", "train.patience takes a whole number from 0 up, not -1"),
    "only below": (
        "[train]\nseed = 5000000000",
        "train.seed takes a whole number from 0 to 4294967295, not 5000000000",
    ),
    "no path": ("[serve]\nconfig = 3", "serve.config takes a path, not 3"),
    "unknown target": ("[train]\nlora_targets = ['head']", "lora_targets takes attn_q, attn_k"),
    "no target": ("[train]\nlora_targets = []", "lora_targets takes attn_q"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_sentence_with_the_files_name(file: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        saying(file, text)
    sentence = caught.value.sentence
    assert sentence.startswith(str(file))
    assert words in sentence
    assert sentence.endswith(".")
    assert "\n" not in str(caught.value)
    assert "pydantic" not in sentence


@pytest.mark.parametrize("way", ["encoding", "folder"])
def test_a_file_that_cannot_be_read(file: Path, way: str) -> None:
    file.write_bytes(b"\xff\xfe") if way == "encoding" else file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(file)


def test_settings_do_not_change(file: Path) -> None:
    with pytest.raises(ValidationError):
        load(file).train.epochs = 4  # type: ignore[misc]


# The models


@pytest.mark.parametrize("model", [*GROUPS, Settings], ids=lambda model: model.__name__)
def test_every_setting_says_what_it_is(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        if model is Settings and name in ("train", "build", "harvest", "serve", "gate"):
            continue
        text = field.description or ""
        assert len(text) > 10, f"{name} has no description"
        assert text[0].islower() or text.startswith(("CPU", "AdamW", "Modelfile"))
        assert not text.endswith(".")


@pytest.mark.parametrize("model", GROUPS, ids=lambda model: model.__name__)
def test_every_setting_has_a_default_that_is_valid(model: type[BaseModel]) -> None:
    assert model.model_validate(model().model_dump()) == model()


# Flags


def parser(model: type[BaseModel] = TrainSettings) -> Parser:
    made = Parser(prog="/test")
    flags_of(made, model)
    return made


def given(line: str, base: Any = None) -> Any:
    base = base or TrainSettings()
    return settings_from(parser(type(base)).parse_args(split(line)), base)


def test_flags_override_the_file_and_nothing_else(file: Path) -> None:
    base = saying(file, "[train]\nepochs = 5\nseed = 7\n").train
    laid = given("--epochs 9 --learning-rate 1e-3 --lora-targets attn_q,attn_k --chat-template chatml", base)
    assert laid == base.model_copy(
        update={"epochs": 9, "learning_rate": 1e-3, "lora_targets": ("attn_q", "attn_k"), "chat_template": "chatml"}
    )
    assert given("", base) == base


@pytest.mark.parametrize(("line", "unrated"), [("--unrated", True), ("--no-unrated", False), ("", True)])
def test_a_switch_can_be_turned_both_ways(line: str, unrated: bool) -> None:
    assert given(line, BuildSettings(unrated=True)).unrated is unrated


@pytest.mark.parametrize("model", GROUPS, ids=lambda model: model.__name__)
def test_every_field_is_a_flag_with_its_default(model: type[BaseModel]) -> None:
    with pytest.raises(HelpWanted) as wanted:
        parser(model).parse_args(["--help"])
    said = " ".join(str(wanted.value).split())
    for name, field in model.model_fields.items():
        assert f"--{name.replace('_', '-')}" in said
        assert " ".join((field.description or "").split()) in said
        if field.default is not None and not isinstance(field.default, tuple | bool):
            assert f"(default: {field.default})" in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--epochs x", "--epochs takes a whole number from 1 to 10000, not 'x'."),
        ("--warmup 2", "--warmup takes a number from 0 to 1, not '2'."),
        ("--lora-targets attn_q,nose", "--lora-targets takes attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, "
         "ffn_down, not nose"),
        ("--wrong", "/test does not take --wrong; see /test --help."),
        ("--epoch 3", "/test does not take --epoch 3"),
        ("--epochs", "Argument --epochs: expected one argument"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_one_sentence(line: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        given(line)
    assert words in caught.value.sentence


def test_only_some_fields_may_be_flags() -> None:
    made = argparse.ArgumentParser()
    flags_of(made, TrainSettings, only=["seed"])
    assert vars(made.parse_args(["--seed", "3"])) == {"seed": "3"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a 'b c' d", ["a", "b c", "d"]), ('"it\'s"', ["it's"]), ("a\\ b", ["a b"]), ("", []), ("# x", ["#", "x"]),
        ("a\udcffb", ["a\udcffb"]),
    ],
)  # fmt: skip
def test_a_line_is_split_as_a_shell_would(line: str, words: list[str]) -> None:
    assert split(line) == words


@pytest.mark.parametrize("line", ["it's", 'say "hi', "end\\", "nul\0", "half\ud800"])
def test_a_line_that_cannot_be_split(line: str) -> None:
    with pytest.raises(UsageError):
        split(line)
