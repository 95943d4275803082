"""What the curves say: a loss that does not fall, spikes, divergence, overfitting, a training that was too short.

Steps are noisy, because each has other rows: single ones never count. Epochs and validations have the same rows each
time, so that a small difference between two of them already says something.
"""

from __future__ import annotations

import math
import re
from statistics import median
from typing import Final, Literal

from ..units import many
from .finding import Finding, loss, rate
from .signals import Signals
from .spikes import spikes

__all__ = ["FLAT", "RULES"]

#: Fewer steps than this say nothing of where the loss goes.
FEW: Final = 20
#: A loss that falls by less than this part over whole epochs, or on the validation side, does not fall.
FLAT: Final = 0.01
#: The same for single steps, where noise must be allowed for: so much the loss can at most have fallen.
FLAT_NOISY: Final = 0.03
#: Nats a token below which there is hardly anything left to learn: a flat loss is then no fault.
KNOWN: Final = 0.2
#: A loss that ends so many times as high as it began has diverged, also where it is still a number.
DIVERGED: Final = 1.5
#: Rates below and above which the rate itself is the likely reason; current practice is 1e-5 to 1e-3 for LoRA.
LOW, HIGH, USUAL = 1e-5, 1e-3, 1e-4
#: A gradient that shrank to this part of what it was, while there is much to learn, has vanished: what a much too high
#: rate does in its first steps.
VANISHED: Final = 0.02
STUCK_LOSS: Final = 1.0
#: An epoch's mean loss may lie so far above that of an earlier one, part and nats: the rows are the same.
UP: Final = 0.05
UP_NATS: Final = 0.05
#: How far the validation loss may rise above its best before it is called overfitting: less is the usual unrest.
RISE: Final = 0.05
RISE_NATS: Final = 0.03
#: A validation loss that is so many times the training loss, and so many nats above it, is one of answers by heart.
GAP: Final = 3.0
GAP_NATS: Final = 0.5
#: An epoch that still brought so much on the validation side was not the last one worth it: the rate was small by then.
FALLING: Final = 0.05
FALLING_NATS: Final = 0.05
#: Meton's form is learned where its loss fell by this part, and so many nats.
FORM: Final = 0.25
FORM_NATS: Final = 0.1
#: A LoRA hardly moves in fewer steps; 50 examples, the fewest advised, make 150.
STEPS: Final = 50

_NO_NUMBER: Final = re.compile(r"no longer a number|diverged", re.IGNORECASE)
_AT_STEP: Final = re.compile(r"step (\d+)")


def diverged(signals: Signals) -> Finding | None:
    """The loss is no number, or ends far above where it began."""
    said = signals.state.error or "" if signals.failed else ""
    broken = [step for step, one in zip(signals.steps, signals.losses, strict=True) if not math.isfinite(one)]
    broken += [check.step for check in signals.checks if not math.isfinite(check.loss)]
    finite = [one for one in signals.losses if math.isfinite(one)]
    first, last = signals.level(last=False), signals.level()
    if broken or _NO_NUMBER.search(said):
        found = _AT_STEP.search(said)
        at = f"at step {min(broken)}" if broken else f"at step {found[1]}" if found else "in the end"
        course = f"the loss went from {loss(finite[0])} to {loss(finite[-1])}, and " if len(finite) > 1 else ""
        evidence = f"{course}{at} the loss was no number any more"
    elif first and last and len(finite) >= FEW and last - _unsure(signals, finite) > DIVERGED * first:
        evidence = f"the training loss rose from {loss(first)} to {loss(last)}"
    else:
        return None
    return Finding(
        "divergence", "bad", "The training diverged", f"{evidence[:1].upper()}{evidence[1:]}.",
        f"{_slower(signals, 10)}; what came of this run says gibberish. Look at the data too: /dataset preview.",
        "it diverged",
    )  # fmt: skip


def _unsure(signals: Signals, finite: list[float]) -> float:
    """How much the level at the end may owe to its rows, in nats; nothing where whole epochs are compared."""
    return 0.0 if len(signals.epochs) >= 2 else _noise(finite)


def not_falling(signals: Signals) -> Finding | None:
    """The loss is at the end about what it was."""
    first, last = signals.level(last=False), signals.level()
    if first is None or last is None or len(signals.losses) < FEW or first < KNOWN:
        return None
    if not signals.over and len(signals.losses) < 2 * signals.record.settings.warmup * signals.total:
        return None  # the rate has hardly risen
    if not (_flat_epochs(signals, first, last) if len(signals.epochs) >= 2 else _flat_steps(signals)):
        return None
    evidence = f"The training loss was {loss(first)} and is {loss(last)} after {many(signals.steps[-1], 'step')}"
    if signals.base_loss and signals.judged:
        best = min(check.loss for check in signals.judged)
        evidence += f"; on the validation side {loss(signals.base_loss)} before and {loss(best)} at best"
    now = signals.record.settings.learning_rate
    if now < LOW:
        advice = f"The learning rate is too low: --learning-rate {rate(USUAL)}, now {rate(now)}."
    elif now > HIGH or last > first * (1 + FLAT_NOISY):
        advice = f"The learning rate is too high: {_slower(signals, 10)}."
    else:
        rank = signals.record.settings.lora_rank
        advice = (
            f"Train for longer (--epochs {2 * signals.record.settings.epochs}) or with more room (--lora-rank "
            f"{2 * rank}, now {rank}), and see with /dataset preview whether the answers follow from the questions."
        )
    return Finding("not falling", "bad", "The loss does not fall", f"{evidence}.", advice, "its loss did not fall")


def _flat_epochs(signals: Signals, first: float, last: float) -> bool:
    head = [one for one in signals.losses[: max(10, len(signals.losses) // 50)] if math.isfinite(one)]
    tail = [one for one in signals.losses[-signals.batches :] if math.isfinite(one)]
    # Where all was learned within the first epoch, its mean is as low as that of the next ones.
    if not head or median(head) - median(tail) > 5 * FLAT * median(head) or first - last > FLAT * first:
        return False
    return not _judged_better(signals)


def _flat_steps(signals: Signals) -> bool:
    part = len(signals.losses) // 3
    if part < FEW or not all(map(math.isfinite, signals.losses)):
        return False
    head = median(signals.losses[:part])
    most = head - median(signals.losses[-part:]) + _noise(signals.losses)
    return most < FLAT_NOISY * head and not _judged_better(signals)


def _judged_better(signals: Signals) -> bool:
    base = signals.base_loss
    return bool(base and signals.judged and min(c.loss for c in signals.judged) < base * (1 - FLAT))


def _noise(losses: list[float]) -> float:
    """By how much the medians of the first and the last third may differ though nothing changed: three deviations."""
    part = max(1, len(losses) // 3)
    return 3 * math.hypot(_error(losses[:part]), _error(losses[-part:]))


def _error(some: list[float]) -> float:
    """The standard error of the median, from the median deviation: a few hard rows do not blow it up."""
    middle = median(some)
    return 1.25 * 1.48 * median(abs(one - middle) for one in some) / math.sqrt(len(some))


def stuck(signals: Signals) -> Finding | None:
    """It fell, then stood still with much left to learn, because the gradient vanished."""
    norms, last = signals.values("gradient_norm"), signals.level()
    if last is None or last < STUCK_LOSS or len(norms) < FEW or len(signals.losses) < FEW:
        return None
    first, end = median(norms[:3]), median(norms[-len(norms) // 4 :])
    if not first or end > VANISHED * first:
        return None
    return Finding(
        "stuck", "bad", "The loss stands still, far from learned",
        f"The training loss stays at {loss(last)}, and the gradient shrank from {first:.2g} to {end:.2g}: the adapter "
        "was spoilt within its first steps and says much the same to everything.",
        f"The learning rate is too high: {_slower(signals, 10)}.", "its learning rate was too high",
    )  # fmt: skip


def spiked(signals: Signals) -> Finding | None:
    """The loss fell, then jumped up."""
    found, rise = spikes(signals.losses, signals.batches), _epoch_up(signals)
    if found:
        worst = max(found, key=lambda spike: spike.peak - spike.before)
        often = "" if len(found) == 1 else f", one of {len(found)} such jumps"
        since = "" if worst.lasts else " and has not come back"
        evidence = (
            f"At step {signals.steps[worst.start]} the training loss jumped from {loss(worst.before)} to "
            f"{loss(worst.peak)}{since}{often}."
        )
    elif rise:
        evidence = "In epoch {} the training loss rose to {}, from {} in an earlier one.".format(*rise)
    else:
        return None
    now = signals.record.settings.batch_size
    return Finding(
        "spikes", "bad", "The loss falls, then spikes", evidence,
        f"{_slower(signals, 2)}, or --batch-size {4 * now}, now {now}; look for duplicates too: /dataset duplicates.",
        "its loss spiked",
    )  # fmt: skip


def _epoch_up(signals: Signals) -> tuple[int, str, str] | None:
    """The epoch that lies farthest above the best one before it, and both losses; None where none lies far above."""
    best, worst = math.inf, (UP_NATS, 0, "", "")
    for number, mean in enumerate(signals.epochs, 1):
        over = mean - best * (1 + UP)
        if over > worst[0]:
            worst = (over, number, loss(mean), loss(best))
        best = min(best, mean)
    return worst[1:] if worst[1] else None


def overfitted(signals: Signals) -> Finding | None:
    """The validation loss rises, or lags far behind, while the training loss falls."""
    if not signals.judged or not signals.epochs:
        return None
    best = min(signals.judged, key=lambda check: check.loss)
    after = [check.loss for check in signals.judged if check.step > best.step]
    end = median(after[-3:]) if after else best.loss
    rise, limit = end - best.loss, max(RISE * best.loss, RISE_NATS)
    then = signals.epochs[min(len(signals.epochs), max(1, round(best.epoch))) - 1]
    now, settings = signals.epochs[-1], signals.record.settings
    kept = f"The best adapter, that of step {best.step}, is the one that is kept and exported."
    # One validation alone may be unrest, unless it is far off.
    if rise > limit and (len(after) > 1 or rise > 3 * limit) and now <= then:
        patience = "" if settings.patience else " --patience 2, now 0;"
        epochs = max(1, math.ceil(best.epoch))
        fewer = f" --epochs {epochs}, now {settings.epochs};" if epochs < settings.epochs else ""
        severity: Literal["bad", "note"] = "note" if signals.early else "bad"  # where it was seen in time, all is well
        return Finding(
            "overfitting", severity, "It overfits" + (", and stopped by itself" if signals.early else ""),
            f"Training loss {loss(now)}, validation {loss(end)} after epoch {signals.judged[-1].epoch:.3g}; best "
            f"{loss(best.loss)} after epoch {best.epoch:.3g}.",
            f"{kept} Next time:{fewer}{patience} {_slower(signals, 2)}; more, and more different, examples help most.",
            "it overfits",
        )  # fmt: skip
    # The training loss counts the form too: only what also does can be held against it.
    same = [check.learned for check in signals.judged if check.step > best.step]
    end = median(same[-3:]) if same else best.learned
    if end > GAP * now and end - now > GAP_NATS:
        return Finding(
            "gap", "note", "It learns by heart more than it understands",
            f"Training loss {loss(now)}, validation {loss(end)}: {end / now:.1f} times as high, though not rising.",
            f"More different examples, or less room: --lora-rank {max(4, settings.lora_rank // 2)}, now "
            f"{settings.lora_rank}; {_slower(signals, 2)}.",
            "its answers to new questions are much worse than to known ones",
        )  # fmt: skip
    return None


def form_alone(signals: Signals) -> Finding | None:
    """Meton's form was learned, and nothing of what the answers say."""
    base = next((check for check in signals.checks if check.step == 0), None)
    if base is None or base.form is None or not signals.judged:
        return None
    best = min(signals.judged, key=lambda check: check.loss)
    if best.form is None or not best.loss > base.loss * (1 - FLAT):
        return None
    if base.form - best.form < max(FORM * base.form, FORM_NATS):
        return None
    rank, epochs = signals.record.settings.lora_rank, signals.record.settings.epochs
    return Finding(
        "form alone", "bad", "It learned the form and nothing else",
        f"On validation rows Meton's form went from {loss(base.form)} to {loss(best.form)}, and what the answers say "
        f"from {loss(base.loss)} to {loss(best.loss)}.",
        "See with /dataset preview whether the answers follow from the questions; then --epochs "
        f"{2 * epochs}, now {epochs}, or --lora-rank {2 * rank}, now {rank}, and more examples of the same kind.",
        "it learned the form alone",
    )  # fmt: skip


def too_short(signals: Signals) -> Finding | None:
    """There were too few steps, or the last epoch was still worth it."""
    settings, total = signals.record.settings, signals.total
    if 0 < total < STEPS and signals.batches:
        rows = signals.batches * settings.batch_size
        smaller = settings.batch_size > 1 and rows * settings.epochs >= STEPS
        advice = (
            f"--batch-size 1, now {settings.batch_size}."
            if smaller
            else f"--epochs {math.ceil(STEPS / signals.batches)}, now {settings.epochs}, or more examples."
        )
        evidence = f"{many(total, 'step')} in all; under {STEPS} an adapter hardly moves."
    else:
        fell = _last_epoch(signals)
        if fell is None:
            return None
        before, end = fell
        advice = f"--epochs {2 * settings.epochs}, now {settings.epochs}; it stops by itself when that no longer helps."
        evidence = f"The last epoch still brought the validation loss from {loss(before)} to {loss(end)}."
    return Finding("too short", "note", "The training was too short", evidence, advice, "it could learn more")


def _last_epoch(signals: Signals) -> tuple[float, float] | None:
    """The validation loss before and after the last epoch, where that still fell."""
    if signals.status != "finished" or signals.early or not signals.judged or not signals.batches:
        return None
    end = signals.judged[-1]
    # What the first epoch brought says nothing of a second.
    before = [check.loss for check in signals.judged if check.step <= end.step - signals.batches]
    if not before or before[-1] - end.loss < max(FALLING * before[-1], FALLING_NATS):
        return None
    return before[-1], end.loss


def _slower(signals: Signals, factor: int) -> str:
    now = signals.record.settings.learning_rate
    return f"--learning-rate {rate(now / factor)}, now {rate(now)}"


RULES: Final = (diverged, stuck, not_falling, spiked, form_alone, overfitted, too_short)
