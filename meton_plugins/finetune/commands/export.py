"""`/export model|adapter|report <run>`: everything else after `/export` stays the host's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...host.api import Command
from ..paths import Home
from .edge import guarded, note, say, show_json
from .options import Parser, split, verbs_wanted
from .progress import bar
from .reporting import report, report_flags

if TYPE_CHECKING:
    import argparse

    from ...host.api import Host
    from ..serve.export_record import Survival

__all__ = ["VERBS", "make"]

VERBS: Final = {
    "model": "merge the run's best adapter into its base, and quantize",
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
        "--quant", default="q4_k_m", metavar="TYPE", help="types to write, separated by commas (default: q4_k_m)"
    )
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
    quants = [part.strip() for part in options.quant.split(",") if part.strip()]
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
    for line in _measured(export.survival):
        note(host, line)
    for line in warnings(export):
        say(host, line, "yellow")
    if not done:
        note(host, "Everything was there already; nothing was written.")
    note(host, f"Next: /model-register add {run.name}")
    return 0


def _measured(seen: Survival | None) -> Iterator[str]:
    """What the files are compared with, or why they are not."""
    if seen is None:
        return
    if seen.reason:
        yield seen.reason
        return
    merged = "" if seen.merged is None else f", merged {seen.merged:.3f}"
    merged = ", merged not a number" if seen.merged_broken else merged
    rows = "1 validation row" if seen.rows == 1 else f"{seen.rows} validation rows"
    yield f"Nats a token on {rows}: base {seen.base:.3f}, with the adapter {seen.adapter:.3f}{merged}."
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
