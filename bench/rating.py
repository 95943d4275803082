"""How long a rating, and a search, takes in a library of 100,000 examples, each rating on disk before it returns.

`python bench/rating.py` writes `rating_ms` and `search_ms` (p50 and p99, milliseconds) into bench/results/data.json and
leaves the other keys of that file as they are.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import record

from meton_plugins.finetune.library import Library
from meton_plugins.finetune.turn import Turn

TEXT = """
async await class config context decorator dict error exception file filter function generator handler import index
integer iterator json lambda list logger loop method module object package parser path pattern query queue request
return route schema server session settings signal socket string table template thread token tuple type value variable
"""
WORDS = TEXT.split()


def turns(count: int, seed: random.Random) -> Iterator[Turn]:
    """Answers of about 800 characters in sessions of eight turns."""
    for number in range(count):
        answer = " ".join(seed.choices(WORDS, k=110))
        question = f"How does the {seed.choice(WORDS)} of the {seed.choice(WORDS)} number {number} work?"
        at = f"2026-01-{1 + number // 8 % 28:02}T{number // 224 % 24:02}:{number % 60:02}:{number % 61 % 60:02}"
        yield Turn(session=f"session-{number // 8}", at=at, question=question, answer=answer)


def milliseconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def percentiles(times: list[float]) -> dict[str, float]:
    """p50 and p99 of `times`."""
    cuts = statistics.quantiles(times, n=100)
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--ratings", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help="where the library is made (default: beside the results)")
    options = parser.parse_args()
    seed = random.Random(7)
    record.RESULTS.mkdir(exist_ok=True)
    # Not in /tmp, which may be memory: an fsync that reaches no disk measures nothing.
    with tempfile.TemporaryDirectory(dir=options.folder or record.RESULTS) as folder:
        with Library(Path(folder) / "library.db") as library:
            ids: list[str] = []
            batch: list[Turn] = []
            for turn in turns(options.examples, seed):
                batch.append(turn)
                if len(batch) == 5_000:
                    ids += library.add(batch)[0]
                    batch = []
            ids += library.add(batch)[0]
            size = library.path.stat().st_size
            chosen = [(seed.choice(ids), seed.randint(1, 5)) for _ in range(options.ratings)]
            rating = percentiles([milliseconds(lambda pair=pair: library.rate([pair[0]], pair[1])) for pair in chosen])
            asked = [f"{seed.choice(WORDS)} {seed.choice(WORDS)}" for _ in range(100)]
            asked += [f"number {seed.randrange(options.examples)}" for _ in range(100)] + [
                "the",
                "zzz",
                "ttern que",
            ] * 20
            search = percentiles([milliseconds(lambda text=text: library.search(text)) for text in asked])
        print(f"{options.examples} examples, {size / 2**20:.0f} MB")
    print(f"rating: p50 {rating['p50']} ms, p99 {rating['p99']} ms of {len(chosen)}")
    print(f"search: p50 {search['p50']} ms, p99 {search['p99']} ms of {len(asked)}")
    record.put("data", rating_ms=rating, search_ms=search)


if __name__ == "__main__":
    main()
