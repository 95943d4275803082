"""How well secrets are found: recall on planted ones, false hits on clean code, speed.

    python bench/find_secrets.py [--each 6] [--pieces 30000] [--packages PATH ...] [--half tune|measure] [--show KIND]

Recall is over the forms of gitleaks' rules (tests/support/leaks.py) in prose, code and JSON. Clean code is the standard
library and the installed packages, or those at PATH, in pieces of 40 lines. Files are halved by a hash of their path:
patterns are tuned on one half, and the figures are those of the other. E-mail addresses and home folders in
packages are real personal data: they are counted, and are no false hits. Everything else that is replaced is one.
Nothing that was found is printed, unless --show asks for the lines of a kind.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "bench")]

import record  # noqa: E402
from support.leaks import RULES, SETTINGS, left_over, planted  # noqa: E402

from meton_plugins.finetune.curate.secrets import scrub  # noqa: E402

LINES = 40
#: True personal data in published packages: authors' addresses, folders in examples.
TRUE = ("EMAIL", "HOME")


def recall(each: int, seed: int) -> tuple[float, dict[str, float], dict[str, int]]:
    """Share found, by setting too, and how many of each rule were missed."""
    total: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    for plant in planted(each, seed):
        [cleaned], _ = scrub([plant.text])
        total[plant.setting] += 1
        if left_over(cleaned, plant.secret):
            missed[plant.setting] += 1
            rules[plant.rule] += 1
    found = 1 - sum(missed.values()) / sum(total.values())
    return found, {name: 1 - missed[name] / total[name] for name in SETTINGS}, dict(rules.most_common())


def pieces(roots: list[Path], half: str | None, limit: int) -> list[str]:
    """Pieces of code, at random but always the same ones."""
    seen = set()
    found = []
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).parts
            if "meton_plugins" in parts or (root != roots[0] and "site-packages" in parts):
                continue
            if half and (hashlib.sha256("/".join(parts).encode()).digest()[0] % 2 == 0) != (half == "tune"):
                continue
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            for start in range(0, len(lines), LINES):
                text = "".join(lines[start : start + LINES])
                if len(text) > 200 and text not in seen:
                    seen.add(text)
                    found.append(text)
    random.Random(0).shuffle(found)
    return found[:limit]


def false_hits(texts: list[str], show: str | None) -> tuple[Counter[str], int]:
    """Replacements by kind, and how many pieces had one that is no personal data."""
    counts: Counter[str] = Counter()
    touched = 0
    for text in texts:
        [cleaned], found = scrub([text])
        counts.update(found)
        touched += any(kind not in TRUE for kind in found)
        if show and any(kind == show or (show == "FALSE" and kind not in TRUE) for kind in found):
            for before, after in _changed(text, cleaned):
                print(f"    {before.strip()[:150]}\n        -> {after.strip()[:150]}")
    return counts, touched


def _changed(before: str, after: str) -> Iterator[tuple[str, str]]:
    one, two = before.splitlines(), after.splitlines()
    if len(one) == len(two):
        yield from ((old, new) for old, new in zip(one, two, strict=True) if old != new)
    else:
        yield next(((old, new) for old, new in zip(one, two, strict=False) if old != new), ("", ""))


def speed(texts: list[str], rounds: int = 3) -> tuple[float, float]:
    """MB/s of processor time over `texts`, and how many times faster than a plain `re` scan for words.

    The plain scan is `re.findall(r"[A-Za-z_]\\w+")` over the same texts: it moves with the machine as ours does.
    """
    size = sum(len(text.encode()) for text in texts) / 1e6
    words = re.compile(r"[A-Za-z_]\w+")
    ours, plain = [], []
    for _ in range(rounds):
        began = time.process_time()
        for text in texts:
            scrub([text])
        ours.append(time.process_time() - began)
        began = time.process_time()
        for text in texts:
            words.findall(text)
        plain.append(time.process_time() - began)
    return size / min(ours), min(plain) / min(ours)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pieces", type=int, default=30_000)
    parser.add_argument("--packages", type=Path, nargs="*")
    parser.add_argument("--half", choices=("tune", "measure"), default="measure")
    parser.add_argument("--show")
    parser.add_argument("--write", action="store_true", help="merge the figures into bench/results/data.json")
    words = parser.parse_args()
    paths = sysconfig.get_paths()
    roots = words.packages or [Path(paths["purelib"]), Path(paths["stdlib"])]
    found, by_setting, missed = recall(words.each, words.seed)
    print(f"recall {found:.4f} of {words.each * 3 * len(RULES)} planted ({len(RULES)} rules): "
          + ", ".join(f"{name} {value:.4f}" for name, value in by_setting.items()))  # fmt: skip
    print("missed:", ", ".join(f"{name} {count}/{words.each * 3}" for name, count in missed.items()) or "none")
    texts = pieces(roots, words.half, words.pieces)
    counts, touched = false_hits(texts, words.show)
    false = 1000 * sum(count for kind, count in counts.items() if kind not in TRUE) / len(texts)
    print(f"{len(texts)} clean pieces: {false:.3f} false hits per 1,000 in {touched} pieces; by kind {dict(counts)}")
    rate, ratio = speed(texts[:5000])
    print(f"{rate:.2f} MB/s of processor time; {ratio:.2f} of the speed of a plain re scan for words")
    if words.write:
        _merge({"recall": round(found, 4), "false_per_1000": round(false, 3), "mb_per_s": round(rate, 2)})


def _merge(secrets: dict[str, float]) -> None:
    """Put our figures beside those of the other benches."""
    record.put("data", secrets=secrets)


if __name__ == "__main__":
    main()
