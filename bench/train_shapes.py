"""Bases with random weights for the training bench: GGUF files of any shape, made once and kept in .cache/bench/bases.

A base is made in F16 and quantized by the engine, as a real one is.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from meton_plugins.finetune.engine.jobs import quantize  # noqa: E402
from meton_plugins.finetune.gguf.tiny import SPECIAL, TinyShape, byte_letters, make_tiny  # noqa: E402
from meton_plugins.finetune.paths import replacing_path  # noqa: E402

CACHE: Final = ROOT / ".cache" / "bench"
BASES: Final = CACHE / "bases"
#: Room for every row of the bench.
CONTEXT: Final = 2048


@dataclass(frozen=True)
class Shape:
    """A model's sizes: head and embedding are one matrix, a head of the attention is `width / heads` wide."""

    architecture: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int

    def weights(self, vocabulary: int) -> int:
        """How many numbers the model holds."""
        head = self.width // self.heads
        queries, keys = self.heads * head, self.kv_heads * head
        layer = 2 * self.width * (queries + keys) + 3 * self.width * self.inner + 2 * self.width
        layer += 2 * head if self.architecture == "qwen3" else queries + 2 * keys
        return vocabulary * self.width + self.layers * layer + self.width


#: By about how many million weights they have.
SHAPES: Final = {
    "tiny": Shape("qwen3", width=256, layers=2, heads=4, kv_heads=2, inner=512),
    "30m": Shape("qwen3", width=384, layers=8, heads=6, kv_heads=2, inner=1536),
    "125m": Shape("qwen3", width=768, layers=12, heads=12, kv_heads=4, inner=3072),
    "500m": Shape("qwen2", width=896, layers=24, heads=14, kv_heads=2, inner=4864),  # as Qwen2.5-0.5B
}


def random_base(shape: Shape, vocabulary: int, kind: str, folder: Path = BASES) -> Path:
    """The base of that shape in `kind` (f16 or a quantization of the engine), made where it is missing."""
    traits = hashlib.sha256(repr((sorted(asdict(shape).items()), CONTEXT)).encode()).hexdigest()[:8]
    path = folder / f"{shape.weights(vocabulary) // 10**6}m-{vocabulary}-{kind}-{traits}.gguf"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "f16":
        sizes: dict[str, Any] = asdict(shape)
        with replacing_path(path) as temporary:
            tiny = TinyShape(**sizes, context=CONTEXT, tied=True)
            make_tiny(temporary, tiny, merges=list(merges(vocabulary - 256 - len(SPECIAL))), half=True)
    else:
        quantize(random_base(shape, vocabulary, "f16", folder), path, kind)
    return path


def merges(count: int) -> Iterator[tuple[str, str]]:
    """The first `count` pairs that byte-level BPE may merge: of two letters, then of two and one more."""
    letters = byte_letters()
    pairs = itertools.product(letters, letters)
    triples = ((one + two, three) for one, two, three in itertools.product(letters, letters, letters))
    return itertools.islice(itertools.chain(pairs, triples), count)
