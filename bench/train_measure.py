"""What one child process of the training bench measures: steps after a warm-up, their speed, and the memory they took.

Both sides read this, each with its own Python, so it takes nothing but NumPy.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train_rows import Row, batches, make_rows


def megabytes(field: str) -> float:
    """VmRSS, the memory of this process now, or VmHWM, the most that it ever had.

    Not getrusage: that counts what the parent held before this program was started.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def quiet_output() -> int:
    """Turn all that is printed to stderr: libraries print too. Where the result goes is what this returns."""
    channel = os.dup(1)
    os.dup2(2, 1)
    return channel


def read_job() -> dict[str, Any]:
    """What the driver wants, from the command line."""
    return dict(json.loads(sys.argv[1]))


def steps_of(job: dict[str, Any]) -> list[list[Row]]:
    """The rows of every counted step."""
    rows = make_rows(job["rows"], job["ctx"], job["vocab"], job["steps"] * job["batch"])
    return batches(rows, job["batch"])


def measure(step: Callable[[list[Row]], float], job: dict[str, Any]) -> dict[str, Any]:
    """Run the steps of `job` through `step`, which returns the loss; speed, CPU seconds and losses.

    The warm-up is the first step, cut to `warm_tokens` a row where that is not 0.
    """
    counted = steps_of(job)
    warm = job["warm_tokens"]
    step([row.cut(min(warm or row.length, row.length)) for row in counted[0]])
    losses, cpu, began = [], time.process_time(), time.perf_counter()
    for rows in counted:
        losses.append(step(rows))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    tokens = sum(row.length for rows in counted for row in rows)
    learned = sum(row.learned for rows in counted for row in rows)
    return {
        "tokens_per_s": tokens / seconds, "useful_tokens_per_s": learned / seconds,
        "cpu_s_per_step": cpu / len(counted), "seconds": seconds, "cores": cpu / seconds,
        "tokens": tokens, "losses": losses,
    }  # fmt: skip


def tell(channel: int, result: dict[str, Any]) -> None:
    """The result as one line, with the peak of this process."""
    line = json.dumps({**result, "peak_rss_mb": megabytes("VmHWM")})
    with os.fdopen(channel, "w", encoding="utf-8") as file:
        file.write(line + "\n")
