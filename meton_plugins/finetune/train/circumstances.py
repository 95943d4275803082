"""What lies round the curves: memory, rows that were left out, too few of them, speed, warm-up, clipping, kills."""

from __future__ import annotations

import re
from collections import Counter
from statistics import median
from typing import Final, Literal

from ..engine.jobs import threads
from ..units import many
from .finding import Finding, rate, rounded
from .signals import Side, Signals

__all__ = ["RULES"]

#: Examples under which a LoRA learns them by heart and little else.
EXAMPLES: Final = 50
#: Validation rows under which the loss there is a matter of chance.
JUDGES: Final = 8
#: Learned tokens a row under which there is hardly an answer in it.
ANSWER: Final = 8
#: Part of the examples that may be left out before it is said, and before it spoils the run.
LEFT_OUT, MOST_LEFT_OUT = 0.1, 0.5
#: Part of the steps in which the rate may rise: in a longer one little time is left at the full rate.
WARMUP: Final = 0.3
USUAL_WARMUP: Final = 0.05
#: A gradient that is a little too long is scaled down and AdamW does not mind; one that is always this many times too
#: long says that the limit, and not the data, decides every step.
CLIPPED_BY: Final = 5.0
CLIPPED_STEPS: Final = 0.9
#: Steps whose numbers are needed for that, and for speed.
FEW: Final = 20
#: Slower than this part of what was foreseen, or of what it was at first, is not only unrest.
SLOW, SLOWED = 0.6, 0.5
#: Shorter trainings, in seconds, cost nobody a night, however slow they are.
WORTH: Final = 600.0
#: So many kills in one run are no accident.
BROKEN: Final = 3

_MEMORY: Final = re.compile(
    r"memory ran out|memory of this machine|out of memory|not enough memory|alloc|was killed|\boom\b", re.IGNORECASE
)
_TOO_LONG: Final = re.compile(r"(\d+) tokens, longer than")


def out_of_memory(signals: Signals) -> Finding | None:
    """The engine was killed, or got no memory."""
    said = [message for message in signals.failures if _MEMORY.search(message)]
    error = signals.state.error or ""
    now = signals.failed and _MEMORY.search(error) is not None
    if not now and not said:
        return None
    often = f" ({many(len(said), 'time')})" if len(said) > 1 else ""
    peak = signals.state.peak_rss_mb
    used = f" It had used {peak:,.0f} MB at most." if peak else ""
    longest = max((side.longest for side in (signals.train, signals.validation) if side), default=0)
    context = signals.record.settings.ctx_size
    shorter = f"--ctx-size {rounded(min(longest or context, context) / 2)}, now {context}"
    words = (error if now else said[-1]).strip().rstrip(".")
    rows = f" (the longest row has {longest} tokens)" if longest else ""
    return Finding(
        "memory", "bad" if now else "note", "Out of memory", f"{words[:1].upper()}{words[1:]}{often}.{used}",
        f"Close other programs and /finetune resume {signals.name}; else start anew with {shorter}{rows}, with a "
        "smaller base, or with one that is quantized. --batch-size hardly matters: rows go through one by one.",
        "its memory ran out",
    )  # fmt: skip


def left_out(signals: Signals) -> Finding | None:
    """Many examples gave no row."""
    side = signals.train
    if side is None or not side.skipped:
        return None
    part = len(side.skipped) / (side.rows + len(side.skipped))
    if part < LEFT_OUT:
        return None
    lengths = sorted(int(found[1]) for reason in side.skipped if (found := _TOO_LONG.search(reason)))
    context = signals.record.settings.ctx_size
    most = f"{len(side.skipped)} of {many(side.rows + len(side.skipped), 'training row')}"
    if 2 * len(lengths) >= len(side.skipped):
        # The last tenth may be of another kind, and every token of the longest row costs memory.
        need = lengths[min(len(lengths) - 1, int(0.9 * len(lengths)))]
        evidence = f"{most} are longer than --ctx-size {context}; they have {lengths[0]} to {lengths[-1]} tokens."
        advice = f"--ctx-size {rounded(need)}, now {context}; or /dataset build with less --context-turns."
    else:
        reason, number = Counter(side.skipped).most_common(1)[0]
        evidence = f"{most} could not be used: {many(number, 'time')} {reason}."
        advice = f"/finetune logs {signals.name} names them; mend them with /dataset edit and build again."
    severity: Literal["bad", "note"] = "bad" if part >= MOST_LEFT_OUT else "note"
    return Finding("left out", severity, "Many examples were left out", evidence, advice, "it saw few of its examples")


def few_examples(signals: Signals) -> Finding | None:
    """There is too little to learn from."""
    rows = _rows(signals, signals.train, "train")
    if not 0 < rows < EXAMPLES:
        return None
    return Finding(
        "few examples", "note", "Too few examples",
        f"{many(rows, 'training row')}; under {EXAMPLES} a model learns them by heart and little else.",
        "Rate more answers (/+ and /dataset rate) or /dataset import more, and /dataset build again.",
        "it had few examples",
    )  # fmt: skip


def unjudged(signals: Signals) -> Finding | None:
    """Nothing, or next to nothing, judges what it learns."""
    rows = _rows(signals, signals.validation, "validation")
    if rows >= JUDGES:
        return None
    evidence = (
        f"Only {many(rows, 'validation row')} judged it; under {JUDGES} that is a matter of chance."
        if rows
        else "There is no validation side: nothing stops it early, and the last adapter is kept, not the best."
    )
    return Finding(
        "no validation", "note", "Nothing judges it" if not rows else "Too little judges it", evidence,
        "A dataset keeps a tenth of the conversations for this, at least 8 where there are enough: rate answers of "
        "more conversations and /dataset build again.",
        "nothing judged it" if not rows else "too little judged it",
    )  # fmt: skip


def short_answers(signals: Signals) -> Finding | None:
    """There is hardly anything to learn in a row."""
    side = signals.train
    if side is None or not side.rows or side.learned >= ANSWER * side.rows:
        return None
    return Finding(
        "short answers", "note", "The answers are very short",
        f"{side.learned / side.rows:.1f} learned tokens a row: {many(side.learned, 'token')} in {side.rows} rows.",
        "Leave such examples out with /dataset build --min-length 40, or fix them to say more (/fix).",
        "its answers are very short",
    )  # fmt: skip


def slow(signals: Signals) -> Finding | None:
    """It is much slower than it could be."""
    speeds = signals.values("tokens_per_s")
    if len(speeds) < FEW or signals.state.trained_seconds < WORTH:
        return None
    speed, quarter = median(speeds), len(speeds) // 4
    first, last = median(speeds[:quarter]), median(speeds[-quarter:])
    plan = signals.record.plan or {}
    foreseen = (plan.get("time") or {}).get("tokens_per_s")
    used, cores = signals.record.threads, threads()
    if foreseen and speed < SLOW * foreseen:
        evidence = f"{speed:,.0f} tokens/s, where the plan foresaw {foreseen:,.0f}."
        more = "Something else was at work on this machine, or its memory was full: look with /finetune doctor"
    elif last < SLOWED * first:
        evidence = f"It fell from {first:,.0f} to {last:,.0f} tokens/s."
        more = "Something else began to work on this machine, or its memory filled up: look with /finetune doctor"
    elif 2 * used <= cores:
        evidence = f"{speed:,.0f} tokens/s with {many(used, 'thread')}; this machine has {many(cores, 'core')}."
        more = f"--threads {cores}, now {used}"
    else:
        return None
    return Finding("slow", "note", "Very slow training", evidence, f"{more}; {_shorter(signals)}.", "it was slow")


def by_the_library(signals: Signals) -> Finding | None:
    """The library's own pass computed it, because ours could not be relied on."""
    compute = signals.record.compute
    if compute is None or compute.own or compute.reason is None:
        return None
    factor = f"about {compute.slowdown:,.0f} times" if compute.slowdown else "many times"
    return Finding(
        "slow pass", "note", "The slower pass computed it",
        f"It went through the library's own pass, which takes {factor} as long, because {compute.reason}.",
        "Train on another base, or on another quantization of this one; /finetune plan --remeasure looks again after "
        "an update of the engine or of this plugin.",
        "the slower pass computed it",
    )  # fmt: skip


def _shorter(signals: Signals) -> str:
    """What makes rows of a run shorter. A --ctx-size above its longest row makes nothing faster: no row is padded."""
    longest = max((side.longest for side in (signals.train, signals.validation) if side), default=0)
    context = signals.record.settings.ctx_size
    if longest and 2 * longest > context:
        return f"--ctx-size {rounded(context / 2)}, now {context}, leaves out the longest rows, and takes their time"
    return "shorter rows make it faster too: /dataset build with less --context-turns, or a smaller base"


def long_warmup(signals: Signals) -> Finding | None:
    """The learning rate rose for most of the steps that were made."""
    settings, total = signals.record.settings, signals.total
    rising = round(total * settings.warmup)
    if not total or not rising:
        return None
    done = signals.steps[-1] if signals.steps else 0
    if rising > WARMUP * total:
        evidence = f"The learning rate rises for {rising} of {many(total, 'step')}."
    elif signals.status == "finished" and done <= rising:
        evidence = f"It ended after {many(done, 'step')}, while the learning rate still rose (for {rising})."
    else:
        return None
    return Finding(
        "long warm-up", "note", "The warm-up is too long", evidence,
        f"--warmup {USUAL_WARMUP}, now {settings.warmup:g}; or more --epochs.", "its warm-up was too long",
    )  # fmt: skip


def clipped(signals: Signals) -> Finding | None:
    """Every gradient is cut down to a small part."""
    limit = signals.record.settings.max_grad_norm
    norms = signals.values("gradient_norm")
    if not limit or len(norms) < FEW:
        return None
    cut, middle = sum(norm > limit for norm in norms) / len(norms), median(norms)
    if cut < CLIPPED_STEPS or middle < CLIPPED_BY * limit:
        return None
    now = signals.record.settings.learning_rate
    return Finding(
        "clipped", "note", "The gradients are nearly always cut",
        f"In {cut:.0%} of the steps the gradient was longer than {limit:g}; it is {middle:.2g} in the middle.",
        f"--max-grad-norm {max(1.0, float(f'{middle:.1g}')):g}, now {limit:g}; where the loss is restless too, "
        f"--learning-rate {rate(now / 2)}, now {rate(now)}.",
        "its gradients were nearly always cut",
    )  # fmt: skip


def interrupted(signals: Signals) -> Finding | None:
    """It was killed again and again."""
    if signals.broken < BROKEN:
        return None
    minutes = signals.record.settings.save_minutes
    again = f", and {many(signals.repeated, 'step')} had to be done again" if signals.repeated else ""
    return Finding(
        "interrupted", "note", "It was interrupted often",
        f"{signals.broken} of {signals.state.attempt} attempts ended without a word{again}.",
        "The result is the same, but time was lost: let the machine stay awake, /finetune pause before you switch it "
        f"off, and save more often: --save-minutes {max(1, minutes / 2):g}, now {minutes:g}.",
        "it was interrupted often",
    )  # fmt: skip


def _rows(signals: Signals, side: Side | None, name: str) -> int:
    """Rows of a side; before the worker has counted them, what the dataset has."""
    return side.rows if side is not None else signals.record.examples.get(name, 0)


RULES: Final = (
    out_of_memory, left_out, few_examples, unjudged, short_answers, by_the_library, slow, long_warmup, clipped,
    interrupted,
)  # fmt: skip
