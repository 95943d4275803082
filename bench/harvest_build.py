"""How long a harvest and a build take: 10,000 conversation files, 100,000 examples.

    python bench/harvest_build.py [FILES] [EXAMPLES]

Both run in processes of their own, over files and a library made here, and what they took goes into
bench/results/data.json beside what other benches wrote there. `cpu_seconds` is what `seconds` would be on a machine
that does nothing else.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from record import put  # noqa: E402

GOOD = {"thoughts": 1, "tool_calls": 0, "iterations": 1, "model": "qwen2.5-coder:7b"}
SUBJECTS = (
    "route harbour quay index query test fixture lock retry queue cache parse token column schema branch merge deploy "
    "window signal buffer thread socket header cookie session tide berth crane ledger invoice report migration"
)
WORDS = SUBJECTS.split()


def said(random_: random.Random, number: int) -> tuple[str, str]:
    """A question and an answer of about 775 characters, every third with code."""
    words = random_.choices(WORDS, k=90)
    question = f"How do I {' '.join(words[:12])} for case {number}?"
    answer = f"For case {number}: {' '.join(words[12:70])}."
    if number % 3 == 0:
        code = "\n".join(f"    {word}_{n} = load({word!r}, {number})" for n, word in enumerate(words[70:80]))
        answer += f"\n\n```python\ndef case_{number}(path):\n{code}\n    return path\n```\n"
    return question, answer + " ".join(words[70:])


def write_conversations(folder: Path, files: int) -> None:
    """Files as Meton writes them: three turns each, one session a file."""
    random_ = random.Random(1)
    folder.mkdir()
    for number in range(files):
        messages: list[dict[str, Any]] = []
        for turn in range(3):
            question, answer = said(random_, 3 * number + turn)
            at = f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}T09:{turn:02}"
            messages.append({"role": "user", "content": question, "timestamp": f"{at}:00.{number:06}", "metadata": {}})
            reply = {"role": "assistant", "content": answer, "timestamp": f"{at}:30.{number:06}", "metadata": GOOD}
            messages.append(reply)
        value = {"session_id": f"{number:08}-0000-4000-8000-000000000000", "messages": messages, "max_history": 20}
        (folder / f"session_{number:08}.json").write_text(json.dumps(value, indent=2), encoding="utf-8")


def harvest(root: Path, files: int) -> dict[str, Any]:
    """Take the conversations into a fresh library."""
    from meton_plugins.finetune.collect.harvest import harvest as take
    from meton_plugins.finetune.curate.secrets import scrub
    from meton_plugins.finetune.library import Library

    began, busy = time.perf_counter(), time.process_time()
    with Library(root / "harvest" / "library.db") as library:
        report = take(library, root / "conversations", scrub)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    assert (report.files, report.new) == (files, 3 * files)
    return {
        "files": files,
        "turns": report.new,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "files_per_s": round(files / seconds),
    }


def fill(root: Path, examples: int) -> dict[str, Any]:
    """Rated examples, four to a session, with what was said before."""
    from meton_plugins.finetune.library import Library
    from meton_plugins.finetune.turn import Message, Turn

    random_ = random.Random(2)
    with Library(root / "build" / "library.db") as library:
        for first in range(0, examples, 10_000):
            turns: list[Turn] = []
            for number in range(first, min(first + 10_000, examples)):
                question, answer = said(random_, number)
                at = f"2026-01-01T00:00:00.{number:06}"
                last = turns[-1] if number % 4 else None
                context = () if last is None else (
                    *last.context, Message(role="user", content=last.question),
                    Message(role="assistant", content=last.answer),
                )  # fmt: skip
                turns.append(Turn(session=f"s{number // 4}", at=at, question=question, answer=answer, context=context))
            ids, _ = library.add(turns)
            library.rate(ids, 5)
    return {}


def build(root: Path, examples: int) -> dict[str, Any]:
    """Freeze the dataset of all that is in the library, without counting tokens."""
    from meton_plugins.finetune.curate import dataset
    from meton_plugins.finetune.library import Library
    from meton_plugins.finetune.settings import BuildSettings

    began, busy = time.perf_counter(), time.process_time()
    with Library(root / "build" / "library.db") as library:
        manifest = dataset.build(library, BuildSettings(), root / "build" / "datasets")
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    kept = sum(manifest.examples.values())
    return {
        "examples": examples,
        "kept": kept,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_rss_mb": round(peak),
    }


STEPS = {"harvest": harvest, "fill": fill, "build": build}


def apart(step: str, root: Path, count: int) -> dict[str, Any]:
    """A step in a process of its own, so that peak memory is its own, too."""
    command = [sys.executable, __file__, "--step", step, str(root), str(count)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "0"}
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(files: int = 10_000, examples: int = 100_000) -> None:
    """Measure both and note it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_conversations(root / "conversations", files)
        found = {"harvest": apart("harvest", root, files)}
        apart("fill", root, examples)
        found["build"] = apart("build", root, examples)
    put("data", **found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        print(json.dumps(STEPS[sys.argv[2]](Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        main(*(int(word) for word in sys.argv[1:]))
