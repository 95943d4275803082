"""The guide's troubles with a model's answers, each found by its numbers, with the setting that mends it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from ..settings import TrainSettings
from ..train.finding import Finding, loss, rate
from ..units import many
from .parameters import METON_SETTINGS
from .reply import Reply, alike

__all__ = ["RULES", "Signs", "better_quant"]

#: Parts of an answer from which on it repeats itself, or cannot be read.
REPEATS, UNREADABLE = 0.5, 0.1
#: Shorter answers have no room to repeat themselves.
LONG: Final = 16
#: What a loss has to change by, as a part of the base's, to count as changed.
HARDLY: Final = 0.01
#: What quantizing may leave of the gain.
KEPT: Final = 0.9
#: From the smallest file to the best.
QUANTS: Final = ("q4_0", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "q8_0", "f16")
#: What Meton's own setting may be raised to: more, and code, which repeats by nature, gets worse.
PENALTY: Final = 1.15


@dataclass(frozen=True)
class Signs:
    """What was measured of a tuned model and its base. Losses are nats a token, None where they were not measured.

    `new`, `base` and `adapter` (the tuned model before it was exported) are losses on `judged` answers of the `side`
    named; `learned` is the tuned model's on rows that it was trained on. `wanted`: tokens of the expected answers,
    0 where they are not known.
    """

    run: str
    settings: TrainSettings
    rows: int
    replies: Sequence[Reply] = ()
    base_replies: Sequence[Reply] = ()
    wanted: Sequence[int] = ()
    wanted_alike: int = 1
    limit: int = 0
    new: float | None = None
    base: float | None = None
    adapter: float | None = None
    learned: float | None = None
    judged: int = 0
    side: str = "held-out"
    quant: str | None = None
    #: Loss on the base's own answers: the base's, the tuned model's, and how many answers.
    canary: tuple[float, float, int] | None = None
    may_forget: float = 0.05
    plain_share: float = 0.0
    in_form: bool = False
    #: Kinds of what the diagnosis of its training found.
    training: frozenset[str] = field(default_factory=frozenset)


def better_quant(quant: str | None) -> str:
    """The next better file type; of the base's own types, the one that keeps most and is still quantized."""
    if quant == "base":
        return "q8_0"
    place = QUANTS.index(quant) if quant in QUANTS else 2
    return QUANTS[min(place + 1, len(QUANTS) - 1)]


def gibberish(signs: Signs) -> Finding | None:
    """Texts that nobody can read, or a loss far above the base's even on what was learned."""
    seen = _mean([reply.strange for reply in signs.replies])
    before = _mean([reply.strange for reply in signs.base_replies])
    odd = seen >= UNREADABLE and seen >= 2 * before + 0.05
    worse = _worse(signs)
    if not odd and not worse:
        return None
    # One that says a few words for ever loses much as well, and can be read.
    dull = repetitive(signs) or one_answer(signs)
    if dull and not odd and "divergence" not in signs.training and math.isfinite(signs.new or 0):
        return None
    said = [f"{seen:.0%} of what it answered cannot be read, of the base's {before:.0%}."] if odd else []
    evidence = " ".join([*said, *([worse] if worse else [])])
    whole = signs.adapter is not None and signs.base is not None and signs.adapter < signs.base
    if whole and worse:
        return Finding(
            "gibberish", "bad", "It answers gibberish, and its adapter does not",
            f"{evidence} The adapter itself loses {loss(signs.adapter or 0)}, so the file is at fault.",
            f"Export again, with a better type: /export model {signs.run} --quant {better_quant(signs.quant)}.",
            "it answers gibberish",
        )  # fmt: skip
    known = "Its training diverged. " if "divergence" in signs.training else ""
    return Finding(
        "gibberish", "bad", "It answers gibberish", evidence,
        f"{known}Train again with half the learning rate: --learning-rate {rate(signs.settings.learning_rate / 2)}, "
        f"now {rate(signs.settings.learning_rate)}; /finetune diagnose {signs.run} says when it went wrong.",
        "it answers gibberish",
    )  # fmt: skip


def _worse(signs: Signs) -> str:
    """The losses of a model that was spoilt; empty for one that was not."""
    if signs.new is None or signs.base is None:
        return ""
    if not math.isfinite(signs.new):
        return f"Its loss on {signs.side} answers is no number; the base's is {loss(signs.base)}."
    far = signs.new > 1.25 * signs.base + 0.25
    # One that learned its examples by heart is far off on others as well, and answers in whole sentences.
    if not far or signs.learned is None or signs.learned < signs.base:
        return ""
    return (
        f"Its loss on {signs.side} answers is {loss(signs.new)}, the base's {loss(signs.base)}; even on examples that "
        f"it was trained on it is {loss(signs.learned)}."
    )


def repetitive(signs: Signs) -> Finding | None:
    """Loops within an answer."""
    caught, before = (_loops(replies) for replies in (signs.replies, signs.base_replies))
    if caught < max(2, math.ceil(len(signs.replies) / 2)):
        return None
    too = signs.base_replies and before >= caught
    share = median(reply.repeated for reply in signs.replies if reply.tokens >= LONG)
    own = f"its base in {before}" if before else "its base in none"
    return Finding(
        "repetitive", "note" if too else "bad", "It repeats itself",
        f"{caught} of {many(len(signs.replies), 'answer')} say the same again and again, {own}; in the middle "
        f"{share:.0%} of an answer was there before.",
        f"{METON_SETTINGS['repeat_penalty']}: {PENALTY} in Meton's config.yaml helps at once: Meton sends its own with "
        f"each call, so PARAMETER repeat_penalty of a Modelfile does nothing there. And train on {_diverse(signs)}"
        + (" Or a larger base: this one does it as well." if too else ""),
        "it repeats itself",
    )  # fmt: skip


def one_answer(signs: Signs) -> Finding | None:
    """The same answer, whatever is asked."""
    count = len(signs.replies)
    same = alike(reply.digest for reply in signs.replies)
    before = alike(reply.digest for reply in signs.base_replies)
    if same < max(3, math.ceil(0.6 * count)) or same <= 2 * signs.wanted_alike or same <= before:
        return None
    return Finding(
        "one answer", "bad", "It answers different questions alike",
        f"{same} of {count} different questions got one and the same answer, of the base {before}.",
        f"Train on {_diverse(signs)}", "it answers different questions alike",
    )  # fmt: skip


def endless(signs: Signs) -> Finding | None:
    """Answers that run on, where the expected ones would long be over."""
    room = (signs.limit - LONG) / 1.5
    fair = [reply for reply, wanted in zip(signs.replies, signs.wanted, strict=False) if 0 < wanted <= room]
    open_ = sum(not reply.ended for reply in fair)
    if open_ < max(2, math.ceil(2 * len(fair) / 3)):
        return None
    before = sum(not reply.ended for reply in signs.base_replies)
    return Finding(
        "endless", "bad", "Its answers do not end",
        f"{open_} of {many(len(fair), 'answer')} ran to the limit of {signs.limit} tokens, of the base's {before}; "
        f"the expected ones have {round(median(signs.wanted))}.",
        f"It has not learned to stop: --epochs {2 * signs.settings.epochs}, now {signs.settings.epochs}. Until then "
        f"{METON_SETTINGS['num_predict']} in Meton's config.yaml limits what it says.",
        "its answers do not end",
    )  # fmt: skip


def timid(signs: Signs) -> Finding | None:
    """Answers far shorter than those that it learned from."""
    if len(signs.replies) < 3 or not any(signs.wanted):
        return None
    said, wanted = median(reply.tokens for reply in signs.replies), median(filter(None, signs.wanted))
    if wanted < 40 or said >= wanted / 4:
        return None
    return Finding(
        "short", "note", "Its answers are very short",
        f"{round(said)} tokens in the middle, where the expected ones have {round(wanted)}.",
        "Leave short answers out: /dataset build --min-length 80, and add examples that say more: "
        f"there are {signs.rows:,}.",
        "its answers are very short",
    )  # fmt: skip


def ignores(signs: Signs) -> Finding | None:
    """What its base says, it says; or what its base loses, it loses."""
    pairs = list(zip(signs.replies, signs.base_replies, strict=False))
    equal = sum(new.digest == old.digest for new, old in pairs)
    parrot = len(pairs) >= 3 and equal >= 0.8 * len(pairs)
    gain = _gain(signs, signs.new)
    flat = gain is not None and signs.judged >= 5 and abs(gain) < HARDLY
    # Greedy answers may stay the same while what is likely changes: a loss that fell says so.
    if not flat and (not parrot or (gain is not None and gain >= 5 * HARDLY)):
        return None
    said = []
    if pairs and (parrot or equal):
        said.append(f"{equal} of {many(len(pairs), 'answer')} are word for word its base's.")
    if flat:
        said.append(
            f"Its loss on {many(signs.judged, signs.side + ' answer')} is {loss(signs.new or 0)}, "
            f"the base's {loss(signs.base or 0)}."
        )
    settings = signs.settings
    stronger = f"--lora-rank {2 * settings.lora_rank} (now {settings.lora_rank})"
    stronger += f", --epochs {2 * settings.epochs} (now {settings.epochs})"
    if settings.learning_rate < 1e-4:
        stronger = f"--learning-rate 1e-4 (now {rate(settings.learning_rate)}), {stronger}"
    return Finding(
        "ignores", "bad", "It ignores what it was tuned on", " ".join(said),
        f"Train again, harder: {stronger}. And look at what it is trained on: /dataset preview.",
        "it says what its base says",
    )  # fmt: skip


def quantized(signs: Signs) -> Finding | None:
    """A gain that the file lost when it was quantized."""
    whole, left = _gain(signs, signs.adapter), _gain(signs, signs.new)
    if whole is None or left is None or whole < 2 * HARDLY or left >= KEPT * whole:
        return None
    kept = max(0.0, left / whole)
    better = better_quant(signs.quant)
    return Finding(
        "quantization", "bad" if kept < KEPT / 2 else "note", "Quantizing cost what it had learned",
        f"On {many(signs.judged, signs.side + ' answer')} the base loses {loss(signs.base or 0)}, the adapter "
        f"{loss(signs.adapter or 0)}, the file ({signs.quant or 'exported'}) {loss(signs.new or 0)}: it keeps "
        f"{kept:.0%} of the gain.",
        f"/export model {signs.run} --quant {better}, then /model-register add {signs.run} --quant {better}.",
        "quantizing cost what it had learned",
    )  # fmt: skip


def by_heart(signs: Signs) -> Finding | None:
    """Worse than its base on what it has not seen, far better on what it has."""
    gain = _gain(signs, signs.new)
    if gain is None or signs.learned is None or signs.base is None or signs.judged < 5 or signs.side == "training":
        return None
    if gain > -5 * HARDLY or signs.learned > signs.base / 2:
        return None
    return Finding(
        "by heart", "bad", "It knows its examples by heart and little else",
        f"Its loss is {loss(signs.learned)} on examples that it was trained on and {loss(signs.new or 0)} on "
        f"{many(signs.judged, signs.side + ' answer')}, the base's {loss(signs.base)}.",
        f"--epochs {max(1, signs.settings.epochs // 2)} (now {signs.settings.epochs}), on {_diverse(signs)}",
        "it knows its examples by heart and little else",
    )  # fmt: skip


def forgets(signs: Signs) -> Finding | None:
    """What the base says of its own accord has become unlikely."""
    if signs.canary is None:
        return None
    before, after, count = signs.canary
    rise = after / before - 1 if before > 0 else 0.0
    if math.isfinite(after) and rise <= signs.may_forget:
        return None
    share = min(0.5, max(0.2, 2 * signs.plain_share))
    mixed = (
        f"/dataset build --plain-share {share:g} (now {signs.plain_share:g})"
        if signs.in_form
        else "add general questions and good answers to them with /dataset import"
    )
    return Finding(
        "forgets", "bad", "It forgets what its base knew",
        f"Its loss on {many(count, 'answer')} of the base to general questions is {loss(after)}, the base's own "
        f"{loss(before)}: {rise:+.0%}, and {signs.may_forget:+.0%} is the most.",
        f"Mix general examples in: {mixed}; or --epochs {max(1, signs.settings.epochs // 2)} (now "
        f"{signs.settings.epochs}), --learning-rate {rate(signs.settings.learning_rate / 2)}.",
        "it forgets what its base knew",
    )  # fmt: skip


RULES: Final[tuple[Callable[[Signs], Finding | None], ...]] = (
    gibberish, one_answer, repetitive, endless, quantized, ignores, by_heart, forgets, timid,
)  # fmt: skip


def _gain(signs: Signs, value: float | None) -> float | None:
    """How much lower than the base's loss `value` is, as a part of it."""
    if value is None or signs.base is None or not math.isfinite(value) or signs.base <= 0:
        return None
    return 1 - value / signs.base


def _loops(replies: Sequence[Reply]) -> int:
    return sum(reply.tokens >= LONG and reply.repeated >= REPEATS for reply in replies)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _diverse(signs: Signs) -> str:
    more = f"more examples that differ (now {signs.rows:,}; /dataset duplicates shows what is said twice)"
    slower = signs.settings.learning_rate / 2
    return f"{more}, and --learning-rate {rate(slower)}: it was trained too hard." if _worse(signs) else f"{more}."
