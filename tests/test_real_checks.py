"""The check of our own pass on real bases: the right pass is let through, and a wrong one is found out.

Random bases cannot show this: they have no massive activations, which made a right pass look wrong, and their blocks
change next to nothing, which lets a wrong one look right.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.real_models import model_or_skip

from meton_plugins.finetune.engine.accelerated import NativeTrainer
from meton_plugins.finetune.engine.adapted import Adapter
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.graph.shape import Shape, Unsupported
from meton_plugins.finetune.graph.weights import Stored
from tools.real_models import MODELS, folder, variable

pytest_plugins = ["support.real_models"]

TEXT = "How do I read a JSON file in Python and print one key? Open it, call json.load, then index the dictionary."

Faults = dict[str, tuple[Callable[[Shape], Shape], Callable[[dict[str, Stored]], None]]]


def as_it_is(shape: Shape) -> Shape:
    return shape


def wrong_rotary_base(shape: Shape) -> Shape:
    return dataclasses.replace(shape, rope_base=10_000.0 if shape.rope_base > 20_000 else 1e6)


def untouched(stored: dict[str, Stored]) -> None:
    """Every tensor is what it should be."""


def swapped_gate(stored: dict[str, Stored]) -> None:
    gate, up = "blk.7.ffn_gate.weight", "blk.7.ffn_up.weight"
    stored[gate], stored[up] = stored[up], stored[gate]


def keys_of_another_block(stored: dict[str, Stored]) -> None:
    stored["blk.9.attn_k.weight"] = stored["blk.8.attn_k.weight"]


def without_one_bias(stored: dict[str, Stored]) -> None:
    del stored["blk.5.attn_q.bias"]


def without_key_biases(stored: dict[str, Stored]) -> None:
    for name in [name for name in stored if name.endswith("attn_k.bias")]:
        del stored[name]


FAULTS: Faults = {
    "rotary base": (wrong_rotary_base, untouched),
    "swapped": (as_it_is, swapped_gate),
    "another block's": (as_it_is, keys_of_another_block),
}
BIAS_FAULTS: Faults = {
    "one bias": (as_it_is, without_one_bias),
    "key biases": (as_it_is, without_key_biases),
}


def refusal(trainer: NativeTrainer, tokens: npt.NDArray[np.int32]) -> str:
    """Why the pass is not relied on; empty where it is."""
    try:
        trainer.check(tokens, 2)
    except Unsupported as error:
        return str(error)
    return ""


def check(library: Library, base: Path, faults: Faults) -> None:
    """The pass as it is passes the check, with each of `faults` it does not."""
    with Model(library, base) as model, NativeTrainer(model, base, 64, 2, Adapter()) as trainer:
        tokens = np.asarray(model.encode(TEXT, start=True), np.int32)
        assert not refusal(trainer, tokens)
        right: tuple[Any, Any] = trainer._shape, trainer._stored_tensors
        for name, (shape, change) in faults.items():
            stored = dict(right[1])
            change(stored)
            trainer._shape, trainer._stored_tensors = shape(right[0]), stored
            assert "hidden states differ" in refusal(trainer, tokens), name
        trainer._shape, trainer._stored_tensors = right


def test_on_smollm2(library: Library, smollm2: Path) -> None:
    check(library, smollm2, FAULTS)


def test_on_qwen(library: Library) -> None:
    name = "qwen0.5b"
    if not ((folder() / MODELS[name].file).is_file() or os.environ.get(variable(name))):
        pytest.skip("Qwen2.5-Coder-0.5B is not on this machine: tools/real_models.py qwen0.5b fetches it (491 MB).")
    check(library, model_or_skip(name), {**FAULTS, **BIAS_FAULTS})
