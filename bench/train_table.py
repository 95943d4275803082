"""What the training bench measured, as a table: bench/train.md from bench/results/train.json.

python bench/train_table.py [FOLDER OF train.json]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import record
from train_goals import judged

from meton_plugins.finetune.engine.compute import BF16_FLAGS

HERE: Final = Path(__file__).resolve().parent
SUBJECT: Final = "train"
#: Sides of a case and how they are called.
SIDES: Final = {
    "ours": "ours",
    "ours_low": "ours, low memory",
    "ours_bf16": "ours in bf16",
    "torch_fp32": "PyTorch fp32",
    "torch_bf16": "PyTorch bf16",
}
#: Drawn by bench/train_plots.py.
PLOTS: Final = {
    "context": "with the context, every token trained, Q4_K_M",
    "rank": "with the adapter's rank, context 512, Q4_K_M",
    "parameters": "with the parameters, context 1024, Q4_K_M (the largest with a vocabulary of 152k)",
}

Values = dict[str, Any]


def document(found: Values, plots: str = "results/") -> str:
    """The page; `plots`: the folder of the plots, as the page names it."""
    machine, cases = found["machine"], found["cases"]
    flags = " ".join(machine["flags"]) or "no vector flags"
    commits = sorted({case["commit"] for case in cases})
    versions = sorted({case["torch_fp32"]["how"] for case in cases if case["torch_fp32"]})
    lines = [
        "# Training against PyTorch + PEFT, measured",
        "",
        f"`make bench-train`, on {machine['cores']} cores of {machine['cpu']} ({flags}), {machine['memory_gb']} GB, "
        f"Python {machine['python']}{', ' + ', '.join(versions) if versions else ''}. "
        f"Code of commit {', '.join(commits) or 'none'}.",
        "",
        "## The goals",
        "",
        *goals(cases),
        "",
        *bf16(machine, cases),
        "## All cases",
        "",
        *(line for case in cases for line in one(case)),
        "## How it grows",
        "",
        *(line for name, words in PLOTS.items() for line in (f"![{words}]({plots}train-{name}.svg)", "")),
        *METHOD,
    ]
    return "\n".join(lines).rstrip() + "\n"


#: How the numbers came about.
METHOD: Final = (
    "## How it is measured",
    "",
    "Both sides train the same shape with random weights: ours from a GGUF, PyTorch from the same sizes in "
    "transformers, its attention by `sdpa`. LoRA of rank 16 and alpha 32 on all seven projections unless said "
    "otherwise, AdamW, gradients clipped at 1, the loss over the learned tokens alone; the same rows, and the same "
    "number of threads. Full rows are as long as the context and every token is learned. Chats are of real lengths "
    "(30 to 511 tokens, log-normal, 187 in the mean), the second half of each is learned; with a batch above 1 PyTorch "
    "pads each batch to its longest row. In fp32 both sides compute in F32; in bf16 PyTorch's model and adapter are "
    "bf16, and ours multiplies the frozen weights in bf16, with sums, adapter and all else in F32. Every run is a "
    "process of its own; ours and PyTorch take turns. The warm-up, "
    "which is the first step once more (of rows above 512 tokens, the last 256 of these), is not counted.",
    "",
    "Speed is the median of the runs, in tokens that the model reads (without padding) and in those that it learns; "
    "the spread is between the slowest and the fastest. Memory is the most that the process held (VmHWM), from its "
    "start to its end; in brackets, what interpreter and libraries took of it before there was a model. PyTorch's "
    "usual build loads libraries for a GPU, which a build for CPUs would not: what these took is not counted. `cores` "
    "is how many were at work on average: much below the number of threads, other programs took the machine.",
)


def goals(cases: list[Values]) -> list[str]:
    """Each goal beside what was measured."""
    rows = judged(cases)
    met = sum(row.verdict == "met" for row in rows)
    lines = [
        f"Met in {met} of {len(rows)} places.",
        "",
        "| goal | case | speed, ours / PyTorch | goal | memory, ours / PyTorch | goal | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        speed = "" if row.speed is None else f"**{row.speed:.2f}**"
        memory = "" if row.memory is None else f"**{row.memory:.2f}**"
        lines.append(
            f"| {row.goal.words} | {row.case} | {speed} | ≥ {row.goal.speed:.2f} | {memory} | ≤ {row.goal.memory:.2f} "
            f"| {row.verdict} |"
        )
    return lines


def bf16(machine: Values, cases: list[Values]) -> list[str]:
    """Why bf16 is missing, where it is."""
    if not cases or any(case["torch_bf16"] for case in cases) or BF16_FLAGS & set(machine["flags"]):
        return []
    return ["bf16 was not measured: this CPU has neither avx512_bf16 nor amx_bf16.", ""]


def one(case: Values) -> list[str]:
    """A case with all its sides."""
    kind = f"rows of {case['ctx']} tokens" if case["rows"] == "full" else "chats"
    facts = [f"{case['params_m']} M", case["base"].upper(), f"vocabulary {case['vocab']:,}", kind]
    if case["batch"] > 1:
        facts.append(f"{case['batch']} a step")
    if case["rank"] != 16:
        facts.append(f"rank {case['rank']}")
    lines = [
        f"### {case['name']}: {', '.join(facts)}",
        "",
        "| | tokens/s | learned tokens/s | spread | CPU s a step | cores | peak MB (libraries) | ours is × as fast "
        "| in × the memory |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for side, words in SIDES.items():
        if figures := case[side]:
            speed, memory = ratio(case, side)
            told = f"{words} ({figures['how']})" if side.startswith("ours") else words
            lines.append(
                f"| {told} | {figures['tokens_per_s']:.1f} | {figures['useful_tokens_per_s']:.1f} "
                f"| {figures['spread']:.0%} | {figures['cpu_s_per_step']:.2f} | {figures['cores']:.1f} "
                f"| {figures['peak_rss_mb']:.0f} ({figures['libraries_mb']:.0f}) | {speed} | {memory} |"
            )
    if case["planned_mb"]:
        lines += ["", f"Foreseen by the planner: {case['planned_mb']:.0f} MB."]
    return [*lines, ""]


def ratio(case: Values, side: str) -> tuple[str, str]:
    """Of ours to PyTorch's in the same numbers, beside PyTorch's; of ours with little memory, beside that."""
    name = {"torch_fp32": "fp32", "torch_bf16": "bf16", "ours_low": "fp32_low"}.get(side)
    if name is None or case[f"ratio_speed_{name}"] is None:
        return "", ""
    return f"**{case[f'ratio_speed_{name}']:.2f}**", f"**{case[f'ratio_memory_{name}']:.2f}**"


def write(folder: Path = record.RESULTS, python: str | None = None) -> Path:
    """The table of `folder`'s train.json, beside the benches (else in that folder), and by `python` the plots."""
    found = record.get(SUBJECT, folder)
    if folder == record.RESULTS:
        page, text = HERE / "train.md", document(found)
    else:
        page, text = folder / "train.md", document(found, plots="")
    page.write_text(text, encoding="utf-8")
    if python:
        subprocess.run([python, str(HERE / "train_plots.py"), str(folder)], check=True)
    return page


def main() -> None:
    """Write the table anew."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else record.RESULTS
    print(write(folder))


if __name__ == "__main__":
    main()
