"""How a plan is shown: whole for `plan`, in short before `start` asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import duration, many
from ..units import memory as memory_of
from .edge import say

if TYPE_CHECKING:
    from ...host.api import Host
    from ..engine.compute import ComputeConfig
    from ..train.plan import Plan

__all__ = ["computes", "planned", "planned_in_short"]

Lines = list[tuple[str, str, str]]


def planned(host: Host, plan: Plan) -> None:
    """All of `plan`."""
    base = (
        f"{plan.base}  {plan.architecture}  {plan.parameters / 1e6:,.1f} M parameters  "
        f"{', '.join(kind for kind in plan.types if kind != 'F32') or 'F32'}"
    )
    sides = [f"{count:,} {side}" for side, count in plan.examples.items()]
    rows = [f"{count:,} {side}" for side, count in plan.rows.items()]
    _print(host, [
        ("base", base, ""),
        ("family", plan.family or "none of the guide's list", ""),
        ("proof", plan.proof, ""),
        ("adapter", f"{plan.trainable:,} trainable parameters, {plan.percent:.2f}% of the base's", ""),
        ("dataset", f"{plan.dataset}  {'  '.join(sides)}", ""),
        ("rows", f"{'  '.join(rows)}  longest {plan.longest:,} tokens of --ctx-size {plan.ctx_size:,}", ""),
        ("tokens", f"{plan.tokens_per_epoch:,} an epoch, {plan.learned_per_epoch:,} of them learned", ""),
        _steps(plan), *_memory(plan), _time(plan), *computes(plan.compute), _disk(plan), *_left_out(plan),
        *_parity(plan, whole=True),
        *_warnings(plan),
    ])  # fmt: skip


def planned_in_short(host: Host, plan: Plan) -> None:
    """What the user should know before he says yes."""
    base = ("base", f"{plan.base}  {plan.trainable:,} trainable parameters, {plan.percent:.2f}%", "")
    lines = [base, _steps(plan), *_memory(plan), _time(plan), *computes(plan.compute), _disk(plan), *_left_out(plan)]
    _print(host, [*lines, *_parity(plan, whole=False), *_warnings(plan)])


def _print(host: Host, lines: Lines) -> None:
    before = ""
    for label, text, style in lines:
        say(host, f"{'' if label == before else label:>9}  {text}", style)
        before = label


def _steps(plan: Plan) -> tuple[str, str, str]:
    epochs = many(plan.epochs, "epoch")
    return "steps", f"{plan.steps:,} in {epochs}, {many(plan.batch_size, 'row')} a step", ""


def _memory(plan: Plan) -> Lines:
    memory = plan.memory
    if memory.peak is None:
        return [("memory", f"not measured while another run trains; {memory_of(memory.free)} may be used now", "")]
    text = f"{memory_of(memory.peak)} at most, foreseen; {memory_of(memory.free)} may be used now"
    bad = memory.fits is False
    lines = [("memory", text + (": it does not fit" if bad else ""), "red" if bad else "")]
    for name, held in memory.ollama.items():
        lines.append(("memory", f"Ollama holds {memory_of(held)} for {name}: `ollama stop {name}` frees it", "dim"))
    return lines


def _time(plan: Plan) -> tuple[str, str, str]:
    time = plan.time
    if time.seconds is None:
        return "time", "not measured", ""
    speed = f"{time.tokens_per_s:,.0f} tokens/s" if time.tokens_per_s else ""
    busy = f"; {duration(time.busy_seconds)} while the machine is as busy as it was" if time.busy_seconds else ""
    return "time", f"about {duration(time.seconds)} with {many(time.threads, 'thread')}  {speed}{busy}", ""


def computes(compute: ComputeConfig | None) -> Lines:
    """How a run computes."""
    if compute is None:
        return [("computes", "as its worker measures when it starts: another run trains now", "")]
    if not compute.own:
        if compute.reason is None:
            return [("computes", "with the library's pass, as asked", "")]
        factor = f"about {compute.slowdown:,.0f} times slower" if compute.slowdown else "many times slower"
        return [("computes", f"with the library's pass, {factor}, because {compute.reason}", "yellow")]
    kept = "kept unpacked" if compute.weights == "unpacked" else "unpacked for each pass"
    text = f"with {compute.products} in {compute.precision.upper().replace('BF', 'bf')}, weights {kept}"
    return [("computes", text, ""), *(("computes", note, "yellow") for note in compute.notes)]


def _disk(plan: Plan) -> tuple[str, str, str]:
    short = plan.disk_needed_mb > plan.disk_free_mb
    return (
        "disk",
        f"{memory_of(plan.disk_needed_mb)} needed, {memory_of(plan.disk_free_mb)} free",
        "red" if short else "",
    )


def _left_out(plan: Plan) -> Lines:
    if not plan.left_out:
        return [("left out", "nothing; no row is cut short", "")]
    lines = []
    for one in plan.left_out:
        more = ", …" if one.count > len(one.ids) else ""
        lines.append(("left out", f"{one.count:,}: {one.reason} ({', '.join(one.ids)}{more})", ""))
    return lines


def _parity(plan: Plan, *, whole: bool) -> Lines:
    words = {"same": "writes a chat as training does", "differs": "differs", "unknown": "not checked"}
    lines = []
    for one in plan.parity:
        if whole or one["verdict"] == "differs":
            detail = f": {one['detail']}" if one["detail"] else ""
            style = "yellow" if one["verdict"] == "differs" else ""
            lines.append(("template", f"{one['what']} {words[one['verdict']]}{detail}", style))
    return lines


def _warnings(plan: Plan) -> Lines:
    return [("note", text, "yellow") for text in plan.warnings]
