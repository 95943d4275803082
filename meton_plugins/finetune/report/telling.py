"""What happened in a run, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..units import many, short

__all__ = ["clock", "told"]

#: What every event has beside its facts.
HIDDEN: Final = ("event", "at", "attempt", "skipped")
#: Where an event says in its own words what happened.
WORDS: Final = ("message", "text", "note", "reason", "why")


def told(event: Mapping[str, Any]) -> str:
    """What `event` says, without its time and its kind; one that this version does not know says its facts."""
    try:
        words = _known(event)
    except (KeyError, TypeError, ValueError):  # an older or a newer version's event, with other facts
        words = None
    return _facts(event) if words is None else words


def clock(event: Mapping[str, Any]) -> str:
    """The time of day of an event, UTC: `15:53:35`."""
    return str(event.get("at", ""))[11:19]


def _known(event: Mapping[str, Any]) -> str | None:
    match event["event"]:
        case "step":
            return (
                f"{event['step']}/{event['steps']}  epoch {event['epoch']}/{event['epochs']}  "
                f"loss {event['loss']:.3f}  gradient {event['gradient_norm']:.3g}  rate {event['learning_rate']:.2g}  "
                f"{event['tokens_per_s']:.0f} tokens/s"
            )
        case "rows":
            out = len(event.get("skipped", ()))
            skipped = f"; {many(out, 'example')} left out" if out else ""
            tokens = f", {many(event['tokens'], 'token')}, {event['learned']:,} of them learned"
            longest = f", the longest row {event['longest']:,}" if event["rows"] else ""
            side = "to train on" if event["side"] == "train" else "to validate with"
            return f"{many(event['rows'], 'row')} {side}{tokens}{longest}{skipped}"
        case "begin":
            return f"{many(event['steps'], 'step')} in {many(event['epochs'], 'epoch')}"
        case "validation":
            form = f", the form's {event['form_loss']:.3f}" if event.get("form_loss") is not None else ""
            if event["step"] == 0:
                return f"loss {event['loss']:.3f} before training{form}"
            best = ", the best so far" if event.get("best") else ""
            return f"loss {event['loss']:.3f} after step {event['step']} (epoch {event['epoch']}){best}{form}"
        case "checkpoint":
            return f"saved at step {event['step']}"
        case "resumed":
            return f"goes on from step {event['step']}"
        case "paused":
            return f"at step {event['step']}, saved{_why(event)}"
        case "finished" | "stopped":
            best = ""
            if event.get("best_loss") is not None:
                best = f", best validation loss {event['best_loss']:.3f} at step {event['best_step']}"
            memory = f", {event['peak_rss_mb']:.0f} MB at most" if event.get("peak_rss_mb") else ""
            return f"at step {event['step']}{best}{memory}"
        case "early" | "failed" | "note" | "restarted":
            return _own_words(event)
    return None


def _own_words(event: Mapping[str, Any]) -> str | None:
    return next((" ".join(str(event[name]).split()) for name in WORDS if event.get(name)), None)


def _why(event: Mapping[str, Any]) -> str:
    words = _own_words(event)
    return f": {words}" if words else ""


def _facts(event: Mapping[str, Any]) -> str:
    facts = {name: value for name, value in event.items() if name not in HIDDEN and value is not None}
    return "  ".join(f"{name} {short(value)}" for name, value in facts.items())
