"""`/export model|adapter|report <run>`: everything else after `/export` stays the host's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...host.api import Command
from ..paths import Home
from ..units import many
from .edge import guarded, note, say, show_json
from .options import Parser, split, verbs_wanted
from .progress import bar
from .reporting import report, report_flags

if TYPE_CHECKING:
    import argparse

    from ...host.api import Host
    from ..serve.export_record import ExportedFile, Survival

__all__ = ["VERBS", "make"]

VERBS: Final = {
    "model": "write the run's best adapter into its base: in the base's own types, or in others",
    "adapter": "copy the run's adapter, a GGUF LoRA",
    "report": "write a run as one HTML page: curves, settings, data, answers side by side",
}
SUMMARY: Final = "write a run's tuned model as GGUF, its adapter, or a report of it"


def make(host: Host, home: Home) -> Command:
    """The command."""
    return Command("/export", SUMMARY, lambda line: guarded(host, lambda: _run(host, home, line)), tuple(VERBS))


def _parser() -> Parser:
    parser = Parser(prog="/export", description=SUMMARY)
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser, metavar="|".join(VERBS))
    model = verbs.add_parser("model", description=VERBS["model"])
    model.add_argument("run", nargs="?", help="the run (default: the newest)")
    model.add_argument(
        "--quant", metavar="TYPE",
        help="types to write, separated by commas; base: the base's own (default: base, q4_k_m where the base is F16)",
    )  # fmt: skip
    model.add_argument(
        "--no-check", action="store_true", help="don't measure what the files keep of the adapter's gain"
    )
    adapter = verbs.add_parser("adapter", description=VERBS["adapter"])
    adapter.add_argument("run", nargs="?", help="the run (default: the newest)")
    for verb in (model, adapter):
        verb.add_argument(
            "--adapter", choices=("best", "last"), default="best", metavar="best|last",
            help="the one best on the validation side, or that of the last step (default: best)",
        )  # fmt: skip
    report_flags(verbs.add_parser("report", description=VERBS["report"]))
    return parser


def _run(host: Host, home: Home, line: str) -> int:
    words = split(line)
    verbs_wanted("/export", words, VERBS)
    options = _parser().parse_args(words)
    return {"model": _model, "adapter": _adapter, "report": report}[options.verb](host, home, options)


def _model(host: Host, home: Home, options: argparse.Namespace) -> int:
    from ..serve.export import export_model
    from ..serve.export_record import Survival
    from ..serve.survival import kept, warnings
    from ..train.runs import find_run

    run = find_run(home.runs, options.run)
    quants = None if options.quant is None else [part.strip() for part in options.quant.split(",") if part.strip()]
    with bar(host) as progress:
        export, done = export_model(home, run, quants, options.adapter, progress, check=not options.no_check)
    if host.json:
        seen = export.survival or Survival()
        shares = {file.quant: seen.keeps(file.loss) for file in export.files}
        show_json(host, {**export.model_dump(), "keeps": shares, "warnings": warnings(export)})
        return 0
    notes = [kept(export, file.quant) for file in export.files]
    width = max(map(len, notes))
    for file, what in zip(export.files, notes, strict=True):
        keeps = f"{what:{width}}  " if width else ""
        say(host, f"{file.quant:>8}  {file.bytes / 2**20:10.1f} MB  {keeps}{Path(file.path)}")
    for file in export.files:
        for line in _rounded(file):
            note(host, line)
    for line in _measured(export.survival):
        note(host, line)
    for line in warnings(export):
        say(host, line, "yellow")
    if not done:
        note(host, "Everything was there already; nothing was written.")
    note(host, f"Next: /model-register add {run.name}")
    return 0


def _rounded(file: ExportedFile) -> Iterator[str]:
    """What an export into the base's own types had to do besides moving quants."""
    for change, count in file.retyped.items():
        yield (
            f"{many(count, 'adapted tensor')} of {file.quant} changed type, for no change fits into its own: {change}."
        )
    if file.rounding is not None and file.rounding.reason:
        yield f"{file.quant} is rounded at random, which may keep less: {file.rounding.reason}."
    if file.clipped is not None and file.clipped >= 0.0005:
        yield (
            f"{file.quant}: {file.clipped:.1%} of the change lies past the ends of its blocks, whose other weights "
            "make up for it."
        )


def _measured(seen: Survival | None) -> Iterator[str]:
    """What the files are compared with, or why they are not."""
    if seen is None:
        return
    if seen.reason:
        yield seen.reason
        return
    rows = many(seen.rows, f"{seen.side} row")
    yield f"Nats a token on {rows}: base {seen.base:.3f}, with the adapter {seen.adapter:.3f}."
    if seen.side == "training":
        yield "No validation row fits or is there, so this says how exact the files are, not what was learned."
    if seen.left_out:
        yield f"{seen.left_out} more {'is' if seen.left_out == 1 else 'are'} too long for the run's --ctx-size."


def _adapter(host: Host, home: Home, options: argparse.Namespace) -> int:
    from ..serve.export import export_adapter
    from ..train.runs import find_run

    run = find_run(home.runs, options.run)
    file = export_adapter(home, run, options.adapter)
    if host.json:
        show_json(host, {**file.model_dump(), "base_sha256": run.record.base.sha256})
        return 0
    say(host, f" adapter  {file.bytes / 2**20:10.1f} MB  {file.path}")
    note(host, f"Belongs to the base with sha256 {run.record.base.sha256}.")
    return 0
