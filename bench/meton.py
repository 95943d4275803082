"""What the plugin costs Meton: time added to its start, and to a turn, in a session that gets long.

    METON_HOME=CHECKOUT python bench/meton.py PYTHON_OF_METON [STARTS [TURNS]]

With and without the plugin take turns, so that a machine that gets slower does so for both; what is compared are the
medians, and beside the time on the clock the processor's own, which a busy machine does not change. The first start of
each is not counted. A turn is measured on the double of the host, whose own work is next to nothing, with prompts as
long as Meton's; between two turns the writer is given the time that a reader takes. Results: bench/results/meton.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.chat import INSTRUCTIONS  # noqa: E402
from support.chat_server import chat_server  # noqa: E402
from support.meton_double import FILES, imported, write_checkout  # noqa: E402
from support.meton_session import MetonSession  # noqa: E402

from meton_plugins.host import attach  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "meton.json"
PLUGIN = {
    "id": "finetune", "entry_point": "meton_plugins.finetune.plugin:register", "data_folder": "feedback_data/finetune",
}  # fmt: skip
#: Meton's prompt in its order: instructions, the last messages, the question.
AGENT = f"INSTRUCTIONS = {INSTRUCTIONS!r}\n" + FILES["core/agent.py"].replace(
    'invoke("Q: " + user_input)',
    'invoke(INSTRUCTIONS + "Recent Conversation:\\n" + "\\n".join(m["content"][:200] for m in '
    'self.conversation.messages[-5:]) + "\\n\\nUser Query: " + user_input + "\\nQ: " + user_input)',
)

#: Seconds on the clock, and of the processor.
Cost = tuple[float, float]


def starts(python: str, rounds: int) -> tuple[list[Cost], list[Cost]]:
    """What it takes to the first prompt: without the plugin, and with it."""
    took: tuple[list[Cost], list[Cost]] = ([], [])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, chat_server() as server:
        checkout = Path(folder) / "Meton"
        subprocess.run(["git", "clone", "-q", os.environ["METON_HOME"], str(checkout)], check=True)
        shell = [sys.executable, "-m", "meton_plugins.finetune"]
        where = ["--meton", str(checkout), "--python", python]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([*shell, "install", *where], env=env, check=True, stdout=subprocess.DEVNULL)
        marker = checkout / "feedback_data" / "finetune" / "attach.json"
        said = marker.read_text()
        try:
            for number in range(rounds + 1):
                for kind in (0, 1):
                    marker.write_text(said) if kind else marker.unlink(missing_ok=True)
                    began = time.perf_counter()
                    with MetonSession(checkout, server.address, [python, "meton.py"]) as chat:
                        used = psutil.Process(chat.child.pid).cpu_times()
                        if number:
                            took[kind].append((time.perf_counter() - began, used.user + used.system))
        finally:
            marker.write_text(said)
            subprocess.run([*shell, "uninstall", *where], env=env, check=True, stdout=subprocess.DEVNULL)
    return took


def turns(rounds: int, length: int) -> tuple[list[Cost], list[Cost], list[float]]:
    """What each turn of a session takes, without the plugin and with it, and the seconds that its writer then needs.

    `length`: characters of each question and answer.
    """
    took: tuple[list[Cost], list[Cost]] = ([], [])
    behind = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a thread may still write
        chats: list[Callable[[str], None]] = []
        for attached in (False, True):
            checkout = write_checkout(Path(folder) / str(attached), core_agent=AGENT)
            os.chdir(checkout)
            os.environ.pop("METON_FINETUNE_HOME", None)
            with imported(checkout) as module:
                if attached:
                    attach.attach(module, checkout, PLUGIN)
                cli = module.MetonCLI()
                cli.console.quiet = True
                cli.initialize()
                chats.append(cli.process_query)
        live = cli.plugin_finetune.host.listeners[0]
        for number in range(rounds):
            for kind, ask in enumerate(chats):
                clock, used = time.perf_counter(), time.thread_time()
                ask(f"question {number} " + "why " * (length // 4))
                took[kind].append((time.perf_counter() - clock, time.thread_time() - used))
            time.sleep(0.025)  # nobody types sooner, so the writer has begun
            clock = time.perf_counter()
            live.flush(60)
            behind.append(time.perf_counter() - clock)
        os.chdir(ROOT)
    return took[0], took[1], behind


def added(without: list[Cost], with_it: list[Cost]) -> dict[str, float]:
    """Medians in milliseconds."""

    def median(costs: list[Cost], which: int) -> float:
        return 1000 * statistics.median(cost[which] for cost in costs)

    return {
        "without_ms": round(median(without, 0), 2),
        "with_ms": round(median(with_it, 0), 2),
        "added_ms": round(median(with_it, 0) - median(without, 0), 2),
        "added_cpu_ms": round(median(with_it, 1) - median(without, 1), 2),
    }


def main() -> None:
    """Measure, print a line each, write the table."""
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 50
    table: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
    }
    for length in (200, 4000):
        without, with_it, behind = turns(rounds, length)
        tenth = max(1, rounds // 5)
        table[f"turn_{length}_characters"] = {
            "turns": rounds,
            **added(without, with_it),
            "first_turns_added_ms": added(without[:tenth], with_it[:tenth])["added_ms"],
            "last_turns_added_ms": added(without[-tenth:], with_it[-tenth:])["added_ms"],
            "written_behind_ms": round(1000 * statistics.median(behind), 1),
        }
    if len(sys.argv) > 1:
        without, with_it = starts(sys.argv[1], number)
        table["start"] = {"starts": number, **added(without, with_it)}
    for name, row in table.items():
        print(f"{name}: {row if isinstance(row, str) else ', '.join(f'{k} {v}' for k, v in row.items())}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
