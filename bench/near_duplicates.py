"""Finding near-duplicates: seconds, memory and recall of ours, brute force, datasketch and rensa, on the same texts.

    python bench/near_duplicates.py [--sizes 5000,10000,100000] [--methods ours,cdist,datasketch,rensa]

The texts are functions of installed packages, one-line questions, other scripts and a few of 100,000 characters, a
tenth of them edited copies (tests/support/edited.py). Every method is given the same folded texts without exact copies,
names the pairs that are alike by 85 or more as RapidFuzz counts, and runs in a process of its own. Recall is over all
such pairs where brute force ran; for more texts, over those that were planted and all that brute force finds for some
texts taken at random. The libraries we compare with are installed into .cache/bench, where they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "bench")]

from record import get, put  # noqa: E402

VENV = ROOT / ".cache" / "bench"
THRESHOLD = 85
#: Brute force on more takes hours.
MOST = 5000
#: Texts that are compared with all others where brute force on all is too much.
SAMPLE = 150

Pairs = list[tuple[int, int]]


def ours(texts: list[str]) -> Pairs:
    from meton_plugins.finetune.curate.alike import near_pairs

    return [(one, other) for one, other, _ in near_pairs(texts, THRESHOLD)]


def cdist(texts: list[str]) -> Pairs:
    """Brute force."""
    import numpy as np
    from rapidfuzz import fuzz, process

    found: Pairs = []
    for start in range(0, len(texts), 250):
        rows = texts[start : start + 250]
        scores = process.cdist(rows, texts[start:], scorer=fuzz.ratio, score_cutoff=THRESHOLD, dtype=np.float32)
        found += [
            (start + int(one), start + int(other))
            for one, other in zip(*np.nonzero(scores), strict=True)
            if one < other
        ]
    return found


def shingles(text: str) -> list[str]:
    words = text.split(" ")
    return [" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2))]


def verified(texts: list[str], candidates: Callable[[int], Any]) -> Pairs:
    from rapidfuzz import fuzz

    return [
        (one, other)
        for one in range(len(texts))
        for other in candidates(one)
        if one < other and fuzz.ratio(texts[one], texts[other], score_cutoff=THRESHOLD)
    ]


def datasketch(texts: list[str]) -> Pairs:
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=0.6, num_perm=128)
    sketches = []
    for number, text in enumerate(texts):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([shingle.encode() for shingle in shingles(text)])
        lsh.insert(number, sketch)
        sketches.append(sketch)
    return verified(texts, lambda one: lsh.query(sketches[one]))


def rensa(texts: list[str]) -> Pairs:
    from rensa import RMinHash, RMinHashLSH

    lsh = RMinHashLSH(threshold=0.6, num_perm=128, num_bands=16)
    sketches = []
    for number, text in enumerate(texts):
        sketch = RMinHash(num_perm=128, seed=1)
        sketch.update(shingles(text))
        lsh.insert(number, sketch)
        sketches.append(sketch)
    return verified(texts, lambda one: lsh.query(sketches[one]))


METHODS: dict[str, Callable[[list[str]], Pairs]] = {
    "ours": ours, "cdist": cdist, "datasketch": datasketch, "rensa": rensa,
}  # fmt: skip


def work(method: str, file: Path) -> None:
    """In a process of its own: the texts of `file` through `method`, the result as JSON beside it."""
    with file.open(encoding="utf-8") as lines:
        texts = [json.loads(line) for line in lines]
    began = time.perf_counter()
    pairs = METHODS[method](texts)
    seconds = time.perf_counter() - began
    file.with_suffix(f".{method}").write_text(json.dumps({"seconds": seconds, "peak": peak_mb(), "pairs": pairs}))


def peak_mb() -> float:
    """The most memory that this process held. On Linux, `getrusage` counts that of the parent before the start too."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def measured(method: str, file: Path, python: str) -> tuple[dict[str, Any], set[tuple[int, int]]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([python, __file__, "--work", method, "--file", str(file)], check=True, env=env)
    found = json.loads(file.with_suffix(f".{method}").read_text())
    pairs = {(min(pair), max(pair)) for pair in found["pairs"]}
    return {"seconds": round(found["seconds"], 2), "peak_rss_mb": round(found["peak"])}, pairs


def prepared(size: int, folder: Path) -> tuple[Path, list[str], set[tuple[int, int]]]:
    """A file of `size` folded texts, the texts, and the planted pairs among them that are alike enough."""
    from rapidfuzz import fuzz
    from support.edited import make_corpus

    from meton_plugins.finetune.curate.sketch import fold

    corpus = make_corpus(size)
    first: dict[str, int] = {}
    where = [first.setdefault(fold(text), len(first)) for text in corpus.texts]
    texts = list(first)
    file = folder / f"{size}.jsonl"
    file.write_text("".join(f"{json.dumps(text)}\n" for text in texts), encoding="utf-8")
    planted = {(min(pair), max(pair)) for one, other in corpus.planted if (pair := (where[one], where[other]))}
    alike = {(a, b) for a, b in planted if a < b and fuzz.ratio(texts[a], texts[b], score_cutoff=THRESHOLD)}
    return file, texts, alike


def sampled(texts: list[str]) -> set[tuple[int, int]]:
    """All pairs of some texts with any other, by brute force."""
    import numpy as np
    from rapidfuzz import fuzz, process

    some = random.Random(1).sample(range(len(texts)), min(SAMPLE, len(texts)))
    found: set[tuple[int, int]] = set()
    for one in some:
        scores = process.cdist([texts[one]], texts, scorer=fuzz.ratio, score_cutoff=THRESHOLD, dtype=np.float32)[0]
        found |= {(min(one, other), max(one, other)) for other in np.flatnonzero(scores).tolist() if other != one}
    return found


def bench_python() -> str:
    """A Python that has the libraries we compare with: this one, or that of .cache/bench, made where it is missing."""
    try:
        import datasketch
        import rensa
    except ImportError:
        python = VENV / "bin" / "python"
        wanted = ROOT / "requirements" / "bench.txt"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(wanted)], check=True)
        return str(python)
    del datasketch, rensa
    return sys.executable


def keep(rows: list[dict[str, Any]]) -> None:
    """Put `rows` into the results; what other benches wrote stays, and of ours what was measured before."""
    new = {(row["n"], row["method"]) for row in rows}
    old = [row for row in get("data").get("near_duplicates", []) if (row["n"], row["method"]) not in new]
    found = sorted([*old, *rows], key=lambda row: (row["n"], list(METHODS).index(row["method"])))
    put("data", near_duplicates=found)


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="5000,10000,100000")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.work:
        work(words.work, words.file)
        return
    wanted = words.methods.split(",")
    other = bench_python() if {"datasketch", "rensa"} & set(wanted) else sys.executable
    print(f"{'texts':>8}  {'method':12}{'seconds':>9}{'peak MB':>9}{'recall':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, words.sizes.split(",")):
            file, texts, truth = prepared(size, Path(folder))
            brute = size <= MOST and "cdist" in wanted
            order = sorted(wanted, key=lambda method: method != "cdist")
            if not brute:
                truth |= sampled(texts)
            for method in order:
                if method == "cdist" and not brute:
                    continue
                figures, pairs = measured(method, file, other if method in ("datasketch", "rensa") else sys.executable)
                if method == "cdist":
                    truth = pairs
                recall = round(len(pairs & truth) / len(truth), 4)
                keep([{"n": size, "method": method, **figures, "recall": recall}])
                print(
                    f"{size:8}  {method:12}{figures['seconds']:9.1f}{figures['peak_rss_mb']:9}{recall:8.4f}", flush=True
                )


if __name__ == "__main__":
    main()
