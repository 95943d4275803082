"""What the plugin costs Meton: seconds added to its start, milliseconds added to a turn.

    METON_HOME=CHECKOUT python bench/meton.py PYTHON_OF_METON [ROUNDS]

Starts alternate with and without the plugin, so that a machine that gets slower does so for both. The first start of
each is not counted. A turn is measured on the double of the host, whose own work is next to nothing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.chat_server import chat_server  # noqa: E402
from support.meton_double import imported, write_checkout  # noqa: E402
from support.meton_session import MetonSession  # noqa: E402

from meton_plugins.host import attach  # noqa: E402

PLUGIN = {
    "id": "finetune", "entry_point": "meton_plugins.finetune.plugin:register", "data_folder": "feedback_data/finetune",
}  # fmt: skip


def starts(python: str, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds to the first prompt: without the plugin, and with it."""
    took: tuple[list[float], list[float]] = ([], [])
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
                    with MetonSession(checkout, server.address, [python, "meton.py"]):
                        if number:
                            took[kind].append(time.perf_counter() - began)
        finally:
            marker.write_text(said)
            subprocess.run([*shell, "uninstall", *where], env=env, check=True, stdout=subprocess.DEVNULL)
    return took


def turns(rounds: int = 100) -> tuple[float, float]:
    """Milliseconds of a turn of the double, without the plugin and with it (library and all)."""
    took = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a thread may still write
        checkout = write_checkout(Path(folder))
        os.chdir(checkout)
        os.environ.pop("METON_FINETUNE_HOME", None)
        for attached in (False, True):
            with imported(checkout) as module:
                if attached:
                    attach.attach(module, checkout, PLUGIN)
                cli = module.MetonCLI()
                cli.console.quiet = True
                cli.initialize()
                each = []
                for number in range(rounds):
                    began = time.perf_counter()
                    cli.process_query(f"question {number}")
                    each.append(time.perf_counter() - began)
                took.append(1000 * statistics.median(each))
        os.chdir(ROOT)
    return took[0], took[1]


def main() -> None:
    alone, beside = turns()
    print(f"turn: {alone:.2f} ms without, {beside:.2f} ms with: {beside - alone:.2f} ms added")
    if len(sys.argv) > 1:
        without, with_it = starts(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
        added = statistics.median(with_it) - statistics.median(without)
        print(f"start: {statistics.median(without):.2f} s without, {statistics.median(with_it):.2f} s with: "
              f"{1000 * added:.0f} ms added (medians of {len(without)})")  # fmt: skip


if __name__ == "__main__":
    main()
