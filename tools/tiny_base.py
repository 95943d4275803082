"""A tiny base for the demo: random weights, and a byte-level BPE vocabulary learned from the sample conversations."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

from meton_plugins.finetune.form import prompt, wrap
from meton_plugins.finetune.gguf.tiny import TinyShape, make_tiny
from meton_plugins.finetune.serve.templates import load_template

#: Large enough to learn the samples by heart, small enough to do it in a minute on two cores.
SHAPE = TinyShape("qwen2", width=256, layers=2, heads=8, kv_heads=8, inner=512, seed=7)
VOCABULARY = 2000


def corpus(conversations: Path) -> list[str]:
    """What the base will read: the conversations in the form in which they are trained on."""
    # What stands in every row counts often enough to become whole words.
    texts = [load_template("basic").system or "", wrap("Yes."), prompt("Which one?")] * 20
    for file in sorted(conversations.glob("*.json")):
        texts += [message["content"] for message in json.loads(file.read_text(encoding="utf-8"))["messages"]]
    return texts


def make(path: Path, conversations: Path) -> Path:
    """Write the base to `path`; the same bytes every time."""
    return make_tiny(path, SHAPE, merges=merges_of(corpus(conversations), VOCABULARY))


def merges_of(texts: list[str], vocabulary: int) -> list[tuple[str, str]]:
    """The merges that byte-level BPE learns from `texts`."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=vocabulary, min_frequency=2, show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_model(folder)
        lines = (Path(folder) / "merges.txt").read_text(encoding="utf-8").splitlines()
    return [(left, right) for left, right in (line.split(" ") for line in lines if not line.startswith("#"))]
