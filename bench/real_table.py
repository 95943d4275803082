"""docs/real-models.md, written from bench/results/real.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs" / "real-models.md"
#: What was set as the goal: the least of a gain that a file keeps, and the most that unrelated text may lose.
KEPT: Final = {"smollm2": 0.95, "qwen0.5b": 0.98, "qwen1.5b": 0.98}
LOST: Final = {"smollm2": 0.02, "qwen0.5b": 0.005, "qwen1.5b": 0.005}
#: Losses in F32 are PEFT's within this.
SAME: Final = 1e-3
HEAD: Final = """\
# Real models, measured

`make prove-real` writes this page from [bench/results/real.json](../bench/results/real.json). It trains pretrained
models as people run them (`python tools/real_models.py` lists where they come from) on chats about an invented company
([examples/company](../examples/company)), beside PyTorch + PEFT on the same GGUF, with the same first adapter, the same
rows in the same order, the same masks, learning rates and optimizer.
"""


def number(value: Any, form: str = ".3f", none: str = "–") -> str:
    """A number that may be missing."""
    return none if value is None else format(value, form)


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    """A Markdown table; all columns but the first two are numbers."""
    marks = ["---", "---", *["---:"] * (len(head) - 2)]
    return [f"| {' | '.join(line)} |" for line in (head, marks, *lines)]


def write(found: dict[str, Any], path: Path = DOCUMENT) -> None:
    """The whole page."""
    path.write_text(document(found), encoding="utf-8")


def document(found: dict[str, Any]) -> str:
    """The page as text."""
    machine, models = found["machine"], found["models"]
    lines = [HEAD, f"Measured on {machine['cores']} cores of {machine['cpu']} with {machine['memory_gb']} GB.", ""]
    lines += ["## Training", ""]
    lines += table(
        ["model", "pass", "tokens/s", "PEFT's best", "peak, MB", "PEFT's", "base loss", "PEFT's", "tuned", "PEFT's"],
        [
            [
                one["name"], f"{one['pass']}, {one['precision']}", number(one["tokens_per_s"], ".0f"),
                number(one["tokens_per_s_peft_best"], ".0f"), number(one["peak_mb"], ",.0f"),
                number(one["peak_mb_peft"], ",.0f"), number(one["base_loss"], ".4f"),
                number(one["base_loss_peft"], ".4f"), number(one["tuned_loss"], ".4f"),
                number(one["tuned_loss_peft"], ".4f"),
            ]
            for one in models
        ],
    )  # fmt: skip
    lines += [
        "",
        "Losses are nats a token on validation rows, of the base and after the short run, both sides in F32. The speed "
        "is that of the settings nobody has to choose, PEFT's the better of fp32 and bf16, measured in turns. Peaks "
        "are those of the training process, PEFT's without what loading took for a moment.",
        "",
        "## Export",
        "",
    ]
    lines += table(
        ["model", "run", "change / step", "type", "MB", "base's", "kept", "unrelated text loses", "the tuning itself"],
        [
            [
                one["name"], file["run"], number(file["change_per_step"], ".3f"), file["quant"],
                number(file["mb"], ".0f"), number(file["base_mb"], ".0f"), number(file["kept"], ".1%"),
                number(file["unrelated_loss_change"], "+.4f"), number(file["unrelated_loss_change_of_tuning"], "+.4f"),
            ]
            for one in models
            for file in one["exports"]
        ],
    )  # fmt: skip
    lines += [
        "",
        "`change / step`: how large the change of the weights is beside the step of the grid that they lie on (root "
        "mean squares). `kept`: the part of the adapter's gain on validation rows that the exported file has. The last "
        "columns are nats a token on text and code that have nothing to do with the chats: what the file loses against "
        "the adapter, and what the adapter loses against the base.",
        "",
        "## Plan and resume",
        "",
    ]
    lines += table(
        ["model", "broken off by", "plan, s", "time: foreseen / taken", "memory: the same", "resumed: same bytes"],
        [
            [
                one["name"], one["more"]["interrupted"], number(one["plan"]["seconds"], ".0f"),
                number(one["plan"]["time_ratio"], ".2f"), number(one["plan"]["memory_ratio"], ".2f"),
                {True: "yes", False: "no", None: "–"}[one["resumed_identical"]],
            ]
            for one in models
        ],
    )  # fmt: skip
    lines += ["", "## Goals that are not met", ""]
    lines += [f"- {line}" for one in models for line in missed(one)] or ["None."]
    return "\n".join(lines) + "\n"


def missed(one: dict[str, Any]) -> list[str]:
    """The goals that the model `one` does not meet, each in one line; what was not measured is named too."""
    name, wrong = one["name"], []

    def want(true: Any, value: Any, text: str) -> None:
        if value is None:
            wrong.append(f"{name}: not measured: {text}")
        elif not true:
            wrong.append(
                f"{name}: {text}, and it is {value if isinstance(value, bool | str) else format(value, '.4g')}"
            )

    want(one["pass"] == "own", one["pass"], "the pass should be our own")
    for what in ("base_loss", "tuned_loss"):
        ours, theirs = one[what], one[f"{what}_peft"]
        apart = None if ours is None or theirs is None else abs(ours - theirs)
        want(apart is not None and apart <= SAME, apart, f"{what} should be PEFT's within {SAME}")
    same = one["resumed_identical"]
    want(same, same, "a resumed run should end with the same bytes")
    plan = one["plan"]
    want(plan["seconds"] is not None and plan["seconds"] <= 20, plan["seconds"], "the plan should answer within 20 s")
    for what, slack in (("time", 0.3), ("memory", 0.15)):
        ratio = plan[f"{what}_ratio"]
        want(ratio is not None and abs(ratio - 1) <= slack, ratio, f"{what} should be foreseen within {slack:.0%}")
    if not one["exports"]:
        want(False, None, "exports")
    for file in one["exports"]:
        if file["quant"] != "base":
            continue
        which = f"the {file['run']} run on the base's own grid"
        want(file["kept"] >= KEPT[name], file["kept"], f"{which} should keep {KEPT[name]:.0%}")
        lost = file["unrelated_loss_change"]
        want(lost <= LOST[name], lost, f"{which} should lose at most {LOST[name]} on unrelated text")
        size = file["mb"] / file["base_mb"]
        want(abs(size - 1) <= 0.01, size, f"{which} should be as large as its base")
    return wrong
