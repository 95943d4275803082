"""Tokens/s and peak memory of the training bench, growing with context, rank and parameters, as SVG.

    PYTHON_WITH_MATPLOTLIB bench/train_plots.py [FOLDER OF train.json]

The driver runs it with PyTorch's Python: matplotlib is nothing that the package needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("svg")
# The same numbers give the same file.
matplotlib.rcParams.update({"svg.hashsalt": "meton", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})

import matplotlib.pyplot as plt  # noqa: E402

RESULTS: Final = Path(__file__).resolve().parent / "results"
SIDES: Final = {
    "ours": ("ours", "#1b7837", "o-"), "ours_bf16": ("ours in bf16", "#7fbf7b", "v-"),
    "torch_fp32": ("PyTorch fp32", "#b2182b", "s--"),
    "torch_bf16": ("PyTorch bf16", "#ef8a62", "^:"),
}  # fmt: skip
#: Names side by side below the panels, and the part of the height that a row of them takes.
ACROSS: Final = 4
LEGEND: Final = 0.06
PANELS: Final = {"tokens_per_s": "tokens/s", "peak_rss_mb": "peak memory, MB"}

Case = dict[str, Any]


def plain(case: Case) -> bool:
    """Whether a case is one of those whose growth is drawn."""
    return bool(case["rows"] == "full" and case["base"] == "q4_k_m" and case["batch"] == 1)


def usual(case: Case) -> bool:
    """Whether vocabulary and rank are those that most cases have."""
    return bool(case["vocab"] < 100_000 and case["rank"] == 16)


#: What is drawn along which axis: the field, its name, the cases, and what makes a line of its own.
PLOTS: Final[dict[str, tuple[str, str, Callable[[Case], bool], Callable[[Case], str]]]] = {
    "context": ("ctx", "context, tokens", usual, lambda case: f"{case['params_m']:.0f} M"),
    "rank": ("rank", "rank", lambda case: bool(case["ctx"] == 512 and case["vocab"] < 100_000),
             lambda case: f"{case['params_m']:.0f} M"),
    "parameters": ("params_m", "parameters, millions",
                   lambda case: bool(case["ctx"] == 1024 and case["rank"] == 16), lambda case: ""),
}  # fmt: skip


def draw(cases: list[Case], name: str, target: Path) -> None:
    """One file with two panels; where a line would have one point, that point."""
    field, label, wanted, line = PLOTS[name]
    picked = sorted((case for case in cases if plain(case) and wanted(case)), key=lambda case: float(case[field]))
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9, 3.8))
    for axis, (figure_name, words) in zip(axes, PANELS.items(), strict=True):
        for which, group in enumerate(dict.fromkeys(line(case) for case in picked)):
            for side, (said, colour, style) in SIDES.items():
                points = [
                    (case[field], case[side][figure_name]) for case in picked if line(case) == group and case[side]
                ]
                if len(points) > 1 or (points and name != "rank"):
                    xs, ys = zip(*points, strict=True)
                    text = f"{said}, {group}" if group else said
                    axis.plot(xs, ys, style, color=colour, alpha=1 - 0.45 * (which % 2), label=text, markersize=4)
        axis.set(xlabel=label, ylabel=words, xscale="log")
        axis.set_xticks(sorted({case[field] for case in picked}))
        axis.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
    lines, named = axes[0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, LEGEND * -(-len(lines) // ACROSS), 1, 1))
    if lines:  # below the panels: within them it would cover the lines
        figure.legend(lines, named, loc="lower center", ncol=ACROSS, fontsize=7, frameon=False)
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Draw all."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else RESULTS
    cases = json.loads((folder / "train.json").read_text(encoding="utf-8"))["cases"]
    for name in PLOTS:
        draw(cases, name, folder / f"train-{name}.svg")


if __name__ == "__main__":
    main()
