"""`make demo`: the whole promise on a tiny base, through the commands that a user types."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import mainline
import private_ollama
import tiny_base
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meton_plugins.finetune.curate.rows import PLAIN
from meton_plugins.finetune.engine.jobs import evaluate
from meton_plugins.finetune.form import parse, prompt
from meton_plugins.finetune.serve.templates import load_template

ROOT: Final = Path(__file__).resolve().parent.parent
SAMPLES: Final = ROOT / "examples" / "conversations"
WORK: Final = ROOT / "build" / "demo"
#: Few examples and many epochs: the tiny base is to learn our samples by heart, so the last adapter is exported and
#: not the one that was best on answers it never saw. One thread: on so small a model more wait for one another, and on
#: a busy machine they wait long.
TRAIN: Final = "--threads 1 --epochs 40 --learning-rate 3e-3 --lora-rank 32 --lora-alpha 64 --ctx-size 512 --patience 0"
BASE_NAME: Final = "tiny-base:latest"
CONFIG: Final = f"""\
# A Meton config.yaml in small. The demo swaps the primary slot and gives it back.
models:
  primary: {BASE_NAME}   # answers everything
  fallback: {BASE_NAME}
  settings:
    temperature: 0.0
"""


class Demo:
    """One demonstration in `WORK`. `seconds` grows with each step."""

    def __init__(self) -> None:
        self.screen = Console(highlight=False)
        self.seconds: dict[str, float] = {}
        self.environment = {**os.environ, "METON_FINETUNE_HOME": str(WORK / "home"), "COLUMNS": "100"}
        self.environment.pop("OLLAMA_HOST", None)

    @contextlib.contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """A named stage, timed."""
        self.screen.print(Text(f"\n{text}", style="bold"))
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)

    def type(self, line: str, lines: str | None = None) -> None:
        """Run a command as a user would, its output on the screen; `lines` are typed into the REPL."""
        typed = "".join(f"\nfinetune> {one}" for one in (lines or "").splitlines())
        shown = f"$ meton-finetune {line}".replace(str(ROOT), ".").rstrip() + typed
        self.screen.print(Text(shown, style="cyan"), soft_wrap=True)
        command = [sys.executable, "-m", "meton_plugins.finetune", *shlex.split(line)]
        sys.stdout.flush()
        done = subprocess.run(command, env=self.environment, cwd=WORK, input=lines, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"demo: the command ended with code {done.returncode}: {line}")

    def ask_json(self, line: str) -> Any:
        """Run a command for its JSON."""
        command = [sys.executable, "-m", "meton_plugins.finetune", "--json", *shlex.split(line)]
        done = subprocess.run(command, env=self.environment, cwd=WORK, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"demo: {line}: {done.stdout.strip()}")
        return json.loads(done.stdout)


def collect(demo: Demo) -> None:
    """Harvest the samples, rate them in the REPL, freeze a dataset."""
    with demo.step("data", "1  Conversations become a library, ratings decide, a dataset is frozen"):
        demo.type(f"dataset harvest --conversations-dir {shlex.quote(str(SAMPLES))}")
        examples = demo.ask_json("dataset list --limit 200")
        _, bad, fixed, *others = examples
        better = f"{fixed['answer']} Ask Mira if in doubt."
        demo.type("", f"/+\n/dataset rate bad {bad['id']}\n/fix {fixed['id']} {better}\n/dataset stats\n")
        demo.ask_json("dataset rate 5 " + " ".join(example["id"] for example in others))
        demo.type(f"dataset build --name demo --base {WORK / 'base.gguf'} --context-turns 0")


def questions(demo: Demo) -> list[dict[str, str]]:
    """Three of the questions that were trained on, each with the answer that was taught."""
    folder = next((WORK / "home" / "datasets").glob("*/manifest.json")).parent
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    first: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["id"].endswith(PLAIN):
            continue  # the same answer once more, without the form
        taught = parse(row["messages"][-1]["content"])
        question = demo.ask_json(f"dataset show {row['id']}")["question"]
        first.setdefault(row["session"], {"question": question, "expected": taught.answer if taught else ""})
    return list(first.values())[:3]


def said(text: str) -> str:
    """The ANSWER part of a reply, or the reply itself where it does not keep the form."""
    step = parse(text)
    return (step.answer if step and step.answer else text).strip()


def compare(demo: Demo, tuned: Path) -> list[dict[str, str]]:
    """Ask base and tuned model in mainline llama.cpp."""
    asked = questions(demo)
    system = {"role": "system", "content": load_template("basic").system or ""}
    chats = [[system, {"role": "user", "content": prompt(one["question"])}] for one in asked]
    for side, model in (("base", WORK / "base.gguf"), ("tuned", tuned)):
        for one, answer in zip(asked, mainline.answers(model, chats), strict=True):
            one[side] = said(answer)
    return asked


def swap(demo: Demo, tuned: Path, asked: list[dict[str, str]]) -> dict[str, Any]:
    """Register with a real Ollama, swap the slot of a config.yaml, ask through the server, roll back."""
    result: dict[str, Any] = {"ollama": None, "registered": None, "swapped": False, "rolled_back": False}
    try:
        program = private_ollama.executable()
    except private_ollama.Unavailable as error:
        demo.screen.print(Text(f"No Ollama at hand, so nothing is registered. {error}", style="yellow"))
        demo.screen.print(
            Text(f"Later, with your own server: meton-finetune model-register add {tuned}", style="yellow")
        )
        return result
    import ollama

    config = WORK / "config.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    with private_ollama.private_server(WORK / "ollama", program=program) as server:
        demo.environment["OLLAMA_HOST"] = server.url
        client = ollama.Client(server.url)
        digest = client.create_blob(str(WORK / "base.gguf"))
        client.create(model=BASE_NAME, files={"base.gguf": digest})
        result["ollama"] = next(row["found"] for row in demo.ask_json("finetune doctor") if row["what"] == "Ollama")
        demo.type("model-register add demo --name demo")
        tag = demo.ask_json("model-register list")[-1]["model"]
        result["registered"] = tag
        demo.type(f"--config config.yaml model-register promote {tag} --slot primary --force --yes")
        result["swapped"] = f"primary: {tag}" in config.read_text(encoding="utf-8")
        for one in asked:
            reply = client.generate(tag, prompt(one["question"]), options={"temperature": 0, "num_predict": 120})
            one["through_ollama"] = said(reply.response)
        demo.type("--config config.yaml model-register rollback --slot primary")
        result["rolled_back"] = config.read_text(encoding="utf-8") == CONFIG
    return result


def show(screen: Console, summary: dict[str, Any]) -> None:
    """The closing table, and the answers side by side."""
    table = Table(show_header=False, box=None, pad_edge=False)
    facts = {
        "validation loss": f"{summary['loss_base']:.3f} → {summary['loss_tuned']:.3f} nats a token",
        "training": f"{summary['tokens_per_s']:.0f} tokens/s, {summary['peak_rss_mb']:.0f} MB of memory at most",
        "file sizes": f"base {(WORK / 'base.gguf').stat().st_size / 2**20:.1f} MB, "
        f"tuned {summary['gguf_bytes'] / 2**20:.1f} MB",
        "slot": "swapped and rolled back" if summary["rolled_back"] else "not swapped (no Ollama)",
        "took": f"{sum(summary['seconds'].values()):.0f} s",
    }
    for label, text in facts.items():
        table.add_row(Text(label, style="dim"), Text(text))
    screen.print()
    screen.print(table)
    for one in summary["answers"]:
        readable = "".join(c for c in " ".join(one["base"].split()) if c.isprintable())
        screen.print(Text(f"\n{one['question']}", style="bold"))
        screen.print(Text(f"  base   {readable[:80]}", style="red"), no_wrap=True, overflow="ellipsis")
        screen.print(Text(f"  tuned  {one['tuned']}", style="green"), soft_wrap=True)


def picture(summary: dict[str, Any], path: Path) -> None:
    """The closing table as an SVG, without the web fonts that rich would have a browser fetch."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=100, file=nowhere, force_terminal=True, highlight=False)
        console.print(Text("$ make demo", style="cyan"))
        show(console, summary)
        drawn = console.export_svg(title="meton-finetune")
    path.write_text(re.sub(r"@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    """Run the demo from nothing; the same result every time."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    demo = Demo()
    with demo.step("setup", "0  The engine, and a tiny base made on the spot"):
        demo.type("finetune setup")
        tiny_base.make(WORK / "base.gguf", SAMPLES)
    collect(demo)
    with demo.step("train", "2  A LoRA, trained by llama.cpp in a worker of its own"):
        demo.type(f"finetune start --name demo --dataset demo --base {WORK / 'base.gguf'} {TRAIN}")
        demo.type("finetune watch demo")
    with demo.step("export", "3  Merged and quantized"):
        demo.type("export model demo --adapter last --quant q8_0")
    tuned = WORK / "home" / "models" / "demo" / "demo-q8_0.gguf"
    with demo.step("answers", "4  Asked in mainline llama.cpp"):
        asked = compare(demo, tuned)
    with demo.step("serve", "5  Registered, swapped, asked, rolled back"):
        served = swap(demo, tuned, asked)
    run = demo.ask_json("finetune show demo")
    validation = WORK / "home" / "runs" / "demo" / "dataset" / "validation.jsonl"
    summary = {
        "loss_base": run["state"]["base_loss"],
        "loss_tuned": evaluate(tuned, validation, system=run["system"], ctx_size=512),
        "tokens_per_s": run["state"]["tokens_per_s"],
        "peak_rss_mb": run["state"]["peak_rss_mb"],
        "gguf_bytes": tuned.stat().st_size,
        "answers": asked,
        "engine": f"qvac-fabric {run['versions']['engine']} ({run['versions']['backend']})",
        **served,
        "seconds": demo.seconds,
    }
    (WORK / "summary.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    show(demo.screen, summary)
    picture(summary, WORK / "demo.svg")
    wrong = [one["question"] for one in asked if one["tuned"] != one["expected"] or one["base"] == one["expected"]]
    if wrong:
        raise SystemExit(f"demo: the answers are not as taught: {wrong}")


if __name__ == "__main__":
    main()
