"""Licences: copied unchanged, recognised, and what they ask of whoever passes a model on."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import rewrite

from meton_plugins.finetune.gguf.tiny import make_tiny
from meton_plugins.finetune.serve.licences import LICENCES, reminder, said_in

#: How the texts begin, as their owners write them, line breaks and all.
TEXTS = {
    "llama3.1": "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: July 23, 2024\n",
    "llama3.2": "**Llama 3.2** **Acceptable Use Policy**\n\nLLAMA 3.2 COMMUNITY\n  LICENSE AGREEMENT\n",
    "llama4": "LLAMA 4 COMMUNITY LICENSE AGREEMENT\nLlama 4 Version Effective Date: April 5, 2025\n",
    "llama3": "META LLAMA 3 COMMUNITY LICENSE AGREEMENT\nMeta Llama 3 Version Release Date: April 18, 2024\n",
    "llama2": "LLAMA 2 COMMUNITY LICENSE AGREEMENT\t\nLlama 2 Version Release Date: July 18, 2023\n",
    "qwen-research": "Qwen RESEARCH LICENSE AGREEMENT\n\nQwen RESEARCH LICENSE AGREEMENT Release Date: 2024\n",
    "qwen": "Qwen LICENSE AGREEMENT\n\nQwen LICENSE AGREEMENT Release Date: September 19, 2024\n",
    "tongyi-qianwen": "Tongyi Qianwen LICENSE AGREEMENT\n\nTongyi Qianwen Release Date: August 3, 2023\n",
    "gemma": "Gemma Terms of Use\n\nLast modified: February 21, 2024\n",
    "deepseek": "DEEPSEEK LICENSE AGREEMENT\n\nVersion 1.0, 23 October 2023\n",
    "apache-2.0": "              Apache License\n        Version 2.0, January 2004\n",
    "mit": "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\nof this\n",
}
DUTIES = {
    "llama3.1": 'show "Built with Llama", and its name must begin with "Llama" (section 1.b.i)',
    "llama3.2": 'show "Built with Llama", and its name must begin with "Llama" (section 1.b.i)',
    "llama4": 'show "Built with Llama", and its name must begin with "Llama" (section 1.b.i)',
    "llama3": 'show "Built with Meta Llama 3", and its name must begin with "Llama 3" (section 1.b.i)',
    "llama2": "a copy of the licence and its Notice must go with it (section 1.b)",
    "qwen-research": '"Improved using Qwen" (section 4.b), and nobody may use it commercially',
    "qwen": '"Built with Qwen" or "Improved using Qwen" (section 4.b). A reminder',
    "tongyi-qianwen": "a copy of the licence and its Notice must go with it (section 3)",
    "gemma": "their Notice and their use restrictions must go with it (section 3.1)",
    "deepseek": "the use restrictions of its Attachment A must go with it (sections 4 and 5)",
}


@pytest.mark.parametrize("key", TEXTS)
def test_a_licence_is_known_by_its_text_and_by_its_key(key: str) -> None:
    by_text, by_key = reminder(TEXTS[key]), reminder("", key)
    assert by_text == by_key
    if key in DUTIES:
        assert by_text is not None
        assert DUTIES[key] in by_text
        assert by_text.endswith("A reminder, not advice.")
    else:
        assert by_text is None


def test_every_licence_of_the_table_is_tested() -> None:
    assert {key for licence in LICENCES for key in licence.keys if key in TEXTS} == set(TEXTS)
    assert all(set(licence.keys) & set(TEXTS) for licence in LICENCES)


def test_the_duty_of_a_base_with_two_texts_is_not_lost() -> None:
    """A distilled model carries its own MIT text and that of the model that it was made of."""
    both = reminder(TEXTS["mit"] + TEXTS["llama3.1"])
    assert both is not None
    assert "Built with Llama" in both


def test_a_text_that_is_not_known_is_not_guessed() -> None:
    said = reminder("You may do with this as Fred says.", "apache-2.0")
    assert said is not None
    assert "none that is known here: read it" in said
    assert reminder("") is None
    assert reminder(" \n", "freds-own") is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"general.license": "llama3.2"}, "llama3.2"),
        ({"general.license": "other", "general.license.name": "qwen-research"}, "qwen-research"),
        ({"general.license": "other"}, ""),
        ({}, ""),
    ],
    ids=["named", "other", "other-unnamed", "silent"],
)
def test_what_a_gguf_says_of_its_licence(tmp_path: Path, keys: dict[str, str], said: str) -> None:
    path = rewrite(make_tiny(tmp_path / "a.gguf"), tmp_path / "b.gguf", drop="general.license", add=keys)
    assert said_in(path) == said
